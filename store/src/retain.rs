//! Retention: which images a policy keeps, with the reason for each. The rules are restic's, bucket for bucket
//! (restic/restic: `internal/data/snapshot_policy.go`), so that a policy means here what it means there.
//!
//! Promise: pure; a protected image and the last image of a group are never given up; an empty policy gives up nothing.
//! Knows nothing of stores, manifests or of how an image is removed.

use crate::ImageId;
use jiff::civil::ISOWeekDate;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};
use std::collections::BTreeMap;

/// What retention has to know of an image.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which image.
    pub id: ImageId,
    /// When its capture began.
    pub time: Timestamp,
    /// Images compete only inside their group.
    pub group: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Marked by hand: kept whatever the rules say. It fills buckets like any other.
    pub protected: bool,
}

/// Rules; an image is kept when any of them wants it.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The newest n.
    pub last: Option<u32>,
    /// The newest of each of the last n hours that have an image.
    pub hourly: Option<u32>,
    /// The same with days.
    pub daily: Option<u32>,
    /// The same with ISO weeks.
    pub weekly: Option<u32>,
    /// The same with months.
    pub monthly: Option<u32>,
    /// The same with years.
    pub yearly: Option<u32>,
    /// All that are younger than this, counted back from the newest image of the group (not from now: a disk that is
    /// not imaged for a year keeps its images).
    pub within: Option<Span>,
    /// All that have one of these tags.
    pub tags: Vec<String>,
}

/// What becomes of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which image.
    pub id: ImageId,
    /// The group it was judged in.
    pub group: String,
    /// Whether it stays.
    pub keep: bool,
    /// Why it stays; empty when it goes.
    pub reasons: Vec<String>,
}

impl Policy {
    /// Whether no rule is given.
    pub fn is_empty(&self) -> bool {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        counts.iter().all(Option::is_none) && self.within.is_none() && self.tags.is_empty()
    }
}

/// Judges every candidate: group by group in the order of their names, newest first. Days, weeks and months are those
/// of `zone`. An image from the future (after `now`: somebody's clock) does not count as the newest for `within`.
pub fn apply(candidates: &[Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Verdict> {
    let mut groups: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        groups.entry(&candidate.group).or_default().push(candidate);
    }
    let mut verdicts = Vec::with_capacity(candidates.len());
    for group in groups.values_mut() {
        group.sort_by_key(|candidate| std::cmp::Reverse(candidate.time));
        verdicts.extend(judge(group, policy, now, zone));
    }
    verdicts
}

/// One group, newest first.
fn judge(group: &[&Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Vec<Verdict> {
    let horizon = horizon(group, policy, now, zone);
    let mut buckets = Buckets::new(policy);
    let mut verdicts = Vec::with_capacity(group.len());
    for (position, candidate) in group.iter().enumerate() {
        let mut reasons = Vec::new();
        if policy.is_empty() {
            reasons.push("policy is empty".to_owned());
        }
        if candidate.protected {
            reasons.push("protected".to_owned());
        }
        for tag in policy.tags.iter().filter(|tag| candidate.tags.contains(tag)) {
            reasons.push(format!("has tag {tag}"));
        }
        if let (Some(horizon), Some(within)) = (&horizon, &policy.within)
            && candidate.time > *horizon
        {
            reasons.push(format!("within {within:#}"));
        }
        let time = candidate.time.to_zoned(zone.clone());
        reasons.extend(buckets.offer(&time, position, position + 1 == group.len()));
        let (id, group) = (candidate.id, candidate.group.clone());
        verdicts.push(Verdict { id, group, keep: !reasons.is_empty(), reasons });
    }
    spare_the_last(&mut verdicts);
    verdicts
}

/// The instant after which `within` keeps everything.
fn horizon(group: &[&Candidate], policy: &Policy, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let within = policy.within?;
    // Only images from the future: keep them all, as restic does, which counts from the year 1 then.
    let newest = group.iter().map(|candidate| candidate.time).filter(|time| *time < now).max();
    let Some(newest) = newest else { return Some(Timestamp::MIN) };
    // A span that reaches past the calendar's beginning keeps everything as well.
    let earliest = newest.to_zoned(zone.clone()).checked_sub(within);
    Some(earliest.map_or(Timestamp::MIN, |earliest| earliest.timestamp()))
}

/// No rule may empty a group: when all would go, the newest stays.
fn spare_the_last(verdicts: &mut [Verdict]) {
    if verdicts.iter().all(|verdict| !verdict.keep)
        && let Some(newest) = verdicts.first_mut()
    {
        newest.keep = true;
        newest.reasons.push("last image of its group".to_owned());
    }
}

/// What makes two images fall into the same bucket.
type Slot = (i64, i64, i64, i64);

/// One counted rule.
struct Bucket {
    left: u32,
    slot_of: fn(&Zoned, usize) -> Slot,
    last: Option<Slot>,
    reason: &'static str,
}

struct Buckets(Vec<Bucket>);

impl Buckets {
    fn new(policy: &Policy) -> Buckets {
        let bucket = |count: Option<u32>, slot_of: fn(&Zoned, usize) -> Slot, reason| Bucket {
            left: count.unwrap_or(0),
            slot_of,
            last: None,
            reason,
        };
        Buckets(vec![
            bucket(policy.last, every, "last image"),
            bucket(policy.hourly, hour, "hourly image"),
            bucket(policy.daily, day, "daily image"),
            bucket(policy.weekly, week, "weekly image"),
            bucket(policy.monthly, month, "monthly image"),
            bucket(policy.yearly, year, "yearly image"),
        ])
    }

    /// Offers an image to every rule that has room. The oldest of all is also taken when it adds no new slot: with
    /// room left, that keeps the longest history.
    fn offer(&mut self, time: &Zoned, position: usize, oldest: bool) -> Vec<String> {
        let mut reasons = Vec::new();
        for bucket in self.0.iter_mut().filter(|bucket| bucket.left > 0) {
            let slot = (bucket.slot_of)(time, position);
            let fresh = bucket.last != Some(slot);
            if !fresh && !oldest {
                continue;
            }
            bucket.last = Some(slot);
            // u32::MAX stands for «without limit».
            if bucket.left != u32::MAX {
                bucket.left -= 1;
            }
            reasons.push(format!("{}{}", if fresh { "" } else { "oldest " }, bucket.reason));
        }
        reasons
    }
}

fn every(_: &Zoned, position: usize) -> Slot {
    // A position is below isize::MAX, as any index of a slice.
    (i64::try_from(position).unwrap_or(i64::MAX), 0, 0, 0)
}

fn hour(time: &Zoned, _: usize) -> Slot {
    (time.year().into(), time.month().into(), time.day().into(), time.hour().into())
}

fn day(time: &Zoned, _: usize) -> Slot {
    (time.year().into(), time.month().into(), time.day().into(), 0)
}

fn week(time: &Zoned, _: usize) -> Slot {
    let week = ISOWeekDate::from(time.date());
    (week.year().into(), week.week().into(), 0, 0)
}

fn month(time: &Zoned, _: usize) -> Slot {
    (time.year().into(), time.month().into(), 0, 0)
}

fn year(time: &Zoned, _: usize) -> Slot {
    (time.year().into(), 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;
    use proptest::prelude::*;

    const NOW: &str = "2030-01-01T00:00:00Z";

    fn image(number: u8, time: &str) -> Candidate {
        let time = time.parse().unwrap();
        Candidate { id: ImageId([number; 32]), time, group: "g".into(), tags: vec![], protected: false }
    }

    /// Numbers of the kept images, newest first, with their reasons.
    fn kept(candidates: &[Candidate], policy: &Policy) -> Vec<(u8, String)> {
        let verdicts = apply(candidates, policy, NOW.parse().unwrap(), &TimeZone::UTC);
        assert_eq!(verdicts.len(), candidates.len());
        let kept = verdicts.into_iter().filter(|verdict| verdict.keep);
        kept.map(|verdict| (verdict.id.0[0], verdict.reasons.join(", "))).collect()
    }

    fn numbers(candidates: &[Candidate], policy: &Policy) -> Vec<u8> {
        kept(candidates, policy).into_iter().map(|(number, _)| number).collect()
    }

    fn fortnight() -> Vec<Candidate> {
        // Two a day, 1..=14 December 2025: numbers 1 (oldest) to 28.
        let time = |n| format!("2025-12-{:02}T{:02}:30:00Z", n / 2 + 1, 8 + n % 2 * 12);
        (0..28).map(|n| image(n + 1, &time(n))).collect()
    }

    #[test]
    fn the_newest_of_each_day_and_the_oldest_while_there_is_room() {
        let daily = |n| Policy { daily: Some(n), ..Policy::default() };
        assert_eq!(numbers(&fortnight(), &daily(3)), [28, 26, 24]);
        let all = kept(&fortnight(), &daily(30));
        assert_eq!(all.len(), 15);
        assert_eq!(all[13], (2, "daily image".into()));
        assert_eq!(all[14], (1, "oldest daily image".into()));
    }

    #[test]
    fn weeks_are_iso_weeks_and_months_those_of_the_zone() {
        // Sunday 14 and 7 December end weeks 50 and 49.
        let weekly = Policy { weekly: Some(2), ..Policy::default() };
        assert_eq!(numbers(&fortnight(), &weekly), [28, 14]);
        // 29 December 2025 lies in week 1 of 2026: the same slot as 2 January.
        let turn = [
            image(1, "2025-12-29T12:00:00Z"),
            image(2, "2026-01-02T12:00:00Z"),
            image(0, "2025-12-01T12:00:00Z"),
        ];
        assert_eq!(numbers(&turn, &weekly), [2, 0]);
        // 23:30 UTC on 31 January is February in Madrid.
        let edge = [
            image(1, "2026-01-31T23:30:00Z"),
            image(2, "2026-02-10T00:00:00Z"),
            image(0, "2025-12-01T12:00:00Z"),
        ];
        let monthly = Policy { monthly: Some(2), ..Policy::default() };
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let verdicts = apply(&edge, &monthly, NOW.parse().unwrap(), &zone);
        assert_eq!(verdicts.iter().map(|v| v.keep).collect::<Vec<_>>(), [true, false, true]);
    }

    #[test]
    fn rules_are_ored_and_each_gives_its_reason() {
        let policy = Policy { last: Some(1), daily: Some(2), yearly: Some(1), ..Policy::default() };
        assert_eq!(
            kept(&fortnight(), &policy),
            [(28, "last image, daily image, yearly image".into()), (26, "daily image".into())]
        );
    }

    #[test]
    fn within_counts_from_the_newest_image_that_is_not_from_the_future() {
        let within = Policy { within: Some(2.days()), ..Policy::default() };
        let mut images = fortnight();
        assert_eq!(numbers(&images, &within), [28, 27, 26, 25]);
        images.push(image(99, "2090-01-01T00:00:00Z"));
        assert_eq!(numbers(&images, &within), [99, 28, 27, 26, 25]);
        assert_eq!(kept(&images, &within)[0].1, "within 2d");
        assert_eq!(numbers(&[image(9, "2090-01-01T00:00:00Z")], &within), [9]);
    }

    #[test]
    fn tags_and_protection_keep_and_a_group_is_never_emptied() {
        let mut images = vec![
            image(1, "2025-01-01T00:00:00Z"),
            image(2, "2025-02-01T00:00:00Z"),
            image(3, "2025-03-01T00:00:00Z"),
        ];
        images[0].protected = true;
        images[1].tags = vec!["clean".into()];
        let policy = Policy { tags: vec!["clean".into()], ..Policy::default() };
        assert_eq!(kept(&images, &policy), [(2, "has tag clean".into()), (1, "protected".into())]);
        let other = Policy { tags: vec!["other".into()], ..Policy::default() };
        images[0].protected = false;
        assert_eq!(kept(&images, &other), [(3, "last image of its group".into())]);
    }

    #[test]
    fn an_empty_policy_keeps_everything() {
        assert_eq!(numbers(&fortnight(), &Policy::default()).len(), 28);
        assert_eq!(kept(&fortnight(), &Policy::default())[0].1, "policy is empty");
    }

    #[test]
    fn groups_do_not_compete() {
        let mut images = fortnight();
        images[0].group = "other".into();
        assert_eq!(numbers(&images, &Policy { last: Some(1), ..Policy::default() }), [28, 1]);
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        // Two years by the hour, so that every kind of bucket gets neighbours and strangers.
        let one =
            (0i64..17_520, 0u8..3, proptest::collection::vec("[ab]", 0..2), proptest::bool::weighted(0.1));
        proptest::collection::vec(one, 0..40).prop_map(|drawn| {
            let one = |(number, (hours, group, tags, protected)): (usize, (i64, u8, Vec<String>, bool))| {
                Candidate {
                    id: ImageId([u8::try_from(number).unwrap(); 32]),
                    time: Timestamp::from_second(1_700_000_000 + hours * 3600).unwrap(),
                    group: group.to_string(),
                    tags,
                    protected,
                }
            };
            drawn.into_iter().enumerate().map(one).collect()
        })
    }

    fn policy() -> impl Strategy<Value = Policy> {
        let count = || proptest::option::of(0u32..6);
        let counts = (count(), count(), count(), count(), count(), count());
        let tags = proptest::collection::vec("[abc]", 0..2);
        (counts, proptest::option::of(0i64..400), tags).prop_map(|(counts, days, tags)| Policy {
            last: counts.0,
            hourly: counts.1,
            daily: counts.2,
            weekly: counts.3,
            monthly: counts.4,
            yearly: counts.5,
            within: days.map(|days| days.days()),
            tags,
        })
    }

    fn judged(candidates: &[Candidate], policy: &Policy) -> BTreeMap<u8, Verdict> {
        let verdicts = apply(candidates, policy, NOW.parse().unwrap(), &TimeZone::UTC);
        verdicts.into_iter().map(|verdict| (verdict.id.0[0], verdict)).collect()
    }

    proptest! {
        #[test]
        fn no_policy_empties_a_group_or_takes_a_protected_image(images in candidates(), policy in policy()) {
            let verdicts = judged(&images, &policy);
            prop_assert_eq!(verdicts.len(), images.len());
            for image in &images {
                let verdict = &verdicts[&image.id.0[0]];
                prop_assert!(verdict.keep || !image.protected);
                prop_assert_eq!(verdict.keep, !verdict.reasons.is_empty());
                prop_assert!(verdicts.values().any(|v| v.keep && v.group == image.group));
            }
        }

        #[test]
        fn keep_last_keeps_exactly_that_many(mut images in candidates(), count in 1u32..50) {
            for image in &mut images {
                image.protected = false;
                image.group = "g".into();
            }
            let policy = Policy { last: Some(count), ..Policy::default() };
            let kept = judged(&images, &policy).values().filter(|verdict| verdict.keep).count();
            prop_assert_eq!(kept, images.len().min(usize::try_from(count).unwrap()));
        }

        #[test]
        fn a_larger_count_gives_up_nothing_more(images in candidates(), policy in policy(), rule in 0usize..6, more in 1u32..4) {
            let mut larger = policy.clone();
            let counts = [&mut larger.last, &mut larger.hourly, &mut larger.daily, &mut larger.weekly,
                &mut larger.monthly, &mut larger.yearly];
            // From no policy at all to one rule is not «more of it».
            prop_assume!(!policy.is_empty());
            for (index, count) in counts.into_iter().enumerate() {
                if index == rule {
                    *count = Some(count.unwrap_or(0) + more);
                }
            }
            let (before, after) = (judged(&images, &policy), judged(&images, &larger));
            for (number, verdict) in &before {
                let spared = verdict.reasons == ["last image of its group"];
                prop_assert!(!verdict.keep || after[number].keep || spared, "{number}: {verdict:?}");
            }
        }
    }
}

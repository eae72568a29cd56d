//! What was promised of `cas` beside the others, and whether it is kept.
//!
//! Promise: a promise of which a part was not measured has no verdict rather than a good one.
//! Knows nothing of how it is shown.

use super::record::Records;
use super::step::Step;
use super::tools::{Kind, TOOLS};

const MIB: f64 = 1_048_576.0;
/// No step may take more.
const PEAK_MIB: f64 = 512.0;
/// Of what another frees: as much.
const AS_MUCH: f64 = 0.95;

/// One promise.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The number and what it is about.
    pub(crate) what: String,
    pub(crate) target: String,
    /// With what it was compared.
    pub(crate) reached: String,
    /// `None`: not measured.
    pub(crate) met: Option<bool>,
}

/// All promises that this comparison can judge.
pub(crate) fn verdicts(records: &Records) -> Vec<Verdict> {
    let judge = Judge(records);
    vec![
        judge.times_as_fast("1 first image", Step::First, 2.0),
        judge.times_as_fast_as("1 first image, blocks in use", "cas-used", Step::First, 2.8),
        judge.at_most("1 first image, against dd \\| zstd -3 -T0", Step::First, "dd-zstd", 1.0),
        judge.stored("1 stored after the first image", Step::First, 1.0),
        judge.times_as_fast("2 a day later", Step::Second, 5.0),
        judge.times_as_fast("2 a heavy day", Step::Third, 5.0),
        judge.times_as_fast("2 unchanged", Step::Again, 6.0),
        judge.at_most("2 unchanged, against b3sum of the non-zero blocks", Step::Again, "b3sum-used", 1.3),
        judge.times_as_fast("3 restore to a file", Step::RestoreFile, 3.0),
        judge.at_most("3 restore to a file, against dd with fsync", Step::RestoreFile, "dd", 1.25),
        judge.times_as_fast("3 restore to a device", Step::RestoreDevice, 3.0),
        judge.at_most("3 restore to a device, against dd with fsync", Step::RestoreDevice, "dd", 1.25),
        judge.times_as_fast("4 verify everything", Step::Verify, 2.5),
        judge.deletes_faster(),
        judge.frees(),
        judge.stored("5 the whole series stored", Step::Other, 0.87),
        judge.stored_by("5 the whole series stored, blocks in use", "cas-used", Step::Other, 0.78),
        judge.peak(),
    ]
}

/// The deduplicating peers.
pub(crate) fn peers() -> impl Iterator<Item = &'static str> {
    TOOLS.iter().filter(|tool| tool.kind == Kind::Deduplicating).map(|tool| tool.name)
}

struct Judge<'a>(&'a Records);

impl Judge<'_> {
    /// The peer with the least of something.
    fn least(&self, of: impl Fn(&'static str) -> Option<f64>) -> Option<(&'static str, f64)> {
        peers().filter_map(|peer| Some((peer, of(peer)?))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn seconds(&self, tool: &str, step: Step) -> Option<f64> {
        self.0.cell(tool, step).map(|cell| cell.seconds)
    }

    fn times_as_fast(&self, what: &str, step: Step, times: f64) -> Verdict {
        self.times_as_fast_as(what, "cas", step, times)
    }

    fn times_as_fast_as(&self, what: &str, ours: &str, step: Step, times: f64) -> Verdict {
        let found = self.least(|peer| self.seconds(peer, step)).zip(self.seconds(ours, step));
        verdict(
            what,
            format!("≥ {times} × the fastest peer"),
            found.map(|((peer, theirs), ours)| {
                (
                    format!("{:.2} × ({peer} {theirs:.2} s, cas {ours:.2} s)", theirs / ours),
                    theirs / ours >= times,
                )
            }),
        )
    }

    fn at_most(&self, what: &str, step: Step, limit: &str, times: f64) -> Verdict {
        let found = self.seconds(limit, step).zip(self.seconds("cas", step));
        verdict(
            what,
            format!("≤ {times:.2} × its time"),
            found.map(|(theirs, ours)| {
                (
                    format!("{:.2} × ({limit} {theirs:.2} s, cas {ours:.2} s)", ours / theirs),
                    ours / theirs <= times,
                )
            }),
        )
    }

    fn stored(&self, what: &str, step: Step, times: f64) -> Verdict {
        self.stored_by(what, "cas", step, times)
    }

    fn stored_by(&self, what: &str, ours: &'static str, step: Step, times: f64) -> Verdict {
        let of = |tool| self.0.cell(tool, step).map(|cell| cell.stored_bytes);
        let found = self.least(of).zip(of(ours));
        verdict(
            what,
            format!("≤ {times:.2} × the smallest peer"),
            found.map(|((peer, theirs), ours)| {
                let text = format!(
                    "{:.3} × ({peer} {:.0} MB, cas {:.0} MB)",
                    ours / theirs,
                    theirs / 1e6,
                    ours / 1e6
                );
                (text, ours / theirs <= times)
            }),
        )
    }

    /// What deleting gave back.
    fn freed(&self, tool: &str) -> Option<f64> {
        let before = self.0.cell(tool, Step::Again)?.stored_bytes;
        Some(before - self.0.cell(tool, Step::Delete)?.stored_bytes)
    }

    fn deletes_faster(&self) -> Verdict {
        let found = self.seconds("cas", Step::Delete).zip(self.freed("cas")).and_then(|(ours, freed)| {
            let as_much = |peer: &&str| self.freed(peer).is_some_and(|theirs| theirs >= AS_MUCH * freed);
            let rivals: Vec<&str> = peers().filter(as_much).collect();
            let (peer, theirs) = self
                .least(|peer| rivals.contains(&peer).then(|| self.seconds(peer, Step::Delete)).flatten())?;
            Some((format!("{:.2} × ({peer} {theirs:.2} s, cas {ours:.2} s)", theirs / ours), ours < theirs))
        });
        verdict("4 delete two and reclaim", "faster than every peer that frees as much".to_owned(), found)
    }

    fn frees(&self) -> Verdict {
        let most =
            self.least(|peer| self.freed(peer).map(|freed| -freed)).map(|(peer, freed)| (peer, -freed));
        let found =
            most.filter(|(_, freed)| *freed > 0.0).zip(self.freed("cas")).map(|((peer, theirs), ours)| {
                let text = format!(
                    "{:.3} × ({peer} {:.0} MB, cas {:.0} MB)",
                    ours / theirs,
                    theirs / 1e6,
                    ours / 1e6
                );
                (text, ours >= AS_MUCH * theirs)
            });
        verdict("4 space freed", format!("≥ {AS_MUCH} × the most that a peer frees"), found)
    }

    fn peak(&self) -> Verdict {
        let peak = |step| self.0.cell("cas", step).map(|cell| cell.peak_memory_bytes / MIB);
        // All steps, or nothing is said.
        let peaks: Option<Vec<f64>> = Step::all().map(peak).collect();
        let found = peaks.map(|peaks| peaks.into_iter().fold(0.0, f64::max));
        verdict(
            "6 peak memory",
            format!("≤ {PEAK_MIB} MiB in every step"),
            found.map(|most| (format!("{most:.0} MiB"), most <= PEAK_MIB)),
        )
    }
}

fn verdict(what: &str, target: String, found: Option<(String, bool)>) -> Verdict {
    let (reached, met) = found.map_or(("not measured".to_owned(), None), |(text, met)| (text, Some(met)));
    Verdict { what: what.to_owned(), target, reached, met }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    fn met(records: Vec<super::super::record::Record>, what: &str) -> (String, Option<bool>) {
        let found = verdicts(&Records(records)).into_iter().find(|it| it.what == what);
        let found = found.expect("a verdict of that name");
        (found.reached, found.met)
    }

    #[test]
    fn the_fastest_peer_counts() {
        let records = |ours| {
            vec![
                record("cas", Step::First, 1, ours, 90),
                record("borg", Step::First, 1, 9.0, 100),
                record("restic", Step::First, 1, 6.0, 120),
                record("zstd-3", Step::First, 1, 0.5, 10),
            ]
        };
        assert_eq!(met(records(3.0), "1 first image").1, Some(true));
        let (reached, bad) = met(records(4.0), "1 first image");
        assert_eq!((reached.as_str(), bad), ("1.50 × (restic 6.00 s, cas 4.00 s)", Some(false)));
        assert_eq!(met(records(3.0), "1 stored after the first image").1, Some(true));
    }

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        let records = vec![record("cas", Step::First, 1, 1.0, 1)];
        assert!(verdicts(&Records(records)).iter().all(|it| it.met.is_none()));
    }

    #[test]
    fn a_limit_is_a_share_of_its_time() {
        let records =
            |ours| vec![record("cas", Step::Again, 1, ours, 1), record("b3sum-used", Step::Again, 1, 1.0, 0)];
        let what = "2 unchanged, against b3sum of the non-zero blocks";
        assert_eq!(met(records(1.3), what).1, Some(true));
        assert_eq!(met(records(1.31), what).1, Some(false));
    }

    #[test]
    fn only_peers_that_free_as_much_are_rivals_in_deleting() {
        let stored = |tool, before, after, seconds| {
            [record(tool, Step::Again, 1, 1.0, before), record(tool, Step::Delete, 1, seconds, after)]
        };
        let mut records: Vec<_> = stored("cas", 1000, 800, 2.0).into();
        records.extend(stored("borg", 1000, 900, 1.0));
        records.extend(stored("rustic", 1000, 805, 3.0));
        let (reached, good) = met(records.clone(), "4 delete two and reclaim");
        assert_eq!((reached.as_str(), good), ("1.50 × (rustic 3.00 s, cas 2.00 s)", Some(true)));
        assert_eq!(met(records.clone(), "4 space freed").1, Some(true));
        records.extend(stored("restic", 1200, 950, 1.0));
        assert_eq!(met(records.clone(), "4 delete two and reclaim").1, Some(false));
        assert_eq!(met(records, "4 space freed").1, Some(false));
    }

    #[test]
    fn the_peak_is_that_of_all_steps() {
        let records: Vec<_> = Step::all().map(|step| record("cas", step, 1, 1.0, 1)).collect();
        assert_eq!(met(records.clone(), "6 peak memory"), ("100 MiB".to_owned(), Some(true)));
        assert_eq!(met(records[1..].to_vec(), "6 peak memory").1, None);
    }
}

//! `cas forget`: images by name, or what a retention policy gives up.
//!
//! Promise: rules never take a protected image or the last of its group; what is forgotten comes back with `undelete`
//! until `gc`. Knows nothing of the rules themselves: they are `store::retain`.

use crate::args::Context;
use crate::catalog::{self, Listed};
use crate::commands::images::count;
use crate::errors::Said;
use crate::exit::Exit;
use crate::naming::{Narrow, Scope};
use crate::table::Table;
use crate::{place, units};
use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use store::ImageId;
use store::retain::{self, Candidate, Policy, Verdict};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The images; or none, and rules
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Say what would be forgotten and why; change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    narrow: Narrow,
}

/// Rules as restic has them: an image is kept when any of them wants it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Rules, for the images of each host and disk apart")]
struct Rules {
    /// Keep the newest N
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_hourly: Option<u32>,
    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_daily: Option<u32>,
    /// Keep the newest of each of the last N weeks that have one
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_weekly: Option<u32>,
    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_monthly: Option<u32>,
    /// Keep the newest of each of the last N years that have one
    #[arg(long, value_name = "N", value_parser = parse_count)]
    keep_yearly: Option<u32>,
    /// Keep all younger than this, counted from the newest, e.g. 1y2m3d
    #[arg(long, value_name = "SPAN", value_parser = units::parse_span)]
    keep_within: Option<Span>,
    /// Keep all with this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let images = catalog::list(&store)?;
    let policy = args.rules.policy();
    if args.images.is_empty() == policy.is_empty() {
        let found = if policy.is_empty() { "neither" } else { "both" };
        let text = format!("forget: expected either images or rules, found {found}");
        let hint = "rules are such as --keep-daily 7 --keep-weekly 4; -n only shows what would happen";
        return Err(Said::usage(text).hint(hint).into());
    }
    let chosen = match policy.is_empty() {
        true => by_name(&images, &args)?,
        false => by_rules(context, &images, &args.narrow, &policy),
    };
    if !args.dry_run {
        store.forget(&chosen.ids)?;
    }
    report(context, &chosen, args.dry_run);
    Ok(Exit::Done)
}

/// What goes, and how it was decided.
struct Chosen {
    ids: Vec<ImageId>,
    /// For programs: one member for each group.
    groups: Vec<Value>,
}

fn by_name(images: &[Listed], args: &Args) -> Result<Chosen> {
    let mut ids = Vec::new();
    for name in &args.images {
        let id = catalog::find(images, name, &args.narrow, Scope::Live)?;
        if images.iter().any(|image| image.known.id == id && image.entry.protected) {
            return Err(store::Error::Protected { image: id }.into());
        }
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(Chosen { ids, groups: Vec::new() })
}

/// Applies the policy and prints, group by group, what stays for which reason and what goes.
fn by_rules(context: &Context, images: &[Listed], narrow: &Narrow, policy: &Policy) -> Chosen {
    let (judged, left_alone): (Vec<&Listed>, Vec<&Listed>) = images
        .iter()
        .filter(|image| narrow.admits(&image.known) && !image.known.forgotten)
        .partition(|image| image.known.sound);
    if !left_alone.is_empty() {
        let count = count(left_alone.len(), "unconfirmed or damaged image");
        context.ui.warn(format!("{count} left alone by the rules; forget them by name"));
    }
    let candidates: Vec<Candidate> = judged.iter().map(|image| candidate(image)).collect();
    let zone = TimeZone::system();
    let verdicts = retain::apply(&candidates, policy, Timestamp::now(), &zone);
    let mut groups: BTreeMap<&str, Vec<&Verdict>> = BTreeMap::new();
    for verdict in &verdicts {
        groups.entry(&verdict.group).or_default().push(verdict);
    }
    for (group, verdicts) in &groups {
        context.ui.say_all(group_lines(group, verdicts, &judged, &zone));
    }
    let groups = groups.iter().map(|(group, verdicts)| group_json(group, verdicts)).collect();
    Chosen {
        ids: verdicts.iter().filter(|verdict| !verdict.keep).map(|verdict| verdict.id).collect(),
        groups,
    }
}

fn candidate(image: &Listed) -> Candidate {
    Candidate {
        id: image.entry.id,
        time: image.known.time,
        group: format!("host {}, disk {}", image.known.host, image.disk()),
        tags: image.known.tags.clone(),
        protected: image.entry.protected,
    }
}

fn group_lines(group: &str, verdicts: &[&Verdict], images: &[&Listed], zone: &TimeZone) -> Vec<String> {
    let mut lines = vec![format!("{group}:")];
    for (keep, word) in [(true, "keep"), (false, "forget")] {
        let mut table =
            Table::new(if keep { &["ID", "TIME", "TAGS", "REASONS"] } else { &["ID", "TIME", "TAGS"] });
        let these: Vec<&&Verdict> = verdicts.iter().filter(|verdict| verdict.keep == keep).collect();
        for verdict in &these {
            let image = images.iter().find(|image| image.entry.id == verdict.id);
            let time = image.map_or_else(String::new, |image| units::show_time(image.known.time, zone));
            let tags = image.map_or_else(String::new, |image| image.known.tags.join(","));
            table.row(
                [verdict.id.short(), time, tags, verdict.reasons.join(", ")].into_iter().take(if keep {
                    4
                } else {
                    3
                }),
            );
        }
        if !table.is_empty() {
            lines.push(format!("{word} {}:", count(these.len(), "image")));
            lines.extend(table.lines().into_iter().map(|line| format!("  {line}")));
        }
    }
    lines.push(String::new());
    lines
}

fn group_json(group: &str, verdicts: &[&Verdict]) -> Value {
    let these = |keep: bool| -> Vec<Value> {
        let these = verdicts.iter().filter(|verdict| verdict.keep == keep);
        these.map(|verdict| json!({ "id": verdict.id.to_string(), "reasons": verdict.reasons })).collect()
    };
    json!({ "group": group, "keep": these(true), "forget": these(false) })
}

fn report(context: &Context, chosen: &Chosen, dry_run: bool) {
    let images = count(chosen.ids.len(), "image");
    match (chosen.ids.len(), dry_run) {
        (0, _) => context.ui.say("nothing to forget"),
        (_, true) => context.ui.say(format!("would forget {images}")),
        (_, false) => {
            context.ui.say(format!("forgot {images}"));
            context.ui.note("`cas gc` gives the space back; until then `cas undelete` brings them back");
        }
    }
    let ids: Vec<String> = chosen.ids.iter().map(ToString::to_string).collect();
    context.ui.document(&json!({ "dry_run": dry_run, "forgotten": ids, "groups": chosen.groups }));
}

impl Rules {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            tags: self.keep_tag.clone(),
        }
    }
}

/// A number from 1, or `unlimited` as in restic.
fn parse_count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(1..) => Ok(text.parse().unwrap_or(u32::MAX)),
        _ if text == "unlimited" => Ok(u32::MAX),
        _ => Err("expected a number from 1, or unlimited".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::listed;

    #[test]
    fn counts_begin_at_one() {
        assert_eq!((parse_count("7"), parse_count("unlimited")), (Ok(7), Ok(u32::MAX)));
        for bad in ["0", "-1", "x", ""] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_group_lists_what_stays_with_reasons_and_what_goes() {
        let image = listed(|_| {});
        let (id, group) = (image.entry.id, "host alba, disk S3RIAL".to_owned());
        assert_eq!(candidate(&image).group, group);
        let keep = Verdict {
            id,
            group: group.clone(),
            keep: true,
            reasons: vec!["daily image".into(), "protected".into()],
        };
        let gone = Verdict { keep: false, reasons: vec![], ..keep.clone() };
        assert_eq!(
            group_lines(&group, &[&keep, &gone], &[&image], &TimeZone::UTC),
            [
                "host alba, disk S3RIAL:",
                "keep 1 image:",
                "  ID        TIME                 TAGS          REASONS",
                "  abababab  2026-08-01 12:00:00  weekly,clean  daily image, protected",
                "forget 1 image:",
                "  ID        TIME                 TAGS",
                "  abababab  2026-08-01 12:00:00  weekly,clean",
                "",
            ]
        );
    }
}

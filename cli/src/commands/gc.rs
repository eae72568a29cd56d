//! `cas gc`: the space that only forgotten images needed is given back.
//!
//! Promise: what a listed image needs is never touched. Knows nothing of packs beyond their number.

use crate::args::Context;
use crate::commands::images::count;
use crate::exit::Exit;
use crate::locking::LockWait;
use crate::progress::{Meter, Work};
use crate::units::show_bytes;
use crate::{place, units};
use anyhow::{Context as _, Result};
use image::StoreProgress;
use serde_json::{Value, json};
use std::time::Duration;
use store::{GcOptions, GcReport};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only images that were forgotten longer ago than this; younger ones can still be undeleted
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::parse_duration)]
    forgotten_older: Duration,
    /// Say what would be given back; change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    lock: LockWait,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let store = place::open(context)?;
    let options = GcOptions {
        dry_run: args.dry_run,
        forgotten_older_than: args.forgotten_older,
        lock_wait: Duration::ZERO,
        ..GcOptions::default()
    };
    context.signals.guard()?;
    let report = args.lock.run(context, || {
        let meter = Meter::start(&context.ui, &context.signals, Work::Check, "gc");
        store.gc(&options, &StoreProgress(&meter))
    });
    let report = report.context("gc")?;
    context.ui.say_all(lines(&report, args.dry_run));
    context.ui.event("summary", to_json(&report, args.dry_run));
    if report.packs_spared.is_empty() {
        return Ok(Exit::Done);
    }
    let spared = count(report.packs_spared.len(), "pack");
    context.ui.warn(format!("{spared} kept because of damage in them; `cas scrub` names what is hit"));
    Ok(Exit::Damage)
}

fn lines(report: &GcReport, dry_run: bool) -> Vec<String> {
    let words = match dry_run {
        true => ["would remove", "would delete", "would free"],
        false => ["removed", "deleted", "freed"],
    };
    let packs = |number: u64, thing: &str| count(usize::try_from(number).unwrap_or(usize::MAX), thing);
    let (deleted, rewritten) = (packs(report.packs_deleted, "pack"), report.packs_rewritten);
    let texts = [
        count(report.images_removed.len(), "forgotten image"),
        format!("{deleted}, {rewritten} of them after copying what is needed"),
        format!("{} of {}", show_bytes(report.bytes_freed), show_bytes(report.bytes_before)),
    ];
    let mut lines: Vec<String> =
        words.iter().zip(texts).map(|(word, text)| format!("{word:<12} {text}")).collect();
    if report.bytes_unused_left > 0 {
        let left = show_bytes(report.bytes_unused_left);
        lines.push(format!("left         {left} unused in packs that are mostly needed"));
    }
    if report.packs_waiting > 0 {
        let waiting = packs(report.packs_waiting, "pack");
        lines.push(format!("waiting      {waiting} of interrupted or running captures"));
    }
    lines
}

fn to_json(report: &GcReport, dry_run: bool) -> Value {
    json!({
        "dry_run": dry_run,
        "images_removed": report.images_removed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "packs_deleted": report.packs_deleted,
        "packs_rewritten": report.packs_rewritten,
        "packs_waiting": report.packs_waiting,
        "packs_spared": report.packs_spared.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bytes_before": report.bytes_before,
        "bytes_freed": report.bytes_freed,
        "bytes_unused_left": report.bytes_unused_left,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_is_told_and_what_would_be() {
        let report =
            GcReport { packs_deleted: 2, packs_rewritten: 1, bytes_before: 4096, ..GcReport::default() };
        let report = GcReport { bytes_freed: 1024, bytes_unused_left: 512, packs_waiting: 1, ..report };
        assert_eq!(
            lines(&report, false),
            [
                "removed      0 forgotten images",
                "deleted      2 packs, 1 of them after copying what is needed",
                "freed        1.0 KiB of 4.0 KiB",
                "left         512 B unused in packs that are mostly needed",
                "waiting      1 pack of interrupted or running captures",
            ]
        );
        assert_eq!(lines(&report, true)[2], "would free   1.0 KiB of 4.0 KiB");
    }
}

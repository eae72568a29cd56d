//! `cas scrub`: every pack is read and hashed again, every image followed.
//!
//! Promise: findings name the images and byte ranges that are hit. Knows nothing of repair.

use crate::args::Context;
use crate::catalog::{self, Listed};
use crate::commands::images::count;
use crate::exit::Exit;
use crate::locking::LockWait;
use crate::progress::{Meter, Work};
use crate::units::{show_bytes, show_duration, show_rate};
use crate::{place, units};
use anyhow::{Context as _, Result};
use image::StoreProgress;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use store::{Finding, Hit, ScrubOptions, ScrubReport};

/// Ranges printed for one finding; `--json` has all.
const HITS_SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this share of the packs, those not checked for longest, e.g. 5%
    #[arg(long, value_name = "PERCENT", value_parser = units::parse_percent)]
    sample: Option<f64>,
    /// Stop after this long; the next scrub goes on with what was not checked for longest
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    max_time: Option<Duration>,
    /// Only packs that were not checked for this long
    #[arg(long, value_name = "DURATION", value_parser = units::parse_duration)]
    older: Option<Duration>,
    #[command(flatten)]
    lock: LockWait,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let store = place::open(context)?;
    let images = catalog::list(&store)?;
    let options = ScrubOptions {
        lock_wait: Duration::ZERO,
        sample_percent: args.sample,
        max_time: args.max_time,
        older_than: args.older,
    };
    let started = Instant::now();
    context.signals.guard()?;
    let report = args.lock.run(context, || {
        let meter = Meter::start(&context.ui, &context.signals, Work::Check, "scrub");
        store.scrub(&options, &StoreProgress(&meter))
    });
    let report = report.context("scrub")?;
    for finding in &report.findings {
        context.ui.warn(finding_text(finding, &images));
    }
    for repaired in &report.repaired {
        context.ui.say(format!("repaired {repaired}"));
    }
    let elapsed = started.elapsed();
    context.ui.say_all(lines(&report, elapsed));
    context.ui.event("summary", to_json(&report, elapsed));
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Damage })
}

fn lines(report: &ScrubReport, elapsed: Duration) -> Vec<String> {
    let rate = show_rate(report.bytes_checked, elapsed);
    let result = match report.findings.len() {
        0 => "no damage found".to_owned(),
        found => format!(
            "{} of damage; capturing the same disks again stores what is damaged anew",
            count(found, "finding")
        ),
    };
    vec![
        format!(
            "checked  {} of {} packs, {} chunks, {}",
            report.packs_checked,
            report.packs_total,
            report.chunks_checked,
            show_bytes(report.bytes_checked)
        ),
        format!("images   {}", report.images_checked),
        format!("time     {}, {rate}", show_duration(elapsed)),
        format!("result   {result}"),
    ]
}

/// What is damaged, then one line for each range of an image that is hit.
fn finding_text(finding: &Finding, images: &[Listed]) -> String {
    let mut text = finding.what.clone();
    for hit in finding.hits.iter().take(HITS_SHOWN) {
        text.push_str("\n  ");
        text.push_str(&hit_text(hit, images));
    }
    if let Some(more) = finding.hits.len().checked_sub(HITS_SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!("\n  and {more} more ranges; --json lists all"));
    }
    text
}

/// `image abababab (alba, S3RIAL): partition 2, offset 0x100000, 64.0 KiB`.
fn hit_text(hit: &Hit, images: &[Listed]) -> String {
    let id = hit.image.short();
    let Some(image) = images.iter().find(|image| image.entry.id == hit.image && image.manifest().is_some())
    else {
        return format!("image {id}: all of it");
    };
    let volume = image.source.as_ref().and_then(|source| source.volume_at(hit.offset));
    let partition = volume.map_or_else(String::new, |number| format!("partition {number}, "));
    let (host, disk, bytes) = (&image.known.host, image.disk(), show_bytes(hit.bytes));
    format!("image {id} ({host}, {disk}): {partition}offset {:#x}, {bytes}", hit.offset)
}

fn to_json(report: &ScrubReport, elapsed: Duration) -> Value {
    let hit = |hit: &Hit| json!({ "image": hit.image.to_string(), "offset": hit.offset, "bytes": hit.bytes });
    let finding = |finding: &Finding| {
        let hits: Vec<Value> = finding.hits.iter().map(hit).collect();
        json!({ "object": finding.object, "message": finding.what, "hits": hits })
    };
    json!({
        "packs_checked": report.packs_checked,
        "packs_total": report.packs_total,
        "chunks_checked": report.chunks_checked,
        "bytes_checked": report.bytes_checked,
        "images_checked": report.images_checked,
        "repaired": report.repaired,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "seconds": elapsed.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::listed;

    #[test]
    fn a_hit_names_image_disk_and_range() {
        let image = listed(|_| {});
        let hit = Hit { image: image.entry.id, offset: 4096, bytes: 65_536 };
        assert_eq!(hit_text(&hit, &[image]), "image abababab (alba, S3RIAL): offset 0x1000, 64.0 KiB");
    }
}

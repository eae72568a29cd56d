//! `cas verify IMAGE`: can every byte of the image be read; does a device hold it?
//!
//! Promise: every byte is looked at; findings are collected, printed up to a limit, and counted beyond.
//! Knows nothing of repair.

use crate::args::Context;
use crate::exit::Exit;
use crate::naming::Narrow;
use crate::progress::{Meter, Work};
use crate::units::{show_bytes, show_bytes_exactly, show_duration, show_rate};
use crate::{catalog, place};
use anyhow::{Context as _, Result};
use disk::{Device, Extent};
use image::{Damage, Difference, VerifyReport};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// Findings of one kind that are printed one by one.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: 4 or more digits of its id, latest, latest~2
    image: String,
    /// Compare this device or file with the image
    #[arg(long, value_name = "DEVICE")]
    against: Option<PathBuf>,
    /// Threads that read and hash [default: one for each processor]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let store = place::open(context)?;
    let image = catalog::open(context, &store, &args.image, &args.narrow)?;
    let device = args.against.as_ref().map(|path| Device::open(path)).transpose()?;
    let started = Instant::now();
    context.signals.guard()?;
    let report = {
        let title = format!("verify {}", image.id().short());
        let meter = Meter::start(&context.ui, &context.signals, Work::Check, &title);
        match &device {
            None => image::verify_image(&image, args.threads, &meter),
            Some(device) => image::verify_against(&image, device, args.threads, &meter),
        }
        .context(title)?
    };
    tell_findings(context, &report);
    let elapsed = started.elapsed();
    let rate = show_rate(report.checked_bytes, elapsed);
    let what = format!("{}, {} chunks", show_bytes(report.checked_bytes), report.checked_chunks);
    context.ui.say(format!("checked  {what} in {}, {rate}", show_duration(elapsed)));
    context.ui.say(format!("result   {}", verdict(&report, device.is_some())));
    let mut summary = report_json(&report);
    summary["image"] = image.id().to_string().into();
    summary["seconds"] = elapsed.as_secs_f64().into();
    context.ui.event("summary", summary);
    Ok(if report.is_clean() { Exit::Done } else { Exit::Damage })
}

fn verdict(report: &VerifyReport, against: bool) -> &'static str {
    match (report.is_clean(), against) {
        (true, false) => "every chunk of the image is whole",
        (true, true) => "the device holds the image",
        (false, false) => "the image is damaged",
        (false, true) => "the device does not hold the image",
    }
}

/// One warning for each finding, as far as that helps.
pub(crate) fn tell_findings(context: &Context, report: &VerifyReport) {
    warn_of_each(context, report.damaged.iter().map(damage_line));
    warn_of_each(context, report.differences.iter().map(difference_line));
    warn_of_each(
        context,
        report.unreadable.iter().map(|range| format!("{}: unreadable", place_of(*range, None))),
    );
    if report.findings_left_off > 0 {
        context.ui.warn(format!("{} further findings are not listed", report.findings_left_off));
    }
    if let Some(found) = report.device_bytes_found {
        let found = show_bytes_exactly(found);
        context.ui.note(format!("the device has {found}, which is not the image's size"));
        if !report.differences.is_empty() {
            context.ui.note(
                "restoring to a larger device moves the partition table's backup, unless --exact was given",
            );
        }
    }
}

/// Prints the first of them, and how many more there are.
pub(crate) fn warn_of_each(context: &Context, lines: impl ExactSizeIterator<Item = String>) {
    let more = lines.len().saturating_sub(SHOWN);
    lines.take(SHOWN).for_each(|line| context.ui.warn(line));
    if more > 0 {
        context.ui.warn(format!("and {more} more; --json lists all"));
    }
}

/// `partition 2, offset 0x100000, 64.0 KiB`.
fn place_of(extent: Extent, volume: Option<u32>) -> String {
    let partition = volume.map_or_else(String::new, |number| format!("partition {number}, "));
    format!("{partition}offset {:#x}, {}", extent.offset, show_bytes(extent.bytes))
}

pub(crate) fn damage_line(damage: &Damage) -> String {
    format!("{}: {}", place_of(damage.extent, damage.volume), chain(&damage.error))
}

fn difference_line(difference: &Difference) -> String {
    format!("{}: differs from the image", place_of(difference.extent, difference.volume))
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

pub(crate) fn damage_json(damage: &Damage) -> Value {
    json!({
        "offset": damage.extent.offset,
        "bytes": damage.extent.bytes,
        "partition": damage.volume,
        "message": chain(&damage.error),
    })
}

pub(crate) fn report_json(report: &VerifyReport) -> Value {
    let difference = |it: &Difference| json!({ "offset": it.extent.offset, "bytes": it.extent.bytes, "partition": it.volume });
    json!({
        "clean": report.is_clean(),
        "checked_bytes": report.checked_bytes,
        "checked_chunks": report.checked_chunks,
        "damaged": report.damaged.iter().map(damage_json).collect::<Vec<_>>(),
        "differences": report.differences.iter().map(difference).collect::<Vec<_>>(),
        "unreadable": report.unreadable,
        "findings_left_off": report.findings_left_off,
        "device_bytes": report.device_bytes_found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_where() {
        let extent = Extent { offset: 1 << 20, bytes: 65_536 };
        let line = difference_line(&Difference { extent, volume: Some(2) });
        assert_eq!(line, "partition 2, offset 0x100000, 64.0 KiB: differs from the image");
        let error = store::Error::NoStore { place: "p".to_owned() };
        let line = damage_line(&Damage { extent, volume: None, error });
        assert!(line.starts_with("offset 0x100000, 64.0 KiB: store p: no store here"), "{line}");
    }
}

//! `cas stats`: raw → used → unique → stored, and what removing each image would free.
//!
//! Knows nothing of how that is found out.

use crate::args::Context;
use crate::catalog::{self, Listed};
use crate::commands::images::count;
use crate::exit::Exit;
use crate::place;
use crate::progress::{Meter, Work};
use crate::table::Table;
use crate::units::{show_bytes, show_ratio, show_time};
use anyhow::{Context as _, Result};
use image::StoreProgress;
use jiff::tz::TimeZone;
use serde_json::json;
use store::StoreStatistics;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let images = catalog::list(&store)?;
    context.signals.guard()?;
    let statistics = {
        let meter = Meter::start(&context.ui, &context.signals, Work::Check, "stats");
        store.statistics(&StoreProgress(&meter)).context("stats")?
    };
    context.ui.say_all(lines(&statistics));
    context.ui.say_all(image_lines(&statistics, &images, &TimeZone::system()));
    let freed_by = statistics.freed_by.iter();
    let freed_by: Vec<_> =
        freed_by.map(|(id, bytes)| json!({ "id": id.to_string(), "freed_bytes": bytes })).collect();
    let unreadable: Vec<String> = statistics.unreadable.iter().map(ToString::to_string).collect();
    context.ui.document(&json!({
        "images": statistics.images,
        "raw_bytes": statistics.raw_bytes,
        "used_bytes": statistics.used_bytes,
        "unique_bytes": statistics.unique_bytes,
        "stored_bytes": statistics.stored_bytes,
        "unused_bytes": statistics.unused_bytes,
        "unique_chunks": statistics.unique_chunks,
        "blob_bytes": statistics.blob_bytes,
        "packs": statistics.packs,
        "freed_by": freed_by,
        "unreadable": unreadable,
    }));
    if unreadable.is_empty() {
        return Ok(Exit::Done);
    }
    let images = count(unreadable.len(), "image");
    context.ui.warn(format!("{images} not counted, being unreadable: {}", unreadable.join(", ")));
    Ok(Exit::Damage)
}

fn lines(s: &StoreStatistics) -> Vec<String> {
    let mut table = Table::new(&["", ">SIZE", ">RATIO", ""]);
    let mut row = |name: &str, bytes: u64, ratio: String, what: &str| {
        table.row([name.to_owned(), show_bytes(bytes), ratio, what.to_owned()]);
    };
    row("raw", s.raw_bytes, String::new(), &format!("the disks of {} images", s.images));
    row("used", s.used_bytes, show_ratio(s.raw_bytes, s.used_bytes), "without zeros");
    row("unique", s.unique_bytes, show_ratio(s.used_bytes, s.unique_bytes), "each chunk once");
    row(
        "compressed",
        s.blob_bytes,
        show_ratio(s.unique_bytes, s.blob_bytes),
        "with the tables of the images",
    );
    row(
        "stored",
        s.stored_bytes,
        show_ratio(s.raw_bytes, s.stored_bytes),
        &format!("{} packs; ratio to raw", s.packs),
    );
    row("unused", s.unused_bytes, String::new(), "of that: not needed by any image");
    table.lines()
}

fn image_lines(s: &StoreStatistics, images: &[Listed], zone: &TimeZone) -> Vec<String> {
    let mut table = Table::new(&["ID", "TIME", "HOST", "DISK", ">SIZE", ">FREES"]);
    for image in images {
        let Some(manifest) = image.manifest() else { continue };
        let Some((_, freed)) = s.freed_by.iter().find(|(id, _)| *id == image.entry.id) else { continue };
        table.row([
            image.entry.id.short(),
            show_time(image.known.time, zone),
            image.known.host.clone(),
            image.disk().to_owned(),
            show_bytes(manifest.bytes),
            show_bytes(*freed),
        ]);
    }
    if table.is_empty() {
        return Vec::new();
    }
    let title = "removing one of these images would free:".to_owned();
    [String::new(), title].into_iter().chain(table.lines()).collect()
}

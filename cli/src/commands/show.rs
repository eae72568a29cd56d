//! `cas show IMAGE`: everything that is known of one image.
//!
//! Promise: forgotten and damaged images can be shown too. Knows nothing of chunks.

use crate::args::Context;
use crate::catalog::{self, Listed};
use crate::exit::Exit;
use crate::naming::{Narrow, Scope};
use crate::units::{show_bytes, show_bytes_exactly};
use crate::{picture, place, units};
use anyhow::Result;
use disk::Extent;
use image::SourceInfo;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// Bad ranges listed one by one; `--json` has all of them.
const BAD_RANGES_SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: 4 or more digits of its id, latest, latest~2
    image: String,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let images = catalog::list(&store)?;
    let id = catalog::find(&images, &args.image, &args.narrow, Scope::Any)?;
    for image in images.iter().filter(|image| image.known.id == id) {
        context.ui.document(&to_json(image));
        context.ui.say_all(facts(image, &TimeZone::system()));
        if let Some(source) = &image.source {
            context.ui.say_all(partitions(source));
            context.ui.say_all(bad_ranges(source));
        }
    }
    Ok(Exit::Done)
}

/// The members of `cas images --json`, and the source as the manifest has it.
fn to_json(image: &Listed) -> Value {
    let mut value = image.to_json();
    if let Some(manifest) = image.manifest() {
        value["statistics"] = serde_json::json!({
            "chunks": manifest.statistics.chunks,
            "new_chunks": manifest.statistics.new_chunks,
        });
        value["source"] = manifest.source.clone();
    }
    value
}

/// `name  value`, one a line.
fn facts(image: &Listed, zone: &TimeZone) -> Vec<String> {
    let mut facts: Vec<(&str, String)> =
        vec![("image", image.entry.id.to_string()), ("state", image.state())];
    match &image.entry.manifest {
        Ok(manifest) => facts.extend(facts_of_manifest(manifest, image.known.time, zone)),
        Err(error) => facts.push(("damage", format!("{error:#}"))),
    }
    if let Some(forgotten) = &image.entry.forgotten {
        facts.push(("forgotten", local(forgotten, zone)));
    }
    if let Some(source) = &image.source {
        facts.extend(facts_of_source(source));
    }
    let empty = |(_, value): &(&str, String)| !value.is_empty();
    facts.into_iter().filter(empty).map(|(name, value)| format!("{name:<12} {value}")).collect()
}

fn facts_of_manifest(
    manifest: &store::Manifest,
    time: Timestamp,
    zone: &TimeZone,
) -> Vec<(&'static str, String)> {
    let s = &manifest.statistics;
    vec![
        ("time", units::show_time(time, zone)),
        ("host", manifest.host.clone()),
        ("disk", manifest.disk.clone()),
        ("tags", manifest.tags.join(",")),
        ("comment", manifest.comment.clone()),
        ("parent", manifest.parent.map_or_else(String::new, |parent| parent.short())),
        ("size", show_bytes_exactly(manifest.bytes)),
        ("used", format!("{} in {} chunks", show_bytes_exactly(s.data_bytes), s.chunks)),
        ("zeros", show_bytes_exactly(s.zero_bytes)),
        ("unreadable", if s.bad_bytes > 0 { show_bytes_exactly(s.bad_bytes) } else { String::new() }),
        ("new", format!("{} in {} chunks", show_bytes_exactly(s.new_bytes), s.new_chunks)),
        ("added", show_bytes_exactly(s.new_stored_bytes)),
    ]
}

fn facts_of_source(source: &SourceInfo) -> Vec<(&'static str, String)> {
    let identity = &source.identity;
    let rotational = identity.rotational.map(|is| if is { "yes" } else { "no" });
    let excluded: Vec<String> = source.excluded.iter().map(u32::to_string).collect();
    let consistent =
        if source.consistent { "yes" } else { "no: a filesystem was mounted read-write meanwhile" };
    vec![
        ("source", format!("{} ({})", identity.path, picture::kind(identity))),
        ("model", identity.model.clone().unwrap_or_default()),
        ("serial", identity.serial.clone().unwrap_or_default()),
        ("wwn", identity.wwn.clone().unwrap_or_default()),
        ("bus", identity.bus.clone().unwrap_or_default()),
        ("sectors", format!("{} bytes", picture::sectors(identity))),
        ("rotational", rotational.unwrap_or_default().to_owned()),
        ("consistent", consistent.to_owned()),
        ("table", picture::table_kind(&source.layout).to_owned()),
        ("disk id", source.layout.disk_id.clone().unwrap_or_default()),
        (
            "left out",
            excluded.iter().map(|number| format!("partition {number}")).collect::<Vec<_>>().join(", "),
        ),
        ("blocks", blocks(source)),
        ("odd", source.layout.warnings.join("; ")),
    ]
}

/// Whether only blocks in use were read, and of what not.
fn blocks(source: &SourceInfo) -> String {
    let Some(volumes) = &source.volume_use else { return "every sector".to_owned() };
    let doubts: Vec<String> = volumes
        .iter()
        .filter_map(|volume| {
            let doubt = volume.doubt.as_ref()?;
            let place = volume.volume.map_or_else(String::new, |number| format!(" of partition {number}"));
            Some(format!("; every sector{place}: {doubt}"))
        })
        .collect();
    format!("those in use{}", doubts.concat())
}

fn partitions(source: &SourceInfo) -> Vec<String> {
    match picture::partitions(&source.layout, &source.excluded, source.volume_use.as_deref()) {
        Some(table) => std::iter::once(String::new()).chain(table.lines()).collect(),
        None => Vec::new(),
    }
}

fn bad_ranges(source: &SourceInfo) -> Vec<String> {
    if source.bad_ranges.is_empty() {
        return Vec::new();
    }
    let sector = u64::from(source.identity.logical_sector_bytes.max(1));
    let line = |range: &Extent| {
        let place = source.volume_at(range.offset).map_or_else(String::new, |n| format!(", partition {n}"));
        let (first, last) = (range.offset / sector, (range.end().saturating_sub(1)) / sector);
        format!("  sectors {first} to {last}: offset {:#x}, {}{place}", range.offset, show_bytes(range.bytes))
    };
    let mut lines = vec![String::new(), "could not be read:".to_owned()];
    lines.extend(source.bad_ranges.iter().take(BAD_RANGES_SHOWN).map(line));
    if let Some(more) = source.bad_ranges.len().checked_sub(BAD_RANGES_SHOWN).filter(|more| *more > 0) {
        lines.push(format!("  and {more} more; --json lists all"));
    }
    lines
}

/// RFC 3339 in local time; as it stands when it is not that.
fn local(time: &str, zone: &TimeZone) -> String {
    time.parse().map_or_else(|_| time.to_owned(), |time| units::show_time(time, zone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::listed;

    #[test]
    fn everything_known_is_shown_and_nothing_empty() {
        let image = listed(|entry| entry.forgotten = Some("2026-08-02T10:00:00Z".to_owned()));
        let lines = facts(&image, &TimeZone::UTC);
        for line in [
            "state        complete, forgotten",
            "time         2026-08-01 12:00:00",
            "added        4.0 KiB (4096 bytes)",
            "forgotten    2026-08-02 10:00:00",
            "source       /dev/sda (stream)",
            "consistent   yes",
        ] {
            assert!(lines.contains(&line.to_owned()), "{line}: {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line.starts_with("comment") || line.starts_with("unreadable")));
    }

    #[test]
    fn bad_ranges_are_given_in_sectors() {
        let mut source = listed(|_| {}).source.unwrap();
        assert!(bad_ranges(&source).is_empty());
        source.bad_ranges = vec![Extent { offset: 1024, bytes: 1024 }];
        assert_eq!(bad_ranges(&source)[2], "  sectors 2 to 3: offset 0x400, 1.0 KiB");
        source.bad_ranges = vec![Extent { offset: 0, bytes: 512 }; 102];
        assert_eq!(bad_ranges(&source).last().unwrap(), "  and 2 more; --json lists all");
    }
}

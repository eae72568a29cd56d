//! `cas images`: one line an image.
//!
//! Promise: every image of the store is either listed or counted. Knows nothing of what is inside an image.

use crate::args::Context;
use crate::catalog::{self, Listed};
use crate::exit::Exit;
use crate::naming::Narrow;
use crate::table::Table;
use crate::{place, units};
use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Forgotten images too
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let images = catalog::list(&store)?;
    let (listed, hidden): (Vec<&Listed>, Vec<&Listed>) = images
        .iter()
        .filter(|image| args.narrow.admits(&image.known))
        .partition(|image| args.all || !image.known.forgotten);
    context.ui.document(&Value::Array(listed.iter().map(|image| image.to_json()).collect()));
    if listed.is_empty() {
        context.ui.note("no images");
    } else {
        context.ui.say_all(table(&listed, &TimeZone::system()).lines());
    }
    if !hidden.is_empty() {
        context.ui.note(format!("{} not shown: --all lists them", count(hidden.len(), "forgotten image")));
    }
    Ok(Exit::Done)
}

/// `1 image`, `2 images`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn table(images: &[&Listed], zone: &TimeZone) -> Table {
    let mut table = Table::new(&["ID", "TIME", "HOST", "DISK", ">SIZE", ">USED", ">ADDED", "TAGS", "STATE"]);
    for image in images {
        let bytes = |of: fn(&store::Manifest) -> u64| {
            image.manifest().map_or_else(|| "-".to_owned(), |manifest| units::show_bytes(of(manifest)))
        };
        table.row([
            image.entry.id.short(),
            time(image.known.time, zone),
            dash(&image.known.host),
            dash(image.disk()),
            bytes(|manifest| manifest.bytes),
            bytes(|manifest| manifest.statistics.data_bytes),
            bytes(|manifest| manifest.statistics.new_stored_bytes),
            dash(&image.known.tags.join(",")),
            image.state(),
        ]);
    }
    table
}

/// A damaged manifest has no time.
fn time(time: Timestamp, zone: &TimeZone) -> String {
    if time == Timestamp::MIN { "-".to_owned() } else { units::show_time(time, zone) }
}

/// Empty cells would shift what a script cuts out by columns.
fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::listed;

    #[test]
    fn one_line_an_image() {
        let image = "ab".repeat(32).parse().unwrap();
        let (good, bad) =
            (listed(|_| {}), listed(|e| e.manifest = Err(store::Error::ManifestName { image })));
        let lines = table(&[&good, &bad], &TimeZone::UTC).lines();
        assert_eq!(
            lines,
            [
                "ID        TIME                 HOST  DISK       SIZE       USED    ADDED  TAGS          STATE",
                "abababab  2026-08-01 12:00:00  alba  S3RIAL  1.0 MiB  512.0 KiB  4.0 KiB  weekly,clean  complete",
                "abababab  -                    -     -             -          -        -  -             damaged",
            ]
        );
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([count(1, "image"), count(2, "image")], ["1 image", "2 images"]);
    }
}

//! Writes a small store in which every part of the format occurs, and what has to come out of it: the recipe of
//! `tests/golden/`. Run as `cargo run -p store --example golden -- FOLDER`.
//!
//! Promise: everything goes through the public face of `store`, but for one marker that is taken away as a capture
//! killed before its end would have left it out; the images' bytes come from fixed seeds. Salts, times and ids of
//! sessions are new in each run, and so are the names of packs and images.
//! Knows nothing of how the result is read.

#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Duration;
use store::{Compression, Config, Description, GcOptions, Home, ImageId, NewRun, Store, WriterOptions};

const CHUNK_BYTES: usize = 2048;
const SEGMENT_CHUNKS: usize = 8;
/// Eight segments in two gatherings of four, and one table above these: levels 0 to 3.
const CELLS: usize = 64;
/// A disk has some five packs of data then, so that collecting rewrites some and leaves some.
const PACK_BYTES: u32 = 16 << 10;

/// What stands in one place of a disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Noise(u64),
    Text(u64),
    Zeros,
    Bad,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

#[allow(dead_code)] // the test suite takes this file in as a module, for `write`
fn main() -> Outcome<()> {
    let folder = std::env::args_os().nth(1).ok_or("expected a folder to write to")?;
    write(Path::new(&folder))
}

/// Makes `store/` and `expect.json` in the folder.
pub(crate) fn write(folder: &Path) -> Outcome<()> {
    let path = folder.join("store");
    let config = Config {
        zero_run_bytes: 512,
        segment_bytes: 16 << 10,
        leaf_bytes: 8 << 10,
        fan_out: 4,
        ..Config::new("fixed:2048")
    };
    let store = Store::init(&Home::local(&path), config)?;
    let images = fill(&store)?;
    let [.., unconfirmed] = images.as_slice() else { return Err("no images".into()) };
    fs::remove_file(path.join(format!("images/{}.ok", unconfirmed.0)))?;
    drop(store);
    for derived in ["index", "tmp"] {
        fs::remove_dir_all(path.join(derived))?;
    }
    let store = Store::open(&Home::local(&path))?;
    fs::write(
        folder.join("expect.json"),
        serde_json::to_string_pretty(&expectations(&store, &images)?)? + "\n",
    )?;
    Ok(())
}

/// The images that stay; the last one is to be left unconfirmed.
fn fill(store: &Store) -> Outcome<Vec<(ImageId, Vec<Cell>)>> {
    let first = first_disk();
    // Two disks between whose chunks those of `first` lie. When they go, `first` stays with hints that are wrong, and
    // some of its chunks have moved twice.
    let once: Vec<Cell> = interleave(&first, 500, |at| at % 3 == 0);
    let twice: Vec<Cell> = interleave(&once, 600, |at| at % 2 == 0);
    let gone_first = capture(store, "gone-1", &once, None, &[], "", Compression::Auto)?;
    let gone_later = capture(store, "gone-2", &twice, None, &[], "", Compression::Auto)?;
    let comment = "freshly installed: ä, 盘, \"quoted\"";
    let kept = capture(store, "GOLD-1", &first, None, &["golden", "first"], comment, Compression::Max)?;
    collect(store, gone_first)?;
    collect(store, gone_later)?;
    store.protect(kept, true)?;

    let second = changed(&first, 700, Some(Cell::Bad));
    let newer = capture(store, "GOLD-1", &second, Some(kept), &["golden"], "", Compression::Off)?;
    let nothing = vec![Cell::Zeros; 24];
    let zeros = capture(store, "GOLD-2", &nothing, None, &[], "all zeros", Compression::Auto)?;
    let third = changed(&second, 800, None);
    let forgotten = capture(store, "GOLD-1", &third, Some(newer), &[], "forgotten", Compression::Auto)?;
    store.forget(&[forgotten])?;
    let fourth = changed(&first, 900, None);
    let last = capture(store, "GOLD-1", &fourth, Some(newer), &[], "never confirmed", Compression::Auto)?;
    Ok(vec![(kept, first), (newer, second), (zeros, nothing), (forgotten, third), (last, fourth)])
}

/// Noise, text, repeated chunks, short runs of zeros, one across three segments, and zeros at the end.
fn first_disk() -> Vec<Cell> {
    let cell = |at: usize| match at {
        5 | 6 | 28..45 | 61.. => Cell::Zeros,
        50..54 => Cell::Noise(1),
        at if at % 3 == 2 => Cell::Text(at as u64),
        at => Cell::Noise(at as u64),
    };
    (0..CELLS).map(cell).collect()
}

/// The disk with other noise wherever `theirs` says no.
fn interleave(disk: &[Cell], seed: u64, ours: impl Fn(usize) -> bool) -> Vec<Cell> {
    let cell = |(at, cell): (usize, &Cell)| if ours(at) { *cell } else { Cell::Noise(seed + at as u64) };
    disk.iter().enumerate().map(cell).collect()
}

fn changed(disk: &[Cell], seed: u64, bad: Option<Cell>) -> Vec<Cell> {
    let mut disk = disk.to_vec();
    for (at, cell) in disk.iter_mut().enumerate() {
        match at {
            2 | 33 | 56..59 => *cell = Cell::Noise(seed + at as u64),
            // Crosses the border between two leaves.
            11..14 => *cell = bad.unwrap_or(*cell),
            17 => *cell = Cell::Zeros,
            _ => {}
        }
    }
    disk
}

fn capture(
    store: &Store,
    disk: &str,
    cells: &[Cell],
    parent: Option<ImageId>,
    tags: &[&str],
    comment: &str,
    compression: Compression,
) -> Outcome<ImageId> {
    let options = WriterOptions { compression, pack_bytes: PACK_BYTES, ..WriterOptions::default() };
    let writer = store.writer(&options)?;
    for (number, segment) in (0u64..).zip(cells.chunks(SEGMENT_CHUNKS)) {
        let mut runs = Vec::new();
        for cells in segment.chunk_by(|a, b| a == b && matches!(a, Cell::Zeros | Cell::Bad)) {
            let bytes = (cells.len() * CHUNK_BYTES) as u64;
            runs.push(match cells[0] {
                Cell::Zeros => NewRun::Zeros { bytes },
                Cell::Bad => NewRun::Bad { bytes },
                cell => NewRun::Chunk(writer.put(&bytes_of(cell))?),
            });
        }
        writer.submit(number, runs)?;
    }
    let description = Description {
        created: store::now(),
        host: "goldsmith".into(),
        disk: disk.into(),
        tags: tags.iter().map(ToString::to_string).collect(),
        comment: comment.into(),
        bytes: (cells.len() * CHUNK_BYTES) as u64,
        parent,
        source: source(disk, cells),
    };
    Ok(writer.finish(description)?.image)
}

fn bytes_of(cell: Cell) -> Vec<u8> {
    match cell {
        Cell::Zeros | Cell::Bad => vec![0; CHUNK_BYTES],
        Cell::Text(seed) => {
            format!("line {seed} of a text\n").into_bytes().repeat(CHUNK_BYTES)[..CHUNK_BYTES].to_vec()
        }
        Cell::Noise(seed) => {
            let steps = (0..CHUNK_BYTES as u64 / 8).map(|step| seed * CHUNK_BYTES as u64 + step);
            steps.flat_map(|step| split_mix(step).to_le_bytes()).collect()
        }
    }
}

/// SplitMix64, number `step` of its sequence: chance without a crate, the same in a hundred years.
fn split_mix(step: u64) -> u64 {
    let mut z = step.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What `image` writes of a disk without partitions.
fn source(disk: &str, cells: &[Cell]) -> serde_json::Value {
    let bytes = cells.len() * CHUNK_BYTES;
    serde_json::json!({
        "identity": {
            "kind": "file", "path": disk, "name": disk, "model": null, "serial": null, "wwn": null, "bus": null,
            "size_bytes": bytes, "logical_sector_bytes": 512, "physical_sector_bytes": 512, "rotational": null,
            "removable": null, "read_only": true,
        },
        "layout": { "table": "none", "disk_id": null, "sector_bytes": 512, "volumes": [], "warnings": [] },
        "regions": [{ "offset": 0, "bytes": bytes, "volume": null, "excluded": false }],
        "excluded": [],
        "bad_ranges": bad_ranges(cells),
        "consistent": true,
    })
}

fn bad_ranges(cells: &[Cell]) -> Vec<serde_json::Value> {
    let mut at = 0;
    let mut ranges = Vec::new();
    for run in cells.chunk_by(|a, b| (*a == Cell::Bad) == (*b == Cell::Bad)) {
        if run[0] == Cell::Bad {
            ranges.push(serde_json::json!({ "offset": at * CHUNK_BYTES, "bytes": run.len() * CHUNK_BYTES }));
        }
        at += run.len();
    }
    ranges
}

/// Forgets the image and rewrites every pack in which it leaves a gap.
fn collect(store: &Store, image: ImageId) -> Outcome<()> {
    store.forget(&[image])?;
    let options = GcOptions {
        leftover_percent: 0,
        grace: Duration::ZERO,
        pack_bytes: PACK_BYTES,
        ..GcOptions::default()
    };
    let report = store.gc(&options, &())?;
    if report.packs_rewritten == 0 {
        return Err("nothing moved".into());
    }
    Ok(())
}

fn expectations(store: &Store, images: &[(ImageId, Vec<Cell>)]) -> Outcome<serde_json::Value> {
    let mut expected = Vec::new();
    for entry in store.images()? {
        let (_, cells) = images.iter().find(|(id, _)| *id == entry.id).ok_or("an image too many")?;
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| bytes_of(*cell)).collect();
        expected.push(serde_json::json!({
            "image": entry.id.to_string(),
            "bytes": bytes.len(),
            "blake3": store::chunk_id(&bytes).to_string(),
            "bad_ranges": bad_ranges(cells),
            "confirmed": entry.confirmed,
            "forgotten": entry.forgotten.is_some(),
            "protected": entry.protected,
        }));
    }
    Ok(serde_json::Value::Array(expected))
}

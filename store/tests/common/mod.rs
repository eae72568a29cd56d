//! A disk small enough to try everything with, how it gets into a store, and how it is compared with what comes back.
//!
//! Promise: all chance comes from a seed; a comparison looks at every byte, and at which of them could not be read.
//! Knows nothing of real devices: cutting is at fixed places, and the disk is a list of what stands in each.

// Each test binary uses its own part of this, and helpers are no `#[test]` functions, in which alone `unwrap` is allowed.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use store::backend::{Backend, Delete, MemoryBackend, Name};
use store::{
    Config, Description, Error, GcOptions, GcReport, Guide, Home, ImageEntry, ImageId, NewRun, Run,
    ScrubOptions, ScrubReport, Store, StoredImage, Writer, WriterOptions,
};

/// Small enough that a disk has many, and a pack few.
pub const CHUNK_BYTES: usize = 512;
/// Two leaves of 4 KiB, the smallest there are.
pub const SEGMENT_CHUNKS: usize = 16;
/// Seven chunks fill a pack.
pub const PACK_BYTES: u32 = 4096;

/// What stands at one place of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cell {
    /// Bytes made from this number.
    Data(u32),
    Zeros,
    /// Sectors that can't be read.
    Bad,
}

/// See the file's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    pub chunk_bytes: usize,
    pub cells: Vec<Cell>,
}

/// What a store gave back.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes {
    pub bytes: Vec<u8>,
    pub bad: Vec<Range<u64>>,
}

/// The chunk that a number stands for: every third can be compressed.
pub fn chunk_of(number: u32, bytes: usize) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(u64::from(number));
    if number.is_multiple_of(3) {
        let pattern: [u8; 24] = rng.random();
        return pattern.iter().copied().cycle().take(bytes).collect();
    }
    (0..bytes).map(|_| rng.random()).collect()
}

impl Disk {
    /// All kinds of cells; numbers begin at `base`, and some stand in several places.
    pub fn random(rng: &mut StdRng, segments: usize, base: u32) -> Disk {
        let mut cells = vec![Cell::Zeros; segments * SEGMENT_CHUNKS];
        let count = u32::try_from(cells.len()).unwrap();
        let mut at = 0;
        while at < cells.len() {
            let run = rng.random_range(1..20).min(cells.len() - at);
            let kind = rng.random_range(0..10);
            for (step, cell) in (0u32..).zip(&mut cells[at..at + run]) {
                *cell = match kind {
                    0 | 1 => Cell::Zeros,
                    2 => Cell::Bad,
                    3 => Cell::Data(base + step),
                    _ => Cell::Data(base + rng.random_range(0..count * 4)),
                };
            }
            // Bad places are short.
            at += if kind == 2 { run.min(3) } else { run };
        }
        Disk { chunk_bytes: CHUNK_BYTES, cells }
    }

    /// Nothing but different chunks.
    pub fn full(cells: u32, base: u32, chunk_bytes: usize) -> Disk {
        Disk { chunk_bytes, cells: (base..base + cells).map(Cell::Data).collect() }
    }

    /// The same disk some days later.
    pub fn changed(&self, rng: &mut StdRng, base: u32) -> Disk {
        let mut disk = self.clone();
        for _ in 0..rng.random_range(1..6) {
            let from = rng.random_range(0..disk.cells.len());
            let to = (from + rng.random_range(1..9)).min(disk.cells.len());
            let kind = rng.random_range(0..8);
            let source = rng.random_range(0..disk.cells.len());
            for at in from..to {
                disk.cells[at] = match kind {
                    0 => Cell::Zeros,
                    1 if at < from + 2 => Cell::Bad,
                    2 => disk.cells[source],
                    _ => Cell::Data(base + rng.random_range(0..100_000)),
                };
            }
        }
        disk
    }

    pub fn bytes(&self) -> u64 {
        (self.cells.len() * self.chunk_bytes) as u64
    }

    /// What has to come back.
    pub fn plain(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.cells.len() * self.chunk_bytes);
        let mut bad = Vec::new();
        for cell in &self.cells {
            let at = bytes.len() as u64;
            match cell {
                Cell::Data(number) => bytes.extend(chunk_of(*number, self.chunk_bytes)),
                Cell::Zeros | Cell::Bad => bytes.resize(bytes.len() + self.chunk_bytes, 0),
            }
            if *cell == Cell::Bad {
                add_range(&mut bad, at..bytes.len() as u64);
            }
        }
        Bytes { bytes, bad }
    }
}

fn add_range(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// A config with which a disk of a few segments has a tree of many levels.
pub fn config() -> Config {
    Config {
        zero_run_bytes: 512,
        segment_bytes: 8192,
        leaf_bytes: 4096,
        fan_out: 2,
        ..Config::new("fixed:512")
    }
}

pub fn writer_options() -> WriterOptions {
    WriterOptions { pack_bytes: PACK_BYTES, ..WriterOptions::default() }
}

/// Rewrites all there is to rewrite, and waits for nobody.
pub fn gc_options() -> GcOptions {
    GcOptions { leftover_percent: 0, grace: Duration::ZERO, pack_bytes: PACK_BYTES, ..GcOptions::default() }
}

pub fn gc(store: &Store) -> Result<GcReport, Error> {
    store.gc(&gc_options(), &())
}

pub fn scrub(store: &Store) -> Result<ScrubReport, Error> {
    store.scrub(&ScrubOptions::default(), &())
}

/// Captures the disk, segments in order, guided by the newest image of the same name as real captures are.
pub fn capture(store: &Store, disk: &Disk, name: &str) -> Result<ImageId, Error> {
    capture_with(store, disk, name, &writer_options())
}

pub fn capture_with(
    store: &Store,
    disk: &Disk,
    name: &str,
    options: &WriterOptions,
) -> Result<ImageId, Error> {
    let writer = store.writer(options)?;
    // Advice: without it the image is the same.
    let guide = newest(store, name).map(|image| writer.guide(image));
    for segment in 0..disk.cells.len().div_ceil(SEGMENT_CHUNKS) {
        submit(&writer, guide.as_ref(), disk, segment)?;
    }
    writer.finish(description(disk, name)).map(|finished| finished.image)
}

fn newest(store: &Store, name: &str) -> Option<StoredImage> {
    let same = |entry: &&ImageEntry| entry.manifest.as_ref().is_ok_and(|manifest| manifest.disk == name);
    let images = store.images().ok()?;
    store.image(images.iter().rev().find(same)?.id).ok()
}

/// Captures the disk with two threads, segments in any order, without a guide.
pub fn capture_in_parallel(store: &Store, disk: &Disk, name: &str) -> Result<ImageId, Error> {
    let writer = store.writer(&writer_options())?;
    let segments = disk.cells.len().div_ceil(SEGMENT_CHUNKS);
    let half = |odd: usize| {
        let writer = &writer;
        move || (0..segments).rev().filter(|s| s % 2 == odd).try_for_each(|s| submit(writer, None, disk, s))
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(half(1));
        half(0)().and(other.join().unwrap())
    })?;
    writer.finish(description(disk, name)).map(|finished| finished.image)
}

fn submit(writer: &Writer, guide: Option<&Guide>, disk: &Disk, segment: usize) -> Result<(), Error> {
    let end = ((segment + 1) * SEGMENT_CHUNKS).min(disk.cells.len());
    let more = disk.chunk_bytes as u64;
    let (start, count) = (segment * SEGMENT_CHUNKS, end - segment * SEGMENT_CHUNKS);
    let guide = guide.and_then(|guide| guide.segment(start as u64 * more, count as u64 * more));
    let guide = guide.unwrap_or_default();
    let mut runs: Vec<NewRun> = Vec::new();
    for (at, cell) in (0u64..).zip(&disk.cells[start..end]) {
        let known = guide.chunks.iter().find(|chunk| chunk.offset == at * more);
        match (cell, runs.last_mut()) {
            (Cell::Data(number), _) => {
                let plain = chunk_of(*number, disk.chunk_bytes);
                let known = known.and_then(|chunk| writer.put_if(&plain, chunk));
                runs.push(NewRun::Chunk(known.map_or_else(|| writer.put(&plain), Ok)?));
            }
            (Cell::Zeros, Some(NewRun::Zeros { bytes })) | (Cell::Bad, Some(NewRun::Bad { bytes })) => {
                *bytes += more;
            }
            (Cell::Zeros, _) => runs.push(NewRun::Zeros { bytes: more }),
            (Cell::Bad, _) => runs.push(NewRun::Bad { bytes: more }),
        }
    }
    writer.submit_guided(segment as u64, runs, &guide)
}

fn description(disk: &Disk, name: &str) -> Description {
    Description {
        created: store::now(),
        host: "host".into(),
        disk: name.into(),
        bytes: disk.bytes(),
        ..Description::default()
    }
}

/// The whole image, or the first error.
pub fn read_back(store: &Store, image: ImageId) -> Result<Bytes, Error> {
    let mut all = Bytes { bytes: Vec::new(), bad: Vec::new() };
    for (range, part) in read_parts(store, image)? {
        assert_eq!(range.start, all.bytes.len() as u64, "image {image}: a gap or an overlap");
        match part? {
            Some(bytes) => all.bytes.extend(bytes),
            None => {
                all.bytes.resize(usize::try_from(range.end).unwrap(), 0);
                add_range(&mut all.bad, range);
            }
        }
    }
    Ok(all)
}

/// A stretch of an image: its bytes, `None` when the source would not give them, or an error.
pub type Part = (Range<u64>, Result<Option<Vec<u8>>, Error>);

/// The image run by run, errors run by run.
pub fn read_parts(store: &Store, image: ImageId) -> Result<Vec<Part>, Error> {
    let image = store.image(image)?;
    let runs = image.runs(0, image.bytes())?;
    let chunks: Vec<_> = runs
        .iter()
        .filter_map(|run| if let Run::Chunk(chunk) = run.run { Some(chunk) } else { None })
        .collect();
    let mut fetched = image.fetch(&chunks).into_iter();
    let part = |placed: &store::PlacedRun| {
        let bytes = match placed.run {
            Run::Chunk(_) => fetched.next().unwrap().map(Some),
            Run::Zeros { bytes } => Ok(Some(vec![0; usize::try_from(bytes).unwrap()])),
            Run::Bad { .. } => Ok(None),
        };
        (placed.offset..placed.offset + placed.run.bytes(), bytes)
    };
    Ok(runs.iter().map(part).collect())
}

/// Images that have to be in a store, with the disks they were made from.
pub type Images = BTreeMap<ImageId, Disk>;

/// Every image is there, whole and right.
pub fn assert_images(store: &Store, images: &Images, when: &str) {
    for (image, disk) in images {
        let found = read_back(store, *image).unwrap_or_else(|error| panic!("{when}: {image}: {error:?}"));
        assert!(found == disk.plain(), "{when}: {image}: other bytes than the disk's");
    }
}

/// Any range of an image is what the disk has there.
pub fn assert_range(store: &Store, image: ImageId, disk: &Disk, range: Range<u64>) {
    let plain = disk.plain();
    let stored = store.image(image).unwrap();
    let runs = stored.runs(range.start, range.end - range.start).unwrap();
    let (mut at, end) = (range.start, range.end.min(disk.bytes()));
    for placed in &runs {
        assert!(placed.offset <= at && placed.offset + placed.run.bytes() > at, "{image}: runs leave a gap");
        if let Run::Chunk(chunk) = placed.run {
            let bytes = stored.fetch(&[chunk]).remove(0).unwrap();
            let from = usize::try_from(placed.offset).unwrap();
            assert!(bytes == plain.bytes[from..from + bytes.len()], "{image}: wrong bytes at {from}");
        }
        at = placed.offset + placed.run.bytes();
    }
    assert!(at >= end, "{image}: runs end at {at} of {end}");
}

/// A home over this memory.
pub fn home(memory: &MemoryBackend) -> Home {
    Home::custom(Arc::new(memory.clone()), Arc::new(memory.clone()))
}

/// A store over this memory that knows nothing yet, as a new process would.
pub fn open(memory: &MemoryBackend) -> Store {
    Store::open(&home(memory)).unwrap()
}

/// The names below a folder.
pub fn names(backend: &dyn Backend, folder: &str) -> Vec<Name> {
    backend.list(folder).unwrap().into_iter().map(|entry| entry.name).collect()
}

/// Sizes of all packs together.
pub fn packs_bytes(backend: &dyn Backend) -> u64 {
    backend.list("packs").unwrap().iter().map(|entry| entry.bytes).sum()
}

pub fn delete_all(memory: &MemoryBackend, folder: &str) {
    names(memory, folder).iter().for_each(|name| memory.delete(name).unwrap());
}

/// Says what was under way when a test fails.
pub struct Context(pub String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failed while: {}", self.0);
        }
    }
}

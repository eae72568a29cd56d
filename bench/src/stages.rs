//! The stages of a capture, each measured apart, in one thread.
//!
//! Promise: a stage's time is its own: data are made up before the clock runs, and what a stage can't be called without
//! is measured beside it (`account.rs` subtracts it). Zeros are left out as a capture leaves them out, except for
//! reading and for looking for them. Knows nothing of arguments.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use chunker::Rule;
use disk::{AlignedBuffer, Device, ReadAt};
use store::backend::{Backend, LocalBackend, Name};
use store::{Compression, Config, Home, PACK_BYTES, Store, Writer, WriterOptions};

use crate::data::{MadeUpDisk, Mix};
use crate::measure::{Measure, Stopwatch, measure};
use crate::place::{Folder, LoopDevice, write_file};
use crate::sieve::Sieve;
use crate::whole::USUAL_RULE;
use crate::{Plan, SEED, in_rounds};

/// As much as is made up at once: one segment, as in a capture.
const SEGMENT_BYTES: usize = 64 << 20;
/// What a capture reads at once.
const WINDOW_BYTES: usize = 4 << 20;
/// Zeros are looked for in blocks of this size, as in a capture.
const BLOCK_BYTES: usize = 4096;
/// A writer whose packs never close is replaced after so many segments, which then lie in memory.
const SEGMENTS_OPEN_MAX: u64 = 8;

/// From a file, and from a loop device over it, which is read past the page cache.
pub(crate) fn read(plan: &Plan) -> Result<Vec<Measure>> {
    let folder = Folder::new("read")?;
    let path = folder.join("disk.img");
    write_file(&plan.disk, &path)?;
    let device = LoopDevice::new(&path);
    if device.is_none() {
        eprintln!("read/loop device: left out, as none could be made (it takes root)");
    }
    in_rounds(|| {
        let mut measures = vec![read_path("read/file", &path)?];
        if let Some(device) = &device {
            measures.push(read_path("read/loop device", device.path())?);
        }
        Ok(measures)
    })
}

/// All of a file or device, window by window.
pub(crate) fn read_path(name: &str, path: &Path) -> Result<Measure> {
    let device = Device::open(path)?;
    let mut buffer = AlignedBuffer::new(WINDOW_BYTES);
    measure(name, |watch| {
        for offset in (0..device.size_bytes()).step_by(WINDOW_BYTES) {
            let window = &mut buffer[..count(device.size_bytes() - offset, WINDOW_BYTES)];
            watch.time(|| device.read_exact_at(offset, window))?;
        }
        Ok((device.size_bytes(), None))
    })
}

/// Cut points alone, for the sizes that people choose. (A fixed rule looks at no byte: nothing to measure.)
pub(crate) fn cut(plan: &Plan) -> Result<Vec<Measure>> {
    in_rounds(|| {
        let mut measures = vec![zeros(&plan.disk)?];
        for rule in ["fastcdc:16KiB", USUAL_RULE, "fastcdc:256KiB"] {
            measures.push(cut_by(&plan.disk, rule)?);
        }
        Ok(measures)
    })
}

/// Where the zeros are.
pub(crate) fn zeros(disk: &dyn ReadAt) -> Result<Measure> {
    measure("zeros", |watch| {
        segments(disk, |segment| {
            watch.time(|| std::hint::black_box(stretches(segment)));
            Ok(())
        })?;
        Ok((disk.size_bytes(), None))
    })
}

/// By one rule.
pub(crate) fn cut_by(disk: &dyn ReadAt, rule: &str) -> Result<Measure> {
    let rule: Rule = rule.parse()?;
    measure(format!("cut/{rule}"), |watch| {
        let mut bytes = 0;
        segments(disk, |segment| {
            for stretch in stretches(segment) {
                let cuts = || rule.cuts(&segment[stretch]).map(|chunk| chunk.len() as u64).sum::<u64>();
                bytes += watch.time(cuts);
            }
            Ok(())
        })?;
        Ok((bytes, None))
    })
}

/// The id of each chunk.
pub(crate) fn hash(plan: &Plan) -> Result<Vec<Measure>> {
    in_rounds(|| Ok(vec![hash_all(&plan.disk)?]))
}

pub(crate) fn hash_all(disk: &dyn ReadAt) -> Result<Measure> {
    measure("hash", |watch| {
        let mut bytes = 0;
        chunks(disk, |chunk| {
            bytes += chunk.len() as u64;
            watch.time(|| std::hint::black_box(store::chunk_id(chunk)));
            Ok(())
        })?;
        Ok((bytes, None))
    })
}

/// `put` of chunks that the store has, so hash and look up. The catalogue has no interface of its own.
pub(crate) fn look_up(plan: &Plan) -> Result<Vec<Measure>> {
    in_rounds(|| Ok(vec![hash_all(&plan.disk)?, put_known(&plan.disk)?]))
}

pub(crate) fn put_known(disk: &dyn ReadAt) -> Result<Measure> {
    let (home, _) = Sieve::home();
    let writer = writer_on(&home, Compression::Off, PACK_BYTES)?;
    let put = |watch: &mut Stopwatch| {
        let mut bytes = 0;
        chunks(disk, |chunk| {
            bytes += chunk.len() as u64;
            watch.time(|| writer.put(chunk))?;
            Ok(())
        })?;
        Ok::<u64, anyhow::Error>(bytes)
    };
    put(&mut Stopwatch::default())?;
    measure("put/known", |watch| Ok((put(watch)?, None)))
}

/// `put` of new chunks into packs that never close: hash, look up, compress. Only what is above `put/off` is zstd.
pub(crate) fn compress(plan: &Plan) -> Result<Vec<Measure>> {
    let mut levels = vec![Compression::Off, Compression::Fast, Compression::Auto, Compression::Level(6)];
    if plan.full {
        levels.push(Compression::Max);
    }
    in_rounds(|| levels.iter().map(|level| put_open(&plan.disk, *level)).collect())
}

pub(crate) fn put_open(disk: &dyn ReadAt, level: Compression) -> Result<Measure> {
    measure(format!("put/{level}"), |watch| {
        let (mut bytes, mut stored) = (0, 0);
        let mut number = 0;
        let mut writer = fresh_writer(level, u32::MAX)?;
        segments(disk, |segment| {
            if number == SEGMENTS_OPEN_MAX {
                number = 0;
                stored += writer.statistics().new_stored_bytes;
                writer = fresh_writer(level, u32::MAX)?;
            }
            number += 1;
            chunks_of(segment, |chunk| {
                bytes += chunk.len() as u64;
                watch.time(|| writer.put(chunk))?;
                Ok(())
            })
        })?;
        stored += writer.statistics().new_stored_bytes;
        Ok((bytes, Some(stored)))
    })
}

/// `put` of new chunks into packs that close, are decoded again and then dropped by the backend: what is above
/// `put/off` and `put/auto` is sealing and proving.
pub(crate) fn prove(plan: &Plan) -> Result<Vec<Measure>> {
    in_rounds(|| {
        let level = Compression::Auto;
        Ok(vec![
            put_open(&plan.disk, Compression::Off)?,
            put_proved(&plan.disk, Compression::Off)?,
            put_open(&plan.disk, level)?,
            put_proved(&plan.disk, level)?,
        ])
    })
}

pub(crate) fn put_proved(disk: &dyn ReadAt, level: Compression) -> Result<Measure> {
    measure(format!("put and prove/{level}"), |watch| {
        let (home, sieve) = Sieve::home();
        let writer = writer_on(&home, level, PACK_BYTES)?;
        let mut bytes = 0;
        chunks(disk, |chunk| {
            bytes += chunk.len() as u64;
            watch.time(|| writer.put(chunk))?;
            Ok(())
        })?;
        watch.time(|| writer.abandon())?;
        Ok((bytes, Some(sieve.pack_bytes())))
    })
}

/// Packs into a store's folder, each synced, as the backend does it; as many bytes as the disk has.
pub(crate) fn publish(plan: &Plan) -> Result<Vec<Measure>> {
    in_rounds(|| Ok(vec![publish_bytes(plan.disk.size_bytes())?]))
}

pub(crate) fn publish_bytes(bytes: u64) -> Result<Measure> {
    let folder = Folder::new("publish")?;
    let backend = LocalBackend::create(folder.join("store"))?;
    let mut pack = vec![0; PACK_BYTES as usize];
    MadeUpDisk::new(u64::MAX, SEED, Mix { text_percent: 0, random_percent: 100, duplicate_percent: 0 })
        .fill(0, &mut pack);
    measure("publish", |watch| {
        for offset in (0..bytes).step_by(pack.len()) {
            let part = &pack[..count(bytes - offset, pack.len())];
            let name = Name::new(&format!("packs/00/{offset:064x}"))?;
            watch.time(|| backend.put(&name, part))?;
        }
        Ok((bytes, Some(bytes)))
    })
}

fn fresh_writer(level: Compression, pack_bytes: u32) -> Result<Writer> {
    writer_on(&Sieve::home().0, level, pack_bytes)
}

fn writer_on(home: &Home, compression: Compression, pack_bytes: u32) -> Result<Writer> {
    let rule: Rule = USUAL_RULE.parse()?;
    let store = Store::init(home, Config::new(&rule.to_string()))?;
    Ok(store.writer(&WriterOptions { compression, pack_bytes, ..WriterOptions::default() })?)
}

fn segments(disk: &dyn ReadAt, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = AlignedBuffer::new(SEGMENT_BYTES);
    for offset in (0..disk.size_bytes()).step_by(SEGMENT_BYTES) {
        let segment = &mut buffer[..count(disk.size_bytes() - offset, SEGMENT_BYTES)];
        disk.read_exact_at(offset, segment)?;
        visit(segment)?;
    }
    Ok(())
}

/// The chunks that a capture would make of a disk without partitions.
fn chunks(disk: &dyn ReadAt, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    segments(disk, |segment| chunks_of(segment, &mut visit))
}

fn chunks_of(segment: &[u8], mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let rule: Rule = USUAL_RULE.parse()?;
    for stretch in stretches(segment) {
        let stretch = &segment[stretch];
        rule.cuts(stretch).try_for_each(|chunk| visit(&stretch[chunk]))?;
    }
    Ok(())
}

/// What lies between blocks of zeros.
fn stretches(segment: &[u8]) -> Vec<Range<usize>> {
    let zeros = [0; BLOCK_BYTES];
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for (number, block) in segment.chunks(BLOCK_BYTES).enumerate() {
        if block == &zeros[..block.len()] {
            continue;
        }
        let start = number * BLOCK_BYTES;
        let end = start + block.len();
        match stretches.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => stretches.push(start..end),
        }
    }
    stretches
}

fn count(left: u64, max: usize) -> usize {
    usize::try_from(left).unwrap_or(max).min(max)
}

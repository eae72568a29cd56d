//! Reading everything again: an image's chunks from the store, or a device against an image.
//!
//! Promise: every byte is looked at; findings are collected and the work goes on. Lists are bounded and say what they
//! left off. Knows nothing of repair.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use disk::{AlignedBuffer, Extent, ReadAt};
use store::{ChunkId, Run, StoredChunk, StoredImage, Wanted};

use crate::expected::{Expected, Piece, STEP_BYTES, Steps, Want};
use crate::rescue::Rescuer;
use crate::segment::in_memory;
use crate::source::{intersect, join_extents};
use crate::{Counter, Damage, Error, ImageReader, Note, Progress, SourceInfo, UsedBlocks, workers};

/// Findings kept of each sort; a person reads a few, a program needs no more to say "no". The rest is counted.
const FINDINGS_MAX: usize = 10_000;

/// Chunks of an image that were found whole are remembered, so that one that stands in many places is read once. More are
/// not: 35 MiB, enough for 80 GB of data without a repetition.
const SEEN_MAX: usize = 900_000;

/// A range of a device that is not what the image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where, widened to whole chunks.
    pub extent: Extent,
    /// In which volume of the image's source.
    pub volume: Option<u32>,
}

/// What was found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Bytes of the image or device that were looked at.
    pub checked_bytes: u64,
    /// Chunks that were read from the store, or compared by their hash.
    pub checked_chunks: u64,
    /// What the store can't deliver.
    pub damaged: Vec<Damage>,
    /// What the device holds differently.
    pub differences: Vec<Difference>,
    /// What could not be read from the device.
    pub unreadable: Vec<Extent>,
    /// Findings that are not listed, the lists being full.
    pub findings_left_off: u64,
    /// When device and image are not of one size: the device's.
    pub device_bytes_found: Option<u64>,
}

impl VerifyReport {
    /// Whether all is as it should be. A larger device is: what lies behind the image is not compared.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.differences.is_empty() && self.unreadable.is_empty()
    }
}

/// Reads and hashes every chunk of an image; one that stands in many places once, as far as memory allows.
pub fn verify_image(
    image: &StoredImage,
    threads: usize,
    progress: &dyn Progress,
) -> Result<VerifyReport, Error> {
    let info = SourceInfo::from_manifest(image.manifest())?;
    let steps = Steps::new(Extent { offset: 0, bytes: image.bytes() });
    let report = Mutex::new(VerifyReport::default());
    let seen = Mutex::new(HashSet::new());
    progress.total(Some(image.bytes()));
    workers::run(threads, steps.len(), progress, Vec::new, |memory, number| {
        let Some(step) = steps.step(number) else { return Ok(()) };
        let found = verify_step(image, &info, step, &seen, memory, progress);
        progress.add(Counter::Done, step.bytes);
        merge(&report, found);
        Ok(())
    })?;
    Ok(settle(report, &info))
}

/// The chunks that begin in one step.
fn verify_step(
    image: &StoredImage,
    info: &SourceInfo,
    step: Extent,
    seen: &Mutex<HashSet<ChunkId>>,
    memory: &mut Vec<u8>,
    progress: &dyn Progress,
) -> VerifyReport {
    let mut report = VerifyReport { checked_bytes: step.bytes, ..VerifyReport::default() };
    let damage = |extent: Extent, error: store::Error| {
        progress.note(Note::Damaged(extent));
        Damage { extent, volume: info.volume_at(extent.offset), error }
    };
    let runs = match image.runs(step.offset, step.bytes) {
        Ok(runs) => runs,
        Err(error) => {
            report.damaged.push(damage(step, error));
            return report;
        }
    };
    let mut chunks = Vec::new();
    for placed in runs.iter().filter(|placed| placed.offset >= step.offset) {
        if let Run::Chunk(chunk) = placed.run {
            let extent = Extent { offset: placed.offset, bytes: u64::from(chunk.bytes) };
            chunks.push((chunk, extent));
        }
    }
    report.checked_chunks = chunks.len() as u64;
    let locked = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let known = locked();
    chunks.retain(|(chunk, _)| !known.contains(&chunk.id));
    drop(known);
    let results = decode(image, &chunks, memory);
    let mut known = locked();
    for ((chunk, extent), result) in chunks.into_iter().zip(results) {
        match result {
            Ok(()) if known.len() < SEEN_MAX => drop(known.insert(chunk.id)),
            Ok(()) => {}
            Err(error) => report.damaged.push(damage(extent, error)),
        }
    }
    report
}

/// Decodes and hashes chunks into memory that is used again and again.
fn decode(
    image: &StoredImage,
    chunks: &[(StoredChunk, Extent)],
    memory: &mut Vec<u8>,
) -> Vec<Result<(), store::Error>> {
    let bytes: u64 = chunks.iter().map(|(_, extent)| extent.bytes).sum();
    memory.resize(memory.len().max(in_memory(bytes)), 0);
    let mut rest = memory.as_mut_slice();
    let mut wanted = Vec::with_capacity(chunks.len());
    for (chunk, extent) in chunks {
        // In bounds: the memory holds them all.
        let (plain, behind) = rest.split_at_mut(in_memory(extent.bytes));
        wanted.push(Wanted { chunk: *chunk, plain });
        rest = behind;
    }
    image.fetch_into(&mut wanted)
}

/// Compares a device with an image: by hash, without reading chunks from the store. What the image doesn't know (bad
/// ranges, volumes left out, blocks that no filesystem uses) and what lies behind its end is not compared.
pub fn verify_against(
    image: &StoredImage,
    device: &dyn ReadAt,
    threads: usize,
    progress: &dyn Progress,
) -> Result<VerifyReport, Error> {
    let info = SourceInfo::from_manifest(image.manifest())?;
    let bytes = image.bytes().min(device.size_bytes());
    let expected = Expected::image(image, bytes);
    let used = UsedBlocks::new(device, info.unused(&ImageReader::new(image.clone())));
    let mut report = compare(&expected, &info, &used, bytes, threads, progress)?;
    if device.size_bytes() != image.bytes() {
        report.device_bytes_found = Some(device.size_bytes());
    }
    if device.size_bytes() < image.bytes() {
        let missing = Extent { offset: bytes, bytes: image.bytes() - bytes };
        report.differences.extend(split_by_volume(&info, missing));
    }
    Ok(report)
}

/// Compares the first `bytes` of a device with what they must be.
pub(crate) fn compare(
    expected: &Expected,
    info: &SourceInfo,
    device: &dyn ReadAt,
    bytes: u64,
    threads: usize,
    progress: &dyn Progress,
) -> Result<VerifyReport, Error> {
    let steps = Steps::new(Extent { offset: 0, bytes });
    let report = Mutex::new(VerifyReport::default());
    let rescuer = Rescuer::new(device, device, progress);
    let buffer = || AlignedBuffer::new(in_memory(STEP_BYTES));
    progress.total(Some(bytes));
    workers::run(threads, steps.len(), progress, buffer, |buffer, number| {
        let Some(step) = steps.step(number) else { return Ok(()) };
        let buffer = &mut buffer[..in_memory(step.bytes)];
        let found = compare_step(expected, info, device, &rescuer, step, buffer)?;
        progress.add(Counter::Done, step.bytes);
        merge(&report, found);
        Ok(())
    })?;
    Ok(settle(report, info))
}

fn compare_step(
    expected: &Expected,
    info: &SourceInfo,
    device: &dyn ReadAt,
    rescuer: &Rescuer,
    step: Extent,
    buffer: &mut [u8],
) -> Result<VerifyReport, Error> {
    let mut report = VerifyReport { checked_bytes: step.bytes, ..VerifyReport::default() };
    let pieces = match expected.pieces(step) {
        Ok(pieces) => pieces,
        Err(error) => {
            report.damaged.push(Damage { extent: step, volume: info.volume_at(step.offset), error });
            return Ok(report);
        }
    };
    report.unreadable = rescuer.read(step.offset, buffer)?;
    for piece in pieces {
        let unknown = info.region_at(piece.extent.offset).is_some_and(|region| region.excluded);
        let unreadable = report.unreadable.iter().any(|range| range.overlaps(&piece.extent));
        if unknown || unreadable || piece.want == Want::Bad {
            continue;
        }
        report.checked_chunks += u64::from(matches!(piece.want, Want::Chunk { .. }));
        if holds(&piece, device, step.offset, buffer) {
            continue;
        }
        let volume = info.volume_at(piece.extent.offset);
        let start = in_memory(piece.extent.offset - step.offset);
        let bytes = &buffer[start..start + in_memory(piece.extent.bytes)];
        match expected.is_part_of_chunk(&piece, bytes) {
            Ok(true) => {}
            Ok(false) => report.differences.push(Difference { extent: piece.extent, volume }),
            Err(error) => report.damaged.push(Damage { extent: piece.extent, volume, error }),
        }
    }
    Ok(report)
}

/// Whether a device holds what a piece wants. `have` is what was read from `start` on and covers the piece; of a chunk
/// that it does not cover the rest is read, and when that fails the answer is no.
pub(crate) fn holds(piece: &Piece, device: &dyn ReadAt, start: u64, have: &[u8]) -> bool {
    let from = in_memory(piece.extent.offset - start);
    let bytes = &have[from..from + in_memory(piece.extent.bytes)];
    match &piece.want {
        Want::Zeros | Want::Bad => crate::cutter::is_zero(bytes),
        Want::Bytes(want) => bytes == want.as_slice(),
        Want::Chunk { chunk, whole } if *whole == piece.extent => store::chunk_id(bytes) == chunk.id,
        Want::Chunk { chunk, whole } => {
            let mut all = vec![0; in_memory(whole.bytes)];
            let read = device.read_exact_at(whole.offset, &mut all);
            read.is_ok() && store::chunk_id(&all) == chunk.id
        }
    }
}

/// Adds a step's findings, within the limit.
pub(crate) fn merge(report: &Mutex<VerifyReport>, step: VerifyReport) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    let report = &mut *report;
    report.checked_bytes += step.checked_bytes;
    report.checked_chunks += step.checked_chunks;
    let left_off = &mut report.findings_left_off;
    extend(&mut report.damaged, step.damaged, left_off);
    extend(&mut report.differences, step.differences, left_off);
    extend(&mut report.unreadable, step.unreadable, left_off);
}

fn extend<T>(all: &mut Vec<T>, more: Vec<T>, left_off: &mut u64) {
    for item in more {
        match all.len() < FINDINGS_MAX {
            true => all.push(item),
            false => *left_off += 1,
        }
    }
}

/// Sorts the findings, joins neighbours, and tells which volume they lie in.
fn settle(report: Mutex<VerifyReport>, info: &SourceInfo) -> VerifyReport {
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.damaged = crate::damage::join_damage(report.damaged);
    report.unreadable = join_extents(report.unreadable);
    let extents = join_extents(report.differences.iter().map(|difference| difference.extent).collect());
    report.differences = extents.into_iter().flat_map(|extent| split_by_volume(info, extent)).collect();
    report
}

/// One difference for each region that the extent touches, and one for what lies behind all regions.
fn split_by_volume(info: &SourceInfo, extent: Extent) -> Vec<Difference> {
    let parts = info.regions.iter().filter_map(|region| {
        intersect(region.extent, extent).map(|extent| Difference { extent, volume: region.volume })
    });
    let mut parts: Vec<Difference> = parts.collect();
    let behind = Extent { offset: info.bytes(), bytes: u64::MAX - info.bytes() };
    parts.extend(intersect(behind, extent).map(|extent| Difference { extent, volume: None }));
    parts
}

#[cfg(test)]
mod tests {
    use disk::{FaultDevice, MemoryDevice};

    use super::*;
    use crate::testing::{
        capture_bytes, damaged_store, disk_bytes, random_bytes, small_store, source, volume,
    };
    use crate::{Compare, RestoreOptions, capture, restore_to_stream};

    fn extent(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes }
    }

    #[test]
    fn a_sound_image_is_clean() {
        let (_home, store) = small_store();
        let (captured, image) = capture_bytes(&store, &disk_bytes(40, 5_000_000));
        let report = verify_image(&image, 2, &()).unwrap();
        assert!(report.is_clean());
        assert_eq!(report.checked_bytes, 5_000_000);
        assert_eq!(report.checked_chunks, captured.manifest.statistics.chunks);
    }

    #[test]
    fn differences_are_listed_by_volume() {
        let (_home, store) = small_store();
        let mut bytes = disk_bytes(41, 5_000_192);
        let volumes = vec![volume(1, 4096, 1 << 20), volume(2, 2 << 20, 1 << 20)];
        let source = source(bytes.len(), volumes, &[]);
        let device = MemoryDevice::new(bytes.clone());
        let captured = capture(&source, &device, &store, &crate::testing::options(2), &()).unwrap();
        let image = store.image(captured.image).unwrap();
        for at in [0, 5000, (2 << 20) + 9, 4_999_999] {
            bytes[at] ^= 1;
        }
        let bad = extent(3_500_000, 1);
        let device = FaultDevice::new(MemoryDevice::new(bytes), vec![bad]);
        let report = verify_against(&image, &device, 2, &()).unwrap();
        let volumes: Vec<Option<u32>> =
            report.differences.iter().map(|difference| difference.volume).collect();
        assert_eq!(volumes, [None, Some(1), Some(2), None]);
        assert_eq!(report.unreadable, [extent(3_500_000 / 512 * 512, 512)]);
        let shorter = MemoryDevice::zeros(1000);
        let report = verify_against(&image, &shorter, 2, &()).unwrap();
        assert_eq!(report.device_bytes_found, Some(1000));
        assert!(!report.is_clean());
    }

    #[test]
    fn damage_is_found_with_its_place_and_nothing_wrong_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = random_bytes(42, 6 << 20);
        let (_store, image) = damaged_store(folder.path(), &bytes, 3 << 20);
        let report = verify_image(&image, 2, &()).unwrap();
        assert_eq!(report.damaged.len(), 1);
        let lost = report.damaged[0].extent;
        assert!(lost.overlaps(&extent(3 << 20, 1)) && lost.bytes <= 16384);

        let mut output = Vec::new();
        let result = restore_to_stream(&image, &mut output, &RestoreOptions::default(), &());
        assert!(matches!(result, Err(Error::Chunk { extent, .. }) if extent.overlaps(&lost)));
        let keep = RestoreOptions { keep_damaged: true, ..RestoreOptions::default() };
        output.clear();
        let report = restore_to_stream(&image, &mut output, &keep, &()).unwrap();
        assert_eq!(report.damaged.len(), 1);
        let mut expected = bytes.clone();
        expected[in_memory(lost.offset)..in_memory(lost.end())].fill(0);
        assert!(output == expected);

        let path = folder.path().join("target");
        std::fs::write(&path, vec![0x55; bytes.len()]).unwrap();
        expected[in_memory(lost.offset)..in_memory(lost.end())].fill(0x55);
        for compare in [Compare::Read, Compare::WriteAll] {
            let options = RestoreOptions { compare, ..RestoreOptions::default() };
            let plan = crate::plan_restore(&image, &path, None, &options).unwrap();
            let target = disk::Target::open_file(&path, plan.target_bytes).unwrap();
            let report = crate::restore(&plan, &image, &target, &options, &()).unwrap();
            assert!(!report.finished && report.damaged.len() == 1 && report.damaged[0].extent == lost);
            let held = std::fs::read(&path).unwrap();
            assert!(held[..1 << 20].iter().all(|byte| *byte == 0), "the head stays broken");
            assert!(held[1 << 20..3 << 20] == expected[1 << 20..3 << 20]);
        }
        let plan = crate::plan_restore(&image, &path, None, &keep).unwrap();
        let target = disk::Target::open_file(&path, plan.target_bytes).unwrap();
        let report = crate::restore(&plan, &image, &target, &keep, &()).unwrap();
        assert!(report.finished && report.damaged.len() == 1);
        let held = std::fs::read(&path).unwrap();
        let (from, to) = (in_memory(lost.offset), in_memory(lost.end()));
        assert!(held[..from] == expected[..from] && held[to..] == expected[to..]);
    }
}

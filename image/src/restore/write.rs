//! The writing half of a restore, step by step: what does the target hold, what must it hold, write the difference.
//!
//! Promise: each step is read, compared and written by one thread and shares no block with another; only blocks that
//! differ are written. The order keeps an interrupted target from booting (`ends.rs`): ends broken → body → sync → foot
//! → head → sync. When parts of the image are damaged in the store, everything else is written, the damaged parts keep
//! what the target held, and the ends stay broken unless the person asked otherwise (`keep_damaged`).
//! Knows nothing of plans or refusals.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use disk::{AlignedBuffer, Extent, WriteAt};
use store::{StoredChunk, StoredImage};

use super::ends::{Ends, Guard};
use super::{Compare, RestoreOptions, RestorePlan, RestoreReport};
use crate::cutter::is_zero;
use crate::damage::join_damage;
use crate::expected::{Expected, Piece, STEP_BYTES, Steps, Want};
use crate::segment::in_memory;
use crate::source::intersect;
use crate::verify::holds;
use crate::{Counter, Damage, Error, Note, Progress, SourceInfo, workers};

/// What is compared and written as a whole: no device has larger sectors, so no write needs a read.
const BLOCK_BYTES: usize = 4096;

/// Shorter runs of zeros between data are written as data: a call of their own would take longer.
const ZEROS_BYTES_MIN: usize = 64 << 10;

/// When a table is damaged, the step is tried again in parts of this size: fewer readable bytes are lost with it.
const PART_BYTES: u64 = 512 << 10;

/// So many chunks in a row that fail for reasons other than damage mean that the store is gone, not bad.
const STORE_FAILURES_MAX: u64 = 4096;

/// What is known of a target's content before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It was read.
    Bytes,
    /// It is a new file: zeros.
    Zeros,
    /// Nothing.
    Nothing,
}

/// Everything that the threads share.
struct Job<'a> {
    image: &'a StoredImage,
    info: &'a SourceInfo,
    expected: Expected<'a>,
    target: &'a dyn WriteAt,
    before: Known,
    progress: &'a dyn Progress,
    written: AtomicU64,
    zeroed: AtomicU64,
    unchanged: AtomicU64,
    damaged: Mutex<Vec<Damage>>,
    store_failures: AtomicU64,
}

/// One thread's memory.
struct Buffers {
    have: AlignedBuffer,
    want: AlignedBuffer,
}

impl Buffers {
    fn new() -> Buffers {
        let bytes = in_memory(STEP_BYTES);
        Buffers { have: AlignedBuffer::new(bytes), want: AlignedBuffer::new(bytes) }
    }
}

/// Writes an image to a target. `fresh`: the target is known to read as zeros.
pub(super) fn write_image(
    plan: &RestorePlan,
    image: &StoredImage,
    target: &dyn WriteAt,
    options: &RestoreOptions,
    fresh: bool,
    progress: &dyn Progress,
) -> Result<RestoreReport, Error> {
    let info = SourceInfo::from_manifest(image.manifest())?;
    let before = match options.compare {
        _ if fresh => Known::Zeros,
        Compare::Read => Known::Bytes,
        Compare::WriteAll => Known::Nothing,
    };
    let covered = plan.tail_zeroed.map_or(plan.image_bytes.min(plan.target_bytes), |tail| tail.end());
    let ends = Ends::new(covered);
    let guard = Guard::new(target, ends, fresh, progress);
    let expected = plan.expected(image);
    let job = Job::new(image, &info, expected, target, before, progress);
    progress.total(Some(covered));
    let steps = Steps::new(ends.body);
    workers::run(options.threads, steps.len(), progress, Buffers::new, |buffers, number| {
        match steps.step(number) {
            Some(step) => job.body_step(step, buffers, &guard),
            None => Ok(()),
        }
    })?;
    target.sync()?;
    let finished = job.write_ends(ends, options.keep_damaged)?;
    let target_extent = Extent { offset: 0, bytes: plan.target_bytes };
    let bad_ranges = info.bad_ranges.iter().filter_map(|range| intersect(*range, target_extent)).collect();
    Ok(RestoreReport { bad_ranges, finished, ..job.into_report() })
}

impl<'a> Job<'a> {
    fn new(
        image: &'a StoredImage,
        info: &'a SourceInfo,
        expected: Expected<'a>,
        target: &'a dyn WriteAt,
        before: Known,
        progress: &'a dyn Progress,
    ) -> Job<'a> {
        let count = AtomicU64::default;
        let (written, zeroed, unchanged, store_failures) = (count(), count(), count(), count());
        let damaged = Mutex::default();
        Job {
            image,
            info,
            expected,
            target,
            before,
            progress,
            written,
            zeroed,
            unchanged,
            damaged,
            store_failures,
        }
    }

    fn into_report(self) -> RestoreReport {
        RestoreReport {
            written_bytes: self.written.into_inner(),
            zeroed_bytes: self.zeroed.into_inner(),
            unchanged_bytes: self.unchanged.into_inner(),
            damaged: join_damage(self.damaged.into_inner().unwrap_or_else(PoisonError::into_inner)),
            ..RestoreReport::default()
        }
    }

    /// Brings one step of the body into shape.
    fn body_step(&self, step: Extent, buffers: &mut Buffers, guard: &Guard) -> Result<(), Error> {
        let prepared = match self.expected.pieces(step) {
            Ok(pieces) => self.prepare(step, &pieces, buffers)?,
            Err(_) if step.bytes > PART_BYTES => {
                let parts = step.bytes.div_ceil(PART_BYTES);
                for part in 0..parts {
                    let offset = step.offset + part * PART_BYTES;
                    let bytes = PART_BYTES.min(step.end() - offset);
                    self.body_step(Extent { offset, bytes }, buffers, guard)?;
                }
                return Ok(());
            }
            Err(error) => {
                self.damaged(step, error)?;
                Vec::new()
            }
        };
        if !prepared.is_empty() {
            guard.before_write()?;
        }
        self.write(step, &prepared, &buffers.want)?;
        self.progress.add(Counter::Done, step.bytes);
        Ok(())
    }

    /// Writes foot and head when all is well, or when the person wants what there is. Returns whether it did.
    fn write_ends(&self, ends: Ends, keep_damaged: bool) -> Result<bool, Error> {
        let mut prepared = Vec::new();
        for end in [ends.foot, ends.head] {
            let mut buffers = Buffers::new();
            let writes = match self.expected.pieces(end) {
                Ok(pieces) => self.prepare(end, &pieces, &mut buffers)?,
                Err(error) => {
                    self.damaged(end, error)?;
                    Vec::new()
                }
            };
            prepared.push((end, writes, buffers));
        }
        let whole = self.damaged.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !whole && !keep_damaged {
            return Ok(false);
        }
        for (end, writes, buffers) in prepared {
            self.write(end, &writes, &buffers.want)?;
            self.progress.add(Counter::Done, end.bytes);
            self.target.sync()?;
        }
        Ok(true)
    }

    /// Finds out what to write: afterwards `buffers.want` holds the bytes of the ranges returned.
    fn prepare(&self, step: Extent, pieces: &[Piece], buffers: &mut Buffers) -> Result<Vec<Write>, Error> {
        let bytes = in_memory(step.bytes);
        let (have, want) = (&mut buffers.have[..bytes], &mut buffers.want[..bytes]);
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.read_target(step, have)?;
        let differs = |piece: &&Piece| match known {
            Known::Bytes => !holds(piece, self.target, step.offset, have),
            Known::Zeros => !matches!(piece.want, Want::Zeros | Want::Bad),
            Known::Nothing => true,
        };
        let differing: Vec<&Piece> = pieces.iter().filter(differs).collect();
        let expected_bytes: u64 = pieces.iter().map(|piece| piece.extent.bytes).sum();
        let writes = if differing.is_empty() {
            Vec::new()
        } else {
            match known {
                Known::Nothing => want.fill(0),
                Known::Bytes | Known::Zeros => want.copy_from_slice(have),
            }
            let touched = self.fill(step, &differing, want)?;
            plan_writes((known != Known::Nothing).then_some(have), want, &touched)
        };
        let changed: u64 = writes.iter().map(|write| write.range.len() as u64).sum();
        let unchanged = expected_bytes.saturating_sub(changed);
        self.unchanged.fetch_add(unchanged, Ordering::Relaxed);
        self.progress.add(Counter::Unchanged, unchanged);
        Ok(writes)
    }

    /// What the target holds, as far as it should be asked and can tell: a bad sector may be cured by writing to it.
    fn read_target(&self, step: Extent, have: &mut [u8]) -> Result<Known, Error> {
        match self.before {
            Known::Nothing => Ok(Known::Nothing),
            Known::Zeros => {
                have.fill(0);
                Ok(Known::Zeros)
            }
            Known::Bytes => match self.target.read_exact_at(step.offset, have) {
                Ok(()) => Ok(Known::Bytes),
                Err(error) if error.is_unreadable() => Ok(Known::Nothing),
                Err(source) => Err(Error::ReadDevice { offset: step.offset, bytes: step.bytes, source }),
            },
        }
    }

    /// Puts the pieces into `want`; returns which blocks they touch. Damaged ones touch none.
    fn fill(&self, step: Extent, pieces: &[&Piece], want: &mut [u8]) -> Result<Vec<bool>, Error> {
        let mut touched = vec![false; want.len().div_ceil(BLOCK_BYTES)];
        let chunks: Vec<StoredChunk> = pieces.iter().filter_map(|piece| chunk_of(piece)).collect();
        let mut fetched = self.image.fetch(&chunks).into_iter();
        for piece in pieces {
            let start = in_memory(piece.extent.offset - step.offset);
            let range = start..start + in_memory(piece.extent.bytes);
            match &piece.want {
                Want::Zeros | Want::Bad => want[range.clone()].fill(0),
                Want::Bytes(bytes) => want[range.clone()].copy_from_slice(bytes),
                Want::Chunk { whole, .. } => match fetched.next() {
                    Some(Ok(plain)) => {
                        self.store_failures.store(0, Ordering::Relaxed);
                        // In bounds: the store returns as many bytes as the chunk has, and the piece is part of it.
                        let skip = in_memory(piece.extent.offset - whole.offset);
                        want[range.clone()].copy_from_slice(&plain[skip..skip + range.len()]);
                    }
                    Some(Err(error)) => {
                        self.damaged(piece.extent, error)?;
                        continue;
                    }
                    // `fetch` answers for each chunk; should it not, the piece stays as it is and verify will tell.
                    None => continue,
                },
            }
            touched[range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)].fill(true);
        }
        Ok(touched)
    }

    /// Records what the store can't deliver; an error when it delivers nothing any more.
    fn damaged(&self, extent: Extent, error: store::Error) -> Result<(), Error> {
        if error.family() == store::Family::Interrupted {
            return Err(Error::Interrupted);
        }
        let failures = self.store_failures.fetch_add(1, Ordering::Relaxed);
        if error.family() == store::Family::Io && failures >= STORE_FAILURES_MAX {
            return Err(Error::Chunk { extent, source: error });
        }
        self.progress.note(Note::Damaged(extent));
        let volume = self.info.volume_at(extent.offset);
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.push(Damage { extent, volume, error });
        Ok(())
    }

    /// Carries out the writes of one step.
    fn write(&self, step: Extent, writes: &[Write], want: &[u8]) -> Result<(), Error> {
        for write in writes {
            let bytes = write.range.len() as u64;
            let extent = Extent { offset: step.offset + write.range.start as u64, bytes };
            let (result, counter) = match write.zeros {
                true => (self.target.write_zeros_at(extent), &self.zeroed),
                false => (self.target.write_all_at(extent.offset, &want[write.range.clone()]), &self.written),
            };
            result.map_err(|source| Error::WriteTarget { offset: extent.offset, bytes, source })?;
            counter.fetch_add(bytes, Ordering::Relaxed);
            self.progress.add(if write.zeros { Counter::Zeros } else { Counter::Written }, bytes);
        }
        Ok(())
    }
}

fn chunk_of(piece: &Piece) -> Option<StoredChunk> {
    match &piece.want {
        Want::Chunk { chunk, .. } => Some(*chunk),
        _ => None,
    }
}

/// One call to the target; the range counts from the step's start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    range: Range<usize>,
    zeros: bool,
}

/// The touched blocks that differ, neighbours joined.
fn plan_writes(have: Option<&[u8]>, want: &[u8], touched: &[bool]) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    for (number, block) in want.chunks(BLOCK_BYTES).enumerate() {
        let start = number * BLOCK_BYTES;
        let range = start..start + block.len();
        // In bounds: `touched` has an entry for each block, and `have` is as long as `want`.
        let same = have.is_some_and(|have| have[range.clone()] == *block);
        if !touched[number] || same {
            continue;
        }
        let zeros = is_zero(block);
        match writes.last_mut() {
            Some(last) if last.range.end == range.start && last.zeros == zeros => last.range.end = range.end,
            _ => writes.push(Write { range, zeros }),
        }
    }
    join_short_zeros(writes)
}

/// Zeros that are not worth a call become part of the data beside them.
fn join_short_zeros(writes: Vec<Write>) -> Vec<Write> {
    let mut joined: Vec<Write> = Vec::with_capacity(writes.len());
    for mut write in writes {
        if write.zeros && write.range.len() < ZEROS_BYTES_MIN {
            write.zeros = false;
        }
        match joined.last_mut() {
            Some(last) if last.range.end == write.range.start && !last.zeros && !write.zeros => {
                last.range.end = write.range.end;
            }
            _ => joined.push(write),
        }
    }
    joined
}

//! The writing half of a restore, step by step: what does the target hold, what must it hold, write the difference.
//!
//! Promise: each step is read, compared and written by one thread and shares no block with another; only blocks that
//! differ are written. The order keeps an interrupted target from booting (`ends.rs`): ends broken → body → sync → foot
//! → head → sync. When parts of the image are damaged in the store, everything else is written, the damaged parts keep
//! what the target held, and the ends stay broken unless the person asked otherwise (`keep_damaged`).
//! Knows nothing of plans or refusals.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use disk::{AlignedBuffer, Extent, WriteAt};
use store::StoredImage;

use super::asking::Asking;
use super::ends::{Ends, Guard};
use super::{Compare, RestoreOptions, RestorePlan, RestoreReport};
use crate::cutter::is_zero;
use crate::damage::join_damage;
use crate::expected::{Expected, Piece, STEP_BYTES, Steps, Want};
use crate::fill::{fill, range_of};
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

/// After so many bytes a worker syncs while the others go on: what a sync has to do in the end stays short.
const SYNC_BYTES: u64 = 256 << 20;

/// Workers for each processor: while one waits for the store or the target, another decodes.
const WORKERS_PER_PROCESSOR: usize = 2;

/// Each worker has two steps and what it fetched in memory, 12 MiB at most: 288 MiB of the 512 that a restore may take.
const WORKERS_MAX: usize = 24;

/// So many chunks in a row that fail for reasons other than damage mean that the store is gone, not bad.
const STORE_FAILURES_MAX: u64 = 4096;

/// What is known of a target's content before it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It will be asked.
    Asked,
    /// It is a new file: zeros.
    Zeros,
    /// Nothing, and it won't be asked.
    Nothing,
}

/// What stands in one step of the target before it is written.
enum Before<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// A hole.
    Zeros,
    /// Not asked, or unreadable.
    Unknown,
}

/// Everything that the threads share.
struct Job<'a> {
    image: &'a StoredImage,
    info: &'a SourceInfo,
    expected: Expected<'a>,
    target: &'a dyn WriteAt,
    known: Known,
    asking: Asking,
    progress: &'a dyn Progress,
    written: AtomicU64,
    zeroed: AtomicU64,
    unchanged: AtomicU64,
    /// Written since the last sync began, about.
    unsynced: AtomicU64,
    damaged: Mutex<Vec<Damage>>,
    store_failures: AtomicU64,
}

/// One worker's memory, made when it is first needed.
#[derive(Default)]
struct Buffers {
    have: Option<AlignedBuffer>,
    want: Option<AlignedBuffer>,
}

/// The first `bytes` of a buffer for one step.
fn sized(buffer: &mut Option<AlignedBuffer>, bytes: u64) -> &mut [u8] {
    let buffer = buffer.get_or_insert_with(|| AlignedBuffer::new(in_memory(STEP_BYTES)));
    &mut buffer[..in_memory(bytes)]
}

/// How many workers to use when so many threads were asked for.
fn worker_count(threads: usize) -> usize {
    let count = match threads {
        0 => workers::thread_count(0) * WORKERS_PER_PROCESSOR,
        asked => asked,
    };
    count.min(WORKERS_MAX)
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
    let known = match options.compare {
        _ if fresh => Known::Zeros,
        Compare::Read => Known::Asked,
        Compare::WriteAll => Known::Nothing,
    };
    let covered = plan.tail_zeroed.map_or(plan.image_bytes.min(plan.target_bytes), |tail| tail.end());
    let ends = Ends::new(covered);
    let guard = Guard::new(target, ends, fresh, progress);
    let expected = plan.expected(image);
    let job = Job::new(image, &info, expected, target, known, progress);
    progress.total(Some(covered));
    let steps = Steps::new(ends.body);
    workers::run(
        worker_count(options.threads),
        steps.len(),
        progress,
        Buffers::default,
        |buffers, number| match steps.step(number) {
            Some(step) => job.body_step(step, buffers, &guard),
            None => Ok(()),
        },
    )?;
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
        known: Known,
        progress: &'a dyn Progress,
    ) -> Job<'a> {
        let count = AtomicU64::default;
        let (written, zeroed, unchanged, unsynced, store_failures) =
            (count(), count(), count(), count(), count());
        let damaged = Mutex::default();
        Job {
            image,
            info,
            expected,
            target,
            known,
            asking: Asking::default(),
            progress,
            written,
            zeroed,
            unchanged,
            unsynced,
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
        self.write(step, &prepared, sized(&mut buffers.want, step.bytes))?;
        self.progress.add(Counter::Done, step.bytes);
        Ok(())
    }

    /// Writes foot and head when all is well, or when the person wants what there is. Returns whether it did.
    fn write_ends(&self, ends: Ends, keep_damaged: bool) -> Result<bool, Error> {
        let mut prepared = Vec::new();
        for end in [ends.foot, ends.head] {
            let mut buffers = Buffers::default();
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
        for (end, writes, mut buffers) in prepared {
            self.write(end, &writes, sized(&mut buffers.want, end.bytes))?;
            self.progress.add(Counter::Done, end.bytes);
            self.target.sync()?;
        }
        Ok(true)
    }

    /// Finds out what to write: afterwards `buffers.want` holds the bytes of the ranges returned.
    fn prepare(&self, step: Extent, pieces: &[Piece], buffers: &mut Buffers) -> Result<Vec<Write>, Error> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let mut before = match self.is_worth_asking(step) {
            true => self.look(step, &mut buffers.have)?,
            false => Before::Unknown,
        };
        let differing: Vec<&Piece> =
            pieces.iter().filter(|piece| self.differs(piece, step, &before)).collect();
        let writes = match differing.is_empty() {
            true => Vec::new(),
            false => {
                let want = sized(&mut buffers.want, step.bytes);
                let filled = self.fill(step, &differing, want)?;
                if matches!(before, Before::Unknown) && !covers(&filled, want.len()) {
                    // What we can't write must stay as it is.
                    before = self.look(step, &mut buffers.have)?;
                }
                restore_gaps(&before, want, &filled);
                plan_writes(&before, want, &filled)
            }
        };
        let expected_bytes: u64 = pieces.iter().map(|piece| piece.extent.bytes).sum();
        let changed: u64 = writes.iter().map(|write| write.range.len() as u64).sum();
        let unchanged = expected_bytes.saturating_sub(changed);
        if matches!(before, Before::Bytes(_)) {
            self.asking.learn(expected_bytes, unchanged);
        }
        self.unchanged.fetch_add(unchanged, Ordering::Relaxed);
        self.progress.add(Counter::Unchanged, unchanged);
        Ok(writes)
    }

    fn is_worth_asking(&self, step: Extent) -> bool {
        self.known != Known::Asked || self.asking.is_worth(step.offset / STEP_BYTES)
    }

    /// What the target holds, as far as it should be asked and can tell: a bad sector may be cured by writing to it.
    fn look<'b>(&self, step: Extent, have: &'b mut Option<AlignedBuffer>) -> Result<Before<'b>, Error> {
        match self.known {
            Known::Nothing => return Ok(Before::Unknown),
            Known::Zeros => return Ok(Before::Zeros),
            Known::Asked => {}
        }
        let failed = |source| Error::ReadDevice { offset: step.offset, bytes: step.bytes, source };
        let data = self.target.next_data(step.offset).map_err(failed)?;
        if data.is_none_or(|data| data.offset >= step.end()) {
            return Ok(Before::Zeros);
        }
        let have = sized(have, step.bytes);
        match self.target.read_exact_at(step.offset, have) {
            Ok(()) => Ok(Before::Bytes(have)),
            Err(error) if error.is_unreadable() => Ok(Before::Unknown),
            Err(source) => Err(failed(source)),
        }
    }

    /// Whether a piece may have to be written. Where only zeros stand, hashing them would find out no more than comparing
    /// with the bytes does later.
    fn differs(&self, piece: &Piece, step: Extent, before: &Before<'_>) -> bool {
        let wants_zeros = matches!(piece.want, Want::Zeros | Want::Bad);
        match before {
            Before::Unknown => true,
            Before::Zeros => !wants_zeros,
            Before::Bytes(have) if !wants_zeros && is_zero(&have[range_of(piece, step.offset)]) => true,
            Before::Bytes(have) => !holds(piece, self.target, step.offset, have),
        }
    }

    /// Puts the pieces into `want`; returns where. Damaged ones are left out.
    fn fill(&self, step: Extent, pieces: &[&Piece], want: &mut [u8]) -> Result<Vec<Range<usize>>, Error> {
        let failed = fill(self.image, step.offset, pieces, want);
        if failed.len() < pieces.len() {
            self.store_failures.store(0, Ordering::Relaxed);
        }
        let lost: HashSet<usize> = failed.iter().map(|(number, _)| *number).collect();
        for (number, error) in failed {
            self.damaged(pieces[number].extent, error)?;
        }
        let filled = pieces.iter().enumerate().filter(|(number, _)| !lost.contains(number));
        Ok(filled.map(|(_, piece)| range_of(piece, step.offset)).collect())
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
            self.sync_early(bytes)?;
            self.progress.add(if write.zeros { Counter::Zeros } else { Counter::Written }, bytes);
        }
        Ok(())
    }

    /// Has the medium work on what was written so far while other workers decode, so that little is left in the end.
    fn sync_early(&self, bytes: u64) -> Result<(), Error> {
        let before = self.unsynced.fetch_add(bytes, Ordering::Relaxed);
        if before < SYNC_BYTES && before + bytes >= SYNC_BYTES {
            self.target.sync()?;
            self.unsynced.store(0, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// One call to the target; the range counts from the step's start.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    range: Range<usize>,
    zeros: bool,
}

/// Whether the ranges, which are in order, leave out nothing of so many bytes.
fn covers(ranges: &[Range<usize>], bytes: usize) -> bool {
    let end = ranges.iter().try_fold(0, |end, range| (range.start == end).then_some(range.end));
    end == Some(bytes)
}

/// Where `want` was not filled, it gets what the target holds: blocks are written whole.
fn restore_gaps(before: &Before<'_>, want: &mut [u8], filled: &[Range<usize>]) {
    let mut at = 0;
    let end = want.len()..want.len();
    for range in filled.iter().chain([&end]) {
        let gap = at..range.start;
        match before {
            Before::Bytes(have) => want[gap.clone()].copy_from_slice(&have[gap]),
            Before::Zeros | Before::Unknown => want[gap].fill(0),
        }
        at = range.end;
    }
}

/// The filled blocks that differ, neighbours joined.
fn plan_writes(before: &Before<'_>, want: &[u8], filled: &[Range<usize>]) -> Vec<Write> {
    let mut touched = vec![false; want.len().div_ceil(BLOCK_BYTES)];
    for range in filled {
        touched[range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)].fill(true);
    }
    let mut writes: Vec<Write> = Vec::new();
    for (number, block) in want.chunks(BLOCK_BYTES).enumerate() {
        let start = number * BLOCK_BYTES;
        let range = start..start + block.len();
        // In bounds: `touched` has an entry for each block, and `have` is as long as `want`.
        let same = matches!(before, Before::Bytes(have) if have[range.clone()] == *block);
        if !touched[number] || same {
            continue;
        }
        let zeros = is_zero(block);
        match writes.last_mut() {
            Some(last) if last.range.end == range.start && last.zeros == zeros => last.range.end = range.end,
            _ => writes.push(Write { range, zeros }),
        }
    }
    let mut writes = join_short_zeros(writes);
    if matches!(before, Before::Zeros) {
        writes.retain(|write| !write.zeros);
    }
    writes
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

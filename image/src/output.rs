//! A target while it is written: what it holds, what of it has to change, and what was done. Restore and copy share it.
//!
//! Promise: only blocks that differ are written, and nothing outside of the ranges that were named; a step is read,
//! compared and written by one thread. Knows nothing of where the bytes come from, nor of the order of steps (`ends.rs`).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{AlignedBuffer, Extent, WriteAt};

use crate::asking::Asking;
use crate::cutter::is_zero;
use crate::expected::STEP_BYTES;
use crate::segment::in_memory;
use crate::{Compare, Counter, Error, Progress, workers};

/// What is compared and written as a whole: no device has larger sectors, so no write needs a read.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Shorter runs of zeros between data are written as data: a call of their own would take longer.
const ZEROS_BYTES_MIN: usize = 64 << 10;

/// After so many bytes a worker syncs while the others go on: what a sync has to do in the end stays short.
const SYNC_BYTES: u64 = 256 << 20;

/// Workers for each processor, and for each target: while one waits for source or target, another computes.
const WORKERS_EACH: usize = 2;

/// Each worker has two steps and what it fetched in memory, 12 MiB at most: 288 MiB of the 512 that a restore may take.
const WORKERS_MAX: usize = 24;

/// What is known of a target's content before it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It will be asked.
    Asked,
    /// It is a new file: zeros.
    Zeros,
    /// Nothing, and it won't be asked.
    Nothing,
}

impl Known {
    /// `fresh`: the target is known to read as zeros.
    pub(crate) fn new(compare: Compare, fresh: bool) -> Known {
        match compare {
            _ if fresh => Known::Zeros,
            Compare::Read => Known::Asked,
            Compare::WriteAll => Known::Nothing,
        }
    }
}

/// What stands in one step of the target before it is written.
pub(crate) enum Before<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// A hole.
    Zeros,
    /// Not asked, or unreadable.
    Unknown,
}

/// One worker's memory, made when it is first needed.
#[derive(Default)]
pub(crate) struct Buffers {
    pub(crate) have: Option<AlignedBuffer>,
    pub(crate) want: Option<AlignedBuffer>,
}

/// The first `bytes` of a buffer for one step.
pub(crate) fn sized(buffer: &mut Option<AlignedBuffer>, bytes: u64) -> &mut [u8] {
    let buffer = buffer.get_or_insert_with(|| AlignedBuffer::new(in_memory(STEP_BYTES)));
    &mut buffer[..in_memory(bytes)]
}

/// How many workers to use when so many threads were asked for, 0 being no wish.
pub(crate) fn worker_count(threads: usize, targets: usize) -> usize {
    let count = match threads {
        0 => workers::thread_count(0).max(targets).saturating_mul(WORKERS_EACH),
        asked => asked,
    };
    count.min(WORKERS_MAX)
}

/// One target, shared by all workers.
pub(crate) struct Output<'a> {
    pub(crate) target: &'a dyn WriteAt,
    known: Known,
    asking: Asking,
    progress: &'a dyn Progress,
    written: AtomicU64,
    zeroed: AtomicU64,
    unchanged: AtomicU64,
    /// Written since the last sync began, about.
    unsynced: AtomicU64,
}

/// What was done to a target, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) written: u64,
    pub(crate) zeroed: u64,
    pub(crate) unchanged: u64,
}

impl<'a> Output<'a> {
    pub(crate) fn new(target: &'a dyn WriteAt, known: Known, progress: &'a dyn Progress) -> Output<'a> {
        let count = AtomicU64::default;
        let (written, zeroed, unchanged, unsynced) = (count(), count(), count(), count());
        Output { target, known, asking: Asking::default(), progress, written, zeroed, unchanged, unsynced }
    }

    pub(crate) fn counts(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { written: of(&self.written), zeroed: of(&self.zeroed), unchanged: of(&self.unchanged) }
    }

    /// What the target holds, unless asking it is not worth the time.
    pub(crate) fn look_if_worth<'b>(
        &self,
        step: Extent,
        have: &'b mut Option<AlignedBuffer>,
    ) -> Result<Before<'b>, Error> {
        match self.known != Known::Asked || self.asking.is_worth(step.offset / STEP_BYTES) {
            true => self.look(step, have),
            false => Ok(Before::Unknown),
        }
    }

    /// What the target holds, as far as it should be asked and can tell: a bad sector may be cured by writing to it.
    pub(crate) fn look<'b>(
        &self,
        step: Extent,
        have: &'b mut Option<AlignedBuffer>,
    ) -> Result<Before<'b>, Error> {
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

    /// Counts what of a step need not be written, and learns from it.
    pub(crate) fn account(&self, before: &Before<'_>, expected_bytes: u64, writes: &[Write]) {
        let changed: u64 = writes.iter().map(|write| write.range.len() as u64).sum();
        let unchanged = expected_bytes.saturating_sub(changed);
        if matches!(before, Before::Bytes(_)) {
            self.asking.learn(expected_bytes, unchanged);
        }
        self.unchanged.fetch_add(unchanged, Ordering::Relaxed);
        self.progress.add(Counter::Unchanged, unchanged);
    }

    /// Carries out the writes of one step. Without `want`, all of them are zeros.
    pub(crate) fn write(&self, step: Extent, writes: &[Write], want: Option<&[u8]>) -> Result<(), Error> {
        for write in writes {
            let bytes = write.range.len() as u64;
            let extent = Extent { offset: step.offset + write.range.start as u64, bytes };
            let (result, counter) = match want.filter(|_| !write.zeros) {
                None => (self.target.write_zeros_at(extent), &self.zeroed),
                Some(want) => {
                    (self.target.write_all_at(extent.offset, &want[write.range.clone()]), &self.written)
                }
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
pub(crate) struct Write {
    pub(crate) range: Range<usize>,
    pub(crate) zeros: bool,
}

/// What of the ranges, which are in order, differs: compared in blocks, neighbours joined. Without `want`, zeros are
/// wanted.
pub(crate) fn plan_writes(before: &Before<'_>, want: Option<&[u8]>, ranges: &[Range<usize>]) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    for range in ranges.iter().flat_map(blocks) {
        // In bounds: ranges lie within the step, and `have` and `want` are as long as it.
        let same = match (before, want) {
            (Before::Bytes(have), Some(want)) => have[range.clone()] == want[range.clone()],
            (Before::Bytes(have), None) => is_zero(&have[range.clone()]),
            (Before::Zeros | Before::Unknown, _) => false,
        };
        if same {
            continue;
        }
        let zeros = want.is_none_or(|want| is_zero(&want[range.clone()]));
        match writes.last_mut() {
            Some(last) if last.range.end == range.start && last.zeros == zeros => last.range.end = range.end,
            _ => writes.push(Write { range, zeros }),
        }
    }
    if want.is_some() {
        writes = join_short_zeros(writes);
    }
    if matches!(before, Before::Zeros) {
        writes.retain(|write| !write.zeros);
    }
    writes
}

/// A range cut at multiples of [`BLOCK_BYTES`].
fn blocks(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (start, end) = (range.start, range.end);
    let numbers = start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
    numbers
        .map(move |number| start.max(number * BLOCK_BYTES)..end.min((number + 1) * BLOCK_BYTES))
        .filter(|block| !block.is_empty())
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

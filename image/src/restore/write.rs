//! The writing half of a restore, step by step: what does the target hold, what must it hold, write the difference
//! (`output.rs`).
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

use disk::{Extent, WriteAt};
use store::StoredImage;

use super::{RestoreOptions, RestorePlan, RestoreReport};
use crate::cutter::is_zero;
use crate::damage::join_damage;
use crate::ends::{Ends, Guard};
use crate::expected::{Expected, Piece, Steps, Want};
use crate::fill::{fill, range_of};
use crate::output::{
    BLOCK_BYTES, Before, Buffers, Counts, Known, Output, Write, plan_writes, sized, worker_count,
};
use crate::source::intersect;
use crate::verify::holds;
use crate::{Counter, Damage, Error, Note, Progress, SourceInfo, workers};

/// When a table is damaged, the step is tried again in parts of this size: fewer readable bytes are lost with it.
const PART_BYTES: u64 = 512 << 10;

/// So many chunks in a row that fail for reasons other than damage mean that the store is gone, not bad.
const STORE_FAILURES_MAX: u64 = 4096;

/// Everything that the threads share.
struct Job<'a> {
    image: &'a StoredImage,
    info: &'a SourceInfo,
    expected: Expected<'a>,
    output: Output<'a>,
    progress: &'a dyn Progress,
    damaged: Mutex<Vec<Damage>>,
    store_failures: AtomicU64,
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
    let covered = plan.tail_zeroed.map_or(plan.image_bytes.min(plan.target_bytes), |tail| tail.end());
    let ends = Ends::new(covered);
    let guard = Guard::new(target, vec![ends.head, ends.foot], fresh, progress);
    let job = Job {
        image,
        info: &info,
        expected: plan.expected(image),
        output: Output::new(target, Known::new(options.compare, fresh), progress),
        progress,
        damaged: Mutex::default(),
        store_failures: AtomicU64::default(),
    };
    progress.total(Some(covered));
    let steps = Steps::new(ends.body);
    workers::run(
        worker_count(options.threads, 1),
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

impl Job<'_> {
    fn into_report(self) -> RestoreReport {
        let Counts { written, zeroed, unchanged } = self.output.counts();
        RestoreReport {
            written_bytes: written,
            zeroed_bytes: zeroed,
            unchanged_bytes: unchanged,
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
        self.output.write(step, &prepared, Some(sized(&mut buffers.want, step.bytes)))?;
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
            self.output.write(end, &writes, Some(sized(&mut buffers.want, end.bytes)))?;
            self.progress.add(Counter::Done, end.bytes);
            self.output.target.sync()?;
        }
        Ok(true)
    }

    /// Finds out what to write: afterwards `buffers.want` holds the bytes of the ranges returned.
    fn prepare(&self, step: Extent, pieces: &[Piece], buffers: &mut Buffers) -> Result<Vec<Write>, Error> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let mut before = self.output.look_if_worth(step, &mut buffers.have)?;
        let differing: Vec<&Piece> =
            pieces.iter().filter(|piece| self.differs(piece, step, &before)).collect();
        let writes = match differing.is_empty() {
            true => Vec::new(),
            false => {
                let want = sized(&mut buffers.want, step.bytes);
                let filled = self.fill(step, &differing, want)?;
                if matches!(before, Before::Unknown) && !covers(&filled, want.len()) {
                    // What we can't write must stay as it is.
                    before = self.output.look(step, &mut buffers.have)?;
                }
                restore_gaps(&before, want, &filled);
                plan_writes(&before, Some(want), &whole_blocks(&filled, want.len()))
            }
        };
        let expected_bytes: u64 = pieces.iter().map(|piece| piece.extent.bytes).sum();
        self.output.account(&before, expected_bytes, &writes);
        Ok(writes)
    }

    /// Whether a piece may have to be written. Where only zeros stand, hashing them would find out no more than comparing
    /// with the bytes does later.
    fn differs(&self, piece: &Piece, step: Extent, before: &Before<'_>) -> bool {
        let wants_zeros = matches!(piece.want, Want::Zeros | Want::Bad);
        match before {
            Before::Unknown => true,
            Before::Zeros => !wants_zeros,
            Before::Bytes(have) if !wants_zeros && is_zero(&have[range_of(piece, step.offset)]) => true,
            Before::Bytes(have) => !holds(piece, self.output.target, step.offset, have),
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

/// The ranges, which are in order, widened to whole blocks of a step of so many bytes.
fn whole_blocks(filled: &[Range<usize>], bytes: usize) -> Vec<Range<usize>> {
    let mut whole: Vec<Range<usize>> = Vec::new();
    for range in filled {
        let start = range.start / BLOCK_BYTES * BLOCK_BYTES;
        let end = range.end.next_multiple_of(BLOCK_BYTES).min(bytes);
        match whole.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => whole.push(start..end),
        }
    }
    whole
}

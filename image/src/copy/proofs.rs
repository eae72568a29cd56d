//! What was read from the source, remembered by hash, so that targets can be proved without reading it again.
//!
//! Promise: a target that passes holds what was read, of all that could be read. Differences are as long as a step.
//! Knows nothing of writing.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use disk::{AlignedBuffer, Extent};

use super::reading::{Content, ranges, without};
use super::sink::Sink;
use super::{Job, bytes_of};
use crate::cutter::is_zero;
use crate::expected::STEP_BYTES;
use crate::rescue::Rescuer;
use crate::segment::in_memory;
use crate::source::join_extents;
use crate::verify::merge;
use crate::{Counter, Difference, Error, VerifyReport, workers};

/// Half of a BLAKE3 hash: 80 MB for a disk of 20 TB, and nobody finds a second step with the same.
const MARK_BYTES: usize = 16;

/// What stands in a step: the hash, or zeros in place of it where all of it is zeros.
type Mark = [u8; MARK_BYTES];

/// The marks of all steps, or of none.
pub(super) struct Proofs {
    marks: Mutex<Vec<Mark>>,
}

impl Proofs {
    /// For so many steps; with 0, nothing is kept.
    pub(super) fn new(steps: u64) -> Proofs {
        Proofs { marks: Mutex::new(vec![Mark::default(); in_memory(steps)]) }
    }

    /// Keeps what was read. What of `want` is in no range becomes zeros.
    pub(super) fn keep(&self, number: u64, content: &Content, want: &mut [u8]) {
        let locked = || self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if content.zeros || locked().is_empty() {
            return;
        }
        let mark = mark(&content.ranges, want);
        if let Some(kept) = locked().get_mut(in_memory(number)) {
            *kept = mark;
        }
    }

    /// Whether these bytes are those that were read. What is in no range becomes zeros.
    fn holds(&self, number: u64, ranges: &[Range<usize>], bytes: &mut [u8]) -> bool {
        let kept = self.marks.lock().unwrap_or_else(PoisonError::into_inner).get(in_memory(number)).copied();
        match kept {
            Some(kept) if kept == Mark::default() => {
                ranges.iter().all(|range| is_zero(&bytes[range.clone()]))
            }
            Some(kept) => kept == mark(ranges, bytes),
            None => false,
        }
    }
}

/// The mark of bytes, of which only the ranges count.
fn mark(ranges: &[Range<usize>], bytes: &mut [u8]) -> Mark {
    let mut at = 0;
    for range in ranges {
        bytes[at..range.start].fill(0);
        at = range.end;
    }
    bytes[at..].fill(0);
    let mut mark = Mark::default();
    mark.copy_from_slice(&store::chunk_id(bytes).as_bytes()[..MARK_BYTES]);
    mark
}

/// Reads all finished targets and compares them with what the source gave.
pub(super) fn read_back(job: &Job<'_>, threads: usize) -> Result<(), Error> {
    let finished: Vec<&Sink> = job.sinks.iter().filter(|sink| sink.is_finished()).collect();
    let count = finished.len().max(1) as u64;
    let looks: Vec<Look> = finished.into_iter().map(|sink| Look::new(sink, job)).collect();
    let damaged = job.reading.damaged_extents();
    job.progress.total(Some(job.places.bytes().saturating_mul(count)));
    let buffer = || AlignedBuffer::new(in_memory(STEP_BYTES));
    workers::run(threads, job.places.len().saturating_mul(count), job.progress, buffer, |buffer, number| {
        let Some(look) = looks.get(in_memory(number % count)) else { return Ok(()) };
        let number = number / count;
        let Some((step, parts)) = job.places.step(number) else { return Ok(()) };
        let buffer = &mut buffer[..in_memory(step.bytes)];
        look.compare(&job.proofs, number, step, &without(&parts, &damaged), buffer)?;
        job.progress.add(Counter::Done, bytes_of(&parts));
        Ok(())
    })?;
    looks.into_iter().for_each(Look::settle);
    Ok(())
}

/// One target while it is read back.
struct Look<'a> {
    sink: &'a Sink<'a>,
    rescuer: Rescuer<'a>,
    report: Mutex<VerifyReport>,
}

impl<'a> Look<'a> {
    fn new(sink: &'a Sink<'a>, job: &Job<'a>) -> Look<'a> {
        let device: &'a dyn disk::ReadAt = sink.device();
        Look { sink, rescuer: Rescuer::new(device, device, job.progress), report: Mutex::default() }
    }

    /// Compares the parts of one step. A target that can't be read at all fails alone.
    fn compare(
        &self,
        proofs: &Proofs,
        number: u64,
        step: Extent,
        parts: &[Extent],
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        if self.sink.has_failed() {
            return Ok(());
        }
        let unreadable = match self.rescuer.read(step.offset, bytes) {
            Ok(unreadable) => unreadable,
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                self.sink.fail(error);
                return Ok(());
            }
        };
        let mut found =
            VerifyReport { checked_bytes: bytes_of(parts), unreadable, ..VerifyReport::default() };
        found.unreadable.retain(|range| parts.iter().any(|part| part.overlaps(range)));
        let ranges = ranges(parts, step);
        // With a sector missing the hash can't be right, and says nothing of the rest.
        if found.unreadable.is_empty() && !proofs.holds(number, &ranges, bytes) {
            found.differences =
                parts.iter().map(|extent| Difference { extent: *extent, volume: None }).collect();
        }
        merge(&self.report, found);
        Ok(())
    }

    /// Hands the report to the target.
    fn settle(self) {
        let mut report = self.report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.unreadable = join_extents(report.unreadable);
        let differences = report.differences.iter().map(|difference| difference.extent).collect();
        let joined = join_extents(differences).into_iter();
        report.differences = joined.map(|extent| Difference { extent, volume: None }).collect();
        *self.sink.verified.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

//! The source of a copy, read step by step around what it can't give.
//!
//! Promise: holes are not read; a step whose parts are all holes needs no memory. It ends: parts that fail are halved down
//! to 4096 bytes at the least, and a store that gives nothing any more is an error, not a long list.
//! Knows nothing of targets.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use disk::{Extent, ReadAt};

use super::{BLOCK_BYTES, CopyDamage, CopySource};
use crate::capture::{Piece, pieces};
use crate::reader::store_error;
use crate::rescue::{Rescuer, middle};
use crate::segment::in_memory;
use crate::source::join_extents;
use crate::{Counter, Error, Note, Progress};

/// So many parts in a row that fail for reasons other than damage mean that what stands behind the source is gone, not bad.
const FAILURES_MAX: u64 = 4096;

/// Reads the source; shared by all workers.
pub(super) struct Reading<'a> {
    view: &'a dyn ReadAt,
    rescuer: Rescuer<'a>,
    progress: &'a dyn Progress,
    bad: Mutex<Vec<Extent>>,
    damaged: Mutex<Vec<CopyDamage>>,
    /// In a row, over all workers.
    failures: AtomicU64,
}

/// What must stand in one step.
pub(super) struct Content {
    /// The parts that could be had, counted from the step's start: in order, none touching the next.
    pub(super) ranges: Vec<Range<usize>>,
    /// All of them are zeros, and the memory was not filled.
    pub(super) zeros: bool,
}

impl<'a> Reading<'a> {
    pub(super) fn new(source: &CopySource<'a>, progress: &'a dyn Progress) -> Reading<'a> {
        Reading {
            view: source.view,
            rescuer: Rescuer::new(source.view, source.medium, progress),
            progress,
            bad: Mutex::default(),
            damaged: Mutex::default(),
            failures: AtomicU64::default(),
        }
    }

    /// Whether nothing was damaged so far. Bad sectors of a disk are no damage: they become zeros, as in an image.
    pub(super) fn is_whole(&self) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What could not be read, and what is damaged.
    pub(super) fn into_findings(self) -> (Vec<Extent>, Vec<CopyDamage>) {
        let bad = self.bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        (join_extents(bad), join(self.damaged.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Where parts are damaged, in order.
    pub(super) fn damaged_extents(&self) -> Vec<Extent> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        join_extents(damaged.iter().map(|damage| damage.extent).collect())
    }

    /// Reads the parts of a step; `want` begins where the step does.
    pub(super) fn read(&self, step: Extent, parts: &[Extent], want: &mut [u8]) -> Result<Content, Error> {
        let mut found = Vec::new();
        for part in parts {
            found.extend(self.pieces(*part)?);
        }
        if found.iter().all(|piece| matches!(piece, Piece::Hole(_))) {
            return Ok(Content { ranges: ranges(parts, step), zeros: true });
        }
        let mut lost = Vec::new();
        for piece in found {
            match piece {
                Piece::Hole(hole) => want[range(hole, step)].fill(0),
                Piece::Data(data) => self.read_data(data.offset, &mut want[range(data, step)], &mut lost)?,
            }
        }
        let had = without(parts, &self.record(lost));
        Ok(Content { ranges: ranges(&had, step), zeros: false })
    }

    /// What of a part is data. Where that can't be told, the part is read to find out.
    fn pieces(&self, part: Extent) -> Result<Vec<Piece>, Error> {
        // Holes on borders of blocks, counted from the device's start.
        let device = Extent { offset: 0, bytes: self.view.size_bytes() };
        match pieces(self.view, device, part) {
            Err(Error::ReadSource { source: disk::Error::Foreign { .. }, .. }) => Ok(vec![Piece::Data(part)]),
            result => result,
        }
    }

    /// Fills `buf`: zeros for bad sectors; what can't be had is added to `lost`.
    fn read_data(&self, offset: u64, buf: &mut [u8], lost: &mut Vec<CopyDamage>) -> Result<(), Error> {
        let error = match self.rescuer.read(offset, buf) {
            Ok(bad) => {
                self.failures.store(0, Ordering::Relaxed);
                self.add_bad(&bad, Extent { offset, bytes: buf.len() as u64 }, buf);
                return Ok(());
            }
            Err(Error::ReadSource { source: error @ disk::Error::Foreign { .. }, .. }) => error,
            Err(error) => return Err(error),
        };
        if self.progress.cancelled() {
            return Err(Error::Interrupted);
        }
        match middle(offset, buf.len(), BLOCK_BYTES) {
            Some(middle) => {
                let (first, second) = buf.split_at_mut(middle);
                self.read_data(offset, first, lost)?;
                self.read_data(offset + middle as u64, second, lost)
            }
            None => self.lose(Extent { offset, bytes: buf.len() as u64 }, error, lost),
        }
    }

    fn add_bad(&self, bad: &[Extent], place: Extent, buf: &mut [u8]) {
        for bad in bad {
            buf[range(*bad, place)].fill(0);
            self.progress.add(Counter::Bad, bad.bytes);
        }
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).extend(bad);
    }

    /// A part that can't be had; an error when nothing can any more.
    fn lose(&self, extent: Extent, error: disk::Error, lost: &mut Vec<CopyDamage>) -> Result<(), Error> {
        let family = store_error(&error).map(store::Error::family);
        if family == Some(store::Family::Interrupted) {
            return Err(Error::Interrupted);
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        if family != Some(store::Family::Damaged) && failures >= FAILURES_MAX {
            let Extent { offset, bytes } = extent;
            return Err(Error::ReadSource { offset, bytes, source: error });
        }
        lost.push(CopyDamage { extent, error });
        Ok(())
    }

    /// Enters what was lost in one step; returns where that is.
    fn record(&self, lost: Vec<CopyDamage>) -> Vec<Extent> {
        let lost = join(lost);
        let extents = lost.iter().map(|damage| damage.extent).collect();
        for damage in &lost {
            self.progress.note(Note::Damaged(damage.extent));
        }
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
        extents
    }
}

/// Where an extent lies in the memory of a step.
fn range(extent: Extent, step: Extent) -> Range<usize> {
    in_memory(extent.offset - step.offset)..in_memory(extent.end() - step.offset)
}

/// Where extents lie, those that touch joined.
pub(super) fn ranges(extents: &[Extent], step: Extent) -> Vec<Range<usize>> {
    join_extents(extents.to_vec()).into_iter().map(|extent| range(extent, step)).collect()
}

/// What is left of extents when others are taken away; both are sorted and disjoint.
pub(super) fn without(extents: &[Extent], others: &[Extent]) -> Vec<Extent> {
    let mut left = Vec::new();
    for extent in extents {
        let mut at = extent.offset;
        for other in super::within(others, *extent) {
            left.push(Extent { offset: at, bytes: other.offset - at });
            at = other.end();
        }
        left.push(Extent { offset: at, bytes: extent.end() - at });
    }
    left.retain(|extent| extent.bytes > 0);
    left
}

/// Sorts damages and joins those that touch.
fn join(mut all: Vec<CopyDamage>) -> Vec<CopyDamage> {
    all.sort_by_key(|damage| damage.extent);
    let mut joined: Vec<CopyDamage> = Vec::new();
    for damage in all {
        match joined.last_mut() {
            Some(last) if damage.extent.offset <= last.extent.end() => {
                last.extent.bytes = last.extent.end().max(damage.extent.end()) - last.extent.offset;
            }
            _ => joined.push(damage),
        }
    }
    joined
}

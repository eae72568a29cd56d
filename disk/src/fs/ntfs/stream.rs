//! The value of an attribute, wherever it is.
//!
//! Promise: reads give what a mounted NTFS gives: holes and what was never written as zeros. Compressed and encrypted
//! values are not read.
//! Knows nothing of records.

use super::super::Doubt;
use super::super::view::{READ_BYTES_MAX, View};
use super::boot::Boot;
use super::record::{Attribute, NOT_PLAIN, Run, SPARSE};
use crate::Extent;

/// More runs of one value are not followed: a file table of 4 GiB in its shortest pieces.
const RUNS_MAX: usize = 1 << 20;

/// Where values outside of records are read from.
#[derive(Clone, Copy)]
pub(crate) struct Disk<'a> {
    pub(crate) volume: View<'a>,
    pub(crate) boot: Boot,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    kept: Kept,
    flags: u16,
    compression_unit: u8,
    bytes: u64,
    allocated_bytes: u64,
    initialized_bytes: u64,
}

#[derive(Clone, Debug)]
enum Kept {
    Inside(Vec<u8>),
    /// Each run with the cluster of the value at which it begins; and where the next begins.
    Elsewhere(Vec<(u64, Run)>, u64),
}

impl Stream {
    /// The value, or its first part.
    pub(crate) fn of(attribute: &Attribute<'_>, boot: &Boot) -> Result<Self, Doubt> {
        let flags = attribute.flags()?;
        if !attribute.has_runs()? {
            let value = attribute.value()?.to_vec();
            let bytes = u64::try_from(value.len()).unwrap_or(u64::MAX);
            let kept = Kept::Inside(value);
            let compression_unit = 0;
            return Ok(Self {
                kept,
                flags,
                compression_unit,
                bytes,
                allocated_bytes: bytes,
                initialized_bytes: bytes,
            });
        }
        let [allocated_bytes, bytes, initialized_bytes] = attribute.sizes()?;
        let packed = flags & NOT_PLAIN != 0;
        if initialized_bytes > bytes || (bytes > allocated_bytes && !packed) {
            return Err(Doubt::Impossible { place: "bytes of an attribute", found: bytes });
        }
        let kept = Kept::Elsewhere(Vec::new(), 0);
        let compression_unit = attribute.compression_unit()?;
        let mut stream = Self { kept, flags, compression_unit, bytes, allocated_bytes, initialized_bytes };
        stream.extend(attribute, boot)?;
        Ok(stream)
    }

    /// Adds the next part.
    pub(crate) fn extend(&mut self, attribute: &Attribute<'_>, boot: &Boot) -> Result<(), Doubt> {
        let wrong = |found| Doubt::Impossible { place: "part of an attribute that begins at", found };
        let Kept::Elsewhere(runs, next) = &mut self.kept else { return Err(wrong(0)) };
        if !attribute.has_runs()? || attribute.first()? != *next {
            return Err(wrong(*next));
        }
        for run in attribute.runs(boot)? {
            if runs.len() >= RUNS_MAX {
                return Err(Doubt::Impossible { place: "runs of an attribute", found: *next });
            }
            runs.push((*next, run));
            *next = next.checked_add(run.clusters).ok_or(wrong(*next))?;
        }
        Ok(())
    }

    /// The cluster at which the next part begins.
    pub(crate) fn next(&self) -> u64 {
        match &self.kept {
            Kept::Inside(_) => 0,
            Kept::Elsewhere(_, next) => *next,
        }
    }

    /// When all parts are there: they must make up what was allocated.
    pub(crate) fn check_complete(&self, boot: &Boot) -> Result<(), Doubt> {
        let Kept::Elsewhere(_, next) = &self.kept else { return Ok(()) };
        // Without holes, more clusters than the volume has are some of them twice, and reading it would have no end.
        if self.is_plain() && *next > boot.clusters {
            return Err(Doubt::Impossible { place: "clusters of an attribute", found: *next });
        }
        let (expected, found) = (self.allocated_bytes, boot.place(*next));
        match expected == found || self.flags & NOT_PLAIN != 0 {
            true => Ok(()),
            false => Err(Doubt::Mismatch { place: "bytes of an attribute", expected, found }),
        }
    }

    /// Doubts a value that is compressed, sparse, encrypted or has a hole.
    pub(crate) fn check_plain(&self, place: &'static str) -> Result<(), Doubt> {
        match self.is_plain() {
            true => Ok(()),
            false => Err(Doubt::Feature { place, found: self.flags.into() }),
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        match &self.kept {
            // Flags on the index of a folder are for the files to come.
            Kept::Inside(_) => true,
            Kept::Elsewhere(runs, _) => {
                self.flags & NOT_PLAIN == 0 && runs.iter().all(|(_, run)| run.at.is_some())
            }
        }
    }

    /// The value, when it is inside.
    pub(crate) fn inside(&self) -> Option<&[u8]> {
        match &self.kept {
            Kept::Inside(value) => Some(value),
            Kept::Elsewhere(..) => None,
        }
    }

    /// The run with a cluster of the value, and how many clusters of it lie before that one; `None` behind the last.
    pub(crate) fn run_at(&self, cluster: u64) -> Option<(u64, Run)> {
        let Kept::Elsewhere(runs, _) = &self.kept else { return None };
        let index = runs.partition_point(|(first, run)| first.saturating_add(run.clusters) <= cluster);
        let (first, run) = runs.get(index)?;
        Some((cluster.saturating_sub(*first), *run))
    }

    pub(crate) fn flags(&self) -> u16 {
        self.flags
    }

    pub(crate) fn compression_unit(&self) -> u8 {
        self.compression_unit
    }

    pub(crate) fn is_inside(&self) -> bool {
        matches!(self.kept, Kept::Inside(_))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn initialized_bytes(&self) -> u64 {
        self.initialized_bytes
    }

    /// Where it is on the volume: sorted and merged; `None` when two of its runs overlap.
    pub(crate) fn extents(&self, boot: &Boot) -> Option<Vec<Extent>> {
        let Kept::Elsewhere(runs, _) = &self.kept else { return Some(Vec::new()) };
        let mut extents: Vec<Extent> = runs.iter().filter_map(|(_, run)| run.extent(boot)).collect();
        extents.sort_unstable();
        let mut merged: Vec<Extent> = Vec::new();
        for extent in extents {
            match merged.last_mut() {
                Some(last) if last.end() > extent.offset => return None,
                Some(last) if last.end() == extent.offset => {
                    last.bytes = last.bytes.saturating_add(extent.bytes);
                }
                _ => merged.push(extent),
            }
        }
        Some(merged)
    }

    /// The first cluster on the volume.
    pub(crate) fn first_cluster(&self) -> Option<u64> {
        match &self.kept {
            Kept::Inside(_) => None,
            Kept::Elsewhere(runs, _) => runs.first()?.1.at,
        }
    }

    /// `len` bytes at `offset` of the value.
    pub(crate) fn read(&self, disk: Disk<'_>, offset: u64, len: u64) -> Result<Vec<u8>, Doubt> {
        let outside = || Doubt::Outside { offset, bytes: len, found: self.bytes };
        // Whatever the runs are, no more is in memory than one read would give.
        if usize::try_from(len).map_or(true, |len| len > READ_BYTES_MAX) {
            return Err(outside());
        }
        let end = offset.checked_add(len).filter(|end| *end <= self.bytes).ok_or_else(outside)?;
        let runs = match &self.kept {
            Kept::Inside(value) => {
                let span = usize::try_from(offset).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(0);
                return value.get(span).map(<[u8]>::to_vec).ok_or_else(outside);
            }
            Kept::Elsewhere(runs, _) => runs,
        };
        if self.flags & NOT_PLAIN & !SPARSE != 0 {
            return Err(Doubt::Feature { place: "flags of an attribute", found: self.flags.into() });
        }
        let mut read = Vec::new();
        let mut at = offset;
        while at < end {
            let part = if at < self.initialized_bytes {
                let cluster = at.checked_div(disk.boot.cluster_bytes).unwrap_or(0);
                let index =
                    runs.partition_point(|(first, run)| first.saturating_add(run.clusters) <= cluster);
                let (first, run) = runs.get(index).ok_or_else(outside)?;
                let into = at.saturating_sub(disk.boot.place(*first));
                let left = disk.boot.place(run.clusters).saturating_sub(into);
                let until = end.min(self.initialized_bytes);
                let len = usize::try_from(left.min(until.saturating_sub(at))).map_err(|_| outside())?;
                match run.at {
                    Some(place) => disk.volume.read(disk.boot.place(place).saturating_add(into), len)?,
                    None => zeros(len)?,
                }
            } else {
                zeros(usize::try_from(end.saturating_sub(at)).map_err(|_| outside())?)?
            };
            // Each part has at least one byte.
            at = at.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
            read.extend_from_slice(&part);
        }
        Ok(read)
    }
}

/// What a hole reads as; no more than the volume would give at once.
fn zeros(len: usize) -> Result<Vec<u8>, Doubt> {
    match len {
        1..=READ_BYTES_MAX => Ok(vec![0; len]),
        _ => Err(Doubt::Impossible { place: "bytes read at once", found: 0 }),
    }
}

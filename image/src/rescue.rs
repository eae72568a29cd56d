//! Reading from a device that may have bad sectors.
//!
//! Promise: what can be read is read; what cannot is returned as ranges on sector borders, never passed off as zeros.
//! It ends: a dead disk, one that fails here and at probes all over it, is an error and not a list of bad ranges.
//! Knows nothing of segments or chunks.

use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Extent, ReadAt};

use crate::segment::in_memory;
use crate::source::join_extents;
use crate::{Error, Note, Progress};

/// Tries for a single sector: drives often deliver at a second or third try, and retry by themselves many times within
/// one of ours.
const SECTOR_TRIES: u32 = 3;

/// After so many failed sectors in a row each gets one try only: this is a scratch, not a weak sector, and each try may
/// take the drive seconds.
const FAILURES_PATIENT: u64 = 64;

/// Each time so many sectors in a row have failed, the rest of the disk is probed.
const FAILURES_BEFORE_PROBES: u64 = 1024;

/// Sectors probed, evenly spread, from the first to the last. A disk on which all fail has nothing to give.
const PROBES: u64 = 16;

/// Reads a device around its bad sectors; shared by the threads that read the same device.
pub(crate) struct Rescuer<'a> {
    device: &'a dyn ReadAt,
    /// The same without anything in between: whether it lives.
    medium: &'a dyn ReadAt,
    progress: &'a dyn Progress,
    /// Over all threads: any success sets it back.
    failures: AtomicU64,
}

impl<'a> Rescuer<'a> {
    pub(crate) fn new(
        device: &'a dyn ReadAt,
        medium: &'a dyn ReadAt,
        progress: &'a dyn Progress,
    ) -> Rescuer<'a> {
        Rescuer { device, medium, progress, failures: AtomicU64::new(0) }
    }

    /// Fills `buf` with the device's bytes from `offset`; returns the ranges that could not be read, in order. Their
    /// bytes in `buf` are undefined.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<Vec<Extent>, Error> {
        let mut bad = Vec::new();
        self.read_or_split(offset, buf, &mut bad)?;
        let bad = join_extents(bad);
        for range in &bad {
            self.progress.note(Note::BadRange(*range));
        }
        Ok(bad)
    }

    /// Splits at a sector border near the middle until what is left is one sector. Depth: log2 of a window's sectors.
    fn read_or_split(&self, offset: u64, buf: &mut [u8], bad: &mut Vec<Extent>) -> Result<(), Error> {
        let error = match self.device.read_exact_at(offset, buf) {
            Ok(()) => {
                self.failures.store(0, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) if error.is_unreadable() => error,
            Err(source) => return Err(Error::ReadSource { offset, bytes: buf.len() as u64, source }),
        };
        if self.progress.cancelled() {
            return Err(Error::Interrupted);
        }
        match middle(offset, buf.len(), self.sector_bytes()) {
            Some(middle) => {
                let (first, second) = buf.split_at_mut(middle);
                self.read_or_split(offset, first, bad)?;
                self.read_or_split(offset + middle as u64, second, bad)
            }
            None => self.retry(offset, buf, error, bad),
        }
    }

    /// The last tries for one sector.
    fn retry(
        &self,
        offset: u64,
        buf: &mut [u8],
        first: disk::Error,
        bad: &mut Vec<Extent>,
    ) -> Result<(), Error> {
        let bytes = buf.len() as u64;
        let patient = self.failures.load(Ordering::Relaxed) < FAILURES_PATIENT;
        let mut last = first;
        for _ in 1..if patient { SECTOR_TRIES } else { 1 } {
            match self.device.read_exact_at(offset, buf) {
                Ok(()) => {
                    self.failures.store(0, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if error.is_unreadable() => last = error,
                Err(source) => return Err(Error::ReadSource { offset, bytes, source }),
            }
        }
        let failed = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failed.is_multiple_of(FAILURES_BEFORE_PROBES) && !self.probes_succeed(offset)? {
            return Err(Error::SourceDead { offset, failed, probes: PROBES, source: last });
        }
        bad.push(Extent { offset, bytes });
        Ok(())
    }

    /// Whether the device still delivers anything, anywhere.
    fn probes_succeed(&self, offset: u64) -> Result<bool, Error> {
        let sector = self.sector_bytes();
        let sectors = self.device.size_bytes() / sector;
        let mut buf = vec![0; in_memory(sector)];
        for probe in 0..PROBES {
            // Spread as (sectors - 1) * probe / 15, without the overflow that this has on huge devices.
            let at = sectors.saturating_sub(1) / (PROBES - 1) * probe;
            match self.medium.read_exact_at(at * sector, &mut buf) {
                Ok(()) => return Ok(true),
                Err(error) if error.is_unreadable() => {}
                Err(source) => return Err(Error::ReadSource { offset, bytes: sector, source }),
            }
        }
        Ok(false)
    }

    fn sector_bytes(&self) -> u64 {
        u64::from(self.device.sector_bytes()).max(1)
    }
}

/// Where to split a range so that both parts end at a multiple of `unit`, near its middle: `None` when it lies within one.
pub(crate) fn middle(offset: u64, bytes: usize, unit: u64) -> Option<usize> {
    let end = offset + bytes as u64;
    let middle = (offset + bytes as u64 / 2).next_multiple_of(unit);
    let middle = if middle < end { middle } else { (end - 1) / unit * unit };
    (offset < middle && middle < end).then(|| in_memory(middle - offset))
}

#[cfg(test)]
mod tests {
    use disk::{FaultDevice, MemoryDevice};
    use proptest::prelude::*;

    use super::*;

    fn extent(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes }
    }

    proptest! {
        #[test]
        fn all_but_the_bad_sectors_is_read(bad in prop::collection::vec(0u64..64, 0..8), start in 0u64..30, count in 1u64..33) {
            let bytes: Vec<u8> = (0..64 * 512u32).map(|at| at.to_le_bytes()[1] | 1).collect();
            let ranges: Vec<Extent> = bad.iter().map(|sector| extent(sector * 512 + 7, 3)).collect();
            let device = FaultDevice::new(MemoryDevice::new(bytes.clone()), ranges);
            let mut buf = vec![0; in_memory(count * 512)];
            let found = Rescuer::new(&device, &device, &()).read(start * 512, &mut buf).unwrap();
            for sector in start..start + count {
                let at = in_memory((sector - start) * 512);
                let is_bad = found.iter().any(|range| range.overlaps(&extent(sector * 512, 512)));
                prop_assert_eq!(is_bad, bad.contains(&sector));
                prop_assert!(is_bad || buf[at..at + 512] == bytes[in_memory(sector * 512)..][..512]);
            }
            for range in found {
                prop_assert!(range.offset.is_multiple_of(512) && range.bytes.is_multiple_of(512));
            }
        }
    }

    #[test]
    fn a_dead_disk_is_an_error() {
        let device = FaultDevice::new(MemoryDevice::zeros(8 << 20), vec![extent(0, 8 << 20)]);
        let mut buf = vec![0; 4 << 20];
        let result = Rescuer::new(&device, &device, &()).read(0, &mut buf);
        assert!(matches!(result, Err(Error::SourceDead { failed: 1024, .. })), "{result:?}");
    }

    #[test]
    fn a_long_scratch_is_bad_ranges() {
        let device = FaultDevice::new(MemoryDevice::zeros(8 << 20), vec![extent(4096, 3 << 20)]);
        let mut buf = vec![0; 4 << 20];
        let bad = Rescuer::new(&device, &device, &()).read(0, &mut buf).unwrap();
        assert_eq!(bad, [extent(4096, 3 << 20)]);
    }

    #[test]
    fn a_device_that_goes_is_an_error_with_its_offset() {
        let device = FaultDevice::new(MemoryDevice::zeros(8192), Vec::new());
        device.shrink_to(4096);
        let mut buf = vec![0; 4096];
        let result = Rescuer::new(&device, &device, &()).read(4096, &mut buf);
        assert!(matches!(result, Err(Error::ReadSource { offset: 4096, bytes: 4096, .. })), "{result:?}");
    }
}

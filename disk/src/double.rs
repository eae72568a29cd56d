//! Devices for tests: one of memory, and one that fails on demand.
//!
//! Promise: they behave as real devices do, errors included. For tests only.

use std::path::PathBuf;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;

use crate::{Error, Extent, ReadAt, WriteAt};

/// Test double: a device of memory.
#[derive(Debug, Default)]
pub struct MemoryDevice {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryDevice {
    /// A device that holds these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes) }
    }

    /// A device of zeros.
    #[must_use]
    pub fn zeros(len: usize) -> Self {
        Self::new(vec![0; len])
    }

    /// A copy of all that it holds.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.read().clone()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn name() -> PathBuf {
    PathBuf::from("memory")
}

fn span(offset: u64, bytes: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(bytes)?)
}

fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

impl ReadAt for MemoryDevice {
    fn size_bytes(&self) -> u64 {
        len64(self.read().len())
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let bytes = self.read();
        if let Some(from) = span(offset, buf.len()).and_then(|span| bytes.get(span)) {
            buf.copy_from_slice(from);
            return Ok(());
        }
        let (expected, found) = (len64(buf.len()), len64(bytes.len()).saturating_sub(offset));
        Err(Error::ShortRead { path: name(), offset, expected, found })
    }
}

impl WriteAt for MemoryDevice {
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error> {
        let mut bytes = self.bytes.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let size_bytes = len64(bytes.len());
        if let Some(to) = span(offset, buf.len()).and_then(|span| bytes.get_mut(span)) {
            to.copy_from_slice(buf);
            return Ok(());
        }
        Err(Error::OutOfRange { path: name(), offset, bytes: len64(buf.len()), size_bytes })
    }

    fn write_zeros_at(&self, extent: Extent) -> Result<(), Error> {
        let mut bytes = self.bytes.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let size_bytes = len64(bytes.len());
        let span = usize::try_from(extent.bytes).ok().and_then(|len| span(extent.offset, len));
        if let Some(to) = span.and_then(|span| bytes.get_mut(span)) {
            to.fill(0);
            return Ok(());
        }
        Err(Error::OutOfRange { path: name(), offset: extent.offset, bytes: extent.bytes, size_bytes })
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Test double: a device with bad extents, that can shrink or disappear.
#[derive(Debug)]
pub struct FaultDevice<D> {
    inner: D,
    bad: Vec<Extent>,
    shrunk_to: AtomicU64,
    disappears_at: AtomicU64,
    gone: AtomicBool,
    reads: AtomicU64,
}

impl<D: ReadAt> FaultDevice<D> {
    /// Reads (and writes) that touch one of the `bad` extents fail with EIO.
    pub fn new(inner: D, bad: Vec<Extent>) -> Self {
        let never = || AtomicU64::new(u64::MAX);
        let (shrunk_to, disappears_at) = (never(), never());
        Self { inner, bad, shrunk_to, disappears_at, gone: AtomicBool::new(false), reads: AtomicU64::new(0) }
    }

    /// From now on the device ends here, though it still claims its old size.
    pub fn shrink_to(&self, bytes: u64) {
        self.shrunk_to.store(bytes, Ordering::SeqCst);
    }

    /// The first access that touches a byte at or behind `offset` pulls the plug: it and all later ones fail.
    pub fn disappear_at(&self, offset: u64) {
        self.disappears_at.store(offset, Ordering::SeqCst);
    }

    /// How many reads were tried.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// The device behind.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    fn check(&self, extent: Extent, fault: impl Fn(u64, Errno) -> Error) -> Result<(), Error> {
        let offset = extent.offset;
        if extent.end() > self.disappears_at.load(Ordering::SeqCst) {
            self.gone.store(true, Ordering::SeqCst);
        }
        if self.gone.load(Ordering::SeqCst) || extent.end() > self.shrunk_to.load(Ordering::SeqCst) {
            return Err(Error::Gone { path: PathBuf::from("fault"), offset, source: Errno::NODEV.into() });
        }
        match self.bad.iter().any(|bad| bad.overlaps(&extent)) {
            true => Err(fault(offset, Errno::IO)),
            false => Ok(()),
        }
    }
}

impl<D: ReadAt> ReadAt for FaultDevice<D> {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let bytes = len64(buf.len());
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.check(Extent { offset, bytes }, |offset, errno| {
            Error::of_read("fault".as_ref(), offset, bytes, errno)
        })?;
        self.inner.read_exact_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        self.inner.next_data(offset)
    }

    fn sector_bytes(&self) -> u32 {
        self.inner.sector_bytes()
    }
}

impl<D: WriteAt> WriteAt for FaultDevice<D> {
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error> {
        let bytes = len64(buf.len());
        self.check(Extent { offset, bytes }, |offset, errno| {
            Error::of_write("fault".as_ref(), offset, bytes, errno)
        })?;
        self.inner.write_all_at(offset, buf)
    }

    fn write_zeros_at(&self, extent: Extent) -> Result<(), Error> {
        self.check(extent, |offset, errno| Error::of_write("fault".as_ref(), offset, extent.bytes, errno))?;
        self.inner.write_zeros_at(extent)
    }

    fn sync(&self) -> Result<(), Error> {
        self.inner.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_apart() {
        let device =
            FaultDevice::new(MemoryDevice::new(vec![7; 4096]), vec![Extent { offset: 1024, bytes: 512 }]);
        let mut buf = [0; 512];
        device.read_exact_at(512, &mut buf).unwrap();
        assert!(device.read_exact_at(1100, &mut buf).unwrap_err().is_unreadable());
        assert!(device.write_all_at(1100, &buf).is_err());
        assert!(matches!(device.read_exact_at(4000, &mut buf), Err(Error::ShortRead { found: 96, .. })));
        device.shrink_to(2048);
        assert!(device.read_exact_at(2048, &mut buf).unwrap_err().is_gone());
        device.read_exact_at(0, &mut buf).unwrap();
        device.disappear_at(600);
        assert!(device.read_exact_at(512, &mut buf).unwrap_err().is_gone());
        assert!(device.read_exact_at(0, &mut buf).unwrap_err().is_gone());
        assert_eq!(device.reads(), 7);
    }
}

//! A device or file that was chosen to be overwritten.
//!
//! Promise: nobody else has the device: no mount, no holder, no other `cas`; reading it back bypasses the page cache.
//! Knows nothing of why it may be overwritten: that was asked before.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{FlockOperation, flock, ftruncate};
use rustix::io::Errno;

use crate::device::identity::{DeviceKind, Identity};
use crate::device::medium::{Access, Cache, Medium};
use crate::system::System;
use crate::{Error, Extent, ReadAt, WriteAt, sys};

/// A place to write to: a disk, a partition or a regular file, held exclusively.
#[derive(Debug)]
pub struct Target {
    medium: Medium,
    identity: Identity,
    /// Held while a sector is read, changed and written.
    edges: Mutex<()>,
}

impl Target {
    /// Opens a block device for writing, and keeps everyone else from it (systemd: Locking Block Device Access).
    ///
    /// # Errors
    /// [`Error::Busy`] when it is mounted, held or locked; [`Error::NotABlockDevice`]; [`Error::Open`].
    pub fn open_device(path: &Path) -> Result<Self, Error> {
        let file = Medium::open_file(path, Access::Exclusive, Cache::Bypass)?;
        lock(&file, path)?;
        let identity = Identity::of_open(&file, path, &System::real())?;
        let medium = Medium::new(file, path, &identity, Cache::Bypass);
        Ok(Self { medium, identity, edges: Mutex::new(()) })
    }

    /// Creates or opens a regular file and gives it `bytes`; what is added is a hole.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Busy`], [`Error::NotADevice`], [`Error::Resize`].
    pub fn open_file(path: &Path, bytes: u64) -> Result<Self, Error> {
        let file = Medium::open_file(path, Access::Create, Cache::Bypass)?;
        lock(&file, path)?;
        ftruncate(&file, bytes).map_err(|e| Error::Resize {
            path: path.to_owned(),
            bytes,
            source: e.into(),
        })?;
        let identity = Identity::of_open(&file, path, &System::real())?;
        let mut medium = Medium::new(file, path, &identity, Cache::Bypass);
        medium.allow_direct();
        Ok(Self { medium, identity, edges: Mutex::new(()) })
    }

    /// What is really open, whatever the path means by now.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Asks the kernel to look at the partition table again. A file, a partition, and a device that the kernel never
    /// scans have nothing to look at again: success.
    ///
    /// # Errors
    /// [`Error::Reread`], most often because a partition is in use.
    pub fn reread_table(&self) -> Result<(), Error> {
        if self.identity.kind != DeviceKind::Disk {
            return Ok(());
        }
        match sys::reread_partitions(self.medium.file().as_fd()) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(e) => Err(Error::Reread { path: self.medium.path().to_owned(), source: e.into() }),
        }
    }

    fn check_span(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        let size_bytes = self.identity.size_bytes;
        match offset.checked_add(bytes) {
            Some(end) if end <= size_bytes => Ok(()),
            _ => Err(Error::OutOfRange { path: self.medium.path().to_owned(), offset, bytes, size_bytes }),
        }
    }
}

fn lock(file: &std::fs::File, path: &Path) -> Result<(), Error> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
        let (path, source) = (path.to_owned(), e.into());
        match e {
            Errno::WOULDBLOCK => Error::Busy { path, source },
            _ => Error::Open { path, source },
        }
    })
}

impl ReadAt for Target {
    fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.medium.read_exact_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        self.medium.next_data(offset)
    }

    fn sector_bytes(&self) -> u32 {
        self.identity.logical_sector_bytes
    }
}

impl WriteAt for Target {
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error> {
        self.check_span(offset, u64::try_from(buf.len()).unwrap_or(u64::MAX))?;
        self.medium.write_all_at(offset, buf, &self.edges)
    }

    fn write_zeros_at(&self, extent: Extent) -> Result<(), Error> {
        self.check_span(extent.offset, extent.bytes)?;
        self.medium.write_zeros_at(extent, &self.edges)
    }

    fn sync(&self) -> Result<(), Error> {
        let file = self.medium.file();
        file.sync_all().map_err(|source| Error::Sync { path: self.medium.path().to_owned(), source })
    }
}

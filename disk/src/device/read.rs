//! A device or file, open for reading and nothing else.
//!
//! Promise: the descriptor cannot write (I7); a disk is read past the page cache, a file without filling it.
//! Knows nothing of what the bytes mean.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use crate::device::identity::{DeviceKind, Identity};
use crate::device::medium::{Access, Cache, Medium};
use crate::system::System;
use crate::uses::uses;
use crate::{Error, Extent, ReadAt};

/// A source of bytes: a disk, a partition or a regular file.
#[derive(Debug)]
pub struct Device {
    medium: Medium,
    identity: Identity,
    /// Open exclusively, once claimed.
    claim: OnceLock<File>,
}

impl Device {
    /// Opens a block device past the page cache, or a regular file.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::NotADevice`], or what the kernel would not tell.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Cache::Bypass)
    }

    /// Opens through the page cache: for short looks, where a second look should be fast.
    ///
    /// # Errors
    /// As for [`Device::open`].
    pub fn open_buffered(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Cache::Use)
    }

    fn open_with(path: &Path, cache: Cache) -> Result<Self, Error> {
        let file = Medium::open_file(path, Access::Read, cache)?;
        let identity = Identity::of_open(&file, path, &System::real())?;
        let medium = Medium::new(file, path, &identity, cache);
        Ok(Self { medium, identity, claim: OnceLock::new() })
    }

    /// Keeps everyone else from mounting or claiming a block device, as long as this value lives; whether that is so now.
    /// `false`: somebody was faster, though nobody need be seen in any list (another mount namespace, a network target).
    /// Who only has it mounted read-only, or swaps there, and is seen, does not count. Files can't be claimed.
    pub fn claim(&self) -> bool {
        let path = Path::new(&self.identity.path);
        if self.identity.kind == DeviceKind::File {
            return true;
        }
        match Medium::open_file(path, Access::Claim, Cache::Use) {
            Ok(file) => self.claim.set(file).is_ok() || self.claim.get().is_some(),
            Err(Error::Busy { .. }) => {
                self.claim.get().is_some() || uses(path).is_ok_and(|uses| !uses.is_empty())
            }
            Err(_) => false,
        }
    }

    /// What the device is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Device {
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

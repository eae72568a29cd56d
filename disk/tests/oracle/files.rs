//! What lies in a mounted folder, the complement of a list of extents, and a device with a flipped byte.
//!
//! Promise: two folders with the same list have the same names and bytes.
//! Knows nothing of filesystems.
#![allow(clippy::cast_possible_truncation)] // images fit into memory

use std::hash::{DefaultHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use disk::{Device, Error, Extent, ReadAt};

use crate::tools::merged;

/// The hash of each file's name and bytes (of huge ones, of their beginning and length), sorted.
pub(crate) fn hashes(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            found.extend(hashes(&path));
        } else if meta.is_file() {
            let mut hasher = DefaultHasher::new();
            let bytes = if meta.len() > 256 << 20 { Vec::new() } else { std::fs::read(&path).unwrap() };
            hasher.write(&bytes);
            hasher.write_u64(meta.len());
            found.push((path.display().to_string(), hasher.finish()));
        } else if meta.is_symlink() {
            let mut hasher = DefaultHasher::new();
            hasher.write(std::fs::read_link(&path).unwrap().as_os_str().as_bytes());
            found.push((path.display().to_string(), hasher.finish()));
        }
    }
    found.sort();
    found
}

/// All that these extents leave of so many bytes.
pub(crate) fn complement(used: Vec<Extent>, bytes: u64) -> Vec<Extent> {
    let mut free = Vec::new();
    let mut from = 0;
    for extent in merged(used) {
        free.push(Extent { offset: from, bytes: extent.offset.min(bytes).saturating_sub(from) });
        from = extent.end();
    }
    free.push(Extent { offset: from, bytes: bytes.saturating_sub(from) });
    free.retain(|extent| extent.bytes > 0);
    free
}

/// A device in which one byte is another, and what reads it is made to look right.
pub(crate) struct Flipped<'a> {
    pub(crate) device: &'a Device,
    pub(crate) at: u64,
    pub(crate) with: u8,
    pub(crate) repair: fn(&mut [u8]),
}

impl ReadAt for Flipped<'_> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.device.read_exact_at(offset, buf)?;
        if let Some(byte) = self.at.checked_sub(offset).and_then(|at| buf.get_mut(at as usize)) {
            *byte ^= self.with;
            (self.repair)(buf);
        }
        Ok(())
    }
}

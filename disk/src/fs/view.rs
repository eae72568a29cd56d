//! A volume as the filesystem on it sees it: bytes from 0 on, and the numbers in them.
//!
//! Promise: no read leaves the volume or is longer than [`READ_BYTES_MAX`]; a number that is not there is a doubt, not a
//! panic.
//! Knows nothing of any filesystem.

use super::Doubt;
use crate::{Extent, ReadAt};

/// The longest single read: several times the largest block of any filesystem.
pub(crate) const READ_BYTES_MAX: usize = 16 << 20;

/// A volume of a device.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    device: &'a dyn ReadAt,
    volume: Extent,
}

impl<'a> View<'a> {
    /// The part of the volume that the device has.
    pub(crate) fn new(device: &'a dyn ReadAt, volume: Extent) -> Self {
        let bytes = volume.end().min(device.size_bytes()).saturating_sub(volume.offset);
        Self { device, volume: Extent { offset: volume.offset, bytes } }
    }

    /// Size of the volume.
    pub(crate) fn bytes(&self) -> u64 {
        self.volume.bytes
    }

    /// A part of it, as a volume of its own; [`Doubt::Outside`] when it is not inside.
    pub(crate) fn part(&self, extent: Extent) -> Result<Self, Doubt> {
        let end = extent.offset.checked_add(extent.bytes);
        match (end, self.volume.offset.checked_add(extent.offset)) {
            (Some(end), Some(offset)) if end <= self.volume.bytes => {
                Ok(Self { device: self.device, volume: Extent { offset, bytes: extent.bytes } })
            }
            _ => Err(Doubt::Outside { offset: extent.offset, bytes: extent.bytes, found: self.volume.bytes }),
        }
    }

    /// Fills `buf` with the bytes at `offset`.
    pub(crate) fn read_into(&self, offset: u64, buf: &mut [u8]) -> Result<(), Doubt> {
        let bytes = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let part = self.part(Extent { offset, bytes })?;
        self.device.read_exact_at(part.volume.offset, buf).map_err(|source| Doubt::Unreadable { source })
    }

    /// The `len` bytes at `offset`, at most [`READ_BYTES_MAX`].
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Doubt> {
        let bytes = u64::try_from(len).unwrap_or(u64::MAX);
        // Before anything is allocated.
        self.part(Extent { offset, bytes })?;
        if len > READ_BYTES_MAX {
            return Err(Doubt::Outside { offset, bytes, found: self.volume.bytes });
        }
        let mut buf = vec![0; len];
        self.read_into(offset, &mut buf)?;
        Ok(buf)
    }
}

/// Numbers in a structure. All fail with [`Doubt::Short`] behind its end.
pub(crate) trait Fields {
    /// `len` bytes.
    fn part(&self, at: usize, len: usize) -> Result<&[u8], Doubt>;

    /// `N` bytes.
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Doubt> {
        self.part(at, N)?.try_into().map_err(|_| Doubt::Short { at })
    }
    /// One byte.
    fn byte(&self, at: usize) -> Result<u8, Doubt> {
        self.array(at).map(u8::from_le_bytes)
    }
    /// Little endian, 16 bits.
    fn le16(&self, at: usize) -> Result<u16, Doubt> {
        self.array(at).map(u16::from_le_bytes)
    }
    /// Little endian, 32 bits.
    fn le32(&self, at: usize) -> Result<u32, Doubt> {
        self.array(at).map(u32::from_le_bytes)
    }
    /// Little endian, 64 bits.
    fn le64(&self, at: usize) -> Result<u64, Doubt> {
        self.array(at).map(u64::from_le_bytes)
    }
    /// Big endian, 16 bits.
    fn be16(&self, at: usize) -> Result<u16, Doubt> {
        self.array::<2>(at).map(|[a, b]| u16::from_le_bytes([b, a]))
    }
    /// Big endian, 32 bits.
    fn be32(&self, at: usize) -> Result<u32, Doubt> {
        self.le32(at).map(u32::swap_bytes)
    }
    /// Big endian, 64 bits.
    fn be64(&self, at: usize) -> Result<u64, Doubt> {
        self.le64(at).map(u64::swap_bytes)
    }
}

impl Fields for [u8] {
    fn part(&self, at: usize, len: usize) -> Result<&[u8], Doubt> {
        at.checked_add(len).and_then(|end| self.get(at..end)).ok_or(Doubt::Short { at })
    }
}

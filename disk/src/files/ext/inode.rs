//! An inode: what a file is, who owns it, when it changed, and where its contents begin.
//!
//! Promise: where the filesystem has checksums, this inode's holds.
//! Knows nothing of blocks and folders. Fields: linux Documentation/filesystems/ext4/inodes.rst.

use super::super::FileTime;
use super::super::fault::{Fault, len};
use super::Ext;
use crate::fs::Doubt;
use crate::fs::crc::crc32c;
use crate::fs::ext::groups::Descriptor;
use crate::fs::ext::superblock::Checksums;
use crate::fs::view::Fields;

/// Bits of `i_mode` that say what it is.
pub(super) const S_IFMT: u16 = 0xf000;
pub(super) const S_IFDIR: u16 = 0x4000;
pub(super) const S_IFREG: u16 = 0x8000;
pub(super) const S_IFLNK: u16 = 0xa000;

/// `i_flags`.
pub(super) const ENCRYPTED: u32 = 0x800;
pub(super) const EXTENTS: u32 = 0x8_0000;
pub(super) const EA_INODE: u32 = 0x20_0000;
pub(super) const INLINE_DATA: u32 = 0x1000_0000;
pub(super) const CASEFOLD: u32 = 0x4000_0000;
/// Of the compression patches for ext2, which nobody has any more: contents would be in blocks that only look plain.
const COMPRESSED_BLOCKS: u32 = 0x200;

/// Where the inode of old ends, and what is behind it begins.
pub(super) const OLD_BYTES: usize = 128;

/// An inode, whole.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) raw: Vec<u8>,
    /// Of everything that belongs to it.
    pub(super) seed: Option<u32>,
    pub(super) mode: u16,
    pub(super) flags: u32,
    pub(super) bytes: u64,
}

impl Inode {
    pub(super) fn read(ext: &Ext, number: u64) -> Result<Self, Fault> {
        let superblock = &ext.superblock;
        let index = number.checked_sub(1).filter(|index| *index < superblock.inodes());
        let index = index.ok_or(Fault::NotFound)?;
        let group = index.checked_div(superblock.group_inodes).unwrap_or(0);
        let within = index.checked_rem(superblock.group_inodes).unwrap_or(0);
        let place = ext
            .inode_table(group)?
            .saturating_mul(superblock.block_bytes)
            .saturating_add(within.saturating_mul(superblock.inode_bytes));
        let raw = ext.view().read(place, len(superblock.inode_bytes))?;
        let number = u32::try_from(number).map_err(|_| Fault::NotFound)?;
        Self::decode(ext, number, raw)
    }

    fn decode(ext: &Ext, number: u32, raw: Vec<u8>) -> Result<Self, Fault> {
        let (mode, flags) = (raw.le16(0)?, raw.le32(0x20)?);
        if mode == 0 && raw.le16(0x1a)? == 0 {
            return Err(Fault::NotFound);
        }
        let seed = match ext.superblock.checksums {
            Checksums::All { seed } => {
                let seed = crc32c(crc32c(seed, &number.to_le_bytes()), raw.part(0x64, 4)?);
                check_sum(&raw, seed, number)?;
                Some(seed)
            }
            _ => None,
        };
        if flags & COMPRESSED_BLOCKS != 0 {
            return Err(Fault::Unsupported("compression of ext2"));
        }
        let low = u64::from(raw.le32(4)?);
        let is_long = mode & S_IFMT != S_IFDIR || ext.superblock.has_large_folders();
        let high = if is_long { u64::from(raw.le32(0x6c)?) } else { 0 };
        Ok(Self { mode, flags, bytes: low | high << 32, seed, raw })
    }

    pub(super) fn is(&self, kind: u16) -> bool {
        self.mode & S_IFMT == kind
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// The 60 bytes that say where its contents are, or are its contents.
    pub(super) fn map(&self) -> Result<&[u8], Fault> {
        Ok(self.raw.part(0x28, 60)?)
    }

    pub(super) fn owner(&self) -> Result<(u32, u32), Doubt> {
        let halves = |low, high| -> Result<u32, Doubt> {
            Ok(u32::from(self.raw.le16(low)?) | u32::from(self.raw.le16(high)?) << 16)
        };
        Ok((halves(0x2, 0x78)?, halves(0x18, 0x7a)?))
    }

    pub(super) fn links(&self) -> Result<u32, Doubt> {
        self.raw.le16(0x1a).map(u32::from)
    }

    /// The block of extended attributes; 0: none.
    pub(super) fn attribute_block(&self) -> Result<u64, Doubt> {
        Ok(u64::from(self.raw.le32(0x68)?) | u64::from(self.raw.le16(0x76)?) << 32)
    }

    /// Bytes behind the old inode that hold fields; attributes follow.
    pub(super) fn extra_bytes(&self) -> Result<usize, Doubt> {
        match self.raw.len() > OLD_BYTES {
            true => self.raw.le16(OLD_BYTES).map(usize::from),
            false => Ok(0),
        }
    }

    /// A field behind the old inode, where it has it.
    fn extra(&self, at: usize) -> Result<Option<u32>, Doubt> {
        let has = at.saturating_add(4) <= self.extra_bytes()?.saturating_add(OLD_BYTES);
        match has && at.saturating_add(4) <= self.raw.len() {
            true => self.raw.le32(at).map(Some),
            false => Ok(None),
        }
    }

    /// inodes.rst, "Inode Timestamps": 34 bits of seconds, the lower 32 of them signed, and 30 of nanoseconds.
    fn time(&self, at: usize, extra: Option<u32>) -> Result<FileTime, Doubt> {
        let seconds = i64::from(self.raw.le32(at)?.cast_signed());
        let extra = extra.unwrap_or(0);
        let epoch = i64::from(extra & 3) << 32;
        Ok(FileTime { seconds: seconds.saturating_add(epoch), nanos: (extra >> 2).min(999_999_999) })
    }

    pub(super) fn accessed(&self) -> Result<FileTime, Doubt> {
        self.time(0x8, self.extra(0x8c)?)
    }

    pub(super) fn changed(&self) -> Result<FileTime, Doubt> {
        self.time(0xc, self.extra(0x84)?)
    }

    pub(super) fn modified(&self) -> Result<FileTime, Doubt> {
        self.time(0x10, self.extra(0x88)?)
    }

    pub(super) fn created(&self) -> Result<Option<FileTime>, Doubt> {
        match self.extra(0x90)? {
            Some(_) => self.time(0x90, self.extra(0x94)?).map(Some),
            None => Ok(None),
        }
    }

    /// Major and minor number of a device: linux fs/ext4/inode.c, `__ext4_iget`; include/linux/kdev_t.h.
    pub(super) fn device(&self) -> Result<(u32, u32), Fault> {
        let map = self.map()?;
        let (old, new) = (map.le32(0)?, map.le32(4)?);
        Ok(match old {
            0 => ((new & 0xf_ff00) >> 8, (new & 0xff) | ((new >> 12) & 0xf_ff00)),
            old => ((old >> 8) & 0xff, old & 0xff),
        })
    }
}

/// linux fs/ext4/inode.c, `ext4_inode_csum`: over the inode with zeros in the checksum's place.
fn check_sum(raw: &[u8], seed: u32, number: u32) -> Result<(), Doubt> {
    const LOW: usize = 0x7c;
    const HIGH: usize = 0x82;
    let has_high = raw.len() > OLD_BYTES && raw.le16(OLD_BYTES)? >= 4;
    let mut sum = crc32c(crc32c(crc32c(seed, raw.part(0, LOW)?), &[0, 0]), raw.part(0x7e, 2)?);
    let mut expected = u32::from(raw.le16(LOW)?);
    if raw.len() > OLD_BYTES {
        sum = crc32c(sum, raw.part(OLD_BYTES, 2)?);
        sum = if has_high { crc32c(sum, &[0, 0]) } else { crc32c(sum, raw.part(HIGH, 2)?) };
        let rest = OLD_BYTES.saturating_add(4);
        sum = crc32c(sum, raw.part(rest, raw.len().saturating_sub(rest))?);
    }
    match has_high {
        true => expected |= u32::from(raw.le16(HIGH)?) << 16,
        false => sum &= 0xffff,
    }
    match sum == expected {
        true => Ok(()),
        false => Err(Doubt::Checksum { place: "inode", number: number.into() }),
    }
}

impl Ext {
    /// The first block of a group's inodes.
    fn inode_table(&self, group: u64) -> Result<u64, Fault> {
        let superblock = &self.superblock;
        let per_block = superblock.descriptors_per_block();
        let block = superblock.descriptor_block(group.checked_div(per_block).unwrap_or(0));
        let within = group.checked_rem(per_block).unwrap_or(0).saturating_mul(superblock.descriptor_bytes);
        let place = block.saturating_mul(superblock.block_bytes).saturating_add(within);
        let raw = self.view().read(place, len(superblock.descriptor_bytes))?;
        Ok(Descriptor::decode(superblock, group, &raw)?.inode_table)
    }
}

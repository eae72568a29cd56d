//! The superblock: how large blocks and groups are, and which features there are.
//!
//! Promise: version 4 or 5 with features that are known to leave the free-space trees as they are; the checksum holds;
//! everything is within the limits of the format, and on this one volume.
//! Knows nothing of what is in the groups. Format: xfsprogs libxfs/xfs_format.h, `struct xfs_dsb`; the checks:
//! libxfs/xfs_sb.c, `xfs_validate_sb_common`.

use super::super::Doubt;
use super::super::view::{Fields, View};
use super::{check_sum, same};
use crate::Extent;

/// A UUID.
pub(crate) type Uuid = [u8; 16];

/// Bits of `sb_versionnum` above the number: all are known but shared read-only mounts, `XFS_SB_VERSION_SHAREDBIT`.
const SHARED: u16 = 0x0200;
const LOG_V2: u16 = 0x0400;
const MORE_BITS: u16 = 0x8000;
/// `sb_features2`: lazy counters, attributes of version 2, project ids of 32 bits, types in folders; and checksums,
/// which version 5 has.
const LAZY_COUNTERS: u32 = 0x0002;
const FEATURES2: u32 = LAZY_COUNTERS | 0x0008 | 0x0080 | 0x0200;
const FEATURES2_CRC: u32 = 0x0100;
/// `sb_features_ro_compat`: tree of free inodes, reverse mapping, reflinks, counts of inode trees.
const RO_COMPAT: u32 = 0x000f;
/// `sb_features_incompat`: types in folders, sparse inodes, UUID of the metadata, times after 2038, 64-bit counts of
/// extents; linux fs/xfs/libxfs/xfs_format.h since 6.10: exchanging ranges of files, parents of files.
const INCOMPAT: u32 = 0x0001 | 0x0002 | META_UUID | 0x0008 | 0x0020 | 0x0040 | 0x0080;
const META_UUID: u32 = 0x0004;
const NEEDS_REPAIR: u32 = 0x0010;
/// `sb_features_log_incompat`: logged attributes.
const LOG_INCOMPAT: u32 = 0x0001;

/// `XFS_MIN_SECTORSIZE`…, `XFS_MIN_BLOCKSIZE`…: powers of two, as their logarithms.
const SECTOR_LOG: std::ops::RangeInclusive<u8> = 9..=15;
const BLOCK_LOG: std::ops::RangeInclusive<u8> = 9..=16;
/// `XFS_MIN_AG_BLOCKS`, `XFS_MAX_AG_BYTES`.
const GROUP_BLOCKS_MIN: u64 = 64;
const GROUP_BYTES_MAX: u64 = 1 << 40;
/// `XFS_MAX_LOG_BYTES` is a little less.
const LOG_BYTES_MAX: u64 = 2 << 30;

/// What the superblock says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Superblock {
    pub(crate) block_bytes: u64,
    pub(crate) sector_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) group_blocks: u64,
    pub(crate) groups: u64,
    pub(crate) free_blocks: u64,
    pub(crate) lazy_counters: bool,
    /// Version 5.
    pub(crate) has_sums: bool,
    pub(crate) uuid: Uuid,
    /// What metadata is marked with.
    pub(crate) meta_uuid: Uuid,
    /// First block, counted from the volume's start, and blocks of the log.
    pub(crate) log_start: u64,
    pub(crate) log_blocks: u64,
    pub(crate) log_v2: bool,
    group_log: u64,
}

impl Superblock {
    /// One whose free blocks can be told.
    pub(super) fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let head = Self::head(volume)?;
        if head.be16(100)? & 0xf == 5 {
            check_writing(&head)?;
        }
        check_sound(&head)?;
        let superblock = Self::decode(&head, volume.bytes())?;
        superblock.check_log()?;
        Ok(superblock)
    }

    /// Its sector, when all that must be known to read it is known.
    pub(crate) fn head(volume: &View<'_>) -> Result<Vec<u8>, Doubt> {
        let head = volume.read(0, 512)?;
        if head.be32(0)? != 0x5846_5342 {
            return Err(Doubt::Impossible { place: "signature of the superblock", found: 0 });
        }
        let sector_bytes = power_of_two(&head, "bytes of a sector", head.be16(102)?.into(), 121, SECTOR_LOG)?;
        let head = volume.read(0, super::size(sector_bytes))?;
        if check_version(&head)? {
            check_sum(&head, 224, "superblock", 0)?;
            check_reading(&head)?;
        }
        match head.byte(126)? {
            0 => Ok(head),
            _ => Err(Doubt::NotClean { place: "superblock" }),
        }
    }

    /// What it says, on a volume of so many bytes.
    pub(crate) fn decode(head: &[u8], volume_bytes: u64) -> Result<Self, Doubt> {
        let has_sums = check_version(head)?;
        let block_bytes = power_of_two(head, "bytes of a block", head.be32(4)?.into(), 120, BLOCK_LOG)?;
        let (blocks, group_blocks) = (head.be64(8)?, u64::from(head.be32(84)?));
        let (expected, found) = (blocks.saturating_mul(block_bytes), volume_bytes);
        if expected > found {
            return Err(Doubt::TooLarge { expected, found });
        }
        let group_log = u64::from(head.byte(124)?);
        let log2 = u64::from(group_blocks.next_power_of_two().trailing_zeros());
        if group_blocks < GROUP_BLOCKS_MIN || group_blocks.saturating_mul(block_bytes) > GROUP_BYTES_MAX {
            return Err(Doubt::Impossible { place: "blocks of a group", found: group_blocks });
        }
        same("logarithm of the blocks of a group", log2, group_log)?;
        let groups = blocks.div_ceil(group_blocks);
        same("groups", groups, head.be32(88)?.into())?;
        let uuid = head.array(32)?;
        let own = has_sums && head.be32(216)? & META_UUID != 0;
        Ok(Self {
            block_bytes,
            sector_bytes: head.be16(102)?.into(),
            blocks,
            group_blocks,
            groups,
            free_blocks: head.be64(144)?,
            lazy_counters: has_sums
                || (head.be16(100)? & MORE_BITS != 0 && head.be32(200)? & LAZY_COUNTERS != 0),
            has_sums,
            uuid,
            meta_uuid: if own { head.array(248)? } else { uuid },
            log_start: block_of(head.be64(48)?, group_log, group_blocks)?,
            log_blocks: head.be32(96)?.into(),
            log_v2: head.be16(100)? & LOG_V2 != 0,
            group_log,
        })
    }

    /// Where so many blocks lie that begin with one that is named as inodes and trees name it; never in two groups.
    pub(crate) fn extent(&self, first: u64, blocks: u64) -> Result<Extent, Doubt> {
        let block = block_of(first, self.group_log, self.group_blocks)?;
        let own = block.checked_rem(self.group_blocks).unwrap_or(0);
        let (start, len) = self.group(block.saturating_sub(own).checked_div(self.group_blocks).unwrap_or(0));
        if block < start || blocks > len.saturating_sub(own) {
            return Err(Doubt::Impossible { place: "number of a block", found: first });
        }
        Ok(Extent { offset: self.place(block), bytes: self.place(blocks) })
    }

    /// All that the filesystem has: what is behind it on the volume is used.
    pub(crate) fn bytes(&self) -> u64 {
        // Was compared with the volume's size.
        self.place(self.blocks)
    }

    /// Where a block begins.
    pub(crate) fn place(&self, block: u64) -> u64 {
        block.saturating_mul(self.block_bytes)
    }

    /// First block of a group, and how many it has: the last may have fewer.
    pub(crate) fn group(&self, number: u64) -> (u64, u64) {
        let first = number.saturating_mul(self.group_blocks);
        (first, self.blocks.saturating_sub(first).min(self.group_blocks))
    }

    pub(super) fn check_log(&self) -> Result<(), Doubt> {
        let end = self.log_start.saturating_add(self.log_blocks);
        let bytes = self.place(self.log_blocks);
        // It lies in one group.
        let (first, len) = self.group(self.log_start.checked_div(self.group_blocks).unwrap_or(0));
        if self.log_blocks == 0 || bytes > LOG_BYTES_MAX || end > first.saturating_add(len) {
            return Err(Doubt::Impossible { place: "blocks of the log", found: self.log_blocks });
        }
        Ok(())
    }
}

/// Whether it is version 5.
fn check_version(head: &[u8]) -> Result<bool, Doubt> {
    let version = head.be16(100)?;
    let has_sums = match version & 0x000f {
        4 => false,
        5 => true,
        found => return Err(Doubt::Feature { place: "XFS version", found: found.into() }),
    };
    if version & SHARED != 0 {
        return Err(Doubt::Feature { place: "XFS version", found: SHARED.into() });
    }
    let features2 = if version & MORE_BITS != 0 { head.be32(200)? } else { 0 };
    let known = if has_sums { FEATURES2 | FEATURES2_CRC } else { FEATURES2 };
    match features2 & !known {
        0 => Ok(has_sums),
        found => Err(Doubt::Feature { place: "XFS, more features", found: found.into() }),
    }
}

/// Features of version 5 that change where things are.
fn check_reading(head: &[u8]) -> Result<(), Doubt> {
    let incompat = head.be32(216)?;
    if incompat & NEEDS_REPAIR != 0 {
        return Err(Doubt::Damaged { place: "superblock" });
    }
    unknown("XFS, features", incompat, INCOMPAT)
}

/// Those that change what is free.
fn check_writing(head: &[u8]) -> Result<(), Doubt> {
    unknown("XFS, features for writing", head.be32(212)?, RO_COMPAT)?;
    unknown("XFS, features of the log", head.be32(220)?, LOG_INCOMPAT)
}

fn unknown(place: &'static str, found: u32, known: u32) -> Result<(), Doubt> {
    match found & !known {
        0 => Ok(()),
        found => Err(Doubt::Feature { place, found: found.into() }),
    }
}

/// All on this device, and not shared.
fn check_sound(head: &[u8]) -> Result<(), Doubt> {
    if head.byte(179)? != 0 {
        return Err(Doubt::NotClean { place: "superblock" });
    }
    if head.be64(48)? == 0 {
        return Err(Doubt::Elsewhere { place: "the log" });
    }
    if head.be64(16)? != 0 || head.be64(24)? != 0 {
        return Err(Doubt::Elsewhere { place: "the realtime section" });
    }
    Ok(())
}

fn power_of_two(
    head: &[u8],
    place: &'static str,
    found: u64,
    log_at: usize,
    logs: std::ops::RangeInclusive<u8>,
) -> Result<u64, Doubt> {
    let log = head.byte(log_at)?;
    match logs.contains(&log) && 1_u64.checked_shl(log.into()) == Some(found) {
        true => Ok(found),
        false => Err(Doubt::Impossible { place, found }),
    }
}

/// A block's number has the group's above its own in the group.
fn block_of(number: u64, group_log: u64, group_blocks: u64) -> Result<u64, Doubt> {
    let wrong = || Doubt::Impossible { place: "number of a block", found: number };
    let log = u32::try_from(group_log).map_err(|_| wrong())?;
    let group = number.checked_shr(log).ok_or_else(wrong)?;
    let own = number.checked_sub(group.checked_shl(log).ok_or_else(wrong)?).ok_or_else(wrong)?;
    if own >= group_blocks {
        return Err(wrong());
    }
    group.checked_mul(group_blocks).and_then(|first| first.checked_add(own)).ok_or_else(wrong)
}

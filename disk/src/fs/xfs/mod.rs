//! XFS: the free extents that each allocation group's trees list, the one by block number and the one by length.
//!
//! Promise: free are only extents of trees whose every block is what its place says (checksum, owner, level, neighbours,
//! order), which add up to the counts of their group and of the superblock; and only when the log ends with an unmount
//! record. Blocks on a group's free list are used.
//! Knows nothing of inodes and files.
//!
//! Sources: "XFS Algorithms & Data Structures", 3rd edition (chapters "Allocation Groups", "Short Format B+trees",
//! "Journaling Log"); xfsprogs libxfs/xfs_format.h, xfs_log_format.h (the structures), libxfs/xfs_sb.c, xfs_alloc.c,
//! xfs_btree.c (the checks), libxlog/xfs_log_recover.c.

mod group;
mod log;
mod superblock;
#[cfg(test)]
mod tests;

use super::crc::crc32c;
use super::view::{Fields, View};
use super::{Allocation, Doubt};
use crate::map::FreeMap;
pub(crate) use superblock::Superblock;

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let superblock = Superblock::read(volume)?;
    log::check(volume, &superblock)?;
    let mut free = FreeMap::builder(superblock.bytes());
    // What fdblocks counts: free extents, free lists, and blocks of the trees but their roots.
    let mut counted = 0_u64;
    for number in 0..superblock.groups {
        counted = counted.saturating_add(group::add_free(volume, &superblock, number, &mut free)?);
    }
    same("free blocks", superblock.free_blocks, counted)?;
    Ok(Allocation { kind: "xfs", free: free.finish(), excluded: Vec::new() })
}

/// Doubts a log in which something is to be replayed, or that cannot be looked at.
pub(crate) fn check_log(volume: &View<'_>, superblock: &Superblock) -> Result<(), Doubt> {
    superblock.check_log()?;
    log::check(volume, superblock)
}

/// CRC-32C of a structure, whose own place counts as zeros; little endian: libxfs/xfs_cksum.h.
pub(crate) fn check_sum(bytes: &[u8], at: usize, place: &'static str, number: u64) -> Result<(), Doubt> {
    let before = bytes.part(0, at)?;
    let after = bytes.get(at.saturating_add(4)..).ok_or(Doubt::Short { at })?;
    let sum = !crc32c(crc32c(crc32c(!0, before), &[0; 4]), after);
    match bytes.le32(at)? == sum {
        true => Ok(()),
        false => Err(Doubt::Checksum { place, number }),
    }
}

/// Doubts numbers that should agree.
fn same(place: &'static str, expected: u64, found: u64) -> Result<(), Doubt> {
    match expected == found {
        true => Ok(()),
        false => Err(Doubt::Mismatch { place, expected, found }),
    }
}

fn number(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

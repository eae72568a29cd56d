//! The journal: whether it is empty, even where the superblock does not ask for it to be replayed.
//!
//! Promise: `Ok` only when the journal's own superblock was found and says so. Reads three blocks and one for each level
//! of the journal's extents.
//! Knows nothing of what is in a journal. Format: linux Documentation/filesystems/ext4/journal.rst.

use super::superblock::Superblock;
use crate::fs::Doubt;
use crate::fs::view::{Fields, View};

/// In an inode: linux Documentation/filesystems/ext4/inodes.rst.
const I_FLAGS: usize = 0x20;
const I_BLOCK: usize = 0x28;
const I_BLOCK_BYTES: usize = 60;
const EXTENTS_FL: u32 = 0x8_0000;

/// Extents: linux Documentation/filesystems/ext4/ifork.rst.
const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_BYTES: usize = 12;
const DEPTH_MAX: u16 = 5;

/// The journal's superblock: its fields are big endian.
const JOURNAL_MAGIC: u32 = 0xc03b_3998;
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;

pub(super) fn check_empty(volume: &View<'_>, superblock: &Superblock, inode_table: u64) -> Result<(), Doubt> {
    if !superblock.has_journal() {
        return Ok(());
    }
    let number = superblock.journal_inode;
    // An ordinary journal is inode 8; any in the first group is looked at.
    let Some(index) = number.checked_sub(1).filter(|index| *index < superblock.group_inodes) else {
        return Err(Doubt::Impossible { place: "inode of the journal", found: number });
    };
    let table = inode_table.saturating_mul(superblock.block_bytes);
    let inode = volume.read(table.saturating_add(index.saturating_mul(superblock.inode_bytes)), 128)?;
    let block = first_block(volume, superblock, &inode)?;
    if block <= superblock.first_data_block || block >= superblock.blocks {
        return Err(Doubt::Impossible { place: "first block of the journal", found: block });
    }
    let journal = volume.read(block.saturating_mul(superblock.block_bytes), 1024)?;
    let magic = journal.be32(0)?;
    if magic != JOURNAL_MAGIC || !matches!(journal.be32(4)?, SUPERBLOCK_V1 | SUPERBLOCK_V2) {
        let (expected, found) = (JOURNAL_MAGIC.into(), magic.into());
        return Err(Doubt::Mismatch { place: "superblock of the journal", expected, found });
    }
    // s_errno, set when the journal was given up.
    if journal.be32(0x20)? != 0 {
        return Err(Doubt::Damaged { place: "journal" });
    }
    // s_start: where the log begins, 0 when it is empty.
    match journal.be32(0x1c)? {
        0 => Ok(()),
        _ => Err(Doubt::Journal),
    }
}

/// Where a file begins.
fn first_block(volume: &View<'_>, superblock: &Superblock, inode: &[u8]) -> Result<u64, Doubt> {
    let map = inode.part(I_BLOCK, I_BLOCK_BYTES)?;
    if inode.le32(I_FLAGS)? & EXTENTS_FL == 0 {
        return map.le32(0).map(u64::from);
    }
    let mut node = map.to_vec();
    let mut depth_max = DEPTH_MAX;
    loop {
        let (magic, entries, depth) = (node.le16(0)?, node.le16(2)?, node.le16(6)?);
        let entry = node.part(EXTENT_BYTES, EXTENT_BYTES)?;
        if magic != EXTENT_MAGIC || entries == 0 || depth > depth_max || entry.le32(0)? != 0 {
            return Err(Doubt::Impossible { place: "extents of the journal", found: magic.into() });
        }
        if depth == 0 {
            return Ok(u64::from(entry.le32(8)?) | u64::from(entry.le16(6)?) << 32);
        }
        let child = u64::from(entry.le32(4)?) | u64::from(entry.le16(8)?) << 32;
        node = volume.read(child.saturating_mul(superblock.block_bytes), 1024)?;
        depth_max = depth.saturating_sub(1);
    }
}

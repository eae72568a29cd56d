//! Which block of a file lies where: extents, and the lists of lists of blocks before them.
//!
//! Promise: one lookup reads at most a block for each level; where checksums are kept, those blocks hold to theirs.
//! Knows nothing of what the blocks hold. Format: linux Documentation/filesystems/ext4/ifork.rst.

use super::super::fault::{Fault, len, len64};
use super::Ext;
use super::inode::{EXTENTS, Inode};
use crate::fs::Doubt;
use crate::fs::crc::crc32c;
use crate::fs::view::Fields;

const EXTENT_MAGIC: u16 = 0xf30a;
const ENTRY_BYTES: usize = 12;
const DEPTH_MAX: u16 = 5;
/// Longer ones are allocated, but were never written.
const WRITTEN_MAX: u32 = 32768;
/// Entries in an inode that name blocks, and those behind that name lists, lists of lists, and one level more.
const DIRECT: u64 = 12;
/// A file has at most 2^32 blocks.
const BLOCKS_MAX: u64 = 1 << 32;

/// Consecutive blocks of a file; `at`: where, `None` for a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) blocks: u64,
    pub(super) at: Option<u64>,
}

impl Ext {
    /// Where the file's block lies, and how many behind it lie likewise: at least one.
    pub(super) fn stretch(&self, inode: &Inode, block: u64) -> Result<Stretch, Fault> {
        if block >= BLOCKS_MAX {
            return Err(Doubt::Impossible { place: "block of a file", found: block }.into());
        }
        let stretch = match inode.has(EXTENTS) {
            true => self.in_extents(inode, block)?,
            false => self.in_lists(inode, block)?,
        };
        if let Some(at) = stretch.at {
            let end = at.saturating_add(stretch.blocks);
            if at <= self.superblock.first_data_block || end > self.superblock.blocks {
                return Err(Doubt::Impossible { place: "block of a file", found: at }.into());
            }
        }
        Ok(stretch)
    }

    fn in_extents(&self, inode: &Inode, block: u64) -> Result<Stretch, Fault> {
        let wrong = |found: u64| Fault::from(Doubt::Impossible { place: "extents of a file", found });
        let mut node = inode.map()?.to_vec();
        // Where the part of the tree that is looked at ends.
        let mut end = BLOCKS_MAX;
        let mut depth_max = DEPTH_MAX;
        loop {
            let (magic, count, depth) = (node.le16(0)?, usize::from(node.le16(2)?), node.le16(6)?);
            let entries = node.get(ENTRY_BYTES..).unwrap_or_default();
            let room = entries.len().checked_div(ENTRY_BYTES).unwrap_or(0);
            if magic != EXTENT_MAGIC || depth > depth_max || count > room {
                return Err(wrong(magic.into()));
            }
            let first_of = |at: usize| entries.le32(at.saturating_mul(ENTRY_BYTES)).map(u64::from);
            // The last entry that begins at the block or before it.
            let mut at = None;
            for number in 0..count {
                let first = first_of(number)?;
                if first > block {
                    end = end.min(first);
                    break;
                }
                at = Some(number);
            }
            let hole = || Ok(Stretch { blocks: end.saturating_sub(block).max(1), at: None });
            let Some(at) = at else { return hole() };
            let entry = entries.part(at.saturating_mul(ENTRY_BYTES), ENTRY_BYTES)?;
            if depth == 0 {
                return Ok(in_extent(entry, block)?.unwrap_or(hole()?));
            }
            let child = u64::from(entry.le32(4)?) | u64::from(entry.le16(8)?) << 32;
            node = self.extent_block(inode, child)?;
            depth_max = depth.checked_sub(1).ok_or(wrong(0))?;
        }
    }

    /// linux fs/ext4/extents.c, `ext4_extent_block_csum`: behind the last entry that there is room for.
    fn extent_block(&self, inode: &Inode, block: u64) -> Result<Vec<u8>, Fault> {
        let node = self.block(block)?;
        if let Some(seed) = inode.seed {
            let room = usize::from(node.le16(4)?).saturating_mul(ENTRY_BYTES).saturating_add(ENTRY_BYTES);
            if crc32c(seed, node.part(0, room)?) != node.le32(room)? {
                return Err(Doubt::Checksum { place: "extents in block", number: block }.into());
            }
        }
        Ok(node)
    }

    fn in_lists(&self, inode: &Inode, block: u64) -> Result<Stretch, Fault> {
        let map = inode.map()?;
        let per_block = self.superblock.block_bytes / 4;
        if block < DIRECT {
            return same(map.get(..48).unwrap_or_default(), block);
        }
        let mut first = DIRECT;
        let mut reach = per_block;
        for level in 0..3_u64 {
            if block < first.saturating_add(reach) {
                let root = map.le32(len(DIRECT.saturating_add(level).saturating_mul(4)))?;
                return self.in_list(root, block.saturating_sub(first), reach, per_block);
            }
            first = first.saturating_add(reach);
            reach = reach.saturating_mul(per_block);
        }
        Err(Doubt::Impossible { place: "block of a file", found: block }.into())
    }

    /// `block` is counted from the first that the list reaches, `reach` how many it does.
    fn in_list(&self, root: u32, block: u64, reach: u64, per_block: u64) -> Result<Stretch, Fault> {
        let (mut list, mut block, mut reach) = (root, block, reach);
        loop {
            if list == 0 {
                return Ok(Stretch { blocks: reach.saturating_sub(block).max(1), at: None });
            }
            let entries = self.block(list.into())?;
            reach = reach.checked_div(per_block).unwrap_or(1).max(1);
            let number = block.checked_div(reach).unwrap_or(0);
            if reach == 1 {
                return same(&entries, number);
            }
            list = entries.le32(len(number.saturating_mul(4)))?;
            block = block.checked_rem(reach).unwrap_or(0);
        }
    }

    /// One block of the filesystem.
    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>, Fault> {
        let bytes = self.superblock.block_bytes;
        if number <= self.superblock.first_data_block || number >= self.superblock.blocks {
            return Err(Doubt::Impossible { place: "number of a block", found: number }.into());
        }
        Ok(self.view().read(number.saturating_mul(bytes), len(bytes))?)
    }
}

/// The rest of an extent from a block on; `None` when it ends before.
fn in_extent(entry: &[u8], block: u64) -> Result<Option<Stretch>, Fault> {
    let first = u64::from(entry.le32(0)?);
    let raw = u32::from(entry.le16(4)?);
    let written = raw <= WRITTEN_MAX;
    let blocks = u64::from(if written { raw } else { raw.saturating_sub(WRITTEN_MAX) });
    let into = block.saturating_sub(first);
    let start = u64::from(entry.le32(8)?) | u64::from(entry.le16(6)?) << 32;
    let left = blocks.saturating_sub(into);
    let at = written.then(|| start.saturating_add(into));
    Ok((left > 0).then_some(Stretch { blocks: left, at }))
}

/// The blocks from an entry of a list on that lie one behind the other, or are all holes.
fn same(entries: &[u8], number: u64) -> Result<Stretch, Fault> {
    let first = entries.le32(len(number.saturating_mul(4)))?;
    let rest = entries.get(len(number.saturating_mul(4))..).unwrap_or_default();
    let is_next = |(at, entry): (usize, &[u8])| {
        let found = entry.le32(0).unwrap_or(0);
        let expected = if first == 0 { 0 } else { u64::from(first).saturating_add(len64(at)) };
        u64::from(found) == expected
    };
    let blocks = len64(rest.chunks_exact(4).enumerate().take_while(|it| is_next(*it)).count());
    Ok(Stretch { blocks: blocks.max(1), at: (first != 0).then_some(first.into()) })
}

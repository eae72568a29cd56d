//! One allocation group: its header, its free list, and its two trees of free extents, by block number and by length.
//!
//! Promise: extents are told in order, lie inside the group, and on nothing that is known to be used: headers, the log,
//! the free list, the trees themselves; both trees have the same ones. Goes through at most as many blocks as there are free extents, times the tree's height.
//! Knows nothing of the other trees. Format: xfsprogs libxfs/xfs_format.h, `struct xfs_agf`, `struct xfs_agfl`,
//! `struct xfs_btree_block`, `struct xfs_alloc_rec`; the checks: libxfs/xfs_alloc.c, `xfs_agf_verify`, `xfs_agfl_verify`;
//! libxfs/xfs_btree.c, `__xfs_btree_check_sblock`.

use super::super::Doubt;
use super::super::view::{Fields, View};
use super::superblock::Superblock;
use super::{check_sum, number, same, size};
use crate::Extent;
use crate::map::{FreeMap, FreeMapBuilder};

/// Sectors of the group with its header, and its free list; the superblock's copy and the inodes' header are there too.
const HEADER_SECTOR: u64 = 1;
const FREE_LIST_SECTOR: u64 = 3;
const HEADER_SECTORS: u64 = 4;
/// No block: `NULLAGBLOCK`.
const NONE: u32 = u32::MAX;
/// The kernel's limit for a group of 1 TiB is less: libxfs/xfs_alloc_btree.c, `xfs_allocbt_maxlevels_ondisk`.
const LEVELS_MAX: u32 = 16;
/// More blocks of a tree are not followed: twice what every other block of the largest group being free would need.
const TREE_BLOCKS_MAX: usize = 1 << 20;

/// Where we are.
struct Group<'a> {
    volume: &'a View<'a>,
    superblock: &'a Superblock,
    number: u64,
    /// First block of the volume, and how many.
    first: u64,
    blocks: u64,
}

/// The header's numbers.
struct Header {
    /// By block number, and by length: root and levels.
    trees: [(u32, u32); 2],
    free_list: (u32, u32, u32),
    free_blocks: u64,
    longest: u64,
    tree_blocks: u64,
}

/// Adds the group's free extents; how many blocks the superblock should count as free for it.
pub(super) fn add_free(
    volume: &View<'_>,
    superblock: &Superblock,
    number: u64,
    free: &mut FreeMapBuilder,
) -> Result<u64, Doubt> {
    let (first, blocks) = superblock.group(number);
    let group = Group { volume, superblock, number, first, blocks };
    let header = group.header()?;
    let listed = group.free_list(header.free_list)?;
    let [by_number, by_length] = header.trees;
    let found = walk(&group, Order::Number, by_number)?;
    let again = walk(&group, Order::Length, by_length)?;
    same("free blocks of a group", header.free_blocks, found.blocks)?;
    same("longest free extent of a group", header.longest, found.longest)?;
    if found.digest != again.digest {
        return Err(group.wrong("free-space trees do not agree in group"));
    }
    let inner = len(&found.tree).saturating_add(len(&again.tree)).saturating_sub(2);
    if superblock.lazy_counters && inner > header.tree_blocks {
        return Err(Doubt::Mismatch {
            place: "tree blocks of a group",
            expected: header.tree_blocks,
            found: inner,
        });
    }
    for block in listed.iter().chain(&found.tree).chain(&again.tree) {
        group.check_used(&found.free, group.extent((*block).into(), 1))?;
    }
    group.check_used(&found.free, group.headers())?;
    group.check_used(&found.free, group.log())?;
    for extent in found.free.free() {
        free.add_free(*extent);
    }
    let trees = if superblock.lazy_counters { header.tree_blocks } else { inner };
    Ok(found.blocks.saturating_add(len(&listed)).saturating_add(trees))
}

impl Group<'_> {
    /// A structure that fills a sector near the group's start.
    fn sector(&self, sector: u64) -> Result<Vec<u8>, Doubt> {
        let bytes = self.superblock.sector_bytes;
        let offset = self.superblock.place(self.first).saturating_add(sector.saturating_mul(bytes));
        self.volume.read(offset, size(bytes))
    }

    fn header(&self) -> Result<Header, Doubt> {
        let header = self.sector(HEADER_SECTOR)?;
        if header.part(0, 4)? != b"XAGF" || header.be32(4)? != 1 {
            return Err(self.wrong("header of group"));
        }
        if self.superblock.has_sums {
            check_sum(&header, 216, "header of group", self.number)?;
            if header.array(64)? != self.superblock.meta_uuid {
                return Err(self.wrong("owner of group"));
            }
        }
        same("number of a group", self.number, header.be32(8)?.into())?;
        same("blocks of a group", self.blocks, header.be32(12)?.into())?;
        let trees = [(header.be32(16)?, header.be32(28)?), (header.be32(20)?, header.be32(32)?)];
        if let Some((_, levels)) = trees.iter().find(|(_, levels)| !(1..=LEVELS_MAX).contains(levels)) {
            return Err(Doubt::Impossible {
                place: "levels of a free-space tree",
                found: u64::from(*levels),
            });
        }
        Ok(Header {
            trees,
            free_list: (header.be32(40)?, header.be32(44)?, header.be32(48)?),
            free_blocks: header.be32(52)?.into(),
            longest: header.be32(56)?.into(),
            tree_blocks: header.be32(60)?.into(),
        })
    }

    /// Blocks kept for the trees to grow: a ring, from the first place to the last.
    fn free_list(&self, (first, last, count): (u32, u32, u32)) -> Result<Vec<u32>, Doubt> {
        /// `struct xfs_agfl`; version 4 has the blocks only.
        const HEADER_BYTES: usize = 36;
        let list = self.sector(FREE_LIST_SECTOR)?;
        let mut places = list.as_slice();
        if self.superblock.has_sums {
            check_sum(&list, 32, "free list of group", self.number)?;
            let own = list.part(0, 4)? == b"XAFL" && list.array(8)? == self.superblock.meta_uuid;
            if !own {
                return Err(self.wrong("free list of group"));
            }
            same("number of a free list", self.number, list.be32(4)?.into())?;
            places = list.get(HEADER_BYTES..).unwrap_or_default();
        }
        let len = u32::try_from(places.len() / 4).unwrap_or(0);
        if first >= len || last >= len || count > len {
            return Err(self.wrong("free list of group"));
        }
        let expected = match last.checked_sub(first) {
            _ if count == 0 => 0,
            Some(more) => more.saturating_add(1),
            None => len.saturating_sub(first).saturating_add(last).saturating_add(1),
        };
        same("blocks of a free list", expected.into(), count.into())?;
        let ring = (0..len).cycle().skip(size(first.into())).take(size(count.into()));
        ring.map(|place| self.own(places.be32(size(u64::from(place).saturating_mul(4)))?)).collect()
    }

    /// A block that is in the group.
    fn own(&self, block: u32) -> Result<u32, Doubt> {
        match u64::from(block) < self.blocks {
            true => Ok(block),
            false => Err(Doubt::Impossible { place: "block of a group", found: block.into() }),
        }
    }

    fn extent(&self, block: u64, blocks: u64) -> Extent {
        let offset = self.superblock.place(self.first.saturating_add(block));
        Extent { offset, bytes: self.superblock.place(blocks) }
    }

    fn headers(&self) -> Extent {
        let offset = self.superblock.place(self.first);
        Extent { offset, bytes: self.superblock.sector_bytes.saturating_mul(HEADER_SECTORS) }
    }

    /// The log, wherever it is.
    fn log(&self) -> Extent {
        let superblock = self.superblock;
        Extent {
            offset: superblock.place(superblock.log_start),
            bytes: superblock.place(superblock.log_blocks),
        }
    }

    /// Doubts when something that is used is called free.
    fn check_used(&self, free: &FreeMap, used: Extent) -> Result<(), Doubt> {
        let free = free.free();
        let next = free.partition_point(|extent| extent.end() <= used.offset);
        match free.get(next).is_some_and(|extent| extent.overlaps(&used)) {
            true => Err(self.wrong("metadata called free in group")),
            false => Ok(()),
        }
    }

    fn wrong(&self, place: &'static str) -> Doubt {
        Doubt::Impossible { place, found: self.number }
    }
}

/// What a tree is sorted by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Number,
    /// And those of the same length by number.
    Length,
}

/// Goes through a tree from left to right.
fn walk(group: &Group<'_>, order: Order, (root, levels): (u32, u32)) -> Result<Found, Doubt> {
    let free = FreeMap::builder(group.superblock.bytes());
    let mut walk = Walk { group, order, free, last: Vec::new(), before: (0, 0), found: Found::default() };
    walk.visit(root, levels, None)?;
    walk.finish()
}

/// A tree, gone through up to some place.
struct Walk<'a> {
    group: &'a Group<'a>,
    order: Order,
    free: FreeMapBuilder,
    /// For each level, the block visited last and its right neighbour.
    last: Vec<(u32, u32)>,
    /// What the next extent must not be below: where the one before ended; or its length, and where it ended.
    before: (u64, u64),
    found: Found,
}

/// What was found.
#[derive(Default)]
struct Found {
    free: FreeMap,
    blocks: u64,
    longest: u64,
    /// A sum over the extents that is the same for the same extents in any order.
    digest: u64,
    /// The tree's own blocks.
    tree: Vec<u32>,
}

impl Walk<'_> {
    /// A block of the tree with so many levels from it down, whose first extent must begin where its parent says. The
    /// levels bound the depth; and each leaf tells of a free extent behind those before, so there is an end.
    fn visit(&mut self, block: u32, levels: u32, begins: Option<u32>) -> Result<(), Doubt> {
        let wrong = || self.group.wrong("free-space tree of group");
        let level = levels.checked_sub(1).ok_or_else(wrong)?;
        let bytes = self.block(block, level)?;
        let header_bytes = self.header_bytes();
        let count = usize::from(bytes.be16(6)?);
        let room = bytes.len().saturating_sub(header_bytes);
        // A leaf has pairs of first block and length; others have such pairs as keys, and behind room for as many as
        // fit, the blocks below.
        let fit = room.checked_div(if level == 0 { 8 } else { 12 }).unwrap_or(0);
        // Only a group without free blocks has a leaf without extents, and that is the root.
        if count > fit || (count == 0 && (level > 0 || begins.is_some())) {
            return Err(wrong());
        }
        for index in 0..count {
            let key = header_bytes.saturating_add(index.saturating_mul(8));
            let first = bytes.be32(key)?;
            if index == 0 && begins.is_some_and(|begins| begins != first) {
                return Err(wrong());
            }
            if level == 0 {
                self.add(first, bytes.be32(key.saturating_add(4))?)?;
                continue;
            }
            let pointers = header_bytes.saturating_add(fit.saturating_mul(8));
            self.visit(bytes.be32(pointers.saturating_add(index.saturating_mul(4)))?, level, Some(first))?;
        }
        Ok(())
    }

    fn header_bytes(&self) -> usize {
        // `struct xfs_btree_block` with and without what version 5 adds.
        if self.group.superblock.has_sums { 56 } else { 16 }
    }

    /// Reads a block, when it is what its place says.
    fn block(&mut self, block: u32, level: u32) -> Result<Vec<u8>, Doubt> {
        let Group { volume, superblock, number, .. } = *self.group;
        let wrong = || self.group.wrong("block of the free-space tree of group");
        let extent = self.group.extent(self.group.own(block)?.into(), 1);
        let bytes = volume.read(extent.offset, size(superblock.block_bytes))?;
        let magic = match (self.order, superblock.has_sums) {
            (Order::Number, true) => b"AB3B",
            (Order::Number, false) => b"ABTB",
            (Order::Length, true) => b"AB3C",
            (Order::Length, false) => b"ABTC",
        };
        if bytes.part(0, 4)? != magic || u32::from(bytes.be16(4)?) != level {
            return Err(wrong());
        }
        if superblock.has_sums {
            check_sum(&bytes, 52, "block of the free-space tree of group", number)?;
            let own = bytes.array(32)? == superblock.meta_uuid
                && u64::from(bytes.be32(48)?) == number
                && bytes.be64(16)? == extent.offset / 512;
            if !own {
                return Err(wrong());
            }
        }
        let (left, right) = (bytes.be32(8)?, bytes.be32(12)?);
        let index = size(level.into());
        if self.last.len() <= index {
            self.last.resize(index.saturating_add(1), (NONE, block));
        }
        let last = self.last.get_mut(index).ok_or_else(wrong)?;
        // The first of a level has no left neighbour, and stands where its left neighbour's would point.
        let expected = if last.0 == NONE { block } else { last.1 };
        if left != last.0 || expected != block || self.found.tree.len() >= TREE_BLOCKS_MAX {
            return Err(wrong());
        }
        *last = (block, right);
        self.found.tree.push(block);
        Ok(bytes)
    }

    fn add(&mut self, first: u32, blocks: u32) -> Result<(), Doubt> {
        let (first, blocks) = (u64::from(first), u64::from(blocks));
        let end = first.saturating_add(blocks);
        let (place, after) = match self.order {
            Order::Number => ((first, 0), (end, 0)),
            Order::Length => ((blocks, first), (blocks, end)),
        };
        if blocks == 0 || place < self.before || end > self.group.blocks {
            return Err(Doubt::Impossible { place: "free extent at block", found: first });
        }
        self.before = after;
        self.found.blocks = self.found.blocks.saturating_add(blocks);
        self.found.longest = self.found.longest.max(blocks);
        self.found.digest = self.found.digest.wrapping_add(mixed(first, blocks));
        if self.order == Order::Number {
            self.free.add_free(self.group.extent(first, blocks));
        }
        Ok(())
    }

    fn finish(self) -> Result<Found, Doubt> {
        if self.last.iter().any(|(_, right)| *right != NONE) {
            return Err(self.group.wrong("end of the free-space tree of group"));
        }
        Ok(Found { free: self.free.finish(), ..self.found })
    }
}

fn len(blocks: &[u32]) -> u64 {
    number(blocks.len())
}

/// A number from both, such that the sums of different extents are different unless someone wants them to be equal.
fn mixed(first: u64, blocks: u64) -> u64 {
    /// Odd, and its bits look random: the golden ratio's.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = ((first << 32) | blocks).wrapping_add(1).wrapping_mul(FACTOR);
    (mixed ^ (mixed >> 29)).wrapping_mul(FACTOR) ^ (mixed >> 32)
}

//! btrfs on one device: what no extent and no superblock lies on, in chunks that are kept once or twice.
//!
//! Promise: every tree block that is read has the right checksum, address, generation, owner, level and order of keys;
//! the extents add up to what each block group and the superblock count; anything else is a doubt.
//! Knows nothing of files. Format: btrfs documentation, "On-disk format"; linux include/uapi/linux/btrfs_tree.h.
//!
//! No block is overwritten before a superblock that does not need it is on the disk, so what the extent tree of the
//! superblock's generation does not name is free, after a crash too. Only log trees are outside of it: a doubt.

mod chunks;
mod extents;
mod superblock;
pub(crate) mod tree;

pub(crate) use self::chunks::Chunks;
pub(crate) use self::superblock::Superblock;
use self::tree::Tree;
use super::view::{Fields, View};
use super::{Allocation, Doubt};
use crate::Extent;
use crate::map::{FreeMap, FreeMapBuilder};

/// Object ids of trees: btrfs_tree.h, `BTRFS_*_TREE_OBJECTID`.
pub(crate) const ROOT_TREE: u64 = 1;
const EXTENT_TREE: u64 = 2;
const CHUNK_TREE: u64 = 3;
const BLOCK_GROUP_TREE: u64 = 11;
pub(crate) const ROOT_ITEM: u8 = 132;
/// `struct btrfs_root_item`.
const ROOT_GENERATION: usize = 160;
const ROOT_BYTENR: usize = 176;
const ROOT_LEVEL: usize = 238;
/// Addresses that must be used are remembered up to this number: a check, which need not be complete.
const WITNESSES_MAX: usize = 1 << 20;
/// `BTRFS_DEVICE_RANGE_RESERVED`: boot loaders, and the first superblock.
const HEAD_BYTES: u64 = 1 << 20;

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let superblock = Superblock::read(volume)?;
    let mut witnesses = Vec::new();
    let chunks = read_chunks(volume, &superblock, &mut witnesses)?;
    chunks.check(&superblock)?;
    let roots = Roots::read(volume, &superblock, &chunks, &mut witnesses)?;
    let free = extents::free(volume, &superblock, &chunks, &roots, &mut witnesses)?;
    check_witnesses(&free, &witnesses, &superblock)?;
    Ok(Allocation { kind: "btrfs", free: physical(&free, &chunks, &superblock), excluded: Vec::new() })
}

/// Which addresses are where.
pub(crate) fn read_chunks(
    volume: &View<'_>,
    superblock: &Superblock,
    witnesses: &mut Vec<u64>,
) -> Result<Chunks, Doubt> {
    let system = Chunks::from_superblock(superblock)?;
    let mut chunks = system.clone();
    let tree = Tree::new(volume, superblock, &system, CHUNK_TREE);
    chunks.read_tree(&tree, superblock, witnesses)?;
    Ok(chunks)
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub(crate) bytenr: u64,
    pub(crate) generation: u64,
    pub(crate) level: u8,
}

impl Root {
    /// `struct btrfs_root_item`.
    pub(crate) fn decode(item: &[u8]) -> Result<Self, Doubt> {
        Ok(Self {
            bytenr: item.le64(ROOT_BYTENR)?,
            generation: item.le64(ROOT_GENERATION)?,
            level: item.byte(ROOT_LEVEL)?,
        })
    }
}

/// The trees that say what is used.
struct Roots {
    extents: Root,
    /// `None`: the items are among the extents.
    block_groups: Option<Root>,
}

impl Roots {
    fn read(
        volume: &View<'_>,
        superblock: &Superblock,
        chunks: &Chunks,
        witnesses: &mut Vec<u64>,
    ) -> Result<Self, Doubt> {
        let (mut extents, mut block_groups) = (Vec::new(), Vec::new());
        let mut roots = Vec::new();
        Tree::new(volume, superblock, chunks, ROOT_TREE).walk(
            superblock.root,
            witnesses,
            &mut |key, item| {
                if key.kind != ROOT_ITEM {
                    return Ok(());
                }
                let root = Root::decode(item)?;
                let bytenr = root.bytenr;
                if bytenr != 0 && roots.len() < WITNESSES_MAX {
                    roots.push(bytenr);
                }
                match key.objectid {
                    EXTENT_TREE => extents.push(root),
                    BLOCK_GROUP_TREE => block_groups.push(root),
                    _ => {}
                }
                // More than one of a kind are of a version that is not known here.
                match extents.len().max(block_groups.len()) {
                    0 | 1 => Ok(()),
                    _ => Err(impossible("root of a second extent tree", bytenr)),
                }
            },
        )?;
        witnesses.append(&mut roots);
        let extents = extents.pop().ok_or(impossible("number of extent trees", 0))?;
        let block_groups = block_groups.pop();
        let (expected, found) = (superblock.has_block_group_tree(), block_groups.is_some());
        if expected != found {
            return Err(mismatch("number of block group trees", expected.into(), found.into()));
        }
        Ok(Self { extents, block_groups })
    }
}

/// What was read must be among what is used.
fn check_witnesses(free: &FreeMap, witnesses: &[u64], superblock: &Superblock) -> Result<(), Doubt> {
    let free = free.free();
    for witness in witnesses {
        let block = Extent { offset: *witness, bytes: superblock.node_bytes };
        let after = free.partition_point(|extent| extent.offset < block.end());
        let before = after.checked_sub(1).and_then(|at| free.get(at));
        if before.is_some_and(|extent| extent.overlaps(&block)) {
            return Err(impossible("a tree block that is not among the extents", *witness));
        }
    }
    Ok(())
}

/// Free logical addresses, where they are on the device, and what no chunk has.
fn physical(free: &FreeMap, chunks: &Chunks, superblock: &Superblock) -> FreeMap {
    let mut builder = FreeMap::builder(superblock.device_bytes);
    let mut told = 0_u64;
    for stripe in chunks.stripes() {
        let end = stripe.physical.saturating_add(stripe.chunk.bytes);
        add_around(&mut builder, told, stripe.physical);
        let from = free.free().partition_point(|extent| extent.end() <= stripe.chunk.offset);
        for extent in free.free().iter().skip(from).take_while(|it| it.offset < stripe.chunk.end()) {
            let place = |logical: u64| {
                stripe.physical.saturating_add(logical.saturating_sub(stripe.chunk.offset)).min(end)
            };
            add_around(&mut builder, place(extent.offset), place(extent.end()));
        }
        told = end;
    }
    add_around(&mut builder, told, superblock.device_bytes);
    builder.finish()
}

/// Adds what is neither at the device's start nor a superblock.
fn add_around(builder: &mut FreeMapBuilder, from: u64, to: u64) {
    let mut from = from.max(HEAD_BYTES);
    for at in superblock::MIRRORS {
        if from < at.saturating_add(superblock::RESERVED_BYTES) {
            builder.add_free(Extent { offset: from, bytes: to.min(at).saturating_sub(from) });
            from = from.max(at.saturating_add(superblock::RESERVED_BYTES));
        }
    }
    builder.add_free(Extent { offset: from, bytes: to.saturating_sub(from) });
}

fn mismatch(place: &'static str, expected: u64, found: u64) -> Doubt {
    Doubt::Mismatch { place, expected, found }
}

fn impossible(place: &'static str, found: u64) -> Doubt {
    Doubt::Impossible { place, found }
}

/// Says so when two numbers differ.
fn agree(place: &'static str, expected: u64, found: u64) -> Result<(), Doubt> {
    if expected == found { Ok(()) } else { Err(mismatch(place, expected, found)) }
}

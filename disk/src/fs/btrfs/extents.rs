//! Extents of btrfs: which logical addresses are in use, and whether they add up.
//!
//! Promise: extents do not overlap, each lies in one chunk, each chunk has one block group whose count is right.
//! Knows nothing of places on the device. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_extent_item`,
//! `btrfs_block_group_item`.

use super::chunks::Chunks;
use super::superblock::Superblock;
use super::tree::{Key, Tree};
use super::{BLOCK_GROUP_TREE, EXTENT_TREE, Roots, agree, impossible};
use crate::Extent;
use crate::fs::Doubt;
use crate::fs::view::{Fields, View};
use crate::map::{FreeMap, FreeMapBuilder};

const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
/// References that did not fit into their extent's item: TREE_BLOCK, EXTENT_DATA, SHARED_BLOCK, SHARED_DATA.
const REFERENCES: [u8; 4] = [176, 178, 182, 184];
const BLOCK_GROUP_ITEM: u8 = 192;
const FLAG_DATA: u64 = 1;
const FLAG_TREE_BLOCK: u64 = 2;
/// DATA or TREE_BLOCK, and FULL_BACKREF.
const FLAGS_KNOWN: u64 = FLAG_DATA | FLAG_TREE_BLOCK | 1 << 8;

/// The free logical addresses of all chunks.
pub(super) fn free(
    volume: &View<'_>,
    superblock: &Superblock,
    chunks: &Chunks,
    roots: &Roots,
    witnesses: &mut Vec<u64>,
) -> Result<FreeMap, Doubt> {
    let mut sums = Sums::new(superblock, chunks);
    Tree::new(volume, superblock, chunks, EXTENT_TREE).walk(roots.extents, witnesses, &mut |key, item| {
        match key.kind {
            EXTENT_ITEM | METADATA_ITEM => sums.extent(key, item),
            BLOCK_GROUP_ITEM if roots.block_groups.is_none() => sums.block_group(key, item),
            kind if REFERENCES.contains(&kind) => Ok(()),
            kind => Err(Doubt::Feature { place: "items of the extent tree", found: kind.into() }),
        }
    })?;
    if let Some(root) = roots.block_groups {
        Tree::new(volume, superblock, chunks, BLOCK_GROUP_TREE).walk(root, witnesses, &mut |key, item| {
            match key.kind {
                BLOCK_GROUP_ITEM => sums.block_group(key, item),
                kind => Err(Doubt::Feature { place: "items of the block group tree", found: kind.into() }),
            }
        })?;
    }
    sums.finish()
}

struct Sums<'a> {
    superblock: &'a Superblock,
    chunks: &'a Chunks,
    /// For each chunk: bytes of its extents, and what its block group says.
    found: Vec<(u64, Option<u64>)>,
    free: FreeMapBuilder,
    /// The end of the last extent, and the chunk in which free addresses are looked for.
    end: u64,
    chunk: usize,
}

impl<'a> Sums<'a> {
    fn new(superblock: &'a Superblock, chunks: &'a Chunks) -> Self {
        let found = vec![(0, None); chunks.all().len()];
        Self { superblock, chunks, found, free: FreeMap::builder(u64::MAX), end: 0, chunk: 0 }
    }

    fn extent(&mut self, key: Key, item: &[u8]) -> Result<(), Doubt> {
        let (flags, node_bytes) = (item.le64(16)?, self.superblock.node_bytes);
        let is_tree = flags & FLAG_TREE_BLOCK != 0;
        if flags & !FLAGS_KNOWN != 0 || is_tree == (flags & FLAG_DATA != 0) {
            return Err(Doubt::Feature { place: "flags of an extent", found: flags });
        }
        // The offset of the short form is a level.
        let bytes = if key.kind == METADATA_ITEM { node_bytes } else { key.offset };
        if is_tree || key.kind == METADATA_ITEM {
            agree("bytes of a tree block's extent", node_bytes, bytes)?;
        }
        let extent = Extent { offset: key.objectid, bytes };
        let aligned = |number: u64| number.checked_rem(self.superblock.sector_bytes) == Some(0);
        if bytes == 0 || !aligned(extent.offset) || !aligned(bytes) || extent.offset < self.end {
            return Err(impossible("place of an extent", extent.offset));
        }
        let chunk = self.chunks.find(extent).ok_or(impossible("address of an extent", extent.offset))?;
        self.free_up_to(extent.offset);
        self.end = extent.end();
        if let Some((sum, _)) = self.found.get_mut(chunk) {
            *sum = sum.saturating_add(bytes);
        }
        Ok(())
    }

    /// Adds what of chunks lies between the last extent and this address.
    fn free_up_to(&mut self, to: u64) {
        while let Some(chunk) = self.chunks.all().get(self.chunk).map(|chunk| chunk.logical) {
            let from = self.end.max(chunk.offset);
            let end = to.min(chunk.end());
            self.free.add_free(Extent { offset: from, bytes: end.saturating_sub(from) });
            if chunk.end() > to {
                break;
            }
            self.chunk = self.chunk.saturating_add(1);
        }
    }

    fn block_group(&mut self, key: Key, item: &[u8]) -> Result<(), Doubt> {
        let place = Extent { offset: key.objectid, bytes: key.offset };
        let at = self.chunks.find(place);
        let chunk = at.and_then(|at| Some((self.chunks.all().get(at)?, self.found.get_mut(at)?)));
        let Some((chunk, (_, used))) = chunk.filter(|(chunk, _)| chunk.logical == place) else {
            return Err(impossible("chunk of the block group at", place.offset));
        };
        agree("flags of a block group", chunk.flags, item.le64(16)?)?;
        if used.replace(item.le64(0)?).is_some() {
            return Err(impossible("a second block group at", place.offset));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<FreeMap, Doubt> {
        self.free_up_to(u64::MAX);
        let mut all = 0_u64;
        for (chunk, (sum, used)) in self.chunks.all().iter().zip(&self.found) {
            let used = used.ok_or(impossible("a chunk without block group at", chunk.logical.offset))?;
            agree("used bytes of a block group", used, *sum)?;
            all = all.saturating_add(*sum);
        }
        agree("used bytes of all block groups", self.superblock.used_bytes, all)?;
        Ok(self.free.finish())
    }
}

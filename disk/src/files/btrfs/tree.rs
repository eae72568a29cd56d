//! Trees of btrfs, searched: items from a key on.
//!
//! Promise: a block is believed only if its checksum, address, filesystem, generation, level, owner and first key are
//! what its parent says, in the second copy where the first is bad; keys ascend, so each block is visited once at most;
//! what is remembered is bounded.
//! Knows nothing of what items mean. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_header`,
//! `btrfs_item`, `btrfs_key_ptr`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::files::fault::{Fault, len};
use crate::fs::btrfs::tree::{
    HEADER_BYTES, ITEM_BYTES, KEY_BYTES, Key, LEVELS_MAX, POINTER_BYTES, check_block,
};
use crate::fs::btrfs::{Chunks, Root, Superblock};
use crate::fs::view::{Fields, View};
use crate::{Extent, ReadAt};

/// 4 MiB of the smallest blocks, 16 of the usual ones, 64 of the largest: the way to any item of a large filesystem.
const BLOCKS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Trees of files: the first, and from here on.
pub(super) const TOP_TREE: u64 = 5;
pub(super) const SUBVOLUMES: std::ops::RangeInclusive<u64> = 256..=u64::MAX / 2;

/// A tree: its number, and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) number: u64,
    pub(super) root: Root,
}

/// What is done with each item; `false` ends it.
pub(super) type Each<'a> = dyn FnMut(Key, &[u8]) -> Result<bool, Fault> + 'a;

/// The filesystem's bytes, by their addresses.
pub(super) struct Space {
    device: Arc<dyn ReadAt>,
    pub(super) superblock: Superblock,
    pub(super) chunks: Chunks,
    blocks: Mutex<LruCache<u64, Arc<Vec<u8>>>>,
}

/// Where a search is.
struct Search<'a, 'b> {
    tree: u64,
    from: Key,
    last: Option<Key>,
    each: &'a mut Each<'b>,
}

impl Space {
    pub(super) fn new(device: Arc<dyn ReadAt>, superblock: Superblock, chunks: Chunks) -> Self {
        Self { device, superblock, chunks, blocks: Mutex::new(LruCache::new(BLOCKS_MAX)) }
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.device, Extent { offset: 0, bytes: self.device.size_bytes() })
    }

    /// Items in the order of their keys: the last one at or before `from`, if there is one, and all behind it.
    pub(super) fn items(&self, tree: Tree, from: Key, each: &mut Each<'_>) -> Result<(), Fault> {
        if tree.root.level >= LEVELS_MAX {
            return Err(Fault::Damaged(format!("a tree of level {}", tree.root.level)));
        }
        let mut search = Search { tree: tree.number, from, last: None, each };
        self.block(tree.root, None, &mut search).map(|_| ())
    }

    /// The item with this key.
    pub(super) fn item(&self, tree: Tree, key: Key) -> Result<Option<Vec<u8>>, Fault> {
        let mut found = None;
        self.items(tree, key, &mut |at, item| {
            found = (at == key).then(|| item.to_vec());
            Ok(false)
        })?;
        Ok(found)
    }

    /// Goes down as far as the root's level says. Whether to go on.
    fn block(&self, place: Root, first: Option<Key>, search: &mut Search<'_, '_>) -> Result<bool, Fault> {
        let wrong = |what| Fault::Damaged(format!("tree block {}: {what}", place.bytenr));
        let raw = self.read(place, search.tree)?;
        let step = if place.level == 0 { ITEM_BYTES } else { POINTER_BYTES };
        let count = len(raw.le32(96)?.into());
        let body = raw.get(HEADER_BYTES..).unwrap_or_default();
        let entries = body.get(..count.saturating_mul(step)).ok_or_else(|| wrong("more items than room"))?;
        if count == 0 {
            let is_empty = first.is_none() && place.level == 0;
            return if is_empty { Ok(true) } else { Err(wrong("no items")) };
        }
        if first.is_some_and(|first| Key::decode(entries, 0).ok() != Some(first)) {
            return Err(wrong("another first key"));
        }
        for entry in entries.chunks_exact(step).skip(floor(entries, step, search.from)?) {
            let key = Key::decode(entry, 0)?;
            let is_on = match place.level.checked_sub(1) {
                None if search.last.replace(key).is_some_and(|last| last >= key) => {
                    return Err(wrong("keys out of order"));
                }
                None => {
                    let item = body.part(len(entry.le32(KEY_BYTES)?.into()), len(entry.le32(21)?.into()))?;
                    (search.each)(key, item)?
                }
                Some(level) => {
                    let child = Root { bytenr: entry.le64(KEY_BYTES)?, generation: entry.le64(25)?, level };
                    self.block(child, Some(key), search)?
                }
            };
            if !is_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A block, from memory or from one of its copies.
    fn read(&self, place: Root, tree: u64) -> Result<Arc<Vec<u8>>, Fault> {
        let lock = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&place.bytenr).map(Arc::clone);
        let raw = match known {
            // It was checked, but for another parent.
            Some(raw) if raw.le64(80)? == place.generation && raw.byte(100)? == place.level => raw,
            _ => Arc::new(self.read_copies(place)?),
        };
        let (owner, is_files) = (raw.le64(88)?, is_of_files(tree));
        // Snapshots share blocks that other trees of files made.
        if is_files != is_of_files(owner) || (!is_files && owner != tree) {
            return Err(Fault::Damaged(format!(
                "tree block {} is of tree {owner}, not {tree}",
                place.bytenr
            )));
        }
        lock().put(place.bytenr, Arc::clone(&raw));
        Ok(raw)
    }

    fn read_copies(&self, place: Root) -> Result<Vec<u8>, Fault> {
        let superblock = &self.superblock;
        let mut fault = None;
        for at in self.chunks.copies(Extent { offset: place.bytenr, bytes: superblock.node_bytes }) {
            let raw = self.view().read(at, len(superblock.node_bytes));
            match raw.and_then(|raw| check_block(&raw, superblock, place).map(|()| raw)) {
                Ok(raw) => return Ok(raw),
                Err(doubt) => fault = fault.or(Some(doubt.into())),
            }
        }
        Err(fault.unwrap_or_else(|| Fault::Damaged(format!("no chunk has tree block {}", place.bytenr))))
    }
}

/// The number of the last entry whose key is not behind `from`, or of the first one.
fn floor(entries: &[u8], step: usize, from: Key) -> Result<usize, Fault> {
    let (mut low, mut high) = (0_usize, entries.len().checked_div(step).unwrap_or(0));
    // Ends also when keys are in no order: the span halves.
    while high.saturating_sub(low) > 1 {
        let middle = low.midpoint(high);
        match Key::decode(entries, middle.saturating_mul(step))? <= from {
            true => low = middle,
            false => high = middle,
        }
    }
    Ok(low)
}

fn is_of_files(tree: u64) -> bool {
    tree == TOP_TREE || SUBVOLUMES.contains(&tree)
}

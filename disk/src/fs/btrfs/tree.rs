//! Trees of btrfs: all items of one, in order.
//!
//! Promise: a block is believed only if its checksum, address, filesystem, generation, owner, level and keys are what
//! its parent says; each block is read once at most, since its first key is the one that its only parent has.
//! Knows nothing of what items mean. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_header`,
//! `btrfs_item`, `btrfs_key_ptr`.

use super::chunks::Chunks;
use super::superblock::Superblock;
use super::{Root, WITNESSES_MAX, agree, impossible};
use crate::fs::Doubt;
use crate::fs::view::{Fields, View};

/// `BTRFS_MAX_LEVEL`.
pub(crate) const LEVELS_MAX: u8 = 8;
pub(crate) const HEADER_BYTES: usize = 101;
pub(crate) const ITEM_BYTES: usize = 25;
pub(crate) const POINTER_BYTES: usize = 33;
pub(crate) const KEY_BYTES: usize = 17;

/// In the order in which trees have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) objectid: u64,
    pub(crate) kind: u8,
    pub(crate) offset: u64,
}

impl Key {
    pub(crate) fn decode(raw: &[u8], at: usize) -> Result<Self, Doubt> {
        let raw = raw.part(at, KEY_BYTES)?;
        Ok(Self { objectid: raw.le64(0)?, kind: raw.byte(8)?, offset: raw.le64(9)? })
    }
}

/// What is done with each item.
pub(super) type Visit<'a> = dyn FnMut(Key, &[u8]) -> Result<(), Doubt> + 'a;

pub(super) struct Tree<'a> {
    volume: &'a View<'a>,
    superblock: &'a Superblock,
    chunks: &'a Chunks,
    owner: u64,
}

/// Where the walk is.
struct Walk<'a, 'b> {
    witnesses: &'a mut Vec<u64>,
    visit: &'a mut Visit<'b>,
    last: Option<Key>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(
        volume: &'a View<'a>,
        superblock: &'a Superblock,
        chunks: &'a Chunks,
        owner: u64,
    ) -> Self {
        Self { volume, superblock, chunks, owner }
    }

    /// Visits all items in ascending order of their keys; the addresses of blocks become witnesses.
    pub(super) fn walk(
        &self,
        root: Root,
        witnesses: &mut Vec<u64>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Doubt> {
        if root.level >= LEVELS_MAX {
            return Err(impossible("level of a tree", root.level.into()));
        }
        self.block(root, None, &mut Walk { witnesses, visit, last: None })
    }

    /// Goes no deeper than the root's level says, as each child is one lower.
    fn block(&self, place: Root, first: Option<Key>, walk: &mut Walk<'_, '_>) -> Result<(), Doubt> {
        let raw = self.read(place)?;
        if walk.witnesses.len() < WITNESSES_MAX {
            walk.witnesses.push(place.bytenr);
        }
        let count = usize::try_from(raw.le32(96)?).unwrap_or(usize::MAX);
        let step = if place.level == 0 { ITEM_BYTES } else { POINTER_BYTES };
        let body = raw.get(HEADER_BYTES..).unwrap_or_default();
        if count > body.len().checked_div(step).unwrap_or(0) {
            return Err(impossible("number of items in a tree block", u64::from(raw.le32(96)?)));
        }
        if count == 0 && (first.is_some() || place.level > 0) {
            return Err(impossible("an empty tree block at", place.bytenr));
        }
        for (number, entry) in body.chunks_exact(step).take(count).enumerate() {
            let key = Key::decode(entry, 0)?;
            if number == 0 && first.is_some_and(|first| first != key) {
                return Err(impossible("first key of the tree block at", place.bytenr));
            }
            if place.level > 0 {
                let child = Root {
                    bytenr: entry.le64(KEY_BYTES)?,
                    generation: entry.le64(KEY_BYTES.saturating_add(8))?,
                    level: place.level.saturating_sub(1),
                };
                self.block(child, Some(key), walk)?;
                continue;
            }
            if walk.last.replace(key).is_some_and(|last| last >= key) {
                return Err(impossible("order of keys in the tree block at", place.bytenr));
            }
            let [at, len] = [entry.le32(KEY_BYTES)?, entry.le32(KEY_BYTES.saturating_add(4))?]
                .map(|number| usize::try_from(number).unwrap_or(usize::MAX));
            (walk.visit)(key, body.part(at, len)?)?;
        }
        Ok(())
    }

    fn read(&self, place: Root) -> Result<Vec<u8>, Doubt> {
        let bytes = self.superblock.node_bytes;
        if place.bytenr.checked_rem(self.superblock.sector_bytes) != Some(0) {
            return Err(impossible("address of a tree block", place.bytenr));
        }
        let physical = self.chunks.physical(place.bytenr, bytes)?;
        let raw = self.volume.read(physical, usize::try_from(bytes).unwrap_or(usize::MAX))?;
        check_block(&raw, self.superblock, place)?;
        agree("owner of a tree block", self.owner, raw.le64(88)?)?;
        Ok(raw)
    }
}

/// Whether a block is the one that was asked for.
pub(crate) fn check_block(raw: &[u8], superblock: &Superblock, place: Root) -> Result<(), Doubt> {
    if !superblock.checksum.holds(raw)? {
        return Err(Doubt::Checksum { place: "tree block", number: place.bytenr });
    }
    if raw.part(32, 16)? != superblock.tree_fsid {
        return Err(impossible("filesystem of the tree block at", place.bytenr));
    }
    agree("address of a tree block", place.bytenr, raw.le64(48)?)?;
    agree("generation of a tree block", place.generation, raw.le64(80)?)?;
    agree("level of a tree block", place.level.into(), raw.byte(100)?.into())
}

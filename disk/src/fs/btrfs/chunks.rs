//! Chunks of btrfs: which logical addresses are where on the device.
//!
//! Promise: after `check`, chunks overlap neither in addresses nor on the device, lie inside it, are all on this one
//! device, and their sizes add up to what the device says is taken.
//! Knows nothing of extents. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_chunk`, `btrfs_stripe`.

use super::superblock::Superblock;
use super::tree::{Key, Tree};
use super::{agree, impossible};
use crate::Extent;
use crate::fs::Doubt;
use crate::fs::view::Fields;

const CHUNK_ITEM: u8 = 228;
const DEVICE_ITEM: u8 = 216;
const FIRST_CHUNK_TREE: u64 = 256;
/// A chunk has 1 GiB usually, and 8 MiB when it is small.
const CHUNKS_MAX: usize = 1 << 20;
const STRIPES: usize = 48;
const STRIPE_BYTES: usize = 32;
const KEY_BYTES: usize = 17;
/// `BTRFS_BLOCK_GROUP_*`.
const KINDS: u64 = 0x7;
const DUP: u64 = 1 << 5;

/// A run of logical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) logical: Extent,
    pub(super) flags: u64,
    /// Where its copies are: one, or two.
    first: u64,
    second: Option<u64>,
}

/// One copy of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stripe {
    pub(super) physical: u64,
    pub(super) chunk: Extent,
}

/// In order of addresses.
#[derive(Clone, Debug)]
pub(crate) struct Chunks(Vec<Chunk>);

impl Chunks {
    /// Those that hold the chunk tree: `sys_chunk_array`, keys and chunks in turn.
    pub(super) fn from_superblock(superblock: &Superblock) -> Result<Self, Doubt> {
        let raw = superblock.system_chunks.as_slice();
        let mut chunks = Vec::new();
        let mut at = 0_usize;
        while at < raw.len() {
            let key = Key::decode(raw, at)?;
            agree("kind of a system chunk", CHUNK_ITEM.into(), key.kind.into())?;
            agree("object of a system chunk", FIRST_CHUNK_TREE, key.objectid)?;
            at = at.saturating_add(KEY_BYTES);
            let count = usize::from(raw.le16(at.saturating_add(44))?);
            let len = STRIPES.saturating_add(count.saturating_mul(STRIPE_BYTES));
            chunks.push(Chunk::decode(key, raw.part(at, len)?, superblock)?);
            at = at.saturating_add(len);
        }
        let chunks = Self(chunks).sorted()?;
        chunks.check_stripes(superblock)?;
        Ok(chunks)
    }

    fn sorted(mut self) -> Result<Self, Doubt> {
        self.0.sort_by_key(|chunk| chunk.logical);
        for (before, after) in self.0.iter().zip(self.0.iter().skip(1)) {
            if before.logical.end() > after.logical.offset {
                return Err(impossible("two chunks at", after.logical.offset));
            }
        }
        Ok(self)
    }

    /// Replaces these by all that the chunk tree has; those must be among them.
    pub(super) fn read_tree(
        &mut self,
        tree: &Tree<'_>,
        root: &Superblock,
        witnesses: &mut Vec<u64>,
    ) -> Result<(), Doubt> {
        let mut chunks = Vec::new();
        let mut devices = 0_u64;
        tree.walk(root.chunk_root, witnesses, &mut |key, item| {
            match key.kind {
                CHUNK_ITEM if key.objectid == FIRST_CHUNK_TREE => {
                    chunks.push(Chunk::decode(key, item, root)?);
                }
                DEVICE_ITEM => {
                    devices = devices.saturating_add(1);
                    check_device(item, root)?;
                }
                kind => return Err(Doubt::Feature { place: "items of the chunk tree", found: kind.into() }),
            }
            match chunks.len() > CHUNKS_MAX {
                true => Err(impossible("number of chunks", u64::try_from(chunks.len()).unwrap_or(u64::MAX))),
                false => Ok(()),
            }
        })?;
        agree("number of devices", 1, devices)?;
        let all = Self(chunks).sorted()?;
        if let Some(missing) = self.0.iter().find(|chunk| !all.0.contains(chunk)) {
            return Err(impossible("system chunk at", missing.logical.offset));
        }
        *self = all;
        Ok(())
    }

    /// Against each other, and against what the device says.
    pub(super) fn check(&self, superblock: &Superblock) -> Result<(), Doubt> {
        let taken = self.check_stripes(superblock)?;
        agree("bytes of all chunks", superblock.device_used_bytes, taken)
    }

    /// Copies must not overlap.
    fn check_stripes(&self, superblock: &Superblock) -> Result<u64, Doubt> {
        let (mut taken, mut end) = (0_u64, 0_u64);
        for stripe in self.stripes() {
            let stripe_end = stripe.physical.checked_add(stripe.chunk.bytes);
            let inside = stripe_end.filter(|it| stripe.physical >= end && *it <= superblock.device_bytes);
            end = inside.ok_or(impossible("place of a chunk", stripe.physical))?;
            taken = taken.saturating_add(stripe.chunk.bytes);
        }
        Ok(taken)
    }

    /// All copies, in the order in which they are on the device.
    pub(super) fn stripes(&self) -> Vec<Stripe> {
        let copies = |chunk: &Chunk| {
            let logical = chunk.logical;
            let stripe = move |physical| Stripe { physical, chunk: logical };
            [Some(chunk.first), chunk.second].into_iter().flatten().map(stripe)
        };
        let mut stripes: Vec<Stripe> = self.0.iter().flat_map(copies).collect();
        stripes.sort_by_key(|stripe| stripe.physical);
        stripes
    }

    pub(super) fn all(&self) -> &[Chunk] {
        &self.0
    }

    /// The number of the chunk in which all these addresses are.
    pub(super) fn find(&self, extent: Extent) -> Option<usize> {
        let at = self.0.partition_point(|chunk| chunk.logical.offset <= extent.offset).checked_sub(1)?;
        let chunk = self.0.get(at)?;
        let end = extent.offset.checked_add(extent.bytes)?;
        (end <= chunk.logical.end()).then_some(at)
    }

    /// Where these addresses are: once, or twice; nowhere when no chunk has them all.
    pub(crate) fn copies(&self, extent: Extent) -> impl Iterator<Item = u64> {
        let chunk = self.find(extent).and_then(|at| self.0.get(at));
        let copies = chunk.map(|chunk| {
            let within = extent.offset.saturating_sub(chunk.logical.offset);
            [Some(chunk.first), chunk.second].map(|place| place.map(|it| it.saturating_add(within)))
        });
        copies.into_iter().flatten().flatten()
    }

    /// Where a tree block is.
    pub(super) fn physical(&self, offset: u64, bytes: u64) -> Result<u64, Doubt> {
        let chunk = self.find(Extent { offset, bytes }).and_then(|at| self.0.get(at));
        let chunk = chunk.ok_or(impossible("address of a tree block", offset))?;
        Ok(chunk.first.saturating_add(offset.saturating_sub(chunk.logical.offset)))
    }
}

impl Chunk {
    fn decode(key: Key, raw: &[u8], superblock: &Superblock) -> Result<Self, Doubt> {
        let logical = Extent { offset: key.offset, bytes: raw.le64(0)? };
        let (flags, count) = (raw.le64(24)?, raw.le16(44)?);
        let sector = superblock.sector_bytes;
        let aligned = |number: u64| number.checked_rem(sector) == Some(0);
        let sound = logical.bytes > 0 && logical.offset.checked_add(logical.bytes).is_some();
        if !sound || !aligned(logical.offset) || !aligned(logical.bytes) {
            return Err(impossible("length of a chunk", logical.bytes));
        }
        // Striped ones need several devices, or are of one stripe: not worth the risk.
        if flags & KINDS == 0 || flags & !(KINDS | DUP) != 0 {
            return Err(Doubt::Feature { place: "profile of a chunk", found: flags });
        }
        let expected = if flags & DUP != 0 { 2 } else { 1 };
        agree("copies of a chunk", expected, count.into())?;
        let stripes = raw.get(STRIPES..).unwrap_or_default();
        let length = usize::from(count).saturating_mul(STRIPE_BYTES);
        agree("bytes of a chunk's item", len64(length), len64(stripes.len()))?;
        let mut places = Vec::new();
        for stripe in stripes.chunks_exact(STRIPE_BYTES) {
            if stripe.le64(0)? != superblock.device || stripe.array::<16>(16)? != superblock.device_uuid {
                return Err(Doubt::Elsewhere { place: "a chunk" });
            }
            let place = stripe.le64(8)?;
            if !aligned(place) {
                return Err(impossible("place of a chunk", place));
            }
            places.push(place);
        }
        let first = places.first().copied().ok_or(impossible("copies of a chunk", 0))?;
        Ok(Self { logical, flags, first, second: places.get(1).copied() })
    }
}

/// `struct btrfs_dev_item`.
fn check_device(item: &[u8], superblock: &Superblock) -> Result<(), Doubt> {
    if item.le64(0)? != superblock.device || item.array::<16>(66)? != superblock.device_uuid {
        return Err(Doubt::Elsewhere { place: "a part of the filesystem" });
    }
    agree("bytes of the device", superblock.device_bytes, item.le64(8)?)
}

fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

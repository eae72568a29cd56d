//! Blocks with hashes of names, in trees: those of folders lead to entries, those of attributes have them.
//!
//! Promise: each block's checksum, place and owner hold (version 5); at most [`LEAVES_MAX`] leaves are looked through.
//! Knows nothing of entries. Format: xfsprogs libxfs/xfs_da_format.h, `struct xfs_da3_blkinfo`, `xfs_da_intnode_t`,
//! `xfs_dir2_leaf_t`; the hash: libxfs/xfs_da_btree.c, `xfs_da_hashname`.

use super::Volume;
use super::extents::{self, Wanted};
use super::folder;
use super::inode::{Fork, Inode};
use crate::files::fault::{Fault, len};
use crate::fs::view::Fields;
use crate::fs::xfs::check_sum;

/// Blocks of a tree, of versions 4 and 5: `XFS_DA_NODE_MAGIC`…
const NODE: [u16; 2] = [0xfebe, 0x3ebe];
/// Of a folder: the only leaf, one of many.
const LEAF_ONE: [u16; 2] = [0xd2f1, 0x3df1];
const LEAF: [u16; 2] = [0xd2ff, 0x3dff];
/// `XFS_DA_NODE_MAXDEPTH`.
const LEVELS_MAX: u16 = 5;
/// Leaves in which one hash can be: then the folder is looked through from its beginning.
const LEAVES_MAX: usize = 64;

/// A tree's blocks, of one size.
pub(super) struct Tree<'a> {
    pub(super) volume: &'a Volume,
    pub(super) fork: &'a Fork,
    pub(super) owner: u64,
    pub(super) block_bytes: u64,
}

/// What every block of a tree begins with.
pub(super) struct Block {
    pub(super) raw: Vec<u8>,
    /// The block to its right, in blocks of the filesystem; 0 for none.
    pub(super) next: u32,
    pub(super) magic: u16,
    /// Of its entries.
    pub(super) count: u16,
    /// Where its own header goes on.
    pub(super) head: usize,
    /// Which of two magics it has.
    version: usize,
}

impl Block {
    pub(super) fn is(&self, magics: [u16; 2]) -> bool {
        magics.get(self.version) == Some(&self.magic)
    }
}

impl Tree<'_> {
    /// The block that begins with this block of the fork.
    pub(super) fn read(&self, number: u64) -> Result<Block, Fault> {
        let superblock = &self.volume.geometry.superblock;
        let wrong = || Fault::Damaged(format!("block {number} of its hashes is not one"));
        let at = number.checked_mul(superblock.block_bytes).ok_or_else(wrong)?;
        let mut raw = vec![0; len(self.block_bytes)];
        let wanted = Wanted { owner: self.owner, from: at };
        extents::read(self.volume, self.fork, wanted, &mut raw)?;
        let head = if superblock.has_sums { 56 } else { 12 };
        if superblock.has_sums {
            check_sum(&raw, 12, "block of hashes", number)?;
            let found = extents::next(self.volume, self.fork, wanted)?.filter(|it| it.file.offset <= at);
            let place = found.map(|it| it.place.saturating_add(at.saturating_sub(it.file.offset)));
            let own = raw.array(32)? == superblock.meta_uuid && raw.be64(48)? == self.owner;
            if !own || place != raw.be64(16)?.checked_mul(512) {
                return Err(wrong());
            }
        }
        Ok(Block {
            next: raw.be32(0)?,
            magic: raw.be16(8)?,
            count: raw.be16(head)?,
            head,
            version: superblock.has_sums.into(),
            raw,
        })
    }

    /// The first leaf that can have this hash; `None` when all are smaller.
    pub(super) fn leaf(&self, root: u64, hash: u32) -> Result<Option<Block>, Fault> {
        let mut block = self.read(root)?;
        let mut expected = None;
        while block.is(NODE) {
            let level = block.raw.be16(block.head.saturating_add(2))?;
            if !(1..=LEVELS_MAX).contains(&level) || expected.is_some_and(|expected| expected != level) {
                return Err(Fault::Damaged(format!("hashes of level {level}")));
            }
            expected = Some(level.saturating_sub(1));
            let entries = block.raw.get(self.entries()..).unwrap_or_default();
            let mut child = None;
            for entry in entries.chunks_exact(8).take(block.count.into()) {
                if entry.be32(0)? >= hash {
                    child = Some(entry.be32(4)?);
                    break;
                }
            }
            let Some(child) = child else { return Ok(None) };
            block = self.read(child.into())?;
        }
        match expected.is_none_or(|level| level == 0) {
            true => Ok(Some(block)),
            false => Err(Fault::damaged("a leaf amid the hashes")),
        }
    }

    /// Where entries begin in blocks of folders and of nodes.
    fn entries(&self) -> usize {
        if self.volume.geometry.superblock.has_sums { 64 } else { 16 }
    }

    /// The places that a folder's leaves have for a hash; whether these are all.
    fn addresses(&self, root: u64, hash: u32) -> Result<(Vec<u32>, bool), Fault> {
        let mut found = Vec::new();
        let Some(mut leaf) = self.leaf(root, hash)? else { return Ok((found, true)) };
        for _ in 0..LEAVES_MAX {
            if !leaf.is(LEAF) && !leaf.is(LEAF_ONE) {
                return Err(Fault::Damaged(format!("a block {:#x} among the hashes", leaf.magic)));
            }
            let entries = leaf.raw.get(self.entries()..).unwrap_or_default();
            for entry in entries.chunks_exact(8).take(leaf.count.into()) {
                match entry.be32(0)?.cmp(&hash) {
                    std::cmp::Ordering::Less => {}
                    // 0 is a name that was taken away.
                    std::cmp::Ordering::Equal => found.extend(Some(entry.be32(4)?).filter(|it| *it != 0)),
                    std::cmp::Ordering::Greater => return Ok((found, true)),
                }
            }
            if leaf.next == 0 || leaf.is(LEAF_ONE) {
                return Ok((found, true));
            }
            leaf = self.read(leaf.next.into())?;
        }
        Ok((found, false))
    }
}

/// A name of a folder that has a tree of hashes.
pub(super) fn find(volume: &Volume, folder: &Inode, name: &[u8]) -> Result<Option<u64>, Fault> {
    let block_bytes = volume.geometry.folder_block_bytes;
    let tree = Tree { volume, fork: &folder.contents, owner: folder.number, block_bytes };
    let root = folder::HASHES.checked_div(volume.geometry.superblock.block_bytes).unwrap_or(0);
    let (addresses, is_all) = tree.addresses(root, hash(name))?;
    for address in addresses {
        let (at, within) = folder::block_of(volume, folder::byte_of(address));
        let block = folder::read_block(volume, folder, at)?;
        match folder::name_at(volume, &block, within)? {
            Some((found, number)) if found == name => return Ok(Some(number)),
            Some(_) => {}
            None => return Err(Fault::Damaged(format!("a hash leads to no name at byte {at}"))),
        }
    }
    let mut found = None;
    if !is_all {
        folder::list(volume, folder, &mut |entry, number| {
            found = (entry == name).then_some(number);
            found.is_none()
        })?;
    }
    Ok(found)
}

/// Four bytes at a time, seven bits of each their own.
pub(super) fn hash(name: &[u8]) -> u32 {
    let mixed = |bytes: &[u8]| bytes.iter().fold(0_u32, |hash, byte| hash << 7 ^ u32::from(*byte));
    let quads = name.chunks_exact(4);
    let rest = quads.remainder();
    let hash = quads.fold(0_u32, |hash, quad| mixed(quad) ^ hash.rotate_left(28));
    let turned = match rest.len() {
        1 => hash.rotate_left(7),
        2 => hash.rotate_left(14),
        3 => hash.rotate_left(21),
        _ => hash,
    };
    mixed(rest) ^ turned
}

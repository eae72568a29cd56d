//! The names in a folder, in the order of its blocks. Trees of hashes are passed over: their blocks look like empty ones.
//!
//! Promise: each entry lies inside its block; where checksums are kept, a block of names holds to its own.
//! Knows nothing of what the names are for. Format: linux Documentation/filesystems/ext4/directory.rst.

use super::super::fault::{Fault, check_name, len};
use super::super::{FileId, FolderEntry};
use super::inode::{ENCRYPTED, INLINE_DATA, Inode, S_IFDIR};
use super::{Ext, attributes};
use crate::fs::Doubt;
use crate::fs::crc::crc32c;
use crate::fs::view::Fields;

const HEADER_BYTES: usize = 8;
/// An entry that is none: a block's checksum, directory.rst, `ext4_dir_entry_tail`.
const TAIL_BYTES: usize = 12;
const TAIL_KIND: u8 = 0xde;
/// A folder of an inline inode begins with its parent's number instead of two entries.
const INLINE_PARENT_BYTES: usize = 4;
/// More is not a folder: the kernel's limit without large folders is 2 GiB.
const FOLDER_BYTES_MAX: u64 = 64 << 30;

pub(super) fn list(
    ext: &Ext,
    folder: &Inode,
    each: &mut dyn FnMut(FolderEntry) -> bool,
) -> Result<(), Fault> {
    if !folder.is(S_IFDIR) {
        return Err(Fault::NotA("a folder"));
    }
    if folder.has(ENCRYPTED) {
        return Err(Fault::Unsupported("encryption"));
    }
    if folder.has(INLINE_DATA) {
        let map = folder.map()?.get(INLINE_PARENT_BYTES..).unwrap_or_default();
        let rest = attributes::inline_rest(ext, folder)?;
        return match in_block(ext, map, each)? && !rest.is_empty() {
            true => in_block(ext, &rest, each).map(drop),
            false => Ok(()),
        };
    }
    if folder.bytes > FOLDER_BYTES_MAX {
        return Err(Doubt::Impossible { place: "bytes of a folder", found: folder.bytes }.into());
    }
    let block_bytes = ext.superblock.block_bytes;
    let blocks = folder.bytes.div_ceil(block_bytes);
    let mut number = 0;
    while number < blocks {
        let stretch = ext.stretch(folder, number)?;
        let count = stretch.blocks.min(blocks.saturating_sub(number));
        // The kernel passes over holes as well, though there should be none.
        if let Some(first) = stretch.at {
            for block in (first..).take(len(count)) {
                let bytes = ext.block(block)?;
                check_sum(folder, &bytes, block)?;
                if !in_block(ext, &bytes, each)? {
                    return Ok(());
                }
            }
        }
        number = number.saturating_add(count);
    }
    Ok(())
}

/// Whether to go on.
fn in_block(ext: &Ext, block: &[u8], each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<bool, Fault> {
    let mut at = 0_usize;
    // Ends: each entry has at least its header.
    while at.saturating_add(HEADER_BYTES) <= block.len() {
        let wrong = |found: usize| {
            Fault::Damaged(format!("an entry at {found} in a block of names does not fit in it"))
        };
        let inode = block.le32(at)?;
        let whole = entry_bytes(block.le16(at.saturating_add(4))?, block.len());
        let name_bytes = match ext.superblock.has_file_types() {
            true => usize::from(block.byte(at.saturating_add(6))?),
            false => usize::from(block.le16(at.saturating_add(6))?),
        };
        let entry = block.part(at, whole).map_err(|_| wrong(at))?;
        if whole < HEADER_BYTES || !whole.is_multiple_of(4) {
            return Err(wrong(at));
        }
        at = at.saturating_add(whole);
        if inode == 0 {
            continue;
        }
        let name = entry.part(HEADER_BYTES, name_bytes).map_err(|_| wrong(at))?;
        if matches!(name, b"." | b"..") {
            continue;
        }
        check_name(name)?;
        if !each(FolderEntry { name: name.to_vec(), file: FileId(inode.into()) }) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Blocks of 64 KiB do not fit into 16 bits: linux fs/ext4/ext4.h, `ext4_rec_len_from_disk`.
fn entry_bytes(kept: u16, block_bytes: usize) -> usize {
    match kept {
        0 | 0xffff if block_bytes > 0xffff => block_bytes,
        kept if block_bytes > 0xffff => usize::from(kept & 0xfffc) | usize::from(kept & 3) << 16,
        kept => kept.into(),
    }
}

fn check_sum(folder: &Inode, block: &[u8], number: u64) -> Result<(), Doubt> {
    let (Some(seed), Some(at)) = (folder.seed, block.len().checked_sub(TAIL_BYTES)) else { return Ok(()) };
    let tail = block.part(at, TAIL_BYTES)?;
    let is_tail =
        tail.le32(0)? == 0 && usize::from(tail.le16(4)?) == TAIL_BYTES && tail.byte(7)? == TAIL_KIND;
    match !is_tail || is_tree(block)? || crc32c(seed, block.part(0, at)?) == tail.le32(8)? {
        true => Ok(()),
        false => Err(Doubt::Checksum { place: "names in block", number }),
    }
}

/// Whether a block is one of the tree of hashes: an empty entry, or the two for the folder and its parent, reach to its
/// very end. What was a tail before may still be seen there. linux fs/ext4/namei.c, `get_dx_countlimit`.
fn is_tree(block: &[u8]) -> Result<bool, Doubt> {
    const OF_FOLDER_BYTES: usize = 12;
    let first = entry_bytes(block.le16(4)?, block.len());
    let second = entry_bytes(block.le16(OF_FOLDER_BYTES.saturating_add(4))?, block.len());
    let whole = first == OF_FOLDER_BYTES && second == block.len().saturating_sub(OF_FOLDER_BYTES);
    Ok(first == block.len() || whole)
}

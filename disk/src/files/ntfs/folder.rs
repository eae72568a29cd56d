//! The names in a folder: its index, block by block.
//!
//! Promise: each block is read once, so that no tree, however wrong, is walked for ever; short names for DOS and the
//! filesystem's own files are left out.
//! Knows nothing of the order of names. Format: ntfs-3g include/ntfs-3g/layout.h, `INDEX_ROOT`, `INDEX_BLOCK`,
//! `INDEX_ENTRY`, `FILE_NAME_ATTR`.

use super::super::fault::{Fault, check_name, len};
use super::super::{FileId, FolderEntry};
use super::names;
use super::record::File;
use super::value;
use crate::fs::Doubt;
use crate::fs::ntfs::mft::{Mft, bit};
use crate::fs::ntfs::record::{BITMAP, INDEX_ALLOCATION, INDEX_ROOT, fix_up, split_reference};
use crate::fs::view::Fields;

/// `$I30`: the index of a folder by name.
const BY_NAME: &[u8] = b"$\0I\x003\x000\0";
/// Blocks of an index have 4 KiB, or a cluster where clusters are larger.
const BLOCK_BYTES_MAX: u32 = 64 << 10;
/// A folder of a hundred million names.
const BLOCKS_MAX: u64 = 1 << 20;
/// Records below are the filesystem's own: layout.h, `FILE_first_user`.
const FIRST_USER: u64 = 16;
/// Where a node begins, in the root and in a block.
const NODE_IN_ROOT: usize = 16;
const NODE_IN_BLOCK: usize = 24;

pub(super) fn list(
    mft: &Mft<'_>,
    folder: &File,
    each: &mut dyn FnMut(FolderEntry) -> bool,
) -> Result<(), Fault> {
    if !folder.is_folder {
        return Err(Fault::NotA("a folder"));
    }
    let missing = || Fault::damaged("a folder without an index of names");
    let root = folder.value(INDEX_ROOT, BY_NAME).and_then(|root| root.inside()).ok_or_else(missing)?;
    let Some(blocks) = folder.value(INDEX_ALLOCATION, BY_NAME) else {
        return in_node(root, NODE_IN_ROOT, each).map(drop);
    };
    let block_bytes = root.le32(8)?;
    if !block_bytes.is_power_of_two() || !(512..=BLOCK_BYTES_MAX).contains(&block_bytes) {
        return Err(Doubt::Impossible { place: "bytes of an index block", found: block_bytes.into() }.into());
    }
    let block_bytes = u64::from(block_bytes);
    let count = blocks.bytes().checked_div(block_bytes).unwrap_or(0);
    let bitmap = folder.value(BITMAP, BY_NAME).ok_or_else(missing)?;
    if count > BLOCKS_MAX || bitmap.bytes() < count.div_ceil(8) {
        return Err(Doubt::Impossible { place: "blocks of a folder", found: count }.into());
    }
    let mut bits = vec![0; len(count.div_ceil(8))];
    value::read(mft.disk(), bitmap, 0, &mut bits)?;
    if !in_node(root, NODE_IN_ROOT, each)? {
        return Ok(());
    }
    for number in 0..count {
        if !bit(&bits, number)? {
            continue;
        }
        let mut block = vec![0; len(block_bytes)];
        value::read(mft.disk(), blocks, number.saturating_mul(block_bytes), &mut block)?;
        if !block.starts_with(b"INDX") {
            return Err(Doubt::Impossible { place: "block of a folder", found: number }.into());
        }
        fix_up(&mut block, "block of a folder", number)?;
        if !in_node(&block, NODE_IN_BLOCK, each)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether to go on.
fn in_node(index: &[u8], node: usize, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<bool, Fault> {
    const LAST: u16 = 2;
    /// Of an entry; its key, the name, follows.
    const ENTRY_BYTES: usize = 16;
    let from = |at: u32| node.saturating_add(len(at.into()));
    let (mut at, end) = (from(index.le32(node)?), from(index.le32(node.saturating_add(4))?));
    // Ends: each entry is at least its header long.
    while at < end {
        let bytes = usize::from(index.le16(at.saturating_add(8))?);
        let entry = index.part(at, bytes)?;
        if bytes < ENTRY_BYTES {
            break;
        }
        if entry.le16(12)? & LAST != 0 {
            return Ok(true);
        }
        let key = entry.part(ENTRY_BYTES, entry.le16(10)?.into())?;
        if let Some(entry) = named(entry.le64(0)?, key)?
            && !each(entry)
        {
            return Ok(false);
        }
        at = at.saturating_add(bytes);
    }
    Err(Fault::damaged("an index of names without an end"))
}

/// `None` for names that are not shown.
fn named(reference: u64, key: &[u8]) -> Result<Option<FolderEntry>, Fault> {
    const NAME_LEN: usize = 64;
    const NAMESPACE: usize = 65;
    const NAME: usize = 66;
    const DOS: u8 = 2;
    if key.byte(NAMESPACE)? == DOS || split_reference(reference).0 < FIRST_USER {
        return Ok(None);
    }
    let name = names::decode(key.part(NAME, usize::from(key.byte(NAME_LEN)?).saturating_mul(2))?);
    check_name(&name)?;
    Ok(Some(FolderEntry { name, file: FileId(reference) }))
}

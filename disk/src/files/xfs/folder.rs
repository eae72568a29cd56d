//! Folders: names within the inode, in one block, or in many.
//!
//! Promise: names come in the order in which they are kept; each block's checksum, place and owner hold (version 5); a
//! folder of more blocks than the volume has room for is an error.
//! Knows nothing of the files that names lead to. Format: xfsprogs libxfs/xfs_da_format.h, `struct xfs_dir2_sf_hdr`,
//! `struct xfs_dir3_data_hdr`, `xfs_dir2_data_entry_t`; the checks: libxfs/xfs_dir2_data.c, `__xfs_dir3_data_check`.

use super::Volume;
use super::extents::{self, Wanted};
use super::inode::{Format, Inode};
use crate::files::fault::{Fault, check_name, len, len64};
use crate::fs::view::Fields;
use crate::fs::xfs::check_sum;

/// `XFS_DIR2_LEAF_OFFSET`: entries come before it, hashes of names from here on.
pub(super) const HASHES: u64 = 1 << 35;
/// Entries begin at multiples of it, and are counted in it by those that point to them.
pub(super) const ALIGN: usize = 8;
/// `XFS_DIR2_DATA_FREE_TAG`.
const FREE: u16 = 0xffff;
/// Headers of blocks with entries, of versions 4 and 5.
const HEADER_BYTES: usize = 16;
const HEADER_5_BYTES: usize = 64;

/// What is done with each name and its inode's number; `false` ends it.
pub(super) type Each<'a> = dyn FnMut(&[u8], u64) -> bool + 'a;

/// Where an entry is, and how long it is in all.
struct Entry<'a> {
    /// `None`: nobody's room.
    named: Option<(&'a [u8], u64)>,
    bytes: usize,
}

/// All names but `.` and `..`.
pub(super) fn list(volume: &Volume, folder: &Inode, each: &mut Each<'_>) -> Result<(), Fault> {
    match folder.contents.format {
        Format::Local => within(volume, folder, each),
        _ => blocks(volume, folder, each),
    }
}

/// Whether it has a tree of hashes: those of one block have theirs in it.
pub(super) fn has_hashes(volume: &Volume, folder: &Inode) -> bool {
    folder.contents.format != Format::Local && folder.size > volume.geometry.folder_block_bytes
}

/// `struct xfs_dir2_sf_hdr`: number of names, how many of them need long numbers, the parent, the names.
fn within(volume: &Volume, folder: &Inode, each: &mut Each<'_>) -> Result<(), Fault> {
    let all = folder.contents.bytes.part(0, len(folder.size))?;
    let (count, is_long) = (all.byte(0)?, all.byte(1)? != 0);
    let number_bytes = if is_long { 8_usize } else { 4 };
    let mut at = number_bytes.saturating_add(2);
    for _ in 0..count {
        let name_bytes = usize::from(all.byte(at)?);
        let name = all.part(at.saturating_add(3), name_bytes)?;
        at = at.saturating_add(3).saturating_add(name_bytes).saturating_add(volume.geometry.has_types.into());
        let number = if is_long { all.be64(at)? } else { all.be32(at)?.into() };
        at = at.saturating_add(number_bytes);
        check_name(name)?;
        if !each(name, number) {
            break;
        }
    }
    Ok(())
}

/// Blocks with entries, each behind the one before.
fn blocks(volume: &Volume, folder: &Inode, each: &mut Each<'_>) -> Result<(), Fault> {
    let block_bytes = volume.geometry.folder_block_bytes;
    let end = folder.size.min(HASHES);
    let mut left = volume.geometry.superblock.bytes().checked_div(block_bytes).unwrap_or(0);
    let mut at = 0;
    while at < end {
        let wanted = Wanted { owner: folder.number, from: at };
        let Some(found) = extents::next(volume, &folder.contents, wanted)? else { break };
        let found = found.file.offset.max(at);
        let block_at = found.saturating_sub(found.checked_rem(block_bytes).unwrap_or(0));
        if block_at >= end {
            break;
        }
        left = left.checked_sub(1).ok_or_else(|| Fault::damaged("a folder larger than the volume"))?;
        let block = read_block(volume, folder, block_at)?;
        if !entries(volume, &block, each)? {
            break;
        }
        at = block_at.saturating_add(block_bytes);
    }
    Ok(())
}

/// A block with entries, when it is what its place says.
pub(super) fn read_block(volume: &Volume, folder: &Inode, at: u64) -> Result<Vec<u8>, Fault> {
    let superblock = &volume.geometry.superblock;
    let raw = read(volume, folder, at)?;
    let magics: [&[u8]; 2] = if superblock.has_sums { [b"XDB3", b"XDD3"] } else { [b"XD2B", b"XD2D"] };
    if !magics.contains(&raw.part(0, 4)?) {
        return Err(Fault::Damaged(format!("no names at byte {at} of the folder")));
    }
    if superblock.has_sums {
        check_sum(&raw, 4, "block of the folder at byte", at)?;
        let own = raw.array(24)? == superblock.meta_uuid && raw.be64(40)? == folder.number;
        if !own || raw.be64(8)? != place(volume, folder, at)? / 512 {
            return Err(Fault::Damaged(format!("another folder's block is at its byte {at}")));
        }
    }
    Ok(raw)
}

/// Any block of a folder.
pub(super) fn read(volume: &Volume, folder: &Inode, at: u64) -> Result<Vec<u8>, Fault> {
    let mut raw = vec![0; len(volume.geometry.folder_block_bytes)];
    let wanted = Wanted { owner: folder.number, from: at };
    extents::read(volume, &folder.contents, wanted, &mut raw)?;
    Ok(raw)
}

/// Where it begins on the volume.
pub(super) fn place(volume: &Volume, folder: &Inode, at: u64) -> Result<u64, Fault> {
    let wanted = Wanted { owner: folder.number, from: at };
    let found = extents::next(volume, &folder.contents, wanted)?.filter(|it| it.file.offset <= at);
    let found = found.ok_or_else(|| Fault::Damaged(format!("nothing at byte {at} of the folder")))?;
    Ok(found.place.saturating_add(at.saturating_sub(found.file.offset)))
}

fn header_bytes(volume: &Volume) -> usize {
    if volume.geometry.superblock.has_sums { HEADER_5_BYTES } else { HEADER_BYTES }
}

/// The entries of a block; whether to go on.
fn entries(volume: &Volume, block: &[u8], each: &mut Each<'_>) -> Result<bool, Fault> {
    let end = end(block)?;
    let mut at = header_bytes(volume);
    while at < end {
        let entry = entry(volume, block, at, end)?;
        if let Some((name, number)) = entry.named
            && !matches!(name, b"." | b"..")
        {
            check_name(name)?;
            if !each(name, number) {
                return Ok(false);
            }
        }
        at = at.saturating_add(entry.bytes);
    }
    Ok(true)
}

/// Where entries end: a block that is the only one has its hashes at its end, 8 bytes each, and their number.
fn end(block: &[u8]) -> Result<usize, Fault> {
    if !matches!(block.part(0, 4)?, b"XDB3" | b"XD2B") {
        return Ok(block.len());
    }
    let tail = block.len().saturating_sub(ALIGN);
    let hashes = len(block.be32(tail)?.into()).saturating_mul(8);
    tail.checked_sub(hashes).ok_or_else(|| Fault::damaged("more hashes than the folder has room for"))
}

/// The name at a place that hashes point to.
pub(super) fn name_at<'a>(
    volume: &Volume,
    block: &'a [u8],
    at: usize,
) -> Result<Option<(&'a [u8], u64)>, Fault> {
    if at < header_bytes(volume) {
        return Err(Fault::Damaged(format!("a hash points to byte {at} of a block")));
    }
    Ok(entry(volume, block, at, end(block)?)?.named)
}

fn entry<'a>(volume: &Volume, block: &'a [u8], at: usize, end: usize) -> Result<Entry<'a>, Fault> {
    let wrong = || Fault::Damaged(format!("an entry at byte {at} of a block"));
    if block.be16(at)? == FREE {
        let bytes = usize::from(block.be16(at.saturating_add(2))?);
        let fits = bytes >= ALIGN && bytes.is_multiple_of(ALIGN) && bytes <= end.saturating_sub(at);
        return if fits { Ok(Entry { named: None, bytes }) } else { Err(wrong()) };
    }
    let name_bytes = usize::from(block.byte(at.saturating_add(8))?);
    let name = block.part(at.saturating_add(9), name_bytes)?;
    // Number, length, name, type, and where it begins.
    let bytes = 11_usize.saturating_add(name_bytes).saturating_add(volume.geometry.has_types.into());
    let bytes = bytes.checked_next_multiple_of(ALIGN).ok_or_else(wrong)?;
    let tag = at.saturating_add(bytes).saturating_sub(2);
    if name_bytes == 0 || bytes > end.saturating_sub(at) || usize::from(block.be16(tag)?) != at {
        return Err(wrong());
    }
    Ok(Entry { named: Some((name, block.be64(at)?)), bytes })
}

/// So many blocks of the folder come before a byte of it.
pub(super) fn block_of(volume: &Volume, byte: u64) -> (u64, usize) {
    let within = byte.checked_rem(volume.geometry.folder_block_bytes).unwrap_or(0);
    (byte.saturating_sub(within), len(within))
}

/// Bytes of a folder, as hashes name them.
pub(super) fn byte_of(address: u32) -> u64 {
    u64::from(address).saturating_mul(len64(ALIGN))
}

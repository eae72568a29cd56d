//! The page files in the root folder, and whether a system sleeps in one of them.
//!
//! Promise: only a plain file with one name, whose clusters overlap nowhere, is told as not worth keeping.
//! Knows nothing of other folders. Format: ntfs-3g include/ntfs-3g/layout.h, `INDEX_ROOT`, `INDEX_BLOCK`, `INDEX_ENTRY`,
//! `FILE_NAME_ATTR`; hibernation: libntfs-3g/volume.c, `ntfs_volume_check_hiberfile`.

use super::super::Doubt;
use super::super::view::Fields;
use super::mft::{Mft, bit, size};
use super::record::{BITMAP, DATA, INDEX_ALLOCATION, INDEX_ROOT, Record, fix_up, is_like};
use super::{FILE_ROOT, missing};
use crate::Extent;

const HIBERNATION: &str = "hiberfil.sys";
const NAMES: [&str; 3] = ["pagefile.sys", "swapfile.sys", HIBERNATION];
/// volume.c, `NTFS_HIBERFILE_HEADER_SIZE`.
const HEADER_BYTES: u64 = 4096;
/// The index of a folder by name.
const BY_NAME: &str = "$I30";
/// Blocks of an index have 4 KiB, or a cluster where clusters are larger.
const INDEX_BLOCK_BYTES_MAX: u32 = 64 << 10;

/// A file whose contents are not worth keeping.
#[derive(Debug)]
pub(super) struct PageFile {
    pub(super) name: String,
    pub(super) record: u64,
    pub(super) extents: Vec<Extent>,
}

/// Looks for them. [`Doubt::Hibernated`] when a system sleeps in the file for that.
pub(super) fn page_files(mft: &Mft<'_>) -> Result<Vec<PageFile>, Doubt> {
    let mut found = Vec::new();
    for (name, reference) in named(mft)? {
        let record = mft.referred(reference)?;
        if record.is_directory()? || record.base()?.is_some() {
            return Err(Doubt::Impossible { place: "a page file is file record", found: record.number() });
        }
        if name == HIBERNATION {
            check_awake(mft, &record)?;
        }
        found.extend(page_file(mft, name, &record)?);
    }
    Ok(found)
}

/// `None` when its contents have to be kept.
fn page_file(mft: &Mft<'_>, name: &str, record: &Record) -> Result<Option<PageFile>, Doubt> {
    let Some(data) = mft.stream(record.number(), DATA, "")? else { return Ok(None) };
    if !data.is_plain() || data.is_inside() || record.links()? != 1 {
        return Ok(None);
    }
    let extents = data.extents(mft.boot()).filter(|extents| !extents.is_empty());
    Ok(extents.map(|extents| PageFile { name: name.to_owned(), record: record.number(), extents }))
}

/// The file's first bytes say whether a system sleeps in it ("hibr"), was woken ("wake") or neither (zeros). A file that
/// is too short belongs to a system on another volume, which sleeps.
fn check_awake(mft: &Mft<'_>, record: &Record) -> Result<(), Doubt> {
    let hibernated = Doubt::Hibernated { place: HIBERNATION };
    let Some(data) = mft.stream(record.number(), DATA, "")? else { return Err(hibernated) };
    if data.bytes() < HEADER_BYTES {
        return Err(hibernated);
    }
    let header = data.read(mft.disk(), 0, HEADER_BYTES)?;
    let woken = header.starts_with(b"wake") || header.starts_with(b"WAKE");
    match woken || header.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(hibernated),
    }
}

/// The names that matter, with references to their records. A file has one entry, or two when it has a short name too.
fn named(mft: &Mft<'_>) -> Result<Vec<(&'static str, u64)>, Doubt> {
    let mut found = Vec::new();
    let root = mft.stream(FILE_ROOT, INDEX_ROOT, BY_NAME)?.ok_or(missing("index of the root folder"))?;
    let root = root.read(mft.disk(), 0, root.bytes())?;
    /// Behind kind, order and sizes.
    const NODE: usize = 16;
    collect(&root, NODE, &mut found)?;
    let block_bytes = root.le32(8)?;
    let Some(blocks) = mft.stream(FILE_ROOT, INDEX_ALLOCATION, BY_NAME)? else { return Ok(found) };
    blocks.check_plain("index of the root folder")?;
    if !block_bytes.is_power_of_two() || !(512..=INDEX_BLOCK_BYTES_MAX).contains(&block_bytes) {
        return Err(Doubt::Impossible { place: "bytes of an index block", found: block_bytes.into() });
    }
    let used = mft.stream(FILE_ROOT, BITMAP, BY_NAME)?.ok_or(missing("bitmap of the root folder"))?;
    let block_bytes = u64::from(block_bytes);
    let count = blocks.bytes().checked_div(block_bytes).unwrap_or(0);
    if count > INDEX_BLOCKS_MAX {
        return Err(Doubt::Impossible { place: "blocks of the root folder", found: count });
    }
    let bits = used.read(mft.disk(), 0, count.div_ceil(8))?;
    for number in 0..count {
        if !bit(&bits, number)? {
            continue;
        }
        let mut block = blocks.read(mft.disk(), number.saturating_mul(block_bytes), block_bytes)?;
        if !block.starts_with(b"INDX") {
            return Err(Doubt::Impossible { place: "block of the root folder", found: number });
        }
        fix_up(&mut block, "block of the root folder", number)?;
        /// Behind magic, sequence and the block's own number.
        const NODE: usize = 24;
        collect(&block, NODE, &mut found)?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// A root folder of a hundred million names.
const INDEX_BLOCKS_MAX: u64 = 1 << 20;

/// Goes through the entries of one node.
fn collect(index: &[u8], node: usize, found: &mut Vec<(&'static str, u64)>) -> Result<(), Doubt> {
    const LAST: u16 = 2;
    /// Of an entry; its key, the name, follows.
    const ENTRY_BYTES: usize = 16;
    /// In the key: the length in characters, and the characters.
    const NAME_LEN: usize = 64;
    const NAME: usize = 66;
    let from = |at: u32| node.saturating_add(size(at.into()));
    let (mut at, end) = (from(index.le32(node)?), from(index.le32(node.saturating_add(4))?));
    // Ends: each entry is at least its header long.
    while at < end {
        let len = usize::from(index.le16(at.saturating_add(8))?);
        let entry = index.part(at, len)?;
        if len < ENTRY_BYTES {
            break;
        }
        if entry.le16(12)? & LAST != 0 {
            return Ok(());
        }
        let key = entry.part(ENTRY_BYTES, entry.le16(10)?.into())?;
        let name = key.part(NAME, usize::from(key.byte(NAME_LEN)?).saturating_mul(2))?;
        if let Some(known) = NAMES.into_iter().find(|known| is_like(name, known)) {
            found.push((known, entry.le64(0)?));
        }
        at = at.saturating_add(len);
    }
    Err(Doubt::Impossible {
        place: "index of the root folder, entry at",
        found: u64::try_from(at).unwrap_or(0),
    })
}

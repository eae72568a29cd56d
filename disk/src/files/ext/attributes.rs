//! Extended attributes: in the inode, in a block of their own, or each in an inode.
//!
//! Promise: full names, access lists in the form that the kernel hands out; where checksums are kept, the block holds to
//! its own.
//! Knows nothing of what they mean. Format: linux Documentation/filesystems/ext4/attributes.rst; fs/ext4/{xattr,acl}.h.

use super::super::Attribute;
use super::super::fault::{Fault, len, len64};
use super::Ext;
use super::inode::{EA_INODE, Inode, OLD_BYTES};
use crate::fs::Doubt;
use crate::fs::crc::crc32c;
use crate::fs::view::Fields;

const MAGIC: u32 = 0xea02_0000;
const ENTRY_BYTES: usize = 16;
const BLOCK_HEADER_BYTES: usize = 32;
/// The kernel's limit for a value: include/uapi/linux/limits.h, `XATTR_SIZE_MAX`.
const VALUE_BYTES_MAX: u32 = 64 << 10;

/// Numbers of the prefixes of names: fs/ext4/xattr.h.
const ACCESS_LIST: u8 = 2;
const DEFAULT_LIST: u8 = 3;
const SYSTEM: u8 = 7;
const ENCRYPTION: u8 = 9;

/// One as it is kept.
struct Entry {
    prefix: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// All of a file's attributes, but those that are no one's business: contents kept inline, keys of encryption.
pub(super) fn all(ext: &Ext, inode: &Inode) -> Result<Vec<Attribute>, Fault> {
    let is_inner =
        |entry: &Entry| entry.prefix == ENCRYPTION || entry.prefix == SYSTEM && entry.name == b"data";
    let entries = entries(ext, inode)?;
    entries.into_iter().filter(|entry| !is_inner(entry)).map(named).collect()
}

/// What of an inline file did not fit where its map would be.
pub(super) fn inline_rest(ext: &Ext, inode: &Inode) -> Result<Vec<u8>, Fault> {
    let mut entries = Vec::new();
    in_inode(ext, inode, &mut entries)?;
    let is_it = |entry: &Entry| entry.prefix == SYSTEM && entry.name == b"data";
    Ok(entries.into_iter().find(is_it).map(|entry| entry.value).unwrap_or_default())
}

fn entries(ext: &Ext, inode: &Inode) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::new();
    in_inode(ext, inode, &mut entries)?;
    let number = inode.attribute_block()?;
    if number == 0 {
        return Ok(entries);
    }
    let block = ext.block(number)?;
    if block.le32(0)? != MAGIC {
        return Err(Doubt::Impossible { place: "block of attributes", found: number }.into());
    }
    if let Some(seed) = ext.seed() {
        // fs/ext4/xattr.c, `ext4_xattr_block_csum`.
        const CHECKSUM: usize = 16;
        let rest = CHECKSUM.saturating_add(4);
        let sum = crc32c(crc32c(seed, &number.to_le_bytes()), block.part(0, CHECKSUM)?);
        let sum = crc32c(crc32c(sum, &[0; 4]), block.part(rest, block.len().saturating_sub(rest))?);
        if sum != block.le32(CHECKSUM)? {
            return Err(Doubt::Checksum { place: "attributes in block", number }.into());
        }
    }
    // Values are counted from the block's beginning.
    read_entries(ext, block.get(BLOCK_HEADER_BYTES..).unwrap_or_default(), &block, &mut entries)?;
    Ok(entries)
}

fn in_inode(ext: &Ext, inode: &Inode, entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let at = OLD_BYTES.saturating_add(inode.extra_bytes()?);
    match inode.raw.get(at..) {
        Some(rest) if rest.len() >= 8 && rest.le32(0)? == MAGIC => {
            // Values are counted from the first entry.
            let rest = rest.get(4..).unwrap_or_default();
            read_entries(ext, rest, rest, entries)
        }
        _ => Ok(()),
    }
}

fn read_entries(ext: &Ext, list: &[u8], values: &[u8], entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let mut at = 0_usize;
    // Ends: each entry has at least its header.
    while list.le32(at).unwrap_or(0) != 0 {
        let header = list.part(at, ENTRY_BYTES)?;
        let name_bytes = usize::from(header.byte(0)?);
        let name = list.part(at.saturating_add(ENTRY_BYTES), name_bytes)?.to_vec();
        let (offset, inode, bytes) = (header.le16(2)?, header.le32(4)?, header.le32(8)?);
        if bytes > VALUE_BYTES_MAX {
            return Err(Doubt::Impossible { place: "bytes of an attribute", found: bytes.into() }.into());
        }
        let value = match inode {
            0 => values.part(offset.into(), len(bytes.into()))?.to_vec(),
            inode => in_own_inode(ext, inode, len(bytes.into()))?,
        };
        entries.push(Entry { prefix: header.byte(1)?, name, value });
        let whole = ENTRY_BYTES.saturating_add(name_bytes);
        at = at.saturating_add(whole.next_multiple_of(4));
    }
    Ok(())
}

fn in_own_inode(ext: &Ext, number: u32, bytes: usize) -> Result<Vec<u8>, Fault> {
    let inode = Inode::read(ext, number.into())?;
    if !inode.has(EA_INODE) || inode.bytes != len64(bytes) {
        return Err(Doubt::Impossible { place: "inode of an attribute", found: number.into() }.into());
    }
    let mut value = vec![0; bytes];
    ext.read_blocks(&inode, 0, &mut value)?;
    Ok(value)
}

fn named(entry: Entry) -> Result<Attribute, Fault> {
    let prefix: &[u8] = match entry.prefix {
        0 => b"",
        1 => b"user.",
        ACCESS_LIST => return Ok((b"system.posix_acl_access".to_vec(), access_list(&entry.value)?)),
        DEFAULT_LIST => return Ok((b"system.posix_acl_default".to_vec(), access_list(&entry.value)?)),
        4 => b"trusted.",
        6 => b"security.",
        SYSTEM => b"system.",
        8 => b"system.richacl",
        _ => return Err(Fault::Damaged(format!("the prefix {} of an attribute is not known", entry.prefix))),
    };
    Ok(([prefix, &entry.name].concat(), entry.value))
}

/// From the form on the disk (fs/ext4/acl.h: ids only where they say something) to that of the attribute
/// (include/uapi/linux/posix_acl_xattr.h).
fn access_list(kept: &[u8]) -> Result<Vec<u8>, Fault> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    const VERSION_KEPT: u32 = 1;
    const VERSION_SHOWN: u32 = 2;
    const NOBODY: u32 = u32::MAX;
    if kept.le32(0)? != VERSION_KEPT {
        return Err(
            Doubt::Impossible { place: "version of an access list", found: kept.le32(0)?.into() }.into()
        );
    }
    let mut shown = VERSION_SHOWN.to_le_bytes().to_vec();
    let mut at = 4_usize;
    while at < kept.len() {
        let tag = kept.le16(at)?;
        shown.extend_from_slice(kept.part(at, 4)?);
        at = at.saturating_add(4);
        let mut id = NOBODY;
        if matches!(tag, USER | GROUP) {
            id = kept.le32(at)?;
            at = at.saturating_add(4);
        }
        shown.extend_from_slice(&id.to_le_bytes());
    }
    Ok(shown)
}

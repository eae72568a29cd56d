//! Extended attributes: in the inode, in a leaf, in a tree of leaves, with long values in blocks of their own.
//!
//! Promise: full names as Linux has them; ACLs in the form that Linux hands out; at most [`ATTRIBUTES_MAX`] and
//! [`BYTES_MAX`]. What was being written, and what only the filesystem reads (a file's parents), is left out.
//! Knows nothing of what attributes mean. Format: xfsprogs libxfs/xfs_da_format.h, `struct xfs_attr_shortform`,
//! `xfs_attr_leafblock_t`, `struct xfs_attr3_rmt_hdr`; libxfs/xfs_format.h, `struct xfs_acl`.

use super::Volume;
use super::extents::{self, Wanted};
use super::hashes::{Block, Tree};
use super::inode::{Fork, Format, Inode};
use crate::files::Attribute;
use crate::files::fault::{Fault, len, len64};
use crate::fs::view::Fields;
use crate::fs::xfs::check_sum;

/// A file that has more was not made by people: Linux lists names up to 64 KiB.
const ATTRIBUTES_MAX: usize = 1 << 16;
const BYTES_MAX: usize = 64 << 20;
/// What as many attributes need in the smallest blocks; so those who lead back to themselves are found out soon.
const LEAVES_MAX: usize = 1 << 14;
/// `XATTR_SIZE_MAX`.
const VALUE_BYTES_MAX: u32 = 64 << 10;
/// `XFS_ATTR_LEAF_MAGIC`, of versions 4 and 5.
const LEAF: [u16; 2] = [0xfbee, 0x3bee];
/// `XFS_ATTR_LOCAL`…
const LOCAL: u8 = 1;
const ROOT: u8 = 2;
const SECURE: u8 = 4;
const PARENT: u8 = 8;
const INCOMPLETE: u8 = 0x80;
/// The header of each block of a value, of version 5.
const VALUE_HEADER_BYTES: usize = 56;

/// All attributes of an inode.
pub(super) fn attributes(volume: &Volume, inode: &Inode) -> Result<Vec<Attribute>, Fault> {
    let mut found = Found::default();
    let Some(fork) = &inode.attributes else { return Ok(found.all) };
    match fork.format {
        Format::Local => within(&fork.bytes, &mut found)?,
        Format::Extents if fork.extents == 0 => {}
        _ => leaves(volume, inode.number, fork, &mut found)?,
    }
    Ok(found.all)
}

#[derive(Default)]
struct Found {
    all: Vec<Attribute>,
    bytes: usize,
}

impl Found {
    fn add(&mut self, flags: u8, name: &[u8], value: Vec<u8>) -> Result<(), Fault> {
        let prefix = match flags & (ROOT | SECURE) {
            0 => "user.",
            ROOT => "trusted.",
            SECURE => "security.",
            _ => return Err(Fault::Damaged(format!("an attribute of the kinds {flags:#x}"))),
        };
        let full = [prefix.as_bytes(), name].concat();
        let (full, value) = match full.as_slice() {
            b"trusted.SGI_ACL_FILE" => (b"system.posix_acl_access".to_vec(), acl(&value)?),
            b"trusted.SGI_ACL_DEFAULT" => (b"system.posix_acl_default".to_vec(), acl(&value)?),
            _ => (full, value),
        };
        self.bytes = self.bytes.saturating_add(full.len()).saturating_add(value.len());
        if self.bytes > BYTES_MAX || self.all.len() >= ATTRIBUTES_MAX {
            return Err(Fault::Unsupported("a file with so many attributes"));
        }
        self.all.push((full, value));
        Ok(())
    }
}

/// Number of entries; for each tag, id, permissions. Linux wants them little endian, behind a version: linux
/// include/uapi/linux/posix_acl_xattr.h.
fn acl(value: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut out = vec![2, 0, 0, 0];
    let entries = value.get(4..).unwrap_or_default();
    let count = len(value.be32(0)?.into());
    if count > entries.len() / 12 {
        return Err(Fault::Damaged(format!("an ACL of {count} entries in {} bytes", value.len())));
    }
    for entry in entries.chunks_exact(12).take(count) {
        let tag = u16::try_from(entry.be32(0)?).unwrap_or(0);
        // Only named users and groups have an id.
        let id = if matches!(tag, 2 | 8) { entry.be32(4)? } else { u32::MAX };
        out.extend(tag.to_le_bytes());
        out.extend(entry.be16(8)?.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    Ok(out)
}

/// Bytes in all, their number; for each the lengths of name and value, flags, name, value.
fn within(bytes: &[u8], found: &mut Found) -> Result<(), Fault> {
    let count = bytes.byte(2)?;
    let mut at = 4_usize;
    for _ in 0..count {
        let [name_bytes, value_bytes, flags] = bytes.array(at)?;
        let name = bytes.part(at.saturating_add(3), name_bytes.into())?;
        at = at.saturating_add(3).saturating_add(name.len());
        let value = bytes.part(at, value_bytes.into())?;
        at = at.saturating_add(value.len());
        if flags & (PARENT | INCOMPLETE) == 0 {
            found.add(flags, name, value.to_vec())?;
        }
    }
    Ok(())
}

/// From the leftmost leaf to the right.
fn leaves(volume: &Volume, owner: u64, fork: &Fork, found: &mut Found) -> Result<(), Fault> {
    let block_bytes = volume.geometry.superblock.block_bytes;
    let tree = Tree { volume, fork, owner, block_bytes };
    let mut left = LEAVES_MAX;
    let mut leaf = tree.leaf(0, 0)?;
    while let Some(block) = leaf {
        if !block.is(LEAF) {
            return Err(Fault::Damaged(format!("a block {:#x} among the attributes", block.magic)));
        }
        entries(&tree, &block, found)?;
        left = left.checked_sub(1).ok_or_else(|| Fault::damaged("leaves of attributes without end"))?;
        leaf = if block.next == 0 { None } else { Some(tree.read(block.next.into())?) };
    }
    Ok(())
}

/// Each is a hash, where name and value are in the block, and flags.
fn entries(tree: &Tree<'_>, leaf: &Block, found: &mut Found) -> Result<(), Fault> {
    let first = if tree.volume.geometry.superblock.has_sums { 80 } else { 32 };
    let entries = leaf.raw.get(first..).unwrap_or_default();
    for entry in entries.chunks_exact(8).take(leaf.count.into()) {
        let (at, flags) = (usize::from(entry.be16(4)?), entry.byte(6)?);
        if flags & (PARENT | INCOMPLETE) != 0 {
            continue;
        }
        if flags & LOCAL != 0 {
            let (value_bytes, name_bytes) = (leaf.raw.be16(at)?, leaf.raw.byte(at.saturating_add(2))?);
            let name = leaf.raw.part(at.saturating_add(3), name_bytes.into())?;
            let at = at.saturating_add(3).saturating_add(name.len());
            found.add(flags, name, leaf.raw.part(at, value_bytes.into())?.to_vec())?;
            continue;
        }
        let (block, bytes) = (leaf.raw.be32(at)?, leaf.raw.be32(at.saturating_add(4))?);
        let name_bytes = leaf.raw.byte(at.saturating_add(8))?;
        let name = leaf.raw.part(at.saturating_add(9), name_bytes.into())?;
        found.add(flags, name, value(tree, block, bytes)?)?;
    }
    Ok(())
}

/// A value in blocks of its own.
fn value(tree: &Tree<'_>, first: u32, bytes: u32) -> Result<Vec<u8>, Fault> {
    let superblock = &tree.volume.geometry.superblock;
    if bytes > VALUE_BYTES_MAX {
        return Err(Fault::Damaged(format!("an attribute of {bytes} bytes")));
    }
    let mut value = Vec::new();
    let mut left = len(bytes.into());
    let mut block = u64::from(first);
    while left > 0 {
        let mut raw = vec![0; len(superblock.block_bytes)];
        let wanted = Wanted { owner: tree.owner, from: block.saturating_mul(superblock.block_bytes) };
        extents::read(tree.volume, tree.fork, wanted, &mut raw)?;
        let body =
            if superblock.has_sums { checked(tree, &raw, wanted, value.len())? } else { raw.as_slice() };
        let room = if superblock.has_sums { raw.len().saturating_sub(VALUE_HEADER_BYTES) } else { raw.len() };
        let part = body.get(..left.min(room)).ok_or_else(|| Fault::damaged("a short block of a value"))?;
        value.extend_from_slice(part);
        left = left.saturating_sub(part.len());
        block = block.saturating_add(1);
    }
    Ok(value)
}

/// A block of a value, when it is the one that begins with this byte of it; its bytes.
fn checked<'a>(tree: &Tree<'_>, raw: &'a [u8], wanted: Wanted, at: usize) -> Result<&'a [u8], Fault> {
    let superblock = &tree.volume.geometry.superblock;
    check_sum(raw, 12, "block of an attribute at byte", wanted.from)?;
    let found = extents::next(tree.volume, tree.fork, wanted)?;
    let place = found.map(|it| it.place.saturating_add(wanted.from.saturating_sub(it.file.offset)));
    let own = raw.part(0, 4)? == b"XARM"
        && u64::from(raw.be32(4)?) == len64(at)
        && raw.array(16)? == superblock.meta_uuid
        && raw.be64(32)? == tree.owner
        && raw.be64(40)?.checked_mul(512) == place;
    match own {
        true => Ok(raw.part(VALUE_HEADER_BYTES, len(raw.be32(8)?.into()))?),
        false => Err(Fault::damaged("a block that is not of the attribute's value")),
    }
}

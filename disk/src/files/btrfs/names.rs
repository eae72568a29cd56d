//! Items with names: of folders, and of extended attributes.
//!
//! Promise: each name and value lies in its item.
//! Knows nothing of trees. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_dir_item`.

use crate::files::fault::Fault;
use crate::fs::btrfs::tree::Key;
use crate::fs::crc::crc32c;
use crate::fs::view::Fields;

/// Names by their hash, names in the order of their making, attributes by the hash of their name.
pub(super) const BY_HASH: u8 = 84;
pub(super) const BY_AGE: u8 = 96;
pub(super) const ATTRIBUTE: u8 = 24;
/// Location, generation, lengths, type.
const HEADER_BYTES: usize = 30;

/// One of the names of an item.
pub(super) struct Named<'a> {
    /// Where it leads; nowhere for attributes.
    pub(super) location: Key,
    pub(super) name: &'a [u8],
    /// An attribute's.
    pub(super) value: &'a [u8],
}

/// The names of an item: several when their hashes are the same.
pub(super) fn names(item: &[u8]) -> Result<Vec<Named<'_>>, Fault> {
    let mut found = Vec::new();
    let mut rest = item;
    // Ends: each has a header at least.
    while !rest.is_empty() {
        let (value_bytes, name_bytes) = (usize::from(rest.le16(25)?), usize::from(rest.le16(27)?));
        let behind = HEADER_BYTES.saturating_add(name_bytes);
        found.push(Named {
            location: Key::decode(rest, 0)?,
            name: rest.part(HEADER_BYTES, name_bytes)?,
            value: rest.part(behind, value_bytes)?,
        });
        rest = rest.get(behind.saturating_add(value_bytes)..).unwrap_or_default();
    }
    Ok(found)
}

/// `btrfs_name_hash`.
pub(super) fn hash(name: &[u8]) -> u64 {
    crc32c(!1, name).into()
}

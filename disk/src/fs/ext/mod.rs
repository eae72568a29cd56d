//! ext2, ext3 and ext4: the blocks that the block bitmaps call free.
//!
//! Promise: free is what a bitmap of a cleanly unmounted filesystem calls free, where every count and checksum agrees
//! and no metadata lies; a group whose bitmap was never written is free but for the metadata in it.
//! Knows nothing of files; of the journal, only whether it is empty. Format: linux Documentation/filesystems/ext4/;
//! where that is silent, e2fsprogs lib/ext2fs.

pub(crate) mod groups;
mod journal;
pub(crate) mod superblock;
#[cfg(test)]
mod tests;

use self::superblock::Superblock;
use super::view::View;
use super::{Allocation, Doubt};

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let superblock = Superblock::read(volume)?;
    let (expected, found) = (superblock.bytes(), volume.bytes());
    if expected > found {
        return Err(Doubt::TooLarge { expected, found });
    }
    let groups = groups::read(volume, &superblock)?;
    journal::check_empty(volume, &superblock, groups.first_inode_table)?;
    Ok(Allocation { kind: superblock.kind(), free: groups.free, excluded: Vec::new() })
}

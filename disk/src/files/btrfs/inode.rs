//! An inode's item: what a file is.
//!
//! Promise: fields as they are; nothing is followed.
//! Knows nothing of trees. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_inode_item`.

use crate::files::FileTime;
use crate::files::fault::Fault;
use crate::fs::view::Fields;

pub(super) const INODE_ITEM: u8 = 1;
/// `BTRFS_INODE_NODATASUM`.
const NO_SUMS: u64 = 1;

pub(super) struct Inode {
    pub(super) size: u64,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    /// First and second half.
    pub(super) device: (u32, u32),
    /// Its contents have checksums.
    pub(super) has_sums: bool,
    pub(super) accessed: FileTime,
    pub(super) changed: FileTime,
    pub(super) modified: FileTime,
    pub(super) created: FileTime,
}

impl Inode {
    pub(super) fn decode(item: &[u8]) -> Result<Self, Fault> {
        let device = item.le64(56)?;
        let size = item.le64(16)?;
        if i64::try_from(size).is_err() {
            return Err(Fault::Damaged(format!("{size} bytes are not possible")));
        }
        Ok(Self {
            size,
            links: item.le32(40)?,
            uid: item.le32(44)?,
            gid: item.le32(48)?,
            mode: item.le32(52)?,
            // The kernel's own form: 12 bits and 20.
            device: (u32::try_from(device >> 20 & 0xfff).unwrap_or(0), item.le32(56)? & 0xf_ffff),
            has_sums: item.le64(64)? & NO_SUMS == 0,
            accessed: time(item, 112)?,
            changed: time(item, 124)?,
            modified: time(item, 136)?,
            created: time(item, 148)?,
        })
    }

    /// The four bits of the mode that say what it is.
    pub(super) fn kind(&self) -> u32 {
        self.mode >> 12 & 0xf
    }
}

fn time(item: &[u8], at: usize) -> Result<FileTime, Fault> {
    let seconds = item.array(at).map(i64::from_le_bytes)?;
    Ok(FileTime { seconds, nanos: item.le32(at.saturating_add(8))?.min(999_999_999) })
}

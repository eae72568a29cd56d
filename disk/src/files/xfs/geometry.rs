//! Where inodes and blocks lie.
//!
//! Promise: a place that is handed out lies in the filesystem, and in one allocation group.
//! Knows nothing of what is there. Format: xfsprogs libxfs/xfs_format.h, `struct xfs_dsb`.

use crate::files::fault::Fault;
use crate::fs::Doubt;
use crate::fs::view::{Fields, View};
use crate::fs::xfs::Superblock;

/// `XFS_DINODE_MIN_LOG`, `XFS_DINODE_MAX_LOG`.
const INODE_LOG: std::ops::RangeInclusive<u8> = 8..=11;
/// `XFS_MAX_BLOCKSIZE_LOG`: folders' blocks are no larger.
const FOLDER_BLOCK_LOG_MAX: u8 = 16;
/// `XFS_SB_VERSION_BORGBIT`: names are compared without regard to case.
const IGNORES_CASE: u16 = 0x4000;
/// `XFS_SB_VERSION2_FTYPE` of version 4, `XFS_SB_FEAT_INCOMPAT_FTYPE` of version 5.
const TYPES_4: u32 = 0x0200;
const TYPES_5: u32 = 0x0001;

/// What the superblock says of inodes and folders.
pub(super) struct Geometry {
    pub(super) superblock: Superblock,
    pub(super) root: u64,
    pub(super) inode_bytes: u64,
    pub(super) folder_block_bytes: u64,
    /// Entries of folders say what they lead to.
    pub(super) has_types: bool,
    pub(super) ignores_case: bool,
    inodes_of_block_log: u32,
}

impl Geometry {
    pub(super) fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let head = Superblock::head(volume)?;
        let superblock = Superblock::decode(&head, volume.bytes())?;
        let (block_log, inode_log, more_log) = (head.byte(120)?, head.byte(122)?, head.byte(192)?);
        let inode_bytes = 1_u64.checked_shl(inode_log.into()).unwrap_or(0);
        let found = u64::from(head.be16(104)?);
        if !INODE_LOG.contains(&inode_log) || inode_bytes != found || inode_log > block_log {
            return Err(Doubt::Impossible { place: "bytes of an inode", found });
        }
        let folder_log = block_log.saturating_add(more_log);
        if folder_log > FOLDER_BLOCK_LOG_MAX {
            return Err(Doubt::Impossible { place: "bytes of a folder's block", found: more_log.into() });
        }
        let has_types = match superblock.has_sums {
            true => head.be32(216)? & TYPES_5 != 0,
            false => head.be32(200)? & TYPES_4 != 0,
        };
        Ok(Self {
            root: head.be64(56)?,
            inode_bytes,
            folder_block_bytes: 1_u64.checked_shl(folder_log.into()).unwrap_or(0),
            has_types,
            ignores_case: head.be16(100)? & IGNORES_CASE != 0,
            inodes_of_block_log: block_log.saturating_sub(inode_log).into(),
            superblock,
        })
    }

    /// Where an inode begins: its number is its block's, and its place in the block.
    pub(super) fn inode_place(&self, number: u64) -> Result<u64, Fault> {
        let block = number.checked_shr(self.inodes_of_block_log).unwrap_or(0);
        let first = block.checked_shl(self.inodes_of_block_log).unwrap_or(0);
        // A number of another filesystem, or one that nobody gave: no such file.
        let extent = self.superblock.extent(block, 1).map_err(|_| Fault::NotFound)?;
        let index = number.saturating_sub(first);
        Ok(extent.offset.saturating_add(index.saturating_mul(self.inode_bytes)))
    }
}

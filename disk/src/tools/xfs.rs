//! XFS by xfsprogs: xfs_growfs(8), xfs_admin(8), xfs_repair(8); and what its superblock says.
//!
//! Promise: grows and gets its identity where it lies; a log is replayed by the kernel, never thrown away.
//! Knows nothing of files. Format: linux fs/xfs/libxfs/xfs_format.h, `struct xfs_dsb`, big endian.

use std::path::Path;

use super::bytes::Bytes;
use super::mount::{LOSETUP, Loop, MOUNT, Mounted, UMOUNT};
use super::run::Call;
use super::{CannotChange, Change, IdentityChange, Program, ToolError, changed, dashed, size_is};

const PACKAGE: &str = "xfsprogs";
const GROWFS: Program = Program::new("xfs_growfs", PACKAGE);
const ADMIN: Program = Program::new("xfs_admin", PACKAGE);
const REPAIR: Program = Program::new("xfs_repair", PACKAGE);
pub(super) const MKFS: Program = Program::new("mkfs.xfs", PACKAGE);
pub(super) const CP: Program = Program::new("cp", "coreutils");

const BLOCK_BYTES: u64 = 4;
const BLOCKS: u64 = 8;
const REALTIME_BLOCKS: u64 = 16;
const LOG_START: u64 = 48;
const LOG_BLOCKS: u64 = 96;
const VERSION: u64 = 100;
const SECTOR_BYTES: u64 = 102;
const INODE_BYTES: u64 = 104;
const LABEL: u64 = 108;
const INODES: u64 = 128;
const INODES_FREE: u64 = 136;
const BLOCKS_FREE: u64 = 144;
const QUOTA_FLAGS: u64 = 176;
const FOLDER_BLOCK_LOG: u64 = 192;
const FEATURES2: u64 = 200;
const RO_COMPAT: u64 = 212;
const INCOMPAT: u64 = 216;

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::Shrink => Err(CannotChange::XfsShrink),
        Change::Measure => Ok(&[LOSETUP, MOUNT, UMOUNT]),
        Change::Grow => Ok(&[LOSETUP, MOUNT, UMOUNT, GROWFS, REPAIR]),
        Change::NewIdentity => Ok(&[LOSETUP, MOUNT, UMOUNT, ADMIN, REPAIR]),
        Change::Check => Ok(&[REPAIR]),
        Change::Recreate => Ok(&[LOSETUP, MOUNT, UMOUNT, MKFS, CP, REPAIR]),
    }
}

/// What the superblock says of places and counts, and of what it was made with.
pub(super) struct Superblock {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    pub(super) blocks_free: u64,
    pub(super) log_blocks: u64,
    pub(super) has_inner_log: bool,
    pub(super) realtime_blocks: u64,
    pub(super) sector_bytes: u16,
    pub(super) inode_bytes: u16,
    pub(super) inodes_used: u64,
    pub(super) folder_block_log: u8,
    pub(super) version: u16,
    pub(super) features2: u32,
    pub(super) ro_compat: u32,
    pub(super) incompat: u32,
    pub(super) quota_flags: u16,
    pub(super) label: String,
}

impl Superblock {
    pub(super) fn read(path: &Path) -> Result<Self, ToolError> {
        let volume = Bytes::open(path)?;
        let magic = volume.be32(0)?;
        if magic.swap_bytes().to_le_bytes() != *b"XFSB" {
            return Err(ToolError::Unknown { place: "xfs: signature", found: magic.into() });
        }
        let label: [u8; 12] = volume.read(LABEL)?;
        let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self {
            block_bytes: volume.be32(BLOCK_BYTES)?.into(),
            blocks: volume.be64(BLOCKS)?,
            blocks_free: volume.be64(BLOCKS_FREE)?,
            log_blocks: volume.be32(LOG_BLOCKS)?.into(),
            has_inner_log: volume.be64(LOG_START)? != 0,
            realtime_blocks: volume.be64(REALTIME_BLOCKS)?,
            sector_bytes: volume.be16(SECTOR_BYTES)?,
            inode_bytes: volume.be16(INODE_BYTES)?,
            inodes_used: volume.be64(INODES)?.saturating_sub(volume.be64(INODES_FREE)?),
            folder_block_log: volume.byte(FOLDER_BLOCK_LOG)?,
            version: volume.be16(VERSION)?,
            features2: volume.be32(FEATURES2)?,
            ro_compat: volume.be32(RO_COMPAT)?,
            incompat: volume.be32(INCOMPAT)?,
            quota_flags: volume.be16(QUOTA_FLAGS)?,
            label: String::from_utf8_lossy(label).into_owned(),
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }
}

/// Beside another of the same UUID, which may well be mounted.
pub(super) fn mount(device: Loop, scratch: &Path) -> Result<Mounted, ToolError> {
    Mounted::new(device, "xfs", "nouuid", scratch)
}

pub(super) fn grow(path: &Path, bytes: u64, scratch: &Path) -> Result<(), ToolError> {
    let mounted = mount(Loop::attach(path, Some(bytes))?, scratch)?;
    Call::new(GROWFS)?.arg("-d").arg(mounted.at()).run()?;
    mounted.unmount()?;
    let now = Superblock::read(path)?;
    // A last group that is too small for its own tables (64 blocks) is left off.
    let step_bytes = now.block_bytes.saturating_mul(65);
    size_is("xfs: bytes of the filesystem", bytes, step_bytes, now.bytes())?;
    check(path)
}

pub(super) fn new_identity(
    path: &Path,
    scratch: &Path,
    uuid: [u8; 16],
) -> Result<Vec<IdentityChange>, ToolError> {
    // The log names the UUID: it must be empty.
    mount(Loop::attach(path, None)?, scratch)?.unmount()?;
    let uuid = dashed(uuid);
    changed(path, uuid.clone(), || {
        Call::new(ADMIN)?.args(["-U", &uuid]).arg(path).run()?;
        check(path)
    })
}

/// A file and a device alike are read; a log that is not empty is said, and not replayed.
pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    Call::new(REPAIR)?.arg("-n").arg(path).run().map(drop)
}

//! ext2, ext3, ext4 by e2fsprogs: e2fsck(8), resize2fs(8), tune2fs(8).
//!
//! Promise: only what `e2fsck -p` calls safe is mended; a filesystem with more wrong is left alone, with what was said.
//! Knows nothing of blocks and groups but how many there are.

use std::path::Path;

use super::bytes::Bytes;
use super::run::Call;
use super::{CannotChange, Change, IdentityChange, Program, ToolError, changed, dashed, size_is};

const E2FSCK: Program = Program::new("e2fsck", "e2fsprogs");
const RESIZE2FS: Program = Program::new("resize2fs", "e2fsprogs");
const TUNE2FS: Program = Program::new("tune2fs", "e2fsprogs");

/// linux Documentation/filesystems/ext4/super.rst: the superblock is 1024 bytes in.
const BLOCKS_LOW: u64 = 1024 + 0x4;
const LOG_BLOCK_SIZE: u64 = 1024 + 0x18;
const BLOCKS_PER_GROUP: u64 = 1024 + 0x20;
const INCOMPAT: u64 = 1024 + 0x60;
const BLOCKS_HIGH: u64 = 1024 + 0x150;
const RO_COMPAT: u64 = 1024 + 0x64;
const INCOMPAT_64BIT: u32 = 0x80;
/// resize2fs wants to be forced for these ("has not been fully tested"), which it is not.
const RO_COMPAT_BIGALLOC: u32 = 0x200;

/// Beyond what `resize2fs -P` estimates: a part of it, and some blocks for the trees of extents that become longer.
const MARGIN_PART: u64 = 64;
const MARGIN_BYTES: u64 = 4 << 20;

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::Measure | Change::Shrink | Change::Grow => Ok(&[E2FSCK, RESIZE2FS]),
        Change::NewIdentity => Ok(&[E2FSCK, TUNE2FS]),
        Change::Check => Ok(&[E2FSCK]),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

/// What the superblock says: bytes of the filesystem, of a block, of a group.
struct Size {
    bytes: u64,
    block_bytes: u64,
    group_bytes: u64,
}

impl Size {
    fn read(path: &Path) -> Result<Self, ToolError> {
        let volume = Bytes::open(path)?;
        let log = volume.le32(LOG_BLOCK_SIZE)?;
        let unknown = ToolError::Unknown { place: "ext: size of a block", found: log.into() };
        // At most 64 KiB.
        let block_bytes = (log <= 6).then(|| 1024_u64.checked_shl(log)).flatten().ok_or(unknown)?;
        let is_64bit = volume.le32(INCOMPAT)? & INCOMPAT_64BIT != 0;
        let high = if is_64bit { u64::from(volume.le32(BLOCKS_HIGH)?) } else { 0 };
        let blocks = high.checked_shl(32).unwrap_or(0) | u64::from(volume.le32(BLOCKS_LOW)?);
        Ok(Self {
            bytes: blocks.saturating_mul(block_bytes),
            block_bytes,
            group_bytes: u64::from(volume.le32(BLOCKS_PER_GROUP)?).saturating_mul(block_bytes),
        })
    }
}

/// Replays the journal and mends what is safe. Codes: 1 is mended, 2 is mended and a mounted one should be mounted again.
fn settle(path: &Path) -> Result<(), ToolError> {
    Call::new(E2FSCK)?.args(["-f", "-p"]).arg(path).fine(&[0, 1, 2]).run().map(drop)
}

pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    Call::new(E2FSCK)?.args(["-f", "-n"]).arg(path).run().map(drop)
}

/// The smallest size that is sure to do, and the size it has.
pub(super) fn minimum(path: &Path) -> Result<(u64, u64), ToolError> {
    settle(path)?;
    let size = Size::read(path)?;
    if Bytes::open(path)?.le32(RO_COMPAT)? & RO_COMPAT_BIGALLOC != 0 {
        return Ok((size.bytes, size.bytes));
    }
    let said = Call::new(RESIZE2FS)?.arg("-P").arg(path).run()?;
    let blocks = said.number_after("minimum size of the filesystem:")?;
    let bytes = blocks.saturating_mul(size.block_bytes);
    let margin = (bytes / MARGIN_PART).saturating_add(MARGIN_BYTES);
    Ok((bytes.saturating_add(margin), size.bytes))
}

pub(super) fn resize(path: &Path, bytes: u64) -> Result<(), ToolError> {
    settle(path)?;
    Call::new(RESIZE2FS)?
        // Inode tables that are known to be unused are left as they are, as mkfs does, whatever this kernel's ext4 says.
        .env("RESIZE2FS_FORCE_LAZY_ITABLE_INIT", "1")
        .arg(path)
        .arg(format!("{}K", bytes / 1024))
        .run()?;
    let size = Size::read(path)?;
    // A last group that is too small for its own tables is left off.
    size_is("ext: bytes of the filesystem", bytes, size.group_bytes, size.bytes)?;
    check(path)
}

pub(super) fn new_identity(path: &Path, uuid: [u8; 16]) -> Result<Vec<IdentityChange>, ToolError> {
    settle(path)?;
    let uuid = dashed(uuid);
    changed(path, uuid.clone(), || Call::new(TUNE2FS)?.args(["-U", &uuid]).arg(path).run().map(drop))
}

//! F2FS by f2fs-tools: resize.f2fs(8), fsck.f2fs(8).
//!
//! Promise: only grows.
//! Knows nothing of segments. Format: linux include/linux/f2fs_fs.h, `struct f2fs_super_block`.

use std::path::Path;

use super::bytes::Bytes;
use super::run::Call;
use super::{CannotChange, Change, Program, ToolError, size_is};

const FSCK: Program = Program::new("fsck.f2fs", "f2fs-tools");
const RESIZE: Program = Program::new("resize.f2fs", "f2fs-tools");

/// The superblock is 1024 bytes in.
const LOG_SECTOR_SIZE: u64 = 1024 + 8;
const LOG_BLOCK_SIZE: u64 = 1024 + 16;
const BLOCK_COUNT: u64 = 1024 + 36;
/// Space is given in segments of 2 MiB, of which one may be lost at each end.
const STEP_BYTES: u64 = 8 << 20;

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::Grow => Ok(&[FSCK, RESIZE]),
        Change::Check => Ok(&[FSCK]),
        Change::Measure | Change::Shrink => Err(CannotChange::F2fsShrink),
        Change::NewIdentity => Err(CannotChange::F2fsIdentity),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

fn power(place: &'static str, log: u32) -> Result<u64, ToolError> {
    let unknown = ToolError::Unknown { place, found: log.into() };
    // Sectors and blocks have at least 512 bytes and at most 64 KiB.
    (9..=16).contains(&log).then(|| 1_u64.checked_shl(log)).flatten().ok_or(unknown)
}

fn size(path: &Path) -> Result<u64, ToolError> {
    let volume = Bytes::open(path)?;
    let block_bytes = power("f2fs: size of a block", volume.le32(LOG_BLOCK_SIZE)?)?;
    Ok(volume.le64(BLOCK_COUNT)?.saturating_mul(block_bytes))
}

pub(super) fn grow(path: &Path, bytes: u64) -> Result<(), ToolError> {
    check(path)?;
    let sector_bytes = power("f2fs: size of a sector", Bytes::open(path)?.le32(LOG_SECTOR_SIZE)?)?;
    // A power of two, so never zero.
    let sectors = bytes.checked_div(sector_bytes).unwrap_or(0);
    Call::new(RESIZE)?.args(["-t", &sectors.to_string()]).arg(path).run()?;
    size_is("f2fs: bytes of the filesystem", bytes, STEP_BYTES, size(path)?)?;
    check(path)
}

/// It ends with 0 in older versions whatever it found; each thing that it looks at has a line that ends so.
pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    let said = Call::new(FSCK)?.args(["-f", "--dry-run"]).arg(path).run()?;
    match said.out.contains("[Fail]") || !said.out.contains("[Ok..]") {
        true => Err(said.lacks("[Ok..]")),
        false => Ok(()),
    }
}

//! An XFS made anew, smaller, with the same identity and features, and all its files.
//!
//! Promise: what cannot be kept (a realtime section, quota limits, features that are not known here) is refused first.
//! Knows nothing of how files are copied.

use std::path::Path;

use super::mount::Loop;
use super::run::Call;
use super::xfs::{MKFS, Superblock, check, mount};
use super::{ToolError, copy, identity, size_is};

/// linux fs/xfs/libxfs/xfs_format.h, `XFS_SB_VERSION_*`.
const VERSION_NUMBER: u16 = 0xf;
const VERSION_BORG: u16 = 0x4000;
/// `XFS_SB_VERSION2_*`.
const FEATURES2_PROJID32: u32 = 0x80;
const FEATURES2_FTYPE: u32 = 0x200;
/// `XFS_SB_FEAT_RO_COMPAT_*`.
const FINOBT: u32 = 0x1;
const RMAPBT: u32 = 0x2;
const REFLINK: u32 = 0x4;
const INOBTCNT: u32 = 0x8;
const RO_COMPAT_KNOWN: u32 = 0xf;
/// `XFS_SB_FEAT_INCOMPAT_*`.
const SPINODES: u32 = 0x2;
const BIGTIME: u32 = 0x8;
const NREXT64: u32 = 0x20;
/// With FTYPE (always there in version 5) and META_UUID (which a new one needs not).
const INCOMPAT_KNOWN: u32 = 0x1 | SPINODES | 0x4 | BIGTIME | NREXT64;
/// `XFS_*QUOTA_ACCT`.
const QUOTA_ACCOUNTED: u16 = 0x1 | 0x8 | 0x40;

/// mkfs.xfs(8) refuses less than 300 MB, which are MiB.
const BYTES_MIN: u64 = 300 << 20;
/// mkfs.xfs, `calculate_log_size`: 64 MiB, or a 2048th part, up to 2 GiB.
const LOG_BYTES_MIN: u64 = 64 << 20;
const LOG_BYTES_MAX: u64 = 2 << 30;
const LOG_PART: u64 = 2048;
/// What groups keep for themselves: with a reverse map some 3 %, else under 1; and some are filled before others.
const MARGIN_PART: u64 = 20;
const MARGIN_BYTES: u64 = 24 << 20;

/// The smallest size that is sure to do, and the size it has.
pub(super) fn minimum(path: &Path, scratch: &Path) -> Result<(u64, u64), ToolError> {
    refuse(&Superblock::read(path)?)?;
    // Replays the log, so that counts are right.
    let mounted = mount(Loop::attach(path, None)?, scratch)?;
    let is_shared = Superblock::read(path)?.ro_compat & REFLINK != 0;
    // What files share takes room once for each in the copy.
    let apart = if is_shared { copy::bytes_of_files(mounted.at())? } else { 0 };
    mounted.unmount()?;
    let now = Superblock::read(path)?;
    let blocks = now.blocks.saturating_sub(now.blocks_free).saturating_sub(now.log_blocks);
    let inodes = now.inodes_used.saturating_mul(now.inode_bytes.into());
    let needed = blocks.saturating_mul(now.block_bytes).max(apart.saturating_add(inodes));
    let needed = needed.saturating_add(needed / MARGIN_PART).saturating_add(MARGIN_BYTES);
    let log = (needed / LOG_PART).clamp(LOG_BYTES_MIN, LOG_BYTES_MAX);
    Ok((needed.saturating_add(log).max(BYTES_MIN), now.bytes()))
}

fn refuse(now: &Superblock) -> Result<(), ToolError> {
    let unknown = |place, found: u64| Err(ToolError::Unknown { place, found });
    match () {
        () if now.realtime_blocks != 0 => unknown("xfs: blocks of a realtime section", now.realtime_blocks),
        () if !now.has_inner_log => unknown("xfs: place of the log, which is on another device", 0),
        () if now.ro_compat & !RO_COMPAT_KNOWN != 0 => {
            unknown("xfs: read-only compatible features", now.ro_compat.into())
        }
        () if now.incompat & !INCOMPAT_KNOWN != 0 => unknown("xfs: features", now.incompat.into()),
        () if now.quota_flags & QUOTA_ACCOUNTED != 0 => Err(ToolError::XfsQuota),
        () => Ok(()),
    }
}

pub(super) fn recreate(from: &Path, to: &Path, bytes: u64, scratch: &Path) -> Result<(), ToolError> {
    let old = Superblock::read(from)?;
    refuse(&old)?;
    let uuid = identity(from)?;
    let bytes = bytes.saturating_sub(bytes.checked_rem(old.block_bytes).unwrap_or(0));
    let source = mount(Loop::attach(from, None)?, scratch)?;
    let device = Loop::attach_direct(to, bytes)?;
    Call::new(MKFS)?.args(options(&old, &uuid)).arg(device.node()).run()?;
    let target = mount(device, scratch)?;
    copy::tree(source.at(), target.at())?;
    copy::compare(source.at(), target.at())?;
    target.unmount()?;
    source.unmount()?;
    let new = Superblock::read(to)?;
    let step_bytes = new.block_bytes.saturating_mul(65);
    size_is("xfs: bytes of the filesystem", bytes, step_bytes, new.bytes())?;
    match identity(to)? {
        found if found != uuid => Err(ToolError::Readback { place: "identity", expected: uuid, found }),
        _ => check(to),
    }
}

/// For mkfs.xfs(8): all that can be said of the old one, and no discard, as what is there is ours to overwrite only.
fn options(old: &Superblock, uuid: &str) -> Vec<String> {
    let is_v5 = old.version & VERSION_NUMBER == 5;
    let bit = |field: u32, mask: u32| u8::from(field & mask != 0);
    let (ro, incompat) = (old.ro_compat, old.incompat);
    let folder_bytes = old.block_bytes.checked_shl(old.folder_block_log.into()).unwrap_or(0);
    let metadata = match is_v5 {
        true => format!(
            "crc=1,uuid={uuid},finobt={},rmapbt={},reflink={},inobtcount={},bigtime={}",
            bit(ro, FINOBT),
            bit(ro, RMAPBT),
            bit(ro, REFLINK),
            bit(ro, INOBTCNT),
            bit(incompat, BIGTIME)
        ),
        false => format!("crc=0,uuid={uuid}"),
    };
    let inode = match is_v5 {
        true => format!(
            "size={},sparse={},nrext64={}",
            old.inode_bytes,
            bit(incompat, SPINODES),
            bit(incompat, NREXT64)
        ),
        false => {
            format!("size={},attr=2,projid32bit={}", old.inode_bytes, bit(old.features2, FEATURES2_PROJID32))
        }
    };
    let case = if old.version & VERSION_BORG != 0 { ",version=ci" } else { "" };
    let kind = if is_v5 { 1 } else { bit(old.features2, FEATURES2_FTYPE) };
    let mut options = vec![
        "-q".to_owned(),
        "-f".to_owned(),
        "-K".to_owned(),
        format!("-bsize={}", old.block_bytes),
        format!("-ssize={}", old.sector_bytes),
        format!("-m{metadata}"),
        format!("-i{inode}"),
        format!("-nsize={folder_bytes},ftype={kind}{case}"),
    ];
    if !old.label.is_empty() {
        options.push("-L".to_owned());
        options.push(old.label.clone());
    }
    options
}

//! btrfs of one device by btrfs-progs: btrfs-filesystem(8), btrfs-balance(8), btrfstune(8), mounted for resizing.
//!
//! Promise: a filesystem of several devices is refused; what was mounted is forgotten by the kernel afterwards.
//! Knows nothing of chunks but that full ones are the cheaper ones to move.

use std::path::Path;

use super::bytes::Bytes;
use super::mount::{BTRFS, LOSETUP, Loop, MOUNT, Mounted, UMOUNT};
use super::run::Call;
use super::{CannotChange, Change, IdentityChange, Program, ToolError, changed, dashed, identity, size_is};

const BTRFSTUNE: Program = Program::new("btrfstune", "btrfs-progs");

/// btrfs documentation, "On-disk format", superblock, which is 64 KiB in.
const DEVICES: u64 = 0x1_0000 + 0x88;
const SECTOR_BYTES: u64 = 0x1_0000 + 0x90;
const DEVICE_ID: u64 = 0x1_0000 + 0xc9;
const DEVICE_BYTES: u64 = 0x1_0000 + 0xd1;

/// linux fs/btrfs/ioctl.c, `btrfs_ioctl_resize`: nothing below is taken.
pub(super) const RESIZE_BYTES_MIN: u64 = 256 << 20;
/// The kernel needs somewhere to move the last chunk to.
const MARGIN_PART: u64 = 64;
const MARGIN_BYTES: u64 = 32 << 20;
/// Sizes are rounded to sectors.
const STEP_BYTES: u64 = 64 << 10;
/// When a shrink fails for want of room, chunks that are so full (in percent) are packed, then it is tried again.
const USAGES: [&str; 4] = ["0", "25", "50", "75"];

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::Measure | Change::Shrink | Change::Grow => Ok(&[LOSETUP, MOUNT, UMOUNT, BTRFS]),
        Change::NewIdentity => Ok(&[LOSETUP, MOUNT, UMOUNT, BTRFS, BTRFSTUNE]),
        Change::Check => Ok(&[BTRFS]),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

/// The number of the only device.
fn device_id(path: &Path) -> Result<u64, ToolError> {
    let volume = Bytes::open(path)?;
    match volume.le64(DEVICES)? {
        1 => volume.le64(DEVICE_ID),
        found => Err(ToolError::Unknown { place: "btrfs: number of devices", found }),
    }
}

fn size(path: &Path) -> Result<u64, ToolError> {
    Bytes::open(path)?.le64(DEVICE_BYTES)
}

fn mount(path: &Path, bytes: Option<u64>, scratch: &Path) -> Result<Mounted, ToolError> {
    device_id(path)?;
    let uuid = identity(path)?;
    // A balance that was interrupted is not for us to finish; holes that are punched would only cost.
    let mounted = Mounted::new(Loop::attach(path, bytes)?, "btrfs", "skip_balance,nodiscard", scratch);
    mounted.map_err(|source| match Path::new("/sys/fs/btrfs").join(&uuid).exists() {
        true => ToolError::SameUuidMounted { uuid, source: Box::new(source) },
        false => source,
    })
}

/// Packs chunks that are at most so full. When there is no room for that, the next step will say so.
fn balance(mounted: &Mounted, usage: &str) -> Result<(), ToolError> {
    for filter in [format!("-dusage={usage}"), format!("-musage={usage}")] {
        Call::new(BTRFS)?.args(["balance", "start", &filter]).arg(mounted.at()).run().ok();
    }
    Ok(())
}

/// The smallest size that is sure to do, and the size it has.
pub(super) fn minimum(path: &Path, scratch: &Path) -> Result<(u64, u64), ToolError> {
    let mounted = mount(path, None, scratch)?;
    balance(&mounted, "0")?;
    let said = Call::new(BTRFS)?
        .args(["inspect-internal", "min-dev-size", "--id", &device_id(path)?.to_string()])
        .arg(mounted.at())
        .run()?;
    mounted.unmount()?;
    let bytes = said.number_after("")?;
    let margin = (bytes / MARGIN_PART).saturating_add(MARGIN_BYTES);
    Ok((bytes.saturating_add(margin).max(RESIZE_BYTES_MIN), size(path)?))
}

pub(super) fn shrink(path: &Path, bytes: u64, scratch: &Path) -> Result<(), ToolError> {
    let (id, sector_bytes) = (device_id(path)?, Bytes::open(path)?.le32(SECTOR_BYTES)?);
    let wanted = bytes.saturating_sub(bytes.checked_rem(sector_bytes.into()).unwrap_or(0));
    if size(path)? > wanted {
        let mounted = mount(path, None, scratch)?;
        let resize = || {
            let size = format!("{id}:{wanted}");
            Call::new(BTRFS)?.args(["filesystem", "resize", &size]).arg(mounted.at()).run().map(drop)
        };
        let mut result = Ok(());
        for usage in USAGES {
            balance(&mounted, usage)?;
            result = resize();
            if result.is_ok() {
                break;
            }
        }
        result?;
        mounted.unmount()?;
    }
    size_is("btrfs: bytes of the device", bytes, u64::MAX, size(path)?)?;
    check(path)
}

pub(super) fn grow(path: &Path, bytes: u64, scratch: &Path) -> Result<(), ToolError> {
    let size_wanted = format!("{}:max", device_id(path)?);
    let mounted = mount(path, Some(bytes), scratch)?;
    Call::new(BTRFS)?.args(["filesystem", "resize", &size_wanted]).arg(mounted.at()).run()?;
    mounted.unmount()?;
    size_is("btrfs: bytes of the device", bytes, STEP_BYTES, size(path)?)?;
    check(path)
}

pub(super) fn new_identity(
    path: &Path,
    scratch: &Path,
    uuid: [u8; 16],
) -> Result<Vec<IdentityChange>, ToolError> {
    // Replays the log, which btrfstune would refuse.
    mount(path, None, scratch)?.unmount()?;
    let uuid = dashed(uuid);
    changed(path, uuid.clone(), || {
        // Every block of metadata is written anew. Forced, or it would ask.
        Call::new(BTRFSTUNE)?.args(["-f", "-U", &uuid]).arg(path).run()?;
        check(path)
    })
}

pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    Call::new(BTRFS)?.args(["check", "--readonly"]).arg(path).run().map(drop)
}

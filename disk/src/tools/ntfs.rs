//! NTFS by ntfs-3g's ntfsresize(8) and ntfsfix(8); its serial number by ourselves.
//!
//! Promise: a volume that Windows left dirty or asleep is not touched; the boot sector's copy is like the first.
//! Knows nothing of its files. Format: libfsntfs documentation, "Volume header".

use std::path::Path;

use super::bytes::Bytes;
use super::run::{Call, Said};
use super::{CannotChange, Change, IdentityChange, Program, ToolError, changed, size_is};

const NTFSRESIZE: Program = Program::new("ntfsresize", "ntfs-3g");
const NTFSFIX: Program = Program::new("ntfsfix", "ntfs-3g");

const SECTOR_BYTES: u64 = 11;
/// Without the last one, which has the copy of the boot sector.
const SECTORS: u64 = 40;
const SERIAL: u64 = 72;

/// Beyond what `ntfsresize --info` says, at first.
const MARGIN_PART: u64 = 50;
const MARGIN_BYTES: u64 = 8 << 20;
/// The largest cluster that Windows makes.
const CLUSTER_BYTES_MAX: u64 = 2 << 20;
/// What a size may be short of.
const STEP_BYTES: u64 = 4 << 20;
const BOOT_BYTES: usize = 512;
const SECTOR_BYTES_MIN: u64 = 512;

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::Measure | Change::Check => Ok(&[NTFSRESIZE]),
        Change::Shrink | Change::Grow => Ok(&[NTFSRESIZE, NTFSFIX]),
        Change::NewIdentity => Ok(&[]),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

/// Where the boot sector's copy is, which is the volume's last sector.
fn last_sector(volume: &Bytes) -> Result<u64, ToolError> {
    let sectors = volume.le64(SECTORS)?;
    let unknown = ToolError::Unknown { place: "ntfs: sectors", found: sectors };
    sectors.checked_mul(volume.le16(SECTOR_BYTES)?.into()).ok_or(unknown)
}

fn size(path: &Path) -> Result<u64, ToolError> {
    let volume = Bytes::open(path)?;
    Ok(last_sector(&volume)?.saturating_add(volume.le16(SECTOR_BYTES)?.into()))
}

/// The smallest size that is sure to do, and the size it has. What `--info` says counts clusters only; whether the file
/// table has room for longer lists of runs is known when it was tried, and where it has not (Windows 11 scatters much),
/// only more slack helps.
pub(super) fn minimum(path: &Path) -> Result<(u64, u64), ToolError> {
    let now = size(path)?;
    let Some(bytes) = bytes_needed(path)? else { return Ok((now, now)) };
    let mut slack = (bytes / MARGIN_PART).saturating_add(MARGIN_BYTES);
    loop {
        let bytes = bytes.saturating_add(slack);
        if bytes >= now {
            return Ok((now, now));
        }
        match ntfsresize(path, &["--no-action", "--force", "--size", &bytes.to_string()]) {
            Ok(_) => return Ok((bytes, now)),
            Err(ToolError::Failed { said, .. }) if said.contains("No space left on device") => {}
            Err(error) => return Err(error),
        }
        slack = slack.saturating_mul(2);
    }
}

/// What `--info` says, after it has compared the bitmap with every file; `None` for a full volume. Without `--force`, a
/// dirty volume is refused.
fn bytes_needed(path: &Path) -> Result<Option<u64>, ToolError> {
    match ntfsresize(path, &["--info"]) {
        Ok(said) => said.number_after("You might resize at ").map(Some),
        Err(ToolError::Failed { said, .. }) if said.contains("Volume is full") => Ok(None),
        Err(error) => Err(error),
    }
}

fn ntfsresize(path: &Path, args: &[&str]) -> Result<Said, ToolError> {
    Call::new(NTFSRESIZE)?.arg("--no-progress-bar").args(args).arg(path).run()
}

pub(super) fn resize(path: &Path, bytes: u64) -> Result<(), ToolError> {
    // Forced, as it would ask otherwise, it minds no dirty volume: that comes first.
    bytes_needed(path)?;
    ntfsresize(path, &["--force", "--size", &bytes.to_string()])?;
    // Clears the wish for chkdsk that every resize leaves.
    Call::new(NTFSFIX)?.arg("--clear-dirty").arg(path).run()?;
    copy_boot_sector(path, bytes)?;
    size_is("ntfs: bytes of the volume", bytes, STEP_BYTES, size(path)?)?;
    check(path)
}

/// Where the volume ends, and where the partition does: some look here and some there. (ntfsfix looks where the file
/// ends, which is neither.)
fn copy_boot_sector(path: &Path, bytes: u64) -> Result<(), ToolError> {
    let volume = Bytes::open_writable(path)?;
    let first: [u8; BOOT_BYTES] = volume.read(0)?;
    let sector_bytes = u64::from(volume.le16(SECTOR_BYTES)?);
    let sectors = bytes.checked_div(sector_bytes).unwrap_or(0);
    volume.write(last_sector(&volume)?, &first)?;
    volume.write(sectors.saturating_sub(1).saturating_mul(sector_bytes), &first)
}

/// Where copies of the boot sector are: in what is left of a cluster behind the volume's end.
fn copies(volume: &Bytes) -> Result<Vec<u64>, ToolError> {
    let first: [u8; BOOT_BYTES] = volume.read(0)?;
    let (end, sector_bytes) = (last_sector(volume)?, u64::from(volume.le16(SECTOR_BYTES)?));
    let is_copy = |place: &u64| volume.read::<BOOT_BYTES>(*place).is_ok_and(|copy| copy == first);
    let places = (0..CLUSTER_BYTES_MAX / SECTOR_BYTES_MIN)
        .map(|number| end.saturating_add(number.saturating_mul(sector_bytes)));
    Ok(places.filter(is_copy).collect())
}

/// It compares the bitmap with every file, and the start of the file table with its copy. A dirty volume is refused.
pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    bytes_needed(path)?;
    match copies(&Bytes::open(path)?)?.is_empty() {
        true => Err(ToolError::Readback {
            place: "ntfs: copy of the boot sector",
            expected: "one behind the volume".to_owned(),
            found: "none".to_owned(),
        }),
        false => Ok(()),
    }
}

pub(super) fn new_identity(path: &Path, uuid: [u8; 16]) -> Result<Vec<IdentityChange>, ToolError> {
    let [a, b, c, d, e, f, g, h, ..] = uuid;
    let serial = [a, b, c, d, e, f, g, h];
    let expected = format!("{:016X}", u64::from_le_bytes(serial));
    changed(path, expected, || {
        let volume = Bytes::open_writable(path)?;
        // A copy that is none is not ours to make.
        for copy in copies(&volume)? {
            volume.write(copy.saturating_add(SERIAL), &serial)?;
        }
        volume.write(SERIAL, &serial)
    })
}

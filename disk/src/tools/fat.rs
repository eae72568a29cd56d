//! FAT12, FAT16, FAT32: the serial number by ourselves, the check by dosfstools' fsck.fat(8).
//!
//! Promise: the boot sector's copy, where there is one, gets the same number.
//! Knows nothing of clusters. Format: Microsoft FAT specification (fatgen103, 2005), §3.

use std::path::Path;

use super::bytes::Bytes;
use super::run::Call;
use super::{CannotChange, Change, IdentityChange, Program, ToolError, changed};

const FSCK: Program = Program::new("fsck.fat", "dosfstools");

/// `BPB_BytsPerSec`, `BPB_RsvdSecCnt`, `BPB_FATSz16`, `BPB_BkBootSec`.
const SECTOR_BYTES: u64 = 11;
const RESERVED_SECTORS: u64 = 14;
const FAT_SECTORS_16: u64 = 22;
const BACKUP_SECTOR: u64 = 50;
/// `BS_BootSig`, of FAT12 and 16, and of FAT32; `BS_VolID` follows it.
const BOOT_SIGNATURE: u64 = 38;
const BOOT_SIGNATURE_32: u64 = 66;

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::NewIdentity => Ok(&[]),
        Change::Check => Ok(&[FSCK]),
        Change::Measure | Change::Shrink | Change::Grow => Err(CannotChange::FatSize),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

pub(super) fn new_identity(path: &Path, uuid: [u8; 16]) -> Result<Vec<IdentityChange>, ToolError> {
    let [a, b, c, d, ..] = uuid;
    let serial = u32::from_le_bytes([a, b, c, d]);
    changed(path, crate::content::serial(serial), || {
        let volume = Bytes::open_writable(path)?;
        let is_fat32 = volume.le16(FAT_SECTORS_16)? == 0;
        let signature = if is_fat32 { BOOT_SIGNATURE_32 } else { BOOT_SIGNATURE };
        match volume.byte(signature)? {
            0x28 | 0x29 => {}
            found => return Err(ToolError::Unknown { place: "fat: boot signature", found: found.into() }),
        }
        let place = signature.saturating_add(1);
        if let Some(copy) = if is_fat32 { backup(&volume)? } else { None } {
            volume.write(copy.saturating_add(place), &serial.to_le_bytes())?;
        }
        volume.write(place, &serial.to_le_bytes())
    })
}

/// Where FAT32's copy of the boot sector is, if it is one: with the same description of the volume (§3.1 to §3.3).
fn backup(volume: &Bytes) -> Result<Option<u64>, ToolError> {
    let sector = volume.le16(BACKUP_SECTOR)?;
    if sector == 0 || sector >= volume.le16(RESERVED_SECTORS)? {
        return Ok(None);
    }
    let place = u64::from(sector).saturating_mul(volume.le16(SECTOR_BYTES)?.into());
    let (first, copy) = (volume.read::<64>(0)?, volume.read::<64>(place)?);
    Ok((first == copy).then_some(place))
}

pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    Call::new(FSCK)?.arg("-n").arg(path).run().map(drop)
}

//! GRUB 2 on a BIOS disk: the first sector names the core image's first sector, which has a list of the others.
//!
//! Promise: only what both sectors' own texts prove to be GRUB's is believed; a patch changes nothing but the numbers of
//! sectors; [`verify`] follows the target's numbers and compares what is there. Knows nothing of what is in the core image: it
//! finds its folder by the number of a partition, or by identities that are compressed in it.
//! Format: GRUB grub-core/boot/i386/pc/{boot,diskboot}.S, include/grub/i386/pc/boot.h, util/setup.c.

use super::BootProblem;
use crate::ReadAt;

/// GRUB counts in these, and BIOS starts no disk with others.
const SECTOR: u64 = 512;
const SECTOR_LEN: usize = 512;
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: u64, the core image's first sector.
const KERNEL_SECTOR: usize = 0x5c;
/// In boot.img, before the disk's signature at 0x1b8: what it says when it fails.
const BOOT_TEXT: &[u8] = b"GRUB \0Geom\0Hard Disk\0Read\0 Error";
const BOOT_CODE: usize = 0x1b8;
/// In diskboot.img likewise.
const CORE_TEXT: &[u8] = b"Geom\0Read\0 Error";
/// `firstlist`: the first entry of the list; the next is before it. u64 start, u16 sectors, u16 segment.
const LIST: usize = 0x1f4;
const ENTRY: usize = 12;
/// The code before the list ends at 0x13f in the versions 1.99 to 2.12: so no entry is before this.
const LIST_FLOOR: usize = 0x150;
/// The core image must fit between 0x8000 and 0x78000 (`GRUB_KERNEL_I386_PC_LINK_ADDR` in util/setup.c).
const SECTORS_MAX: u64 = 0x70000 / SECTOR;

/// Where a boot sector says that the core image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrubCore {
    /// Its first sector.
    pub lba: u64,
    /// The others: first sector and number of each piece, in the order in which they are loaded.
    pub blocks: Vec<(u64, u64)>,
}

/// The core image that the boot sector at byte `at` leads to (0 for the disk's own, a volume's first byte for one that is started
/// by another loader); `None` where there is no GRUB that could have started.
///
/// # Errors
/// When the boot sector cannot be read.
pub fn core_place(device: &dyn ReadAt, at: u64) -> Result<Option<GrubCore>, BootProblem> {
    Ok(read(device, at)?.map(|(core, _)| core))
}

/// What to write on the target, so that it starts: places and bytes; nothing when nothing moved. `moved` says where a byte of the
/// source is on the target, or `None` when it is not copied; the boot sector of the disk itself stays where it is.
///
/// # Errors
/// When a part of the core image is not copied, or in other pieces.
pub fn repair(
    source: &dyn ReadAt,
    at: u64,
    moved: &dyn Fn(u64) -> Option<u64>,
) -> Result<Vec<(u64, Vec<u8>)>, BootProblem> {
    let Some((core, first)) = read(source, at)? else { return Ok(Vec::new()) };
    let boot_place =
        if at == 0 { 0 } else { moved(at).ok_or(BootProblem::NotCopied { sector: at / SECTOR })? };
    let core_place = place(core.lba, 1, moved)?;
    let mut patches = Vec::new();
    if core_place != core.lba {
        patches.push((boot_place.saturating_add(0x5c), core_place.to_le_bytes().to_vec()));
    }
    let core_byte = core_place.saturating_mul(SECTOR);
    for ((start, sectors), entry) in core.blocks.iter().zip(entries()) {
        let place = place(*start, *sectors, moved)?;
        if le64(&first, entry) != Some(place) {
            let offset = u64::try_from(entry).unwrap_or(u64::MAX);
            patches.push((core_byte.saturating_add(offset), place.to_le_bytes().to_vec()));
        }
    }
    Ok(patches)
}

/// That the boot sector at `target_at` of the target leads to the core image to which the source's leads. True also where
/// neither has one.
///
/// # Errors
/// [`BootProblem::CoreDiffers`] with the place.
pub fn verify(
    source: &dyn ReadAt,
    source_at: u64,
    target: &dyn ReadAt,
    target_at: u64,
) -> Result<(), BootProblem> {
    let Some((expected, old)) = read(source, source_at)? else { return Ok(()) };
    let differs = |sector: u64| BootProblem::CoreDiffers { sector };
    let (found, new) = read(target, target_at)?.ok_or(differs(target_at / SECTOR))?;
    if old.get(..LIST_FLOOR) != new.get(..LIST_FLOOR) || expected.blocks.len() != found.blocks.len() {
        return Err(differs(found.lba));
    }
    for ((old, sectors), (new, new_sectors)) in expected.blocks.iter().zip(&found.blocks) {
        if sectors != new_sectors || bytes(source, *old, *sectors)? != bytes(target, *new, *sectors)? {
            return Err(differs(*new));
        }
    }
    Ok(())
}

/// The core image's place and its first sector.
fn read(device: &dyn ReadAt, at: u64) -> Result<Option<(GrubCore, Vec<u8>)>, BootProblem> {
    let size = device.size_bytes();
    // BIOS has no other sectors, and a boot sector must be there.
    if device.sector_bytes() != 512 || at.saturating_add(SECTOR) > size {
        return Ok(None);
    }
    let boot = sector(device, at)?;
    let is_boot = boot.get(..BOOT_CODE).is_some_and(|code| contains(code, BOOT_TEXT));
    let Some(lba) = le64(&boot, KERNEL_SECTOR).filter(|lba| is_boot && is_inside(*lba, 1, size)) else {
        return Ok(None);
    };
    let first = sector(device, lba.saturating_mul(SECTOR))?;
    if !first.get(..LIST_FLOOR).is_some_and(|code| contains(code, CORE_TEXT)) {
        return Ok(None);
    }
    let blocks = list(&first).filter(|blocks| blocks.iter().all(|block| is_inside(block.0, block.1, size)));
    Ok(blocks.map(|blocks| (GrubCore { lba, blocks }, first)))
}

/// The list in the core image's first sector; `None` when it has no end, or is longer than a core image can be.
fn list(first: &[u8]) -> Option<Vec<(u64, u64)>> {
    let mut blocks = Vec::new();
    let mut all: u64 = 0;
    for entry in entries() {
        let sectors = u64::from(le16(first, entry.checked_add(8)?)?);
        if sectors == 0 {
            return Some(blocks);
        }
        all = all.saturating_add(sectors);
        if all > SECTORS_MAX {
            return None;
        }
        blocks.push((le64(first, entry)?, sectors));
    }
    None
}

/// Where the list's entries are.
fn entries() -> impl Iterator<Item = usize> {
    (LIST_FLOOR..=LIST).rev().step_by(ENTRY)
}

/// Where a piece is on the target, if it is one piece there.
fn place(start: u64, sectors: u64, moved: &dyn Fn(u64) -> Option<u64>) -> Result<u64, BootProblem> {
    let byte = |index: u64| start.saturating_add(index).saturating_mul(SECTOR);
    let first = moved(byte(0)).ok_or(BootProblem::NotCopied { sector: start })?;
    for index in 0..sectors {
        let sector = start.saturating_add(index);
        let found = moved(byte(index)).ok_or(BootProblem::NotCopied { sector })?;
        if found != first.saturating_add(index.saturating_mul(SECTOR)) {
            return Err(BootProblem::Scattered { sector: start });
        }
    }
    if first % SECTOR != 0 {
        return Err(BootProblem::Scattered { sector: start });
    }
    Ok(first / SECTOR)
}

fn is_inside(lba: u64, sectors: u64, size: u64) -> bool {
    lba > 0 && lba.checked_add(sectors).is_some_and(|end| end <= size / SECTOR)
}

fn sector(device: &dyn ReadAt, at: u64) -> Result<Vec<u8>, BootProblem> {
    let mut sector = vec![0; SECTOR_LEN];
    device.read_exact_at(at, &mut sector)?;
    Ok(sector)
}

/// At most [`SECTORS_MAX`].
fn bytes(device: &dyn ReadAt, lba: u64, sectors: u64) -> Result<Vec<u8>, BootProblem> {
    let len = sectors.min(SECTORS_MAX).saturating_mul(SECTOR);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    device.read_exact_at(lba.saturating_mul(SECTOR), &mut bytes)?;
    Ok(bytes)
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
#[path = "grub_tests.rs"]
mod tests;

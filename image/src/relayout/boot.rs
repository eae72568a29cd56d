//! What a disk boots from, mended where its parts have moved.
//!
//! Promise: every repair is made on the device that will be copied, and looked at again there.
//! Knows nothing of the formats: `disk::boot` does.

use disk::boot::{efi, grub, hidden};
use disk::{Assembled, Extent, Section};

use super::Fixups;
use super::ready::{Making, Prepared};
use crate::Error;

/// GPT type of an EFI system partition (UEFI 2.10 §5.3.3 table 5.7), and its MBR type.
const EFI_TYPES: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef"];

/// Before volumes are put in place: what lies inside them.
pub(super) fn mend_volume(
    making: &mut Making<'_>,
    volume: &mut Prepared,
    fixups: Fixups,
) -> Result<(), Error> {
    let number = volume.plan.number;
    let is_efi = making.origin.volume(number).is_some_and(|it| EFI_TYPES.contains(&it.type_id.as_str()));
    if !fixups.efi || !is_efi || volume.kind() != "vfat" {
        return Ok(());
    }
    let workshop = making.workshop;
    match efi::add_fallback(&*volume.changeable(workshop)?) {
        Ok(fallback) => {
            let made = fallback.made.iter();
            making
                .done
                .extend(made.map(|(from, to)| format!("partition {number}: /{to} made, a copy of /{from}")));
        }
        Err(problem) => making.left_over(&format!("partition {number}: fallback loader"), &problem),
    }
    Ok(())
}

/// When all is in place: what counts sectors of the disk. Returns what changed.
pub(super) fn mend_places(
    making: &mut Making<'_>,
    volumes: &[Prepared],
    device: &mut Assembled,
    fixups: Fixups,
) -> Vec<Extent> {
    let mut changed = Vec::new();
    let sector_bytes = disk::ReadAt::sector_bytes(device);
    if fixups.start {
        for volume in volumes.iter().filter(|volume| volume.moved()) {
            let to = volume.plan.to;
            let sector = to.offset / u64::from(sector_bytes.max(1));
            // Where it was shrunk, what lies behind is no longer its own.
            let own = Section::new(&volume.device, Extent { offset: 0, bytes: to.bytes });
            for (offset, bytes) in hidden::hidden_sectors(&own, volume.kind(), sector) {
                changed.push(put(device, to.offset + offset, bytes));
            }
        }
    }
    if fixups.grub && volumes.iter().any(Prepared::moved) {
        let moved = |place: u64| new_place(volumes, place);
        match grub::repair(&making.origin.device, 0, &moved) {
            Ok(patches) => {
                let mends = !patches.is_empty();
                changed.extend(patches.into_iter().map(|(offset, bytes)| put(device, offset, bytes)));
                match grub::verify(&making.origin.device, 0, device, 0) {
                    Ok(()) if mends => {
                        making.done.push("GRUB: the places of its core image are new".to_owned())
                    }
                    Ok(()) => {}
                    Err(problem) => making.left_over("boot by BIOS", &problem),
                }
            }
            Err(problem) => making.left_over("boot by BIOS", &problem),
        }
    }
    changed
}

fn put(device: &mut Assembled, offset: u64, bytes: Vec<u8>) -> Extent {
    let extent = Extent { offset, bytes: bytes.len() as u64 };
    device.put_bytes(offset, bytes);
    extent
}

/// Where a byte of the source's disk is now: in a volume, or, before all volumes, where it was.
fn new_place(volumes: &[Prepared], place: u64) -> Option<u64> {
    let inside = |volume: &&Prepared| (volume.plan.from.offset..volume.plan.from.end()).contains(&place);
    match volumes.iter().find(inside) {
        Some(volume) => Some(volume.plan.to.offset + (place - volume.plan.from.offset)),
        None => Some(place).filter(|_| volumes.iter().all(|volume| place < volume.plan.from.offset)),
    }
}

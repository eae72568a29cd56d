//! Whether what looks like a filesystem may be believed: what else says what is there?
//!
//! Promise: an old signature under a newer partition table, and a partition that is only a piece of a volume, are doubts.
//! Knows nothing of any filesystem's inside.

use super::Doubt;
use super::view::{Fields, View};
use crate::content::kinds;
use crate::{Extent, Layout, ReadAt, TableKind, Volume};

/// Types of partitions that a Windows dynamic disk (LDM) has: linux Documentation/admin-guide/ldm.rst, and for GPT
/// Microsoft PARTITION_INFORMATION_GPT.
const DYNAMIC: [&str; 3] =
    ["0x42", "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad"];
/// Types of swap: util-linux include/pt-mbr-partnames.h, UAPI Discoverable Partitions Specification.
const SWAP: [&str; 2] = ["0x82", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"];
/// Where a GPT's header is, with sectors of either size.
const GPT_HEADERS: [u64; 2] = [512, 4096];

/// Whether the partition table of a device is the only thing that says what lies where; without one there is nothing to
/// ask about.
///
/// # Errors
/// A [`Doubt`]: the device must be taken whole.
pub fn check_table(device: &dyn ReadAt, layout: &Layout) -> Result<(), Doubt> {
    if let Some(what) = layout.warnings.first() {
        return Err(Doubt::Table { what: what.clone() });
    }
    if layout.table == TableKind::None {
        return Ok(());
    }
    let is_dynamic = |volume: &&Volume| DYNAMIC.contains(&volume.type_id.as_str());
    if let Some(Volume { number, .. }) = layout.volumes.iter().find(is_dynamic) {
        return Err(Doubt::Dynamic { number: *number });
    }
    // An array or a filesystem over the whole device leaves the table of its former life where it was.
    let whole = Extent { offset: 0, bytes: device.size_bytes() };
    match kinds(device, whole).map_err(|source| Doubt::Unreadable { source })?.first() {
        Some(kind) => Err(Doubt::Ambiguous { first: "a partitioned disk".to_owned(), second: kind.clone() }),
        None => Ok(()),
    }
}

/// That the partition's type does not speak against what is in it. Only swap areas have nothing else to be told by.
pub(super) fn check_type(volume: &Volume, found: &'static str) -> Result<(), Doubt> {
    let type_id = volume.type_id.as_str();
    if found != "swap" || SWAP.contains(&type_id) {
        return Ok(());
    }
    let expected = volume.type_name.clone().unwrap_or_else(|| type_id.to_owned());
    Err(Doubt::Type { expected, found })
}

/// That the volume is not a disk with partitions of its own, in a virtual machine say. Filesystems of Windows have a boot
/// sector that looks like a table.
pub(super) fn check_no_table(volume: &View<'_>, kind: &str) -> Result<(), Doubt> {
    let ambiguous = || Doubt::Ambiguous { first: kind.to_owned(), second: "a partitioned disk".to_owned() };
    let magic = b"EFI PART";
    for at in GPT_HEADERS {
        if volume.bytes() > 8192 && volume.read(at, magic.len())? == magic {
            return Err(ambiguous());
        }
    }
    if matches!(kind, "vfat" | "ntfs" | "exfat") || volume.bytes() < 512 {
        return Ok(());
    }
    let sector = volume.read(0, 512)?;
    // UEFI 2.10 §5.2.1: four entries of 16 bytes; the boot flag, and a type and size where one is used.
    let entries = sector.part(446, 64)?.chunks_exact(16);
    let is_used = |entry: &[u8]| -> Result<bool, Doubt> {
        Ok(entry.byte(0)? & 0x7f == 0 && entry.byte(4)? != 0 && entry.le32(12)? != 0)
    };
    if sector.le16(510)? != 0xaa55 {
        return Ok(());
    }
    for entry in entries {
        if is_used(entry)? {
            return Err(ambiguous());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;
    use crate::fs::allocation;

    /// A swap area of 1 MiB.
    fn swap() -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        bytes[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
        bytes[1028..1032].copy_from_slice(&255_u32.to_le_bytes());
        bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
        bytes
    }

    fn asked(bytes: &[u8]) -> Result<bool, Doubt> {
        let device = MemoryDevice::new(bytes.to_vec());
        allocation(&device, Extent { offset: 0, bytes: bytes.len() as u64 }).map(|found| found.is_some())
    }

    fn volume(type_id: &str) -> Volume {
        Volume {
            number: 1,
            extent: Extent { offset: 0, bytes: 1 << 20 },
            type_id: type_id.to_owned(),
            type_name: None,
            uuid: None,
            name: None,
            bootable: false,
            content: None,
        }
    }

    #[test]
    fn a_disk_within_a_volume_is_a_doubt() {
        assert!(asked(&swap()).unwrap());
        let mut boots = swap();
        boots[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(asked(&boots).is_err(), "the first KiB of a swap area is empty");
        let mut table = boots.clone();
        table[446..462].copy_from_slice(&[0, 0, 2, 0, 7, 0xff, 0xff, 0xff, 8, 0, 0, 0, 9, 0, 0, 0]);
        assert!(matches!(asked(&table), Err(Doubt::Ambiguous { .. })));
        for at in [512, 4096] {
            let mut gpt = swap();
            gpt[at..at + 8].copy_from_slice(b"EFI PART");
            assert!(matches!(asked(&gpt), Err(Doubt::Ambiguous { .. })), "{at}");
        }
    }

    #[test]
    fn other_peoples_signatures_are_doubts() {
        for (at, magic) in [(3, &b"ReFS\0\0\0\0"[..]), (32_768, b"JFS1"), (65_536 + 52, b"ReIsEr2Fs")] {
            let mut bytes = swap();
            bytes[at..at + magic.len()].copy_from_slice(magic);
            assert!(matches!(asked(&bytes), Err(Doubt::Ambiguous { .. })), "{at}");
        }
        let mut zfs = swap();
        zfs[(130 << 10)..(130 << 10) + 8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
        assert!(matches!(asked(&zfs), Err(Doubt::Ambiguous { .. })));
    }

    #[test]
    fn swap_is_believed_where_the_table_says_so() {
        assert!(check_type(&volume("0x82"), "swap").is_ok());
        assert!(matches!(check_type(&volume("0x07"), "swap"), Err(Doubt::Type { .. })));
        assert!(check_type(&volume("0x07"), "ext4").is_ok());
    }

    #[test]
    fn a_table_that_is_not_all_there_is_is_a_doubt() {
        let table = |type_id: &str| Layout {
            table: TableKind::Mbr,
            volumes: vec![volume(type_id)],
            ..Layout::default()
        };
        let blank = MemoryDevice::zeros(1 << 20);
        assert!(check_table(&blank, &table("0x83")).is_ok());
        assert!(matches!(check_table(&blank, &table("0x42")), Err(Doubt::Dynamic { number: 1 })));
        let odd = Layout { warnings: vec!["odd".to_owned()], ..table("0x83") };
        assert!(matches!(check_table(&blank, &odd), Err(Doubt::Table { .. })));
        // An md array with its superblock at 4 KiB, made over a partitioned disk.
        let mut raid = vec![0; 1 << 20];
        raid[4096..4100].copy_from_slice(&0xa92b_4efc_u32.to_le_bytes());
        raid[4100..4104].copy_from_slice(&1_u32.to_le_bytes());
        raid[4096 + 144..4096 + 152].copy_from_slice(&8_u64.to_le_bytes());
        assert!(matches!(
            check_table(&MemoryDevice::new(raid), &table("0x83")),
            Err(Doubt::Ambiguous { .. })
        ));
    }
}

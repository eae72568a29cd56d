//! GRUB's own files on a disk of memory, moved about.

use super::*;
use crate::MemoryDevice;
use crate::testing::run;
use proptest::prelude::*;

const MIB: usize = 1 << 20;

/// boot.img at `at`, a core image in these pieces (first sector, sectors), as util/setup.c writes them.
fn installed(at: usize, lba: u64, pieces: &[(u64, u16)]) -> Vec<u8> {
    let mut disk = vec![0; 4 * MIB];
    let boot =
        std::fs::read("/usr/lib/grub/i386-pc/boot.img").expect("sh tests/setup.sh installs grub-pc-bin");
    disk[at..at + 440].copy_from_slice(&boot[..440]);
    disk[at + 0x5c..at + 0x64].copy_from_slice(&lba.to_le_bytes());
    disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("core.img");
    let words = [
        "-O",
        "i386-pc",
        "-p",
        "(,gpt2)/boot/grub",
        "-o",
        file.to_str().unwrap(),
        "biosdisk",
        "part_gpt",
        "ext2",
    ];
    run("grub-mkimage", "grub-pc-bin grub-common", &words, "");
    let mut core = std::fs::read(file).unwrap();
    core.resize(core.len().next_multiple_of(512), 0);
    let mut rest = core.split_off(512);
    for (index, (start, sectors)) in pieces.iter().enumerate() {
        let entry = 0x1f4 - 12 * index;
        core[entry..entry + 8].copy_from_slice(&start.to_le_bytes());
        core[entry + 8..entry + 10].copy_from_slice(&sectors.to_le_bytes());
        core[entry + 10..entry + 12].copy_from_slice(&0x820_u16.to_le_bytes());
        let place = usize::try_from(*start).unwrap() * 512;
        let mut piece: Vec<u8> = rest.drain(..rest.len().min(usize::from(*sectors) * 512)).collect();
        piece.resize(usize::from(*sectors) * 512, 0);
        disk[place..place + piece.len()].copy_from_slice(&piece);
    }
    assert!(rest.is_empty(), "the pieces hold the core image");
    let place = usize::try_from(lba).unwrap() * 512;
    disk[place..place + 512].copy_from_slice(&core);
    disk
}

/// The second MiB goes to the fourth.
fn moved(byte: u64) -> Option<u64> {
    let mib = MIB as u64;
    match byte / mib {
        0 => Some(byte),
        1 => Some(byte + 2 * mib),
        _ => None,
    }
}

fn patched(mut disk: Vec<u8>, patches: &[(u64, Vec<u8>)]) -> MemoryDevice {
    disk.copy_within(MIB..2 * MIB, 3 * MIB);
    disk[MIB..2 * MIB].fill(0xdb);
    for (at, bytes) in patches {
        let at = usize::try_from(*at).unwrap();
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }
    MemoryDevice::new(disk)
}

#[test]
fn a_core_image_in_a_partition_of_its_own_is_followed() {
    let disk = installed(0, 2048, &[(2049, 400)]);
    let source = MemoryDevice::new(disk.clone());
    let core = core_place(&source, 0).unwrap().unwrap();
    assert_eq!(core, GrubCore { lba: 2048, blocks: vec![(2049, 400)] });
    let patches = repair(&source, 0, &moved).unwrap();
    let offsets: Vec<u64> = patches.iter().map(|patch| patch.0).collect();
    assert_eq!(offsets, [0x5c, 3 * MIB as u64 + 0x1f4]);
    let target = patched(disk.clone(), &patches);
    assert_eq!(core_place(&target, 0).unwrap().unwrap(), GrubCore { lba: 6144, blocks: vec![(6145, 400)] });
    verify(&source, 0, &target, 0).unwrap();
    assert!(matches!(verify(&source, 0, &patched(disk, &[]), 0), Err(BootProblem::CoreDiffers { .. })));
}

#[test]
fn a_core_image_in_the_gap_stays() {
    let source = MemoryDevice::new(installed(0, 1, &[(2, 400)]));
    assert!(core_place(&source, 0).unwrap().is_some());
    assert_eq!(repair(&source, 0, &moved).unwrap(), []);
    verify(&source, 0, &source, 0).unwrap();
}

#[test]
fn a_list_of_several_pieces_and_a_boot_sector_of_a_volume() {
    let pieces = [(2060, 100), (3000, 64), (2200, 300)];
    let disk = installed(MIB, 2050, &pieces);
    let source = MemoryDevice::new(disk.clone());
    assert_eq!(core_place(&source, 0).unwrap(), None);
    let at = MIB as u64;
    let patches = repair(&source, at, &moved).unwrap();
    assert_eq!(patches.len(), 4);
    verify(&source, at, &patched(disk, &patches), 3 * at).unwrap();
}

#[test]
fn what_is_left_behind_or_torn_is_said() {
    let source = MemoryDevice::new(installed(0, 2048, &[(2049, 400)]));
    let none = |_: u64| None;
    assert!(matches!(repair(&source, 0, &none), Err(BootProblem::NotCopied { sector: 2048 })));
    let cut = |byte: u64| (byte < 2100 * 512).then_some(byte + 512);
    assert!(matches!(repair(&source, 0, &cut), Err(BootProblem::NotCopied { sector: 2100 })));
    let torn = |byte: u64| Some(if byte < 2100 * 512 { byte } else { byte + 512 });
    assert!(matches!(repair(&source, 0, &torn), Err(BootProblem::Scattered { sector: 2049 })));
}

#[test]
fn what_is_not_grub_is_left_alone() {
    assert_eq!(core_place(&MemoryDevice::zeros(MIB), 0).unwrap(), None);
    assert_eq!(core_place(&MemoryDevice::zeros(100), 0).unwrap(), None);
    let mut disk = installed(0, 2048, &[(2049, 400)]);
    // The first sector of a life long gone.
    disk[2048 * 512..2049 * 512].fill(0);
    let source = MemoryDevice::new(disk);
    assert_eq!(repair(&source, 0, &moved).unwrap(), []);
}

proptest! {
    /// Any numbers in the places that are believed.
    #[test]
    fn hostile_numbers_are_borne(
        lba in prop_oneof![0_u64..9000, any::<u64>()],
        list in prop::collection::vec((prop_oneof![0_u64..9000, any::<u64>()], any::<u16>()), 0..18),
    ) {
        static DISK: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut disk = DISK.get_or_init(|| installed(0, 2048, &[(2049, 400)])).clone();
        disk[0x5c..0x64].copy_from_slice(&lba.to_le_bytes());
        for (entry, (start, sectors)) in entries().zip(&list) {
            let entry = 2048 * 512 + entry;
            disk[entry..entry + 8].copy_from_slice(&start.to_le_bytes());
            disk[entry + 8..entry + 10].copy_from_slice(&sectors.to_le_bytes());
        }
        let source = MemoryDevice::new(disk);
        if let Ok(patches) = repair(&source, 0, &|byte| Some(byte)) {
            prop_assert_eq!(patches, []);
        }
        let _ignored = verify(&source, 0, &source, 0).is_ok();
    }
}

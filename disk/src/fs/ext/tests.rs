//! Each doubt shown by the bytes that cause it, on filesystems of mke2fs; and bytes that nobody foresaw.

use std::sync::OnceLock;

use proptest::prelude::*;

use crate::fs::crc::crc32c;
use crate::fs::{Allocation, Doubt, allocation};
use crate::testing::{image, run};
use crate::{Extent, FaultDevice, MemoryDevice};

const SUPER: usize = 1024;

fn made(options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = image(folder.path(), "ext", 8 << 20);
    let mut args = vec!["-q", "-F", "-b", "1024", "-g", "1024"];
    args.extend(options);
    args.push(file.to_str().unwrap());
    run("mke2fs", "e2fsprogs", &args, "");
    std::fs::read(file).unwrap()
}

/// Without checksums, so that every field can be changed.
fn plain() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| made(&["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"]))
}

/// All checksums.
fn summed() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| made(&["-t", "ext4", "-O", "metadata_csum,64bit"]))
}

fn read(bytes: Vec<u8>) -> Result<Option<Allocation>, Doubt> {
    let volume = Extent { offset: 0, bytes: bytes.len() as u64 };
    allocation(&MemoryDevice::new(bytes), volume)
}

fn with(image: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = image.to_vec();
    for (at, bytes) in changes {
        image[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

fn le32(image: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
}

/// The superblock summed anew.
fn resummed(mut image: Vec<u8>) -> Vec<u8> {
    let sum = crc32c(!0, &image[SUPER..SUPER + 0x3fc]);
    image[SUPER + 0x3fc..SUPER + 0x400].copy_from_slice(&sum.to_le_bytes());
    image
}

macro_rules! assert_doubt {
    ($changed:expr, $doubt:pat) => {{
        let found = read($changed);
        assert!(matches!(found, Err($doubt)), "{found:?}");
    }};
}

#[test]
fn each_kind_has_its_name_and_free_blocks() {
    for (kind, name) in [("ext2", "ext2"), ("ext3", "ext3"), ("ext4", "ext4")] {
        let found = read(made(&["-t", kind])).unwrap().unwrap();
        assert_eq!(found.kind, name);
        assert!(found.free.free_bytes() > 4 << 20);
        assert!(found.excluded.is_empty());
    }
}

#[test]
fn what_lies_behind_the_filesystem_is_used() {
    let mut longer = plain().to_vec();
    longer.resize(plain().len() + 100_000, 1);
    assert_eq!(read(longer).unwrap(), read(plain().to_vec()).unwrap());
    assert_doubt!(plain()[..plain().len() - 1].to_vec(), Doubt::TooLarge { .. });
}

#[test]
fn states_and_features_are_doubts() {
    let incompat = le32(plain(), SUPER + 0x60);
    let changed = |at: usize, value: u32| with(plain(), &[(SUPER + at, &value.to_le_bytes())]);
    assert!(read(plain().to_vec()).is_ok());
    assert_doubt!(changed(0x60, incompat | 0x4), Doubt::Journal);
    for unknown in [0x1, 0x1000, 0x8_0000, 0x8000_0000] {
        assert_doubt!(changed(0x60, incompat | unknown), Doubt::Feature { .. });
    }
    for (at, unknown) in
        [(0x5c, 0x40), (0x5c, 0x100), (0x64, 0x80), (0x64, 0x4000), (0x64, 0x20_0000), (0x160, 0x10)]
    {
        assert_doubt!(changed(at, le32(plain(), SUPER + at) | unknown), Doubt::Feature { .. });
    }
    assert_doubt!(with(plain(), &[(SUPER + 0x3a, &[0, 0])]), Doubt::NotClean { .. });
    assert_doubt!(with(plain(), &[(SUPER + 0x3a, &[3, 0])]), Doubt::Damaged { .. });
    assert_doubt!(with(plain(), &[(SUPER + 0x3a, &[0x21, 0])]), Doubt::NotClean { .. });
    assert_doubt!(changed(0xe8, 12), Doubt::NotClean { .. });
    assert_doubt!(changed(0x194, 1), Doubt::Damaged { .. });
    assert_doubt!(changed(0x64, le32(plain(), SUPER + 0x64) | 0x1_0000), Doubt::NotClean { .. });
    assert_doubt!(changed(0xe4, 5), Doubt::Elsewhere { .. });
    assert_doubt!(changed(0xe0, 0), Doubt::Elsewhere { .. });
}

#[test]
fn counts_and_places_that_disagree_are_doubts() {
    let changed = |at: usize, value: u32| with(plain(), &[(SUPER + at, &value.to_le_bytes())]);
    for at in [0x0, 0x4, 0xc, 0x14, 0x20, 0x24, 0x28] {
        let found = read(changed(at, le32(plain(), SUPER + at) - 1));
        assert!(found.is_err(), "{at:#x}: {found:?}");
    }
    // The first group's descriptor: its free count, and its tables outside, in each other's place, in free blocks.
    let group = 2048;
    let free = u16::from_le_bytes(plain()[group + 0xc..group + 0xe].try_into().unwrap());
    assert_doubt!(with(plain(), &[(group + 0xc, &(free + 1).to_le_bytes())]), Doubt::Mismatch { .. });
    for at in [0x0, 0x4, 0x8] {
        assert_doubt!(with(plain(), &[(group + at, &[0xff; 4])]), Doubt::Impossible { .. });
        assert_doubt!(with(plain(), &[(group + at, &[0; 4])]), Doubt::Impossible { .. });
    }
    let bitmap = plain()[group..group + 4].to_vec();
    assert_doubt!(with(plain(), &[(group + 4, &bitmap)]), Doubt::Impossible { .. });
    let free_from = read(plain().to_vec()).unwrap().unwrap().free.free()[0].offset / 1024;
    let free_block = u32::try_from(free_from).unwrap().to_le_bytes();
    assert_doubt!(with(plain(), &[(group + 4, &free_block)]), Doubt::Impossible { .. });
    // A bit of the bitmap.
    let bits = u32::from_le_bytes(bitmap.try_into().unwrap()) as usize * 1024;
    assert_doubt!(with(plain(), &[(bits, &[0])]), Doubt::Mismatch { .. });
}

#[test]
fn checksums_are_believed() {
    assert!(read(summed().to_vec()).is_ok());
    let super_flip = with(summed(), &[(SUPER + 0x100, &[0xaa])]);
    assert_doubt!(super_flip.clone(), Doubt::Checksum { place: "superblock", .. });
    assert!(read(resummed(super_flip)).is_ok());
    assert_doubt!(resummed(with(summed(), &[(SUPER + 0x175, &[2])])), Doubt::Impossible { .. });
    // itable_unused of the first group.
    assert_doubt!(with(summed(), &[(2048 + 0x1c, &[9])]), Doubt::Checksum { place: "group descriptor", .. });
    let bitmap = le32(summed(), 2048) as usize * 1024;
    assert_doubt!(
        with(summed(), &[(bitmap, &[summed()[bitmap] ^ 1])]),
        Doubt::Checksum { place: "block bitmap", .. }
    );
    let uninit = made(&["-t", "ext4", "-O", "^metadata_csum,uninit_bg"]);
    assert!(read(uninit.clone()).is_ok());
    assert_doubt!(with(&uninit, &[(2048 + 0x1c, &[9])]), Doubt::Checksum { .. });
}

#[test]
fn a_journal_with_something_in_it_is_a_doubt() {
    let magic = [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 4];
    let journal = plain().chunks(1024).position(|block| block.starts_with(&magic)).unwrap() * 1024;
    assert_doubt!(with(plain(), &[(journal + 0x1c, &[0, 0, 0, 1])]), Doubt::Journal);
    assert_doubt!(with(plain(), &[(journal + 0x20, &[0, 0, 0, 5])]), Doubt::Damaged { .. });
    assert_doubt!(with(plain(), &[(journal, &[0])]), Doubt::Mismatch { .. });
}

#[test]
fn a_bad_sector_in_a_bitmap_is_a_doubt() {
    let bitmap = u64::from(le32(plain(), 2048)) * 1024;
    let volume = Extent { offset: 0, bytes: plain().len() as u64 };
    let bad = vec![Extent { offset: bitmap, bytes: 512 }];
    let device = FaultDevice::new(MemoryDevice::new(plain().to_vec()), bad);
    assert!(matches!(allocation(&device, volume), Err(Doubt::Unreadable { .. })));
}

#[test]
fn impossible_shapes_are_doubts() {
    for (at, value) in
        [(0x18, 7_u32), (0x18, u32::MAX), (0x20, 0), (0x24, 12), (0x28, 0), (0x4c, 9), (0x58, 100)]
    {
        let found = read(with(plain(), &[(SUPER + at, &value.to_le_bytes())]));
        assert!(found.is_err(), "{at:#x} {value}: {found:?}");
    }
    // More groups than are read, each of 8 blocks.
    let huge = with(plain(), &[(SUPER + 4, &[0xff; 4]), (SUPER + 0x20, &[8, 0, 0, 0, 8, 0, 0, 0])]);
    assert!(read(huge).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn flipped_bytes_never_panic(
        changes in prop::collection::vec((0_usize..3 * 1024, any::<u8>()), 1..8),
        is_summed in any::<bool>(),
    ) {
        let mut image = if is_summed { summed() } else { plain() }.to_vec();
        for (at, byte) in changes {
            image[SUPER + at] = byte;
        }
        if is_summed {
            image = resummed(image);
        }
        if let Ok(Some(found)) = read(image) {
            prop_assert!(found.free.free().iter().all(|free| free.end() <= 8 << 20));
        }
    }
}

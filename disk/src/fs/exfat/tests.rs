//! Each doubt shown by the bytes that cause it, on volumes of mkfs.exfat; and bytes that nobody foresaw.

use std::sync::OnceLock;

use proptest::prelude::*;

use crate::fs::{Allocation, Doubt, allocation};
use crate::testing::{image, run};
use crate::{Extent, MemoryDevice};

fn made() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = image(folder.path(), "exfat", 4 << 20);
        run("mkfs.exfat", "exfatprogs", &["-c", "4K", "-b", "4K", file.to_str().unwrap()], "");
        std::fs::read(file).unwrap()
    })
}

fn read(bytes: Vec<u8>) -> Result<Option<Allocation>, Doubt> {
    let volume = Extent { offset: 0, bytes: bytes.len() as u64 };
    allocation(&MemoryDevice::new(bytes), volume)
}

fn with(changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut image = made().to_vec();
    for (at, bytes) in changes {
        image[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

/// The same with the boot region summed anew.
fn summed(mut image: Vec<u8>) -> Vec<u8> {
    let mut sum = 0_u32;
    for (at, byte) in image[..11 * 512].iter().enumerate() {
        if !matches!(at, 106 | 107 | 112) {
            sum = sum.rotate_right(1).wrapping_add((*byte).into());
        }
    }
    for four in image[11 * 512..12 * 512].chunks_mut(4) {
        four.copy_from_slice(&sum.to_le_bytes());
    }
    image
}

fn le32(at: usize) -> usize {
    u32::from_le_bytes(made()[at..at + 4].try_into().unwrap()) as usize
}

fn fat() -> usize {
    le32(80) * 512
}

fn root() -> usize {
    le32(88) * 512 + (le32(96) - 2) * 4096
}

#[test]
fn an_empty_volume_is_free_behind_its_own_files() {
    let found = read(made().to_vec()).unwrap().unwrap();
    assert_eq!((found.kind, found.free.free().len()), ("exfat", 1));
    assert!(found.free.free_bytes() > 3 << 20);
    // What lies behind it is used.
    let mut tail = made().to_vec();
    tail.resize(tail.len() + 70_000, 9);
    assert_eq!(read(tail).unwrap().unwrap().free, found.free);
}

#[test]
fn flags_and_disagreements_are_doubts() {
    assert!(matches!(read(with(&[(106, &[2])])), Err(Doubt::NotClean { .. })));
    assert!(matches!(read(with(&[(106, &[4])])), Err(Doubt::Damaged { .. })));
    assert!(matches!(read(with(&[(106, &[1])])), Err(Doubt::Feature { .. })));
    assert!(matches!(read(with(&[(107, &[1])])), Err(Doubt::Feature { .. })));
    assert!(matches!(read(with(&[(600, &[1])])), Err(Doubt::Checksum { .. })));
    assert!(matches!(read(summed(with(&[(110, &[2])]))), Err(Doubt::Feature { .. })));
    assert!(matches!(read(summed(with(&[(105, &[2])]))), Err(Doubt::Feature { .. })));
    assert!(matches!(read(summed(with(&[(96, &[0xff, 0xff])]))), Err(Doubt::Impossible { .. })));
    assert!(matches!(
        read(summed(with(&[(94, &[1])]))),
        Err(Doubt::Impossible { .. } | Doubt::TooLarge { .. })
    ));
    let short = made()[..made().len() - 512].to_vec();
    assert!(matches!(read(short), Err(Doubt::TooLarge { .. })));
}

#[test]
fn the_volumes_own_files_must_be_whole_and_used() {
    let entries: Vec<u8> = made()[root()..root() + 512].chunks(32).map(|entry| entry[0]).collect();
    let place = |kind: u8| root() + 32 * entries.iter().position(|it| *it == kind).unwrap();
    let (bitmap, upcase) = (place(0x81), place(0x82));
    let bitmap_data = le32(88) * 512 + (le32(bitmap + 20) - 2) * 4096;
    assert!(matches!(read(with(&[(bitmap_data, &[0])])), Err(Doubt::Impossible { .. })));
    assert!(matches!(read(with(&[(bitmap, &[0x83])])), Err(Doubt::Impossible { .. })));
    assert!(matches!(read(with(&[(bitmap + 1, &[1])])), Err(Doubt::Impossible { .. })));
    assert!(matches!(read(with(&[(bitmap + 24, &[9])])), Err(Doubt::Mismatch { .. })));
    assert!(matches!(read(with(&[(upcase, &[0x81])])), Err(Doubt::Impossible { .. })));
    assert!(matches!(
        read(with(&[(upcase + 20, &[2])])),
        Err(Doubt::Impossible { .. } | Doubt::Mismatch { .. })
    ));
    // The root folder's chain bites its tail.
    let root_entry = fat() + le32(96) * 4;
    let itself = made()[96..100].to_vec();
    assert!(matches!(read(with(&[(root_entry, &itself)])), Err(Doubt::Impossible { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn flipped_bytes_never_panic(changes in prop::collection::vec((0_usize..600, any::<u8>()), 1..6), elsewhere in any::<u8>()) {
        let mut image = made().to_vec();
        for (at, byte) in changes {
            // Boot sector and table; or the root folder.
            let place = match at { 0..128 => at, 128..300 => fat() + at - 128, _ => root() + at - 300 };
            image[place] = byte;
        }
        image[fat() + usize::from(elsewhere)] ^= elsewhere;
        if let Ok(Some(found)) = read(summed(image)) {
            prop_assert!(found.free.free().iter().all(|free| free.end() <= 4 << 20));
        }
    }
}

//! Each doubt shown by the bytes that cause it, on filesystems of mkfs.fat; and bytes that nobody foresaw.

use proptest::prelude::*;

use crate::fs::{Allocation, Doubt, allocation};
use crate::testing::{image, run};
use crate::{Extent, MemoryDevice};

fn made(width: &str, bytes: u64, options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = image(folder.path(), "fat", bytes);
    let mut args = vec!["-F", width];
    args.extend(options);
    args.push(file.to_str().unwrap());
    run("mkfs.fat", "dosfstools", &args, "");
    std::fs::read(file).unwrap()
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

#[test]
fn an_empty_filesystem_is_free_behind_its_tables() {
    for (width, bytes) in [("12", 1 << 20), ("16", 16 << 20), ("32", 40 << 20)] {
        let found = read(made(width, bytes, &[])).unwrap().unwrap();
        assert_eq!(found.kind, "vfat");
        assert_eq!(found.free.free().len(), 1, "{width}");
        assert!(found.free.free_bytes() > bytes * 9 / 10, "{width}");
    }
}

#[test]
fn flags_and_disagreements_are_doubts() {
    let fat16 = made("16", 16 << 20, &[]);
    let reserved = usize::from(u16::from_le_bytes([fat16[14], fat16[15]]));
    let table = reserved * 512;
    let fat_bytes = usize::from(u16::from_le_bytes([fat16[22], fat16[23]])) * 512;
    let both =
        |at: usize, bytes: &[u8]| with(&fat16, &[(table + at, bytes), (table + fat_bytes + at, bytes)]);
    assert!(matches!(read(with(&fat16, &[(37, &[1])])), Err(Doubt::NotClean { .. })));
    assert!(matches!(read(with(&fat16, &[(37, &[2])])), Err(Doubt::Damaged { .. })));
    assert!(matches!(read(both(2, &[0xff, 0x7f])), Err(Doubt::NotClean { .. })));
    assert!(matches!(read(both(2, &[0xff, 0xbf])), Err(Doubt::Damaged { .. })));
    assert!(matches!(read(both(0, &[0xf0])), Err(Doubt::Mismatch { .. })));
    assert!(matches!(read(with(&fat16, &[(table + 100, &[1, 2])])), Err(Doubt::Mismatch { .. })));
    // A chain into a free cluster, to nowhere, and to a number that means nothing.
    for next in [20_u16, 1, 0xfff5] {
        assert!(matches!(read(both(10, &next.to_le_bytes())), Err(Doubt::Impossible { .. })), "{next}");
    }
    // A bad cluster is used, and so is the end of a chain, and what leads to it.
    let chain = read(both(10, &[6, 0, 0xf8, 0xff, 0xf7, 0xff])).unwrap().unwrap();
    let empty = read(fat16.clone()).unwrap().unwrap();
    let cluster = u64::from(fat16[13]) * 512;
    assert_eq!(
        empty.free.free_bytes() - chain.free.free_bytes(),
        cluster * if cluster * 3 < 4096 { 6 } else { 3 }
    );
    // A root folder that ends within a sector.
    assert!(matches!(read(with(&fat16, &[(17, &[9, 2])])), Err(Doubt::Impossible { .. })));
    // Smaller than its volume, and larger.
    let mut tail = fat16.clone();
    tail.resize(fat16.len() + 9000, 7);
    assert_eq!(read(tail).unwrap().unwrap().free, empty.free);
    assert!(matches!(read(fat16[..fat16.len() - 512].to_vec()), Err(Doubt::TooLarge { .. })));
}

#[test]
fn what_only_fat32_has() {
    let fat32 = made("32", 40 << 20, &[]);
    assert!(matches!(read(with(&fat32, &[(65, &[1])])), Err(Doubt::NotClean { .. })));
    assert!(matches!(read(with(&fat32, &[(40, &[0x80])])), Err(Doubt::Feature { .. })));
    assert!(matches!(read(with(&fat32, &[(42, &[1])])), Err(Doubt::Impossible { .. })));
    assert!(matches!(read(with(&fat32, &[(44, &[9])])), Err(Doubt::Impossible { .. })));
    assert!(matches!(read(with(&fat32, &[(512 + 488, &[7, 0, 0, 0])])), Err(Doubt::Mismatch { .. })));
    assert!(matches!(read(with(&fat32, &[(512, &[7])])), Err(Doubt::Mismatch { .. })));
    assert!(read(with(&fat32, &[(512 + 488, &[0xff; 4])])).is_ok());
}

/// The files that fill it say nothing of what is encrypted between them.
#[test]
fn bitlocker_to_go_is_no_fat() {
    let id = b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";
    let to_go = with(&made("32", 40 << 20, &[]), &[(3, b"MSWIN4.1"), (424, id)]);
    assert_eq!(read(to_go).unwrap(), None);
}

#[test]
fn a_bad_sector_in_the_table_is_a_doubt() {
    let image = made("16", 16 << 20, &[]);
    let volume = Extent { offset: 0, bytes: image.len() as u64 };
    let device = crate::FaultDevice::new(MemoryDevice::new(image), vec![Extent { offset: 4096, bytes: 512 }]);
    assert!(matches!(allocation(&device, volume), Err(Doubt::Unreadable { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn flipped_bytes_never_panic(changes in prop::collection::vec((0_usize..4096, any::<u8>()), 1..6), which in 0_usize..3) {
        use std::sync::OnceLock;
        static IMAGES: OnceLock<[Vec<u8>; 3]> = OnceLock::new();
        let images = IMAGES.get_or_init(|| {
            [made("12", 1 << 20, &[]), made("16", 3 << 20, &["-s", "1"]), made("32", 1 << 20, &["-s", "1"])]
        });
        let mut image = images[which].clone();
        for (at, byte) in changes {
            image[at] = byte;
        }
        if let Ok(Some(found)) = read(image.clone()) {
            prop_assert!(found.free.free().iter().all(|free| free.end() <= image.len() as u64));
        }
    }
}

//! Any bytes, taken as a boot sector, the list of a core image, a volume's boot sector or a text: never a panic (I6), and a disk
//! on which nothing moved needs no patch. FAT folders are left to `disk`'s tests: the crate for them may panic, which is caught.
#![no_main]

use disk::MemoryDevice;
use disk::boot::{grub, hidden, references};

const DISK_BYTES: usize = 1 << 18;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = vec![0; DISK_BYTES];
    let len = data.len().min(DISK_BYTES);
    bytes[..len].copy_from_slice(&data[..len]);
    bytes[0x180..0x180 + 32].copy_from_slice(b"GRUB \0Geom\0Hard Disk\0Read\0 Error");
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[512 + 0x120..512 + 0x130].copy_from_slice(b"Geom\0Read\0 Error");
    let disk = MemoryDevice::new(bytes);
    if let Ok(patches) = grub::repair(&disk, 0, &|byte| Some(byte)) {
        assert!(patches.is_empty());
    }
    let _found = grub::verify(&disk, 0, &disk, 0);
    for kind in ["vfat", "ntfs", "exfat"] {
        let _patches = hidden::hidden_sectors(&disk, kind, 12345);
    }
    let pairs = [("1234-ABCD".to_owned(), "9876-FEDC".to_owned())];
    let _text = references::rewrite(data, &pairs);
});

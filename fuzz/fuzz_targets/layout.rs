//! Any bytes, taken as the first and last sectors of a disk: a layout whose regions cover it exactly, never a panic (I6).
#![no_main]

use disk::{Layout, MemoryDevice};

/// Room for the content that volumes are probed for.
const DISK_BYTES: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (first, last) = data[..data.len().min(DISK_BYTES)].split_at(data.len().min(DISK_BYTES) / 2);
    let mut disk = vec![0; DISK_BYTES];
    disk[..first.len()].copy_from_slice(first);
    disk[DISK_BYTES - last.len()..].copy_from_slice(last);
    let device = MemoryDevice::new(disk);
    for sector_bytes in [512, 4096] {
        let mut covered = 0;
        for region in Layout::read(&device, sector_bytes).regions(DISK_BYTES as u64) {
            assert_eq!(region.extent.offset, covered);
            covered = region.extent.end();
        }
        assert_eq!(covered, DISK_BYTES as u64);
    }
});

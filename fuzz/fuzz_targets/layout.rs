//! Any bytes, taken as a disk with a partition table: a layout, never a panic (I6).
#![no_main]

use disk::{Layout, MemoryDevice};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for sector_bytes in [512, 4096] {
        Layout::read(&MemoryDevice::new(data.to_vec()), sector_bytes);
    }
});

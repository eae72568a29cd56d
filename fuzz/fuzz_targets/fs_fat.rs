//! Any bytes, taken as FAT: a map that lies in the volume, or a doubt, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_allocation(data, &[(510, b"\x55\xaa")]));

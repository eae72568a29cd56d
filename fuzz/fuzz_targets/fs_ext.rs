//! Any bytes, taken as ext2, ext3 or ext4: a map that lies in the volume, or a doubt, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_allocation(data, &[(1080, b"\x53\xef")]));

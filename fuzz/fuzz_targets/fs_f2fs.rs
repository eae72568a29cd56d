//! Any bytes, taken as F2FS: a map that lies in the volume, or a doubt, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_allocation(data, &[(1024, b"\x10\x20\xf5\xf2")]));

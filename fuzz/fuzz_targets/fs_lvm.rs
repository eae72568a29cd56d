//! Any bytes, taken as an LVM2 physical volume: a map that lies in the volume, or a doubt, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_allocation(data, &[(512, b"LABELONE\x01\0\0\0\0\0\0\0"), (536, b"LVM2 001")]));

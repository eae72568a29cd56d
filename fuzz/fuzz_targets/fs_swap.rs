//! Any bytes, taken as a swap area: a map that lies in the volume, or a doubt, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_allocation(data, &[(4086, b"SWAPSPACE2")]));

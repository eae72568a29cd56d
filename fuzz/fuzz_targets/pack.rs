//! Any bytes, taken as a pack (DESIGN.md §4.5): a value or an error, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| store::fuzz::pack(data));

//! Any bytes, taken as a manifest (DESIGN.md §4.7): a value or an error, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| store::fuzz::manifest(data));

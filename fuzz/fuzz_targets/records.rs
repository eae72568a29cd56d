//! Any bytes, taken as a marker or record (DESIGN.md §4.8): a value or an error, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| store::fuzz::records(data));

//! Any bytes, taken as a table (DESIGN.md §4.6): a value or an error, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| store::fuzz::table(data));

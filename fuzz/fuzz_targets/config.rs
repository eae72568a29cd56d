//! Any bytes, taken as a store's config (DESIGN.md §4.3): a value or an error, never a panic (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| store::fuzz::config(data));

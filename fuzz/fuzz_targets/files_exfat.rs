//! Any bytes, taken as files of exfat: values or errors, never a panic or a loop without end (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_files(data, "exfat", &[(3, b"EXFAT   ")]));

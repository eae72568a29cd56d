//! Any bytes, taken as files of ntfs: values or errors, never a panic or a loop without end (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_files(data, "ntfs", &[(3, b"NTFS    ")]));

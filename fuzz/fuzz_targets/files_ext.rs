//! Any bytes, taken as files of ext4: values or errors, never a panic or a loop without end (I6).
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::check_files(data, "ext4", &[(1080, &[0x53, 0xef])]));

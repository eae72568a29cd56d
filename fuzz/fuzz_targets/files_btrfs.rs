//! A sound btrfs (made by mkfs.btrfs), in which the input changes bytes and each block that is read is sealed again: answers
//! or errors, never a panic or a walk without end (I6).
#![no_main]

mod patched;

use std::sync::LazyLock;

static BASE: LazyLock<patched::Base> = LazyLock::new(|| {
    patched::Base::new("btrfs", |folder, image| {
        let source = folder.join("files");
        std::fs::create_dir_all(source.join("folder")).unwrap();
        for number in 0..60 {
            std::fs::write(source.join(format!("folder/name{number}")), vec![b'x'; number * 97]).unwrap();
        }
        std::fs::write(source.join("large"), [b'y'; 90_000]).unwrap();
        std::os::unix::fs::symlink("somewhere", source.join("link")).unwrap();
        std::fs::File::create(image).unwrap().set_len(32 << 20).unwrap();
        std::process::Command::new("mkfs.btrfs")
            .args(["-q", "--mixed", "-n", "4096", "-m", "single", "-d", "single", "-r"])
            .args([source.as_path(), image])
            .status()
    })
});

/// CRC-32C of all behind its place.
fn seal(block: &mut [u8]) {
    if block.len() != 4096 {
        return;
    }
    let sum = block[32..].iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    });
    block[..4].copy_from_slice(&(!sum).to_le_bytes());
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| BASE.walk(data, seal));

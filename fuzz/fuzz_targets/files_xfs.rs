//! A sound XFS without checksums (version 4, made by mkfs.xfs), in which the input changes bytes: answers or errors, never
//! a panic or a walk without end (I6).
#![no_main]

mod patched;

use std::sync::LazyLock;

static BASE: LazyLock<patched::Base> = LazyLock::new(|| {
    patched::Base::new("xfs", |folder, image| {
        let mut list = String::from("/none\n0 0\nd--755 0 0\n");
        for number in 0..300 {
            list += &format!("name{number} p--640 1 2\n");
        }
        let source = folder.join("contents");
        std::fs::write(&source, [b'x'; 9000]).unwrap();
        list += &format!("file ---644 0 0 {}\nlink l--777 0 0 somewhere\n", source.display());
        list += "small d--755 0 0\none p--600 0 0\n$\n$\n";
        let prototype = folder.join("prototype");
        std::fs::write(&prototype, list).unwrap();
        std::fs::File::create(image).unwrap().set_len(32 << 20).unwrap();
        std::process::Command::new("mkfs.xfs")
            .envs([("TEST_DIR", "t"), ("TEST_DEV", "t"), ("QA_CHECK_FS", "t")])
            .args(["-q", "-m", "crc=0", "-d", "agcount=2", "-p"])
            .args([prototype.as_path(), image])
            .status()
    })
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| BASE.walk(data, |_| {}));

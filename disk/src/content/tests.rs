//! Tests: what is recognised on a volume, against blkid and on arbitrary bytes.

use std::path::Path;

use tempfile::tempdir;

use super::*;
use crate::testing::{image, run};
use crate::{Device, FaultDevice, MemoryDevice};

/// How to make each kind with a label: tool, package, arguments before the file's name.
const MADE: [(&str, &str, &str); 17] = [
    ("mkfs.ext4", "e2fsprogs", "-q -F -L one"),
    ("mkfs.ext3", "e2fsprogs", "-q -F -L one"),
    ("mkfs.ext2", "e2fsprogs", "-q -F -L one"),
    ("mkfs.xfs", "xfsprogs", "-q -f -L one"),
    ("mkfs.btrfs", "btrfs-progs", "-q -f -L one"),
    ("mkfs.vfat", "dosfstools", "-n ONE"),
    ("mkfs.vfat", "dosfstools", "-F 32 -n ONE"),
    ("mkfs.vfat", "dosfstools", "-F 16"),
    ("mkntfs", "ntfs-3g", "-q -F -f -L one"),
    ("mkntfs", "ntfs-3g", "-q -F -f -s 4096 -L one"),
    ("mkntfs", "ntfs-3g", "-q -F -f"),
    ("mkfs.exfat", "exfatprogs", "-L one"),
    ("mkswap", "util-linux", "-L one"),
    ("mkswap", "util-linux", "-p 65536 -L one"),
    ("mkfs.f2fs", "f2fs-tools", "-q -l one"),
    ("cryptsetup", "cryptsetup-bin", "luksFormat --batch-mode --type luks1 --pbkdf-force-iterations 1000"),
    (
        "cryptsetup",
        "cryptsetup-bin",
        "luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label one",
    ),
];

fn whole(device: &dyn ReadAt) -> Option<Content> {
    probe(device, Extent { offset: 0, bytes: device.size_bytes() })
}

fn by_blkid(path: &Path) -> Content {
    let text = run("blkid", "util-linux", &["-p", "-o", "export", path.to_str().unwrap()], "");
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.replace('\\', ""))
    };
    Content { kind: value("TYPE=").unwrap(), label: value("LABEL="), uuid: value("UUID=") }
}

#[test]
fn contents_as_blkid_sees_them() {
    let folder = tempdir().unwrap();
    for (index, (tool, package, args)) in MADE.into_iter().enumerate() {
        let path = image(folder.path(), &index.to_string(), 320 << 20);
        let mut args: Vec<&str> = args.split(' ').collect();
        args.push(path.to_str().unwrap());
        if tool == "cryptsetup" {
            args.push("-");
        }
        run(tool, package, &args, "password");
        let found = whole(&Device::open(&path).unwrap());
        assert_eq!(found, Some(by_blkid(&path)), "{tool} {args:?}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn nothing_is_found_in_nothing() {
    for len in [0, 1, 511, 4096, 200_000] {
        assert_eq!(whole(&MemoryDevice::zeros(len)), None);
        assert_eq!(whole(&MemoryDevice::new(vec![0xff; len])), None);
    }
    let device = MemoryDevice::zeros(4096);
    assert_eq!(probe(&device, Extent { offset: u64::MAX, bytes: u64::MAX }), None);
}

#[test]
fn a_bad_sector_hides_only_itself() {
    let mut bytes = vec![0; 100_000];
    bytes[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
    let device = FaultDevice::new(MemoryDevice::new(bytes), vec![Extent { offset: 0, bytes: 512 }]);
    assert_eq!(whole(&device).unwrap().kind, "btrfs");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Magic numbers with noise around them, so that the code behind each is reached.
    #[test]
    fn hostile_contents_never_panic(
        mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 8192),
        which in 0_usize..16,
    ) {
        let magics: [(usize, &[u8]); 16] = [
            (0, b"LUKS\xba\xbe\0\x02"), (3, b"NTFS    "), (3, b"EXFAT   "), (1080, &[0x53, 0xef]), (0, b"XFSB"),
            (536, b"LVM2 001"), (512, b"LABELONE"), (4086, b"SWAPSPACE2"), (82, b"FAT32   "), (54, b"FAT16   "),
            (510, &[0x55, 0xaa]), (4096, &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]), (0, b"hsqs"), (32, b"NXSB"),
            (1024, &[0x10, 0x20, 0xf5, 0xf2]), (1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
        ];
        let (at, magic) = magics[which];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        drop(whole(&MemoryDevice::new(bytes)));
    }
}

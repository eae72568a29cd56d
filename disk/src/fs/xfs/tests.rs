//! Each doubt shown by the bytes that cause it, on an image of mkfs.xfs; and bytes that nobody foresaw.

use proptest::prelude::*;

use crate::fs::crc::crc32c;
use crate::fs::{Allocation, Doubt, allocation};
use crate::testing::{image, run};
use crate::{Extent, FaultDevice, MemoryDevice, ReadAt, WriteAt};

const BLOCK: u64 = 4096;
const SECTOR: u64 = 512;

/// 32 MiB, as the tools' own tests may make it, in two groups.
fn made(options: &[&str]) -> MemoryDevice {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "xfs", 32 << 20);
    let mut args =
        vec!["TEST_DIR=t", "TEST_DEV=t", "QA_CHECK_FS=t", "mkfs.xfs", "-q", "-f", "-d", "agcount=2"];
    args.extend(options);
    args.push(path.to_str().unwrap());
    run("env", "xfsprogs", &args, "");
    MemoryDevice::new(std::fs::read(path).unwrap())
}

fn read(device: &dyn ReadAt) -> Result<Allocation, Doubt> {
    allocation(device, Extent { offset: 0, bytes: device.size_bytes() }).map(|found| found.unwrap())
}

fn put(device: &MemoryDevice, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut before = vec![0; bytes.len()];
    device.read_exact_at(offset, &mut before).unwrap();
    device.write_all_at(offset, bytes).unwrap();
    before
}

fn be(device: &MemoryDevice, offset: u64, len: usize) -> u64 {
    let mut bytes = vec![0; len];
    device.read_exact_at(offset, &mut bytes).unwrap();
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A structure with a checksum: where it is, how long, and where the sum is.
#[derive(Clone, Copy)]
struct Summed(u64, usize, usize);

impl Summed {
    fn sum(self, device: &MemoryDevice) {
        let mut bytes = vec![0; self.1];
        device.read_exact_at(self.0, &mut bytes).unwrap();
        bytes[self.2..self.2 + 4].fill(0);
        device.write_all_at(self.0 + self.2 as u64, &(!crc32c(!0, &bytes)).to_le_bytes()).unwrap();
    }
}

const SUPERBLOCK: Summed = Summed(0, 512, 224);
const HEADER: Summed = Summed(SECTOR, 512, 216);
const FREE_LIST: Summed = Summed(3 * SECTOR, 512, 32);
/// The leaf of group 0's tree, as mkfs.xfs places it.
const LEAF: Summed = Summed(BLOCK, 4096, 52);

#[test]
fn each_doubt_by_the_bytes_that_cause_it() {
    let device = made(&[]);
    let base = read(&device).unwrap();
    assert!(base.kind == "xfs" && base.free.free_bytes() > 8 << 20);
    let u32s = |numbers: &[u32]| {
        numbers.iter().flat_map(|number| number.swap_bytes().to_le_bytes()).collect::<Vec<u8>>()
    };
    let first = u32::try_from(be(&device, BLOCK + 56, 4)).unwrap();
    let listed = u32::try_from(be(&device, 3 * SECTOR + 36 + 4, 4)).unwrap();
    let log = u32::try_from(be(&device, 48, 8) & 0xffff).unwrap();
    let cases: Vec<(&str, Summed, u64, Vec<u8>)> = vec![
        ("XFS version: features 0x6", SUPERBLOCK, 100, vec![0xb4, 0xa6]),
        ("XFS, features for writing: features 0x80", SUPERBLOCK, 215, vec![0x8f]),
        ("XFS, features: features 0x100 ", SUPERBLOCK, 218, vec![1]),
        ("marked as damaged", SUPERBLOCK, 219, vec![0x1f]),
        ("XFS, features of the log: features 0x2", SUPERBLOCK, 223, vec![2]),
        ("not unmounted cleanly", SUPERBLOCK, 126, vec![1]),
        ("the log is on another device", SUPERBLOCK, 48, vec![0; 8]),
        ("the realtime section is on another device", SUPERBLOCK, 23, vec![1]),
        ("the volume 33554432", SUPERBLOCK, 8, vec![0, 0, 0, 1]),
        ("bytes of a block", SUPERBLOCK, 4, u32s(&[8192])),
        ("blocks of a group", SUPERBLOCK, 84, u32s(&[10])),
        ("groups: expected 2", SUPERBLOCK, 88, u32s(&[3])),
        ("free blocks: expected", SUPERBLOCK, 151, vec![0x77]),
        ("blocks of the log", SUPERBLOCK, 96, u32s(&[90000])),
        ("header of group: 0", HEADER, 0, b"XAGI".to_vec()),
        ("number of a group", HEADER, 8, u32s(&[1])),
        ("blocks of a group", HEADER, 12, u32s(&[99])),
        ("owner of group", HEADER, 64, vec![0x99]),
        ("levels of a free-space tree", HEADER, 28, u32s(&[17])),
        ("block of the free-space tree", HEADER, 28, u32s(&[2])),
        ("block of a group", HEADER, 16, u32s(&[0x0fff_ffff])),
        ("free list of group", HEADER, 40, u32s(&[119])),
        ("blocks of a free list", HEADER, 48, u32s(&[3])),
        ("free blocks of a group", HEADER, 55, vec![0x11]),
        ("longest free extent", HEADER, 59, vec![0x11]),
        ("number of a free list", FREE_LIST, 4, u32s(&[1])),
        ("block of a group", FREE_LIST, 40, u32s(&[0x0fff_ffff])),
        ("metadata called free", FREE_LIST, 40, u32s(&[first])),
        ("block of the free-space tree", LEAF, 4, vec![0, 1]),
        ("free-space tree", LEAF, 6, vec![0xff]),
        ("block of the free-space tree", LEAF, 8, u32s(&[5])),
        ("end of the free-space tree", LEAF, 12, u32s(&[5])),
        ("block of the free-space tree", LEAF, 48, u32s(&[1])),
        ("block of the free-space tree", LEAF, 23, vec![99]),
        ("free extent at block", LEAF, 60, u32s(&[0])),
        ("free extent at block", LEAF, 60, u32s(&[0x0100_0000])),
        // As many free blocks as before, but elsewhere.
        ("free-space trees do not agree", LEAF, 56, u32s(&[listed])),
    ];
    assert!(log > 0);
    for (expected, summed, at, bytes) in cases {
        let before = put(&device, summed.0 + at, &bytes);
        assert!(read(&device).is_err(), "{expected}");
        summed.sum(&device);
        let doubt = read(&device).expect_err(expected);
        assert!(doubt.to_string().contains(expected), "{expected}: {doubt}");
        put(&device, summed.0 + at, &before);
        summed.sum(&device);
        assert_eq!(read(&device).unwrap(), base, "{expected}, undone");
    }
}

#[test]
fn a_checksum_is_looked_at() {
    let device = made(&[]);
    for (summed, at) in [(SUPERBLOCK, 112), (HEADER, 100), (FREE_LIST, 500), (LEAF, 4000)] {
        let before = put(&device, summed.0 + at, &[0xa5]);
        assert!(matches!(read(&device), Err(Doubt::Checksum { .. })));
        put(&device, summed.0 + at, &before);
    }
}

#[test]
fn only_a_log_that_ends_with_an_unmount_record_is_clean() {
    let device = made(&[]);
    let log = be(&device, 48, 8);
    let (group_log, group_blocks) = (be(&device, 124, 1), be(&device, 84, 4));
    let log = ((log >> group_log) * group_blocks + (log & ((1 << group_log) - 1))) * BLOCK;
    assert_eq!(be(&device, log, 4), 0xfeed_babe);
    let base = read(&device).unwrap();
    let turn = u32::try_from(be(&device, log + 4, 4)).unwrap();
    for (at, bytes) in [
        // Not a flag of an unmount; no such client; another number of operations; another length.
        (SECTOR + 9, vec![0x10]),
        (SECTOR + 8, vec![0x69]),
        (SECTOR + 12, vec![0, 0]),
        (43, vec![2]),
        (14, vec![4]),
        // Another filesystem's, or another place's.
        (304, vec![0x77]),
        (23, vec![9]),
        // One more block of this turn, right behind and further away; one before that is not; none at all.
        (2 * SECTOR, turn.swap_bytes().to_le_bytes().to_vec()),
        (700 * SECTOR, turn.swap_bytes().to_le_bytes().to_vec()),
        (SECTOR, vec![0; 4]),
        (0, vec![0; 512]),
    ] {
        let before = put(&device, log + at, &bytes);
        assert!(read(&device).is_err(), "{at}");
        put(&device, log + at, &before);
        assert_eq!(read(&device).unwrap(), base);
    }
}

#[test]
fn version_4_has_no_checksums_but_counts() {
    let device = made(&["-m", "crc=0"]);
    let base = read(&device).unwrap();
    assert!(base.free.free_bytes() > 8 << 20);
    for (at, bytes) in [(SECTOR + 55, vec![0x11]), (BLOCK + 19, vec![7]), (151, vec![1]), (100, vec![0xff])] {
        let before = put(&device, at, &bytes);
        assert!(read(&device).is_err(), "{at}");
        put(&device, at, &before);
    }
    assert_eq!(read(&device).unwrap(), base);
}

#[test]
fn a_tail_is_used_and_a_bad_sector_is_a_doubt() {
    let device = made(&[]);
    let base = read(&device).unwrap();
    let mut bytes = device.to_vec();
    bytes.extend([0; 10_000]);
    assert_eq!(read(&MemoryDevice::new(bytes)).unwrap().free, base.free);
    let faulty = FaultDevice::new(device, vec![Extent { offset: BLOCK + 512, bytes: 512 }]);
    assert!(matches!(read(&faulty), Err(Doubt::Unreadable { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Where everything is summed, a byte that changes is a doubt, or one that does not matter.
    #[test]
    fn a_changed_byte_is_a_doubt_or_nothing(place in 0_u64..8, at in 0_u64..4096, change in 1_u8..) {
        thread_local!(static IMAGE: (MemoryDevice, Allocation) = {
            let device = made(&["-m", "rmapbt=1,reflink=1"]);
            let base = read(&device).unwrap();
            (device, base)
        });
        IMAGE.with(|(device, base)| {
            let group = be(device, 84, 4) * BLOCK;
            let offset = place % 4 * BLOCK + place / 4 * group + at;
            let mut byte = [0];
            device.read_exact_at(offset, &mut byte).unwrap();
            let before = put(device, offset, &[byte[0] ^ change]);
            let found = allocation(device, Extent { offset: 0, bytes: device.size_bytes() });
            put(device, offset, &before);
            if let Ok(Some(found)) = found {
                prop_assert_eq!(&found, base);
            }
            Ok(())
        })?;
    }

    /// Without sums, numbers may be anything.
    #[test]
    fn any_bytes_are_a_map_or_a_doubt(changes in prop::collection::vec((0_u64..4, 0_u64..4096, any::<u8>()), 1..5)) {
        thread_local!(static IMAGE: MemoryDevice = made(&["-m", "crc=0"]));
        IMAGE.with(|device| {
            let places = [(0, 256), (SECTOR, 64), (3 * SECTOR, 512), (BLOCK, 80)];
            let mut undo = Vec::new();
            for (place, at, byte) in changes {
                let (start, len) = places[usize::try_from(place).unwrap()];
                let offset = start + at % len;
                undo.push((offset, put(device, offset, &[byte])));
            }
            let found = allocation(device, Extent { offset: 0, bytes: device.size_bytes() });
            for (offset, before) in undo.into_iter().rev() {
                put(device, offset, &before);
            }
            if let Ok(Some(found)) = found {
                prop_assert!(found.free.free().iter().all(|extent| extent.end() <= device.size_bytes()));
            }
            Ok(())
        })?;
    }
}

//! Each doubt shown by the bytes that cause it, on an image of mkntfs; and bytes that nobody foresaw.

use proptest::prelude::*;

use crate::fs::{Allocation, Doubt, allocation};
use crate::testing::{image, run};
use crate::{Extent, FaultDevice, MemoryDevice, ReadAt, WriteAt};

const CLUSTER: u64 = 4096;
const RECORD: u64 = 1024;

/// 8 MiB.
fn made() -> MemoryDevice {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "ntfs", 8 << 20);
    let args = ["-F", "-Q", "-q", "-c", "4096", "-s", "512", "-p", "0", "-H", "16", "-S", "63"];
    let mut args = args.to_vec();
    args.push(path.to_str().unwrap());
    run("mkntfs", "ntfs-3g", &args, "");
    MemoryDevice::new(std::fs::read(path).unwrap())
}

fn read(device: &dyn ReadAt) -> Result<Allocation, Doubt> {
    allocation(device, Extent { offset: 0, bytes: device.size_bytes() }).map(|found| found.unwrap())
}

fn get(device: &dyn ReadAt, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    device.read_exact_at(offset, &mut bytes).unwrap();
    bytes
}

fn put(device: &MemoryDevice, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let before = get(device, offset, bytes.len());
    device.write_all_at(offset, bytes).unwrap();
    before
}

fn le(device: &MemoryDevice, offset: u64, len: usize) -> u64 {
    get(device, offset, len).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn record(device: &MemoryDevice, number: u64) -> u64 {
    le(device, 48, 8) * CLUSTER + number * RECORD
}

/// Where an attribute of a record is.
fn attribute(device: &MemoryDevice, number: u64, kind: u64) -> u64 {
    let mut at = record(device, number) + le(device, record(device, number) + 20, 2);
    while le(device, at, 4) != kind {
        assert_ne!(le(device, at, 4), 0xffff_ffff, "no attribute {kind:#x} in {number}");
        at += le(device, at + 4, 4);
    }
    at
}

/// Where the only run of a record's data is.
fn data(device: &MemoryDevice, number: u64) -> u64 {
    let runs = attribute(device, number, 0x80);
    let runs = runs + le(device, runs + 32, 2);
    let sizes = le(device, runs, 1);
    let (len, distance) = (sizes & 15, sizes >> 4);
    le(device, runs + 1 + len, usize::try_from(distance).unwrap()) * CLUSTER
}

#[test]
fn each_doubt_by_the_bytes_that_cause_it() {
    let device = made();
    let base = read(&device).unwrap();
    assert!(base.kind == "ntfs" && base.free.free_bytes() > 2 << 20 && base.excluded.is_empty());
    let at = |number: u64, offset: u64| record(&device, number) + offset;
    let mft = attribute(&device, 0, 0x80);
    let bitmap = attribute(&device, 6, 0x80);
    let runs = bitmap + le(&device, bitmap + 32, 2);
    let information = attribute(&device, 3, 0x70);
    let flags = information + le(&device, information + 20, 2) + 10;
    let root = attribute(&device, 5, 0x90);
    let root = root + le(&device, root + 20, 2);
    let mirror = le(&device, 56, 8) * CLUSTER;
    let table = le(&device, 48, 8);
    let cases: Vec<(&str, u64, Vec<u8>)> = vec![
        ("signature of the boot sector", 510, vec![0, 0]),
        ("a field of FAT at: 16", 16, vec![2]),
        ("bytes of a sector", 11, vec![0x01, 0x02]),
        ("sectors of a cluster", 13, vec![200]),
        ("bytes of a cluster", 13, vec![240]),
        ("bytes of a file record", 64, vec![0x80]),
        ("the filesystem has", 40, vec![0xff, 0xff, 0xff]),
        ("first cluster of the file table", 48, vec![0; 8]),
        ("no file record where one should be", 48, vec![1]),
        ("file record 0: wrong checksum", at(0, 510), vec![0x77, 0x77]),
        ("file record 6: wrong checksum", at(6, 1022), vec![0x77, 0x77]),
        ("file record 3: wrong checksum", at(3, 6), vec![7]),
        ("bytes in use of file record", at(6, 25), vec![0xff]),
        ("should be in use", at(6, 22), vec![0]),
        ("attributes of file record", at(6, 60), vec![0]),
        ("no file record", at(6, 0), b"BAAD".to_vec()),
        ("$MFTMirr: record", mirror + RECORD + 200, vec![0xee]),
        ("$MFT: features 0x1", mft + 12, vec![1]),
        ("$Bitmap: features 0x8000", bitmap + 13, vec![0x80]),
        ("clusters of an attribute", bitmap + 24, vec![9]),
        ("bytes of an attribute", bitmap + 41, vec![0x20]),
        ("bytes of $Bitmap", bitmap + 48, vec![9, 0, 0, 0, 0, 0, 0, 0, 9, 0]),
        ("runs of file record", runs, vec![0x19]),
        ("runs of file record", runs, vec![0x41, 1, 0xff, 0xff, 0xff, 0x7f, 0]),
        ("runs of file record", runs, vec![0x11, 1, 0xff, 0]),
        ("clusters of an attribute", runs, vec![0]),
        ("NTFS version", flags - 2, vec![4]),
        ("$Volume: it was not unmounted cleanly", flags, vec![1]),
        ("flags of $Volume: features 0x4000", flags, vec![0, 0x40]),
        ("flags of $Volume: features 0x100", flags, vec![0, 1]),
        ("flags of $Volume: features 0x8000", flags, vec![0, 0x80]),
        ("used by file record", data(&device, 6) + table / 8, vec![0]),
        ("used by file record", data(&device, 6), vec![0]),
        ("bytes of an index block", root + 8, vec![1]),
        ("index of the root folder", root + 16, vec![8]),
    ];
    for (expected, offset, bytes) in cases {
        let before = put(&device, offset, &bytes);
        let both = (offset >= at(0, 0) && offset < at(4, 0)).then(|| offset - at(0, 0) + mirror);
        // What is in the mirror too must be the same there, so that it is not for that.
        let mirrored = both.map(|offset| put(&device, offset, &bytes));
        let doubt = read(&device).expect_err(expected);
        assert!(doubt.to_string().contains(expected), "{expected}: {doubt}");
        put(&device, offset, &before);
        if let (Some(offset), Some(before)) = (both, mirrored) {
            put(&device, offset, &before);
        }
        assert_eq!(read(&device).unwrap(), base, "{expected}, undone");
    }
}

/// A restart page as Windows writes it.
fn restart(lsn: u64, client_in_use: u16, flags: u16, version: u16, file_bytes: u64) -> Vec<u8> {
    let mut page = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"RSTR");
    put(4, &30_u16.to_le_bytes());
    put(6, &9_u16.to_le_bytes());
    put(16, &4096_u32.to_le_bytes());
    put(20, &4096_u32.to_le_bytes());
    put(24, &48_u16.to_le_bytes());
    put(26, &u16::from(version == 1).to_le_bytes());
    put(28, &version.to_le_bytes());
    put(30, &1_u16.to_le_bytes());
    put(48, &lsn.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    put(58, &0xffff_u16.to_le_bytes());
    put(60, &client_in_use.to_le_bytes());
    put(62, &flags.to_le_bytes());
    put(64, &(67 - (64 - file_bytes.leading_zeros())).to_le_bytes());
    put(68, &(64 + 160_u16).to_le_bytes());
    put(70, &64_u16.to_le_bytes());
    put(72, &file_bytes.to_le_bytes());
    for block in 0..8 {
        page[block * 512 + 510..block * 512 + 512].copy_from_slice(&1_u16.to_le_bytes());
    }
    page
}

#[test]
fn a_log_in_use_or_kept_in_memory_is_a_doubt() {
    let device = made();
    let base = read(&device).unwrap();
    let (log, bytes) = (data(&device, 2), le(&device, attribute(&device, 2, 0x80) + 48, 8));
    let page = |lsn, client, flags, version| restart(lsn, client, flags, version, bytes);
    let write = |first: &[u8], second: &[u8]| {
        put(&device, log, first);
        put(&device, log + 4096, second);
        put(&device, log + 8192, b"RCRD");
    };
    let closed = page(5, 0xffff, 0, 1);
    write(&closed, &closed);
    assert_eq!(read(&device).unwrap(), base);
    // Open, but marked as clean.
    write(&page(5, 0, 2, 1), &page(4, 0, 0, 1));
    assert_eq!(read(&device).unwrap(), base);
    write(&page(5, 0, 0, 1), &page(4, 0xffff, 0, 1));
    assert!(matches!(read(&device), Err(Doubt::Journal)));
    write(&page(4, 0xffff, 0, 1), &page(5, 0, 0, 1));
    assert!(matches!(read(&device), Err(Doubt::Journal)));
    write(&page(5, 0xffff, 0, 2), &closed);
    assert!(matches!(read(&device), Err(Doubt::Hibernated { .. })));
    write(&page(5, 0xffff, 0, 3), &closed);
    assert!(matches!(read(&device), Err(Doubt::Feature { .. })));
    for (at, byte) in
        [(6, 8), (16, 7), (24, 50), (62, 0xff), (510, 9), (58, 0), (68, 1), (64, 1), (8, 1), (1022, 9)]
    {
        let mut torn = page(5, if at == 62 { 0 } else { 0xffff }, 0, 1);
        torn[at] = byte;
        if at == 62 || at == 58 {
            // A flag that is not known to say that all is well; a client that is there.
            torn[at] = if at == 62 { 4 } else { 3 };
            torn[at + 1] = 0;
        }
        write(&torn, &closed);
        assert!(read(&device).is_err(), "{at}");
    }
    write(&[0xff; 4096], &[0; 4096]);
    assert!(matches!(read(&device), Err(Doubt::Impossible { .. })));
}

#[test]
fn the_tail_is_used_and_a_bad_sector_is_a_doubt() {
    let device = made();
    let base = read(&device).unwrap();
    assert!(base.free.free().iter().all(|extent| extent.end() <= (8 << 20) - 512));
    let mut bytes = device.to_vec();
    bytes.extend([0; 10_000]);
    assert_eq!(read(&MemoryDevice::new(bytes)).unwrap(), base);
    let bad = Extent { offset: record(&device, 20), bytes: 512 };
    assert!(matches!(read(&FaultDevice::new(device, vec![bad])), Err(Doubt::Unreadable { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_bytes_are_a_map_or_a_doubt(changes in prop::collection::vec((0_u64..10, 0_u64..1024, any::<u8>()), 1..5)) {
        thread_local!(static IMAGE: MemoryDevice = made());
        IMAGE.with(|device| {
            let table = record(device, 0);
            let root = data_of_root(device);
            let mut undo = Vec::new();
            for (place, at, byte) in changes {
                let offset = match place {
                    0 => at % 80,
                    1 => root + at,
                    _ => table + (place - 2) * RECORD + if at % 3 == 0 { at } else { at % 360 },
                };
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

/// The first block of the root folder's index.
fn data_of_root(device: &MemoryDevice) -> u64 {
    let runs = attribute(device, 5, 0xa0);
    let runs = runs + le(device, runs + 32, 2);
    let sizes = le(device, runs, 1);
    le(device, runs + 1 + (sizes & 15), usize::try_from(sizes >> 4).unwrap()) * CLUSTER
}

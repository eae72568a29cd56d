//! Tests: reading and writing, on files and on real loop devices.

use std::fs;
use std::path::Path;

use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tempfile::tempdir;

use crate::testing::{LoopDevice, Mounted, image, run};
use crate::{AlignedBuffer, Device, DeviceKind, Error, Extent, ReadAt, Target, WriteAt};

const MIB: u64 = 1 << 20;

/// Bytes that differ everywhere.
fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()).collect()
}

/// Spans that begin, end and lie in every way across sectors, and over the 1 MiB step of the bounce buffer.
const SPANS: [(u64, u64); 12] = [
    (0, 512),
    (0, 1),
    (511, 2),
    (1, 4095),
    (4096, 4096),
    (4095, 4098),
    (100, MIB),
    (MIB - 1, MIB + 2),
    (2 * MIB + 512, 512),
    (0, 4 * MIB),
    (4 * MIB - 1, 1),
    (4 * MIB - 513, 513),
];

fn check_reads(device: &dyn ReadAt, expected: &[u8]) {
    assert_eq!(device.size_bytes(), u64::try_from(expected.len()).unwrap());
    for (offset, bytes) in SPANS {
        let (start, len) = (usize::try_from(offset).unwrap(), usize::try_from(bytes).unwrap());
        let mut aligned = AlignedBuffer::new(len);
        device.read_exact_at(offset, &mut aligned).unwrap();
        assert!(aligned[..] == expected[start..start + len], "{offset} {bytes}");
        let mut odd = vec![0; len + 1];
        device.read_exact_at(offset, &mut odd[1..]).unwrap();
        assert!(odd[1..] == expected[start..start + len], "{offset} {bytes}");
    }
    let end = device.size_bytes();
    let mut buf = [0; 100];
    let short = device.read_exact_at(end - 10, &mut buf).unwrap_err();
    assert!(matches!(short, Error::ShortRead { expected: 100, found: 10, .. }), "{short}");
    assert!(matches!(device.read_exact_at(u64::MAX - 1, &mut buf), Err(Error::ShortRead { found: 0, .. })));
    device.read_exact_at(end, &mut []).unwrap();
}

#[test]
fn a_file_reads_at_any_place() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    let bytes = pattern(4 * MIB);
    fs::write(&path, &bytes).unwrap();
    check_reads(&Device::open(&path).unwrap(), &bytes);
    check_reads(&Device::open_buffered(&path).unwrap(), &bytes);
    let identity = Device::open(&path).unwrap().identity().clone();
    assert_eq!((identity.kind, identity.key(), identity.size_bytes), (DeviceKind::File, "file", 4 * MIB));
}

#[test]
fn root_a_block_device_reads_at_any_place() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("disk");
    let bytes = pattern(4 * MIB);
    fs::write(&path, &bytes).unwrap();
    for sector in ["512", "4096"] {
        let device = LoopDevice::new(&path, &["-b", sector]);
        let opened = Device::open(&device.path).unwrap();
        assert_eq!(opened.sector_bytes().to_string(), sector);
        check_reads(&opened, &bytes);
        check_reads(&Device::open_buffered(&device.path).unwrap(), &bytes);
        let identity = opened.identity();
        assert_eq!((identity.kind, identity.name.as_str()), (DeviceKind::Disk, device.name().as_str()));
    }
}

fn is_cached(path: &Path, offset: u64) -> bool {
    let file = fs::File::open(path).unwrap();
    let mut buf = [0; 512];
    let mut slices = [std::io::IoSliceMut::new(&mut buf)];
    match preadv2(&file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(_) => true,
        Err(Errno::AGAIN) => false,
        Err(e) => panic!("{e}"),
    }
}

/// The file is in the repository's build folder: memory file systems are always cached.
#[test]
fn reading_a_file_leaves_the_page_cache_as_it_was() {
    let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let path = folder.path().join("file");
    fs::write(&path, pattern(16 * MIB)).unwrap();
    let file = fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(!is_cached(&path, 8 * MIB));
    let hot = 5 * MIB;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    rustix::io::pread(&file, &mut [0; 4096], hot).unwrap();
    assert!(is_cached(&path, hot));
    let device = Device::open(&path).unwrap();
    let mut buf = vec![0; 1 << 20];
    for step in 0..16 {
        device.read_exact_at(step * MIB, &mut buf).unwrap();
    }
    for offset in [0, MIB - 4096, MIB, 3 * MIB + 4096, 15 * MIB] {
        assert!(!is_cached(&path, offset), "{offset:#x}");
    }
    assert!(is_cached(&path, hot));
}

#[test]
fn holes_are_skipped() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("sparse");
    let target = Target::open_file(&path, 64 * MIB).unwrap();
    assert_eq!(target.next_data(0).unwrap(), None);
    target.write_all_at(16 * MIB, &[1; 4096]).unwrap();
    let data = Extent { offset: 16 * MIB, bytes: 4096 };
    assert_eq!(target.next_data(0).unwrap(), Some(data));
    assert_eq!(target.next_data(data.end()).unwrap(), None);
    assert_eq!(target.next_data(65 * MIB).unwrap(), None);
    target.write_zeros_at(data).unwrap();
    assert_eq!(target.next_data(0).unwrap(), None);
    assert_eq!(target.size_bytes(), 64 * MIB);
    target.sync().unwrap();
}

#[test]
fn a_file_that_shrinks_is_gone_there() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "file", MIB);
    let device = Device::open(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let mut buf = [0; 4096];
    device.read_exact_at(0, &mut buf).unwrap();
    assert!(device.read_exact_at(4000, &mut buf).unwrap_err().is_gone());
}

#[test]
fn a_file_that_shrinks_has_no_hole_there() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, pattern(MIB)).unwrap();
    let device = Device::open(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    assert_eq!(device.next_data(0).unwrap(), Some(Extent { offset: 0, bytes: 4096 }));
    assert!(device.next_data(4096).unwrap_err().is_gone());
}

#[test]
fn only_devices_and_files_open() {
    let folder = tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    run("mkfifo", "coreutils", &[fifo.to_str().unwrap()], "");
    for path in [folder.path(), Path::new("/dev/null"), &fifo] {
        assert!(matches!(Device::open(path), Err(Error::NotADevice { .. })));
        assert!(matches!(Target::open_device(path), Err(Error::NotADevice { .. })));
        assert!(matches!(Target::open_file(path, 1), Err(Error::NotADevice { .. })));
    }
    assert!(matches!(Device::open(&folder.path().join("none")), Err(Error::Open { .. })));
    let file = image(folder.path(), "file", MIB);
    assert!(matches!(Target::open_device(&file), Err(Error::NotABlockDevice { .. })));
    let held = Target::open_file(&file, MIB).unwrap();
    assert!(matches!(Target::open_file(&file, MIB), Err(Error::Busy { .. })));
    drop(held);
    let error = Device::open(&folder.path().join("none")).unwrap_err();
    assert!(error.to_string().ends_with("none: cannot open"), "{error}");
}

fn check_writes(target: &Target) {
    let size = usize::try_from(target.size_bytes()).unwrap();
    let mut model = pattern(4 * MIB);
    assert_eq!(model.len(), size);
    target.write_all_at(0, &model).unwrap();
    let compare = |model: &[u8], place: (u64, u64)| {
        let mut found = AlignedBuffer::new(size);
        target.read_exact_at(0, &mut found).unwrap();
        assert!(found[..] == *model, "{place:?}");
    };
    for (index, (offset, bytes)) in SPANS.into_iter().enumerate() {
        let (start, len) = (usize::try_from(offset).unwrap(), usize::try_from(bytes).unwrap());
        let new = vec![u8::try_from(index).unwrap() ^ 0xa5; len];
        target.write_all_at(offset, &new).unwrap();
        model[start..start + len].copy_from_slice(&new);
        compare(&model, (offset, bytes));
    }
    target.write_all_at(0, &pattern(4 * MIB)).unwrap();
    model = pattern(4 * MIB);
    for (offset, bytes) in SPANS.into_iter().filter(|(_, bytes)| *bytes < 4 * MIB) {
        let (start, len) = (usize::try_from(offset).unwrap(), usize::try_from(bytes).unwrap());
        target.write_zeros_at(Extent { offset, bytes }).unwrap();
        model[start..start + len].fill(0);
        compare(&model, (offset, bytes));
    }
    assert!(matches!(target.write_all_at(4 * MIB - 1, &[1; 2]), Err(Error::OutOfRange { .. })));
    let outside = Extent { offset: u64::MAX, bytes: 2 };
    assert!(matches!(target.write_zeros_at(outside), Err(Error::OutOfRange { .. })));
    target.write_all_at(4 * MIB, &[]).unwrap();
    target.sync().unwrap();
}

#[test]
fn long_writes_past_the_cache_and_short_ones_through_it_agree() {
    let folder = tempdir().unwrap();
    // An odd size: the last block can't be written past the cache.
    let bytes = 4 * MIB + 777;
    let path = folder.path().join("file");
    let target = Target::open_file(&path, bytes).unwrap();
    let mut model = vec![0; usize::try_from(bytes).unwrap()];
    let mut buffer = AlignedBuffer::new(1 << 20);
    let all = u64::try_from(buffer.len()).unwrap();
    let spans = [
        (0, all),
        (4096, 5000),
        (8192, 65536),
        (100, all),
        (2 * MIB, 65536 + 777),
        (bytes - 65536 - 777, 65536 + 777),
    ];
    for (number, (offset, length)) in (1_u8..).zip(spans) {
        buffer.fill(number);
        let (start, length) = (usize::try_from(offset).unwrap(), usize::try_from(length).unwrap());
        target.write_all_at(offset, &buffer[..length]).unwrap();
        model[start..start + length].fill(number);
        let mut found = vec![0; model.len()];
        target.read_exact_at(0, &mut found).unwrap();
        assert!(found == model, "{offset} {length}");
    }
    target.sync().unwrap();
    drop(target);
    assert!(std::fs::read(&path).unwrap() == model);
}

#[test]
fn a_file_is_written_at_any_place() {
    let folder = tempdir().unwrap();
    check_writes(&Target::open_file(&folder.path().join("file"), 4 * MIB).unwrap());
}

#[test]
fn root_a_block_device_is_written_at_any_place() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "disk", 4 * MIB);
    for sector in ["512", "4096"] {
        let device = LoopDevice::new(&path, &["-b", sector]);
        let target = Target::open_device(&device.path).unwrap();
        assert_eq!(target.identity().logical_sector_bytes.to_string(), sector);
        check_writes(&target);
        target.reread_table().unwrap();
    }
}

#[test]
fn root_parts_of_one_sector_from_many_threads() {
    let folder = tempdir().unwrap();
    let device = LoopDevice::new(&image(folder.path(), "disk", MIB), &["-b", "4096"]);
    let target = Target::open_device(&device.path).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let target = &target;
            scope.spawn(move || {
                for round in 0..20_u64 {
                    let at = round * 4096 + u64::from(thread) * 512;
                    target.write_all_at(at, &[thread + 1; 512]).unwrap();
                }
            });
        }
    });
    let mut found = vec![0; 20 * 4096];
    target.read_exact_at(0, &mut found).unwrap();
    let expected: Vec<u8> = (0..20 * 8).flat_map(|part| [u8::try_from(part % 8 + 1).unwrap(); 512]).collect();
    assert!(found == expected);
}

#[test]
fn root_a_device_in_use_is_busy() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "disk", 32 * MIB);
    run("sfdisk", "fdisk", &["-q", path.to_str().unwrap()], "label: gpt\nstart=2048, size=40960\n");
    let mut device = LoopDevice::new(&path, &[]);
    let held = Target::open_device(&device.path).unwrap();
    assert!(matches!(Target::open_device(&device.path), Err(Error::Busy { .. })));
    drop(held);
    let locked = fs::File::open(&device.path).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockShared).unwrap();
    assert!(matches!(Target::open_device(&device.path), Err(Error::Busy { .. })));
    drop(locked);
    device.add_partitions();
    let partition = format!("{}p1", device.str());
    let identity = Device::open(Path::new(&partition)).unwrap().identity().clone();
    assert_eq!((identity.kind, identity.size_bytes), (DeviceKind::Partition, 40960 * 512));
    assert_eq!(identity.name, format!("{}p1", device.name()));
    run("mkfs.ext4", "e2fsprogs", &["-q", &partition], "");
    let mounted = Mounted::new(&[&partition], &folder.path().join("at"));
    for path in [device.path.as_path(), Path::new(&partition)] {
        let error = Target::open_device(path).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
    }
    drop(mounted);
}

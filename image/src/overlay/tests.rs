//! Overlays against plain bytes: written anywhere, zeroed, opened again, cut off.

use std::fs;
use std::os::unix::fs::MetadataExt;

use disk::{FaultDevice, MemoryDevice};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::Family;
use crate::testing::{disk_bytes, random_bytes};

const NAME: &str = "image 3f2a";

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize, u64),
    Zeros(usize, usize),
    Sync,
    Reopen,
}

fn steps(size: usize) -> impl Strategy<Value = Vec<Step>> {
    let place = move || (0..size, prop_oneof![1usize..600, 1usize..20_000, Just(4096)]);
    let aligned = move || (0..size / BLOCK, 1usize..20).prop_map(|(at, count)| (at * BLOCK, count * BLOCK));
    let step = prop_oneof![
        4 => (place(), any::<u64>()).prop_map(|((at, len), seed)| Step::Write(at, len, seed)),
        2 => (aligned(), any::<u64>()).prop_map(|((at, len), seed)| Step::Write(at, len, seed)),
        2 => place().prop_map(|(at, len)| Step::Zeros(at, len)),
        1 => aligned().prop_map(|(at, len)| Step::Zeros(at, len)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn base(size: usize) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(disk_bytes(7, size)))
}

/// What the overlay should read as before anything is written.
fn plain(base: &MemoryDevice, size: usize) -> Vec<u8> {
    let mut bytes = base.to_vec();
    bytes.resize(size, 0);
    bytes
}

fn open(base: &Arc<MemoryDevice>, size: usize, file: &Path) -> Result<Overlay, Error> {
    Overlay::open(base.clone(), size as u64, file, NAME)
}

fn change(overlay: &Overlay, plain: &mut [u8], step: &Step) {
    match *step {
        Step::Write(at, len, seed) => {
            let bytes = random_bytes(seed, len.min(plain.len() - at));
            overlay.write_all_at(at as u64, &bytes).unwrap();
            plain[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        Step::Zeros(at, len) => {
            let end = plain.len().min(at + len);
            overlay.write_zeros_at(Extent { offset: at as u64, bytes: (end - at) as u64 }).unwrap();
            plain[at..end].fill(0);
        }
        Step::Sync | Step::Reopen => overlay.sync().unwrap(),
    }
}

fn all(device: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0xaa; in_memory(device.size_bytes())];
    device.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// What is in no extent of data is zeros; what is in no written extent is the base.
fn check_extents(overlay: &Overlay, base: &[u8], plain: &[u8]) {
    let mut at = 0;
    while let Some(data) = overlay.next_data(at as u64).unwrap() {
        assert!(data.offset >= at as u64 && data.bytes > 0 && data.end() <= plain.len() as u64);
        assert!(plain[at..in_memory(data.offset)].iter().all(|byte| *byte == 0));
        at = in_memory(data.end());
    }
    assert!(plain[at..].iter().all(|byte| *byte == 0));
    let mut untouched = plain.to_vec();
    let mut end = 0;
    for extent in overlay.written() {
        assert!(extent.offset > end || (end == 0 && extent.offset == 0));
        assert!(extent.offset.is_multiple_of(BLOCK_BYTES));
        assert!(extent.end().is_multiple_of(BLOCK_BYTES) || extent.end() == plain.len() as u64);
        end = extent.end();
        let (from, to) = (in_memory(extent.offset), in_memory(end));
        untouched[from..to].copy_from_slice(&base[from..to]);
    }
    assert!(untouched == base);
}

fn play(base_size: usize, size: usize, steps: &[Step], keeps: bool) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("changes");
    let base = base(base_size);
    let before = base.to_vec();
    let make = || match keeps {
        true => open(&base, size, &file).unwrap(),
        false => Overlay::temporary(base.clone(), size as u64, folder.path()).unwrap(),
    };
    let untouched = plain(&base, size);
    let mut bytes = untouched.clone();
    let mut overlay = make();
    for step in steps {
        change(&overlay, &mut bytes, step);
        if keeps && matches!(step, Step::Reopen) {
            drop(overlay);
            overlay = make();
        }
        assert!(all(&overlay) == bytes, "after {step:?}");
    }
    check_extents(&overlay, &untouched, &bytes);
    assert!(base.to_vec() == before, "the base was written");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn an_overlay_is_its_base_with_the_changes(steps in steps(300_000), keeps: bool) {
        play(300_000, 300_000, &steps, keeps);
    }

    #[test]
    fn the_base_may_be_longer_or_shorter(steps in steps(200_001), keeps: bool, base in 1usize..400_000) {
        play(base, 200_001, &steps, keeps);
    }

    /// Power is lost at the end, or within a sync: each block of the file is as it was at the last sync or as it is now,
    /// and the log has its synced part and any part of what comes behind.
    #[test]
    fn what_was_synced_outlives_a_power_cut(
        steps in steps(100_000), within_sync: bool, cut: prop::sample::Index, flip: bool, seed: u64,
    ) {
        let folder = TempDir::new().unwrap();
        let (file, torn) = (folder.path().join("changes"), folder.path().join("torn"));
        let base = base(100_000);
        let mut bytes = plain(&base, 100_000);
        let overlay = open(&base, 100_000, &file).unwrap();
        let mut synced = fs::read(&file).unwrap();
        let mut versions = vec![bytes.clone()];
        for step in &steps {
            change(&overlay, &mut bytes, step);
            if matches!(step, Step::Sync | Step::Reopen) {
                synced = fs::read(&file).unwrap();
                versions.clear();
            }
            versions.push(bytes.clone());
        }
        let mut random = SmallRng::seed_from_u64(seed);
        let mut now;
        if within_sync {
            // The data is there before the log is begun.
            overlay.sync().unwrap();
            now = fs::read(&file).unwrap();
            let at = synced.len() + cut.index(now.len() - synced.len() + 1);
            if flip && at < now.len() {
                now[at] ^= 1 << random.random_range(0..8);
            } else {
                now.truncate(at);
            }
        } else {
            now = fs::read(&file).unwrap();
            prop_assert_eq!(now.len(), synced.len());
            for (new, old) in now.chunks_mut(BLOCK).zip(synced.chunks(BLOCK)) {
                if random.random() {
                    new.copy_from_slice(old);
                }
            }
        }
        fs::write(&torn, &now).unwrap();
        let found = all(&open(&base, 100_000, &torn).unwrap());
        for (number, block) in found.chunks(BLOCK).enumerate() {
            let at = number * BLOCK;
            prop_assert!(versions.iter().any(|it| it[at..at + block.len()] == *block), "block {}", number);
        }
    }
}

#[test]
fn threads_write_parts_of_the_same_blocks() {
    const THREADS: usize = 8;
    const SIZE: usize = 1_000_000;
    let folder = TempDir::new().unwrap();
    let base = base(SIZE);
    let overlay = open(&base, SIZE, &folder.path().join("changes")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let overlay = &overlay;
            scope.spawn(move || {
                for at in (thread * 1000..SIZE).step_by(THREADS * 1000) {
                    let bytes = random_bytes(at as u64, 1000);
                    overlay.write_all_at(at as u64, &bytes).unwrap();
                    let mut found = vec![0; 1000];
                    overlay.read_exact_at(at as u64, &mut found).unwrap();
                    assert!(found == bytes);
                    if at % 64_000 == 0 {
                        overlay.sync().unwrap();
                    }
                }
            });
        }
    });
    drop(overlay);
    let overlay = open(&base, SIZE, &folder.path().join("changes")).unwrap();
    let expected: Vec<u8> = (0..SIZE).step_by(1000).flat_map(|at| random_bytes(at as u64, 1000)).collect();
    assert!(all(&overlay) == expected);
    assert_eq!(overlay.written(), [Extent { offset: 0, bytes: SIZE as u64 }]);
}

#[test]
fn more_changes_than_a_batch_holds_are_kept() {
    let folder = TempDir::new().unwrap();
    let base = Arc::new(MemoryDevice::zeros(40 << 20));
    let file = folder.path().join("changes");
    let overlay = open(&base, 40 << 20, &file).unwrap();
    for number in (0..10_000u64).step_by(2) {
        overlay.write_all_at(number * BLOCK_BYTES, b"here").unwrap();
    }
    assert!(overlay.changes().len() < BATCH_CHANGES_MAX);
    drop(overlay);
    let overlay = open(&base, 40 << 20, &file).unwrap();
    assert_eq!(overlay.written().len(), 5000);
    let expected = Extent { offset: 1, bytes: DATA_BYTES_MAX };
    assert_eq!(overlay.next_data(1).unwrap(), Some(expected));
}

#[test]
fn zeros_cost_nothing_and_give_space_back() {
    let folder = TempDir::new().unwrap();
    let base = Arc::new(MemoryDevice::new(vec![7; 100]));
    let file = folder.path().join("changes");
    let overlay = Overlay::open(base, 1 << 40, &file, NAME).unwrap();
    overlay.write_all_at(1 << 30, &vec![1; 4 << 20]).unwrap();
    overlay.write_all_at((1 << 40) - 5, b"seven").unwrap();
    overlay.sync().unwrap();
    let before = fs::metadata(&file).unwrap().blocks();
    overlay.write_zeros_at(Extent { offset: 1, bytes: (1 << 40) - 2 }).unwrap();
    overlay.sync().unwrap();
    assert!(fs::metadata(&file).unwrap().blocks() + (3 << 20) / 512 < before);
    let mut buf = [9; 5];
    overlay.read_exact_at((1 << 40) - 5, &mut buf).unwrap();
    assert_eq!(&buf, b"\0\0\0\0n");
    overlay.read_exact_at(0, &mut buf).unwrap();
    assert_eq!(buf, [7, 0, 0, 0, 0]);
}

#[test]
fn a_temporary_overlay_leaves_no_name() {
    let folder = TempDir::new().unwrap();
    let overlay = Overlay::temporary(base(10_000), 20_000, folder.path()).unwrap();
    overlay.write_all_at(15_000, b"here").unwrap();
    overlay.sync().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(matches!(overlay.write_all_at(19_999, b"ab"), Err(disk::Error::OutOfRange { .. })));
    assert!(matches!(overlay.read_exact_at(19_999, &mut [0; 2]), Err(disk::Error::ShortRead { .. })));
}

#[test]
fn what_the_base_cannot_read_is_an_error_until_it_is_written() {
    let folder = TempDir::new().unwrap();
    let bad = FaultDevice::new(MemoryDevice::zeros(40_960), vec![Extent { offset: 8192, bytes: 4096 }]);
    let overlay = Overlay::temporary(Arc::new(bad), 40_960, folder.path()).unwrap();
    assert!(overlay.write_all_at(9000, b"part").is_err());
    assert!(overlay.read_exact_at(9000, &mut [0; 4]).is_err());
    assert!(overlay.written().is_empty());
    overlay.write_all_at(8192, &[5; BLOCK]).unwrap();
    overlay.write_all_at(9000, b"part").unwrap();
    overlay.read_exact_at(0, &mut [0; 40_960]).unwrap();
}

#[test]
fn what_is_not_its_overlay_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("changes");
    let base = base(50_000);
    let overlay = open(&base, 50_000, &file).unwrap();
    overlay.write_all_at(0, b"here").unwrap();
    let text = |result: Result<Overlay, Error>| {
        let error = result.err().unwrap();
        (error.family(), error.to_string().replace(file.to_str().unwrap(), "FILE"))
    };
    assert!(text(open(&base, 50_000, &file)).1.contains("in use"));
    drop(overlay);
    let other = Overlay::open(base.clone(), 50_000, &file, "image 77aa");
    let expected = "overlay FILE: expected changes of image 77aa, found those of image 3f2a";
    assert_eq!(text(other), (Family::Refused, expected.to_owned()));
    let expected = "overlay FILE: expected 60000 bytes over a base of 50000, found 50000 over 50000";
    assert_eq!(text(open(&base, 60_000, &file)), (Family::Refused, expected.to_owned()));
    let bytes = fs::read(&file).unwrap();
    let cases: [(&[u8], Family); 4] = [
        (&bytes[..40_000], Family::Damaged),
        (&[&bytes[..100], &[1], &bytes[101..]].concat(), Family::Damaged),
        (&[&bytes[..7], b"2", &bytes[8..]].concat(), Family::Unsupported),
        (&vec![0; 100_000], Family::Refused),
    ];
    for (case, family) in cases {
        fs::write(&file, case).unwrap();
        assert_eq!(text(open(&base, 50_000, &file)).0, family);
        assert!(fs::read(&file).unwrap() == case);
    }
    // Nothing but a hole: power was lost before the head was there.
    File::create(&file).unwrap().set_len(100_000).unwrap();
    open(&base, 50_000, &file).unwrap();
}

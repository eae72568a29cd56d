//! Copies between devices of memory: what is read, what is written, in which order, and what a failure leaves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::{FaultDevice, MemoryDevice};
use proptest::prelude::*;

use super::*;
use crate::testing::{Recorder, damaged_store, disk_bytes, random_bytes};
use crate::{Difference, ImageReader, UsedBlocks};

const MIB: usize = 1 << 20;
const MIB64: u64 = 1 << 20;

fn extent(offset: u64, bytes: u64) -> Extent {
    Extent { offset, bytes }
}

fn whole(bytes: usize) -> [Extent; 1] {
    [extent(0, bytes as u64)]
}

fn used(device: &dyn WriteAt) -> CopyTarget<'_> {
    CopyTarget { device, fresh: false }
}

/// Copies all of the source.
fn copy_all(
    source: &dyn ReadAt,
    targets: &[&dyn WriteAt],
    options: &CopyOptions,
) -> Result<CopyReport, Error> {
    let targets: Vec<CopyTarget> = targets.iter().map(|device| used(*device)).collect();
    copy(source, &whole(in_memory(source.size_bytes())), &targets, options, &())
}

/// Sorted, disjoint extents from skips and lengths.
fn extents_of(steps: &[(u64, u64)], unit: u64, end: u64) -> Vec<Extent> {
    let mut at = 0;
    let placed = steps.iter().map(|(skip, length)| {
        let placed = extent(at + skip * unit, length * unit);
        at = placed.end() + unit;
        placed
    });
    placed.filter_map(|placed| intersect(placed, extent(0, end))).collect()
}

/// A source that keeps a list of what is read from it.
struct Watched<'a> {
    inner: &'a dyn ReadAt,
    reads: Mutex<Vec<Extent>>,
}

impl<'a> Watched<'a> {
    fn new(inner: &'a dyn ReadAt) -> Watched<'a> {
        Watched { inner, reads: Mutex::default() }
    }

    /// What was read, and whether nothing was read twice.
    fn read_once(&self) -> (Vec<Extent>, bool) {
        let mut reads = self.reads.lock().unwrap().clone();
        reads.sort();
        let once = reads.is_sorted_by(|before, next| before.end() <= next.offset);
        (join_extents(reads), once)
    }
}

impl ReadAt for Watched<'_> {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        self.reads.lock().unwrap().push(extent(offset, buf.len() as u64));
        self.inner.read_exact_at(offset, buf)
    }
    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        self.inner.next_data(offset)
    }
}

/// A source that stands on something that can't give these extents.
struct Lossy {
    inner: MemoryDevice,
    lost: Vec<Extent>,
}

impl ReadAt for Lossy {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let span = extent(offset, buf.len() as u64);
        if self.lost.iter().any(|lost| lost.overlaps(&span)) {
            buf.fill(0xee);
            let source = Box::new(std::io::Error::other("lost"));
            return Err(disk::Error::Foreign { path: "lossy".into(), offset, bytes: span.bytes, source });
        }
        self.inner.read_exact_at(offset, buf)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn targets_hold_the_extents_and_keep_the_rest(
        seed in 0u64..1000,
        sectors in 0usize..20_000,
        holes in prop::collection::vec((0u64..300, 1u64..300), 0..12),
        parts in prop::collection::vec((0u64..2000, 1u64..4000), 0..8),
        (all, fresh, write_all, verify) in any::<(bool, bool, bool, bool)>(),
        larger in 0usize..3,
    ) {
        let bytes = disk_bytes(seed, sectors * 512);
        let size = bytes.len() as u64;
        let extents = if all { vec![extent(0, size)] } else { extents_of(&parts, 512, size) };
        let device = MemoryDevice::new(bytes.clone());
        let view = UsedBlocks::new(&device, extents_of(&holes, 4096, size));
        let mut wanted = vec![0; bytes.len()];
        view.read_exact_at(0, &mut wanted).unwrap();

        let mut related = wanted.clone();
        for at in (0..related.len()).step_by(700_001) {
            related[at] ^= 1;
        }
        let mut befores = [disk_bytes(seed ^ 1, bytes.len()), related, vec![0; bytes.len()]];
        befores.iter_mut().for_each(|before| before.resize(before.len() + larger * 300_032, 0));
        let devices: Vec<Recorder> = befores.iter().map(|before| Recorder::new(before.clone())).collect();
        let targets: Vec<CopyTarget> = devices
            .iter()
            .zip([false, false, fresh])
            .map(|(device, fresh)| CopyTarget { device, fresh })
            .collect();
        let compare = if write_all { Compare::WriteAll } else { Compare::Read };
        let options = CopyOptions { compare, verify, threads: 3, ..CopyOptions::default() };
        let report = copy(&view, &extents, &targets, &options, &()).unwrap();

        prop_assert!(report.bad_ranges.is_empty() && report.damaged.is_empty());
        for ((device, before), report) in devices.iter().zip(&befores).zip(&report.targets) {
            let mut expected = before.clone();
            for part in &extents {
                let range = in_memory(part.offset)..in_memory(part.end());
                expected[range.clone()].copy_from_slice(&wanted[range]);
            }
            prop_assert!(device.inner.to_vec() == expected);
            prop_assert!(report.finished && report.failed.is_none());
            let counted = report.written_bytes + report.zeroed_bytes + report.unchanged_bytes;
            prop_assert_eq!(counted, bytes_of(&extents));
            prop_assert_eq!(report.verified.as_ref().map(VerifyReport::is_clean), verify.then_some(true));
        }
        let writes: Vec<usize> = devices.iter().map(|device| device.written().len()).collect();
        let targets: Vec<CopyTarget> = devices.iter().map(|device| used(device)).collect();
        let again = copy(&view, &extents, &targets, &CopyOptions::default(), &()).unwrap();
        prop_assert!(again.targets.iter().all(|target| target.unchanged_bytes == bytes_of(&extents)));
        let writes_now: Vec<usize> = devices.iter().map(|device| device.written().len()).collect();
        prop_assert_eq!(writes_now, writes, "all is right: nothing is written");
    }
}

#[test]
fn the_source_is_read_once_and_its_holes_are_not() {
    let device = MemoryDevice::new(random_bytes(60, 20 * MIB));
    let holes = vec![extent(512 * 1024, MIB64), extent(3 * MIB64, 9 * MIB64), extent(19 * MIB64, MIB64)];
    let view = UsedBlocks::new(&device, holes.clone());
    let source = Watched::new(&view);
    let targets: Vec<MemoryDevice> =
        (61..64).map(|seed| MemoryDevice::new(random_bytes(seed, 20 * MIB))).collect();
    let targets: Vec<&dyn WriteAt> = targets.iter().map(|target| target as &dyn WriteAt).collect();
    let options = CopyOptions { verify: true, ..CopyOptions::default() };
    let report = copy_all(&source, &targets, &options).unwrap();
    assert!(report.targets.iter().all(|target| target.verified.as_ref().unwrap().is_clean()));
    let (read, once) = source.read_once();
    assert!(once, "not for each target, nor to read back");
    assert_eq!(read, reading::without(&whole(20 * MIB), &holes));
}

#[test]
fn the_ends_are_broken_first_and_written_last() {
    let source = MemoryDevice::new(random_bytes(64, 9 * MIB));
    // Larger: what lies behind the source is none of ours.
    let target = Recorder::new(random_bytes(65, 12 * MIB));
    copy_all(&source, &[&target], &CopyOptions::default()).unwrap();
    let writes = target.written();
    let (head, foot) = (extent(0, MIB64), extent(8 * MIB64, MIB64));
    assert_eq!(writes[..2], [head, foot]);
    assert_eq!(writes[writes.len() - 2..], [foot, head]);
    assert!(writes[2..writes.len() - 2].iter().all(|write| !write.overlaps(&head) && !write.overlaps(&foot)));
    assert!(target.inner.to_vec()[9 * MIB..] == random_bytes(65, 12 * MIB)[9 * MIB..]);
}

#[test]
fn ends_that_are_not_copied_stay() {
    let source = MemoryDevice::new(random_bytes(66, 9 * MIB));
    let before = random_bytes(67, 9 * MIB);
    let target = Recorder::new(before.clone());
    let extents = [extent(0, 4096 + 512), extent(3 * MIB64 + 512, 2 * MIB64)];
    copy(&source, &extents, &[used(&target)], &CopyOptions::default(), &()).unwrap();
    assert_eq!(target.written()[0], extents[0], "of the head, what will be written");
    assert_eq!(target.written().last(), Some(&extents[0]));
    let middle = [extent(5 * MIB64, 512)];
    let target = Recorder::new(before.clone());
    copy(&source, &middle, &[used(&target)], &CopyOptions::default(), &()).unwrap();
    assert_eq!(target.written(), middle);
}

#[test]
fn a_target_that_fails_is_left_and_continues_when_repeated() {
    let bytes = random_bytes(68, 13 * MIB);
    let source = MemoryDevice::new(bytes.clone());
    let before = random_bytes(69, 13 * MIB);
    let [one, three] = [(); 2].map(|()| MemoryDevice::new(before.clone()));
    let two = FaultDevice::new(MemoryDevice::new(before.clone()), vec![extent(6 * MIB64, 512)]);
    let gone = FaultDevice::new(MemoryDevice::new(before.clone()), Vec::new());
    gone.disappear_at(10 * MIB64);
    let small = Recorder::new(before[..13 * MIB - 512].to_vec());
    let targets: [&dyn WriteAt; 5] = [&one, &two, &three, &gone, &small];
    for threads in [1, 4] {
        let options = CopyOptions { threads, verify: true, ..CopyOptions::default() };
        let report = copy_all(&source, &targets, &options).unwrap();
        let finished: Vec<bool> = report.targets.iter().map(|target| target.finished).collect();
        assert_eq!(finished, [true, false, true, false, false]);
        assert!(matches!(report.targets[1].failed, Some(Error::WriteTarget { .. })), "{report:?}");
        assert!(matches!(
            report.targets[3].failed,
            Some(Error::WriteTarget { .. } | Error::ReadDevice { .. })
        ));
        assert!(matches!(report.targets[4].failed, Some(Error::TargetSizeChanged { .. })));
        assert!(
            report.targets[1].verified.is_none() && report.targets[0].verified.as_ref().unwrap().is_clean()
        );
    }
    assert!(one.to_vec() == bytes && three.to_vec() == bytes);
    assert!(small.written().is_empty(), "it is not even broken");
    let held = two.inner().to_vec();
    assert!(held[..MIB].iter().chain(&held[12 * MIB..]).all(|byte| *byte == 0), "it must not boot");
    let mended = MemoryDevice::new(held);
    let report = copy_all(&source, &[&mended], &CopyOptions::default()).unwrap();
    assert!(mended.to_vec() == bytes);
    assert!(report.targets[0].unchanged_bytes > 2 * MIB64, "what was written before is kept");
}

#[test]
fn when_all_targets_fail_the_first_error_is_told() {
    let source = MemoryDevice::new(random_bytes(70, 5 * MIB));
    let bad = FaultDevice::new(MemoryDevice::zeros(5 * MIB), vec![extent(0, 5 * MIB64)]);
    let small = MemoryDevice::zeros(MIB);
    let result = copy_all(&source, &[&bad, &small], &CopyOptions::default());
    assert!(matches!(result, Err(Error::WriteTarget { .. })), "{result:?}");
    let report = copy_all(&source, &[], &CopyOptions::default()).unwrap();
    assert!(report.targets.is_empty());
}

/// Says stop as soon as something was written.
#[derive(Default)]
struct StopSoon(AtomicBool);

impl Progress for StopSoon {
    fn add(&self, counter: Counter, _: u64) {
        if counter == Counter::Written {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn a_copy_that_was_stopped_does_not_boot_and_continues_when_repeated() {
    let bytes = random_bytes(71, 21 * MIB);
    let source = MemoryDevice::new(bytes.clone());
    let targets = [72, 73].map(|seed| MemoryDevice::new(random_bytes(seed, 21 * MIB)));
    let both: [&dyn WriteAt; 2] = [&targets[0], &targets[1]];
    let sinks = both.map(used);
    let result = copy(&source, &whole(21 * MIB), &sinks, &CopyOptions::default(), &StopSoon::default());
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    for target in &targets {
        let held = target.to_vec();
        assert!(held != bytes && held[..MIB].iter().chain(&held[20 * MIB..]).all(|byte| *byte == 0));
    }
    let report = copy_all(&source, &both, &CopyOptions::default()).unwrap();
    assert!(report.targets.iter().all(|target| target.finished && target.unchanged_bytes > 0));
    assert!(targets.iter().all(|target| target.to_vec() == bytes));
}

/// Leaves rubbish in memory where it can't read.
struct Scribbler(FaultDevice<MemoryDevice>);

impl ReadAt for Scribbler {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        self.0.read_exact_at(offset, buf).inspect_err(|_| buf.fill(0xee))
    }
}

#[test]
fn bad_sectors_become_zeros_and_are_listed() {
    let mut bytes = random_bytes(74, 6 * MIB);
    let bad = vec![extent(512 * 7, 512), extent(3 * MIB64 + 512, 1024), extent(6 * MIB64 - 512, 512)];
    let source = Scribbler(FaultDevice::new(MemoryDevice::new(bytes.clone()), bad.clone()));
    let target = MemoryDevice::new(vec![0xaa; 6 * MIB]);
    let options = CopyOptions { verify: true, ..CopyOptions::default() };
    let report = copy_all(&source, &[&target], &options).unwrap();
    for range in &bad {
        bytes[in_memory(range.offset)..in_memory(range.end())].fill(0);
    }
    assert!(target.to_vec() == bytes);
    assert_eq!(report.bad_ranges, bad);
    assert!(report.targets[0].finished && report.targets[0].verified.as_ref().unwrap().is_clean());
}

#[test]
fn what_is_lost_keeps_what_the_target_held_and_leaves_the_ends_empty() {
    let bytes = random_bytes(75, 14 * MIB);
    let at_the_end = extent(12 * MIB64 - 4096, 4096);
    let lost = vec![extent(5 * MIB64 + 100, 3), extent(5 * MIB64 + 4096, 70_000), at_the_end];
    let source = Lossy { inner: MemoryDevice::new(bytes.clone()), lost };
    let widened = [extent(5 * MIB64, 4096 + 18 * 4096), at_the_end];
    let before = random_bytes(76, 14 * MIB);
    let mut expected = bytes.clone();
    for range in &widened {
        let range = in_memory(range.offset)..in_memory(range.end());
        expected[range.clone()].copy_from_slice(&before[range]);
    }
    for compare in [Compare::Read, Compare::WriteAll] {
        let target = MemoryDevice::new(before.clone());
        let options = CopyOptions { compare, verify: true, ..CopyOptions::default() };
        let report = copy_all(&source, &[&target], &options).unwrap();
        let damaged: Vec<Extent> = report.damaged.iter().map(|damage| damage.extent).collect();
        assert_eq!(damaged, widened);
        assert!(!report.targets[0].finished && report.targets[0].verified.is_none());
        let held = target.to_vec();
        assert!(held[MIB..13 * MIB] == expected[MIB..13 * MIB]);
        assert!(held[..MIB].iter().chain(&held[13 * MIB..]).all(|byte| *byte == 0));
        let options = CopyOptions { keep_damaged: true, ..options };
        let report = copy_all(&source, &[&target], &options).unwrap();
        assert!(report.targets[0].finished && report.targets[0].verified.as_ref().unwrap().is_clean());
        assert!(target.to_vec() == expected);
    }
}

#[test]
fn a_source_that_gives_nothing_any_more_is_an_error() {
    let source = Lossy { inner: MemoryDevice::zeros(30 * MIB), lost: vec![extent(4 * MIB64, 26 * MIB64)] };
    let target = MemoryDevice::zeros(30 * MIB);
    let result = copy_all(&source, &[&target], &CopyOptions { threads: 1, ..CopyOptions::default() });
    assert!(
        matches!(result, Err(Error::ReadSource { source: disk::Error::Foreign { .. }, .. })),
        "{result:?}"
    );
}

#[test]
fn an_image_with_a_damaged_chunk_loses_no_more_than_it() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = random_bytes(77, 6 * MIB);
    let (_store, image) = damaged_store(folder.path(), &bytes, 3 * MIB64);
    let reader = ImageReader::new(image);
    let target = MemoryDevice::new(vec![0x55; 6 * MIB]);
    let report = copy_all(&reader, &[&target], &CopyOptions::default()).unwrap();
    assert_eq!(report.damaged.len(), 1);
    let lost = report.damaged[0].extent;
    assert!(lost.overlaps(&extent(3 * MIB64, 1)) && lost.bytes <= 16384 + 2 * 4096);
    assert!(crate::reader::store_error(&report.damaged[0].error).is_some());
    let held = target.to_vec();
    let (from, to) = (in_memory(lost.offset), in_memory(lost.end()));
    assert!(held[from..to].iter().all(|byte| *byte == 0x55) && !report.targets[0].finished);
    assert!(held[MIB..from] == bytes[MIB..from] && held[to..5 * MIB] == bytes[to..5 * MIB]);
}

#[test]
fn a_source_that_was_written_to_meanwhile_finishes_no_target() {
    let device = MemoryDevice::new(random_bytes(78, 5 * MIB));
    let source = CopySource { still_good: &|| false, ..CopySource::new(&device) };
    let target = MemoryDevice::new(random_bytes(79, 5 * MIB));
    let result = copy_from(&source, &whole(5 * MIB), &[used(&target)], &CopyOptions::default(), &());
    assert!(matches!(result, Err(Error::SourceInUse)));
    assert!(target.to_vec()[..MIB].iter().all(|byte| *byte == 0));
}

/// Writes one bit wrong.
struct Liar(MemoryDevice);

impl ReadAt for Liar {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        self.0.read_exact_at(offset, buf)
    }
}

impl WriteAt for Liar {
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), disk::Error> {
        let mut bytes = buf.to_vec();
        if let Some(byte) = (9 * MIB64).checked_sub(offset).and_then(|at| bytes.get_mut(in_memory(at))) {
            *byte ^= 0x10;
        }
        self.0.write_all_at(offset, &bytes)
    }
    fn write_zeros_at(&self, extent: Extent) -> Result<(), disk::Error> {
        self.0.write_zeros_at(extent)
    }
    fn sync(&self) -> Result<(), disk::Error> {
        self.0.sync()
    }
}

#[test]
fn reading_back_finds_what_a_target_holds_wrong() {
    let device = MemoryDevice::new(random_bytes(80, 13 * MIB));
    let view = UsedBlocks::new(&device, vec![extent(4 * MIB64, 2 * MIB64)]);
    let liar = Liar(MemoryDevice::zeros(13 * MIB));
    let good = MemoryDevice::zeros(13 * MIB);
    let options = CopyOptions { verify: true, ..CopyOptions::default() };
    let report = copy_all(&view, &[&liar, &good], &options).unwrap();
    let found = report.targets[0].verified.as_ref().unwrap();
    assert_eq!(found.differences, [Difference { extent: extent(8 * MIB64, 4 * MIB64), volume: None }]);
    assert!(report.targets[1].verified.as_ref().unwrap().is_clean());
}

#[test]
fn files_with_holes_are_copied() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = random_bytes(81, 11 * MIB + 512);
    bytes[2 * MIB..9 * MIB].fill(0);
    let path = |name: &str| folder.path().join(name);
    let file = disk::Target::open_file(&path("source"), bytes.len() as u64).unwrap();
    file.write_all_at(0, &bytes[..2 * MIB]).unwrap();
    file.write_all_at(9 * MIB64, &bytes[9 * MIB..]).unwrap();
    file.sync().unwrap();
    std::fs::write(path("old"), random_bytes(82, 12 * MIB)).unwrap();
    let source = disk::Device::open(&path("source")).unwrap();
    let new = disk::Target::open_file(&path("new"), bytes.len() as u64).unwrap();
    let old = disk::Target::open_file(&path("old"), 12 * MIB64).unwrap();
    let targets = [CopyTarget { device: &new, fresh: true }, used(&old)];
    let options = CopyOptions { verify: true, ..CopyOptions::default() };
    let report = copy(&source, &whole(bytes.len()), &targets, &options, &()).unwrap();
    assert!(report.targets.iter().all(|target| target.verified.as_ref().unwrap().is_clean()));
    let zeroed = [0, 1].map(|number: usize| report.targets[number].zeroed_bytes);
    assert_eq!(zeroed, [0, 7 * MIB64]);
    assert!(std::fs::read(path("new")).unwrap() == bytes);
    assert!(std::fs::read(path("old")).unwrap()[..bytes.len()] == bytes);
}

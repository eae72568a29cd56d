//! Restore against devices of memory: what is written, in which order, and what is left alone.

use std::sync::atomic::Ordering;

use disk::{FaultDevice, Layout, MemoryDevice, TableKind, WriteAt};
use store::Store;

use super::*;
use crate::check::StorePlace;
use crate::testing::{
    Recorder, capture_bytes, disk_bytes, options as capture_options, small_store, source, volume, write_gpt,
};
use crate::{SourceInfo, capture, verify_against};

const MIB: usize = 1 << 20;

fn facts(bytes: usize) -> TargetFacts {
    let mut identity = Identity::stream();
    identity.kind = disk::DeviceKind::Disk;
    identity.name = "sdt".into();
    identity.serial = Some("SER123".into());
    identity.size_bytes = bytes as u64;
    identity.read_only = false;
    let (uses, store) = (Vec::new(), StorePlace::default());
    TargetFacts {
        path: "/dev/sdt".into(),
        kind: Some(TargetKind::Device),
        identity,
        uses,
        is_root: false,
        store,
    }
}

fn plan_for(image: &StoredImage, bytes: usize, options: &RestoreOptions) -> RestorePlan {
    plan::judge(image, facts(bytes), options).unwrap()
}

fn restore_to(
    image: &StoredImage,
    target: &dyn WriteAt,
    options: &RestoreOptions,
) -> Result<(RestorePlan, RestoreReport), Error> {
    let plan = plan_for(image, crate::segment::in_memory(target.size_bytes()), options);
    let report = write::write_image(&plan, image, target, options, false, &())?;
    Ok((plan, report))
}

fn image_of(bytes: &[u8]) -> (Store, StoredImage) {
    let (_home, store) = small_store();
    let (_, image) = capture_bytes(&store, bytes);
    (store, image)
}

#[test]
fn a_used_target_becomes_identical_and_a_second_restore_writes_nothing() {
    let bytes = disk_bytes(10, 9 * MIB + 512 * 3);
    let (_store, image) = image_of(&bytes);
    let target = Recorder::new(disk_bytes(11, bytes.len()));
    let (_, report) = restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    assert_eq!(target.inner.to_vec(), bytes);
    assert!(report.finished && report.written_bytes > 0 && report.damaged.is_empty());
    let total = report.written_bytes + report.zeroed_bytes + report.unchanged_bytes;
    assert_eq!(total, bytes.len() as u64);
    let writes = target.written().len();
    let (_, again) = restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    assert_eq!(target.written().len(), writes);
    assert_eq!((again.written_bytes, again.zeroed_bytes), (0, 0));
    assert_eq!(again.unchanged_bytes, bytes.len() as u64);
}

#[test]
fn only_blocks_that_differ_are_written() {
    let bytes = disk_bytes(12, 9 * MIB);
    let (_store, image) = image_of(&bytes);
    let mut changed = bytes.clone();
    changed[5 * MIB + 77] ^= 1;
    changed[8 * MIB - 1] ^= 1;
    let target = Recorder::new(changed);
    let (_, report) =
        restore_to(&image, &target, &RestoreOptions { threads: 1, ..RestoreOptions::default() }).unwrap();
    assert_eq!(target.inner.to_vec(), bytes);
    // The ends, once zeroed, are written again: 1 MiB each, less what is zeros.
    assert!(report.written_bytes + report.zeroed_bytes <= 2 * MIB as u64 + 2 * 4096);
}

#[test]
fn the_ends_are_broken_first_and_written_last() {
    let bytes: Vec<u8> = crate::testing::random_bytes(13, 9 * MIB);
    let (_store, image) = image_of(&bytes);
    let target = Recorder::new(crate::testing::random_bytes(14, 9 * MIB));
    restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    let writes = target.written();
    let mib = MIB as u64;
    let head = Extent { offset: 0, bytes: mib };
    let foot = Extent { offset: 8 * mib, bytes: mib };
    assert_eq!(writes[..2], [head, foot]);
    assert_eq!(writes[writes.len() - 2..], [foot, head]);
    assert!(writes[2..writes.len() - 2].iter().all(|write| !write.overlaps(&head) && !write.overlaps(&foot)));
}

#[test]
fn an_interrupted_restore_does_not_boot_and_continues_when_repeated() {
    let bytes = disk_bytes(15, 12 * MIB);
    let (_store, image) = image_of(&bytes);
    let old = disk_bytes(16, 12 * MIB);
    let target = FaultDevice::new(MemoryDevice::new(old), Vec::new());
    target.disappear_at(9 * MIB as u64);
    // Planned for the whole device; the foot can't even be zeroed, so nothing else may change but the head.
    assert!(
        restore_to(&image, &target, &RestoreOptions { threads: 1, ..RestoreOptions::default() }).is_err()
    );
    let held = target.inner().to_vec();
    let broken =
        FaultDevice::new(MemoryDevice::new(held), vec![Extent { offset: 6 * MIB as u64, bytes: 512 }]);
    let result = restore_to(&image, &broken, &RestoreOptions { threads: 1, ..RestoreOptions::default() });
    assert!(matches!(result, Err(Error::WriteTarget { .. })), "{:?}", result.map(|(_, report)| report));
    let held = broken.inner().to_vec();
    assert!(held[..MIB].iter().all(|byte| *byte == 0), "the head must be gone");
    assert!(held[11 * MIB..].iter().all(|byte| *byte == 0), "the backup table must be gone");
    let target = MemoryDevice::new(held);
    let (_, report) = restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    assert_eq!(target.to_vec(), bytes);
    assert!(report.unchanged_bytes > 3 * MIB as u64, "what was written before is kept");
}

#[test]
fn without_comparing_everything_is_written_and_holes_are_zeros() {
    let bytes = disk_bytes(17, 7 * MIB + 1024);
    let (_store, image) = image_of(&bytes);
    let target = FaultDevice::new(MemoryDevice::new(vec![0xff; bytes.len()]), Vec::new());
    let options = RestoreOptions { compare: Compare::WriteAll, ..RestoreOptions::default() };
    let (_, report) = restore_to(&image, &target, &options).unwrap();
    assert_eq!(target.inner().to_vec(), bytes);
    assert_eq!(target.reads(), 0);
    assert_eq!(report.written_bytes + report.zeroed_bytes, bytes.len() as u64);
}

/// Of the length of 24 steps, 1 MiB over and over.
fn long_bytes(seed: u64) -> Vec<u8> {
    crate::testing::random_bytes(seed, MIB).repeat(96)
}

/// What can't be had keeps what the target held, also where that is no longer looked at.
#[test]
fn a_foreign_target_is_not_read_through_and_keeps_what_damage_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = long_bytes(52);
    bytes.truncate(95 * MIB);
    bytes.extend(crate::testing::random_bytes(53, MIB));
    bytes.extend(crate::testing::random_bytes(52, MIB));
    let (_store, image) = crate::testing::damaged_store(folder.path(), &bytes, 95 * MIB as u64 + 5000);
    let before = long_bytes(54);
    let target = Recorder::new([before.clone(), before[..MIB].to_vec()].concat());
    let (_, report) = restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    assert!(!report.finished && report.damaged.len() == 1);
    assert!(target.read.load(Ordering::Relaxed) < 85 * MIB as u64);
    let lost = report.damaged[0].extent;
    let (from, to) = (crate::segment::in_memory(lost.offset), crate::segment::in_memory(lost.end()));
    let after = target.inner.to_vec();
    assert!(after[from..to] == before[from..to]);
    assert!(after[MIB..from] == bytes[MIB..from] && after[to..96 * MIB] == bytes[to..96 * MIB]);
}

#[test]
fn a_new_file_gets_data_only() {
    let mut bytes = disk_bytes(18, 6 * MIB);
    bytes[MIB..5 * MIB].fill(0);
    let (_store, image) = image_of(&bytes);
    let target = Recorder::new(vec![0; bytes.len()]);
    let options = RestoreOptions::default();
    let plan = plan_for(&image, bytes.len(), &options);
    let report = write::write_image(&plan, &image, &target, &options, true, &()).unwrap();
    assert_eq!(target.inner.to_vec(), bytes);
    assert_eq!(report.zeroed_bytes, 0);
    let zeros = Extent { offset: MIB as u64, bytes: 4 * MIB as u64 };
    assert!(target.written().iter().all(|write| !write.overlaps(&zeros)));
}

#[test]
fn a_larger_target_keeps_what_lies_between_and_loses_old_signatures() {
    let bytes = disk_bytes(19, 5 * MIB);
    let (_store, image) = image_of(&bytes);
    let old = vec![0xaa; 20 * MIB];
    let target = MemoryDevice::new(old.clone());
    let (plan, _) = restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    let held = target.to_vec();
    assert!(held[..5 * MIB] == bytes);
    assert!(held[5 * MIB..19 * MIB] == old[5 * MIB..19 * MIB]);
    assert!(held[19 * MIB..].iter().all(|byte| *byte == 0));
    assert_eq!(plan.tail_zeroed, Some(Extent { offset: 19 * MIB as u64, bytes: MIB as u64 }));
    let target = MemoryDevice::new(old.clone());
    let exact = RestoreOptions { exact: true, ..RestoreOptions::default() };
    restore_to(&image, &target, &exact).unwrap();
    assert!(target.to_vec()[..5 * MIB] == bytes && target.to_vec()[5 * MIB..] == old[5 * MIB..]);
}

#[test]
fn a_patched_table_is_part_of_what_is_compared() {
    let bytes = disk_bytes(20, 5 * MIB);
    let (_store, image) = image_of(&bytes);
    let options = RestoreOptions::default();
    let mut plan = plan_for(&image, 20 * MIB, &options);
    plan.patches = vec![
        Patch { offset: 512, bytes: vec![1; 512] },
        Patch { offset: 5 * MIB as u64 - 512, bytes: vec![0; 512] },
        Patch { offset: 20 * MIB as u64 - 1024, bytes: vec![2; 1024] },
    ];
    let target = Recorder::new(vec![0xaa; 20 * MIB]);
    write::write_image(&plan, &image, &target, &options, false, &()).unwrap();
    let held = target.inner.to_vec();
    assert!(held[512..1024] == [1; 512] && held[20 * MIB - 1024..] == [2; 1024]);
    assert!(held[1024..5 * MIB - 512] == bytes[1024..5 * MIB - 512]);
    assert!(held[5 * MIB - 512..5 * MIB] == [0; 512]);
    let writes = target.written().len();
    write::write_image(&plan, &image, &target, &options, false, &()).unwrap();
    assert_eq!(target.written().len(), writes, "repeated, it writes nothing");
    let report = read_back(&plan, &image, &target, &options, &()).unwrap();
    assert!(report.is_clean());
    target.inner.write_all_at(512, &[9]).unwrap();
    let report = read_back(&plan, &image, &target, &options, &()).unwrap();
    assert_eq!(report.differences.len(), 1);
}

#[test]
fn bad_and_excluded_parts_become_zeros_and_are_said() {
    let (_home, store) = small_store();
    let bytes = disk_bytes(21, 4 * MIB);
    let volumes = vec![volume(1, 4096, MIB as u64), volume(2, 2 * MIB as u64, MIB as u64)];
    let bad = Extent { offset: 512 * 3000, bytes: 512 };
    let device = FaultDevice::new(MemoryDevice::new(bytes.clone()), vec![bad]);
    let mut source = source(bytes.len(), volumes, &[2]);
    source.consistent = false;
    let captured = capture(&source, &device, &store, &capture_options(2), &()).unwrap();
    let image = store.image(captured.image).unwrap();
    let target = MemoryDevice::new(vec![0xaa; bytes.len()]);
    let (plan, report) = restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    let mut expected = bytes.clone();
    expected[512 * 3000..512 * 3001].fill(0);
    expected[2 * MIB..3 * MIB].fill(0);
    assert!(target.to_vec() == expected);
    assert_eq!(report.bad_ranges, [bad]);
    let warnings = [
        Warning::NotConsistent,
        Warning::Excluded { volumes: vec![2] },
        Warning::BadRanges { ranges: 1, bytes: 512 },
    ];
    assert_eq!(plan.warnings, warnings);
    // The source itself still has what the image does not know: no difference.
    assert!(verify_against(&image, &MemoryDevice::new(bytes), 2, &()).unwrap().is_clean());
}

#[test]
fn chunks_in_any_packs_in_any_order_give_the_same_target() {
    for seed in 30..36 {
        let (_home, store) = small_store();
        let bytes = disk_bytes(seed, 6 * MIB + 100);
        // Each capture closes its packs: pieces of the disk stored before it, in another order, scatter its chunks.
        let mut pieces: Vec<&[u8]> = bytes.chunks(300_000).collect();
        let count = pieces.len();
        pieces.rotate_left(usize::try_from(seed).unwrap() % count);
        for piece in pieces.iter().rev().step_by(2) {
            capture_bytes(&store, &piece.repeat(2));
        }
        let (_, image) = capture_bytes(&store, &bytes);
        for (threads, old) in [(1, Vec::new()), (3, disk_bytes(seed ^ 7, bytes.len()))] {
            let options = RestoreOptions { threads, ..RestoreOptions::default() };
            let fresh = old.is_empty();
            let target = MemoryDevice::new(if fresh { vec![0; bytes.len()] } else { old });
            let plan = plan_for(&image, bytes.len(), &options);
            let report = write::write_image(&plan, &image, &target, &options, fresh, &()).unwrap();
            assert!(target.to_vec() == bytes && report.finished);
            let mut stream = Vec::new();
            restore_to_stream(&image, &mut stream, &options, &()).unwrap();
            assert!(stream == bytes);
        }
        assert!(crate::verify_image(&image, 2, &()).unwrap().is_clean());
    }
}

#[test]
fn a_stream_is_the_image() {
    for length in [0, 1, 5 * MIB + 123, 40 * MIB] {
        let bytes = disk_bytes(22, length);
        let (_store, image) = image_of(&bytes);
        let mut output = Vec::new();
        let report = restore_to_stream(&image, &mut output, &RestoreOptions::default(), &()).unwrap();
        assert!(output == bytes);
        assert_eq!(report.written_bytes, length as u64);
    }
}

fn refusals_of(facts: TargetFacts, options: &RestoreOptions) -> Vec<Refusal> {
    let (_store, image) = image_of(&disk_bytes(23, MIB));
    plan::judge(&image, facts, options).unwrap().refusals
}

#[test]
fn each_danger_is_refused() {
    use disk::{Backing, Use, UseKind};
    let options = RestoreOptions::default();
    let good = || facts(MIB);
    let used = |what| {
        let uses = vec![Use { device: "sdt1".into(), volume: Some(1), what }];
        refusals_of(TargetFacts { uses, ..good() }, &options)
    };
    assert_eq!(refusals_of(good(), &options), []);
    let mounted = UseKind::Mounted { at: "/mnt".into(), read_only: true, filesystem: "xfs".into() };
    assert_eq!(used(mounted), [Refusal::Mounted { device: "sdt1".into(), at: "/mnt".into() }]);
    assert_eq!(used(UseKind::Swap), [Refusal::Swap { device: "sdt1".into() }]);
    let held = used(UseKind::Holder { name: "dm-0".into(), kind: "dm".into() });
    assert_eq!(held[0].to_string(), "sdt1: in use by dm-0 (dm)");
    assert_eq!(refusals_of(TargetFacts { is_root: true, ..good() }, &options), [Refusal::RootDisk]);
    let mut read_only = good();
    read_only.identity.read_only = true;
    assert_eq!(refusals_of(read_only, &options), [Refusal::ReadOnly]);
    let wrong = RestoreOptions { target_serial: Some("SER124".into()), ..RestoreOptions::default() };
    let found = refusals_of(good(), &wrong);
    assert_eq!(found, [Refusal::SerialMismatch { expected: "SER124".into(), found: "SER123".into() }]);
    assert_eq!(refusals_of(TargetFacts { kind: None, ..good() }, &options).len(), 1);
    let backing = |node: &str| Backing { disk: "sdt".into(), node: node.into(), volume: Some(2), file: None };
    let store = |node| StorePlace { folder: None, backings: vec![backing(node)] };
    let found = refusals_of(TargetFacts { store: store("sdt2"), ..good() }, &options);
    assert_eq!(found, [Refusal::HoldsStore { volume: Some(2) }]);
    let mut sister = TargetFacts { store: store("sdt2"), ..good() };
    sister.identity.kind = disk::DeviceKind::Partition;
    sister.identity.name = "sdt3".into();
    assert_eq!(refusals_of(sister.clone(), &options), [Refusal::StoreDisk]);
    let allowed = RestoreOptions { allow_store_disk: true, ..RestoreOptions::default() };
    assert_eq!(refusals_of(sister, &allowed), []);
}

#[test]
fn a_smaller_target_is_refused_unless_nothing_is_lost() {
    let mut bytes = disk_bytes(24, 3 * MIB);
    let allowing = RestoreOptions { allow_smaller: true, ..RestoreOptions::default() };
    let (_store, image) = image_of(&bytes);
    let full = Refusal::TooSmall { needed: 3 * MIB as u64, has: 2 * MIB as u64, allowable: false };
    assert_eq!(plan_for(&image, 2 * MIB, &allowing).refusals, std::slice::from_ref(&full));
    assert_eq!(full.override_option(), None);
    bytes[2 * MIB..].fill(0);
    let (_store, image) = image_of(&bytes);
    let refusals = plan_for(&image, 2 * MIB, &RestoreOptions::default()).refusals;
    assert_eq!(refusals[0].override_option(), Some("--allow-smaller"));
    let target = MemoryDevice::new(vec![7; 2 * MIB]);
    let (plan, _) = restore_to(&image, &target, &allowing).unwrap();
    assert!(plan.refusals.is_empty() && plan.warnings == [Warning::Smaller { lost_bytes: MIB as u64 }]);
    assert!(target.to_vec() == bytes[..2 * MIB]);
}

#[test]
fn what_was_planned_for_is_what_must_be_open() {
    let (_store, image) = image_of(&disk_bytes(25, MIB));
    let options = RestoreOptions::default();
    let plan = plan_for(&image, MIB, &options);
    let mut found = facts(MIB).identity;
    check_plan(&plan, &options, &found).unwrap();
    found.serial = Some("OTHER".into());
    assert!(matches!(check_plan(&plan, &options, &found), Err(Error::TargetChanged { .. })));
    found.serial = Some("SER123".into());
    found.size_bytes += 512;
    assert!(matches!(check_plan(&plan, &options, &found), Err(Error::TargetSizeChanged { .. })));
    let refused = RestorePlan { refusals: vec![Refusal::RootDisk], ..plan };
    assert!(matches!(
        check_plan(&refused, &options, &facts(MIB).identity),
        Err(Error::Refused { refusals: 1 })
    ));
}

#[test]
fn a_real_file_is_restored_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.img");
    let mut bytes = disk_bytes(26, 6 * MIB);
    bytes[2 * MIB..4 * MIB].fill(0);
    let (_store, image) = image_of(&bytes);
    let options = RestoreOptions { verify: true, ..RestoreOptions::default() };
    for kind in [TargetKind::NewFile, TargetKind::ExistingFile] {
        let plan = plan_restore(&image, &path, None, &options).unwrap();
        assert_eq!((plan.kind, plan.refusals.len()), (kind, 0));
        let target = Target::open_file(&path, plan.target_bytes).unwrap();
        let report = restore(&plan, &image, &target, &options, &()).unwrap();
        assert!(report.verified.unwrap().is_clean());
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
    let mut held = bytes;
    held[100] ^= 1;
    std::fs::write(&path, &held).unwrap();
    let device = Device::open(&path).unwrap();
    let report = verify_against(&image, &device, 2, &()).unwrap();
    assert_eq!(report.differences.len(), 1);
    assert!(report.differences[0].extent.overlaps(&Extent { offset: 100, bytes: 1 }));
}

/// A captured disk with a GPT, its only partition ending at `last_lba`.
fn gpt_image(bytes: &mut [u8], last_lba: u64) -> (Store, StoredImage) {
    let (_home, store) = small_store();
    write_gpt(bytes, 2048, last_lba);
    let device = MemoryDevice::new(bytes.to_vec());
    let layout = Layout::read(&device, 512);
    assert_eq!((layout.table, layout.volumes.len(), layout.warnings.len()), (TableKind::Gpt, 1, 0));
    let identity = Identity { size_bytes: bytes.len() as u64, ..Identity::stream() };
    let source = SourceInfo::new(identity, layout, bytes.len() as u64, &[]).unwrap();
    let captured = capture(&source, &device, &store, &capture_options(1), &()).unwrap();
    let image = store.image(captured.image).unwrap();
    (store, image)
}

#[test]
fn a_gpt_moves_to_the_end_of_a_larger_target() {
    let mut bytes = disk_bytes(27, 4 * MIB);
    let (_store, image) = gpt_image(&mut bytes, 7000);
    let target = Recorder::new(disk_bytes(28, 9 * MIB));
    let (plan, _) = restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    assert!(plan.gpt_moved && plan.refusals.is_empty() && plan.warnings.is_empty());
    let held = target.inner.to_vec();
    assert!(held[MIB..7001 * 512] == bytes[MIB..7001 * 512]);
    let layout = Layout::read(&target, 512);
    assert_eq!((layout.table, layout.warnings.len()), (TableKind::Gpt, 0), "{:?}", layout.warnings);
    assert!(held[9 * MIB - 512..].starts_with(b"EFI PART"));
    let writes = target.written().len();
    restore_to(&image, &target, &RestoreOptions::default()).unwrap();
    assert_eq!(target.written().len(), writes, "repeated, it writes nothing");
    let exact = RestoreOptions { exact: true, ..RestoreOptions::default() };
    let (plan, _) = restore_to(&image, &target, &exact).unwrap();
    assert!(!plan.gpt_moved && target.inner.to_vec()[..4 * MIB] == bytes);
}

#[test]
fn a_gpt_fits_a_smaller_target_when_its_volumes_do() {
    let mut bytes = disk_bytes(29, 4 * MIB);
    let (_store, image) = gpt_image(&mut bytes, 5000);
    let allowing = RestoreOptions { allow_smaller: true, ..RestoreOptions::default() };
    let target = MemoryDevice::new(disk_bytes(30, 3 * MIB));
    let (plan, _) = restore_to(&image, &target, &allowing).unwrap();
    assert!(plan.refusals.is_empty() && plan.gpt_moved);
    let layout = Layout::read(&target, 512);
    assert_eq!((layout.volumes.len(), layout.warnings.len()), (1, 0), "{:?}", layout.warnings);
    let refusals = plan_for(&image, 2 * MIB, &allowing).refusals;
    assert!(matches!(refusals[..], [Refusal::TooSmall { allowable: false, .. }]));
}

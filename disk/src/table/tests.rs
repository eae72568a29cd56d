//! Tests: GPT and MBR against sfdisk and sgdisk, and on hostile bytes.

use std::path::Path;

use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::testing::{LoopDevice, image, run};
use crate::{Device, FaultDevice, MemoryDevice, Target, WriteAt, plan_backup_gpt, relocate_backup_gpt};

const MIB: u64 = 1 << 20;
const GPT_SCRIPT: &str = "label: gpt\n\
    start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=\"boot\"\n\
    start=4096, size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"ESP ä\"\n\
    start=16384, size=4096, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, attrs=LegacyBIOSBootable\n";
const MBR_SCRIPT: &str = "label: dos\nlabel-id: 0x12345678\nunit: sectors\n\n\
    1 : start=2048, size=4096, type=c, bootable\n\
    2 : start=8192, size=40960, type=5\n\
    3 : start=51200, size=2048, type=83\n\
    5 : start=10240, size=4096, type=83\n\
    6 : start=16384, size=4096, type=82\n\
    7 : start=24576, size=8192, type=7\n";

fn sfdisk(target: &Path, script: &str) {
    run("sfdisk", "fdisk", &["--quiet", "--no-reread", "--no-tell-kernel", target.to_str().unwrap()], script);
}

fn volume(number: u32, offset: u64, bytes: u64) -> Volume {
    let extent = Extent { offset, bytes };
    let type_id = "0x83".to_owned();
    Volume {
        number,
        extent,
        type_id,
        type_name: None,
        uuid: None,
        name: None,
        bootable: false,
        content: None,
    }
}

fn layout_of(volumes: Vec<Volume>) -> Layout {
    Layout { volumes, sector_bytes: 512, ..Layout::default() }
}

fn assert_tiles(regions: &[Region], size_bytes: u64) {
    let mut at = 0;
    for region in regions {
        assert_eq!(region.extent.offset, at);
        assert!(region.extent.bytes > 0);
        at = region.extent.end();
    }
    assert_eq!(at, size_bytes);
}

/// Compares with what `sfdisk --json` says; extended partitions are not volumes.
fn assert_same_as_sfdisk(path: &Path) -> Layout {
    let json = run("sfdisk", "fdisk", &["--json", path.to_str().unwrap()], "");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let table = &json["partitiontable"];
    let device = Device::open(path).unwrap();
    let layout = Layout::read(&device, device.sector_bytes());
    let sector = table["sectorsize"].as_u64().unwrap();
    let lower = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_lowercase();
    assert_eq!(u64::from(layout.sector_bytes), sector);
    assert_eq!(layout.disk_id.as_deref().unwrap(), lower(&table["id"]).trim_start_matches("0x"));
    let node = path.to_str().unwrap();
    let expected: Vec<_> = (table["partitions"].as_array().unwrap().iter())
        .filter(|partition| !matches!(partition["type"].as_str().unwrap(), "5" | "f" | "85"))
        .map(|partition| {
            let tail = partition["node"].as_str().unwrap().strip_prefix(node).unwrap();
            let number: u32 = tail.trim_start_matches('p').parse().unwrap();
            let place = |key: &str| partition[key].as_u64().unwrap() * sector;
            let name = partition["name"].as_str().unwrap_or_default().to_owned();
            (
                number,
                place("start"),
                place("size"),
                lower(&partition["type"]),
                lower(&partition["uuid"]),
                name,
            )
        })
        .collect();
    let gpt = layout.table == TableKind::Gpt;
    let found: Vec<_> = (layout.volumes.iter())
        .map(|volume| {
            let type_id = volume.type_id.trim_start_matches("0x").trim_start_matches('0').to_owned();
            let type_id = if gpt { volume.type_id.clone() } else { type_id };
            let uuid = if gpt { volume.uuid.clone().unwrap() } else { String::new() };
            let name = volume.name.clone().unwrap_or_default();
            (volume.number, volume.extent.offset, volume.extent.bytes, type_id, uuid, name)
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(layout.warnings, Vec::<String>::new());
    assert_tiles(&layout.regions(device.size_bytes()), device.size_bytes());
    layout
}

#[test]
fn gpt_as_sfdisk_sees_it() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "gpt", 64 * MIB);
    sfdisk(&path, GPT_SCRIPT);
    let layout = assert_same_as_sfdisk(&path);
    assert_eq!(layout.table, TableKind::Gpt);
    assert_eq!(layout.volumes[1].name.as_deref(), Some("ESP ä"));
    assert_eq!(layout.volumes[1].type_name.as_deref(), Some("EFI system"));
    assert_eq!(layout.volumes.iter().map(|v| v.bootable).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn mbr_with_logical_volumes_as_sfdisk_sees_it() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "mbr", 64 * MIB);
    sfdisk(&path, MBR_SCRIPT);
    let layout = assert_same_as_sfdisk(&path);
    assert_eq!(layout.table, TableKind::Mbr);
    assert_eq!(layout.disk_id.as_deref(), Some("12345678"));
    assert_eq!(layout.volumes.iter().map(|v| v.number).collect::<Vec<_>>(), [1, 3, 5, 6, 7]);
    assert_eq!(layout.volumes[2].uuid.as_deref(), Some("12345678-05"));
    assert!(layout.volumes[0].bootable);
    let numbers: Vec<_> = layout.regions(64 * MIB).iter().map(|region| region.volume).collect();
    let gaps = [None, Some(1), None, Some(5), None, Some(6), None, Some(7), None, Some(3), None];
    assert_eq!(numbers, gaps);
}

#[test]
fn root_both_tables_in_4096_byte_sectors() {
    let folder = tempdir().unwrap();
    for script in [GPT_SCRIPT, MBR_SCRIPT] {
        let path = image(folder.path(), "4k", 512 * MIB);
        let device = LoopDevice::new(&path, &["-b", "4096"]);
        sfdisk(&device.path, script);
        let layout = assert_same_as_sfdisk(&device.path);
        assert_eq!(layout.sector_bytes, 4096);
        // The image file says nothing of its sectors. A GPT is found anyway, an MBR cannot be.
        let file = Layout::read(&Device::open(&path).unwrap(), 512);
        if layout.table == TableKind::Gpt {
            assert_eq!((file.sector_bytes, &file.volumes), (4096, &layout.volumes));
            assert_eq!(file.warnings.len(), 1);
        }
    }
}

fn gpt_bytes(bytes: u64) -> Vec<u8> {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "gpt", bytes);
    sfdisk(&path, GPT_SCRIPT);
    std::fs::read(path).unwrap()
}

fn mbr_bytes(bytes: u64) -> Vec<u8> {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "mbr", bytes);
    sfdisk(&path, MBR_SCRIPT);
    std::fs::read(path).unwrap()
}

#[test]
fn a_damaged_copy_of_a_gpt_is_replaced_by_the_other() {
    let whole = gpt_bytes(32 * MIB);
    let good = Layout::read(&MemoryDevice::new(whole.clone()), 512);
    let last = whole.len() - 512;
    let damages = [(512 + 16, "damaged"), (512, "not there"), (1024 + 5, "damaged"), (last + 60, "backup")];
    for (at, word) in damages {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let layout = Layout::read(&MemoryDevice::new(bytes), 512);
        assert_eq!(layout.volumes, good.volumes);
        assert!(layout.warnings.len() == 1 && layout.warnings[0].contains(word), "{:?}", layout.warnings);
    }
    let sector_0_bad =
        FaultDevice::new(MemoryDevice::new(whole.clone()), vec![Extent { offset: 0, bytes: 1024 }]);
    let layout = Layout::read(&sector_0_bad, 512);
    assert_eq!((layout.table, &layout.volumes), (TableKind::Gpt, &good.volumes));
    let mut bytes = whole;
    bytes[512 + 16] ^= 1;
    bytes[last + 16] ^= 1;
    let layout = Layout::read(&MemoryDevice::new(bytes), 512);
    assert_eq!((layout.table, layout.volumes.len(), layout.warnings.len()), (TableKind::None, 0, 1));
}

#[test]
fn the_mbr_decides_whether_a_gpt_counts() {
    let mut bytes = gpt_bytes(32 * MIB);
    bytes[446 + 4] = 0x83;
    let layout = Layout::read(&MemoryDevice::new(bytes.clone()), 512);
    assert_eq!((layout.table, layout.volumes.len(), layout.warnings.len()), (TableKind::Mbr, 1, 1));
    bytes[446 + 4] = 0xee;
    bytes[446 + 16 + 4] = 0x0c;
    let layout = Layout::read(&MemoryDevice::new(bytes.clone()), 512);
    assert_eq!((layout.table, layout.volumes.len()), (TableKind::Gpt, 3));
    assert!(layout.warnings[0].starts_with("hybrid mbr"));
    bytes[510] = 0;
    let layout = Layout::read(&MemoryDevice::new(bytes), 512);
    assert_eq!((layout.table, layout.volumes.len()), (TableKind::Gpt, 3));
    assert_eq!(layout.warnings, ["gpt without a protective mbr"]);
}

#[test]
fn a_file_system_over_all_is_no_table() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "fat", 64 * MIB);
    run("mkfs.vfat", "dosfstools", &[path.to_str().unwrap()], "");
    let layout = Layout::read(&Device::open(&path).unwrap(), 512);
    assert_eq!(layout, Layout { sector_bytes: 512, ..Layout::default() });
    // The remains of a GPT below a file system that spares sector 1.
    let mut bytes = gpt_bytes(32 * MIB);
    bytes[..512].fill(0);
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    assert_eq!(Layout::read(&MemoryDevice::new(bytes), 512).table, TableKind::None);
}

#[test]
fn hostile_chains_of_logical_volumes_end() {
    let whole = mbr_bytes(32 * MIB);
    let second = 8192 * 512;
    // A link to itself, to the far end of the numbers, and outside the extended partition.
    for (link, word) in [(0_u32, "circle"), (u32::MAX, "outside"), (50000, "outside")] {
        let mut bytes = whole.clone();
        let entry = second + 446 + 16;
        bytes[entry + 8..entry + 12].copy_from_slice(&link.to_le_bytes());
        let layout = Layout::read(&MemoryDevice::new(bytes), 512);
        assert_eq!(layout.volumes.iter().map(|v| v.number).collect::<Vec<_>>(), [1, 3, 5]);
        assert!(layout.warnings[0].contains(word), "{:?}", layout.warnings);
    }
    // Records that fill the whole extended partition.
    let mut bytes = whole;
    let record = bytes[second..second + 512].to_vec();
    for index in 0..1000_u32 {
        let at = second + usize::try_from(index).unwrap() * 512;
        bytes[at..at + 512].copy_from_slice(&record);
        bytes[at + 446 + 24..at + 446 + 28].copy_from_slice(&(index + 1).to_le_bytes());
    }
    let layout = Layout::read(&MemoryDevice::new(bytes), 512);
    assert_eq!(layout.volumes.len(), 2 + 256);
}

#[test]
fn hostile_counts_in_a_gpt_allocate_nothing() {
    for (count, size) in [(u32::MAX, 128_u32), (128, u32::MAX), (0, 128), (1, 1 << 20), (128, 127), (128, 64)]
    {
        let mut bytes = gpt_bytes(32 * MIB);
        for header in [512, bytes.len() - 512] {
            bytes[header + 80..header + 84].copy_from_slice(&count.to_le_bytes());
            bytes[header + 84..header + 88].copy_from_slice(&size.to_le_bytes());
            bytes[header + 16..header + 20].fill(0);
            let crc = crc32fast::hash(&bytes[header..header + 92]);
            bytes[header + 16..header + 20].copy_from_slice(&crc.to_le_bytes());
        }
        let layout = Layout::read(&MemoryDevice::new(bytes), 512);
        assert_eq!((layout.table, layout.warnings.len()), (TableKind::None, 1));
    }
}

#[test]
fn regions_merge_what_overlaps_and_clip_what_leaves() {
    let volumes =
        vec![volume(1, 1000, 1000), volume(2, 1500, 1000), volume(3, 2500, 500), volume(4, 9000, 5000)];
    let regions = layout_of(volumes).regions(10_000);
    let places: Vec<_> = regions.iter().map(|r| (r.extent.offset, r.extent.bytes, r.volume)).collect();
    let expected = [
        (0, 1000, None),
        (1000, 1500, None),
        (2500, 500, Some(3)),
        (3000, 6000, None),
        (9000, 1000, Some(4)),
    ];
    assert_eq!(places, expected);
    assert_eq!(layout_of(vec![volume(1, 0, 512)]).regions(0), []);
    assert_eq!(layout_of(vec![volume(1, 4096, 512)]).regions(4096).len(), 1);
    assert_eq!(layout_of(vec![volume(1, u64::MAX, u64::MAX)]).regions(4096).len(), 1);
}

fn sgdisk_verify(path: &Path) {
    let report = run("sgdisk", "gdisk", &["-v", path.to_str().unwrap()], "");
    assert!(report.contains("No problems found"), "{report}");
}

/// What `sgdisk -e` makes of the same image, as partitions see it.
#[test]
fn a_moved_gpt_is_one_that_sgdisk_and_sfdisk_like() {
    let folder = tempdir().unwrap();
    for label in ["", "first-lba: 34\n"] {
        let script = GPT_SCRIPT.replace("label: gpt\n", &format!("label: gpt\n{label}"));
        let path = image(folder.path(), "gpt", 32 * MIB);
        sfdisk(&path, &script);
        let before = std::fs::read(&path).unwrap();
        let target = Target::open_file(&path, 100 * MIB).unwrap();
        let plan = plan_backup_gpt(&MemoryDevice::new(before.clone()), 512, 100 * MIB).unwrap();
        assert_eq!(plan.len(), 4);
        assert!(relocate_backup_gpt(&target, 512).unwrap());
        for (offset, bytes) in &plan {
            let mut there = vec![0; bytes.len()];
            target.read_exact_at(*offset, &mut there).unwrap();
            assert_eq!(there, *bytes);
        }
        drop(target);
        sgdisk_verify(&path);
        let after = std::fs::read(&path).unwrap();
        assert_eq!(after[1024..before.len() - 512 * 33], before[1024..before.len() - 512 * 33]);
        let layout = assert_same_as_sfdisk(&path);
        assert_eq!(layout.volumes, Layout::read(&MemoryDevice::new(before), 512).volumes);
        // Again: nothing to do, and nothing written.
        let again = FaultDevice::new(MemoryDevice::new(after.clone()), Vec::new());
        assert!(relocate_backup_gpt(&again, 512).unwrap());
        assert_eq!(again.inner().to_vec(), after);
        assert_eq!(plan_backup_gpt(&MemoryDevice::new(after), 512, 100 * MIB).unwrap(), []);
    }
}

#[test]
fn root_a_moved_gpt_in_4096_byte_sectors() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "4k", 256 * MIB);
    sfdisk(&LoopDevice::new(&path, &["-b", "4096"]).path, GPT_SCRIPT);
    let target = Target::open_file(&path, 300 * MIB).unwrap();
    assert!(relocate_backup_gpt(&target, 512).unwrap());
    drop(target);
    let device = LoopDevice::new(&path, &["-b", "4096"]);
    sgdisk_verify(&device.path);
    assert_same_as_sfdisk(&device.path);
}

#[test]
fn a_gpt_from_its_backup_gets_a_primary_on_the_larger_device() {
    let folder = tempdir().unwrap();
    let mut bytes = gpt_bytes(32 * MIB);
    bytes[512..512 + 33 * 512].fill(0);
    let source = MemoryDevice::new(bytes.clone());
    bytes.resize(usize::try_from(64 * MIB).unwrap(), 0);
    let target = MemoryDevice::new(bytes);
    for (offset, bytes) in plan_backup_gpt(&source, 512, 64 * MIB).unwrap() {
        target.write_all_at(offset, &bytes).unwrap();
    }
    let path = folder.path().join("moved");
    std::fs::write(&path, target.to_vec()).unwrap();
    sgdisk_verify(&path);
    assert_same_as_sfdisk(&path);
}

#[test]
fn a_gpt_is_not_moved_where_it_does_not_fit() {
    let source = MemoryDevice::new(gpt_bytes(32 * MIB));
    let plan = |bytes| plan_backup_gpt(&source, 512, bytes);
    assert!(matches!(plan(10 * MIB), Err(crate::Error::GptTooLarge { expected: 20479, .. })));
    assert!(matches!(plan(0), Err(crate::Error::GptTooLarge { .. })));
    assert_eq!(plan(32 * MIB).unwrap(), []);
    let none = MemoryDevice::zeros(1 << 20);
    assert!(!relocate_backup_gpt(&none, 512).unwrap());
    assert!(!relocate_backup_gpt(&MemoryDevice::new(mbr_bytes(32 * MIB)), 512).unwrap());
}

/// The parts of both tables that a mutation should hit: all sectors that hold any of it.
fn interesting(bytes: &[u8]) -> Vec<usize> {
    let sectors = bytes.chunks(512).enumerate();
    let used = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
    used.flat_map(|(index, sector)| {
        (0..sector.len()).filter(|at| sector[*at] != 0).map(move |at| index * 512 + at)
    })
    .collect()
}

fn check_any(bytes: Vec<u8>, sector_bytes: u32) {
    let size = u64::try_from(bytes.len()).unwrap();
    let device = MemoryDevice::new(bytes);
    let layout = Layout::read(&device, sector_bytes);
    assert_tiles(&layout.regions(size), size);
    assert_tiles(&layout.regions(size / 2), size / 2);
    for target in [size, size * 2, size + 12345] {
        // Only the absence of panics is wanted.
        drop(plan_backup_gpt(&device, sector_bytes, target));
    }
    let text = serde_json::to_string(&layout).unwrap();
    assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), layout);
}

/// Makes a header's checksums right again, so that what it says is looked at.
fn mend(bytes: &mut [u8]) {
    for header in [512, bytes.len() - 512] {
        let entries = if header == 512 { 1024 } else { bytes.len() - 33 * 512 };
        let crc = crc32fast::hash(&bytes[entries..entries + 128 * 128]);
        bytes[header + 88..header + 92].copy_from_slice(&crc.to_le_bytes());
        bytes[header + 16..header + 20].fill(0);
        let crc = crc32fast::hash(&bytes[header..header + 92]);
        bytes[header + 16..header + 20].copy_from_slice(&crc.to_le_bytes());
    }
}

#[test]
fn mutated_tables_never_panic_and_regions_tile() {
    let gpt = gpt_bytes(16 * MIB);
    let mbr = mbr_bytes(32 * MIB);
    for (whole, mended) in [(&gpt, false), (&gpt, true), (&mbr, false)] {
        let places = interesting(whole);
        let edit = (any::<prop::sample::Index>(), 0_usize..16, prop_oneof![any::<u8>(), Just(0xff), Just(0)]);
        let edits = prop::collection::vec(edit, 1..6);
        let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(edits in edits, sector in prop_oneof![Just(512_u32), Just(4096), any::<u32>()])| {
            let mut bytes = whole.clone();
            for (place, beside, value) in &edits {
                let at = (place.get(&places) + beside).min(bytes.len() - 1);
                bytes[at] = *value;
            }
            if mended {
                mend(&mut bytes);
            }
            check_any(bytes, sector);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic_and_regions_tile(
        mut bytes in prop::collection::vec(any::<u8>(), 0..20_000),
        signed in any::<bool>(),
        entries in any::<[(bool, u8, u32, u32); 4]>(),
    ) {
        if signed && bytes.len() >= 512 {
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            for (index, (active, sys, start, sectors)) in entries.iter().enumerate() {
                let at = 446 + index * 16;
                bytes[at] = if *active { 0x80 } else { 0 };
                bytes[at + 4] = *sys;
                bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
                bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
            }
        }
        check_any(bytes, 512);
    }

    #[test]
    fn any_volumes_are_tiled(
        volumes in prop::collection::vec((any::<u32>(), 0_u64..5000, 0_u64..3000), 0..12),
        size in 0_u64..6000,
    ) {
        let volumes = volumes.into_iter().map(|(number, at, bytes)| volume(number, at, bytes)).collect();
        assert_tiles(&layout_of(volumes).regions(size), size);
    }
}

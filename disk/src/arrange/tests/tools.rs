//! The tools that people use on partition tables, as judges of those that are written here.

use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::tempdir;

use super::*;
use crate::Device;
use crate::testing::{LoopDevice, image, run};

const GPT: &str = "label: gpt\n\
    1 : start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=\"boot\"\n\
    2 : start=4096, size=8192, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"ESP ä\"\n\
    7 : start=16384, size=40960, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, attrs=\"LegacyBIOSBootable GUID:63\"\n\
    4 : start=57344, size=20480, type=DE94BBA4-06D1-4D40-A16A-BFD50179D6AC, attrs=\"RequiredPartition\"\n";
const MBR: &str = "label: dos\nlabel-id: 0x12345678\nunit: sectors\n\n\
    1 : start=2048, size=4096, type=c, bootable\n\
    2 : start=8192, size=81920, type=5\n\
    3 : start=92160, size=2048, type=27\n\
    5 : start=10240, size=4096, type=83\n\
    6 : start=16384, size=4096, type=82\n\
    7 : start=24576, size=20480, type=7\n";
/// As disks were made before 2010: nothing on borders, records one track before.
const OLD: &str = "label: dos\nlabel-id: 0xcafe0001\nunit: sectors\n\n\
    1 : start=63, size=16002, type=7, bootable\n\
    2 : start=16065, size=80325, type=f\n\
    5 : start=16128, size=32067, type=83\n\
    6 : start=48258, size=16002, type=83\n";

fn made(folder: &Path, script: &str, bytes: u64) -> std::path::PathBuf {
    let path = image(folder, "source", bytes);
    run("sfdisk", "fdisk", &["--quiet", "--no-reread", "--no-tell-kernel", path.to_str().unwrap()], script);
    path
}

fn table_of(path: &Path) -> PartitionTable {
    let device = Device::open_buffered(path).unwrap();
    read(&device, 512)
}

/// Writes the table to an empty disk and asks the tools what is there.
fn assert_as_tools_see_it(folder: &Path, table: &PartitionTable, target: Geometry) {
    let path = image(folder, "target", target.bytes);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for (offset, bytes) in table.encode(target).unwrap() {
        file.write_all_at(&bytes, offset).unwrap();
    }
    file.sync_all().unwrap();
    let sector = target.sector_bytes.to_string();
    let device = LoopDevice::new(&path, &["--sector-size", &sector]);
    let json = run("sfdisk", "fdisk", &["--json", device.str()], "");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let json = &json["partitiontable"];
    let lower = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_lowercase();
    assert_eq!(json["sectorsize"].as_u64(), Some(target.sector_bytes.into()));
    assert_eq!(lower(&json["id"]).trim_start_matches("0x"), table.disk_id().unwrap());
    let mut found = Vec::new();
    for partition in json["partitions"].as_array().unwrap() {
        if matches!(partition["type"].as_str().unwrap(), "5" | "f") {
            continue;
        }
        let node = partition["node"].as_str().unwrap().strip_prefix(device.str()).unwrap();
        let number: u32 = node.trim_start_matches('p').parse().unwrap();
        let place = |key: &str| partition[key].as_u64().unwrap() * u64::from(target.sector_bytes);
        let name = partition["name"].as_str().map(str::to_owned);
        let type_id = lower(&partition["type"]);
        found.push((number, place("start"), place("size"), type_id, lower(&partition["uuid"]), name));
    }
    let gpt = table.kind == TableKind::Gpt;
    let mut expected = Vec::new();
    for entry in table.entries() {
        let type_id =
            if gpt { &entry.type_id } else { entry.type_id.trim_start_matches("0x").trim_start_matches('0') };
        let uuid = if gpt { entry.uuid.clone() } else { String::new() };
        let Extent { offset, bytes } = entry.extent;
        expected.push((entry.number, offset, bytes, type_id.to_owned(), uuid, entry.name.clone()));
    }
    found.sort();
    assert_eq!(found, expected);
    let says = run("sfdisk", "fdisk", &["--verify", device.str()], "");
    assert!(says.contains("No errors detected"), "{says}");
    if gpt {
        let says = run("sgdisk", "gdisk", &["-v", device.str()], "");
        assert!(says.contains("No problems found"), "{says}");
    }
    drop(device);
    std::fs::remove_file(&path).unwrap();
}

fn judged(folder: &Path, table: &PartitionTable, target: Geometry, wishes: &Wishes) -> Arrangement {
    let needs: Vec<Need> =
        table.entries().iter().map(|entry| elastic(entry.number, entry.extent.bytes / 4)).collect();
    let found = arrange(table, &needs, target, wishes, &mut counter()).unwrap();
    assert_as_tools_see_it(folder, &found.table, target);
    found
}

#[test]
fn a_table_that_stays_is_the_same_to_the_bit_root() {
    for script in [GPT, MBR, OLD] {
        let folder = tempdir().unwrap();
        let path = made(folder.path(), script, 64 * MIB);
        let found = judged(folder.path(), &table_of(&path), geometry(64 * MIB), &Wishes::default());
        let device = Device::open_buffered(&path).unwrap();
        for (offset, bytes) in found.table.encode(found.target).unwrap() {
            let mut there = vec![0; bytes.len()];
            device.read_exact_at(offset, &mut there).unwrap();
            let differs = there.iter().zip(&bytes).position(|(there, ours)| there != ours);
            assert_eq!(differs, None, "at {offset}: {script}");
        }
    }
}

#[test]
fn tables_of_all_modes_and_sizes_root() {
    for script in [GPT, MBR, OLD] {
        let folder = tempdir().unwrap();
        let source = table_of(&made(folder.path(), script, 64 * MIB));
        for mode in [Mode::Keep, Mode::Grow, Mode::Proportional] {
            for sector_bytes in [512, 4096] {
                let target = Geometry { bytes: 200 * MIB + 4096, sector_bytes };
                judged(folder.path(), &source, target, &wish(mode.clone()));
            }
        }
        judged(folder.path(), &source, geometry(40 * MIB), &wish(Mode::Fit));
        let to_gpt = Wishes { to_gpt: true, ..wish(Mode::Grow) };
        for sector_bytes in [512, 4096] {
            judged(folder.path(), &source, Geometry { bytes: 100 * MIB, sector_bytes }, &to_gpt);
        }
        let only = Some(source.entries().iter().map(|entry| entry.number).skip(1).collect());
        for create in [false, true] {
            let wishes = Wishes { only: only.clone(), create, ..Wishes::default() };
            judged(folder.path(), &source, geometry(100 * MIB), &wishes);
        }
        let mut renewed = source.clone();
        renewed.new_ids(&mut counter());
        assert_as_tools_see_it(folder.path(), &renewed, geometry(64 * MIB));
    }
}

#[test]
fn a_disk_of_4096_byte_sectors_becomes_one_of_512_root() {
    let folder = tempdir().unwrap();
    let path = image(folder.path(), "source", 64 * MIB);
    let script = "label: gpt\nstart=256, size=1024, name=\"a\"\nstart=2048, size=4096\n";
    {
        let device = LoopDevice::new(&path, &["--sector-size", "4096"]);
        run("sfdisk", "fdisk", &["--quiet", "--no-reread", "--no-tell-kernel", device.str()], script);
    }
    let source = table_of(&path);
    assert_eq!(source.sector_bytes, 4096);
    let found = judged(folder.path(), &source, geometry(128 * MIB), &Wishes::default());
    assert!(found.volumes.iter().all(|placed| placed.from == placed.to));
    judged(folder.path(), &source, geometry(20 * MIB), &wish(Mode::Fit));
}

#[test]
fn a_chain_out_of_order_stays_so_root() {
    let folder = tempdir().unwrap();
    let script = "label: dos\nunit: sectors\n\n1 : start=2048, size=2048, type=83\n\
                  2 : start=8192, size=81920, type=5\n\
                  5 : start=40960, size=4096, type=83\n\
                  6 : start=24576, size=4096, type=82\n\
                  7 : start=61440, size=2048, type=7\n";
    let source = table_of(&made(folder.path(), script, 64 * MIB));
    let numbers = |found: &Arrangement| found.volumes.iter().map(|placed| placed.number).collect::<Vec<_>>();
    for (mode, bytes) in [(Mode::Keep, 64), (Mode::Grow, 99), (Mode::Proportional, 99), (Mode::Fit, 9)] {
        let found = judged(folder.path(), &source, geometry(bytes * MIB), &wish(mode));
        assert_eq!(numbers(&found), [1, 6, 5, 7]);
        assert_eq!(said(&read(&written(&found.table, found.target), 512)), said(&found.table));
    }
}

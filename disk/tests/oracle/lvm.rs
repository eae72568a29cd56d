//! LVM2: `pvcreate`, `vgcreate`, `lvcreate` on loop devices, without device-mapper; `pvs` says what is allocated.
//!
//! Promise: extents that `pvs` calls allocated are free only where the filesystem in a plain volume says so.
#![allow(clippy::cast_possible_truncation)] // images fit into memory

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use disk::{Doubt, Extent};

use crate::testing::{LoopDevice, image, run};
use crate::tools::{Noise, all, assert_same_free, merged, ours, ours_sure};

const PACKAGE: &str = "lvm2";

struct Volume {
    device: LoopDevice,
    path: PathBuf,
    group: String,
}

impl Volume {
    fn new(folder: &Path, mib: u64, create: &[&str], group: &[&str]) -> Self {
        let path = image(folder, "pv.img", mib << 20);
        let device = LoopDevice::new(&path, &[]);
        let name = format!("cas-test-{}-{}", std::process::id(), device.name());
        let it = Self { device, path, group: name.clone() };
        it.lvm("pvcreate", &[&["-y", "-ff"], create, &[it.device.str()]].concat());
        it.lvm("vgcreate", &[group, &[&name, it.device.str()]].concat());
        it
    }

    /// Only this device exists, no device-mapper does, and nothing is kept in /etc.
    fn lvm(&self, tool: &str, args: &[&str]) -> String {
        let config = format!(
            "devices{{use_devicesfile=0 filter=[\"a|^{0}$|\",\"r|.*|\"]}} global{{activation=0 locking_type=1}} \
             activation{{udev_sync=0 udev_rules=0 verify_udev_operations=0}} backup{{backup=0 archive=0}}",
            self.device.str()
        );
        run(tool, PACKAGE, &[&["--config", &config], args].concat(), "")
    }

    fn create(&self, name: &str, extents: u64) {
        let extents = extents.to_string();
        self.lvm("lvcreate", &["-an", "-Zn", "-Wn", "-l", &extents, "-n", name, &self.group]);
    }

    fn grow(&self, name: &str, extents: u64) {
        self.lvm("lvextend", &["-l", &format!("+{extents}"), &format!("{}/{name}", self.group)]);
    }

    fn remove(&self, name: &str) {
        self.lvm("lvremove", &["-f", &format!("{}/{name}", self.group)]);
    }

    /// Runs of bytes, and the volume that has each.
    fn segments(&self) -> Vec<(Extent, Option<String>)> {
        let args = ["--noheadings", "--nosuffix", "--units", "b", "--separator", ":", "--segments", "-o"];
        let fields = "pvseg_start,pvseg_size,pe_start,vg_extent_size,lv_name,seg_start_pe";
        let out = self.lvm("pvs", &[&args, &[fields, self.device.str()][..]].concat());
        let mut found = Vec::new();
        for line in out.lines().filter(|line| line.contains(':')) {
            let words: Vec<&str> = line.trim().split(':').collect();
            let [start, count, first, bytes] = [0, 1, 2, 3].map(|at| words[at].parse::<u64>().unwrap());
            let extent = Extent { offset: first + start * bytes, bytes: count * bytes };
            found.push((extent, Some(words[4].to_owned()).filter(|name| !name.is_empty())));
        }
        assert!(!found.is_empty(), "{out}");
        found
    }

    fn unallocated(&self) -> Vec<Extent> {
        self.segments().into_iter().filter(|(_, name)| name.is_none()).map(|(extent, _)| extent).collect()
    }

    fn runs_of(&self, wanted: &str) -> Vec<Extent> {
        let segments = self.segments().into_iter();
        segments.filter(|(_, name)| name.as_deref() == Some(wanted)).map(|(extent, _)| extent).collect()
    }
}

/// Puts a filesystem's image into the runs of a volume, and gives its own free extents, where they come to lie.
fn put(volume: &Volume, name: &str, filesystem: &Path) -> Vec<Extent> {
    let free = ours_sure(filesystem, name).free;
    let (from, to) =
        (File::open(filesystem).unwrap(), File::options().write(true).open(&volume.path).unwrap());
    let mut found = Vec::new();
    let mut start = 0;
    for run in volume.runs_of(name) {
        let mut buf = vec![0; run.bytes as usize];
        from.read_exact_at(&mut buf, start).unwrap();
        to.write_all_at(&buf, run.offset).unwrap();
        for extent in free.free() {
            let (first, end) = (extent.offset.max(start), extent.end().min(start + run.bytes));
            if first < end {
                found.push(Extent { offset: run.offset + first - start, bytes: end - first });
            }
        }
        start += run.bytes;
    }
    found
}

fn ext4(folder: &Path, mib: u64) -> PathBuf {
    let path = image(folder, "ext4.img", mib << 20);
    let from = folder.join("from");
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("file"), Noise::new(mib).bytes(3_000_000)).unwrap();
    run("mkfs.ext4", "e2fsprogs", &["-q", "-d", from.to_str().unwrap(), path.to_str().unwrap()], "");
    path
}

#[test]
fn what_no_volume_has_is_free_and_filesystems_are_looked_into_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let it = Volume::new(folder.path(), 400, &[], &[]);
    assert_same_free(&ours_sure(&it.path, "empty"), it.unallocated(), "empty group");
    for (name, extents) in [("a", 5), ("fs", 8), ("gone", 9), ("b", 11)] {
        it.create(name, extents);
    }
    it.remove("gone");
    it.grow("fs", 14);
    it.create("c", 3);
    it.grow("fs", 20);
    assert!(it.runs_of("fs").len() > 1, "the volume should be in pieces");
    assert_same_free(&ours_sure(&it.path, "volumes"), it.unallocated(), "volumes");
    let extents: u64 = it.runs_of("fs").iter().map(|run| run.bytes >> 20).sum();
    let mut theirs = put(&it, "fs", &ext4(folder.path(), extents));
    assert!(merged(theirs.clone()).iter().map(|extent| extent.bytes).sum::<u64>() > 50 << 20);
    theirs.extend(it.unallocated());
    assert_same_free(&ours_sure(&it.path, "filesystem"), theirs, "filesystem in a volume");
}

#[test]
fn other_layouts_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--metadatacopies", "2"], &["-s", "1M"]),
        (&["--dataalignment", "8M", "--metadatasize", "3M"], &["-s", "32M"]),
        (&["--bootloaderareasize", "2M", "--labelsector", "3"], &["-s", "512K"]),
        (&["--setphysicalvolumesize", "150M"], &[]),
        (&["--metadatasize", "40K"], &["-s", "4M"]),
    ];
    for (create, group) in cases {
        let it = Volume::new(folder.path(), 200, create, group);
        let rounds = if all() { 60 } else { 2 };
        let mut noise = Noise::new(rounds);
        for round in 0..rounds {
            // The text goes round the ring of its area.
            it.create(&format!("v{round}"), 1 + noise.below(2));
            if round % 3 != 0 {
                it.remove(&format!("v{}", round - 1));
                it.create(&format!("w{round}"), 1);
                it.remove(&format!("w{round}"));
            }
            let what = format!("{create:?} {group:?} round {round}");
            if all() || round + 1 == rounds {
                assert_same_free(&ours_sure(&it.path, &what), it.unallocated(), &what);
            }
            if it.unallocated().iter().map(|extent| extent.bytes).sum::<u64>() < 100 << 20 {
                break;
            }
        }
    }
}

#[test]
fn doubts_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let it = Volume::new(folder.path(), 100, &[], &[]);
    it.create("a", 3);
    let clean = std::fs::read(&it.path).unwrap();
    let copy = folder.path().join("copy.img");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = clean.clone();
        change(&mut bytes);
        std::fs::write(&copy, &bytes).unwrap();
        ours(&copy)
    };
    assert!(with(&|_| {}).is_ok());
    let text = clean.windows(9).rposition(|it| it == b"pe_start ").unwrap();
    assert!(matches!(with(&|bytes| bytes[512 + 100] ^= 1), Err(Doubt::Checksum { .. })));
    assert!(matches!(with(&|bytes| bytes[4096 + 300] ^= 1), Err(Doubt::Checksum { .. })));
    assert!(matches!(with(&|bytes| bytes[text] ^= 1), Err(Doubt::Checksum { .. })));
    assert!(matches!(with(&|bytes| bytes.truncate(60 << 20)), Err(Doubt::TooLarge { .. })));
}

#[test]
fn a_member_of_no_group_is_whole_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "pv.img", 50 << 20);
    let device = LoopDevice::new(&path, &[]);
    run("pvcreate", PACKAGE, &["--config", "devices{use_devicesfile=0}", "-q", device.str()], "");
    assert!(matches!(ours(&path), Err(Doubt::Elsewhere { .. })));
}

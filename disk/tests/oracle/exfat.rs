//! exFAT against `partclone.exfat`'s domain file, `fsck.exfat` and exfat-fuse.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Allocation, Device, Extent, FREE_BYTES_MIN, ReadAt};

use crate::testing::{LoopDevice, image, run};
use crate::tools::{Noise, all, assert_same_free, ours, ours_sure, partclone_free, spoil};

struct Case {
    bytes: u64,
    options: &'static str,
}

impl Case {
    fn name(&self) -> String {
        format!("mkfs.exfat {} ({} bytes)", self.options, self.bytes)
    }

    fn make(&self, file: &Path) -> bool {
        let output = Command::new("mkfs.exfat")
            .args(self.options.split_whitespace())
            .arg(file)
            .output()
            .expect("mkfs.exfat: apt-get install -y --no-install-recommends exfatprogs");
        if !output.status.success() {
            println!("not made: {}: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    }
}

/// A mount by FUSE: the kernel need not know exFAT.
struct Fuse(PathBuf, #[allow(dead_code)] LoopDevice);

impl Fuse {
    fn new(file: &Path, at: PathBuf, option: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let device = LoopDevice::new(file, &[]);
        run("mount.exfat-fuse", "exfat-fuse", &["-o", option, device.str(), at.to_str().unwrap()], "");
        Self(at, device)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // It is flushed when umount returns, but the process may hold the device for another moment.
        Command::new("umount").arg(&self.0).status().ok();
        let holds = |path: &str| {
            let found = Command::new("pgrep").args(["-f", &format!("mount.exfat-fuse.*{path} ")]).output();
            found.is_ok_and(|output| output.status.success())
        };
        while holds(self.1.str()) {
            std::thread::yield_now();
        }
        // A process that is ending has no name any more, but what it wrote may not have reached the file.
        std::fs::File::open(self.1.str()).and_then(|device| device.sync_all()).ok();
    }
}

fn fill(folder: &Path, seed: u64, budget: u64) {
    let mut noise = Noise::new(seed);
    let mut doomed = Vec::new();
    let mut written = 0;
    for number in 0..90 {
        let bytes = if number % 6 == 0 {
            noise.below(budget / 12 + 1)
        } else {
            noise.below(30_000.min(budget / 60 + 1))
        };
        written += bytes + 8192;
        if written > budget {
            break;
        }
        let parent = folder.join(format!("folder {}", number % 4));
        let path = parent.join(format!("file number {number}"));
        let bytes = noise.bytes(usize::try_from(bytes).unwrap());
        // Full: large clusters on a small volume.
        if std::fs::create_dir_all(&parent).and_then(|()| std::fs::write(&path, bytes)).is_err() {
            break;
        }
        if number % 3 == 2 {
            doomed.push(path);
        }
    }
    for path in doomed {
        std::fs::remove_file(path).unwrap();
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for parent in std::fs::read_dir(folder).unwrap() {
        for file in std::fs::read_dir(parent.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            found.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
    found
}

/// partclone 0.3.23 takes what lies behind the last cluster for free, and the last two clusters even where the bitmap
/// has them as used: there, the number of free clusters that dump.exfat counts must do.
fn assert_as_theirs(file: &Path, ours: &Allocation, what: &str) {
    let boot = Device::open_buffered(file).unwrap();
    let mut raw = [0; 512];
    boot.read_exact_at(0, &mut raw).unwrap();
    let le32 = |at: usize| u64::from(u32::from_le_bytes(raw[at..at + 4].try_into().unwrap()));
    let cluster = 1 << raw[109] << raw[108];
    let end = (le32(88) << raw[108]) + (le32(92) - 2) * cluster;
    let before =
        |extent: &Extent| Extent { bytes: extent.end().min(end).saturating_sub(extent.offset), ..*extent };
    let behind = |extent: &Extent| {
        let offset = extent.offset.max(end);
        Extent { offset, bytes: extent.end().saturating_sub(offset) }
    };
    let theirs = partclone_free("partclone.exfat", file);
    let mixed = theirs.iter().map(before).chain(ours.free.free().iter().map(behind));
    let text = run("dump.exfat", "exfatprogs", &[file.to_str().unwrap()], "");
    let count = text.lines().find_map(|line| line.strip_prefix("Free Clusters:")).unwrap();
    let free = count.trim().parse::<u64>().unwrap() * cluster;
    assert!(ours.free.free_bytes() <= free, "{what}: WRONGLY FREE: {} of {free}", ours.free.free_bytes());
    assert!(
        cluster < FREE_BYTES_MIN || ours.free.free_bytes() == free,
        "{what}: {} of {free}",
        ours.free.free_bytes()
    );
    assert_same_free(ours, mixed.collect(), what);
}

fn check(case: &Case, seed: u64) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let file = image(folder.path(), "image", case.bytes);
    if !case.make(&file) {
        return false;
    }
    let at = folder.path().join("mnt");
    let fresh = ours_sure(&file, &case.name());
    assert_as_theirs(&file, &fresh, &format!("{}, fresh", case.name()));
    let mounted = Fuse::new(&file, at.clone(), "rw");
    fill(&mounted.0, seed, case.bytes / 3);
    let before = files(&mounted.0);
    let doubt = ours(&file).expect_err("a mounted filesystem");
    assert!(doubt.to_string().contains("mount and unmount it once"), "{doubt}");
    drop(mounted);
    let filled = ours_sure(&file, &case.name());
    assert_as_theirs(&file, &filled, &case.name());
    spoil(&file, &filled);
    run("fsck.exfat", "exfatprogs", &["-n", file.to_str().unwrap()], "");
    let mounted = Fuse::new(&file, at, "ro");
    assert!(files(&mounted.0) == before, "{}: files changed", case.name());
    true
}

fn few() -> Vec<Case> {
    vec![Case { bytes: 9 << 20, options: "-c 512 -b 512" }, Case { bytes: 300 << 20, options: "" }]
}

fn many() -> Vec<Case> {
    let mut cases = few();
    let options = [
        "",
        "-c 512",
        "-c 1K",
        "-c 2K -b 4K",
        "-c 4K",
        "-c 4K --pack-bitmap",
        "-c 8K -b 1M",
        "-c 16K",
        "-c 32K",
        "-c 64K -b 64K",
        "-c 128K",
        "-c 1M",
        "-f -c 4K",
    ];
    for options in options {
        for bytes in [8 << 20, (17 << 20) + 512 * 7, 60 << 20, (200 << 20) + 512 * 77] {
            cases.push(Case { bytes, options });
        }
    }
    cases
}

#[test]
fn free_clusters_are_those_of_partclone_and_nobody_misses_them_as_root() {
    let cases = if all() { many() } else { few() };
    let made = (1..).zip(&cases).filter(|(number, case)| check(case, *number)).count();
    println!(
        "exfat: {made} of {} volumes, each fresh and filled: none wrongly free, all that is free found",
        cases.len()
    );
    assert!(made * 10 >= cases.len() * 8, "only {made} of {}", cases.len());
}

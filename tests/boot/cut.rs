//! Power cut in the middle of a restore: the disk is nobody's disk until it is whole.
//!
//! Promise: the process is killed as a power cut would end it, when a given share of the bytes is on the target; what has a
//! partition table then is whole. Knows nothing of the order in which a restore writes.

use super::{CORE_FIRST, starts_by, store_in};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use tests::vm::Firmware;
use tests::vm::disk::{Bootable, check};
use tests::{capture, cas_ok, command};

/// Shares of the disk's data, in percent, at which the power goes.
const CUTS: [u64; 3] = [5, 45, 85];

#[test]
fn cut_in_the_middle_it_has_no_table_and_once_more_it_starts_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Bootable::new(folder.path(), CORE_FIRST);
    let store = store_in(folder.path());
    let image = capture(&store, &disk.file, &[]);
    let target = folder.path().join("target.img");
    let bytes = fs::metadata(&disk.file).unwrap().len();
    let blocks = fs::metadata(&disk.file).unwrap().blocks();
    let mut cut = 0;
    for percent in CUTS {
        // As new each time: what was right already would not be written again.
        File::create(&target).unwrap().set_len(bytes).unwrap();
        if killed_at(&store, &image, &target, blocks * percent / 100) {
            cut += 1;
            assert!(!has_table(&target), "half a disk at {percent} % that firmware would start");
        }
    }
    assert!(cut >= 2, "only {cut} restores were cut off");
    cas_ok(&store, &["restore", &image, target.to_str().unwrap(), "--yes", "--quiet"]);
    check(&target);
    starts_by(&disk, Firmware::Uefi, &target, None);
}

/// Whether the restore died of it: it may have been done before.
fn killed_at(store: &Path, image: &str, target: &Path, blocks: u64) -> bool {
    let mut restore = command(store)
        .args(["restore", image, target.to_str().unwrap(), "--yes", "--quiet"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while fs::metadata(target).unwrap().blocks() < blocks {
        if let Some(status) = restore.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return false;
        }
        std::thread::yield_now();
    }
    restore.kill().unwrap();
    !restore.wait().unwrap().success()
}

fn has_table(disk: &Path) -> bool {
    let output = Command::new("sfdisk").arg("--json").arg(disk).output().unwrap();
    output.status.success()
}

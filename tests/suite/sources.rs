//! Sources that fail, shrink, are in use, or hold the store: what cannot be had is said, and nothing is made up.
//!
//! Promise: bad sectors are real ones: a filesystem whose checksums are wrong below a loop device. Knows nothing of
//! what happens to the images afterwards.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tests::disks::{folder_bytes, noise};
use tests::{Loop, Mount, Ran, cas, cas_ok, command, ran, run, summary};

const MIB: u64 = 1 << 20;

fn store_in(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    store
}

/// Captures with `--json`; how it ended, and its summary when there is one.
fn captured(store: &Path, source: &Path, more: &[&str]) -> (Ran, Value) {
    let arguments = [&["capture", source.to_str().unwrap(), "--json", "--quiet"], more].concat();
    let ended = cas(store, &arguments);
    let last = ended.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (ended, last.unwrap_or_default())
}

/// What `show` has as bad ranges: offsets and lengths.
fn bad_ranges(store: &Path) -> Vec<(u64, u64)> {
    let shown = summary(&cas_ok(store, &["show", "latest", "--json"]));
    let ranges = shown["source"]["bad_ranges"].as_array().unwrap().clone();
    ranges.iter().map(|it| (it["offset"].as_u64().unwrap(), it["bytes"].as_u64().unwrap())).collect()
}

/// Restores the newest image, which is incomplete, and compares all but its bad ranges, which must be zeros.
fn assert_rest_is_there(store: &Path, folder: &Path, mut expected: Vec<u8>, bad: &[(u64, u64)]) {
    let back = folder.join("back.img");
    let ended = cas(store, &["restore", "latest", back.to_str().unwrap()]);
    assert_eq!(ended.code, 3, "{ended:?}");
    for (offset, bytes) in bad {
        let start = usize::try_from(*offset).unwrap();
        expected[start..start + usize::try_from(*bytes).unwrap()].fill(0);
    }
    assert!(fs::read(&back).unwrap() == expected, "the restored image differs outside its bad ranges");
}

/// A disk image on a filesystem that checks what it reads, one block of which has gone bad.
struct BadDisk {
    device: Loop,
    _mount: Mount,
    _below: Loop,
}

impl BadDisk {
    /// A device of these bytes, on which the 4 KiB at `bad` cannot be read.
    fn new(folder: &Path, bytes: &[u8], bad: usize) -> BadDisk {
        let below_file = folder.join("below.img");
        let below = Loop::blank(&below_file, 192 * MIB, &[]);
        run("mkfs.btrfs", &["-q", "-m", "single", "-d", "single", below.text()]);
        let at = folder.join("below");
        let mount = Mount::new(below.node(), &at, &[]);
        fs::write(at.join("disk.img"), bytes).unwrap();
        drop(mount);
        spoil(&below_file, &bytes[bad..bad + 4096]);
        let mount = Mount::new(below.node(), &at, &[]);
        let device = Loop::new(&at.join("disk.img"), &["--read-only"]);
        BadDisk { device, _mount: mount, _below: below }
    }
}

/// Changes the one place where a file holds this block.
fn spoil(file: &Path, block: &[u8]) {
    let content = fs::read(file).unwrap();
    let places: Vec<usize> =
        (0..content.len()).step_by(4096).filter(|at| &content[*at..*at + 4096] == block).collect();
    assert_eq!(places.len(), 1, "{places:?}");
    File::options()
        .write(true)
        .open(file)
        .unwrap()
        .write_all_at(&[0x5a; 64], places[0] as u64 + 512)
        .unwrap();
}

#[test]
fn root_an_unreadable_block_is_a_bad_range_and_the_rest_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let (bytes, bad) = (noise(11, 24 << 20), 9 * (1 << 20) + 5 * 4096);
    let disk = BadDisk::new(folder.path(), &bytes, bad);
    let (ended, said) = captured(&store, disk.device.node(), &[]);
    assert_eq!(ended.code, 3, "{ended:?}");
    let expected = [(bad as u64, 4096)];
    assert_eq!(said["bad_bytes"], 4096);
    assert_eq!(bad_ranges(&store), expected);
    let shown = cas_ok(&store, &["show", "latest"]);
    let (first, last) = (bad / 512, bad / 512 + 7);
    assert!(shown.contains(&format!("sectors {first} to {last}: offset {bad:#x}")), "{shown}");
    assert_rest_is_there(&store, folder.path(), bytes, &expected);
}

#[test]
fn root_a_device_that_ends_early_is_bad_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let (file, bytes) = (folder.path().join("cut.img"), noise(12, 2 << 20));
    fs::write(&file, &bytes).unwrap();
    let device = Loop::new(&file, &["--read-only"]);
    let cut = (2 << 20) - (64 << 10);
    File::options().write(true).open(&file).unwrap().set_len(cut).unwrap();
    let (ended, _) = captured(&store, device.node(), &[]);
    assert_eq!(ended.code, 3, "{ended:?}");
    let expected = [(cut, 64 << 10)];
    assert_eq!(bad_ranges(&store), expected);
    assert_rest_is_there(&store, folder.path(), bytes, &expected);
}

#[test]
fn a_file_that_shrinks_meanwhile_is_an_error_with_its_offset() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let file = folder.path().join("shrinks.img");
    fs::write(&file, noise(13, 256 << 20)).unwrap();
    let arguments = ["capture", file.to_str().unwrap(), "--threads", "1", "--compression", "max"];
    let child =
        command(&store).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first pack is there: reading has begun, and is far from its end.
    while folder_bytes(&store.join("packs")) == 0 {
        std::thread::yield_now();
    }
    File::options().write(true).open(&file).unwrap().set_len(100 * MIB / 3).unwrap();
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("offset 0x"), "{ended:?}");
    assert_eq!(summary(&cas_ok(&store, &["images", "--json"])), json!([]));
}

/// A disk of two ext4 partitions, the second mounted.
struct InUse {
    folder: tempfile::TempDir,
    mount: Mount,
    device: Loop,
}

impl InUse {
    fn new() -> InUse {
        let folder = tempfile::tempdir().unwrap();
        let device = Loop::blank(&folder.path().join("disk.img"), 96 * MIB, &[]);
        run("sgdisk", &["-n1:0:+16M", "-n2:0:0", device.text()]);
        for number in [1, 2] {
            run("mkfs.ext4", &["-q", "-F", device.partition(number).to_str().unwrap()]);
        }
        let mount = Mount::new(&device.partition(2), &folder.path().join("mounted"), &[]);
        InUse { folder, mount, device }
    }
}

#[test]
fn root_a_mounted_source_is_refused_or_marked() {
    let disk = InUse::new();
    let store = store_in(disk.folder.path());
    for source in [disk.device.node().to_path_buf(), disk.device.partition(2)] {
        let ended = captured(&store, &source, &[]).0;
        assert_eq!(ended.code, 5, "{ended:?}");
        let said = ended.stdout + &ended.stderr;
        assert!(said.contains("mounted read-write at") && said.contains("--allow-mounted"), "{said}");
    }
    assert_eq!(summary(&cas_ok(&store, &["images", "--json"])), json!([]));
    let (ended, said) = captured(&store, disk.device.node(), &["--allow-mounted"]);
    assert_eq!((ended.code, &said["consistent"]), (0, &json!(false)), "{ended:?}");
    let listed = summary(&cas_ok(&store, &["images", "--json"]));
    assert_eq!(listed[0]["consistent"], false);
    assert!(cas_ok(&store, &["images"]).contains("not consistent"));
    assert!(cas_ok(&store, &["show", "latest"]).contains("mounted read-write meanwhile"));
    run("mount", &["-o", "remount,ro", disk.mount.folder().to_str().unwrap()]);
    let (ended, said) = captured(&store, disk.device.node(), &[]);
    assert_eq!((ended.code, &said["consistent"]), (0, &json!(true)), "{ended:?}");
}

#[test]
fn root_a_store_on_the_source_is_refused_unless_left_out() {
    let disk = InUse::new();
    let store = store_in(disk.mount.folder());
    let (ended, _) = captured(&store, disk.device.node(), &["--allow-mounted"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    let said = ended.stdout + &ended.stderr;
    assert!(
        said.contains("partition 2: holds the store") && said.contains("--exclude-partition 2"),
        "{said}"
    );
    let ended = cas(&store, &["capture", disk.device.text(), "--exclude-partition", "2"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("when this disk dies, both are gone"), "{ended:?}");
    let shown = summary(&cas_ok(&store, &["show", "latest", "--json"]));
    assert_eq!(shown["source"]["excluded"], json!([2]));
    assert!(
        cas_ok(&store, &["show", "latest"])
            .lines()
            .any(|line| line.starts_with("left out") && line.ends_with("partition 2"))
    );
    assert_only_the_first_partition_is_in(&store, &disk);
}

fn assert_only_the_first_partition_is_in(store: &Path, disk: &InUse) {
    let back = disk.folder.path().join("back.img");
    cas_ok(store, &["restore", "latest", back.to_str().unwrap()]);
    let back = fs::read(back).unwrap();
    let first = fs::read(disk.device.partition(1)).unwrap();
    let start = 1 << 20;
    assert!(back[start..start + first.len()] == first[..], "partition 1 differs");
    let second = start + first.len();
    assert!(back[second..back.len() - 34 * 512].iter().all(|byte| *byte == 0), "partition 2 is in the image");
}

#[test]
fn root_a_store_on_another_partition_of_the_disk_is_a_warning() {
    let disk = InUse::new();
    let store = store_in(disk.mount.folder());
    let ended = cas(&store, &["capture", disk.device.partition(1).to_str().unwrap()]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("when this disk dies, both are gone"), "{ended:?}");
}

//! Used blocks only, on real filesystems: what they keep comes back on a target full of something else, and what they
//! don't use is not read.
//!
//! Promise: the filesystems' own checkers and drivers judge. Knows nothing of which blocks are free: `disk`'s oracle does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::disks::{Disk, assert_same, noise};
use tests::{Loop, Mount, cas, cas_ok, run, summary};

const MIB: u64 = 1 << 20;

fn store_in(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    store
}

fn capture(store: &Path, source: &Path, more: &[&str]) -> serde_json::Value {
    summary(&cas_ok(store, &[&["capture", source.to_str().unwrap(), "--json", "--quiet"], more].concat()))
}

/// A device full of noise.
fn foreign_device(file: &Path, bytes: u64) -> Loop {
    let image = File::create(file).unwrap();
    let piece = noise(77, usize::try_from(MIB).unwrap());
    (0..bytes).step_by(piece.len()).for_each(|at| image.write_all_at(&piece, at).unwrap());
    image.set_len(bytes).unwrap();
    Loop::new(file, &[])
}

fn volumes_of(store: &Path, image: &str) -> Vec<serde_json::Value> {
    let shown = summary(&cas_ok(store, &["show", image, "--json"]));
    shown["source"]["volume_use"].as_array().unwrap_or_else(|| panic!("{shown}")).clone()
}

/// Captured when files had come and gone, restored over noise: checked, compared file by file, verified both ways.
fn there_and_back(folder: &Path, disk: &Disk, bytes: u64) {
    let store = store_in(folder);
    disk.fill(3, bytes);
    disk.change(5, bytes);
    let said = capture(&store, disk.device.node(), &[]);
    let image = said["image"].as_str().unwrap();
    let size = fs::metadata(&disk.file).unwrap().len();
    let (read, unused) = (said["bytes_read"].as_u64().unwrap(), said["unused_bytes"].as_u64().unwrap());
    assert_eq!(read + unused, size);
    let volumes = volumes_of(&store, image);
    assert_eq!(volumes.len(), disk.volumes.len());
    let free: u64 = volumes.iter().map(|volume| volume["free_bytes"].as_u64().unwrap()).sum();
    for volume in &volumes {
        assert!(volume["doubt"].is_null() && volume["kind"].is_string(), "{volume}");
        assert!(volume["free_bytes"].as_u64() > Some(MIB), "{volume}");
    }
    assert_eq!(unused, free, "what lies between volumes is read");
    println!("{} of {} MiB were read", read / MIB, size / MIB);

    let file = folder.join("target.img");
    let target = foreign_device(&file, size);
    cas_ok(&store, &["restore", image, target.text(), "--yes", "--quiet", "--verify"]);
    disk.check_on(&target);
    disk.assert_same_files(&target, &folder.join("mounts"));
    for device in [&target, &disk.device] {
        cas_ok(&store, &["verify", image, "--against", device.text(), "--quiet"]);
    }
    assert_eq!(volumes_of(&store, "latest"), volumes, "the image knows what it left out");

    // The restored disk gives the same image: no new chunk.
    let again = capture(&store, target.node(), &["--name", "restored"]);
    assert_eq!((again["new_bytes"].as_u64(), again["unused_bytes"].as_u64()), (Some(0), Some(unused)));

    let raw = capture(&store, disk.device.node(), &["--raw", "--name", "raw"]);
    assert_eq!(raw["bytes_read"].as_u64(), Some(size));
    cas_ok(&store, &["restore", raw["image"].as_str().unwrap(), target.text(), "--yes", "--quiet"]);
    assert_same(&file, &disk.file);
    let out = cas(&store, &["show", raw["image"].as_str().unwrap()]).stdout;
    assert!(out.lines().any(|line| line.starts_with("blocks") && line.ends_with("every sector")), "{out}");
}

#[test]
fn a_gpt_disk_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::gpt(folder.path(), "512");
    there_and_back(folder.path(), &disk, 12 * MIB);
}

#[test]
fn an_mbr_disk_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::mbr(folder.path());
    there_and_back(folder.path(), &disk, 8 * MIB);
}

/// Mounted in another namespace, it is in no list; btrfs has no mark of it either.
#[test]
fn a_volume_that_somebody_holds_unseen_is_taken_whole_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let device = Loop::blank(&folder.path().join("disk.img"), 128 * MIB, &[]);
    run("mkfs.btrfs", &["-q", "-f", device.text()]);
    let at = folder.path().join("mount");
    fs::create_dir(&at).unwrap();
    let script = "mount \"$0\" \"$1\" && echo held; read -r until_closed; umount \"$1\"";
    let mut holder = Command::new("unshare")
        .args(["-m", "sh", "-c", script, device.text(), at.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let held = capture(&store, device.node(), &[]);
    assert_eq!(held["unused_bytes"].as_u64(), Some(0), "{held}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let free = capture(&store, device.node(), &[]);
    assert!(free["unused_bytes"].as_u64() > Some(64 * MIB), "{free}");
}

/// Captured as a power cut leaves it: the journal must be replayed first, so all of that volume is taken, and it is said.
#[test]
fn a_volume_in_doubt_is_taken_whole_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let (file, cut) = (folder.path().join("whole.img"), folder.path().join("cut.img"));
    let device = Loop::blank(&file, 64 * MIB, &[]);
    run("mkfs.ext4", &["-q", "-F", device.text()]);
    let mount = Mount::new(device.node(), &folder.path().join("mount"), &[]);
    fs::write(mount.folder().join("kept"), noise(1, 300_000)).unwrap();
    run("sync", &["-f", mount.folder().to_str().unwrap()]);
    fs::copy(&file, &cut).unwrap();
    let refused = cas(&store, &["capture", device.text()]);
    assert_eq!(refused.code, 5, "mounted read-write");
    let live = capture(&store, device.node(), &["--allow-mounted"]);
    assert_eq!(live["unused_bytes"].as_u64(), Some(0), "what is free now may be used in a moment");
    drop(mount);
    let ran = cas(&store, &["capture", cut.to_str().unwrap(), "--name", "cut"]);
    assert_eq!(ran.code, 0);
    let line = "every sector is read: the journal must be replayed first: mount and unmount it once";
    assert!(ran.stderr.contains(line), "{}", ran.stderr);
    let copy = folder.path().join("copy.img");
    cas_ok(&store, &["restore", "latest", copy.to_str().unwrap(), "--quiet"]);
    assert_same(&copy, &cut);
    let clean = capture(&store, device.node(), &["--dry-run"]);
    assert!(clean["unused_bytes"].as_u64() > Some(32 * MIB), "{clean}");
}

//! A store whose disk fills up: real filesystems of a few dozen megabytes, filled to the last block.
//!
//! Promise: a capture that meets a full disk ends with exit 7 and a way out; older images stay whole, and `forget` and
//! `gc` work with no free byte left. Knows nothing of the reserve that makes this possible.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tests::{Loop, Mount, Ran, capture, cas, cas_ok, command, sh};

use crate::kills::Dice;

const MIB: usize = 1 << 20;

/// A store on a filesystem of its own, and disks beside it. Fields go in this order: unmount, detach, remove.
struct Narrow {
    mount: Mount,
    _device: Option<Loop>,
    folder: TempDir,
    dice: Dice,
}

impl Narrow {
    fn ext4(megabytes: u64, seed: u64) -> Narrow {
        let folder = TempDir::with_prefix("cas-full-").unwrap();
        let device = Loop::blank(&folder.path().join("ext4.img"), megabytes << 20, &[]);
        sh(&format!("mkfs.ext4 -q {}", device.text()));
        let mount = Mount::new(device.node(), &folder.path().join("mnt"), &[]);
        Narrow::with_store(mount, Some(device), folder, seed)
    }

    fn tmpfs(megabytes: u64, seed: u64) -> Narrow {
        let folder = TempDir::with_prefix("cas-full-").unwrap();
        let size = format!("size={megabytes}m");
        let mount =
            Mount::new(Path::new("cas-test"), &folder.path().join("mnt"), &["-t", "tmpfs", "-o", &size]);
        Narrow::with_store(mount, None, folder, seed)
    }

    fn with_store(mount: Mount, device: Option<Loop>, folder: TempDir, seed: u64) -> Narrow {
        println!("seed {seed:#x}");
        let narrow = Narrow { mount, _device: device, folder, dice: Dice(seed) };
        cas_ok(&narrow.store(), &["init"]);
        narrow
    }

    fn store(&self) -> PathBuf {
        self.mount.folder().join("store")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        cas_ok(&self.store(), arguments)
    }

    fn noise(&mut self, name: &str, bytes: usize) -> (PathBuf, Vec<u8>) {
        let noise = self.dice.noise(bytes);
        (self.disk(name, &noise), noise)
    }

    fn disk(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn capture(&self, disk: &Path) -> String {
        capture(&self.store(), disk, &[])
    }

    fn try_capture(&self, disk: &Path) -> Ran {
        cas(&self.store(), &["capture", disk.to_str().unwrap()])
    }

    /// To the last byte: blocks that only root may use too.
    fn fill(&self) {
        let filler = self.filler();
        let filler = filler.display();
        sh(&format!("dd if=/dev/zero of={filler} bs=1M status=none 2>/dev/null || true"));
        for n in 0..3 {
            sh(&format!("dd if=/dev/zero of={filler}{n} bs=512 status=none 2>/dev/null || true"));
        }
        sh("sync");
    }

    fn filler(&self) -> PathBuf {
        self.mount.folder().join("filler")
    }

    fn give_room(&self) {
        sh(&format!("rm -f {}*", self.filler().display()));
    }

    fn whole(&self, image: &str, content: &[u8]) {
        let output = command(&self.store()).args(["restore", image, "-"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == content, "image {image} is not what was captured");
        self.ok(&["verify", image]);
    }

    fn gc(&self) -> Value {
        serde_json::from_str(self.ok(&["gc", "--json"]).lines().last().unwrap()).unwrap()
    }
}

fn is_full(ran: &Ran) {
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(ran.stderr.contains("hint: ") && ran.stderr.contains("cas gc"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

/// Fills up during a capture, then with a filler; is collected while full; has room again.
fn fills_up(mut narrow: Narrow) {
    let (first_disk, first) = narrow.noise("first.img", 14 * MIB);
    let (second_disk, second) = narrow.noise("second.img", 10 * MIB);
    let (large_disk, large) = narrow.noise("large.img", 90 * MIB);
    let (first_image, second_image) = (narrow.capture(&first_disk), narrow.capture(&second_disk));

    is_full(&narrow.try_capture(&large_disk));
    let images: Value = serde_json::from_str(&narrow.ok(&["images", "--json"])).unwrap();
    assert_eq!(images.as_array().unwrap().len(), 2, "{images}");
    narrow.whole(&first_image, &first);
    narrow.whole(&second_image, &second);

    narrow.fill();
    is_full(&narrow.try_capture(&large_disk));
    narrow.ok(&["images"]);
    narrow.whole(&first_image, &first);
    narrow.ok(&["forget", &first_image]);
    let report = narrow.gc();
    assert!(report["bytes_freed"].as_u64().unwrap() > 13 << 20, "{report}");
    narrow.whole(&second_image, &second);
    narrow.ok(&["scrub"]);

    narrow.give_room();
    let (room_disk, room) = (narrow.disk("room.img", &large[..20 * MIB]), &large[..20 * MIB]);
    let room_image = narrow.capture(&room_disk);
    narrow.whole(&room_image, room);
    narrow.whole(&second_image, &second);
    narrow.ok(&["gc"]);
    narrow.ok(&["scrub"]);
}

#[test]
fn full_ext4_fills_up_is_collected_and_has_room_again_needs_root() {
    fills_up(Narrow::ext4(80, 0xf011_0001));
}

#[test]
fn full_tmpfs_fills_up_is_collected_and_has_room_again_needs_root() {
    fills_up(Narrow::tmpfs(64, 0xf011_0002));
}

/// One image is all dead, of another a half is needed: the first gives the room in which the second is rewritten.
fn dead_packs_go_first(mut narrow: Narrow) {
    let (dead_disk, _) = narrow.noise("dead.img", 12 * MIB);
    let (disk, mut content) = narrow.noise("disk.img", 12 * MIB);
    let dead = narrow.capture(&dead_disk);
    let old = narrow.capture(&disk);
    let noise = narrow.dice.noise(6 * MIB);
    content[..6 * MIB].copy_from_slice(&noise);
    fs::write(&disk, &content).unwrap();
    let new = narrow.capture(&disk);
    narrow.fill();

    narrow.ok(&["forget", &dead, &old]);
    let report = narrow.gc();
    assert!(report["packs_rewritten"].as_u64().unwrap() > 0, "{report}");
    assert!(report["bytes_freed"].as_u64().unwrap() > 17 << 20, "{report}");
    narrow.whole(&new, &content);
    narrow.ok(&["scrub"]);
    narrow.give_room();
    narrow.capture(&dead_disk);
    narrow.ok(&["scrub"]);
}

#[test]
fn full_gc_frees_dead_packs_before_it_copies_ext4_needs_root() {
    dead_packs_go_first(Narrow::ext4(80, 0xf011_0003));
}

#[test]
fn full_gc_frees_dead_packs_before_it_copies_tmpfs_needs_root() {
    dead_packs_go_first(Narrow::tmpfs(64, 0xf011_0004));
}

#[test]
fn full_gc_that_finds_no_room_to_copy_loses_nothing_needs_root() {
    let mut narrow = Narrow::ext4(80, 0xf011_0005);
    let (disk, mut content) = narrow.noise("disk.img", 20 * MIB);
    let old = narrow.capture(&disk);
    let noise = narrow.dice.noise(10 * MIB);
    content[..10 * MIB].copy_from_slice(&noise);
    fs::write(&disk, &content).unwrap();
    let new = narrow.capture(&disk);
    narrow.ok(&["forget", &old]);
    narrow.fill();

    let ran = cas(&narrow.store(), &["gc"]);
    is_full(&ran);
    narrow.whole(&new, &content);
    narrow.ok(&["scrub"]);
    narrow.give_room();
    let report = narrow.gc();
    assert!(report["bytes_freed"].as_u64().unwrap() > 9 << 20, "{report}");
    narrow.whole(&new, &content);
    narrow.ok(&["scrub"]);
}

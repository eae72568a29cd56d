//! Many processes: readers need no lock beside a capture or a collection; a second writer waits or is told by whom.
//!
//! Promise: the writer is held still at a known moment (its input is kept waiting, or it is stopped), so that the readers
//! are beside it and not before or after. Knows nothing of what happens when processes die.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use tests::disks::{assert_same, folder_bytes, noise};
use tests::{Ran, capture, cas, cas_ok, command, ran, run};

/// A store with an image, and the file that it is of.
struct World {
    folder: tempfile::TempDir,
    store: PathBuf,
    source: PathBuf,
    image: String,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        cas_ok(&store, &["init", store.to_str().unwrap()]);
        let source = folder.path().join("old.img");
        fs::write(&source, noise(21, 24 << 20)).unwrap();
        let image = capture(&store, &source, &[]);
        World { folder, store, source, image }
    }

    /// Everything that only reads works, and gives what it always gave.
    fn assert_readable_at(&self, store: &Path) {
        let back = self.folder.path().join("back.img");
        cas_ok(store, &["restore", &self.image, back.to_str().unwrap(), "--yes"]);
        assert_same(&back, &self.source);
        fs::remove_file(&back).unwrap();
        cas_ok(store, &["verify", &self.image]);
        assert!(cas_ok(store, &["images"]).contains(&self.image[..8]));
        assert!(cas_ok(store, &["show", &self.image]).contains(&self.image));
        assert!(cas_ok(store, &["stats", "--json"]).contains(&self.image));
    }

    /// A capture that has begun to write and waits for more input.
    fn capturing(&self) -> (Child, ChildStdin) {
        let before = folder_bytes(&self.store.join("packs"));
        let mut child = command(&self.store)
            .args(["capture", "-", "--name", "slow", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        for seed in 1000.. {
            input.write_all(&noise(seed, 4 << 20)).unwrap();
            if folder_bytes(&self.store.join("packs")) > before {
                break;
            }
        }
        (child, input)
    }

    fn ended(&self, child: Child) -> Ran {
        let ended = ran(child.wait_with_output().unwrap());
        assert_eq!(ended.code, 0, "{ended:?}");
        ended
    }
}

#[test]
fn readers_beside_a_running_capture() {
    let world = World::new();
    let (child, input) = world.capturing();
    world.assert_readable_at(&world.store);
    world.assert_readable_at(&world.store);
    drop(input);
    world.ended(child);
    world.assert_readable_at(&world.store);
    cas_ok(&world.store, &["verify", "latest"]);
}

#[test]
fn a_second_writer_is_told_who_holds_the_store_or_waits() {
    let world = World::new();
    let (child, input) = world.capturing();
    let source = world.source.to_str().unwrap();
    for arguments in [&["capture", source][..], &["gc"]] {
        let ended = cas(&world.store, arguments);
        assert_eq!(ended.code, 11, "{ended:?}");
        assert!(
            ended.stderr.contains("capture") && ended.stderr.contains(&child.id().to_string()),
            "{ended:?}"
        );
    }
    let waiting = command(&world.store)
        .args(["capture", source, "--lock-wait", "10m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    world.assert_readable_at(&world.store);
    drop(input);
    world.ended(child);
    world.ended(waiting);
    assert_eq!(cas_ok(&world.store, &["images"]).lines().count(), 4);
}

#[test]
fn readers_beside_a_running_gc() {
    let world = World::new();
    let other = world.folder.path().join("other.img");
    // Half of it is also in the image that stays: packs are rewritten, not only deleted.
    let mut bytes = fs::read(&world.source).unwrap();
    bytes.extend(noise(22, 40 << 20));
    let mut stops = 0;
    for round in 0..4_u64 {
        bytes[16 << 20..].rotate_left(4099);
        fs::write(&other, &bytes).unwrap();
        let gone = capture(&world.store, &other, &[]);
        cas_ok(&world.store, &["forget", &gone]);
        let before = fs::read_dir(world.store.join("packs")).unwrap().count();
        let mut gc = command(&world.store).args(["gc", "--quiet"]).stdout(Stdio::null()).spawn().unwrap();
        // Each round stops it at another of its steps, seen from the folder.
        let step = |name: &str| fs::read_dir(world.store.join(name)).map_or(0, Iterator::count) as u64;
        while gc.try_wait().unwrap().is_none() && step("sessions") + step("condemned") <= round / 2 {
            std::thread::yield_now();
        }
        if gc.try_wait().unwrap().is_none() {
            run("kill", &["-STOP", &gc.id().to_string()]);
            stops += 1;
            world.assert_readable_at(&world.store);
            run("kill", &["-CONT", &gc.id().to_string()]);
        }
        assert!(gc.wait().unwrap().success());
        assert!(fs::read_dir(world.store.join("packs")).unwrap().count() <= before);
        world.assert_readable_at(&world.store);
    }
    println!("gc was held still {stops} times of 4");
    assert!(stops > 0);
    cas_ok(&world.store, &["scrub"]);
}

/// The store, seen through a read-only mount.
struct Bound(PathBuf);

impl Bound {
    fn new(store: &Path, at: PathBuf) -> Bound {
        fs::create_dir(&at).unwrap();
        let text = at.to_str().unwrap();
        run("mount", &["-o", "bind,ro", store.to_str().unwrap(), text]);
        Bound(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg(&self.0).output().ok();
    }
}

#[test]
fn root_a_store_mounted_read_only_can_be_read() {
    let world = World::new();
    let bound = Bound::new(&world.store, world.folder.path().join("bound"));
    world.assert_readable_at(&bound.0);
    let ended = cas(&bound.0, &["capture", world.source.to_str().unwrap()]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.to_lowercase().contains("read-only"), "{ended:?}");
}

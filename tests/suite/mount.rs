//! `cas mount`: real kernels, real filesystems and many readers on images that stay in the store.
//!
//! Promise: whatever is read is the disk's own byte or an error; nothing is left mounted.
//! Knows nothing of FUSE.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use tests::disks::{Disk, assert_same};
use tests::{Loop, Mount, Ran, capture, cas, cas_ok, command, run};

use crate::kills::Dice;

const MIB: usize = 1 << 20;

/// A `cas mount` that is being served.
pub(crate) struct Served {
    child: Option<Child>,
    stdout: BufReader<std::process::ChildStdout>,
    folder: PathBuf,
}

impl Served {
    /// Starts it; returns when the folder is there.
    pub(crate) fn start(store: &Path, folder: &Path, more: &[&str]) -> Served {
        let mut command = command(store);
        command.arg("mount").arg(folder).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if !line.starts_with("mounted") {
            panic!("{line}{:?}", child.wait_with_output());
        }
        Served { child: Some(child), stdout, folder: folder.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn signal(&self, signal: &str) {
        let process = self.child.as_ref().unwrap().id().to_string();
        run("kill", &["-s", signal, &process]);
    }

    fn wait(mut self) -> Ran {
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        let ran = tests::ran(self.child.take().unwrap().wait_with_output().unwrap());
        Ran { stdout, ..ran }
    }

    /// Ends it.
    pub(crate) fn end(self, signal: &str) -> Ran {
        self.signal(signal);
        let folder = self.folder.clone();
        let ran = self.wait();
        assert!(!is_mounted(&folder));
        ran
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            Command::new("umount").arg("-l").arg(&self.folder).output().ok();
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn is_mounted(folder: &Path) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap().contains(folder.to_str().unwrap())
}

fn store_in(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    store
}

/// The folder of an image.
fn folder_of(served: &Served, image: &str) -> PathBuf {
    let names = fs::read_dir(&served.folder).unwrap().map(|entry| entry.unwrap().file_name());
    let name = names.map(|name| name.into_string().unwrap()).find(|name| image.starts_with(&name[..8]));
    served.path(&name.unwrap_or_else(|| panic!("no folder of {image}")))
}

/// A loop device that only reads.
fn attach(file: &Path) -> Loop {
    Loop::new(file, &["--read-only", "--direct-io=on"])
}

/// Many threads read at random places, through the page cache and past it; each byte is the plain file's.
fn read_at_random(file: &Path, plain: &[u8]) {
    const O_DIRECT: i32 = if cfg!(target_arch = "aarch64") { 0x10000 } else { 0x4000 };
    thread::scope(|scope| {
        for seed in 0..8 {
            scope.spawn(move || {
                let cached = File::open(file).unwrap();
                let direct = File::options().read(true).custom_flags(O_DIRECT).open(file).unwrap();
                let mut dice = Dice(seed * 77 + 5);
                let mut memory = vec![0; 400_000 + 4096];
                let start = memory.as_ptr().align_offset(4096);
                for round in 0..150 {
                    if round % 2 == 0 {
                        let at = dice.below(plain.len());
                        let length = (1 + dice.below(300_000)).min(plain.len() - at);
                        cached.read_exact_at(&mut memory[..length], at as u64).unwrap();
                        assert!(memory[..length] == plain[at..at + length], "{at} {length}");
                    } else {
                        let at = dice.below(plain.len() / 4096) * 4096;
                        let length = ((1 + dice.below(64)) * 4096).min((plain.len() - at) / 4096 * 4096);
                        let buf = &mut memory[start..start + length];
                        direct.read_exact_at(buf, at as u64).unwrap();
                        assert!(*buf == plain[at..at + length], "{at} {length}");
                    }
                }
            });
        }
    });
}

#[test]
fn mount_shows_disk_and_partitions_to_the_kernel_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let disk = Disk::gpt(folder.path(), "512");
    disk.fill(1, 8 << 20);
    let image = capture(&store, disk.device.node(), &["--raw", "--name", "disk"]);
    let served = Served::start(&store, &folder.path().join("images"), &[]);
    assert_eq!(fs::canonicalize(served.path("latest")).unwrap(), folder_of(&served, &image));
    let shown = served.path("latest/disk.img");
    assert_same(&shown, &disk.file);
    read_at_random(&shown, &fs::read(&disk.file).unwrap());
    for (number, kind) in &disk.volumes {
        let file = served.path(&format!("latest/p{number}.img"));
        let original = disk.device.partition(*number);
        run("cmp", &[file.to_str().unwrap(), original.to_str().unwrap()]);
        let attached = attach(&file);
        kind.check(attached.node());
        kind.assert_same_files(&original, attached.node(), &folder.path().join("compared"));
    }
    let attached = attach(&shown);
    disk.assert_same_files(&attached, &folder.path().join("compared"));
    drop(attached);
    let sparse = folder.path().join("sparse");
    run("cp", &["--sparse=auto", shown.to_str().unwrap(), sparse.to_str().unwrap()]);
    assert_same(&sparse, &disk.file);
    let blocks = |file: &Path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(file).unwrap()) * 512;
    assert!(blocks(&sparse) < 200 << 20, "{}", blocks(&sparse));
    assert!(fs::write(&shown, "x").is_err() && fs::remove_file(&shown).is_err());
    let ran = served.end("TERM");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!folder.path().join("images").exists());
}

#[test]
fn mount_goes_on_beside_capture_forget_and_gc_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let file = folder.path().join("disk.img");
    let mut dice = Dice(0x6d6f);
    let mut bytes = dice.noise(12 * MIB);
    let mut images = Vec::new();
    let mut contents = Vec::new();
    for round in 0..3 {
        bytes[round * 2 * MIB..][..MIB].copy_from_slice(&dice.noise(MIB));
        fs::write(&file, &bytes).unwrap();
        images.push(capture(&store, &file, &["--name", "disk"]));
        contents.push(bytes.clone());
    }
    let at = folder.path().join("images");
    fs::create_dir(&at).unwrap();
    let served = Served::start(&store, &at, &[]);
    let shown: Vec<PathBuf> = images.iter().map(|image| folder_of(&served, image).join("disk.img")).collect();
    assert!(fs::read(&shown[2]).unwrap() == contents[2]);
    cas_ok(&store, &["forget", &images[1]]);
    thread::scope(|scope| {
        scope.spawn(|| read_at_random(&shown[0], &contents[0]));
        bytes[5 * MIB..][..MIB].copy_from_slice(&dice.noise(MIB));
        fs::write(&file, &bytes).unwrap();
        capture(&store, &file, &["--name", "disk"]);
        cas_ok(&store, &["gc", "--quiet"]);
        cas_ok(&store, &["gc", "--quiet"]);
    });
    for number in [0, 2] {
        read_at_random(&shown[number], &contents[number]);
    }
    let ran = served.end("INT");
    assert_eq!((ran.code, at.exists()), (0, true), "{ran:?}");
}

#[test]
fn mount_of_a_damaged_image_gives_errors_and_no_wrong_byte_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let file = folder.path().join("disk.img");
    let bytes = Dice(0xda_4a6e).noise(8 * MIB);
    fs::write(&file, &bytes).unwrap();
    capture(&store, &file, &["--name", "disk"]);
    let packs = run("find", &[store.join("packs").to_str().unwrap(), "-type", "f", "-size", "+1M"]);
    for pack in packs.lines() {
        let pack = File::options().read(true).write(true).open(pack).unwrap();
        let mut byte = [0];
        pack.read_exact_at(&mut byte, 500_000).unwrap();
        pack.write_all_at(&[!byte[0]], 500_000).unwrap();
    }
    let served = Served::start(&store, &folder.path().join("images"), &["latest"]);
    let shown = fs::read_dir(&served.folder).unwrap().next().unwrap().unwrap().path().join("disk.img");
    let shown = File::open(shown).unwrap();
    let mut failed = 0;
    for at in (0..bytes.len()).step_by(4096) {
        let mut found = [0; 4096];
        match shown.read_exact_at(&mut found, at as u64) {
            Ok(()) => assert!(found == bytes[at..at + 4096], "{at}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5));
                failed += 1;
            }
        }
    }
    assert!((1..500).contains(&failed), "{failed}");
    drop(shown);
    let ran = served.end("INT");
    assert_eq!(ran.code, 4, "{ran:?}");
    let line = ran.stderr.lines().find(|line| line.contains("disk.img: image ")).unwrap();
    assert!(line.contains("offset 0x") && line.contains("chunk "), "{line}");
}

#[test]
fn mount_ends_when_it_should_and_refuses_what_it_must_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let file = folder.path().join("disk.img");
    fs::write(&file, Dice(5).noise(MIB)).unwrap();
    let at = folder.path().join("images");
    let mount = |more: &[&str]| cas(&store, &[&["mount", at.to_str().unwrap()], more].concat());
    let ran = mount(&[]);
    assert!(ran.code == 1 && ran.stderr.contains("no image fits"), "{ran:?}");
    let images = ["a", "b/c"].map(|name| capture(&store, &file, &["--name", name]));
    assert_eq!(mount(&["0000"]).code, 1);
    let full = cas(&store, &["mount", folder.path().to_str().unwrap()]);
    assert!(full.code == 2 && full.stderr.contains("expected an empty folder"), "{full:?}");

    let served = Served::start(&store, &at, &[]);
    for (name, image) in [("latest", 1), ("latest-a", 0), ("latest-b_c", 1)] {
        assert_eq!(fs::canonicalize(served.path(name)).unwrap(), folder_of(&served, &images[image]));
    }
    run("umount", &[at.to_str().unwrap()]);
    assert_eq!(served.wait().code, 0);

    // Someone is inside.
    let served = Served::start(&store, &at, &["latest~1"]);
    let inside = File::open(folder_of(&served, &images[0]).join("disk.img")).unwrap();
    let ran = served.end("INT");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(inside.read_exact_at(&mut [0; 10], 0).is_err());
    drop(inside);

    // Killed: the next one says what to do.
    let served = Served::start(&store, &at, &[]);
    served.signal("KILL");
    served.wait();
    let ran = mount(&[]);
    assert!(ran.code == 1 && ran.stderr.contains("umount"), "{ran:?}");
    drop(Mount::taken(&at));
    assert!(!is_mounted(&at));
}

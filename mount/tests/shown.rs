//! Devices shown as files, used by the filesystems' own tools and by the kernel. As root.
//!
//! Promise: what a test mounts is gone when it ends.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use disk::{Extent, FaultDevice, MemoryDevice, ReadAt, WriteAt};
use image::Overlay;
use mount::{Error, Shown, show, show_read_only};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Runs a tool, or says how to get it; its output.
fn run(package: &str, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap_or_else(|e| {
        panic!("{}: {e}: apt-get install -y --no-install-recommends {package}", words[0])
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{line}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Bytes that do not compress or repeat, the same for the same seed.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..count.div_ceil(8)).flat_map(|_| next()).take(count).collect()
}

/// An image of a filesystem, an overlay over it, and a folder to show it in.
struct Bench {
    folder: TempDir,
    base: PathBuf,
    before: Vec<u8>,
    overlay: Arc<Overlay>,
}

impl Bench {
    /// `make` makes a filesystem in a file of `base` MiB; the overlay has `size` MiB.
    fn new(base: u64, size: u64, make: impl FnOnce(&Path, &Path)) -> Bench {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("base.img");
        File::create(&file).unwrap().set_len(base * MIB).unwrap();
        make(folder.path(), &file);
        let before = fs::read(&file).unwrap();
        let device = Arc::new(disk::Device::open_buffered(&file).unwrap());
        let overlay = Arc::new(Overlay::temporary(device, size * MIB, folder.path()).unwrap());
        Bench { folder, base: file, before, overlay }
    }

    fn show(&self) -> Shown {
        show(self.overlay.clone(), "p1.img", self.folder.path()).unwrap()
    }

    /// Ends the show; nothing failed, nothing is left, and the base is as it was.
    fn end(self, shown: Shown) -> u64 {
        assert_eq!(shown.failures(), mount::Failures::default());
        drop(shown);
        assert_eq!(mounts_in(self.folder.path()), 0);
        assert_eq!(left_in(self.folder.path()), 0);
        assert!(fs::read(&self.base).unwrap() == self.before, "the base was written");
        self.overlay.written().iter().map(|extent| extent.bytes).sum()
    }
}

fn mounts_in(folder: &Path) -> usize {
    let folder = folder.canonicalize().unwrap();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().filter(|line| line.contains(folder.to_str().unwrap())).count()
}

fn left_in(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with("cas-shown-")).count()
}

/// Files of many sizes, and what they hold.
fn fill(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let sizes = [1, 100, 5000, 70_000, 3_000_000];
    let files = (0..40)
        .zip(sizes.into_iter().cycle())
        .map(|(number, size)| (format!("file{number}"), noise(number, size)));
    let files: Vec<(String, Vec<u8>)> = files.collect();
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in &files {
        fs::write(folder.join(name), bytes).unwrap();
    }
    files
}

fn check_filled(folder: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        assert!(fs::read(folder.join(name)).unwrap() == *bytes, "{name}");
    }
}

/// A loop mount of a file, unmounted when dropped.
struct LoopMount(PathBuf);

impl LoopMount {
    fn new(file: &Path, at: PathBuf, options: &str) -> LoopMount {
        fs::create_dir_all(&at).unwrap();
        run("mount", &format!("mount -o loop{options} {} {}", file.display(), at.display()));
        LoopMount(at)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn as_root_ext4_is_shrunk_in_an_overlay() {
    let mut files = Vec::new();
    let bench = Bench::new(256, 256, |folder, file| {
        files = fill(&folder.join("tree"));
        run("e2fsprogs", &format!("mkfs.ext4 -q -b 4096 -d {}/tree {}", folder.display(), file.display()));
    });
    let shown = bench.show();
    let path = shown.path().display().to_string();
    run("e2fsprogs", &format!("e2fsck -fy {path}"));
    run("e2fsprogs", &format!("resize2fs {path} 80M"));
    run("e2fsprogs", &format!("e2fsck -fn {path}"));
    assert!(run("e2fsprogs", &format!("dumpe2fs -h {path}")).contains("Block count:              20480"));
    let at = LoopMount::new(shown.path(), bench.folder.path().join("mnt"), ",ro");
    check_filled(&at.0, &files);
    drop(at);
    let written = bench.end(shown);
    assert!(written < 80 * MIB, "{written}");
}

#[test]
fn as_root_ntfs_is_shrunk_in_an_overlay() {
    let mut files = Vec::new();
    let bench = Bench::new(256, 256, |folder, file| {
        files = fill(&folder.join("tree"));
        run("ntfs-3g", &format!("mkntfs -q -F -f -C {}", file.display()));
        for (name, _) in &files {
            let (file, tree) = (file.display(), folder.join("tree"));
            run("ntfs-3g", &format!("ntfscp -f {file} {}/{name} {name}", tree.display()));
        }
    });
    let shown = bench.show();
    let path = shown.path().display().to_string();
    run("ntfs-3g", &format!("ntfsresize -P -f -f -s 80M {path}"));
    run("ntfs-3g", &format!("ntfsfix -d {path}"));
    run("ntfs-3g", &format!("ntfsresize -i -f {path}"));
    for (name, bytes) in &files {
        let output = Command::new("ntfscat").args(["-f", &path, name]).output().unwrap();
        assert!(output.stdout == *bytes, "{name}");
    }
    let written = bench.end(shown);
    assert!(written < 80 * MIB, "{written}");
}

#[test]
fn as_root_xfs_grows_mounted_in_an_overlay() {
    let bench = Bench::new(320, 420, |_, file| {
        run("xfsprogs", &format!("mkfs.xfs -q {}", file.display()));
    });
    let shown = bench.show();
    let at = LoopMount::new(shown.path(), bench.folder.path().join("mnt"), "");
    let files = fill(&at.0);
    run("xfsprogs", &format!("xfs_growfs {}", at.0.display()));
    drop(at);
    run("xfsprogs", &format!("xfs_repair -n {}", shown.path().display()));
    let at = LoopMount::new(shown.path(), bench.folder.path().join("mnt"), ",ro");
    check_filled(&at.0, &files);
    drop(at);
    let written = bench.end(shown);
    assert!(written < 150 * MIB, "{written}");
}

#[test]
fn as_root_btrfs_shrinks_mounted_in_an_overlay() {
    let bench = Bench::new(400, 400, |_, file| {
        run("btrfs-progs", &format!("mkfs.btrfs -q {}", file.display()));
    });
    let shown = bench.show();
    let at = LoopMount::new(shown.path(), bench.folder.path().join("mnt"), "");
    let files = fill(&at.0);
    run("btrfs-progs", &format!("btrfs filesystem resize 300M {}", at.0.display()));
    drop(at);
    run("btrfs-progs", &format!("btrfs check {}", shown.path().display()));
    let at = LoopMount::new(shown.path(), bench.folder.path().join("mnt"), ",ro");
    check_filled(&at.0, &files);
    drop(at);
    let written = bench.end(shown);
    assert!(written < 200 * MIB, "{written}");
}

#[test]
fn as_root_a_loop_device_past_the_page_cache_reads_and_writes() {
    let device = Arc::new(MemoryDevice::new(noise(3, 24 << 20)));
    let folder = TempDir::new().unwrap();
    let shown = show(device.clone(), "disk.img", folder.path()).unwrap();
    let line = format!("losetup -f --show --direct-io=on {}", shown.path().display());
    let name = run("mount", &line).trim().to_owned();
    let read = fs::read(&name);
    let written = OpenOptions::new().write(true).open(&name).and_then(|file| {
        file.write_all_at(&[9; 8192], 4096)?;
        file.sync_all()
    });
    run("mount", &format!("losetup -d {name}"));
    assert!(read.unwrap() == noise(3, 24 << 20));
    written.unwrap();
    assert_eq!(device.to_vec()[4096..12_288], [9; 8192]);
}

#[test]
fn as_root_holes_are_seen_made_and_copied() {
    let folder = TempDir::new().unwrap();
    let base = Arc::new(MemoryDevice::zeros(0));
    let overlay = Arc::new(Overlay::temporary(base, 64 * MIB, folder.path()).unwrap());
    overlay.write_all_at(MIB, &noise(1, 3 << 20)).unwrap();
    let shown = show(overlay.clone(), "disk.img", folder.path()).unwrap();
    let path = shown.path().display().to_string();
    let copy = folder.path().join("copy");
    run("coreutils", &format!("cp --sparse=auto {path} {}", copy.display()));
    assert!(fs::read(&copy).unwrap() == fs::read(shown.path()).unwrap());
    let kilobytes: u64 =
        run("coreutils", &format!("du -k {}", copy.display())).split_once('\t').unwrap().0.parse().unwrap();
    assert!(kilobytes < 4096, "{kilobytes}");
    run("util-linux", &format!("fallocate -p -o 1500000 -l 500000 {path}"));
    run("util-linux", &format!("fallocate -z -o 3000000 -l 100000 {path}"));
    let mut expected = vec![0; 64 << 20];
    expected[1 << 20..4 << 20].copy_from_slice(&noise(1, 3 << 20));
    expected[1_500_000..2_000_000].fill(0);
    expected[3_000_000..3_100_000].fill(0);
    assert!(fs::read(shown.path()).unwrap() == expected);
    let mut found = vec![1; 64 << 20];
    overlay.read_exact_at(0, &mut found).unwrap();
    assert!(found == expected);
    assert_eq!(overlay.next_data(1_503_232).unwrap().unwrap().offset, 1_998_848);
}

#[test]
fn as_root_nobody_can_change_its_size_or_write_what_is_read_only() {
    let folder = TempDir::new().unwrap();
    let device = Arc::new(MemoryDevice::new(noise(2, 1 << 20)));
    let shown = show(device.clone(), "disk.img", folder.path()).unwrap();
    let file = OpenOptions::new().write(true).open(shown.path()).unwrap();
    assert!(file.set_len(0).is_err() && file.set_len(MIB + 1).is_err());
    assert!(file.write_all_at(&[1; 2], MIB).is_err());
    assert!(File::create(shown.path()).is_err());
    assert!(fs::remove_file(shown.path()).is_err());
    assert!(fs::write(shown.path().with_file_name("other"), "x").is_err());
    drop(file);
    let read_only = show_read_only(device, "disk.img", folder.path()).unwrap();
    assert!(OpenOptions::new().write(true).open(read_only.path()).is_err());
    assert!(fs::read(read_only.path()).unwrap() == noise(2, 1 << 20));
    for name in ["", ".", "..", "a/b", "/a"] {
        let shown = show(Arc::new(MemoryDevice::zeros(1)), name, folder.path());
        assert!(matches!(shown, Err(Error::Name { .. })), "{name}");
    }
}

#[test]
fn as_root_a_failure_is_an_error_and_is_told() {
    let folder = TempDir::new().unwrap();
    let bad = Extent { offset: 8 * MIB, bytes: 512 };
    let device = Arc::new(FaultDevice::new(MemoryDevice::new(noise(4, 16 << 20)), vec![bad]));
    let shown = show(device, "disk.img", folder.path()).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(shown.path()).unwrap();
    let mut buf = vec![0; 4096];
    assert_eq!(file.read_exact_at(&mut buf, 8 * MIB).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(file.write_all_at(&buf, 8 * MIB).unwrap_err().raw_os_error(), Some(5));
    file.read_exact_at(&mut buf, 12 * MIB).unwrap();
    assert!(buf == noise(4, 16 << 20)[12 << 20..(12 << 20) + 4096]);
    let failures = shown.failures();
    assert!(failures.count >= 2, "{failures:?}");
    let first = failures.first.unwrap();
    assert!(first.starts_with("disk.img: fault, offset 0x") && first.contains("unreadable"), "{first}");
}

#[test]
fn as_root_who_is_still_there_may_go_on() {
    let folder = TempDir::new().unwrap();
    let shown = show(Arc::new(MemoryDevice::new(noise(5, 1 << 20))), "disk.img", folder.path()).unwrap();
    let file = File::open(shown.path()).unwrap();
    drop(shown);
    assert_eq!((mounts_in(folder.path()), left_in(folder.path())), (0, 0));
    let mut buf = vec![0; 1 << 20];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert!(buf == noise(5, 1 << 20));
}

/// Not a test of its own: what the next test starts, and kills.
#[test]
fn as_root_a_child_that_shows() {
    let Some(folder) = std::env::var_os("CAS_TEST_SHOW_IN") else { return };
    let shown = show(Arc::new(MemoryDevice::zeros(4096)), "disk.img", folder.as_ref()).unwrap();
    println!("\nshown {}", shown.path().display());
    std::io::stdin().lines().count();
}

#[test]
fn as_root_what_a_killed_process_left_is_swept_away() {
    let folder = TempDir::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "as_root_a_child_that_shows", "--nocapture"])
        .env("CAS_TEST_SHOW_IN", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let path =
        lines.map(|line| line.unwrap()).find_map(|line| line.strip_prefix("shown ").map(PathBuf::from));
    assert_eq!(fs::read(path.unwrap()).unwrap(), [0; 4096]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((mounts_in(folder.path()), left_in(folder.path())), (1, 1));
    let shown = show(Arc::new(MemoryDevice::zeros(1)), "x", folder.path()).unwrap();
    assert_eq!((mounts_in(folder.path()), left_in(folder.path())), (1, 1));
    drop(shown);
    assert_eq!((mounts_in(folder.path()), left_in(folder.path())), (0, 0));
}

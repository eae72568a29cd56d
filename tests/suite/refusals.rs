//! What a restore refuses: one test for each check, and for the way out where there is one.
//!
//! Promise: after each refusal the target and every other device of the test are what they were, bit by bit, and the
//! dry run says the same as the real one. Knows nothing of what is written when nothing speaks against it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::disks::noise;
use tests::{Loop, Mount, Ran, capture, cas, cas_ok, ran, run};

const MIB: u64 = 1 << 20;
const IMAGE_BYTES: u64 = 4 * MIB;

/// A store with an image, a disk of two partitions to restore to, and a disk that nobody mentions.
struct Bench {
    folder: tempfile::TempDir,
    store: PathBuf,
    image: String,
    target: Loop,
    _other: Loop,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let store = at("store");
        cas_ok(&store, &["init", store.to_str().unwrap()]);
        let source = at("source.bin");
        fs::write(&source, noise(31, 4 << 20)).unwrap();
        let image = capture(&store, &source, &[]);
        let target = Loop::blank(&at("target.img"), 32 * MIB, &[]);
        run("sgdisk", &["-n1:0:+12M", "-n2:0:0", target.text()]);
        for number in [1, 2] {
            let node = target.partition(number);
            run(
                "mkfs.ext4",
                &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", node.to_str().unwrap()],
            );
        }
        fs::write(at("other.img"), noise(32, 4 << 20)).unwrap();
        let other = Loop::new(&at("other.img"), &[]);
        Bench { folder, store, image, target, _other: other }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn restore(&self, target: &Path, more: &[&str]) -> Ran {
        cas(&self.store, &[&["restore", &self.image, target.to_str().unwrap()], more].concat())
    }

    /// Everything that can be written to by mistake.
    fn disks(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = names.filter(|path| path.extension().is_some_and(|it| it == "img"));
        files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// Refused with this code and words, dry or not, and nothing is touched.
    #[track_caller]
    fn assert_refused(&self, target: &Path, more: &[&str], code: i32, words: &[&str]) {
        let before = self.disks();
        for last in ["-n", "--yes"] {
            let ended = self.restore(target, &[more, &[last]].concat());
            assert_eq!(ended.code, code, "{last}: {ended:?}");
            for word in words {
                assert!(ended.stderr.contains(word), "{word:?} in {ended:?}");
            }
            assert!(ended.stderr.contains("hint: "), "{ended:?}");
            assert!(self.disks() == before, "{last}: a disk changed");
        }
    }

    /// Now that nothing speaks against it.
    #[track_caller]
    fn assert_restored(&self, target: &Path, more: &[&str]) {
        let ended = self.restore(target, &[more, &["--yes"]].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
        let mut found = vec![0; 4 << 20];
        std::io::Read::read_exact(&mut File::open(target).unwrap(), &mut found).unwrap();
        assert!(found == noise(31, 4 << 20), "the target does not hold the image");
    }
}

#[test]
fn root_a_disk_with_a_mounted_partition_is_refused() {
    let bench = Bench::new();
    let mount = Mount::new(&bench.target.partition(1), &bench.path("mount"), &["-o", "ro,noload"]);
    let at = format!("mounted at {}", mount.folder().display());
    bench.assert_refused(bench.target.node(), &[], 5, &[&at, "umount"]);
    drop(mount);
    bench.assert_restored(bench.target.node(), &["--exact"]);
}

#[test]
fn root_a_mounted_partition_is_refused_and_its_neighbour_is_not() {
    let bench = Bench::new();
    let _mount = Mount::new(&bench.target.partition(1), &bench.path("mount"), &["-o", "ro,noload"]);
    bench.assert_refused(&bench.target.partition(1), &[], 5, &["mounted at"]);
    let before = fs::read(bench.target.partition(1)).unwrap();
    bench.assert_restored(&bench.target.partition(2), &[]);
    assert!(fs::read(bench.target.partition(1)).unwrap() == before, "the neighbour was written to");
}

/// Swap in use, until it goes.
struct Swap(PathBuf);

impl Swap {
    fn new(node: PathBuf) -> Swap {
        run("mkswap", &["-q", node.to_str().unwrap()]);
        run("swapon", &["-p", "0", node.to_str().unwrap()]);
        Swap(node)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        Command::new("swapoff").arg(&self.0).output().ok();
    }
}

#[test]
fn root_swap_in_use_is_refused() {
    let bench = Bench::new();
    let swap = Swap::new(bench.target.partition(2));
    bench.assert_refused(&bench.target.partition(2), &[], 5, &["in use as swap", "swapoff"]);
    bench.assert_refused(bench.target.node(), &[], 5, &["in use as swap"]);
    drop(swap);
    bench.assert_restored(&bench.target.partition(2), &[]);
}

#[test]
fn root_a_device_below_another_is_refused() {
    let bench = Bench::new();
    let offset = (20 * MIB).to_string();
    for options in [&[][..], &["--offset", &offset]] {
        let holder = Loop::new(bench.target.node(), options);
        let name = holder.node().file_name().unwrap().to_str().unwrap().to_owned();
        let words = format!("in use by {name} (loop)");
        bench.assert_refused(bench.target.node(), &[], 5, &[&words]);
        bench.assert_refused(&bench.target.partition(2), &[], 5, &[&words]);
        if !options.is_empty() {
            bench.assert_restored(&bench.target.partition(1), &[]);
        }
    }
    bench.assert_restored(bench.target.node(), &["--exact"]);
}

#[test]
fn root_a_file_below_a_loop_device_is_refused() {
    let bench = Bench::new();
    bench.assert_refused(&bench.path("target.img"), &[], 5, &["(loop)"]);
}

#[test]
fn root_the_disk_of_the_store_is_refused() {
    let mut bench = Bench::new();
    let mount = Mount::new(&bench.target.partition(2), &bench.path("mount"), &["-o", "noatime"]);
    run("cp", &["-a", bench.store.to_str().unwrap(), mount.folder().to_str().unwrap()]);
    bench.store = mount.folder().join("store");
    run("mount", &["-o", "remount,ro", mount.folder().to_str().unwrap()]);
    bench.assert_refused(bench.target.node(), &[], 5, &["partition 2 of the target holds the store"]);
    bench.assert_refused(&bench.target.partition(2), &[], 5, &["the target holds the store"]);
    bench.assert_refused(
        &bench.target.partition(2),
        &["--allow-store-disk"],
        5,
        &["the target holds the store"],
    );
    let first = bench.target.partition(1);
    bench.assert_refused(&first, &[], 5, &["part of the disk that holds the store", "--allow-store-disk"]);
    bench.assert_restored(&first, &["--allow-store-disk"]);
}

/// `cas restore` in a system whose root is on the target's first partition.
fn from_a_root_on_the_target(bench: &Bench, target: &Path, last: &str) -> Ran {
    let script = r#"
        mount -o noatime "$1" "$2"; cd "$2"
        mkdir -p proc dev sys usr lib lib64 cas store
        for name in proc dev sys usr lib; do mount --rbind "/$name" "$name"; done
        [ ! -e /lib64 ] || mount --bind /lib64 lib64
        mount --bind "$3" cas; mount --bind "$4" store
        mount -o remount,ro,bind "$2"
        exec chroot . /cas/cas -s /store restore latest "$5" "$6""#;
    let mount = bench.path("root");
    fs::create_dir_all(&mount).unwrap();
    let first = bench.target.partition(1);
    let programs = tests::cas_path().parent().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", script, "sh"]);
    command.args([&first, &mount]).arg(programs).args([&bench.store, target]).arg(last);
    ran(command.output().unwrap())
}

#[test]
fn root_the_disk_of_the_running_system_is_refused() {
    let bench = Bench::new();
    from_a_root_on_the_target(&bench, &bench.target.partition(2), "-n");
    let second = fs::read(bench.target.partition(2)).unwrap();
    let other = fs::read(bench.path("other.img")).unwrap();
    for target in [bench.target.partition(2), bench.target.partition(1), bench.target.node().to_path_buf()] {
        for last in ["-n", "--yes"] {
            let ended = from_a_root_on_the_target(&bench, &target, last);
            assert_eq!(ended.code, 5, "{ended:?}");
            assert!(ended.stderr.contains("the target is the running system's disk"), "{ended:?}");
        }
    }
    run("e2fsck", &["-fn", bench.target.partition(1).to_str().unwrap()]);
    assert!(fs::read(bench.target.partition(2)).unwrap() == second, "partition 2 changed");
    assert!(fs::read(bench.path("other.img")).unwrap() == other, "the other disk changed");
}

/// The real one, which may be out of reach, and is only ever asked about.
#[test]
fn root_this_machines_own_root_disk_is_refused_dry() {
    let bench = Bench::new();
    let number = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = number.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    let sysfs = PathBuf::from(format!("/sys/dev/block/{}", root.split(' ').nth(2).unwrap()));
    let Ok(device) = sysfs.canonicalize() else {
        println!("the root of this machine is on no disk");
        return;
    };
    let node = Path::new("/dev").join(device.file_name().unwrap());
    let ended = bench.restore(&node, &["-n"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stderr.contains("the running system's disk"), "{ended:?}");
}

#[test]
fn root_a_read_only_device_is_refused() {
    let bench = Bench::new();
    run("blockdev", &["--setro", bench.target.text()]);
    bench.assert_refused(bench.target.node(), &[], 5, &["the target is read-only", "blockdev --setrw"]);
    run("blockdev", &["--setrw", bench.target.text()]);
    bench.assert_restored(bench.target.node(), &["--exact"]);
}

#[test]
fn root_another_disk_than_was_meant_is_refused() {
    let bench = Bench::new();
    let name = bench.target.node().file_name().unwrap().to_str().unwrap();
    let words = format!("target serial: expected S3RIAL, found {name}");
    bench.assert_refused(bench.target.node(), &["--target-serial", "S3RIAL"], 5, &[&words]);
    bench.assert_restored(bench.target.node(), &["--target-serial", name, "--exact"]);
}

#[test]
fn root_a_smaller_target_is_exit_6_with_both_sizes() {
    let bench = Bench::new();
    let small = Loop::blank(&bench.path("small.img"), 3 * MIB, &[]);
    let sizes = ["4.0 MiB (4194304 bytes)", "3.0 MiB (3145728 bytes)"];
    bench.assert_refused(small.node(), &[], 6, &sizes);
    bench.assert_refused(small.node(), &["--allow-smaller"], 6, &sizes);
}

#[test]
fn root_a_smaller_target_is_enough_for_an_unused_end_when_that_is_allowed() {
    let mut bench = Bench::new();
    let roomy = bench.path("roomy.bin");
    fs::write(&roomy, noise(31, 4 << 20)).unwrap();
    File::options().write(true).open(&roomy).unwrap().set_len(6 * MIB).unwrap();
    bench.image = capture(&bench.store, &roomy, &[]);
    let small = Loop::blank(&bench.path("small.img"), 5 * MIB, &[]);
    bench.assert_refused(small.node(), &[], 6, &["--allow-smaller"]);
    bench.assert_restored(small.node(), &["--allow-smaller"]);
}

#[test]
fn root_without_a_terminal_and_yes_nothing_is_overwritten() {
    let bench = Bench::new();
    let file = bench.path("existing.img");
    fs::write(&file, noise(33, 1 << 20)).unwrap();
    let before = bench.disks();
    for target in [bench.target.node(), &file] {
        for more in [&[][..], &["--json"], &["--quiet"]] {
            let ended = bench.restore(target, more);
            assert_eq!(ended.code, 5, "{ended:?}");
            assert!((ended.stderr + &ended.stdout).contains("--yes"));
            assert!(bench.disks() == before, "a disk changed");
        }
    }
    bench.assert_restored(&file, &[]);
    assert_eq!(fs::metadata(&file).unwrap().len(), IMAGE_BYTES);
}

#[test]
fn what_is_no_target_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    let source = folder.path().join("source.bin");
    fs::write(&source, noise(31, 1 << 20)).unwrap();
    let image = capture(&store, &source, &[]);
    let missing = "/dev/no-such-disk-here";
    for (target, words) in
        [(missing, "no such device"), ("/dev/null", "block device"), ("/tmp", "block device")]
    {
        for last in ["-n", "--yes"] {
            let ended = cas(&store, &["restore", &image, target, last]);
            assert_eq!(ended.code, 5, "{ended:?}");
            assert!(ended.stderr.contains(words), "{ended:?}");
        }
    }
    assert!(!Path::new(missing).exists());
}

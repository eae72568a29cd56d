//! There and back: disks with real filesystems are captured, changed, captured again, and restored bit by bit.
//!
//! Promise: the source's saved copy and the filesystems' own checkers judge, never `cas` itself. What it costs is
//! printed. Knows nothing of what a restore refuses (refusals.rs) and of sources that fail (sources.rs).

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use tests::disks::{Disk, assert_same, differences, folder_bytes, noise};
use tests::{Loop, capture, cas, cas_ok, command, run, summary};

const MIB: u64 = 1 << 20;

/// A store in a folder of the test's own.
fn store_in(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    store
}

/// A device that held something else before: zeros must be written where the image has zeros.
fn used_device(file: &Path, bytes: u64, options: &[&str]) -> Loop {
    let image = File::create(file).unwrap();
    image.set_len(bytes).unwrap();
    let piece = noise(9, 64 << 10);
    (0..bytes - piece.len() as u64).step_by(4 << 20).for_each(|at| image.write_all_at(&piece, at).unwrap());
    image.write_all_at(&piece, bytes - piece.len() as u64).unwrap();
    Loop::new(file, options)
}

fn restore(store: &Path, image: &str, target: &Path, more: &[&str]) -> serde_json::Value {
    let arguments =
        [&["restore", image, target.to_str().unwrap(), "--yes", "--json", "--quiet"], more].concat();
    summary(&cas_ok(store, &arguments))
}

fn number(of: &serde_json::Value, member: &str) -> u64 {
    of[member].as_u64().unwrap_or_else(|| panic!("{member} in {of}"))
}

/// Captures; what it says that changed chunks take up, and by how much the packs grew.
fn captured(store: &Path, source: &Path) -> (String, u64, u64) {
    let before = folder_bytes(&store.join("packs"));
    let said = summary(&cas_ok(store, &["capture", source.to_str().unwrap(), "--raw", "--json", "--quiet"]));
    let grown = folder_bytes(&store.join("packs")) - before;
    let image = said["image"].as_str().unwrap().to_owned();
    let listed = summary(&cas_ok(store, &["images", "--json"]));
    let listed = listed.as_array().unwrap().iter().find(|it| it["id"] == image.as_str()).unwrap().clone();
    assert_eq!(number(&listed, "added_bytes"), number(&said, "stored_bytes"));
    (image, number(&said, "stored_bytes"), grown)
}

/// Two images of a disk with a day's work between them, each with a copy of what the disk was.
struct Story {
    folder: tempfile::TempDir,
    store: PathBuf,
    disk: Disk,
    images: [(String, PathBuf); 2],
}

impl Story {
    fn told(folder: tempfile::TempDir, disk: Disk, bytes: u64) -> Story {
        let store = store_in(folder.path());
        disk.fill(0, bytes);
        let (first, _, _) = captured(&store, disk.device.node());
        let copy = disk.saved("first.img");
        disk.change(7, bytes);
        let (second, stored, grown) = captured(&store, disk.device.node());
        let other = disk.saved("second.img");
        let over = (grown as f64 / stored as f64 - 1.0) * 100.0;
        println!("second image: changed chunks {stored} bytes, packs grew by {grown} ({over:.2} % over)");
        assert!(grown as f64 <= stored as f64 * 1.01, "{grown} bytes more in packs for {stored} of chunks");
        assert!(!differences(&copy, &other, fs::metadata(&copy).unwrap().len()).is_empty());
        Story { folder, store, disk, images: [(first, copy), (second, other)] }
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.disk.file).unwrap().len()
    }

    /// Both images, one after the other, onto a device that held something else.
    fn onto_a_device_of_equal_size(&self, options: &[&str]) {
        let file = self.folder.path().join("equal.img");
        let target = used_device(&file, self.bytes(), options);
        for (image, copy) in &self.images {
            restore(&self.store, image, target.node(), &["--verify"]);
            assert_same(&file, copy);
            self.disk.check_on(&target);
        }
        let again = restore(&self.store, &self.images[1].0, target.node(), &[]);
        assert_eq!((number(&again, "written_bytes"), number(&again, "zeroed_bytes")), (0, 0), "{again}");
        let back = restore(&self.store, &self.images[0].0, target.node(), &[]);
        assert!(number(&back, "unchanged_bytes") > self.bytes() / 2, "{back}");
        assert_same(&file, &self.images[0].1);
    }

    /// With `--exact`: the image's bytes, and what was behind them.
    fn onto_a_larger_device_exactly(&self, options: &[&str]) {
        let file = self.folder.path().join("exact.img");
        let target = used_device(&file, self.bytes() + 24 * MIB, options);
        let before = self.folder.path().join("before.img");
        run("cp", &["--sparse=always", file.to_str().unwrap(), before.to_str().unwrap()]);
        restore(&self.store, &self.images[1].0, target.node(), &["--exact"]);
        assert_eq!(differences(&file, &self.images[1].1, self.bytes()), Vec::<u64>::new());
        let (mut tail, mut was) = (Vec::new(), Vec::new());
        for (path, bytes) in [(&file, &mut tail), (&before, &mut was)] {
            let mut open = File::open(path).unwrap();
            open.seek(std::io::SeekFrom::Start(self.bytes())).unwrap();
            open.read_to_end(bytes).unwrap();
        }
        assert!(tail == was, "the end of the target was touched");
        self.disk.check_on(&target);
    }

    fn onto_files(&self) {
        let file = self.folder.path().join("out.img");
        for (image, copy) in &self.images {
            restore(&self.store, image, &file, &[]);
            assert_same(&file, copy);
        }
        let blocks = |path: &Path| fs::metadata(path).unwrap().blocks() * 512;
        assert!(blocks(&file) < blocks(&self.images[1].1) + 8 * MIB, "the file is not sparse");
    }

    /// What is forgotten gives back what was promised; what stays is whole.
    fn forget_and_collect(&self) {
        let promised = summary(&cas_ok(&self.store, &["stats", "--json"]));
        let first = &self.images[0].0;
        let of = |it: &&serde_json::Value| it["id"] == first.as_str();
        let promise =
            number(promised["freed_by"].as_array().unwrap().iter().find(of).unwrap(), "freed_bytes");
        cas_ok(&self.store, &["forget", first]);
        let before = folder_bytes(&self.store.join("packs"));
        let report = summary(&cas_ok(&self.store, &["gc", "--json", "--quiet"]));
        let freed = before - folder_bytes(&self.store.join("packs"));
        println!("gc: promised {promise} bytes, freed {freed}; it says {}", report["bytes_freed"]);
        assert!(freed.abs_diff(promise) as f64 <= promise as f64 * 0.05, "promised {promise}, freed {freed}");
        let scrub = summary(&cas_ok(&self.store, &["scrub", "--json", "--quiet"]));
        assert_eq!(scrub["findings"].as_array().unwrap().len(), 0, "{scrub}");
        let file = self.folder.path().join("after.img");
        restore(&self.store, &self.images[1].0, &file, &[]);
        assert_same(&file, &self.images[1].1);
    }
}

/// A larger target gets the same sectors but for the size in the protective MBR and the headers of the GPT, and a backup
/// at its real end.
fn gpt_onto_a_larger_device(story: &Story, sector: u64, options: &[&str]) {
    let file = story.folder.path().join("larger.img");
    let target = used_device(&file, story.bytes() + 24 * MIB, options);
    let (image, copy) = &story.images[1];
    restore(&story.store, image, target.node(), &[]);
    let backup = story.bytes() - 33 * sector;
    let elsewhere = |at: &&u64| **at != 0 && !(sector..2 * sector).contains(*at) && **at < backup;
    let odd = differences(&file, copy, story.bytes());
    assert!(!odd.is_empty(), "the header still names the old end");
    assert_eq!(odd.iter().filter(elsewhere).collect::<Vec<_>>(), Vec::<&u64>::new());
    let protective = |path: &Path| {
        let mut sector = [0; 512];
        File::open(path).unwrap().read_exact(&mut sector).unwrap();
        // The size of its first entry.
        sector[446 + 12..446 + 16].fill(0);
        sector
    };
    assert_eq!(protective(&file), protective(copy));
    let verdict = run("sgdisk", &["-v", target.text()]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    story.disk.check_on(&target);
    let again = restore(&story.store, image, target.node(), &[]);
    assert_eq!((number(&again, "written_bytes"), number(&again, "zeroed_bytes")), (0, 0), "{again}");
}

#[test]
fn root_gpt_disk_with_fat_ext4_xfs_and_btrfs() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::gpt(folder.path(), "512");
    let story = Story::told(folder, disk, 4 * MIB);
    story.onto_a_device_of_equal_size(&[]);
    gpt_onto_a_larger_device(&story, 512, &[]);
    story.onto_a_larger_device_exactly(&[]);
    story.onto_files();
    story.forget_and_collect();
}

#[test]
fn root_gpt_disk_of_4096_byte_sectors() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::gpt(folder.path(), "4096");
    let story = Story::told(folder, disk, 3 * MIB);
    story.onto_a_device_of_equal_size(&["--sector-size", "4096"]);
    gpt_onto_a_larger_device(&story, 4096, &["--sector-size", "4096"]);
}

#[test]
fn root_mbr_disk_with_logical_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::mbr(folder.path());
    let story = Story::told(folder, disk, 3 * MIB);
    story.onto_a_device_of_equal_size(&[]);
    story.onto_a_larger_device_exactly(&[]);
    story.onto_files();
    story.forget_and_collect();
}

#[test]
fn root_a_restore_that_is_killed_is_continued_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let source = folder.path().join("noise.img");
    fs::write(&source, noise(3, 128 << 20)).unwrap();
    let image = capture(&store, &source, &[]);
    let file = folder.path().join("target.img");
    let target = Loop::blank(&file, 128 << 20, &[]);
    let mut killed = 0;
    for step in 1..6_u64 {
        let arguments = ["restore", &image, target.text(), "--yes", "--quiet"];
        let mut child = command(&store).args(arguments).stderr(Stdio::null()).spawn().unwrap();
        // Progress decides when, so that slow machines are interrupted as often as fast ones.
        let enough = || fs::metadata(&file).unwrap().blocks() * 512 >= step * 20 * MIB;
        while child.try_wait().unwrap().is_none() && !enough() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().code().is_none());
    }
    let last = restore(&store, &image, target.node(), &[]);
    println!("killed {killed} times; the last had {} bytes left", last["written_bytes"]);
    assert!(killed >= 3);
    assert!(number(&last, "unchanged_bytes") >= 60 * MIB, "{last}");
    assert_same(&file, &source);
}

/// Runs `cas restore` on a terminal, types `answer` at the question; its exit code.
fn answered(store: &Path, image: &str, target: &str, answer: &str) -> (String, i32) {
    let script = "import os,pty,sys\n\
        pid,fd=pty.fork()\n\
        if pid==0: os.execv(sys.argv[2],sys.argv[2:])\n\
        out=b''\n\
        asked=False\n\
        while True:\n\
        \x20try: more=os.read(fd,4096)\n\
        \x20except OSError: break\n\
        \x20if not more: break\n\
        \x20out+=more\n\
        \x20if not asked and b'type the last' in out: asked=True; os.write(fd,sys.argv[1].encode()+b'\\n')\n\
        code=os.waitstatus_to_exitcode(os.waitpid(pid,0)[1])\n\
        print(out.decode()); print(code)\n";
    let cas = tests::cas_path().to_str().unwrap();
    let store = store.to_str().unwrap();
    let said = run("python3", &["-c", script, answer, cas, "-s", store, "restore", image, target]);
    let code = said.trim().lines().last().unwrap().parse().unwrap();
    (said, code)
}

#[test]
fn root_restore_by_prefix_unasked_and_asked() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let source = folder.path().join("small.img");
    fs::write(&source, noise(4, 8 << 20)).unwrap();
    let image = capture(&store, &source, &[]);
    let prefix = &image[..8];
    let file = folder.path().join("target.img");
    let target = used_device(&file, 8 << 20, &[]);
    let before = fs::read(&file).unwrap();
    let name = target.node().file_name().unwrap().to_str().unwrap();
    let right: String = name.chars().skip(name.len().saturating_sub(4)).collect();
    for wrong in ["", "yes", &format!("{right}x"), "oops"] {
        let (said, code) = answered(&store, prefix, target.text(), wrong);
        assert_eq!(code, 5, "{wrong:?}: {said}");
        assert!(fs::read(&file).unwrap() == before, "{wrong:?} was written for");
    }
    let (said, code) = answered(&store, prefix, target.text(), &right);
    assert_eq!(code, 0, "{said}");
    assert_same(&file, &source);
    fs::write(&file, &before).unwrap();
    cas_ok(&store, &["restore", prefix, target.text(), "--yes"]);
    assert_same(&file, &source);
}

/// Where a sparse file has data, asked of its filesystem.
fn data_extents(file: &Path) -> Vec<(u64, u64)> {
    let script = "import os,sys\n\
        fd=os.open(sys.argv[1],os.O_RDONLY)\n\
        end=0\n\
        while True:\n\
        \x20try: start=os.lseek(fd,end,os.SEEK_DATA)\n\
        \x20except OSError: break\n\
        \x20end=os.lseek(fd,start,os.SEEK_HOLE)\n\
        \x20print(start,end-start)\n";
    let said = run("python3", &["-c", script, file.to_str().unwrap()]);
    let pair =
        |line: &str| line.split_once(' ').map(|(at, n)| (at.parse().unwrap(), n.parse().unwrap())).unwrap();
    said.lines().map(pair).collect()
}

/// Two sparse files read the same: what either has as data is compared, the rest is zeros in both.
fn assert_same_data(one: &Path, other: &Path) {
    assert_eq!(fs::metadata(one).unwrap().len(), fs::metadata(other).unwrap().len());
    let (ours, theirs) = (File::open(one).unwrap(), File::open(other).unwrap());
    for (start, bytes) in data_extents(one).into_iter().chain(data_extents(other)) {
        for at in (start..start + bytes).step_by(1 << 20) {
            let piece = usize::try_from(MIB.min(start + bytes - at)).unwrap();
            let (mut a, mut b) = (vec![0; piece], vec![0; piece]);
            ours.read_exact_at(&mut a, at).unwrap();
            theirs.read_exact_at(&mut b, at).unwrap();
            assert!(a == b, "differ near {at:#x}");
        }
    }
}

/// A sparse file with a piece of noise at each of `places` places, the last at its very end.
fn sparse(file: &Path, bytes: u64, places: u64, piece: u64) {
    let open = File::create(file).unwrap();
    open.set_len(bytes).unwrap();
    for place in 0..places {
        let at = (bytes - piece) / (places - 1) * place
            + if place + 1 == places { (bytes - piece) % (places - 1) } else { 0 };
        open.write_all_at(&noise(100 + place, usize::try_from(piece).unwrap()), at).unwrap();
    }
}

#[test]
fn a_file_of_100_gib_costs_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let (source, target) = (folder.path().join("vast.img"), folder.path().join("back.img"));
    sparse(&source, 100 << 30, 25, 8 << 20);
    let started = Instant::now();
    let image = capture(&store, &source, &[]);
    let captured = started.elapsed();
    restore(&store, &image, &target, &[]);
    println!(
        "100 GiB with 200 MiB of data: captured in {captured:.1?}, both ways in {:.1?}",
        started.elapsed()
    );
    assert_same_data(&source, &target);
    assert!(fs::metadata(&target).unwrap().blocks() * 512 < 208 * MIB);
}

#[test]
fn root_a_sparse_device_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let (source, target) = (folder.path().join("wide.img"), folder.path().join("back.img"));
    sparse(&source, 2 << 30, 9, 2 << 20);
    let device = Loop::new(&source, &["--read-only"]);
    let started = Instant::now();
    let image = capture(&store, device.node(), &[]);
    println!("2 GiB device with 18 MiB of data: captured in {:.1?}", started.elapsed());
    restore(&store, &image, &target, &[]);
    assert_same_data(&source, &target);
    let onto = Loop::blank(&folder.path().join("onto.img"), 2 << 30, &[]);
    restore(&store, &image, onto.node(), &["--no-compare"]);
    assert_same_data(&source, &folder.path().join("onto.img"));
}

#[test]
fn streams_there_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let source = folder.path().join("stream.img");
    let mut bytes = noise(5, 20 << 20);
    bytes[3 << 20..9 << 20].fill(0);
    fs::write(&source, &bytes).unwrap();
    let arguments = ["capture", "-", "--name", "piped", "--json", "--quiet"];
    let output = command(&store).args(arguments).stdin(File::open(&source).unwrap()).output().unwrap();
    let said = summary(&tests::ran(output).stdout);
    assert_eq!(said["disk"], "piped");
    let image = said["image"].as_str().unwrap();
    let output = command(&store).args(["restore", image, "-"]).output().unwrap();
    assert!(output.status.success() && output.stdout == bytes, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(capture(&store, &source, &["--name", "piped"]).len(), image.len());
}

#[test]
fn a_reader_that_closes_the_pipe_early_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_in(folder.path());
    let mut child =
        command(&store).args(["capture", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&noise(6, 8 << 20)).unwrap();
    assert!(child.wait().unwrap().success());
    let mut child = command(&store)
        .args(["restore", "latest", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 4096];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = tests::ran(child.wait_with_output().unwrap());
    assert!(ended.code == 1 && ended.stderr.contains("ipe"), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    assert_eq!(cas(&store, &["verify", "latest"]).code, 0);
}

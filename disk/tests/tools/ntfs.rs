//! NTFS: with files of a few runs and of thousands, and what Windows left dirty.
//!
//! Promise: what `cycle` promises; a dirty volume is left alone.
//! Knows nothing of the file table.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use disk::tools::{ToolError, minimum, new_identity, shrink};

use crate::cycle::{Files, fill, round};
use crate::files::hashes;
use crate::testing::{image, run};
use crate::tools::Noise;

const PACKAGE: &str = "ntfs-3g";

/// ntfs-3g in the foreground: when it has ended, all is written.
struct Mounted {
    at: PathBuf,
    child: Child,
}

impl Mounted {
    fn new(file: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut child = Command::new("ntfs-3g")
            .args(["-o", &format!("no_detach,{options}")])
            .args([file, at])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ntfs-3g: apt-get install -y --no-install-recommends ntfs-3g");
        while !std::fs::read_to_string("/proc/mounts").unwrap().contains(at.to_str().unwrap()) {
            assert!(child.try_wait().unwrap().is_none(), "ntfs-3g does not mount {}", file.display());
            std::thread::yield_now();
        }
        Self { at: at.to_owned(), child }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.at).status().ok();
        self.child.wait().ok();
    }
}

fn make(folder: &Path, options: &[&str], mib: u64) -> PathBuf {
    let image = image(folder, "ntfs.img", mib << 20);
    run("mkntfs", PACKAGE, &[&["-q", "-F", "-Q"], options, &[image.to_str().unwrap()]].concat(), "");
    image
}

fn files(folder: &Path, image: &Path) -> Files {
    hashes(&Mounted::new(image, &folder.join("mnt"), "ro").at)
}

/// Holes of one cluster each, then large files in them.
fn fragment(at: &Path, budget: u64) {
    let mut noise = Noise::new(5);
    let count = budget / 4096 / 4;
    let name = |number: u64| at.join(format!("small {number}"));
    for number in 0..count.min(4000) {
        std::fs::write(name(number), noise.bytes(4096)).unwrap();
    }
    let large = |name: &str, noise: &mut Noise, bytes: u64| {
        std::fs::write(at.join(name), noise.bytes(usize::try_from(bytes).unwrap())).unwrap();
    };
    large("end", &mut noise, budget / 3);
    for number in (0..count.min(4000)).step_by(2) {
        std::fs::remove_file(name(number)).unwrap();
    }
    large("holes", &mut noise, budget / 3);
}

#[test]
fn root_ntfs() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), &["-C"], 250);
    fill(&Mounted::new(&image, &folder.path().join("mnt"), "compression").at, 60 << 20, 1);
    round("ntfs", "plain", &image, &folder.path().join("scratch"), &|image| files(folder.path(), image));
}

#[test]
fn root_ntfs_fragmented() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), &["-c", "4096", "-s", "512"], 120);
    fragment(&Mounted::new(&image, &folder.path().join("mnt"), "rw").at, 90 << 20);
    round("ntfs", "fragmented", &image, &folder.path().join("scratch"), &|image| files(folder.path(), image));
}

#[test]
fn root_ntfs_large_clusters() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), &["-c", "65536", "-s", "4096", "-p", "0", "-H", "16", "-S", "63"], 250);
    fill(&Mounted::new(&image, &folder.path().join("mnt"), "rw").at, 60 << 20, 2);
    round("ntfs", "large clusters", &image, &folder.path().join("scratch"), &|image| {
        files(folder.path(), image)
    });
}

#[test]
fn ntfs_left_dirty_is_refused_and_both_serials_change() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), &[], 60);
    let changes = new_identity("ntfs", &image, folder.path(), crate::cycle::UUID).unwrap();
    assert_eq!(changes[0].new, "81406F5E4D3C2B1A");
    let bytes = std::fs::read(&image).unwrap();
    let sectors = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
    let last = usize::try_from(sectors * 512).unwrap();
    assert!(bytes[..512] == bytes[last..last + 512], "the copy of the boot sector is another");
    // A resize without what follows it leaves the volume marked.
    let args = ["-P", "-f", "-s", "30000000", image.to_str().unwrap()];
    run("ntfsresize", PACKAGE, &args, "");
    for error in [
        minimum("ntfs", &image, folder.path()).unwrap_err(),
        shrink("ntfs", &image, 20 << 20, folder.path()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("scheduled for check"), "{error}");
        assert!(matches!(error, ToolError::Failed { program: "ntfsresize", .. }), "{error}");
    }
}

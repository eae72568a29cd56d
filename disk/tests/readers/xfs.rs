//! XFS: `mkfs.xfs`, the kernel's driver.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::all;
use crate::compare::{compare, reader};
use crate::fill::{Size, fill};
use crate::testing::{LoopDevice, Mounted, image, run};

/// Options of mkfs.xfs, and how large it is.
pub(crate) struct Shape {
    pub(crate) options: Vec<&'static str>,
    pub(crate) mib: u64,
    pub(crate) size: Size,
}

impl Shape {
    fn new(options: &[&'static str], size: Size) -> Self {
        Self { options: options.to_vec(), mib: 400, size }
    }

    pub(crate) fn name(&self) -> String {
        format!("xfs: mkfs.xfs {}, seed {}", self.options.join(" "), self.size.seed)
    }
}

const SMALL: Size = Size { seed: 1, names: 1500, pieces: 300, attributes: 100 };
const LARGE: Size = Size { seed: 2, names: 12_000, pieces: 4000, attributes: 3000 };

/// Makes and fills; `None` when the tool or the kernel does not want these options together.
pub(crate) fn make(folder: &Path, shape: &Shape) -> Option<PathBuf> {
    let path = image(folder, "xfs.img", shape.mib << 20);
    let made = Command::new("mkfs.xfs")
        .env("TEST_DIR", "t")
        .env("TEST_DEV", "t")
        .env("QA_CHECK_FS", "t")
        .args(["-q", "-f"])
        .args(&shape.options)
        .arg(&path)
        .output()
        .expect("mkfs.xfs: apt-get install -y --no-install-recommends xfsprogs");
    if !made.status.success() {
        println!("not made: {}: {}", shape.name(), String::from_utf8_lossy(&made.stderr).trim());
        return None;
    }
    let device = LoopDevice::new(&path, &[]);
    let at = folder.join("mnt");
    std::fs::create_dir_all(&at).unwrap();
    let output = Command::new("mount").args(["-t", "xfs", device.str()]).arg(&at).output().unwrap();
    if !output.status.success() {
        println!("not mounted: {}: {}", shape.name(), String::from_utf8_lossy(&output.stderr).trim());
        return None;
    }
    let mounted = Mounted(at);
    fill(&mounted.0, shape.size);
    drop(mounted);
    Some(path)
}

/// How many files; 0 when the shape cannot be made.
fn check(shape: &Shape) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = make(folder.path(), shape) else { return 0 };
    assert_eq!(reader(&path, "xfs").caveat(), None, "{}", shape.name());
    let device = LoopDevice::new(&path, &["-r"]);
    let options = ["-t", "xfs", "-o", "ro,norecovery", device.str()];
    let mounted = Mounted::new(&options, &folder.path().join("mnt"));
    let files = compare(&path, "xfs", &mounted.0, &shape.name());
    println!("{}: {files} files", shape.name());
    files
}

#[test]
fn xfs_as_the_kernel_shows_it_as_root() {
    for (options, size) in [
        (&["-i", "nrext64=1"][..], LARGE),
        (&["-n", "size=65536", "-m", "bigtime=0"], SMALL),
        (&["-b", "size=1024", "-i", "size=512"], Size { names: 4000, ..SMALL }),
    ] {
        assert!(check(&Shape::new(options, size)) > 1000);
    }
}

#[test]
fn hundreds_of_shapes_of_xfs_when_asked_for_as_root() {
    if !all() {
        return;
    }
    let blocks: [&[&str]; 5] =
        [&[], &["-b", "size=1024"], &["-b", "size=2048"], &["-b", "size=16384"], &["-b", "size=65536"]];
    let features: [&[&str]; 6] = [
        &[],
        &["-m", "bigtime=0,reflink=0,finobt=0"],
        &["-i", "size=2048,sparse=0"],
        &["-i", "nrext64=1", "-m", "rmapbt=1"],
        &["-m", "inobtcount=0", "-i", "sparse=1"],
        &["-d", "agcount=9"],
    ];
    let folders: [&[&str]; 3] = [&[], &["-n", "size=16384"], &["-n", "size=65536"]];
    let (mut shapes, mut files) = (0, 0);
    for (number, block) in (0_u64..).zip(blocks) {
        for (more, feature) in (0..).zip(features) {
            for (most, folder) in (0..).zip(folders) {
                let options = [block, feature, folder].concat();
                let seed = 1000 + number * 100 + more * 10 + most;
                let size = if (more + most) % 4 == 0 { LARGE } else { SMALL };
                let found = check(&Shape::new(&options, Size { seed, ..size }));
                shapes += usize::from(found > 0);
                files += found;
            }
        }
    }
    println!("{shapes} shapes of XFS, {files} files");
    assert!(shapes > 50);
}

/// What is in the log only is said, and the rest is read as the kernel does without recovery.
#[test]
fn a_log_with_something_in_it_is_said_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), &Shape { mib: 300, ..Shape::new(&[], SMALL) }).unwrap();
    let copy = folder.path().join("copy.img");
    {
        let device = LoopDevice::new(&path, &[]);
        let mounted = Mounted::new(&["-t", "xfs", device.str()], &folder.path().join("mnt"));
        std::fs::write(mounted.0.join("newest"), b"newest").unwrap();
        run("sync", "coreutils", &["-f", mounted.0.to_str().unwrap()], "");
        run("cp", "coreutils", &["--sparse=always", path.to_str().unwrap(), copy.to_str().unwrap()], "");
    }
    let caveat = reader(&copy, "xfs").caveat().unwrap();
    assert!(caveat.contains("log was not replayed"), "{caveat}");
    let device = LoopDevice::new(&copy, &["-r"]);
    let options = ["-t", "xfs", "-o", "ro,norecovery,nouuid", device.str()];
    let mounted = Mounted::new(&options, &folder.path().join("again"));
    assert!(compare(&copy, "xfs", &mounted.0, "xfs: with a log") > 1000);
}

//! btrfs: `mkfs.btrfs`, the kernel's driver, subvolumes, compression, checksums.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use disk::files::FilesError;

use crate::all;
use crate::compare::{compare, reader, told};
use crate::fill::{Size, fill, noise};
use crate::testing::{LoopDevice, Mounted, image, run};

const PACKAGE: &str = "btrfs-progs";
const SMALL: Size = Size { seed: 1, names: 1500, pieces: 300, attributes: 100 };
const LARGE: Size = Size { seed: 2, names: 12_000, pieces: 4000, attributes: 3000 };

/// Options of mkfs.btrfs and of the mount.
pub(crate) struct Shape {
    pub(crate) options: Vec<&'static str>,
    pub(crate) mount: &'static str,
    pub(crate) mib: u64,
    pub(crate) size: Size,
}

impl Shape {
    fn name(&self) -> String {
        format!("btrfs: mkfs.btrfs {}, {}, seed {}", self.options.join(" "), self.mount, self.size.seed)
    }
}

pub(crate) fn make(folder: &Path, shape: &Shape) -> PathBuf {
    let path = image(folder, "btrfs.img", shape.mib << 20);
    let mut args = vec!["-q", "-f"];
    args.extend(&shape.options);
    args.push(path.to_str().unwrap());
    run("mkfs.btrfs", PACKAGE, &args, "");
    let device = LoopDevice::new(&path, &[]);
    let mounted = Mounted::new(&["-t", "btrfs", "-o", shape.mount, device.str()], &folder.join("mnt"));
    fill(&mounted.0, shape.size);
    subvolumes(&mounted.0);
    uncounted(&mounted.0);
    path
}

fn subvolumes(at: &Path) {
    let name = |path: &str| at.join(path).to_str().unwrap().to_owned();
    let subvolume = |args: &[&str]| {
        let mut all = vec!["subvolume"];
        all.extend(args);
        run("btrfs", PACKAGE, &all, "");
    };
    subvolume(&["create", &name("sub")]);
    std::fs::write(at.join("sub/file"), noise(31, 50_000)).unwrap();
    std::fs::create_dir(at.join("sub/folder")).unwrap();
    subvolume(&["create", &name("sub/folder/inner")]);
    std::fs::write(at.join("sub/folder/inner/file"), noise(32, 5000)).unwrap();
    subvolume(&["snapshot", &name("sub"), &name("sub/snapshot")]);
    std::fs::write(at.join("sub/file"), noise(33, 60_000)).unwrap();
    subvolume(&["snapshot", "-r", &name(""), &name("whole")]);
    subvolume(&["snapshot", &name("sub"), &name("folder1/other")]);
    run("mv", "coreutils", &[&name("folder1/other"), &name("renamed")], "");
    subvolume(&["create", &name("gone")]);
    subvolume(&["delete", &name("gone")]);
}

/// Files without checksums.
fn uncounted(at: &Path) {
    let path = at.join("without checksums");
    std::fs::File::create(&path).unwrap();
    run("chattr", "e2fsprogs", &["+C", path.to_str().unwrap()], "");
    std::fs::write(&path, noise(41, 300_001)).unwrap();
}

fn check(shape: &Shape) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), shape);
    assert_eq!(reader(&path, "btrfs").caveat(), None, "{}", shape.name());
    let device = LoopDevice::new(&path, &["-r"]);
    let options = ["-t", "btrfs", "-o", "ro,norecovery,subvolid=5", device.str()];
    let mounted = Mounted::new(&options, &folder.path().join("mnt"));
    let files = compare(&path, "btrfs", &mounted.0, &shape.name());
    println!("{}: {files} files", shape.name());
    files
}

#[test]
fn btrfs_as_the_kernel_shows_it_as_root() {
    let shapes: [(&[&str], &str, Size); 4] = [
        (&["--csum", "xxhash", "-d", "dup"], "compress-force=zstd", LARGE),
        (&["--mixed", "-n", "4096"], "compress-force=lzo,nodatacow", SMALL),
        (&["-n", "65536", "--csum", "blake2"], "compress-force=lzo", SMALL),
        (&["-O", "^no-holes", "--csum", "sha256", "-m", "single"], "compress-force=zlib:9", SMALL),
    ];
    for (options, mount, size) in shapes {
        assert!(check(&Shape { options: options.to_vec(), mount, mib: 500, size }) > 1000);
    }
}

#[test]
fn hundreds_of_shapes_of_btrfs_when_asked_for_as_root() {
    if !all() {
        return;
    }
    let made: [&[&str]; 8] = [
        &[],
        &["--mixed", "-n", "4096"],
        &["-n", "4096"],
        &["-n", "32768", "-d", "dup"],
        &["-n", "65536", "-m", "single"],
        &["-O", "^no-holes,^skinny-metadata", "-R", "^free-space-tree"],
        &["-R", "quota"],
        &["-O", "^extref"],
    ];
    let sums: [&[&str]; 4] =
        [&["--csum", "crc32c"], &["--csum", "xxhash"], &["--csum", "sha256"], &["--csum", "blake2"]];
    let mounts = [
        "defaults",
        "compress-force=zlib",
        "compress-force=lzo",
        "compress-force=zstd:1",
        "compress-force=zstd:15",
        "max_inline=0,autodefrag",
        "nodatacow",
        "nodatasum",
    ];
    let (mut shapes, mut files) = (0, 0);
    for (number, options) in (0_u64..).zip(made) {
        for (more, mount) in (0_u64..).zip(mounts) {
            let sum = sums[usize::try_from(number + more).unwrap() % sums.len()];
            let size = if (number + more) % 4 == 0 { LARGE } else { SMALL };
            let size = Size { seed: 5000 + number * 100 + more, ..size };
            files += check(&Shape { options: [options, sum].concat(), mount, mib: 600, size });
            shapes += 1;
        }
    }
    println!("{shapes} shapes of btrfs, {files} files");
}

/// The second copy is read where the first is bad; where both are, the file is damaged, and no other.
#[test]
fn bad_sectors_of_files_are_read_from_their_copies_or_not_at_all_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let options = vec!["-d", "dup", "-m", "dup"];
    let path = make(folder.path(), &Shape { options, mount: "defaults", mib: 500, size: SMALL });
    let sound = reader(&path, "btrfs");
    let expected = told(&*sound, true, usize::MAX);
    let id = sound.find(sound.root(), b"noise300000").unwrap().unwrap();
    let places = sound.places(id).unwrap();
    assert_eq!(places.len(), 2, "{places:?}");
    let raw = std::fs::File::options().write(true).open(&path).unwrap();
    raw.write_all_at(b"bad", places[0].1 + 5000).unwrap();
    raw.write_all_at(b"bad", places[1].1 + 50_000).unwrap();
    let now = reader(&path, "btrfs");
    let mut whole = vec![0; 300_000];
    assert_eq!(now.read(id, 0, &mut whole).unwrap(), 300_000);
    assert!(whole == noise(SMALL.seed + 8, 300_000));
    raw.write_all_at(b"bad", places[1].1 + 5000).unwrap();
    let error = now.read(id, 0, &mut whole).unwrap_err();
    assert!(matches!(error, FilesError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("wrong checksum"), "{error}");
    assert_eq!(now.read(id, 8192, &mut whole).unwrap(), 300_000 - 8192);
    let damaged = told(&*reader(&path, "btrfs"), true, usize::MAX);
    let differ: Vec<_> = expected.iter().filter(|(path, said)| damaged.get(*path) != Some(said)).collect();
    // It is in a snapshot too.
    assert_eq!(differ.len(), 2, "{:?}", differ.iter().map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn a_log_tree_and_several_devices_are_said_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), &Shape { options: vec![], mount: "defaults", mib: 400, size: SMALL });
    let copy = folder.path().join("copy.img");
    {
        let device = LoopDevice::new(&path, &[]);
        let mounted = Mounted::new(&["-t", "btrfs", device.str()], &folder.path().join("mnt"));
        let file = std::fs::File::create(mounted.0.join("newest")).unwrap();
        file.write_all_at(b"newest", 0).unwrap();
        file.sync_all().unwrap();
        run("cp", "coreutils", &["--sparse=always", path.to_str().unwrap(), copy.to_str().unwrap()], "");
    }
    let logged = reader(&copy, "btrfs");
    assert!(logged.caveat().unwrap().contains("log was not replayed"));
    assert_eq!(logged.find(logged.root(), b"newest").unwrap(), None);
    assert!(reader(&path, "btrfs").find(logged.root(), b"newest").unwrap().is_some());
    let (one, two) = (image(folder.path(), "one.img", 300 << 20), image(folder.path(), "two.img", 300 << 20));
    run("mkfs.btrfs", PACKAGE, &["-q", "-f", one.to_str().unwrap(), two.to_str().unwrap()], "");
    let error = disk::files::files(crate::compare::volume(&one), "btrfs").err().unwrap();
    assert!(matches!(error, FilesError::Unsupported { .. }), "{error}");
}

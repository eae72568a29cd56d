//! ext2, ext3, ext4 with many sets of features.
//!
//! Promise: what `cycle` promises; damage and sizes that are too small are refused in the tools' own words.
//! Knows nothing of groups.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use disk::tools::{ToolError, grow, minimum, shrink};

use crate::cycle::{Files, fill, round};
use crate::files::hashes;
use crate::testing::{LoopDevice, Mounted, image, run};

fn make(folder: &Path, options: &str, mib: u64) -> std::path::PathBuf {
    let image = image(folder, "ext.img", mib << 20);
    let mut args: Vec<&str> = options.split(' ').collect();
    args.extend(["-q", "-F", image.to_str().unwrap()]);
    run("mke2fs", "e2fsprogs", &args, "");
    image
}

fn files(folder: &Path, image: &Path) -> Files {
    let device = LoopDevice::new(image, &["-r"]);
    let mounted = Mounted::new(&["-o", "ro", device.str()], &folder.join("mnt"));
    hashes(&mounted.0)
}

fn full(folder: &Path, options: &str, mib: u64, seed: u64) -> std::path::PathBuf {
    let image = make(folder, options, mib);
    let device = LoopDevice::new(&image, &[]);
    let mounted = Mounted::new(&[device.str()], &folder.join("mnt"));
    fill(&mounted.0, (mib << 20) / 4, seed);
    drop(mounted);
    drop(device);
    image
}

fn rounds(cases: &[(&str, &str, u64)]) {
    for (seed, (kind, options, mib)) in (1..).zip(cases) {
        let folder = tempfile::tempdir().unwrap();
        let image = full(folder.path(), options, *mib, seed);
        round(kind, options, &image, &folder.path().join("scratch"), &|image| files(folder.path(), image));
    }
}

#[test]
fn root_ext4() {
    rounds(&[
        ("ext4", "-t ext4", 300),
        ("ext4", "-t ext4 -b 1024", 150),
        ("ext4", "-t ext4 -O ^flex_bg", 150),
        ("ext4", "-t ext4 -O meta_bg,^resize_inode", 150),
        ("ext4", "-t ext4 -O ^64bit,^metadata_csum,uninit_bg", 150),
    ]);
}

#[test]
fn root_ext_others() {
    rounds(&[
        ("ext4", "-t ext4 -O metadata_csum_seed,inline_data,large_dir -I 512", 150),
        ("ext4", "-t ext4 -O sparse_super2,^has_journal -N 60000", 150),
        ("ext4", "-t ext4 -i 4096 -g 8192", 150),
        ("ext3", "-t ext3", 150),
        ("ext3", "-t ext3 -O ^resize_inode,^dir_index -b 2048", 120),
        ("ext2", "-t ext2 -b 1024", 100),
    ]);
}

/// A copy of what is mounted: its journal must be replayed first.
#[test]
fn root_ext_journal() {
    let folder = tempfile::tempdir().unwrap();
    let (image, scratch) = (make(folder.path(), "-t ext4", 200), folder.path().join("scratch"));
    let copy = folder.path().join("copy.img");
    let device = LoopDevice::new(&image, &[]);
    let mounted = Mounted::new(&[device.str()], &folder.path().join("mnt"));
    fill(&mounted.0, 50 << 20, 99);
    run("sync", "coreutils", &["-f", mounted.0.to_str().unwrap()], "");
    run("cp", "coreutils", &["--sparse=always", device.str(), copy.to_str().unwrap()], "");
    drop(mounted);
    drop(device);
    let text = run("dumpe2fs", "e2fsprogs", &["-h", copy.to_str().unwrap()], "");
    assert!(text.contains("needs_recovery"), "{text}");
    round("ext4", "journal", &copy, &scratch, &|copy| {
        // The kernel would refuse to replay on a device that cannot be written.
        let device = LoopDevice::new(copy, &[]);
        let mounted = Mounted::new(&["-o", "ro", device.str()], &folder.path().join("mnt"));
        hashes(&mounted.0)
    });
}

#[test]
fn root_ext_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = full(folder.path(), "-t ext4", 100, 7);
    // A file's first extent leads elsewhere.
    let path = image.to_str().unwrap();
    run("debugfs", "e2fsprogs", &["-w", "-R", "clri <2>", path], "");
    let error = minimum("ext4", &image, folder.path()).unwrap_err();
    assert!(matches!(error, ToolError::Failed { program: "e2fsck", .. }), "{error}");
}

#[test]
fn root_ext_too_small_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = full(folder.path(), "-t ext4", 100, 7);
    let error = shrink("ext4", &image, 4 << 20, folder.path()).unwrap_err();
    assert!(matches!(error, ToolError::Failed { program: "resize2fs", .. }), "{error}");
}

#[test]
fn root_ext_bigalloc_stays_as_large_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let image = full(folder.path(), "-t ext4 -b 1024 -O bigalloc -C 16384", 100, 7);
    assert_eq!(minimum("ext4", &image, folder.path()).unwrap(), 100 << 20);
    crate::cycle::set_len(&image, 200 << 20);
    let error = grow("ext4", &image, 200 << 20, folder.path()).unwrap_err();
    assert!(error.to_string().contains("bigalloc"), "{error}");
}

/// By a terabyte, a hundred megabytes are written at most.
#[test]
fn root_ext_growth_is_sparse() {
    for (kind, options, mib_max) in
        [("ext4", "-t ext4 -b 4096", 100), ("ext4", "-t ext4 -b 4096 -O ^64bit", 100)]
    {
        let folder = tempfile::tempdir().unwrap();
        let image = full(folder.path(), options, 300, 3);
        let room = || std::fs::metadata(&image).unwrap().blocks() >> 11;
        let before = room();
        crate::cycle::set_len(&image, 1 << 40);
        grow(kind, &image, 1 << 40, folder.path()).unwrap();
        let grown = room() - before;
        println!("{options}: growing to 1 TiB took {grown} MiB");
        assert!(grown <= mib_max, "{options}: {grown} MiB");
    }
}

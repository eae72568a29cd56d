//! NTFS against ntfs-3g.

use std::path::{Path, PathBuf};

use disk::files::Files;

use crate::fill;
use crate::testing::{Mounted, image, run};
use crate::tree::{Judge, assert_places, assert_same, open, ours, theirs};

/// ntfs-3g makes up owners; times are kept in steps of 100 ns.
const JUDGE: Judge = Judge { owners: false, links: false, attributes: false, time_step: 100 };

fn made(folder: &Path, options: &str) -> PathBuf {
    let image = image(folder, "ntfs", 64 << 20);
    let mut args: Vec<&str> = vec!["-q", "-F", "-f"];
    args.extend(options.split_whitespace());
    args.push(image.to_str().unwrap());
    run("mkntfs", "ntfs-3g", &args, "");
    image
}

fn mounted(image: &Path, at: &Path) -> Mounted {
    let options = "compression,streams_interface=windows,case_sensitive";
    Mounted::new(&["-t", "ntfs-3g", "-o", options, image.to_str().unwrap()], at)
}

/// Files in a folder in which new ones are compressed.
fn compressed(root: &Path, seed: u64) {
    let folder = root.join("compressed");
    std::fs::create_dir(&folder).unwrap();
    let flags = [0, 0, 8, 0];
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(&folder, "system.ntfs_attrib_be", &flags, none).unwrap();
    std::fs::write(folder.join("text"), fill::text(seed, 700_000)).unwrap();
    std::fs::write(folder.join("short"), fill::text(seed, 300)).unwrap();
    std::fs::write(folder.join("noise"), fill::noise(seed, 300_000)).unwrap();
    std::fs::write(folder.join("zeros"), vec![0; 400_000]).unwrap();
    let mut mixed = fill::text(seed, 100_000);
    mixed.extend(fill::noise(seed, 100_000));
    mixed.extend(vec![0; 200_000]);
    mixed.extend(fill::text(seed + 1, 77_777));
    std::fs::write(folder.join("mixed"), mixed).unwrap();
}

fn streams(files: &dyn Files, seed: u64) {
    let file = files.find(files.root(), b"SIZE 512").unwrap().expect("found without regard to case");
    let mut found = files.streams(file).unwrap();
    found.sort();
    assert_eq!(found, [(b"large".to_vec(), 200_000), (b"small".to_vec(), 5)]);
    let mut buf = vec![0; 200_001];
    assert_eq!(files.read_stream(file, b"large", 0, &mut buf).unwrap(), 200_000);
    assert!(buf[..200_000] == fill::noise(seed, 200_000));
    assert!(files.read_stream(file, b"none", 0, &mut buf).is_err());
    let file = files.find(files.root(), b"one").unwrap().unwrap();
    assert_eq!(files.info(file).unwrap().links, 2);
    assert_eq!(files.find(files.root(), b"two").unwrap(), Some(file));
}

fn compare(options: &str, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), options);
    let at = folder.path().join("mount");
    let large_clusters = ["8192", "65536"].iter().any(|bytes| options.contains(bytes));
    {
        let _mounted = mounted(&image, &at);
        fill::plain(&at, seed, if fill::all() { 3000 } else { 400 });
        fill::in_pieces(&at, seed);
        fill::with_holes(&at, seed, 30 << 20);
        fill::unix(&at, seed);
        if !large_clusters {
            compressed(&at, seed);
        }
        std::fs::write(at.join("size 512:large"), fill::noise(seed, 200_000)).unwrap();
        std::fs::write(at.join("size 512:small"), "small").unwrap();
        for (name, seconds, nanos) in
            [("size 0", 0, 100), ("size 1", 4_000_000_000, 999_999_900), ("size 59", -5_000_000_000, 0)]
        {
            fill::set_time(&at.join(name), seconds, nanos);
        }
    }
    let driver = {
        let _mounted = mounted(&image, &at);
        theirs(&at, JUDGE)
    };
    let files = open(&image);
    assert_same(&ours(&*files, JUDGE), &driver, options);
    assert_places(&*files, &image, &[b"pieces 0", b"size 300001", b"holes"]);
    streams(&*files, seed);
}

#[test]
fn root_trees_of_ntfs_are_those_of_ntfs_3g() {
    for (seed, options) in (1..).zip(["", "-c 512", "-c 65536"]) {
        compare(options, seed);
    }
    if fill::all() {
        for seed in 10..15 {
            for clusters in ["512", "1024", "2048", "4096", "8192", "65536"] {
                compare(&format!("-c {clusters}"), seed);
            }
        }
    }
}

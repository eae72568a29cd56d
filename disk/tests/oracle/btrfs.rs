//! btrfs: `mkfs.btrfs`, the kernel's driver, `btrfs inspect-internal dump-tree`, `btrfs check`.
//!
//! Promise: the tool's chunks and extents, put together here in the simplest way, give the same map as ours.

use std::collections::BTreeMap;
use std::path::Path;

use disk::Extent;

use crate::files::{complement, hashes};
use crate::testing::{LoopDevice, Mounted, image, run};
use crate::tools::{Noise, assert_same_free, ours_sure, spoil};

const PACKAGE: &str = "btrfs-progs";

struct Combination {
    name: &'static str,
    mkfs: &'static [&'static str],
    mib: u64,
    mount: &'static str,
    /// A tail behind the filesystem.
    tail: u64,
}

const fn combination(
    name: &'static str,
    mkfs: &'static [&'static str],
    mib: u64,
    mount: &'static str,
) -> Combination {
    Combination { name, mkfs, mib, mount, tail: 0 }
}

const DEFAULT: [Combination; 5] = [
    combination("plain", &[], 400, "noatime"),
    Combination { tail: 12_345, ..combination("mixed", &["--mixed", "-s", "4096"], 150, "noatime") },
    combination(
        "xxhash single",
        &["--csum", "xxhash", "-m", "single", "-d", "single"],
        300,
        "compress-force=zstd",
    ),
    combination(
        "sha256 dup 64K",
        &["--csum", "sha256", "-d", "dup", "-m", "dup", "-n", "65536"],
        500,
        "noatime",
    ),
    combination(
        "blake2 no skinny",
        &["--csum", "blake2", "-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree"],
        300,
        "space_cache=v1",
    ),
];

fn make(folder: &Path, it: &Combination, seed: u64) -> (std::path::PathBuf, Vec<(String, u64)>) {
    let path = image(folder, "btrfs.img", it.mib << 20);
    let name = path.to_str().unwrap().to_owned();
    let mut args = vec!["-q", "-f"];
    args.extend(it.mkfs);
    args.push(&name);
    run("mkfs.btrfs", PACKAGE, &args, "");
    let at = folder.join("mnt");
    let device = LoopDevice::new(&path, &[]);
    let files = {
        let mounted = Mounted::new(&["-t", "btrfs", "-o", it.mount, device.str()], &at);
        fill(&mounted.0, seed, it.mib);
        hashes(&mounted.0)
    };
    drop(device);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((it.mib << 20) + it.tail).unwrap();
    (path, files)
}

fn sync(at: &Path) {
    run("btrfs", PACKAGE, &["filesystem", "sync", at.to_str().unwrap()], "");
}

/// Files, holes, snapshots, deleted files and subvolumes, moved chunks.
fn fill(at: &Path, seed: u64, mib: u64) {
    let mut noise = Noise::new(seed);
    let name = |path: &Path| path.to_str().unwrap().to_owned();
    run("btrfs", PACKAGE, &["subvolume", "create", &name(&at.join("sub"))], "");
    let mut written = 0;
    for number in 0..600_u64 {
        let folder = if number % 3 == 0 { at.join("sub") } else { at.join(format!("d{}", number % 7)) };
        std::fs::create_dir_all(&folder).unwrap();
        let len = match noise.below(12) {
            0 => 1 << 20,
            1..=4 => noise.below(200_000),
            _ => noise.below(6000),
        };
        if written + len > mib << 20 >> 3 {
            break;
        }
        written += len;
        std::fs::write(folder.join(format!("f{number}")), noise.bytes(len as usize)).unwrap();
        if number % 97 == 0 {
            sync(at);
        }
    }
    run("btrfs", PACKAGE, &["subvolume", "snapshot", &name(&at.join("sub")), &name(&at.join("snap"))], "");
    let sparse = std::fs::File::create(at.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 1 << 30).unwrap();
    run("fallocate", "util-linux", &["-l", "5M", &name(&at.join("preallocated"))], "");
    sync(at);
    for number in (0..600_u64).filter(|number| number % 4 == seed % 4) {
        for folder in ["sub".to_owned(), format!("d{}", number % 7)] {
            std::fs::remove_file(at.join(folder).join(format!("f{number}"))).ok();
        }
    }
    sync(at);
    if seed % 3 == 1 {
        run("btrfs", PACKAGE, &["balance", "start", "--full-balance", &name(at)], "");
    }
    if seed % 3 == 2 {
        run("btrfs", PACKAGE, &["subvolume", "delete", "-C", &name(&at.join("snap"))], "");
        run("btrfs", PACKAGE, &["filesystem", "resize", "-20M", &name(at)], "");
    }
}

fn dump(path: &Path, tree: &str) -> String {
    run("btrfs", PACKAGE, &["inspect-internal", "dump-tree", "-t", tree, path.to_str().unwrap()], "")
}

/// `key (A KIND B)` of a line of items.
fn key(line: &str) -> Option<(u64, &str, u64)> {
    let inside = line.trim_start().strip_prefix("item ")?.split_once("key (")?.1.split_once(')')?.0;
    let mut words = inside.split(' ');
    let number = |word: &str| word.parse().ok().or((word == "FIRST_CHUNK_TREE").then_some(256));
    Some((number(words.next()?)?, words.next()?, words.next()?.parse().ok()?))
}

/// What the tool's listing of chunks and extents leaves free.
fn theirs(path: &Path) -> Vec<Extent> {
    let superblock = run("btrfs", PACKAGE, &["inspect-internal", "dump-super", path.to_str().unwrap()], "");
    let field = |name: &str| -> u64 {
        let line = superblock.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (node_bytes, device_bytes) = (field("nodesize"), field("dev_item.total_bytes"));
    let mut chunks: BTreeMap<u64, (u64, Vec<u64>)> = BTreeMap::new();
    let mut now = None;
    for line in dump(path, "chunk").lines() {
        if let Some((_, kind, offset)) = key(line) {
            now = (kind == "CHUNK_ITEM").then_some(offset);
        }
        let Some(chunk) = now else { continue };
        let mut words = line.split_whitespace();
        match words.next() {
            Some("length") => chunks.entry(chunk).or_default().0 = words.next().unwrap().parse().unwrap(),
            Some("stripe") => {
                let place = line.rsplit(' ').next().unwrap().parse().unwrap();
                chunks.get_mut(&chunk).unwrap().1.push(place);
            }
            _ => {}
        }
    }
    let mut used = vec![Extent { offset: 0, bytes: 1 << 20 }, Extent { offset: 64 << 20, bytes: 64 << 10 }];
    let mut free = Vec::new();
    let mut extents = Vec::new();
    for line in dump(path, "extent").lines() {
        match key(line) {
            Some((offset, "EXTENT_ITEM", bytes)) => extents.push(Extent { offset, bytes }),
            Some((offset, "METADATA_ITEM", _)) => extents.push(Extent { offset, bytes: node_bytes }),
            _ => {}
        }
    }
    assert!(chunks.len() >= 2 || extents.len() > 5, "the listing was not understood");
    let mut taken: Vec<Extent> = Vec::new();
    for extent in &extents {
        let (start, (length, places)) = chunks.range(..=extent.offset).next_back().unwrap();
        assert!(extent.end() <= start + length);
        used.extend(
            places.iter().map(|at| Extent { offset: at + (extent.offset - start), bytes: extent.bytes }),
        );
    }
    taken.append(&mut used);
    free.append(&mut complement(taken, device_bytes));
    free
}

fn check(it: &Combination, seed: u64) {
    let what = format!("btrfs, {}, seed {seed}", it.name);
    let folder = tempfile::tempdir().unwrap();
    let (path, files) = make(folder.path(), it, seed);
    let found = ours_sure(&path, &what);
    assert_same_free(&found, theirs(&path), &what);
    assert!(found.free.free_bytes() > 10 << 20, "{what}: next to nothing is free");
    spoil(&path, &found);
    let name = path.to_str().unwrap();
    run("btrfs", PACKAGE, &["check", "--check-data-csum", name], "");
    assert_same_free(&ours_sure(&path, &what), found.free.free().to_vec(), &what);
    let device = LoopDevice::new(&path, &["-r"]);
    let mounted = Mounted::new(&["-t", "btrfs", "-o", "ro", device.str()], &folder.path().join("mnt"));
    assert_eq!(hashes(&mounted.0), files, "{what}");
}

#[test]
fn the_same_blocks_are_free_as_root() {
    for (seed, it) in (0..).zip(&DEFAULT) {
        check(it, seed);
    }
}

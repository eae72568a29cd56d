//! btrfs: `mkfs.btrfs`, the kernel's driver, `btrfs inspect-internal dump-tree`, `btrfs check`.
//!
//! Promise: the tool's chunks and extents, put together here in the simplest way, give the same map as ours.
#![allow(clippy::cast_possible_truncation)] // images fit into memory

use std::collections::BTreeMap;
use std::path::Path;

use disk::{Device, Doubt, Extent, ReadAt};

use crate::files::{Flipped, complement, hashes};
use crate::testing::{LoopDevice, Mounted, image, run};
use crate::tools::{Noise, all, assert_same_free, ours, ours_sure, spoil};

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
        // One that finds no room leaves off half-way: as good.
        let mut balance = std::process::Command::new("btrfs");
        balance.args(["balance", "start", "--full-balance"]).arg(at).output().unwrap();
    }
    if seed % 3 == 2 {
        run("btrfs", PACKAGE, &["subvolume", "delete", "-C", &name(&at.join("snap"))], "");
        // A small one may not shrink.
        let mut resize = std::process::Command::new("btrfs");
        resize.args(["filesystem", "resize", "-20M"]).arg(at).output().unwrap();
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
    // The second is balanced.
    for (seed, it) in (0..).zip(&DEFAULT).filter(|(seed, _)| all() || *seed < 2) {
        check(it, seed);
    }
}

#[test]
fn hundreds_of_combinations_when_asked_for_as_root() {
    if !all() {
        return;
    }
    for seed in 0..12 {
        for it in &DEFAULT {
            check(it, 100 + seed);
        }
    }
}

/// Each from a clean filesystem, with right checksums where the doubt is another.
#[test]
fn doubts_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "btrfs.img", 200 << 20);
    run("mkfs.btrfs", PACKAGE, &["-q", "--csum", "sha256", path.to_str().unwrap()], "");
    let clean = std::fs::read(&path).unwrap();
    const SUPER: usize = 64 << 10;
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = clean.clone();
        change(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        ours(&path)
    };
    let copy = &folder.path().join("super");
    let with = &with;
    let field = |at: usize, bits: u64| {
        with(&move |bytes| {
            let place = SUPER + at..SUPER + at + 8;
            let old = u64::from_le_bytes(bytes[place.clone()].try_into().unwrap());
            bytes[place].copy_from_slice(&(old ^ bits).to_le_bytes());
            std::fs::write(copy, &bytes[SUPER + 32..SUPER + 4096]).unwrap();
            let sum = run("sha256sum", "coreutils", &[copy.to_str().unwrap()], "");
            for at in 0..32 {
                bytes[SUPER + at] = u8::from_str_radix(&sum[2 * at..2 * at + 2], 16).unwrap();
            }
        })
    };
    assert!(field(0x12b, 0).is_ok());
    assert!(matches!(field(96, 1 << 20), Err(Doubt::Journal)));
    assert!(matches!(field(136, 3), Err(Doubt::Elsewhere { .. })));
    assert!(matches!(field(56, 4), Err(Doubt::Damaged { .. })));
    for bit in [12, 13, 14, 16, 17, 40] {
        assert!(matches!(field(188, 1 << bit), Err(Doubt::Feature { .. })), "incompatible {bit}");
    }
    for (at, bit) in [(180, 4), (180, 33), (172, 0), (56, 32), (56, 38)] {
        assert!(matches!(field(at, 1 << bit), Err(Doubt::Feature { .. })), "{at} {bit}");
    }
    assert!(matches!(field(209, 1 << 40), Err(Doubt::TooLarge { .. })));
    for at in [72, 80, 88, 120, 164, 198, 201, 217, 267, 811, 830] {
        assert!(field(at, 1).is_err(), "{at}");
    }
    assert!(matches!(with(&|bytes| bytes[SUPER + 900] ^= 1), Err(Doubt::Checksum { .. })));
    // Any byte of the first copy of a tree block.
    let number = |at: usize| u64::from_le_bytes(clean[at..at + 8].try_into().unwrap());
    let blocks = (1_usize << 20..clean.len() - 4096).step_by(4096);
    let fsid = &clean[SUPER + 32..SUPER + 48];
    let mut doubted = 0;
    for at in blocks.filter(|at| &clean[at + 32..at + 48] == fsid && number(at + 48) != 0).take(40) {
        doubted += u32::from(with(&|bytes| bytes[at + 300] ^= 1).is_err());
    }
    assert!(doubted >= 3, "{doubted}");
}

/// As hostile as it gets: every block that is read has a right checksum, whatever was flipped in it.
#[test]
fn flipped_bytes_give_a_map_or_a_doubt_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = make(folder.path(), &DEFAULT[0], 0);
    let clean = Device::open_buffered(&path).unwrap();
    let table: Vec<usize> = (1 << 20..clean.size_bytes() - 4096)
        .step_by(4096)
        .filter(|at| {
            let mut head = [0; 104];
            clean.read_exact_at(*at, &mut head).unwrap();
            (1..4).contains(&head[88]) && head[89..96] == [0; 7] && head[40..48] != [0; 8]
        })
        .map(|at| at as usize)
        .collect();
    assert!(table.len() > 5);
    let mut noise = Noise::new(11);
    let mut doubted = 0;
    for round in 0..300_u64 {
        let at = match round % 3 {
            0 => (64 << 10) + noise.below(2859),
            1 => table[noise.below(table.len() as u64) as usize] as u64 + noise.below(101),
            _ => table[noise.below(table.len() as u64) as usize] as u64 + noise.below(16384),
        };
        let flipped = Flipped { device: &clean, at, with: 1 << noise.below(8), repair: seal };
        let whole = Extent { offset: 0, bytes: clean.size_bytes() };
        doubted += u32::from(disk::allocation(&flipped, whole).is_err());
    }
    assert!(doubted > 5, "{doubted}");
}

/// The checksum of a whole block.
fn seal(block: &mut [u8]) {
    if block.len() < 4096 || !block.len().is_power_of_two() {
        return;
    }
    let sum = block[32..].iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    });
    block[..4].copy_from_slice(&(!sum).to_le_bytes());
}

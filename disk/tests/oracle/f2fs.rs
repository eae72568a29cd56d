//! F2FS: `mkfs.f2fs`, `sload.f2fs`, `dump.f2fs`, `fsck.f2fs`.
//!
//! Promise: the tool's own maps of valid blocks give the same map as ours; after noise its check is clean and what it
//! dumps of a file is the same.
#![allow(clippy::cast_possible_truncation)] // images fit into memory

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use disk::{Device, Doubt, Extent, ReadAt};

use crate::files::{Flipped, complement, hashes};
use crate::testing::{image, run};
use crate::tools::{Noise, all, assert_same_free, ours, ours_sure, spoil};

const PACKAGE: &str = "f2fs-tools";

const DEFAULT: [(&str, &[&str], u64, u64); 4] = [
    ("plain", &[], 200, 0),
    (
        "all features",
        &["-O", "extra_attr,inode_checksum,inode_crtime,sb_checksum,lost_found,verity,compression"],
        300,
        5000,
    ),
    ("sections", &["-s", "2", "-z", "2"], 400, 4096),
    ("quotas", &["-O", "encrypt,extra_attr,project_quota,quota,flexible_inline_xattr"], 150, 0),
];

fn make(folder: &Path, mkfs: &[&str], mib: u64, files: u64, seed: u64) -> std::path::PathBuf {
    let path = image(folder, "f2fs.img", mib << 20);
    let name = path.to_str().unwrap();
    run("mkfs.f2fs", PACKAGE, &[&["-q", "-f"], mkfs, &[name]].concat(), "");
    if files > 0 {
        let from = folder.join("from");
        let mut noise = Noise::new(seed);
        for number in 0..files {
            let at = from.join(format!("d{}", number % 5));
            std::fs::create_dir_all(&at).unwrap();
            let len = if number % 20 == 0 { 2 << 20 } else { noise.below(30_000) };
            std::fs::write(at.join(format!("f{number}")), noise.bytes(len as usize)).unwrap();
        }
        run("sload.f2fs", PACKAGE, &["-f", from.to_str().unwrap(), name], "");
    }
    path
}

/// `dump.f2fs -s 0~-1` writes each segment with its map, in the folder it runs in.
fn theirs(folder: &Path, path: &Path) -> Vec<Extent> {
    let output = Command::new("dump.f2fs")
        .args(["-d", "1", "-s", "0~-1"])
        .arg(path)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|e| panic!("dump.f2fs: {e}: apt-get install -y --no-install-recommends {PACKAGE}"));
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |name: &str| -> u64 {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("{name} in {text}"));
        line.rsplit(|c: char| !c.is_ascii_digit()).find(|word| !word.is_empty()).unwrap().parse().unwrap()
    };
    let (main, segments) = (field("main_blkaddr"), field("segment_count_main"));
    let sit = std::fs::read_to_string(folder.join("dump_sit")).unwrap();
    let mut used = vec![Extent { offset: 0, bytes: main * 4096 }];
    let mut segment = None;
    let mut seen = 0;
    let mut unit = 0;
    for line in sit.lines() {
        if let Some(rest) = line.trim_start().strip_prefix("segno:") {
            segment = Some(rest.split_whitespace().next().unwrap().parse::<u64>().unwrap());
            seen += 1;
            unit = 0;
            continue;
        }
        let Some(segment) = segment else { continue };
        for word in line.split_whitespace() {
            let Ok(byte) = u8::from_str_radix(word, 16) else { continue };
            for bit in 0..8 {
                if byte & (0x80 >> bit) != 0 {
                    used.push(Extent { offset: (main + segment * 512 + unit) * 4096, bytes: 4096 });
                }
                unit += 1;
            }
        }
    }
    assert_eq!(seen, segments, "the listing was not understood");
    complement(used, (main + segments * 512) * 4096)
}

/// The hashes of the files with the first inode numbers, which the tool puts in the folder it runs in.
fn content(folder: &Path, path: &Path) -> Vec<(String, u64)> {
    for inode in 4..24 {
        let mut child = Command::new("dump.f2fs")
            .args(["-i", &format!("{inode:#x}")])
            .arg(path)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"y\n").ok();
        child.wait().unwrap();
    }
    let dumped = folder.join("lost_found");
    let found = hashes(&dumped);
    std::fs::remove_dir_all(dumped).unwrap();
    found
}

fn check(name: &str, mkfs: &[&str], mib: u64, files: u64, tail: u64, seed: u64) {
    let what = format!("f2fs, {name}, {files} files");
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), mkfs, mib, files, seed);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((mib << 20) + tail).unwrap();
    let before = (files > 0).then(|| content(folder.path(), &path));
    let found = ours_sure(&path, &what);
    assert_same_free(&found, theirs(folder.path(), &path), &what);
    assert!(found.free.free_bytes() > 10 << 20, "{what}: next to nothing is free");
    spoil(&path, &found);
    let text = run("fsck.f2fs", PACKAGE, &["--dry-run", "-f", path.to_str().unwrap()], "");
    assert!(
        !text.contains("[FIX]") && !text.contains("[ASSERT]") && !text.contains("[Fail]"),
        "{what}: {text}"
    );
    let after = (files > 0).then(|| content(folder.path(), &path));
    assert!(before.as_ref().is_none_or(|files| files.len() > 5) && before == after, "{what}");
}

#[test]
fn the_same_blocks_are_free() {
    for (seed, (name, mkfs, mib, tail)) in (0..).zip(DEFAULT) {
        check(name, mkfs, mib, if seed == 3 { 0 } else { 200 }, tail, seed);
    }
}

#[test]
fn hundreds_of_combinations_when_asked_for() {
    if !all() {
        return;
    }
    let features = ["extra_attr", "extra_attr,inode_checksum", "lost_found", "sb_checksum", "verity,encrypt"];
    let layouts: [&[&str]; 5] = [&[], &["-s", "2"], &["-s", "4", "-z", "1"], &["-o", "20"], &["-a", "1"]];
    for (seed, features) in (0_u64..).zip(features) {
        for layout in layouts {
            for (mib, files) in [(300, 30), (500, 900), (3000, 0), (400, 300)] {
                let mkfs = [layout, &["-O", features]].concat();
                check(features, &mkfs, mib, files, seed * 1000, seed);
            }
        }
    }
}

/// Each flips what a clean filesystem has.
#[test]
fn doubts() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), &["-O", "extra_attr,sb_checksum"], 100, 10, 7);
    let clean = std::fs::read(&path).unwrap();
    let field = |at: usize| u32::from_le_bytes(clean[at..at + 4].try_into().unwrap()) as usize;
    let packs = [field(1024 + 76) * 4096, (field(1024 + 76) + 512) * 4096];
    let newer = packs
        .into_iter()
        .rev() // of two alike the first counts
        .max_by_key(|at| u64::from_le_bytes(clean[*at..*at + 8].try_into().unwrap()))
        .unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = clean.clone();
        change(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        ours(&path)
    };
    let sum = |bytes: &[u8]| {
        let mut hasher = crc32fast::Hasher::new_with_initial(!0xf2f5_2010);
        hasher.update(bytes);
        !hasher.finalize()
    };
    // Both ends of the pack, with right checksums.
    let flags = |wanted: u32| {
        with(&move |bytes| {
            let blocks = u32::from_le_bytes(bytes[newer + 136..newer + 140].try_into().unwrap()) as usize;
            for at in [newer, newer + (blocks - 1) * 4096] {
                bytes[at + 132..at + 136].copy_from_slice(&wanted.to_le_bytes());
                let sum = sum(&bytes[at..at + 4092]).to_le_bytes();
                bytes[at + 4092..at + 4096].copy_from_slice(&sum);
            }
        })
    };
    let good = field(newer + 132) as u32;
    assert!(flags(good).is_ok());
    let unclean = flags(good & !1);
    assert!(matches!(unclean, Err(Doubt::NotClean { .. })), "{newer:#x} {packs:x?} {good:#x}: {unclean:?}");
    assert!(matches!(flags(good | 2), Err(Doubt::NotClean { .. })));
    for bit in [3, 4, 11] {
        assert!(matches!(flags(good | 1 << bit), Err(Doubt::Damaged { .. })), "{bit}");
    }
    for bit in [5, 10, 12, 13, 14, 20, 31] {
        assert!(matches!(flags(good | 1 << bit), Err(Doubt::Feature { .. })), "{bit}");
    }
    assert!(matches!(with(&|bytes| bytes[1024 + 2000] ^= 1), Err(Doubt::Checksum { .. })));
    assert!(matches!(with(&|bytes| bytes[5120 + 2000] ^= 1), Err(Doubt::Impossible { .. })));
    assert!(matches!(with(&|bytes| bytes.truncate(99 << 20)), Err(Doubt::TooLarge { .. })));
    assert!(matches!(
        with(&|bytes| packs.iter().for_each(|at| bytes[at + 50] ^= 1)),
        Err(Doubt::Checksum { .. })
    ));
    // A node that was synced after the clean unmount.
    let segment = field(newer + 40);
    let offset = u16::from_le_bytes(clean[newer + 70..newer + 72].try_into().unwrap()) as usize;
    let next = (field(1024 + 92) + segment * 512 + offset) * 4096;
    let synced = with(&|bytes| bytes.copy_within(newer..newer + 8, next + 4096 - 12));
    assert!(matches!(synced, Err(Doubt::Journal)), "{synced:?}");
    // A map in the SIT.
    let sit = field(1024 + 80) * 4096;
    assert!(
        with(&|bytes| (0..2).for_each(|copy| bytes[sit + copy * (512 * 4096) + 74 * 20 + 9] ^= 4)).is_err()
    );
}

#[test]
fn flipped_bytes_give_a_map_or_a_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), &[], 100, 30, 5);
    let clean = Device::open_buffered(&path).unwrap();
    let mut noise = Noise::new(12);
    let mut doubted = 0;
    for round in 0..600_u64 {
        // The superblock, the packs, and a map.
        let at = [
            1024 + noise.below(2300),
            (2 << 20) + noise.below(300),
            (2 << 20) + noise.below(9 * 4096),
            (6 << 20) + noise.below(4096),
        ];
        let flipped =
            Flipped { device: &clean, at: at[round as usize % 4], with: 1 << noise.below(8), repair: seal };
        let whole = Extent { offset: 0, bytes: clean.size_bytes() };
        doubted += u32::from(disk::allocation(&flipped, whole).is_err());
    }
    assert!(doubted > 60, "{doubted}");
}

/// The checksum of a checkpoint's block.
fn seal(block: &mut [u8]) {
    if block.len() == 4096 {
        let mut hasher = crc32fast::Hasher::new_with_initial(!0xf2f5_2010);
        hasher.update(&block[..4092]);
        let sum = !hasher.finalize();
        block[4092..].copy_from_slice(&sum.to_le_bytes());
    }
}

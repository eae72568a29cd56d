//! Bytes that are not as they were written: what has checksums gives the same answers or errors, what has none gives any
//! answer, and nothing panics or has no end.
//!
//! Promise: the same rounds each time; `CAS_ORACLE=all` for fifty times as many.
#![allow(clippy::cast_possible_truncation)] // images fit into memory

use std::collections::BTreeSet;
use std::sync::Arc;

use disk::files::{FileId, FileKind, Files, files};
use disk::{Error, MemoryDevice, ReadAt};

use crate::compare::{Told, told};
use crate::fill::{Size, noise};
use crate::{all, btrfs, xfs, xfs4};

const TINY: Size = Size { seed: 3, names: 200, pieces: 60, attributes: 20 };
/// More files than any of these images has; a hostile one may have folders within themselves.
const FILES_MAX: usize = 4000;

/// A device with a byte changed, and each block that has it sealed again, or not.
struct Flipped {
    device: Arc<MemoryDevice>,
    at: u64,
    with: u8,
    seal: fn(&mut [u8]),
}

impl ReadAt for Flipped {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.device.read_exact_at(offset, buf)?;
        if let Some(byte) = self.at.checked_sub(offset).and_then(|at| buf.get_mut(at as usize)) {
            *byte ^= self.with;
            (self.seal)(buf);
        }
        Ok(())
    }
}

/// An image in memory, and what is said of it.
struct Base {
    kind: &'static str,
    device: Arc<MemoryDevice>,
    /// Those that hold anything; and those that no file says are its own.
    sectors: Vec<u64>,
    metadata: Vec<u64>,
    told: Told,
    with_contents: bool,
}

impl Base {
    fn new(image: &std::path::Path, kind: &'static str, with_contents: bool) -> Self {
        let bytes = std::fs::read(image).unwrap();
        let sectors = (0..).step_by(512).zip(bytes.chunks(512));
        let sectors = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0)).map(|(at, _)| at);
        let sectors: Vec<u64> = sectors.collect();
        let device = Arc::new(MemoryDevice::new(bytes));
        let reader = files(device.clone(), kind).unwrap().unwrap();
        let told = told(&*reader, with_contents, FILES_MAX);
        assert!(told.len() < FILES_MAX && told.values().all(Result::is_ok));
        let mut theirs = BTreeSet::new();
        claimed(&*reader, reader.root(), &mut theirs);
        let metadata = sectors.iter().copied().filter(|at| !theirs.contains(&(at / 4096))).collect();
        Self { kind, device, sectors, metadata, told, with_contents }
    }

    /// In `among` the flips are; how many answers were errors, and how many others.
    fn flip(&self, rounds: u64, among: &[u64], seal: fn(&mut [u8])) -> (usize, usize) {
        let (mut errors, mut others) = (0, 0);
        let rounds = if all() { rounds * 50 } else { rounds };
        for round in 0..rounds {
            let random = noise(round * 2 + 1, 32);
            let number = |at: usize| u64::from_le_bytes(random[at..at + 8].try_into().unwrap());
            let at = among[number(8) as usize % among.len()] + number(16) % 512;
            let with = if random[31] < 128 { 1 << (random[30] % 8) } else { random[30].max(1) };
            let device = Arc::new(Flipped { device: self.device.clone(), at, with, seal });
            let Ok(Some(reader)) = files(device, self.kind) else {
                errors += 1;
                continue;
            };
            let now = told(&*reader, self.with_contents, FILES_MAX);
            for (path, before) in &self.told {
                match now.get(path) {
                    Some(Ok(said)) if Some(said) != before.as_ref().ok() => others += 1,
                    Some(Err(_)) => errors += 1,
                    _ => {}
                }
            }
        }
        (errors, others)
    }
}

/// Blocks of contents.
fn claimed(reader: &dyn Files, folder: FileId, blocks: &mut BTreeSet<u64>) {
    let mut below = Vec::new();
    reader
        .list(folder, &mut |entry| {
            below.push(entry.file);
            true
        })
        .unwrap();
    for file in below {
        match reader.info(file).unwrap().kind {
            FileKind::Folder => claimed(reader, file, blocks),
            FileKind::Regular => {
                for (extent, at) in reader.places(file).unwrap() {
                    blocks.extend(at / 4096..(at + extent.bytes).div_ceil(4096));
                }
            }
            _ => {}
        }
    }
}

fn nothing(_: &mut [u8]) {}

/// The checksum of a whole block of btrfs.
fn seal_btrfs(block: &mut [u8]) {
    if block.len() < 4096 || !block.len().is_power_of_two() {
        return;
    }
    let sum = block[32..].iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    });
    block[..4].copy_from_slice(&(!sum).to_le_bytes());
}

fn tiny_btrfs(folder: &std::path::Path, mount: &'static str) -> Base {
    let options = vec!["-m", "single", "-d", "single"];
    let path = btrfs::make(folder, &btrfs::Shape { options, mount, mib: 200, size: TINY });
    Base::new(&path, "btrfs", true)
}

fn tiny_xfs(folder: &std::path::Path, options: Vec<&'static str>) -> Base {
    let path = xfs::make(folder, &xfs::Shape { options, mib: 100, size: TINY }).unwrap();
    Base::new(&path, "xfs", false)
}

#[test]
fn a_flipped_byte_of_btrfs_is_an_error_or_nothing_as_root() {
    let folder = tempfile::tempdir().unwrap();
    for mount in ["compress-force=lzo", "compress-force=zstd"] {
        let base = tiny_btrfs(folder.path(), mount);
        // One file has no checksums.
        let mut told = base.told.clone();
        told.retain(|path, _| !path.ends_with("without checksums"));
        let base = Base { told, ..base };
        let (errors, others) = base.flip(40, &base.sectors, nothing);
        let (more_errors, more_others) = base.flip(40, &base.metadata, nothing);
        let (errors, others) = (errors + more_errors, others + more_others);
        assert!(others == 0 && errors > 8, "{errors} errors, {others} wrong answers");
    }
}

#[test]
fn a_hostile_btrfs_is_an_answer_or_an_error_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_btrfs(folder.path(), "compress-force=zlib");
    let fsid = base.device.to_vec()[(64 << 10) + 32..(64 << 10) + 48].to_vec();
    let bytes = base.device.to_vec();
    let is_block = |at: &u64| bytes[*at as usize + 32..*at as usize + 48] == fsid[..];
    let mut tree: Vec<u64> =
        base.sectors.iter().copied().filter(|at| at % 16384 == 0 && *at > 1 << 20).filter(is_block).collect();
    // Headers, items' keys, items.
    tree = tree.iter().flat_map(|at| (0..32).map(move |sector| at + sector * 512)).collect();
    tree.retain(|at| base.sectors.binary_search(at).is_ok());
    tree.extend((64 << 10..68 << 10).step_by(512));
    let (errors, others) = base.flip(120, &tree, seal_btrfs);
    println!("{errors} errors, {others} other answers");
    assert!(errors > 8 && others > 8);
}

#[test]
fn a_flipped_byte_of_xfs_is_an_error_or_nothing_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_xfs(folder.path(), vec![]);
    let (errors, others) = base.flip(150, &base.metadata, nothing);
    assert!(others == 0 && errors > 8, "{errors} errors, {others} wrong answers");
}

/// Version 4 has no checksums: the same code, and nothing in its way.
#[test]
fn a_hostile_xfs_is_an_answer_or_an_error_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let base = Base::new(&xfs4::tiny(folder.path()), "xfs", false);
    let (errors, others) = base.flip(300, &base.metadata, nothing);
    println!("{errors} errors, {others} other answers");
    assert!(errors > 8 && others > 8);
}

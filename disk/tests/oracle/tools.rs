//! What the oracles of all filesystems need: comparing maps, and noise where nothing should be missed.
//!
//! Promise: the hard rule (nothing used may be free) fails with the first offending place.
#![allow(dead_code)] // each filesystem needs some of it

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use disk::{Allocation, Device, Doubt, Extent, FREE_BYTES_MIN, ReadAt};

use crate::testing::run;

/// Whether hundreds of combinations are asked for.
pub(crate) fn all() -> bool {
    std::env::var_os("CAS_ORACLE").is_some_and(|it| it == "all")
}

/// What we find on an image that is one volume.
pub(crate) fn ours(image: &Path) -> Result<Option<Allocation>, Doubt> {
    let device = Device::open_buffered(image).unwrap();
    disk::allocation(&device, Extent { offset: 0, bytes: device.size_bytes() })
}

/// The same, where there must be a map.
#[track_caller]
pub(crate) fn ours_sure(image: &Path, what: &str) -> Allocation {
    match ours(image) {
        Ok(Some(allocation)) => allocation,
        Ok(None) => panic!("{what}: no parser"),
        Err(doubt) => panic!("{what}: doubted: {doubt}: {doubt:?}"),
    }
}

/// Sorted, and neighbours made one.
pub(crate) fn merged(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort();
    let mut merged: Vec<Extent> = Vec::new();
    for extent in extents.into_iter().filter(|extent| extent.bytes > 0) {
        match merged.last_mut() {
            Some(last) if last.end() >= extent.offset => {
                last.bytes = last.end().max(extent.end()) - last.offset
            }
            _ => merged.push(extent),
        }
    }
    merged
}

/// Each of our free extents lies in one of the tool's, and each of the tool's that is long enough is one of ours.
#[track_caller]
pub(crate) fn assert_same_free(allocation: &Allocation, theirs: Vec<Extent>, what: &str) {
    assert_free_within(allocation, theirs.clone(), what);
    let theirs: Vec<Extent> =
        merged(theirs).into_iter().filter(|extent| extent.bytes >= FREE_BYTES_MIN).collect();
    let ours = allocation.free.free();
    let differ = theirs.iter().zip(ours).find(|(theirs, ours)| theirs != ours);
    assert!(
        differ.is_none() && theirs.len() == ours.len(),
        "{what}: the tool has {} free extents, we {}; first difference: {differ:?}",
        theirs.len(),
        ours.len()
    );
}

/// Each of our free extents lies in one of the tool's.
#[track_caller]
pub(crate) fn assert_free_within(allocation: &Allocation, theirs: Vec<Extent>, what: &str) {
    let theirs = merged(theirs);
    for ours in allocation.free.free() {
        let after = theirs.partition_point(|extent| extent.offset <= ours.offset);
        let within = after.checked_sub(1).is_some_and(|at| ours.end() <= theirs[at].end());
        assert!(within, "{what}: WRONGLY FREE: {ours:?} is not in one of the tool's free extents");
    }
}

/// Bytes that look like nothing; the same for the same seed.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators".
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }
}

/// Free extents longer than this get noise at both ends and a little in between, so that sparse images stay small.
const NOISE_BYTES_MAX: u64 = 2 << 20;

/// Overwrites all that is free or excluded (of long extents, their ends and places between) with noise.
pub(crate) fn spoil(image: &Path, allocation: &Allocation) {
    let file = OpenOptions::new().write(true).open(image).unwrap();
    let mut noise = Noise::new(0x5ca1_ab1e);
    let excluded = allocation.excluded.iter().flat_map(|excluded| &excluded.extents);
    for extent in allocation.free.free().iter().chain(excluded) {
        if extent.bytes <= NOISE_BYTES_MAX {
            write_noise(&file, &mut noise, *extent);
            continue;
        }
        let part = NOISE_BYTES_MAX / 4;
        write_noise(&file, &mut noise, Extent { offset: extent.offset, bytes: part });
        write_noise(&file, &mut noise, Extent { offset: extent.end() - part, bytes: part });
        let steps = 32;
        for step in 1..steps {
            let offset = extent.offset + extent.bytes / steps * step;
            write_noise(&file, &mut noise, Extent { offset, bytes: (extent.end() - offset).min(4096) });
        }
    }
}

fn write_noise(file: &File, noise: &mut Noise, extent: Extent) {
    let bytes = noise.bytes(usize::try_from(extent.bytes).unwrap());
    file.write_all_at(&bytes, extent.offset).unwrap();
}

/// What a partclone finds free: its domain file lists extents as `position size status`, `?` being free.
pub(crate) fn partclone_free(tool: &str, image: &Path) -> Vec<Extent> {
    let domain = image.with_extension("domain");
    let (source, target) = (image.to_str().unwrap(), domain.to_str().unwrap());
    run(tool, "partclone", &["-q", "-D", "-s", source, "-o", target, "-L", "/dev/null"], "");
    let text = std::fs::read_to_string(&domain).unwrap();
    std::fs::remove_file(&domain).unwrap();
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut free = Vec::new();
    for line in lines {
        if let [offset, bytes, "?"] = line.split_whitespace().collect::<Vec<_>>()[..] {
            free.push(Extent { offset: number(offset), bytes: number(bytes) });
        }
    }
    free
}

//! The round that each filesystem makes, and files to fill it with.
//!
//! Promise: a volume that comes back has the same files, a clean bill of its checker, and no loop device left behind.
//! Knows nothing of any filesystem.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::Path;

use disk::tools::{Change, check, grow, minimum, missing, new_identity, programs, shrink};

use crate::testing::run;
use crate::tools::Noise;

/// A UUID that no tool would make up.
pub(crate) const UUID: [u8; 16] =
    [0x1a, 0x2b, 0x3c, 0x4d, 0x5e, 0x6f, 0x40, 0x81, 0x92, 0xa3, 0xb4, 0xc5, 0xd6, 0xe7, 0xf8, 0x09];
pub(crate) const UUID_TEXT: &str = "1a2b3c4d-5e6f-4081-92a3-b4c5d6e7f809";

pub(crate) type Files = Vec<(String, u64)>;

pub(crate) fn set_len(image: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(image).unwrap().set_len(bytes).unwrap();
}

pub(crate) fn blkid(image: &Path) -> String {
    let args = ["-p", "-s", "UUID", "-o", "value", image.to_str().unwrap()];
    run("blkid", "util-linux", &args, "").trim().to_owned()
}

#[track_caller]
pub(crate) fn assert_detached(image: &Path) {
    // The kernel lets go of a device that was busy when its last user does: a child of another thread, udev.
    let left = || run("losetup", "mount", &["-j", image.to_str().unwrap()], "");
    assert!((0..200).any(|_| left().is_empty()), "left attached: {}", left());
}

#[track_caller]
pub(crate) fn assert_tools(kind: &str, change: Change) {
    assert_eq!(missing(&programs(kind, change).unwrap()), [], "{kind} {change:?}: apt-get install these");
}

/// Minimum, shrink, grow to three times as much, new identity.
#[track_caller]
pub(crate) fn round(kind: &str, what: &str, image: &Path, scratch: &Path, files: &dyn Fn(&Path) -> Files) {
    for change in [Change::Measure, Change::Shrink, Change::Grow, Change::Check] {
        assert_tools(kind, change);
    }
    std::fs::create_dir_all(scratch).unwrap();
    let fine = |step: &str, before: &Files| {
        check(kind, image).unwrap_or_else(|e| panic!("{what}: {step}: {e}"));
        assert_eq!(*before, files(image), "{what}: {step}: files");
        assert_detached(image);
    };
    let old_bytes = std::fs::metadata(image).unwrap().len();
    let before = files(image);
    assert!(before.len() > 5, "{what}: no files to speak of");
    let bytes = minimum(kind, image, scratch).unwrap_or_else(|e| panic!("{what}: minimum: {e}"));
    assert!(
        (bytes.is_multiple_of(1 << 20) || bytes == old_bytes) && bytes <= old_bytes,
        "{what}: minimum {bytes} of {old_bytes}"
    );
    fine("minimum", &before);
    let started = std::time::Instant::now();
    shrink(kind, image, bytes, scratch).unwrap_or_else(|e| panic!("{what}: shrink to {bytes}: {e}"));
    let seconds = started.elapsed().as_secs_f32();
    set_len(image, bytes);
    fine("shrink", &before);
    grow_and_look(kind, what, image, 3 * bytes, scratch);
    fine("grow", &before);
    identity(kind, what, image, scratch);
    fine("new identity", &before);
    let mib = |bytes: u64| bytes >> 20;
    println!("{kind} {what}: {} MiB, at least {}, shrunk in {seconds:.2} s", mib(old_bytes), mib(bytes));
    assert!(std::fs::read_dir(scratch).unwrap().next().is_none(), "{what}: scratch is not empty");
}

#[track_caller]
pub(crate) fn grow_and_look(kind: &str, what: &str, image: &Path, bytes: u64, scratch: &Path) {
    // A tail that is not the filesystem's, as under a smaller target.
    set_len(image, bytes + (5 << 20));
    grow(kind, image, bytes, scratch).unwrap_or_else(|e| panic!("{what}: grow to {bytes}: {e}"));
    set_len(image, bytes);
}

#[track_caller]
pub(crate) fn identity(kind: &str, what: &str, image: &Path, scratch: &Path) {
    assert_tools(kind, Change::NewIdentity);
    let old = blkid(image);
    let changes =
        new_identity(kind, image, scratch, UUID).unwrap_or_else(|e| panic!("{what}: identity: {e}"));
    let new = blkid(image);
    assert_ne!(old, new, "{what}");
    assert_eq!((&changes[0].old, &changes[0].new), (&old, &new), "{what}");
}

/// Folders and files of many sizes, some of which go again, until `budget` bytes are written.
pub(crate) fn fill(at: &Path, budget: u64, seed: u64) {
    let mut noise = Noise::new(seed);
    let (mut written, mut doomed) = (0, BTreeMap::new());
    for number in 0..2000_u64 {
        let bytes = match noise.below(10) {
            0 => budget / 20 + noise.below(budget / 20),
            1..=4 => noise.below(200 << 10),
            _ => noise.below(6 << 10),
        };
        if written + bytes > budget {
            break;
        }
        written += bytes;
        let folder = at.join(format!("d{}/e{}", number % 5, number % 11));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("file {number}"));
        std::fs::write(&path, noise.bytes(usize::try_from(bytes).unwrap())).unwrap();
        if number % 4 == 1 {
            doomed.insert(number, path);
        }
    }
    run("sync", "coreutils", &["-f", at.to_str().unwrap()], "");
    for path in doomed.values() {
        std::fs::remove_file(path).unwrap();
    }
}

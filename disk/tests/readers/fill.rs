//! Trees with all that a Linux filesystem can hold, in the forms in which it keeps it.
//!
//! Promise: the same for the same seed; what a filesystem does not take (a long target, a large attribute) is left out.
//! Knows nothing of readers.
#![allow(clippy::cast_possible_truncation)] // sizes of test files

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, fallocate,
    lsetxattr, makedev, mknodat, utimensat,
};

/// How much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) seed: u64,
    /// Names in the largest folder.
    pub(crate) names: u64,
    /// Pieces of the most fragmented file.
    pub(crate) pieces: u64,
    /// Attributes of the file that has most.
    pub(crate) attributes: u64,
}

/// Bytes that look like nothing; the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Bytes that compress well, and not to nothing.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = ["alpha ", "beta ", "gamma ", "delta\n", "epsilon, ", "zeta; "];
    let choices = noise(seed, len / 4 + 8);
    let mut out: Vec<u8> =
        choices.iter().flat_map(|it| words[usize::from(*it) % words.len()].bytes()).take(len).collect();
    out.resize(len, b'.');
    out
}

pub(crate) fn fill(at: &Path, size: Size) {
    contents(at, size);
    pieces(at, size);
    folders(at, size);
    links(at);
    attributes(at, size);
    special(at);
    times_and_owners(at);
}

fn contents(at: &Path, size: Size) {
    for (number, len) in
        [0, 1, 100, 2000, 4095, 4096, 4097, 70_000, 300_000, 2_000_003].into_iter().enumerate()
    {
        let seed = size.seed + number as u64;
        std::fs::write(at.join(format!("noise{len}")), noise(seed, len)).unwrap();
        std::fs::write(at.join(format!("text{len}")), text(seed, len)).unwrap();
    }
    // Compressed extents of which parts are replaced, and so are shared by pieces of the file.
    let mixed = File::options().write(true).open(at.join("text2000003")).unwrap();
    mixed.sync_all().unwrap();
    for place in [5_000, 131_072, 200_001, 1_000_000] {
        mixed.write_all_at(&noise(place, 9000), place).unwrap();
        mixed.sync_all().unwrap();
    }
}

fn pieces(at: &Path, size: Size) {
    let sparse = File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 10).unwrap();
    sparse.write_all_at(b"middle", 3 << 30).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let hole = File::create(at.join("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    let reserved = File::create(at.join("reserved")).unwrap();
    fallocate(&reserved, FallocateFlags::empty(), 0, 3 << 20).unwrap();
    reserved.write_all_at(&noise(5, 10_000), 1 << 20).unwrap();
    let behind = File::create(at.join("reserved behind the end")).unwrap();
    behind.write_all_at(&noise(6, 5000), 0).unwrap();
    fallocate(&behind, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    let many = File::create(at.join("pieces")).unwrap();
    let step = 128 << 10;
    many.write_all_at(&noise(7, (size.pieces * 8192).min(64 << 20) as usize), 0).unwrap();
    many.sync_all().unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for number in 0..size.pieces {
        fallocate(&many, punch, number * 8192 + 4096, 4096).ok();
    }
    for number in 0..size.pieces / 10 {
        many.write_all_at(&noise(number, 700), (64 << 20) + number * step).unwrap();
    }
    many.sync_all().unwrap();
    let shared = File::create(at.join("shared")).unwrap();
    // Not every filesystem can.
    if rustix::fs::ioctl_ficlone(&shared, &many).is_ok() {
        shared.write_all_at(&noise(8, 12_345), 30_000).unwrap();
    }
    let cut = File::create(at.join("cut")).unwrap();
    cut.write_all_at(&noise(9, 200_000), 0).unwrap();
    cut.sync_all().unwrap();
    cut.set_len(123_457).unwrap();
    cut.set_len(150_001).unwrap();
}

fn folders(at: &Path, size: Size) {
    for names in [0, 1, 3, 12, 60, 150, 400, size.names / 4, size.names] {
        let folder = at.join(format!("folder{names}"));
        std::fs::create_dir(&folder).unwrap();
        for number in 0..names {
            let name = match number % 7 {
                0 => format!("{number}"),
                1 => format!("a file with a name of some length, number {number}"),
                2 => format!("ünïcödé {number} 名前"),
                _ => format!("f{number:07}"),
            };
            match number % 50 {
                0 => std::fs::create_dir(folder.join(name)).unwrap(),
                1 => symlink("elsewhere", folder.join(name)).unwrap(),
                2 => std::fs::write(folder.join(name), [b'x'; 30]).unwrap(),
                // Some have a limit of names in one folder.
                _ => std::fs::hard_link(at.join("noise1"), folder.join(&name))
                    .or_else(|_| std::fs::write(folder.join(&name), b""))
                    .unwrap(),
            }
        }
        // Names that were taken away.
        for number in (0..names).filter(|number| number % 5 == 4 && number % 7 > 2 && number % 50 > 2) {
            std::fs::remove_file(folder.join(format!("f{number:07}"))).unwrap();
        }
    }
    let mut deep = at.to_owned();
    for number in 0..30 {
        deep.push(format!("deep{number}"));
        std::fs::create_dir(&deep).unwrap();
    }
    std::fs::write(deep.join("x"), b"x").unwrap();
    let odd: [&[u8]; 6] = [b"\xff\xfe", b"line\nbreak", b" ", b"-", b"\\", &[b'n'; 255]];
    let folder = at.join("odd");
    std::fs::create_dir(&folder).unwrap();
    for name in odd {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        std::fs::write(folder.join(name), b"odd").unwrap();
    }
}

fn links(at: &Path) {
    for len in [1, 20, 59, 60, 61, 130, 250, 400, 700, 1000, 1023, 3800] {
        let target = String::from_utf8(text(len, len as usize)).unwrap().replace(['\n', ' '], "/");
        // Too long for some.
        symlink(target, at.join(format!("link{len}"))).ok();
    }
    std::fs::hard_link(at.join("text100"), at.join("odd/hard")).unwrap();
}

fn attributes(at: &Path, size: Size) {
    // Where one does not fit, smaller ones do.
    let set = |path: &Path, name: &str, value: &[u8]| lsetxattr(path, name, value, XattrFlags::empty()).ok();
    for (name, count, len) in [("a1", 1, 3), ("a3", 3, 40), ("a20", 20, 30), ("many", size.attributes, 50)] {
        let path = at.join(name);
        std::fs::write(&path, name).unwrap();
        for number in 0..count {
            set(&path, &format!("user.attribute{number}"), &noise(number, (number % (len * 2)) as usize));
        }
    }
    let path = at.join("large attributes");
    std::fs::write(&path, b"").unwrap();
    for len in [0, 255, 256, 1000, 2000, 3000, 4000, 10_000, 20_000, 65_536] {
        set(&path, &format!("user.large{len}"), &noise(len, len as usize));
    }
    set(&path, "trusted.overlay.opaque", b"y");
    set(&path, "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for index in 0..300 {
        // Taken away again, so that there are gaps.
        set(&path, &format!("user.gone{index}"), b"gone");
    }
    for index in 0..300 {
        rustix::fs::lremovexattr(&path, format!("user.gone{index}")).ok();
    }
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut value = vec![2, 0, 0, 0];
        for (tag, bits, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(bits.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    let none = u32::MAX;
    let value = acl(&[
        (1, 6, none),
        (2, 7, 1001),
        (2, 4, 70_000),
        (4, 4, none),
        (8, 5, 33),
        (16, 7, none),
        (32, 0, none),
    ]);
    let folder = at.join("folder3");
    for path in [&path, &folder] {
        lsetxattr(path, "system.posix_acl_access", &value, XattrFlags::empty()).unwrap();
    }
    lsetxattr(&folder, "system.posix_acl_default", &value, XattrFlags::empty()).unwrap();
    std::fs::write(folder.join("inherits"), b"acl").unwrap();
}

fn special(at: &Path) {
    let make = |name: &str, kind, major, minor| {
        mknodat(CWD, at.join(name), kind, Mode::from_raw_mode(0o640), makedev(major, minor)).unwrap();
    };
    make("null", FileType::CharacterDevice, 1, 3);
    make("block", FileType::BlockDevice, 259, 70_000);
    make("largest", FileType::BlockDevice, 511, 262_143);
    make("fifo", FileType::Fifo, 0, 0);
    make("socket", FileType::Socket, 0, 0);
    make("whiteout", FileType::CharacterDevice, 0, 0);
}

fn times_and_owners(at: &Path) {
    for (name, seconds) in [
        ("old", -1),
        ("older", -2_000_000_000),
        ("2038", 2_147_483_648),
        ("2400", 13_569_465_600),
        ("epoch", 0),
    ] {
        let path = at.join(name);
        std::fs::write(&path, name).unwrap();
        let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    }
    for (name, mode, owner) in
        [("old", 0o4755, 1000), ("older", 0o2711, 65_534), ("2038", 0o1000, 4_000_000_000)]
    {
        let (owner, group) = (Uid::from_raw(owner), Gid::from_raw(owner - 1));
        rustix::fs::chown(at.join(name), Some(owner), Some(group)).unwrap();
        std::fs::set_permissions(at.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

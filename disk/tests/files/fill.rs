//! Trees to fill filesystems with.
//!
//! Promise: the same for the same seed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use rustix::fs::{Timestamps, XattrFlags, lsetxattr, utimensat};

/// Whether hundreds of combinations are asked for.
pub(crate) fn all() -> bool {
    std::env::var_os("CAS_ORACLE").is_some_and(|it| it == "all")
}

/// Bytes that look like nothing: xorshift64*, Vigna.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Text that compresses.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = noise(seed, 64);
    let mut bytes = Vec::new();
    let mut at = 0_usize;
    while bytes.len() < len {
        bytes.extend_from_slice(format!("{:x} and then {} ", words[at % 64], at % 97).as_bytes());
        at = at.wrapping_mul(31).wrapping_add(7);
    }
    bytes.truncate(len);
    bytes
}

/// What every filesystem can hold: folders, names, sizes around the usual borders.
pub(crate) fn plain(root: &Path, seed: u64, many: usize) {
    for (number, len) in
        [0, 1, 59, 60, 61, 160, 511, 512, 1023, 4095, 4096, 4097, 65_536, 300_001].into_iter().enumerate()
    {
        fs::write(root.join(format!("size {len}")), noise(seed + number as u64, len)).unwrap();
    }
    fs::write(root.join("Größe – 大きさ – 😀.txt"), text(seed, 5000)).unwrap();
    let long = "l".repeat(200);
    fs::write(root.join(&long), "long").unwrap();
    let deep = root.join("a/b c/d/e/f/g/h");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("leaf"), noise(seed, 10_000)).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    let folder = root.join("many");
    fs::create_dir(&folder).unwrap();
    for number in 0..many {
        let name = format!("file number {number} with a name that takes room");
        fs::write(folder.join(name), number.to_string()).unwrap();
    }
    // Names that are gone leave their marks.
    for number in (0..many).step_by(3) {
        fs::remove_file(folder.join(format!("file number {number} with a name that takes room"))).unwrap();
    }
}

/// Files in pieces: written in turns, so that their blocks lie between each other's.
pub(crate) fn in_pieces(root: &Path, seed: u64) {
    let files: Vec<File> = (0..3).map(|n| File::create(root.join(format!("pieces {n}"))).unwrap()).collect();
    for step in 0..60_u64 {
        for (number, file) in files.iter().enumerate() {
            file.write_all_at(&noise(seed ^ step, 8192), step * 8192).unwrap();
            if step % 5 == number as u64 {
                file.sync_all().unwrap();
            }
        }
    }
}

/// Holes at the beginning, between and at the end.
pub(crate) fn with_holes(root: &Path, seed: u64, reach: u64) {
    let file = File::create(root.join("holes")).unwrap();
    for at in [0, 70_000, 1 << 20, 5 << 20, reach / 2, reach - 5000] {
        file.write_all_at(&noise(seed ^ at, 4500), at).unwrap();
    }
    file.set_len(reach + 1_000_000).unwrap();
    File::create(root.join("nothing but a hole")).unwrap().set_len(3 << 20).unwrap();
}

/// Links, kinds, owners, times: what Unix has.
pub(crate) fn unix(root: &Path, seed: u64) {
    fs::write(root.join("one"), noise(seed, 777)).unwrap();
    fs::hard_link(root.join("one"), root.join("two")).unwrap();
    symlink("one", root.join("short link")).unwrap();
    symlink("x".repeat(59), root.join("link 59")).unwrap();
    symlink("y".repeat(60), root.join("link 60")).unwrap();
    symlink("../".repeat(300), root.join("long link")).unwrap();
    symlink("/etc/passwd", root.join("absolute link")).unwrap();
    let node = |name: &str, kind, major, minor| {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, mode, device).unwrap();
    };
    node("null", rustix::fs::FileType::CharacterDevice, 1, 3);
    node("large numbers", rustix::fs::FileType::BlockDevice, 259, 70_000);
    node("pipe", rustix::fs::FileType::Fifo, 0, 0);
    node("socket", rustix::fs::FileType::Socket, 0, 0);
}

/// Modes, owners of 32 bits, times before 1970 and behind 2038.
pub(crate) fn metadata(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for (name, mode, uid, gid, seconds, nanos) in [
        ("m1", 0o4755, 0, 0, 0, 1),
        ("m2", 0o2750, 1000, 70_000, 1_700_000_000, 999_999_999),
        ("m3", 0o1777, 4_000_000_000, 12, -1, 5),
        ("m4", 0, 65_534, 65_535, 2_147_483_648, 123_456_789),
        ("m5", 0o640, 5, 6, -1_000_000_000, 0),
    ] {
        let path = root.join(name);
        fs::write(&path, name).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set_time(&path, seconds, nanos);
    }
}

pub(crate) fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Extended attributes of all kinds, access lists among them; `large`: a value that needs room of its own.
pub(crate) fn attributes(root: &Path, large: usize) {
    let path = root.join("attributes");
    fs::write(&path, "with attributes").unwrap();
    let set = |path: &Path, name: &str, value: &[u8]| {
        lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    set(&path, "user.short", b"value");
    set(&path, "user.empty", b"");
    set(&path, "user.large", &noise(9, large));
    set(&path, "trusted.mine", b"\0\x01\xff");
    set(&path, "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let list = access_list(&[
        (1, 7, u32::MAX),
        (2, 5, 1234),
        (4, 5, u32::MAX),
        (8, 4, 99),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ]);
    set(&path, "system.posix_acl_access", &list);
    let folder = root.join("folder with lists");
    fs::create_dir(&folder).unwrap();
    set(&folder, "system.posix_acl_default", &list);
    set(&folder, "user.of a folder", b"yes");
    let odd = root.join(OsStr::from_bytes(b"odd \xff\xfe \n name"));
    fs::write(&odd, "odd").unwrap();
    set(&odd, "user.\u{e9}", b"accent");
}

/// include/uapi/linux/posix_acl_xattr.h.
fn access_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&permissions.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    list
}

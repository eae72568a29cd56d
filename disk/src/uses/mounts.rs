//! What is mounted and what is swapped to, from /proc/self/mountinfo and /proc/swaps.
//!
//! Promise: one reading of each; lines that make no sense are left out. Sees the mounts of its own namespace only.
//! Knows nothing of what the devices stand on.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, makedev};

use crate::Error;
use crate::system::System;
use crate::uses::graph::FileId;

/// One line of mountinfo (linux Documentation/filesystems/proc.rst §3.5).
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) id: u64,
    pub(super) at: PathBuf,
    /// Of the file system: a mount may be read-only while another of the same file system is not.
    pub(super) read_only: bool,
    pub(super) filesystem: String,
    pub(super) source: Source,
    pub(super) options: String,
}

/// What a file system or swap space lies in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Device(u64),
    File(PathBuf, FileId),
    /// Memory, network, another file system.
    Other,
}

pub(super) fn mounts(system: &System) -> Result<Vec<Mount>, Error> {
    let path = system.proc.join("self/mountinfo");
    let bytes = fs::read(&path).map_err(|source| Error::System { path, source })?;
    Ok(bytes.split(|byte| *byte == b'\n').filter_map(mount).collect())
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let number = text(fields.nth(1)?);
    let (major, minor) = number.split_once(':')?;
    let dev = makedev(major.parse().ok()?, minor.parse().ok()?);
    let at = path(fields.nth(1)?);
    // Optional fields end with a dash.
    fields.find(|field| *field == b"-")?;
    let filesystem = text(fields.next()?);
    let source = path(fields.next()?);
    let options = path(fields.next()?).to_string_lossy().into_owned();
    let read_only = options.split(',').any(|option| option == "ro");
    Some(Mount { id, at, read_only, source: source_of(dev, &source), filesystem, options })
}

/// btrfs, overlays and some FUSE file systems have a number that is no device's: then the source's name has to do.
fn source_of(dev: u64, source: &Path) -> Source {
    if major(dev) != 0 {
        return Source::Device(dev);
    }
    named(source)
}

fn named(path: &Path) -> Source {
    if !path.is_absolute() {
        return Source::Other;
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => Source::Device(metadata.rdev()),
        Ok(metadata) if metadata.is_file() => Source::File(path.to_owned(), FileId::of(&metadata)),
        _ => Source::Other,
    }
}

/// A kernel without swap has no such file: nothing is swapped to.
pub(super) fn swaps(system: &System) -> Vec<Source> {
    let bytes = fs::read(system.proc.join("swaps")).unwrap_or_default();
    let lines = bytes.split(|byte| *byte == b'\n').skip(1);
    let names = lines.filter_map(|line| line.split(|byte| matches!(byte, b' ' | b'\t')).next());
    names.map(|name| named(&path(name))).filter(|source| *source != Source::Other).collect()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// Blanks and backslashes are written as a backslash and three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'\\').then(|| tail.split_at_checked(3)).flatten();
        let octal = escaped.and_then(|(digits, after)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 8).ok()?, after))
        });
        let (byte, after) = octal.unwrap_or((*first, tail));
        bytes.push(byte);
        rest = after;
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_blank_in_its_path() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root ro,errors=continue";
        let mount = mount(line).unwrap();
        assert_eq!(mount.id, 36);
        assert_eq!(mount.at, Path::new("/mnt 2"));
        assert_eq!(mount.filesystem, "ext3");
        assert_eq!(mount.source, Source::Device(makedev(98, 0)));
        assert!(mount.read_only);
    }

    #[test]
    fn broken_lines_are_left_out() {
        for line in [&b""[..], b"36", b"36 35 98 / /", b"36 35 98:0 / / rw", b"x 35 98:0 / / rw - a b c"] {
            assert!(mount(line).is_none());
        }
        assert_eq!(path(br"a\04"), Path::new(r"a\04"));
    }
}

//! `IMAGE[:N[:/PATH]]` made into files that can be read; and files made into words.
//!
//! Promise: an image with one volume that has files needs no number. Knows nothing of what is done with the files.

use crate::args::Context;
use crate::catalog;
use crate::errors::Said;
use crate::exit::Exit;
use crate::naming::{Narrow, Place};
use crate::units;
use anyhow::Result;
use disk::files::{FileInfo, FileKind, FileTime, FilesError};
use image::{ImageReader, VolumeFiles, VolumeLine};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::sync::Arc;
use store::Store;

/// Contents of volumes in which there are files for us.
const READABLE: [&str; 8] = ["ext2", "ext3", "ext4", "ntfs", "vfat", "exfat", "xfs", "btrfs"];

/// An image, for reading.
pub(crate) fn reader(
    context: &Context,
    store: &Store,
    name: &str,
    narrow: &Narrow,
) -> Result<Arc<ImageReader>> {
    Ok(Arc::new(ImageReader::new(catalog::open(context, store, name, narrow)?)))
}

/// Whether files of a volume can be read.
pub(crate) fn is_readable(line: &VolumeLine) -> bool {
    !line.left_out && line.kind.as_ref().is_some_and(|kind| READABLE.contains(&kind.as_str()))
}

/// The volume that a place names, or the only one there is.
pub(crate) fn open(context: &Context, store: &Store, place: &Place, narrow: &Narrow) -> Result<VolumeFiles> {
    let reader = reader(context, store, &place.image, narrow)?;
    let number = match place.volume {
        Some(number) => number,
        None => only(&place.image, &image::volumes(&reader)?)?,
    };
    Ok(image::open_volume(reader, number)?)
}

fn only(image: &str, lines: &[VolumeLine]) -> Result<u32, Said> {
    let readable: Vec<&VolumeLine> = lines.iter().filter(|line| is_readable(line)).collect();
    match readable[..] {
        [line] => Ok(line.number),
        _ => {
            Err(Said::usage(format!("image {image:?}: has {} volumes with files: name one", readable.len()))
                .hint(format!("{image}:N:/path; `cas ls {image}` lists them")))
        }
    }
}

/// A path as people read it, in one line. Never empty.
pub(crate) fn shown(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { String::from_utf8_lossy(path).replace('\n', "\\n") }
}

/// What it means for the whole that a file could not be read: what is not supported is no damage.
pub(crate) fn exit_of(error: &FilesError) -> Exit {
    match error {
        FilesError::Unsupported { .. } => Exit::Incomplete,
        _ => Exit::Damage,
    }
}

/// `-rwsr-xr-x`, as ls writes it.
pub(crate) fn mode(info: &FileInfo) -> String {
    let kind = match info.kind {
        FileKind::Regular => '-',
        FileKind::Folder => 'd',
        FileKind::Link { .. } => 'l',
        FileKind::CharDevice { .. } => 'c',
        FileKind::BlockDevice { .. } => 'b',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letters) in
        [(6, 0o4000, ('s', 'S')), (3, 0o2000, ('s', 'S')), (0, 0o1000, ('t', 'T'))]
    {
        let bits = info.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, info.mode & special != 0) {
            (true, true) => letters.0,
            (false, true) => letters.1,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A file's time; as a number where no calendar has it.
pub(crate) fn time(time: FileTime, zone: &TimeZone) -> String {
    Timestamp::from_second(time.seconds)
        .map_or_else(|_| time.seconds.to_string(), |time| units::show_time(time, zone))
}

/// One file for programs. Names are bytes: those that are no UTF-8 come in hexadecimal digits as well.
pub(crate) fn to_json(path: &[u8], info: &FileInfo) -> Value {
    let (kind, target) = match &info.kind {
        FileKind::Regular => ("file", None),
        FileKind::Folder => ("folder", None),
        FileKind::Link { target } => ("link", Some(String::from_utf8_lossy(target).into_owned())),
        FileKind::CharDevice { .. } => ("char_device", None),
        FileKind::BlockDevice { .. } => ("block_device", None),
        FileKind::Fifo => ("fifo", None),
        FileKind::Socket => ("socket", None),
    };
    let mut value = json!({
        "path": shown(path),
        "kind": kind,
        "bytes": info.bytes,
        "mode": info.mode,
        "uid": info.uid,
        "gid": info.gid,
        "links": info.links,
        "modified": Timestamp::from_second(info.modified.seconds).ok().map(|time| time.to_string()),
        "modified_seconds": info.modified.seconds,
        "modified_nanos": info.modified.nanos,
    });
    if let Some(target) = target {
        value["target"] = target.into();
    }
    if str::from_utf8(path).is_err() {
        value["path_hex"] = path.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: FileKind, mode: u32) -> FileInfo {
        FileInfo {
            kind,
            bytes: 5,
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            modified: FileTime { seconds: 1_700_000_000, nanos: 5 },
            accessed: None,
            changed: None,
            created: None,
        }
    }

    #[test]
    fn modes_are_those_of_ls() {
        assert_eq!(mode(&info(FileKind::Regular, 0o4755)), "-rwsr-xr-x");
        assert_eq!(mode(&info(FileKind::Folder, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&info(FileKind::Fifo, 0o2640)), "prw-r-S---");
    }

    #[test]
    fn odd_names_are_whole_in_json() {
        let value = to_json(b"/a\xff", &info(FileKind::Regular, 0o644));
        assert_eq!(value["path_hex"], "2f61ff");
        assert_eq!(value["modified"], "2023-11-14T22:13:20Z");
        assert_eq!(to_json(b"/a", &info(FileKind::Regular, 0))["path_hex"], Value::Null);
    }
}

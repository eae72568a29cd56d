//! Numbers and attributes for the files of volumes.
//!
//! Promise: a file has the same number as long as the mount lasts, and no two have the same.
//! Knows nothing of requests.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use disk::files::{FileId, FileInfo, FileKind, FileTime};
use fuser::{FileAttr, FileType, INodeNo};

/// Files whose own number has at most this many bits get a number made of their volume's and their own.
const PLAIN_BITS: u32 = 44;

/// Set in the numbers of all others.
const NOTED: u64 = 1 << 63;

/// Others that can have been seen: a file with so large a number takes 80 bytes once it was looked at, these 80 MiB.
const NOTED_MAX: usize = 1 << 20;

/// Volumes whose files can be numbered.
pub(crate) const VOLUMES_MAX: usize = 1 << (63 - PLAIN_BITS - 1);

/// A file of a volume; the volume by its node.
pub(crate) type Place = (usize, FileId);

/// The numbers of files.
#[derive(Default)]
pub(crate) struct Numbers {
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    places: Vec<Place>,
    numbers: HashMap<Place, u64>,
}

impl Numbers {
    /// The number of a file; `None` when there are too many.
    pub(crate) fn number(&self, place: Place) -> Option<INodeNo> {
        let (volume, file) = place;
        if file.0 >> PLAIN_BITS == 0 && volume < VOLUMES_MAX {
            return Some(INodeNo((volume as u64 + 1) << PLAIN_BITS | file.0));
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = noted.numbers.get(&place) {
            return Some(INodeNo(*number));
        }
        if noted.places.len() >= NOTED_MAX {
            return None;
        }
        let number = NOTED | noted.places.len() as u64;
        noted.places.push(place);
        noted.numbers.insert(place, number);
        Some(INodeNo(number))
    }

    /// The file of a number.
    pub(crate) fn place(&self, number: INodeNo) -> Option<Place> {
        if number.0 & NOTED != 0 {
            let index = usize::try_from(number.0 & !NOTED).ok()?;
            return self.noted.lock().unwrap_or_else(PoisonError::into_inner).places.get(index).copied();
        }
        let volume = usize::try_from(number.0 >> PLAIN_BITS).ok()?.checked_sub(1)?;
        Some((volume, FileId(number.0 & ((1 << PLAIN_BITS) - 1))))
    }
}

/// A file's attributes, as the kernel wants them.
pub(crate) fn attributes(ino: INodeNo, info: &FileInfo) -> FileAttr {
    let rdev = match info.kind {
        FileKind::CharDevice { major, minor } | FileKind::BlockDevice { major, minor } => {
            // As the kernel encodes them for FUSE: linux include/linux/kdev_t.h, new_encode_dev.
            (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
        }
        _ => 0,
    };
    FileAttr {
        ino,
        size: info.bytes,
        blocks: info.bytes.div_ceil(512),
        atime: time(info.accessed.unwrap_or(info.modified)),
        mtime: time(info.modified),
        ctime: time(info.changed.unwrap_or(info.modified)),
        crtime: time(info.created.unwrap_or(info.modified)),
        kind: file_type(&info.kind),
        perm: u16::try_from(info.mode & 0o7777).unwrap_or(0),
        nlink: info.links,
        uid: info.uid,
        gid: info.gid,
        rdev,
        blksize: 4096,
        flags: 0,
    }
}

pub(crate) fn file_type(kind: &FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Folder => FileType::Directory,
        FileKind::Link { .. } => FileType::Symlink,
        FileKind::CharDevice { .. } => FileType::CharDevice,
        FileKind::BlockDevice { .. } => FileType::BlockDevice,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
    }
}

/// A moment; what the system's clock cannot say is its beginning.
fn time(time: FileTime) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let start = SystemTime::UNIX_EPOCH;
    let second = if time.seconds < 0 { start.checked_sub(whole) } else { start.checked_add(whole) };
    second.and_then(|it| it.checked_add(nanos)).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_files() {
        let numbers = Numbers::default();
        let places = [(0, 0), (0, 5), (3, 5), (3, 1 << 44), (3, u64::MAX), (1 << 18, 7), (usize::MAX, 7)];
        let mut seen = std::collections::HashSet::new();
        for (volume, file) in places {
            let place = (volume, FileId(file));
            let number = numbers.number(place).unwrap();
            assert_eq!(numbers.number(place), Some(number));
            assert_eq!(numbers.place(number), Some(place));
            assert!(seen.insert(number) && number.0 >= 1 << PLAIN_BITS);
        }
        assert_eq!(numbers.place(INodeNo(1)), None);
        assert_eq!(numbers.place(INodeNo(NOTED | 77)), None);
    }

    #[test]
    fn times_before_1970_and_beyond_all_clocks() {
        let at = |seconds, nanos| time(FileTime { seconds, nanos });
        assert_eq!(at(-1, 500_000_000), SystemTime::UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(at(1, 5), SystemTime::UNIX_EPOCH + Duration::new(1, 5));
        at(i64::MIN, u32::MAX);
        at(i64::MAX, u32::MAX);
    }
}

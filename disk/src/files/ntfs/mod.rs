//! Files of NTFS.
//!
//! Promise: what Windows shows, less names for DOS and the filesystem's own files: holes, compressed contents, streams, links.
//! What is encrypted or kept elsewhere is an error. NTFS has no checksums but those against torn writes, which are looked at.
//! Knows nothing of access lists: owners are 0, modes a guess. Format: ntfs-3g include/ntfs-3g/layout.h.
//!
//! Why not the crate `ntfs` 0.4: it gives wrong bytes for compressed files, and the records are read here already for
//! what is free.

mod folder;
pub(super) mod lznt1;
pub(super) mod names;
mod record;
mod reparse;
mod value;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use self::record::{File, REPARSE_POINT, STANDARD_INFORMATION};
use self::reparse::Stands;
use super::cached::Cached;
use super::fault::{Fault, len, len64, window};
use super::{FileId, FileInfo, FileKind, FileTime, Files, FilesError, FolderEntry};
use crate::fs::ntfs::boot::Boot;
use crate::fs::ntfs::mft::Mft;
use crate::fs::ntfs::record::{DATA, split_reference};
use crate::fs::ntfs::stream::Stream;
use crate::fs::view::{Fields, View};
use crate::{Extent, ReadAt};

/// The root folder's record.
const FILE_ROOT: u64 = 5;
/// Flags of a file: [MS-FSCC] §2.6.
const READ_ONLY: u32 = 0x1;
const SYSTEM: u32 = 0x4;
const OFFLINE: u32 = 0x1000;
const RECALLED_WHEN_READ: u32 = 0x40_0000;
/// Files whose records are kept: each read of a file needs them.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// More stretches are not told.
const PLACES_MAX: usize = 1 << 20;
/// Holes, one behind the other, that are passed over at once.
const HOLES_MAX: u32 = 1 << 16;

/// A filesystem.
pub(super) struct Ntfs {
    volume: Cached,
    boot: Boot,
    table: Arc<Stream>,
    root: FileId,
    files: Mutex<LruCache<u64, Arc<File>>>,
}

/// Opens it.
pub(super) fn open(volume: Arc<dyn ReadAt>) -> Result<Ntfs, FilesError> {
    let opened = || -> Result<Ntfs, Fault> {
        let volume = Cached::new(volume);
        let (boot, table, sequence) = {
            let mft = Mft::open(View::new(&volume, whole(&volume)))?;
            (*mft.boot(), Arc::clone(mft.data()), mft.record(FILE_ROOT)?.sequence()?)
        };
        let root = FileId(FILE_ROOT | u64::from(sequence) << 48);
        Ok(Ntfs { volume, boot, table, root, files: Mutex::new(LruCache::new(FILES_MAX)) })
    };
    opened().map_err(|fault| fault.at("NTFS"))
}

fn whole(device: &dyn ReadAt) -> Extent {
    Extent { offset: 0, bytes: device.size_bytes() }
}

/// What is said of a file in few words: flags and times.
struct Standard {
    flags: u32,
    created: FileTime,
    modified: FileTime,
    changed: FileTime,
    accessed: FileTime,
}

impl Standard {
    fn of(file: &File) -> Result<Self, Fault> {
        let raw = file.inside(STANDARD_INFORMATION);
        let raw = raw.ok_or_else(|| Fault::damaged("a file without standard information"))?;
        let time = |at| raw.le64(at).map(time);
        Ok(Self {
            created: time(0)?,
            modified: time(8)?,
            changed: time(16)?,
            accessed: time(24)?,
            flags: raw.le32(32)?,
        })
    }
}

/// From steps of 100 ns since 1601: [MS-DTYP] §2.3.3.
fn time(steps: u64) -> FileTime {
    const STEPS: u64 = 10_000_000;
    const TO_1970: i64 = 11_644_473_600;
    let seconds = i64::try_from(steps.checked_div(STEPS).unwrap_or(0)).unwrap_or(i64::MAX);
    let nanos = steps.checked_rem(STEPS).unwrap_or(0).saturating_mul(100);
    FileTime { seconds: seconds.saturating_sub(TO_1970), nanos: u32::try_from(nanos).unwrap_or(0) }
}

impl Ntfs {
    fn mft(&self) -> Mft<'_> {
        Mft::again(View::new(&self.volume, whole(&self.volume)), self.boot, Arc::clone(&self.table))
    }

    fn file(&self, file: FileId) -> Result<Arc<File>, Fault> {
        let lock = || self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = lock().get(&file.0) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(File::load(&self.mft(), file.0)?);
        lock().put(file.0, Arc::clone(&found));
        Ok(found)
    }

    /// What the file is, and whether its contents are elsewhere.
    fn kind(&self, file: &File, standard: &Standard) -> Result<(FileKind, Option<&'static str>), Fault> {
        if let Some(point) = file.value(REPARSE_POINT, b"") {
            let mut raw = vec![0; reparse::check_bytes(point.bytes())?];
            value::read(self.mft().disk(), point, 0, &mut raw)?;
            match reparse::decode(&raw)? {
                Stands::As(kind) => return Ok((kind, None)),
                Stands::Elsewhere(what) => return Ok((FileKind::Regular, Some(what))),
                Stands::Itself => {}
            }
        }
        if file.is_folder {
            return Ok((FileKind::Folder, None));
        }
        let is_away = standard.flags & (OFFLINE | RECALLED_WHEN_READ) != 0;
        let elsewhere = is_away.then_some("contents on other storage");
        let data = file.value(DATA, b"").filter(|data| data.bytes() <= reparse::INTERIX_BYTES_MAX);
        if let Some(data) = data.filter(|_| standard.flags & SYSTEM != 0 && !is_away) {
            let mut contents = vec![0; len(data.bytes())];
            value::read(self.mft().disk(), data, 0, &mut contents)?;
            if let Some(kind) = reparse::interix(data.bytes(), &contents)? {
                return Ok((kind, None));
            }
        }
        Ok((FileKind::Regular, elsewhere))
    }

    fn info_of(&self, file: &File) -> Result<FileInfo, Fault> {
        let standard = Standard::of(file)?;
        let (kind, _) = self.kind(file, &standard)?;
        let (bytes, mode) = match &kind {
            FileKind::Regular => (file.value(DATA, b"").map_or(0, Stream::bytes), 0o644),
            FileKind::Folder => (0, 0o755),
            FileKind::Link { target } => (len64(target.len()), 0o777),
            _ => (0, 0o644),
        };
        // The flag means something else for folders.
        let is_read_only = kind == FileKind::Regular && standard.flags & READ_ONLY != 0;
        Ok(FileInfo {
            kind,
            bytes,
            mode: if is_read_only { mode & !0o222 } else { mode },
            uid: 0,
            gid: 0,
            links: file.links().max(1),
            modified: standard.modified,
            accessed: Some(standard.accessed),
            changed: Some(standard.changed),
            created: Some(standard.created),
        })
    }

    /// A regular file whose contents are here.
    fn regular(&self, file: FileId) -> Result<Arc<File>, Fault> {
        let file = self.file(file)?;
        match self.kind(&file, &Standard::of(&file)?)? {
            (FileKind::Regular, None) => Ok(file),
            (FileKind::Regular, Some(what)) => Err(Fault::Unsupported(what)),
            _ => Err(Fault::NotA("a regular file")),
        }
    }

    fn read_value(&self, value: &Stream, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        let buf = window(buf, 0, value.bytes().saturating_sub(offset));
        value::read(self.mft().disk(), value, offset, buf)?;
        Ok(buf.len())
    }

    /// Stretches of a plain value from an offset on, until `each` says no.
    fn each_run(&self, value: &Stream, from: u64, mut each: impl FnMut(Extent, Option<u64>) -> bool) {
        let mft = self.mft();
        let mut offset = from;
        while offset < value.bytes() {
            let Some((mut extent, at)) = value::run(mft.disk(), value, offset) else { break };
            extent.bytes = extent.bytes.min(value.bytes().saturating_sub(offset));
            if !each(extent, at) {
                break;
            }
            offset = extent.end();
        }
    }

    fn next_data_of(&self, value: &Stream, offset: u64) -> Result<Option<Extent>, Fault> {
        let left = value.bytes().saturating_sub(offset);
        let all = Extent { offset, bytes: left };
        if value.is_inside() {
            return Ok((left > 0).then_some(all));
        }
        let piece = value::piece_bytes(self.mft().disk(), value)?;
        let mut found: Option<Extent> = None;
        let mut holes = 0_u32;
        self.each_run(value, offset, |extent, at| {
            let is_hole = at.is_none();
            holes = holes.saturating_add(u32::from(is_hole));
            // A hole that is called data is read as zeros: slower, not wrong.
            if !is_hole || holes > HOLES_MAX {
                found = Some(extent);
            }
            found.is_none()
        });
        // The clusters that compression saved are holes in a piece, not in the file.
        Ok(found.map(|found| match piece {
            Some(piece) => {
                let start = found.offset.saturating_sub(found.offset.checked_rem(piece).unwrap_or(0));
                let end = found.end().checked_next_multiple_of(piece).unwrap_or(u64::MAX);
                let (start, end) = (start.max(offset), end.min(value.bytes()));
                Extent { offset: start, bytes: end.saturating_sub(start) }
            }
            None => found,
        }))
    }

    fn named_streams(&self, file: &File) -> Vec<(Vec<u8>, u64)> {
        let named = file.attributes.iter().filter(|it| it.kind == DATA && !it.name.is_empty());
        named.map(|it| (names::decode(&it.name), it.value.bytes())).collect()
    }
}

/// `file 38`.
fn place(file: FileId) -> String {
    format!("file {}", split_reference(file.0).0)
}

impl Files for Ntfs {
    fn root(&self) -> FileId {
        self.root
    }

    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        let info = self.file(file).and_then(|file| self.info_of(&file));
        info.map_err(|fault| fault.at(place(file)))
    }

    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        let listed = self.file(folder).and_then(|file| folder::list(&self.mft(), &file, each));
        listed.map_err(|fault| fault.at(place(folder)))
    }

    fn find(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
        super::find_folded(self, folder, name)
    }

    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        let read = self.regular(file).and_then(|file| match file.value(DATA, b"") {
            Some(data) => self.read_value(data, offset, buf),
            None => Ok(0),
        });
        read.map_err(|fault| fault.at(place(file)))
    }

    fn next_data(&self, file: FileId, offset: u64) -> Result<Option<Extent>, FilesError> {
        let found = self.regular(file).and_then(|file| match file.value(DATA, b"") {
            Some(data) => self.next_data_of(data, offset),
            None => Ok(None),
        });
        found.map_err(|fault| fault.at(place(file)))
    }

    fn streams(&self, file: FileId) -> Result<Vec<(Vec<u8>, u64)>, FilesError> {
        let found = self.file(file).map(|file| self.named_streams(&file));
        found.map_err(|fault| fault.at(place(file)))
    }

    fn read_stream(
        &self,
        file: FileId,
        stream: &[u8],
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, FilesError> {
        let read = self.file(file).and_then(|file| {
            let is_it = |name: &[u8]| names::decode(name) == stream;
            let mut named = file.attributes.iter().filter(|it| it.kind == DATA && !it.name.is_empty());
            let found = named.find(|it| is_it(&it.name)).ok_or(Fault::NotFound)?;
            self.read_value(&found.value, offset, buf)
        });
        read.map_err(|fault| fault.at(place(file)))
    }

    fn places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, FilesError> {
        let found = self.file(file).map_err(|fault| fault.at(place(file)))?;
        let mut places = Vec::new();
        let plain =
            |data: &&Stream| value::piece_bytes(self.mft().disk(), data).is_ok_and(|piece| piece.is_none());
        if let Some(data) = found.value(DATA, b"").filter(plain) {
            self.each_run(data, 0, |extent, at| {
                places.extend(at.map(|at| (extent, at)));
                places.len() < PLACES_MAX
            });
        }
        Ok(places)
    }
}

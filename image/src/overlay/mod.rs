//! A device that can be written while what it stands on stays as it is: changes go into a file. Format: DESIGN.md §6.5.
//!
//! Promise: the base is only read. Any number of threads may read and write. What was written before a `sync` that
//! returned is there when the file is opened again, whatever happened since; what was written after it is there or not,
//! as it would be on a disk, and nothing else is. Memory: the map's (64 MiB for each TiB touched) and a hundred KiB.
//! Knows nothing of what is written, or why.

mod log;
mod map;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use disk::{Extent, ReadAt, WriteAt};
use rustix::fs::{FallocateFlags, OFlags, fallocate};

use self::log::{BATCH_CHANGES_MAX, Change, HEAD_BYTES, Head, Log};
use self::map::{BlockMap, Kind};
use crate::Error;
use crate::segment::in_memory;

/// What is written or not as one: a page of memory and of most filesystems, and what NTFS tools write by the thousand.
const BLOCK: usize = 4096;
const BLOCK_BYTES: u64 = BLOCK as u64;

/// An extent of data is no longer than this: a server asks before each read, and a stored image answers for 4 MiB at a
/// time, from a table that may have to be fetched.
const DATA_BYTES_MAX: u64 = 4 << 20;

/// What is wrong with a file that should be an overlay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayProblem {
    /// It is something else.
    #[error("expected an overlay, found something else")]
    NoOverlay,
    /// Made by a later version.
    #[error("expected version 1, found {}", char::from(*found))]
    Version {
        /// A digit.
        found: u8,
    },
    /// The first block is damaged.
    #[error("offset 0x0: expected a head, found a damaged one")]
    Head,
    /// The log is damaged in its middle.
    #[error("offset {offset:#x}: expected a batch of the log, found damage")]
    Log {
        /// Where.
        offset: u64,
    },
    /// The file was cut.
    #[error("expected at least {expected} bytes, found {found}")]
    Short {
        /// Up to the log.
        expected: u64,
        /// Length of the file.
        found: u64,
    },
    /// It belongs to another base.
    #[error("expected changes of {expected}, found those of {found}")]
    Base {
        /// The base that was given.
        expected: String,
        /// The base it was made for.
        found: String,
    },
    /// It was made for other sizes.
    #[error("expected {} bytes over a base of {}, found {} over {}", expected.0, expected.1, found.0, found.1)]
    Sizes {
        /// Given: of the overlay and its base.
        expected: (u64, u64),
        /// In the file.
        found: (u64, u64),
    },
    /// The base's name has no room.
    #[error("the name of its base is too long: {bytes} bytes")]
    Name {
        /// Its length.
        bytes: usize,
    },
}

/// A base and what was written over it.
pub struct Overlay {
    base: Arc<dyn ReadAt>,
    size_bytes: u64,
    file: File,
    path: PathBuf,
    /// Where in the file the first block's place is.
    blocks_at: u64,
    /// Held for moments only, and never while a file is read or written.
    map: RwLock<BlockMap>,
    /// Held while anything is written: what changed since the last sync, in order. Taken after `log`, before `map`.
    changes: Mutex<Vec<Change>>,
    /// `None`: nothing is kept.
    log: Option<Mutex<Log>>,
    /// After a failed sync nobody knows what is on the disk.
    is_broken: AtomicBool,
}

impl Overlay {
    /// Changes go into a file without a name in `folder`, and are gone with this value.
    ///
    /// # Errors
    /// [`Error::OverlayFile`].
    pub fn temporary(base: Arc<dyn ReadAt>, size_bytes: u64, folder: &Path) -> Result<Overlay, Error> {
        let file = unnamed(folder).map_err(|e| Error::overlay_io(folder, "create a file in it", e))?;
        Ok(Overlay::new(base, size_bytes, file, folder, 0))
    }

    /// Changes are kept in `file`, which is made, or opened again when it belongs to this base.
    ///
    /// # Errors
    /// [`Error::Overlay`]: it is not an overlay of `base_name` and of this size, or damaged. [`Error::OverlayFile`], when
    /// someone else has it open too.
    pub fn open(
        base: Arc<dyn ReadAt>,
        size_bytes: u64,
        file: &Path,
        base_name: &str,
    ) -> Result<Overlay, Error> {
        let path = file;
        let head = Head { size_bytes, base_bytes: base.size_bytes(), base_name: base_name.to_owned() };
        let file = open_locked(path)?;
        let bytes = file.metadata().map_err(|e| Error::overlay_io(path, "read", e))?.len();
        if is_fresh(&file, bytes, path)? {
            begin(&file, path, &head)?;
        } else {
            check_head(&file, bytes, path, &head)?;
        }
        let mut map = BlockMap::default();
        let log = Log::open(&file, path, &head, &mut |change| map.set(change.blocks, change.kind))?;
        let mut overlay = Overlay::new(base, size_bytes, file, path, HEAD_BYTES);
        overlay.map = RwLock::new(map);
        overlay.log = Some(Mutex::new(log));
        Ok(overlay)
    }

    fn new(base: Arc<dyn ReadAt>, size_bytes: u64, file: File, path: &Path, blocks_at: u64) -> Overlay {
        Overlay {
            base,
            size_bytes,
            file,
            path: path.to_owned(),
            blocks_at,
            map: RwLock::default(),
            changes: Mutex::default(),
            log: None,
            is_broken: AtomicBool::new(false),
        }
    }

    /// What was written or zeroed: sorted, joined, whole blocks but for the device's end.
    pub fn written(&self) -> Vec<Extent> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let blocks = self.size_bytes.div_ceil(BLOCK_BYTES);
        let mut found: Vec<Extent> = Vec::new();
        let mut at = 0;
        while at < blocks {
            let (kind, end) = map.run(at..blocks);
            let extent = self.extent_of(at..end);
            match found.last_mut() {
                _ if kind == Kind::Base => {}
                Some(last) if last.end() == extent.offset => last.bytes += extent.bytes,
                _ => found.push(extent),
            }
            at = end;
        }
        found
    }

    fn extent_of(&self, blocks: Range<u64>) -> Extent {
        let offset = blocks.start * BLOCK_BYTES;
        Extent { offset, bytes: blocks.end.saturating_mul(BLOCK_BYTES).min(self.size_bytes) - offset }
    }

    fn kind(&self, block: u64) -> Kind {
        self.map.read().unwrap_or_else(PoisonError::into_inner).kind(block)
    }

    /// The kind of the block that holds the byte `at`, and where blocks of another kind begin, at most `end`.
    fn run(&self, at: u64, end: u64) -> (Kind, u64) {
        let blocks = at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        let (kind, stop) = self.map.read().unwrap_or_else(PoisonError::into_inner).run(blocks);
        (kind, end.min(stop.saturating_mul(BLOCK_BYTES)))
    }

    /// Fills `buf` from the base, and with zeros behind its end.
    fn read_base(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let there = self.base.size_bytes().saturating_sub(offset).min(buf.len() as u64);
        let (from_base, behind) = buf.split_at_mut(in_memory(there));
        behind.fill(0);
        if from_base.is_empty() {
            return Ok(());
        }
        self.base.read_exact_at(offset, from_base)
    }

    fn read_file(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let bytes = buf.len() as u64;
        self.file.read_exact_at(buf, self.blocks_at + offset).map_err(|source| disk::Error::Read {
            path: self.path.clone(),
            offset,
            bytes,
            source,
        })
    }

    fn write_file(&self, offset: u64, buf: &[u8]) -> Result<(), disk::Error> {
        self.file.write_all_at(buf, self.blocks_at + offset).map_err(|source| disk::Error::Write {
            path: self.path.clone(),
            offset,
            bytes: buf.len() as u64,
            source,
        })
    }

    fn check(&self, extent: Extent) -> Result<(), disk::Error> {
        let Extent { offset, bytes } = extent;
        match offset.checked_add(bytes) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => {
                let (path, size_bytes) = (self.path.clone(), self.size_bytes);
                Err(disk::Error::OutOfRange { path, offset, bytes, size_bytes })
            }
        }
    }

    fn changes(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of `extent` that is whole blocks; the device's last block is whole where the device ends.
    fn whole_blocks(&self, extent: Extent) -> Range<u64> {
        let start = extent.offset.div_ceil(BLOCK_BYTES);
        let end = match extent.end() == self.size_bytes {
            true => extent.end().div_ceil(BLOCK_BYTES),
            false => extent.end() / BLOCK_BYTES,
        };
        start..end.max(start)
    }

    /// Writes bytes that lie in one block.
    fn write_part(&self, offset: u64, buf: &[u8]) -> Result<(), disk::Error> {
        let block = offset / BLOCK_BYTES;
        let start = block * BLOCK_BYTES;
        let mut whole = [0; BLOCK];
        match self.kind(block) {
            Kind::Data => return self.write_file(offset, buf),
            Kind::Zeros => {}
            // Behind the device's end there may still be base: it must not come to light when someone looks further.
            Kind::Base => {
                let bytes = in_memory(self.extent_of(block..block + 1).bytes);
                self.read_base(start, &mut whole[..bytes])?;
            }
        }
        let skip = in_memory(offset - start);
        whole[skip..skip + buf.len()].copy_from_slice(buf);
        self.write_file(start, &whole)
    }

    /// Notes that blocks are of this kind from now on: in the map, and for the log when that is news.
    fn note(&self, changes: &mut Vec<Change>, blocks: Range<u64>, kind: Kind) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if blocks.is_empty() || map.run(blocks.clone()) == (kind, blocks.end) {
            return;
        }
        map.set(blocks.clone(), kind);
        if self.log.is_none() {
            return;
        }
        match changes.last_mut() {
            Some(last) if last.kind == kind && last.blocks.end == blocks.start => {
                last.blocks.end = blocks.end
            }
            _ => changes.push(Change { blocks, kind }),
        }
    }

    /// Writes the log when so much has changed that it would take memory.
    fn relieve(&self, changes: MutexGuard<'_, Vec<Change>>) -> Result<(), disk::Error> {
        let is_full = changes.len() >= BATCH_CHANGES_MAX;
        drop(changes);
        if is_full { self.sync() } else { Ok(()) }
    }

    /// Gives the space of blocks back, where the filesystem can.
    fn punch(&self, blocks: Range<u64>) {
        let offset = self.blocks_at + blocks.start * BLOCK_BYTES;
        let bytes = (blocks.end - blocks.start) * BLOCK_BYTES;
        // What stays is not read: the map says zeros.
        fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes).ok();
    }

    /// Data first, then what says that it is there: a log that is found is true.
    fn sync_log(&self, log: &mut Log) -> Result<(), disk::Error> {
        let failed = |source| disk::Error::Sync { path: self.path.clone(), source };
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(failed(io::Error::other("an earlier sync failed")));
        }
        let changes = std::mem::take(&mut *self.changes());
        let result = self.file.sync_data().and_then(|()| log.append(&self.file, &changes));
        result.map_err(|source| {
            self.is_broken.store(true, Ordering::SeqCst);
            failed(source)
        })
    }

    /// The next data at or behind `offset`, within one kind of blocks.
    fn next_piece(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        let mut at = offset;
        let mut base_next: Option<Extent> = None;
        while at < self.size_bytes {
            let (kind, end) = self.run(at, self.size_bytes);
            match kind {
                Kind::Data => return Ok(Some(Extent { offset: at, bytes: end - at })),
                Kind::Zeros => {}
                Kind::Base if at >= self.base.size_bytes() => {}
                Kind::Base => {
                    // Asked once for many short runs of changes: a base of holes may take long to answer.
                    if base_next.is_none_or(|next| next.end() <= at) {
                        let whole = Extent { offset: u64::MAX, bytes: 0 };
                        base_next = Some(self.base.next_data(at)?.unwrap_or(whole));
                    }
                    let next = base_next.map_or(end, |next| next.offset.max(at));
                    if next < end {
                        let stop = base_next.map_or(end, |next| next.end().min(end));
                        return Ok(Some(Extent { offset: next, bytes: stop - next }));
                    }
                }
            }
            at = end;
        }
        Ok(None)
    }
}

impl ReadAt for Overlay {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let expected = buf.len() as u64;
        let found = self.size_bytes.saturating_sub(offset);
        if expected > found {
            return Err(disk::Error::ShortRead { path: self.path.clone(), offset, expected, found });
        }
        let end = offset + expected;
        let mut at = offset;
        while at < end {
            let (kind, stop) = self.run(at, end);
            let part = &mut buf[in_memory(at - offset)..in_memory(stop - offset)];
            match kind {
                Kind::Base => self.read_base(at, part)?,
                Kind::Data => self.read_file(at, part)?,
                Kind::Zeros => part.fill(0),
            }
            at = stop;
        }
        Ok(())
    }

    /// What was written, and the base's data where it was not; an extent is at most `DATA_BYTES_MAX` long.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        let Some(mut data) = self.next_piece(offset)? else { return Ok(None) };
        while data.bytes < DATA_BYTES_MAX {
            match self.next_piece(data.end())? {
                Some(next) if next.offset == data.end() => data.bytes += next.bytes,
                _ => break,
            }
        }
        data.bytes = data.bytes.min(DATA_BYTES_MAX);
        Ok(Some(data))
    }

    fn sector_bytes(&self) -> u32 {
        self.base.sector_bytes()
    }
}

impl WriteAt for Overlay {
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), disk::Error> {
        let extent = Extent { offset, bytes: buf.len() as u64 };
        self.check(extent)?;
        if buf.is_empty() {
            return Ok(());
        }
        let mut changes = self.changes();
        let end = extent.end();
        let mut at = offset;
        while at < end {
            // A part of a block up to its border, whole blocks, a part of a block.
            let whole = self.whole_blocks(Extent { offset: at, bytes: end - at });
            let (stop, is_whole) = match at.is_multiple_of(BLOCK_BYTES) && !whole.is_empty() {
                true => (self.extent_of(whole).end(), true),
                false => (end.min((at / BLOCK_BYTES + 1) * BLOCK_BYTES), false),
            };
            let part = &buf[in_memory(at - offset)..in_memory(stop - offset)];
            if is_whole {
                self.write_file(at, part)?
            } else {
                self.write_part(at, part)?
            }
            at = stop;
        }
        self.note(&mut changes, offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES), Kind::Data);
        self.relieve(changes)
    }

    /// Whole blocks are only noted, and their space given back.
    fn write_zeros_at(&self, extent: Extent) -> Result<(), disk::Error> {
        self.check(extent)?;
        let whole = self.whole_blocks(extent);
        if whole.is_empty() {
            // Less than two blocks.
            return self.write_all_at(extent.offset, &vec![0; in_memory(extent.bytes)]);
        }
        let middle = self.extent_of(whole.clone());
        let edges = [(extent.offset, middle.offset), (middle.end(), extent.end())];
        for (start, end) in edges {
            self.write_all_at(start, &vec![0; in_memory(end - start)])?;
        }
        let mut changes = self.changes();
        self.note(&mut changes, whole.clone(), Kind::Zeros);
        self.punch(whole);
        self.relieve(changes)
    }

    /// Nothing to do for a temporary overlay, which no loss of power leaves anything of.
    fn sync(&self) -> Result<(), disk::Error> {
        match &self.log {
            None => Ok(()),
            Some(log) => self.sync_log(&mut log.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl Drop for Overlay {
    /// Leaves a complete log. Whoever needs to know that it worked has called `sync`.
    fn drop(&mut self) {
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if self.sync_log(&mut log).is_ok() {
                log.close(&self.file).ok();
            }
        }
    }
}

/// A file that has no name; on filesystems that know no such thing, one that has lost it.
fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::TMPFILE | OFlags::CLOEXEC).bits()).unwrap_or(0);
    let made = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(folder);
    match made {
        Err(e) if e.kind() == io::ErrorKind::Unsupported || e.kind() == io::ErrorKind::IsADirectory => {}
        made => return made,
    }
    // One try: the name is free unless a process of this number was killed in this very moment.
    let path = folder.join(format!(".cas-overlay-{}-{:p}", std::process::id(), &flags));
    let file = OpenOptions::new().read(true).write(true).mode(0o600).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn open_locked(path: &Path) -> Result<File, Error> {
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = opened.map_err(|e| Error::overlay_io(path, "open", e))?;
    file.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => Error::Disk(disk::Error::Busy {
            path: path.to_owned(),
            source: io::Error::from(io::ErrorKind::WouldBlock),
        }),
        TryLockError::Error(e) => Error::overlay_io(path, "lock", e),
    })?;
    Ok(file)
}

/// Whether nothing was ever kept in the file: it is empty, or power was lost before its head was there.
fn is_fresh(file: &File, bytes: u64, path: &Path) -> Result<bool, Error> {
    let mut head = vec![0; in_memory(bytes.min(HEAD_BYTES))];
    file.read_exact_at(&mut head, 0).map_err(|e| Error::overlay_io(path, "read", e))?;
    if head.iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    // A disk image that begins with zeros is no overlay to be: nothing but a hole is.
    let data = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
    Ok(bytes == 0 || matches!(data, Err(rustix::io::Errno::NXIO)))
}

/// Writes the head, and returns when file and name would survive a loss of power.
fn begin(file: &File, path: &Path, head: &Head) -> Result<(), Error> {
    let name = OverlayProblem::Name { bytes: head.base_name.len() };
    let bytes = head.encode().ok_or_else(|| Error::overlay_problem(path, name))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    file.set_len(head.log_offset())
        .and_then(|()| file.write_all_at(&bytes, 0))
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|e| Error::overlay_io(path, "write", e))
}

fn check_head(file: &File, bytes: u64, path: &Path, expected: &Head) -> Result<(), Error> {
    let mut block = vec![0; in_memory(bytes.min(HEAD_BYTES))];
    file.read_exact_at(&mut block, 0).map_err(|e| Error::overlay_io(path, "read", e))?;
    let found = Head::decode(&block).map_err(|problem| Error::overlay_problem(path, problem))?;
    let sizes = |head: &Head| (head.size_bytes, head.base_bytes);
    let problem = if found.base_name != expected.base_name {
        OverlayProblem::Base { expected: expected.base_name.clone(), found: found.base_name }
    } else if sizes(&found) != sizes(expected) {
        OverlayProblem::Sizes { expected: sizes(expected), found: sizes(&found) }
    } else if bytes < found.log_offset() {
        OverlayProblem::Short { expected: found.log_offset(), found: bytes }
    } else {
        return Ok(());
    };
    Err(Error::overlay_problem(path, problem))
}

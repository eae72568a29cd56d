//! An open descriptor, and how bytes get in and out of it without passing through the page cache.
//!
//! Promise: any offset, length and memory is accepted; what the kernel wants aligned is aligned here. A failure is
//! sorted into unreadable (less may work), gone (nothing will) and short.
//! Knows nothing of who may open what.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{self as rfs, Advice, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, pwrite};

use crate::device::aligned::{ALIGNMENT, AlignedBuffer, is_aligned};
use crate::device::identity::{DeviceKind, Identity};
use crate::system::System;
use crate::{Error, Extent, sys};

/// Step of copies through aligned memory, and of writing zeros by hand: large enough that a disk streams.
const BOUNCE_BYTES: u64 = 1 << 20;
/// Shorter writes to a file gain more from being gathered by the page cache than they lose by the copy.
const DIRECT_BYTES_MIN: usize = 64 << 10;
/// One BLKZEROOUT cannot be interrupted; a slow disk does this much in seconds.
const ZERO_OUT_BYTES: u64 = 256 << 20;

/// What a descriptor is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading a block device or a regular file.
    Read,
    /// Having a block device for oneself.
    Exclusive,
    /// Keeping others from having it for themselves.
    Claim,
    /// Writing a regular file that may not exist yet.
    Create,
}

/// Whether the page cache is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    Use,
    Bypass,
}

/// How the bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    /// O_DIRECT.
    Direct,
    /// Through the page cache, dropping what was not there before.
    Quiet,
    /// Through the page cache.
    Cached,
}

/// An open device or file.
#[derive(Debug)]
pub(crate) struct Medium {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    sector: u64,
    road: Road,
    /// The same file, opened to be written past the page cache.
    direct: Option<File>,
    /// Its folder in sysfs, which vanishes with the device.
    node: Option<PathBuf>,
}

impl Medium {
    /// Opens what `access` allows; looks at the type first, because opening a pipe would wait.
    pub(crate) fn open_file(path: &Path, access: Access, cache: Cache) -> Result<File, Error> {
        let failed = |e: Errno| Error::Open { path: path.to_owned(), source: e.into() };
        let block = match rfs::stat(path) {
            Ok(stat) => check_type(path, access, FileType::from_raw_mode(stat.st_mode))?,
            Err(Errno::NOENT) if access == Access::Create => false,
            Err(e) => return Err(failed(e)),
        };
        let mut flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Exclusive => OFlags::RDWR | OFlags::EXCL,
            Access::Claim => OFlags::RDONLY | OFlags::EXCL,
            Access::Create => OFlags::RDWR | OFlags::CREATE,
        };
        if block && cache == Cache::Bypass {
            flags |= OFlags::DIRECT;
        }
        // A disk's content is nobody else's business.
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rfs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, mode).map_err(|e| match e {
            Errno::BUSY => Error::Busy { path: path.to_owned(), source: e.into() },
            e => failed(e),
        })?;
        // The path may mean something else than a moment ago.
        let opened = rfs::fstat(&fd).map_err(failed)?;
        check_type(path, access, FileType::from_raw_mode(opened.st_mode))?;
        Ok(File::from(fd))
    }

    /// Takes over a descriptor that [`Medium::open_file`] returned.
    pub(crate) fn new(file: File, path: &Path, identity: &Identity, cache: Cache) -> Self {
        let block = matches!(identity.kind, DeviceKind::Disk | DeviceKind::Partition);
        let road = match (cache, block) {
            (Cache::Use, _) => Road::Cached,
            (Cache::Bypass, true) => Road::Direct,
            (Cache::Bypass, false) => Road::Quiet,
        };
        if road == Road::Quiet {
            // Without it, read-ahead would put pages into the cache that no later read drops: they look as if
            // someone else had wanted them. Advice: failure costs nothing.
            rfs::fadvise(&file, 0, None, Advice::Random).ok();
        }
        let rdev = rfs::fstat(&file).map(|stat| stat.st_rdev).ok().filter(|_| block);
        let node = rdev.and_then(|rdev| System::real().node_folder(rdev));
        let sector = u64::from(identity.logical_sector_bytes);
        Self {
            file,
            path: path.to_owned(),
            size_bytes: identity.size_bytes,
            sector,
            road,
            direct: None,
            node,
        }
    }

    /// Lets long writes to a regular file go past the page cache, where its filesystem can do that: faster than any copy,
    /// and nothing is pushed out of the cache. The kernel keeps both roads in step.
    pub(crate) fn allow_direct(&mut self) {
        let again = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        self.direct = rfs::open(again, flags, Mode::empty()).ok().map(File::from);
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buf`.
    pub(crate) fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let expected = len64(buf);
        let short = |found| Error::ShortRead { path: self.path.clone(), offset, expected, found };
        if offset.checked_add(expected).is_none_or(|end| end > self.size_bytes) {
            return Err(short(self.size_bytes.saturating_sub(offset)));
        }
        let found = match self.road {
            Road::Direct => self.read_direct(offset, buf),
            Road::Quiet => self.read_quiet(offset, buf),
            Road::Cached => self.pread_full(offset, buf),
        };
        match found {
            Ok(found) if found == buf.len() => Ok(()),
            Ok(_) if self.has_shrunk() => Err(self.gone(offset, io::ErrorKind::UnexpectedEof.into())),
            Ok(found) => Err(short(u64::try_from(found).unwrap_or(u64::MAX))),
            Err(Errno::IO) if self.has_shrunk() || self.has_vanished() => {
                Err(self.gone(offset, Errno::IO.into()))
            }
            Err(e) => Err(Error::of_read(&self.path, offset, expected, e)),
        }
    }

    /// The next extent that is not a hole.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        if offset >= self.size_bytes {
            return Ok(None);
        }
        let rest = Extent { offset, bytes: self.size_bytes.saturating_sub(offset) };
        if self.road == Road::Direct {
            return Ok(Some(rest));
        }
        let start = match rfs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Behind its end all of a file is a hole, and it may end sooner than it did.
            Err(Errno::NXIO) if self.has_shrunk() => {
                return Err(self.gone(offset, io::ErrorKind::UnexpectedEof.into()));
            }
            Err(Errno::NXIO) => return Ok(None),
            // The file system knows of no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(rest)),
            Err(e) => return Err(Error::of_read(&self.path, offset, rest.bytes, e)),
        };
        let end =
            rfs::seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.size_bytes).min(self.size_bytes);
        let bytes = end.saturating_sub(start);
        Ok((bytes > 0).then_some(Extent { offset: start, bytes }))
    }

    /// Writes all of `buf`; the caller has checked that it fits.
    pub(crate) fn write_all_at(&self, offset: u64, buf: &[u8], edges: &Mutex<()>) -> Result<(), Error> {
        let written = match self.road {
            Road::Direct => self.write_direct(offset, buf, edges),
            Road::Quiet | Road::Cached => self.write_file(offset, buf),
        };
        written.map_err(|e| self.write_failed(offset, len64(buf), e))
    }

    /// Makes an extent read as zeros; the caller has checked that it fits.
    pub(crate) fn write_zeros_at(&self, extent: Extent, edges: &Mutex<()>) -> Result<(), Error> {
        let failed = |e| self.write_failed(extent.offset, extent.bytes, e);
        if extent.bytes == 0 {
            return Ok(());
        }
        if self.road == Road::Direct {
            return self.zero_device(extent, edges);
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for flags in [punch, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE] {
            match rfs::fallocate(&self.file, flags, extent.offset, extent.bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        self.write_zeros_by_hand(extent, edges)
    }

    /// Past the page cache as far as that pays and memory and offset are fit for it, through it otherwise.
    fn write_file(&self, offset: u64, buf: &[u8]) -> Result<(), Errno> {
        let whole = buf.len().saturating_sub(buf.len() % ALIGNMENT);
        let aligned = is_aligned(buf) && usize_of(offset).is_multiple_of(ALIGNMENT);
        let direct = self.direct.as_ref().filter(|_| aligned && whole >= DIRECT_BYTES_MIN);
        let (Some(direct), Some((long, rest))) = (direct, buf.split_at_checked(whole)) else {
            return pwrite_full(&self.file, offset, buf);
        };
        match pwrite_full(direct, offset, long) {
            Ok(()) => pwrite_full(&self.file, offset.saturating_add(len64(long)), rest),
            // The filesystem has wishes of its own. What was written so far is written once more.
            Err(Errno::INVAL) => pwrite_full(&self.file, offset, buf),
            Err(e) => Err(e),
        }
    }

    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        if self.fits(offset, buf) {
            return self.pread_full(offset, buf);
        }
        let mut bounce = AlignedBuffer::new(usize_of(BOUNCE_BYTES.min(self.round_up(len64(buf), 2))));
        let mut done = 0_usize;
        while done < buf.len() {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            let piece = self.piece(at, buf.len().saturating_sub(done), bounce.len());
            let Some(memory) = bounce.get_mut(..piece.span) else { break };
            let found = self.pread_full(piece.start, memory)?;
            let usable = memory.get(piece.skip..found.min(piece.skip.saturating_add(piece.bytes)));
            let Some(usable) = usable.filter(|usable| !usable.is_empty()) else { break };
            let end = done.saturating_add(usable.len());
            if let Some(to) = buf.get_mut(done..end) {
                to.copy_from_slice(usable);
            }
            done = end;
            if usable.len() < piece.bytes {
                break;
            }
        }
        Ok(done)
    }

    /// Pages that were cached before stay, others are dropped again: a 2 TB image file must not push out everything.
    fn read_quiet(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut slices = [io::IoSliceMut::new(buf)];
        let cached = preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT).unwrap_or(0);
        let Some(rest) = buf.get_mut(cached..).filter(|rest| !rest.is_empty()) else { return Ok(buf.len()) };
        let start = offset.saturating_add(u64::try_from(cached).unwrap_or(0));
        let found = self.pread_full(start, rest);
        // Advice: failure costs cache, nothing else.
        rfs::fadvise(&self.file, start, NonZeroU64::new(len64(rest)), Advice::DontNeed).ok();
        found.map(|found| cached.saturating_add(found))
    }

    /// Reads until `buf` is full or the medium ends.
    fn pread_full(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0_usize;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match pread(&self.file, rest, at) {
                Ok(0) => break,
                Ok(n) => done = done.saturating_add(n),
                Err(Errno::INTR) => {}
                // Direct, and what came before ended inside a sector: only the end of the device does that.
                Err(Errno::INVAL) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_direct(&self, offset: u64, buf: &[u8], edges: &Mutex<()>) -> Result<(), Errno> {
        if self.fits(offset, buf) {
            return pwrite_full(&self.file, offset, buf);
        }
        let mut bounce = AlignedBuffer::new(usize_of(BOUNCE_BYTES.min(self.round_up(len64(buf), 2))));
        let mut rest = buf;
        let mut at = offset;
        while !rest.is_empty() {
            let piece = self.piece(at, rest.len(), bounce.len());
            let Some((now, later)) = rest.split_at_checked(piece.bytes) else { break };
            let Some(memory) = bounce.get_mut(..piece.span) else { break };
            self.write_piece(&piece, now, memory, edges)?;
            at = at.saturating_add(len64(now));
            rest = later;
        }
        Ok(())
    }

    /// Writes whole sectors; those that are only partly meant are read first, and nobody else may do so meanwhile.
    fn write_piece(
        &self,
        piece: &Piece,
        from: &[u8],
        memory: &mut [u8],
        edges: &Mutex<()>,
    ) -> Result<(), Errno> {
        let partial = piece.bytes != piece.span;
        let _guard = partial.then(|| edges.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        if partial && self.pread_full(piece.start, memory)? != memory.len() {
            return Err(Errno::NXIO);
        }
        if let Some(to) = memory.get_mut(piece.skip..piece.skip.saturating_add(from.len())) {
            to.copy_from_slice(from);
        }
        pwrite_full(&self.file, piece.start, memory)
    }

    fn zero_device(&self, extent: Extent, edges: &Mutex<()>) -> Result<(), Error> {
        let start = self.round_up(extent.offset, 0).min(extent.end());
        let end = self.round_down(extent.end()).max(start);
        self.write_zeros_by_hand(between(extent.offset, start), edges)?;
        let mut at = start;
        while at < end {
            let bytes = end.saturating_sub(at).min(ZERO_OUT_BYTES);
            match sys::zero_out(self.file.as_fd(), [at, bytes]) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY) => {
                    self.write_zeros_by_hand(between(at, end), edges)?;
                    break;
                }
                Err(e) => return Err(self.write_failed(at, bytes, e)),
            }
            at = at.saturating_add(bytes);
        }
        self.write_zeros_by_hand(between(end, extent.end()), edges)
    }

    fn write_zeros_by_hand(&self, extent: Extent, edges: &Mutex<()>) -> Result<(), Error> {
        let zeros = AlignedBuffer::new(usize_of(extent.bytes.min(BOUNCE_BYTES)));
        let mut at = extent.offset;
        while at < extent.end() {
            let left = usize_of(extent.end().saturating_sub(at));
            let now = zeros.get(..left).unwrap_or(&zeros);
            self.write_all_at(at, now, edges)?;
            at = at.saturating_add(len64(now));
        }
        Ok(())
    }

    fn write_failed(&self, offset: u64, bytes: u64, errno: Errno) -> Error {
        match errno {
            Errno::IO if self.has_vanished() => self.gone(offset, errno.into()),
            errno => Error::of_write(&self.path, offset, bytes, errno),
        }
    }

    fn gone(&self, offset: u64, source: io::Error) -> Error {
        Error::Gone { path: self.path.clone(), offset, source }
    }

    fn has_shrunk(&self) -> bool {
        rfs::seek(&self.file, SeekFrom::End(0)).is_ok_and(|size| size < self.size_bytes)
    }

    /// An unplugged disk answers every read with EIO, as a bad sector does; but sysfs forgets it.
    fn has_vanished(&self) -> bool {
        self.node.as_ref().is_some_and(|node| !node.exists())
    }

    /// Whether the kernel takes this span and memory as they are.
    fn fits(&self, offset: u64, buf: &[u8]) -> bool {
        offset.is_multiple_of(self.sector) && len64(buf).is_multiple_of(self.sector) && is_aligned(buf)
    }

    fn round_down(&self, offset: u64) -> u64 {
        offset.saturating_sub(offset.checked_rem(self.sector).unwrap_or(0))
    }

    /// Rounds up to a sector, then adds `extra` sectors.
    fn round_up(&self, offset: u64, extra: u64) -> u64 {
        let whole = offset.checked_next_multiple_of(self.sector).unwrap_or(u64::MAX);
        whole.saturating_add(self.sector.saturating_mul(extra))
    }

    /// The whole sectors around as much of a span as fits in `room` bytes.
    fn piece(&self, offset: u64, bytes: usize, room: usize) -> Piece {
        let start = self.round_down(offset);
        let skip = usize_of(offset.saturating_sub(start));
        let bytes = bytes.min(room.saturating_sub(skip));
        let end = self.round_up(offset.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)), 0);
        Piece { start, span: usize_of(end.saturating_sub(start)).min(room), skip, bytes }
    }
}

fn pwrite_full(file: &File, offset: u64, buf: &[u8]) -> Result<(), Errno> {
    let mut rest = buf;
    let mut at = offset;
    while !rest.is_empty() {
        match pwrite(file, rest, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                at = at.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
                rest = rest.get(n..).unwrap_or_default();
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whole sectors, and the part of them that is meant.
struct Piece {
    start: u64,
    span: usize,
    skip: usize,
    bytes: usize,
}

fn check_type(path: &Path, access: Access, found: FileType) -> Result<bool, Error> {
    let path = path.to_owned();
    match (found, access) {
        (FileType::BlockDevice, Access::Read | Access::Exclusive | Access::Claim) => Ok(true),
        (FileType::RegularFile, Access::Read | Access::Create) => Ok(false),
        (FileType::RegularFile, Access::Exclusive | Access::Claim) => Err(Error::NotABlockDevice { path }),
        _ => Err(Error::NotADevice { path }),
    }
}

fn between(start: u64, end: u64) -> Extent {
    Extent { offset: start, bytes: end.saturating_sub(start) }
}

fn len64(buf: &[u8]) -> u64 {
    u64::try_from(buf.len()).unwrap_or(u64::MAX)
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

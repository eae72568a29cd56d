//! Files on a FAT volume, by the crate `fatfs`: looked up, read, written in place, copied.
//!
//! Promise: nothing is written to a volume that our own parser doubts (an open "was not unmounted" mark excepted, which changes
//! nothing in a volume that is otherwise consistent); no loop without end, as reads are counted; what is written is read back by a
//! fresh look. Knows nothing of boot loaders.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fatfs::{Date, DateTime, Dir, DirEntry, FileSystem, FsOptions, Time, TimeProvider};

use super::BootProblem;
use super::references::{FILES, NAMES_MAX, PACKED, TEXT_BYTES_MAX, Texts, expand, rewrite};
use crate::{Doubt, Error, Extent, ReadAt, WriteAt, allocation};

/// Bytes of an entry of a folder: §6.
const ENTRY: usize = 32;
/// What is read or written of a volume at most, each access counted as [`ACCESS_BYTES`] at least: several times a large loader and
/// the whole table of a system partition; a chain that leads in circles ends here.
const BYTES_MAX: u64 = 512 << 20;
const ACCESS_BYTES: u64 = 64;
/// Loaders have some MiB; what is larger is an archive of a whole system.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// A folder of a volume.
pub(super) type Folder<'a, 'b> = Dir<'a, Disk<'b>>;

/// Replaces identities in the texts of a FAT volume: a system partition, or a `/boot` of its own.
///
/// # Errors
/// The volume is in doubt while a text of it names one, or can't be written: then nothing of it may be used.
pub fn rewrite_fat(volume: &dyn WriteAt, pairs: &[(String, String)]) -> Result<Texts, BootProblem> {
    let (mut texts, mut changes) = (Texts::default(), Vec::new());
    with(volume, |root| {
        for pattern in FILES {
            for name in names(root, pattern)? {
                let Some(file) = find(root, &name)?.filter(DirEntry::is_file) else { continue };
                if file.len() > TEXT_BYTES_MAX {
                    texts.unread.push(name);
                } else if let Some((new, count)) = rewrite(&read(&file, &name)?, pairs) {
                    texts.rewritten.push((name.clone(), count));
                    changes.push((name, new));
                }
            }
        }
        for pattern in PACKED {
            texts.unread.extend(names(root, pattern)?);
        }
        Ok(())
    })?;
    write(volume, &changes)?;
    Ok(texts)
}

/// Gives files new contents, and reads them back.
fn write(volume: &dyn WriteAt, files: &[(String, Vec<u8>)]) -> Result<(), BootProblem> {
    if files.is_empty() {
        return Ok(());
    }
    check(volume)?;
    with(volume, |root| {
        for (name, bytes) in files {
            let gone = || io::Error::from(io::ErrorKind::NotFound);
            let entry = find(root, name)?.ok_or_else(gone).map_err(problem(name, "written"))?;
            put(&mut entry.to_file(), bytes).map_err(problem(name, "written"))?;
        }
        Ok(())
    })?;
    read_back(volume, files)
}

/// New files with these contents; folders are made. When one can't be had, those before it are taken away again.
///
/// # Errors
/// The volume is in doubt, full, or does not give back what was written.
pub(super) fn create(volume: &dyn WriteAt, files: &[(String, Vec<u8>)]) -> Result<(), BootProblem> {
    check(volume)?;
    let made = with(volume, |root| {
        for (name, bytes) in files {
            let mut made = 0;
            while let Some(slash) = name.get(made..).and_then(|rest| rest.find('/')) {
                let end = slash.saturating_add(made);
                root.create_dir(name.get(..end).unwrap_or_default()).map_err(problem(name, "written"))?;
                made = end.saturating_add(1);
            }
            let mut file = root.create_file(name).map_err(problem(name, "written"))?;
            put(&mut file, bytes).map_err(problem(name, "written"))?;
        }
        Ok(())
    });
    if made.is_err() {
        with(volume, |root| {
            for (name, _) in files {
                // What is not there need not be taken away.
                root.remove(name).ok();
            }
            Ok(())
        })?;
    }
    made?;
    read_back(volume, files)
}

fn put(file: &mut fatfs::File<'_, Disk<'_>>, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(bytes)?;
    file.truncate()?;
    file.flush()
}

fn read_back(volume: &dyn WriteAt, files: &[(String, Vec<u8>)]) -> Result<(), BootProblem> {
    with(volume, |root| {
        for (name, bytes) in files {
            let differs = || BootProblem::FatDiffers { path: name.clone() };
            let entry = find(root, name)?.ok_or_else(differs)?;
            if read(&entry, name)? != *bytes {
                return Err(differs());
            }
        }
        Ok(())
    })
}

/// Does something with the root folder of a volume.
pub(super) fn with<T>(
    volume: &dyn WriteAt,
    work: impl FnOnce(&Folder<'_, '_>) -> Result<T, BootProblem>,
) -> Result<T, BootProblem> {
    let run = || {
        let sectors = RefCell::new(BTreeSet::new());
        let disk = Disk { device: volume, at: 0, left: BYTES_MAX, written: &sectors };
        let options = FsOptions::new().update_accessed_date(false).time_provider(&NOW);
        let files = FileSystem::new(disk, options).map_err(problem("", "read"))?;
        let done = work(&files.root_dir());
        files.unmount().map_err(problem("", "written"))?;
        sectors.into_inner().into_iter().try_for_each(|at| mend_folder(volume, at))?;
        done
    };
    // The crate calculates without looking where a volume's numbers make no sense (its issues 56 and 72). Nothing of ours is left
    // in disorder by it: a volume is read from its bytes each time.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(BootProblem::FatDamaged))
}

/// Folders that the crate makes begin with long names for `.` and `..`, where the specification (§6.5) has the two entries
/// themselves: fsck.vfat calls that damage. Those four become the two, and two that are deleted.
fn mend_folder(volume: &dyn WriteAt, at: u64) -> Result<(), BootProblem> {
    /// The attributes of a part of a long name, and of a folder.
    const LONG_NAME: u8 = 0x0f;
    const FOLDER: u8 = 0x10;
    const DELETED: u8 = 0xe5;
    let mut entries = [0; 4 * ENTRY];
    if volume.size_bytes().saturating_sub(at) < 128 {
        return Ok(());
    }
    volume.read_exact_at(at, &mut entries)?;
    let (parts, []) = entries.as_chunks_mut::<ENTRY>() else { return Ok(()) };
    let [dot_name, dot, dots_name, dots] = parts else { return Ok(()) };
    let is = |entry: &[u8; ENTRY], start: &[u8], attributes: u8| {
        entry.starts_with(start) && entry[11] == attributes
    };
    let is_made = is(dot_name, b"A.\0\0\0", LONG_NAME)
        && is(dot, b".          ", FOLDER)
        && is(dots_name, b"A.\0.\0\0\0", LONG_NAME)
        && is(dots, b"..         ", FOLDER);
    if !is_made {
        return Ok(());
    }
    std::mem::swap(dot_name, dot);
    std::mem::swap(dot, dots);
    (dots_name[0], dots[0]) = (DELETED, DELETED);
    volume.write_all_at(at, &entries)?;
    Ok(())
}

/// Names that are there for a pattern of names.
pub(super) fn names(root: &Folder<'_, '_>, pattern: &str) -> Result<Vec<String>, BootProblem> {
    let mut list = |name: &str| -> Result<Vec<String>, BootProblem> {
        let folder = if name.is_empty() { Some(root.clone()) } else { folder(root, name)? };
        let Some(folder) = folder else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in folder.iter().take(NAMES_MAX) {
            let name = entry.map_err(problem(name, "read"))?.file_name();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    };
    expand(pattern, &mut list)
}

fn folder<'a, 'b>(root: &Folder<'a, 'b>, name: &str) -> Result<Option<Folder<'a, 'b>>, BootProblem> {
    Ok(find(root, name)?.filter(DirEntry::is_dir).map(|entry| entry.to_dir()))
}

/// What has this name, capitals or not.
pub(super) fn find<'a, 'b>(
    root: &Folder<'a, 'b>,
    name: &str,
) -> Result<Option<DirEntry<'a, Disk<'b>>>, BootProblem> {
    let mut parts = name.split('/').peekable();
    let mut folder = root.clone();
    while let Some(part) = parts.next() {
        let mut found = None;
        for entry in folder.iter().take(NAMES_MAX) {
            let entry = entry.map_err(problem(name, "read"))?;
            if entry.file_name().eq_ignore_ascii_case(part) {
                found = Some(entry);
                break;
            }
        }
        match found {
            Some(entry) if parts.peek().is_none() => return Ok(Some(entry)),
            Some(entry) if entry.is_dir() => folder = entry.to_dir(),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The content of a file that is not larger than what is expected here.
pub(super) fn read(entry: &DirEntry<'_, Disk<'_>>, name: &str) -> Result<Vec<u8>, BootProblem> {
    let mut bytes = Vec::new();
    let mut file = entry.to_file().take(FILE_BYTES_MAX.saturating_add(1));
    file.read_to_end(&mut bytes).map_err(problem(name, "read"))?;
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if len > FILE_BYTES_MAX || len != entry.len() {
        return Err(problem(name, "read")(io::ErrorKind::InvalidData.into()));
    }
    Ok(bytes)
}

fn problem(path: &str, what: &'static str) -> impl FnOnce(io::Error) -> BootProblem {
    let path = path.to_owned();
    move |source| BootProblem::Fat { path, what, source }
}

/// That our own parser finds nothing wrong with the volume.
fn check(volume: &dyn WriteAt) -> Result<(), BootProblem> {
    let unmounted = Unmounted::new(volume)?;
    let whole = Extent { offset: 0, bytes: volume.size_bytes() };
    match allocation(&unmounted, whole) {
        Ok(Some(found)) if found.kind == "vfat" => Ok(()),
        Ok(_) => Err(BootProblem::FatDamaged),
        Err(Doubt::Unreadable { source }) => Err(source.into()),
        Err(doubt) => Err(BootProblem::Doubtful { doubt }),
    }
}

/// A FAT volume as it would be had it been unmounted: the image of a running system has its system partition mounted. Microsoft FAT
/// specification §3, §4; linux fs/fat/inode.c, `fat_set_state`.
struct Unmounted<'a> {
    volume: &'a dyn WriteAt,
    /// Bytes that read otherwise.
    bytes: Vec<(u64, Vec<u8>)>,
}

impl<'a> Unmounted<'a> {
    fn new(volume: &'a dyn WriteAt) -> Result<Self, BootProblem> {
        let mut boot = [0; 512];
        volume.read_exact_at(0, &mut boot)?;
        let le16 = |at: usize| {
            boot.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |two| u64::from(u16::from_le_bytes(*two)))
        };
        let is_fat32 = le16(22) == 0;
        let state: usize = if is_fat32 { 65 } else { 37 };
        let flags = boot.get(state).copied().unwrap_or(0);
        let mut bytes = Vec::new();
        if flags & 1 != 0 {
            bytes.push((u64::try_from(state).unwrap_or(0), vec![flags & !1]));
            if is_fat32 {
                // FSInfo's count of free clusters is written when it is unmounted: not known.
                let count = le16(48).saturating_mul(le16(11)).saturating_add(488);
                bytes.push((count, vec![0xff; 4]));
            }
        }
        Ok(Self { volume, bytes })
    }
}

impl ReadAt for Unmounted<'_> {
    fn size_bytes(&self) -> u64 {
        self.volume.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.volume.read_exact_at(offset, buf)?;
        for (place, bytes) in &self.bytes {
            for (at, byte) in (*place..).zip(bytes) {
                let index = at.checked_sub(offset).and_then(|index| usize::try_from(index).ok());
                if let Some(there) = index.and_then(|index| buf.get_mut(index)) {
                    *there = *byte;
                }
            }
        }
        Ok(())
    }

    fn sector_bytes(&self) -> u32 {
        self.volume.sector_bytes()
    }
}

/// A volume as `fatfs` wants it: with a place, and an end to patience.
pub(super) struct Disk<'a> {
    device: &'a dyn WriteAt,
    at: u64,
    left: u64,
    /// Where something was written at the beginning of a sector.
    written: &'a RefCell<BTreeSet<u64>>,
}

impl Disk<'_> {
    /// How much of `len` is on the volume from here on; counts it.
    fn take(&mut self, len: usize) -> io::Result<usize> {
        let bytes =
            u64::try_from(len).unwrap_or(u64::MAX).min(self.device.size_bytes().saturating_sub(self.at));
        self.left = self.left.checked_sub(bytes.max(ACCESS_BYTES)).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(usize::try_from(bytes).unwrap_or(0))
    }

    fn go_on(&mut self, len: usize) {
        self.at = self.at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    }
}

impl Read for Disk<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.take(buf.len())?;
        let part = buf.get_mut(..len).unwrap_or_default();
        self.device.read_exact_at(self.at, part).map_err(io::Error::other)?;
        self.go_on(len);
        Ok(len)
    }
}

impl Write for Disk<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let len = self.take(buf.len())?;
        if self.at.is_multiple_of(512) {
            self.written.borrow_mut().insert(self.at);
        }
        self.device.write_all_at(self.at, buf.get(..len).unwrap_or_default()).map_err(io::Error::other)?;
        self.go_on(len);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Disk<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.device.size_bytes().checked_add_signed(by),
        };
        self.at = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// What new files are dated with: now, in UTC, as FAT has no time zones.
#[derive(Debug)]
struct Now;
static NOW: Now = Now;

impl TimeProvider for Now {
    fn get_current_date(&self) -> Date {
        self.get_current_date_time().date
    }

    fn get_current_date_time(&self) -> DateTime {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        dated(since.map_or(0, |since| since.as_secs()))
    }
}

/// From 1980 to 2107, all that FAT knows.
fn dated(seconds: u64) -> DateTime {
    /// From 1970 to 1980.
    const DAYS_BEFORE: u64 = 3652;
    let mut days = (seconds / 86_400).saturating_sub(DAYS_BEFORE);
    let (mut year, mut month) = (1980_u16, 1_u16);
    loop {
        // No year from 1980 to 2107 is divisible by 100 but 2000, which is a leap year, and 2100, which is not.
        let february = if year.is_multiple_of(4) && year != 2100 { 29 } else { 28 };
        let length = match month {
            2 => february,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if days < length || (year, month) == (2107, 12) {
            break;
        }
        days = days.saturating_sub(length);
        (year, month) =
            if month == 12 { (year.saturating_add(1), 1) } else { (year, month.saturating_add(1)) };
    }
    let small = |number: u64| u16::try_from(number).unwrap_or(0);
    let date = Date { year, month, day: small(days.min(30).saturating_add(1)) };
    let time = Time {
        hour: small(seconds / 3600 % 24),
        min: small(seconds / 60 % 60),
        sec: small(seconds % 60),
        millis: 0,
    };
    DateTime { date, time }
}

#[cfg(test)]
#[path = "fat_tests.rs"]
pub(super) mod tests;

//! Files of an image as a stream: tar, with all metadata, or zip, with less.
//!
//! Promise: nothing is held but one piece of one file; names in an archive never begin with `/` or contain `..`. What
//! cannot be put in is a [`Finding`].
//! Knows nothing of where the stream goes.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use disk::files::{FileId, FileInfo, FileKind, FileTime, Files, FilesError};
use tar::{Builder, EntryType, Header};

use crate::browse::{Found, Met, walk};
use crate::extract::{ExtractReport, Finding, FindingKind};

/// Files with several names that are remembered; of more, each name becomes a file.
const LINKED_MAX: usize = 1 << 20;

/// What all kinds of archives do with a tree.
trait Archive {
    fn put(&mut self, name: &[u8], met: &Met<'_>) -> Result<(), FindingKind>;
}

/// Writes what was found, with all below, as a tar; each under its own last name (a volume's root: what is in it).
///
/// # Errors
/// When the stream cannot be written.
pub fn to_tar(files: &dyn Files, found: &[Found], out: impl Write) -> io::Result<ExtractReport> {
    let mut tar = Tar { files, builder: Builder::new(out), first: HashMap::new(), broken: None };
    let report = all(files, found, &mut tar);
    match tar.broken.take() {
        Some(error) => Err(error),
        None => tar.builder.into_inner()?.flush().map(|()| report),
    }
}

/// Writes what was found, with all below, as a zip: regular files, folders and links.
///
/// # Errors
/// When the stream cannot be written.
pub fn to_zip(files: &dyn Files, found: &[Found], out: impl Write) -> io::Result<ExtractReport> {
    let mut zip = Zip { files, writer: zip::ZipWriter::new_stream(out), broken: None };
    let report = all(files, found, &mut zip);
    match zip.broken.take() {
        Some(error) => Err(error),
        None => zip.writer.finish()?.flush().map(|()| report),
    }
}

fn all(files: &dyn Files, found: &[Found], archive: &mut dyn Archive) -> ExtractReport {
    let mut report = ExtractReport::default();
    for one in found {
        let keep = one.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let mut findings = Vec::new();
        let mut each = |met: Met<'_>| {
            let name = met.path.get(keep.max(1)..).unwrap_or_default();
            match archive.put(name, &met) {
                Ok(()) if met.info.kind == FileKind::Folder => report.folders += 1,
                Ok(()) => {
                    report.files += 1;
                    report.bytes += met.info.bytes;
                }
                Err(what) => findings.push(Finding { path: met.path.to_vec(), what }),
            }
            true
        };
        let mut unread = Vec::new();
        let mut failed = |path: &[u8], error| {
            unread.push(Finding { path: path.to_vec(), what: FindingKind::Unreadable(error) });
        };
        match files.info(one.file) {
            Err(error) => failed(&one.path, error),
            Ok(info) => {
                if !one.path.is_empty() {
                    each(Met { path: &one.path, file: one.file, info: &info });
                }
                if info.kind == FileKind::Folder {
                    walk(files, one, &mut each, &mut failed);
                }
            }
        }
        report.findings.extend(findings.into_iter().chain(unread));
    }
    report
}

/// A file's contents, as many bytes as the archive was told. What cannot be read becomes zeros, and is remembered: the rest
/// of the archive must stay where readers look for it.
struct Contents<'a> {
    files: &'a dyn Files,
    file: FileId,
    at: u64,
    bytes: u64,
    failed: Option<FilesError>,
}

impl<'a> Contents<'a> {
    fn new(files: &'a dyn Files, met: &Met<'_>) -> Self {
        Self { files, file: met.file, at: 0, bytes: met.info.bytes, failed: None }
    }
}

impl Read for Contents<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes - self.at).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..left];
        let read = match self.failed {
            Some(_) => Ok(0),
            None => self.files.read(self.file, self.at, buf),
        };
        let count = read.unwrap_or_else(|error| {
            self.failed = Some(error);
            0
        });
        buf[count..].fill(0);
        self.at += left as u64;
        Ok(left)
    }
}

struct Tar<'a, W: Write> {
    files: &'a dyn Files,
    builder: Builder<W>,
    /// Under which name a file with several names came first.
    first: HashMap<FileId, Vec<u8>>,
    /// The stream itself.
    broken: Option<io::Error>,
}

impl<W: Write> Archive for Tar<'_, W> {
    fn put(&mut self, name: &[u8], met: &Met<'_>) -> Result<(), FindingKind> {
        if self.broken.is_some() {
            return Ok(());
        }
        let mut header = header(met.info)?;
        if met.info.links > 1 && met.info.kind != FileKind::Folder {
            if let Some(first) = self.first.get(&met.file).cloned() {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                let linked = self.builder.append_link(&mut header, path(name), path(&first));
                return self.written(linked);
            }
            if self.first.len() < LINKED_MAX {
                self.first.insert(met.file, name.to_vec());
            }
        }
        let extensions = self.extensions(met)?;
        let pairs = extensions.iter().map(|(key, value)| (key.as_str(), &value[..]));
        let extended = self.builder.append_pax_extensions(pairs);
        self.written(extended)?;
        let written = match &met.info.kind {
            FileKind::Regular => return self.regular(&mut header, name, met),
            FileKind::Link { target } => self.builder.append_link(&mut header, path(name), path(target)),
            _ => self.builder.append_data(&mut header, path(name), io::empty()),
        };
        self.written(written)
    }
}

impl<W: Write> Tar<'_, W> {
    fn written(&mut self, result: io::Result<()>) -> Result<(), FindingKind> {
        match result {
            // Names that tar cannot hold, `..` in a link's target among them, are no fault of the stream.
            Err(error) if matches!(error.kind(), io::ErrorKind::Other | io::ErrorKind::InvalidInput) => {
                Err(FindingKind::Write(error))
            }
            Err(error) => {
                self.broken = Some(error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn regular(&mut self, header: &mut Header, name: &[u8], met: &Met<'_>) -> Result<(), FindingKind> {
        let mut contents = Contents::new(self.files, met);
        let written = self.builder.append_data(header, path(name), &mut contents);
        match contents.failed {
            Some(error) => Err(FindingKind::Unreadable(error)),
            None => self.written(written),
        }
    }

    /// What the old header has no room for: linux man 5 pax, `SCHILY.xattr` as star and GNU tar write it.
    fn extensions(&self, met: &Met<'_>) -> Result<Vec<(String, Vec<u8>)>, FindingKind> {
        let mut extensions = Vec::new();
        let modified = met.info.modified;
        if modified.nanos != 0 || modified.seconds < 0 {
            extensions.push(("mtime".to_owned(), decimal(modified).into_bytes()));
        }
        for (name, value) in self.files.attributes(met.file).map_err(FindingKind::Unreadable)? {
            if let Ok(name) = String::from_utf8(name) {
                extensions.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        Ok(extensions)
    }
}

fn decimal(time: FileTime) -> String {
    // Nanoseconds count forward, also before 1970: -1.5 is two seconds before and half a second on.
    match time.seconds {
        seconds if seconds < 0 && time.nanos > 0 => {
            format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - time.nanos)
        }
        seconds => format!("{seconds}.{:09}", time.nanos),
    }
}

fn header(info: &FileInfo) -> Result<Header, FindingKind> {
    let mut header = Header::new_gnu();
    header.set_mode(info.mode);
    header.set_uid(info.uid.into());
    header.set_gid(info.gid.into());
    header.set_mtime(u64::try_from(info.modified.seconds).unwrap_or(0));
    header.set_size(if info.kind == FileKind::Regular { info.bytes } else { 0 });
    header.set_entry_type(match &info.kind {
        FileKind::Regular => EntryType::Regular,
        FileKind::Folder => EntryType::Directory,
        FileKind::Link { .. } => EntryType::Symlink,
        FileKind::CharDevice { .. } => EntryType::Char,
        FileKind::BlockDevice { .. } => EntryType::Block,
        FileKind::Fifo => EntryType::Fifo,
        FileKind::Socket => {
            return Err(FindingKind::Write(io::Error::other("tar knows no sockets")));
        }
    });
    if let FileKind::CharDevice { major, minor } | FileKind::BlockDevice { major, minor } = info.kind {
        let wide = |error| FindingKind::Write(error);
        header.set_device_major(major).map_err(wide)?;
        header.set_device_minor(minor).map_err(wide)?;
    }
    Ok(header)
}

fn path(name: &[u8]) -> &std::path::Path {
    std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name))
}

struct Zip<'a, W: Write> {
    files: &'a dyn Files,
    writer: zip::ZipWriter<zip::write::StreamWriter<W>>,
    broken: Option<io::Error>,
}

impl<W: Write> Archive for Zip<'_, W> {
    fn put(&mut self, name: &[u8], met: &Met<'_>) -> Result<(), FindingKind> {
        if self.broken.is_some() {
            return Ok(());
        }
        // Where names have backslashes, they would be folders.
        let name = str::from_utf8(name).ok().filter(|name| !name.contains('\\'));
        let Some(name) = name else { return Err(FindingKind::Name) };
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .unix_permissions(met.info.mode)
            .large_file(true);
        let options = match zip_time(met.info.modified.seconds) {
            Some(time) => options.last_modified_time(time),
            None => options,
        };
        let started = match &met.info.kind {
            FileKind::Regular => self.writer.start_file(name, options),
            FileKind::Folder => self.writer.add_directory(name, options),
            FileKind::Link { target } => match str::from_utf8(target) {
                Ok(target) => self.writer.add_symlink(name, target, options),
                Err(_) => return Err(FindingKind::Name),
            },
            _ => return Err(FindingKind::Write(io::Error::other("zip knows files, folders and links only"))),
        };
        match started {
            Ok(()) => {}
            Err(zip::result::ZipError::InvalidArchive(_)) => {
                return Err(FindingKind::Write(io::Error::other("the zip has a file of this name already")));
            }
            Err(error) => {
                self.broken = Some(error.into());
                return Ok(());
            }
        }
        if met.info.kind != FileKind::Regular {
            return Ok(());
        }
        let mut contents = Contents::new(self.files, met);
        let copied = io::copy(&mut contents, &mut self.writer);
        match (contents.failed, copied) {
            (Some(error), _) => Err(FindingKind::Unreadable(error)),
            (None, Err(error)) => {
                self.broken = Some(error);
                Ok(())
            }
            (None, Ok(_)) => Ok(()),
        }
    }
}

/// Zip knows the years from 1980 to 2107, in local time; UTC is taken.
fn zip_time(seconds: i64) -> Option<zip::DateTime> {
    let days = seconds.div_euclid(86_400);
    let of_day = seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    let small = |number: i64| u8::try_from(number).ok();
    zip::DateTime::from_date_and_time(
        u16::try_from(year).ok()?,
        small(month)?,
        small(day)?,
        small(of_day / 3600)?,
        small(of_day / 60 % 60)?,
        small(of_day % 60)?,
    )
    .ok()
}

/// Year, month and day of a day since 1970: years that begin in March put the leap day last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

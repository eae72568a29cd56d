//! Files of an image into a folder of this machine.
//!
//! Promise: nothing outside of the folder is touched, whatever the image says, and whatever others do to the folder
//! meanwhile: every name is one step from a folder that is held open, and no link is followed. What exists is not
//! overwritten. What cannot be kept (a name, an owner, a device) is a [`Finding`], not silence.
//! Knows nothing of paths in images, or of words.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use disk::files::{FileId, FileInfo, FileKind, FileTime, Files, FilesError};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags, chmod, chownat, fstat,
    linkat, mkdirat, mknodat, openat, openat2, setxattr, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::browse::{check_way, entries};

/// Contents are copied in such pieces.
const COPY_BYTES: usize = 1 << 20;
/// Files with several names that are remembered, some hundred bytes each; of more, each name becomes a file.
const LINKED_MAX: usize = 1 << 20;

/// How to extract.
#[derive(Clone, Copy, Debug)]
pub struct ExtractOptions {
    /// Owners, devices, set-user-id and attributes of the system are set: for root.
    pub privileged: bool,
}

/// What was extracted, and what was not.
#[derive(Debug, Default)]
pub struct ExtractReport {
    /// Files of all kinds.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Contents, holes included.
    pub bytes: u64,
    /// What is missing or different.
    pub findings: Vec<Finding>,
}

/// Something of a file that was not extracted.
#[derive(Debug)]
pub struct Finding {
    /// In the image.
    pub path: Vec<u8>,
    /// What.
    pub what: FindingKind,
}

/// What happened to a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindingKind {
    /// It cannot be read from the image.
    #[error("not extracted")]
    Unreadable(#[source] FilesError),
    /// There is a file of this name already.
    #[error("exists already: not extracted")]
    Exists,
    /// The filesystem of the folder cannot hold such a name.
    #[error("the name cannot be held here: not extracted")]
    Name,
    /// It cannot be written.
    #[error("cannot be written")]
    Write(#[source] io::Error),
    /// Only root makes devices.
    #[error("a device, which only root can make: not extracted")]
    Device,
    /// It was extracted, but this is missing.
    #[error("extracted without its {part}")]
    Without {
        /// `owner`, `attribute user.x`.
        part: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FindingKind {
    /// Whether the file, or its contents, are not there.
    pub fn is_missing(&self) -> bool {
        !matches!(self, FindingKind::Without { .. })
    }
}

/// Where a file with several names was extracted first.
struct First {
    /// From the folder that is extracted to.
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// One extraction into one folder.
pub struct Extraction<'a> {
    files: &'a dyn Files,
    options: ExtractOptions,
    root: OwnedFd,
    first: HashMap<FileId, First>,
    report: ExtractReport,
    stopped: &'a dyn Fn() -> bool,
}

/// The way to a file: in the image, and from the folder that is extracted to.
struct Way {
    image: Vec<u8>,
    here: PathBuf,
    above: Vec<FileId>,
}

impl<'a> Extraction<'a> {
    /// Into a folder, which must be there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn new(
        files: &'a dyn Files,
        folder: &Path,
        options: ExtractOptions,
        stopped: &'a dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let root =
            rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())?;
        Ok(Self { files, options, root, first: HashMap::new(), report: ExtractReport::default(), stopped })
    }

    /// Extracts a file, or a folder with all below it, under a name of its own; `path` is for findings. Without a name
    /// (a volume's root), what is in the folder.
    ///
    /// # Errors
    /// Only when it was stopped. All else is a finding.
    pub fn add(&mut self, file: FileId, path: &[u8], name: Option<&[u8]>) -> io::Result<()> {
        let root = self.root.try_clone()?;
        let mut way = Way { image: path.to_vec(), here: PathBuf::new(), above: Vec::new() };
        match name {
            Some(name) => {
                way.here.push(os(name));
                self.file(root.as_fd(), name, file, &mut way)
            }
            None => {
                way.above.push(file);
                self.contents_of_folder(root.as_fd(), file, &mut way)
            }
        }
    }

    /// What was done.
    pub fn finish(self) -> ExtractReport {
        self.report
    }

    fn find(&mut self, way: &Way, what: FindingKind) {
        self.report.findings.push(Finding { path: way.image.clone(), what });
    }

    fn without(&mut self, way: &Way, part: &str, source: Errno) {
        self.find(way, FindingKind::Without { part: part.to_owned(), source: source.into() });
    }

    fn file(&mut self, folder: BorrowedFd<'_>, name: &[u8], file: FileId, way: &mut Way) -> io::Result<()> {
        if (self.stopped)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let info = match self.files.info(file) {
            Ok(info) => info,
            Err(error) => {
                self.find(way, FindingKind::Unreadable(error));
                return Ok(());
            }
        };
        if is_unsafe(name) {
            self.find(way, FindingKind::Name);
            return Ok(());
        }
        if info.kind == FileKind::Folder {
            return self.folder(folder, name, file, &info, way);
        }
        let is_linked = info.links > 1;
        if is_linked && self.linked(folder, name, file, way) {
            self.report.files += 1;
            return Ok(());
        }
        match self.made(folder, name, file, &info, way) {
            Err(what) => self.find(way, what),
            Ok(made) => {
                self.report.files += 1;
                if is_linked
                    && self.first.len() < LINKED_MAX
                    && let Ok(stat) = fstat(&made)
                {
                    let first = First { path: way.here.clone(), device: stat.st_dev, inode: stat.st_ino };
                    self.first.insert(file, first);
                }
            }
        }
        Ok(())
    }

    /// Whether the file is there under another name already, and got this one too.
    fn linked(&mut self, folder: BorrowedFd<'_>, name: &[u8], file: FileId, way: &Way) -> bool {
        let Some(first) = self.first.get(&file) else { return false };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let linked = openat2(&self.root, &first.path, flags, Mode::empty(), beneath).and_then(|found| {
            let stat = fstat(&found)?;
            if (stat.st_dev, stat.st_ino) != (first.device, first.inode) {
                return Err(Errno::STALE);
            }
            linkat(rustix::fs::CWD, proc_path(&found), folder, os(name), AtFlags::SYMLINK_FOLLOW)
        });
        match linked {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => {
                self.without(way, "link to its other name", errno);
                false
            }
        }
    }

    fn folder(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        file: FileId,
        info: &FileInfo,
        way: &mut Way,
    ) -> io::Result<()> {
        if let Err(error) = check_way(&way.above, file) {
            self.find(way, FindingKind::Unreadable(error));
            return Ok(());
        }
        // Writable until all is in it.
        let is_new = match mkdirat(folder, os(name), Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => {
                self.find(way, kind_of(errno));
                return Ok(());
            }
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let made = match openat(folder, os(name), flags, Mode::empty()) {
            Ok(made) => made,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                self.find(way, FindingKind::Exists);
                return Ok(());
            }
            Err(errno) => {
                self.find(way, kind_of(errno));
                return Ok(());
            }
        };
        self.report.folders += 1;
        way.above.push(file);
        let done = self.contents_of_folder(made.as_fd(), file, way);
        way.above.pop();
        if is_new {
            self.metadata(&made, file, info, way);
        }
        done
    }

    fn contents_of_folder(&mut self, folder: BorrowedFd<'_>, file: FileId, way: &mut Way) -> io::Result<()> {
        let found = match entries(self.files, file) {
            Ok(found) => found,
            Err(error) => {
                self.find(way, FindingKind::Unreadable(error));
                return Ok(());
            }
        };
        for entry in found {
            let len = way.image.len();
            way.image.push(b'/');
            way.image.extend_from_slice(&entry.name);
            way.here.push(os(&entry.name));
            let done = self.file(folder, &entry.name, entry.file, way);
            way.here.pop();
            way.image.truncate(len);
            done?;
        }
        Ok(())
    }

    /// Makes anything but a folder, and says where it is.
    fn made(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        file: FileId,
        info: &FileInfo,
        way: &Way,
    ) -> Result<OwnedFd, FindingKind> {
        let node = |kind, device| mknodat(folder, os(name), kind, Mode::empty(), device);
        let made = match &info.kind {
            FileKind::Regular => return self.regular(folder, name, file, info, way),
            FileKind::Folder => return Err(FindingKind::Exists),
            FileKind::Link { target } => symlinkat(os(target), folder, os(name)),
            FileKind::Fifo => node(FileType::Fifo, 0),
            FileKind::Socket => node(FileType::Socket, 0),
            FileKind::CharDevice { .. } | FileKind::BlockDevice { .. } if !self.options.privileged => {
                return Err(FindingKind::Device);
            }
            FileKind::CharDevice { major, minor } => {
                node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            FileKind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
        };
        made.map_err(kind_of)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(folder, os(name), flags, Mode::empty()).map_err(kind_of)?;
        // Whoever else writes to the folder may have put something else there.
        let found = fstat(&made).map_err(kind_of)?;
        if FileType::from_raw_mode(found.st_mode) != type_of(&info.kind)
            || found.st_uid != rustix::process::geteuid().as_raw()
        {
            return Err(FindingKind::Exists);
        }
        self.metadata(&made, file, info, way);
        Ok(made)
    }

    fn regular(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        file: FileId,
        info: &FileInfo,
        way: &Way,
    ) -> Result<OwnedFd, FindingKind> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        let made = openat(folder, os(name), flags, Mode::RUSR | Mode::WUSR).map_err(kind_of)?;
        let made = File::from(made);
        if let Err(what) = self.contents(&made, file, info.bytes) {
            // Half a file is worse than none; if it cannot be removed, the finding says that it is not whole.
            unlinkat(folder, os(name), AtFlags::empty()).ok();
            return Err(what);
        }
        self.report.bytes += info.bytes;
        let made = OwnedFd::from(made);
        self.metadata(&made, file, info, way);
        Ok(made)
    }

    /// Holes stay holes.
    fn contents(&self, to: &File, file: FileId, bytes: u64) -> Result<(), FindingKind> {
        to.set_len(bytes).map_err(FindingKind::Write)?;
        let mut buf = vec![0; COPY_BYTES];
        let mut at = 0;
        while let Some(data) = self.files.next_data(file, at).map_err(FindingKind::Unreadable)? {
            at = data.offset;
            while at < data.end().min(bytes) {
                if (self.stopped)() {
                    return Err(FindingKind::Write(io::ErrorKind::Interrupted.into()));
                }
                let left = usize::try_from(data.end() - at).unwrap_or(usize::MAX);
                let part = &mut buf[..left.min(COPY_BYTES)];
                let count = self.files.read(file, at, part).map_err(FindingKind::Unreadable)?;
                if count == 0 {
                    return Ok(());
                }
                to.write_all_at(&part[..count], at).map_err(FindingKind::Write)?;
                at += count as u64;
            }
        }
        Ok(())
    }

    /// Owner, attributes, mode, times, in this order: a new owner takes set-user-id away.
    fn metadata(&mut self, made: &OwnedFd, file: FileId, info: &FileInfo, way: &Way) {
        if self.options.privileged {
            let owner =
                (Some(rustix::fs::Uid::from_raw(info.uid)), Some(rustix::fs::Gid::from_raw(info.gid)));
            if let Err(errno) = chownat(made, c"", owner.0, owner.1, AtFlags::EMPTY_PATH) {
                self.without(way, "owner", errno);
            }
        }
        self.attributes(made, file, way);
        if !matches!(info.kind, FileKind::Link { .. }) {
            let kept = if self.options.privileged { 0o7777 } else { 0o777 };
            if let Err(errno) = chmod(proc_path(made), Mode::from_raw_mode(info.mode & kept)) {
                self.without(way, "mode", errno);
            }
        }
        let accessed = info.accessed.unwrap_or(info.modified);
        let times =
            Timestamps { last_access: timespec(accessed), last_modification: timespec(info.modified) };
        if let Err(errno) = utimensat(made, c"", &times, AtFlags::EMPTY_PATH) {
            self.without(way, "times", errno);
        }
    }

    fn attributes(&mut self, made: &OwnedFd, file: FileId, way: &Way) {
        let attributes = match self.files.attributes(file) {
            Ok(attributes) => attributes,
            Err(error) => {
                let source = io::Error::other(error);
                return self.find(way, FindingKind::Without { part: "attributes".to_owned(), source });
            }
        };
        for (name, value) in attributes {
            let is_open = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_");
            let part = format!("attribute {}", String::from_utf8_lossy(&name));
            let set = match is_open || self.options.privileged {
                true => setxattr(proc_path(made), os(&name), &value, XattrFlags::empty()),
                false => Err(Errno::PERM),
            };
            if let Err(errno) = set {
                self.without(way, &part, errno);
            }
        }
    }
}

fn os(name: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

/// An open file under a name that leads to it and nowhere else, for calls that take no open file.
fn proc_path(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Readers refuse such names already; nothing depends on it here.
fn is_unsafe(name: &[u8]) -> bool {
    matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

fn kind_of(errno: Errno) -> FindingKind {
    match errno {
        Errno::EXIST => FindingKind::Exists,
        Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL => FindingKind::Name,
        errno => FindingKind::Write(errno.into()),
    }
}

fn type_of(kind: &FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Folder => FileType::Directory,
        FileKind::Link { .. } => FileType::Symlink,
        FileKind::CharDevice { .. } => FileType::CharacterDevice,
        FileKind::BlockDevice { .. } => FileType::BlockDevice,
        FileKind::Fifo => FileType::Fifo,
        FileKind::Socket => FileType::Socket,
    }
}

fn timespec(time: FileTime) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() }
}

#[cfg(test)]
mod tests;

//! Answers the kernel's requests.
//!
//! Promise: a read that fails is EIO, noted with its cause, and never other bytes. Nothing outside of devices that may be
//! written can be changed. Memory: what is being read, and the names of folders that are open.
//! Knows nothing of mounting.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use disk::files::{Attribute, FileId, FileInfo, FileKind, Files, FilesError};
use disk::{Extent, WriteAt};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use crate::failures::Ledger;
use crate::files::{Numbers, attributes, file_type};
use crate::nodes::{Device, Kind, Node, Nodes};

/// The longest request: what one answer copies, and some sixteen chunks to decode at once.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Requests of readers ahead that the kernel keeps waiting: enough for all threads, not so many that nobody else is heard.
const BACKGROUND_MAX: u16 = 64;

/// Names of a folder: a hostile one could have more than there is memory for. Real ones have a million at most.
const NAMES_MAX: usize = 1 << 22;

/// Nothing ever changes but the bytes of writable devices, for which the kernel asks each time.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// linux include/uapi/linux/falloc.h.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// linux include/uapi/linux/fs.h.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// One mount's answers.
pub(crate) struct Server {
    nodes: Nodes,
    numbers: Numbers,
    ledger: Arc<Ledger>,
    folders: Mutex<HashMap<u64, Arc<Vec<Name>>>>,
    next_folder: AtomicU64,
}

/// A name in an open folder.
struct Name {
    name: OsString,
    ino: INodeNo,
    /// Known without asking.
    kind: Option<FileType>,
}

/// What a number stands for.
enum Item<'a> {
    Node(&'a Node),
    File { volume: usize, files: Arc<dyn Files>, file: FileId },
}

impl Server {
    pub(crate) fn new(nodes: Nodes, ledger: Arc<Ledger>) -> Server {
        Server {
            nodes,
            numbers: Numbers::default(),
            ledger,
            folders: Mutex::default(),
            next_folder: AtomicU64::new(0),
        }
    }

    /// Notes what went wrong, and gives what other programs see of it.
    fn failed(&self, place: &str, error: &dyn Error) -> Errno {
        self.ledger.note(place, error);
        Errno::EIO
    }

    fn failed_files(&self, place: &str, error: &FilesError) -> Errno {
        match error {
            FilesError::NotFound { .. } => Errno::ENOENT,
            FilesError::WrongKind { expected: "a folder", .. } => Errno::ENOTDIR,
            FilesError::WrongKind { .. } => Errno::EINVAL,
            // Not a failure of the store.
            FilesError::Unsupported { .. } => Errno::EOPNOTSUPP,
            error => self.failed(place, error),
        }
    }

    fn failed_write(&self, place: &str, error: &disk::Error) -> Errno {
        match error {
            disk::Error::OutOfRange { .. } => Errno::ENOSPC,
            disk::Error::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                self.failed(place, error);
                Errno::ENOSPC
            }
            error => self.failed(place, error),
        }
    }

    fn node(&self, ino: INodeNo) -> Option<(usize, &Node)> {
        let index = usize::try_from(ino.0).ok()?.checked_sub(1)?;
        Some((index, self.nodes.get(index)?))
    }

    /// The files of a volume; no such file when nobody can read them.
    fn files(&self, volume: usize) -> Result<Arc<dyn Files>, Errno> {
        match self.nodes.get(volume).map(|node| (&node.path, &node.kind)) {
            Some((path, Kind::Files(open))) => {
                open().map_err(|e| self.failed_files(path, &e))?.ok_or(Errno::ENOENT)
            }
            _ => Err(Errno::ENOENT),
        }
    }

    fn item(&self, ino: INodeNo) -> Result<Item<'_>, Errno> {
        match self.node(ino) {
            Some((volume, Node { kind: Kind::Files(_), .. })) => {
                let files = self.files(volume)?;
                let file = files.root();
                Ok(Item::File { volume, files, file })
            }
            Some((_, node)) => Ok(Item::Node(node)),
            None => {
                let (volume, file) = self.numbers.place(ino).ok_or(Errno::ENOENT)?;
                Ok(Item::File { volume, files: self.files(volume)?, file })
            }
        }
    }

    fn path(&self, volume: usize) -> &str {
        self.nodes.get(volume).map_or("", |node| &node.path)
    }

    fn info(&self, volume: usize, files: &dyn Files, file: FileId) -> Result<FileInfo, Errno> {
        files.info(file).map_err(|e| self.failed_files(self.path(volume), &e))
    }

    fn attr(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        match self.item(ino)? {
            Item::Node(node) => Ok(attributes_of_node(ino, node)),
            Item::File { volume, files, file } => Ok(attributes(ino, &self.info(volume, &*files, file)?)),
        }
    }

    fn number(&self, volume: usize, file: FileId) -> Result<INodeNo, Errno> {
        self.numbers.number((volume, file)).ok_or(Errno::EOVERFLOW)
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        match self.item(parent)? {
            Item::Node(node) => self.attr(ino_of(node.find(name).ok_or(Errno::ENOENT)?)),
            Item::File { volume, files, file } => {
                let found = files.find(file, name.as_bytes());
                let found = found.map_err(|e| self.failed_files(self.path(volume), &e))?;
                let found = found.ok_or(Errno::ENOENT)?;
                Ok(attributes(self.number(volume, found)?, &self.info(volume, &*files, found)?))
            }
        }
    }

    fn link(&self, ino: INodeNo) -> Result<Vec<u8>, Errno> {
        match self.item(ino)? {
            Item::Node(Node { kind: Kind::Link(target), .. }) => Ok(target.as_bytes().to_vec()),
            Item::Node(_) => Err(Errno::EINVAL),
            Item::File { volume, files, file } => match self.info(volume, &*files, file)?.kind {
                FileKind::Link { target } => Ok(target),
                _ => Err(Errno::EINVAL),
            },
        }
    }

    fn names(&self, ino: INodeNo) -> Result<Vec<Name>, Errno> {
        let dots = [".", ".."].map(|name| Name { name: name.into(), ino, kind: Some(FileType::Directory) });
        let mut names = Vec::from(dots);
        match self.item(ino)? {
            Item::Node(Node { kind: Kind::Folder(children), .. }) => {
                for (name, index) in children {
                    names.extend(self.name_of_node(name, *index));
                }
            }
            Item::Node(_) => return Err(Errno::ENOTDIR),
            Item::File { volume, files, file } => self.names_of_files(volume, &*files, file, &mut names)?,
        }
        Ok(names)
    }

    /// A volume that nobody can read has no folder; one that is damaged has, and says so when it is looked into.
    fn name_of_node(&self, name: &OsStr, index: usize) -> Option<Name> {
        let node = self.nodes.get(index)?;
        if let Kind::Files(open) = &node.kind
            && matches!(open(), Ok(None))
        {
            return None;
        }
        Some(Name { name: name.to_owned(), ino: ino_of(index), kind: Some(type_of_node(node)) })
    }

    fn names_of_files(
        &self,
        volume: usize,
        files: &dyn Files,
        folder: FileId,
        names: &mut Vec<Name>,
    ) -> Result<(), Errno> {
        let mut result = Ok(());
        let listed = files.list(folder, &mut |entry| {
            if names.len() >= NAMES_MAX {
                result = Err(Errno::EOVERFLOW);
            } else {
                match self.number(volume, entry.file) {
                    Ok(ino) => names.push(Name { name: OsString::from_vec(entry.name), ino, kind: None }),
                    Err(errno) => result = Err(errno),
                }
            }
            result.is_ok()
        });
        listed.map_err(|e| self.failed_files(self.path(volume), &e))?;
        result
    }

    fn device(&self, ino: INodeNo) -> Result<(&str, &Device), Errno> {
        match self.node(ino) {
            Some((_, Node { path, kind: Kind::Device(device), .. })) => Ok((path, device)),
            _ => Err(Errno::EBADF),
        }
    }

    fn writer(&self, ino: INodeNo) -> Result<(&str, &Device, &dyn WriteAt), Errno> {
        let (path, device) = self.device(ino)?;
        Ok((path, device, device.writer.as_deref().ok_or(Errno::EROFS)?))
    }

    fn bytes(&self, ino: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let size = u64::from(size.min(REQUEST_BYTES_MAX));
        match self.item(ino)? {
            Item::Node(Node { path, kind: Kind::Device(device), .. }) => {
                let there = device.size_bytes.saturating_sub(offset).min(size);
                let mut buf = zeros(there);
                let opened = (device.open)();
                let read = opened.and_then(|reader| reader.read_exact_at(offset, &mut buf));
                read.map_err(|e| self.failed(path, &e))?;
                Ok(buf)
            }
            Item::Node(_) => Err(Errno::EISDIR),
            Item::File { volume, files, file } => {
                let mut buf = zeros(size);
                let mut filled = 0;
                while filled < buf.len() {
                    let at = offset.saturating_add(filled as u64);
                    let count = files.read(file, at, &mut buf[filled..]);
                    match count.map_err(|e| self.failed_files(self.path(volume), &e))? {
                        0 => break,
                        count => filled += count,
                    }
                }
                buf.truncate(filled);
                Ok(buf)
            }
        }
    }

    fn zero(&self, ino: INodeNo, extent: Extent, mode: i32) -> Result<(), Errno> {
        let (path, device, writer) = self.writer(ino)?;
        let keeps = mode & KEEP_SIZE != 0;
        let is_inside = extent.offset.checked_add(extent.bytes).is_some_and(|end| end <= device.size_bytes);
        match mode & !KEEP_SIZE {
            0 | ZERO_RANGE if !is_inside && !keeps => Err(Errno::EFBIG),
            // There is space for all of it, as far as anyone knows.
            0 => Ok(()),
            PUNCH_HOLE | ZERO_RANGE => {
                let bytes = extent.end().min(device.size_bytes).saturating_sub(extent.offset);
                let zeroed = writer.write_zeros_at(Extent { offset: extent.offset, bytes });
                zeroed.map_err(|e| self.failed_write(path, &e))
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Where the next data is, and where the file ends.
    fn next_data(&self, ino: INodeNo, offset: u64) -> Result<(Option<Extent>, u64), Errno> {
        match self.item(ino)? {
            Item::Node(Node { path, kind: Kind::Device(device), .. }) => {
                let next = (device.open)().and_then(|reader| reader.next_data(offset));
                Ok((next.map_err(|e| self.failed(path, &e))?, device.size_bytes))
            }
            Item::Node(_) => Err(Errno::EINVAL),
            Item::File { volume, files, file } => {
                let bytes = self.info(volume, &*files, file)?.bytes;
                let next = files.next_data(file, offset);
                Ok((next.map_err(|e| self.failed_files(self.path(volume), &e))?, bytes))
            }
        }
    }

    fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Result<i64, Errno> {
        let mut at = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let (mut next, end) = self.next_data(ino, at)?;
        if at >= end {
            return Err(Errno::ENXIO);
        }
        let found = match whence {
            SEEK_DATA => next.ok_or(Errno::ENXIO)?.offset,
            SEEK_HOLE => {
                while let Some(data) = next.filter(|data| data.offset <= at && at < end) {
                    at = data.end();
                    next = self.next_data(ino, at)?.0;
                }
                at.min(end)
            }
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }

    fn extended(&self, ino: INodeNo) -> Result<Vec<Attribute>, Errno> {
        match self.item(ino)? {
            Item::Node(_) => Ok(Vec::new()),
            Item::File { volume, files, file } => {
                files.attributes(file).map_err(|e| self.failed_files(self.path(volume), &e))
            }
        }
    }

    fn open_folder(&self, ino: INodeNo) -> Result<FileHandle, Errno> {
        let names = Arc::new(self.names(ino)?);
        let handle = self.next_folder.fetch_add(1, Ordering::Relaxed);
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).insert(handle, names);
        Ok(FileHandle(handle))
    }

    fn open_names(&self, handle: FileHandle) -> Result<Arc<Vec<Name>>, Errno> {
        let folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    /// What kind of file a name leads to: what can't be read is told when it is asked for itself.
    fn kind_of(&self, name: &Name) -> FileType {
        name.kind.unwrap_or_else(|| match self.item(name.ino) {
            Ok(Item::File { files, file, .. }) => {
                files.info(file).map_or(FileType::RegularFile, |info| file_type(&info.kind))
            }
            _ => FileType::RegularFile,
        })
    }

    fn open_file(&self, ino: INodeNo, flags: OpenFlags) -> Result<FopenFlags, Errno> {
        let writer = self.device(ino).ok().and_then(|(_, device)| device.writer.as_ref());
        match (writer, flags.acc_mode()) {
            (None, OpenAccMode::O_RDONLY) => Ok(FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            (None, _) => Err(Errno::EROFS),
            // What the device holds may have been changed from behind since the last one closed it.
            (Some(_), _) => Ok(FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES),
        }
    }
}

fn ino_of(index: usize) -> INodeNo {
    INodeNo(index as u64 + 1)
}

fn zeros(bytes: u64) -> Vec<u8> {
    // At most REQUEST_BYTES_MAX.
    vec![0; usize::try_from(bytes).unwrap_or(0)]
}

fn type_of_node(node: &Node) -> FileType {
    match node.kind {
        Kind::Folder(_) | Kind::Files(_) => FileType::Directory,
        Kind::Link(_) => FileType::Symlink,
        Kind::Device(_) => FileType::RegularFile,
    }
}

fn attributes_of_node(ino: INodeNo, node: &Node) -> FileAttr {
    let (size, perm) = match &node.kind {
        Kind::Folder(_) | Kind::Files(_) => (0, 0o555),
        Kind::Link(target) => (target.len() as u64, 0o777),
        Kind::Device(device) if device.writer.is_some() => (device.size_bytes, 0o600),
        // Whoever reads the disk reads everybody's files.
        Kind::Device(device) => (device.size_bytes, 0o400),
    };
    FileAttr {
        ino,
        size,
        // One less than there are: programs ask for holes only where a file cannot be full.
        blocks: (size / 512).saturating_sub(1),
        atime: node.modified,
        mtime: node.modified,
        ctime: node.modified,
        crtime: node.modified,
        kind: type_of_node(node),
        perm,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Answers a question about an attribute: its length, or itself when it fits.
fn reply_bytes(bytes: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(bytes.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

fn reply_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each is a wish: what this kernel does not have it goes without.
        config.set_max_write(REQUEST_BYTES_MAX).ok();
        config.set_max_background(BACKGROUND_MAX).ok();
        for wish in
            [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_CACHE_SYMLINKS]
        {
            config.add_capabilities(wish).ok();
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attr) => reply.entry(&FOR_EVER, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Ok(attr) => reply.attr(&FOR_EVER, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    /// Times may be set, and nobody remembers them; sizes and owners stay.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let attr = self.writer(ino).and_then(|_| self.attr(ino)).and_then(|attr| {
            let stays = mode.is_none() && uid.is_none() && gid.is_none();
            (stays && size.is_none_or(|size| size == attr.size)).then_some(attr).ok_or(Errno::EPERM)
        });
        match attr {
            Ok(attr) => reply.attr(&FOR_EVER, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.link(ino) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_file(ino, flags) {
            Ok(how) => reply.opened(FileHandle(0), how),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.bytes(ino, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.writer(ino).and_then(|(path, _, writer)| {
            writer.write_all_at(offset, data).map_err(|e| self.failed_write(path, &e))
        });
        match written {
            // No longer than a request.
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = match self.writer(ino) {
            Ok((path, _, writer)) => writer.sync().map_err(|e| self.failed(path, &e)),
            // Nothing was written.
            Err(_) => Ok(()),
        };
        reply_empty(synced, reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        reply_empty(self.zero(ino, Extent { offset, bytes: length }, mode), reply);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(ino, offset, whence) {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_folder(ino) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let names = match self.open_names(handle) {
            Ok(names) => names,
            Err(errno) => return reply.error(errno),
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, name) in (offset.saturating_add(1)..).zip(names.iter().skip(skip)) {
            if reply.add(name.ino, next, self.kind_of(name), &name.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let sizes = (0..self.nodes.len()).filter_map(|index| match &self.nodes.get(index)?.kind {
            Kind::Device(device) => Some(device.size_bytes),
            _ => None,
        });
        let blocks = sizes.fold(0u64, u64::saturating_add).div_ceil(4096);
        reply.statfs(blocks, 0, 0, self.nodes.len() as u64, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let found = self
            .extended(ino)
            .and_then(|all| all.into_iter().find(|(it, _)| it == name.as_bytes()).ok_or(Errno::NO_XATTR));
        match found {
            Ok((_, value)) => reply_bytes(&value, size, reply),
            Err(errno) => reply.error(errno),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.extended(ino) {
            Ok(all) => {
                let names: Vec<u8> = all.into_iter().flat_map(|(name, _)| [name, vec![0]].concat()).collect();
                reply_bytes(&names, size, reply);
            }
            Err(errno) => reply.error(errno),
        }
    }
}

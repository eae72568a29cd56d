//! Two views of one tree: ours, and that of a mount.
//!
//! Promise: every name, every field that both have, every attribute, every byte of files (of sparse ones, of what either
//! calls data), odd pieces of them, and what lies at the places that we name.
//! Knows nothing of how it was made.
#![allow(clippy::cast_possible_truncation)] // lengths of pieces

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::files::{FileId, FileInfo, FileKind, FileTime, Files, files};
use disk::{Device, ReadAt};

const STEP: usize = 1 << 20;
/// Longer files are compared where either side says that there is data.
const WHOLE_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn reader(image: &Path, kind: &str) -> Box<dyn Files> {
    files(volume(image), kind).unwrap_or_else(|error| panic!("{kind}: {error}: {error:?}")).unwrap()
}

pub(crate) fn volume(image: &Path) -> Arc<dyn ReadAt> {
    Arc::new(Device::open_buffered(image).unwrap())
}

/// How many files were the same in all.
pub(crate) fn compare(image: &Path, kind: &str, mount: &Path, what: &str) -> usize {
    let reader = reader(image, kind);
    let mut compared =
        Compared { reader: &*reader, raw: File::open(image).unwrap(), what, files: 0, ids: HashMap::new() };
    compared.file(reader.root(), mount);
    compared.folder(reader.root(), mount);
    compared.files
}

struct Compared<'a> {
    reader: &'a dyn Files,
    raw: File,
    what: &'a str,
    files: usize,
    /// The kernel's device and inode numbers, and ours: names of one file lead to one file.
    ids: HashMap<(u64, u64), FileId>,
}

impl Compared<'_> {
    fn folder(&mut self, id: FileId, path: &Path) {
        let what = format!("{}: {}", self.what, path.display());
        let mut ours = BTreeMap::new();
        self.reader
            .list(id, &mut |entry| {
                assert!(ours.insert(entry.name, entry.file).is_none(), "{what}: twice");
                true
            })
            .unwrap_or_else(|error| panic!("{what}: {error}: {error:?}"));
        let mut theirs: Vec<Vec<u8>> =
            std::fs::read_dir(path).unwrap().map(|it| it.unwrap().file_name().as_bytes().to_vec()).collect();
        theirs.sort();
        let names: Vec<Vec<u8>> = ours.keys().cloned().collect();
        assert!(names == theirs, "{what}: {} names, the kernel has {}", names.len(), theirs.len());
        for absent in [&b"not there"[..], b".", b"..", b"x"] {
            let expected = ours.get(absent).copied();
            assert_eq!(self.reader.find(id, absent).unwrap(), expected, "{what}: {absent:?}");
        }
        for (name, file) in ours {
            let found = self.reader.find(id, &name).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(found, Some(file), "{what}: {:?}", String::from_utf8_lossy(&name));
            let below = path.join(OsStr::from_bytes(&name));
            if self.file(file, &below) {
                self.folder(file, &below);
            }
        }
    }

    /// Whether it is a folder.
    fn file(&mut self, id: FileId, path: &Path) -> bool {
        let what = format!("{}: {}", self.what, path.display());
        let theirs = path.symlink_metadata().unwrap();
        let ours = self.reader.info(id).unwrap_or_else(|error| panic!("{what}: {error}: {error:?}"));
        let placeholder = theirs.is_dir() && theirs.ino() == 2;
        if !placeholder {
            assert_same_info(&ours, &theirs, path, &what);
            let number = if self.what.starts_with("xfs") { u64::MAX } else { (1 << 48) - 1 };
            assert_eq!(id.0 & number, theirs.ino(), "{what}");
            let known = *self.ids.entry((theirs.dev(), theirs.ino())).or_insert(id);
            assert_eq!(known, id, "{what}");
        }
        let mut attributes = self.reader.attributes(id).unwrap_or_else(|error| panic!("{what}: {error}"));
        attributes.sort();
        assert!(attributes == their_attributes(path), "{what}: attributes {attributes:?}");
        if theirs.is_file() {
            self.contents(id, path, theirs.len(), &what);
        }
        self.files += 1;
        theirs.is_dir()
    }

    fn contents(&self, id: FileId, path: &Path, bytes: u64, what: &str) {
        let file = File::open(path).unwrap();
        let data = self.our_data(id, bytes, what);
        let mut spans = data.clone();
        match bytes > WHOLE_BYTES_MAX {
            true => spans.extend(their_data(&file, bytes)),
            false => spans.push((0, bytes)),
        }
        for (mut at, end) in spans {
            while at < end {
                let len = (end - at).min(STEP as u64) as usize;
                self.same(id, &file, at, len, what);
                at += len as u64;
            }
        }
        for (at, len) in
            [(1, 1), (511, 4099), (bytes / 2 + 3, 70_001), (bytes.saturating_sub(5), 9), (bytes, 4)]
        {
            self.same(id, &file, at, len, what);
        }
        self.places(id, &file, what);
    }

    /// What we call data; what is behind and between must be zeros, which whole files show.
    fn our_data(&self, id: FileId, bytes: u64, what: &str) -> Vec<(u64, u64)> {
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(extent) = self.reader.next_data(id, at).unwrap() {
            assert!(extent.offset >= at && extent.bytes > 0 && extent.end() <= bytes, "{what}: {extent:?}");
            found.push((extent.offset, extent.end()));
            at = extent.end();
        }
        if bytes <= WHOLE_BYTES_MAX {
            let mut whole = vec![0; bytes as usize];
            assert_eq!(self.reader.read(id, 0, &mut whole).unwrap(), whole.len(), "{what}");
            for (from, to) in &found {
                whole[*from as usize..*to as usize].fill(0);
            }
            assert!(whole.iter().all(|byte| *byte == 0), "{what}: data in what we call a hole");
        }
        found
    }

    fn same(&self, id: FileId, file: &File, at: u64, len: usize, what: &str) {
        let (mut ours, mut theirs) = (vec![0xaa; len], vec![0; len]);
        let count =
            self.reader.read(id, at, &mut ours).unwrap_or_else(|e| panic!("{what}: {at}: {e}: {e:?}"));
        let mut expected = 0;
        loop {
            match file.read_at(&mut theirs[expected..], at + expected as u64).unwrap() {
                0 => break,
                more => expected += more,
            }
        }
        assert_eq!(count, expected, "{what}: {len} bytes at {at}");
        assert!(ours[..count] == theirs[..count], "{what}: other bytes in {len} at {at}");
    }

    fn places(&self, id: FileId, file: &File, what: &str) {
        for (extent, place) in self.reader.places(id).unwrap().into_iter().take(50) {
            let len = extent.bytes.min(8192) as usize;
            let (mut ours, mut theirs) = (vec![0; len], vec![0; len]);
            self.raw.read_exact_at(&mut ours, place).unwrap();
            file.read_exact_at(&mut theirs, extent.offset).unwrap();
            assert!(ours == theirs, "{what}: its bytes at {} are not at {place:#x}", extent.offset);
        }
    }
}

fn assert_same_info(ours: &FileInfo, theirs: &Metadata, path: &Path, what: &str) {
    let time = |seconds, nanos: i64| FileTime { seconds, nanos: u32::try_from(nanos).unwrap() };
    let kind = theirs.file_type();
    // As glibc splits it.
    let device = (rustix::fs::major(theirs.rdev()), rustix::fs::minor(theirs.rdev()));
    let expected = match () {
        () if kind.is_file() => FileKind::Regular,
        () if kind.is_dir() => FileKind::Folder,
        () if kind.is_fifo() => FileKind::Fifo,
        () if kind.is_socket() => FileKind::Socket,
        () if kind.is_char_device() => FileKind::CharDevice { major: device.0, minor: device.1 },
        () if kind.is_block_device() => FileKind::BlockDevice { major: device.0, minor: device.1 },
        () => FileKind::Link { target: std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec() },
    };
    assert_eq!(ours.kind, expected, "{what}");
    let bytes = if kind.is_file() || kind.is_symlink() { theirs.len() } else { 0 };
    let numbers = (ours.bytes, ours.mode, ours.uid, ours.gid, u64::from(ours.links));
    let expected = (bytes, theirs.mode() & 0o7777, theirs.uid(), theirs.gid(), theirs.nlink());
    assert_eq!(numbers, expected, "{what}: bytes, mode, owner, group, links");
    assert_eq!(ours.modified, time(theirs.mtime(), theirs.mtime_nsec()), "{what}");
    assert_eq!(ours.accessed, Some(time(theirs.atime(), theirs.atime_nsec())), "{what}");
    assert_eq!(ours.changed, Some(time(theirs.ctime(), theirs.ctime_nsec())), "{what}");
    let born = theirs.created().ok().map(|it| {
        let since = it.duration_since(std::time::UNIX_EPOCH).unwrap();
        time(i64::try_from(since.as_secs()).unwrap(), since.subsec_nanos().into())
    });
    assert_eq!(ours.created, born, "{what}");
}

/// All but the forms that XFS keeps ACLs in, which it shows beside those that everybody reads.
fn their_attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 1 << 20];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found = Vec::new();
    for name in names.filter(|name| !name.starts_with(b"trusted.SGI_ACL_")) {
        let mut value = vec![0; 1 << 17];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        found.push((name.to_vec(), value));
    }
    found.sort();
    found
}

fn their_data(file: &File, bytes: u64) -> Vec<(u64, u64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes {
        let Ok(from) = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) else { break };
        let to = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(from)).unwrap();
        found.push((from, to));
        at = to;
    }
    found
}

/// A tree, with all that we say of it: for comparing an image with a damaged copy of it.
pub(crate) type Told = BTreeMap<PathBuf, Result<String, String>>;

/// Goes on after errors; stops at `most` files, for what is hostile may have no end.
pub(crate) fn told(reader: &dyn Files, with_contents: bool, most: usize) -> Told {
    let mut told = Told::new();
    let mut open = vec![(PathBuf::from("/"), reader.root())];
    while let Some((path, id)) = open.pop() {
        if told.len() >= most {
            break;
        }
        let mut said = Ok(String::new());
        let info = reader.info(id);
        let is_folder = info.as_ref().is_ok_and(|info| info.kind == FileKind::Folder);
        let is_file = info.as_ref().is_ok_and(|info| info.kind == FileKind::Regular);
        let bytes = info.as_ref().map_or(0, |info| info.bytes);
        add(&mut said, info.map(|info| format!("{info:?}")));
        add(&mut said, reader.attributes(id).map(|it| hash(format!("{it:?}").as_bytes()).to_string()));
        if is_file {
            add(&mut said, reader.places(id).map(|it| format!("{it:?}")));
            add(&mut said, reader.next_data(id, 7).map(|it| format!("{it:?}")));
            let mut bytes = vec![0; bytes.min(1 << 20) as usize];
            let read = reader.read(id, 0, &mut bytes).map(|count| hash(&bytes[..count]).to_string());
            if with_contents {
                add(&mut said, read);
            }
        }
        if is_folder && path.as_os_str().len() < 2000 {
            let mut names = Vec::new();
            let listed = reader.list(id, &mut |entry| {
                names.push(entry);
                names.len() < most
            });
            add(&mut said, listed.map(|()| format!("{names:?}")));
            for entry in names {
                if let Ok(Some(found)) = reader.find(id, &entry.name) {
                    open.push((path.join(OsStr::from_bytes(&entry.name)), found));
                }
            }
        }
        told.insert(path, said);
    }
    told
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn add<E: std::fmt::Display>(said: &mut Result<String, String>, more: Result<String, E>) {
    match (&mut *said, more) {
        (Ok(text), Ok(more)) => text.push_str(&more),
        (Ok(_), Err(error)) => *said = Err(error.to_string()),
        (Err(_), _) => {}
    }
}

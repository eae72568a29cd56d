//! What is in a tree: as a driver shows it, and as we read it.
//!
//! Promise: two equal trees have the same names, contents and, as far as a [`Judge`] looks, metadata.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use disk::files::{FileId, FileInfo, FileKind, Files, files};
use disk::{Device, probe};

/// What is compared besides kinds, names, sizes, contents and targets.
#[derive(Clone, Copy)]
pub(crate) struct Judge {
    pub(crate) owners: bool,
    pub(crate) links: bool,
    pub(crate) attributes: bool,
    /// Nanoseconds that are kept; 0: times are not compared.
    pub(crate) time_step: i128,
}

/// All that a full filesystem keeps.
pub(crate) const ALL: Judge = Judge { owners: true, links: true, attributes: true, time_step: 1 };

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: String,
    bytes: u64,
    contents: u64,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    links: Option<u32>,
    modified: Option<i128>,
    attributes: Vec<(String, Vec<u8>)>,
}

pub(crate) type Tree = BTreeMap<String, Seen>;

/// The reader of an image that is one volume.
pub(crate) fn open(image: &Path) -> Box<dyn Files> {
    let device = Device::open_buffered(image).unwrap();
    let whole = disk::Extent { offset: 0, bytes: disk::ReadAt::size_bytes(&device) };
    let content = probe(&device, whole).unwrap();
    files(Arc::new(device), &content.kind).unwrap().expect("a reader")
}

/// Fails with the first difference.
#[track_caller]
pub(crate) fn assert_same(ours: &Tree, theirs: &Tree, what: &str) {
    for (path, theirs) in theirs {
        assert_eq!(ours.get(path), Some(theirs), "{what}: {path:?} (ours, the driver's)");
    }
    for path in ours.keys() {
        assert!(theirs.contains_key(path), "{what}: {path:?}: only we see it");
    }
    assert!(theirs.len() > 3, "{what}: nothing to compare");
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn printable(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

// --- the driver's view ---

pub(crate) fn theirs(folder: &Path, judge: Judge) -> Tree {
    let mut tree = Tree::new();
    walk_theirs(folder, "", judge, &mut tree);
    tree
}

fn walk_theirs(folder: &Path, prefix: &str, judge: Judge, tree: &mut Tree) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}/{}", printable(entry.file_name().as_bytes()));
        let path = entry.path();
        let meta = path.symlink_metadata().unwrap();
        tree.insert(name.clone(), seen_by_driver(&path, &meta, judge));
        if meta.is_dir() {
            walk_theirs(&path, &name, judge, tree);
        }
    }
}

fn seen_by_driver(path: &Path, meta: &std::fs::Metadata, judge: Judge) -> Seen {
    let kind = meta.file_type();
    let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let (kind, bytes, contents) = match () {
        () if kind.is_file() => ("file".to_owned(), meta.len(), hash(&std::fs::read(path).unwrap())),
        () if kind.is_dir() => ("folder".to_owned(), 0, 0),
        () if kind.is_symlink() => {
            let target = std::fs::read_link(path).unwrap();
            (format!("link {}", printable(target.as_os_str().as_bytes())), meta.len(), 0)
        }
        () if kind.is_char_device() => (format!("char {device:?}"), 0, 0),
        () if kind.is_block_device() => (format!("block {device:?}"), 0, 0),
        () if kind.is_fifo() => ("fifo".to_owned(), 0, 0),
        () => ("socket".to_owned(), 0, 0),
    };
    let nanos = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Seen {
        kind,
        bytes,
        contents,
        mode: judge.owners.then_some(meta.mode() & 0o7777),
        owner: judge.owners.then_some((meta.uid(), meta.gid())),
        links: judge.links.then(|| u32::try_from(meta.nlink()).unwrap()),
        modified: rounded(nanos, judge),
        attributes: if judge.attributes { attributes(path) } else { Vec::new() },
    }
}

fn rounded(nanos: i128, judge: Judge) -> Option<i128> {
    (judge.time_step > 0).then(|| nanos.div_euclid(judge.time_step))
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let count = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(count);
            (printable(name), value)
        })
        .collect();
    found.sort();
    found
}

// --- ours ---

pub(crate) fn ours(files: &dyn Files, judge: Judge) -> Tree {
    let mut tree = Tree::new();
    walk_ours(files, files.root(), "", judge, &mut tree);
    tree
}

fn walk_ours(files: &dyn Files, folder: FileId, prefix: &str, judge: Judge, tree: &mut Tree) {
    let mut entries = Vec::new();
    files
        .list(folder, &mut |entry| {
            entries.push(entry);
            true
        })
        .unwrap();
    for (number, entry) in entries.into_iter().enumerate() {
        let name = format!("{prefix}/{}", printable(&entry.name));
        let info = files.info(entry.file).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        // Each lookup reads the folder: some are enough.
        if number % 50 == 0 {
            assert_eq!(files.find(folder, &entry.name).unwrap(), Some(entry.file), "{name}");
        }
        let seen =
            seen_by_us(files, entry.file, &info, judge).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert!(tree.insert(name.clone(), seen).is_none(), "{name}: twice");
        if info.kind == FileKind::Folder {
            walk_ours(files, entry.file, &name, judge, tree);
        }
    }
}

fn seen_by_us(
    files: &dyn Files,
    file: FileId,
    info: &FileInfo,
    judge: Judge,
) -> Result<Seen, disk::files::FilesError> {
    let (kind, bytes, contents) = match &info.kind {
        FileKind::Regular => ("file".to_owned(), info.bytes, hash(&contents(files, file, info.bytes)?)),
        FileKind::Folder => ("folder".to_owned(), 0, 0),
        FileKind::Link { target } => (format!("link {}", printable(target)), info.bytes, 0),
        FileKind::CharDevice { major, minor } => (format!("char {:?}", (major, minor)), 0, 0),
        FileKind::BlockDevice { major, minor } => (format!("block {:?}", (major, minor)), 0, 0),
        FileKind::Fifo => ("fifo".to_owned(), 0, 0),
        FileKind::Socket => ("socket".to_owned(), 0, 0),
    };
    let mut attributes: Vec<(String, Vec<u8>)> = match judge.attributes {
        true => files.attributes(file)?.into_iter().map(|(name, value)| (printable(&name), value)).collect(),
        false => Vec::new(),
    };
    attributes.sort();
    let nanos = i128::from(info.modified.seconds) * 1_000_000_000 + i128::from(info.modified.nanos);
    Ok(Seen {
        kind,
        bytes,
        contents,
        mode: judge.owners.then_some(info.mode),
        owner: judge.owners.then_some((info.uid, info.gid)),
        links: judge.links.then_some(info.links),
        modified: rounded(nanos, judge),
        attributes,
    })
}

/// Read in odd steps, and once more by what is said to be no hole and by single looks: all must agree.
fn contents(files: &dyn Files, file: FileId, bytes: u64) -> Result<Vec<u8>, disk::files::FilesError> {
    const STEP: usize = 100_003;
    let mut found = Vec::new();
    loop {
        let mut buf = vec![0xaa; STEP];
        let count = files.read(file, found.len() as u64, &mut buf)?;
        found.extend_from_slice(&buf[..count]);
        if count < STEP {
            break;
        }
    }
    assert_eq!(found.len() as u64, bytes);
    let mut sparse = vec![0; found.len()];
    let mut at = 0;
    while let Some(data) = files.next_data(file, at)? {
        assert!(data.bytes > 0 && data.offset >= at && data.end() <= bytes, "{data:?} of {bytes} at {at}");
        let part = &mut sparse[data.offset as usize..data.end() as usize];
        assert_eq!(files.read(file, data.offset, part)?, part.len());
        at = data.end();
    }
    assert!(found == sparse, "holes are not where they are said to be");
    for at in [0, 1, 511, 4095, 65_537, bytes / 2, bytes.saturating_sub(1), bytes, bytes + 5] {
        let mut byte = [0];
        let count = files.read(file, at, &mut byte)?;
        assert_eq!(&byte[..count], found.get(at as usize..).unwrap_or_default().get(..1).unwrap_or_default());
    }
    Ok(found)
}

/// That the places of a file hold its contents.
pub(crate) fn assert_places(files: &dyn Files, image: &Path, names: &[&[u8]]) {
    let image = std::fs::read(image).unwrap();
    for name in names {
        let file = files.find(files.root(), name).unwrap().expect("a file");
        let places = files.places(file).unwrap();
        assert!(!places.is_empty(), "{}", printable(name));
        for (extent, at) in places {
            let mut buf = vec![0; extent.bytes as usize];
            assert_eq!(files.read(file, extent.offset, &mut buf).unwrap(), buf.len());
            assert!(image[at as usize..][..buf.len()] == buf[..], "{}: {extent:?} at {at}", printable(name));
        }
    }
}

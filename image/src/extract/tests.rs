//! Trees that nobody made in good faith, and trees that somebody did.

#![allow(clippy::cast_possible_truncation)] // contents fit into memory

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use disk::Extent;
use disk::files::{Attribute, FolderEntry};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// A tree in memory, as hostile as a test likes.
#[derive(Default)]
struct Double {
    infos: BTreeMap<u64, FileInfo>,
    folders: BTreeMap<u64, Vec<(Vec<u8>, u64)>>,
    contents: BTreeMap<u64, Vec<u8>>,
}

fn info(kind: FileKind, bytes: u64) -> FileInfo {
    FileInfo {
        kind,
        bytes,
        mode: 0o640,
        uid: 0,
        gid: 0,
        links: 1,
        modified: FileTime { seconds: 1_700_000_000, nanos: 123_456_789 },
        accessed: None,
        changed: None,
        created: None,
    }
}

impl Double {
    fn new() -> Self {
        let mut double = Self::default();
        double.infos.insert(1, info(FileKind::Folder, 0));
        double
    }

    fn name(&mut self, folder: u64, name: &[u8], file: u64) {
        self.folders.entry(folder).or_default().push((name.to_vec(), file));
    }

    fn add(&mut self, folder: u64, name: &[u8], kind: FileKind) -> u64 {
        let file = self.infos.len() as u64 + 1;
        self.infos.insert(file, info(kind, 0));
        self.name(folder, name, file);
        file
    }

    fn file(&mut self, folder: u64, name: &[u8], contents: &[u8]) -> u64 {
        let file = self.add(folder, name, FileKind::Regular);
        self.infos.get_mut(&file).unwrap().bytes = contents.len() as u64;
        self.contents.insert(file, contents.to_vec());
        file
    }
}

fn damaged(file: FileId) -> FilesError {
    FilesError::Damaged { place: format!("file {}", file.0), what: "made so".to_owned() }
}

impl Files for Double {
    fn root(&self) -> FileId {
        FileId(1)
    }
    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        self.infos.get(&file.0).cloned().ok_or_else(|| damaged(file))
    }
    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        for (name, file) in self.folders.get(&folder.0).into_iter().flatten() {
            if !each(FolderEntry { name: name.clone(), file: FileId(*file) }) {
                break;
            }
        }
        Ok(())
    }
    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        let contents = self.contents.get(&file.0).ok_or_else(|| damaged(file))?;
        let rest = contents.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn next_data(&self, file: FileId, offset: u64) -> Result<Option<Extent>, FilesError> {
        let bytes = self.info(file)?.bytes.saturating_sub(offset);
        Ok((bytes > 0).then_some(Extent { offset, bytes }))
    }
    fn attributes(&self, _: FileId) -> Result<Vec<Attribute>, FilesError> {
        Ok(vec![(b"user.from".to_vec(), b"a double".to_vec())])
    }
}

fn extracted(files: &dyn Files, to: &Path) -> ExtractReport {
    let options = ExtractOptions { privileged: rustix::process::geteuid().is_root() };
    let mut extraction = Extraction::new(files, to, options, &|| false).unwrap();
    extraction.add(files.root(), b"", None).unwrap();
    extraction.finish()
}

/// All that is in a folder but for one, with contents and modes: what nothing may have changed.
fn outside(folder: &Path, but: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if path == but {
            continue;
        }
        let contents = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.push((path.clone(), meta.mode(), contents));
        if meta.is_dir() {
            found.extend(outside(&path, but));
        }
    }
    found.sort();
    found
}

/// A random tree out of all that could lead out of a folder.
fn hostile(seed: u64, away: &Path) -> Double {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut double = Double::new();
    let away = away.to_str().unwrap();
    let names: Vec<Vec<u8>> =
        ["a", "b", "link", "..", ".", "", "/etc", "../../escape", "a/b", "x\0y", "\n", "c:\\d"]
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .chain([away.as_bytes().to_vec(), vec![0xff, 0xfe], vec![b'n'; 256], b"target".to_vec()])
            .collect();
    let targets =
        ["..", "../..", "/", away, "a", "link", ".", "b/../..", "../outside", "/proc/self/cwd", "a/link"];
    let mut folders = vec![1];
    for _ in 0..random.random_range(10..60) {
        let folder = folders[random.random_range(0..folders.len())];
        let name = names[random.random_range(0..names.len())].clone();
        match random.random_range(0..6) {
            0 | 1 => {
                let target = targets[random.random_range(0..targets.len())].as_bytes().to_vec();
                double.add(folder, &name, FileKind::Link { target });
            }
            2 | 3 => folders.push(double.add(folder, &name, FileKind::Folder)),
            // A name that is there already: a folder behind a link, a link over a folder, a folder in itself.
            4 => {
                let file = random.random_range(1..=double.infos.len() as u64);
                double.name(folder, &name, file);
                if let Some(info) = double.infos.get_mut(&file) {
                    info.links = 2;
                    info.mode = 0o4777;
                }
            }
            _ => drop(double.file(folder, &name, b"hostile")),
        }
    }
    double
}

#[test]
fn two_hundred_hostile_trees_leave_what_is_outside_alone() {
    let mut findings = 0;
    for seed in 0..200 {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("to");
        let away = folder.path().join("outside");
        fs::create_dir(&to).unwrap();
        fs::create_dir(&away).unwrap();
        fs::write(away.join("a"), "precious").unwrap();
        fs::write(folder.path().join("target"), "precious").unwrap();
        // What a former extraction, or somebody else, may have left.
        if seed % 3 == 0 {
            symlink(&away, to.join("a")).unwrap();
            symlink("../target", to.join("b")).unwrap();
        }
        let before = outside(folder.path(), &to);
        let report = extracted(&hostile(seed, &away), &to);
        findings += report.findings.len();
        assert_eq!(outside(folder.path(), &to), before, "seed {seed}");
    }
    assert!(findings > 500, "{findings}");
}

#[test]
fn a_folder_in_itself_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut double = Double::new();
    let inner = double.add(1, b"inner", FileKind::Folder);
    double.name(inner, b"again", 1);
    double.name(inner, b"and again", inner);
    let report = extracted(&double, folder.path());
    assert_eq!((report.folders, report.findings.len()), (1, 2));
    let mut deep = Double::new();
    let mut at = 1;
    for _ in 0..400 {
        at = deep.add(at, b"d", FileKind::Folder);
    }
    let report = extracted(&deep, folder.path());
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
}

#[test]
fn what_exists_is_not_overwritten_and_folders_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("both")).unwrap();
    fs::write(folder.path().join("both/mine"), "mine").unwrap();
    let mut double = Double::new();
    let both = double.add(1, b"both", FileKind::Folder);
    double.file(both, b"mine", b"theirs");
    double.file(both, b"new", b"new");
    let report = extracted(&double, folder.path());
    assert!(matches!(report.findings[..], [Finding { what: FindingKind::Exists, .. }]));
    assert_eq!(fs::read(folder.path().join("both/mine")).unwrap(), b"mine");
    assert_eq!(fs::read(folder.path().join("both/new")).unwrap(), b"new");
}

#[test]
fn names_links_modes_and_times_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut double = Double::new();
    let sub = double.add(1, b"sub", FileKind::Folder);
    let one = double.file(1, b"one", b"contents");
    double.name(sub, b"two", one);
    double.infos.get_mut(&one).unwrap().links = 2;
    double.add(1, b"link", FileKind::Link { target: b"/etc/passwd".to_vec() });
    double.add(1, b"pipe", FileKind::Fifo);
    double.name(1, b"lost", 999);
    let gone = double.add(1, b"gone", FileKind::Regular);
    double.infos.get_mut(&gone).unwrap().bytes = 10;
    let report = extracted(&double, folder.path());
    let at = |name: &str| folder.path().join(name);
    let meta = |name: &str| at(name).symlink_metadata().unwrap();
    assert_eq!(meta("one").ino(), meta("sub/two").ino());
    assert_eq!((meta("one").permissions().mode() & 0o7777, meta("one").mtime_nsec()), (0o640, 123_456_789));
    assert_eq!((meta("sub").mtime(), meta("link").mtime()), (1_700_000_000, 1_700_000_000));
    assert_eq!(fs::read_link(at("link")).unwrap().to_str(), Some("/etc/passwd"));
    assert!(!at("gone").exists() && !at("lost").exists());
    let unreadable = |it: &&Finding| matches!(it.what, FindingKind::Unreadable(_));
    assert_eq!(report.findings.iter().filter(unreadable).count(), 2, "{:?}", report.findings);
    let found = rustix::fs::getxattr(at("one"), "user.from", &mut vec![0; 64][..]);
    // tmpfs of old kernels has no such attributes: then it is a finding.
    assert!(found.is_ok() || report.findings.len() > 2);
}

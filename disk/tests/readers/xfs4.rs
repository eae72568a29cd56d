//! XFS without a mount: version 4, which new kernels leave out, and blocks that they may not know. `mkfs.xfs` itself fills
//! these from a list of files, and `xfs_db` adds attributes.
//!
//! Promise: names, kinds, modes, owners, contents, targets and attributes are those of the list.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use disk::files::{FileId, FileKind, Files};

use crate::all;
use crate::compare::reader;
use crate::fill::noise;
use crate::testing::{image, run};

/// What a file should be.
#[derive(Debug, PartialEq)]
struct Expected {
    kind: FileKind,
    mode: u32,
    owner: (u32, u32),
    contents: Vec<u8>,
}

/// The list for mkfs.xfs, and what it means.
struct List<'a> {
    folder: &'a Path,
    text: String,
    expected: BTreeMap<PathBuf, Expected>,
    sources: u64,
}

impl List<'_> {
    fn add(&mut self, at: &Path, kind: FileKind, owner: (u32, u32), contents: Vec<u8>) {
        let name = at.file_name().unwrap().to_str().unwrap();
        let (letter, more) = match &kind {
            FileKind::Folder => ("d--", String::new()),
            FileKind::Regular => {
                let source = self.folder.join(format!("source{}", self.sources));
                self.sources += 1;
                std::fs::write(&source, &contents).unwrap();
                ("-u-", source.display().to_string())
            }
            FileKind::Link { target } => ("l--", String::from_utf8(target.clone()).unwrap()),
            FileKind::CharDevice { major, minor } => ("c--", format!("{major} {minor}")),
            FileKind::BlockDevice { major, minor } => ("b--", format!("{major} {minor}")),
            _ => ("p--", String::new()),
        };
        writeln!(self.text, "{name} {letter}640 {} {} {more}", owner.0, owner.1).unwrap();
        let set_user = if letter == "-u-" { 0o4000 } else { 0 };
        self.expected.insert(at.to_owned(), Expected { kind, mode: 0o640 | set_user, owner, contents });
    }

    fn end(&mut self) {
        self.text.push_str("$\n");
    }
}

/// Makes and fills; what should be there.
fn make(folder: &Path, options: &[&str], mib: u64, names: u64) -> (PathBuf, BTreeMap<PathBuf, Expected>) {
    let text = "/none\n0 0\nd--755 0 0\n".to_owned();
    let mut list = List { folder, text, expected: BTreeMap::new(), sources: 0 };
    let root = Path::new("/");
    for len in [0, 1, 511, 4097, 300_001] {
        let contents = noise(len, usize::try_from(len).unwrap());
        list.add(&root.join(format!("file{len}")), FileKind::Regular, (0, 7), contents);
    }
    // mkfs.xfs 6.1 forgets the headers that version 5 wants of long targets.
    let is_4 = options.contains(&"crc=0");
    for len in [1, 40, 120, 300, 1000].into_iter().filter(|len| is_4 || *len <= 300) {
        let target = "t/".repeat(len).as_bytes()[..len].to_vec();
        list.add(&root.join(format!("link{len}")), FileKind::Link { target }, (3, 4), Vec::new());
    }
    let (major, minor) = (11, 70_000);
    list.add(&root.join("char"), FileKind::CharDevice { major, minor }, (0, 0), Vec::new());
    list.add(&root.join("block"), FileKind::BlockDevice { major, minor }, (0, 0), Vec::new());
    list.add(&root.join("fifo"), FileKind::Fifo, (0, 0), Vec::new());
    for count in [0, 1, 5, 20, 100, 400, names] {
        let at = root.join(format!("folder{count}"));
        list.add(&at, FileKind::Folder, (1000, 4_000_000), Vec::new());
        for number in 0..count {
            let at = at.join(format!("name{}{number}", "x".repeat(usize::try_from(number % 40).unwrap())));
            let kind = if number % 3 == 0 { FileKind::Fifo } else { FileKind::Folder };
            let is_folder = kind == FileKind::Folder;
            list.add(&at, kind, (5, 6), Vec::new());
            if is_folder {
                list.end();
            }
        }
        list.end();
    }
    list.end();
    let path = image(folder, "xfs.img", mib << 20);
    let prototype = folder.join("prototype");
    std::fs::write(&prototype, &list.text).unwrap();
    let mut args = vec!["TEST_DIR=t", "TEST_DEV=t", "QA_CHECK_FS=t", "mkfs.xfs", "-q", "-f"];
    args.extend(options);
    args.extend(["-p", prototype.to_str().unwrap(), path.to_str().unwrap()]);
    run("env", "xfsprogs", &args, "");
    (path, list.expected)
}

/// A small one, for damage.
pub(crate) fn tiny(folder: &Path) -> PathBuf {
    let (path, _) = make(folder, &["-m", "crc=0"], 100, 600);
    let files = reader(&path, "xfs");
    add_attributes(&path, files.find(files.root(), b"file1").unwrap().unwrap(), 200);
    path
}

/// Attributes of many sizes; their values are what xfs_db makes of a length.
fn add_attributes(image: &Path, file: FileId, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut expected = Vec::new();
    let mut commands = vec![format!("inode {}", file.0)];
    for number in 0..count {
        let len = if number % 50 == 49 { number * 20 } else { number % 60 + 1 };
        let (flag, prefix) = [("-u", "user."), ("-r", "trusted."), ("-s", "security.")][number % 3];
        let name = format!("attribute{number}");
        commands.push(format!("attr_set {flag} -v {len} {name}"));
        expected.push(((prefix.to_owned() + &name).into_bytes(), vec![b'v'; len]));
    }
    let mut args = vec!["-x"];
    for command in &commands {
        args.extend(["-c", command]);
    }
    args.push(image.to_str().unwrap());
    run("xfs_db", "xfsprogs", &args, "");
    expected.sort();
    expected
}

fn walk(reader: &dyn Files, folder: FileId, at: &Path, found: &mut BTreeMap<PathBuf, Expected>) {
    let mut names = Vec::new();
    reader
        .list(folder, &mut |entry| {
            names.push(entry);
            true
        })
        .unwrap();
    for entry in names {
        let at = at.join(std::str::from_utf8(&entry.name).unwrap());
        let what = at.display();
        assert_eq!(reader.find(folder, &entry.name).unwrap(), Some(entry.file), "{what}");
        let info = reader.info(entry.file).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut contents = vec![0; usize::try_from(info.bytes).unwrap()];
        if info.kind == FileKind::Folder {
            walk(reader, entry.file, &at, found);
        }
        match info.kind {
            FileKind::Regular => {
                assert_eq!(reader.read(entry.file, 0, &mut contents).unwrap(), contents.len())
            }
            _ => contents.clear(),
        }
        let owner = (info.uid, info.gid);
        found.insert(at, Expected { kind: info.kind, mode: info.mode, owner, contents });
    }
}

fn check(options: &[&str], names: u64) -> usize {
    let what = options.join(" ");
    let folder = tempfile::tempdir().unwrap();
    let (path, expected) = make(folder.path(), options, 300, names);
    let files = reader(&path, "xfs");
    let mut found = BTreeMap::new();
    walk(&*files, files.root(), Path::new("/"), &mut found);
    // Links have no mode of their own.
    for (at, expected) in &expected {
        let found = found.get(at).unwrap_or_else(|| panic!("{what}: {} is missing", at.display()));
        let is_link = matches!(found.kind, FileKind::Link { .. });
        let same = Expected { mode: if is_link { found.mode } else { expected.mode }, ..clone(expected) };
        assert!(found == &same, "{what}: {}: {:?}, {:?}", at.display(), found.kind, found.mode);
    }
    assert_eq!(found.len(), expected.len(), "{what}");
    for (name, count) in [("file0", 2), ("file1", 40), ("file511", 1200)] {
        let file = files.find(files.root(), name.as_bytes()).unwrap().unwrap();
        let expected = add_attributes(&path, file, count);
        let mut found = reader(&path, "xfs").attributes(file).unwrap_or_else(|e| panic!("{what}: {e}"));
        found.sort();
        assert!(found == expected, "{what}: {name}: {} attributes of {}", found.len(), expected.len());
    }
    println!("xfs, no mount: {what}: {} files", found.len());
    found.len()
}

fn clone(it: &Expected) -> Expected {
    Expected { kind: it.kind.clone(), contents: it.contents.clone(), ..*it }
}

#[test]
fn xfs_as_its_own_tools_filled_it() {
    check(&["-m", "crc=0", "-n", "ftype=0"], 2000);
    check(&["-m", "crc=0", "-b", "size=1024", "-n", "size=65536"], 700);
    check(&["-b", "size=16384"], 700);
}

#[test]
fn dozens_of_shapes_of_xfs_as_its_own_tools_filled_them_when_asked_for() {
    if !all() {
        return;
    }
    let mut files = 0;
    for version in [&["-m", "crc=0"][..], &["-m", "crc=0", "-n", "ftype=0"], &[]] {
        for block in ["size=512", "size=1024", "size=4096", "size=16384", "size=65536"] {
            for folder in [&[][..], &["-n", "size=65536"], &["-n", "version=ci"], &["-i", "size=1024"]] {
                let small = block == "size=512" || block == "size=1024";
                if (small && folder.contains(&"size=1024"))
                    || (block == "size=512" && !version.contains(&"crc=0"))
                {
                    continue;
                }
                files += check(&[version, &["-b", block], folder].concat(), 12_000);
            }
        }
    }
    println!("{files} files");
}

//! A volume's files, as programs see them through the kernel. As root.
//!
//! Promise: what is mounted is gone when the test ends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use disk::Extent;
use disk::files::{Attribute, FileId, FileInfo, FileKind, FileTime, Files, FilesError, FolderEntry};
use tempfile::TempDir;

use crate::failures::Ledger;
use crate::nodes::{Kind, Nodes};
use crate::server::Server;
use crate::session::{Manner, Session};

/// Names in the large folder.
const MANY: u64 = 10_000;

/// Files of memory: a folder with one of each kind, and one with many.
struct Made(BTreeMap<FileId, (FileInfo, Vec<u8>)>);

impl Made {
    fn new() -> Made {
        let mut files = BTreeMap::new();
        let mut add = |number: u64, kind: FileKind, bytes: &[u8]| {
            let info = FileInfo {
                kind,
                bytes: bytes.len() as u64,
                mode: 0o4751,
                uid: 1234,
                gid: 567,
                links: 3,
                modified: FileTime { seconds: -5, nanos: 7 },
                accessed: None,
                changed: Some(FileTime { seconds: 1_000_000_000, nanos: 0 }),
                created: None,
            };
            files.insert(FileId(number), (info, bytes.to_vec()));
        };
        add(2, FileKind::Folder, b"");
        add(3, FileKind::Regular, &[vec![7; 300_000], vec![0; 300_000], vec![9; 5]].concat());
        add(4, FileKind::Link { target: b"../b/\xff c".to_vec() }, b"../b/\xff c");
        add(5, FileKind::BlockDevice { major: 259, minor: 70_000 }, b"");
        add(6, FileKind::Fifo, b"");
        add(7, FileKind::Folder, b"");
        add(u64::MAX, FileKind::Regular, b"far");
        (0..MANY).for_each(|number| add(1000 + number, FileKind::Regular, number.to_string().as_bytes()));
        Made(files)
    }

    fn names(folder: FileId) -> Vec<(String, FileId)> {
        let few = [("file", 3), ("link", 4), ("device", 5), ("fifo", 6), ("many", 7), ("damaged", 99)];
        match folder.0 {
            2 => {
                let names = few.iter().map(|(name, number)| ((*name).to_owned(), FileId(*number)));
                names.chain([("far \u{e9}".to_owned(), FileId(u64::MAX))]).collect()
            }
            _ => (0..MANY).map(|number| (format!("name {number}"), FileId(1000 + number))).collect(),
        }
    }

    fn get(&self, file: FileId) -> Result<&(FileInfo, Vec<u8>), FilesError> {
        let damaged = || FilesError::Damaged { place: format!("inode {}", file.0), what: "torn".into() };
        self.0.get(&file).ok_or_else(damaged)
    }
}

impl Files for Made {
    fn root(&self) -> FileId {
        FileId(2)
    }

    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        Ok(self.get(file)?.0.clone())
    }

    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        if self.get(folder)?.0.kind != FileKind::Folder {
            return Err(FilesError::WrongKind { place: "x".into(), expected: "a folder" });
        }
        for (name, file) in Made::names(folder) {
            if !each(FolderEntry { name: name.into_bytes(), file }) {
                break;
            }
        }
        Ok(())
    }

    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        let bytes = &self.get(file)?.1;
        let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        // Readers may stop where an extent ends.
        let count = rest.len().min(buf.len()).min(70_000);
        buf[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn next_data(&self, file: FileId, offset: u64) -> Result<Option<Extent>, FilesError> {
        let ends = [(0u64, 300_000u64), (600_000, 600_005)];
        let all = if file.0 == 3 { &ends[..] } else { &[(0, 5)] };
        Ok(all.iter().find(|(_, end)| offset < *end).map(|(start, end)| {
            let offset = offset.max(*start);
            Extent { offset, bytes: end - offset }
        }))
    }

    fn attributes(&self, file: FileId) -> Result<Vec<Attribute>, FilesError> {
        let attribute = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        match file.0 {
            3 => Ok(vec![attribute("user.one", b"1"), attribute("user.two", &[0xff; 3000])]),
            _ => Ok(Vec::new()),
        }
    }
}

fn lines_of(program: &str, arguments: &[&OsStr]) -> Vec<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}: apt-get install -y attr findutils"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn as_root_files_of_a_volume_are_files() {
    let folder = TempDir::new().unwrap();
    let mut nodes = Nodes::new();
    let files: Arc<dyn Files> = Arc::new(Made::new());
    nodes.add(0, "p1", SystemTime::now(), Kind::Files(Box::new(move || Ok(Some(files.clone())))));
    nodes.add(0, "p2", SystemTime::now(), Kind::Files(Box::new(|| Ok(None))));
    nodes.add(0, "latest", SystemTime::now(), Kind::Link("p1".into()));
    let ledger = Arc::new(Ledger::default());
    let server = Server::new(nodes, ledger.clone());
    let manner = Manner { is_read_only: true, is_for_all: false };
    let session = Session::start(server, folder.path(), manner).unwrap();

    let names = |path: &str| lines_of("ls", &[OsStr::new("-U"), folder.path().join(path).as_os_str()]);
    assert_eq!(names(""), ["p1", "latest"]);
    assert_eq!(names("latest/"), ["file", "link", "device", "fifo", "many", "damaged", "far \u{e9}"]);
    assert_eq!(names("p1/many").len() as u64, MANY);
    let at = |name: &str| folder.path().join("p1").join(name);

    let file = fs::metadata(at("file")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid(), file.nlink()), (0o4751, 1234, 567, 3));
    assert_eq!((file.len(), file.mtime(), file.ctime()), (600_005, -5, 1_000_000_000));
    assert!(fs::read(at("file")).unwrap() == [vec![7; 300_000], vec![0; 300_000], vec![9; 5]].concat());
    let seek = |from| rustix::fs::seek(File::open(at("file")).unwrap(), from).unwrap();
    assert_eq!(seek(rustix::fs::SeekFrom::Data(300_001)), 600_000);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(5)), 300_000);
    assert_eq!(fs::read_link(at("link")).unwrap().as_os_str().as_bytes(), b"../b/\xff c");
    let device = fs::metadata(at("device")).unwrap();
    let numbers = (rustix::fs::major(device.rdev()), rustix::fs::minor(device.rdev()));
    assert!(device.file_type().is_block_device() && numbers == (259, 70_000), "{numbers:?}");
    assert!(fs::symlink_metadata(at("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read(at("far \u{e9}")).unwrap(), b"far");
    assert_eq!(fs::read(at("many/name 7777")).unwrap(), b"7777");
    assert!(fs::metadata(at("many/name 10000")).is_err());
    let found = lines_of(
        "getfattr",
        &["-d", "-e", "hex"]
            .map(OsStr::new)
            .iter()
            .copied()
            .chain([at("file").as_os_str()])
            .collect::<Vec<_>>(),
    );
    assert!(found.iter().any(|line| line == "user.one=0x31"), "{found:?}");
    assert!(found.iter().any(|line| line.len() == "user.two=0x".len() + 6000), "{found:?}");

    assert_eq!(ledger.so_far().count, 0);
    assert_eq!(fs::metadata(at("damaged")).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(ledger.so_far().first.unwrap(), "p1: inode 99: torn");
    assert!(File::create(at("new")).is_err() && fs::remove_file(at("file")).is_err());
    let folders = lines_of(
        "find",
        &[at("").as_os_str(), OsStr::new("-maxdepth"), OsStr::new("1"), OsStr::new("-type"), OsStr::new("d")],
    );
    assert_eq!(folders.len(), 2, "{folders:?}");
    drop(session);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

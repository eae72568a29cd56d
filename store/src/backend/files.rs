//! The calls that the local backend makes to the system, as a trait, so that a simulated disk can stand in for it.
//!
//! Promise: [`OsFiles`] is one system call, or the obvious few, for each method; no order, no retry, no cleaning up.
//! Knows nothing of names, objects or what makes a put durable: that is `local.rs`.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use walkdir::WalkDir;

use crate::aligned::{ALIGNMENT, is_aligned};
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// Below this, waiting for the disk costs more than the copy that it saves.
const DIRECT_BYTES_MIN: usize = 1 << 20;

/// What lies in a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its last component.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
}

/// Files and folders; anything else is not listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file of so many bytes.
    File(u64),
    /// A folder.
    Folder,
}

/// What the local backend asks of a filesystem.
pub trait Files: Send + Sync + Debug {
    /// An open file.
    type File;

    /// A new empty file; `AlreadyExists` when the path is taken.
    fn create_new(&self, path: &Path) -> io::Result<Self::File>;
    /// Appends some of `bytes`; how many is the result.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<usize>;
    /// Makes the file's content durable; not its name.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Gives a file a second name; `AlreadyExists` when that is taken.
    fn link_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name; `AlreadyExists` when that is taken. For filesystems without hard links.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a file's name away.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder that only its owner may look into; `AlreadyExists` when the path is taken.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// At most `length` bytes from `offset` on, fewer only at the end of the file.
    fn read(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// The files and folders in a folder, in any order. What vanishes meanwhile is left out.
    fn list(&self, path: &Path) -> io::Result<Vec<Found>>;
    /// What there is at a path; `NotFound` for things that are neither file nor folder, too.
    fn kind(&self, path: &Path) -> io::Result<Kind>;
    /// Bytes that may still be written by the likes of us.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The real thing.
#[derive(Clone, Copy, Default, Debug)]
pub struct OsFiles;

impl Files for OsFiles {
    type File = File;

    fn create_new(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<usize> {
        match write_direct(file, bytes) {
            Some(written) => Ok(written),
            None => file.write(bytes),
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn link_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        // A store holds what only root may read on the disks it was made from.
        DirBuilder::new().mode(0o700).create(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        match File::open(path)?.sync_all() {
            // Some network and FUSE filesystems have no such call for folders; there is nothing better to do there.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
                Ok(())
            }
            result => result,
        }
    }

    fn read(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let mut bytes = Vec::with_capacity(length);
        // One call as a rule: the system reads ahead no further than it is asked on a file that was just opened.
        while bytes.len() < length {
            let next = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            match rustix::io::pread(&file, spare_capacity(&mut bytes), next) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in WalkDir::new(path).min_depth(1).max_depth(1) {
            let entry = entry.map_err(io::Error::from)?;
            match self.kind(entry.path()) {
                Ok(kind) => found.push(Found { name: entry.file_name().to_owned(), kind }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let metadata = fs::metadata(path)?;
        match metadata.file_type() {
            kind if kind.is_dir() => Ok(Kind::Folder),
            kind if kind.is_file() => Ok(Kind::File(metadata.len())),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let space = rustix::fs::statvfs(path)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// Writes the whole pages of `bytes` without a copy of them in the page cache, if they are many and begin on a page's
/// border. `None` when that is not so, or not possible here: by the common way it may work, or says why not.
///
/// A pack is synced at once, so it gains nothing by the cache; and what it would push out of there, others may want.
fn write_direct(file: &mut File, bytes: &[u8]) -> Option<usize> {
    let whole = bytes.len() / ALIGNMENT * ALIGNMENT;
    if whole < DIRECT_BYTES_MIN || !is_aligned(bytes) {
        return None;
    }
    let flags = fcntl_getfl(&*file).ok()?;
    fcntl_setfl(&*file, flags | OFlags::DIRECT).ok()?;
    let written = file.write(&bytes[..whole]);
    // Should this fail, what is left to write fails as well: it is no whole page.
    fcntl_setfl(&*file, flags).ok();
    written.ok().filter(|written| *written > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::AlignedBytes;

    #[test]
    fn neither_way_to_a_name_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new").unwrap();
        for give in [OsFiles::link_new, OsFiles::rename_new] {
            let refused = give(&OsFiles, &new, &old).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&old).unwrap(), b"old");
            assert_eq!(fs::read(&new).unwrap(), b"new");
        }
        let free = folder.path().join("free");
        OsFiles.rename_new(&new, &free).unwrap();
        assert_eq!((fs::read(&free).unwrap().as_slice(), new.exists()), (&b"new"[..], false));
    }

    /// Also on filesystems that don't take direct writes: what is there in the end is what counts.
    #[test]
    fn large_aligned_writes_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        for (number, bytes) in
            [DIRECT_BYTES_MIN - 1, DIRECT_BYTES_MIN, 3 * DIRECT_BYTES_MIN + 4097].iter().enumerate()
        {
            let mut content = AlignedBytes::default();
            content.extend_from_slice(&(0..=250).cycle().take(*bytes).collect::<Vec<u8>>());
            for from in [0, 1] {
                let path = folder.path().join(format!("{number}-{from}"));
                let mut file = OsFiles.create_new(&path).unwrap();
                let mut rest = &content[from..];
                while !rest.is_empty() {
                    rest = &rest[OsFiles.write(&mut file, rest).unwrap()..];
                }
                OsFiles.sync(&file).unwrap();
                assert!(fs::read(&path).unwrap() == content[from..], "{bytes} bytes, from {from}");
            }
        }
    }

    #[test]
    fn what_is_neither_file_nor_folder_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        fs::write(folder.path().join("file"), "four").unwrap();
        let expected = Found { name: "file".into(), kind: Kind::File(4) };
        assert_eq!(OsFiles.list(folder.path()).unwrap(), [expected]);
    }
}

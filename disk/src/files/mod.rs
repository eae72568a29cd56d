//! Reading the files of a volume without mounting it.
//!
//! Promise: read only, in user space, safe against hostile bytes: a value or an error, never a panic, an allocation beyond
//! a stated bound, or a loop without end (I6). Names and link targets are handed out as the bytes that are on the disk:
//! whoever writes them somewhere else must not trust them.
//! Knows nothing of images, mounts or extraction.

mod btrfs;
mod cached;
mod chain;
mod dostime;
mod exfat;
mod ext;
mod fat;
mod fault;
mod ntfs;
mod xfs;

use std::sync::Arc;

use crate::{Extent, ReadAt};

/// A file within its filesystem, by whatever number the filesystem has for it; stable as long as the volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Bytes.
    Regular,
    /// A folder.
    Folder,
    /// A symbolic link, with its target as it is on the disk.
    Link {
        /// Not checked, not resolved.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Its number's first half.
        major: u32,
        /// And second half.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its number's first half.
        major: u32,
        /// And second half.
        minor: u32,
    },
    /// A pipe with a name.
    Fifo,
    /// A socket.
    Socket,
}

/// A moment, in seconds and nanoseconds since 1970 UTC; times before are negative seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileTime {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest, below 10^9.
    pub nanos: u32,
}

/// What a filesystem says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a regular file, of a link's target.
    pub bytes: u64,
    /// Permission bits with set-user-id and its like (07777); a guess where the filesystem has none.
    pub mode: u32,
    /// Owner; 0 where the filesystem has none.
    pub uid: u32,
    /// Group; 0 where the filesystem has none.
    pub gid: u32,
    /// How many names it has.
    pub links: u32,
    /// Last change of the contents.
    pub modified: FileTime,
    /// Last access, where it is kept.
    pub accessed: Option<FileTime>,
    /// Last change of the file's own data, where it is kept.
    pub changed: Option<FileTime>,
    /// When it was made, where that is kept.
    pub created: Option<FileTime>,
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderEntry {
    /// As on the disk; UTF-8 where the filesystem keeps UTF-16. Never empty, `.`, `..`, or with a `/` or a zero byte: such
    /// names are an error of the folder.
    pub name: Vec<u8>,
    /// Which file.
    pub file: FileId,
}

/// An extended attribute: its full name and its value.
pub type Attribute = (Vec<u8>, Vec<u8>);

/// Why files can't be read. Place first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The volume can't be read there.
    #[error("{place}")]
    Read {
        /// What was read.
        place: String,
        /// Why not.
        #[source]
        source: crate::Error,
    },
    /// What is there makes no sense.
    #[error("{place}: {what}")]
    Damaged {
        /// Where: `inode 12`, `/etc/fstab`.
        place: String,
        /// What was expected, and found.
        what: String,
    },
    /// A feature that is not known here.
    #[error("{place}: {what} is not supported")]
    Unsupported {
        /// Where.
        place: String,
        /// Which feature.
        what: String,
    },
    /// There is no such file.
    #[error("{place}: no such file")]
    NotFound {
        /// Which.
        place: String,
    },
    /// It is not of the kind that was asked for.
    #[error("{place}: expected {expected}")]
    WrongKind {
        /// Which file.
        place: String,
        /// `a folder`, `a regular file`.
        expected: &'static str,
    },
}

/// A volume's files. All methods may be called from many threads.
pub trait Files: Send + Sync {
    /// The root folder.
    fn root(&self) -> FileId;

    /// What a person should know who believes these files: that the newest changes are still in a journal, for instance.
    fn caveat(&self) -> Option<String> {
        None
    }

    /// What a file is.
    ///
    /// # Errors
    /// Any [`FilesError`].
    fn info(&self, file: FileId) -> Result<FileInfo, FilesError>;

    /// The names in a folder, without `.` and `..`, in the filesystem's order; `each` says whether to go on.
    ///
    /// # Errors
    /// Any [`FilesError`]; names before the error were handed out.
    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError>;

    /// One name of a folder, found as the filesystem would (without regard to case where it has none).
    ///
    /// # Errors
    /// Any [`FilesError`]; a name that is not there is `None`.
    fn find(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
        let mut found = None;
        self.list(folder, &mut |entry| {
            found = (entry.name == name).then_some(entry.file);
            found.is_none()
        })?;
        Ok(found)
    }

    /// Fills `buf` with a regular file's bytes from `offset` on; how many there were before its end.
    ///
    /// # Errors
    /// Any [`FilesError`]; wrong bytes are never handed out.
    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError>;

    /// The next stretch at or behind `offset` that is no hole; `None` when only holes are left.
    ///
    /// # Errors
    /// Any [`FilesError`].
    fn next_data(&self, file: FileId, offset: u64) -> Result<Option<Extent>, FilesError> {
        let bytes = self.info(file)?.bytes.saturating_sub(offset);
        Ok((bytes > 0).then_some(Extent { offset, bytes }))
    }

    /// Extended attributes with their full names (`user.x`, `security.capability`, `system.posix_acl_access`).
    ///
    /// # Errors
    /// Any [`FilesError`].
    fn attributes(&self, file: FileId) -> Result<Vec<Attribute>, FilesError> {
        let _ = file;
        Ok(Vec::new())
    }

    /// Alternate data streams (NTFS): names and sizes.
    ///
    /// # Errors
    /// Any [`FilesError`].
    fn streams(&self, file: FileId) -> Result<Vec<(Vec<u8>, u64)>, FilesError> {
        let _ = file;
        Ok(Vec::new())
    }

    /// As [`Files::read`], from a stream that [`Files::streams`] named.
    ///
    /// # Errors
    /// Any [`FilesError`].
    fn read_stream(
        &self,
        file: FileId,
        stream: &[u8],
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, FilesError> {
        let _ = (file, offset, buf);
        Err(FilesError::NotFound { place: String::from_utf8_lossy(stream).into_owned() })
    }

    /// Where a file's contents lie: pairs of an extent of the file and the byte of the volume where it begins; what is
    /// compressed, or kept in the inode, is left out. For saying which file a damaged place belongs to.
    ///
    /// # Errors
    /// Any [`FilesError`].
    fn places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, FilesError> {
        let _ = file;
        Ok(Vec::new())
    }
}

/// The files of a volume with this content (blkid's name of it); `None` when there is no reader for it. `volume` begins
/// with the volume's first byte.
///
/// # Errors
/// Any [`FilesError`]: the volume is not sound enough to begin with.
pub fn files(volume: Arc<dyn ReadAt>, kind: &str) -> Result<Option<Box<dyn Files>>, FilesError> {
    Ok(match kind {
        "ext2" | "ext3" | "ext4" => Some(Box::new(ext::open(volume)?)),
        "btrfs" => Some(Box::new(btrfs::Btrfs::open(volume)?)),
        "exfat" => Some(Box::new(exfat::open(volume)?)),
        "vfat" => Some(Box::new(fat::open(volume)?)),
        "ntfs" => Some(Box::new(ntfs::open(volume)?)),
        "xfs" => Some(Box::new(xfs::Xfs::open(volume)?)),
        _ => None,
    })
}

/// A name of a folder, found without regard to capitals; one that is the very same comes first.
fn find_folded(files: &dyn Files, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
    let wanted = ntfs::names::folded(name);
    let (mut same, mut alike) = (None, None);
    files.list(folder, &mut |entry| {
        if entry.name == name {
            same = Some(entry.file);
        } else if alike.is_none() && ntfs::names::folded(&entry.name) == wanted {
            alike = Some(entry.file);
        }
        same.is_none()
    })?;
    Ok(same.or(alike))
}

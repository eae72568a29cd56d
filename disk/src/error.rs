//! What can go wrong with a device.
//!
//! Promise: each error names the device and, where there is one, the offset; the cause is the source, not the text.
//! Knows nothing of what the caller does about it, except which of three answers fits: [`Error::is_unreadable`] (read
//! less), [`Error::is_gone`] (stop), anything else (report).

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path cannot be opened.
    #[error("{path}: cannot open", path = path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Someone else uses the device.
    #[error("{path}: in use by another program, a mount or the kernel", path = path.display())]
    Busy {
        /// The device.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The path is a folder, a pipe, a character device…
    #[error("{path}: expected a block device or a regular file", path = path.display())]
    NotADevice {
        /// The path.
        path: PathBuf,
    },
    /// The path is a regular file where only a block device will do.
    #[error("{path}: expected a block device, found a regular file", path = path.display())]
    NotABlockDevice {
        /// The path.
        path: PathBuf,
    },
    /// The medium could not be read here; a smaller read may succeed.
    #[error("{path}, offset {offset:#x}: {bytes} bytes are unreadable", path = path.display())]
    Unreadable {
        /// The device.
        path: PathBuf,
        /// Where the failed read began.
        offset: u64,
        /// How long it was.
        bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// A read failed for a reason that is not the medium.
    #[error("{path}, offset {offset:#x}: cannot read {bytes} bytes", path = path.display())]
    Read {
        /// The device.
        path: PathBuf,
        /// Where the failed read began.
        offset: u64,
        /// How long it was.
        bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// The device was unplugged, lost its medium, or became smaller.
    #[error("{path}, offset {offset:#x}: the device is gone or has become smaller", path = path.display())]
    Gone {
        /// The device.
        path: PathBuf,
        /// Where that was noticed.
        offset: u64,
        /// The cause.
        source: io::Error,
    },
    /// The device ends inside the span that was asked for.
    #[error("{path}, offset {offset:#x}: expected {expected} bytes, found {found}", path = path.display())]
    ShortRead {
        /// The device.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// Bytes asked for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A device that is not one of the kernel's, such as a stored image, could not deliver.
    #[error("{path}, offset {offset:#x}: cannot read {bytes} bytes", path = path.display())]
    Foreign {
        /// Its name.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// How long it was.
        bytes: u64,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A write failed.
    #[error("{path}, offset {offset:#x}: cannot write {bytes} bytes", path = path.display())]
    Write {
        /// The device.
        path: PathBuf,
        /// Where the failed write began.
        offset: u64,
        /// How long it was.
        bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// A write would leave the device.
    #[error("{path}, offset {offset:#x}: {bytes} bytes do not fit in {size_bytes}", path = path.display())]
    OutOfRange {
        /// The device.
        path: PathBuf,
        /// Where the write would begin.
        offset: u64,
        /// How long it would be.
        bytes: u64,
        /// Size of the device.
        size_bytes: u64,
    },
    /// What was written may not be on the medium.
    #[error("{path}: cannot sync", path = path.display())]
    Sync {
        /// The device.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be given its size.
    #[error("{path}: cannot set the size to {bytes} bytes", path = path.display())]
    Resize {
        /// The file.
        path: PathBuf,
        /// The size wanted.
        bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// The kernel does not answer a question about an open device.
    #[error("{path}: cannot query {what}", path = path.display())]
    Query {
        /// The device.
        path: PathBuf,
        /// The question.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The kernel keeps its old view of the partition table.
    #[error("{path}: the kernel cannot read the partition table again", path = path.display())]
    Reread {
        /// The device.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of /proc or /sys, or a folder that was named, cannot be read.
    #[error("{path}: cannot read", path = path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A GPT does not fit on the device it should be moved to.
    #[error("gpt: partitions end at sector {expected}, the device can hold them up to sector {found}")]
    GptTooLarge {
        /// Last sector that a partition occupies.
        expected: u64,
        /// Last sector that partitions may occupy.
        found: u64,
    },
    /// A GPT leaves no room for its own entries.
    #[error("gpt: entries reach to sector {expected}, partitions may begin at {found}")]
    GptCrowded {
        /// First sector behind the entries.
        expected: u64,
        /// First sector that partitions may occupy.
        found: u64,
    },
}

impl Error {
    /// Whether a smaller read at the same place is sensible.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }

    /// Whether the device is no longer there, so that going on makes no sense.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// Sorts a failed read by what can be done about it.
    pub(crate) fn of_read(path: &Path, offset: u64, bytes: u64, errno: Errno) -> Self {
        let (path, source) = (path.to_owned(), io::Error::from(errno));
        match errno {
            // The kernel's names for a medium or transport that failed: linux block/blk-core.c, blk_errors.
            Errno::IO
            | Errno::ILSEQ
            | Errno::REMOTEIO
            | Errno::NODATA
            | Errno::TIMEDOUT
            | Errno::NOLINK
            | Errno::BADE => Self::Unreadable { path, offset, bytes, source },
            errno if means_gone(errno) => Self::Gone { path, offset, source },
            _ => Self::Read { path, offset, bytes, source },
        }
    }

    /// Sorts a failed write by what can be done about it.
    pub(crate) fn of_write(path: &Path, offset: u64, bytes: u64, errno: Errno) -> Self {
        let (path, source) = (path.to_owned(), io::Error::from(errno));
        if means_gone(errno) {
            return Self::Gone { path, offset, source };
        }
        Self::Write { path, offset, bytes, source }
    }
}

fn means_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM | Errno::STALE)
}

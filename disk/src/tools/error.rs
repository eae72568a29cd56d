//! What can go wrong with a filesystem's tool, and what cannot be done at all.
//!
//! Promise: says which program, how it ended, and what it said last.
//! Knows nothing of what the caller does about it.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a kind of content cannot be changed, whatever is installed. The text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CannotChange {
    /// No tool, or a kind that is not known.
    #[error("no tool is known that does this to such content")]
    UnknownKind,
    /// XFS has no way to become smaller.
    #[error("XFS can't shrink in place: it is made anew, smaller, and its files are copied")]
    XfsShrink,
    /// Only XFS is made anew.
    #[error("only XFS is made anew")]
    RecreateOther,
    /// The tools for FAT fail on what others have made.
    #[error("FAT can't be resized soundly: make a new one (mkfs.fat) and copy its files")]
    FatSize,
    /// There is no tool.
    #[error("exFAT can't be resized, there is no tool: make a new one (mkfs.exfat) and copy its files")]
    ExfatSize,
    /// `resize.f2fs -s` moves data, but is not known to be sound.
    #[error("F2FS can't shrink soundly: make a new one (mkfs.f2fs) and copy its files")]
    F2fsShrink,
    /// The UUID is part of its inodes' checksums.
    #[error("F2FS keeps its identity: checksums depend on it, and there is no tool")]
    F2fsIdentity,
    /// Swap areas are as large as somebody wanted them.
    #[error("swap areas are not made smaller: make a new one (mkswap)")]
    SwapShrink,
    /// What lies at the end must be moved while the group is active.
    #[error("an LVM physical volume shrinks only by hand: pvmove, then pvresize --setphysicalvolumesize")]
    LvmShrink,
}

/// An error of a filesystem's tool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// A program is not installed.
    #[error("{program}: not found: apt-get install {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program cannot be started, or what it says can't be read.
    #[error("{program}: cannot run")]
    Start {
        /// The program.
        program: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A program ended with a code that means failure.
    #[error("{program}: {status}: {said}")]
    Failed {
        /// The program.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        said: String,
    },
    /// A program succeeded and did not say what we asked it.
    #[error("{program}: expected a line with `{expected}`, found: {said}")]
    Answer {
        /// The program.
        program: &'static str,
        /// What the line should have.
        expected: &'static str,
        /// Its last lines.
        said: String,
    },
    /// What a program did is not what the volume says now.
    #[error("{place}: expected {expected}, found {found}")]
    Readback {
        /// Which number or text.
        place: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The volume has a value that cannot be, or that we do not know how to keep.
    #[error("{place}: found {found:#x}, which is not known here")]
    Unknown {
        /// Which number.
        place: &'static str,
        /// What it is.
        found: u64,
    },
    /// Two filesystems of one identity cannot be mounted at once by this kernel.
    #[error("btrfs {uuid}: a filesystem of the same UUID is mounted: unmount it, or use Linux 6.7 or newer")]
    SameUuidMounted {
        /// The UUID.
        uuid: String,
        /// What mount said.
        #[source]
        source: Box<ToolError>,
    },
    /// A file was not copied as it is.
    #[error("{path}: {what} differs in the copy", path = path.display())]
    CopyDiffers {
        /// The file, from the filesystem's root.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// Quota limits would be lost.
    #[error(
        "quota limits would be lost: switch quotas off (xfs_quota -x -c 'off -ugp', then remove) and set them again afterwards"
    )]
    XfsQuota,
    /// Something about a file or folder failed.
    #[error("{path}: cannot {doing}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The volume can't be read.
    #[error(transparent)]
    Device(#[from] crate::Error),
    /// It cannot be done at all.
    #[error(transparent)]
    Cannot(#[from] CannotChange),
}

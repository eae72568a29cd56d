//! What starts a disk, when its partitions have moved or got other identities: boot loaders that know places by number,
//! and texts that know filesystems by name.
//!
//! Promise: what is looked at may hold any bytes (I6); nothing is changed whose present meaning is not understood; what was
//! changed is read back. What can't be done is a [`BootProblem`], whose [`BootProblem::advice`] says what does it.
//! Knows nothing of layouts: who moved what is told by the caller.

pub mod efi;
mod fat;
pub mod grub;
pub mod hidden;
pub mod references;
mod tree;

pub use fat::rewrite_fat;
pub use tree::rewrite_tree;

use std::io;
use std::path::PathBuf;

use crate::{Doubt, Error};

/// Why a disk may not start, or not as its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootProblem {
    /// The device does not deliver what is needed.
    #[error("boot loader: cannot be read")]
    Device {
        /// The cause.
        #[from]
        source: Error,
    },
    /// What GRUB needs is not among what is copied.
    #[error("GRUB, sector {sector}: its core image is not among what is copied")]
    NotCopied {
        /// A sector of the source that has no place on the target.
        sector: u64,
    },
    /// What was one piece on the source is several on the target.
    #[error("GRUB, sector {sector}: its core image is in one piece there, but would not be on the target")]
    Scattered {
        /// The first sector of the piece, on the source.
        sector: u64,
    },
    /// The target does not hold what the source does, where its own boot sector leads.
    #[error("GRUB, sector {sector}: expected the core image of the source, found something else")]
    CoreDiffers {
        /// The sector of the target.
        sector: u64,
    },
    /// The filesystem of an EFI system partition is not one to write to.
    #[error("FAT volume: {doubt}")]
    Doubtful {
        /// What speaks against it.
        doubt: Doubt,
    },
    /// A file or folder on a FAT volume.
    #[error("FAT volume, /{path}: cannot be {what}")]
    Fat {
        /// Where.
        path: String,
        /// What was tried: `read`, `written`.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A file on a FAT volume is not what was written to it.
    #[error("FAT volume, /{path}: expected what was written, found something else")]
    FatDiffers {
        /// The file.
        path: String,
    },
    /// Bytes that the library for FAT volumes can't bear.
    #[error("FAT volume: its folders make no sense")]
    FatDamaged,
    /// A file of a mounted filesystem.
    #[error("{path}: cannot be {what}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried: `read`, `written`.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl BootProblem {
    /// What a person does about it, on the target.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Device { .. }
            | Self::NotCopied { .. }
            | Self::Scattered { .. }
            | Self::CoreDiffers { .. } => {
                "start a rescue system, mount the target's root, and there: grub-install --boot-directory=MOUNT/boot DISK"
            }
            Self::Doubtful { .. } | Self::Fat { .. } | Self::FatDiffers { .. } | Self::FatDamaged => {
                "fsck.fat -a PARTITION, then in the system on it: grub-install --removable, or bootctl install"
            }
            Self::File { .. } => "mount it, look for the old identities by `grep`, and write the new ones",
        }
    }
}

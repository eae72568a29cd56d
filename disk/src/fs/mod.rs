//! What a volume's filesystem says of its blocks: which are free, and which hold what is not worth keeping.
//!
//! Promise: a block called free holds nothing that the filesystem, its tools or its user could miss. Whatever is not
//! certain is a [`Doubt`], and then the volume is taken whole. Reads only; no bytes lead to a panic, a large allocation
//! or a loop without end (I6). What each parser reads and what it doubts: DESIGN.md §6.1.
//! Knows nothing of files, except where their contents may be left out.

pub(crate) mod btrfs;
pub(crate) mod crc;
pub(crate) mod exfat;
pub(crate) mod ext;
mod f2fs;
pub(crate) mod fat;
mod guard;
mod lvm;
pub(crate) mod ntfs;
mod sector;
mod swap;
pub(crate) mod view;
pub(crate) mod xfs;

pub use guard::check_table;
use guard::check_type;
pub use sector::{SectorBound, sector_bound};
use view::View;

use crate::content::kinds;
use crate::map::FreeMap;
use crate::{Extent, ReadAt, Volume};

/// What a volume's filesystem says of its blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// The filesystem, by blkid's name.
    pub kind: &'static str,
    /// What it does not use. Everything else is used, also what lies behind its end.
    pub free: FreeMap,
    /// What it uses for nothing that is worth keeping.
    pub excluded: Vec<Excluded>,
}

/// Contents that are not worth keeping (swap, page files): bytes of used extents that may be left out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Excluded {
    /// What it is: `pagefile.sys`, `swap area`.
    pub name: String,
    /// Where it is, counted from the volume's first byte: sorted, disjoint.
    pub extents: Vec<Extent>,
}

/// Why a volume is taken whole: one short line for a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Doubt {
    /// A sector that is needed cannot be read.
    #[error("its own tables cannot be read")]
    Unreadable {
        /// The cause.
        source: crate::Error,
    },
    /// The signatures of several filesystems.
    #[error("it looks like {first} and like {second}")]
    Ambiguous {
        /// The one that would be believed.
        first: String,
        /// Another.
        second: String,
    },
    /// The partition table may not be the one that counts.
    #[error("the partition table is odd: {what}")]
    Table {
        /// What is odd.
        what: String,
    },
    /// Volumes may be made of several partitions.
    #[error("partition {number} belongs to a Windows dynamic disk")]
    Dynamic {
        /// The partition.
        number: u32,
    },
    /// The partition table says that something else is there.
    #[error("it looks like {found}, its partition's type is {expected}")]
    Type {
        /// The type.
        expected: String,
        /// What it looks like.
        found: &'static str,
    },
    /// Features that may change what is free.
    #[error("{place}: features {found:#x} are not known")]
    Feature {
        /// Which set of features.
        place: &'static str,
        /// The bits that are not known.
        found: u64,
    },
    /// A journal or log with something in it.
    #[error("the journal must be replayed first: mount and unmount it once")]
    Journal,
    /// Not unmounted cleanly.
    #[error("{place}: it was not unmounted cleanly: mount and unmount it once")]
    NotClean {
        /// What says so.
        place: &'static str,
    },
    /// Errors were found in it before.
    #[error("{place}: it is marked as damaged: check it first")]
    Damaged {
        /// What says so.
        place: &'static str,
    },
    /// A system sleeps on it.
    #[error("{place}: a system hibernates on it")]
    Hibernated {
        /// What says so.
        place: &'static str,
    },
    /// A part of it is on another device.
    #[error("{place} is on another device")]
    Elsewhere {
        /// The part.
        place: &'static str,
    },
    /// A checksum does not hold.
    #[error("{place} {number}: wrong checksum")]
    Checksum {
        /// Of what.
        place: &'static str,
        /// Which of them.
        number: u64,
    },
    /// Two numbers that must agree do not.
    #[error("{place}: expected {expected}, found {found}")]
    Mismatch {
        /// Which number.
        place: &'static str,
        /// What it should be.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// A number that no sound filesystem has.
    #[error("{place}: {found} is not possible")]
    Impossible {
        /// Which number.
        place: &'static str,
        /// What it is.
        found: u64,
    },
    /// The filesystem does not fit on its volume.
    #[error("the filesystem has {expected} bytes, the volume {found}")]
    TooLarge {
        /// Bytes of the filesystem.
        expected: u64,
        /// Bytes of the volume.
        found: u64,
    },
    /// A structure lies outside the volume.
    #[error("a table of {bytes} bytes at {offset:#x} does not fit in {found}")]
    Outside {
        /// Where it should begin.
        offset: u64,
        /// How long it should be.
        bytes: u64,
        /// Bytes of the volume.
        found: u64,
    },
    /// A structure ends before one of its fields.
    #[error("a table ends before its field at {at:#x}")]
    Short {
        /// The field.
        at: usize,
    },
}

/// What the filesystem on a volume says of its blocks; `None`: there is none, or none that is known here.
///
/// # Errors
/// A [`Doubt`]: the volume must be taken whole.
pub fn allocation(device: &dyn ReadAt, volume: Extent) -> Result<Option<Allocation>, Doubt> {
    let kinds = kinds(device, volume).map_err(|source| Doubt::Unreadable { source })?;
    let Some(kind) = kinds.first() else { return Ok(None) };
    let Some(parser) = parser(kind) else { return Ok(None) };
    guard::check_no_table(&View::new(device, volume), kind)?;
    if let Some(second) = kinds.get(1) {
        return Err(Doubt::Ambiguous { first: kind.clone(), second: second.clone() });
    }
    parser(&View::new(device, volume)).map(Some)
}

/// As [`allocation`], for a partition whose type is known.
///
/// # Errors
/// A [`Doubt`]: the volume must be taken whole.
pub fn allocation_of(device: &dyn ReadAt, volume: &Volume) -> Result<Option<Allocation>, Doubt> {
    let found = allocation(device, volume.extent)?;
    if let Some(found) = &found {
        check_type(volume, found.kind)?;
    }
    Ok(found)
}

type Parser = fn(&View<'_>) -> Result<Allocation, Doubt>;

/// The parser of a filesystem, by blkid's name.
fn parser(kind: &str) -> Option<Parser> {
    match kind {
        "btrfs" => Some(btrfs::allocation),
        "ext2" | "ext3" | "ext4" => Some(ext::allocation),
        "f2fs" => Some(f2fs::allocation),
        "LVM2_member" => Some(lvm::allocation),
        "ntfs" => Some(ntfs::allocation),
        "swap" => Some(swap::allocation),
        "exfat" => Some(exfat::allocation),
        "vfat" => Some(fat::allocation),
        "swsuspend" => Some(swap::hibernated),
        "xfs" => Some(xfs::allocation),
        _ => None,
    }
}

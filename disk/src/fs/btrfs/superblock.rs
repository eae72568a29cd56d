//! The superblock of btrfs, and the checksums that all blocks have.
//!
//! Promise: what `read` returns is of one device, has no log tree, and only features that change nothing of what is
//! used.
//! Knows nothing of trees. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_super_block`.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};

use super::{Root, agree, impossible};
use crate::fs::Doubt;
use crate::fs::crc::crc32c;
use crate::fs::view::{Fields, View};

/// The superblock that counts, and those that only rescue reads: `btrfs_sb_offset`.
const PRIMARY: u64 = 64 << 10;
pub(super) const MIRRORS: [u64; 2] = [64 << 20, 256 << 30];
/// Nothing else is put in the `BTRFS_STRIPE_LEN` that begins with a superblock.
pub(super) const RESERVED_BYTES: u64 = 64 << 10;
const BYTES: usize = 4096;
pub(super) const CHECKSUM_BYTES: usize = 32;
/// `BTRFS_HEADER_FLAG_WRITTEN`; other flags say that something was under way.
const FLAG_WRITTEN: u64 = 1;
const FLAG_ERROR: u64 = 1 << 2;
/// MIXED_BACKREF, DEFAULT_SUBVOL, MIXED_GROUPS, COMPRESS_LZO, COMPRESS_ZSTD, BIG_METADATA, EXTENDED_IREF, RAID56,
/// SKINNY_METADATA, NO_HOLES, METADATA_UUID, RAID1C34. (Profiles are looked at chunk by chunk.)
const INCOMPATIBLE_KNOWN: u64 = 0xfff;
const MIXED_BACKREF: u64 = 1;
/// What it adds is among the extents, which files do not need.
const SIMPLE_QUOTA: u64 = 1 << 16;
const METADATA_UUID: u64 = 1 << 10;
/// FREE_SPACE_TREE, FREE_SPACE_TREE_VALID, VERITY, BLOCK_GROUP_TREE.
const READ_ONLY_COMPATIBLE_KNOWN: u64 = 0xf;
const WITH_BLOCK_GROUP_TREE: u64 = 1 << 3;
const SYSTEM_CHUNKS: usize = 811;
const SYSTEM_CHUNKS_BYTES_MAX: u32 = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    fn of(number: u16) -> Result<Self, Doubt> {
        Ok(match number {
            0 => Self::Crc32c,
            1 => Self::Xxhash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            found => return Err(Doubt::Feature { place: "checksums", found: found.into() }),
        })
    }

    /// Whether the first bytes of a block are the sum of all behind the place for it.
    pub(crate) fn holds(self, block: &[u8]) -> Result<bool, Doubt> {
        let stored = block.part(0, CHECKSUM_BYTES)?;
        Ok(self.is_of(stored, block.get(CHECKSUM_BYTES..).unwrap_or_default()))
    }

    /// Whether a sum, which may have more room than it needs, is that of these bytes.
    pub(crate) fn is_of(self, sum: &[u8], bytes: &[u8]) -> bool {
        match self {
            Self::Crc32c => sum.starts_with(&(!crc32c(!0, bytes)).to_le_bytes()),
            Self::Xxhash64 => sum.starts_with(&twox_hash::XxHash64::oneshot(0, bytes).to_le_bytes()),
            Self::Sha256 => sum.starts_with(sha2::Sha256::digest(bytes).as_slice()),
            Self::Blake2b => sum.starts_with(Blake2b::<U32>::digest(bytes).as_slice()),
        }
    }

    /// How long a sum is.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub(crate) checksum: Checksum,
    /// What tree blocks say they belong to.
    pub(crate) tree_fsid: [u8; 16],
    pub(crate) root: Root,
    pub(crate) chunk_root: Root,
    pub(crate) used_bytes: u64,
    pub(crate) sector_bytes: u64,
    pub(crate) node_bytes: u64,
    pub(crate) device: u64,
    pub(crate) device_uuid: [u8; 16],
    pub(crate) device_bytes: u64,
    pub(crate) device_used_bytes: u64,
    pub(crate) system_chunks: Vec<u8>,
    read_only_compatible: u64,
    fsid: [u8; 16],
}

impl Superblock {
    /// One whose free space can be told.
    pub(super) fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let (superblock, raw) = Self::of_volume(volume)?;
        check_state(&raw)?;
        superblock.check_mirrors(volume)?;
        Ok(superblock)
    }

    /// One whose trees can be read; and whether a log tree has more.
    pub(crate) fn to_read(volume: &View<'_>) -> Result<(Self, bool), Doubt> {
        let (superblock, raw) = Self::of_volume(volume)?;
        unknown("incompatible", raw.le64(188)? & !(INCOMPATIBLE_KNOWN | SIMPLE_QUOTA))?;
        unknown("incompatible, missing", !raw.le64(188)? & MIXED_BACKREF)?;
        unknown("superblock flags", raw.le64(56)? & !(FLAG_WRITTEN | FLAG_ERROR))?;
        if raw.le64(136)? != 1 {
            return Err(Doubt::Elsewhere { place: "a part of the filesystem" });
        }
        Ok((superblock, raw.le64(96)? != 0))
    }

    fn of_volume(volume: &View<'_>) -> Result<(Self, Vec<u8>), Doubt> {
        let raw = volume.read(PRIMARY, BYTES)?;
        let superblock = Self::decode(&raw, PRIMARY)?;
        let (expected, found) = (superblock.device_bytes, volume.bytes());
        if expected > found {
            return Err(Doubt::TooLarge { expected, found });
        }
        Ok((superblock, raw))
    }

    pub(super) fn has_block_group_tree(&self) -> bool {
        self.read_only_compatible & WITH_BLOCK_GROUP_TREE != 0
    }

    /// A copy can be older, when a commit was cut short, but not newer.
    fn check_mirrors(&self, volume: &View<'_>) -> Result<(), Doubt> {
        for at in MIRRORS {
            if at.saturating_add(RESERVED_BYTES) > self.device_bytes {
                continue;
            }
            let raw = volume.read(at, BYTES)?;
            let Ok(mirror) = Self::decode(&raw, at) else { continue };
            if mirror.fsid == self.fsid && mirror.root.generation > self.root.generation {
                return Err(Doubt::Mismatch {
                    place: "generation of a copy of the superblock",
                    expected: self.root.generation,
                    found: mirror.root.generation,
                });
            }
        }
        Ok(())
    }

    fn decode(raw: &[u8], at: u64) -> Result<Self, Doubt> {
        let checksum = Checksum::of(raw.le16(196)?)?;
        if !checksum.holds(raw)? {
            return Err(Doubt::Checksum { place: "superblock at", number: at });
        }
        if raw.part(64, 8)? != b"_BHRfS_M" {
            return Err(impossible("signature of the superblock", raw.le64(64)?));
        }
        agree("address of the superblock", at, raw.le64(48)?)?;
        let incompatible = raw.le64(188)?;
        let fsid = raw.array(32)?;
        let system_chunks_bytes = raw.le32(160)?;
        if system_chunks_bytes > SYSTEM_CHUNKS_BYTES_MAX {
            return Err(impossible("bytes of system chunks", system_chunks_bytes.into()));
        }
        let len = usize::try_from(system_chunks_bytes).unwrap_or(usize::MAX);
        let superblock = Self {
            checksum,
            tree_fsid: if incompatible & METADATA_UUID != 0 { raw.array(571)? } else { fsid },
            root: Root { bytenr: raw.le64(80)?, generation: raw.le64(72)?, level: raw.byte(198)? },
            chunk_root: Root { bytenr: raw.le64(88)?, generation: raw.le64(164)?, level: raw.byte(199)? },
            used_bytes: raw.le64(120)?,
            sector_bytes: raw.le32(144)?.into(),
            node_bytes: raw.le32(148)?.into(),
            device: raw.le64(201)?,
            device_uuid: raw.array(267)?,
            device_bytes: raw.le64(209)?,
            device_used_bytes: raw.le64(217)?,
            system_chunks: raw.part(SYSTEM_CHUNKS, len)?.to_vec(),
            read_only_compatible: raw.le64(180)?,
            fsid,
        };
        superblock.check_sizes()?;
        Ok(superblock)
    }

    fn check_sizes(&self) -> Result<(), Doubt> {
        let possible = |bytes: u64| bytes.is_power_of_two() && (4096..=65536).contains(&bytes);
        if !possible(self.sector_bytes) {
            return Err(impossible("bytes of a sector", self.sector_bytes));
        }
        if !possible(self.node_bytes) || self.node_bytes < self.sector_bytes {
            return Err(impossible("bytes of a tree block", self.node_bytes));
        }
        Ok(())
    }
}

fn unknown(place: &'static str, found: u64) -> Result<(), Doubt> {
    if found == 0 { Ok(()) } else { Err(Doubt::Feature { place, found }) }
}

/// Features, and what is under way.
fn check_state(raw: &[u8]) -> Result<(), Doubt> {
    let (compatible, read_only, incompatible) = (raw.le64(172)?, raw.le64(180)?, raw.le64(188)?);
    unknown("compatible", compatible)?;
    unknown("read-only compatible", read_only & !READ_ONLY_COMPATIBLE_KNOWN)?;
    unknown("incompatible", incompatible & !INCOMPATIBLE_KNOWN)?;
    // Without it, extents are of the form of 2009.
    unknown("incompatible, missing", !incompatible & MIXED_BACKREF)?;
    let flags = raw.le64(56)?;
    if flags & FLAG_ERROR != 0 {
        return Err(Doubt::Damaged { place: "superblock" });
    }
    unknown("superblock flags", flags & !FLAG_WRITTEN)?;
    if raw.le64(136)? != 1 {
        return Err(Doubt::Elsewhere { place: "a part of the filesystem" });
    }
    // Device 0 is the target of a replacement that did not finish.
    if raw.le64(201)? == 0 {
        return Err(Doubt::Elsewhere { place: "the device that this one replaces" });
    }
    // The blocks of a log tree are not among the extents.
    match raw.le64(96)? {
        0 => Ok(()),
        _ => Err(Doubt::Journal),
    }
}

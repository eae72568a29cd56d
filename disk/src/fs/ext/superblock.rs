//! The superblock: what kind of filesystem, how it is laid out, and whether it was left in order.
//!
//! Promise: later arithmetic with the numbers of a [`Superblock`] neither overflows nor divides by zero; every feature
//! that it has is known not to change the meaning of a block bitmap.
//! Knows nothing of groups' descriptors. Fields: linux Documentation/filesystems/ext4/super.rst.

use crate::fs::Doubt;
use crate::fs::crc::crc32c;
use crate::fs::view::{Fields, View};

/// Where it is, and how long.
const OFFSET: u64 = 1024;
const BYTES: usize = 1024;
const CHECKSUM: usize = 0x3fc;

const MAGIC: u16 = 0xef53;
/// `s_state`.
const VALID_FS: u16 = 1;
const ERROR_FS: u16 = 2;
/// `s_flags`: signed and unsigned hashes of directories, test code. Snapshots' flags are not among them.
const FLAGS_KNOWN: u32 = 0x1 | 0x2 | 0x4;

/// `s_feature_compat`.
pub(crate) const HAS_JOURNAL: u32 = 0x4;
const SPARSE_SUPER2: u32 = 0x200;
/// dir_prealloc, imagic_inodes, has_journal, ext_attr, resize_inode, dir_index, sparse_super2, fast_commit,
/// stable_inodes, orphan_file. Not: lazy_bg, exclude_bitmap.
const COMPAT_KNOWN: u32 =
    0x1 | 0x2 | HAS_JOURNAL | 0x8 | 0x10 | 0x20 | SPARSE_SUPER2 | 0x400 | 0x800 | 0x1000;

/// `s_feature_incompat`.
const RECOVER: u32 = 0x4;
const META_BG: u32 = 0x10;
const SIXTY_FOUR_BIT: u32 = 0x80;
const FLEX_BG: u32 = 0x200;
const CSUM_SEED: u32 = 0x2000;
/// filetype, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold. Not:
/// compression, journal_dev, dirdata.
const INCOMPAT_KNOWN: u32 = 0x2
    | META_BG
    | 0x40
    | SIXTY_FOUR_BIT
    | 0x100
    | FLEX_BG
    | 0x400
    | CSUM_SEED
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
/// What ext3 and ext2 know, as blkid sees it.
const INCOMPAT_EXT3: u32 = 0x2 | RECOVER | META_BG;
const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4;

/// `s_feature_ro_compat`.
const SPARSE_SUPER: u32 = 0x1;
const GDT_CSUM: u32 = 0x10;
const BIGALLOC: u32 = 0x200;
const METADATA_CSUM: u32 = 0x400;
const ORPHAN_PRESENT: u32 = 0x1_0000;
/// sparse_super, large_file, huge_file, gdt_csum (uninit_bg), dir_nlink, extra_isize, quota, bigalloc, metadata_csum,
/// read-only, project, verity. Not: has_snapshot, replica, shared_blocks.
const RO_COMPAT_KNOWN: u32 = SPARSE_SUPER
    | 0x2
    | 0x8
    | GDT_CSUM
    | 0x20
    | 0x40
    | 0x100
    | BIGALLOC
    | METADATA_CSUM
    | 0x1000
    | 0x2000
    | 0x8000;

/// More groups than in 256 TiB of 4 KiB blocks are not read: their descriptors would cost too much memory.
const GROUPS_MAX: u64 = 1 << 21;

/// How group descriptors and bitmaps are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    None,
    /// CRC-16 over descriptors: uninit_bg.
    Descriptors,
    /// CRC-32C over everything: metadata_csum.
    All {
        seed: u32,
    },
}

/// What later steps need of the superblock.
#[derive(Debug)]
pub(crate) struct Superblock {
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) checksums: Checksums,
    pub(crate) block_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) first_data_block: u64,
    /// Blocks in a cluster: 1, but for bigalloc.
    pub(crate) cluster_blocks: u64,
    pub(crate) group_blocks: u64,
    pub(crate) group_clusters: u64,
    pub(crate) groups: u64,
    pub(crate) inode_bytes: u64,
    pub(crate) group_inodes: u64,
    pub(crate) inode_table_blocks: u64,
    pub(crate) descriptor_bytes: u64,
    /// Blocks of descriptors behind each copy of the superblock, those kept for growing included.
    pub(crate) old_descriptor_blocks: u64,
    pub(crate) descriptor_blocks: u64,
    first_meta_bg: u64,
    backup_groups: [u64; 2],
    pub(crate) free_blocks: u64,
    pub(crate) journal_inode: u64,
}

impl Superblock {
    pub(crate) fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let raw = volume.read(OFFSET, BYTES)?;
        let mismatch = |place, expected: u64, found: u64| Err(Doubt::Mismatch { place, expected, found });
        if raw.le16(0x38)? != MAGIC {
            return mismatch("superblock's magic", MAGIC.into(), raw.le16(0x38)?.into());
        }
        let (compat, incompat, ro_compat) = features(&raw)?;
        let checksums = checksums(&raw, incompat, ro_compat)?;
        check_state(&raw, incompat, ro_compat)?;
        let mut superblock = Self::layout(&raw, compat, incompat, ro_compat, checksums)?;
        if superblock.has_journal() && (superblock.journal_inode == 0 || raw.le32(0xe4)? != 0) {
            return Err(Doubt::Elsewhere { place: "the journal" });
        }
        superblock.count_groups(raw.le32(0)?.into(), u64::from(raw.le16(0xce)?))?;
        Ok(superblock)
    }

    /// For reading files: what only speaks of free blocks, or of how it was left, is no hindrance.
    pub(crate) fn for_files(volume: &View<'_>) -> Result<Self, Doubt> {
        let raw = volume.read(OFFSET, BYTES)?;
        if raw.le16(0x38)? != MAGIC || raw.le32(0x4c)? > 1 {
            return Err(Doubt::Impossible { place: "superblock's magic", found: raw.le16(0x38)?.into() });
        }
        let (compat, incompat, ro_compat) = (raw.le32(0x5c)?, raw.le32(0x60)?, raw.le32(0x64)?);
        let unknown = incompat & !INCOMPAT_KNOWN & !RECOVER;
        if unknown != 0 {
            return Err(Doubt::Feature { place: "incompatible features", found: unknown.into() });
        }
        let checksums = checksums(&raw, incompat, ro_compat)?;
        let mut superblock = Self::layout(&raw, compat, incompat, ro_compat, checksums)?;
        superblock.count_groups(raw.le32(0)?.into(), u64::from(raw.le16(0xce)?))?;
        match incompat & RECOVER != 0 && (superblock.journal_inode == 0 || raw.le32(0xe4)? != 0) {
            true => Err(Doubt::Elsewhere { place: "the journal" }),
            false => Ok(superblock),
        }
    }

    fn layout(
        raw: &[u8],
        compat: u32,
        incompat: u32,
        ro_compat: u32,
        checksums: Checksums,
    ) -> Result<Self, Doubt> {
        let bigalloc = ro_compat & BIGALLOC != 0;
        let is_64bit = incompat & SIXTY_FOUR_BIT != 0;
        let block_bytes = shifted(1024, raw.le32(0x18)?, 6, "block size")?;
        let cluster_bytes = match bigalloc {
            // The largest cluster that mke2fs makes has 512 MiB.
            true => shifted(1024, raw.le32(0x1c)?, 19, "cluster size")?,
            false => block_bytes,
        };
        let wide = |low: usize, high: usize| -> Result<u64, Doubt> {
            let high = if is_64bit { raw.le32(high)? } else { 0 };
            Ok(u64::from(raw.le32(low)?) | u64::from(high) << 32)
        };
        let dynamic = raw.le32(0x4c)? != 0;
        let superblock = Self {
            compat,
            incompat,
            ro_compat,
            uuid: raw.array(0x68)?,
            checksums,
            block_bytes,
            blocks: wide(0x4, 0x150)?,
            first_data_block: raw.le32(0x14)?.into(),
            cluster_blocks: quotient(cluster_bytes, block_bytes, "cluster size")?,
            group_blocks: raw.le32(0x20)?.into(),
            group_clusters: raw.le32(0x24)?.into(),
            groups: 0,
            inode_bytes: if dynamic { raw.le16(0x58)?.into() } else { 128 },
            group_inodes: raw.le32(0x28)?.into(),
            inode_table_blocks: 0,
            descriptor_bytes: if is_64bit { raw.le16(0xfe)?.into() } else { 32 },
            old_descriptor_blocks: 0,
            descriptor_blocks: 0,
            first_meta_bg: raw.le32(0x104)?.into(),
            backup_groups: [raw.le32(0x24c)?.into(), raw.le32(0x250)?.into()],
            free_blocks: wide(0xc, 0x158)?,
            journal_inode: raw.le32(0xe0)?.into(),
        };
        superblock.check_sizes(is_64bit)?;
        Ok(superblock)
    }

    /// What the kernel checks before it mounts: linux fs/ext4/super.c, `ext4_fill_super` and what it calls.
    fn check_sizes(&self, is_64bit: bool) -> Result<(), Doubt> {
        let impossible = |place, found| Err(Doubt::Impossible { place, found });
        let bits = self.block_bytes.saturating_mul(8);
        let first = u64::from(self.block_bytes == 1024 && !self.is_bigalloc());
        if self.first_data_block != first {
            return Err(Doubt::Mismatch {
                place: "first data block",
                expected: first,
                found: self.first_data_block,
            });
        }
        if self.blocks <= first || self.blocks.checked_mul(self.block_bytes).is_none() {
            return impossible("number of blocks", self.blocks);
        }
        if self.group_clusters == 0 || self.group_clusters > bits || !self.group_clusters.is_multiple_of(8) {
            return impossible("clusters in a group", self.group_clusters);
        }
        let expected = self.group_clusters.saturating_mul(self.cluster_blocks);
        if self.group_blocks != expected {
            return Err(Doubt::Mismatch { place: "blocks in a group", expected, found: self.group_blocks });
        }
        let inode = self.inode_bytes;
        if !inode.is_power_of_two() || inode < 128 || inode > self.block_bytes {
            return impossible("inode size", inode);
        }
        if self.group_inodes == 0 || self.group_inodes > bits {
            return impossible("inodes in a group", self.group_inodes);
        }
        let descriptor = self.descriptor_bytes;
        let smallest = if is_64bit { 64 } else { 32 };
        if !descriptor.is_power_of_two() || descriptor < smallest || descriptor > 1024 {
            return impossible("descriptor size", descriptor);
        }
        Ok(())
    }

    fn count_groups(&mut self, inodes: u64, reserved_descriptor_blocks: u64) -> Result<(), Doubt> {
        let impossible = |place, found| Doubt::Impossible { place, found };
        let data_blocks = self.blocks.saturating_sub(self.first_data_block);
        self.groups = data_blocks.div_ceil(self.group_blocks);
        if self.groups > GROUPS_MAX {
            return Err(impossible("number of groups", self.groups));
        }
        let expected = self.groups.saturating_mul(self.group_inodes);
        if inodes != expected {
            return Err(Doubt::Mismatch { place: "number of inodes", expected, found: inodes });
        }
        let table_bytes = self.group_inodes.saturating_mul(self.inode_bytes);
        self.inode_table_blocks = table_bytes.div_ceil(self.block_bytes);
        self.descriptor_blocks = self.groups.saturating_mul(self.descriptor_bytes).div_ceil(self.block_bytes);
        if reserved_descriptor_blocks > self.block_bytes / 4 {
            return Err(impossible("blocks kept for descriptors", reserved_descriptor_blocks));
        }
        if self.has_meta_bg() && self.first_meta_bg > self.descriptor_blocks {
            return Err(impossible("first meta block group", self.first_meta_bg));
        }
        self.old_descriptor_blocks = match self.has_meta_bg() {
            true => self.first_meta_bg,
            false => self.descriptor_blocks.saturating_add(reserved_descriptor_blocks),
        };
        Ok(())
    }

    /// Size of the filesystem.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }

    pub(crate) fn kind(&self) -> &'static str {
        match () {
            () if self.incompat & !INCOMPAT_EXT3 != 0 || self.ro_compat & !RO_COMPAT_EXT3 != 0 => "ext4",
            () if self.has_journal() => "ext3",
            () => "ext2",
        }
    }

    pub(crate) fn has_journal(&self) -> bool {
        self.compat & HAS_JOURNAL != 0
    }

    pub(crate) fn has_flex_bg(&self) -> bool {
        self.incompat & FLEX_BG != 0
    }

    pub(crate) fn is_bigalloc(&self) -> bool {
        self.ro_compat & BIGALLOC != 0
    }

    /// Whether the journal has to be replayed before anything else is believed.
    pub(crate) fn needs_recovery(&self) -> bool {
        self.incompat & RECOVER != 0
    }

    /// Whether entries of folders say what kind of file they are for.
    pub(crate) fn has_file_types(&self) -> bool {
        self.incompat & 0x2 != 0
    }

    /// Whether folders may have more than 4 GiB.
    pub(crate) fn has_large_folders(&self) -> bool {
        self.incompat & 0x4000 != 0
    }

    pub(crate) fn inodes(&self) -> u64 {
        self.groups.saturating_mul(self.group_inodes)
    }

    fn has_meta_bg(&self) -> bool {
        self.incompat & META_BG != 0
    }

    /// The first block of a group.
    pub(crate) fn group_first_block(&self, group: u64) -> u64 {
        self.first_data_block.saturating_add(group.saturating_mul(self.group_blocks))
    }

    /// Blocks in a group: the last one may have fewer.
    pub(crate) fn group_len_blocks(&self, group: u64) -> u64 {
        self.blocks.saturating_sub(self.group_first_block(group)).min(self.group_blocks)
    }

    /// Where a group's copy of the superblock would be: in the first, with 1 KiB blocks, behind the boot block, even
    /// where bigalloc counts that as the group's.
    fn copy_block(&self, group: u64) -> u64 {
        let first = self.group_first_block(group);
        if first == 0 && self.block_bytes == 1024 { 1 } else { first }
    }

    /// e2fsprogs lib/ext2fs/closefs.c, `ext2fs_bg_has_super`.
    fn has_copy(&self, group: u64) -> bool {
        let is_power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match group {
            0 => true,
            _ if self.compat & SPARSE_SUPER2 != 0 => self.backup_groups.contains(&group),
            1 => true,
            _ if self.ro_compat & SPARSE_SUPER == 0 => true,
            _ => [3, 5, 7].into_iter().any(is_power_of),
        }
    }

    /// The blocks at the beginning of a group that hold a superblock and descriptors: first and number. e2fsprogs
    /// lib/ext2fs/closefs.c, `ext2fs_super_and_bgd_loc2`.
    pub(crate) fn copies(&self, group: u64) -> (u64, u64) {
        let has_copy = self.has_copy(group);
        let per_block = self.descriptors_per_block();
        let meta_bg = group.checked_div(per_block).unwrap_or(0);
        let descriptors = if !self.has_meta_bg() || meta_bg < self.first_meta_bg {
            if has_copy { self.old_descriptor_blocks } else { 0 }
        } else {
            let place = group.checked_rem(per_block).unwrap_or(0);
            u64::from(place == 0 || place == 1 || place == per_block.saturating_sub(1))
        };
        (self.copy_block(group), u64::from(has_copy).saturating_add(descriptors))
    }

    pub(crate) fn descriptors_per_block(&self) -> u64 {
        // Neither is zero, and a descriptor is no larger than a block: `check_sizes`.
        self.block_bytes.checked_div(self.descriptor_bytes).unwrap_or(1).max(1)
    }

    /// Where a block of descriptors is: e2fsprogs lib/ext2fs/openfs.c, `ext2fs_descriptor_block_loc2`.
    pub(crate) fn descriptor_block(&self, number: u64) -> u64 {
        if !self.has_meta_bg() || number < self.first_meta_bg {
            return self.copy_block(0).saturating_add(1).saturating_add(number);
        }
        let group = number.saturating_mul(self.descriptors_per_block());
        self.copy_block(group).saturating_add(u64::from(self.has_copy(group)))
    }
}

fn features(raw: &[u8]) -> Result<(u32, u32, u32), Doubt> {
    match raw.le32(0x4c)? {
        // Revision 0 has no features, but blkid and the kernel look at the fields: so they must be zero.
        0 | 1 => {}
        found => return Err(Doubt::Impossible { place: "superblock's revision", found: found.into() }),
    }
    let (compat, incompat, ro_compat) = (raw.le32(0x5c)?, raw.le32(0x60)?, raw.le32(0x64)?);
    let unknown = [
        ("compatible features", compat & !COMPAT_KNOWN),
        ("incompatible features", incompat & !INCOMPAT_KNOWN & !RECOVER),
        ("read-only compatible features", ro_compat & !RO_COMPAT_KNOWN & !ORPHAN_PRESENT),
        ("superblock's flags", raw.le32(0x160)? & !FLAGS_KNOWN),
    ];
    match unknown.into_iter().find(|(_, bits)| *bits != 0) {
        Some((place, bits)) => Err(Doubt::Feature { place, found: bits.into() }),
        None => Ok((compat, incompat, ro_compat)),
    }
}

fn check_state(raw: &[u8], incompat: u32, ro_compat: u32) -> Result<(), Doubt> {
    let state = raw.le16(0x3a)?;
    if state & ERROR_FS != 0 || raw.le32(0x194)? != 0 {
        return Err(Doubt::Damaged { place: "superblock" });
    }
    if incompat & RECOVER != 0 {
        return Err(Doubt::Journal);
    }
    let orphans = raw.le32(0xe8)? != 0 || ro_compat & ORPHAN_PRESENT != 0;
    if state != VALID_FS || orphans {
        return Err(Doubt::NotClean { place: "superblock" });
    }
    Ok(())
}

fn checksums(raw: &[u8], incompat: u32, ro_compat: u32) -> Result<Checksums, Doubt> {
    const CRC32C_TYPE: u8 = 1;
    if ro_compat & METADATA_CSUM == 0 {
        return Ok(if ro_compat & GDT_CSUM == 0 { Checksums::None } else { Checksums::Descriptors });
    }
    let kind = raw.byte(0x175)?;
    if kind != CRC32C_TYPE {
        return Err(Doubt::Impossible { place: "kind of checksum", found: kind.into() });
    }
    if crc32c(!0, raw.part(0, CHECKSUM)?) != raw.le32(CHECKSUM)? {
        return Err(Doubt::Checksum { place: "superblock", number: 0 });
    }
    let seed = match incompat & CSUM_SEED {
        0 => crc32c(!0, raw.part(0x68, 16)?),
        _ => raw.le32(0x270)?,
    };
    Ok(Checksums::All { seed })
}

/// `unit` shifted, by at most `most`.
fn shifted(unit: u64, by: u32, most: u32, place: &'static str) -> Result<u64, Doubt> {
    let shifted = unit.checked_shl(by).filter(|_| by <= most);
    shifted.ok_or(Doubt::Impossible { place, found: by.into() })
}

/// How many times `unit` goes into `whole`, at least once.
fn quotient(whole: u64, unit: u64, place: &'static str) -> Result<u64, Doubt> {
    let quotient = whole.checked_div(unit).filter(|quotient| *quotient > 0);
    quotient.ok_or(Doubt::Impossible { place, found: whole })
}

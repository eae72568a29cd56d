//! Block groups: their descriptors and block bitmaps, made into one map.
//!
//! Promise: each descriptor and bitmap holds to its checksum and count, and no block of metadata is free.
//! Knows nothing of inodes. Fields: linux Documentation/filesystems/ext4/group_descr.rst, bitmaps.rst.

use super::superblock::{Checksums, Superblock};
use crate::Extent;
use crate::fs::Doubt;
use crate::fs::crc::{crc16, crc32c};
use crate::fs::view::{Fields, View};
use crate::map::FreeMap;

/// `bg_flags`: the block bitmap was never written.
const BLOCK_UNINIT: u16 = 0x2;
/// `bg_checksum`.
const CHECKSUM: usize = 0x1e;
/// Descriptors of this size have the upper halves of numbers.
const WIDE_BYTES: usize = 64;

/// What the groups say.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) free: FreeMap,
    /// The first block of the first group's inode table.
    pub(super) first_inode_table: u64,
}

pub(super) fn read(volume: &View<'_>, superblock: &Superblock) -> Result<Groups, Doubt> {
    let mut map = FreeMap::builder(superblock.bytes());
    let mut metadata = Metadata::default();
    let mut free_clusters = 0_u64;
    let mut first_inode_table = 0;
    let mut descriptors = Vec::new();
    for group in 0..superblock.groups {
        let per_block = superblock.descriptors_per_block();
        if group.checked_rem(per_block) == Some(0) {
            let number = group.checked_div(per_block).unwrap_or(0);
            let offset = superblock.descriptor_block(number).saturating_mul(superblock.block_bytes);
            descriptors = volume.read(offset, len(superblock.block_bytes))?;
        }
        let at = group.checked_rem(per_block).unwrap_or(0).saturating_mul(superblock.descriptor_bytes);
        let raw = descriptors[..].part(len(at), len(superblock.descriptor_bytes))?;
        let descriptor = Descriptor::decode(superblock, group, raw)?;
        if group == 0 {
            first_inode_table = descriptor.inode_table;
        }
        metadata.add(superblock, group, &descriptor);
        let clusters = superblock.group_len_blocks(group).div_ceil(superblock.cluster_blocks);
        let bitmap = bitmap(volume, superblock, group, &descriptor)?;
        let found = zeros(&bitmap, clusters);
        if found != descriptor.free_clusters {
            let expected = descriptor.free_clusters;
            return Err(Doubt::Mismatch { place: "free blocks of a group", expected, found });
        }
        free_clusters = free_clusters.saturating_add(found);
        let first = superblock.group_first_block(group).saturating_mul(superblock.block_bytes);
        let cluster_bytes = superblock.cluster_blocks.saturating_mul(superblock.block_bytes);
        map.add_bitmap(first, cluster_bytes, &bitmap, clusters);
    }
    let found = free_clusters.saturating_mul(superblock.cluster_blocks);
    if found != superblock.free_blocks {
        return Err(Doubt::Mismatch { place: "free blocks", expected: superblock.free_blocks, found });
    }
    let free = map.finish();
    metadata.check_used(superblock, &free)?;
    Ok(Groups { free, first_inode_table })
}

/// Lengths here are at most a block's.
fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Bits that are 0 among the first `count`.
fn zeros(bitmap: &[u8], count: u64) -> u64 {
    let whole = len(count / 8);
    let of_bytes: u64 = bitmap.iter().take(whole).map(|byte| u64::from(byte.count_zeros())).sum();
    let rest = u32::try_from(count % 8).unwrap_or(0);
    let ones_above = 0xff_u8.checked_shl(rest).unwrap_or(0);
    let of_rest = bitmap.get(whole).map_or(0, |byte| (byte | ones_above).count_zeros());
    of_bytes.saturating_add(of_rest.into())
}

/// What is needed of a group's descriptor.
#[derive(Debug)]
pub(crate) struct Descriptor {
    block_bitmap: u64,
    inode_bitmap: u64,
    pub(crate) inode_table: u64,
    free_clusters: u64,
    bitmap_is_unwritten: bool,
    bitmap_checksum: u32,
    /// Whether all of the bitmap's checksum is kept.
    is_wide: bool,
}

impl Descriptor {
    pub(crate) fn decode(superblock: &Superblock, group: u64, raw: &[u8]) -> Result<Self, Doubt> {
        if let Some(checksum) = descriptor_checksum(superblock, group, raw)?
            && checksum != raw.le16(CHECKSUM)?
        {
            return Err(Doubt::Checksum { place: "group descriptor", number: group });
        }
        let is_wide = raw.len() >= WIDE_BYTES;
        let block = |low: usize, high: usize| -> Result<u64, Doubt> {
            let high = if is_wide { raw.le32(high)? } else { 0 };
            Ok(u64::from(raw.le32(low)?) | u64::from(high) << 32)
        };
        let halves = |low: usize, high: usize| -> Result<u32, Doubt> {
            let high = if is_wide { raw.le16(high)? } else { 0 };
            Ok(u32::from(raw.le16(low)?) | u32::from(high) << 16)
        };
        // Without checksums the flags mean nothing: linux fs/ext4/balloc.c, `ext4_read_block_bitmap_nowait`.
        let has_flags = superblock.checksums != Checksums::None;
        let descriptor = Self {
            block_bitmap: block(0x0, 0x20)?,
            inode_bitmap: block(0x4, 0x24)?,
            inode_table: block(0x8, 0x28)?,
            free_clusters: halves(0xc, 0x2c)?.into(),
            bitmap_is_unwritten: has_flags && raw.le16(0x12)? & BLOCK_UNINIT != 0,
            bitmap_checksum: halves(0x18, 0x38)?,
            is_wide,
        };
        if group == 0 && descriptor.bitmap_is_unwritten {
            return Err(Doubt::Impossible { place: "unwritten bitmap of group", found: 0 });
        }
        descriptor.check_places(superblock, group)?;
        Ok(descriptor)
    }

    /// Its bitmaps and inode table lie in the filesystem; without flex_bg, in the group.
    fn check_places(&self, superblock: &Superblock, group: u64) -> Result<(), Doubt> {
        let (first, end) = match superblock.has_flex_bg() {
            true => (superblock.first_data_block, superblock.blocks),
            false => {
                let first = superblock.group_first_block(group);
                (first, first.saturating_add(superblock.group_len_blocks(group)))
            }
        };
        for (place, block, blocks) in self.tables(superblock) {
            let is_inside = block >= first && block.checked_add(blocks).is_some_and(|its_end| its_end <= end);
            if !is_inside {
                return Err(Doubt::Impossible { place, found: block });
            }
        }
        Ok(())
    }

    fn tables(&self, superblock: &Superblock) -> [(&'static str, u64, u64); 3] {
        [
            ("place of a block bitmap", self.block_bitmap, 1),
            ("place of an inode bitmap", self.inode_bitmap, 1),
            ("place of an inode table", self.inode_table, superblock.inode_table_blocks),
        ]
    }
}

/// linux fs/ext4/super.c, `ext4_group_desc_csum`.
fn descriptor_checksum(superblock: &Superblock, group: u64, raw: &[u8]) -> Result<Option<u16>, Doubt> {
    let group = u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes();
    let rest_at = CHECKSUM.saturating_add(2);
    let (before, rest) = (raw.part(0, CHECKSUM)?, raw.part(rest_at, raw.len().saturating_sub(rest_at))?);
    Ok(match superblock.checksums {
        Checksums::None => None,
        Checksums::Descriptors => {
            let register = crc16(crc16(!0, &superblock.uuid), &group);
            Some(crc16(crc16(register, before), rest))
        }
        Checksums::All { seed } => {
            let register = crc32c(crc32c(seed, &group), before);
            let [low, high, ..] = crc32c(crc32c(register, &[0, 0]), rest).to_le_bytes();
            Some(u16::from_le_bytes([low, high]))
        }
    })
}

/// A group's block bitmap: one bit for each cluster, 1 = used.
fn bitmap(
    volume: &View<'_>,
    superblock: &Superblock,
    group: u64,
    descriptor: &Descriptor,
) -> Result<Vec<u8>, Doubt> {
    let bytes = len(superblock.group_clusters / 8);
    if descriptor.bitmap_is_unwritten {
        return Ok(unwritten(superblock, group, descriptor, bytes));
    }
    let bitmap = volume.read(descriptor.block_bitmap.saturating_mul(superblock.block_bytes), bytes)?;
    if let Checksums::All { seed } = superblock.checksums {
        let kept = if descriptor.is_wide { u32::MAX } else { u32::from(u16::MAX) };
        if crc32c(seed, &bitmap) & kept != descriptor.bitmap_checksum {
            return Err(Doubt::Checksum { place: "block bitmap", number: group });
        }
    }
    Ok(bitmap)
}

/// The bitmap that the kernel would make: linux fs/ext4/balloc.c, `ext4_init_block_bitmap`.
fn unwritten(superblock: &Superblock, group: u64, descriptor: &Descriptor, bytes: usize) -> Vec<u8> {
    let mut bitmap = vec![0_u8; bytes];
    let first = superblock.group_first_block(group);
    let end = first.saturating_add(superblock.group_len_blocks(group));
    let (copy, copy_blocks) = superblock.copies(group);
    let tables = descriptor.tables(superblock).map(|(_, block, blocks)| (block, blocks));
    for (block, blocks) in tables.into_iter().chain([(copy, copy_blocks)]) {
        let (from, to) = (block.max(first), block.saturating_add(blocks).min(end));
        let cluster = |block: u64| block.saturating_sub(first).checked_div(superblock.cluster_blocks);
        let (Some(from_cluster), Some(last_cluster)) = (cluster(from), cluster(to.saturating_sub(1))) else {
            continue;
        };
        if from < to {
            (from_cluster..=last_cluster).for_each(|cluster| set(&mut bitmap, cluster));
        }
    }
    bitmap
}

fn set(bitmap: &mut [u8], bit: u64) {
    if let Some(byte) = bitmap.get_mut(len(bit / 8)) {
        *byte |= 1_u8.checked_shl(u32::try_from(bit % 8).unwrap_or(0)).unwrap_or(0);
    }
}

/// Where superblocks, descriptors, bitmaps and inode tables lie, in blocks.
#[derive(Debug, Default)]
struct Metadata {
    /// (first, number): neighbours that come one after another are made one, so that there are few.
    runs: Vec<(u64, u64)>,
}

impl Metadata {
    fn add(&mut self, superblock: &Superblock, group: u64, descriptor: &Descriptor) {
        self.push(superblock.copies(group));
        for (_, block, blocks) in descriptor.tables(superblock) {
            self.push((block, blocks));
        }
    }

    fn push(&mut self, (block, blocks): (u64, u64)) {
        match self.runs.last_mut() {
            _ if blocks == 0 => {}
            Some((first, number)) if first.saturating_add(*number) == block => {
                *number = number.saturating_add(blocks);
            }
            _ => self.runs.push((block, blocks)),
        }
    }

    /// No two lie in one place, and none in a free one.
    fn check_used(mut self, superblock: &Superblock, free: &FreeMap) -> Result<(), Doubt> {
        self.runs.sort_unstable();
        let mut free = free.free().iter().peekable();
        let mut told = 0;
        for (block, blocks) in self.runs {
            if block < told {
                return Err(Doubt::Impossible { place: "two tables in block", found: block });
            }
            told = block.saturating_add(blocks);
            let place = |block: u64| block.saturating_mul(superblock.block_bytes);
            let extent = Extent { offset: place(block), bytes: place(blocks) };
            while free.next_if(|free| free.end() <= extent.offset).is_some() {}
            if free.peek().is_some_and(|free| free.overlaps(&extent)) {
                return Err(Doubt::Impossible { place: "a table in free block", found: block });
            }
        }
        Ok(())
    }
}

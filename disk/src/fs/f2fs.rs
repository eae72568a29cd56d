//! F2FS: blocks of the main area that no segment's map calls valid.
//!
//! Promise: the checkpoint is that of a clean unmount, nothing was written after it that a mount would roll forward,
//! every map has as many bits as its count says, and the counts are those of the checkpoint; else a doubt.
//! Knows nothing of nodes and files. Format: linux include/linux/f2fs_fs.h; which copies count: fs/f2fs/checkpoint.c
//! (`f2fs_get_valid_checkpoint`), fs/f2fs/segment.c (`build_sit_entries`), fs/f2fs/super.c (`sanity_check_*`).

use super::view::{Fields, View};
use super::{Allocation, Doubt};
use crate::map::FreeMap;

const SUPER_OFFSET: u64 = 1024;
const SUPER_BYTES: usize = 3072;
const MAGIC: u32 = 0xf2f5_2010;
const BLOCK_BYTES: u64 = 4096;
const BLOCK: usize = 4096;
const SEGMENT_BLOCKS: u64 = 512;
/// All up to COMPRESSION but BLKZONED. Not: RO (other logs), DEVICE_ALIAS, PACKED_SSA (other summaries).
const FEATURES_KNOWN: u32 = 0x3ffd;
const FEATURE_SUPER_CHECKSUM: u32 = 0x800;
const FLAG_UMOUNT: u32 = 0x1;
const FLAG_ORPHANS: u32 = 0x2;
const FLAG_COMPACT: u32 = 0x4;
/// ERROR, FSCK, QUOTA_NEED_FSCK.
const FLAGS_DAMAGED: u32 = 0x8 | 0x10 | 0x800;
/// UMOUNT, ORPHAN_PRESENT, COMPACT_SUM, CRC_RECOVERY, NAT_BITS, TRIMMED, NOCRC_RECOVERY. Not: FASTBOOT, LARGE_NAT_BITMAP
/// (other places), DISABLED, DISABLED_QUICK, RESIZEFS.
const FLAGS_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | FLAGS_DAMAGED;
/// `CP_CHKSUM_OFFSET`.
const CHECKSUM_OFFSET: usize = 4092;
const CHECKPOINT_BITMAPS: usize = 192;
const CURRENT_NODE_SEGMENTS: usize = 36;
const CURRENT_DATA_SEGMENTS: usize = 84;
/// `struct f2fs_sit_entry`.
const ENTRY_BYTES: usize = 74;
const MAP_BYTES: usize = 64;
const ENTRIES_IN_BLOCK: u64 = 55;
/// `SUM_JOURNAL_SIZE`, and where it begins in a summary block.
const JOURNAL_BYTES: usize = 507;
const JOURNAL_OFFSET: usize = 3584;
const JOURNAL_ENTRY_BYTES: usize = 78;
const JOURNAL_ENTRIES_MAX: u16 = 6;
/// `NR_CURSEG_TYPE`, `CURSEG_COLD_DATA`.
const LOGS: u64 = 6;
const COLD_DATA: u64 = 2;
/// The SIT bitmap of the largest volume (16 TiB) has this many bytes.
const SIT_BITMAP_BYTES_MAX: u64 = 1 << 15;

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let layout = Layout::read(volume)?;
    let checkpoint = Checkpoint::read(volume, &layout)?;
    checkpoint.check_flags()?;
    checkpoint.check_roll_forward(volume, &layout)?;
    let free = free(volume, &layout, &checkpoint)?;
    Ok(Allocation { kind: "f2fs", free, excluded: Vec::new() })
}

/// Where the areas are, in blocks.
struct Layout {
    checkpoint: u64,
    sit: u64,
    /// Blocks of one of the two copies.
    sit_blocks: u64,
    main: u64,
    main_segments: u64,
    payload: u64,
}

/// The register in and out, without inversions: `f2fs_crc32`.
fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!MAGIC);
    hasher.update(bytes);
    !hasher.finalize()
}

fn impossible(place: &'static str, found: impl Into<u64>) -> Doubt {
    Doubt::Impossible { place, found: found.into() }
}

fn agree(place: &'static str, expected: impl Into<u64>, found: impl Into<u64>) -> Result<(), Doubt> {
    let (expected, found) = (expected.into(), found.into());
    if expected == found { Ok(()) } else { Err(Doubt::Mismatch { place, expected, found }) }
}

impl Layout {
    fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let raw = volume.read(SUPER_OFFSET, SUPER_BYTES)?;
        if raw.le32(0)? != MAGIC {
            return Err(impossible("signature of the superblock", raw.le32(0)?));
        }
        let features = raw.le32(2180)?;
        if features & FEATURE_SUPER_CHECKSUM != 0 {
            agree("place of the superblock's checksum", 3068_u32, raw.le32(32)?)?;
            if crc(raw.part(0, 3068)?) != raw.le32(3068)? {
                return Err(Doubt::Checksum { place: "superblock", number: 0 });
            }
        }
        if volume.read(SUPER_OFFSET.saturating_add(BLOCK_BYTES), SUPER_BYTES)? != raw {
            return Err(impossible("a different copy of the superblock, number", 1_u32));
        }
        if features & !FEATURES_KNOWN != 0 {
            let found = (features & !FEATURES_KNOWN).into();
            return Err(Doubt::Feature { place: "superblock", found });
        }
        // The path of the first of several devices.
        if raw.byte(2201)? != 0 {
            return Err(Doubt::Elsewhere { place: "a part of the filesystem" });
        }
        // `s_stop_reason`, `s_errors`.
        if raw.part(2762, 48)?.iter().any(|byte| *byte != 0) {
            return Err(Doubt::Damaged { place: "superblock" });
        }
        let sector = raw.le32(8)?.checked_add(raw.le32(12)?);
        agree("size of a block, as a power of two", 12_u32, raw.le32(16)?)?;
        agree("size of a sector and sectors of a block", 12_u32, sector.unwrap_or(0))?;
        agree("blocks of a segment, as a power of two", 9_u32, raw.le32(20)?)?;
        Self::areas(&raw, volume)
    }

    /// One follows the other.
    fn areas(raw: &[u8], volume: &View<'_>) -> Result<Self, Doubt> {
        let blocks = |at| Ok::<_, Doubt>(u64::from(raw.le32(at)?).saturating_mul(SEGMENT_BLOCKS));
        let mut next = u64::from(raw.le32(72)?);
        // Addresses of checkpoint, SIT, NAT, SSA and main area; how many segments each has.
        for (address, segments) in [(76, 52), (80, 56), (84, 60), (88, 64), (92, 68)] {
            agree("first block of an area", next, raw.le32(address)?)?;
            next = next.saturating_add(blocks(segments)?);
        }
        let block_count = raw.le64(36)?;
        let expected = block_count.saturating_mul(BLOCK_BYTES);
        if expected > volume.bytes() {
            return Err(Doubt::TooLarge { expected, found: volume.bytes() });
        }
        let whole = u64::from(raw.le32(72)?).saturating_add(blocks(48)?);
        if next > whole || whole > block_count {
            return Err(impossible("end of the main area", next));
        }
        agree("segments of the checkpoint", 2_u32, raw.le32(52)?)?;
        let sit_segments = raw.le32(56)?;
        let sit_blocks = u64::from(sit_segments >> 1).saturating_mul(SEGMENT_BLOCKS);
        let main_segments = u64::from(raw.le32(68)?);
        let entries = sit_blocks.saturating_mul(ENTRIES_IN_BLOCK);
        if sit_segments & 1 != 0 || main_segments > entries || main_segments == 0 {
            return Err(impossible("segments of the SIT", sit_segments));
        }
        let payload = u64::from(raw.le32(1664)?);
        if payload.saturating_mul(BLOCK_BYTES) > SIT_BITMAP_BYTES_MAX {
            return Err(impossible("blocks of the checkpoint's payload", payload));
        }
        Ok(Self {
            checkpoint: raw.le32(76)?.into(),
            sit: raw.le32(80)?.into(),
            sit_blocks,
            main: raw.le32(92)?.into(),
            main_segments,
            payload,
        })
    }
}

fn block(volume: &View<'_>, number: u64) -> Result<Vec<u8>, Doubt> {
    volume.read(number.saturating_mul(BLOCK_BYTES), BLOCK)
}

/// The newer of two packs.
struct Checkpoint {
    first_block: u64,
    blocks: u64,
    raw: Vec<u8>,
    version: u64,
    flags: u32,
}

impl Checkpoint {
    fn read(volume: &View<'_>, layout: &Layout) -> Result<Self, Doubt> {
        let second = layout.checkpoint.saturating_add(SEGMENT_BLOCKS);
        match (Self::pack(volume, layout.checkpoint)?, Self::pack(volume, second)?) {
            // `ver_after`
            (Some(first), Some(second)) => Ok(match second.version.wrapping_sub(first.version) {
                1..=0x7fff_ffff_ffff_ffff => second,
                _ => first,
            }),
            (Some(only), None) | (None, Some(only)) => Ok(only),
            (None, None) => Err(Doubt::Checksum { place: "checkpoint", number: 0 }),
        }
    }

    /// `None`: it was never written, or not to its end.
    fn pack(volume: &View<'_>, first_block: u64) -> Result<Option<Self>, Doubt> {
        let raw = block(volume, first_block)?;
        let blocks = u64::from(raw.le32(136)?);
        if !Self::holds(&raw)? || !(LOGS..=SEGMENT_BLOCKS).contains(&blocks) {
            return Ok(None);
        }
        let last = block(volume, first_block.saturating_add(blocks).saturating_sub(1))?;
        let version = raw.le64(0)?;
        if !Self::holds(&last)? || last.le64(0)? != version {
            return Ok(None);
        }
        let flags = raw.le32(132)?;
        Ok(Some(Self { first_block, blocks, raw, version, flags }))
    }

    fn holds(raw: &[u8]) -> Result<bool, Doubt> {
        let place = u64::from(raw.le32(164)?);
        let expected = u64::try_from(CHECKSUM_OFFSET).unwrap_or(u64::MAX);
        Ok(place == expected && crc(raw.part(0, CHECKSUM_OFFSET)?) == raw.le32(CHECKSUM_OFFSET)?)
    }

    fn check_flags(&self) -> Result<(), Doubt> {
        let place = "checkpoint";
        if self.flags & FLAGS_DAMAGED != 0 {
            return Err(Doubt::Damaged { place });
        }
        if self.flags & !FLAGS_KNOWN != 0 {
            return Err(Doubt::Feature { place, found: (self.flags & !FLAGS_KNOWN).into() });
        }
        if self.flags & FLAG_UMOUNT == 0 || self.flags & FLAG_ORPHANS != 0 {
            return Err(Doubt::NotClean { place });
        }
        Ok(())
    }

    /// After a clean unmount and another mount, files may be synced without a new checkpoint: their nodes lie, from
    /// the next block of the log of warm nodes on, in what the checkpoint calls free (`find_fsync_dnodes`).
    fn check_roll_forward(&self, volume: &View<'_>, layout: &Layout) -> Result<(), Doubt> {
        const WARM_NODES: usize = CURRENT_NODE_SEGMENTS + 4;
        const WARM_NODES_OFFSET: usize = 68 + 2;
        /// `struct node_footer` ends a block; in it, `cp_ver`.
        const NODE_VERSION: usize = BLOCK - 24 + 12;
        let (segment, offset) = (u64::from(self.raw.le32(WARM_NODES)?), self.raw.le16(WARM_NODES_OFFSET)?);
        // A log at the end of its segment goes on in another, which only a mount finds.
        if segment >= layout.main_segments || u64::from(offset) >= SEGMENT_BLOCKS {
            return Err(impossible("next block of the log of nodes", segment));
        }
        let next =
            layout.main.saturating_add(segment.saturating_mul(SEGMENT_BLOCKS)).saturating_add(offset.into());
        // The upper half of the version may hold a checksum, or not.
        let [low, found] =
            [self.version, block(volume, next)?.le64(NODE_VERSION)?].map(|it| it & 0xffff_ffff);
        if low == found { Err(Doubt::Journal) } else { Ok(()) }
    }

    /// A block of the pack.
    fn block(&self, volume: &View<'_>, number: u64) -> Result<Vec<u8>, Doubt> {
        if number >= self.blocks {
            return Err(impossible("block of the checkpoint", number));
        }
        block(volume, self.first_block.saturating_add(number))
    }

    /// Which copy of each block of the SIT counts: highest bit first.
    fn sit_bitmap(&self, volume: &View<'_>, layout: &Layout) -> Result<Vec<u8>, Doubt> {
        let len = layout.sit_blocks >> 3;
        agree("bytes of the SIT's bitmap", len, self.raw.le32(156)?)?;
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        if layout.payload == 0 {
            // Up to the checksum.
            let all = self.raw.part(0, CHECKSUM_OFFSET)?;
            return Ok(all.part(CHECKPOINT_BITMAPS, bytes)?.to_vec());
        }
        let mut bitmap = Vec::new();
        for number in 1..=layout.payload {
            bitmap.extend(self.block(volume, number)?);
        }
        bitmap.get(..bytes).map(<[u8]>::to_vec).ok_or(impossible("bytes of the SIT's bitmap", len))
    }

    /// Entries that are newer than those of the SIT.
    fn journal(&self, volume: &View<'_>) -> Result<Vec<(u64, Vec<u8>)>, Doubt> {
        let (number, at) = match self.flags & FLAG_COMPACT != 0 {
            true => (u64::from(self.raw.le32(140)?), JOURNAL_BYTES),
            // The summaries of all logs, data first, are the last blocks but one.
            false => {
                (self.blocks.saturating_sub(LOGS.saturating_add(1)).saturating_add(COLD_DATA), JOURNAL_OFFSET)
            }
        };
        let block = self.block(volume, number)?;
        let journal = block.part(at, JOURNAL_BYTES)?;
        let count = journal.le16(0)?;
        if count > JOURNAL_ENTRIES_MAX {
            return Err(impossible("entries of the SIT's journal", count));
        }
        let entries = journal.get(2..).unwrap_or_default().chunks_exact(JOURNAL_ENTRY_BYTES);
        entries
            .take(count.into())
            .map(|entry| Ok((entry.le32(0)?.into(), entry.part(4, ENTRY_BYTES)?.to_vec())))
            .collect()
    }

    fn is_current(&self, segment: u64) -> bool {
        let starts = [CURRENT_NODE_SEGMENTS, CURRENT_DATA_SEGMENTS];
        let places = starts
            .into_iter()
            .flat_map(|start| (0..3_usize).map(move |log| start.saturating_add(log.saturating_mul(4))));
        places.into_iter().any(|at| self.raw.le32(at).is_ok_and(|current| u64::from(current) == segment))
    }
}

fn free(volume: &View<'_>, layout: &Layout, checkpoint: &Checkpoint) -> Result<FreeMap, Doubt> {
    let bitmap = checkpoint.sit_bitmap(volume, layout)?;
    let journal = checkpoint.journal(volume)?;
    if let Some((segment, _)) = journal.iter().find(|(segment, _)| *segment >= layout.main_segments) {
        return Err(impossible("segment in the SIT's journal", *segment));
    }
    let mut builder = FreeMap::builder(volume.bytes());
    let (mut valid, mut free_segments) = (0_u64, 0_u64);
    let mut segment = 0_u64;
    for number in 0..layout.main_segments.div_ceil(ENTRIES_IN_BLOCK) {
        let byte = usize::try_from(number >> 3).ok().and_then(|at| bitmap.get(at).copied());
        let byte = byte.ok_or(impossible("bytes of the SIT's bitmap", number))?;
        let is_second = byte & 0x80_u8.checked_shr(u32::try_from(number & 7).unwrap_or(0)).unwrap_or(0) != 0;
        let copy = if is_second { layout.sit_blocks } else { 0 };
        let raw = block(volume, layout.sit.saturating_add(copy).saturating_add(number))?;
        for entry in raw.chunks_exact(ENTRY_BYTES) {
            if segment >= layout.main_segments {
                break;
            }
            // The last of several in the journal counts.
            let newer = journal.iter().rev().find(|(newer, _)| *newer == segment);
            let entry = newer.map_or(entry, |(_, entry)| entry.as_slice());
            // The highest bit is the first block; ours is the lowest.
            let map: Vec<u8> = entry.part(2, MAP_BYTES)?.iter().map(|byte| byte.reverse_bits()).collect();
            let count: u32 = map.iter().map(|byte| byte.count_ones()).sum();
            agree("valid blocks of a segment", entry.le16(0)? & 0x3ff, count)?;
            let first = layout.main.saturating_add(segment.saturating_mul(SEGMENT_BLOCKS));
            builder.add_bitmap(first.saturating_mul(BLOCK_BYTES), BLOCK_BYTES, &map, SEGMENT_BLOCKS);
            valid = valid.saturating_add(count.into());
            if count == 0 && !checkpoint.is_current(segment) {
                free_segments = free_segments.saturating_add(1);
            }
            segment = segment.saturating_add(1);
        }
    }
    agree("segments of the SIT", layout.main_segments, segment)?;
    agree("free segments", checkpoint.raw.le32(32)?, free_segments)?;
    // Blocks that are promised to files but have no place yet count in the checkpoint only.
    let promised = checkpoint.raw.le64(16)?;
    if valid > promised || promised > layout.main_segments.saturating_mul(SEGMENT_BLOCKS) {
        return Err(Doubt::Mismatch { place: "valid blocks", expected: promised, found: valid });
    }
    Ok(builder.finish())
}

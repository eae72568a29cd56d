//! The journal of a filesystem that was not unmounted: what it says of blocks is newer than the blocks themselves.
//!
//! Promise: blocks of transactions that were committed are read from the journal, as the kernel would write them back when
//! mounting; nothing is written. At most [`BLOCKS_MAX`] blocks are remembered.
//! Knows nothing of what the blocks hold. Format: linux Documentation/filesystems/ext4/journal.rst; fs/jbd2/recovery.c.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::fault::{Fault, len, len64};
use super::Ext;
use super::inode::Inode;
use crate::fs::Doubt;
use crate::fs::crc::crc32c;
use crate::fs::view::Fields;
use crate::{Error, ReadAt};

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
const HEADER_BYTES: usize = 12;
/// Features: revoke, 64 bits, asynchronous commits, checksums 2 and 3, fast commits.
const SIXTY_FOUR_BIT: u32 = 0x2;
const CSUM_V2: u32 = 0x8;
const CSUM_V3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;
const FEATURES_KNOWN: u32 = 0x3f;
/// Flags of a tag: escaped, same UUID as before, last.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;
/// A journal of 16 GiB in blocks of 4 KiB: e2fsprogs makes none above 4 GiB.
const BLOCKS_MAX: u64 = 1 << 22;

/// What the journal's own superblock says.
struct Journal {
    /// Where each of its blocks lies on the volume.
    blocks: Vec<u64>,
    first: u64,
    end: u64,
    features: u32,
    seed: u32,
}

/// A block as the journal has it.
#[derive(Clone, Copy)]
struct Newer {
    /// Of the volume.
    block: u64,
    /// Its first four bytes were those of a block of the journal itself, and were zeroed there.
    escaped: bool,
    sequence: u32,
}

/// A volume with the journal's blocks in their places.
struct Replayed {
    volume: Arc<dyn ReadAt>,
    block_bytes: u64,
    newer: HashMap<u64, Newer>,
}

/// The volume as it would be after mounting.
pub(super) fn replayed(ext: &Ext) -> Result<Arc<dyn ReadAt>, Fault> {
    let volume = Arc::clone(&ext.device);
    let Some((journal, start, sequence)) = open(ext)? else { return Ok(volume) };
    let newer = newer(ext, &journal, start, sequence)?;
    Ok(Arc::new(Replayed { volume, block_bytes: ext.superblock.block_bytes, newer }))
}

/// The journal, the block where its first transaction begins, and that one's number; `None` when it is empty.
fn open(ext: &Ext) -> Result<Option<(Journal, u64, u32)>, Fault> {
    let wrong = |place, found: u64| Fault::from(Doubt::Impossible { place, found });
    let inode = Inode::read(ext, ext.superblock.journal_inode)?;
    let count = inode.bytes.checked_div(ext.superblock.block_bytes).unwrap_or(0);
    if !(2..=BLOCKS_MAX).contains(&count) {
        return Err(wrong("blocks of the journal", count));
    }
    let mut blocks = Vec::new();
    while len64(blocks.len()) < count {
        let at = len64(blocks.len());
        let stretch = ext.stretch(&inode, at)?;
        let first = stretch.at.ok_or(wrong("hole in the journal", at))?;
        blocks.extend((first..).take(len(stretch.blocks.min(count.saturating_sub(at)))));
    }
    let raw = ext.block(blocks.first().copied().unwrap_or(0))?;
    if raw.be32(0)? != MAGIC || !matches!(raw.be32(4)?, 3 | 4) {
        return Err(wrong("superblock of the journal", raw.be32(4)?.into()));
    }
    if u64::from(raw.be32(0xc)?) != ext.superblock.block_bytes {
        return Err(wrong("block size of the journal", raw.be32(0xc)?.into()));
    }
    let features = if raw.be32(4)? == 4 { raw.be32(0x28)? } else { 0 };
    if features & !FEATURES_KNOWN != 0 {
        return Err(Doubt::Feature { place: "features of the journal", found: features.into() }.into());
    }
    let (end, first) = (u64::from(raw.be32(0x10)?).min(count), u64::from(raw.be32(0x14)?));
    // What fast commits say is not blocks, and they have a place of their own at the end: s_num_fc_blks.
    let end = match features & FAST_COMMIT {
        0 => end,
        _ => end.saturating_sub(match raw.be32(0x54)? {
            0 => 256,
            blocks => blocks.into(),
        }),
    };
    let (sequence, start) = (raw.be32(0x18)?, u64::from(raw.be32(0x1c)?));
    if start == 0 {
        return Ok(None);
    }
    if first == 0 || first >= end || start < first || start >= end {
        return Err(wrong("first block of the journal", start));
    }
    let seed = crc32c(!0, raw.part(0x30, 16)?);
    Ok(Some((Journal { blocks, first, end, features, seed }, start, sequence)))
}

impl Journal {
    fn next(&self, at: u64) -> u64 {
        let next = at.saturating_add(1);
        if next >= self.end { self.first } else { next }
    }

    fn place(&self, at: u64) -> Result<u64, Fault> {
        let place = self.blocks.get(len(at)).copied();
        place.ok_or_else(|| Doubt::Impossible { place: "block of the journal", found: at }.into())
    }

    fn has_checksums(&self) -> bool {
        self.features & (CSUM_V2 | CSUM_V3) != 0
    }

    /// Whether the last four bytes of a descriptor or revoke block are its checksum.
    fn tail_holds(&self, raw: &[u8]) -> Result<bool, Fault> {
        let at = raw.len().saturating_sub(4);
        Ok(!self.has_checksums() || crc32c(crc32c(self.seed, raw.part(0, at)?), &[0; 4]) == raw.be32(at)?)
    }

    fn commit_holds(&self, raw: &[u8]) -> Result<bool, Fault> {
        const CHECKSUM: usize = 0x10;
        let rest = CHECKSUM.saturating_add(4);
        let sum = crc32c(crc32c(self.seed, raw.part(0, CHECKSUM)?), &[0; 4]);
        let sum = crc32c(sum, raw.part(rest, raw.len().saturating_sub(rest))?);
        Ok(!self.has_checksums() || sum == raw.be32(CHECKSUM)?)
    }

    /// The blocks that a descriptor is followed by: number, flags, checksum.
    fn tags(&self, raw: &[u8]) -> Result<Vec<(u64, u32, u32)>, Fault> {
        let is_v3 = self.features & CSUM_V3 != 0;
        let wide = self.features & SIXTY_FOUR_BIT != 0;
        let end = raw.len().saturating_sub(if self.has_checksums() { 4 } else { 0 });
        let mut tags = Vec::new();
        let mut at = HEADER_BYTES;
        // Ends: each tag has at least 8 bytes.
        while at.saturating_add(8) <= end {
            let (flags, sum, bytes) = match is_v3 {
                true => (raw.be32(at.saturating_add(4))?, raw.be32(at.saturating_add(12))?, 16),
                false => {
                    let sum = raw.be16(at.saturating_add(4))?;
                    (raw.be16(at.saturating_add(6))?.into(), sum.into(), if wide { 12 } else { 8 })
                }
            };
            let high = if wide { raw.be32(at.saturating_add(8))? } else { 0 };
            tags.push((u64::from(raw.be32(at)?) | u64::from(high) << 32, flags, sum));
            at = at.saturating_add(bytes);
            if flags & SAME_UUID == 0 {
                at = at.saturating_add(16);
            }
            if flags & LAST != 0 {
                break;
            }
        }
        Ok(tags)
    }

    fn revoked(&self, raw: &[u8]) -> Result<Vec<u64>, Fault> {
        let wide = self.features & SIXTY_FOUR_BIT != 0;
        let end = len(raw.be32(0xc)?.into()).min(raw.len());
        let list = raw.get(16..end).unwrap_or_default();
        let numbers = list.chunks_exact(if wide { 8 } else { 4 });
        numbers.map(|raw| Ok(if wide { raw.be64(0)? } else { raw.be32(0)?.into() })).collect()
    }
}

/// One transaction after the other, as long as they are whole. What one revokes counts for all before it.
fn newer(ext: &Ext, journal: &Journal, start: u64, sequence: u32) -> Result<HashMap<u64, Newer>, Fault> {
    let mut newer: HashMap<u64, Newer> = HashMap::new();
    let mut revoked: HashMap<u64, u32> = HashMap::new();
    let (mut at, mut sequence) = (start, sequence);
    let mut seen = 0_u64;
    loop {
        let Some(found) = transaction(ext, journal, at, sequence, &mut seen)? else { break };
        for (block, it) in found.blocks {
            newer.insert(block, it);
        }
        for block in found.revoked {
            revoked.insert(block, sequence);
        }
        at = found.next;
        sequence = sequence.wrapping_add(1);
    }
    // recovery.c, `jbd2_journal_test_revoke`: revoked in the same transaction or later. Numbers go round.
    newer.retain(|block, it| {
        revoked.get(block).is_none_or(|revoked| it.sequence.wrapping_sub(*revoked).cast_signed() > 0)
    });
    Ok(newer)
}

struct Transaction {
    blocks: Vec<(u64, Newer)>,
    revoked: Vec<u64>,
    next: u64,
}

/// `None` when there is no whole transaction of this number.
fn transaction(
    ext: &Ext,
    journal: &Journal,
    at: u64,
    sequence: u32,
    seen: &mut u64,
) -> Result<Option<Transaction>, Fault> {
    let mut found = Transaction { blocks: Vec::new(), revoked: Vec::new(), next: at };
    // Ends: the journal is gone round once at most.
    while *seen < journal.end {
        let raw = ext.block(journal.place(found.next)?)?;
        *seen = seen.saturating_add(1);
        if raw.be32(0)? != MAGIC || raw.be32(8)? != sequence {
            return Ok(None);
        }
        found.next = journal.next(found.next);
        match raw.be32(4)? {
            COMMIT => return Ok(journal.commit_holds(&raw)?.then_some(found)),
            REVOKE if journal.tail_holds(&raw)? => found.revoked.extend(journal.revoked(&raw)?),
            DESCRIPTOR if journal.tail_holds(&raw)? => {
                for (block, flags, sum) in journal.tags(&raw)? {
                    let place = journal.place(found.next)?;
                    if journal.has_checksums() && !data_holds(ext, journal, place, sequence, sum)? {
                        return Ok(None);
                    }
                    let escaped = flags & ESCAPED != 0;
                    found.blocks.push((block, Newer { block: place, escaped, sequence }));
                    found.next = journal.next(found.next);
                    *seen = seen.saturating_add(1);
                }
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// recovery.c, `jbd2_block_tag_csum_verify`.
fn data_holds(ext: &Ext, journal: &Journal, place: u64, sequence: u32, sum: u32) -> Result<bool, Fault> {
    let found = crc32c(crc32c(journal.seed, &sequence.swap_bytes().to_le_bytes()), &ext.block(place)?);
    Ok(match journal.features & CSUM_V3 {
        0 => found & 0xffff == sum,
        _ => found == sum,
    })
}

impl ReadAt for Replayed {
    fn size_bytes(&self) -> u64 {
        self.volume.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.volume.read_exact_at(offset, buf)?;
        let end = offset.saturating_add(len64(buf.len()));
        let mut number = offset.checked_div(self.block_bytes).unwrap_or(0);
        while number.saturating_mul(self.block_bytes) < end {
            if let Some(newer) = self.newer.get(&number) {
                let mut block = vec![0; len(self.block_bytes)];
                self.volume.read_exact_at(newer.block.saturating_mul(self.block_bytes), &mut block)?;
                if let Some(first) = block.first_chunk_mut().filter(|_| newer.escaped) {
                    *first = MAGIC.swap_bytes().to_le_bytes();
                }
                let begin = number.saturating_mul(self.block_bytes);
                let (skip, into) = (offset.saturating_sub(begin), begin.saturating_sub(offset));
                let from = block.get(len(skip)..).unwrap_or_default();
                let to = buf.get_mut(len(into)..).unwrap_or_default();
                let count = from.len().min(to.len());
                if let (Some(to), Some(from)) = (to.get_mut(..count), from.get(..count)) {
                    to.copy_from_slice(from);
                }
            }
            number = number.saturating_add(1);
        }
        Ok(())
    }

    fn sector_bytes(&self) -> u32 {
        self.volume.sector_bytes()
    }
}

//! The log: whether it ends with an unmount record, so that nothing in it is to be replayed.
//!
//! Promise: clean is only a log of the plain shape (one place where blocks of one turn meet those of the turn before,
//! as far as writes can have been under way around it), in which the record before that place is one unmount record, of
//! this filesystem, and where it says it is. Stricter than the kernel, which mends other shapes.
//! Knows nothing of what else is in the log. Format: xfsprogs libxfs/xfs_log_format.h, `xlog_rec_header_t`,
//! `xlog_op_header_t`; the search: libxlog/xfs_log_recover.c, `xlog_find_head`, `xlog_find_tail`.

use super::super::Doubt;
use super::super::view::{Fields, View};
use super::size;
use super::superblock::{Superblock, Uuid};

/// The log counts in such blocks: `BBSIZE`.
const BLOCK_BYTES: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// Writes under way at once: `XLOG_TOTAL_REC_SHIFT`, 8 × 256 KiB.
const WINDOW: u64 = ((8 * 256) << 10) / BLOCK_BYTES;
/// The longest record, with its headers: `XLOG_REC_SHIFT`.
const RECORD: u64 = (256 << 10) / BLOCK_BYTES + 8;
/// Bytes of a record for which each header block has room: `XLOG_HEADER_CYCLE_SIZE`.
const HEADER_FOR_BYTES: u32 = 32 << 10;
const VERSION_2: u32 = 2;
/// `XFS_LOG`, `XLOG_UNMOUNT_TRANS`, `XLOG_UNMOUNT_TYPE`.
const CLIENT: u8 = 0xaa;
const UNMOUNT: u8 = 0x20;
const UNMOUNT_TYPE: u16 = 0x556e;

pub(super) fn check(volume: &View<'_>, superblock: &Superblock) -> Result<(), Doubt> {
    let blocks = superblock.place(superblock.log_blocks) / BLOCK_BYTES;
    let log = Log {
        volume,
        start: superblock.place(superblock.log_start),
        blocks,
        uuid: superblock.uuid,
        v2: superblock.log_v2,
    };
    let head = log.head()?;
    log.check_unmounted(head)
}

struct Log<'a> {
    volume: &'a View<'a>,
    start: u64,
    blocks: u64,
    uuid: Uuid,
    v2: bool,
}

impl Log<'_> {
    fn read(&self, block: u64, blocks: u64) -> Result<Vec<u8>, Doubt> {
        let offset = self.start.saturating_add(block.saturating_mul(BLOCK_BYTES));
        self.volume.read(offset, size(blocks.saturating_mul(BLOCK_BYTES)))
    }

    /// In which turn around the log a block was written.
    fn cycle(&self, block: u64) -> Result<u32, Doubt> {
        cycle(&self.read(block, 1)?)
    }

    /// The first block that the current turn has not reached; the log's length when it has reached all.
    fn head(&self) -> Result<u64, Doubt> {
        let last_block = self.blocks.saturating_sub(1);
        let (first, last) = (self.cycle(0)?, self.cycle(last_block)?);
        if first == 0 {
            return Err(Doubt::Impossible { place: "the log, turn", found: 0 });
        }
        let mut head = self.blocks;
        if first != last {
            if last.checked_add(1) != Some(first) {
                return Err(Doubt::Journal);
            }
            // Where the one turn meets the other: block 0 is of the one, the last block of the other.
            let (mut low, mut high) = (0, last_block);
            while high.saturating_sub(low) > 1 {
                let middle = low.midpoint(high);
                if self.cycle(middle)? == last { high = middle } else { low = middle }
            }
            head = high;
        }
        // All that may have been written out of order around it, and over the log's end.
        let before = head.saturating_sub(WINDOW);
        let after = head.saturating_add(WINDOW).min(self.blocks);
        let tail = self.blocks.saturating_sub(WINDOW.saturating_sub(head)).max(head);
        self.check_cycles(before, head, first)?;
        self.check_cycles(0, head.min(WINDOW), first)?;
        self.check_cycles(head, after, last)?;
        self.check_cycles(tail, self.blocks, last)?;
        Ok(head)
    }

    fn check_cycles(&self, from: u64, to: u64, expected: u32) -> Result<(), Doubt> {
        let blocks = self.read(from.min(to), to.saturating_sub(from))?;
        for block in blocks.chunks(size(BLOCK_BYTES)) {
            if cycle(block)? != expected {
                return Err(Doubt::Journal);
            }
        }
        Ok(())
    }

    /// The record that ends at the head must be one unmount record.
    fn check_unmounted(&self, head: u64) -> Result<(), Doubt> {
        let after =
            |block: u64, more: u64| block.saturating_add(more).checked_rem(self.blocks).ok_or(Doubt::Journal);
        let (block, header) = self.last_header(head)?;
        let len = header.be32(12)?;
        let headers = match header.be32(8)? & VERSION_2 != 0 && self.v2 {
            true => u64::from(header.be32(320)?.div_ceil(HEADER_FOR_BYTES).max(1)),
            false => 1,
        };
        let records = u64::from(len).div_ceil(BLOCK_BYTES);
        let own: Uuid = header.array(304)?;
        // The number of a record: the turn and the block where it begins.
        let place = (u64::from(header.be32(4)?) << 32) | block;
        if own != self.uuid || header.be64(16)? != place {
            return Err(Doubt::Impossible { place: "record of the log at block", found: block });
        }
        let ends = after(block, headers.saturating_add(records))?;
        if ends != after(head, 0)? || header.be32(40)? != 1 {
            return Err(Doubt::Journal);
        }
        let operation = self.read(after(block, headers)?, 1)?;
        let kind = operation.array::<2>(12)?;
        let is_unmount = operation.byte(8)? == CLIENT
            && operation.byte(9)? & UNMOUNT != 0
            && [kind, [kind[1], kind[0]]].contains(&UNMOUNT_TYPE.to_le_bytes());
        match is_unmount {
            true => Ok(()),
            false => Err(Doubt::Journal),
        }
    }

    /// The last record's header before the head, as far back as a record is long, and over the log's start.
    fn last_header(&self, head: u64) -> Result<(u64, Vec<u8>), Doubt> {
        for back in 1..=RECORD.min(self.blocks) {
            let block = match head.checked_sub(back) {
                Some(block) => block,
                None => self.blocks.saturating_add(head).saturating_sub(back),
            };
            let bytes = self.read(block, 1)?;
            if bytes.be32(0)? == MAGIC {
                return Ok((block, bytes));
            }
        }
        Err(Doubt::Impossible { place: "records of the log before block", found: head })
    }
}

/// A record's header has it behind its magic, all other blocks at their start: `xlog_get_cycle`.
fn cycle(block: &[u8]) -> Result<u32, Doubt> {
    match block.be32(0)? {
        MAGIC => block.be32(4),
        cycle => Ok(cycle),
    }
}

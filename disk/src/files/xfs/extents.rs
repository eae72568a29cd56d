//! Where a fork's bytes lie: lists and trees of extents.
//!
//! Promise: extents come in ascending order, do not overlap and lie in the filesystem; each block of a tree is visited
//! once at most, since what it holds must lie between its parent's keys.
//! Knows nothing of what the bytes mean. Format: xfsprogs libxfs/xfs_format.h, `xfs_bmbt_rec_t`, `xfs_bmdr_block_t`,
//! `struct xfs_btree_block`.

use super::Volume;
use super::inode::{Fork, Format};
use crate::Extent;
use crate::files::fault::{Fault, len, len64, window};
use crate::fs::view::Fields;
use crate::fs::xfs::check_sum;

/// Deeper trees than the kernel's `XFS_BM_MAXLEVELS` for the smallest blocks and the largest files.
const LEVELS_MAX: u16 = 16;
/// A record: first block of the file, block of the filesystem, number of blocks.
const RECORD_BYTES: usize = 16;
/// The header of a tree's block, without and with what version 5 adds.
const HEADER_BYTES: usize = 24;
const HEADER_5_BYTES: usize = 72;

/// A piece of a fork, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    /// In bytes of the fork.
    pub(super) file: Extent,
    /// First byte of the volume.
    pub(super) place: u64,
    /// What was only reserved reads as zeros.
    pub(super) is_written: bool,
}

/// What is done with each piece; `false` ends it.
type Each<'a> = dyn FnMut(Mapping) -> Result<bool, Fault> + 'a;

/// Of which file the fork is, and which part of it is wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) owner: u64,
    /// Pieces that end before this byte are left out.
    pub(super) from: u64,
}

/// The pieces of a fork, in order.
pub(super) fn mappings(
    volume: &Volume,
    fork: &Fork,
    wanted: Wanted,
    each: &mut Each<'_>,
) -> Result<(), Fault> {
    let mut walk = Walk { volume, wanted, end: 0, each };
    match fork.format {
        Format::Extents => {
            let records = fork.bytes.chunks_exact(RECORD_BYTES).take(len(fork.extents));
            walk.records(records, u64::MAX).map(|_| ())
        }
        Format::Tree => walk.root(&fork.bytes),
        Format::Local | Format::Device => Err(Fault::damaged("it has no extents")),
    }
}

/// Fills `buf` from a fork; holes are zeros.
pub(super) fn read(volume: &Volume, fork: &Fork, wanted: Wanted, buf: &mut [u8]) -> Result<(), Fault> {
    buf.fill(0);
    let end = wanted.from.saturating_add(len64(buf.len()));
    mappings(volume, fork, wanted, &mut |mapping| {
        if mapping.file.offset >= end {
            return Ok(false);
        }
        let from = mapping.file.offset.max(wanted.from);
        let bytes = mapping.file.end().min(end).saturating_sub(from);
        if mapping.is_written {
            let place = mapping.place.saturating_add(from.saturating_sub(mapping.file.offset));
            let piece = window(buf, from.saturating_sub(wanted.from), bytes);
            volume.view().read_into(place, piece)?;
        }
        Ok(mapping.file.end() < end)
    })
}

/// The first piece at or behind a byte.
pub(super) fn next(volume: &Volume, fork: &Fork, wanted: Wanted) -> Result<Option<Mapping>, Fault> {
    let mut found = None;
    mappings(volume, fork, wanted, &mut |mapping| {
        found = Some(mapping);
        Ok(false)
    })?;
    Ok(found)
}

struct Walk<'a, 'b> {
    volume: &'a Volume,
    wanted: Wanted,
    /// In blocks: before this, all was told.
    end: u64,
    each: &'a mut Each<'b>,
}

impl Walk<'_, '_> {
    /// What of the tree is in the inode.
    fn root(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let (level, count) = (bytes.be16(0)?, bytes.be16(2)?);
        if !(1..=LEVELS_MAX).contains(&level) {
            return Err(Fault::Damaged(format!("a tree of {level} levels")));
        }
        self.below(bytes.get(4..).unwrap_or_default(), count, level, u64::MAX).map(|_| ())
    }

    /// Visits the blocks below one: `entries` has room for keys, and behind it for as many blocks' numbers.
    fn below(&mut self, entries: &[u8], count: u16, level: u16, end: u64) -> Result<bool, Fault> {
        let fit = entries.len() / 16;
        let count = usize::from(count);
        if count == 0 || count > fit {
            return Err(Fault::Damaged(format!("{count} entries in a block of extents for {fit}")));
        }
        let block_bytes = self.volume.geometry.superblock.block_bytes;
        let from = self.wanted.from.checked_div(block_bytes).unwrap_or(0);
        let numbers = entries.get(fit.saturating_mul(8)..).unwrap_or_default();
        for index in 0..count {
            let key = entries.be64(index.saturating_mul(8))?;
            let next = match index.saturating_add(1) {
                next if next < count => entries.be64(next.saturating_mul(8))?,
                _ => end,
            };
            if key >= next || next > end {
                return Err(Fault::damaged("keys of its extents are out of order"));
            }
            if next <= from {
                continue;
            }
            let number = numbers.be64(index.saturating_mul(8))?;
            if !self.block(number, level.saturating_sub(1), (key, next))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn block(&mut self, number: u64, level: u16, (first, end): (u64, u64)) -> Result<bool, Fault> {
        let raw = self.read(number, level)?;
        let count = raw.be16(6)?;
        let has_sums = self.volume.geometry.superblock.has_sums;
        let header = if has_sums { HEADER_5_BYTES } else { HEADER_BYTES };
        let body = raw.get(header..).unwrap_or_default();
        let begins = if level > 0 { body.be64(0)? } else { body.be64(0)? << 1 >> 10 };
        if begins < first || first < self.end {
            return Err(Fault::damaged("its extents are out of order"));
        }
        if level > 0 {
            return self.below(body, count, level, end);
        }
        if count == 0 || usize::from(count) > body.len() / RECORD_BYTES {
            return Err(Fault::Damaged(format!("{count} extents in one block")));
        }
        self.records(body.chunks_exact(RECORD_BYTES).take(count.into()), end)
    }

    /// A block of the tree, when it is what its place says.
    fn read(&self, number: u64, level: u16) -> Result<Vec<u8>, Fault> {
        let superblock = &self.volume.geometry.superblock;
        let place = superblock.extent(number, 1)?;
        let raw = self.volume.view().read(place.offset, len(place.bytes))?;
        let magic = if superblock.has_sums { b"BMA3" } else { b"BMAP" };
        let mut own = raw.part(0, 4)? == magic && raw.be16(4)? == level;
        if superblock.has_sums {
            check_sum(&raw, 64, "block of extents", number)?;
            own = own
                && raw.be64(24)? == place.offset / 512
                && raw.array(40)? == superblock.meta_uuid
                && raw.be64(56)? == self.wanted.owner;
        }
        match own {
            true => Ok(raw),
            false => Err(Fault::Damaged(format!("block {number} is not of its extents"))),
        }
    }

    fn records<'r>(&mut self, records: impl Iterator<Item = &'r [u8]>, end: u64) -> Result<bool, Fault> {
        for record in records {
            let (high, low) = (record.be64(0)?, record.be64(8)?);
            let (first, blocks) = (high << 1 >> 10, low & 0x1f_ffff);
            let number = (high & 0x1ff) << 43 | low >> 21;
            let after = first.saturating_add(blocks);
            if blocks == 0 || first < self.end || after > end {
                return Err(Fault::Damaged(format!("an extent of {blocks} blocks at its block {first}")));
            }
            self.end = after;
            let mapping = self.mapping(first, number, blocks, high >> 63 == 0)?;
            if mapping.file.end() > self.wanted.from && !(self.each)(mapping)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn mapping(&self, first: u64, number: u64, blocks: u64, is_written: bool) -> Result<Mapping, Fault> {
        let superblock = &self.volume.geometry.superblock;
        let place = superblock.extent(number, blocks)?;
        let offset = first.checked_mul(superblock.block_bytes);
        let offset = offset.filter(|offset| offset.checked_add(place.bytes).is_some());
        let offset = offset.ok_or_else(|| Fault::Damaged(format!("an extent at its block {first}")))?;
        Ok(Mapping { file: Extent { offset, bytes: place.bytes }, place: place.offset, is_written })
    }
}

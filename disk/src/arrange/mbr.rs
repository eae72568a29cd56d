//! Writing an MBR and the chain of records behind it. UEFI 2.10 §5.2; the chain as Linux reads it
//! (block/partitions/msdos.c): a record's partition is counted from the record, its link from the extended partition.
//!
//! Promise: types, active flags and boot code stay; an entry whose place did not change stays byte for byte.
//! Knows nothing of why partitions are where they are.

use crate::arrange::Geometry;
use crate::arrange::error::Unfit;
use crate::arrange::read::first_of_chain;
use crate::arrange::table::{Entry, Extended, PartitionTable};
use crate::table::mbr::{ENTRIES, ENTRY_BYTES, RECORD_BYTES};
use crate::table::overwrite;

/// The type of a link, as sfdisk writes it; Linux takes 0x0f and 0x85 alike.
const LINK: u8 = 0x05;

/// How far 32-bit sector numbers reach.
pub(super) fn limit_bytes(sector: u64) -> u64 {
    sector.saturating_mul(1 << 32)
}

pub(super) fn encode(table: &PartitionTable, target: Geometry) -> Result<Vec<(u64, Vec<u8>)>, Unfit> {
    let needed = table.entries.iter().map(|entry| entry.extent.end()).max().unwrap_or(0);
    if needed > target.bytes {
        return Err(Unfit::TooSmall { needed, has: target.bytes });
    }
    let mut boot = table.boot.clone();
    boot.resize(target.sector_len(), 0);
    let extended = table.extended.and_then(|extended| Some((extended, extended_start(table)?)));
    let kept = extended.map(|(extended, start)| container(table, extended, start, target)).transpose()?;
    overwrite(&mut boot, ENTRIES, &[0; 64]);
    for (number, slot) in kept.into_iter().chain(primaries(table, target)?) {
        let index = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(last) = index.checked_mul(ENTRY_BYTES).filter(|offset| *offset < 64) else {
            return Err(Unfit::NoSlot { number, last: 4 });
        };
        overwrite(&mut boot, ENTRIES.saturating_add(last), &slot);
    }
    overwrite(&mut boot, RECORD_BYTES.saturating_sub(2), &[0x55, 0xaa]);
    let mut writes = match extended {
        Some((_, start)) => records(table, start, target)?,
        None => Vec::new(),
    };
    writes.push((0, boot));
    Ok(writes)
}

fn primaries(table: &PartitionTable, target: Geometry) -> Result<Vec<(u32, Vec<u8>)>, Unfit> {
    let primaries = table.entries.iter().filter(|entry| !entry.logical);
    primaries
        .map(|entry| {
            let span = Span::new(entry.number, 0, entry.extent.offset, entry.extent.end(), target)?;
            Ok((entry.number, span.slot(&entry.raw)))
        })
        .collect()
}

/// Where the extended partition begins: at the first record.
fn extended_start(table: &PartitionTable) -> Option<u64> {
    table.entries.iter().filter(|entry| entry.logical).map(Entry::begin).min()
}

/// The entry of the extended partition.
fn container(
    table: &PartitionTable,
    extended: Extended,
    start: u64,
    target: Geometry,
) -> Result<(u32, Vec<u8>), Unfit> {
    let ends = table.entries.iter().filter(|entry| entry.logical).map(|entry| entry.extent.end()).max();
    let end = extended.end.max(ends.unwrap_or(start));
    let index = usize::try_from(extended.number).unwrap_or(1).saturating_sub(1);
    let offset = ENTRIES.saturating_add(index.saturating_mul(ENTRY_BYTES));
    let raw = table.boot.get(offset..offset.saturating_add(ENTRY_BYTES)).unwrap_or_default();
    let span = Span::new(extended.number, 0, start, end, target)?;
    Ok((extended.number, span.slot(raw)))
}

/// The chain: each record with its partition and the link to the next one.
fn records(table: &PartitionTable, start: u64, target: Geometry) -> Result<Vec<(u64, Vec<u8>)>, Unfit> {
    let logicals: Vec<(&Entry, u64)> = (table.entries.iter())
        .filter(|entry| entry.logical)
        .map(|entry| (entry, record_offset(table, entry, start, target)))
        .collect();
    let mut writes = Vec::with_capacity(logicals.len());
    let next = logicals.iter().skip(1).map(Some).chain([None]);
    for ((entry, record), next) in logicals.iter().zip(next) {
        let mut sector = entry.raw.clone();
        sector.resize(RECORD_BYTES, 0);
        let own = entry.raw.get(ENTRIES..).unwrap_or_default();
        let span = Span::new(entry.number, *record, entry.extent.offset, entry.extent.end(), target)?;
        let own = span.slot(own.get(..ENTRY_BYTES).unwrap_or_default());
        overwrite(&mut sector, ENTRIES, &[0; 64]);
        overwrite(&mut sector, ENTRIES, &own);
        if let Some((next, at)) = next {
            let span = Span::new(next.number, start, *at, next.extent.end(), target)?;
            let mut link = [0; ENTRY_BYTES];
            overwrite(&mut link, 4, &[LINK]);
            overwrite(&mut sector, ENTRIES.saturating_add(ENTRY_BYTES), &span.slot(&link));
        }
        overwrite(&mut sector, RECORD_BYTES.saturating_sub(2), &[0x55, 0xaa]);
        sector.resize(target.sector_len(), 0);
        writes.push((*record, sector));
    }
    Ok(writes)
}

/// The first one of the chain has its record at the start of the extended partition, others right before them.
fn record_offset(table: &PartitionTable, entry: &Entry, start: u64, target: Geometry) -> u64 {
    match (first_of_chain(table) == Some(entry.number), entry.begin() == start) {
        (true, _) => start,
        (false, true) => start.saturating_add(u64::from(target.sector_bytes)),
        (false, false) => entry.begin(),
    }
}

/// A place in sectors, counted from a base.
#[derive(Clone, Copy)]
struct Span {
    base: u64,
    start: u64,
    sectors: u64,
}

impl Span {
    fn new(number: u32, base: u64, start: u64, end: u64, target: Geometry) -> Result<Self, Unfit> {
        let lba = |offset| target.lba(number, offset);
        let (base, start, end) = (lba(base)?, lba(start)?, lba(end)?);
        if end > 1 << 32 {
            let sector = u64::from(target.sector_bytes);
            return Err(Unfit::BeyondMbr { needed: end.saturating_mul(sector), limit: limit_bytes(sector) });
        }
        Ok(Self { base, start, sectors: end.saturating_sub(start) })
    }

    /// The entry with this place.
    fn slot(self, raw: &[u8]) -> Vec<u8> {
        let mut slot = raw.to_vec();
        slot.resize(ENTRY_BYTES, 0);
        let start = u32::try_from(self.start.saturating_sub(self.base)).unwrap_or(u32::MAX).to_le_bytes();
        let sectors = u32::try_from(self.sectors).unwrap_or(u32::MAX).to_le_bytes();
        if slot.get(8..12) == Some(&start) && slot.get(12..16) == Some(&sectors) {
            return slot;
        }
        overwrite(&mut slot, 1, &chs(self.start));
        overwrite(&mut slot, 5, &chs(self.start.saturating_add(self.sectors).saturating_sub(1)));
        overwrite(&mut slot, 8, &start);
        overwrite(&mut slot, 12, &sectors);
        slot
    }
}

/// Head, sector and cylinder of a disk of 255 heads and 63 sectors, as every BIOS of the last decades has it; behind
/// cylinder 1023 the largest that can be said, as fdisk writes it.
fn chs(lba: u64) -> [u8; 3] {
    const HEADS: u64 = 255;
    const SECTORS: u64 = 63;
    let part = |number: u64| u8::try_from(number & 0xff).unwrap_or(0);
    let track = lba.checked_div(SECTORS).unwrap_or(0);
    let sector = lba.checked_rem(SECTORS).unwrap_or(0).saturating_add(1);
    let head = track.checked_rem(HEADS).unwrap_or(0);
    match track.checked_div(HEADS) {
        Some(cylinder) if cylinder < 1024 => {
            [part(head), part(sector | ((cylinder >> 2) & 0xc0)), part(cylinder)]
        }
        _ => [0xfe, 0xff, 0xff],
    }
}

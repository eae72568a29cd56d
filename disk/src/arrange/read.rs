//! A device's table as a value, when it is one that can be written anew.
//!
//! Promise: partitions of a table that was read do not overlap each other, a record or the table, and lie on the
//! device; whatever else is there is [`Unfit::Odd`], never a panic (I6). Knows nothing of targets.

use std::collections::HashMap;

use crate::arrange::error::Unfit;
use crate::arrange::table::{Entry, Extended, PartitionTable};
use crate::table::gpt::{Gpt, Kept};
use crate::table::mbr::{self, BootSector, Chain, ENTRIES, ENTRY_BYTES, RECORD_BYTES};
use crate::table::{Layout, Rest, Table, TableKind, Volume, overwrite};
use crate::{Extent, ReadAt};

fn odd(oddity: impl Into<String>) -> Unfit {
    Unfit::Odd { oddity: oddity.into() }
}

impl PartitionTable {
    /// The table of a device; of kind [`TableKind::None`] where there is none. `sector_bytes` is the device's; a GPT
    /// written for the other common size is found too, and the table says which it counts in.
    ///
    /// # Errors
    /// [`Unfit::Odd`]: the table lists what can't be written anew: partitions that overlap, a hybrid MBR, a broken chain.
    pub fn read(device: &dyn ReadAt, sector_bytes: u32) -> Result<Self, Unfit> {
        let Table { layout, warnings_of_copies, rest } = Table::read(device, sector_bytes);
        if let BootSector::Protective { hybrid: true } = mbr::boot_sector(device) {
            return Err(odd("hybrid mbr: it lists partitions beside the protective one"));
        }
        // What copies lack is made good by writing both; what the table itself says wrong is not known to be safe.
        if let Some(oddity) = layout.warnings.get(warnings_of_copies..).and_then(<[String]>::first) {
            return Err(odd(oddity));
        }
        match rest {
            Rest::Gpt(gpt) => of_gpt(device, &layout, &gpt),
            Rest::Mbr(chain) => of_mbr(device, &layout, &chain),
            Rest::Nothing => of_nothing(device, &layout),
        }
    }
}

/// The first sector, or what the device has of it.
fn boot(device: &dyn ReadAt, sector_bytes: u32) -> Result<Vec<u8>, Unfit> {
    let mut boot = vec![0; usize::try_from(sector_bytes).unwrap_or(RECORD_BYTES)];
    let has = usize::try_from(device.size_bytes()).unwrap_or(usize::MAX).min(boot.len());
    if let Some(there) = boot.get_mut(..has) {
        device.read_exact_at(0, there).map_err(|source| Unfit::Read { source })?;
    }
    Ok(boot)
}

fn of_nothing(device: &dyn ReadAt, layout: &Layout) -> Result<PartitionTable, Unfit> {
    match mbr::boot_sector(device) {
        BootSector::Protective { .. } => Err(odd("protective mbr, but neither gpt is intact")),
        BootSector::Unreadable if device.size_bytes() > 0 => Err(odd("sector 0 is unreadable")),
        _ => Ok(PartitionTable {
            kind: TableKind::None,
            sector_bytes: layout.sector_bytes,
            entries: Vec::new(),
            boot: boot(device, layout.sector_bytes)?,
            gpt: None,
            extended: None,
        }),
    }
}

fn entry(volume: &Volume, logical: bool, raw: Vec<u8>) -> Entry {
    Entry {
        number: volume.number,
        extent: volume.extent,
        type_id: volume.type_id.clone(),
        uuid: volume.uuid.clone().unwrap_or_default(),
        name: volume.name.clone(),
        bootable: volume.bootable,
        logical,
        raw,
        lead: 0,
    }
}

fn of_gpt(device: &dyn ReadAt, layout: &Layout, gpt: &Gpt) -> Result<PartitionTable, Unfit> {
    let kept = gpt.kept();
    let slots: Vec<&[u8]> = kept.slots.chunks_exact(kept.slot_bytes.max(1)).collect();
    let raw = |volume: &Volume| {
        let index = usize::try_from(volume.number).ok()?.checked_sub(1)?;
        slots.get(index).map(|slot| slot.to_vec())
    };
    let entries: Vec<Entry> = (layout.volumes.iter())
        .filter_map(|volume| raw(volume).map(|raw| entry(volume, false, raw)))
        .collect();
    let table = PartitionTable {
        kind: TableKind::Gpt,
        sector_bytes: layout.sector_bytes,
        entries,
        boot: boot(device, layout.sector_bytes)?,
        gpt: None,
        extended: None,
    };
    let first = table.first_byte().unwrap_or(u64::MAX);
    let table_end = table_end(&kept, kept.entries_lba, u64::from(layout.sector_bytes));
    if table_end > first || kept.entries_lba < crate::table::gpt::PRIMARY_ENTRIES_LBA {
        return Err(odd("the gpt's own entries lie where a partition or the header is"));
    }
    Ok(PartitionTable { gpt: Some(kept), ..table })
}

/// The first byte behind the primary's entries, when they begin at `lba`.
pub(super) fn table_end(kept: &Kept, lba: u64, sector: u64) -> u64 {
    let entries = u64::try_from(kept.slots.len()).unwrap_or(u64::MAX);
    let entries = entries.checked_next_multiple_of(sector.max(1)).unwrap_or(u64::MAX);
    lba.saturating_mul(sector).saturating_add(entries)
}

fn of_mbr(device: &dyn ReadAt, layout: &Layout, chain: &Chain) -> Result<PartitionTable, Unfit> {
    let boot = boot(device, layout.sector_bytes)?;
    let sector = u64::from(layout.sector_bytes);
    let records: HashMap<u32, (u64, usize)> =
        chain.logicals.iter().map(|logical| (logical.number, (logical.record, logical.slot))).collect();
    let mut entries = Vec::with_capacity(layout.volumes.len());
    for volume in &layout.volumes {
        let raw = match records.get(&volume.number) {
            Some((record, slot)) => record_of(device, *record, *slot)?,
            None => slot_of(&boot, usize::try_from(volume.number).unwrap_or(0).saturating_sub(1)),
        };
        entries.push(entry(volume, records.contains_key(&volume.number), raw));
    }
    if entries.iter().any(|entry| entry.begin() < sector) {
        return Err(odd("a partition lies over the mbr"));
    }
    let mut table = PartitionTable {
        kind: TableKind::Mbr,
        sector_bytes: layout.sector_bytes,
        entries,
        boot,
        gpt: None,
        extended: chain.extended.map(|(number, extent)| Extended { number, end: extent.end() }),
    };
    if let Some((_, extent)) = chain.extended {
        set_leads(&mut table, chain, extent)?;
    }
    Ok(table)
}

/// The 16 bytes of an entry.
fn slot_of(record: &[u8], slot: usize) -> Vec<u8> {
    let start = ENTRIES.saturating_add(slot.saturating_mul(ENTRY_BYTES));
    record.get(start..start.saturating_add(ENTRY_BYTES)).unwrap_or_default().to_vec()
}

/// The record of a logical partition, its own entry made the first.
fn record_of(device: &dyn ReadAt, offset: u64, slot: usize) -> Result<Vec<u8>, Unfit> {
    let mut record = vec![0; RECORD_BYTES];
    device.read_exact_at(offset, &mut record).map_err(|source| Unfit::Read { source })?;
    let own = slot_of(&record, slot);
    overwrite(&mut record, ENTRIES, &own);
    Ok(record)
}

/// Finds what lies before each logical partition, and refuses records that lie elsewhere.
fn set_leads(table: &mut PartitionTable, chain: &Chain, extended: Extent) -> Result<(), Unfit> {
    let sector = u64::from(table.sector_bytes);
    if table.entries.iter().any(|entry| !entry.logical && entry.extent.overlaps(&extended)) {
        return Err(odd("a primary partition lies in the extended one"));
    }
    let records: HashMap<u32, u64> =
        chain.logicals.iter().map(|logical| (logical.number, logical.record)).collect();
    let mut distinct: Vec<u64> = records.values().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() != chain.logicals.len() {
        return Err(odd("a record of the chain holds two partitions"));
    }
    let first_of_chain = first_of_chain(table);
    let mut free_from = extended.offset;
    for index in table.by_place() {
        let Some(entry) = table.entries.get_mut(index).filter(|entry| entry.logical) else { continue };
        let (start, number) = (entry.extent.offset, entry.number);
        let record = records.get(&number).copied().unwrap_or(0);
        let first_by_place = free_from == extended.offset;
        let chained_first = first_of_chain == Some(number);
        let begin = match (first_by_place, chained_first) {
            (true, _) => extended.offset,
            (false, true) => start,
            (false, false) => record,
        };
        let least = least_lead(first_by_place, chained_first, sector);
        if begin < free_from || start.checked_sub(begin).is_none_or(|lead| lead < least) {
            return Err(odd(format!("the record of logical partition {number} is not right before it")));
        }
        entry.lead = start.saturating_sub(begin);
        free_from = entry.extent.end();
    }
    Ok(())
}

/// The logical partition whose record begins the extended partition.
pub(super) fn first_of_chain(table: &PartitionTable) -> Option<u32> {
    table.entries.iter().filter(|entry| entry.logical).map(|entry| entry.number).min()
}

/// Bytes that a logical partition must have before it: its own record, and before the first one by place also that
/// of the first one in the chain.
pub(super) fn least_lead(first_by_place: bool, first_of_chain: bool, sector: u64) -> u64 {
    match (first_by_place, first_of_chain) {
        (true, false) => sector.saturating_mul(2),
        (false, true) => 0,
        (true, true) | (false, false) => sector,
    }
}

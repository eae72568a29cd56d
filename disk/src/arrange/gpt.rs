//! Writing a GPT: both copies, and the MBR that protects it. UEFI 2.10 §5.3, §5.2.3.
//!
//! Promise: unused entries, names, attributes and whatever lies behind the defined fields stay as they were.
//! Knows nothing of why partitions are where they are.

use crate::arrange::Geometry;
use crate::arrange::error::Unfit;
use crate::arrange::read::table_end;
use crate::arrange::table::PartitionTable;
use crate::table::gpt::{Kept, PRIMARY_ENTRIES_LBA, PRIMARY_LBA, sealed};
use crate::table::mbr::{ENTRIES, ENTRY_BYTES, PROTECTIVE, RECORD_BYTES};
use crate::table::overwrite;

/// Where partitions may begin when there is none that says otherwise; 1 MiB is what partitioning tools use.
const FIRST_BYTES: u64 = 1 << 20;
/// Fields of an entry: UEFI 2.10 §5.3.3 table 5.6.
const ENTRY_PLACE: usize = 32;

/// Bytes from where partitions must end to the end of the target: the backup's entries and header.
pub(super) fn tail_bytes(kept: &Kept, sector: u64) -> u64 {
    entry_bytes(kept, sector).saturating_add(sector)
}

/// The entries, to a whole number of sectors.
fn entry_bytes(kept: &Kept, sector: u64) -> u64 {
    let entries = u64::try_from(kept.slots.len()).unwrap_or(u64::MAX);
    entries.checked_next_multiple_of(sector.max(1)).unwrap_or(u64::MAX)
}

pub(super) fn encode(
    table: &PartitionTable,
    kept: &Kept,
    target: Geometry,
) -> Result<Vec<(u64, Vec<u8>)>, Unfit> {
    let sector = u64::from(target.sector_bytes);
    let sectors = target.sectors();
    let tail = tail_bytes(kept, sector);
    let table_end = table_end(kept, kept.entries_lba, sector);
    let ends = table.entries.iter().map(|entry| entry.extent.end()).max().unwrap_or(0).max(table_end);
    let needed = ends.saturating_add(tail);
    let usable_end = sectors.saturating_mul(sector).saturating_sub(tail);
    if ends > usable_end {
        return Err(Unfit::TooSmall { needed, has: target.bytes });
    }
    let lba = |offset: u64| offset.checked_div(sector).unwrap_or(0);
    let entries = slots(table, kept, target)?;
    let last = sectors.saturating_sub(1);
    let backup_entries = lba(usable_end);
    let common = Common {
        first_usable: lba(first_usable(table, kept, table_end, sector)).to_le_bytes(),
        last_usable: backup_entries.saturating_sub(1).to_le_bytes(),
        crc: crc32fast::hash(&entries).to_le_bytes(),
    };
    let mut header = kept.header.clone();
    header.resize(target.sector_len(), 0);
    let backup = common.header(&header, last, PRIMARY_LBA, backup_entries);
    let primary = common.header(&header, PRIMARY_LBA, last, kept.entries_lba);
    let mut padded = entries;
    padded.resize(usize::try_from(entry_bytes(kept, sector)).unwrap_or(usize::MAX), 0);
    let place = |lba: u64| lba.saturating_mul(sector);
    Ok(vec![
        (place(backup_entries), padded.clone()),
        (place(last), backup),
        (place(kept.entries_lba), padded),
        (place(PRIMARY_LBA), primary),
        (0, protective(table, target)),
    ])
}

/// What both headers say.
struct Common {
    first_usable: [u8; 8],
    last_usable: [u8; 8],
    crc: [u8; 4],
}

impl Common {
    fn header(&self, raw: &[u8], own: u64, other: u64, entries: u64) -> Vec<u8> {
        let (own, other, entries) = (own.to_le_bytes(), other.to_le_bytes(), entries.to_le_bytes());
        let fields: [(usize, &[u8]); 6] = [
            (24, &own),
            (32, &other),
            (40, &self.first_usable),
            (48, &self.last_usable),
            (72, &entries),
            (88, &self.crc),
        ];
        sealed(raw, fields)
    }
}

/// As the source's table has it, unless the table itself or a partition says otherwise.
fn first_usable(table: &PartitionTable, kept: &Kept, table_end: u64, sector: u64) -> u64 {
    let was = kept.first_usable_lba.saturating_mul(u64::from(table.sector_bytes));
    let was = was.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
    was.min(table.first_byte().unwrap_or(FIRST_BYTES)).max(table_end)
}

/// The array of entries: those that are no more are emptied, those that are have their places.
fn slots(table: &PartitionTable, kept: &Kept, target: Geometry) -> Result<Vec<u8>, Unfit> {
    let mut slots = kept.slots.clone();
    for slot in slots.chunks_exact_mut(kept.slot_bytes.max(1)) {
        let used = slot.get(..16).is_some_and(|type_id| type_id.iter().any(|byte| *byte != 0));
        if used {
            slot.fill(0);
        }
    }
    let last = slots.len().checked_div(kept.slot_bytes).and_then(|last| u32::try_from(last).ok());
    for entry in &table.entries {
        let start = target.lba(entry.number, entry.extent.offset)?;
        let end = target.lba(entry.number, entry.extent.end())?.saturating_sub(1);
        let slot = usize::try_from(entry.number.saturating_sub(1))
            .ok()
            .and_then(|index| slots.chunks_exact_mut(kept.slot_bytes.max(1)).nth(index))
            .ok_or(Unfit::NoSlot { number: entry.number, last: last.unwrap_or(0) })?;
        overwrite(slot, 0, entry.raw.get(..slot.len()).unwrap_or(&entry.raw));
        overwrite(slot, ENTRY_PLACE, &start.to_le_bytes());
        overwrite(slot, ENTRY_PLACE.saturating_add(8), &end.to_le_bytes());
    }
    Ok(slots)
}

/// Sector 0: boot code of the source, and one entry over all. The source's own entry stays but for its length: some
/// BIOSes want it to be active.
fn protective(table: &PartitionTable, target: Geometry) -> Vec<u8> {
    // From LBA 1 to an end that can't be said in cylinders: UEFI 2.10 §5.2.3 table 5.4.
    const NEW: [u8; ENTRY_BYTES] = [0, 0, 2, 0, PROTECTIVE, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0];
    let mut sector = table.boot.clone();
    sector.resize(target.sector_len(), 0);
    let mut slots = sector.get(ENTRIES..).unwrap_or_default().chunks_exact(ENTRY_BYTES).take(4);
    let entry = slots.find(|slot| slot.get(4) == Some(&PROTECTIVE)).unwrap_or(&NEW);
    let mut entries = [0; 4 * ENTRY_BYTES];
    overwrite(&mut entries, 0, entry);
    let size = u32::try_from(target.sectors().saturating_sub(1)).unwrap_or(u32::MAX);
    overwrite(&mut entries, 8, &1_u32.to_le_bytes());
    overwrite(&mut entries, 12, &size.to_le_bytes());
    overwrite(&mut sector, ENTRIES, &entries);
    overwrite(&mut sector, RECORD_BYTES.saturating_sub(2), &[0x55, 0xaa]);
    sector
}

/// Where the primary's entries begin when the table is counted in sectors of another size: where every GPT has them.
pub(super) fn entries_lba(kept: &Kept, from: u32, to: u32) -> u64 {
    if from == to { kept.entries_lba } else { PRIMARY_ENTRIES_LBA }
}

/// From here on the table counts in sectors of this size.
pub(super) fn recount(table: &mut PartitionTable, to: u32) {
    let (from, to_bytes) = (table.sector_bytes, u64::from(to).max(1));
    if let Some(kept) = table.gpt.as_mut().filter(|_| from != to) {
        kept.entries_lba = entries_lba(kept, from, to);
        kept.first_usable_lba = kept.first_usable_lba.saturating_mul(u64::from(from)).div_ceil(to_bytes);
    }
    table.sector_bytes = to;
}

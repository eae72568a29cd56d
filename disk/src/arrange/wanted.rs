//! The table that is wished for, its partitions still in their old places: chosen ones only, as a GPT, or in a new one.
//!
//! Promise: every partition that is left keeps its content's type; a type that can't be said is refused.
//! Knows nothing of the target's size.

use crate::Extent;
use crate::arrange::error::{Remark, Unfit};
use crate::arrange::table::{
    ENTRY_GUID, Entry, NEW_GPT_ENTRIES, NEW_GPT_ENTRY_BYTES, PartitionTable, SIGNATURE,
};
use crate::arrange::{Wishes, types};
use crate::table::gpt::{LEGACY_BIOS_BOOTABLE, guid, sealed};
use crate::table::mbr::ENTRIES;
use crate::table::{TableKind, overwrite};

/// The first number of logical partitions.
const LOGICAL: u32 = 5;
/// The count in a GPT's header: UEFI 2.10 §5.3.2 table 5.5.
const ENTRY_COUNT: usize = 80;
/// The attributes of an entry: UEFI 2.10 §5.3.3 table 5.6.
const ENTRY_ATTRIBUTES: usize = 48;

/// A table, and where its entries came from.
pub(super) struct Wanted {
    pub(super) table: PartitionTable,
    /// The source's number of each of the table's entries.
    pub(super) origins: Vec<u32>,
    /// Indices of the entries, in order of place.
    pub(super) order: Vec<usize>,
    /// The old places mean nothing here.
    pub(super) homeless: bool,
    pub(super) ids: Vec<(String, String)>,
    pub(super) notes: Vec<Remark>,
}

pub(super) fn wanted(
    source: &PartitionTable,
    wishes: &Wishes,
    sector_bytes: u32,
    random: &mut dyn FnMut() -> [u8; 16],
) -> Result<Wanted, Unfit> {
    if source.kind == TableKind::None {
        return Err(Unfit::NoTable);
    }
    let mut table = source.clone();
    let mut notes = Vec::new();
    if let Some(only) = &wishes.only {
        keep_only(&mut table, only)?;
    }
    let origins: Vec<u32> = table.entries.iter().map(|entry| entry.number).collect();
    let before = table.ids();
    let order = table.by_place();
    if wishes.create {
        table = created(&table, sector_bytes, random)?;
    } else if wishes.to_gpt && table.kind == TableKind::Mbr {
        table = to_gpt(&table, random)?;
    } else {
        renumber(&mut table, &mut notes);
    }
    let ids = before.into_iter().zip(table.ids()).filter(|(before, after)| before != after).collect();
    Ok(Wanted { table, origins, order, homeless: wishes.create, ids, notes })
}

fn keep_only(table: &mut PartitionTable, only: &[u32]) -> Result<(), Unfit> {
    let missing = |number: &&u32| !table.entries.iter().any(|entry| entry.number == **number);
    if let Some(number) = only.iter().find(missing) {
        return Err(Unfit::NoSuchPartition { number: *number });
    }
    table.entries.retain(|entry| only.contains(&entry.number));
    Ok(())
}

/// Logical partitions are counted along the chain; what belongs before each of them depends on who is first.
fn renumber(table: &mut PartitionTable, notes: &mut Vec<Remark>) {
    let mut changed = false;
    for (entry, to) in table.entries.iter_mut().filter(|entry| entry.logical).zip(LOGICAL..) {
        if entry.number != to {
            notes.push(Remark::Renumbered { from: entry.number, to });
            entry.number = to;
            changed = true;
        }
    }
    if changed {
        table.spell_ids();
    }
    if table.extended.is_some() && !table.entries.iter().any(|entry| entry.logical) {
        notes.push(Remark::EmptyExtended);
        table.extended = None;
    }
}

/// The same partitions in a GPT, by their numbers.
fn to_gpt(mbr: &PartitionTable, random: &mut dyn FnMut() -> [u8; 16]) -> Result<PartitionTable, Unfit> {
    let mut table = PartitionTable::empty_gpt(mbr.sector_bytes, random);
    table.boot = mbr.boot.clone();
    // The old signature and entries are nobody's now.
    overwrite(&mut table.boot, SIGNATURE, &[0; 6]);
    overwrite(&mut table.boot, ENTRIES, &[0; 64]);
    table.entries = mbr.entries.iter().map(|entry| gpt_entry(entry, random)).collect::<Result<_, _>>()?;
    let last = table.entries.iter().map(|entry| entry.number).max().unwrap_or(0);
    grow_slots(&mut table, last);
    Ok(table)
}

/// A new GPT, with the partitions numbered from 1.
fn created(
    source: &PartitionTable,
    sector_bytes: u32,
    random: &mut dyn FnMut() -> [u8; 16],
) -> Result<PartitionTable, Unfit> {
    let mut table = PartitionTable::empty_gpt(sector_bytes, random);
    for (entry, number) in source.entries.iter().zip(1..) {
        let mut entry = match source.kind {
            TableKind::Mbr => gpt_entry(entry, random)?,
            _ => copied_entry(entry, random),
        };
        entry.number = number;
        table.entries.push(entry);
    }
    grow_slots(&mut table, u32::try_from(source.entries.len()).unwrap_or(u32::MAX));
    Ok(table)
}

/// A GPT's entry under a new identity.
fn copied_entry(entry: &Entry, random: &mut dyn FnMut() -> [u8; 16]) -> Entry {
    let mut copy = entry.clone();
    copy.raw.truncate(slot_bytes());
    copy.set_guid(types::random_guid(random));
    copy
}

/// An MBR's entry as one of a GPT.
fn gpt_entry(entry: &Entry, random: &mut dyn FnMut() -> [u8; 16]) -> Result<Entry, Unfit> {
    let no_type = || Unfit::NoGptType { number: entry.number, type_id: entry.type_id.clone() };
    let type_id = types::gpt_type(&entry.type_id).ok_or_else(no_type)?;
    let id = types::random_guid(random);
    let mut raw = vec![0; slot_bytes()];
    overwrite(&mut raw, 0, &types::guid_bytes(type_id).ok_or_else(no_type)?);
    overwrite(&mut raw, ENTRY_GUID, &id);
    if entry.bootable {
        overwrite(&mut raw, ENTRY_ATTRIBUTES, &LEGACY_BIOS_BOOTABLE.to_le_bytes());
    }
    let Extent { offset, bytes } = entry.extent;
    Ok(Entry {
        number: entry.number,
        extent: Extent { offset, bytes },
        type_id: type_id.to_owned(),
        uuid: guid(&id),
        name: None,
        bootable: entry.bootable,
        logical: false,
        raw,
        lead: 0,
    })
}

fn slot_bytes() -> usize {
    usize::try_from(NEW_GPT_ENTRY_BYTES).unwrap_or(0)
}

/// Makes room for entries up to this number; most tables have it.
fn grow_slots(table: &mut PartitionTable, last: u32) {
    let Some(kept) = table.gpt.as_mut().filter(|_| last > NEW_GPT_ENTRIES) else { return };
    let count = last.checked_next_multiple_of(NEW_GPT_ENTRIES).unwrap_or(last);
    kept.slots.resize(usize::try_from(count).unwrap_or(0).saturating_mul(slot_bytes()), 0);
    kept.header = sealed(&kept.header, [(ENTRY_COUNT, count.to_le_bytes().as_slice())]);
}

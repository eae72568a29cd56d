//! Tests of arranging: by properties, by example, and by the tools that people use on tables.

mod examples;
mod properties;
mod tools;

use super::*;
use crate::table::mbr::{ENTRIES, RECORD_BYTES};
use crate::table::overwrite;
use crate::{Assembled, ReadAt};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
pub(super) const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
pub(super) const RECOVERY: &str = "de94bba4-06d1-4d40-a16a-bfd50179d6ac";

/// Bytes that differ each time, and are the same in each run.
pub(super) fn counter() -> impl FnMut() -> [u8; 16] {
    let mut number = 0_u128;
    move || {
        number += 1;
        (number * 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef).to_le_bytes()
    }
}

/// A GPT of these partitions: type, first byte, bytes.
pub(super) fn gpt_of(sector: u32, partitions: &[(&str, u64, u64)]) -> PartitionTable {
    let mut random = counter();
    let mut table = PartitionTable::empty_gpt(sector, &mut random);
    for ((type_id, offset, bytes), number) in partitions.iter().zip(1..) {
        let id = types::random_guid(&mut random);
        let mut raw = vec![0; 128];
        overwrite(&mut raw, 0, &types::guid_bytes(type_id).unwrap());
        overwrite(&mut raw, 16, &id);
        let extent = Extent { offset: *offset, bytes: *bytes };
        table.entries.push(entry(number, extent, type_id, raw));
        table.entries.last_mut().unwrap().set_guid(id);
    }
    table
}

/// An MBR of these partitions: number, type, first byte, bytes, and for logical ones (from 5 on) bytes before them.
pub(super) fn mbr_of(sector: u32, partitions: &[(u32, u8, u64, u64, u64)]) -> PartitionTable {
    let mut boot = vec![0; usize::try_from(sector).unwrap()];
    overwrite(&mut boot, 440, &0x1234_5678_u32.to_le_bytes());
    let mut table = PartitionTable {
        kind: TableKind::Mbr,
        sector_bytes: sector,
        entries: Vec::new(),
        boot,
        gpt: None,
        extended: None,
    };
    let mut end = 0;
    for (number, type_id, offset, bytes, lead) in partitions.iter().copied() {
        let logical = number > 4;
        let mut raw = vec![0; if logical { RECORD_BYTES } else { 16 }];
        overwrite(&mut raw, if logical { ENTRIES + 4 } else { 4 }, &[type_id]);
        let mut entry = entry(number, Extent { offset, bytes }, &format!("{type_id:#04x}"), raw);
        (entry.logical, entry.lead) = (logical, lead);
        if logical {
            end = end.max(offset + bytes);
        }
        table.entries.push(entry);
    }
    table.entries.sort_by_key(|entry| entry.number);
    if end > 0 {
        let number = (1..=4).find(|number| table.entries.iter().all(|entry| entry.number != *number));
        let number = number.expect("a free number for the extended partition");
        overwrite(&mut table.boot, ENTRIES + 16 * (usize::try_from(number).unwrap() - 1) + 4, &[0x0f]);
        table.extended = Some(table::Extended { number, end });
    }
    table.spell_ids();
    table
}

fn entry(number: u32, extent: Extent, type_id: &str, raw: Vec<u8>) -> Entry {
    let type_id = type_id.to_owned();
    let uuid = String::new();
    Entry { number, extent, type_id, uuid, name: None, bootable: false, logical: false, raw, lead: 0 }
}

/// A device with nothing but a table, whose parts lie apart from each other and from the partitions.
pub(super) fn written(table: &PartitionTable, target: Geometry) -> Assembled {
    let mut device = Assembled::new(target.bytes, target.sector_bytes);
    let mut taken: Vec<Extent> = table.entries().iter().map(|entry| entry.extent).collect();
    for (offset, bytes) in table.encode(target).unwrap() {
        assert_eq!(bytes.len() % target.sector_len(), 0);
        taken.push(Extent { offset, bytes: bytes.len().try_into().unwrap() });
        device.put_bytes(offset, bytes);
    }
    taken.sort();
    assert!(taken.windows(2).all(|pair| !pair[0].overlaps(&pair[1])), "{taken:?}");
    assert!(taken.last().is_none_or(|last| last.end() <= target.bytes), "{taken:?}");
    device
}

pub(super) fn read(device: &dyn ReadAt, sector: u32) -> PartitionTable {
    PartitionTable::read(device, sector).unwrap()
}

/// What a table says, without the bytes that it is made of.
pub(super) fn said(table: &PartitionTable) -> impl PartialEq + std::fmt::Debug {
    let entries: Vec<Entry> =
        table.entries.iter().map(|entry| Entry { raw: Vec::new(), ..entry.clone() }).collect();
    (table.kind, table.sector_bytes, entries, table.disk_id(), table.extended)
}

/// A partition whose content can become anything between `min` and the whole disk.
pub(super) fn elastic(number: u32, min_bytes: u64) -> Need {
    Need { number, min_bytes, can_grow: true, ..Need::default() }
}

pub(super) fn geometry(bytes: u64) -> Geometry {
    Geometry { bytes, sector_bytes: 512 }
}

pub(super) fn wish(mode: Mode) -> Wishes {
    Wishes { mode, ..Wishes::default() }
}

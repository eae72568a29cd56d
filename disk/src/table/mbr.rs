//! Master boot records and the chain of extended boot records behind them.
//!
//! Promise: the chain is followed for a bounded number of steps and only inside the extended partition.
//! `mbrman` decodes single sectors; its walk of the chain overflows and panics on hostile tables, so it is done here.
//! Knows nothing of GPT, except that type 0xee stands for one.

use std::collections::HashSet;
use std::io::Cursor;

use mbrman::{MBRHeader, MBRPartitionEntry};

use crate::table::{Layout, TableKind, Volume, types};
use crate::{Extent, ReadAt};

/// Linux stops at 256 partitions (block/partitions/check.h, `DISK_MAX_PARTS`).
const EXTENDED_RECORDS_MAX: usize = 256;
/// UEFI 2.10 §5.2.3: the type of the partition that protects a GPT.
pub(crate) const PROTECTIVE: u8 = 0xee;
/// The table fills the first 512 bytes, whatever the sector size.
pub(crate) const RECORD_BYTES: usize = 512;
/// UEFI 2.10 §5.2.1: four entries from here; §5.2.2: start and size lie 8 and 12 bytes into an entry.
pub(crate) const ENTRIES: usize = 446;
pub(crate) const ENTRY_BYTES: usize = 16;

/// What sector 0 is.
pub(crate) enum BootSector {
    /// It cannot be read.
    Unreadable,
    /// No 55 aa at its end.
    Absent,
    /// 55 aa, but the flags of the entries are not those of a table.
    Invalid,
    /// It says: look for a GPT.
    Protective {
        /// It lists other partitions too.
        hybrid: bool,
    },
    /// A table of its own.
    Table(Box<MBRHeader>),
}

/// Looks at sector 0.
pub(crate) fn boot_sector(device: &dyn ReadAt) -> BootSector {
    match read_record(device, 0) {
        Err(Unusable::Unreadable) => BootSector::Unreadable,
        Err(Unusable::NoSignature) => BootSector::Absent,
        Err(Unusable::BadFlags) => BootSector::Invalid,
        Ok(header) => {
            let used = || header.iter().map(|(_, entry)| entry).filter(|entry| entry.is_used());
            if used().any(|entry| entry.sys == PROTECTIVE) {
                return BootSector::Protective { hybrid: used().any(|entry| entry.sys != PROTECTIVE) };
            }
            BootSector::Table(Box::new(header))
        }
    }
}

enum Unusable {
    Unreadable,
    NoSignature,
    BadFlags,
}

/// One record. `mbrman` is given memory of exactly the size it decodes: it cannot seek or allocate.
fn read_record(device: &dyn ReadAt, offset: u64) -> Result<MBRHeader, Unusable> {
    let mut record = [0; RECORD_BYTES];
    device.read_exact_at(offset, &mut record).map_err(|_| Unusable::Unreadable)?;
    if !record.ends_with(&[0x55, 0xaa]) {
        return Err(Unusable::NoSignature);
    }
    MBRHeader::read_from(&mut Cursor::new(record)).map_err(|_| Unusable::BadFlags)
}

/// Where the records of the logical partitions are: for those who write tables.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// The number and the place of the extended partition.
    pub(crate) extended: Option<(u32, Extent)>,
    /// The logical partitions, in the chain's order.
    pub(crate) logicals: Vec<Logical>,
}

/// One logical partition.
#[derive(Debug)]
pub(crate) struct Logical {
    pub(crate) number: u32,
    /// First byte of the record that names it.
    pub(crate) record: u64,
    /// Which entry of that record, from 0.
    pub(crate) slot: usize,
}

/// The layout that a table describes.
pub(crate) fn layout(
    device: &dyn ReadAt,
    sector_bytes: u32,
    header: &MBRHeader,
    warnings: Vec<String>,
) -> (Layout, Chain) {
    let disk_id = format!("{:08x}", u32::from_le_bytes(header.disk_signature));
    let mut walk = Walk {
        device,
        sector: u64::from(sector_bytes),
        disk_id,
        volumes: Vec::new(),
        warnings,
        chain: Chain::default(),
    };
    let mut extended = None;
    for (number, entry) in header.iter() {
        match entry {
            entry if entry.is_unused() || entry.sectors == 0 => {}
            entry if entry.is_extended() && extended.is_none() => {
                extended = Some(entry);
                let number = u32::try_from(number).unwrap_or(u32::MAX);
                walk.chain.extended = Some((number, walk.extent(0, entry)));
            }
            entry if entry.is_extended() => {
                walk.warnings.push(format!("partition {number} is a second extended one: ignored"));
            }
            entry => walk.add(u32::try_from(number).unwrap_or(u32::MAX), 0, entry),
        }
    }
    if let Some(extended) = extended {
        walk.follow(extended);
    }
    let Walk { disk_id, volumes, warnings, chain, .. } = walk;
    (Layout { table: TableKind::Mbr, disk_id: Some(disk_id), sector_bytes, volumes, warnings }, chain)
}

struct Walk<'a> {
    device: &'a dyn ReadAt,
    sector: u64,
    disk_id: String,
    volumes: Vec<Volume>,
    warnings: Vec<String>,
    chain: Chain,
}

impl Walk<'_> {
    fn extent(&self, base: u64, entry: &MBRPartitionEntry) -> Extent {
        // u32 sectors of at most 64 KiB: at most 2^49 bytes, so neither can saturate.
        let offset = base.saturating_add(u64::from(entry.starting_lba)).saturating_mul(self.sector);
        Extent { offset, bytes: u64::from(entry.sectors).saturating_mul(self.sector) }
    }

    fn add(&mut self, number: u32, base: u64, entry: &MBRPartitionEntry) {
        self.volumes.push(Volume {
            number,
            extent: self.extent(base, entry),
            type_id: format!("{:#04x}", entry.sys),
            type_name: types::mbr_name(entry.sys),
            uuid: Some(format!("{}-{number:02x}", self.disk_id)),
            name: None,
            bootable: entry.is_active(),
            content: None,
        });
    }

    /// Follows the chain: each record holds one partition, relative to itself, and a link to the next record,
    /// relative to the extended partition. Partitions are numbered as Linux does (block/partitions/msdos.c).
    fn follow(&mut self, extended: &MBRPartitionEntry) {
        let start = u64::from(extended.starting_lba);
        let end = start.saturating_add(u64::from(extended.sectors));
        let mut seen = HashSet::new();
        let mut number = 5_u32;
        let mut at = start;
        while seen.len() < EXTENDED_RECORDS_MAX {
            if !seen.insert(at) {
                return self.warnings.push("the chain of logical partitions is a circle".to_owned());
            }
            let record = match read_record(self.device, at.saturating_mul(self.sector)) {
                Ok(record) => record,
                // An extended partition without any logical one need not have a record.
                Err(Unusable::NoSignature) if at == start => return,
                Err(_) => {
                    return self.warnings.push(format!("no intact logical partition record in sector {at}"));
                }
            };
            for (slot, entry) in record.iter().filter(|(_, entry)| entry.is_used() && entry.sectors > 0) {
                if !entry.is_extended() {
                    self.add_logical(number, at, end, entry);
                    let (record, slot) = (at.saturating_mul(self.sector), slot.saturating_sub(1));
                    self.chain.logicals.push(Logical { number, record, slot });
                    number = number.saturating_add(1);
                }
            }
            match next_record(&record, start) {
                None => return,
                Some(next) if next < end => at = next,
                Some(next) => {
                    let text =
                        format!("link to a logical partition record outside the extended one: sector {next}");
                    return self.warnings.push(text);
                }
            }
        }
        self.warnings
            .push(format!("more than {EXTENDED_RECORDS_MAX} logical partition records: the rest is ignored"));
    }

    fn add_logical(&mut self, number: u32, at: u64, end: u64, entry: &MBRPartitionEntry) {
        let last = at.saturating_add(u64::from(entry.starting_lba)).saturating_add(u64::from(entry.sectors));
        if last > end {
            self.warnings.push(format!("logical partition {number} reaches beyond the extended one"));
        }
        self.add(number, at, entry);
    }
}

fn next_record(record: &MBRHeader, start: u64) -> Option<u64> {
    let link = |entry: &&MBRPartitionEntry| entry.is_extended() && entry.sectors > 0;
    let entry = record.iter().map(|(_, entry)| entry).find(link)?;
    Some(start.saturating_add(u64::from(entry.starting_lba)))
}

/// Sector 0 with the protective partition as long as a device of `sectors` needs it; `None` when sector 0 is not a
/// plain protective MBR: a hybrid one has its reasons.
pub(crate) fn resized_protective(sector: &[u8], sectors: u64) -> Option<Vec<u8>> {
    let mut new = sector.to_vec();
    let entries = new.get_mut(ENTRIES..RECORD_BYTES)?;
    if !entries.ends_with(&[0x55, 0xaa]) {
        return None;
    }
    let mut used = entries.chunks_exact_mut(ENTRY_BYTES).take(4).filter(|entry| entry.get(4) != Some(&0));
    let (entry, others) = (used.next()?, used.next());
    if others.is_some() || entry.get(4) != Some(&PROTECTIVE) || entry.get(8..12) != Some(&[1, 0, 0, 0]) {
        return None;
    }
    let size = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
    entry.get_mut(12..16)?.copy_from_slice(&size.to_le_bytes());
    Some(new)
}

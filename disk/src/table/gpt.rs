//! GUID partition tables: reading either copy, and moving the backup to the end of a larger device.
//!
//! Promise: only a table whose checksums hold is used; sizes in headers are bounded before anything is allocated.
//! `gptman` decodes headers and entries; its reading of a whole table trusts both counts in the header (an array of
//! 2^32 entries; an assertion on their size), so it is not called.
//! Knows nothing of MBRs but the protective one. Layout of a header: UEFI 2.10 §5.3.2 table 5.5; of an entry: §5.3.3.

use std::io::Cursor;

use gptman::{GPTHeader, GPTPartitionEntry};

use crate::table::{Layout, Located, TableKind, Volume, locate, mbr, types};
use crate::{Error, Extent, ReadAt, WriteAt};

/// 2048 entries of the common size; usual tables have 128.
const ENTRIES_BYTES_MAX: u64 = 256 << 10;
/// The part of a header that is defined and checked.
pub(crate) const HEADER_BYTES: usize = 92;
/// The part of an entry that is defined; entries may be longer.
pub(crate) const ENTRY_BYTES: usize = 128;
/// `gptman` 3.1 reads as many bytes as its own struct has in memory, which is more than an entry; it ignores the rest.
const GPTMAN_READS_BYTES: usize = 512;
const _: () = assert!(size_of::<GPTPartitionEntry>() <= GPTMAN_READS_BYTES && size_of::<GPTHeader>() <= 512);
pub(crate) const PRIMARY_LBA: u64 = 1;
/// Where a primary's entries begin when the primary has to be made anew.
pub(crate) const PRIMARY_ENTRIES_LBA: u64 = 2;
/// Attribute bit 2: UEFI 2.10 §5.3.3 table 5.8.
pub(crate) const LEGACY_BIOS_BOOTABLE: u64 = 1 << 2;

/// One intact copy of a table.
#[derive(Debug)]
pub(crate) struct Gpt {
    sector: u64,
    header: GPTHeader,
    /// The header's sector, as it is on the device.
    raw_header: Vec<u8>,
    /// The entries, as they are on the device.
    raw_entries: Vec<u8>,
    warnings: Vec<String>,
}

/// What a table holds beside its partitions' places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The header's sector; the disk's GUID is in it.
    pub(crate) header: Vec<u8>,
    /// The array of entries.
    pub(crate) slots: Vec<u8>,
    /// Length of one entry, 128 at least.
    pub(crate) slot_bytes: usize,
    /// Where the primary's entries begin.
    pub(crate) entries_lba: u64,
    /// Where partitions may begin.
    pub(crate) first_usable_lba: u64,
}

/// Why a copy cannot be used.
#[derive(Debug, PartialEq, Eq)]
enum Unusable {
    Absent,
    Damaged(String),
}

/// Looks for a table written for sectors of this size, and then of the other common size.
pub(crate) fn find(device: &dyn ReadAt, sector_bytes: u32) -> Option<Gpt> {
    if let Some(gpt) = find_with(device, u64::from(sector_bytes)) {
        return Some(gpt);
    }
    let other: u32 = if sector_bytes == 512 { 4096 } else { 512 };
    let mut gpt = find_with(device, u64::from(other))?;
    gpt.warnings.push(format!("the gpt counts in sectors of {other} bytes, the device in {sector_bytes}"));
    Some(gpt)
}

/// The primary copy, else the one in the last sector.
fn find_with(device: &dyn ReadAt, sector: u64) -> Option<Gpt> {
    let last = last_lba(device.size_bytes(), sector)?;
    match read_copy(device, sector, PRIMARY_LBA) {
        Ok(mut gpt) => {
            gpt.check_backup(device, last);
            Some(gpt)
        }
        Err(why) => {
            let mut gpt = read_copy(device, sector, last).ok()?;
            let why = match why {
                Unusable::Absent => "is not there".to_owned(),
                Unusable::Damaged(why) => format!("is damaged ({why})"),
            };
            gpt.warnings.push(format!("the primary gpt {why}: the backup in sector {last} is used"));
            Some(gpt)
        }
    }
}

fn last_lba(size_bytes: u64, sector: u64) -> Option<u64> {
    size_bytes.checked_div(sector)?.checked_sub(1)
}

fn read_copy(device: &dyn ReadAt, sector: u64, lba: u64) -> Result<Gpt, Unusable> {
    let damaged = |why: &str| Unusable::Damaged(why.to_owned());
    let offset = lba.checked_mul(sector).ok_or(Unusable::Absent)?;
    let mut raw_header = vec![0; usize::try_from(sector).map_err(|_| Unusable::Absent)?];
    device.read_exact_at(offset, &mut raw_header).map_err(|_| damaged("unreadable"))?;
    if !raw_header.starts_with(b"EFI PART") {
        return Err(Unusable::Absent);
    }
    let header =
        GPTHeader::read_from(&mut Cursor::new(&raw_header)).map_err(|e| Unusable::Damaged(e.to_string()))?;
    if header.primary_lba != lba {
        return Err(damaged("it says it is elsewhere"));
    }
    let raw_entries = read_entries(device, sector, &header)?;
    Ok(Gpt { sector, header, raw_header, raw_entries, warnings: Vec::new() })
}

fn read_entries(device: &dyn ReadAt, sector: u64, header: &GPTHeader) -> Result<Vec<u8>, Unusable> {
    let damaged = |why: &str| Unusable::Damaged(why.to_owned());
    let size = header.size_of_partition_entry;
    let bytes = u64::from(header.number_of_partition_entries).saturating_mul(u64::from(size));
    if size < 128 || !size.is_power_of_two() || bytes == 0 || bytes > ENTRIES_BYTES_MAX {
        return Err(damaged("impossible number or size of entries"));
    }
    let offset =
        header.partition_entry_lba.checked_mul(sector).ok_or_else(|| damaged("entries are nowhere"))?;
    let mut entries = vec![0; usize::try_from(bytes).map_err(|_| Unusable::Absent)?];
    device.read_exact_at(offset, &mut entries).map_err(|_| damaged("entries are unreadable"))?;
    match crc32fast::hash(&entries) == header.partition_entry_array_crc32 {
        true => Ok(entries),
        false => Err(damaged("checksum of the entries")),
    }
}

impl Gpt {
    pub(super) fn with_warnings(mut self, mut before: Vec<String>) -> Self {
        before.append(&mut self.warnings);
        self.warnings = before;
        self
    }

    /// How many things were odd about its copies.
    pub(super) fn warnings_len(&self) -> usize {
        self.warnings.len()
    }

    /// What must be kept of it when it is written anew.
    pub(crate) fn kept(&self) -> Kept {
        let from_backup = self.header.primary_lba != PRIMARY_LBA;
        Kept {
            header: self.raw_header.clone(),
            slots: self.raw_entries.clone(),
            slot_bytes: usize::try_from(self.header.size_of_partition_entry).unwrap_or(ENTRY_BYTES),
            entries_lba: if from_backup { PRIMARY_ENTRIES_LBA } else { self.header.partition_entry_lba },
            first_usable_lba: self.header.first_usable_lba,
        }
    }

    /// Says when the other copy is not what it should be.
    fn check_backup(&mut self, device: &dyn ReadAt, last: u64) {
        let backup_lba = self.header.backup_lba;
        let warning = match read_copy(device, self.sector, backup_lba) {
            Ok(backup)
                if backup.raw_entries != self.raw_entries
                    || backup.header.disk_guid != self.header.disk_guid =>
            {
                "the backup gpt differs from the primary".to_owned()
            }
            Ok(_) if backup_lba != last => {
                format!("the backup gpt is in sector {backup_lba}, the device ends with sector {last}")
            }
            Ok(_) => return,
            Err(Unusable::Absent) => format!("the backup gpt is not in sector {backup_lba}"),
            Err(Unusable::Damaged(why)) => format!("the backup gpt is damaged ({why})"),
        };
        self.warnings.push(warning);
    }

    /// The used entries, by number. One that cannot be decoded does not exist: decoding fixed-size fields cannot fail.
    fn entries(&self) -> impl Iterator<Item = (u32, GPTPartitionEntry)> {
        let size = usize::try_from(self.header.size_of_partition_entry).unwrap_or(usize::MAX);
        (1..).zip(self.raw_entries.chunks_exact(size)).filter_map(|(number, raw)| {
            let mut padded = [0; GPTMAN_READS_BYTES];
            let defined = raw.first_chunk::<ENTRY_BYTES>()?;
            padded.first_chunk_mut::<ENTRY_BYTES>()?.copy_from_slice(defined);
            let entry = GPTPartitionEntry::read_from(&mut Cursor::new(padded)).ok()?;
            entry.is_used().then_some((number, entry))
        })
    }

    /// The layout that the table describes.
    pub(super) fn layout(&self) -> Layout {
        let mut layout = Layout {
            table: TableKind::Gpt,
            disk_id: Some(guid(&self.header.disk_guid)),
            sector_bytes: u32::try_from(self.sector).unwrap_or(512),
            volumes: Vec::new(),
            warnings: self.warnings.clone(),
        };
        for (number, entry) in self.entries() {
            match self.extent(&entry) {
                Some(extent) => layout.volumes.push(volume(number, extent, &entry)),
                None => layout.warnings.push(format!("partition {number} has no possible place: ignored")),
            }
        }
        layout
    }

    fn extent(&self, entry: &GPTPartitionEntry) -> Option<Extent> {
        let sectors = entry.ending_lba.checked_sub(entry.starting_lba)?.checked_add(1)?;
        let offset = entry.starting_lba.checked_mul(self.sector)?;
        let bytes = sectors.checked_mul(self.sector)?;
        // Sectors 0 and 1 are the tables themselves.
        (entry.starting_lba > PRIMARY_LBA && offset.checked_add(bytes).is_some())
            .then_some(Extent { offset, bytes })
    }
}

fn volume(number: u32, extent: Extent, entry: &GPTPartitionEntry) -> Volume {
    let type_id = guid(&entry.partition_type_guid);
    let name = entry.partition_name.as_str();
    Volume {
        number,
        extent,
        type_name: types::gpt_name(&type_id),
        type_id,
        uuid: Some(guid(&entry.unique_partition_guid)),
        name: (!name.is_empty()).then(|| name.to_owned()),
        bootable: entry.attribute_bits & LEGACY_BIOS_BOOTABLE != 0,
        content: None,
    }
}

/// Text of a GUID: the first three fields are little endian (UEFI 2.10 appendix A).
pub(crate) fn guid(bytes: &[u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = *bytes;
    let a = u32::from_le_bytes([a0, a1, a2, a3]);
    let (b, c) = (u16::from_le_bytes([b0, b1]), u16::from_le_bytes([c0, c1]));
    let [d0, d1, e0, e1, e2, e3, e4, e5] = rest;
    format!("{a:08x}-{b:04x}-{c:04x}-{d0:02x}{d1:02x}-{e0:02x}{e1:02x}{e2:02x}{e3:02x}{e4:02x}{e5:02x}")
}

/// The writes that turn the first bytes of `image`, restored to a device of `target_bytes`, into a complete GPT:
/// backup at the end, primary and protective MBR pointing to it, partitions as they were. In the order in which they
/// are safe to do. None when there is no GPT, or when it already ends where the device ends.
///
/// # Errors
/// [`Error::GptTooLarge`] and [`Error::GptCrowded`] when the partitions leave no room; reading sector 0.
pub fn plan_backup_gpt(
    image: &dyn ReadAt,
    sector_bytes: u32,
    target_bytes: u64,
) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    match locate(image, super::sane(sector_bytes)) {
        Located::Gpt(gpt) => gpt.moved(image, target_bytes),
        Located::Mbr(..) | Located::Nothing(_) => Ok(Vec::new()),
    }
}

/// Moves the backup GPT to the real end of a device, as `sgdisk -e` does; writes nothing that is there already.
/// `false`: there is no GPT.
///
/// # Errors
/// As [`plan_backup_gpt`], and those of writing.
pub fn relocate_backup_gpt(target: &dyn WriteAt, sector_bytes: u32) -> Result<bool, Error> {
    let Located::Gpt(gpt) = locate(&target, super::sane(sector_bytes)) else { return Ok(false) };
    let mut wrote = false;
    for (offset, bytes) in gpt.moved(&target, target.size_bytes())? {
        let mut there = vec![0; bytes.len()];
        if target.read_exact_at(offset, &mut there).is_err() || there != bytes {
            target.write_all_at(offset, &bytes)?;
            wrote = true;
        }
    }
    if wrote {
        target.sync()?;
    }
    Ok(true)
}

impl Gpt {
    fn moved(&self, image: &dyn ReadAt, target_bytes: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let from_backup = self.header.primary_lba != PRIMARY_LBA;
        let ends_at = if from_backup { self.header.primary_lba } else { self.header.backup_lba };
        let too_large = |expected, found| Error::GptTooLarge { expected, found };
        let sectors = target_bytes.checked_div(self.sector).unwrap_or(0);
        let Some(last) = sectors.checked_sub(1) else { return Err(too_large(ends_at, 0)) };
        if ends_at == last {
            return Ok(Vec::new());
        }
        let entries = self.padded_entries();
        let entry_sectors = len64(&entries).checked_div(self.sector).unwrap_or(0);
        let last_usable = last.saturating_sub(1).saturating_sub(entry_sectors);
        let needed = self.entries().map(|(_, entry)| entry.ending_lba).max().unwrap_or(0);
        let needed = needed.max(self.header.first_usable_lba);
        if needed > last_usable {
            return Err(too_large(needed, last_usable));
        }
        let primary_entries = if from_backup { PRIMARY_ENTRIES_LBA } else { self.header.partition_entry_lba };
        let first_free = primary_entries.saturating_add(entry_sectors);
        if first_free > self.header.first_usable_lba {
            return Err(Error::GptCrowded { expected: first_free, found: self.header.first_usable_lba });
        }
        let backup_entries = last_usable.saturating_add(1);
        let backup = self.header_at(last, PRIMARY_LBA, last_usable, backup_entries);
        let primary = self.header_at(PRIMARY_LBA, last, last_usable, primary_entries);
        let place = |lba: u64| lba.saturating_mul(self.sector);
        let mut writes = vec![(place(backup_entries), entries.clone()), (place(last), backup)];
        if from_backup {
            writes.push((place(primary_entries), entries));
        }
        writes.push((place(PRIMARY_LBA), primary));
        writes.extend(self.protective(image, sectors)?);
        Ok(writes)
    }

    fn padded_entries(&self) -> Vec<u8> {
        let mut entries = self.raw_entries.clone();
        let sector = usize::try_from(self.sector).unwrap_or(usize::MAX);
        entries.resize(entries.len().checked_next_multiple_of(sector).unwrap_or(entries.len()), 0);
        entries
    }

    /// This copy's header, changed to be the one in sector `own`; other bytes of the sector stay.
    fn header_at(&self, own: u64, other: u64, last_usable: u64, entries: u64) -> Vec<u8> {
        let fields = [(24, own), (32, other), (48, last_usable), (72, entries)];
        let fields = fields.map(|(offset, value)| (offset, value.to_le_bytes()));
        sealed(&self.raw_header, fields.iter().map(|(offset, value)| (*offset, value.as_slice())))
    }

    fn protective(&self, image: &dyn ReadAt, sectors: u64) -> Result<Option<(u64, Vec<u8>)>, Error> {
        let mut sector = vec![0; self.raw_header.len()];
        image.read_exact_at(0, &mut sector)?;
        let resized = mbr::resized_protective(&sector, sectors);
        Ok(resized.filter(|resized| *resized != sector).map(|resized| (0, resized)))
    }
}

/// A header with other values in these fields, and the checksum for them. Offsets: UEFI 2.10 §5.3.2 table 5.5.
pub(crate) fn sealed<'a>(header: &[u8], fields: impl IntoIterator<Item = (usize, &'a [u8])>) -> Vec<u8> {
    const CRC: usize = 16;
    let mut raw = header.to_vec();
    fields.into_iter().for_each(|(offset, bytes)| super::overwrite(&mut raw, offset, bytes));
    super::overwrite(&mut raw, CRC, &[0; 4]);
    let crc = crc32fast::hash(raw.get(..HEADER_BYTES).unwrap_or_default());
    super::overwrite(&mut raw, CRC, &crc.to_le_bytes());
    raw
}

fn len64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

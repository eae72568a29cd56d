//! The file table: records by number, attributes that are spread over several, and all records in use.
//!
//! Promise: its first four records are those of the mirror; a record that the table's bitmap or the record itself calls
//! used is whole, or a doubt.
//! Knows nothing of what the files are for. Format: ntfs-3g include/ntfs-3g/layout.h, `ATTR_LIST_ENTRY`; the checks:
//! libntfs-3g/volume.c, `ntfs_mft_load` and `ntfs_device_mount`.

use std::sync::Arc;

use super::super::Doubt;
use super::super::view::{Fields, View};
use super::boot::Boot;
use super::record::{ATTRIBUTE_LIST, BITMAP, DATA, Record, is, split_reference};
use super::stream::{Disk, Stream};
use super::{STEP_BYTES, missing};

const FILE_MFT: u64 = 0;
/// The mirror has more where clusters are larger, but Windows 10 keeps only these: volume.c, `ntfs_device_mount`.
const MIRRORED: u64 = 4;
/// Windows' limit for a list of attributes: 256 KiB.
const LIST_BYTES_MAX: u64 = 256 << 10;

/// The file table.
pub(crate) struct Mft<'a> {
    disk: Disk<'a>,
    /// Shared with whoever opens the same table again and again.
    data: Arc<Stream>,
}

impl<'a> Mft<'a> {
    /// Finds the table. Its own record tells where the rest of it is; a part of that may be told in records that are
    /// in the parts before.
    pub(crate) fn open(volume: View<'a>) -> Result<Self, Doubt> {
        let boot = Boot::read(&volume)?;
        let disk = Disk { volume, boot };
        let place = boot.place(boot.mft_cluster);
        let base = Record::parse(volume.read(place, size(boot.record_bytes))?, FILE_MFT)?;
        let data = base.find(DATA, "", 0)?.ok_or(missing("$MFT"))?;
        let mut mft = Self { disk, data: Arc::new(Stream::of(&data, &boot)?) };
        if mft.data.first_cluster() != Some(boot.mft_cluster) {
            return Err(Doubt::Mismatch {
                place: "first cluster of $MFT",
                expected: boot.mft_cluster,
                found: mft.data.first_cluster().unwrap_or(0),
            });
        }
        for reference in mft.parts(&base, DATA, "")? {
            let record = mft.part_of(&base, reference)?;
            let next = mft.data.next();
            let part = record.find(DATA, "", next)?.ok_or(missing("part of $MFT"))?;
            Arc::make_mut(&mut mft.data).extend(&part, &boot)?;
        }
        mft.data.check_complete(&boot)?;
        mft.data.check_plain("$MFT")?;
        Ok(mft)
    }

    /// The same table, without looking for it again.
    pub(crate) fn again(volume: View<'a>, boot: Boot, data: Arc<Stream>) -> Self {
        Self { disk: Disk { volume, boot }, data }
    }

    /// Where the table's records are.
    pub(crate) fn data(&self) -> &Arc<Stream> {
        &self.data
    }

    pub(crate) fn boot(&self) -> &Boot {
        &self.disk.boot
    }

    pub(crate) fn volume(&self) -> &View<'a> {
        &self.disk.volume
    }

    pub(crate) fn disk(&self) -> Disk<'a> {
        self.disk
    }

    /// A record that should be in use.
    pub(crate) fn record(&self, number: u64) -> Result<Record, Doubt> {
        let record_bytes = self.boot().record_bytes;
        let at = number.saturating_mul(record_bytes);
        if at.saturating_add(record_bytes) > self.data.initialized_bytes() {
            return Err(Doubt::Impossible { place: "number of a file record", found: number });
        }
        Record::parse(self.data.read(self.disk, at, record_bytes)?, number)
    }

    /// A record by its reference, which knows how often the record was used anew.
    pub(crate) fn referred(&self, reference: u64) -> Result<Record, Doubt> {
        let (number, expected) = split_reference(reference);
        let record = self.record(number)?;
        match record.sequence()? {
            found if expected == 0 || found == expected => Ok(record),
            found => Err(Doubt::Mismatch {
                place: "sequence of a file record",
                expected: expected.into(),
                found: found.into(),
            }),
        }
    }

    /// The value of an attribute of a file.
    pub(crate) fn stream(&self, file: u64, kind: u32, name: &str) -> Result<Option<Stream>, Doubt> {
        let base = self.record(file)?;
        let mut stream: Option<Stream> = None;
        let own = base.find(kind, name, 0)?;
        if let Some(attribute) = own {
            stream = Some(Stream::of(&attribute, self.boot())?);
        }
        for reference in self.parts(&base, kind, name)? {
            let record = self.part_of(&base, reference)?;
            let next = stream.as_ref().map_or(0, Stream::next);
            let part = record.find(kind, name, next)?.ok_or(missing("part of an attribute"))?;
            match &mut stream {
                Some(stream) => stream.extend(&part, self.boot())?,
                None => stream = Some(Stream::of(&part, self.boot())?),
            }
        }
        if let Some(stream) = &stream {
            stream.check_complete(self.boot())?;
        }
        Ok(stream)
    }

    /// References to the other records that have parts of an attribute, in order: the entries of the list of attributes.
    fn parts(&self, base: &Record, kind: u32, name: &str) -> Result<Vec<u64>, Doubt> {
        let mut parts = Vec::new();
        self.each_part(base, |reference, found_kind, found_name| {
            if found_kind == kind && is(found_name, name) {
                parts.push(reference);
            }
        })?;
        Ok(parts)
    }

    /// References to the other records that have parts of a file, each once.
    pub(crate) fn other_records(&self, base: &Record) -> Result<Vec<u64>, Doubt> {
        let mut others = Vec::new();
        self.each_part(base, |reference, _, _| others.push(reference))?;
        others.sort_unstable();
        others.dedup();
        Ok(others)
    }

    /// The entries of the list of attributes that lead to other records: reference, kind and name.
    fn each_part(&self, base: &Record, mut each: impl FnMut(u64, u32, &[u8])) -> Result<(), Doubt> {
        let Some(list) = base.find(ATTRIBUTE_LIST, "", 0)? else { return Ok(()) };
        let list = Stream::of(&list, self.boot())?;
        list.check_complete(self.boot())?;
        if list.bytes() > LIST_BYTES_MAX {
            return Err(Doubt::Impossible { place: "bytes of a list of attributes", found: list.bytes() });
        }
        let list = list.read(self.disk, 0, list.bytes())?;
        let mut at = 0_usize;
        // Ends: each entry is at least its header long.
        while at < list.len() {
            /// Up to the name.
            const HEADER_BYTES: usize = 26;
            let len = usize::from(list.le16(at.saturating_add(4))?);
            let entry = list.part(at, len)?;
            if len < HEADER_BYTES {
                return Err(Doubt::Impossible {
                    place: "entry of a list of attributes",
                    found: base.number(),
                });
            }
            let name_bytes = usize::from(entry.byte(6)?).saturating_mul(2);
            let found = entry.part(entry.byte(7)?.into(), name_bytes)?;
            let reference = entry.le64(16)?;
            let elsewhere = split_reference(reference).0 != base.number();
            if elsewhere {
                each(reference, entry.le32(0)?, found);
            }
            at = at.saturating_add(len);
        }
        Ok(())
    }

    pub(crate) fn part_of(&self, base: &Record, reference: u64) -> Result<Record, Doubt> {
        let record = self.referred(reference)?;
        match record.base()? {
            // Nobody refers to record 0 but its own parts, whose base reads as none.
            found if found.unwrap_or(FILE_MFT) == base.number() => Ok(record),
            found => Err(Doubt::Mismatch {
                place: "base of a file record",
                expected: base.number(),
                found: found.unwrap_or(FILE_MFT),
            }),
        }
    }

    /// The first records must be in the mirror as well: else the table itself is in doubt.
    pub(crate) fn check_mirror(&self) -> Result<(), Doubt> {
        let (boot, volume) = (self.boot(), self.volume());
        for number in 0..MIRRORED {
            let at = boot.place(boot.mirror_cluster).saturating_add(number.saturating_mul(boot.record_bytes));
            let copy = Record::parse(volume.read(at, size(boot.record_bytes))?, number)?;
            if copy.bytes() != self.record(number)?.bytes() {
                return Err(Doubt::Mismatch { place: "$MFTMirr: record", expected: number, found: number });
            }
        }
        Ok(())
    }

    /// Visits the records that say they are in use. One that the table's bitmap calls used must be whole, even so.
    pub(crate) fn for_each_used(
        &self,
        mut visit: impl FnMut(&Record) -> Result<(), Doubt>,
    ) -> Result<(), Doubt> {
        let record_bytes = self.boot().record_bytes;
        let used = self.stream(FILE_MFT, BITMAP, "")?.ok_or(missing("$BITMAP of $MFT"))?;
        used.check_plain("$BITMAP of $MFT")?;
        let records = self.data.initialized_bytes().checked_div(record_bytes).unwrap_or(0);
        if used.bytes().saturating_mul(8) < records {
            return Err(Doubt::Mismatch {
                place: "bits of $MFT",
                expected: records,
                found: used.bytes().saturating_mul(8),
            });
        }
        // A whole number of bytes of bits: a record has at most 64 KiB.
        let step = STEP_BYTES.checked_div(record_bytes).unwrap_or(1);
        let mut first = 0_u64;
        while first < records {
            let count = records.saturating_sub(first).min(step);
            let table = self.data.read(
                self.disk,
                first.saturating_mul(record_bytes),
                count.saturating_mul(record_bytes),
            )?;
            let bits = used.read(self.disk, first / 8, count.div_ceil(8))?;
            for (number, bytes) in (0_u64..).zip(table.chunks_exact(size(record_bytes))) {
                let is_used = Record::says_used(bytes);
                let number_of = first.saturating_add(number);
                if is_used {
                    visit(&Record::parse(bytes.to_vec(), number_of)?)?;
                } else if bit(&bits, number)? {
                    Record::check_unused(bytes.to_vec(), number_of)?;
                }
            }
            first = first.saturating_add(count);
        }
        Ok(())
    }
}

/// Bit `number`, lowest first.
pub(crate) fn bit(bits: &[u8], number: u64) -> Result<bool, Doubt> {
    let byte = bits.byte(size(number / 8))?;
    Ok(byte.checked_shr(u32::try_from(number % 8).unwrap_or(0)).unwrap_or(0) & 1 == 1)
}

pub(crate) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

//! What lies where on a device: its partition table, and the regions it cuts the device into.
//!
//! Promise: whatever the device holds, [`Layout::read`] returns what is sure of it and says what was odd (I6); regions
//! cover the device exactly, without overlap. Knows nothing of the kernel's own view of the partitions.

pub(crate) mod gpt;
pub(crate) mod mbr;
mod types;

use serde::{Deserialize, Serialize};

use crate::table::gpt::Gpt;
use crate::table::mbr::BootSector;
use crate::{Content, Extent, ReadAt, content};

/// Contents are looked at in this many volumes at most: real tables hold fewer, and each look reads up to 80 KiB.
const PROBED_VOLUMES_MAX: usize = 256;
/// Sectors larger than this are not made; smaller than 512 neither.
const SECTOR_BYTES_MAX: u32 = 65536;

/// Kind of partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// None: empty, or one file system over all.
    #[default]
    None,
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
}

/// A device's partition table, as far as it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Layout {
    /// Kind of table.
    pub table: TableKind,
    /// GUID of a GPT; signature of an MBR, eight hexadecimal digits.
    pub disk_id: Option<String>,
    /// Size of the sectors that the table counts in.
    pub sector_bytes: u32,
    /// Partitions by number; extended partitions are containers, and not among them.
    pub volumes: Vec<Volume>,
    /// What was odd, for people.
    pub warnings: Vec<String>,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The number by which the kernel calls it; logical ones begin at 5.
    pub number: u32,
    /// Where it lies; a broken table may put it beyond the device's end.
    pub extent: Extent,
    /// Type GUID, or `0x83`.
    pub type_id: String,
    /// The type in words, when it is a common one.
    pub type_name: Option<String>,
    /// Partition GUID (GPT); signature and number (MBR), as in `PARTUUID=`.
    pub uuid: Option<String>,
    /// Partition name (GPT).
    pub name: Option<String>,
    /// Active flag (MBR), legacy BIOS bootable (GPT).
    pub bootable: bool,
    /// What was found in it.
    pub content: Option<Content>,
}

/// A volume, or a gap between volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where it lies.
    pub extent: Extent,
    /// The volume's number; none for gaps, and for volumes that overlap.
    pub volume: Option<u32>,
}

impl Layout {
    /// Reads the partition table. `sector_bytes` is the device's; for an image file, where it is a guess, a GPT
    /// written for the other common size is found too.
    #[must_use]
    pub fn read(device: &dyn ReadAt, sector_bytes: u32) -> Self {
        let mut layout = Table::read(device, sector_bytes).layout;
        for volume in layout.volumes.iter_mut().take(PROBED_VOLUMES_MAX) {
            volume.content = content::probe(device, volume.extent);
        }
        layout
    }

    /// Volumes and the gaps between them, in device order, covering `0..size_bytes` exactly. Volumes that overlap
    /// become one region without a number; one that reaches past the end is clipped.
    #[must_use]
    pub fn regions(&self, size_bytes: u64) -> Vec<Region> {
        let mut regions = Vec::new();
        let mut covered = 0;
        let mut gap_until = |regions: &mut Vec<Region>, start: u64, end: u64| {
            if end > covered {
                let extent = Extent { offset: covered, bytes: end.saturating_sub(covered) };
                regions.push(Region { extent, volume: None });
            }
            covered = covered.max(start);
        };
        for span in self.merged(size_bytes) {
            gap_until(&mut regions, span.extent.end(), span.extent.offset);
            regions.push(span);
        }
        gap_until(&mut regions, size_bytes, size_bytes);
        regions
    }

    /// Volumes clipped to the device, in order of place; those that overlap joined.
    fn merged(&self, size_bytes: u64) -> Vec<Region> {
        let mut spans: Vec<Region> = (self.volumes.iter())
            .map(|volume| (volume.number, volume.extent.offset, volume.extent.end().min(size_bytes)))
            .filter(|(_, offset, end)| offset < end)
            .map(|(number, offset, end)| Region {
                extent: Extent { offset, bytes: end.saturating_sub(offset) },
                volume: Some(number),
            })
            .collect();
        spans.sort_by_key(|span| span.extent);
        let mut merged: Vec<Region> = Vec::with_capacity(spans.len());
        for span in spans {
            match merged.last_mut() {
                Some(last) if last.extent.overlaps(&span.extent) => {
                    let end = last.extent.end().max(span.extent.end());
                    last.extent.bytes = end.saturating_sub(last.extent.offset);
                    last.volume = None;
                }
                _ => merged.push(span),
            }
        }
        merged
    }

    fn warn_of_places(&mut self, size_bytes: u64) {
        let mut order: Vec<&Volume> = self.volumes.iter().collect();
        order.sort_by_key(|volume| volume.extent);
        let mut warnings = Vec::new();
        let mut furthest: Option<&Volume> = None;
        for volume in order {
            if let Some(before) = furthest.filter(|before| before.extent.overlaps(&volume.extent)) {
                warnings.push(format!("volumes {} and {} overlap", before.number, volume.number));
            }
            if volume.extent.end() > size_bytes {
                warnings.push(format!("volume {} reaches beyond the end of the device", volume.number));
            }
            if furthest.is_none_or(|before| before.extent.end() < volume.extent.end()) {
                furthest = Some(volume);
            }
        }
        self.warnings.extend(warnings);
    }
}

/// A table, and what it was made from: for those who write tables.
pub(crate) struct Table {
    /// What it says; nothing was looked for in the volumes.
    pub(crate) layout: Layout,
    /// How many of the layout's warnings, the first ones, are about copies of the table and not about what it says.
    pub(crate) warnings_of_copies: usize,
    pub(crate) rest: Rest,
}

/// What a layout leaves out.
pub(crate) enum Rest {
    Gpt(Box<Gpt>),
    Mbr(mbr::Chain),
    Nothing,
}

impl Table {
    pub(crate) fn read(device: &dyn ReadAt, sector_bytes: u32) -> Self {
        let sector_bytes = sane(sector_bytes);
        let (mut layout, warnings_of_copies, rest) = match locate(device, sector_bytes) {
            Located::Gpt(gpt) => (gpt.layout(), gpt.warnings_len(), Rest::Gpt(gpt)),
            Located::Mbr(header, warnings) => {
                let before = warnings.len();
                let (layout, chain) = mbr::layout(device, sector_bytes, &header, warnings);
                (layout, before, Rest::Mbr(chain))
            }
            Located::Nothing(warnings) => {
                let before = warnings.len();
                (Layout { sector_bytes, warnings, ..Layout::default() }, before, Rest::Nothing)
            }
        };
        layout.volumes.sort_by_key(|volume| volume.number);
        layout.warn_of_places(device.size_bytes());
        Self { layout, warnings_of_copies, rest }
    }
}

/// The table that counts on a device.
pub(crate) enum Located {
    Gpt(Box<Gpt>),
    Mbr(Box<mbrman::MBRHeader>, Vec<String>),
    Nothing(Vec<String>),
}

/// Decides as the kernel and libblkid do: sector 0 says whether a GPT counts.
pub(crate) fn locate(device: &dyn ReadAt, sector_bytes: u32) -> Located {
    let whole = Extent { offset: 0, bytes: device.size_bytes() };
    let boot = mbr::boot_sector(device);
    // A file system without a table begins with a boot sector too, and may hold the remains of an older table.
    let mut warnings = match &boot {
        BootSector::Protective { hybrid: false } => Vec::new(),
        BootSector::Protective { hybrid: true } => {
            vec!["hybrid mbr: it lists partitions beside the protective one; only the gpt is used".to_owned()]
        }
        BootSector::Table(_) | BootSector::Invalid | BootSector::Absent
            if content::probe(device, whole).is_some_and(|found| found.is_at_start(&boot)) =>
        {
            return Located::Nothing(Vec::new());
        }
        BootSector::Table(_) => Vec::new(),
        BootSector::Unreadable => vec!["sector 0 is unreadable".to_owned()],
        BootSector::Absent | BootSector::Invalid => Vec::new(),
    };
    let found = gpt::find(device, sector_bytes);
    match (boot, found) {
        (BootSector::Table(header), Some(_)) => {
            warnings.push("a gpt is there, but the mbr is not a protective one: the mbr is used".to_owned());
            Located::Mbr(header, warnings)
        }
        (BootSector::Table(header), None) => Located::Mbr(header, warnings),
        (BootSector::Protective { .. }, Some(gpt)) => Located::Gpt(Box::new(gpt.with_warnings(warnings))),
        (BootSector::Protective { .. }, None) => {
            warnings.push("protective mbr, but neither gpt is intact".to_owned());
            Located::Nothing(warnings)
        }
        (_, Some(gpt)) => {
            warnings.push("gpt without a protective mbr".to_owned());
            Located::Gpt(Box::new(gpt.with_warnings(warnings)))
        }
        (BootSector::Invalid, None) => {
            warnings.push("sector 0 has a boot signature, but its boot flags are not a table's".to_owned());
            Located::Nothing(warnings)
        }
        (BootSector::Unreadable | BootSector::Absent, None) => Located::Nothing(warnings),
    }
}

impl Content {
    /// Whether this content of the whole device speaks against a partition table. With an MBR in sector 0 only what
    /// itself needs that sector does; without one, anything.
    fn is_at_start(&self, boot: &BootSector) -> bool {
        !matches!(boot, BootSector::Table(_))
            || matches!(self.kind.as_str(), "vfat" | "ntfs" | "exfat" | "BitLocker")
    }
}

/// Puts `with` at `offset`; what would lie behind the end is nobody's field, and nothing is changed then.
pub(crate) fn overwrite(bytes: &mut [u8], offset: usize, with: &[u8]) {
    if let Some(field) = bytes.get_mut(offset..offset.saturating_add(with.len())) {
        field.copy_from_slice(with);
    }
}

pub(crate) fn sane(sector_bytes: u32) -> u32 {
    match sector_bytes {
        bytes if bytes.is_power_of_two() && (512..=SECTOR_BYTES_MAX).contains(&bytes) => bytes,
        _ => 512,
    }
}

#[cfg(test)]
mod tests;

//! FAT12, FAT16 and FAT32: the clusters whose entry in the file allocation table is 0.
//!
//! Promise: free is what both copies of the table call free, where every chain in it leads from used cluster to used
//! cluster, no flag says that it was left in disorder, and the count of free clusters, if there is one, agrees.
//! Knows nothing of folders and files. Format: Microsoft FAT specification (fatgen103, 2005), cited as §.

use super::view::{Fields, View};
use super::{Allocation, Doubt};
use crate::map::FreeMap;

/// Entries that are looked at in one go: even, so that a window of FAT12 begins with a byte.
const WINDOW_ENTRIES: u64 = 1 << 18;
/// §3.1: `BPB_BytsPerSec` to `BS_FilSysType`.
const BOOT_BYTES: usize = 512;
/// `BS_Reserved1`, used by Windows and Linux: linux include/uapi/linux/msdos_fs.h, `FAT_STATE_DIRTY`.
const STATE_DIRTY: u8 = 0x1;
const STATE_ERROR: u8 = 0x2;

/// How wide an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Twelve,
    Sixteen,
    ThirtyTwo,
}

/// What the boot sector says.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) width: Width,
    media: u8,
    sector_bytes: u64,
    pub(crate) cluster_bytes: u64,
    fats: u64,
    pub(crate) fat_first_byte: u64,
    fat_bytes: u64,
    pub(crate) data_first_byte: u64,
    pub(crate) clusters: u64,
    /// None: the root folder is not in clusters, but ends where they begin.
    pub(crate) root_cluster: Option<u32>,
    pub(crate) root_bytes: u64,
    info_sector: Option<u64>,
}

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let boot = Boot::read(volume)?;
    boot.check_flags(volume)?;
    let used = Used::read(volume, &boot)?;
    boot.check_chains(volume, &used)?;
    let found = boot.clusters.saturating_sub(used.count);
    if let Some(expected) = boot.free_count(volume)?.filter(|expected| *expected != found) {
        return Err(Doubt::Mismatch { place: "free clusters", expected, found });
    }
    let end = boot.data_first_byte.saturating_add(boot.clusters.saturating_mul(boot.cluster_bytes));
    let mut map = FreeMap::builder(end);
    map.add_bitmap(boot.data_first_byte, boot.cluster_bytes, &used.bits, boot.clusters);
    Ok(Allocation { kind: "vfat", free: map.finish(), excluded: Vec::new() })
}

fn impossible(place: &'static str, found: impl Into<u64>) -> Doubt {
    Doubt::Impossible { place, found: found.into() }
}

impl Boot {
    /// §3.1 to §3.5, of a volume that was left in order.
    fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let boot = Self::in_any_state(volume)?;
        boot.check_state(&volume.read(0, BOOT_BYTES)?)?;
        Ok(boot)
    }

    /// However it was left.
    pub(crate) fn in_any_state(volume: &View<'_>) -> Result<Self, Doubt> {
        let raw = volume.read(0, BOOT_BYTES)?;
        let sector_bytes = u64::from(raw.le16(11)?);
        let cluster_sectors = raw.byte(13)?;
        let (reserved, fats) = (u64::from(raw.le16(14)?), u64::from(raw.byte(16)?));
        if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
            return Err(impossible("sector size", sector_bytes));
        }
        if !cluster_sectors.is_power_of_two() {
            return Err(impossible("sectors in a cluster", cluster_sectors));
        }
        if reserved == 0 || !matches!(fats, 1 | 2) {
            return Err(impossible("reserved sectors or tables", fats));
        }
        let sectors = sectors(&raw)?;
        let (root_entries, short_fat) = (u64::from(raw.le16(17)?), u64::from(raw.le16(22)?));
        let is_fat32 = short_fat == 0;
        let fat_sectors = if is_fat32 { raw.le32(36)?.into() } else { short_fat };
        // Where they do not fill their sectors, some look for the first cluster one sector earlier: Linux refuses them.
        let is_even = root_entries.saturating_mul(32).is_multiple_of(sector_bytes);
        if fat_sectors == 0 || is_fat32 != (root_entries == 0) || !is_even {
            return Err(impossible("entries of the root folder", root_entries));
        }
        let (expected, found) = (sectors.saturating_mul(sector_bytes), volume.bytes());
        if expected > found {
            return Err(Doubt::TooLarge { expected, found });
        }
        // At most 2 tables of 2^32 sectors, and two 16-bit numbers: no overflow.
        let root_sectors = root_entries.saturating_mul(32).div_ceil(sector_bytes);
        let data_sector =
            reserved.saturating_add(fats.saturating_mul(fat_sectors)).saturating_add(root_sectors);
        let data_sectors =
            sectors.checked_sub(data_sector).ok_or(impossible("first data sector", data_sector))?;
        let clusters = data_sectors.checked_div(cluster_sectors.into()).unwrap_or(0);
        let boot = Self {
            width: width(is_fat32, clusters)?,
            media: raw.byte(21)?,
            sector_bytes,
            cluster_bytes: sector_bytes.saturating_mul(cluster_sectors.into()),
            fats,
            fat_first_byte: reserved.saturating_mul(sector_bytes),
            fat_bytes: fat_sectors.saturating_mul(sector_bytes),
            data_first_byte: data_sector.saturating_mul(sector_bytes),
            clusters,
            root_bytes: root_entries.saturating_mul(32),
            root_cluster: if is_fat32 { Some(raw.le32(44)?) } else { None },
            info_sector: if is_fat32 { Some(raw.le16(48)?.into()) } else { None },
        };
        let needed = boot.place(clusters.saturating_add(2));
        if needed > boot.fat_bytes {
            return Err(Doubt::Mismatch {
                place: "bytes of the table",
                expected: needed,
                found: boot.fat_bytes,
            });
        }
        Ok(boot)
    }

    fn check_state(&self, raw: &[u8]) -> Result<(), Doubt> {
        let is_fat32 = self.width == Width::ThirtyTwo;
        if is_fat32 && raw.le16(42)? != 0 {
            return Err(impossible("version", raw.le16(42)?));
        }
        // BPB_ExtFlags: bit 7 says that one table alone is kept.
        if is_fat32 && raw.le16(40)? & 0x80 != 0 {
            return Err(Doubt::Feature {
                place: "tables that are not mirrored",
                found: raw.le16(40)?.into(),
            });
        }
        let state = raw.byte(if is_fat32 { 65 } else { 37 })?;
        if state & STATE_ERROR != 0 {
            return Err(Doubt::Damaged { place: "boot sector" });
        }
        if state & STATE_DIRTY != 0 {
            return Err(Doubt::NotClean { place: "boot sector" });
        }
        Ok(())
    }

    /// Where an entry begins in the table: for FAT12, rounded up to a byte, so right for even numbers and as an end.
    fn place(&self, entry: u64) -> u64 {
        match self.width {
            Width::Twelve => entry.saturating_mul(3).div_ceil(2),
            Width::Sixteen => entry.saturating_mul(2),
            Width::ThirtyTwo => entry.saturating_mul(4),
        }
    }

    /// `count` entries from an even one on, which both copies of the table must have alike; lowest 28 bits for FAT32.
    fn entries(&self, volume: &View<'_>, first: u64, count: u64) -> Result<Vec<u32>, Doubt> {
        let (start, end) = (self.place(first), self.place(first.saturating_add(count)));
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let offset = self.fat_first_byte.saturating_add(start);
        let bytes = volume.read(offset, len)?;
        if self.fats == 2 && volume.read(offset.saturating_add(self.fat_bytes), len)? != bytes {
            return Err(Doubt::Mismatch { place: "tables that are not alike", expected: 2, found: 1 });
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let mut entries: Vec<u32> = Vec::with_capacity(count);
        match self.width {
            Width::Twelve => {
                for group in bytes.chunks(3) {
                    let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
                    entries.push(byte(0) | (byte(1) & 0xf) << 8);
                    entries.push(byte(1) >> 4 | byte(2) << 4);
                }
                entries.truncate(count);
            }
            Width::Sixteen => {
                for pair in bytes.chunks_exact(2) {
                    entries.push(pair.le16(0)?.into());
                }
            }
            Width::ThirtyTwo => {
                for four in bytes.chunks_exact(4) {
                    entries.push(four.le32(0)? & 0x0fff_ffff);
                }
            }
        }
        Ok(entries)
    }

    /// The largest number that an entry can have.
    fn all_ones(&self) -> u32 {
        match self.width {
            Width::Twelve => 0xfff,
            Width::Sixteen => 0xffff,
            Width::ThirtyTwo => 0x0fff_ffff,
        }
    }

    /// The first two entries (§4): the medium's kind; and, but for FAT12, two bits that are 0 when something is wrong.
    fn check_flags(&self, volume: &View<'_>) -> Result<(), Doubt> {
        let entries = self.entries(volume, 0, 2)?;
        let (first, second) = match entries[..] {
            [first, second] => (first, second),
            _ => return Err(Doubt::Short { at: 0 }),
        };
        let expected = self.all_ones() & !0xff | u32::from(self.media);
        if first != expected {
            let (expected, found) = (expected.into(), first.into());
            return Err(Doubt::Mismatch { place: "first entry of the table", expected, found });
        }
        let (clean, no_error) = match self.width {
            Width::Twelve => return Ok(()),
            Width::Sixteen => (0x8000, 0x4000),
            Width::ThirtyTwo => (0x0800_0000, 0x0400_0000),
        };
        if second & no_error == 0 {
            return Err(Doubt::Damaged { place: "table" });
        }
        if second & clean == 0 {
            return Err(Doubt::NotClean { place: "table" });
        }
        Ok(())
    }

    /// Calls `look` with the number (from 0: the third entry) and the entry of every cluster.
    fn each_entry(
        &self,
        volume: &View<'_>,
        mut look: impl FnMut(u64, u32) -> Result<(), Doubt>,
    ) -> Result<(), Doubt> {
        let mut cluster = 0;
        while cluster < self.clusters {
            let count = self.clusters.saturating_sub(cluster).min(WINDOW_ENTRIES);
            // Two entries of the table come before those of clusters: an even number stays one.
            for (number, entry) in (cluster..).zip(self.entries(volume, cluster.saturating_add(2), count)?) {
                look(number, entry)?;
            }
            cluster = cluster.saturating_add(count);
        }
        Ok(())
    }

    /// Every used cluster leads to a used one, or nowhere.
    fn check_chains(&self, volume: &View<'_>, used: &Used) -> Result<(), Doubt> {
        let bad = self.all_ones() & !0x8;
        let check = |entry: u32| {
            let is_used = entry >= bad || entry.checked_sub(2).is_some_and(|next| used.has(next.into()));
            if is_used { Ok(()) } else { Err(impossible("next cluster", entry)) }
        };
        if let Some(root) = self.root_cluster {
            check(root)
                .ok()
                .filter(|()| root < bad)
                .ok_or(impossible("first cluster of the root folder", root))?;
        }
        self.each_entry(volume, |_, entry| if entry == 0 { Ok(()) } else { check(entry) })
    }

    /// §5: the count of free clusters, where there is a sector for it and it knows it.
    fn free_count(&self, volume: &View<'_>) -> Result<Option<u64>, Doubt> {
        let Some(sector) = self.info_sector.filter(|sector| !matches!(sector, 0 | 0xffff)) else {
            return Ok(None);
        };
        let offset = sector.saturating_mul(self.sector_bytes);
        if offset.saturating_add(512) > self.fat_first_byte {
            return Err(impossible("sector of free clusters", sector));
        }
        let raw = volume.read(offset, 512)?;
        let signatures = [(0, 0x4161_5252_u32), (484, 0x6141_7272), (508, 0xaa55_0000)];
        for (at, expected) in signatures {
            let found = raw.le32(at)?;
            if found != expected {
                let (expected, found) = (expected.into(), found.into());
                return Err(Doubt::Mismatch { place: "sector of free clusters", expected, found });
            }
        }
        // A larger count means that it is not known.
        Ok(Some(u64::from(raw.le32(488)?)).filter(|count| *count <= self.clusters))
    }
}

fn sectors(raw: &[u8]) -> Result<u64, Doubt> {
    match (raw.le16(19)?, raw.le32(32)?) {
        (0, 0) => Err(impossible("number of sectors", 0_u8)),
        (0, long) => Ok(long.into()),
        (short, 0) => Ok(short.into()),
        (short, long) if u32::from(short) == long => Ok(long.into()),
        (short, long) => {
            Err(Doubt::Mismatch { place: "number of sectors", expected: short.into(), found: long.into() })
        }
    }
}

/// Linux and Windows know FAT32 by its missing short table length; the others by the number of clusters. Between 4085
/// (§3.5; linux fs/fat/fat.h, `MAX_FAT12`) and 4087 (Windows) they do not agree: then nobody can say.
fn width(is_fat32: bool, clusters: u64) -> Result<Width, Doubt> {
    match (is_fat32, clusters) {
        (true, 1..=0x0fff_fff4) => Ok(Width::ThirtyTwo),
        (false, 1..=4084) => Ok(Width::Twelve),
        (false, 4087..=65524) => Ok(Width::Sixteen),
        _ => Err(impossible("number of clusters", clusters)),
    }
}

/// A bit for each cluster: 32 MiB for the largest FAT32.
#[derive(Debug)]
struct Used {
    bits: Vec<u8>,
    count: u64,
}

impl Used {
    fn read(volume: &View<'_>, boot: &Boot) -> Result<Self, Doubt> {
        let bytes = usize::try_from(boot.clusters.div_ceil(8)).unwrap_or(usize::MAX);
        // The table has more than 8 times as many bytes, and was found to lie in the volume.
        let mut used = Self { bits: vec![0; bytes], count: 0 };
        boot.each_entry(volume, |cluster, entry| {
            if entry != 0 {
                used.count = used.count.saturating_add(1);
                let bit = 1_u8.checked_shl(u32::try_from(cluster % 8).unwrap_or(0)).unwrap_or(0);
                if let Some(byte) = usize::try_from(cluster / 8).ok().and_then(|at| used.bits.get_mut(at)) {
                    *byte |= bit;
                }
            }
            Ok(())
        })?;
        Ok(used)
    }

    fn has(&self, cluster: u64) -> bool {
        let byte = usize::try_from(cluster / 8).ok().and_then(|at| self.bits.get(at));
        let shift = u32::try_from(cluster % 8).unwrap_or(0);
        byte.is_some_and(|byte| byte.checked_shr(shift).unwrap_or(0) & 1 == 1)
    }
}

#[cfg(test)]
mod tests;

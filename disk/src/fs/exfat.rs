//! exFAT: the clusters that the allocation bitmap calls free.
//!
//! Promise: free is what the one bitmap of a cleanly unmounted volume calls free, whose boot region holds to its checksum
//! and whose root folder, bitmap and upper-case table it calls used.
//! Knows nothing of files. Format: Microsoft exFAT specification 1.00, cited as §.

use super::view::{Fields, View};
use super::{Allocation, Doubt};
use crate::map::FreeMap;

/// §3: the boot region that is summed has 11 sectors; the twelfth repeats the sum.
const SUMMED_SECTORS: u64 = 11;
/// §3.4: `VolumeFlags` and `PercentInUse` are left out of the sum.
const NOT_SUMMED: [usize; 3] = [106, 107, 112];
/// §3.1.13 `VolumeFlags`.
const ACTIVE_FAT: u16 = 0x1;
const VOLUME_DIRTY: u16 = 0x2;
const MEDIA_FAILURE: u16 = 0x4;
/// Bit 3, ClearToZero, has no meaning (§3.1.13.4).
const FLAGS_KNOWN: u16 = 0xf;
/// §6.2.1: a folder has no more bytes.
const FOLDER_BYTES_MAX: u64 = 256 << 20;
/// §3.1.9: 2^32 - 11 clusters.
const CLUSTERS_MAX: u64 = 0xffff_fff5;
const ENTRY_BYTES: usize = 32;
/// §7.1 and §7.2: allocation bitmap and upper-case table.
const BITMAP_ENTRY: u8 = 0x81;
const UPCASE_ENTRY: u8 = 0x82;
/// Folders and bitmaps are read in pieces of a cluster, or of this size where clusters are larger.
const PIECE_BYTES_MAX: u64 = 64 << 10;
/// §7.2.5: two bytes for each of 2^16 letters.
const UPCASE_BYTES_MAX: u64 = 128 << 10;

#[derive(Debug)]
pub(crate) struct Boot {
    sector_bytes: u64,
    pub(crate) cluster_bytes: u64,
    pub(crate) fat_first_byte: u64,
    pub(crate) heap_first_byte: u64,
    pub(crate) clusters: u64,
    pub(crate) root: u32,
}

/// A file known by its entry in the root folder.
#[derive(Clone, Copy, Debug)]
struct Stream {
    first_cluster: u32,
    bytes: u64,
}

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let boot = Boot::read(volume)?;
    let root = boot.chain(volume, boot.root, FOLDER_BYTES_MAX)?;
    let (bitmap, upcase) = boot.system_files(volume, &root)?;
    let needed = boot.clusters.div_ceil(8);
    if bitmap.bytes < needed {
        return Err(Doubt::Mismatch { place: "bytes of the bitmap", expected: needed, found: bitmap.bytes });
    }
    let bitmap_clusters = boot.chain_of(volume, bitmap.first_cluster, needed)?;
    if upcase.bytes > UPCASE_BYTES_MAX {
        return Err(Doubt::Impossible { place: "bytes of the upper-case table", found: upcase.bytes });
    }
    let upcase_clusters = boot.chain_of(volume, upcase.first_cluster, upcase.bytes)?;
    let mut map = FreeMap::builder(boot.cluster_place(boot.clusters.saturating_add(2)));
    let mut must_be_used = [root, bitmap_clusters.clone(), upcase_clusters].concat();
    must_be_used.sort_unstable();
    if let Some([twice, _]) = must_be_used.array_windows().find(|[one, other]| one == other) {
        return Err(Doubt::Impossible { place: "two files in cluster", found: (*twice).into() });
    }
    let mut must_be_used = must_be_used.into_iter().peekable();
    // Bit 0 is cluster 2.
    let mut first = 2_u64;
    for cluster in bitmap_clusters {
        let place = boot.cluster_place(cluster.into());
        let mut at = 0;
        while at < boot.cluster_bytes && first < boot.clusters.saturating_add(2) {
            let piece = boot.piece(volume, place.saturating_add(at))?;
            let left = boot.clusters.saturating_add(2).saturating_sub(first);
            let count = boot.piece_bytes().saturating_mul(8).min(left);
            while let Some(used) = must_be_used.next_if(|used| u64::from(*used) < first.saturating_add(count))
            {
                check_used(&piece, u64::from(used).saturating_sub(first), used)?;
            }
            map.add_bitmap(boot.cluster_place(first), boot.cluster_bytes, &piece, count);
            first = first.saturating_add(count);
            at = at.saturating_add(boot.piece_bytes());
        }
    }
    Ok(Allocation { kind: "exfat", free: map.finish(), excluded: Vec::new() })
}

fn check_used(bits: &[u8], bit: u64, cluster: u32) -> Result<(), Doubt> {
    let byte = bits.byte(usize::try_from(bit / 8).unwrap_or(usize::MAX))?;
    match byte.checked_shr(u32::try_from(bit % 8).unwrap_or(0)).unwrap_or(0) & 1 {
        1 => Ok(()),
        _ => {
            Err(Doubt::Impossible { place: "the volume's own files in free cluster", found: cluster.into() })
        }
    }
}

impl Boot {
    /// §3.1, of a volume that was left in order.
    fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let boot = Self::in_any_state(volume)?;
        check_flags(&volume.read(0, 512)?)?;
        Ok(boot)
    }

    /// However it was left.
    pub(crate) fn in_any_state(volume: &View<'_>) -> Result<Self, Doubt> {
        let raw = volume.read(0, 512)?;
        let impossible = |place, found: u64| Err(Doubt::Impossible { place, found });
        if raw.le16(510)? != 0xaa55 || raw.part(11, 53)?.iter().any(|byte| *byte != 0) {
            return impossible("signature of the boot sector", raw.le16(510)?.into());
        }
        let (sector_shift, cluster_shift) = (u32::from(raw.byte(108)?), u32::from(raw.byte(109)?));
        if !(9..=12).contains(&sector_shift) || cluster_shift > 25_u32.saturating_sub(sector_shift) {
            return impossible("size of a cluster", cluster_shift.into());
        }
        let sector_bytes = 1_u64.checked_shl(sector_shift).unwrap_or(0);
        check_sum(volume, sector_bytes)?;
        if raw.le16(104)? >> 8 != 1 || raw.byte(110)? != 1 {
            return Err(Doubt::Feature { place: "revision", found: raw.le16(104)?.into() });
        }
        let (sectors, found) = (raw.le64(72)?, volume.bytes());
        let expected = sectors.saturating_mul(sector_bytes);
        if expected > found {
            return Err(Doubt::TooLarge { expected, found });
        }
        let boot = Self {
            sector_bytes,
            cluster_bytes: sector_bytes.checked_shl(cluster_shift).unwrap_or(0),
            fat_first_byte: u64::from(raw.le32(80)?).saturating_mul(sector_bytes),
            heap_first_byte: u64::from(raw.le32(88)?).saturating_mul(sector_bytes),
            clusters: raw.le32(92)?.into(),
            root: raw.le32(96)?,
        };
        boot.check_places(u64::from(raw.le32(84)?).saturating_mul(sector_bytes), expected)?;
        Ok(boot)
    }

    /// §3.1.6 to §3.1.9: boot regions, table, heap, end, in this order.
    fn check_places(&self, fat_bytes: u64, end: u64) -> Result<(), Doubt> {
        let impossible = |place, found| Err(Doubt::Impossible { place, found });
        let regions = self.sector_bytes.saturating_mul(24);
        if self.clusters == 0 || self.clusters > CLUSTERS_MAX {
            return impossible("number of clusters", self.clusters);
        }
        if self.fat_first_byte < regions || self.clusters.saturating_add(2).saturating_mul(4) > fat_bytes {
            return impossible("place of the table", self.fat_first_byte);
        }
        if self.fat_first_byte.saturating_add(fat_bytes) > self.heap_first_byte {
            return impossible("place of the heap", self.heap_first_byte);
        }
        let heap_end = self.cluster_place(self.clusters.saturating_add(2));
        if heap_end > end {
            return Err(Doubt::TooLarge { expected: heap_end, found: end });
        }
        Ok(())
    }

    /// Where a cluster is: the first is number 2. A heap has at most 2^57 bytes.
    pub(crate) fn cluster_place(&self, cluster: u64) -> u64 {
        self.heap_first_byte.saturating_add(cluster.saturating_sub(2).saturating_mul(self.cluster_bytes))
    }

    /// Divides a cluster: both are powers of two.
    fn piece_bytes(&self) -> u64 {
        self.cluster_bytes.min(PIECE_BYTES_MAX)
    }

    fn piece(&self, volume: &View<'_>, offset: u64) -> Result<Vec<u8>, Doubt> {
        volume.read(offset, usize::try_from(self.piece_bytes()).unwrap_or(usize::MAX))
    }

    /// The clusters of a file of so many bytes: neither fewer nor more.
    fn chain_of(&self, volume: &View<'_>, first: u32, bytes: u64) -> Result<Vec<u32>, Doubt> {
        let expected = bytes.div_ceil(self.cluster_bytes);
        let bytes = expected.saturating_mul(self.cluster_bytes);
        let chain = self.chain(volume, first, bytes)?;
        let found = u64::try_from(chain.len()).unwrap_or(u64::MAX);
        if found != expected {
            return Err(Doubt::Mismatch { place: "clusters of the volume's own file", expected, found });
        }
        Ok(chain)
    }

    /// §4.1: a chain of clusters, of no more than so many bytes.
    fn chain(&self, volume: &View<'_>, first: u32, bytes_max: u64) -> Result<Vec<u32>, Doubt> {
        const LAST: u32 = u32::MAX;
        let mut chain = Vec::new();
        let mut cluster = first;
        let mut bytes = 0_u64;
        loop {
            let number = u64::from(cluster);
            if number < 2 || number >= self.clusters.saturating_add(2) {
                return Err(Doubt::Impossible { place: "next cluster", found: number });
            }
            bytes = bytes.saturating_add(self.cluster_bytes);
            if bytes > bytes_max {
                return Err(Doubt::Impossible { place: "length of the volume's own file", found: bytes });
            }
            chain.push(cluster);
            let entry = self.fat_first_byte.saturating_add(number.saturating_mul(4));
            cluster = volume.read(entry, 4)?.le32(0)?;
            if cluster == LAST {
                return Ok(chain);
            }
        }
    }

    /// §7.1, §7.2: the one bitmap and the one upper-case table, in the root folder.
    fn system_files(&self, volume: &View<'_>, root: &[u32]) -> Result<(Stream, Stream), Doubt> {
        let (mut bitmap, mut upcase) = (None, None);
        'folder: for cluster in root {
            let mut at = 0;
            while at < self.cluster_bytes {
                let offset = self.cluster_place((*cluster).into()).saturating_add(at);
                let piece = self.piece(volume, offset)?;
                for entry in piece.chunks_exact(ENTRY_BYTES) {
                    let kind = entry.byte(0)?;
                    let found = match kind {
                        0 => break 'folder,
                        BITMAP_ENTRY => &mut bitmap,
                        UPCASE_ENTRY => &mut upcase,
                        _ => continue,
                    };
                    let stream = Stream { first_cluster: entry.le32(20)?, bytes: entry.le64(24)? };
                    // BitmapFlags: the second bitmap is of TexFAT.
                    let is_second = kind == BITMAP_ENTRY && entry.byte(1)? != 0;
                    if found.replace(stream).is_some() || is_second {
                        return Err(Doubt::Impossible { place: "second entry of kind", found: kind.into() });
                    }
                }
                at = at.saturating_add(self.piece_bytes());
            }
        }
        match (bitmap, upcase) {
            (Some(bitmap), Some(upcase)) => Ok((bitmap, upcase)),
            (None, _) => Err(Doubt::Impossible { place: "number of allocation bitmaps", found: 0 }),
            (_, None) => Err(Doubt::Impossible { place: "number of upper-case tables", found: 0 }),
        }
    }
}

/// §3.1.11 to §3.1.16.
fn check_flags(raw: &[u8]) -> Result<(), Doubt> {
    let (revision, flags, fats) = (raw.le16(104)?, raw.le16(106)?, raw.byte(110)?);
    if revision >> 8 != 1 {
        return Err(Doubt::Feature { place: "revision", found: revision.into() });
    }
    if fats != 1 || flags & ACTIVE_FAT != 0 {
        return Err(Doubt::Feature { place: "second table", found: fats.into() });
    }
    if flags & !FLAGS_KNOWN != 0 {
        return Err(Doubt::Feature { place: "volume's flags", found: flags.into() });
    }
    if flags & MEDIA_FAILURE != 0 {
        return Err(Doubt::Damaged { place: "boot sector" });
    }
    if flags & VOLUME_DIRTY != 0 {
        return Err(Doubt::NotClean { place: "boot sector" });
    }
    Ok(())
}

/// §3.4 figure 1.
fn check_sum(volume: &View<'_>, sector_bytes: u64) -> Result<(), Doubt> {
    let bytes = SUMMED_SECTORS.saturating_mul(sector_bytes);
    let summed = volume.read(0, usize::try_from(bytes).unwrap_or(usize::MAX))?;
    let sum = summed
        .iter()
        .enumerate()
        .filter(|(at, _)| !NOT_SUMMED.contains(at))
        .fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
    let repeated = volume.read(bytes, usize::try_from(sector_bytes).unwrap_or(usize::MAX))?;
    match repeated.chunks_exact(4).all(|four| four == sum.to_le_bytes()) {
        true => Ok(()),
        false => Err(Doubt::Checksum { place: "boot region", number: 0 }),
    }
}

#[cfg(test)]
mod tests;

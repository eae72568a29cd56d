//! The boot sector: how large sectors, clusters and records are, and where the file table begins.
//!
//! Promise: sizes are powers of two within NTFS' limits, and the clusters fit on the volume.
//! Knows nothing of what is in the clusters. Format: ntfs-3g include/ntfs-3g/layout.h, `NTFS_BOOT_SECTOR`; the checks:
//! libntfs-3g/bootsect.c.

use super::super::Doubt;
use super::super::view::{Fields, View};

/// Records are protected in steps of this size, whatever a sector is: layout.h, `NTFS_BLOCK_SIZE`.
pub(crate) const BLOCK_BYTES: usize = 512;
/// bootsect.c, `NTFS_MAX_CLUSTER_SIZE`.
const CLUSTER_BYTES_MAX: u64 = 2 << 20;
/// Windows makes records of 1 KiB, and of 4 KiB on disks with such sectors.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// What the boot sector says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boot {
    pub(crate) cluster_bytes: u64,
    pub(crate) clusters: u64,
    pub(crate) record_bytes: u64,
    /// First cluster of the file table, and of the copy of its first records.
    pub(crate) mft_cluster: u64,
    pub(crate) mirror_cluster: u64,
}

impl Boot {
    pub(crate) fn read(volume: &View<'_>) -> Result<Self, Doubt> {
        let sector = volume.read(0, BLOCK_BYTES)?;
        if sector.part(3, 8)? != b"NTFS    " || sector.le16(510)? != 0xaa55 {
            return Err(Doubt::Impossible { place: "signature of the boot sector", found: 0 });
        }
        // What a FAT volume has there: sectors reserved, copies of the FAT, entries of the root folder, sectors in 16
        // bits, sectors of a FAT, sectors in 32 bits.
        for (at, len) in [(14, 2), (16, 1), (17, 2), (19, 2), (22, 2), (32, 4)] {
            if sector.part(at, len)?.iter().any(|byte| *byte != 0) {
                return Err(Doubt::Impossible { place: "boot sector: a field of FAT at", found: number(at) });
            }
        }
        let sector_bytes = u64::from(sector.le16(11)?);
        power_of_two("bytes of a sector", sector_bytes, 256, 4096)?;
        let cluster_bytes = sector_bytes.saturating_mul(sectors_of_a_cluster(sector.byte(13)?)?);
        power_of_two("bytes of a cluster", cluster_bytes, 512, CLUSTER_BYTES_MAX)?;
        let record_bytes = bytes_of_a_record(sector.byte(64)?, cluster_bytes);
        power_of_two("bytes of a file record", record_bytes, 512, RECORD_BYTES_MAX)?;
        let sectors = sector.le64(40)?;
        let (expected, found) = (sectors.saturating_mul(sector_bytes), volume.bytes());
        if expected > found {
            return Err(Doubt::TooLarge { expected, found });
        }
        let boot = Self {
            cluster_bytes,
            clusters: expected.checked_div(cluster_bytes).unwrap_or(0),
            record_bytes,
            mft_cluster: sector.le64(48)?,
            mirror_cluster: sector.le64(56)?,
        };
        for cluster in [boot.mft_cluster, boot.mirror_cluster] {
            if cluster == 0 || cluster >= boot.clusters || boot.mft_cluster == boot.mirror_cluster {
                return Err(Doubt::Impossible { place: "first cluster of the file table", found: cluster });
            }
        }
        Ok(boot)
    }

    /// Where a cluster begins. Cannot overflow for one that is on the volume; any other place is outside it.
    pub(crate) fn place(&self, cluster: u64) -> u64 {
        cluster.saturating_mul(self.cluster_bytes)
    }
}

/// Above 128, a power of two in two's complement: bootsect.c, `ntfs_boot_sector_is_ntfs`.
fn sectors_of_a_cluster(code: u8) -> Result<u64, Doubt> {
    match code {
        1..=128 if code.is_power_of_two() => Ok(code.into()),
        240..=253 => Ok(1_u64.checked_shl(256_u32.saturating_sub(code.into())).unwrap_or(0)),
        _ => Err(Doubt::Impossible { place: "sectors of a cluster", found: code.into() }),
    }
}

/// Clusters, or from 128 on a power of two of bytes in two's complement.
fn bytes_of_a_record(code: u8, cluster_bytes: u64) -> u64 {
    match code {
        0..=127 => cluster_bytes.saturating_mul(code.into()),
        // Shifts by more than 63 give no power of two.
        _ => 1_u64.checked_shl(256_u32.saturating_sub(code.into())).unwrap_or(0),
    }
}

fn power_of_two(place: &'static str, found: u64, min: u64, max: u64) -> Result<(), Doubt> {
    match found.is_power_of_two() && (min..=max).contains(&found) {
        true => Ok(()),
        false => Err(Doubt::Impossible { place, found }),
    }
}

fn number(at: usize) -> u64 {
    u64::try_from(at).unwrap_or(u64::MAX)
}

//! Whether a filesystem can live on a disk with sectors of another size.
//!
//! Promise: what is not known to bear it is refused; a wrong yes would be a disk that doesn't mount.
//! Knows nothing of partition tables.

use super::view::{Fields, View};
use crate::{Extent, ReadAt};

/// Why a content can't move to sectors of another size.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: it may not be readable with sectors of {target} bytes{}", made_for_text(*made_for))]
pub struct SectorBound {
    /// The content, by blkid's name.
    pub kind: String,
    /// The size that it was made for; 0 when that is not known.
    pub made_for: u32,
    /// The target's.
    pub target: u32,
}

fn made_for_text(bytes: u32) -> String {
    if bytes == 0 { String::new() } else { format!(": it was made for {bytes}") }
}

/// Whether a volume's content, of this kind, can be read where sectors have `target` bytes. What has no kind can: nobody
/// knows better.
///
/// # Errors
/// [`SectorBound`]: it can't, or nobody knows.
pub fn sector_bound(device: &dyn ReadAt, volume: Extent, kind: &str, target: u32) -> Result<(), SectorBound> {
    let unit = smallest_unit(&View::new(device, volume), kind);
    match unit {
        Some(unit) if unit.bears(target) => Ok(()),
        found => {
            Err(SectorBound { kind: kind.to_owned(), made_for: found.map_or(0, |unit| unit.bytes), target })
        }
    }
}

/// What a filesystem reads and writes at least.
#[derive(Clone, Copy)]
struct Unit {
    bytes: u32,
    /// Its boot sector says how large a sector is, and readers take that for the disk's.
    exact: bool,
}

impl Unit {
    fn bears(self, target: u32) -> bool {
        self.bytes == target || !self.exact && self.bytes > target
    }
}

/// `None`: not known.
fn smallest_unit(view: &View<'_>, kind: &str) -> Option<Unit> {
    let head = view.read(0, usize::try_from(view.bytes().min(4096)).ok()?).ok()?;
    let at_least = |bytes| Some(Unit { bytes, exact: false });
    match kind {
        // Documentation/filesystems/ext4/super.rst: s_log_block_size, 2^(10 + n); a mount sets the device's block size to it.
        "ext2" | "ext3" | "ext4" => at_least(1024_u32.checked_shl(head.le32(1024 + 24).ok()?)?),
        // xfs_format.h: sb_sectsize; a device with larger sectors is refused (xfs_setsize_buftarg).
        "xfs" => at_least(u32::from(head.be16(102).ok()?)),
        // Blocks of 4 KiB or more; the superblock is one.
        "btrfs" | "f2fs" | "swap" => at_least(4096),
        "" => at_least(u32::MAX),
        // fatgen103: BPB_BytsPerSec; NTFS has the same field. Windows wants it to be the disk's.
        "vfat" | "ntfs" => Some(Unit { bytes: u32::from(head.le16(11).ok()?), exact: true }),
        // exFAT specification §3.1.14: BytesPerSectorShift.
        "exfat" => Some(Unit { bytes: 1_u32.checked_shl(u32::from(head.byte(108).ok()?))?, exact: true }),
        // LVM and LUKS could move, but what is inside them may not.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    fn bears(kind: &str, target: u32, field: (usize, &[u8])) -> bool {
        let mut bytes = vec![0; 8192];
        bytes[field.0..field.0 + field.1.len()].copy_from_slice(field.1);
        let device = MemoryDevice::new(bytes);
        sector_bound(&device, Extent { offset: 0, bytes: 8192 }, kind, target).is_ok()
    }

    #[test]
    fn small_units_do_not_fit_on_large_sectors() {
        assert!(bears("ext4", 4096, (1048, &[2])) && !bears("ext4", 4096, (1048, &[0])));
        assert!(bears("ext4", 512, (1048, &[0])) && !bears("ext4", 512, (1048, &[200])));
        assert!(bears("xfs", 512, (102, &[2, 0])) && !bears("xfs", 4096, (102, &[2, 0])));
        assert!(bears("xfs", 4096, (102, &[16, 0])) && bears("xfs", 512, (102, &[16, 0])));
        assert!(bears("btrfs", 4096, (0, &[])) && bears("", 4096, (0, &[])));
        assert!(!bears("vfat", 4096, (11, &[0, 2])) && bears("vfat", 512, (11, &[0, 2])));
        assert!(!bears("ntfs", 512, (11, &[0, 16])) && !bears("exfat", 4096, (108, &[9])));
        assert!(!bears("zfs_member", 4096, (0, &[])));
    }
}

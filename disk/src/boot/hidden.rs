//! How many sectors lie before a volume: FAT, NTFS and exFAT have that number in their boot sectors, and the loaders of DOS and
//! Windows read by it.
//!
//! Promise: only a boot sector that is of the kind that it should be is changed, and of its copy only one that agrees with it.
//! Knows nothing of why a volume begins where it does.
//! Format: Microsoft FAT specification (fatgen103) §3.1, §3.3; linux fs/ntfs3/ntfs.h, `struct NTFS_BOOT`; Microsoft exFAT
//! specification §3.1.4, §3.4.

use crate::ReadAt;

const BOOT_BYTES: usize = 512;
/// `BPB_HiddSec`, u32, in FAT and NTFS.
const HIDDEN: usize = 0x1c;
/// FAT32: `BPB_FATSz16` is 0, and `BPB_BkBootSec` is where the copy is.
const FAT_SIZE: usize = 22;
const FAT32_COPY: usize = 50;
/// NTFS: number of sectors; the copy is behind them.
const NTFS_SECTORS: usize = 0x28;
/// exFAT: `PartitionOffset`, u64; 0 says that it does not matter.
const EXFAT_OFFSET: usize = 64;
/// exFAT: the sectors of the boot region, of which the last holds the sum of the others; then the copy.
const EXFAT_SECTORS: usize = 12;
/// exFAT: `VolumeFlags` and `PercentInUse`, which are not summed.
const EXFAT_NOT_SUMMED: [usize; 3] = [106, 107, 112];

/// What to write, by place in the volume, when the volume begins at `start_sector` of its disk. Nothing for a kind (blkid's
/// name) that has no such number, and when a number is right or does not fit.
#[must_use]
pub fn hidden_sectors(volume: &dyn ReadAt, kind: &str, start_sector: u64) -> Vec<(u64, Vec<u8>)> {
    match kind {
        "vfat" => short(volume, start_sector, fat_copies).unwrap_or_default(),
        "ntfs" => short(volume, start_sector, ntfs_copies).unwrap_or_default(),
        "exfat" => exfat(volume, start_sector).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// FAT and NTFS: the number in the boot sector, and in its copies.
fn short(
    volume: &dyn ReadAt,
    start_sector: u64,
    copies: fn(&[u8], u64, u64) -> Option<Vec<u64>>,
) -> Option<Vec<(u64, Vec<u8>)>> {
    let number = u32::try_from(start_sector).ok()?.to_le_bytes();
    let boot = boot_sector(volume, 0)?;
    let sector_bytes = u64::from(u16::from_le_bytes(array(&boot, 11)?));
    if !matches!(sector_bytes, 512 | 1024 | 2048 | 4096) {
        return None;
    }
    let mut patches = Vec::new();
    let mut places = copies(&boot, sector_bytes, volume.size_bytes()).unwrap_or_default();
    places.dedup();
    // What says where everything is must be the same in both, or it is not its copy.
    let agrees = |other: &Vec<u8>| other.get(..HIDDEN) == boot.get(..HIDDEN);
    let copy = |at: u64| Some((at, boot_sector(volume, at).filter(agrees)?));
    let copies = places.into_iter().filter(|at| *at > 0).filter_map(copy);
    for (at, sector) in [(0, boot.clone())].into_iter().chain(copies) {
        if array::<4>(&sector, HIDDEN)? != number {
            patches.push((at.checked_add(0x1c)?, number.to_vec()));
        }
    }
    Some(patches)
}

fn fat_copies(boot: &[u8], sector_bytes: u64, _: u64) -> Option<Vec<u64>> {
    let is_fat32 = u16::from_le_bytes(array(boot, FAT_SIZE)?) == 0;
    let sector = u64::from(u16::from_le_bytes(array(boot, FAT32_COPY)?));
    // 0 and 0xffff: none.
    (is_fat32 && sector != 0xffff).then(|| vec![sector.saturating_mul(sector_bytes)])
}

/// Behind the last cluster, and in the partition's last sector: not the same where the one is no whole number of the other.
fn ntfs_copies(boot: &[u8], sector_bytes: u64, volume_bytes: u64) -> Option<Vec<u64>> {
    let own = u64::from_le_bytes(array(boot, NTFS_SECTORS)?).checked_mul(sector_bytes)?;
    Some(vec![own, volume_bytes.saturating_sub(sector_bytes)])
}

/// exFAT: both regions, each with its sum anew.
fn exfat(volume: &dyn ReadAt, start_sector: u64) -> Option<Vec<(u64, Vec<u8>)>> {
    let boot = boot_sector(volume, 0)?;
    let shift = *boot.get(108)?;
    if boot.get(3..11)? != b"EXFAT   " || !(9..=12).contains(&shift) {
        return None;
    }
    let sector = 1_usize.checked_shl(u32::from(shift))?;
    let len = sector.checked_mul(EXFAT_SECTORS)?;
    let mut patches = Vec::new();
    for at in [0, u64::try_from(len).ok()?] {
        let mut region = vec![0; len];
        volume.read_exact_at(at, &mut region).ok()?;
        let last = sector.checked_mul(EXFAT_SECTORS.checked_sub(1)?)?;
        let (summed, sums) = region.split_at_mut_checked(last)?;
        let is_sound = sums.chunks_exact(4).all(|word| word == exfat_sum(summed));
        let offset = u64::from_le_bytes(array(summed, EXFAT_OFFSET)?);
        if !is_sound || offset == 0 || offset == start_sector {
            continue;
        }
        let field = summed.get_mut(EXFAT_OFFSET..EXFAT_OFFSET.checked_add(8)?)?;
        field.copy_from_slice(&start_sector.to_le_bytes());
        let sum = exfat_sum(summed);
        sums.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&sum));
        patches.push((at.checked_add(64)?, start_sector.to_le_bytes().to_vec()));
        patches.push((at.checked_add(u64::try_from(last).ok()?)?, sums.to_vec()));
    }
    Some(patches)
}

fn exfat_sum(region: &[u8]) -> [u8; 4] {
    let summed = region.iter().enumerate().filter(|(at, _)| !EXFAT_NOT_SUMMED.contains(at));
    summed.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(*byte))).to_le_bytes()
}

/// With the signature that all of them have.
fn boot_sector(volume: &dyn ReadAt, at: u64) -> Option<Vec<u8>> {
    let mut sector = vec![0; BOOT_BYTES];
    volume.read_exact_at(at, &mut sector).ok()?;
    (sector.get(510..)? == [0x55, 0xaa]).then_some(sector)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{image, run};
    use crate::{MemoryDevice, WriteAt};

    fn made(bytes: u64, tool: &str, package: &str, words: &[&str]) -> MemoryDevice {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "volume", bytes);
        run(tool, package, &[words, &[path.to_str().unwrap()]].concat(), "");
        MemoryDevice::new(std::fs::read(path).unwrap())
    }

    fn patch(volume: &MemoryDevice, kind: &str, start: u64) -> usize {
        let patches = hidden_sectors(volume, kind, start);
        patches.iter().for_each(|(at, bytes)| volume.write_all_at(*at, bytes).unwrap());
        assert_eq!(hidden_sectors(volume, kind, start), [], "once is enough");
        patches.len()
    }

    fn checked(volume: &MemoryDevice, tool: &str, package: &str, words: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        std::fs::write(&path, volume.to_vec()).unwrap();
        run(tool, package, &[words, &[path.to_str().unwrap()]].concat(), "");
    }

    #[test]
    fn fat_has_one_number_and_fat32_two() {
        for (bits, numbers) in [("12", 1), ("16", 1), ("32", 2)] {
            let mib = if bits == "12" { 4 } else { 64 };
            let volume = made(mib << 20, "mkfs.vfat", "dosfstools", &["-F", bits, "-h", "2048"]);
            assert_eq!(hidden_sectors(&volume, "vfat", 2048), []);
            assert_eq!(patch(&volume, "vfat", 123_456), numbers, "FAT{bits}");
            assert_eq!(volume.to_vec()[0x1c..0x20], 123_456_u32.to_le_bytes());
            checked(&volume, "fsck.vfat", "dosfstools", &["-n"]);
        }
    }

    #[test]
    fn ntfs_has_its_copy_in_the_last_sector() {
        let volume = made(8 << 20, "mkntfs", "ntfs-3g", &["-q", "-F", "-f", "-p", "2048"]);
        assert_eq!(patch(&volume, "ntfs", 99_000), 2);
        let bytes = volume.to_vec();
        assert_eq!(bytes[..512], bytes[bytes.len() - 512..]);
        checked(&volume, "ntfsfix", "ntfs-3g", &["-n"]);
    }

    #[test]
    fn exfat_is_summed_anew() {
        let volume = made(8 << 20, "mkfs.exfat", "exfatprogs", &[]);
        if u64::from_le_bytes(volume.to_vec()[64..72].try_into().unwrap()) == 0 {
            // As another maker would have written it.
            for at in [0_usize, 12 * 512] {
                let mut region = volume.to_vec()[at..at + 11 * 512].to_vec();
                region[64] = 8;
                volume.write_all_at(at as u64, &region).unwrap();
                volume.write_all_at(at as u64 + 11 * 512, &exfat_sum(&region).repeat(128)).unwrap();
            }
        }
        assert_eq!(patch(&volume, "exfat", 4096), 4);
        checked(&volume, "fsck.exfat", "exfatprogs", &["-n"]);
    }

    #[test]
    fn what_is_not_understood_stays() {
        let noise: Vec<u8> =
            (0..100_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for kind in ["vfat", "ntfs", "exfat", "ext4"] {
            assert_eq!(hidden_sectors(&MemoryDevice::new(noise.clone()), kind, 1), []);
            assert_eq!(hidden_sectors(&MemoryDevice::zeros(10), kind, 1), []);
        }
        let volume = made(64 << 20, "mkfs.vfat", "dosfstools", &["-F", "32"]);
        assert_eq!(hidden_sectors(&volume, "vfat", 1 << 32), [], "the number has 32 bits");
    }
}

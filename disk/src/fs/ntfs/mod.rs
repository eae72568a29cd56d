//! NTFS: what `$Bitmap` says, checked against the clusters of every file.
//!
//! Promise: free are only clusters that `$Bitmap` calls free and no record of the file table lays claim to; and only when
//! the volume was cleanly dismounted: not dirty, its log closed, no system asleep on it. `pagefile.sys`, `swapfile.sys`
//! and `hiberfil.sys` in the root folder are excluded, but no cluster of theirs that another file claims too.
//! Knows nothing of the volume's shadow copies: what they would still read from free clusters is not in them afterwards.
//!
//! Sources: ntfs-3g include/ntfs-3g/layout.h (the structures), libntfs-3g/{bootsect,volume,logfile}.c (what is refused);
//! libfsntfs documentation, "New Technologies File System (NTFS)".

pub(crate) mod boot;
mod files;
mod logfile;
pub(crate) mod mft;
pub(crate) mod record;
pub(crate) mod stream;
#[cfg(test)]
mod tests;

use super::view::{Fields, View};
use super::{Allocation, Doubt, Excluded};
use crate::Extent;
use crate::map::FreeMap;
use files::PageFile;
use mft::Mft;

/// Numbers of the records that are always the same: layout.h, `NTFS_SYSTEM_FILES`.
const FILE_LOG: u64 = 2;
const FILE_VOLUME: u64 = 3;
const FILE_ROOT: u64 = 5;
const FILE_BITMAP: u64 = 6;

/// `$Bitmap` and the file table are read in such steps.
const STEP_BYTES: u64 = 1 << 20;

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let mft = Mft::open(*volume)?;
    mft.check_mirror()?;
    check_flags(&mft)?;
    logfile::check(&mft)?;
    let free = free(&mft)?;
    let page_files = files::page_files(&mft)?;
    check_claims(&mft, &free, &page_files)?;
    let excluded = page_files.into_iter().map(|file| Excluded { name: file.name, extents: file.extents });
    Ok(Allocation { kind: "ntfs", free, excluded: excluded.collect() })
}

/// `$VOLUME_INFORMATION`: layout.h, `VOLUME_INFORMATION` and `VOLUME_FLAGS`.
fn check_flags(mft: &Mft<'_>) -> Result<(), Doubt> {
    const VOLUME_INFORMATION: u32 = 0x70;
    const MAJOR: usize = 8;
    const FLAGS: usize = 10;
    const DIRTY: u16 = 0x0001;
    /// Upgrade on mount, mounted by NT 4, repair object ids: nothing that changes what is free.
    const HARMLESS: u16 = 0x0004 | 0x0008 | 0x0020;
    let record = mft.record(FILE_VOLUME)?;
    let information = record.find(VOLUME_INFORMATION, "", 0)?.ok_or(missing("$VOLUME_INFORMATION"))?;
    let information = information.value()?;
    let major = information.byte(MAJOR)?;
    if !matches!(major, 1 | 3) {
        return Err(Doubt::Feature { place: "NTFS version", found: major.into() });
    }
    let flags = information.le16(FLAGS)?;
    if flags & DIRTY != 0 {
        return Err(Doubt::NotClean { place: "$Volume" });
    }
    // The log is to be resized, the journal of changes is being deleted, a check runs or has changed something.
    match flags & !HARMLESS {
        0 => Ok(()),
        found => Err(Doubt::Feature { place: "flags of $Volume", found: found.into() }),
    }
}

/// The zero bits of `$Bitmap`. Clusters end before the volume does: what is behind them (the backup boot sector) is used.
fn free(mft: &Mft<'_>) -> Result<FreeMap, Doubt> {
    let boot = mft.boot();
    let bitmap = mft.stream(FILE_BITMAP, record::DATA, "")?.ok_or(missing("$Bitmap"))?;
    bitmap.check_plain("$Bitmap")?;
    let needed = boot.clusters.div_ceil(8);
    if bitmap.initialized_bytes() < needed {
        return Err(Doubt::Mismatch {
            place: "bytes of $Bitmap",
            expected: needed,
            found: bitmap.initialized_bytes(),
        });
    }
    let mut free = FreeMap::builder(mft.volume().bytes());
    let mut at = 0_u64;
    while at < needed {
        let len = needed.saturating_sub(at).min(STEP_BYTES);
        let bits = bitmap.read(mft.disk(), at, len)?;
        let first = at.saturating_mul(8);
        let count = boot.clusters.saturating_sub(first);
        free.add_bitmap(boot.place(first), boot.cluster_bytes, &bits, count.min(len.saturating_mul(8)));
        at = at.saturating_add(len);
    }
    Ok(free.finish())
}

/// Goes through the file table: no run of any record in use may lie in what is free, or in the extents of a page file
/// that is not its own. It is what `ntfsclone` and `chkdsk` compare too, and it does not depend on anyone having left a
/// mark when the volume was pulled out while mounted.
fn check_claims(mft: &Mft<'_>, free: &FreeMap, page_files: &[PageFile]) -> Result<(), Doubt> {
    mft.for_each_used(|record| {
        let owner = record.base()?.unwrap_or(record.number());
        for attribute in record.attributes()? {
            for extent in attribute.extents(mft.boot())? {
                let claimed = |place| Err(Doubt::Impossible { place, found: record.number() });
                if touches(free.free(), &extent) {
                    return claimed("$Bitmap calls clusters free that are used by file record");
                }
                let own = |file: &PageFile| file.record == owner && attribute.is(record::DATA, "");
                if page_files.iter().any(|file| !own(file) && touches(&file.extents, &extent)) {
                    return claimed("clusters of a page file are also used by file record");
                }
            }
        }
        Ok(())
    })
}

/// Whether one of the sorted, disjoint extents has a byte in common with it.
fn touches(sorted: &[Extent], extent: &Extent) -> bool {
    let next = sorted.partition_point(|other| other.end() <= extent.offset);
    sorted.get(next).is_some_and(|other| other.overlaps(extent))
}

/// Something that every volume has is not there.
fn missing(place: &'static str) -> Doubt {
    Doubt::Mismatch { place, expected: 1, found: 0 }
}

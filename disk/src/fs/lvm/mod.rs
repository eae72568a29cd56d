//! Physical volumes of LVM2: what no logical volume has, and what the filesystem of a plain logical volume leaves free.
//!
//! Promise: everything that is not an extent of the volume group is used; all copies of the metadata on this device
//! must be alike; what cannot be understood as a plain volume on this device alone is used whole.
//! Knows nothing of other devices. Format: lvm2 lib/format_text/{layout.h,format-text.c,import_vsn1.c}.

mod group;
mod header;
mod text;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use self::group::{Group, Run};
use super::view::View;
use super::{Allocation, Doubt, Excluded};
use crate::content::kinds;
use crate::map::{EXTENTS_MAX, FreeMap};
use crate::{Error, Extent, ReadAt};

const KIND: &str = "LVM2_member";

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let header = header::read(volume)?;
    let group = Group::decode(&text::parse(&header.metadata)?, &header, volume.bytes())?;
    let mut free = group.unallocated();
    let mut excluded = Vec::new();
    for runs in &group.plain {
        inside(volume, runs, &mut free, &mut excluded)?;
    }
    free.sort_unstable();
    let mut builder = FreeMap::builder(volume.bytes());
    for extent in free {
        builder.add_free(extent);
    }
    Ok(Allocation { kind: KIND, free: builder.finish(), excluded })
}

/// What a logical volume's filesystem leaves free. A doubt about it leaves it used, as does a free extent too many; a system
/// that hibernates in one may have all of them in its memory.
fn inside(
    volume: &View<'_>,
    runs: &[Run],
    free: &mut Vec<Extent>,
    excluded: &mut Vec<Excluded>,
) -> Result<(), Doubt> {
    let Some(joined) = Joined::new(*volume, runs) else { return Ok(()) };
    let all = Extent { offset: 0, bytes: joined.bytes };
    // A volume in a volume in a volume could go on for ever.
    if kinds(&joined, all).map_or(true, |kinds| kinds.iter().any(|kind| kind == KIND)) {
        return Ok(());
    }
    let found = match super::allocation(&joined, all) {
        Ok(Some(found)) => found,
        Err(hibernated @ Doubt::Hibernated { .. }) => return Err(hibernated),
        Ok(None) | Err(_) => return Ok(()),
    };
    for extent in found.free.free() {
        for part in joined.places(*extent) {
            if free.len() < EXTENTS_MAX.saturating_mul(2) {
                free.push(part);
            }
        }
    }
    for Excluded { name, extents } in found.excluded {
        let mut extents: Vec<Extent> = extents.iter().flat_map(|extent| joined.places(*extent)).collect();
        extents.sort_unstable();
        excluded.push(Excluded { name, extents });
    }
    Ok(())
}

/// A logical volume as a device.
struct Joined<'a> {
    volume: View<'a>,
    /// Where each part begins in it, and where that part is: in order, without gaps.
    parts: Vec<(u64, Extent)>,
    bytes: u64,
}

impl<'a> Joined<'a> {
    fn new(volume: View<'a>, runs: &[Run]) -> Option<Self> {
        let mut bytes = 0_u64;
        let mut parts = Vec::new();
        for run in runs {
            parts.push((bytes, run.place));
            bytes = bytes.checked_add(run.place.bytes)?;
        }
        Some(Self { volume, parts, bytes })
    }

    /// Where an extent of it is on the physical volume.
    fn places(&self, extent: Extent) -> impl Iterator<Item = Extent> {
        let from =
            self.parts.partition_point(|(start, part)| start.saturating_add(part.bytes) <= extent.offset);
        let parts = self.parts.iter().skip(from).take_while(move |(start, _)| *start < extent.end());
        parts.map(move |(start, part)| {
            let first = extent.offset.max(*start);
            let end = extent.end().min(start.saturating_add(part.bytes));
            let offset = part.offset.saturating_add(first.saturating_sub(*start));
            Extent { offset, bytes: end.saturating_sub(first) }
        })
    }
}

impl ReadAt for Joined<'_> {
    fn size_bytes(&self) -> u64 {
        self.bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let expected = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let short =
            |found| Error::ShortRead { path: PathBuf::from("logical volume"), offset, expected, found };
        if offset.checked_add(expected).is_none_or(|end| end > self.bytes) {
            return Err(short(self.bytes.saturating_sub(offset)));
        }
        let mut rest = buf;
        for place in self.places(Extent { offset, bytes: expected }) {
            let len = usize::try_from(place.bytes).unwrap_or(usize::MAX);
            let (part, after) = rest.split_at_mut_checked(len).ok_or(short(0))?;
            self.volume.read_into(place.offset, part).map_err(|doubt| match doubt {
                Doubt::Unreadable { source } => source,
                _ => short(0),
            })?;
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(short(0)) }
    }
}

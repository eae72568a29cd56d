//! What is imaged: identity, layout, regions, what is left out. The manifest's member `source` (DESIGN.md §4.7).
//!
//! Promise: the regions cover every byte of the device once, in order; a `SourceInfo` that came from a manifest was
//! checked for that. Members are only ever added; readers ignore those they don't know.
//! Knows nothing of how the bytes are read or kept.

use disk::{Extent, Identity, Layout};
use serde::{Deserialize, Serialize};
use store::Manifest;

use crate::{Error, VolumeUse};

/// A stretch of the device that is one volume, or the gap before, between or behind volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRegion {
    /// Where it lies.
    #[serde(flatten)]
    pub extent: Extent,
    /// Number of the volume; `None` for a gap.
    pub volume: Option<u32>,
    /// Left out by request: stored as zeros without being read.
    #[serde(default)]
    pub excluded: bool,
}

/// Everything about a source that an image remembers, and everything that capture needs to know of it beforehand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceInfo {
    /// Which device.
    pub identity: Identity,
    /// Its partition table.
    pub layout: Layout,
    /// Volumes and gaps in device order.
    pub regions: Vec<SourceRegion>,
    /// Numbers of the volumes that were left out by request.
    #[serde(default)]
    pub excluded: Vec<u32>,
    /// What was found out about each volume when only blocks in use were read; `None`: every sector was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_use: Option<Vec<VolumeUse>>,
    /// What could not be read, in order, on sector borders; reads as zeros.
    #[serde(default)]
    pub bad_ranges: Vec<Extent>,
    /// False when a filesystem on it was mounted read-write during capture.
    pub consistent: bool,
}

impl SourceInfo {
    /// A source of `bytes` with this layout; the volumes in `exclude` are left out.
    pub fn new(identity: Identity, layout: Layout, bytes: u64, exclude: &[u32]) -> Result<SourceInfo, Error> {
        let has: Vec<u32> = layout.volumes.iter().map(|volume| volume.number).collect();
        if let Some(&number) = exclude.iter().find(|number| !has.contains(number)) {
            return Err(Error::NoSuchVolume { number, has });
        }
        let excluded_here = |volume: Option<u32>| volume.is_some_and(|number| exclude.contains(&number));
        let regions = layout.regions(bytes).into_iter().map(|region| SourceRegion {
            extent: region.extent,
            volume: region.volume,
            excluded: excluded_here(region.volume),
        });
        let regions = regions.filter(|region| region.extent.bytes > 0).collect();
        let mut excluded = exclude.to_vec();
        excluded.sort_unstable();
        excluded.dedup();
        Ok(SourceInfo {
            identity,
            layout,
            regions,
            excluded,
            volume_use: None,
            bad_ranges: Vec::new(),
            consistent: true,
        })
    }

    /// A stream: one region whose size is known in the end.
    pub fn stream(identity: Identity, layout: Layout) -> SourceInfo {
        let nothing = Vec::new();
        SourceInfo {
            identity,
            layout,
            regions: Vec::new(),
            excluded: nothing,
            volume_use: None,
            bad_ranges: Vec::new(),
            consistent: true,
        }
    }

    /// What the image's manifest says of its source.
    pub fn from_manifest(manifest: &Manifest) -> Result<SourceInfo, Error> {
        let info: SourceInfo = serde_json::from_value(manifest.source.clone())
            .map_err(|source| Error::SourceInfo { disk: manifest.disk.clone(), source })?;
        let mut end = 0;
        for region in &info.regions {
            if region.extent.offset != end || region.extent.offset.checked_add(region.extent.bytes).is_none()
            {
                break;
            }
            end = region.extent.end();
        }
        let whole = info.regions.last().is_none_or(|last| last.extent.end() == end);
        if end != manifest.bytes || !whole {
            return Err(Error::Regions { disk: manifest.disk.clone(), expected: manifest.bytes, found: end });
        }
        Ok(info)
    }

    /// Size of the device: the end of its last region.
    pub fn bytes(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.extent.end())
    }

    /// The volume in which a byte lies.
    pub fn volume_at(&self, offset: u64) -> Option<u32> {
        self.region_at(offset).and_then(|region| region.volume)
    }

    /// The region in which a byte lies.
    pub fn region_at(&self, offset: u64) -> Option<&SourceRegion> {
        let after = self.regions.partition_point(|region| region.extent.end() <= offset);
        self.regions.get(after).filter(|region| region.extent.offset <= offset)
    }

    /// Bytes that could not be read.
    pub fn bad_bytes(&self) -> u64 {
        self.bad_ranges.iter().map(|range| range.bytes).sum()
    }

    /// The form that goes into the manifest.
    pub(crate) fn to_value(&self, disk: &str) -> Result<serde_json::Value, Error> {
        serde_json::to_value(self).map_err(|source| Error::SourceInfo { disk: disk.to_owned(), source })
    }
}

/// Sorts extents and joins those that touch.
pub(crate) fn join_extents(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_unstable();
    let mut joined: Vec<Extent> = Vec::new();
    for extent in extents {
        match joined.last_mut() {
            Some(last) if extent.offset <= last.end() => {
                last.bytes = last.end().max(extent.end()) - last.offset;
            }
            _ => joined.push(extent),
        }
    }
    joined
}

/// The common part of two extents.
pub(crate) fn intersect(a: Extent, b: Extent) -> Option<Extent> {
    let offset = a.offset.max(b.offset);
    let end = a.end().min(b.end());
    (offset < end).then(|| Extent { offset, bytes: end - offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_extents_are_joined() {
        let extent = |offset, bytes| Extent { offset, bytes };
        let joined =
            join_extents(vec![extent(8, 4), extent(0, 4), extent(4, 2), extent(9, 1), extent(20, 1)]);
        assert_eq!(joined, [extent(0, 6), extent(8, 4), extent(20, 1)]);
    }

    #[test]
    fn extents_meet_only_where_they_share_a_byte() {
        let extent = |offset, bytes| Extent { offset, bytes };
        assert_eq!(intersect(extent(0, 8), extent(8, 8)), None);
        assert_eq!(intersect(extent(0, 9), extent(8, 8)), Some(extent(8, 1)));
    }
}

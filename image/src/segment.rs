//! The segment grid: how a device is divided into the units that workers take.
//!
//! Promise: segments cover the regions without gaps, in device order; none spans two regions; their borders depend on
//! the regions and `segment_bytes` only, so a volume that moved gives the same segments (I4).
//! Knows nothing of bytes. Segments are computed when asked for: a grid of any size costs a few words per region.

use disk::Extent;

use crate::{Error, SourceRegion};

/// Zeros are looked for in blocks of this size, counted from the start of a segment (DESIGN.md §3): what filesystems
/// and pages are made of.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Lengths of runs are 32-bit numbers, and one run may fill a segment; half of that range leaves room for sums.
const SEGMENT_BYTES_MAX: u64 = 1 << 31;

/// One unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Counted over the whole device, from 0.
    pub number: u64,
    /// Where it lies.
    pub extent: Extent,
    /// Left out by request: zeros, not read.
    pub excluded: bool,
}

/// All segments of a device.
#[derive(Clone, Debug)]
pub struct Grid {
    segment_bytes: u64,
    /// With the number of the first segment of each.
    regions: Vec<(u64, SourceRegion)>,
    len: u64,
}

impl Grid {
    /// The grid of these regions, which must be in device order.
    pub fn new(regions: &[SourceRegion], segment_bytes: u64) -> Result<Grid, Error> {
        check_segment_bytes(segment_bytes)?;
        let mut len = 0;
        let mut numbered = Vec::with_capacity(regions.len());
        for region in regions {
            numbered.push((len, region.clone()));
            len += region.extent.bytes.div_ceil(segment_bytes);
        }
        Ok(Grid { segment_bytes, regions: numbered, len })
    }

    /// How many segments there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segment with this number.
    pub fn segment(&self, number: u64) -> Option<Segment> {
        if number >= self.len {
            return None;
        }
        let after = self.regions.partition_point(|(first, _)| *first <= number);
        let (first, region) = self.regions.get(after.checked_sub(1)?)?;
        let start = (number - first) * self.segment_bytes;
        let extent = Extent {
            offset: region.extent.offset + start,
            bytes: self.segment_bytes.min(region.extent.bytes - start),
        };
        Some(Segment { number, extent, excluded: region.excluded })
    }
}

/// A length of something that lies in memory, and so fits.
pub(crate) fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Whether segments of this size can be captured.
pub(crate) fn check_segment_bytes(segment_bytes: u64) -> Result<(), Error> {
    let legal = (BLOCK_BYTES..=SEGMENT_BYTES_MAX).contains(&segment_bytes);
    if legal && segment_bytes.is_multiple_of(BLOCK_BYTES) {
        return Ok(());
    }
    Err(Error::SegmentBytes { found: segment_bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regions(sectors: &[u64]) -> Vec<SourceRegion> {
        let mut offset = 0;
        let mut regions = Vec::new();
        for (index, count) in sectors.iter().enumerate() {
            let extent = Extent { offset, bytes: count * 512 };
            offset = extent.end();
            regions.push(SourceRegion { extent, volume: None, excluded: index % 3 == 1 });
        }
        regions.retain(|region| region.extent.bytes > 0);
        regions
    }

    proptest! {
        #[test]
        fn segments_cover_the_regions(sectors in prop::collection::vec(0u64..5000, 0..6), blocks in 1u64..64) {
            let regions = regions(&sectors);
            let grid = Grid::new(&regions, blocks * BLOCK_BYTES).unwrap();
            let mut end = 0;
            for number in 0..grid.len() {
                let segment = grid.segment(number).unwrap();
                prop_assert_eq!(segment.number, number);
                prop_assert_eq!(segment.extent.offset, end);
                prop_assert!(segment.extent.bytes > 0 && segment.extent.bytes <= blocks * BLOCK_BYTES);
                let region = regions.iter().find(|region| region.extent.overlaps(&segment.extent)).unwrap();
                prop_assert!(segment.extent.end() <= region.extent.end());
                prop_assert!((segment.extent.offset - region.extent.offset).is_multiple_of(blocks * BLOCK_BYTES));
                prop_assert_eq!(segment.excluded, region.excluded);
                end = segment.extent.end();
            }
            prop_assert_eq!(end, sectors.iter().sum::<u64>() * 512);
            prop_assert_eq!(grid.segment(grid.len()), None);
        }
    }

    #[test]
    fn odd_segment_sizes_are_refused() {
        for bytes in [0, 512, 4097, 1 << 32] {
            assert!(matches!(Grid::new(&[], bytes), Err(Error::SegmentBytes { found }) if found == bytes));
        }
    }
}

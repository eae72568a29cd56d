//! Used blocks only: what no filesystem of a device uses reads as zeros, without being read.
//!
//! Promise: every byte that a volume's filesystem uses, every byte of a volume in doubt, and what lies between volumes is
//! there as it is. The same device gives the same answer, and so does its image: all that decides is itself in use.
//! Knows nothing of filesystems but what [`disk::allocation`] says.

use disk::{Extent, ReadAt, TableKind};
use serde::{Deserialize, Serialize};

use crate::check::{CapturePlan, Concern};
use crate::segment::in_memory;
use crate::source::{SourceInfo, intersect, join_extents};

/// A shorter stretch that is not used is read with what lies around it, and then made zeros: a seek costs more.
const HOLE_BYTES_MIN: u64 = 64 << 10;

/// So much at both ends of a gap between volumes is kept: boot loaders stand at its start, and what RAID controllers and
/// old partition tables leave at its end.
const GAP_ENDS_BYTES: u64 = 1 << 20;

/// What was found out about a volume, or a device without a partition table, when it was captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUse {
    /// Number of the volume; `None`: the whole device.
    pub volume: Option<u32>,
    /// Its filesystem by blkid's name; `None` where it is not known which blocks are used.
    pub kind: Option<String>,
    /// Bytes that its filesystem does not use.
    pub free_bytes: u64,
    /// Left out although used, with what it is and how many bytes.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// Why it was taken whole although its filesystem is known.
    #[serde(default)]
    pub doubt: Option<String>,
}

/// Contents that are not worth keeping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// `pagefile.sys`, `swap area`.
    pub name: String,
    /// How many.
    pub bytes: u64,
}

/// What of a device need not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Of the device: sorted, disjoint.
    pub unused: Vec<Extent>,
    /// Each volume that is not excluded, in device order.
    pub volumes: Vec<VolumeUse>,
}

/// Asks the filesystems of a device which blocks they use. Volumes for which `sure` says no are taken whole, unasked.
pub fn survey(device: &dyn ReadAt, source: &SourceInfo, sure: impl Fn(Option<u32>) -> bool) -> Survey {
    let mut survey = Survey::default();
    let has_table = source.layout.table != TableKind::None;
    let sound_table = has_table && source.layout.warnings.is_empty();
    for region in source.regions.iter().filter(|region| !region.excluded) {
        if region.volume.is_some() || !has_table {
            if sure(region.volume) {
                survey.ask(device, region.volume, region.extent);
            }
        } else if sound_table && region.extent.bytes > 2 * GAP_ENDS_BYTES {
            survey.unused.push(Extent {
                offset: region.extent.offset + GAP_ENDS_BYTES,
                bytes: region.extent.bytes - 2 * GAP_ENDS_BYTES,
            });
        }
    }
    survey.unused = join_extents(std::mem::take(&mut survey.unused));
    survey
}

impl Survey {
    fn ask(&mut self, device: &dyn ReadAt, volume: Option<u32>, extent: Extent) {
        let mut found = VolumeUse { volume, kind: None, free_bytes: 0, left_out: Vec::new(), doubt: None };
        match disk::allocation(device, extent) {
            Ok(None) => {}
            Err(doubt) => found.doubt = Some(doubt.to_string()),
            Ok(Some(allocation)) => {
                found.kind = Some(allocation.kind.to_owned());
                found.free_bytes = allocation.free.free_bytes();
                found.left_out = allocation.excluded.iter().map(LeftOut::of).collect();
                let left_out = allocation.excluded.iter().flat_map(|excluded| &excluded.extents);
                let within = allocation.free.free().iter().chain(left_out);
                self.unused.extend(within.filter_map(|unused| {
                    let offset = extent.offset.checked_add(unused.offset)?;
                    intersect(Extent { offset, bytes: unused.bytes }, extent)
                }));
            }
        }
        self.volumes.push(found);
    }

    /// Bytes that are not read.
    pub fn unused_bytes(&self) -> u64 {
        self.unused.iter().map(|extent| extent.bytes).sum()
    }
}

impl LeftOut {
    fn of(excluded: &disk::Excluded) -> LeftOut {
        LeftOut { name: excluded.name.clone(), bytes: excluded.extents.iter().map(|it| it.bytes).sum() }
    }
}

impl CapturePlan {
    /// Asks which blocks are used; the image will say what was found. What is not is the result: for [`UsedBlocks`].
    ///
    /// Nothing is asked while somebody may write to the source: what is free now might be used when it would be read.
    pub fn survey(&mut self, device: &dyn ReadAt) -> Vec<Extent> {
        let written =
            |concern: &Concern| matches!(concern, Concern::MountedReadWrite { .. } | Concern::Held { .. });
        let steady = !self.concerns.iter().any(written);
        let mut survey = survey(device, &self.source, |_| steady);
        if !steady {
            survey.unused.clear();
        }
        self.source.volume_use = Some(survey.volumes);
        survey.unused
    }
}

impl SourceInfo {
    /// What an image that was captured with used blocks only leaves out, found out again from the image, or from a device
    /// that holds it; nothing for one with every sector.
    pub fn unused(&self, device: &dyn ReadAt) -> Vec<Extent> {
        let Some(volumes) = &self.volume_use else { return Vec::new() };
        // What was in doubt was taken whole: parts that could not be read then are zeros now, and may seem sound.
        let sure = |number| volumes.iter().any(|it| it.volume == number && it.kind.is_some());
        survey(device, self, sure).unused
    }
}

/// A device on which nothing is but what is used.
pub struct UsedBlocks<'a> {
    device: &'a dyn ReadAt,
    unused: Vec<Extent>,
}

impl<'a> UsedBlocks<'a> {
    /// `unused` must be sorted and disjoint, as [`Survey::unused`] is.
    pub fn new(device: &'a dyn ReadAt, unused: Vec<Extent>) -> UsedBlocks<'a> {
        UsedBlocks { device, unused }
    }

    /// The unused extents that end behind `offset`.
    fn from(&self, offset: u64) -> &[Extent] {
        // In bounds: a partition point is at most the length.
        &self.unused[self.unused.partition_point(|extent| extent.end() <= offset)..]
    }
}

impl ReadAt for UsedBlocks<'_> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let span = Extent { offset, bytes: buf.len() as u64 };
        let within: Vec<Extent> =
            self.from(offset).iter().map_while(|unused| intersect(*unused, span)).collect();
        // Between holes that are worth a seek, in one piece.
        let end = Extent { offset: span.end(), bytes: 0 };
        let mut at = offset;
        for hole in within.iter().filter(|hole| hole.bytes >= HOLE_BYTES_MIN || **hole == span).chain([&end])
        {
            if hole.offset > at {
                // In bounds: holes lie within the span, in order.
                let piece = in_memory(at - offset)..in_memory(hole.offset - offset);
                self.device.read_exact_at(at, &mut buf[piece])?;
            }
            at = hole.end();
        }
        for hole in within {
            let start = in_memory(hole.offset - offset);
            buf[start..start + in_memory(hole.bytes)].fill(0);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        let mut at = offset;
        loop {
            let Some(data) = self.device.next_data(at)? else { return Ok(None) };
            let mut start = data.offset.max(at);
            let mut holes = self.from(start).iter().filter(|hole| hole.bytes >= HOLE_BYTES_MIN);
            let mut next = holes.next();
            while let Some(hole) = next.filter(|hole| hole.offset <= start) {
                start = hole.end();
                next = holes.next();
            }
            if start < data.end() {
                let end = next.map_or(data.end(), |hole| hole.offset.min(data.end()));
                return Ok(Some(Extent { offset: start, bytes: end - start }));
            }
            at = start;
        }
    }

    fn sector_bytes(&self) -> u32 {
        self.device.sector_bytes()
    }
}

#[cfg(test)]
mod tests {
    use disk::{FaultDevice, MemoryDevice};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{capture_bytes, random_bytes, small_store, source, volume};
    use crate::{ImageReader, capture};

    fn extent(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes }
    }

    proptest! {
        #[test]
        fn unused_blocks_are_zeros_and_all_else_is_there(
            holes in prop::collection::vec((0u64..40, 1u64..40), 0..12),
            reads in prop::collection::vec((0u64..1_000_000, 0u64..300_000), 1..20),
        ) {
            let bytes = random_bytes(9, 1_000_000);
            let mut plain = bytes.clone();
            let (mut at, mut unused) = (0, Vec::new());
            for (skip, length) in holes {
                let hole = extent(at + skip * 4096, length * 4096);
                at = hole.end() + 4096;
                if let Some(hole) = intersect(hole, extent(0, 1_000_000)) {
                    plain[in_memory(hole.offset)..in_memory(hole.end())].fill(0);
                    unused.push(hole);
                }
            }
            let device = MemoryDevice::new(bytes);
            let used = UsedBlocks::new(&device, unused);
            for (offset, length) in reads {
                let length = length.min(1_000_000 - offset);
                let mut buf = vec![1; in_memory(length)];
                used.read_exact_at(offset, &mut buf).unwrap();
                prop_assert!(buf == plain[in_memory(offset)..in_memory(offset + length)]);
                let next = used.next_data(offset).unwrap();
                let data = next.map_or(1_000_000, |data| data.offset);
                prop_assert!(data >= offset && plain[in_memory(offset)..in_memory(data)].iter().all(|byte| *byte == 0));
                if let Some(next) = next {
                    prop_assert!(next.bytes > 0 && next.end() <= 1_000_000);
                }
            }
        }
    }

    #[test]
    fn a_bad_sector_that_nobody_uses_is_no_loss() {
        let bytes = random_bytes(10, 400_000);
        let device =
            FaultDevice::new(MemoryDevice::new(bytes), vec![extent(81_920, 512), extent(300_032, 512)]);
        let used = UsedBlocks::new(&device, vec![extent(81_920, 4096), extent(204_800, 102_400)]);
        let (_home, store) = small_store();
        let info = source(400_000, Vec::new(), &[]);
        let captured = capture(&info, &used, &store, &crate::testing::options(2), &()).unwrap();
        assert_eq!(captured.source.bad_ranges, []);
    }

    #[test]
    fn what_lies_between_volumes_is_kept_at_its_ends() {
        let info = source(9 << 20, vec![volume(1, 1 << 20, 1 << 20)], &[]);
        let device = MemoryDevice::zeros(9 << 20);
        let found = survey(&device, &info, |_| true);
        assert_eq!(found.unused, [extent(3 << 20, 5 << 20)]);
        assert_eq!(found.volumes.len(), 1);
        assert_eq!((found.volumes[0].volume, &found.volumes[0].kind), (Some(1), &None));
        let mut odd = info.clone();
        odd.layout.warnings.push("odd".to_owned());
        assert_eq!(survey(&device, &odd, |_| true).unused, []);
    }

    #[test]
    fn an_image_of_every_sector_leaves_out_nothing() {
        let (_home, store) = small_store();
        let (captured, image) = capture_bytes(&store, &random_bytes(11, 100_000));
        assert_eq!(captured.source.unused(&ImageReader::new(image)), []);
    }
}

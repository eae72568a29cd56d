//! Used blocks only: what no filesystem of a device uses reads as zeros, without being read.
//!
//! Promise: every byte that a volume's filesystem uses, every byte of a volume in doubt, and all that lies between volumes
//! (boot loaders, tables of partitions and arrays) is there as it is. The same device gives the same answer, and so does its image: all that decides is itself in use.
//! Knows nothing of filesystems but what [`disk::allocation`] says.

use disk::{Allocation, Device, Doubt, Extent, ReadAt, TableKind};
use serde::{Deserialize, Serialize};

use crate::check::{CapturePlan, Concern};
use crate::segment::in_memory;
use crate::source::{SourceInfo, intersect, join_extents};

/// A shorter stretch that is not used is read with what lies around it, and then made zeros: a seek costs more.
const HOLE_BYTES_MIN: u64 = 64 << 10;

/// More stretches than this (64 MiB of memory) are not kept: volumes behind are taken whole.
const EXTENTS_MAX: usize = 4 << 20;

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
    let table = disk::check_table(device, &source.layout);
    let mut survey = Survey::default();
    let mut hibernated = false;
    for region in source.regions.iter().filter(|region| !region.excluded) {
        let volume = source.layout.volumes.iter().find(|volume| Some(volume.number) == region.volume);
        let whole_device = source.layout.table == TableKind::None;
        if !(volume.is_some() || whole_device) || !sure(region.volume) {
            continue;
        }
        let found = match (&table, volume) {
            (Err(doubt), _) => Err(doubt.to_string()),
            (Ok(()), Some(volume)) => disk::allocation_of(device, volume).map_err(|doubt| {
                hibernated |= matches!(doubt, Doubt::Hibernated { .. });
                doubt.to_string()
            }),
            (Ok(()), None) => disk::allocation(device, region.extent).map_err(|doubt| doubt.to_string()),
        };
        survey.add(region.volume, region.extent, found);
    }
    if hibernated {
        survey.doubt_all("a system that hibernates may have it in its memory");
    }
    survey.unused = join_extents(std::mem::take(&mut survey.unused));
    survey
}

impl Survey {
    fn add(&mut self, volume: Option<u32>, extent: Extent, found: Result<Option<Allocation>, String>) {
        let mut volume = VolumeUse { volume, kind: None, free_bytes: 0, left_out: Vec::new(), doubt: None };
        match found {
            Ok(None) => {}
            Err(doubt) => volume.doubt = Some(doubt),
            Ok(Some(allocation)) => {
                let left_out = allocation.excluded.iter().flat_map(|excluded| &excluded.extents);
                let within: Vec<&Extent> = allocation.free.free().iter().chain(left_out).collect();
                if self.unused.len() + within.len() > EXTENTS_MAX {
                    volume.doubt = Some("its free space is in too many pieces".to_owned());
                } else {
                    volume.kind = Some(allocation.kind.to_owned());
                    volume.free_bytes = allocation.free.free_bytes();
                    volume.left_out = allocation.excluded.iter().map(LeftOut::of).collect();
                    self.unused.extend(within.into_iter().filter_map(|unused| {
                        let offset = extent.offset.checked_add(unused.offset)?;
                        intersect(Extent { offset, bytes: unused.bytes }, extent)
                    }));
                }
            }
        }
        self.volumes.push(volume);
    }

    /// Takes everything whole.
    fn doubt_all(&mut self, why: &str) {
        self.unused.clear();
        for volume in self.volumes.iter_mut().filter(|volume| volume.kind.is_some()) {
            let (number, doubt) = (volume.volume, Some(why.to_owned()));
            *volume = VolumeUse { volume: number, kind: None, free_bytes: 0, left_out: Vec::new(), doubt };
        }
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
    /// Whether nobody is known who may write to the source meanwhile: what is free now might else be used when it would be
    /// read. Asks the system too, by claiming the device: what it holds against that is seen in no list.
    pub fn is_steady(&self, device: &Device) -> bool {
        let written =
            |concern: &Concern| matches!(concern, Concern::MountedReadWrite { .. } | Concern::Held { .. });
        !self.concerns.iter().any(written) && device.claim()
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
pub struct UsedBlocks<D> {
    device: D,
    unused: Vec<Extent>,
    /// Of these, those that are worth a seek.
    holes: Vec<Extent>,
}

impl<D: ReadAt> UsedBlocks<D> {
    /// `unused` must be sorted and disjoint, as [`Survey::unused`] is.
    pub fn new(device: D, unused: Vec<Extent>) -> UsedBlocks<D> {
        let holes = unused.iter().filter(|hole| hole.bytes >= HOLE_BYTES_MIN).copied().collect();
        UsedBlocks { device, unused, holes }
    }
}

/// Those that end behind `offset`.
fn behind(extents: &[Extent], offset: u64) -> &[Extent] {
    // In bounds: a partition point is at most the length.
    &extents[extents.partition_point(|extent| extent.end() <= offset)..]
}

impl<D: ReadAt> ReadAt for UsedBlocks<D> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let span = Extent { offset, bytes: buf.len() as u64 };
        let within: Vec<Extent> =
            behind(&self.unused, offset).iter().map_while(|unused| intersect(*unused, span)).collect();
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
            let mut holes = behind(&self.holes, start).iter();
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
    use std::sync::atomic::AtomicU64;

    use disk::{FaultDevice, MemoryDevice};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Changing, capture_bytes, random_bytes, small_store, source, swap_disk};
    use crate::{CaptureOptions, ImageReader, capture};

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
    fn what_lies_between_volumes_is_kept() {
        let (bytes, info) = swap_disk();
        let device = MemoryDevice::new(bytes);
        let unused =
            [extent((4 << 20) + 4096, (8 << 20) - 4096), extent((16 << 20) + 4096, (8 << 20) - 4096)];
        let found = survey(&device, &info, |_| true);
        assert_eq!(found.unused, unused);
        assert!(found.volumes.iter().all(|volume| volume.kind.as_deref() == Some("swap")));
        let mut odd = info.clone();
        odd.layout.warnings.push("odd".to_owned());
        let found = survey(&device, &odd, |_| true);
        assert!(found.unused.is_empty() && found.volumes.iter().all(|volume| volume.doubt.is_some()));
        let empty = source(30 << 20, Vec::new(), &[]);
        let empty = SourceInfo { layout: disk::Layout { table: TableKind::Mbr, ..empty.layout }, ..empty };
        assert_eq!(survey(&device, &empty, |_| true), Survey::default());
    }

    #[test]
    fn beside_a_hibernated_system_everything_is_whole() {
        let (mut bytes, info) = swap_disk();
        bytes[(16 << 20) + 4086..(16 << 20) + 4096].copy_from_slice(b"S1SUSPEND\0");
        let found = survey(&MemoryDevice::new(bytes), &info, |_| true);
        assert!(found.unused.is_empty());
        assert!(found.volumes.iter().all(|volume| volume.kind.is_none() && volume.doubt.is_some()));
    }

    #[test]
    fn what_was_left_out_is_found_again_in_the_image() {
        let (bytes, info) = swap_disk();
        let device = MemoryDevice::new(bytes.clone());
        let (_home, store) = small_store();
        let options = CaptureOptions { in_use_only: true, ..crate::testing::options(2) };
        let captured = capture(&info, &device, &store, &options, &()).unwrap();
        assert_eq!(captured.unused_bytes, 2 * ((8 << 20) - 4096));
        let image = store.image(captured.image).unwrap();
        let from_image = SourceInfo::from_manifest(image.manifest()).unwrap();
        assert_eq!(from_image.volume_use, captured.source.volume_use);
        let reader = ImageReader::new(image.clone());
        let unused = from_image.unused(&reader);
        let mut plain = bytes;
        for hole in &unused {
            plain[in_memory(hole.offset)..in_memory(hole.end())].fill(0);
        }
        let mut held = vec![0; plain.len()];
        reader.read_exact_at(0, &mut held).unwrap();
        assert!(held == plain);
        assert!(crate::verify_against(&image, &device, 2, &()).unwrap().is_clean());
    }

    #[test]
    fn what_came_into_use_meanwhile_is_read_after_all() {
        let (bytes, info) = swap_disk();
        let mut other = bytes.clone();
        other[16 << 20..(16 << 20) + 4096].fill(1);
        let count = Changing {
            before: MemoryDevice::new(bytes.clone()),
            after: MemoryDevice::new(other.clone()),
            reads: AtomicU64::new(0),
            changes_at: u64::MAX,
        };
        survey(&count, &info, |_| true);
        let device = Changing { changes_at: count.reads.into_inner() + 1, reads: AtomicU64::new(0), ..count };
        let (_home, store) = small_store();
        let options = CaptureOptions { in_use_only: true, ..crate::testing::options(1) };
        let captured = capture(&info, &device, &store, &options, &()).unwrap();
        assert_eq!((captured.unused_bytes, &captured.source.volume_use), (0, &None));
        let mut held = vec![0; other.len()];
        ImageReader::new(store.image(captured.image).unwrap()).read_exact_at(0, &mut held).unwrap();
        assert!(held == other);
    }

    #[test]
    fn an_image_of_every_sector_leaves_out_nothing() {
        let (_home, store) = small_store();
        let (captured, image) = capture_bytes(&store, &random_bytes(11, 100_000));
        assert_eq!(captured.source.unused(&ImageReader::new(image)), []);
    }
}

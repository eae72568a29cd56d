//! An overlay becomes an image: the child of the image under it.
//!
//! Promise: the new image's runs are those that a capture of the whole overlay would give (I4); segments in which nothing
//! was written are taken over from the parent's tables, unread. What the parent could not read and nobody has written
//! since stays a bad range, and does not become zeros. Knows nothing of who wrote, or over which road.

use disk::{Extent, Layout, ReadAt};
use store::{GuideChunk, GuideSegment, ImageId, NewChunk, Run, Store, StoredImage, Writer};

use crate::capture::{WINDOW_BYTES, again, capture_once};
use crate::cutter::CutRun;
use crate::source::intersect;
use crate::{CaptureOptions, Captured, Error, Overlay, Progress, SourceInfo};

/// Captures `overlay`, whose base is `parent`, into the parent's store.
///
/// The new image is filed under the parent's disk, unless `options` name another. Nobody may write to the overlay meanwhile.
pub fn save_overlay(
    overlay: &Overlay,
    parent: &StoredImage,
    store: &Store,
    options: &CaptureOptions,
    progress: &dyn Progress,
) -> Result<Captured, Error> {
    let before = SourceInfo::from_manifest(parent.manifest())?;
    let written = overlay.written();
    let lost = subtract(&before.bad_ranges, &written);
    let device = StillBad { device: overlay, bad: &lost };
    let layout = Layout::read(&device, before.identity.logical_sector_bytes);
    // What was left out is zeros; it stays left out as long as nobody puts anything there.
    let still_out = |number: &u32| {
        let place =
            |layout: &Layout| layout.volumes.iter().find(|it| it.number == *number).map(|it| it.extent);
        place(&layout).is_some_and(|now| Some(now) == place(&before.layout) && !is_touched(&written, now))
    };
    let excluded: Vec<u32> = before.excluded.iter().copied().filter(still_out).collect();
    let source = SourceInfo {
        consistent: before.consistent,
        ..SourceInfo::new(before.identity.clone(), layout, overlay.size_bytes(), &excluded)?
    };
    let disk = options.disk.clone().unwrap_or_else(|| parent.manifest().disk.clone());
    let options = CaptureOptions { disk: Some(disk), in_use_only: false, ..options.clone() };
    let unchanged = Unchanged { parent, written: &written };
    again(progress, || {
        capture_once(&source, &device, store, &options, Some(&unchanged), WINDOW_BYTES, progress)
    })
}

/// What an overlay has of its parent still.
pub(crate) struct Unchanged<'a> {
    parent: &'a StoredImage,
    /// Sorted.
    written: &'a [Extent],
}

impl Unchanged<'_> {
    pub(crate) fn parent(&self) -> ImageId {
        self.parent.id()
    }

    /// The parent's runs of a segment in which nothing was written; `None` where it must be read: something was, the parent
    /// was cut on other borders, or a chunk is not where it should be.
    pub(crate) fn runs(
        &self,
        writer: &Writer,
        segment: Extent,
        guide: &GuideSegment,
    ) -> Option<Vec<CutRun<NewChunk>>> {
        if is_touched(self.written, segment) {
            return None;
        }
        let mut known = guide.chunks.iter();
        let mut runs: Vec<CutRun<&GuideChunk>> = Vec::new();
        for placed in self.parent.runs(segment.offset, segment.bytes).ok()? {
            let whole = Extent { offset: placed.offset, bytes: placed.run.bytes() };
            let part = intersect(whole, segment)?;
            runs.push(match placed.run {
                Run::Zeros { .. } => CutRun::Zeros(part.bytes),
                Run::Bad { .. } => CutRun::Bad(part.bytes),
                Run::Chunk(chunk) => {
                    let at = placed.offset.checked_sub(segment.offset)?;
                    let is_it = |found: &&GuideChunk| found.offset == at && found.id == chunk.id;
                    CutRun::Chunk(known.next().filter(is_it).filter(|_| part == whole)?)
                }
            });
        }
        let keep = |run| match run {
            CutRun::Chunk(chunk) => CutRun::Chunk(writer.keep(chunk)),
            CutRun::Zeros(bytes) => CutRun::Zeros(bytes),
            CutRun::Bad(bytes) => CutRun::Bad(bytes),
        };
        Some(runs.into_iter().map(keep).collect())
    }
}

/// Whether one of the extents, which are sorted, has a byte in common with `extent`.
fn is_touched(written: &[Extent], extent: Extent) -> bool {
    let after = written.partition_point(|other| other.end() <= extent.offset);
    written.get(after).is_some_and(|other| other.overlaps(&extent))
}

/// A device that cannot read what its base could not, though that reads as zeros.
struct StillBad<'a> {
    device: &'a Overlay,
    bad: &'a [Extent],
}

impl ReadAt for StillBad<'_> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let wanted = Extent { offset, bytes: buf.len() as u64 };
        if self.bad.iter().any(|bad| bad.overlaps(&wanted)) {
            let (path, source) =
                ("overlay".into(), std::io::Error::other("it could not be read when the image was made"));
            return Err(disk::Error::Unreadable { path, offset, bytes: wanted.bytes, source });
        }
        self.device.read_exact_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        let data = self.device.next_data(offset)?;
        // Bad ranges read as zeros, and so would be taken for holes.
        let bad = self.bad.iter().find(|bad| bad.end() > offset);
        let bad = bad
            .map(|bad| Extent { offset: bad.offset.max(offset), bytes: bad.end() - bad.offset.max(offset) });
        Ok(match (data, bad) {
            (Some(data), Some(bad)) if bad.offset < data.offset => Some(bad),
            (Some(data), Some(_)) => Some(data),
            (data, bad) => data.or(bad),
        })
    }

    fn sector_bytes(&self) -> u32 {
        self.device.sector_bytes()
    }
}

/// What of `extents` no one of `others` covers; both sorted.
fn subtract(extents: &[Extent], others: &[Extent]) -> Vec<Extent> {
    let mut left = Vec::new();
    for extent in extents {
        let mut at = extent.offset;
        let first = others.partition_point(|other| other.end() <= extent.offset);
        for other in others.iter().skip(first).take_while(|other| other.offset < extent.end()) {
            if other.offset > at {
                left.push(Extent { offset: at, bytes: other.offset - at });
            }
            at = other.end();
        }
        if at < extent.end() {
            left.push(Extent { offset: at, bytes: extent.end() - at });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use disk::{FaultDevice, MemoryDevice, WriteAt};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{capture_bytes, disk_bytes, options, random_bytes, small_store, source};
    use crate::{ImageReader, capture};

    const SIZE: usize = 3_000_064;

    fn extent(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes }
    }

    /// Shape of an image: what lies where.
    fn runs_of(image: &StoredImage) -> Vec<String> {
        image
            .runs(0, image.bytes())
            .unwrap()
            .iter()
            .map(|placed| match placed.run {
                Run::Chunk(chunk) => format!("{} {}", placed.offset, chunk.id),
                other => format!("{} {other:?}", placed.offset),
            })
            .collect()
    }

    /// Counts what is read of the base.
    struct Counting(ImageReader, AtomicU64);

    impl ReadAt for Counting {
        fn size_bytes(&self) -> u64 {
            self.0.size_bytes()
        }
        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
            self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
            self.0.read_exact_at(offset, buf)
        }
        fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
            self.0.next_data(offset)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn a_saved_overlay_is_the_image_of_all_its_bytes(
            writes in prop::collection::vec((0usize..SIZE, 1usize..40_000, any::<u64>(), any::<bool>()), 0..5),
        ) {
            let (_home, store) = small_store();
            let folder = tempfile::tempdir().unwrap();
            let mut bytes = disk_bytes(40, SIZE);
            let (captured, image) = capture_bytes(&store, &bytes);
            let base = Arc::new(ImageReader::new(store.image(captured.image).unwrap()));
            let overlay = Overlay::temporary(base, SIZE as u64, folder.path()).unwrap();
            for (at, length, seed, zeros) in writes {
                let length = length.min(SIZE - at);
                let new = if zeros { vec![0; length] } else { random_bytes(seed, length) };
                overlay.write_all_at(at as u64, &new).unwrap();
                bytes[at..at + length].copy_from_slice(&new);
            }
            let saved = save_overlay(&overlay, &image, &store, &options(2), &()).unwrap();
            let (_other_home, other) = small_store();
            let (_, expected) = capture_bytes(&other, &bytes);
            let saved_image = store.image(saved.image).unwrap();
            prop_assert_eq!(runs_of(&saved_image), runs_of(&expected));
            prop_assert_eq!(saved.manifest.parent, Some(captured.image));
            prop_assert_eq!(&saved.manifest.disk, &captured.manifest.disk);
        }
    }

    #[test]
    fn what_was_not_written_is_not_read() {
        let (_home, store) = small_store();
        let folder = tempfile::tempdir().unwrap();
        let bytes = disk_bytes(41, SIZE);
        let (captured, image) = capture_bytes(&store, &bytes);
        let base =
            Arc::new(Counting(ImageReader::new(store.image(captured.image).unwrap()), AtomicU64::new(0)));
        let overlay = Overlay::temporary(base.clone(), SIZE as u64, folder.path()).unwrap();
        overlay.write_all_at(2_000_000, &random_bytes(1, 8192)).unwrap();
        base.1.store(0, Ordering::Relaxed);
        let saved = save_overlay(&overlay, &image, &store, &options(2), &()).unwrap();
        let segment_bytes = store.config().segment_bytes;
        let read = base.1.load(Ordering::Relaxed);
        // And the places of partition tables.
        assert!(
            read < segment_bytes + (1 << 20),
            "{read} bytes of the base were read, segments have {segment_bytes}"
        );
        assert!(saved.manifest.statistics.new_bytes < 300_000, "{:?}", saved.manifest.statistics);
        assert_eq!(saved.manifest.statistics.data_bytes + saved.manifest.statistics.zero_bytes, SIZE as u64);
    }

    #[test]
    fn what_could_not_be_read_stays_bad_until_it_is_written() {
        let (_home, store) = small_store();
        let folder = tempfile::tempdir().unwrap();
        let bytes = disk_bytes(42, SIZE);
        let bad = vec![extent(512 * 100, 512 * 4), extent(512 * 200, 512 * 16), extent(512 * 4000, 512)];
        let device = FaultDevice::new(MemoryDevice::new(bytes.clone()), bad);
        let info = source(SIZE, Vec::new(), &[]);
        let captured = capture(&info, &device, &store, &options(2), &()).unwrap();
        let image = store.image(captured.image).unwrap();
        let base = Arc::new(ImageReader::new(store.image(captured.image).unwrap()));
        let overlay = Overlay::temporary(base, SIZE as u64, folder.path()).unwrap();
        overlay.write_all_at(512 * 200, &[7; 4096]).unwrap();
        let saved = save_overlay(&overlay, &image, &store, &options(2), &()).unwrap();
        let expected = [extent(512 * 100, 512 * 4), extent(512 * 208, 512 * 8), extent(512 * 4000, 512)];
        assert_eq!(saved.source.bad_ranges, expected);
    }

    #[test]
    fn what_is_left_of_extents() {
        let left = subtract(
            &[extent(0, 10), extent(20, 10), extent(40, 5)],
            &[extent(2, 3), extent(8, 14), extent(25, 1), extent(40, 9)],
        );
        assert_eq!(left, [extent(0, 2), extent(5, 3), extent(22, 3), extent(26, 4)]);
    }
}

//! From a device to an image: workers take segments in device order, cut them into runs, and hand both to the store.
//!
//! Promise: the image's runs depend on the device's bytes, its regions and the store's config only (I4); the source is
//! only read (I7); what could not be read is a bad range in the manifest, never silently zeros. Memory is one window
//! and one carried rest for each thread, whatever the device's size.
//! Knows nothing of packs or of partition tables.

use std::sync::{Mutex, PoisonError};

use disk::{AlignedBuffer, Extent, ReadAt};
use store::{
    Description, Guide, GuideSegment, ImageId, Manifest, NewChunk, NewRun, Store, Writer, WriterOptions,
};

use crate::cutter::{ChunkSink, CutRule, CutRun, Cutter};
use crate::guided::{Guided, guide_of, guide_segment};
use crate::rescue::Rescuer;
use crate::save::Unchanged;
use crate::segment::{BLOCK_BYTES, Grid, Segment, in_memory};
use crate::source::join_extents;
use crate::used::{Survey, UsedBlocks, survey};
use crate::{Counter, Error, Note, Progress, SourceInfo, workers};

/// What a worker reads at once: large enough to keep any disk busy, small enough for 64 threads in 512 MiB. A multiple
/// of [`BLOCK_BYTES`]; no effect on the runs (I4).
pub(crate) const WINDOW_BYTES: usize = 4 << 20;

/// How often a source is read when a collector takes away packs that the new image relied on (DESIGN.md §5). Each try
/// needs such a collection at the very moment; three in a row mean that something else is wrong.
const CAPTURE_ATTEMPTS_MAX: u32 = 3;

/// How to capture, and what the manifest says besides the source.
#[derive(Clone, Debug, Default)]
pub struct CaptureOptions {
    /// Compression, lock, pack size.
    pub writer: WriterOptions,
    /// Threads that read, cut and hash; 0: one for each processor.
    pub threads: usize,
    /// Blocks that no filesystem uses are zeros, and not read; nobody may write to the source meanwhile.
    pub in_use_only: bool,
    /// RFC 3339, UTC: now.
    pub created: String,
    /// This machine.
    pub host: String,
    /// Name for people; the source's serial number or name when `None`.
    pub disk: Option<String>,
    /// For people.
    pub tags: Vec<String>,
    /// For people.
    pub comment: String,
}

/// An image that is published and confirmed.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its id.
    pub image: ImageId,
    /// Its manifest, with the statistics.
    pub manifest: Manifest,
    /// The source as it was read: with bad ranges, and for a stream with its size.
    pub source: SourceInfo,
    /// Bytes that were not read, as no filesystem uses them.
    pub unused_bytes: u64,
}

/// Captures `device`, which `source` describes, into `store`.
///
/// Interrupted through `progress`, it keeps in the store what it has stored (the next capture finds it) and returns
/// [`Error::Interrupted`].
pub fn capture(
    source: &SourceInfo,
    device: &dyn ReadAt,
    store: &Store,
    options: &CaptureOptions,
    progress: &dyn Progress,
) -> Result<Captured, Error> {
    let mut options = options.clone();
    again(progress, || match capture_once(source, device, store, &options, None, WINDOW_BYTES, progress) {
        Err(Error::SourceInUse) => {
            options.in_use_only = false;
            progress.note(Note::CapturingWhole);
            capture_once(source, device, store, &options, None, WINDOW_BYTES, progress)
        }
        result => result,
    })
}

/// Captures again when a collector was faster.
pub(crate) fn again(
    progress: &dyn Progress,
    mut capture: impl FnMut() -> Result<Captured, Error>,
) -> Result<Captured, Error> {
    let mut attempt = 1;
    loop {
        match capture() {
            Err(Error::Store(store::Error::PacksVanished { .. })) if attempt < CAPTURE_ATTEMPTS_MAX => {
                attempt += 1;
                progress.note(Note::CapturingAgain { attempt });
            }
            result => return result,
        }
    }
}

/// One try, with the window size as an argument so that tests can show that it does not matter.
pub(crate) fn capture_once(
    source: &SourceInfo,
    device: &dyn ReadAt,
    store: &Store,
    options: &CaptureOptions,
    unchanged: Option<&Unchanged<'_>>,
    window_bytes: usize,
    progress: &dyn Progress,
) -> Result<Captured, Error> {
    let rule = cut_rule(store)?;
    let grid = Grid::new(&source.regions, store.config().segment_bytes)?;
    let parent = match unchanged {
        Some(unchanged) => Some(unchanged.parent()),
        None => newest_image_of(store, source, options)?,
    };
    let writer = store.writer(&options.writer)?;
    if let Some(text) = writer.catalogue_state().note() {
        progress.note(Note::Store(&text));
    }
    progress.total(Some(source.bytes()));
    // Now that no lock has to be waited for: the less time passes, the less can have changed.
    let survey = options.in_use_only.then(|| survey(device, source, |_| true));
    let used = UsedBlocks::new(device, survey.as_ref().map_or_else(Vec::new, |survey| survey.unused.clone()));
    let rescuer = Rescuer::new(&used, device, progress);
    let guide = guide_of(store, &writer, parent);
    let (guide, bad) = (guide.as_ref(), Mutex::default());
    let job =
        Job { device: &used, rescuer, rule, writer: &writer, guide, unchanged, window_bytes, progress, bad };
    let room = carry_room(&rule);
    let buffer = || AlignedBuffer::new(room + window_bytes);
    let done = workers::run(options.threads, grid.len(), progress, buffer, |buffer, number| {
        match grid.segment(number) {
            Some(segment) => capture_segment(&job, &segment, buffer, room),
            None => Ok(()),
        }
    });
    let bad = job.bad.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = done {
        return Err(give_up(writer, error));
    }
    if let Some(before) = &survey
        && *before != self::survey(device, source, |_| true)
    {
        return Err(give_up(writer, Error::SourceInUse));
    }
    let unused_bytes = survey.as_ref().map_or(0, Survey::unused_bytes);
    let volume_use = survey.map(|survey| survey.volumes);
    let source = SourceInfo { bad_ranges: join_extents(bad), volume_use, ..source.clone() };
    let captured = finish(writer, source, parent, options)?;
    Ok(Captured { unused_bytes, ..captured })
}

/// Publishes the image.
pub(crate) fn finish(
    writer: Writer,
    source: SourceInfo,
    parent: Option<ImageId>,
    options: &CaptureOptions,
) -> Result<Captured, Error> {
    let disk = disk_name(&source, options);
    let description = Description {
        created: options.created.clone(),
        host: options.host.clone(),
        tags: options.tags.clone(),
        comment: options.comment.clone(),
        bytes: source.bytes(),
        parent,
        source: source.to_value(&disk)?,
        disk,
    };
    let finished = writer.finish(description)?;
    Ok(Captured { image: finished.image, manifest: finished.manifest, source, unused_bytes: 0 })
}

/// Ends the session, keeping what was stored for the next try; the error that led here is what counts.
pub(crate) fn give_up(writer: Writer, error: Error) -> Error {
    match writer.abandon() {
        Ok(()) | Err(_) => error,
    }
}

/// The newest finished image of the same disk: by serial number, or by name on the same machine.
pub(crate) fn newest_image_of(
    store: &Store,
    source: &SourceInfo,
    options: &CaptureOptions,
) -> Result<Option<ImageId>, Error> {
    let disk = disk_name(source, options);
    let anywhere = source.identity.serial.is_some();
    let same = |manifest: &Manifest| manifest.disk == disk && (anywhere || manifest.host == options.host);
    let images = store.images()?;
    let newest = images.iter().rev().find(|entry| {
        entry.confirmed && entry.forgotten.is_none() && entry.manifest.as_ref().is_ok_and(same)
    });
    Ok(newest.map(|entry| entry.id))
}

fn disk_name(source: &SourceInfo, options: &CaptureOptions) -> String {
    options.disk.clone().unwrap_or_else(|| source.identity.key().to_owned())
}

/// How the store wants images to be cut.
pub(crate) fn cut_rule(store: &Store) -> Result<CutRule, Error> {
    let config = store.config();
    let chunks = config.rule.parse().map_err(|source| Error::Rule { found: config.rule.clone(), source })?;
    Ok(CutRule::new(chunks, config.zero_run_bytes))
}

/// Room before the window for the carried rest, so that both are one slice and the window stays aligned.
fn carry_room(rule: &CutRule) -> usize {
    rule.carry_bytes_max().next_multiple_of(in_memory(BLOCK_BYTES))
}

/// What all workers share.
struct Job<'a> {
    device: &'a dyn ReadAt,
    rescuer: Rescuer<'a>,
    rule: CutRule,
    writer: &'a Writer,
    guide: Option<&'a Guide>,
    unchanged: Option<&'a Unchanged<'a>>,
    window_bytes: usize,
    progress: &'a dyn Progress,
    bad: Mutex<Vec<Extent>>,
}

fn capture_segment(job: &Job, segment: &Segment, buffer: &mut [u8], room: usize) -> Result<(), Error> {
    let guide = guide_segment(job.guide, segment.extent);
    let runs = if segment.excluded {
        job.progress.add(Counter::Done, segment.extent.bytes);
        vec![CutRun::Zeros(segment.extent.bytes)]
    } else if let Some(runs) = job.unchanged.and_then(|it| it.runs(job.writer, segment.extent, &guide)) {
        job.progress.add(Counter::Done, segment.extent.bytes);
        runs
    } else {
        read_segment(job, segment.extent, &guide, buffer, room)?
    };
    let bad = bad_extents(segment.extent.offset, &runs);
    job.bad.lock().unwrap_or_else(PoisonError::into_inner).extend(bad);
    submit(job.writer, segment.number, runs, &guide, job.progress)
}

/// Hands a segment's runs to the store and counts them.
pub(crate) fn submit(
    writer: &Writer,
    number: u64,
    runs: Vec<CutRun<NewChunk>>,
    guide: &GuideSegment,
    progress: &dyn Progress,
) -> Result<(), Error> {
    for run in &runs {
        let (counter, bytes) = match run {
            CutRun::Chunk(chunk) if chunk.known => (Counter::Known, u64::from(chunk.bytes)),
            CutRun::Chunk(chunk) => (Counter::New, u64::from(chunk.bytes)),
            CutRun::Zeros(bytes) => (Counter::Zeros, *bytes),
            CutRun::Bad(bytes) => (Counter::Bad, *bytes),
        };
        progress.add(counter, bytes);
    }
    writer.submit_guided(number, runs.into_iter().map(new_run).collect(), guide)?;
    Ok(())
}

fn new_run(run: CutRun<NewChunk>) -> NewRun {
    match run {
        CutRun::Chunk(chunk) => NewRun::Chunk(chunk),
        CutRun::Zeros(bytes) => NewRun::Zeros { bytes },
        CutRun::Bad(bytes) => NewRun::Bad { bytes },
    }
}

/// Where the bad runs of a segment lie on the device.
fn bad_extents(start: u64, runs: &[CutRun<NewChunk>]) -> Vec<Extent> {
    let mut offset = start;
    let mut bad = Vec::new();
    for run in runs {
        let bytes = match run {
            CutRun::Chunk(chunk) => u64::from(chunk.bytes),
            CutRun::Zeros(bytes) => *bytes,
            CutRun::Bad(bytes) => {
                bad.push(Extent { offset, bytes: *bytes });
                *bytes
            }
        };
        offset += bytes;
    }
    bad
}

/// Reads a segment window by window and cuts it.
fn read_segment(
    job: &Job,
    segment: Extent,
    guide: &GuideSegment,
    buffer: &mut [u8],
    room: usize,
) -> Result<Vec<CutRun<NewChunk>>, Error> {
    let mut cutter = Cutter::new(job.rule, Guided::new(job.writer, guide));
    let mut offset = segment.offset;
    while offset < segment.end() {
        if job.progress.cancelled() {
            return Err(Error::Interrupted);
        }
        let bytes = (segment.end() - offset).min(job.window_bytes as u64);
        for piece in pieces(job.device, segment, Extent { offset, bytes })? {
            match piece {
                Piece::Hole(hole) if hole.bytes >= job.rule.hole_bytes_min() => {
                    let carry = cutter.carry();
                    cutter.hole(&buffer[room - carry..room], hole.bytes)?;
                }
                Piece::Hole(hole) => {
                    let end = room + in_memory(hole.bytes);
                    buffer[room..end].fill(0);
                    cutter.feed(&buffer[room - cutter.carry()..end])?;
                    keep_carry(buffer, room, end, cutter.carry());
                }
                Piece::Data(data) => feed_data(job, data, buffer, room, &mut cutter)?,
            }
        }
        offset += bytes;
        job.progress.add(Counter::Done, bytes);
    }
    let carry = cutter.carry();
    cutter.finish(&buffer[room - carry..room])
}

/// Reads one piece into the window and feeds what is readable, with the bad ranges between.
fn feed_data<S: ChunkSink>(
    job: &Job,
    data: Extent,
    buffer: &mut [u8],
    room: usize,
    cutter: &mut Cutter<S>,
) -> Result<(), Error> {
    let end = room + in_memory(data.bytes);
    let bad = job.rescuer.read(data.offset, &mut buffer[room..end])?;
    let mut from = room - cutter.carry();
    for range in bad {
        let start = room + in_memory(range.offset - data.offset);
        cutter.feed(&buffer[from..start])?;
        cutter.bad(&buffer[start - cutter.carry()..start], range.bytes)?;
        from = start + in_memory(range.bytes);
    }
    cutter.feed(&buffer[from..end])?;
    keep_carry(buffer, room, end, cutter.carry());
    Ok(())
}

/// Moves the rest that the next call needs to just before the window.
fn keep_carry(buffer: &mut [u8], room: usize, end: usize, carry: usize) {
    buffer.copy_within(end - carry..end, room - carry);
}

/// A stretch of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Extent),
    Hole(Extent),
}

/// What of a window must be read, and what is a hole. Borders are widened to whole blocks of the segment's grid, so that
/// holes give the runs that zeros would (I4).
pub(crate) fn pieces(device: &dyn ReadAt, segment: Extent, window: Extent) -> Result<Vec<Piece>, Error> {
    let floor = |offset: u64| segment.offset + (offset - segment.offset) / BLOCK_BYTES * BLOCK_BYTES;
    let ceil = |offset: u64| segment.offset + (offset - segment.offset).next_multiple_of(BLOCK_BYTES);
    let mut pieces = Vec::new();
    let mut at = window.offset;
    while at < window.end() {
        let next = device.next_data(at).map_err(|source| Error::ReadSource {
            offset: at,
            bytes: window.bytes,
            source,
        })?;
        // `next` begins at `at` or later; one that ends there too would not be an extent of data.
        let data = next.filter(|extent| extent.end() > at && extent.offset < window.end());
        let (start, end) = match data {
            Some(extent) => (floor(extent.offset.max(at)).max(at), ceil(extent.end()).min(window.end())),
            None => (window.end(), window.end()),
        };
        if start > at {
            pieces.push(Piece::Hole(Extent { offset: at, bytes: start - at }));
        }
        if end > start {
            pieces.push(Piece::Data(Extent { offset: start, bytes: end - start }));
        }
        at = end;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use disk::{FaultDevice, MemoryDevice};
    use proptest::prelude::*;

    use super::*;
    use crate::ImageReader;
    use crate::testing::{capture_bytes, disk_bytes, options, small_store, source, volume};

    fn extent(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes }
    }

    fn all_bytes(store: &Store, image: ImageId) -> Vec<u8> {
        let reader = ImageReader::new(store.image(image).unwrap());
        let mut bytes = vec![0; in_memory(reader.size_bytes())];
        reader.read_exact_at(0, &mut bytes).unwrap();
        bytes
    }

    /// A device that knows its holes, on borders as odd as a sparse file of 512-byte blocks would have.
    struct Sparse(MemoryDevice);

    impl ReadAt for Sparse {
        fn size_bytes(&self) -> u64 {
            self.0.size_bytes()
        }
        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
            self.0.read_exact_at(offset, buf)
        }
        fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
            let sectors = self.size_bytes().div_ceil(512);
            let mut sector = [0; 512];
            let mut is_data = |number: &u64| {
                let length = in_memory((self.size_bytes() - number * 512).min(512));
                self.0.read_exact_at(number * 512, &mut sector[..length]).unwrap();
                sector[..length].iter().any(|byte| *byte != 0)
            };
            let Some(first) = (offset / 512..sectors).find(&mut is_data) else { return Ok(None) };
            let behind = (first..sectors).find(|number| !is_data(number)).unwrap_or(sectors);
            let (start, end) = (offset.max(first * 512), self.size_bytes().min(behind * 512));
            Ok(Some(extent(start, end - start)))
        }
    }

    #[test]
    fn what_is_captured_reads_back() {
        let (_home, store) = small_store();
        let bytes = disk_bytes(1, 3_000_000);
        let (captured, image) = capture_bytes(&store, &bytes);
        assert_eq!(image.bytes(), 3_000_000);
        assert_eq!(all_bytes(&store, captured.image), bytes);
        let statistics = captured.manifest.statistics;
        assert_eq!(statistics.data_bytes + statistics.zero_bytes, 3_000_000);
        let again = capture_bytes(&store, &bytes).0;
        assert_eq!(again.manifest.statistics.new_chunks, 0);
        assert_eq!(again.manifest.parent, Some(captured.image));
        assert_eq!(again.manifest.root.map(|root| root.id), captured.manifest.root.map(|root| root.id));
    }

    /// I4. Each capture goes into a store of its own, so that nothing is found there.
    #[test]
    fn threads_windows_and_holes_do_not_matter() {
        let bytes = disk_bytes(2, 2_500_096);
        let volumes = vec![volume(1, 512 * 63, 512 * 1001), volume(2, 512 * 2048, 512 * 2000)];
        let source = source(bytes.len(), volumes, &[]);
        let roots = |device: &dyn ReadAt, threads, window| {
            let (_home, store) = small_store();
            let captured =
                capture_once(&source, device, &store, &options(threads), None, window, &()).unwrap();
            assert_eq!(all_bytes(&store, captured.image), bytes);
            let manifest = captured.manifest;
            let statistics = manifest.statistics;
            (statistics.chunks, statistics.data_bytes, statistics.zero_bytes, statistics.new_bytes, {
                let image = store.image(captured.image).unwrap();
                let runs = image.runs(0, image.bytes()).unwrap();
                let shape = |placed: &store::PlacedRun| match placed.run {
                    store::Run::Chunk(chunk) => (placed.offset, chunk.id.to_string()),
                    store::Run::Zeros { bytes } => (placed.offset, format!("zeros {bytes}")),
                    store::Run::Bad { bytes } => (placed.offset, format!("bad {bytes}")),
                };
                runs.iter().map(shape).collect::<Vec<_>>()
            })
        };
        let device = MemoryDevice::new(bytes.clone());
        let first = roots(&device, 1, 4096);
        assert_eq!(roots(&device, 3, 12 * 4096), first);
        assert_eq!(roots(&device, 8, WINDOW_BYTES), first);
        assert_eq!(roots(&Sparse(MemoryDevice::new(bytes.clone())), 2, 5 * 4096), first);
    }

    #[test]
    fn bad_sectors_are_recorded_and_the_rest_is_read() {
        let (_home, store) = small_store();
        let mut bytes = disk_bytes(3, 1_000_448);
        let bad = vec![extent(70_000, 10), extent(512 * 600, 512 * 30), extent(999_936, 512)];
        let device = FaultDevice::new(MemoryDevice::new(bytes.clone()), bad);
        let source = source(bytes.len(), Vec::new(), &[]);
        let captured = capture(&source, &device, &store, &options(2), &()).unwrap();
        let expected = [extent(512 * 136, 512), extent(512 * 600, 512 * 30), extent(999_936, 512)];
        assert_eq!(captured.source.bad_ranges, expected);
        for range in expected {
            bytes[in_memory(range.offset)..in_memory(range.end())].fill(0);
        }
        assert_eq!(all_bytes(&store, captured.image), bytes);
        let info = SourceInfo::from_manifest(&captured.manifest).unwrap();
        assert_eq!(info.bad_ranges, expected);
        assert_eq!(captured.manifest.statistics.bad_bytes, 512 * 32);
        let reader = ImageReader::new(store.image(captured.image).unwrap());
        assert_eq!(reader.bad_extents(extent(70_000, 1)).unwrap(), [extent(70_000, 1)]);
    }

    #[test]
    fn a_source_that_shrinks_or_goes_is_an_error_with_the_offset() {
        let (_home, store) = small_store();
        let bytes = disk_bytes(4, 1_000_448);
        let source = source(bytes.len(), Vec::new(), &[]);
        let device = FaultDevice::new(MemoryDevice::new(bytes.clone()), Vec::new());
        device.disappear_at(600_000);
        let result = capture(&source, &device, &store, &options(1), &());
        assert!(matches!(result, Err(Error::ReadSource { offset: 524_288, .. })), "{result:?}");
        let device = MemoryDevice::new(bytes[..700_000].to_vec());
        let result = capture(&source, &device, &store, &options(1), &());
        assert!(matches!(result, Err(Error::ReadSource { .. })), "{result:?}");
        assert!(store.images().unwrap().is_empty());
    }

    #[test]
    fn an_excluded_volume_is_not_read_and_reads_as_zeros() {
        let (_home, store) = small_store();
        let mut bytes = disk_bytes(5, 1_000_448);
        let volumes = vec![volume(1, 512 * 63, 512 * 400), volume(2, 512 * 500, 512 * 800)];
        let device = FaultDevice::new(MemoryDevice::new(bytes.clone()), vec![extent(512 * 500, 512 * 800)]);
        let captured =
            capture(&source(bytes.len(), volumes, &[2]), &device, &store, &options(2), &()).unwrap();
        assert!(captured.source.bad_ranges.is_empty());
        bytes[512 * 500..512 * 1300].fill(0);
        assert_eq!(all_bytes(&store, captured.image), bytes);
        assert_eq!(SourceInfo::from_manifest(&captured.manifest).unwrap().excluded, [2]);
    }

    /// Says stop as soon as something was done.
    #[derive(Default)]
    struct StopSoon(AtomicBool);

    impl Progress for StopSoon {
        fn add(&self, counter: Counter, _: u64) {
            if counter == Counter::New {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn what_an_interrupted_capture_stored_is_found_by_the_next() {
        let (_home, store) = small_store();
        let bytes = disk_bytes(6, 2_000_000);
        let source = source(bytes.len(), Vec::new(), &[]);
        let device = MemoryDevice::new(bytes.clone());
        let result = capture(&source, &device, &store, &options(1), &StopSoon::default());
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!(store.images().unwrap().is_empty());
        let captured = capture(&source, &device, &store, &options(2), &()).unwrap();
        let statistics = captured.manifest.statistics;
        assert!(statistics.new_bytes < statistics.data_bytes);
        assert_eq!(all_bytes(&store, captured.image), bytes);
    }

    proptest! {
        #[test]
        fn pieces_cover_the_window_on_block_borders(
            sectors in prop::collection::vec(any::<bool>(), 1..200), start in 0u64..20, blocks in 1u64..8,
        ) {
            let bytes: Vec<u8> = sectors.iter().flat_map(|data| [u8::from(*data); 512]).collect();
            let device = Sparse(MemoryDevice::new(bytes.clone()));
            let start = start.min(sectors.len() as u64 - 1) * 512;
            let segment = extent(start, bytes.len() as u64 - start);
            let mut at = start;
            while at < segment.end() {
                let window = extent(at, (blocks * BLOCK_BYTES).min(segment.end() - at));
                for piece in pieces(&device, segment, window).unwrap() {
                    let (Piece::Data(found) | Piece::Hole(found)) = piece;
                    prop_assert_eq!(found.offset, at);
                    prop_assert!((found.offset - start).is_multiple_of(BLOCK_BYTES));
                    let held = &bytes[in_memory(found.offset)..in_memory(found.end())];
                    prop_assert!(matches!(piece, Piece::Data(_)) || held.iter().all(|byte| *byte == 0));
                    at = found.end();
                }
                prop_assert_eq!(at, window.end());
            }
        }
    }
}

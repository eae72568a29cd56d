//! A stored image as a device: any offset, any length.
//!
//! Promise: every byte comes from a chunk whose hash was checked (I3), or is zero because the image says so: zeros, bad
//! ranges and volumes that were left out all read as zeros, and [`ImageReader::bad_extents`] tells the bad ones.
//! Memory is bounded whatever is read. Needs no index and no lock. Knows nothing of filesystems.

use std::error::Error;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use disk::{Extent, ReadAt};
use lru::LruCache;
use store::{ChunkId, PlacedRun, Run, StoredChunk, StoredImage};

use crate::SourceInfo;
use crate::segment::in_memory;
use crate::source::intersect;

/// Decoded chunks kept: enough for the metadata that a filesystem reads again and again while it is browsed.
const CACHE_BYTES: usize = 64 << 20;

/// Runs are asked for and kept in steps of this size: the reach of a leaf table.
const RUNS_BYTES: u64 = 4 << 20;

/// Lists of runs kept; each has some hundred entries, a full list (4 MiB in 512-byte chunks) takes 1 MiB.
const RUN_LISTS_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// What the store could not give is remembered for so long: finding out looks through all packs, and who reads around a
/// damaged chunk asks for it dozens of times. Later, a copy may have come.
const LOST_TIME: Duration = Duration::from_secs(60);

/// So many of them, some 200 bytes each.
const LOST_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Reads a stored image; shared by any number of threads.
pub struct ImageReader {
    image: StoredImage,
    sector_bytes: u32,
    lost: Mutex<LruCache<Lost, (Instant, Arc<store::Error>)>>,
    chunks: Mutex<ChunkCache>,
    runs: Mutex<LruCache<u64, Arc<Vec<PlacedRun>>>>,
}

impl ImageReader {
    /// A reader of this image.
    pub fn new(image: StoredImage) -> ImageReader {
        let sector_bytes = SourceInfo::from_manifest(image.manifest())
            .map_or(512, |info| info.identity.logical_sector_bytes.max(512));
        let (runs, lost) = (Mutex::new(LruCache::new(RUN_LISTS_MAX)), Mutex::new(LruCache::new(LOST_MAX)));
        ImageReader { image, sector_bytes, lost, chunks: Mutex::new(ChunkCache::new(CACHE_BYTES)), runs }
    }

    /// The image behind.
    pub fn image(&self) -> &StoredImage {
        &self.image
    }

    /// What of an extent could not be read from the source, and so reads as zeros.
    pub fn bad_extents(&self, extent: Extent) -> Result<Vec<Extent>, crate::Error> {
        let info = SourceInfo::from_manifest(self.image.manifest())?;
        Ok(info.bad_ranges.iter().filter_map(|range| intersect(*range, extent)).collect())
    }

    /// The runs that overlap one step of [`RUNS_BYTES`]; `extent` is where they are wanted.
    fn runs(&self, step: u64, extent: Extent) -> Result<Arc<Vec<PlacedRun>>, disk::Error> {
        let mut lists = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runs) = lists.get(&step) {
            return Ok(runs.clone());
        }
        // Not while holding the lock: it may take a round trip to a remote store.
        drop(lists);
        self.check_lost(Lost::Runs(step), extent)?;
        let offset = step * RUNS_BYTES;
        let bytes = RUNS_BYTES.min(self.image.bytes() - offset);
        let runs = self.image.runs(offset, bytes);
        let runs = Arc::new(runs.map_err(|error| self.lose(Lost::Runs(step), extent, error))?);
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).put(step, runs.clone());
        Ok(runs)
    }

    /// Fills the part of `buf`, which begins at `offset`, that lies in one step.
    fn read_step(&self, step: u64, part: Extent, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let runs = self.runs(step, part)?;
        let mut missing: Vec<(StoredChunk, Extent)> = Vec::new();
        for placed in runs.iter() {
            let whole = Extent { offset: placed.offset, bytes: placed.run.bytes() };
            let Some(wanted) = intersect(whole, part) else { continue };
            match placed.run {
                Run::Zeros { .. } | Run::Bad { .. } => target(buf, offset, wanted).fill(0),
                Run::Chunk(chunk) => match self.cached(&chunk.id) {
                    Some(plain) => copy(&plain, whole, wanted, offset, buf),
                    None => missing.push((chunk, whole)),
                },
            }
        }
        for (chunk, whole) in &missing {
            self.check_lost(Lost::Chunk(chunk.id), *whole)?;
        }
        let wanted: Vec<StoredChunk> = missing.iter().map(|(chunk, _)| *chunk).collect();
        let mut result = Ok(());
        for ((chunk, whole), plain) in missing.into_iter().zip(self.image.fetch(&wanted)) {
            match plain {
                Ok(plain) => {
                    let plain = Arc::new(plain);
                    if let Some(wanted) = intersect(whole, part) {
                        copy(&plain, whole, wanted, offset, buf);
                    }
                    self.chunks.lock().unwrap_or_else(PoisonError::into_inner).put(chunk.id, plain);
                }
                // The others are kept nevertheless: who reads around this one will want them.
                Err(error) => {
                    let error = self.lose(Lost::Chunk(chunk.id), whole, error);
                    result = result.and(Err(error));
                }
            }
        }
        result
    }

    /// Remembers what is damaged. A store that can't be reached now may be there in a moment.
    fn lose(&self, lost: Lost, extent: Extent, error: store::Error) -> disk::Error {
        if error.family() != store::Family::Damaged {
            return self.foreign(extent, error);
        }
        let error = Arc::new(error);
        let entry = (Instant::now(), error.clone());
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).put(lost, entry);
        self.foreign(extent, StillLost(error))
    }

    /// An error when the store could not give this a moment ago.
    fn check_lost(&self, lost: Lost, extent: Extent) -> Result<(), disk::Error> {
        let mut known = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&lost) {
            Some((since, error)) if since.elapsed() < LOST_TIME => {
                Err(self.foreign(extent, StillLost(error.clone())))
            }
            _ => Ok(()),
        }
    }

    fn cached(&self, id: &ChunkId) -> Option<Arc<Vec<u8>>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner).lru.get(id).cloned()
    }

    fn name(&self) -> PathBuf {
        PathBuf::from(format!("image {}", self.image.id().short()))
    }

    fn foreign(&self, extent: Extent, source: impl Error + Send + Sync + 'static) -> disk::Error {
        let Extent { offset, bytes } = extent;
        disk::Error::Foreign { path: self.name(), offset, bytes, source: Box::new(source) }
    }
}

/// What of an image can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lost {
    /// Bytes.
    Chunk(ChunkId),
    /// The runs of the step with this number, a table being damaged.
    Runs(u64),
}

/// An error that is given more than once.
#[derive(Debug)]
struct StillLost(Arc<store::Error>);

impl fmt::Display for StillLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store can't give this part of the image")
    }
}

impl Error for StillLost {
    /// The store's error itself, not the pointer to it: who looks for one must find it.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// What the store said, where a device failed because it stands on an image.
pub(crate) fn store_error(error: &disk::Error) -> Option<&store::Error> {
    let mut link = error.source();
    while let Some(error) = link {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        link = error.source();
    }
    None
}

/// The part of `buf`, which begins at `offset`, that `extent` covers.
fn target(buf: &mut [u8], offset: u64, extent: Extent) -> &mut [u8] {
    let start = in_memory(extent.offset - offset);
    &mut buf[start..start + in_memory(extent.bytes)]
}

/// Copies the wanted part of a chunk that lies at `whole`.
fn copy(plain: &[u8], whole: Extent, wanted: Extent, offset: u64, buf: &mut [u8]) {
    let skip = in_memory(wanted.offset - whole.offset);
    // In bounds: the store returns as many bytes as the chunk has.
    target(buf, offset, wanted).copy_from_slice(&plain[skip..skip + in_memory(wanted.bytes)]);
}

impl ReadAt for ImageReader {
    fn size_bytes(&self) -> u64 {
        self.image.bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let expected = buf.len() as u64;
        let found = self.size_bytes().saturating_sub(offset);
        if expected > found {
            return Err(disk::Error::ShortRead { path: self.name(), offset, expected, found });
        }
        let all = Extent { offset, bytes: expected };
        for step in offset / RUNS_BYTES..all.end().div_ceil(RUNS_BYTES) {
            let within = Extent { offset: step * RUNS_BYTES, bytes: RUNS_BYTES };
            if let Some(part) = intersect(all, within) {
                self.read_step(step, part, offset, buf)?;
            }
        }
        Ok(())
    }

    /// Zeros and bad ranges are holes; an extent of data ends with its step at the latest.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        let mut at = offset;
        while at < self.size_bytes() {
            let step = at / RUNS_BYTES;
            let end = ((step + 1) * RUNS_BYTES).min(self.size_bytes());
            let rest = Extent { offset: at, bytes: end - at };
            let runs = self.runs(step, rest)?;
            let mut data: Option<Extent> = None;
            let mut next = end;
            for placed in runs.iter() {
                let run = Extent { offset: placed.offset, bytes: placed.run.bytes() };
                let is_chunk = matches!(placed.run, Run::Chunk(_));
                // A long run of zeros may take many steps: none of them needs a look.
                next = if is_chunk { end } else { run.end().max(end) };
                match (intersect(run, rest), data.as_mut()) {
                    (None, _) => {}
                    (Some(part), None) => data = is_chunk.then_some(part),
                    (Some(part), Some(data)) if is_chunk => data.bytes = part.end() - data.offset,
                    (Some(_), Some(_)) => break,
                }
            }
            if data.is_some() {
                return Ok(data);
            }
            at = next;
        }
        Ok(None)
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }
}

/// Decoded chunks up to a number of bytes, the least recently used leaving first.
struct ChunkCache {
    lru: LruCache<ChunkId, Arc<Vec<u8>>>,
    bytes: usize,
    bytes_max: usize,
}

impl ChunkCache {
    fn new(bytes_max: usize) -> ChunkCache {
        ChunkCache { lru: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    fn put(&mut self, id: ChunkId, plain: Arc<Vec<u8>>) {
        self.bytes += plain.len();
        if let Some(before) = self.lru.put(id, plain) {
            self.bytes -= before.len();
        }
        while self.bytes > self.bytes_max
            && let Some((_, oldest)) = self.lru.pop_lru()
        {
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{capture_bytes, damaged_store, disk_bytes, random_bytes, small_store};

    #[test]
    fn any_extent_reads_as_the_plain_bytes() {
        let (_home, store) = small_store();
        let bytes = disk_bytes(30, 9_000_000);
        let (_, image) = capture_bytes(&store, &bytes);
        let reader = ImageReader::new(image);
        proptest!(|(start in 0usize..9_000_000, length in 0usize..300_000)| {
            let length = length.min(bytes.len() - start);
            let mut found = vec![0xaa; length];
            reader.read_exact_at(start as u64, &mut found).unwrap();
            prop_assert!(found == bytes[start..start + length]);
        });
        let result = reader.read_exact_at(8_999_999, &mut [0; 2]);
        assert!(matches!(result, Err(disk::Error::ShortRead { expected: 2, found: 1, .. })));
    }

    #[test]
    fn holes_are_zeros_and_nothing_else_is_left_out() {
        let (_home, store) = small_store();
        let mut bytes = disk_bytes(31, 9_000_000);
        bytes[1_000_000..8_500_000].fill(0);
        let (_, image) = capture_bytes(&store, &bytes);
        let reader = ImageReader::new(image);
        let mut at = 0;
        let mut zeros = 0;
        while let Some(data) = reader.next_data(at).unwrap() {
            assert!(data.offset >= at && data.bytes > 0);
            assert!(bytes[in_memory(at)..in_memory(data.offset)].iter().all(|byte| *byte == 0));
            zeros += data.offset - at;
            at = data.end();
        }
        assert!(bytes[in_memory(at)..].iter().all(|byte| *byte == 0));
        assert!(zeros > 7_000_000);
    }

    #[test]
    fn what_is_lost_is_told_again_and_its_neighbours_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = random_bytes(32, 3 << 20);
        let (_store, image) = damaged_store(folder.path(), &bytes, 1 << 20);
        let reader = ImageReader::new(image);
        let mut buf = vec![0; bytes.len()];
        for _ in 0..2 {
            let error = reader.read_exact_at(0, &mut buf).unwrap_err();
            assert_eq!(store_error(&error).unwrap().family(), store::Family::Damaged);
            let disk::Error::Foreign { offset, bytes: lost_bytes, .. } = error else { panic!("{error}") };
            let (from, to) = (in_memory(offset), in_memory(offset + lost_bytes));
            reader.read_exact_at(0, &mut buf[..from]).unwrap();
            reader.read_exact_at(to as u64, &mut buf[to..]).unwrap();
            assert!(buf[..from] == bytes[..from] && buf[to..] == bytes[to..]);
        }
        assert_eq!(reader.lost.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = ChunkCache::new(100);
        for number in 0..50u8 {
            let plain = Arc::new(vec![number; 30]);
            cache.put(store::chunk_id(&plain), plain);
            assert!(cache.bytes <= 100);
        }
        assert_eq!(cache.lru.len(), 3);
    }
}

//! The made-up series: chunks, packs and images that follow from a seed, of any number.
//!
//! Promise: any chunk, pack or segment is known from its number alone, so that nothing proportional to the series is kept
//! in memory; headers, trailers, tables and manifests come out of the store's own code. Knows nothing of what is measured.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use store::made_up::{self, Blob};
use store::{ChunkId, Description, NewRun, PackId, Store, Writer, WriterOptions};

use crate::SEED;

/// Chunks have 64 to 93 KiB, as FastCDC cuts them with the usual rule.
const CHUNK_BYTES_MIN: u64 = 64 << 10;
const CHUNK_BYTES_SPREAD: u64 = 29 << 10;
/// For rates and totals.
pub(super) const CHUNK_BYTES_MEAN: u64 = CHUNK_BYTES_MIN + CHUNK_BYTES_SPREAD / 2;
/// A pack of 32 MiB.
pub(super) const CHUNKS_A_PACK: u64 = 370;
/// So many fit a segment in all but one case in 10^15; the rest of it are zeros.
pub(super) const CHUNKS_A_SEGMENT: u64 = 810;
pub(super) const SEGMENT_BYTES: u64 = 64 << 20;
/// A disk of 1 TiB and a little more; a larger store has several.
const CHUNKS_A_DISK_MAX: u64 = 14_300_000;
/// Each disk is there twice: as it was, and a day later with one chunk in a hundred changed.
const CHANGED_EVERY: u64 = 100;

/// Random numbers from a number (SplitMix64).
#[derive(Clone, Copy)]
struct Mix(u64);

impl Mix {
    fn of(kind: u64, number: u64) -> Mix {
        let mut mix = Mix(SEED ^ kind.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ number.rotate_left(20));
        mix.next();
        mix
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn id(&mut self) -> [u8; 32] {
        let mut id = [0; 32];
        id.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&self.next().to_le_bytes()));
        id
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Chunk number `number`; its blob takes up to an eighth less than it.
pub(super) fn blob(number: u64) -> Blob {
    let mut mix = Mix::of(1, number);
    let plain = CHUNK_BYTES_MIN + mix.next() % CHUNK_BYTES_SPREAD;
    let stored = plain - mix.next() % (plain / 8);
    Blob { id: ChunkId(mix.id()), stored_bytes: small(stored), plain_bytes: small(plain) }
}

/// A chunk that no store has.
pub(super) fn unknown(number: u64) -> ChunkId {
    ChunkId(Mix::of(2, number).id())
}

pub(super) fn pack_id(number: u64) -> PackId {
    PackId(Mix::of(3, number).id())
}

/// A number below `limit` that jumps about as `number` counts.
pub(super) fn anywhere(number: u64, limit: u64) -> u64 {
    Mix::of(4, number).next() % limit
}

/// A store of so many distinct chunks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) chunks: u64,
}

/// One image of a series.
#[derive(Clone, Copy, Debug)]
pub(super) struct MadeUpImage {
    /// Its first chunk.
    start: u64,
    /// Chunks in it.
    chunks: u64,
    later: bool,
}

impl Series {
    fn disks(&self) -> u64 {
        self.chunks.div_ceil(CHUNKS_A_DISK_MAX)
    }

    /// Two of each disk.
    pub(super) fn images(&self) -> Vec<MadeUpImage> {
        let disk = |number: u64| {
            let start = self.chunks * number / self.disks();
            let all = self.chunks * (number + 1) / self.disks() - start;
            let chunks = all * CHANGED_EVERY / (CHANGED_EVERY + 1);
            [false, true].map(|later| MadeUpImage { start, chunks, later })
        };
        (0..self.disks()).flat_map(disk).collect()
    }

    /// Sparse files: header, hole, trailer and footer.
    pub(super) fn write_packs(&self, store: &Path) -> Result<()> {
        for number in 0..self.chunks.div_ceil(CHUNKS_A_PACK) {
            let first = number * CHUNKS_A_PACK;
            let last = (first + CHUNKS_A_PACK).min(self.chunks);
            let blobs: Vec<Blob> = (first..last).map(blob).collect();
            let pack = made_up::pack(pack_id(number), &blobs);
            let path = store.join(&pack.name);
            if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
                fs::create_dir_all(folder)?;
            }
            let file = File::create(&path).with_context(|| path.display().to_string())?;
            file.write_all_at(&pack.header, 0)?;
            file.write_all_at(&pack.tail, pack.bytes - pack.tail.len() as u64)?;
        }
        Ok(())
    }

    /// The images that are not there yet, through a writer each.
    pub(super) fn write_images(&self, store: &Store) -> Result<()> {
        let there = store.images()?.len();
        for (number, image) in self.images().into_iter().enumerate().skip(there) {
            let writer = store.writer(&WriterOptions::default())?;
            image.submit(&writer)?;
            writer.finish(Description {
                created: format!("2026-01-01T00:{:02}:00Z", number % 60),
                host: "bench".to_owned(),
                disk: format!("disk {}", number / 2),
                bytes: image.segments() * SEGMENT_BYTES,
                source: serde_json::Value::Null,
                ..Description::default()
            })?;
        }
        Ok(())
    }
}

impl MadeUpImage {
    pub(super) fn chunks(&self) -> u64 {
        self.chunks
    }

    fn segments(&self) -> u64 {
        self.chunks.div_ceil(CHUNKS_A_SEGMENT)
    }

    /// The number of the chunk at a place.
    pub(super) fn chunk(&self, place: u64) -> u64 {
        if self.later && place % CHANGED_EVERY == CHANGED_EVERY / 2 {
            return self.start + self.chunks + place / CHANGED_EVERY;
        }
        self.start + place
    }

    /// Hands every chunk to the writer, looked up like one whose bytes were hashed.
    pub(super) fn submit(&self, writer: &Writer) -> Result<()> {
        in_segments(self.segments(), |segment| {
            let first = segment * CHUNKS_A_SEGMENT;
            let last = (first + CHUNKS_A_SEGMENT).min(self.chunks);
            let mut runs = Runs::default();
            for place in first..last {
                let blob = blob(self.chunk(place));
                let found = made_up::put_known(writer, blob.id, blob.plain_bytes)?;
                runs.push(NewRun::Chunk(found.context("a chunk of the series is not in the store")?));
            }
            writer.submit(segment, runs.fill()).map_err(anyhow::Error::from)
        })
    }
}

/// The runs of one segment.
#[derive(Default)]
pub(super) struct Runs {
    runs: Vec<NewRun>,
    bytes: u64,
}

impl Runs {
    pub(super) fn push(&mut self, run: NewRun) {
        self.bytes += match &run {
            NewRun::Chunk(chunk) => u64::from(chunk.bytes),
            NewRun::Zeros { bytes } | NewRun::Bad { bytes } => *bytes,
        };
        self.runs.push(run);
    }

    /// Up to the end of the segment, with zeros.
    pub(super) fn fill(mut self) -> Vec<NewRun> {
        let bytes = SEGMENT_BYTES.saturating_sub(self.bytes);
        if bytes > 0 {
            self.push(NewRun::Zeros { bytes });
        }
        self.runs
    }
}

/// Each segment once, in order, on as many threads as there are processors.
pub(super) fn in_segments(segments: u64, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicU64::new(0);
    let worker = || {
        loop {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= segments {
                return Ok(());
            }
            work(segment)?;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let mut joined = workers.into_iter().map(|it| it.join());
        joined.try_for_each(|it| it.unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked"))))
    })
}

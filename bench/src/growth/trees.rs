//! What the tables of an image take: a first image, and the same disk with some chunks changed.
//!
//! Promise: the tables are encoded, compressed, proved and published by the store's own writer, into a backend that counts
//! packs and keeps nothing, so that 20 TiB fit any machine. Knows nothing of stores on disk.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use store::backend::{self, Backend, Delete, Entry, MemoryBackend, Name, Put};
use store::made_up;
use store::{Config, Home, NewRun, Store, Writer, WriterOptions};

use super::made::{CHUNKS_A_PACK, CHUNKS_A_SEGMENT, Runs, SEGMENT_BYTES, blob, in_segments, pack_id};
use crate::measure::{Measure, measure};
use crate::whole::USUAL_RULE;

/// Changed chunks are numbered from here on.
const CHANGED_FROM: u64 = 1 << 40;
const PACK_BYTES: u64 = 32 << 20;

/// Which chunks differ from the first image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Change {
    /// The first image itself.
    First,
    Nothing,
    /// One chunk in so many, all over the disk.
    Even(u64),
    /// One segment in so many, all of it.
    Clustered(u64),
}

impl Change {
    pub(super) const ALL: [Change; 6] = [
        Change::First,
        Change::Nothing,
        Change::Clustered(1000),
        Change::Even(1000),
        Change::Clustered(100),
        Change::Even(100),
    ];

    pub(super) fn name(self) -> String {
        let percent = |every: u64| 100.0 / every as f64;
        match self {
            Change::First => "first".to_owned(),
            Change::Nothing => "nothing changed".to_owned(),
            Change::Even(every) => format!("{} % changed, all over", percent(every)),
            Change::Clustered(every) => format!("{} % changed, together", percent(every)),
        }
    }

    /// The number of the changed chunk, counted from 0, at a place; `None` where nothing changed.
    fn changed(self, place: u64) -> Option<u64> {
        let (segment, within) = (place / CHUNKS_A_SEGMENT, place % CHUNKS_A_SEGMENT);
        match self {
            Change::First | Change::Nothing => None,
            Change::Even(every) => (place % every == every / 2).then_some(place / every),
            Change::Clustered(every) => {
                (segment % every == every / 2).then_some(segment / every * CHUNKS_A_SEGMENT + within)
            }
        }
    }
}

/// One image of so many TiB after the other, through one writer.
pub(super) fn measure_trees(tib: u64, report: impl Fn(&Measure) -> Result<()>) -> Result<()> {
    let counted = Arc::new(Counted::default());
    let home = Home::custom(counted.clone(), counted.clone());
    let rule: chunker::Rule = USUAL_RULE.parse()?;
    let store = Store::init(&home, Config::new(&rule.to_string()))?;
    let writer = store.writer(&WriterOptions::default())?;
    let segments = (tib << 40) / SEGMENT_BYTES;
    let base = slots(&writer, 0, segments * CHUNKS_A_SEGMENT)?;
    for (number, change) in (1..).zip(Change::ALL) {
        let changes =
            slots(&writer, CHANGED_FROM * number, segments * CHUNKS_A_SEGMENT / 100 + 2 * CHUNKS_A_SEGMENT)?;
        let before = counted.packed.load(Ordering::Relaxed);
        let measured = measure(format!("growth/tables/{tib} TiB/{}", change.name()), |watch| {
            watch.time(|| {
                in_segments(segments, |segment| {
                    let (mut runs, mut packing) = (Runs::default(), Packing::default());
                    for place in segment * CHUNKS_A_SEGMENT..(segment + 1) * CHUNKS_A_SEGMENT {
                        let (number, start, slots) = match change.changed(place) {
                            Some(changed) => (changed, CHANGED_FROM * number, &changes),
                            None => (place, 0, &base),
                        };
                        let slot = slots.start + u32::try_from(number / CHUNKS_A_PACK)?;
                        let blob = blob(start + number);
                        let offset = packing.offset(start + number, blob.stored_bytes);
                        runs.push(NewRun::Chunk(made_up::placed(&blob, slot, offset)));
                    }
                    Ok(writer.submit(segment, runs.fill())?)
                })?;
                Ok::<_, anyhow::Error>(made_up::finish_tables(&writer)?)
            })?;
            let stored = counted.packed.load(Ordering::Relaxed) - before;
            Ok::<_, anyhow::Error>((segments * SEGMENT_BYTES, Some(stored)))
        })?;
        report(&measured)?;
    }
    Ok(())
}

/// Where blobs lie in their packs: one after another, as long as they are asked for in order.
#[derive(Default)]
struct Packing {
    next: u64,
    end: u64,
}

impl Packing {
    fn offset(&mut self, number: u64, stored_bytes: u32) -> u32 {
        let within = number % CHUNKS_A_PACK;
        let offset = if number == self.next && within > 0 {
            self.end
        } else {
            32 + within * PACK_BYTES / CHUNKS_A_PACK
        };
        (self.next, self.end) = (number + 1, offset + u64::from(stored_bytes));
        u32::try_from(offset).unwrap_or(u32::MAX)
    }
}

/// Names for the packs of so many chunks.
fn slots(writer: &Writer, start: u64, chunks: u64) -> Result<Range<u32>> {
    let mut slots = 0..0;
    for number in 0..chunks.div_ceil(CHUNKS_A_PACK) {
        let slot = made_up::name_pack(writer, pack_id(start + number), PACK_BYTES);
        slots = if number == 0 { slot..slot + 1 } else { slots.start..slot + 1 };
    }
    Ok(slots)
}

/// Counts the bytes of packs and forgets them; keeps what else there is.
#[derive(Debug, Default)]
struct Counted {
    rest: MemoryBackend,
    packed: AtomicU64,
}

impl Backend for Counted {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, backend::Error> {
        if name.as_str().starts_with("packs/") {
            self.packed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            return Ok(Put::Created);
        }
        self.rest.put(name, bytes)
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, backend::Error> {
        self.rest.get(name, range)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, backend::Error> {
        self.rest.list(folder)
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, backend::Error> {
        self.rest.size(name)
    }

    fn place(&self) -> String {
        self.rest.place()
    }
}

impl Delete for Counted {
    fn delete(&self, name: &Name) -> Result<(), backend::Error> {
        self.rest.delete(name)
    }
}

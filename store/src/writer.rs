//! Writing an image: chunks in, from any number of threads; packs, tables, a manifest and its confirmation out.
//! The order of things and why it is safe: DESIGN §5.3.
//!
//! Promise: nothing is entered anywhere before the pack that holds it is published (I2) and was decoded again (I3);
//! memory is bounded by the packs in flight and by the leaves that wait for them. No lock is held while hashing or
//! compressing chunks, nor while a data pack is published; packs of tables, which are few, are published under the tree's.
//! Knows nothing of devices.

use crate::catalogue::{Catalogue, Place};
use crate::codec::{self, ChunkKind, Compression, chunk_id};
use crate::guide::{Guide, GuideChunk, GuideSegment};
use crate::id::{ChunkId, ImageId, PackId};
use crate::manifest::{ImageStatistics, Manifest};
use crate::objects::{Objects, pack_name};
use crate::pack::{PACK_BYTES, PackBuilder};
use crate::stored::StoredImage;
use crate::table::TableRef;
use crate::tree::{Item, Pending, Sink, TreeBuilder};
use crate::work::Work;
use crate::{Error, Store};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One full pack is proved and published at a time for so many processors: it takes a quarter of the time that its chunks
/// have cost (bench/README.md), more where the disk is slow.
const PROCESSORS_PER_PACK_IN_FLIGHT: usize = 3;
/// However few or many processors there are. A worker with another full pack waits before it takes it out of the writer,
/// so that memory is bounded at this many times 32 MiB, and one more being filled.
const PACKS_IN_FLIGHT: RangeInclusive<usize> = 2..=6;
/// Leaves that may wait for the open data pack to be closed: 64 segments' worth. Each has some 50 entries of 64 bytes
/// (a thousand at worst, with 4 KiB chunks), so 3 to 64 MiB.
const LEAVES_WAITING_MAX: usize = 1024;
/// Claims are split so that threads seldom meet.
const SHARDS: usize = 64;

/// How to write.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// For the session: `capture`.
    pub what: String,
    /// How hard to compress.
    pub compression: Compression,
    /// How long to wait for another writer.
    pub lock_wait: Duration,
    /// Packs are closed at this size.
    pub pack_bytes: u32,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            what: "capture".to_string(),
            compression: Compression::default(),
            lock_wait: Duration::ZERO,
            pack_bytes: PACK_BYTES,
        }
    }
}

/// A chunk that was handed in.
#[derive(Clone, Copy, Debug)]
pub struct NewChunk {
    /// Its id.
    pub id: ChunkId,
    /// Its bytes.
    pub bytes: u32,
    /// The store had it before this writer began, or this writer has stored it already.
    pub known: bool,
    pub(crate) place: Option<Place>,
}

/// One run of a segment.
#[derive(Clone, Copy, Debug)]
pub enum NewRun {
    /// A chunk.
    Chunk(NewChunk),
    /// Zeros.
    Zeros {
        /// How many.
        bytes: u64,
    },
    /// Bytes that could not be read.
    Bad {
        /// How many.
        bytes: u64,
    },
}

/// What an image is called and where it came from.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// RFC 3339, UTC: when the capture began.
    pub created: String,
    /// The machine.
    pub host: String,
    /// Serial number of the disk, else its name.
    pub disk: String,
    /// For people.
    pub tags: Vec<String>,
    /// For people.
    pub comment: String,
    /// Size of the device.
    pub bytes: u64,
    /// The newest image of the same disk.
    pub parent: Option<ImageId>,
    /// Opaque to the store.
    pub source: serde_json::Value,
}

/// An image that is done.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its name.
    pub image: ImageId,
    /// Its manifest.
    pub manifest: Manifest,
}

#[derive(Debug, Default)]
struct Counters {
    chunks: AtomicU64,
    data_bytes: AtomicU64,
    zero_bytes: AtomicU64,
    bad_bytes: AtomicU64,
    new_chunks: AtomicU64,
    new_bytes: AtomicU64,
    new_stored_bytes: AtomicU64,
}

/// A chunk that some thread of this writer has taken on.
#[derive(Clone, Copy, Debug)]
enum Claim {
    Busy,
    Placed(Place),
}

#[derive(Debug, Default)]
struct Shard {
    claims: Mutex<HashMap<ChunkId, Claim>>,
    changed: Condvar,
}

/// A pack being filled.
#[derive(Debug)]
struct OpenPack {
    slot: u32,
    builder: PackBuilder,
}

/// Tables being gathered, and the packs they go into, by level.
#[derive(Debug)]
struct Tables {
    tree: TreeBuilder,
    open: HashMap<u8, OpenPack>,
    /// Tables in packs that are not published yet.
    recent: HashMap<ChunkId, Place>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Writer {
    work: Work,
    options: WriterOptions,
    counters: Counters,
    shards: Vec<Shard>,
    open: Mutex<Option<OpenPack>>,
    in_flight: Mutex<usize>,
    in_flight_max: usize,
    landed: Condvar,
    tables: Mutex<Tables>,
    failed: AtomicBool,
    failure: Mutex<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in another worker ends the capture elsewhere; what is guarded here is never half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn packs_in_flight_max() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / PROCESSORS_PER_PACK_IN_FLIGHT).clamp(*PACKS_IN_FLIGHT.start(), *PACKS_IN_FLIGHT.end())
}

impl Writer {
    pub(crate) fn new(work: Work, options: &WriterOptions) -> Writer {
        let config = work.store().config();
        let tree = TreeBuilder::new(config.leaf_bytes, config.fan_out);
        Writer {
            options: options.clone(),
            counters: Counters::default(),
            shards: std::iter::repeat_with(Shard::default).take(SHARDS).collect(),
            open: Mutex::new(None),
            in_flight: Mutex::new(0),
            in_flight_max: packs_in_flight_max(),
            landed: Condvar::new(),
            tables: Mutex::new(Tables { tree, open: HashMap::new(), recent: HashMap::new() }),
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
            work,
        }
    }

    /// Why the catalogue was rebuilt, when it was; for people.
    pub fn catalogue_state(&self) -> &crate::CatalogueState {
        self.work.state()
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        self.work.catalogue()
    }

    /// Whether this is the only writer or collector, by a lock.
    pub(crate) fn is_locked(&self) -> bool {
        self.work.is_locked()
    }

    pub(crate) fn objects(&self) -> &Objects {
        self.work.objects()
    }

    /// Hands in one chunk of the device: stored unless the store has it.
    pub fn put(&self, plain: &[u8]) -> Result<NewChunk, Error> {
        self.check_failed()?;
        let bytes = u32::try_from(plain.len()).map_err(|_| Error::Misuse("a chunk of over 4 GiB"))?;
        let id = chunk_id(ChunkKind::Data, plain);
        self.count(bytes);
        if let Some(place) = self.known(id)? {
            return Ok(NewChunk { id, bytes, known: true, place: Some(place) });
        }
        if let Some(claim) = self.claim(id)? {
            let place = if let Claim::Placed(place) = claim { Some(place) } else { None };
            return Ok(NewChunk { id, bytes, known: true, place });
        }
        let place = self.store_claimed(id, bytes, plain).inspect_err(|error| self.fail(error))?;
        Ok(NewChunk { id, bytes, known: false, place: Some(place) })
    }

    /// One more chunk of the image.
    pub(crate) fn count(&self, bytes: u32) {
        self.counters.chunks.fetch_add(1, Ordering::Relaxed);
        self.counters.data_bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
    }

    pub(crate) fn known(&self, id: ChunkId) -> Result<Option<Place>, Error> {
        let found = self.catalogue().find(id)?;
        Ok(found.filter(|(_, entry)| entry.kind == ChunkKind::Data).map(|(place, _)| place))
    }

    fn shard(&self, id: ChunkId) -> &Shard {
        &self.shards[usize::from(id.as_bytes()[4]) % SHARDS]
    }

    /// Takes a chunk on, unless another thread has it or had it.
    fn claim(&self, id: ChunkId) -> Result<Option<Claim>, Error> {
        let mut claims = locked(&self.shard(id).claims);
        if let Some(claim) = claims.get(&id) {
            return Ok(Some(*claim));
        }
        // Its pack may have been published since we looked: entered in the catalogue first, unclaimed after.
        if let Some(place) = self.known(id)? {
            return Ok(Some(Claim::Placed(place)));
        }
        claims.insert(id, Claim::Busy);
        Ok(None)
    }

    fn store_claimed(&self, id: ChunkId, bytes: u32, plain: &[u8]) -> Result<Place, Error> {
        let (place, full) =
            codec::seal_with(plain, self.options.compression, |blob| self.append(id, bytes, blob));
        let shard = self.shard(id);
        locked(&shard.claims).insert(id, Claim::Placed(place));
        shard.changed.notify_all();
        self.counters.new_chunks.fetch_add(1, Ordering::Relaxed);
        self.counters.new_bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
        self.counters.new_stored_bytes.fetch_add(u64::from(place.stored_bytes), Ordering::Relaxed);
        if let Some((full, turn)) = full {
            self.publish_data(full, turn)?;
        }
        Ok(place)
    }

    /// Adds a blob to the open data pack. Whoever finds it full waits for a turn *before* taking it out, so that no more
    /// packs are in memory than are being published, and one; it gets the full pack back, with the turn to publish it.
    fn append(&self, id: ChunkId, plain_bytes: u32, blob: &[u8]) -> (Place, Option<(OpenPack, Turn<'_>)>) {
        let fits = |pack: &OpenPack| pack.builder.bytes() + blob.len() <= self.options.pack_bytes as usize;
        let push = |open: &mut Option<OpenPack>| {
            let pack = open.get_or_insert_with(|| self.open_pack(ChunkKind::Data));
            let entry = pack.builder.push(id, ChunkKind::Data, plain_bytes, blob);
            Place { slot: pack.slot, offset: entry.offset, stored_bytes: entry.stored_bytes }
        };
        let mut open = locked(&self.open);
        if open.as_ref().is_none_or(fits) {
            return (push(&mut open), None);
        }
        drop(open);
        let turn = self.turn();
        let mut open = locked(&self.open);
        // Another thread may have closed it while we waited.
        let full = if open.as_ref().is_some_and(|pack| !fits(pack)) { open.take() } else { None };
        (push(&mut open), full.map(|pack| (pack, turn)))
    }

    fn open_pack(&self, kind: ChunkKind) -> OpenPack {
        OpenPack {
            slot: self.catalogue().reserve_slot(),
            builder: self.work.new_pack(kind, self.options.pack_bytes),
        }
    }

    fn publish_data(&self, pack: OpenPack, turn: Turn<'_>) -> Result<(), Error> {
        let ids = self.work.publish(pack.slot, pack.builder)?;
        drop(turn);
        for id in ids {
            let shard = self.shard(id);
            locked(&shard.claims).remove(&id);
            shard.changed.notify_all();
        }
        self.settle(&mut locked(&self.tables))
    }

    /// Waits until fewer than `in_flight_max` packs are being published. Who holds a turn waits for nobody.
    fn turn(&self) -> Turn<'_> {
        let mut flying = locked(&self.in_flight);
        while *flying >= self.in_flight_max {
            flying = self.landed.wait(flying).unwrap_or_else(PoisonError::into_inner);
        }
        *flying += 1;
        Turn(self)
    }

    /// Closes and publishes the open data pack.
    fn seal_data(&self) -> Result<(), Error> {
        let turn = self.turn();
        let open = locked(&self.open).take();
        open.map_or(Ok(()), |pack| self.publish_data(pack, turn))
    }

    /// What an older image says about the device that is being written. Its tables count as known from now on.
    pub fn guide(&self, image: StoredImage) -> Guide {
        let guide = Guide::new(image, self.catalogue());
        locked(&self.tables).tree.know(guide.upper_tables());
        guide
    }

    /// Hands in a chunk if it is the one that a guide names: then the store has it, and nothing is looked up.
    pub fn put_if(&self, plain: &[u8], chunk: &GuideChunk) -> Option<NewChunk> {
        if plain.len() != chunk.bytes as usize || chunk_id(ChunkKind::Data, plain) != chunk.id {
            return None;
        }
        Some(self.keep(chunk))
    }

    /// Hands in a chunk that a guide names, unread: where the device is known to hold what the guide's image held, as an
    /// overlay knows of what was not written.
    pub fn keep(&self, chunk: &GuideChunk) -> NewChunk {
        self.counters.chunks.fetch_add(1, Ordering::Relaxed);
        self.counters.data_bytes.fetch_add(u64::from(chunk.bytes), Ordering::Relaxed);
        NewChunk { id: chunk.id, bytes: chunk.bytes, known: true, place: Some(chunk.place) }
    }

    /// One segment of the image. Segments are numbered from 0 without gaps, in any order, each once.
    pub fn submit(&self, segment: u64, runs: Vec<NewRun>) -> Result<(), Error> {
        self.submit_guided(segment, runs, &GuideSegment::default())
    }

    /// As `submit`; tables that `guide` knows are not stored again.
    pub fn submit_guided(&self, segment: u64, runs: Vec<NewRun>, guide: &GuideSegment) -> Result<(), Error> {
        self.check_failed()?;
        self.submit_runs(segment, runs, guide).inspect_err(|error| self.fail(error))
    }

    fn submit_runs(&self, segment: u64, runs: Vec<NewRun>, guide: &GuideSegment) -> Result<(), Error> {
        let items = runs.into_iter().map(|run| self.item(run)).collect::<Result<Vec<Item>, Error>>()?;
        let mut tables = locked(&self.tables);
        tables.tree.add_segment(segment, items, &guide.tables);
        self.settle(&mut tables)?;
        let too_many = tables.tree.leaves_waiting() > LEAVES_WAITING_MAX;
        drop(tables);
        if too_many { self.seal_data() } else { Ok(()) }
    }

    fn item(&self, run: NewRun) -> Result<Item, Error> {
        Ok(match run {
            NewRun::Zeros { bytes } => {
                self.counters.zero_bytes.fetch_add(bytes, Ordering::Relaxed);
                Item::Zeros { bytes }
            }
            NewRun::Bad { bytes } => {
                self.counters.bad_bytes.fetch_add(bytes, Ordering::Relaxed);
                Item::Bad { bytes }
            }
            NewRun::Chunk(chunk) => {
                let place = chunk.place.map_or_else(|| self.wait_for_place(chunk.id), Ok)?;
                let child = Pending { id: chunk.id, place, plain_bytes: chunk.bytes };
                Item::Child { bytes: u64::from(chunk.bytes), child }
            }
        })
    }

    /// Where a chunk is that another thread has claimed. That thread waits for nobody while it holds the claim.
    fn wait_for_place(&self, id: ChunkId) -> Result<Place, Error> {
        let shard = self.shard(id);
        let mut claims = locked(&shard.claims);
        loop {
            self.check_failed()?;
            match claims.get(&id) {
                Some(Claim::Placed(place)) => return Ok(*place),
                Some(Claim::Busy) => {
                    claims = shard.changed.wait(claims).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    drop(claims);
                    return self.known(id)?.ok_or(Error::Misuse("a chunk that nobody stored"));
                }
            }
        }
    }

    fn settle(&self, tables: &mut Tables) -> Result<(), Error> {
        let Tables { tree, open, recent } = tables;
        tree.settle(&mut TableSink { writer: self, open, recent })
    }

    fn check_failed(&self) -> Result<(), Error> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::WriterFailed(locked(&self.failure).clone()));
        }
        Ok(())
    }

    /// The first error stops all threads.
    fn fail(&self, error: &Error) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            *locked(&self.failure) = error.to_string();
        }
        self.shards.iter().for_each(|shard| {
            drop(locked(&shard.claims));
            shard.changed.notify_all();
        });
    }

    /// What was handed in so far.
    pub fn statistics(&self) -> ImageStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ImageStatistics {
            chunks: read(&self.counters.chunks),
            data_bytes: read(&self.counters.data_bytes),
            zero_bytes: read(&self.counters.zero_bytes),
            bad_bytes: read(&self.counters.bad_bytes),
            new_chunks: read(&self.counters.new_chunks),
            new_bytes: read(&self.counters.new_bytes),
            new_stored_bytes: read(&self.counters.new_stored_bytes),
        }
    }

    /// Publishes what is open, the manifest and, after the post-check, the marker.
    pub fn finish(self, description: Description) -> Result<Finished, Error> {
        self.check_failed()?;
        let root = self.finish_tree()?;
        let manifest = Manifest {
            format: Manifest::FORMAT,
            created: description.created,
            host: description.host,
            disk: description.disk,
            tags: description.tags,
            comment: description.comment,
            bytes: description.bytes,
            root,
            parent: description.parent,
            supersedes: None,
            statistics: self.statistics(),
            source: description.source,
        };
        self.publish_confirmed(manifest)
    }

    /// Publishes the open packs, so that the next capture finds their chunks, and ends the session.
    pub fn abandon(self) -> Result<(), Error> {
        self.check_failed()?;
        self.seal_data()
    }

    pub(crate) fn finish_tree(&self) -> Result<Option<TableRef>, Error> {
        self.seal_data()?;
        let mut tables = locked(&self.tables);
        let config = self.work.store().config();
        let fresh = TreeBuilder::new(config.leaf_bytes, config.fan_out);
        let tree = std::mem::replace(&mut tables.tree, fresh);
        let Tables { open, recent, .. } = &mut *tables;
        tree.finish(&mut TableSink { writer: self, open, recent })
    }

    pub(crate) fn store(&self) -> &Store {
        self.work.store()
    }

    /// Where a data chunk is that the caller holds a copy of: stored unless the store has it.
    pub(crate) fn place_of(
        &self,
        id: ChunkId,
        plain: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<Place, Error> {
        if let Some(place) = self.known(id)? {
            return Ok(place);
        }
        let chunk = self.put(&plain()?)?;
        chunk.place.map_or_else(|| self.wait_for_place(id), Ok)
    }

    /// Publishes the open data pack, then runs `with` on the place where tables go.
    pub(crate) fn with_tables<T>(
        &self,
        with: impl FnOnce(&mut dyn Sink) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.seal_data()?;
        let mut tables = locked(&self.tables);
        let Tables { open, recent, .. } = &mut *tables;
        with(&mut TableSink { writer: self, open, recent })
    }
}

/// The right to have a full pack in memory; given back when it goes.
struct Turn<'a>(&'a Writer);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *locked(&self.0.in_flight) -= 1;
        self.0.landed.notify_one();
    }
}

/// Tables go into packs of their own, one open pack a level.
struct TableSink<'a> {
    writer: &'a Writer,
    open: &'a mut HashMap<u8, OpenPack>,
    recent: &'a mut HashMap<ChunkId, Place>,
}

impl Sink for TableSink<'_> {
    fn pack(&self, slot: u32) -> Option<PackId> {
        self.writer.catalogue().pack(slot).map(|pack| pack.id)
    }

    fn store(&mut self, level: u8, id: ChunkId, plain: &[u8]) -> Result<Place, Error> {
        let known = self.writer.catalogue().find(id)?.filter(|(_, entry)| entry.kind == ChunkKind::Table);
        if let Some((place, _)) = known {
            return Ok(place);
        }
        if let Some(place) = self.recent.get(&id) {
            return Ok(*place);
        }
        let blob = codec::seal(plain, self.writer.options.compression);
        let pack = self.open.entry(level).or_insert_with(|| self.writer.open_pack(ChunkKind::Table));
        let plain_bytes = u32::try_from(plain.len()).map_err(|_| Error::Misuse("a table of over 4 GiB"))?;
        let entry = pack.builder.push(id, ChunkKind::Table, plain_bytes, &blob);
        let place = Place { slot: pack.slot, offset: entry.offset, stored_bytes: entry.stored_bytes };
        self.recent.insert(id, place);
        if pack.builder.bytes() >= self.writer.options.pack_bytes as usize {
            self.seal(level)?;
        }
        Ok(place)
    }

    fn seal(&mut self, level: u8) -> Result<(), Error> {
        let Some(pack) = self.open.remove(&level) else { return Ok(()) };
        for id in self.writer.work.publish(pack.slot, pack.builder)? {
            self.recent.remove(&id);
        }
        Ok(())
    }
}

impl Work {
    /// Steps 3 of DESIGN §5.3 for one pack: proved, published, durable, and only then in the catalogue.
    pub(crate) fn publish(&self, slot: u32, builder: PackBuilder) -> Result<Vec<ChunkId>, Error> {
        let sealed = builder.seal().map_err(|source| Error::SelfCheck { source })?;
        self.objects().put(&pack_name(sealed.id), &sealed.bytes)?;
        self.catalogue().add(slot, sealed.id, sealed.bytes.len() as u64, &sealed.entries);
        // A pack holds blobs of one kind (DESIGN §4.5).
        if let Some(first) = sealed.entries.first() {
            self.give_back(first.kind, sealed.bytes.into_memory());
        }
        Ok(sealed.entries.into_iter().map(|entry| entry.id).collect())
    }
}

//! Reading: tables and chunks from wherever they are. Needs no index, no lock, and works beside writers and collectors.
//!
//! Promise: what is given out was hashed and is what its id says (I3); a hint that leads nowhere costs time, not data
//! (I9): after the hint come `moves`, then the trailers of all packs. Knows nothing of devices.

use crate::codec::{self, BlobError, ChunkKind};
use crate::fingers::{FingerTable, finger};
use crate::id::{ChunkId, PackId};
use crate::manifest::Manifest;
use crate::objects::{Objects, pack_name};
use crate::pack::PackEntry;
use crate::table::{Child, Entry, Table, TableRef};
use crate::{Error, backend};
use lru::LruCache;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tables that are fetched together: more than the leaves of a segment. Bounds what sizes that turn out wrong ask for.
const TABLES_AT_ONCE: usize = 32;
/// Decoded tables kept: a few kilobytes each, and a descent touches one a level.
const TABLES_CACHED: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");
/// Listings of packs kept for chunks whose hints are stale: 40 KB each.
const LISTINGS_CACHED: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Blobs of one pack with no more than this between them are fetched in one range.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// One range asks for no more than this, so that memory stays bounded whatever is asked.
const RANGE_BYTES_MAX: u64 = 4 << 20;
/// `moves` name packs that were themselves moved: followed no further than this, in case records form a ring.
const MOVES_MAX: usize = 64;

/// A chunk of an image, with the hint where its blob was (I9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredChunk {
    /// The chunk.
    pub id: ChunkId,
    /// Its bytes.
    pub bytes: u32,
    /// Pack that held it, …
    pub pack: PackId,
    /// … where in it, …
    pub offset: u32,
    /// … and bytes of the blob.
    pub stored_bytes: u32,
}

impl StoredChunk {
    pub(crate) fn new(child: &Child) -> StoredChunk {
        let Child { id, pack, offset, stored_bytes, plain_bytes: bytes } = *child;
        StoredChunk { id, bytes, pack, offset, stored_bytes }
    }

    pub(crate) fn as_child(&self) -> Child {
        let StoredChunk { id, bytes: plain_bytes, pack, offset, stored_bytes } = *self;
        Child { id, pack, offset, stored_bytes, plain_bytes }
    }
}

/// A chunk that is wanted, and the memory for it.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The chunk.
    pub chunk: StoredChunk,
    /// As long as the chunk; undefined when it could not be had.
    pub plain: &'a mut [u8],
}

type Listing = Arc<[PackEntry]>;

/// Shared by everything that reads from one store.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) objects: Objects,
    tables: Mutex<LruCache<ChunkId, Arc<Table>>>,
    listings: Mutex<LruCache<PackId, Listing>>,
    stale: Mutex<Stale>,
}

/// What was learned when hints turned out stale. All of it may be out of date again, and is read anew then.
#[derive(Debug, Default)]
struct Stale {
    /// Packs that were not there, so that they are not asked for once per chunk.
    gone: HashSet<PackId>,
    moved: Option<Arc<HashMap<PackId, Vec<PackId>>>>,
    everything: Option<Arc<Everything>>,
}

/// All packs' listings in short: the last resort.
#[derive(Debug)]
struct Everything {
    packs: Vec<(PackId, u64)>,
    fingers: FingerTable,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is a cache; a panic elsewhere leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    pub(crate) fn new(objects: Objects) -> Reader {
        Reader {
            objects,
            tables: Mutex::new(LruCache::new(TABLES_CACHED)),
            listings: Mutex::new(LruCache::new(LISTINGS_CACHED)),
            stale: Mutex::default(),
        }
    }

    /// The table that a manifest names as its root.
    pub(crate) fn root(&self, root: &TableRef) -> Result<Arc<Table>, Error> {
        let child = root.child();
        self.table(&child, root.level)
    }

    /// The table that an entry of another names.
    pub(crate) fn table(&self, child: &Child, level: u8) -> Result<Arc<Table>, Error> {
        if let Some(table) = locked(&self.tables).get(&child.id) {
            return Ok(table.clone());
        }
        let plain = self.chunk(ChunkKind::Table, child)?;
        let table =
            Table::decode_level(&plain, level).map_err(|source| Error::Table { table: child.id, source })?;
        let table = Arc::new(table);
        locked(&self.tables).put(child.id, table.clone());
        Ok(table)
    }

    /// The tables that several entries name, all of one level; neighbours in one pack are fetched in one range. They are
    /// not kept: who walks whole trees meets each once.
    pub(crate) fn tables(&self, children: &[Child], level: u8) -> Result<Vec<Table>, Error> {
        let mut tables = Vec::with_capacity(children.len());
        for children in children.chunks(TABLES_AT_ONCE) {
            let mut plains: Vec<Vec<u8>> =
                children.iter().map(|child| vec![0; child.plain_bytes as usize]).collect();
            let pairs = children.iter().zip(&mut plains);
            let mut wanted: Vec<Wanted<'_>> =
                pairs.map(|(child, plain)| Wanted { chunk: StoredChunk::new(child), plain }).collect();
            let results = self.fetch_kind(ChunkKind::Table, &mut wanted);
            for ((child, plain), result) in children.iter().zip(&plains).zip(results) {
                result?;
                let table = Table::decode_level(plain, level);
                tables.push(table.map_err(|source| Error::Table { table: child.id, source })?);
            }
        }
        Ok(tables)
    }

    /// One chunk, wherever it is.
    pub(crate) fn chunk(&self, kind: ChunkKind, child: &Child) -> Result<Vec<u8>, Error> {
        let hint = match self.at_hint(kind, child) {
            Ok(plain) => return Ok(plain),
            Err(Miss::Failed(error)) => return Err(error),
            Err(Miss::Gone) => None,
            Err(Miss::Bad(error)) => Some(error),
        };
        self.elsewhere(kind, child, hint)
    }

    fn at_hint(&self, kind: ChunkKind, child: &Child) -> Result<Vec<u8>, Miss> {
        if locked(&self.stale).gone.contains(&child.pack) {
            return Err(Miss::Gone);
        }
        let range = self.objects.backend.get(
            &pack_name(child.pack),
            u64::from(child.offset)..u64::from(child.offset) + u64::from(child.stored_bytes),
        );
        match range {
            Ok(blob) => codec::open(kind, child.id, child.plain_bytes as usize, &blob).map_err(Miss::Bad),
            Err(error) => Err(self.missed(child.pack, error)),
        }
    }

    fn missed(&self, pack: PackId, error: backend::Error) -> Miss {
        match error {
            backend::Error::NotFound { .. } => {
                locked(&self.stale).gone.insert(pack);
                Miss::Gone
            }
            backend::Error::Short { expected, found, .. } => Miss::Bad(BlobError::Length { expected, found }),
            error => Miss::Failed(self.objects.fail(error)),
        }
    }

    /// A chunk that is not whole where its hint says.
    fn elsewhere(&self, kind: ChunkKind, child: &Child, hint: Option<BlobError>) -> Result<Vec<u8>, Error> {
        for pack in self.moved_to(child.pack)? {
            if let Some(plain) = self.in_pack(kind, child, pack)? {
                return Ok(plain);
            }
        }
        // What is known of all packs may be older than the copy that is looked for: look twice, the second time anew.
        for fresh in [false, true] {
            let everything = self.everything(fresh)?;
            for spot in everything.fingers.find(finger(child.id)) {
                let Some((pack, _)) = everything.packs.get(spot.slot as usize) else { continue };
                if let Some(plain) = self.in_pack(kind, child, *pack)? {
                    return Ok(plain);
                }
            }
        }
        let source = hint.map(Box::new);
        Err(Error::Chunk { chunk: child.id, pack: child.pack, offset: child.offset, source })
    }

    /// The chunk, if this pack lists it and holds it whole.
    fn in_pack(&self, kind: ChunkKind, child: &Child, pack: PackId) -> Result<Option<Vec<u8>>, Error> {
        let Some(listing) = self.listing(pack)? else { return Ok(None) };
        for entry in listing.iter().filter(|entry| entry.id == child.id && entry.kind == kind) {
            let (offset, stored_bytes) = (entry.offset, entry.stored_bytes);
            let there = Child { pack, offset, stored_bytes, ..*child };
            match self.at_hint(kind, &there) {
                Ok(plain) => return Ok(Some(plain)),
                Err(Miss::Failed(error)) => return Err(error),
                Err(Miss::Gone | Miss::Bad(_)) => {}
            }
        }
        Ok(None)
    }

    /// Packs that hold the chunks of a pack that was collected, over any number of collections.
    fn moved_to(&self, pack: PackId) -> Result<Vec<PackId>, Error> {
        let cached = locked(&self.stale).moved.clone();
        let moved = match cached.filter(|moved| moved.contains_key(&pack)) {
            Some(moved) => moved,
            None => {
                let moved = Arc::new(self.objects.moved()?);
                locked(&self.stale).moved = Some(moved.clone());
                moved
            }
        };
        Ok(follow(&moved, pack))
    }

    /// The listing of a pack; `None` when it is gone or damaged.
    pub(crate) fn listing(&self, pack: PackId) -> Result<Option<Listing>, Error> {
        if let Some(listing) = locked(&self.listings).get(&pack) {
            return Ok(Some(listing.clone()));
        }
        let size = self.objects.backend.size(&pack_name(pack)).map_err(|source| self.objects.fail(source))?;
        let Some(bytes) = size else { return Ok(None) };
        match self.objects.listing(pack, bytes) {
            Ok(entries) => {
                let listing: Listing = entries.into();
                locked(&self.listings).put(pack, listing.clone());
                Ok(Some(listing))
            }
            Err(error) if error.family() == crate::Family::Damaged => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn everything(&self, fresh: bool) -> Result<Arc<Everything>, Error> {
        if let Some(everything) = locked(&self.stale).everything.clone().filter(|_| !fresh) {
            return Ok(everything);
        }
        let packs: Vec<(PackId, u64)> = self.objects.packs()?.into_iter().collect();
        let mut fingers = FingerTable::with_capacity(0);
        for (slot, (pack, _)) in (0u32..).zip(&packs) {
            let listing = self.listing(*pack)?;
            let listed = listing.iter().flat_map(|entries| entries.iter().map(|entry| finger(entry.id)));
            fingers.add_pack(slot, &listed.collect::<Vec<u32>>());
        }
        let everything = Arc::new(Everything { packs, fingers });
        locked(&self.stale).everything = Some(everything.clone());
        Ok(everything)
    }

    /// Data chunks, each into its own memory; neighbours in one pack are fetched in one range. One result for each.
    pub(crate) fn fetch_into(&self, wanted: &mut [Wanted<'_>]) -> Vec<Result<(), Error>> {
        self.fetch_kind(ChunkKind::Data, wanted)
    }

    fn fetch_kind(&self, kind: ChunkKind, wanted: &mut [Wanted<'_>]) -> Vec<Result<(), Error>> {
        let mut done = vec![false; wanted.len()];
        for span in spans(wanted) {
            self.fetch_span(kind, wanted, &span, &mut done);
        }
        let rest = |(wanted, done): (&mut Wanted<'_>, bool)| {
            if done { Ok(()) } else { self.fetch_one(kind, wanted) }
        };
        wanted.iter_mut().zip(done).map(rest).collect()
    }

    /// One range for several blobs; what does not come out whole is left for `fetch_one`.
    fn fetch_span(&self, kind: ChunkKind, wanted: &mut [Wanted<'_>], span: &Span, done: &mut [bool]) {
        if locked(&self.stale).gone.contains(&span.pack) {
            return;
        }
        let bytes = match self.objects.backend.get(&pack_name(span.pack), span.start..span.end) {
            Ok(bytes) => bytes,
            Err(error) => return drop(self.missed(span.pack, error)),
        };
        let mut before: Option<usize> = None;
        for number in span.members.iter().copied() {
            // Members come by place, then by number: the same chunk wanted again follows the first.
            let (earlier, from_here) = wanted.split_at_mut(number);
            let Some(Wanted { chunk, plain }) = from_here.first_mut() else { continue };
            let twin = before.and_then(|before| earlier.get(before)).filter(|twin| twin.chunk == *chunk);
            done[number] = match twin {
                Some(twin) if twin.plain.len() == plain.len() => {
                    plain.copy_from_slice(twin.plain);
                    true
                }
                _ => {
                    let start = usize::try_from(u64::from(chunk.offset) - span.start).unwrap_or(usize::MAX);
                    let end = start.saturating_add(chunk.stored_bytes as usize);
                    let blob = bytes.get(start..end).unwrap_or(&[]);
                    codec::open_into(kind, chunk.id, blob, plain).is_ok()
                }
            };
            before = done[number].then_some(number);
        }
    }

    /// A chunk that was not whole where its hint said.
    fn fetch_one(&self, kind: ChunkKind, wanted: &mut Wanted<'_>) -> Result<(), Error> {
        let chunk = wanted.chunk;
        let plain = self.chunk(kind, &chunk.as_child())?;
        if plain.len() != wanted.plain.len() {
            let StoredChunk { id: chunk, pack, offset, .. } = chunk;
            return Err(Error::Chunk { chunk, pack, offset, source: None });
        }
        wanted.plain.copy_from_slice(&plain);
        Ok(())
    }

    /// Every pack that an image needs, by the lists of its upper tables (DESIGN §4.6); hints, so packs may be gone.
    pub(crate) fn packs_of(
        &self,
        manifest: &Manifest,
        known: &mut KnownPacks,
    ) -> Result<HashSet<PackId>, Error> {
        let mut packs = HashSet::new();
        if let Some(root) = &manifest.root {
            packs.insert(root.pack);
            let child = root.child();
            self.collect_packs(&child, root.level, known)?;
            let mut todo = vec![root.id];
            let mut seen = HashSet::new();
            while let Some(id) = todo.pop() {
                let Some((below, children)) = known.0.get(&id) else { continue };
                if seen.insert(id) {
                    packs.extend(below.iter().copied());
                    todo.extend(children.iter().copied());
                }
            }
        }
        Ok(packs)
    }

    fn collect_packs(&self, child: &Child, level: u8, known: &mut KnownPacks) -> Result<(), Error> {
        if known.0.contains_key(&child.id) {
            return Ok(());
        }
        let table = self.table(child, level)?;
        let mut children = Vec::new();
        if level > 2 {
            for entry in &table.entries {
                if let Entry::Child { child, .. } = entry {
                    self.collect_packs(child, level - 1, known)?;
                    children.push(child.id);
                }
            }
        }
        known.0.insert(child.id, (table.packs.clone(), children));
        Ok(())
    }
}

/// The pack lists of tables seen before, so that images that share tables share the answer.
#[derive(Debug, Default)]
pub(crate) struct KnownPacks(HashMap<ChunkId, (Vec<PackId>, Vec<ChunkId>)>);

/// Why a chunk was not where it was looked for.
enum Miss {
    Gone,
    Bad(BlobError),
    Failed(Error),
}

/// Where `moves` lead from a pack, transitively.
pub(crate) fn follow(moved: &HashMap<PackId, Vec<PackId>>, pack: PackId) -> Vec<PackId> {
    let mut found: Vec<PackId> = Vec::new();
    let mut todo = vec![pack];
    for _ in 0..MOVES_MAX {
        let Some(next) = todo.pop() else { break };
        for to in moved.get(&next).into_iter().flatten() {
            if !found.contains(to) {
                found.push(*to);
                todo.push(*to);
            }
        }
    }
    found
}

/// Blobs that lie close together in one pack.
struct Span {
    pack: PackId,
    start: u64,
    end: u64,
    members: Vec<usize>,
}

fn spans(wanted: &[Wanted<'_>]) -> Vec<Span> {
    let mut order: BTreeMap<(PackId, u32), Vec<usize>> = BTreeMap::new();
    for (number, Wanted { chunk, .. }) in wanted.iter().enumerate() {
        order.entry((chunk.pack, chunk.offset)).or_default().push(number);
    }
    let mut spans: Vec<Span> = Vec::new();
    for ((pack, offset), members) in order {
        let start = u64::from(offset);
        let stored =
            members.iter().map(|number| u64::from(wanted[*number].chunk.stored_bytes)).max().unwrap_or(0);
        let end = start + stored;
        match spans.last_mut() {
            Some(last)
                if last.pack == pack
                    && start <= last.end + GAP_BYTES_MAX
                    && end - last.start <= RANGE_BYTES_MAX =>
            {
                last.end = last.end.max(end);
                last.members.extend(members);
            }
            _ => spans.push(Span { pack, start, end, members }),
        }
    }
    spans
}

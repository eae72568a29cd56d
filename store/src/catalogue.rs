//! The catalogue: what each pack of the store lists, on this host, for the writer and the collector (DESIGN §5.4).
//!
//! Promise: a cache, never the truth (I9). Lost, damaged or stale it costs time only: what it says of a pack carries a
//! check, and a pack whose record is bad is read again from the store. Packs that are condemned, gone or of another
//! size than listed are not in it, so that their chunks count as absent.
//! Knows nothing of images.

use crate::Error;
use crate::crew;
use crate::fingers::{Expected, FingerTable, finger};
use crate::id::{ChunkId, PackId};
use crate::objects::Objects;
use crate::pack::PackEntry;
use crate::records::{Brief, Records};
use lru::LruCache;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Listings kept decoded: 256 of some 40 KB, 10 MB. A disk's chunks lie in few packs for long stretches.
const LISTINGS_CACHED: usize = 256;
/// The cache is split so that threads seldom meet.
const SHARDS: usize = 16;

/// Trailers read at once, at least: they are small, and cold ones wait for the disk.
const READERS: usize = 16;

/// A pack that this process knows, by its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownPack {
    pub(crate) id: PackId,
    pub(crate) bytes: u64,
    /// How many it lists, as far as is known.
    chunks: u32,
}

/// Where a chunk is, for the writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) offset: u32,
    pub(crate) stored_bytes: u32,
}

pub(crate) type Listing = Arc<[PackEntry]>;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Catalogue {
    objects: Objects,
    records: Records,
    /// By slot; `None` while a pack is being built.
    packs: RwLock<Vec<Option<KnownPack>>>,
    /// Built when the first look-up needs it.
    fingers: RwLock<Option<FingerTable>>,
    listings: Vec<Mutex<LruCache<u32, Listing>>>,
}

/// What `open` found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueState {
    /// Packs listed in the store that can be relied on.
    pub packs: u64,
    /// Their chunks are known from the catalogue's own records.
    pub packs_kept: u64,
    /// Read from the packs' trailers now.
    pub packs_read: u64,
    /// Records of packs that are gone, condemned or of another size, dropped now.
    pub packs_dropped: u64,
    /// Packs whose trailers could not be read: their chunks count as absent.
    pub packs_unreadable: Vec<PackId>,
    /// Why the sled files were thrown away and made anew, if they were.
    pub rebuilt: Option<String>,
}

impl CatalogueState {
    /// A line for people when the catalogue was lost and begun anew: it took time, and nothing else.
    pub fn note(&self) -> Option<String> {
        self.rebuilt.as_ref().map(|why| format!("index: read anew from the packs: {why}"))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a cache that is still a cache.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Catalogue {
    /// Brings the records in line with the packs that are there, `condemned` ones left out.
    pub(crate) fn open(
        objects: Objects,
        records: Records,
        condemned: &HashSet<PackId>,
    ) -> Result<(Catalogue, CatalogueState), Error> {
        let packs: BTreeMap<PackId, u64> =
            objects.packs()?.into_iter().filter(|(id, _)| !condemned.contains(id)).collect();
        let mut state = CatalogueState { rebuilt: records.rebuilt(), ..CatalogueState::default() };
        let mut have = records.sizes();
        for (id, _) in have.iter().filter(|(id, size)| packs.get(id) != Some(&size.bytes)) {
            records.remove(*id);
            state.packs_dropped += 1;
        }
        let missing: Vec<(PackId, u64)> = packs
            .iter()
            .filter(|(id, bytes)| have.get(id).map(|size| size.bytes) != Some(**bytes))
            .map(|(id, bytes)| (*id, *bytes))
            .collect();
        let unreadable = read_trailers(&objects, &records, &missing)?;
        if !missing.is_empty() {
            have = records.sizes();
        }
        let chunks = |id: &PackId| have.get(id).map_or(0, |size| size.chunks);
        state.packs_read = (missing.len() - unreadable.len()) as u64;
        let known: Vec<Option<KnownPack>> = packs
            .iter()
            .filter(|(id, _)| !unreadable.contains(id))
            .map(|(id, bytes)| Some(KnownPack { id: *id, bytes: *bytes, chunks: chunks(id) }))
            .collect();
        state.packs = known.len() as u64;
        state.packs_kept = state.packs - state.packs_read;
        state.packs_unreadable = unreadable.into_iter().collect();
        state.packs_unreadable.sort_unstable();
        let shard = || {
            Mutex::new(LruCache::new(
                NonZeroUsize::new(LISTINGS_CACHED / SHARDS).unwrap_or(NonZeroUsize::MIN),
            ))
        };
        let catalogue = Catalogue {
            objects,
            records,
            packs: RwLock::new(known),
            fingers: RwLock::new(None),
            listings: std::iter::repeat_with(shard).take(SHARDS).collect(),
        };
        Ok((catalogue, state))
    }

    /// Where the chunk is, in a pack that can be relied on.
    pub(crate) fn find(&self, id: ChunkId) -> Result<Option<(Place, PackEntry)>, Error> {
        self.build_fingers();
        let fingers = self.fingers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = fingers.as_ref() else { return Ok(None) };
        for spot in table.find(finger(id)) {
            if self.pack(spot.slot).is_none() {
                continue;
            }
            let Some(listing) = self.listing(spot.slot) else { continue };
            if let Some(entry) = listing.get(spot.entry as usize).filter(|entry| entry.id == id) {
                let place = Place { slot: spot.slot, offset: entry.offset, stored_bytes: entry.stored_bytes };
                return Ok(Some((place, *entry)));
            }
        }
        Ok(None)
    }

    /// A slot for a pack that is about to be built.
    pub(crate) fn reserve_slot(&self) -> u32 {
        let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        packs.push(None);
        // Each pack has tens of thousands of bytes at least: 2^32 of them don't fit any store.
        u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
    }

    /// Enters a pack that was published.
    pub(crate) fn add(&self, slot: u32, id: PackId, bytes: u64, entries: &[PackEntry]) {
        self.records.insert(id, bytes, entries);
        locked(self.shard(slot)).put(slot, entries.into());
        // The slot's owner is set under the table's lock, so that a table being built sees the pack once.
        let mut fingers = self.fingers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.packs.write().unwrap_or_else(PoisonError::into_inner).get_mut(slot as usize)
        {
            let chunks = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            *known = Some(KnownPack { id, bytes, chunks });
        }
        if let Some(table) = fingers.as_mut() {
            table.add_pack(slot, &entries.iter().map(|entry| finger(entry.id)).collect::<Vec<u32>>());
        }
    }

    /// From now on the chunks of these packs count as absent.
    pub(crate) fn forget_packs(&self, lost: &[PackId]) {
        let lost: HashSet<&PackId> = lost.iter().collect();
        let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        packs
            .iter_mut()
            .filter(|pack| pack.is_some_and(|pack| lost.contains(&pack.id)))
            .for_each(|pack| *pack = None);
    }

    /// The pack of a slot, once it is published.
    pub(crate) fn pack(&self, slot: u32) -> Option<KnownPack> {
        self.packs.read().unwrap_or_else(PoisonError::into_inner).get(slot as usize).copied().flatten()
    }

    /// Every pack that can be relied on, with its size.
    pub(crate) fn sizes(&self) -> HashMap<PackId, u64> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        packs.iter().flatten().map(|pack| (pack.id, pack.bytes)).collect()
    }

    /// The slot of each pack that can be relied on.
    pub(crate) fn slots(&self) -> HashMap<PackId, u32> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        (0u32..).zip(packs.iter()).filter_map(|(slot, pack)| pack.map(|pack| (pack.id, slot))).collect()
    }

    /// When each pack was last scrubbed, seconds since 1970.
    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// Marks the records as in line with the store, so that the next `open` trusts them.
    pub(crate) fn close(self) {
        self.records.close();
    }

    fn shard(&self, slot: u32) -> &Mutex<LruCache<u32, Listing>> {
        &self.listings[slot as usize % SHARDS]
    }

    fn listing(&self, slot: u32) -> Option<Listing> {
        if let Some(listing) = locked(self.shard(slot)).get(&slot) {
            return Some(listing.clone());
        }
        let pack = self.pack(slot)?;
        let listing = match self.records.entries(pack.id, pack.bytes) {
            Some(entries) => entries,
            None => self.objects.listing_of(pack.id, pack.bytes, pack.chunks).ok()?.into(),
        };
        locked(self.shard(slot)).put(slot, listing.clone());
        Some(listing)
    }

    fn build_fingers(&self) {
        if self.fingers.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return;
        }
        let mut fingers = self.fingers.write().unwrap_or_else(PoisonError::into_inner);
        if fingers.is_some() {
            return;
        }
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner).clone();
        let expected: Vec<Expected> = (0u32..)
            .zip(&packs)
            .filter_map(|(slot, pack)| Some(Expected { slot, chunks: pack.as_ref()?.chunks }))
            .collect();
        let read = |expected: Expected| {
            let pack = packs.get(expected.slot as usize).copied().flatten();
            let brief = pack.and_then(|pack| self.brief(pack.id, pack.bytes).ok()).map(|brief| brief.chunks);
            // A fingerprint is the first half of what the records have of an id.
            let half = |(short, _): (u64, u32)| crate::shorts::low(short);
            brief.unwrap_or_default().into_iter().map(half).collect()
        };
        *fingers = Some(FingerTable::build(&expected, read));
    }

    /// What a pack lists, in brief, from the records or else from the pack.
    pub(crate) fn brief(&self, id: PackId, bytes: u64) -> Result<Brief, Error> {
        match self.records.brief(id, bytes) {
            Some(brief) => Ok(brief),
            None => Ok(Brief::of(&self.objects.listing(id, bytes)?)),
        }
    }

    /// What a pack lists, from the records or else from the pack.
    pub(crate) fn entries(&self, id: PackId, bytes: u64) -> Result<Listing, Error> {
        match self.records.entries(id, bytes) {
            Some(entries) => Ok(entries),
            None => Ok(self.objects.listing(id, bytes)?.into()),
        }
    }
}

/// Reads trailers into the records, in parallel; gives back the packs whose trailers are damaged or gone.
fn read_trailers(
    objects: &Objects,
    records: &Records,
    missing: &[(PackId, u64)],
) -> Result<HashSet<PackId>, Error> {
    let unreadable = Mutex::new(Ok(HashSet::new()));
    let read = |(id, bytes): &(PackId, u64)| {
        let error = match objects.listing(*id, *bytes) {
            Ok(entries) => {
                records.insert(*id, *bytes, &entries);
                return true;
            }
            Err(error) => error,
        };
        let mut unreadable = locked(&unreadable);
        match unreadable.as_mut() {
            Ok(ids) if error.family() == crate::Family::Damaged => ids.insert(*id),
            Ok(_) => {
                *unreadable = Err(error);
                false
            }
            Err(_) => false,
        }
    };
    let threads = if crew::threads() == 1 { 1 } else { READERS.max(crew::threads()) };
    // A few packs are not worth a pool.
    crew::each(if missing.len() < READERS { 1 } else { threads }, missing, read);
    unreadable.into_inner().unwrap_or_else(PoisonError::into_inner)
}

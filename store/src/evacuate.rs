//! Taking what is still needed out of packs that are to go (DESIGN §5.6, step 7).
//!
//! Promise: a copy is proved, then published (I3), before anybody may delete its original; a pack whose needed chunks
//! can't all be had stays. What goes where is planned from listings first; the copies are then made several at once.
//! Knows nothing of when packs are deleted.

use crate::codec::{self, ChunkKind, Compression};
use crate::gc::Collector;
use crate::id::{ChunkId, PackId};
use crate::objects::pack_name;
use crate::pack::PackEntry;
use crate::table::Child;
use crate::{Error, backend, crew};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// Packs of copies being filled, proved and published at once: 32 MiB each.
const COPIES_AT_ONCE: usize = 6;
/// Blobs of one pack with no more than this between them are read in one go, …
const GAP_BYTES_MAX: u64 = 256 << 10;
/// … and no more than this.
const READ_BYTES_MAX: u64 = 4 << 20;

/// A blob to be copied.
struct Blob {
    entry: PackEntry,
    /// Packs that are to go and list it; it is read from the first.
    packs: Vec<PackId>,
}

/// A pack of copies, as planned.
#[derive(Default)]
struct Copies {
    blobs: Vec<Blob>,
    stored_bytes: u64,
}

/// What is to be copied, and what need not be.
#[derive(Default)]
struct Evacuation {
    full: Vec<Copies>,
    /// A pack holds blobs of one kind (DESIGN §4.5).
    open: BTreeMap<ChunkKind, Copies>,
    /// Where the blob of a chunk is in `full`, or, at its end, in `open`.
    planned: HashMap<(ChunkKind, ChunkId), (usize, usize)>,
    /// Old pack -> packs that hold its needed chunks.
    elsewhere: BTreeMap<PackId, BTreeSet<PackId>>,
}

/// What became of a pack of copies.
struct Made {
    number: usize,
    /// `None` when no blob of it could be had.
    pack: Option<PackId>,
    /// Blobs that are nowhere.
    lost: Vec<usize>,
}

/// Why a pack of copies was not made.
enum Failed {
    /// Some blob is damaged: with more care the others can be had.
    Unsound,
    Error(Error),
}

impl Collector<'_> {
    /// Copies what is needed and has no other copy. The packs of which something was copied; and whether nothing had
    /// to be, so that the packs may go. Packs that can't be evacuated are taken out of `packs`.
    pub(crate) fn evacuate(
        &mut self,
        packs: &mut BTreeSet<PackId>,
        there: &BTreeMap<PackId, u64>,
        sound: &dyn Fn(&PackId) -> bool,
    ) -> Result<(BTreeSet<PackId>, bool), Error> {
        let mut evacuation = Evacuation::default();
        let mut spared = BTreeSet::new();
        for pack in packs.iter() {
            self.check_cancelled()?;
            let bytes = there.get(pack).copied().unwrap_or(0);
            if !self.plan_pack(*pack, bytes, sound, &mut evacuation)? {
                spared.insert(*pack);
            }
        }
        let Evacuation { mut full, open, mut elsewhere, .. } = evacuation;
        full.extend(open.into_values());
        let mut copied = BTreeSet::new();
        for made in self.make_all(&full)? {
            for (number, blob) in full[made.number].blobs.iter().enumerate() {
                copied.extend(&blob.packs);
                if made.lost.contains(&number) {
                    spared.extend(&blob.packs);
                } else if let Some(pack) = made.pack {
                    for from in &blob.packs {
                        elsewhere.entry(*from).or_default().insert(pack);
                    }
                }
            }
        }
        packs.retain(|pack| !spared.contains(pack));
        self.report.packs_spared.extend(spared);
        self.publish_moves(elsewhere)?;
        let done = copied.is_empty();
        Ok((copied, done))
    }

    /// False when the pack must stay, as it can't be known what is in it.
    fn plan_pack(
        &self,
        pack: PackId,
        bytes: u64,
        sound: &dyn Fn(&PackId) -> bool,
        evacuation: &mut Evacuation,
    ) -> Result<bool, Error> {
        let Some(entries) = self.entries(pack, bytes)? else { return Ok(self.is_all_listed(sound)) };
        for entry in entries.iter().filter(|entry| self.live.contains(entry.id)) {
            if let Some(blob) = evacuation.planned(entry) {
                blob.packs.push(pack);
            } else if let Some(other) = self.copy_of(entry, sound)? {
                evacuation.elsewhere.entry(pack).or_default().insert(other);
            } else {
                evacuation.plan(pack, *entry, u64::from(self.options.pack_bytes));
            }
        }
        Ok(true)
    }

    /// Whether every chunk that any image needs is listed by a sound pack: then one whose listing is damaged may go.
    pub(crate) fn is_all_listed(&self, sound: &dyn Fn(&PackId) -> bool) -> bool {
        let catalogue = self.work.catalogue();
        let packs = catalogue.sizes().into_iter().filter(|(pack, _)| sound(pack));
        let briefs = packs.filter_map(|(pack, bytes)| catalogue.records().brief(pack, bytes));
        self.live.is_within(briefs.flat_map(|brief| brief.chunks).map(|(short, _)| short))
    }

    /// A pack that holds the same chunk, exists and is not condemned.
    fn copy_of(&self, entry: &PackEntry, sound: &dyn Fn(&PackId) -> bool) -> Result<Option<PackId>, Error> {
        let found = self.work.catalogue().find(entry.id)?.filter(|(_, other)| other.kind == entry.kind);
        Ok(found
            .and_then(|(place, _)| self.work.catalogue().pack(place.slot))
            .map(|known| known.id)
            .filter(sound))
    }

    /// Makes and publishes packs of copies, several at once.
    fn make_all(&self, copies: &[Copies]) -> Result<Vec<Made>, Error> {
        let made = Mutex::new(Ok(Vec::new()));
        let numbers: Vec<usize> = (0..copies.len()).collect();
        crew::each(crew::threads().min(COPIES_AT_ONCE), &numbers, |number| {
            let one = self.check_cancelled().and_then(|()| self.make(*number, &copies[*number]));
            let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
            match (one, made.as_mut()) {
                (Ok(one), Ok(list)) => list.push(one),
                (Err(error), Ok(_)) => *made = Err(error),
                (_, Err(_)) => {}
            }
            made.is_ok()
        });
        made.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sealing proves each blob; only when that fails is it looked which of them is damaged, and whether it is elsewhere.
    fn make(&self, number: usize, copies: &Copies) -> Result<Made, Error> {
        let (pack, lost) = match self.make_with(copies, false) {
            Err(Failed::Unsound) => match self.make_with(copies, true) {
                Err(Failed::Error(error)) => return Err(error),
                Err(Failed::Unsound) => (None, (0..copies.blobs.len()).collect()),
                Ok(made) => made,
            },
            Err(Failed::Error(error)) => return Err(error),
            Ok(made) => made,
        };
        self.progress.add(copies.stored_bytes);
        Ok(Made { number, pack, lost })
    }

    fn make_with(&self, copies: &Copies, careful: bool) -> Result<(Option<PackId>, Vec<usize>), Failed> {
        let kind = copies.blobs.first().map_or(ChunkKind::Data, |blob| blob.entry.kind);
        let mut builder = self.work.new_pack(kind, self.options.pack_bytes);
        let mut lost = Vec::new();
        let mut first = 0;
        while first < copies.blobs.len() {
            let count = together(&copies.blobs[first..]);
            let blobs = &copies.blobs[first..first + count];
            let (pack, start) = (blobs[0].packs[0], u64::from(blobs[0].entry.offset));
            let read = self.objects().backend.get(&pack_name(pack), start..end_of(&blobs[count - 1].entry));
            let read = match read {
                Ok(read) => read,
                // Another collector was faster: the pack is no longer ours to delete.
                Err(backend::Error::NotFound { .. }) => {
                    lost.extend(first..first + count);
                    first += count;
                    continue;
                }
                Err(backend::Error::Short { .. }) if careful => Vec::new(),
                Err(backend::Error::Short { .. }) => return Err(Failed::Unsound),
                Err(source) => return Err(Failed::Error(self.objects().fail(source))),
            };
            for (number, Blob { entry, .. }) in (first..).zip(blobs) {
                // Within what was read, which fits memory.
                let at = usize::try_from(u64::from(entry.offset) - start).unwrap_or(usize::MAX);
                let blob = read.get(at..at.saturating_add(entry.stored_bytes as usize)).unwrap_or(&[]);
                let PackEntry { id, kind, plain_bytes, .. } = *entry;
                if !careful {
                    builder.push(id, kind, plain_bytes, blob);
                    continue;
                }
                match self.sound_blob(pack, entry, blob).map_err(Failed::Error)? {
                    Some(blob) => drop(builder.push(id, kind, plain_bytes, &blob)),
                    None => lost.push(number),
                }
            }
            first += count;
        }
        if lost.len() == copies.blobs.len() {
            return Ok((None, lost));
        }
        let slot = self.work.catalogue().reserve_slot();
        match self.work.publish(slot, builder) {
            Ok(_) => Ok((self.work.catalogue().pack(slot).map(|known| known.id), lost)),
            Err(Error::SelfCheck { .. }) if !careful => Err(Failed::Unsound),
            Err(error) => Err(Failed::Error(error)),
        }
    }

    /// The blob, proved; from elsewhere when it is damaged here; `None` when it is nowhere.
    fn sound_blob(&self, pack: PackId, entry: &PackEntry, blob: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let PackEntry { id, kind, offset, stored_bytes, plain_bytes } = *entry;
        if codec::check(kind, id, plain_bytes as usize, blob).is_ok() {
            return Ok(Some(blob.to_vec()));
        }
        match self.store().reader().chunk(kind, &Child { id, pack, offset, stored_bytes, plain_bytes }) {
            Ok(plain) => Ok(Some(codec::seal(&plain, Compression::Auto))),
            Err(Error::Chunk { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Evacuation {
    fn planned(&mut self, entry: &PackEntry) -> Option<&mut Blob> {
        let (number, place) = *self.planned.get(&(entry.kind, entry.id))?;
        let copies = match self.full.get_mut(number) {
            Some(full) => full,
            None => self.open.get_mut(&entry.kind)?,
        };
        copies.blobs.get_mut(place)
    }

    fn plan(&mut self, pack: PackId, entry: PackEntry, pack_bytes: u64) {
        let copies = self.open.entry(entry.kind).or_default();
        self.planned.insert((entry.kind, entry.id), (usize::MAX, copies.blobs.len()));
        copies.blobs.push(Blob { entry, packs: vec![pack] });
        copies.stored_bytes += u64::from(entry.stored_bytes);
        if copies.stored_bytes < pack_bytes {
            return;
        }
        if let Some(copies) = self.open.remove(&entry.kind) {
            for blob in &copies.blobs {
                if let Some((number, _)) = self.planned.get_mut(&(blob.entry.kind, blob.entry.id)) {
                    *number = self.full.len();
                }
            }
            self.full.push(copies);
        }
    }
}

fn end_of(entry: &PackEntry) -> u64 {
    u64::from(entry.offset) + u64::from(entry.stored_bytes)
}

/// How many of these blobs are read in one go: one at least.
fn together(blobs: &[Blob]) -> usize {
    let Some(first) = blobs.first() else { return 0 };
    let start = u64::from(first.entry.offset);
    let mut end = end_of(&first.entry);
    let mut joins = |blob: &Blob| {
        let next = u64::from(blob.entry.offset);
        let fits = blob.packs[0] == first.packs[0]
            && (end..=end + GAP_BYTES_MAX).contains(&next)
            && end_of(&blob.entry) - start <= READ_BYTES_MAX;
        end = end_of(&blob.entry);
        fits
    };
    1 + blobs[1..].iter().take_while(|blob| joins(blob)).count()
}

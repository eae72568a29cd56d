//! Taking what is still needed out of packs that are to go (DESIGN §5.6, step 7).
//!
//! Promise: a copy is proved, then published (I3), before anybody may delete its original; a pack whose needed chunks
//! can't all be had stays. Knows nothing of when packs are deleted.

use crate::codec::{self, ChunkKind, Compression};
use crate::gc::Collector;
use crate::id::{ChunkId, PackId};
use crate::live::short;
use crate::objects::pack_name;
use crate::pack::{PACK_BYTES_MAX, PackBuilder, PackEntry};
use crate::table::Child;
use crate::{Error, backend};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Copies on their way.
#[derive(Default)]
struct Evacuation {
    /// A pack holds blobs of one kind (DESIGN §4.5).
    copies: BTreeMap<ChunkKind, Copies>,
    /// Packs of which something was copied.
    copied: BTreeSet<PackId>,
    /// Old pack -> packs that hold its needed chunks.
    elsewhere: BTreeMap<PackId, BTreeSet<PackId>>,
}

/// A pack of copies being filled, and the packs that each chunk in it stood in.
struct Copies {
    builder: PackBuilder,
    sources: BTreeMap<ChunkId, BTreeSet<PackId>>,
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
        for pack in packs.clone() {
            self.check_cancelled()?;
            let bytes = there.get(&pack).copied().unwrap_or(0);
            if !self.evacuate_pack(pack, bytes, sound, &mut evacuation)? {
                packs.remove(&pack);
                self.report.packs_spared.push(pack);
            }
        }
        while let Some((_, copies)) = evacuation.copies.pop_first() {
            self.flush(copies, &mut evacuation)?;
        }
        self.publish_moves(evacuation.elsewhere)?;
        let done = evacuation.copied.is_empty();
        Ok((evacuation.copied, done))
    }

    /// False when a needed chunk of the pack can't be had: then the pack stays.
    fn evacuate_pack(
        &self,
        pack: PackId,
        bytes: u64,
        sound: &dyn Fn(&PackId) -> bool,
        evacuation: &mut Evacuation,
    ) -> Result<bool, Error> {
        let Some(entries) = self.entries(pack, bytes)? else { return Ok(self.is_all_listed(sound)) };
        let mut body: Option<Vec<u8>> = None;
        for entry in entries.iter().filter(|entry| self.live.contains(entry.id)) {
            let copies = evacuation.copies.get_mut(&entry.kind);
            if let Some(sources) = copies.and_then(|copies| copies.sources.get_mut(&entry.id)) {
                sources.insert(pack);
                evacuation.copied.insert(pack);
                continue;
            }
            if let Some(other) = self.copy_of(entry, sound)? {
                evacuation.elsewhere.entry(pack).or_default().insert(other);
                continue;
            }
            if body.is_none() {
                match self.objects().backend.get_all(&pack_name(pack), PACK_BYTES_MAX) {
                    Ok(whole) => body = Some(whole),
                    // Another collector was faster: the pack is no longer ours to delete.
                    Err(backend::Error::NotFound { .. }) => return Ok(false),
                    Err(source) => return Err(self.objects().fail(source)),
                }
            }
            let Some(blob) = self.sound_blob(pack, entry, body.as_deref().unwrap_or_default())? else {
                return Ok(false);
            };
            self.copy(pack, entry, &blob, evacuation)?;
        }
        self.progress.add(bytes);
        Ok(true)
    }

    /// Whether every chunk that any image needs is listed by a sound pack: then one whose listing is damaged may go.
    pub(crate) fn is_all_listed(&self, sound: &dyn Fn(&PackId) -> bool) -> bool {
        let mut listed = HashSet::new();
        for (pack, bytes) in self.work.catalogue().sizes().into_iter().filter(|(pack, _)| sound(pack)) {
            let entries = self.work.catalogue().records().get(pack, bytes).unwrap_or_default();
            listed.extend(entries.iter().map(|entry| short(entry.id)));
        }
        self.live.is_within(&listed)
    }

    /// A pack that holds the same chunk, exists and is not condemned.
    fn copy_of(&self, entry: &PackEntry, sound: &dyn Fn(&PackId) -> bool) -> Result<Option<PackId>, Error> {
        let found = self.work.catalogue().find(entry.id)?.filter(|(_, other)| other.kind == entry.kind);
        Ok(found
            .and_then(|(place, _)| self.work.catalogue().pack(place.slot))
            .map(|known| known.id)
            .filter(sound))
    }

    /// The blob, proved; from elsewhere when it is damaged here; `None` when it is nowhere.
    fn sound_blob(&self, pack: PackId, entry: &PackEntry, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let start = entry.offset as usize;
        let blob = body.get(start..start + entry.stored_bytes as usize).unwrap_or(&[]);
        if codec::open(entry.kind, entry.id, entry.plain_bytes as usize, blob).is_ok() {
            return Ok(Some(blob.to_vec()));
        }
        let child = Child {
            id: entry.id,
            pack,
            offset: entry.offset,
            stored_bytes: entry.stored_bytes,
            plain_bytes: entry.plain_bytes,
        };
        match self.store().reader().chunk(entry.kind, &child) {
            Ok(plain) => Ok(Some(codec::seal(&plain, Compression::Auto))),
            Err(Error::Chunk { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn copy(
        &self,
        from: PackId,
        entry: &PackEntry,
        blob: &[u8],
        evacuation: &mut Evacuation,
    ) -> Result<(), Error> {
        let new = || Copies { builder: PackBuilder::new(), sources: BTreeMap::new() };
        let copies = evacuation.copies.entry(entry.kind).or_insert_with(new);
        copies.builder.push(entry.id, entry.kind, entry.plain_bytes, blob);
        copies.sources.entry(entry.id).or_default().insert(from);
        evacuation.copied.insert(from);
        if copies.builder.bytes() < self.options.pack_bytes as usize {
            return Ok(());
        }
        match evacuation.copies.remove(&entry.kind) {
            Some(full) => self.flush(full, evacuation),
            None => Ok(()),
        }
    }

    /// Publishes a pack of copies, proved like any other.
    fn flush(&self, copies: Copies, evacuation: &mut Evacuation) -> Result<(), Error> {
        let slot = self.work.catalogue().reserve_slot();
        self.work.publish(slot, copies.builder)?;
        if let Some(known) = self.work.catalogue().pack(slot) {
            for from in copies.sources.into_values().flatten() {
                evacuation.elsewhere.entry(from).or_default().insert(known.id);
            }
        }
        Ok(())
    }
}

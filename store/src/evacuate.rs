//! Taking what is still needed out of packs that are to go (DESIGN §5.6, step 7).
//!
//! Promise: a copy is proved, then published (I3), before anybody may delete its original; a pack whose needed chunks
//! can't all be had stays. Knows nothing of when packs are deleted.

use crate::Error;
use crate::codec::{self, ChunkKind, Compression};
use crate::gc::Collector;
use crate::id::{ChunkId, PackId};
use crate::live::short;
use crate::objects::pack_name;
use crate::pack::{PACK_BYTES_MAX, PackBuilder, PackEntry};
use crate::table::Child;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Copies on their way.
#[derive(Default)]
struct Evacuation {
    builder: Option<(PackBuilder, HashSet<(ChunkId, ChunkKind)>)>,
    /// Packs with blobs in the builder.
    sources: BTreeSet<PackId>,
    /// What was copied, and from where.
    copied: Vec<(ChunkId, PackId)>,
    /// Old pack -> packs that hold its needed chunks.
    elsewhere: BTreeMap<PackId, BTreeSet<PackId>>,
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
        self.flush(&mut evacuation)?;
        let copied: BTreeSet<PackId> = evacuation.copied.iter().map(|(_, from)| *from).collect();
        self.publish_moves(evacuation.elsewhere)?;
        let done = copied.is_empty();
        Ok((copied, done))
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
            if evacuation.builder.as_ref().is_some_and(|(_, ids)| ids.contains(&(entry.id, entry.kind))) {
                evacuation.copied.push((entry.id, pack));
                continue;
            }
            if let Some(other) = self.copy_of(entry, sound)? {
                evacuation.elsewhere.entry(pack).or_default().insert(other);
                continue;
            }
            if body.is_none() {
                let whole = self.objects().backend.get_all(&pack_name(pack), PACK_BYTES_MAX);
                body = Some(whole.map_err(|source| self.objects().fail(source))?);
            }
            let Some(blob) = self.sound_blob(pack, entry, body.as_deref().unwrap_or_default())? else {
                return Ok(false);
            };
            let (builder, ids) =
                evacuation.builder.get_or_insert_with(|| (PackBuilder::new(), HashSet::new()));
            builder.push(entry.id, entry.kind, entry.plain_bytes, &blob);
            ids.insert((entry.id, entry.kind));
            evacuation.copied.push((entry.id, pack));
            evacuation.sources.insert(pack);
            if builder.bytes() >= self.options.pack_bytes as usize {
                self.flush(evacuation)?;
            }
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

    /// Publishes the pack of copies, proved like any other.
    fn flush(&self, evacuation: &mut Evacuation) -> Result<(), Error> {
        let Some((builder, ids)) = evacuation.builder.take() else { return Ok(()) };
        let slot = self.work.catalogue().reserve_slot();
        self.work.publish(slot, builder)?;
        if let Some(known) = self.work.catalogue().pack(slot) {
            for from in std::mem::take(&mut evacuation.sources) {
                evacuation.elsewhere.entry(from).or_default().insert(known.id);
            }
            // Chunks that several packs held were copied once: the record names the copy for each of them.
            for (id, from) in &evacuation.copied {
                if ids.contains(&(*id, ChunkKind::Data)) || ids.contains(&(*id, ChunkKind::Table)) {
                    evacuation.elsewhere.entry(*from).or_default().insert(known.id);
                }
            }
        }
        Ok(())
    }
}

//! Stores without their data, for measuring how cost grows with size: packs whose blobs are holes, and images of chunks
//! that nobody has the bytes of. Hidden from the documentation; `bench` is its only caller.
//!
//! Promise: header, trailer, footer, tables and manifests are made by the code that makes real ones; only blobs are
//! missing, so that whoever reads one finds damage. Knows nothing of where the parts of a pack are written to.

use crate::catalogue::Place;
use crate::objects::pack_name;
use crate::pack::{self, FOOTER_BYTES, HEADER_BYTES, PackEntry};
use crate::{ChunkId, ChunkKind, Error, NewChunk, PackId, Writer};

/// A blob that is not there.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// Of which chunk.
    pub id: ChunkId,
    /// Its bytes in the pack.
    pub stored_bytes: u32,
    /// Bytes of the chunk.
    pub plain_bytes: u32,
}

/// The parts of a pack that are there; between them is a hole.
#[derive(Clone, Debug)]
pub struct Pack {
    /// Where it belongs in the store.
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// What the file begins with.
    pub header: [u8; HEADER_BYTES],
    /// What it ends with.
    pub tail: Vec<u8>,
}

/// A pack of this name, which is not the hash of its bytes: nobody hashes 32 MiB of holes but scrub.
pub fn pack(id: PackId, blobs: &[Blob]) -> Pack {
    let mut offset = HEADER_BYTES as u64;
    let entry = |blob: &Blob| {
        let start = u32::try_from(offset).unwrap_or(u32::MAX);
        offset += u64::from(blob.stored_bytes);
        let Blob { id, stored_bytes, plain_bytes } = *blob;
        PackEntry { id, kind: ChunkKind::Data, offset: start, stored_bytes, plain_bytes }
    };
    let entries: Vec<PackEntry> = blobs.iter().map(entry).collect();
    let header = pack::new_header();
    let tail = pack::encode_tail(&header, &entries);
    debug_assert!(tail.len() > FOOTER_BYTES);
    Pack { name: pack_name(id).to_string(), bytes: offset + tail.len() as u64, header, tail }
}

/// What [`Writer::put`] does with a chunk but for hashing its bytes; `None` when the store does not have it.
pub fn put_known(writer: &Writer, id: ChunkId, bytes: u32) -> Result<Option<NewChunk>, Error> {
    let Some(place) = writer.known(id)? else { return Ok(None) };
    writer.count(bytes);
    Ok(Some(NewChunk { id, bytes, known: true, place: Some(place) }))
}

/// A pack that the writer shall believe to be there, with nothing in it; its slot.
pub fn name_pack(writer: &Writer, id: PackId, pack_bytes: u64) -> u32 {
    let slot = writer.catalogue().reserve_slot();
    writer.catalogue().add(slot, id, pack_bytes, &[]);
    slot
}

/// A chunk that the writer shall believe to be in a pack of [`name_pack`].
pub fn placed(blob: &Blob, slot: u32, offset: u32) -> NewChunk {
    let place = Place { slot, offset, stored_bytes: blob.stored_bytes };
    NewChunk { id: blob.id, bytes: blob.plain_bytes, known: true, place: Some(place) }
}

/// Publishes the tables of what was submitted, as [`Writer::finish`] does; no manifest.
pub fn finish_tables(writer: &Writer) -> Result<(), Error> {
    writer.finish_tree().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Home, Store, WriterOptions};

    #[test]
    fn a_made_up_pack_is_listed_like_a_real_one() {
        let blob =
            |n: u8| Blob { id: ChunkId([n; 32]), stored_bytes: 1000 + u32::from(n), plain_bytes: 2000 };
        let made = pack(PackId([7; 32]), &(0..9).map(blob).collect::<Vec<Blob>>());
        let mut bytes = made.header.to_vec();
        bytes.resize(usize::try_from(made.bytes).unwrap() - made.tail.len(), 0);
        bytes.extend_from_slice(&made.tail);
        assert_eq!(bytes.len() as u64, made.bytes);
        let entries = pack::decode_listing(&bytes).unwrap();
        assert_eq!((entries.len(), entries[8].offset, entries[8].stored_bytes), (9, 8060, 1008));
        assert!(pack::decode_whole(&bytes).is_err(), "blobs are missing");
        let home = Home::memory();
        let store = Store::init(&home, Config::new("fixed:65536")).unwrap();
        store.objects().put(&pack_name(PackId([7; 32])), &bytes).unwrap();
        let writer = store.writer(&WriterOptions::default()).unwrap();
        let found = put_known(&writer, ChunkId([8; 32]), 2000).unwrap().unwrap();
        assert_eq!(found.place.unwrap().offset, 8060);
        assert!(put_known(&writer, ChunkId([9; 32]), 2000).unwrap().is_none());
    }
}

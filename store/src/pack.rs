//! A pack: many blobs, then a trailer that lists them. Format: DESIGN §4.5.
//!
//! Promise: a pack that `seal` returned has been decoded again from memory, blob by blob (I3), and its name is the hash
//! of its bytes. Knows nothing of keys, of what chunks mean or of where packs are kept.

use crate::aligned::AlignedBytes;
use crate::codec::{self, BlobError, ChunkKind, PLAIN_BYTES_MAX};
use crate::id::{ChunkId, PackId, blake3_of};

/// Packs are closed at this size: large enough that a folder of a 10 TB store stays listable and fdatasync is rare, small
/// enough that a few fit in memory.
pub const PACK_BYTES: u32 = 32 << 20;
/// No file above this is a pack.
pub(crate) const PACK_BYTES_MAX: u64 = 256 << 20;

pub(crate) const HEADER_BYTES: usize = 32;
pub(crate) const FOOTER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 44;
const MAGIC: [u8; 8] = *b"CASPACK1";
const END_MAGIC: [u8; 8] = *b"CASPEND1";
const _: () =
    assert!(HEADER_BYTES == 8 + 8 + 16 && FOOTER_BYTES == 4 + 4 + 32 + 8 && ENTRY_BYTES == 32 + 4 + 4 + 4);

/// One blob of a pack, as its trailer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackEntry {
    /// The chunk.
    pub id: ChunkId,
    /// What it holds.
    pub kind: ChunkKind,
    /// Where the blob begins, bytes from the pack's start.
    pub offset: u32,
    /// Bytes of the blob.
    pub stored_bytes: u32,
    /// Bytes of the chunk.
    pub plain_bytes: u32,
}

/// Why some bytes are not a pack, or not the pack that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Too small, too large, or lengths that do not add up.
    #[error("pack: lengths do not add up: expected {expected} bytes, found {found}")]
    Length {
        /// Bytes that the parts say.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Header or footer is not one of ours.
    #[error("pack: {place} magic does not match")]
    Magic {
        /// `header` or `footer`.
        place: &'static str,
    },
    /// Header and trailer are not what was written.
    #[error("pack: trailer checksum does not match")]
    Hash,
    /// A reserved byte is set, or a kind is unknown: a newer version.
    #[error("pack: trailer entry {entry}: unknown kind or reserved byte")]
    Entry {
        /// Which entry.
        entry: usize,
    },
    /// A blob does not give its chunk.
    #[error("pack: offset {offset:#x}: chunk {chunk}")]
    Blob {
        /// Where the blob begins.
        offset: u32,
        /// The chunk it should hold.
        chunk: ChunkId,
        /// What is wrong.
        #[source]
        source: BlobError,
    },
}

/// A header with a fresh salt.
pub(crate) fn new_header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[16..].copy_from_slice(&rand::random::<[u8; 16]>());
    header
}

/// A pack in the making.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    bytes: AlignedBytes,
    entries: Vec<PackEntry>,
}

/// A finished pack, proved.
#[derive(Debug)]
pub(crate) struct SealedPack {
    pub(crate) id: PackId,
    pub(crate) bytes: AlignedBytes,
    pub(crate) entries: Vec<PackEntry>,
}

impl PackBuilder {
    /// An empty pack in this memory, whatever it held.
    pub(crate) fn new(memory: Vec<u8>) -> PackBuilder {
        let mut bytes = AlignedBytes::anew(memory);
        bytes.extend_from_slice(&new_header());
        PackBuilder { bytes, entries: Vec::new() }
    }

    /// Bytes so far, without trailer.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a blob; the caller closes packs long before 4 GiB, so offsets fit.
    pub(crate) fn push(&mut self, id: ChunkId, kind: ChunkKind, plain_bytes: u32, blob: &[u8]) -> PackEntry {
        let entry = PackEntry {
            id,
            kind,
            offset: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX),
            stored_bytes: u32::try_from(blob.len()).unwrap_or(u32::MAX),
            plain_bytes,
        };
        self.bytes.extend_from_slice(blob);
        self.entries.push(entry);
        entry
    }

    /// Closes the pack and decodes and hashes every blob of it again.
    pub(crate) fn seal(mut self) -> Result<SealedPack, PackError> {
        let tail = encode_tail(&self.bytes[..HEADER_BYTES], &self.entries);
        self.bytes.extend_from_slice(&tail);
        let entries = decode_whole(&self.bytes)?;
        Ok(SealedPack { id: PackId(blake3_of(&self.bytes)), bytes: self.bytes, entries })
    }
}

/// Trailer and footer of a pack with this header.
pub(crate) fn encode_tail(header: &[u8], entries: &[PackEntry]) -> Vec<u8> {
    let mut tail = encode_trailer(entries);
    let (hash, trailer) = (trailer_hash(header, &tail), tail.len());
    for number in [trailer, entries.len()] {
        tail.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
    }
    tail.extend_from_slice(&hash);
    tail.extend_from_slice(&END_MAGIC);
    tail
}

fn encode_trailer(entries: &[PackEntry]) -> Vec<u8> {
    let mut trailer = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        trailer.extend_from_slice(entry.id.as_bytes());
        trailer.extend_from_slice(&entry.stored_bytes.to_le_bytes());
        trailer.extend_from_slice(&entry.plain_bytes.to_le_bytes());
        trailer.extend_from_slice(&[entry.kind.code(), 0, 0, 0]);
    }
    trailer
}

fn trailer_hash(header: &[u8], trailer: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(header).update(trailer).finalize().as_bytes()
}

impl ChunkKind {
    /// As it stands in a trailer.
    pub(crate) const fn code(self) -> u8 {
        match self {
            ChunkKind::Data => 0,
            ChunkKind::Table => 1,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<ChunkKind> {
        match code {
            0 => Some(ChunkKind::Data),
            1 => Some(ChunkKind::Table),
            _ => None,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// How many bytes trailer and footer take with so many entries.
pub(crate) fn tail_of(entries: u32) -> u64 {
    u64::from(entries) * ENTRY_BYTES as u64 + FOOTER_BYTES as u64
}

/// How many bytes at a pack's end hold trailer and footer, from its last `FOOTER_BYTES` bytes.
pub(crate) fn tail_bytes(footer: &[u8], pack_bytes: u64) -> Result<u64, PackError> {
    let length = |expected| PackError::Length { expected, found: pack_bytes };
    let least = (HEADER_BYTES + FOOTER_BYTES) as u64;
    if footer.len() != FOOTER_BYTES || pack_bytes < least || pack_bytes > PACK_BYTES_MAX {
        return Err(length(least));
    }
    if footer[40..] != END_MAGIC {
        return Err(PackError::Magic { place: "footer" });
    }
    let (trailer, count) = (u64::from(u32_at(footer, 0)), u64::from(u32_at(footer, 4)));
    if trailer != count * ENTRY_BYTES as u64 || trailer + least > pack_bytes {
        return Err(length(trailer + least));
    }
    Ok(trailer + FOOTER_BYTES as u64)
}

/// The entries of a pack from its header, its tail (trailer and footer) and its length.
pub(crate) fn decode_tail(header: &[u8], tail: &[u8], pack_bytes: u64) -> Result<Vec<PackEntry>, PackError> {
    let too_short = PackError::Length { expected: FOOTER_BYTES as u64, found: tail.len() as u64 };
    let at = tail.len().checked_sub(FOOTER_BYTES).ok_or(too_short.clone())?;
    let (trailer, footer) = tail.split_at(at);
    if tail_bytes(footer, pack_bytes)? != tail.len() as u64 || header.len() != HEADER_BYTES {
        return Err(too_short);
    }
    if header[..8] != MAGIC {
        return Err(PackError::Magic { place: "header" });
    }
    if trailer_hash(header, trailer)[..] != footer[8..40] {
        return Err(PackError::Hash);
    }
    let entries = decode_entries(trailer)?;
    let blobs: u64 = entries.iter().map(|entry| u64::from(entry.stored_bytes)).sum();
    let expected = blobs + (HEADER_BYTES + tail.len()) as u64;
    if expected != pack_bytes {
        return Err(PackError::Length { expected, found: pack_bytes });
    }
    Ok(entries)
}

fn decode_entries(trailer: &[u8]) -> Result<Vec<PackEntry>, PackError> {
    let mut entries = Vec::with_capacity(trailer.len() / ENTRY_BYTES);
    let mut offset = HEADER_BYTES as u64;
    for (number, bytes) in trailer.chunks_exact(ENTRY_BYTES).enumerate() {
        let bad = PackError::Entry { entry: number };
        let kind = ChunkKind::from_code(bytes[40]).ok_or(bad.clone())?;
        let plain_bytes = u32_at(bytes, 36);
        if bytes[41..44] != [0; 3] || plain_bytes as usize > PLAIN_BYTES_MAX {
            return Err(bad);
        }
        let mut id = [0; 32];
        id.copy_from_slice(&bytes[..32]);
        let stored_bytes = u32_at(bytes, 32);
        let start = u32::try_from(offset).map_err(|_| bad)?;
        entries.push(PackEntry { id: ChunkId(id), kind, offset: start, stored_bytes, plain_bytes });
        offset += u64::from(stored_bytes);
    }
    Ok(entries)
}

/// The entries of a whole pack in memory, its blobs not looked at.
pub(crate) fn decode_listing(bytes: &[u8]) -> Result<Vec<PackEntry>, PackError> {
    let pack_bytes = bytes.len() as u64;
    let length = PackError::Length { expected: (HEADER_BYTES + FOOTER_BYTES) as u64, found: pack_bytes };
    let footer_at = bytes.len().checked_sub(FOOTER_BYTES).ok_or(length.clone())?;
    let tail = usize::try_from(tail_bytes(&bytes[footer_at..], pack_bytes)?).map_err(|_| length.clone())?;
    // `tail_bytes` has checked that header and tail fit.
    decode_tail(&bytes[..HEADER_BYTES], &bytes[bytes.len() - tail..], pack_bytes)
}

/// The entries of a whole pack, each blob decoded and hashed; the first bad blob is the error.
pub(crate) fn decode_whole(bytes: &[u8]) -> Result<Vec<PackEntry>, PackError> {
    let entries = decode_listing(bytes)?;
    entries.iter().try_for_each(|entry| check_entry(bytes, entry))?;
    Ok(entries)
}

/// Decodes and hashes one blob of a pack in memory.
pub(crate) fn check_entry(bytes: &[u8], entry: &PackEntry) -> Result<(), PackError> {
    let start = entry.offset as usize;
    check_blob(bytes.get(start..start + entry.stored_bytes as usize).unwrap_or(&[]), entry)
}

/// Decodes and hashes a blob that should be what this entry says.
pub(crate) fn check_blob(blob: &[u8], entry: &PackEntry) -> Result<(), PackError> {
    let PackEntry { id, kind, offset, plain_bytes, .. } = *entry;
    let blob_error = |source| PackError::Blob { offset, chunk: id, source };
    codec::check(kind, id, plain_bytes as usize, blob).map_err(blob_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, chunk_id, seal};
    use proptest::prelude::*;

    fn pack_of(chunks: &[Vec<u8>]) -> SealedPack {
        let mut builder = PackBuilder::new(vec![7; 99]);
        for plain in chunks {
            let blob = seal(plain, Compression::Auto);
            builder.push(
                chunk_id(ChunkKind::Data, plain),
                ChunkKind::Data,
                u32::try_from(plain.len()).unwrap(),
                &blob,
            );
        }
        builder.seal().unwrap()
    }

    proptest! {
        #[test]
        fn a_pack_gives_back_its_chunks(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let pack = pack_of(&chunks);
            prop_assert_eq!(pack.entries.len(), chunks.len());
            for (entry, plain) in pack.entries.iter().zip(&chunks) {
                let (start, end) = (entry.offset as usize, (entry.offset + entry.stored_bytes) as usize);
                let opened = codec::open(entry.kind, entry.id, entry.plain_bytes as usize, &pack.bytes[start..end]);
                prop_assert_eq!(&opened.unwrap(), plain);
                prop_assert!(check_entry(&pack.bytes, entry).is_ok());
            }
        }

        #[test]
        fn every_flip_is_seen(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..99), 1..5), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = pack_of(&chunks).bytes.to_vec();
            let id = blake3_of(&bytes);
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(blake3_of(&bytes) != id);
            if let Ok(entries) = decode_listing(&bytes) {
                // Listing intact: then the flip is in a blob, and exactly that blob says so.
                let bad = entries.iter().filter(|entry| check_entry(&bytes, entry).is_err()).count();
                prop_assert_eq!(bad, 1);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(decode_whole(&bytes).is_err());
            prop_assert!(decode_tail(&bytes[..bytes.len().min(32)], &bytes, 400).is_err());
        }
    }

    #[test]
    fn two_packs_of_the_same_chunks_have_different_names() {
        let chunks = [vec![1; 50]];
        assert_ne!(pack_of(&chunks).id, pack_of(&chunks).id);
    }
}

//! Chunk to blob and back: the id, the compression and, one day, the seal. Format: DESIGN §4.4.
//!
//! Promise: `open` returns bytes whose hash is the id that was asked for, or an error (I3, I6). The only module that
//! may ever see a key (I5): encryption would seal here, with (id, kind, plain length) as associated data.
//! Knows nothing of packs or of where blobs are kept.

use crate::id::ChunkId;
use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum ChunkKind {
    /// Bytes of a device.
    Data,
    /// A table of ours.
    Table,
}

/// No plain chunk is longer (16 MiB is the largest that a rule can ask for; a table of the largest fan-out stays below).
pub const PLAIN_BYTES_MAX: usize = 64 << 20;

/// What a thread keeps for decoding: the largest chunk of most rules.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
const TABLE_CONTEXT: &str = "cas 2026-11 table chunk";

/// How hard to compress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Not at all.
    Off,
    /// zstd -1.
    Fast,
    /// zstd 3: the default.
    #[default]
    Auto,
    /// zstd 19.
    Max,
    /// zstd at this level, 1 to 22.
    Level(i32),
}

impl Compression {
    fn level(self) -> Option<i32> {
        match self {
            Compression::Off => None,
            Compression::Fast => Some(-1),
            Compression::Auto => Some(3),
            Compression::Max => Some(19),
            Compression::Level(level) => Some(level),
        }
    }
}

/// The text names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compression {text:?}: expected off, fast, auto, max or a level from 1 to 22")]
pub struct ParseCompressionError {
    text: String,
}

impl FromStr for Compression {
    type Err = ParseCompressionError;
    fn from_str(text: &str) -> Result<Self, ParseCompressionError> {
        match (text, text.parse::<i32>()) {
            ("off", _) => Ok(Compression::Off),
            ("fast", _) => Ok(Compression::Fast),
            ("auto", _) => Ok(Compression::Auto),
            ("max", _) => Ok(Compression::Max),
            (_, Ok(level @ 1..=22)) => Ok(Compression::Level(level)),
            _ => Err(ParseCompressionError { text: text.to_string() }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::Off => f.write_str("off"),
            Compression::Fast => f.write_str("fast"),
            Compression::Auto => f.write_str("auto"),
            Compression::Max => f.write_str("max"),
            Compression::Level(level) => write!(f, "{level}"),
        }
    }
}

/// Why a blob does not give the chunk that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Nothing there, or a length that no chunk has.
    #[error("blob: expected a chunk of {expected} bytes, found {found} stored bytes")]
    Length {
        /// Plain bytes asked for.
        expected: u64,
        /// Stored bytes found.
        found: u64,
    },
    /// An encoding of a newer version, or damage.
    #[error("blob: unknown encoding {0}")]
    Encoding(u8),
    /// zstd could not read it.
    #[error("blob: not decodable")]
    Decode,
    /// Decoded, and other bytes came out.
    #[error("blob: hash does not match")]
    Hash,
}

/// The id of a chunk of this kind with these bytes.
pub(crate) fn chunk_id(kind: ChunkKind, plain: &[u8]) -> ChunkId {
    match kind {
        ChunkKind::Data => ChunkId(*blake3::hash(plain).as_bytes()),
        ChunkKind::Table => {
            ChunkId(*blake3::Hasher::new_derive_key(TABLE_CONTEXT).update(plain).finalize().as_bytes())
        }
    }
}

thread_local! {
    // Contexts are large (1 MiB and more) and their set-up costs 14-20 % of small chunks' compression: one a thread.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    // Where chunks are decoded that are hashed and not kept: it stays in the processor's cache, and no pages are asked for.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The blob of some plain bytes: compressed where that makes it smaller, raw where not.
pub(crate) fn seal(plain: &[u8], compression: Compression) -> Vec<u8> {
    let compressed = compression.level().and_then(|level| compress(plain, level));
    let (encoding, payload) = match &compressed {
        Some(bytes) if bytes.len() < plain.len() => (ZSTD, bytes.as_slice()),
        _ => (RAW, plain),
    };
    let mut blob = Vec::with_capacity(payload.len() + 1);
    blob.push(encoding);
    blob.extend_from_slice(payload);
    blob
}

fn compress(plain: &[u8], level: i32) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(have, _)| *have != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level).ok()?));
        }
        slot.as_mut().and_then(|(_, compressor)| compressor.compress(plain).ok())
    })
}

/// The plain bytes of a blob whose plain length is known, not yet hashed.
pub(crate) fn decode(blob: &[u8], plain_bytes: usize) -> Result<Vec<u8>, BlobError> {
    let length = BlobError::Length { expected: plain_bytes as u64, found: blob.len() as u64 };
    let Some((encoding, payload)) = blob.split_first() else { return Err(length) };
    if plain_bytes > PLAIN_BYTES_MAX {
        return Err(length);
    }
    let plain = match *encoding {
        RAW => payload.to_vec(),
        ZSTD => decompress(payload, plain_bytes).ok_or(BlobError::Decode)?,
        other => return Err(BlobError::Encoding(other)),
    };
    if plain.len() == plain_bytes { Ok(plain) } else { Err(length) }
}

fn decompress(payload: &[u8], plain_bytes: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new().ok()?);
        }
        slot.as_mut().and_then(|decompressor| decompressor.decompress(payload, plain_bytes).ok())
    })
}

/// The plain bytes of the chunk `id`, proved by their hash.
pub(crate) fn open(
    kind: ChunkKind,
    id: ChunkId,
    plain_bytes: usize,
    blob: &[u8],
) -> Result<Vec<u8>, BlobError> {
    let plain = decode(blob, plain_bytes)?;
    if chunk_id(kind, &plain) == id { Ok(plain) } else { Err(BlobError::Hash) }
}

/// As `open`, where only the proof is wanted: nothing is allocated but for the largest chunks.
pub(crate) fn check(kind: ChunkKind, id: ChunkId, plain_bytes: usize, blob: &[u8]) -> Result<(), BlobError> {
    let length = BlobError::Length { expected: plain_bytes as u64, found: blob.len() as u64 };
    let Some((encoding, payload)) = blob.split_first() else { return Err(length) };
    if plain_bytes > PLAIN_BYTES_MAX {
        return Err(length);
    }
    let hashed = |plain: &[u8]| match plain.len() == plain_bytes {
        true if chunk_id(kind, plain) == id => Ok(()),
        true => Err(BlobError::Hash),
        false => Err(length.clone()),
    };
    match *encoding {
        RAW => hashed(payload),
        ZSTD => SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            scratch.reserve(plain_bytes);
            decompress_to(payload, scratch).ok_or(BlobError::Decode)?;
            let result = hashed(scratch);
            scratch.shrink_to(SCRATCH_BYTES_MAX);
            result
        }),
        other => Err(BlobError::Encoding(other)),
    }
}

/// Decodes into a buffer's capacity.
fn decompress_to(payload: &[u8], buffer: &mut Vec<u8>) -> Option<usize> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new().ok()?);
        }
        slot.as_mut().and_then(|decompressor| decompressor.decompress_to_buffer(payload, buffer).ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blobs_give_back_their_chunk(plain in prop::collection::vec(0u8..4, 0..5000), level in 0usize..4) {
            let compression = [Compression::Off, Compression::Fast, Compression::Auto, Compression::Level(5)][level];
            let blob = seal(&plain, compression);
            for kind in [ChunkKind::Data, ChunkKind::Table] {
                let id = chunk_id(kind, &plain);
                prop_assert_eq!(&open(kind, id, plain.len(), &blob).unwrap(), &plain);
                prop_assert!(check(kind, id, plain.len(), &blob).is_ok());
                prop_assert!(check(kind, id, plain.len() + 1, &blob).is_err());
            }
            prop_assert!(open(ChunkKind::Table, chunk_id(ChunkKind::Data, &plain), plain.len(), &blob).is_err());
        }

        #[test]
        fn arbitrary_blobs_never_panic(blob: Vec<u8>, plain_bytes in 0usize..100_000) {
            prop_assert!(open(ChunkKind::Data, ChunkId([7; 32]), plain_bytes, &blob).is_err());
        }

        #[test]
        fn proving_and_opening_say_the_same(
            plain in prop::collection::vec(0u8..4, 1..3000),
            level in 0usize..2,
            at: prop::sample::Index,
            bit in 0u8..8,
            more in 0usize..3,
        ) {
            let mut blob = seal(&plain, [Compression::Off, Compression::Auto][level]);
            let place = at.index(blob.len());
            blob[place] ^= 1 << bit;
            let id = chunk_id(ChunkKind::Data, &plain);
            let opened = open(ChunkKind::Data, id, plain.len() + more, &blob).map(drop);
            let proved = check(ChunkKind::Data, id, plain.len() + more, &blob);
            prop_assert_eq!(opened.is_ok(), proved.is_ok());
        }
    }

    #[test]
    fn incompressible_chunks_grow_by_one_byte_only() {
        let mut state = 1u64;
        let plain: Vec<u8> = (0..70_000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert_eq!(seal(&plain, Compression::Auto).len(), plain.len() + 1);
    }

    #[test]
    fn compression_names_go_both_ways() {
        for text in ["off", "fast", "auto", "max", "7"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert!("0".parse::<Compression>().is_err() && "best".parse::<Compression>().is_err());
    }
}

//! Chunk to blob and back: the id, the compression and, one day, the seal. Format: DESIGN §4.4.
//!
//! Promise: `open` returns bytes whose hash is the id that was asked for, or an error (I3, I6). The only module that
//! may ever see a key (I5): encryption would seal here, with (id, kind, plain length) as associated data.
//! Knows nothing of packs or of where blobs are kept.

use crate::id::ChunkId;
use std::cell::RefCell;
use std::fmt;
use std::io::Cursor;
use std::str::FromStr;
use zstd::bulk::{Compressor, Decompressor};

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

/// Larger buffers are given back after use. With the usual rule none comes near; each thread keeps one.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What a thread keeps for its next chunk. Contexts are large (1 MiB and more) and setting one up costs 14-20 % of a small
/// chunk's compression; a new buffer is memory that the system hands out, and zeroes, page by page.
#[derive(Default)]
struct Tools {
    compressor: Option<(Compression, Compressor<'static>)>,
    decompressor: Option<Decompressor<'static>>,
    buffer: Vec<u8>,
}

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::default();
}

/// Runs `with` on this thread's buffer, whatever it holds. It is taken out meanwhile, so nothing breaks when `with` comes
/// here again.
fn with_buffer<T>(with: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = TOOLS.with_borrow_mut(|tools| std::mem::take(&mut tools.buffer));
    let result = with(&mut buffer);
    if buffer.capacity() <= KEPT_BYTES_MAX {
        TOOLS.with_borrow_mut(|tools| tools.buffer = buffer);
    }
    result
}

/// Hands `take` the blob of some plain bytes: compressed where that makes it smaller, raw where not.
pub(crate) fn seal_with<T>(plain: &[u8], compression: Compression, take: impl FnOnce(&[u8]) -> T) -> T {
    with_buffer(|blob| {
        blob.clear();
        if compress(plain, compression, blob).is_none() {
            blob.clear();
            blob.push(RAW);
            blob.extend_from_slice(plain);
        }
        take(blob)
    })
}

/// The blob of some plain bytes, to keep.
pub(crate) fn seal(plain: &[u8], compression: Compression) -> Vec<u8> {
    seal_with(plain, compression, <[u8]>::to_vec)
}

/// The compressed blob into an empty buffer, unless it is no smaller.
fn compress(plain: &[u8], compression: Compression, blob: &mut Vec<u8>) -> Option<()> {
    let level = compression.level()?;
    TOOLS.with_borrow_mut(|tools| {
        if tools.compressor.as_ref().is_none_or(|(have, _)| *have != compression) {
            tools.compressor = Some((compression, Compressor::new(level).ok()?));
        }
        let (_, compressor) = tools.compressor.as_mut()?;
        blob.reserve(1 + zstd::zstd_safe::compress_bound(plain.len()));
        blob.push(ZSTD);
        let mut behind = Cursor::new(blob);
        behind.set_position(1);
        let payload_bytes = compressor.compress_to_buffer(plain, &mut behind).ok()?;
        (payload_bytes < plain.len()).then_some(())
    })
}

/// The plain bytes of a blob whose plain length is known, not yet hashed.
pub(crate) fn decode(blob: &[u8], plain_bytes: usize) -> Result<Vec<u8>, BlobError> {
    let mut buffer = Vec::new();
    Ok(match decode_in(blob, plain_bytes, &mut buffer)? {
        Decoded::Raw(plain) => plain.to_vec(),
        Decoded::InBuffer => buffer,
    })
}

/// Where the plain bytes are.
enum Decoded<'a> {
    /// In the blob itself.
    Raw(&'a [u8]),
    InBuffer,
}

fn decode_in<'a>(blob: &'a [u8], plain_bytes: usize, buffer: &mut Vec<u8>) -> Result<Decoded<'a>, BlobError> {
    let length = BlobError::Length { expected: plain_bytes as u64, found: blob.len() as u64 };
    let Some((encoding, payload)) = blob.split_first() else { return Err(length) };
    if plain_bytes > PLAIN_BYTES_MAX {
        return Err(length);
    }
    let (decoded, found) = match *encoding {
        RAW => (Decoded::Raw(payload), payload.len()),
        ZSTD => {
            decompress(payload, plain_bytes, buffer).ok_or(BlobError::Decode)?;
            (Decoded::InBuffer, buffer.len())
        }
        other => return Err(BlobError::Encoding(other)),
    };
    if found == plain_bytes { Ok(decoded) } else { Err(length) }
}

/// Into a buffer that is made to hold `plain_bytes`, and never grows for more (I6).
fn decompress(payload: &[u8], plain_bytes: usize, buffer: &mut Vec<u8>) -> Option<()> {
    buffer.clear();
    buffer.reserve(plain_bytes);
    with_decompressor(|tool| tool.decompress_to_buffer(payload, buffer).ok().map(drop))
}

fn with_decompressor<T>(with: impl FnOnce(&mut Decompressor<'static>) -> Option<T>) -> Option<T> {
    TOOLS.with_borrow_mut(|tools| {
        if tools.decompressor.is_none() {
            tools.decompressor = Some(Decompressor::new().ok()?);
        }
        tools.decompressor.as_mut().and_then(with)
    })
}

/// As [`open`], into memory that is as long as the chunk; what it holds after an error is undefined.
pub(crate) fn open_into(
    kind: ChunkKind,
    id: ChunkId,
    blob: &[u8],
    plain: &mut [u8],
) -> Result<(), BlobError> {
    let length = BlobError::Length { expected: plain.len() as u64, found: blob.len() as u64 };
    let decoded = match blob.split_first() {
        Some((&RAW, payload)) if payload.len() == plain.len() => {
            plain.copy_from_slice(payload);
            plain.len()
        }
        Some((&ZSTD, payload)) => with_decompressor(|tool| tool.decompress_to_buffer(payload, plain).ok())
            .ok_or(BlobError::Decode)?,
        Some((&RAW, _)) | None => return Err(length),
        Some((other, _)) => return Err(BlobError::Encoding(*other)),
    };
    match decoded == plain.len() {
        true if chunk_id(kind, plain) == id => Ok(()),
        true => Err(BlobError::Hash),
        false => Err(length),
    }
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

/// Proves that a blob gives the chunk `id`, as `open` does, and keeps nothing: no memory is asked for, raw bytes are
/// hashed where they are.
pub(crate) fn check(kind: ChunkKind, id: ChunkId, plain_bytes: usize, blob: &[u8]) -> Result<(), BlobError> {
    with_buffer(|buffer| {
        let found = match decode_in(blob, plain_bytes, buffer)? {
            Decoded::Raw(plain) => chunk_id(kind, plain),
            Decoded::InBuffer => chunk_id(kind, buffer),
        };
        if found == id { Ok(()) } else { Err(BlobError::Hash) }
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
                prop_assert_eq!(check(kind, id, plain.len(), &blob), Ok(()));
                prop_assert!(check(kind, id, plain.len() + 1, &blob).is_err());
                let mut into = vec![7; plain.len()];
                open_into(kind, id, &blob, &mut into).unwrap();
                prop_assert_eq!(&into, &plain);
                into.push(0);
                prop_assert!(open_into(kind, id, &blob, &mut into).is_err());
            }
            // The thread's buffer holds more than these bytes by now, and must not show it.
            for short in 0..plain.len().min(3) {
                prop_assert!(check(ChunkKind::Data, chunk_id(ChunkKind::Data, &plain), short, &blob).is_err());
            }
            prop_assert!(open(ChunkKind::Table, chunk_id(ChunkKind::Data, &plain), plain.len(), &blob).is_err());
        }

        #[test]
        fn arbitrary_blobs_never_panic(blob: Vec<u8>, plain_bytes in 0usize..100_000) {
            prop_assert!(open(ChunkKind::Data, ChunkId([7; 32]), plain_bytes, &blob).is_err());
            prop_assert!(check(ChunkKind::Data, ChunkId([7; 32]), plain_bytes, &blob).is_err());
            let mut plain = vec![0; plain_bytes];
            prop_assert!(open_into(ChunkKind::Data, ChunkId([7; 32]), &blob, &mut plain).is_err());
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

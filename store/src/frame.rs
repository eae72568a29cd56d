//! The frame around every small object and manifest. Format: DESIGN §4.2.
//!
//! Promise: what `decode` returns was hashed, so that a flipped or missing bit is an error (I6) and never a value.
//! Knows nothing of what the body says.

use crate::id::blake3_of;

/// Which object a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameKind {
    Config,
    Manifest,
    Mark,
    Condemned,
    Moves,
    Session,
}

impl FrameKind {
    const fn magic(self) -> [u8; 4] {
        match self {
            FrameKind::Config => *b"CONF",
            FrameKind::Manifest => *b"IMAG",
            FrameKind::Mark => *b"MARK",
            FrameKind::Condemned => *b"COND",
            FrameKind::Moves => *b"MOVE",
            FrameKind::Session => *b"SESS",
        }
    }
}

const MAGIC: [u8; 4] = *b"CAS1";
const HEADER_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// A manifest of a disk with ten million bad ranges still fits; anything larger is not ours.
pub(crate) const BODY_BYTES_MAX: usize = 256 << 20;
/// The largest file that can be a frame.
pub(crate) const FRAME_BYTES_MAX: u64 = (BODY_BYTES_MAX + HEADER_BYTES + HASH_BYTES) as u64;

/// Why some bytes are not the frame that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter or longer than its header says.
    #[error("frame: expected {expected} bytes, found {found}")]
    Length {
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Not a frame, or one of another version or kind.
    #[error("frame: expected magic {expected:?}, found {found:?}")]
    Magic {
        /// Version and kind that were looked for.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// Reserved bytes are not zero.
    #[error("frame: reserved bytes are not zero")]
    Reserved,
    /// The contents are not what was written.
    #[error("frame: checksum does not match")]
    Hash,
}

/// A frame around `body`.
pub(crate) fn encode(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + HASH_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&kind.magic());
    // Bodies are JSON of ours, checked by every caller against BODY_BYTES_MAX, which fits u32.
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(body);
    let hash = blake3_of(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// The body of a frame of this kind.
pub(crate) fn decode(kind: FrameKind, bytes: &[u8]) -> Result<&[u8], FrameError> {
    let found = bytes.len() as u64;
    let short = FrameError::Length { expected: (HEADER_BYTES + HASH_BYTES) as u64, found };
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else { return Err(short) };
    let expected_magic = [MAGIC, kind.magic()].concat();
    if header[..8] != expected_magic[..] {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        return Err(FrameError::Magic { expected: text(&expected_magic), found: text(&header[..8]) });
    }
    if header[12..16] != [0; 4] {
        return Err(FrameError::Reserved);
    }
    let body_bytes = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    let expected = (HEADER_BYTES + HASH_BYTES) as u64 + body_bytes as u64;
    if body_bytes > BODY_BYTES_MAX || found != expected {
        return Err(FrameError::Length { expected, found });
    }
    let (body, hash) = rest.split_at(body_bytes);
    if blake3_of(&bytes[..HEADER_BYTES + body_bytes])[..] != *hash {
        return Err(FrameError::Hash);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_frame_gives_back_its_body(body: Vec<u8>) {
            let bytes = encode(FrameKind::Mark, &body);
            prop_assert_eq!(decode(FrameKind::Mark, &bytes).unwrap(), &body[..]);
            prop_assert!(decode(FrameKind::Moves, &bytes).is_err());
        }

        #[test]
        fn any_flip_or_cut_is_seen(body: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let good = encode(FrameKind::Session, &body);
            let mut bytes = good.clone();
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(decode(FrameKind::Session, &bytes).is_err());
            prop_assert!(decode(FrameKind::Session, &good[..place]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(decode(FrameKind::Config, &bytes).is_err());
        }
    }
}

//! The names of things: 32-byte hashes with a type each, so that a pack can't be asked for by a chunk's id.
//!
//! Promise: text form is 64 lower-case hex digits, both ways. Knows nothing of what is named.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("id {text:?}: expected {expected} hex digits")]
pub struct ParseIdError {
    text: String,
    expected: usize,
}

/// Lower-case hex of any bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// `N` bytes from `2 * N` lower-case hex digits.
fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let error = || ParseIdError { text: text.chars().take(80).collect(), expected: N * 2 };
    if text.len() != N * 2 {
        return Err(error());
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let (high, low) = (digit(pair[0]).ok_or_else(error)?, digit(pair[1]).ok_or_else(error)?);
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The first eight digits, for people.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                from_hex(text).map($name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type!(
    /// Names a chunk by its plain bytes (DESIGN §4.4).
    ChunkId, 32
);
id_type!(
    /// Names a pack: the BLAKE3 of the whole file (DESIGN §4.5).
    PackId, 32
);
id_type!(
    /// Names an image: the BLAKE3 of its manifest file (DESIGN §4.7).
    ImageId, 32
);
id_type!(
    /// Names a session and the records it publishes: random (DESIGN §4.8).
    SessionId, 16
);

impl SessionId {
    /// A fresh one.
    pub fn random() -> SessionId {
        SessionId(rand::random())
    }
}

/// The BLAKE3 of some bytes.
pub(crate) fn blake3_of(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways_and_refuses_the_rest() {
        let id = ChunkId(blake3_of(b"x"));
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        for bad in ["", "zz", &"A".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(bad.parse::<ChunkId>().is_err(), "{bad:?}");
        }
    }
}

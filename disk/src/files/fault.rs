//! Why a reader cannot go on, before anybody has said where.
//!
//! Promise: what the parsers of used blocks doubt becomes an error of the family that it belongs to.
//! Knows nothing of any filesystem.

use super::FilesError;
use crate::fs::Doubt;

/// An error without a place.
#[derive(Debug)]
pub(crate) enum Fault {
    /// As the parsers of used blocks say it.
    Doubt(Doubt),
    /// Bytes cannot be read.
    Read(crate::Error),
    /// A feature that is not known here.
    Unsupported(&'static str),
    /// What is there makes no sense: in words.
    Damaged(String),
    /// There is no such file.
    NotFound,
    /// It is not what was asked for.
    NotA(&'static str),
}

impl From<Doubt> for Fault {
    fn from(doubt: Doubt) -> Self {
        match doubt {
            Doubt::Unreadable { source } => Self::Read(source),
            doubt => Self::Doubt(doubt),
        }
    }
}

impl From<crate::Error> for Fault {
    fn from(error: crate::Error) -> Self {
        Self::Read(error)
    }
}

impl Fault {
    /// What is there makes no sense.
    pub(crate) fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }

    /// The error, with its place.
    pub(crate) fn at(self, place: impl Into<String>) -> FilesError {
        let place = place.into();
        match self {
            Self::Doubt(doubt @ (Doubt::Feature { .. } | Doubt::Elsewhere { .. })) => {
                FilesError::Unsupported { place, what: doubt.to_string() }
            }
            Self::Doubt(doubt) => FilesError::Damaged { place, what: doubt.to_string() },
            Self::Read(source) => FilesError::Read { place, source },
            Self::Unsupported(what) => FilesError::Unsupported { place, what: what.to_owned() },
            Self::Damaged(what) => FilesError::Damaged { place, what },
            Self::NotFound => FilesError::NotFound { place },
            Self::NotA(expected) => FilesError::WrongKind { place, expected },
        }
    }
}

/// Names that no folder may hand out: they would lead elsewhere.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Fault> {
    let odd = matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/'));
    match odd {
        true => Err(Fault::Damaged(format!("the name {:?} is not possible", String::from_utf8_lossy(name)))),
        false => Ok(()),
    }
}

/// A length in memory; what does not fit is too long for any buffer.
pub(crate) fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A length of something in memory.
pub(crate) fn len64(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Fills `buf` from contents that are in memory, which must have so many bytes there.
pub(crate) fn copy_from(contents: &[u8], offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
    if buf.is_empty() {
        return Ok(());
    }
    let found = contents.get(len(offset)..).and_then(|rest| rest.get(..buf.len()));
    buf.copy_from_slice(found.ok_or_else(|| Fault::damaged("its contents end before its size"))?);
    Ok(())
}

/// A piece of memory that begins at `from`, at most `bytes` long.
pub(crate) fn window(buf: &mut [u8], from: u64, bytes: u64) -> &mut [u8] {
    let rest = buf.get_mut(len(from)..).unwrap_or_default();
    let end = rest.len().min(len(bytes));
    rest.get_mut(..end).unwrap_or_default()
}

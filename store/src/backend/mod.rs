//! Named bytes: the six operations that are asked of a store's home, and nothing more.
//!
//! Promise: every implementation passes `tests/conformance.rs`; an object is there whole or not at all, never
//! replaced (I1); reading it needs one trait, deleting it another (I8).
//! Knows nothing of packs, ids, frames or keys: names are opaque beyond their shape.

pub mod fault;
pub mod files;
pub mod local;
pub mod memory;
pub mod record;
pub mod sim;

pub use fault::{Fault, FaultBackend, FaultPlan};
pub use local::LocalBackend;
pub use memory::MemoryBackend;
pub use record::{Operation, RecordBackend};

use std::fmt;
use std::io;
use std::ops::Range;

/// Names deeper than this are refused: no object of ours lies deeper, and it bounds what `list` descends into.
const COMPONENTS_MAX: usize = 4;

/// Names longer than this are refused: the limit of one file name on most filesystems (NAME_MAX), here for the whole.
const NAME_BYTES_MAX: usize = 255;

/// First components that belong to the local backend: files being written, and the catalogue. Refused in all
/// backends alike, so that a store can be copied from any to any.
const RESERVED: [&str; 2] = ["tmp", "index"];

/// The name of an object: a relative path of known shape, such as `packs/ab/abcd…`.
///
/// One to four components of `[a-z0-9._-]`, none empty, none with a leading dot, the first neither `tmp` nor `index`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Name(Box<str>);

impl Name {
    /// The only way to a name: whatever came from a listing, a file or a person passes here.
    pub fn new(name: &str) -> Result<Name, Error> {
        check_path(name)?;
        Ok(Name(name.into()))
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a `put`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// The object is new.
    Created,
    /// An object of this name was there before; it is as it was.
    Exists,
}

/// One object in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its size.
    pub bytes: u64,
}

/// Named bytes. Five of the six operations that are asked of a store's home; the sixth is [`Delete`].
pub trait Backend: Send + Sync + fmt::Debug {
    /// Durable when it returns; readers see all of it or nothing; never replaces.
    ///
    /// After an error the object may be there (whole) or not: asking again is always right.
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error>;

    /// Exactly `range.end - range.start` bytes, else [`Error::Short`]. An empty range of an existing object is empty.
    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error>;

    /// All objects below this folder (`packs`, `images`; empty: all there are), sorted by name.
    ///
    /// A folder that is not there has no objects. What comes or goes meanwhile may be listed or not.
    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error>;

    /// `None` when there is no such object.
    fn size(&self, name: &Name) -> Result<Option<u64>, Error>;

    /// Whether there is such an object.
    fn exists(&self, name: &Name) -> Result<bool, Error> {
        Ok(self.size(name)?.is_some())
    }

    /// The whole object; [`Error::TooLarge`] before anything is allocated when it has more than `limit` bytes.
    fn get_all(&self, name: &Name, limit: u64) -> Result<Vec<u8>, Error> {
        let bytes = self.size(name)?.ok_or_else(|| Error::NotFound { name: name.clone() })?;
        if bytes > limit {
            return Err(Error::TooLarge { name: name.clone(), bytes, limit });
        }
        self.get(name, 0..bytes)
    }

    /// Where it is, for messages.
    fn place(&self) -> String;

    /// Free bytes, where that is known.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

/// I8: the power to delete is a trait of its own.
pub trait Delete: Send + Sync {
    /// Deleting what is not there is fine. Durable when it returns.
    fn delete(&self, name: &Name) -> Result<(), Error>;
}

/// What a backend could not do, and with which object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{name}: not found")]
    NotFound {
        /// The object asked for.
        name: Name,
    },
    /// The home of the store is full, or the quota used up.
    #[error("{name}: no space left in the store")]
    NoSpace {
        /// The object, folder or root that did not fit.
        name: Box<str>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The object ends before the range does.
    #[error("{name}, offset {offset:#x}: expected {expected} bytes, found {found}")]
    Short {
        /// The object read.
        name: Name,
        /// Where reading began.
        offset: u64,
        /// Bytes asked for.
        expected: u64,
        /// Bytes there are from `offset` on.
        found: u64,
    },
    /// The object is larger than the caller can accept.
    #[error("{name}: expected at most {limit} bytes, found {bytes}")]
    TooLarge {
        /// The object asked for.
        name: Name,
        /// Its size.
        bytes: u64,
        /// The most that was acceptable.
        limit: u64,
    },
    /// Not a name (or folder) that an object may have.
    #[error("{name:?} is no name for an object: {reason}")]
    BadName {
        /// What was given, cut to a length fit for a message.
        name: Box<str>,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// The system refused.
    #[error("{name}: cannot {operation}")]
    Io {
        /// The object, folder or root it was about.
        name: Box<str>,
        /// What was being done: completes "cannot …".
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The home of the store is mounted read-only.
    #[error("{name}: cannot {operation}: the store is read-only")]
    ReadOnly {
        /// The object, folder or root it was about.
        name: Box<str>,
        /// What was being done: completes "cannot …".
        operation: &'static str,
    },
    /// A fault double has died: the process it stands for does nothing any more.
    #[error("stopped by a planned fault")]
    Stopped,
}

impl Error {
    /// Sorts what the system said while reading `name`.
    fn reading(name: &Name, operation: &'static str, source: io::Error) -> Error {
        if is_absent(&source) {
            return Error::NotFound { name: name.clone() };
        }
        Error::Io { name: name.as_str().into(), operation, source }
    }

    /// Sorts what the system said while changing something at `place`: an object, a folder or a root. That something is
    /// missing is no `NotFound` here, as nobody asked for an object.
    fn changing(place: &str, operation: &'static str, source: io::Error) -> Error {
        let name = place.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { name, source },
            io::ErrorKind::ReadOnlyFilesystem => Error::ReadOnly { name, operation },
            _ => Error::Io { name, operation, source },
        }
    }
}

/// Whether the system says that there is nothing of that name.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The length of `range` in an object of `size` bytes, as a length in memory; [`Error::Short`] when it reaches past the
/// end. Checked before allocating, so a wild range costs nothing (I6).
fn checked_length(name: &Name, range: &Range<u64>, size: u64) -> Result<usize, Error> {
    let expected = range.end.saturating_sub(range.start);
    let found = size.saturating_sub(range.start);
    if expected > found {
        return Err(Error::Short { name: name.clone(), offset: range.start, expected, found });
    }
    usize::try_from(expected).map_err(|_| Error::TooLarge {
        name: name.clone(),
        bytes: expected,
        limit: u64::try_from(usize::MAX).unwrap_or(u64::MAX),
    })
}

/// Whether `folder` may be listed: empty, or of the same shape as a name.
fn check_folder(folder: &str) -> Result<(), Error> {
    if folder.is_empty() { Ok(()) } else { check_path(folder) }
}

/// Whether `name` lies below `folder`; all names lie below the empty folder.
fn is_below(name: &Name, folder: &str) -> bool {
    folder.is_empty() || name.as_str().strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn check_path(path: &str) -> Result<(), Error> {
    match broken_rule(path) {
        None => Ok(()),
        Some(reason) => Err(Error::BadName { name: path.chars().take(NAME_BYTES_MAX).collect(), reason }),
    }
}

fn broken_rule(path: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if path.len() > NAME_BYTES_MAX {
        return Some("longer than 255 bytes");
    }
    if path.split('/').count() > COMPONENTS_MAX {
        return Some("more than four components");
    }
    for component in path.split('/') {
        if component.is_empty() {
            return Some("an empty component");
        }
        if component.starts_with('.') {
            return Some("a component with a leading dot");
        }
        if !component.bytes().all(allowed) {
            return Some("a character other than a-z, 0-9, dot, underscore, hyphen");
        }
    }
    if path.split('/').next().is_some_and(|first| RESERVED.contains(&first)) {
        return Some("reserved for the local backend");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_a_store_are_names() {
        for good in
            ["config", "config.copy", "packs/ab/abcd", "images/00.ok", "a/b/c/d", "a_b-c.d", "tmpx", "x/tmp"]
        {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        let long = "a".repeat(256);
        let bad = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "a/.b",
            "A",
            "a b",
            "a\\b",
            "ä",
            "a\0",
            "a/b/c/d/e",
            "tmp",
            "tmp/x",
            "index",
            "index/db",
            &long,
        ];
        for bad in bad {
            assert!(matches!(Name::new(bad), Err(Error::BadName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_folder_is_not_a_prefix_of_letters() {
        let name = Name::new("packs/ab/x").unwrap();
        assert!(is_below(&name, "packs") && is_below(&name, "packs/ab") && is_below(&name, ""));
        assert!(!is_below(&name, "pack") && !is_below(&name, "packs/a") && !is_below(&name, "packs/ab/x"));
    }

    proptest! {
        #[test]
        fn any_text_gives_a_name_or_an_error(text in ".{0,300}") {
            if let Ok(name) = Name::new(&text) {
                prop_assert_eq!(name.as_str(), &text);
                let path = std::path::Path::new(&text);
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }

        #[test]
        fn a_checked_length_lies_inside(start: u64, end: u64, size: u64) {
            let name = Name::new("config").unwrap();
            if let Ok(length) = checked_length(&name, &(start..end), size) {
                prop_assert!(length == 0 || end <= size);
            }
        }
    }
}

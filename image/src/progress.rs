//! How long operations tell what they are doing, and how they are told to stop.
//!
//! Promise: every byte of the source or image is counted once in [`Counter::Done`], whatever else it counts as.
//! Knows nothing of terminals: whoever implements [`Progress`] decides what is shown, and when.

use std::fmt;

use disk::Extent;

/// What is counted, all in bytes of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Counter {
    /// Finished, out of the total.
    Done,
    /// Capture, of these: in chunks that the store did not have.
    New,
    /// Capture: in chunks that it had.
    Known,
    /// Of these: known to be zeros (holes included).
    Zeros,
    /// Capture: could not be read.
    Bad,
    /// Restore: the target already held them.
    Unchanged,
    /// Restore: written.
    Written,
}

/// Something that a person should see when it happens, not only in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note<'a> {
    /// A range of the source could not be read and is recorded as bad.
    BadRange(Extent),
    /// Chunks were lost to a collector while capture relied on them: the source is read again.
    CapturingAgain {
        /// Which try begins, from 2.
        attempt: u32,
    },
    /// Something wrote to the source while only blocks in use were read: it is read again, every sector.
    CapturingWhole,
    /// A chunk of the image is damaged in the store: this range can't be restored.
    Damaged(Extent),
    /// The partition table of the target is being taken out of service until everything else is written.
    HeadZeroed,
    /// Everything is written: the target is read back.
    Verifying,
    /// What the store says during one of its own operations.
    Store(&'a str),
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::BadRange(range) => {
                write!(f, "offset {:#x}: {} bytes could not be read", range.offset, range.bytes)
            }
            Note::CapturingAgain { attempt } => {
                write!(f, "packs were collected meanwhile: reading the source again (try {attempt})")
            }
            Note::CapturingWhole => {
                write!(f, "something writes to the source: reading it again, every sector")
            }
            Note::Damaged(range) => {
                write!(f, "offset {:#x}: {} bytes are damaged in the store", range.offset, range.bytes)
            }
            Note::HeadZeroed => write!(f, "partition table taken out until everything else is written"),
            Note::Store(text) => f.write_str(text),
            Note::Verifying => write!(f, "reading back what was written"),
        }
    }
}

/// Receives counts and notes from many threads at once; asked between windows whether to go on.
pub trait Progress: Sync {
    /// The bytes that make up the whole work; `None` when only the end of a stream will tell. A new total starts a new
    /// stage (a second try, reading back), with all counters at zero.
    fn total(&self, bytes: Option<u64>) {
        let _ = bytes;
    }
    /// So many more bytes.
    fn add(&self, counter: Counter, bytes: u64) {
        let _ = (counter, bytes);
    }
    /// Something worth a line.
    fn note(&self, note: Note<'_>) {
        let _ = note;
    }
    /// True once the person wants it to end: the operation stops at the next safe place with `Error::Interrupted`.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
impl Progress for () {}

/// Hands a `Progress` of ours to an operation of `store`.
pub struct StoreProgress<'a>(pub &'a dyn Progress);

impl store::Progress for StoreProgress<'_> {
    fn total(&self, bytes: u64) {
        self.0.total(Some(bytes));
    }

    fn add(&self, bytes: u64) {
        self.0.add(Counter::Done, bytes);
    }

    fn note(&self, text: &str) {
        self.0.note(Note::Store(text));
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

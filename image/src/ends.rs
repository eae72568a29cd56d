//! The two ends of a target, which make it a disk that boots: broken before the first write, written last.
//!
//! A machine must never boot from half of a disk. The primary partition table and boot code lie at the start, the
//! backup GPT at the end, and firmware uses the second when the first is broken: so both are zeroed, and synced, before
//! anything else changes. Promise: a target whose content needs no change is not touched.
//! Knows nothing of what the ends should hold.

use std::sync::{Mutex, PoisonError};

use disk::{Extent, WriteAt};

use crate::{Error, Note, Progress};

/// Covers the partition tables at both ends and, where a target has none, the superblocks of all filesystems known
/// (btrfs has the farthest, at 64 KiB); volumes of partitioned disks begin here or later.
const END_BYTES: u64 = 1 << 20;

/// Writes begin on such borders: no device has larger sectors.
const ALIGNMENT: u64 = 4096;

/// The ends and what lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) head: Extent,
    pub(crate) body: Extent,
    pub(crate) foot: Extent,
}

impl Ends {
    /// Of the first `bytes` of a target. What is not larger than two ends is all head.
    pub(crate) fn new(bytes: u64) -> Ends {
        let extent = |offset: u64, end: u64| Extent { offset, bytes: end - offset };
        if bytes <= 2 * END_BYTES {
            return Ends { head: extent(0, bytes), body: extent(bytes, bytes), foot: extent(bytes, bytes) };
        }
        let foot = (bytes - END_BYTES) / ALIGNMENT * ALIGNMENT;
        Ends { head: extent(0, END_BYTES), body: extent(END_BYTES, foot), foot: extent(foot, bytes) }
    }
}

/// Breaks the ends once, before the first write to the body.
pub(crate) struct Guard<'a> {
    target: &'a dyn WriteAt,
    ends: Vec<Extent>,
    progress: &'a dyn Progress,
    broken: Mutex<bool>,
}

impl<'a> Guard<'a> {
    /// `ends` is what becomes zeros, in this order. `broken`: there is nothing to break, the target being empty.
    pub(crate) fn new(
        target: &'a dyn WriteAt,
        ends: Vec<Extent>,
        broken: bool,
        progress: &'a dyn Progress,
    ) -> Guard<'a> {
        Guard { target, ends, progress, broken: Mutex::new(broken) }
    }

    /// To be called before each write to the body; others wait until it is done.
    pub(crate) fn before_write(&self) -> Result<(), Error> {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if *broken {
            return Ok(());
        }
        self.progress.note(Note::HeadZeroed);
        for end in &self.ends {
            let failed = |source| Error::WriteTarget { offset: end.offset, bytes: end.bytes, source };
            self.target.write_zeros_at(*end).map_err(failed)?;
        }
        self.target.sync()?;
        *broken = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_parts_cover_all() {
        for bytes in [0, 4096, 2 << 20, (2 << 20) + 1, (5 << 20) + 512, 7 << 20] {
            let ends = Ends::new(bytes);
            assert_eq!((ends.head.offset, ends.head.end()), (0, ends.body.offset));
            assert_eq!((ends.body.end(), ends.foot.end()), (ends.foot.offset, bytes));
            assert!(ends.foot.bytes == 0 || ends.foot.offset.is_multiple_of(ALIGNMENT));
        }
    }
}

//! One target of a copy: takes steps, then the ends; fails alone.
//!
//! Promise: after its first failure nothing more is written to it, and its ends stay broken if they were.
//! Knows nothing of the source, nor of other targets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use disk::{AlignedBuffer, Extent, WriteAt};

use super::reading::Content;
use super::{CopyOptions, CopyTarget, End, Places, TargetReport};
use crate::ends::Guard;
use crate::output::{Before, Counts, Known, Output, Write, plan_writes};
use crate::{Error, Progress, VerifyReport};

/// See the file's head.
pub(super) struct Sink<'a> {
    output: Output<'a>,
    guard: Guard<'a>,
    finished: AtomicBool,
    failed: Mutex<Option<Error>>,
    pub(super) verified: Mutex<Option<VerifyReport>>,
}

impl<'a> Sink<'a> {
    pub(super) fn of_all(
        targets: &[CopyTarget<'a>],
        places: &Places,
        options: &CopyOptions,
        progress: &'a dyn Progress,
    ) -> Vec<Sink<'a>> {
        // That heads are broken is worth one line, not one for each target.
        let notes = std::iter::once(progress).chain(std::iter::repeat(&() as &dyn Progress));
        let sinks = targets.iter().zip(notes).map(|(target, notes)| {
            let known = Known::new(options.compare, target.fresh);
            let sink = Sink {
                output: Output::new(target.device, known, progress),
                guard: Guard::new(target.device, places.end_parts(), target.fresh, notes),
                finished: AtomicBool::new(false),
                failed: Mutex::default(),
                verified: Mutex::default(),
            };
            let (expected, found) = (places.end(), target.device.size_bytes());
            if found < expected {
                sink.fail(Error::TargetSizeChanged { expected, found });
            }
            sink
        });
        sinks.collect()
    }

    pub(super) fn device(&self) -> &'a dyn WriteAt {
        self.output.target
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed) && !self.has_failed()
    }

    /// Gives this target up; the first reason counts.
    pub(super) fn fail(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Brings one step of the body into shape. `want` holds the content, unless that is zeros.
    pub(super) fn take(
        &self,
        step: Extent,
        content: &Content,
        want: &[u8],
        have: &mut Option<AlignedBuffer>,
    ) {
        if self.has_failed() {
            return;
        }
        let want = (!content.zeros).then_some(want);
        let taken = self.prepare(step, content, want, have).and_then(|writes| {
            if !writes.is_empty() {
                self.guard.before_write()?;
            }
            self.output.write(step, &writes, want)
        });
        if let Err(error) = taken {
            self.fail(error);
        }
    }

    /// Finds out what to write.
    fn prepare(
        &self,
        step: Extent,
        content: &Content,
        want: Option<&[u8]>,
        have: &mut Option<AlignedBuffer>,
    ) -> Result<Vec<Write>, Error> {
        let before = self.output.look_if_worth(step, have)?;
        let writes = match (&before, want) {
            (Before::Zeros, None) => Vec::new(),
            _ => plan_writes(&before, want, &content.ranges),
        };
        let bytes = content.ranges.iter().map(|range| range.len() as u64).sum();
        self.output.account(&before, bytes, &writes);
        Ok(writes)
    }

    /// Makes the body last and, when the source is whole, writes the ends in this order.
    pub(super) fn finish(&self, ends: &[End], whole: bool, have: &mut Option<AlignedBuffer>) {
        if self.has_failed() {
            return;
        }
        if let Err(error) = self.write_ends(ends, whole, have) {
            self.fail(error);
        }
    }

    fn write_ends(&self, ends: &[End], whole: bool, have: &mut Option<AlignedBuffer>) -> Result<(), Error> {
        self.output.target.sync()?;
        for End { step, content, want } in ends {
            let want = want.as_ref().filter(|_| !content.zeros).map(|want| &**want);
            let writes = self.prepare(*step, content, want, have)?;
            if whole {
                self.output.write(*step, &writes, want)?;
                self.output.target.sync()?;
            }
        }
        self.finished.store(whole, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn into_report(self) -> TargetReport {
        let Counts { written, zeroed, unchanged } = self.output.counts();
        let failed = self.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        TargetReport {
            written_bytes: written,
            zeroed_bytes: zeroed,
            unchanged_bytes: unchanged,
            finished: self.finished.into_inner() && failed.is_none(),
            verified: self.verified.into_inner().unwrap_or_else(PoisonError::into_inner),
            failed,
        }
    }
}

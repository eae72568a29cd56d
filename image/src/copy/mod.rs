//! From any device that can be read onto one or several targets: the road of clones, and of restores whose layout changes.
//!
//! Promise: each place of the source is read once, for all targets; a target is compared before it is written, and one that
//! is right already is not touched. The order keeps an interrupted target from booting (`ends.rs`), each target for itself:
//! ends broken → body → sync → foot → sync → head → sync. A target that fails is left, the others go on. What the source
//! can't give is never made up: a disk's bad sectors become zeros and are listed, damaged parts of an image keep what the
//! target held and are listed. Memory is a fixed number of steps, and 16 bytes a step to read back.
//! Knows nothing of layouts, nor of what the source consists of.

mod proofs;
mod reading;
mod sink;
#[cfg(test)]
mod tests;

use disk::{AlignedBuffer, Extent, ReadAt, WriteAt};

use crate::ends::Ends;
use crate::expected::Steps;
use crate::output::{Buffers, sized, worker_count};
use crate::segment::in_memory;
use crate::source::{intersect, join_extents};
use crate::{Compare, Counter, Error, Note, Progress, VerifyReport, workers};
use proofs::Proofs;
use reading::{Content, Reading};
use sink::Sink;

/// Targets are compared and read in blocks of this size, counted from the device's start.
const BLOCK_BYTES: u64 = 4096;

/// How to copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Whether to look at what the targets hold.
    pub compare: Compare,
    /// Read everything back, past the cache. The source is not read again.
    pub verify: bool,
    /// Threads, 24 at most; 0: two for each processor, and for each target.
    pub threads: usize,
    /// Finish although parts of the source are damaged.
    pub keep_damaged: bool,
}

/// What is copied.
#[derive(Clone, Copy)]
pub struct CopySource<'a> {
    /// The bytes as the targets must have them. Its holes become zeros.
    pub view: &'a dyn ReadAt,
    /// The device from which they come, without anything in between: whether it lives at all.
    pub medium: &'a dyn ReadAt,
    /// Asked when all is read, before any target gets its ends: whether what was read is still good. When not, the copy
    /// ends with [`Error::SourceInUse`], no target having been finished.
    pub still_good: &'a (dyn Fn() -> bool + Sync),
}

/// One place to copy to.
#[derive(Clone, Copy)]
pub struct CopyTarget<'a> {
    /// What is written, as large as the source or larger.
    pub device: &'a dyn WriteAt,
    /// It is known to read as zeros.
    pub fresh: bool,
}

/// What a copy did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CopyReport {
    /// Each target, in the order given.
    pub targets: Vec<TargetReport>,
    /// The source could not be read there: zeros on the targets.
    pub bad_ranges: Vec<Extent>,
    /// The source is an image, and the store could not give these parts, widened to 4096 bytes: the targets hold there
    /// what they held before.
    pub damaged: Vec<CopyDamage>,
}

/// What was done to one target.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TargetReport {
    /// Written as data.
    pub written_bytes: u64,
    /// Made zeros.
    pub zeroed_bytes: u64,
    /// Were right already.
    pub unchanged_bytes: u64,
    /// Its ends are in place: nothing failed, and nothing was damaged, or `keep_damaged` was given. Otherwise it does not
    /// boot, unless nothing had to be written to it.
    pub finished: bool,
    /// What reading back found, when it was asked for and the target was finished: in differences, no volumes are told.
    pub verified: Option<VerifyReport>,
    /// Why this target was given up; the others went on.
    pub failed: Option<Error>,
}

/// A part of the source that could not be had.
#[derive(Debug)]
pub struct CopyDamage {
    /// Where in the source.
    pub extent: Extent,
    /// Why; of the first part, where neighbours were joined.
    pub error: disk::Error,
}

impl<'a> CopySource<'a> {
    /// A source that is its own medium, and that nobody writes to.
    pub fn new(device: &'a dyn ReadAt) -> CopySource<'a> {
        CopySource { view: device, medium: device, still_good: &|| true }
    }
}

/// Brings what lies in `extents` of the source onto the targets. Elsewhere, targets keep what they have.
///
/// [`Counter::Done`] counts each byte of the extents once, [`Counter::Written`], [`Counter::Zeros`] and
/// [`Counter::Unchanged`] count for each target. When all targets fail, the error is that of the first.
pub fn copy(
    source: &dyn ReadAt,
    extents: &[Extent],
    targets: &[CopyTarget<'_>],
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport, Error> {
    copy_from(&CopySource::new(source), extents, targets, options, progress)
}

/// As [`copy`], from a source of which more is known.
pub fn copy_from(
    source: &CopySource<'_>,
    extents: &[Extent],
    targets: &[CopyTarget<'_>],
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport, Error> {
    let places = Places::new(source.view.size_bytes(), extents);
    let sinks = Sink::of_all(targets, &places, options, progress);
    let proofs = Proofs::new(if options.verify { places.len() } else { 0 });
    let job = Job { places, reading: Reading::new(source, progress), sinks, proofs, progress };
    progress.total(Some(job.places.bytes()));
    let threads = worker_count(options.threads, targets.len());
    workers::run(threads, job.places.body_len(), progress, Buffers::default, |buffers, number| {
        job.body_step(number, buffers)
    })?;
    job.write_ends(source, options.keep_damaged)?;
    if options.verify && job.sinks.iter().any(Sink::is_finished) {
        progress.note(Note::Verifying);
        proofs::read_back(&job, threads)?;
    }
    job.into_report()
}

/// Everything that the threads share.
struct Job<'a> {
    places: Places,
    reading: Reading<'a>,
    sinks: Vec<Sink<'a>>,
    proofs: Proofs,
    progress: &'a dyn Progress,
}

/// One end of the source, read.
struct End {
    step: Extent,
    content: Content,
    want: Option<AlignedBuffer>,
}

impl Job<'_> {
    /// Brings one step of the body onto all targets. They begin in turn, so that none always waits for the others.
    fn body_step(&self, number: u64, buffers: &mut Buffers) -> Result<(), Error> {
        let Some((step, parts)) = self.places.step(number) else { return Ok(()) };
        if self.sinks.iter().all(Sink::has_failed) {
            return Ok(());
        }
        let want = sized(&mut buffers.want, step.bytes);
        let content = self.reading.read(step, &parts, want)?;
        self.proofs.keep(number, &content, want);
        let first = in_memory(number) % self.sinks.len().max(1);
        let (later, sooner) = self.sinks.split_at(first);
        for sink in sooner.iter().chain(later) {
            sink.take(step, &content, want, &mut buffers.have);
        }
        self.progress.add(Counter::Done, bytes_of(&parts));
        Ok(())
    }

    /// Reads foot and head, and gives them to the targets when all is well, or when the person wants what there is.
    fn write_ends(&self, source: &CopySource<'_>, keep_damaged: bool) -> Result<(), Error> {
        let mut ends = Vec::new();
        let mut done = 0;
        for number in self.places.ends() {
            let Some((step, parts)) = self.places.step(number) else { continue };
            let mut want = None;
            let content = self.reading.read(step, &parts, sized(&mut want, step.bytes))?;
            self.proofs.keep(number, &content, sized(&mut want, step.bytes));
            done += bytes_of(&parts);
            ends.push(End { step, content, want });
        }
        if !(source.still_good)() {
            return Err(Error::SourceInUse);
        }
        let whole = keep_damaged || self.reading.is_whole();
        let count = self.sinks.len();
        workers::run(
            count,
            count as u64,
            self.progress,
            || None,
            |have, number| {
                if let Some(sink) = self.sinks.get(in_memory(number)) {
                    sink.finish(&ends, whole, have);
                }
                Ok(())
            },
        )?;
        self.progress.add(Counter::Done, done);
        Ok(())
    }

    fn into_report(self) -> Result<CopyReport, Error> {
        let (bad_ranges, damaged) = self.reading.into_findings();
        let mut targets: Vec<TargetReport> = self.sinks.into_iter().map(Sink::into_report).collect();
        let all_failed = targets.iter().all(|target| target.failed.is_some());
        match targets.first_mut().filter(|_| all_failed).and_then(|first| first.failed.take()) {
            Some(error) => Err(error),
            None => Ok(CopyReport { targets, bad_ranges, damaged }),
        }
    }
}

/// What is copied, in steps: those of the body, then foot and head.
struct Places {
    /// Sorted, disjoint, inside the source.
    extents: Vec<Extent>,
    ends: Ends,
    body: Steps,
}

impl Places {
    fn new(source_bytes: u64, extents: &[Extent]) -> Places {
        let source = Extent { offset: 0, bytes: source_bytes };
        let inside = extents.iter().filter_map(|extent| intersect(*extent, source)).collect();
        let ends = Ends::new(source_bytes);
        Places { extents: join_extents(inside), ends, body: Steps::new(ends.body) }
    }

    fn body_len(&self) -> u64 {
        self.body.len()
    }

    /// With the ends.
    fn len(&self) -> u64 {
        self.body_len() + 2
    }

    /// The numbers of foot and head.
    fn ends(&self) -> [u64; 2] {
        [self.body_len(), self.body_len() + 1]
    }

    /// What must be broken before the body changes: foot and head, as far as they will be written.
    fn end_parts(&self) -> Vec<Extent> {
        [self.ends.head, self.ends.foot].into_iter().flat_map(|end| self.parts(end)).collect()
    }

    /// A step, and what of it is copied; `None` when that is nothing. It begins at a border of a block and ends with the
    /// last part, as a target may end there.
    fn step(&self, number: u64) -> Option<(Extent, Vec<Extent>)> {
        let whole = match number.checked_sub(self.body_len()) {
            None => self.body.step(number)?,
            Some(0) => self.ends.foot,
            Some(_) => self.ends.head,
        };
        let parts = self.parts(whole);
        let (first, last) = (parts.first()?, parts.last()?);
        let offset = first.offset / BLOCK_BYTES * BLOCK_BYTES;
        Some((Extent { offset, bytes: last.end() - offset }, parts))
    }

    /// What of an extent is copied.
    fn parts(&self, extent: Extent) -> Vec<Extent> {
        within(&self.extents, extent).collect()
    }

    fn bytes(&self) -> u64 {
        bytes_of(&self.extents)
    }

    /// Where the last byte lies that is copied, plus one: what a target must have.
    fn end(&self) -> u64 {
        self.extents.last().map_or(0, Extent::end)
    }
}

/// The parts of sorted, disjoint extents that lie in another.
fn within(extents: &[Extent], extent: Extent) -> impl Iterator<Item = Extent> + '_ {
    let first = extents.partition_point(|it| it.end() <= extent.offset);
    extents[first..].iter().map_while(move |it| intersect(*it, extent))
}

fn bytes_of(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.bytes).sum()
}

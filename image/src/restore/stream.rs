//! Restore to a stream (standard output): the image's bytes in order.
//!
//! Promise: what is written is the image from its start; when a part of it is damaged, the stream ends there with an
//! error, unless zeros in its place were asked for. Memory is a fixed number of steps.
//! Knows nothing of targets: nothing is compared, nothing is sparse.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use disk::Extent;
use store::StoredImage;

use super::RestoreOptions;
use crate::damage::join_damage;
use crate::expected::{Expected, Piece, STEP_BYTES, Steps};
use crate::fill::{fill, range_of};
use crate::segment::in_memory;
use crate::workers::thread_count;
use crate::{Counter, Damage, Error, Note, Progress, SourceInfo};

/// More threads than this are not used, to bound the memory: 16 · (2 · 4 + 4 MiB).
const WORKERS_MAX: usize = 16;

/// Steps in memory for each worker: one that is being filled, one that waits to be written.
const STEPS_PER_WORKER: usize = 2;

/// What went into a stream.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct StreamReport {
    /// Bytes written.
    pub written_bytes: u64,
    /// The source could not be read there when it was captured: zeros in the stream.
    pub bad_ranges: Vec<Extent>,
    /// Could not be had from the store: zeros in the stream, with `keep_damaged` only.
    pub damaged: Vec<Damage>,
}

/// A step on its way to the stream.
struct Filled {
    number: u64,
    bytes: Vec<u8>,
    /// What of it could not be had: zeros.
    damaged: Vec<(Extent, store::Error)>,
}

/// Memory for the next step, and its number: taken together, so that the step that is waited for always has memory.
struct Queue {
    empty: Receiver<Vec<u8>>,
    next: u64,
}

/// Writes all of an image.
pub fn restore_to_stream(
    image: &StoredImage,
    output: &mut dyn Write,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<StreamReport, Error> {
    let info = SourceInfo::from_manifest(image.manifest())?;
    let workers = thread_count(options.threads).min(WORKERS_MAX);
    let mut report = StreamReport { bad_ranges: info.bad_ranges.clone(), ..StreamReport::default() };
    progress.total(Some(image.bytes()));
    let (to_workers, empty) = channel();
    let (to_writer, filled) = channel();
    for _ in 0..workers * STEPS_PER_WORKER {
        // The receiver is alive: it is ours.
        to_workers.send(Vec::new()).unwrap_or_default();
    }
    let queue = Mutex::new(Queue { empty, next: 0 });
    thread::scope(|scope| {
        for _ in 0..workers {
            let (queue, to_writer) = (&queue, to_writer.clone());
            scope.spawn(move || fetch_steps(image, queue, &to_writer));
        }
        // Only the workers' copies keep the writer waiting; when it goes, so do they.
        drop(to_writer);
        let mut write = |step: Filled| write_step(step, output, &info, options, &mut report, progress);
        write_steps(filled, to_workers, &mut write)
    })?;
    output.flush().map_err(|source| Error::WriteStream { offset: report.written_bytes, bytes: 0, source })?;
    report.damaged = join_damage(report.damaged);
    Ok(report)
}

/// A worker: fills steps until there are no more, or nobody wants them.
fn fetch_steps(image: &StoredImage, queue: &Mutex<Queue>, to_writer: &Sender<Filled>) {
    let steps = Steps::new(Extent { offset: 0, bytes: image.bytes() });
    loop {
        let mut taken = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(memory) = taken.empty.recv() else { return };
        let number = taken.next;
        taken.next += 1;
        drop(taken);
        let Some(step) = steps.step(number) else { return };
        if to_writer.send(fetch_step(image, number, step, memory)).is_err() {
            return;
        }
    }
}

/// Hands on what workers filled, in order, and their memory back to them.
fn write_steps(
    filled: Receiver<Filled>,
    to_workers: Sender<Vec<u8>>,
    write: &mut dyn FnMut(Filled) -> Result<Vec<u8>, Error>,
) -> Result<(), Error> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for step in filled {
        waiting.insert(step.number, step);
        while let Some(step) = waiting.remove(&next) {
            let memory = write(step)?;
            // Without a worker left there is no use for it.
            to_workers.send(memory).unwrap_or_default();
            next += 1;
        }
    }
    Ok(())
}

fn fetch_step(image: &StoredImage, number: u64, step: Extent, mut bytes: Vec<u8>) -> Filled {
    bytes.resize(in_memory(step.bytes.min(STEP_BYTES)), 0);
    let pieces = match Expected::image(image, image.bytes()).pieces(step) {
        Ok(pieces) => pieces,
        Err(error) => {
            bytes.fill(0);
            return Filled { number, bytes, damaged: vec![(step, error)] };
        }
    };
    let pieces: Vec<&Piece> = pieces.iter().collect();
    let failed = fill(image, step.offset, &pieces, &mut bytes);
    let mut damaged = Vec::new();
    for (number, error) in failed {
        bytes[range_of(pieces[number], step.offset)].fill(0);
        damaged.push((pieces[number].extent, error));
    }
    Filled { number, bytes, damaged }
}

/// Writes one step; returns its memory.
fn write_step(
    Filled { bytes, damaged, .. }: Filled,
    output: &mut dyn Write,
    info: &SourceInfo,
    options: &RestoreOptions,
    report: &mut StreamReport,
    progress: &dyn Progress,
) -> Result<Vec<u8>, Error> {
    if progress.cancelled() {
        return Err(Error::Interrupted);
    }
    for (extent, error) in damaged {
        if !options.keep_damaged {
            return Err(Error::Chunk { extent, source: error });
        }
        progress.note(Note::Damaged(extent));
        report.damaged.push(Damage { extent, volume: info.volume_at(extent.offset), error });
    }
    let written = output.write_all(&bytes);
    let offset = report.written_bytes;
    written.map_err(|source| Error::WriteStream { offset, bytes: bytes.len() as u64, source })?;
    report.written_bytes += bytes.len() as u64;
    progress.add(Counter::Done, bytes.len() as u64);
    Ok(bytes)
}

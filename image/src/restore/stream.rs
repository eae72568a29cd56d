//! Restore to a stream (standard output): the image's bytes in order.
//!
//! Promise: what is written is the image from its start; when a part of it is damaged, the stream ends there with an
//! error, unless zeros in its place were asked for. Memory is two batches of steps.
//! Knows nothing of targets: nothing is compared, nothing is sparse.

use std::io::Write;
use std::thread;

use disk::Extent;
use store::StoredImage;

use super::RestoreOptions;
use crate::damage::join_damage;
use crate::expected::{Expected, STEP_BYTES, Steps, Want};
use crate::segment::in_memory;
use crate::workers::thread_count;
use crate::{Counter, Damage, Error, Note, Progress, SourceInfo};

/// Steps that are fetched at once: more threads than this are not used, to bound the memory (2 * 16 * 4 MiB).
const BATCH_MAX: u64 = 16;

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

/// A step's bytes, and what of them could not be had.
type Filled = (Vec<u8>, Vec<(Extent, store::Error)>);

/// Writes all of an image.
pub fn restore_to_stream(
    image: &StoredImage,
    output: &mut dyn Write,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<StreamReport, Error> {
    let info = SourceInfo::from_manifest(image.manifest())?;
    let steps = Steps::new(Extent { offset: 0, bytes: image.bytes() });
    let batch = (thread_count(options.threads) as u64).min(BATCH_MAX);
    let mut report = StreamReport { bad_ranges: info.bad_ranges.clone(), ..StreamReport::default() };
    progress.total(Some(image.bytes()));
    let mut ready = fetch(image, &steps, 0..batch);
    let mut next = batch;
    while !ready.is_empty() {
        let fetched = thread::scope(|scope| {
            let fetching = scope.spawn(|| fetch(image, &steps, next..next + batch));
            for filled in std::mem::take(&mut ready) {
                write_step(filled, output, &info, options, &mut report, progress)?;
            }
            // A panic in there is a bug, and goes on here.
            Ok::<_, Error>(fetching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        ready = fetched;
        next += batch;
    }
    output.flush().map_err(|source| Error::WriteStream { offset: report.written_bytes, bytes: 0, source })?;
    report.damaged = join_damage(report.damaged);
    Ok(report)
}

/// Fetches some steps, one thread each.
fn fetch(image: &StoredImage, steps: &Steps, numbers: std::ops::Range<u64>) -> Vec<Filled> {
    thread::scope(|scope| {
        let steps = numbers.filter_map(|number| (number < steps.len()).then(|| steps.step(number)).flatten());
        let threads: Vec<_> = steps.map(|step| scope.spawn(move || fetch_step(image, step))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Filled>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

fn fetch_step(image: &StoredImage, step: Extent) -> Filled {
    let mut bytes = vec![0; in_memory(step.bytes.min(STEP_BYTES))];
    let pieces = match Expected::image(image, image.bytes()).pieces(step) {
        Ok(pieces) => pieces,
        Err(error) => return (bytes, vec![(step, error)]),
    };
    let mut chunks = Vec::new();
    let mut places = Vec::new();
    for piece in &pieces {
        if let Want::Chunk { chunk, whole } = &piece.want {
            chunks.push(*chunk);
            places.push((piece.extent, in_memory(piece.extent.offset - whole.offset)));
        }
    }
    let mut damaged = Vec::new();
    for ((extent, skip), fetched) in places.into_iter().zip(image.fetch(&chunks)) {
        match fetched {
            Ok(plain) => {
                let start = in_memory(extent.offset - step.offset);
                let count = in_memory(extent.bytes);
                // In bounds: the store returns as many bytes as the chunk has, and the piece is part of it.
                bytes[start..start + count].copy_from_slice(&plain[skip..skip + count]);
            }
            Err(error) => damaged.push((extent, error)),
        }
    }
    (bytes, damaged)
}

fn write_step(
    (bytes, damaged): Filled,
    output: &mut dyn Write,
    info: &SourceInfo,
    options: &RestoreOptions,
    report: &mut StreamReport,
    progress: &dyn Progress,
) -> Result<(), Error> {
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
    Ok(())
}

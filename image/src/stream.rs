//! Capture of a stream: the caller's thread reads segments, workers cut them.
//!
//! Promise: the same runs as the same bytes in a device without partitions. Memory is a fixed number of segments.
//! Knows nothing of devices: a stream has no bad sectors, only an end and errors.

use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use disk::{Extent, Identity, Layout};
use store::{Guide, Store, Writer};

use crate::capture::{cut_rule, finish, give_up, newest_image_of, submit};
use crate::cutter::{CutRule, Cutter};
use crate::guided::{Guided, guide_of, guide_segment};
use crate::segment::{check_segment_bytes, in_memory};
use crate::workers::{Failure, thread_count};
use crate::{CaptureOptions, Captured, Counter, Error, Note, Progress, SourceInfo, SourceRegion};

/// Segments in memory, being read or cut, must not exceed this, so that a capture stays within 512 MiB.
const STREAM_BYTES_MAX: u64 = 256 << 20;

/// What is read between two looks at whether to go on.
const READ_BYTES: usize = 1 << 20;

/// Captures everything that `input` has to give.
pub fn capture_stream(
    input: &mut dyn Read,
    store: &Store,
    options: &CaptureOptions,
    progress: &dyn Progress,
) -> Result<Captured, Error> {
    let rule = cut_rule(store)?;
    let segment_bytes = store.config().segment_bytes;
    check_segment_bytes(segment_bytes)?;
    let mut source = SourceInfo::stream(Identity::stream(), Layout::default());
    let parent = newest_image_of(store, &source, options)?;
    let writer = store.writer(&options.writer)?;
    if let Some(text) = writer.catalogue_state().note() {
        progress.note(Note::Store(&text));
    }
    progress.total(None);
    let guide = guide_of(store, &writer, parent);
    let job = Job { writer: &writer, guide: guide.as_ref(), rule, segment_bytes, progress };
    match read_all(input, &job, options.threads) {
        Err(error) => Err(give_up(writer, error)),
        Ok(bytes) => {
            source.identity.size_bytes = bytes;
            if bytes > 0 {
                let extent = Extent { offset: 0, bytes };
                source.regions.push(SourceRegion { extent, volume: None, excluded: false });
            }
            finish(writer, source, parent, options)
        }
    }
}

/// A segment on its way to a worker.
struct Filled {
    number: u64,
    buffer: Vec<u8>,
    bytes: usize,
}

/// What reader and workers share.
struct Job<'a> {
    writer: &'a Writer,
    guide: Option<&'a Guide>,
    rule: CutRule,
    segment_bytes: u64,
    progress: &'a dyn Progress,
}

/// Reads to the end; returns the number of bytes.
fn read_all(input: &mut dyn Read, job: &Job, threads: usize) -> Result<u64, Error> {
    let threads = thread_count(threads);
    let buffers = (STREAM_BYTES_MAX / job.segment_bytes).clamp(2, threads as u64 + 1);
    let (to_workers, filled) = channel();
    let (to_reader, empty) = channel();
    for _ in 0..buffers {
        // The receiver is alive: it is ours.
        to_reader.send(Vec::new()).unwrap_or_default();
    }
    let filled = Mutex::new(filled);
    let failure = Failure::default();
    let bytes = thread::scope(|scope| {
        for _ in 0..threads {
            let to_reader = to_reader.clone();
            let (filled, failure) = (&filled, &failure);
            scope.spawn(move || cut_segments(job, filled, &to_reader, failure));
        }
        // Only the workers' copies keep the reader waiting.
        drop(to_reader);
        let bytes = read_segments(input, job, &empty, &to_workers, &failure);
        drop(to_workers);
        bytes
    });
    failure.into_result()?;
    bytes
}

/// The reader: fills buffers in order. Ends early, without an error of its own, when a worker has failed.
fn read_segments(
    input: &mut dyn Read,
    job: &Job,
    empty: &Receiver<Vec<u8>>,
    to_workers: &Sender<Filled>,
    failure: &Failure,
) -> Result<u64, Error> {
    let mut total = 0;
    for number in 0.. {
        let Ok(mut buffer) = empty.recv() else { break };
        if failure.happened() {
            break;
        }
        buffer.resize(in_memory(job.segment_bytes), 0);
        let bytes = fill(input, &mut buffer, total, job.progress)?;
        total += bytes as u64;
        let last = bytes < buffer.len();
        if bytes > 0 && to_workers.send(Filled { number, buffer, bytes }).is_err() {
            break;
        }
        if last {
            break;
        }
    }
    Ok(total)
}

/// Fills a buffer, or as much of it as the stream has left.
fn fill(
    input: &mut dyn Read,
    buffer: &mut [u8],
    before: u64,
    progress: &dyn Progress,
) -> Result<usize, Error> {
    let mut done = 0;
    while done < buffer.len() {
        if progress.cancelled() {
            return Err(Error::Interrupted);
        }
        let end = buffer.len().min(done + READ_BYTES);
        match input.read(&mut buffer[done..end]) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::ReadStream { offset: before + done as u64, source }),
        }
    }
    Ok(done)
}

/// A worker: cuts segments until there are no more.
fn cut_segments(job: &Job, filled: &Mutex<Receiver<Filled>>, to_reader: &Sender<Vec<u8>>, failure: &Failure) {
    loop {
        let next = filled.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(segment) = next else { return };
        if !failure.happened()
            && let Err(error) = cut_segment(job, &segment)
        {
            failure.record(error);
        }
        // The reader may have ended before us: then nobody needs the buffer.
        to_reader.send(segment.buffer).unwrap_or_default();
    }
}

fn cut_segment(job: &Job, segment: &Filled) -> Result<(), Error> {
    let bytes = &segment.buffer[..segment.bytes];
    let offset = segment.number * job.segment_bytes;
    let guide = guide_segment(job.guide, Extent { offset, bytes: segment.bytes as u64 });
    let mut cutter = Cutter::new(job.rule, Guided::new(job.writer, &guide));
    cutter.feed(bytes)?;
    let carry = cutter.carry();
    let runs = cutter.finish(&bytes[bytes.len() - carry..])?;
    job.progress.add(Counter::Done, bytes.len() as u64);
    submit(job.writer, segment.number, runs, &guide, job.progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{capture_bytes, disk_bytes, options, small_store};

    /// Gives odd amounts, as pipes do.
    struct Pipe<'a>(&'a [u8]);

    impl Read for Pipe<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let count = buf.len().min(7777);
            self.0.read(&mut buf[..count])
        }
    }

    #[test]
    fn a_stream_gives_the_image_of_the_file() {
        for length in [0, 1, 256 << 10, 1_500_000] {
            let bytes = disk_bytes(7, length);
            let (_home, store) = small_store();
            let (of_file, _) = capture_bytes(&store, &bytes);
            let captured = capture_stream(&mut Pipe(&bytes), &store, &options(3), &()).unwrap();
            assert_eq!(captured.manifest.bytes, length as u64);
            assert_eq!(captured.manifest.statistics.new_chunks, 0);
            let root = |captured: &Captured| captured.manifest.root.map(|root| root.id);
            assert_eq!(root(&captured), root(&of_file));
            SourceInfo::from_manifest(&captured.manifest).unwrap();
        }
    }

    #[test]
    fn a_stream_that_breaks_is_an_error_with_its_offset() {
        struct Broken(u32);
        impl Read for Broken {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.0 += 1;
                let end = self.0 > 3;
                buf[..1000].fill(1);
                if end { Err(std::io::Error::other("broken")) } else { Ok(1000) }
            }
        }
        let (_home, store) = small_store();
        let result = capture_stream(&mut Broken(0), &store, &options(2), &());
        assert!(matches!(result, Err(Error::ReadStream { offset: 3000, .. })), "{result:?}");
        assert!(store.images().unwrap().is_empty());
    }
}

//! Some threads that take numbered pieces of work in order.
//!
//! Promise: pieces are begun in order, each once; after the first error or a request to stop no further piece begins,
//! and all threads have ended when `run` returns. Knows nothing of the work.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::{Error, Progress};

/// More threads than this gain nothing on one device, and each has a window in memory.
const THREADS_MAX: usize = 64;

/// With more threads than this a restore's buffers alone come near the 512 MiB that an operation may take: only for who
/// asks for them.
const THREADS_DEFAULT_MAX: usize = 16;

/// How many threads to use when the caller says 0: one for each processor, within reason.
pub(crate) fn thread_count(asked: usize) -> usize {
    let count = match asked {
        0 => thread::available_parallelism().map_or(1, usize::from).min(THREADS_DEFAULT_MAX),
        asked => asked,
    };
    count.clamp(1, THREADS_MAX)
}

/// Does `count` pieces of work on some threads; each thread has a state of its own (its buffers).
pub(crate) fn run<S>(
    threads: usize,
    count: u64,
    progress: &dyn Progress,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, u64) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicU64::new(0);
    let failure = Failure::default();
    let worker = || {
        let mut state = state();
        while !failure.happened() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let done = if progress.cancelled() { Err(Error::Interrupted) } else { work(&mut state, number) };
            if let Err(error) = done {
                failure.record(error);
            }
        }
    };
    let useful = u64::try_from(thread_count(threads)).unwrap_or(1).min(count.max(1));
    thread::scope(|scope| {
        for _ in 1..useful {
            scope.spawn(worker);
        }
        worker();
    });
    failure.into_result()
}

/// The first error of several threads.
#[derive(Default)]
pub(crate) struct Failure {
    happened: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Failure {
    /// Whether to stop.
    pub(crate) fn happened(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }

    /// Keeps the first error. The reason given by whoever fails first is the cause; the others follow from it.
    pub(crate) fn record(&self, error: Error) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.happened.store(true, Ordering::Relaxed);
    }

    pub(crate) fn into_result(self) -> Result<(), Error> {
        match self.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once() {
        for threads in [1, 3] {
            let seen = Mutex::new(Vec::new());
            run(
                threads,
                100,
                &(),
                || (),
                |(), number| {
                    seen.lock().unwrap().push(number);
                    Ok(())
                },
            )
            .unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_stops_the_rest() {
        let begun = AtomicU64::new(0);
        let result = run(
            2,
            1_000_000,
            &(),
            || (),
            |(), _| {
                begun.fetch_add(1, Ordering::Relaxed);
                Err(Error::Interrupted)
            },
        );
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!(begun.into_inner() <= 4);
    }
}

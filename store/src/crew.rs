//! Several threads on one list of things, taken in order.
//!
//! Promise: with one thread in the pool that it is called from, all is done on that thread (the simulation of the
//! protocol runs each actor in such a pool). Knows nothing of what is done.

use std::sync::atomic::{AtomicUsize, Ordering};

/// While one thread waits for the disk another computes: so many threads for each of the pool's.
pub(crate) const THREADS_WHILE_READING: usize = 2;
/// No crew is larger, so that what each thread holds is bounded on any machine.
pub(crate) const THREADS_MAX: usize = 32;

/// Threads that a crew may have here.
pub(crate) fn threads() -> usize {
    match rayon::current_num_threads() {
        1 => 1,
        threads => (threads * THREADS_WHILE_READING).min(THREADS_MAX),
    }
}

/// Does `work` with each item, the first ones first, on so many threads; stops taking more when one says `false`.
pub(crate) fn each<T: Sync>(threads: usize, items: &[T], work: impl Fn(&T) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let all = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !work(item) {
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    };
    let threads = threads.min(items.len());
    let pool = || rayon::ThreadPoolBuilder::new().num_threads(threads).build().ok();
    match if threads > 1 { pool() } else { None } {
        Some(pool) => drop(pool.broadcast(|_| all())),
        None => all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn each_item_is_done_once_and_none_after_a_stop() {
        let items: Vec<usize> = (0..500).collect();
        for threads in [1, 2, 7] {
            let done = Mutex::new(Vec::new());
            each(threads, &items, |item| {
                done.lock().unwrap().push(*item);
                true
            });
            let mut done = done.into_inner().unwrap();
            done.sort_unstable();
            assert_eq!(done, items);
            let done = AtomicUsize::new(0);
            each(threads, &items, |_| done.fetch_add(1, Ordering::Relaxed) < 10);
            assert!((11..11 + 2 * threads).contains(&done.into_inner()));
        }
    }
}

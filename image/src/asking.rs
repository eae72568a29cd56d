//! Whether to read a step of the target before it is written, learnt from the steps before.
//!
//! Promise: a target that holds something of the image is asked, at the latest [`PROBE_STEPS`] steps after that begins; one
//! that holds nothing of it is hardly read at all. Knows nothing of what is read.

use std::sync::atomic::{AtomicU64, Ordering};

/// So many steps in a row (64 MiB) without use, and asking is given up but for probes.
const MISSES_MAX: u64 = 16;

/// Then one step in so many is asked: 2 % of a read through, and 252 MiB at most that are written without need.
const PROBE_STEPS: u64 = 64;

/// A step was worth reading when one byte in so many need not be written: reading is not that much cheaper.
const WORTH: u64 = 8;

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    misses: AtomicU64,
}

impl Asking {
    /// Whether to read the step with this number.
    pub(crate) fn is_worth(&self, step: u64) -> bool {
        self.misses.load(Ordering::Relaxed) < MISSES_MAX || step.is_multiple_of(PROBE_STEPS)
    }

    /// What reading a step was good for.
    pub(crate) fn learn(&self, step_bytes: u64, unchanged_bytes: u64) {
        if unchanged_bytes.saturating_mul(WORTH) >= step_bytes {
            self.misses.store(0, Ordering::Relaxed);
        } else {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_disk_is_asked_now_and_then() {
        let asking = Asking::default();
        let asked = |steps: std::ops::Range<u64>, unchanged| {
            let worth =
                steps.filter(|step| asking.is_worth(*step).then(|| asking.learn(100, unchanged)).is_some());
            worth.count() as u64
        };
        assert_eq!(asked(1..1 + MISSES_MAX, 12), MISSES_MAX);
        assert_eq!(asked(17..64 * 10, 12), 9);
        assert_eq!(asked(640..1000, 13), 360, "the first probe shows that it is the same from there on");
    }
}

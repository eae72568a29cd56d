//! What went wrong while a device was shown: other programs see only "Input/output error".
//!
//! Promise: the first failure is kept, all are counted and told.

use std::error::Error;
use std::sync::{Mutex, PoisonError};

/// Reads and writes that ended with an error since the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// The first one, with its causes.
    pub first: Option<String>,
}

/// Who is told of each.
pub(crate) type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// Takes failures from many threads.
#[derive(Default)]
pub(crate) struct Ledger {
    failures: Mutex<Failures>,
    tell: Option<Tell>,
}

impl Ledger {
    pub(crate) fn new(tell: Tell) -> Ledger {
        Ledger { tell: Some(tell), ..Ledger::default() }
    }

    /// Notes an error that happened to `place`.
    pub(crate) fn note(&self, place: &str, error: &dyn Error) {
        let mut text = format!("{place}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        if let Some(tell) = &self.tell {
            tell(&text);
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count += 1;
        failures.first.get_or_insert(text);
    }

    /// So far.
    pub(crate) fn so_far(&self) -> Failures {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! Waiting for the store's lock: said once, with the holder's name, and open to Ctrl-C.
//!
//! Promise: the operation is begun anew only after it failed for the lock, before it did anything.
//! Knows nothing of the operation.

use crate::args::Context;
use crate::units;
use anyhow::Result;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two tries: short against any capture, long against opening a store.
const RETRY_EVERY: Duration = Duration::from_millis(300);

/// The option of every command that writes.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct LockWait {
    /// How long to wait for another process that writes to the store, e.g. 10m
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = units::parse_duration)]
    pub(crate) lock_wait: Duration,
}

impl LockWait {
    /// Runs `operation`, again and again while somebody else holds the lock and the time is not over.
    pub(crate) fn run<T, E>(self, context: &Context, mut operation: impl FnMut() -> Result<T, E>) -> Result<T>
    where
        anyhow::Error: From<E>,
    {
        let deadline = Instant::now() + self.lock_wait;
        let mut told = false;
        loop {
            let error = match operation() {
                Ok(value) => return Ok(value),
                Err(error) => anyhow::Error::from(error),
            };
            if !is_locked(&error) || Instant::now() >= deadline {
                return Err(error);
            }
            if context.signals.stopped() {
                return Err(store::Error::Interrupted.into());
            }
            if !told {
                told = true;
                let longest = units::show_duration(self.lock_wait);
                context.ui.note(format!("{error:#}; waiting, at most {longest}"));
            }
            sleep(RETRY_EVERY.min(deadline.saturating_duration_since(Instant::now())));
        }
    }
}

fn is_locked(error: &anyhow::Error) -> bool {
    error.chain().any(|link| {
        let of_store = |error: &store::Error| error.family() == store::Family::Locked;
        match link.downcast_ref::<image::Error>() {
            Some(image::Error::Store(inner)) => of_store(inner),
            _ => link.downcast_ref::<store::Error>().is_some_and(of_store),
        }
    })
}

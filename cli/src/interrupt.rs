//! Signals. The first Ctrl-C (or SIGTERM) asks the work to end cleanly, the second ends the process at once; SIGUSR1 asks
//! for a line of progress, as with dd.
//!
//! Promise: before `guard` is called, Ctrl-C does what it always does; a question is never deaf to it.
//! Knows nothing of what the work is.

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Exit;

/// What the signals have asked for so far.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
}

impl Signals {
    /// Listens to SIGUSR1 only, which would kill the process otherwise.
    pub(crate) fn listen() -> io::Result<Signals> {
        let signals = Signals::default();
        flag::register(SIGUSR1, Arc::clone(&signals.report))?;
        Ok(signals)
    }

    /// From here on an interruption is a request. Called once, when the work begins and nothing is asked any more.
    pub(crate) fn guard(&self) -> io::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in this order: the flag is still down when the first signal passes the shutdown.
            flag::register_conditional_shutdown(
                signal,
                i32::from(Exit::Interrupted.code()),
                Arc::clone(&self.stop),
            )?;
            flag::register(signal, Arc::clone(&self.stop))?;
        }
        Ok(())
    }

    /// Whether the work should end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The request was followed; from here on the next one is the first again.
    pub(crate) fn followed(&self) {
        self.stop.store(false, Ordering::Relaxed);
    }

    /// Whether a line of progress was asked for since the last call.
    pub(crate) fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }
}

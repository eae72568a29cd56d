//! Who may do what beside whom, and the lock of a local store (DESIGN §5.5 has the table of operations).
//!
//! Promise: one writer or collector per local store at a time; a lock ends with its process, however that ends.
//! Readers take none. Safety of images does not rest on it (DESIGN §5.3): it keeps the catalogue to one process and
//! spares people the waste of two captures of one disk.

use crate::Error;
use crate::session::SessionInfo;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a waiting process looks again.
const RETRY: Duration = Duration::from_millis(100);

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

/// Takes the lock in `folder`, waiting up to `wait`; `holders` is asked for the error only.
pub(crate) fn take(
    folder: &Path,
    place: &str,
    wait: Duration,
    holders: impl Fn() -> Vec<SessionInfo>,
) -> Result<StoreLock, Error> {
    let failed = |source| Error::Lock { place: place.to_string(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file = File::options().create(true).append(true).open(folder.join("lock")).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(StoreLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() >= wait => {
                return Err(Error::Locked { place: place.to_string(), holders: holders() });
            }
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => std::thread::sleep(RETRY),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

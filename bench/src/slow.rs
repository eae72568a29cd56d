//! A store's folder that takes its time over packs, as a slow disk or a network does: how much waits in memory meanwhile?
//!
//! Promise: everything is kept; only putting packs is slow. Knows nothing of who waits.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use store::Home;
use store::backend::{Backend, Delete, Entry, Error, LocalBackend, Name, Put};

/// For each pack: two at a time make 128 MiB/s.
const PACK_TIME: Duration = Duration::from_millis(500);

/// See the file's head.
#[derive(Debug)]
struct Slow(LocalBackend);

/// A home in this folder, which holds a store already.
pub(crate) fn home(path: &Path) -> Result<Home, Error> {
    let slow = Arc::new(Slow(LocalBackend::open(path)?));
    Ok(Home::custom(slow.clone(), slow))
}

impl Backend for Slow {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        if name.as_str().starts_with("packs/") {
            sleep(PACK_TIME);
        }
        self.0.put(name, bytes)
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error> {
        self.0.get(name, range)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        self.0.list(folder)
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, Error> {
        self.0.size(name)
    }

    fn place(&self) -> String {
        self.0.place()
    }
}

impl Delete for Slow {
    fn delete(&self, name: &Name) -> Result<(), Error> {
        self.0.delete(name)
    }
}

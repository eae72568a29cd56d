//! A backend that keeps everything but packs: what is left of a writer's work when nothing has to be kept.
//!
//! Promise: packs are taken, counted and dropped; whatever else a writer needs is there. For stages, not for images.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store::Home;
use store::backend::{Backend, Delete, Entry, Error, MemoryBackend, Name, Put};

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct Sieve {
    kept: MemoryBackend,
    pack_bytes: AtomicU64,
}

impl Sieve {
    /// A home on a sieve, and the sieve.
    pub(crate) fn home() -> (Home, Arc<Sieve>) {
        let sieve = Arc::new(Sieve::default());
        (Home::custom(sieve.clone(), sieve.clone()), sieve)
    }

    /// Bytes of all packs that came.
    pub(crate) fn pack_bytes(&self) -> u64 {
        self.pack_bytes.load(Ordering::Relaxed)
    }
}

impl Backend for Sieve {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        if name.as_str().starts_with("packs/") {
            self.pack_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            return Ok(Put::Created);
        }
        self.kept.put(name, bytes)
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error> {
        self.kept.get(name, range)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        self.kept.list(folder)
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, Error> {
        self.kept.size(name)
    }

    fn place(&self) -> String {
        "sieve".to_owned()
    }
}

impl Delete for Sieve {
    fn delete(&self, name: &Name) -> Result<(), Error> {
        self.kept.delete(name)
    }
}

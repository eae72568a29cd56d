//! A backend in memory, for tests and measures.
//!
//! Promise: behaves as any other backend; clones share their objects, so a "reopened" store finds what was put.
//! Knows nothing of durability: what is in the map is there.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, Delete, Entry, Error, Name, Put, check_folder, checked_length, is_below};

type Objects = BTreeMap<Name, Arc<[u8]>>;

/// A map from names to bytes. A clone is the same map.
#[derive(Clone, Default)]
pub struct MemoryBackend {
    objects: Arc<Mutex<Objects>>,
}

impl MemoryBackend {
    /// An empty backend.
    pub fn new() -> MemoryBackend {
        MemoryBackend::default()
    }

    /// A backend of its own with the same objects: what a test compares with, or returns to.
    pub fn snapshot(&self) -> MemoryBackend {
        MemoryBackend { objects: Arc::new(Mutex::new(self.objects().clone())) }
    }

    /// Replaces or adds an object, as a failing medium might; the one way around I1, for tests of damage.
    pub fn damage(&self, name: &Name, bytes: &[u8]) {
        self.objects().insert(name.clone(), bytes.into());
    }

    /// A thread that panicked left the map whole, as each operation changes it once: its poison says nothing.
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, name: &Name) -> Result<Arc<[u8]>, Error> {
        self.objects().get(name).cloned().ok_or_else(|| Error::NotFound { name: name.clone() })
    }
}

impl Backend for MemoryBackend {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Ok(Put::Exists);
        }
        objects.insert(name.clone(), bytes.into());
        Ok(Put::Created)
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let object = self.object(name)?;
        let length = checked_length(name, &range, length(&object))?;
        let start = usize::try_from(range.start).unwrap_or(usize::MAX);
        // An empty range may start past the end, where there is no slice; any other was found to lie inside.
        Ok(object.get(start..start.saturating_add(length)).unwrap_or_default().to_vec())
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        check_folder(folder)?;
        let objects = self.objects();
        let below = objects.iter().filter(|(name, _)| is_below(name, folder));
        Ok(below.map(|(name, bytes)| Entry { name: name.clone(), bytes: length(bytes) }).collect())
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, Error> {
        Ok(self.objects().get(name).map(|bytes| length(bytes)))
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

impl Delete for MemoryBackend {
    fn delete(&self, name: &Name) -> Result<(), Error> {
        self.objects().remove(name);
        Ok(())
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBackend({} objects)", self.objects().len())
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

//! A backend that counts and logs what is asked of another.
//!
//! Promise: it changes nothing; each call is one record, whether it went well or not.
//! Knows nothing of what the calls are for.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backend, Delete, Entry, Error, Name, Put};

/// So many calls are logged, more are only counted: a few minutes of a busy writer, about 100 MB.
const RECORDS_MAX: usize = 1 << 20;

/// What can be asked of a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Operation {
    /// [`Backend::put`].
    Put,
    /// [`Backend::get`].
    Get,
    /// [`Backend::get_all`], which is one call here whatever the other backend makes of it.
    GetAll,
    /// [`Backend::list`].
    List,
    /// [`Backend::size`].
    Size,
    /// [`Backend::exists`].
    Exists,
    /// [`Delete::delete`].
    Delete,
}

/// One call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What was asked.
    pub operation: Operation,
    /// The object or folder it was about.
    pub name: Box<str>,
    /// Bytes given to a put or returned by a get; entries returned by a list; else 0.
    pub bytes: u64,
}

/// Wraps a backend. Clones share the log.
#[derive(Clone)]
pub struct RecordBackend {
    backend: Arc<dyn Backend>,
    delete: Arc<dyn Delete>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    records: Vec<Record>,
    counts: BTreeMap<Operation, u64>,
}

impl RecordBackend {
    /// Logs what is asked of these two, which are one.
    pub fn new(backend: Arc<dyn Backend>, delete: Arc<dyn Delete>) -> RecordBackend {
        RecordBackend { backend, delete, log: Arc::default() }
    }

    /// The calls since the log was last taken.
    pub fn records(&self) -> Vec<Record> {
        self.log().records.clone()
    }

    /// The calls since the log was last taken; the log and all counts start anew.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.log()).records
    }

    /// How often this was asked since the log was last taken.
    pub fn count(&self, operation: Operation) -> u64 {
        self.log().counts.get(&operation).copied().unwrap_or(0)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Whoever panicked holding it had at worst counted a call that is not logged.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, operation: Operation, name: &str, items: usize) {
        let mut log = self.log();
        *log.counts.entry(operation).or_default() += 1;
        if log.records.len() < RECORDS_MAX {
            let bytes = u64::try_from(items).unwrap_or(u64::MAX);
            log.records.push(Record { operation, name: name.into(), bytes });
        }
    }
}

impl Backend for RecordBackend {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        self.record(Operation::Put, name.as_str(), bytes.len());
        self.backend.put(name, bytes)
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let result = self.backend.get(name, range);
        self.record(Operation::Get, name.as_str(), result.as_ref().map_or(0, Vec::len));
        result
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        let result = self.backend.list(folder);
        self.record(Operation::List, folder, result.as_ref().map_or(0, Vec::len));
        result
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, Error> {
        self.record(Operation::Size, name.as_str(), 0);
        self.backend.size(name)
    }

    fn exists(&self, name: &Name) -> Result<bool, Error> {
        self.record(Operation::Exists, name.as_str(), 0);
        self.backend.exists(name)
    }

    fn get_all(&self, name: &Name, limit: u64) -> Result<Vec<u8>, Error> {
        let result = self.backend.get_all(name, limit);
        self.record(Operation::GetAll, name.as_str(), result.as_ref().map_or(0, Vec::len));
        result
    }

    fn place(&self) -> String {
        self.backend.place()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.backend.free_bytes()
    }
}

impl Delete for RecordBackend {
    fn delete(&self, name: &Name) -> Result<(), Error> {
        self.record(Operation::Delete, name.as_str(), 0);
        self.delete.delete(name)
    }
}

impl fmt::Debug for RecordBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordBackend({:?}, {} calls)", self.backend, self.log().counts.values().sum::<u64>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    #[test]
    fn each_call_is_one_record() {
        let memory = MemoryBackend::new();
        let record = RecordBackend::new(Arc::new(memory.clone()), Arc::new(memory));
        let name = Name::new("packs/x").unwrap();
        record.put(&name, b"four").unwrap();
        record.get_all(&name, 10).unwrap();
        record.get(&name, 1..3).unwrap();
        record.get(&name, 1..30).unwrap_err();
        record.list("packs").unwrap();
        record.delete(&name).unwrap();
        assert!(!record.exists(&name).unwrap());
        assert_eq!(record.size(&name).unwrap(), None);
        let calls: Vec<(Operation, u64)> =
            record.records().iter().map(|record| (record.operation, record.bytes)).collect();
        use Operation::{Exists, Get, GetAll, List, Put, Size};
        let expected = [
            (Put, 4),
            (GetAll, 4),
            (Get, 2),
            (Get, 0),
            (List, 1),
            (Operation::Delete, 0),
            (Exists, 0),
            (Size, 0),
        ];
        assert_eq!(calls, expected);
        assert_eq!((record.count(Get), record.take().len(), record.count(Get)), (2, 8, 0));
    }
}

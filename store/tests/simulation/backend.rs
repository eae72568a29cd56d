//! One actor's view of the store: every call waits for the scheduler, and may be answered wrongly on purpose.
//!
//! Promise: without a weakness it answers as the memory backend does. A weakness stands for a step of the protocol that
//! is left out; the simulation must find loss with each of them.

use crate::oracle::{Oracle, image_and_suffix};
use crate::scheduler::Scheduler;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::backend::{Backend, Delete, Entry, Error, MemoryBackend, Name, Put};

/// What is wrong with the answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weakness {
    None,
    /// Writers see no condemn record.
    WriterSeesNoCondemned,
    /// Writers see the condemn records of when they began: no post-check against them.
    WriterStaleCondemned,
    /// Writers see the packs of before they published the manifest: listed before the condemn records.
    WriterPacksFirst,
    /// Collectors see the images of when they began: no second look after condemning.
    CollectorStaleImages,
    /// Collectors see only the condemn records that they wrote.
    CollectorOwnRecords,
}

/// What an actor is, for the weaknesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Writer,
    Collector,
    User,
    Reader,
    Scrub,
}

/// Interesting things that happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    pub(crate) post_checks_failed: u64,
    pub(crate) packs_evacuated: u64,
    pub(crate) moves: u64,
    pub(crate) packs_deleted: u64,
    pub(crate) crashes: u64,
    pub(crate) undeletes: u64,
    pub(crate) reads: u64,
    pub(crate) reads_repeated: u64,
    pub(crate) scrubs: u64,
    pub(crate) errors: std::collections::BTreeMap<String, u64>,
}

/// What all actors of a schedule share.
pub(crate) struct Shared {
    pub(crate) scheduler: Scheduler,
    pub(crate) oracle: Mutex<Oracle>,
    pub(crate) events: Mutex<Events>,
    pub(crate) weakness: Weakness,
}

impl Shared {
    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Seen {
    condemned: Vec<Entry>,
    packs: Option<Vec<Entry>>,
    images: Vec<Entry>,
    own: HashSet<Name>,
    manifests: u64,
}

/// See the file's head. One for each operation of an actor.
pub(crate) struct Scheduled {
    shared: Arc<Shared>,
    raw: MemoryBackend,
    actor: usize,
    role: Role,
    seen: Mutex<Seen>,
}

impl Scheduled {
    pub(crate) fn new(shared: &Arc<Shared>, actor: usize, role: Role) -> Scheduled {
        let raw = shared.oracle().raw.clone();
        let view = Scheduled { shared: shared.clone(), raw, actor, role, seen: Mutex::default() };
        view.begin();
        view
    }

    /// A new operation begins: what stale answers are made of.
    pub(crate) fn begin(&self) {
        let mut seen = self.seen();
        seen.condemned = self.raw.list("condemned").unwrap();
        seen.images = self.raw.list("images").unwrap();
        seen.packs = None;
        seen.manifests = 0;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, what: &'static str, name: &str) -> Result<(), Error> {
        self.shared.scheduler.call(self.actor, what, name)
    }

    fn weak(&self, weakness: Weakness, role: Role) -> bool {
        // The user is a writer where it undeletes.
        let same = self.role == role || (self.role == Role::User && role == Role::Writer);
        self.shared.weakness == weakness && same
    }

    fn count_put(&self, name: &Name) {
        let mut events = self.shared.events();
        match name.as_str().split('/').next() {
            Some("packs") if self.role == Role::Collector => events.packs_evacuated += 1,
            Some("moves") => events.moves += 1,
            Some("images") if image_and_suffix(name).is_some_and(|(_, suffix)| suffix.is_empty()) => {
                let mut seen = self.seen();
                seen.manifests += 1;
                events.post_checks_failed += u64::from(seen.manifests > 1);
            }
            Some("condemned") => drop(self.seen().own.insert(name.clone())),
            _ => {}
        }
    }
}

impl Backend for Scheduled {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        if self.weak(Weakness::WriterPacksFirst, Role::Writer) && name.as_str().starts_with("images/") {
            self.seen().packs = Some(self.raw.list("packs")?);
        }
        self.call("put", name.as_str())?;
        let by_user = self.role == Role::User;
        if let Some(lost) = self.shared.oracle().before_tombstone(name, by_user) {
            self.shared.scheduler.fail(lost);
        }
        let put = self.raw.put(name, bytes)?;
        self.count_put(name);
        // A pack counts once; a marker that was there may be confirmed once more.
        if put == Put::Created || !name.as_str().starts_with("packs/") {
            self.shared.oracle().put(name, bytes);
        }
        Ok(put)
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error> {
        self.call("get", name.as_str())?;
        self.raw.get(name, range)
    }

    fn get_all(&self, name: &Name, limit: u64) -> Result<Vec<u8>, Error> {
        self.call("get all", name.as_str())?;
        self.raw.get_all(name, limit)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        self.call("list", folder)?;
        let seen = self.seen();
        match folder {
            "condemned" if self.weak(Weakness::WriterSeesNoCondemned, Role::Writer) => Ok(Vec::new()),
            "condemned" if self.weak(Weakness::WriterStaleCondemned, Role::Writer) => {
                Ok(seen.condemned.clone())
            }
            "condemned" if self.weak(Weakness::CollectorOwnRecords, Role::Collector) => {
                let all = self.raw.list(folder)?;
                Ok(all.into_iter().filter(|entry| seen.own.contains(&entry.name)).collect())
            }
            "images" if self.weak(Weakness::CollectorStaleImages, Role::Collector) => Ok(seen.images.clone()),
            "packs" if seen.packs.is_some() => Ok(seen.packs.clone().unwrap_or_default()),
            _ => self.raw.list(folder),
        }
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, Error> {
        self.call("size", name.as_str())?;
        self.raw.size(name)
    }

    fn place(&self) -> String {
        format!("actor {}", self.actor)
    }
}

impl Delete for Scheduled {
    fn delete(&self, name: &Name) -> Result<(), Error> {
        self.call("delete", name.as_str())?;
        self.raw.delete(name)?;
        self.shared.events().packs_deleted += u64::from(name.as_str().starts_with("packs/"));
        if let Some(lost) = self.shared.oracle().deleted(name) {
            self.shared.scheduler.fail(lost);
        }
        Ok(())
    }
}

impl fmt::Debug for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scheduled({}, {:?})", self.actor, self.role)
    }
}

//! A backend that fails, once and as planned, or dies.
//!
//! Promise: exactly the planned call is affected, all others are those of the backend it wraps. After a kill nothing is
//! done any more, so what the wrapped backend holds is what a new process would find.
//! Knows nothing below a call: what a power cut does to the files inside one is `sim.rs`.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Backend, Delete, Entry, Error, Name, Put};

/// What happens at the planned call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An input or output error; nothing is done.
    Eio,
    /// A put finds no space and stores nothing; the reserve does not help. Other calls fail as with `Eio`.
    NoSpace,
    /// A get finds its object short. Other calls fail as with `Eio`.
    Short,
    /// The call is done, but its answer is an input or output error: asking again has to be right.
    EioAfter,
    /// The process dies before the call.
    KillBefore,
    /// The process dies after the call was done and before its answer came.
    KillAfter,
}

/// Which call fails, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultPlan {
    /// Counted from 1, from the moment of planning.
    pub at_call: u64,
    /// What happens there.
    pub fault: Fault,
}

/// Wraps a backend. Clones share plan and count.
#[derive(Clone)]
pub struct FaultBackend {
    backend: Arc<dyn Backend>,
    delete: Arc<dyn Delete>,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, Default, Debug)]
struct State {
    calls: u64,
    plan: Option<FaultPlan>,
    fired: bool,
    dead: bool,
}

impl FaultBackend {
    /// Goes well until something is planned.
    pub fn new(backend: Arc<dyn Backend>, delete: Arc<dyn Delete>) -> FaultBackend {
        FaultBackend { backend, delete, state: Arc::default() }
    }

    /// From now on: counts anew, is alive, and fails as planned.
    pub fn plan(&self, plan: Option<FaultPlan>) {
        self.with(|state| *state = State { plan, ..State::default() });
    }

    /// Calls since the last plan. A test may loop until this stays below the planned call.
    pub fn calls(&self) -> u64 {
        self.with(|state| state.calls)
    }

    /// Whether the planned fault has happened: when not, the operation under test took fewer calls and the loop is done.
    pub fn fired(&self) -> bool {
        self.with(|state| state.fired)
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // Nothing that can panic runs under this lock.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts the call; the fault for it, if any.
    fn enter(&self) -> Result<Option<Fault>, Error> {
        self.with(|state| {
            state.calls = state.calls.saturating_add(1);
            let fault = state.plan.filter(|plan| plan.at_call == state.calls).map(|plan| plan.fault);
            state.fired |= fault.is_some();
            if state.dead || fault == Some(Fault::KillBefore) {
                state.dead = true;
                return Err(Error::Stopped);
            }
            Ok(fault)
        })
    }

    /// One call: done or not, and answered, as planned. `refusal` is the error for faults in which it is not done.
    fn call<T>(
        &self,
        name: &str,
        refusal: impl FnOnce(Fault) -> Option<Error>,
        call: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(fault) = self.enter()? else { return call() };
        match fault {
            Fault::Eio | Fault::NoSpace | Fault::Short => Err(refusal(fault).unwrap_or_else(|| eio(name))),
            Fault::EioAfter => {
                drop(call());
                Err(eio(name))
            }
            Fault::KillBefore | Fault::KillAfter => {
                self.with(|state| state.dead = true);
                drop(call());
                Err(Error::Stopped)
            }
        }
    }
}

impl Backend for FaultBackend {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        let refusal = |fault| match fault {
            Fault::NoSpace => {
                Some(Error::NoSpace { name: name.as_str().into(), source: io::ErrorKind::StorageFull.into() })
            }
            _ => None,
        };
        self.call(name.as_str(), refusal, || self.backend.put(name, bytes))
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let expected = range.end.saturating_sub(range.start);
        let refusal = |fault| short(fault, name, range.start, expected);
        self.call(name.as_str(), refusal, || self.backend.get(name, range.clone()))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        self.call(folder, |_| None, || self.backend.list(folder))
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, Error> {
        self.call(name.as_str(), |_| None, || self.backend.size(name))
    }

    fn exists(&self, name: &Name) -> Result<bool, Error> {
        self.call(name.as_str(), |_| None, || self.backend.exists(name))
    }

    fn get_all(&self, name: &Name, limit: u64) -> Result<Vec<u8>, Error> {
        self.call(name.as_str(), |fault| short(fault, name, 0, limit), || self.backend.get_all(name, limit))
    }

    fn place(&self) -> String {
        self.backend.place()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.backend.free_bytes()
    }
}

impl Delete for FaultBackend {
    fn delete(&self, name: &Name) -> Result<(), Error> {
        self.call(name.as_str(), |_| None, || self.delete.delete(name))
    }
}

impl fmt::Debug for FaultBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultBackend({:?}, {:?})", self.backend, self.with(|state| *state))
    }
}

fn eio(name: &str) -> Error {
    Error::Io {
        name: name.into(),
        operation: "do what was planned to fail",
        source: io::Error::other("planned fault"),
    }
}

fn short(fault: Fault, name: &Name, offset: u64, expected: u64) -> Option<Error> {
    (fault == Fault::Short).then(|| Error::Short { name: name.clone(), offset, expected, found: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn faulty() -> (MemoryBackend, FaultBackend) {
        let memory = MemoryBackend::new();
        let fault = FaultBackend::new(Arc::new(memory.clone()), Arc::new(memory.clone()));
        (memory, fault)
    }

    #[test]
    fn one_call_fails_and_the_next_goes_well() {
        let (memory, fault) = faulty();
        for (at, planned) in [Fault::Eio, Fault::NoSpace, Fault::Short].into_iter().enumerate() {
            let object = name(&format!("packs/{at}"));
            fault.plan(Some(FaultPlan { at_call: 1, fault: planned }));
            let error = fault.put(&object, b"x").unwrap_err();
            assert_eq!(matches!(error, Error::NoSpace { .. }), planned == Fault::NoSpace);
            assert!(!memory.exists(&object).unwrap());
            assert_eq!(fault.put(&object, b"x").unwrap(), Put::Created);
        }
        fault.plan(Some(FaultPlan { at_call: 1, fault: Fault::Short }));
        assert!(matches!(fault.get(&name("packs/0"), 0..1), Err(Error::Short { expected: 1, found: 0, .. })));
    }

    #[test]
    fn the_dead_do_nothing() {
        for (planned, done) in [(Fault::KillBefore, false), (Fault::KillAfter, true)] {
            let (memory, fault) = faulty();
            fault.plan(Some(FaultPlan { at_call: 2, fault: planned }));
            fault.put(&name("a"), b"a").unwrap();
            assert!(matches!(fault.put(&name("b"), b"b"), Err(Error::Stopped)));
            assert!(matches!(fault.delete(&name("a")), Err(Error::Stopped)));
            assert!(matches!(fault.list(""), Err(Error::Stopped)));
            assert_eq!(memory.exists(&name("b")).unwrap(), done);
            assert!(memory.exists(&name("a")).unwrap() && fault.fired());
            fault.plan(None);
            assert!(fault.exists(&name("a")).unwrap());
        }
    }

    #[test]
    fn a_lost_answer_was_done_all_the_same() {
        let (_, fault) = faulty();
        fault.plan(Some(FaultPlan { at_call: 1, fault: Fault::EioAfter }));
        assert!(fault.put(&name("a"), b"a").is_err());
        assert_eq!(fault.put(&name("a"), b"a").unwrap(), Put::Exists);
    }
}

//! The local backend, with the power cut, the process killed or a call failed at every single call to its files.
//!
//! Promise: what was acknowledged is there, whole; what was under way is there whole or not at all; the store goes on
//! from there. That the harness can fail is shown with files that skip a sync.
//! Knows nothing of stores: objects are names and bytes.

// The house allows `unwrap` in tests; clippy sees that for functions marked `#[test]` only.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use store::backend::files::{Files, Found, Kind};
use store::backend::sim::{SimFault, SimFile, SimFiles};
use store::backend::{Backend, Delete, LocalBackend, Name, Put};

const ROOT: &str = "/store";

/// Few names, so that they are put, refused, deleted and put again; in folders that exist, that do not, and in none.
const NAMES: [&str; 6] = ["config", "packs/ab/1", "packs/ab/2", "packs/cd/1", "images/1", "condemned/1"];

/// Sequences tried, and power cuts of each at each call, which differ in what survives.
const SEQUENCES: u64 = 24;
const CUTS: u64 = 4;
const STEPS: usize = 7;

#[derive(Clone, Debug)]
enum Step {
    Put(Name, Vec<u8>),
    Delete(Name),
}

/// No two puts of a sequence have the same bytes, so it shows whose they are.
fn sequence(seed: u64) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let step = |number: usize| {
        let name = Name::new(NAMES[rng.random_range(0..NAMES.len())]).unwrap();
        if rng.random_bool(0.3) {
            return Step::Delete(name);
        }
        let mut bytes = vec![0; rng.random_range(0..3000)];
        bytes.fill_with(|| rng.random_range(1..=255));
        bytes.extend(number.to_le_bytes());
        Step::Put(name, bytes)
    };
    (0..STEPS).map(step).collect()
}

/// What each object may be. More than one thing after a call that failed.
#[derive(Clone, Default, Debug)]
struct Expected(BTreeMap<Name, BTreeSet<Option<Vec<u8>>>>);

impl Expected {
    fn of(&mut self, name: &Name) -> &mut BTreeSet<Option<Vec<u8>>> {
        self.0.entry(name.clone()).or_insert_with(|| BTreeSet::from([None]))
    }

    /// Takes one step; whether it was acknowledged.
    fn take<F: Files>(&mut self, step: &Step, backend: &LocalBackend<F>) -> Result<bool, String> {
        match step {
            Step::Put(name, bytes) => {
                let result = backend.put(name, bytes);
                let expected = self.of(name);
                match result {
                    Ok(Put::Created) if !expected.contains(&None) => {
                        return Err(format!("{name}: created, but it was there"));
                    }
                    Ok(Put::Created) => *expected = BTreeSet::from([Some(bytes.clone())]),
                    Ok(Put::Exists) => expected.retain(Option::is_some),
                    Err(_) => drop(expected.insert(Some(bytes.clone()))),
                }
                Ok(result.is_ok())
            }
            Step::Delete(name) => {
                let result = backend.delete(name);
                let expected = self.of(name);
                if result.is_ok() {
                    expected.clear();
                }
                expected.insert(None);
                Ok(result.is_ok())
            }
        }
    }

    /// Compares, and from then on expects what was found.
    fn check<F: Files>(&mut self, backend: &LocalBackend<F>) -> Result<(), String> {
        let text = |error: store::backend::Error| error.to_string();
        let mut listed = BTreeMap::new();
        for entry in backend.list("").map_err(text)? {
            let bytes = backend.get_all(&entry.name, entry.bytes).map_err(text)?;
            if u64::try_from(bytes.len()) != Ok(entry.bytes) {
                return Err(format!("{}: listed with {} bytes", entry.name, entry.bytes));
            }
            listed.insert(entry.name, bytes);
        }
        for name in NAMES.map(|name| Name::new(name).unwrap()) {
            let found = listed.remove(&name);
            if backend.exists(&name).map_err(text)? != found.is_some() {
                return Err(format!("{name}: listing and size do not agree"));
            }
            let expected = self.of(&name);
            if !expected.contains(&found) {
                let lengths: Vec<_> = expected.iter().map(|one| one.as_ref().map(Vec::len)).collect();
                return Err(format!(
                    "{name}: expected one of {lengths:?}, found {:?}",
                    found.map(|b| b.len())
                ));
            }
            *expected = BTreeSet::from([found]);
        }
        if listed.is_empty() { Ok(()) } else { Err(format!("never put: {:?}", listed.keys())) }
    }
}

/// A new process opens the store, cleans, compares, goes on with the steps that were not acknowledged, loses power
/// once more after that, and compares again.
fn recover<F: Files>(
    files: &SimFiles,
    open: &dyn Fn(SimFiles) -> F,
    mut expected: Expected,
    rest: &[Step],
    seed: u64,
) -> Result<(), String> {
    let reopen = || LocalBackend::open_on(open(files.clone()), ROOT).map_err(|error| error.to_string());
    let backend = reopen()?;
    backend.clean_temporaries().map_err(|error| error.to_string())?;
    let left = files.list(&Path::new(ROOT).join("tmp")).unwrap();
    if left.iter().any(|found| found.name != "reserve" || found.kind != Kind::File(4 << 20)) {
        return Err(format!("left in tmp: {left:?}"));
    }
    expected.check(&backend)?;
    for step in rest {
        if !expected.take(step, &backend)? {
            return Err(format!("refused after recovery: {step:?}"));
        }
    }
    expected.check(&backend)?;
    files.power_cut(seed);
    expected.check(&reopen()?)
}

/// Runs a sequence, dies at call `at_call`, and recovers. `None` when the sequence takes fewer calls than that.
fn die_at<F: Files>(
    fresh: &SimFiles,
    open: &dyn Fn(SimFiles) -> F,
    steps: &[Step],
    at_call: u64,
    cut: Option<u64>,
) -> Option<Result<(), String>> {
    let files = fresh.copy();
    files.arm(at_call, SimFault::Die);
    let mut expected = Expected::default();
    let mut taken = 0;
    // A store that does not even open has not begun.
    if let Ok(backend) = LocalBackend::open_on(open(files.clone()), ROOT) {
        for step in steps {
            match expected.take(step, &backend) {
                Ok(true) => taken += 1,
                Ok(false) => break,
                Err(error) => return Some(Err(error)),
            }
        }
    }
    let fired = files.fired();
    match cut {
        Some(seed) => files.power_cut(seed),
        None => files.revive(),
    }
    let result = recover(&files, open, expected, &steps[taken..], at_call);
    (fired || result.is_err()).then_some(result)
}

/// All crash points of all sequences; how many there were, and what went wrong.
fn crash_everywhere<F: Files>(
    prepare: &dyn Fn(&SimFiles),
    open: &dyn Fn(SimFiles) -> F,
    power: bool,
) -> (u64, Vec<String>) {
    let fresh = SimFiles::new();
    prepare(&fresh);
    LocalBackend::create_on(fresh.clone(), ROOT).unwrap();
    let (mut points, mut failures) = (0, Vec::new());
    for seed in 0..SEQUENCES {
        let steps = sequence(seed);
        for cut in 0..if power { CUTS } else { 1 } {
            for at_call in 1.. {
                let chance = power.then_some(seed << 32 | at_call << 8 | cut);
                match die_at(&fresh, open, &steps, at_call, chance) {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        failures.push(format!("sequence {seed}, call {at_call}, cut {cut}: {error}"));
                        // A sequence that fails at any number of calls need not end.
                        if failures.len() > 9 {
                            return (points, failures);
                        }
                    }
                }
                points += 1;
            }
        }
    }
    (points, failures)
}

fn as_they_are(files: SimFiles) -> SimFiles {
    files
}

#[test]
fn power_lost_at_every_call() {
    let (points, failures) = crash_everywhere(&|_| {}, &as_they_are, true);
    eprintln!("power lost at {points} points, sequences 0..{SEQUENCES}");
    assert_eq!(failures, [""; 0]);
    assert!(points > SEQUENCES * CUTS * u64::try_from(STEPS).unwrap(), "each step takes calls");
}

#[test]
fn power_lost_at_every_call_without_hard_links() {
    let (points, failures) = crash_everywhere(&SimFiles::forbid_hard_links, &as_they_are, true);
    eprintln!("power lost at {points} points without hard links");
    assert_eq!(failures, [""; 0]);
}

#[test]
fn killed_at_every_call() {
    let (points, failures) = crash_everywhere(&|_| {}, &as_they_are, false);
    eprintln!("killed at {points} points");
    assert_eq!(failures, [""; 0]);
}

/// The call fails, the process goes on, and loses power in the end.
#[test]
fn each_call_fails_and_then_the_power() {
    let fresh = SimFiles::new();
    LocalBackend::create_on(fresh.clone(), ROOT).unwrap();
    let mut points = 0;
    for (seed, fault) in (0..SEQUENCES)
        .flat_map(|seed| [SimFault::Eio, SimFault::NoSpace, SimFault::ShortWrite].map(|fault| (seed, fault)))
    {
        let steps = sequence(seed);
        for at_call in 1.. {
            let files = fresh.copy();
            let backend = LocalBackend::open_on(files.clone(), ROOT).unwrap();
            files.arm(at_call, fault);
            let mut expected = Expected::default();
            for step in &steps {
                expected.take(step, &backend).unwrap();
            }
            if !files.fired() {
                break;
            }
            points += 1;
            files.power_cut(seed << 32 | at_call);
            let result = recover(&files, &as_they_are, expected, &steps, at_call);
            assert_eq!(result, Ok(()), "sequence {seed}, {fault:?} at call {at_call}");
        }
    }
    eprintln!("{points} failed calls");
}

#[test]
fn power_lost_while_a_store_is_made() {
    let mut points = 0;
    for seed in 0..CUTS * 8 {
        for at_call in 1.. {
            let files = SimFiles::new();
            files.arm(at_call, SimFault::Die);
            let made = LocalBackend::create_on(files.clone(), "/above/store");
            let fired = files.fired();
            files.power_cut(seed << 32 | at_call);
            if made.is_ok() {
                LocalBackend::open_on(files.clone(), "/above/store").unwrap();
            }
            let backend = LocalBackend::create_on(files.clone(), "/above/store").unwrap();
            let name = Name::new("packs/ab/x").unwrap();
            assert_eq!(backend.put(&name, b"x").unwrap(), Put::Created);
            files.power_cut(seed);
            let backend = LocalBackend::open_on(files, "/above/store").unwrap();
            assert_eq!(backend.get_all(&name, 1).unwrap(), b"x");
            assert!(backend.ensure_reserve().unwrap());
            if !fired {
                break;
            }
            points += 1;
        }
    }
    eprintln!("power lost at {points} points while a store was made");
}

/// The sync that is left out.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Skip {
    File,
    Folder,
    /// Of folders in which a folder is new.
    Parent,
}

/// Files that leave out what the promise rests on.
#[derive(Debug)]
struct Careless {
    files: SimFiles,
    skip: Skip,
}

impl Files for Careless {
    type File = SimFile;
    fn create_new(&self, path: &Path) -> io::Result<SimFile> {
        self.files.create_new(path)
    }
    fn write(&self, file: &mut SimFile, bytes: &[u8]) -> io::Result<usize> {
        self.files.write(file, bytes)
    }
    fn sync(&self, file: &SimFile) -> io::Result<()> {
        if self.skip == Skip::File { Ok(()) } else { self.files.sync(file) }
    }
    fn link_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.link_new(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename_new(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.files.make_folder(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let skipped = match self.skip {
            Skip::File => false,
            Skip::Folder => true,
            Skip::Parent => path == Path::new("/store/packs"),
        };
        if skipped { Ok(()) } else { self.files.sync_folder(path) }
    }
    fn read(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.files.read(path, offset, length)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Found>> {
        self.files.list(path)
    }
    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.files.kind(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.files.free_bytes(path)
    }
}

#[test]
fn each_sync_left_out_is_caught() {
    for skip in [Skip::File, Skip::Folder, Skip::Parent] {
        let (_, failures) = crash_everywhere(&|_| {}, &|files| Careless { files, skip }, true);
        assert!(!failures.is_empty(), "{skip:?}");
        eprintln!("{skip:?}: {}", failures[0]);
    }
}

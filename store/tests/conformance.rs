//! What every backend promises, tried on each of them.
//!
//! Promise: a backend that passes can be the home of a store. A new backend adds one line to the list at the end.
//! Knows nothing of stores; what a power cut does is `power_loss.rs`.

// The house allows `unwrap` in tests; clippy sees that for functions marked `#[test]` only.
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::sync::{Arc, Barrier};

use store::backend::files::OsFiles;
use store::backend::sim::SimFiles;
use store::backend::{
    Backend, Delete, Error, FaultBackend, LocalBackend, MemoryBackend, Name, Put, RecordBackend,
};

/// A race is lost by chance: so many starts, in each of the seven homes.
const RACES: u32 = 6;

type Pair = (Arc<dyn Backend>, Arc<dyn Delete>);

/// Tries everything that a backend promises; `make` gives an empty one each time.
pub fn conformance(make: &dyn Fn() -> Pair) {
    let tests: [fn(&dyn Backend, &dyn Delete); 10] = [
        what_was_put_is_got,
        ranges_are_exact,
        a_put_never_replaces,
        listings_are_whole_and_sorted,
        deleting_is_idempotent,
        what_is_absent_is_said_to_be,
        empty_objects_are_objects,
        large_objects_come_back,
        limits_are_kept,
        folders_are_no_objects,
    ];
    for test in tests {
        let (backend, delete) = make();
        test(&*backend, &*delete);
    }
    for (backend, delete) in (0..RACES).map(|_| make()) {
        one_of_many_creates(&backend);
        readers_see_all_or_nothing(&backend, &delete);
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn listed(backend: &dyn Backend, folder: &str) -> Vec<(String, u64)> {
    backend.list(folder).unwrap().into_iter().map(|entry| (entry.name.to_string(), entry.bytes)).collect()
}

/// Bytes of which no two stretches are alike.
fn pattern(length: u32) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}

fn what_was_put_is_got(backend: &dyn Backend, _: &dyn Delete) {
    for object in ["config", "config.copy", "packs/ab/abcd", "images/00.ok", "a/b/c/d"] {
        assert_eq!(backend.put(&name(object), object.as_bytes()).unwrap(), Put::Created);
    }
    for object in ["config", "config.copy", "packs/ab/abcd", "images/00.ok", "a/b/c/d"] {
        assert_eq!(backend.get_all(&name(object), 100).unwrap(), object.as_bytes());
        assert_eq!(backend.size(&name(object)).unwrap(), u64::try_from(object.len()).ok());
        assert!(backend.exists(&name(object)).unwrap());
    }
    assert!(!backend.place().is_empty());
}

fn ranges_are_exact(backend: &dyn Backend, _: &dyn Delete) {
    let object = name("packs/00/r");
    backend.put(&object, b"0123456789").unwrap();
    let whole: [(Range<u64>, &[u8]); 6] =
        [(0..10, b"0123456789"), (0..1, b"0"), (9..10, b"9"), (3..7, b"3456"), (0..0, b""), (10..10, b"")];
    for (range, expected) in whole {
        assert_eq!(backend.get(&object, range.clone()).unwrap(), expected, "{range:?}");
    }
    // Nothing here may allocate what it is asked for before it knows that it is there.
    let short: [(Range<u64>, u64); 6] =
        [(0..11, 10), (9..11, 1), (10..11, 0), (11..12, 0), (0..u64::MAX, 10), (u64::MAX - 1..u64::MAX, 0)];
    for (range, available) in short {
        match backend.get(&object, range.clone()) {
            Err(Error::Short { name, offset, expected, found }) => {
                assert_eq!((name, offset, found), (object.clone(), range.start, available), "{range:?}");
                assert_eq!(expected, range.end - range.start);
            }
            other => panic!("{range:?}: {other:?}"),
        }
    }
}

fn a_put_never_replaces(backend: &dyn Backend, _: &dyn Delete) {
    let object = name("images/x");
    assert_eq!(backend.put(&object, b"first").unwrap(), Put::Created);
    for other in [&b"second"[..], b"", b"first"] {
        assert_eq!(backend.put(&object, other).unwrap(), Put::Exists);
        assert_eq!(backend.get_all(&object, 100).unwrap(), b"first");
    }
    assert_eq!(listed(backend, "images"), [("images/x".to_owned(), 5)]);
}

fn listings_are_whole_and_sorted(backend: &dyn Backend, _: &dyn Delete) {
    assert_eq!(listed(backend, ""), []);
    assert_eq!(listed(backend, "packs"), []);
    assert_eq!(listed(backend, "never/made"), []);
    for (length, object) in
        ["packs/b/2", "packs/a/1", "packs/b/1", "packs.old", "packs2/x", "config"].iter().enumerate()
    {
        backend.put(&name(object), &vec![1; length]).unwrap();
    }
    let packs = [("packs/a/1".to_owned(), 1), ("packs/b/1".to_owned(), 2), ("packs/b/2".to_owned(), 0)];
    assert_eq!(listed(backend, "packs"), packs);
    assert_eq!(listed(backend, "packs/b"), packs[1..]);
    assert_eq!(listed(backend, "packs/b/1"), []);
    assert_eq!(listed(backend, "pack"), []);
    let all: Vec<String> = listed(backend, "").into_iter().map(|(name, _)| name).collect();
    assert_eq!(all, ["config", "packs.old", "packs/a/1", "packs/b/1", "packs/b/2", "packs2/x"]);
    for bad in ["..", "/", "packs/", "/packs", "packs/../images", "Packs", "tmp", "index"] {
        assert!(matches!(backend.list(bad), Err(Error::BadName { .. })), "{bad:?}");
    }
}

fn deleting_is_idempotent(backend: &dyn Backend, delete: &dyn Delete) {
    let (gone, stays) = (name("packs/ab/gone"), name("packs/ab/stays"));
    backend.put(&gone, b"x").unwrap();
    backend.put(&stays, b"y").unwrap();
    for _ in 0..2 {
        delete.delete(&gone).unwrap();
        assert!(!backend.exists(&gone).unwrap());
        assert_eq!(listed(backend, "packs"), [("packs/ab/stays".to_owned(), 1)]);
    }
    delete.delete(&name("packs/never/made")).unwrap();
    delete.delete(&name("never")).unwrap();
    assert_eq!(backend.put(&gone, b"again").unwrap(), Put::Created);
    assert_eq!(backend.get_all(&gone, 5).unwrap(), b"again");
}

fn what_is_absent_is_said_to_be(backend: &dyn Backend, _: &dyn Delete) {
    backend.put(&name("config"), b"x").unwrap();
    for absent in ["absent", "packs/absent", "packs/ab/absent", "config/below"] {
        let absent = name(absent);
        assert_eq!(backend.size(&absent).unwrap(), None);
        assert!(!backend.exists(&absent).unwrap());
        for range in [0..0, 0..1, 5..9] {
            assert!(matches!(backend.get(&absent, range), Err(Error::NotFound { name }) if name == absent));
        }
        assert!(matches!(backend.get_all(&absent, 9), Err(Error::NotFound { name }) if name == absent));
    }
}

fn empty_objects_are_objects(backend: &dyn Backend, _: &dyn Delete) {
    let empty = name("images/e.ok");
    assert_eq!(backend.put(&empty, b"").unwrap(), Put::Created);
    assert_eq!(backend.put(&empty, b"full").unwrap(), Put::Exists);
    assert_eq!(backend.size(&empty).unwrap(), Some(0));
    assert_eq!(backend.get(&empty, 0..0).unwrap(), b"");
    assert_eq!(backend.get_all(&empty, 0).unwrap(), b"");
    assert!(matches!(backend.get(&empty, 0..1), Err(Error::Short { found: 0, .. })));
    assert_eq!(listed(backend, "images"), [("images/e.ok".to_owned(), 0)]);
}

fn large_objects_come_back(backend: &dyn Backend, _: &dyn Delete) {
    let object = name("packs/ff/large");
    let bytes = pattern((1 << 20) + 17);
    backend.put(&object, &bytes).unwrap();
    assert!(backend.get_all(&object, 2 << 20).unwrap() == bytes);
    let (start, end) = (4097, (1 << 20) + 3);
    let range = u64::try_from(start).unwrap()..u64::try_from(end).unwrap();
    assert!(backend.get(&object, range).unwrap() == bytes[start..end]);
    assert!(backend.get(&object, 1 << 20..(1 << 20) + 17).unwrap() == bytes[1 << 20..]);
}

fn limits_are_kept(backend: &dyn Backend, _: &dyn Delete) {
    let object = name("sessions/s");
    backend.put(&object, b"12345").unwrap();
    assert_eq!(backend.get_all(&object, 5).unwrap(), b"12345");
    let refused = backend.get_all(&object, 4);
    assert!(matches!(refused, Err(Error::TooLarge { name, bytes: 5, limit: 4 }) if name == object));
}

fn folders_are_no_objects(backend: &dyn Backend, _: &dyn Delete) {
    backend.put(&name("packs/ab/x"), b"x").unwrap();
    for folder in ["packs", "packs/ab"] {
        assert_eq!(backend.size(&name(folder)).unwrap(), None);
        assert!(matches!(backend.get(&name(folder), 0..1), Err(Error::NotFound { .. })));
    }
}

fn one_of_many_creates(backend: &Arc<dyn Backend>) {
    const RACERS: u8 = 16;
    let barrier = Arc::new(Barrier::new(RACERS.into()));
    let racers = (0..RACERS).map(|racer| {
        let (backend, barrier) = (Arc::clone(backend), Arc::clone(&barrier));
        std::thread::spawn(move || {
            barrier.wait();
            (racer, backend.put(&name("packs/aa/race"), &[racer; 3000]).unwrap())
        })
    });
    let racers: Vec<_> = racers.collect();
    let results: Vec<(u8, Put)> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
    let winners: Vec<u8> =
        results.iter().filter(|(_, put)| *put == Put::Created).map(|(racer, _)| *racer).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(backend.get_all(&name("packs/aa/race"), 3000).unwrap(), [winners[0]; 3000]);
    assert_eq!(backend.list("").unwrap().len(), 1);
}

fn readers_see_all_or_nothing(backend: &Arc<dyn Backend>, delete: &Arc<dyn Delete>) {
    let object = name("packs/bb/seen");
    let bytes = pattern(100_000);
    let writer = {
        let (backend, delete, object, bytes) =
            (Arc::clone(backend), Arc::clone(delete), object.clone(), bytes.clone());
        std::thread::spawn(move || {
            for _ in 0..10 {
                backend.put(&object, &bytes).unwrap();
                delete.delete(&object).unwrap();
            }
        })
    };
    while !writer.is_finished() {
        match backend.get_all(&object, 100_000) {
            Ok(seen) => assert!(seen == bytes),
            Err(Error::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        for entry in backend.list("packs/bb").unwrap() {
            assert_eq!(entry.bytes, 100_000);
        }
    }
    writer.join().unwrap();
}

fn pair<B: Backend + Delete + 'static>(backend: B) -> Pair {
    let backend = Arc::new(backend);
    (Arc::<B>::clone(&backend), backend)
}

fn wrapped<B: Backend + Delete + 'static>(wrap: fn(Arc<dyn Backend>, Arc<dyn Delete>) -> B) -> Pair {
    let (backend, delete) = pair(MemoryBackend::new());
    pair(wrap(backend, delete))
}

#[test]
fn memory() {
    conformance(&|| pair(MemoryBackend::new()));
}

#[test]
fn local() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance(&|| {
        count.set(count.get() + 1);
        pair(LocalBackend::create(folder.path().join(format!("above/{}", count.get()))).unwrap())
    });
}

#[test]
fn local_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance(&|| {
        count.set(count.get() + 1);
        let root = folder.path().join(count.get().to_string());
        LocalBackend::create_on(OsFiles, &root).unwrap();
        pair(LocalBackend::open(&root).unwrap())
    });
}

#[test]
fn local_on_simulated_files() {
    conformance(&|| pair(LocalBackend::create_on(SimFiles::new(), "/store").unwrap()));
}

#[test]
fn local_without_hard_links() {
    conformance(&|| {
        let files = SimFiles::new();
        files.forbid_hard_links();
        pair(LocalBackend::create_on(files, "/store").unwrap())
    });
}

#[test]
fn record() {
    conformance(&|| wrapped(RecordBackend::new));
}

#[test]
fn fault_without_a_plan() {
    conformance(&|| wrapped(FaultBackend::new));
}

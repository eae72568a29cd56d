//! Random sequences of everything that can be done with a store, against plain copies of the disks; and what collecting
//! frees, what a second capture costs, where hints lead.
//!
//! Promise: every image that was confirmed and not collected reads back identically after every step. Seeds are printed.
//! Knows nothing of faults and damage: those are `faults.rs` and `damage.rs`.

// The house allows `unwrap` in tests; clippy sees that for functions marked `#[test]` only.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use store::backend::{MemoryBackend, Operation, RecordBackend};
use store::{CatalogueState, Error, GcOptions, Home, ImageId, Store};

const MEMORY_SEQUENCES: u64 = 260;
const LOCAL_SEQUENCES: u64 = 10;
const STEPS: u32 = 14;

struct Kept {
    disk: Disk,
    forgotten: bool,
    protected: bool,
}

/// A store, and what it has to hold.
struct World {
    home: Home,
    store: Store,
    rng: StdRng,
    disks: Vec<Disk>,
    images: BTreeMap<ImageId, Kept>,
    numbers: u32,
}

impl World {
    fn new(home: Home, seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let store = Store::init(&home, config()).unwrap();
        let disk = Disk::random(&mut rng, 3, 0);
        // A twin that went its own way, and a stranger.
        let disks = vec![disk.clone(), disk.changed(&mut rng, 10_000), Disk::random(&mut rng, 2, 20_000)];
        World { home, store, rng, disks, images: BTreeMap::new(), numbers: 100_000 }
    }

    fn pick(&mut self, of: impl Fn(&Kept) -> bool) -> Option<ImageId> {
        let ids: Vec<ImageId> = self.images.iter().filter(|(_, kept)| of(kept)).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[self.rng.random_range(0..ids.len())])
    }

    fn step(&mut self) -> &'static str {
        match self.rng.random_range(0..20) {
            0..=6 => self.capture(),
            7..=9 => self.forget(),
            10 => self.undelete(),
            11 => self.protect(),
            12..=15 => self.collect(),
            16 => self.scrub(),
            17 => self.index(),
            18 => self.reopen(),
            _ => self.read_somewhere(),
        }
    }

    fn capture(&mut self) -> &'static str {
        let number = self.rng.random_range(0..self.disks.len());
        if self.rng.random_bool(0.7) {
            self.numbers += 100_000;
            self.disks[number] = self.disks[number].changed(&mut self.rng, self.numbers);
        }
        let disk = self.disks[number].clone();
        let image = if self.rng.random_bool(0.3) {
            capture_in_parallel(&self.store, &disk, "disk")
        } else {
            capture(&self.store, &disk, "disk")
        };
        self.images.insert(image.unwrap(), Kept { disk, forgotten: false, protected: false });
        "capture"
    }

    fn forget(&mut self) -> &'static str {
        if let Some(image) = self.pick(|kept| !kept.forgotten) {
            let kept = self.images.get_mut(&image).unwrap();
            let result = self.store.forget(&[image]);
            assert_eq!(matches!(result, Err(Error::Protected { .. })), kept.protected, "{result:?}");
            kept.forgotten = !kept.protected;
        }
        "forget"
    }

    fn undelete(&mut self) -> &'static str {
        if let Some(image) = self.pick(|kept| kept.forgotten) {
            let now = self.store.undelete(image, Duration::ZERO).unwrap();
            let kept = self.images.get_mut(&image).unwrap();
            kept.forgotten = now != image;
            let disk = kept.disk.clone();
            if now != image {
                self.images.insert(now, Kept { disk, forgotten: false, protected: false });
            }
        }
        "undelete"
    }

    fn protect(&mut self) -> &'static str {
        if let Some(image) = self.pick(|_| true) {
            let kept = self.images.get_mut(&image).unwrap();
            kept.protected = !kept.protected;
            self.store.protect(image, kept.protected).unwrap();
        }
        "protect"
    }

    fn collect(&mut self) -> &'static str {
        let leftover_percent = [0, 4, 100][self.rng.random_range(0..3)];
        let dry_run = self.rng.random_bool(0.15);
        let options = GcOptions { dry_run, leftover_percent, ..gc_options() };
        let report = self.store.gc(&options, &()).unwrap();
        let goes = |kept: &Kept| kept.forgotten && !kept.protected;
        let gone: BTreeSet<ImageId> =
            self.images.iter().filter(|(_, kept)| goes(kept)).map(|(id, _)| *id).collect();
        assert_eq!(report.images_removed.iter().copied().collect::<BTreeSet<ImageId>>(), gone);
        assert!(report.packs_spared.is_empty() && report.packs_waiting == 0, "{report:?}");
        if !dry_run {
            self.images.retain(|_, kept| !goes(kept));
        }
        "gc"
    }

    fn scrub(&mut self) -> &'static str {
        let report = scrub(&self.store).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        "scrub"
    }

    fn index(&mut self) -> &'static str {
        let state = if self.rng.random() {
            self.store.rebuild_index(Duration::ZERO)
        } else {
            self.store.check_index(Duration::ZERO)
        };
        let CatalogueState { packs_unreadable, rebuilt, .. } = state.unwrap();
        assert!(packs_unreadable.is_empty() && rebuilt.is_none(), "{rebuilt:?}");
        "index"
    }

    fn reopen(&mut self) -> &'static str {
        self.store = Store::open(&self.home).unwrap();
        "reopen"
    }

    fn read_somewhere(&mut self) -> &'static str {
        if let Some(image) = self.pick(|_| true) {
            let disk = &self.images[&image].disk;
            let start = self.rng.random_range(0..disk.bytes());
            let end = self.rng.random_range(start..=disk.bytes() + 10);
            assert_range(&self.store, image, disk, start..end);
        }
        "read"
    }

    fn check(&self, when: &str) {
        let expected: BTreeMap<ImageId, (bool, bool, bool)> =
            self.images.iter().map(|(id, kept)| (*id, (true, kept.forgotten, kept.protected))).collect();
        let listed = self.store.images().unwrap();
        let found = listed
            .iter()
            .map(|entry| (entry.id, (entry.confirmed, entry.forgotten.is_some(), entry.protected)));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected, "{when}");
        let disks = self.images.iter().map(|(id, kept)| (*id, kept.disk.clone())).collect();
        assert_images(&self.store, &disks, when);
    }
}

fn run(home: Home, seed: u64, check_every: u32) {
    let mut history = Vec::new();
    let mut world = World::new(home, seed);
    for step in 1..=STEPS {
        let context = Context(format!("seed {seed}, after {history:?}"));
        history.push(world.step());
        if step % check_every == 0 || step == STEPS {
            world.check(&format!("seed {seed}, {history:?}"));
        }
        drop(context);
    }
    // A process that knows nothing sees the same.
    world.reopen();
    world.check(&format!("seed {seed}, {history:?}, reopened"));
}

#[test]
fn sequences_in_memory_keep_every_image() {
    let begun = std::time::Instant::now();
    (0..MEMORY_SEQUENCES).for_each(|seed| run(Home::memory(), seed, 1));
    println!("sequences: {MEMORY_SEQUENCES} in memory, {:.1} s", begun.elapsed().as_secs_f64());
}

#[test]
fn sequences_in_a_folder_keep_every_image() {
    let begun = std::time::Instant::now();
    for seed in 0..LOCAL_SEQUENCES {
        let folder = tempfile::tempdir().unwrap();
        run(Home::local(folder.path()), 1_000_000 + seed, 1);
    }
    println!("sequences: {LOCAL_SEQUENCES} in folders, {:.1} s", begun.elapsed().as_secs_f64());
}

#[test]
fn gc_leaves_little_more_than_the_last_image_needs() {
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let memory = MemoryBackend::new();
        let store = Store::init(&home(&memory), config()).unwrap();
        let mut disk = Disk::random(&mut rng, 8, 0);
        let mut images = Vec::new();
        for time in 1..7 {
            images.push(capture(&store, &disk, "disk").unwrap());
            disk = disk.changed(&mut rng, time * 100_000);
        }
        let kept = capture(&store, &disk, "disk").unwrap();
        store.forget(&images).unwrap();
        let report = gc(&store).unwrap();
        let left = packs_bytes(&memory);
        assert_eq!(report.bytes_before - report.bytes_freed, left, "seed {seed}");
        let fresh = MemoryBackend::new();
        capture(&Store::init(&home(&fresh), config()).unwrap(), &disk, "disk").unwrap();
        let needed = packs_bytes(&fresh);
        assert!(left <= needed + needed / 10 + 2048, "seed {seed}: {left} bytes left, {needed} needed");
        assert_images(&open(&memory), &BTreeMap::from([(kept, disk)]), "after gc");
        // What is condemned is gone, and so is its record.
        assert!(names(&memory, "condemned").is_empty() && names(&memory, "sessions").is_empty());
    }
}

/// Disks of larger chunks, as in life: there a trailer's entry is no 8 % of what it lists.
fn shapes() -> Vec<(&'static str, Vec<Disk>)> {
    let full = |cells, base| Disk::full(cells, base, 8192);
    let mut rng = StdRng::seed_from_u64(1);
    let changed = |disk: &Disk, rng: &mut StdRng, base| {
        let mut disk = disk.clone();
        for at in 0..disk.cells.len() {
            if rng.random_bool(0.2) {
                disk.cells[at] = Cell::Data(base + u32::try_from(at).unwrap());
            }
        }
        disk
    };
    let first = full(96, 0);
    let second = changed(&first, &mut rng, 10_000);
    let third = changed(&second, &mut rng, 20_000);
    let half = Disk { cells: [full(48, 0).cells, full(48, 30_000).cells].concat(), ..first.clone() };
    vec![
        ("one alone", vec![first.clone()]),
        ("strangers", vec![first.clone(), full(64, 5000)]),
        ("twins", vec![first.clone(), first.clone()]),
        ("a history", vec![first.clone(), second, third]),
        ("half shared", vec![first, half]),
    ]
}

#[test]
fn gc_frees_what_statistics_said() {
    let options = store::WriterOptions { pack_bytes: 128 << 10, ..writer_options() };
    for (shape, disks) in shapes() {
        for number in 0..disks.len() {
            let memory = MemoryBackend::new();
            let store = Store::init(&home(&memory), config()).unwrap();
            let images: Vec<ImageId> =
                disks.iter().map(|disk| capture_with(&store, disk, shape, &options).unwrap()).collect();
            let statistics = store.statistics(&()).unwrap();
            assert_eq!(statistics.stored_bytes, packs_bytes(&memory));
            let said = statistics.freed_by.iter().find(|(id, _)| *id == images[number]).unwrap().1;
            let before = packs_bytes(&memory);
            store.forget(&[images[number]]).unwrap();
            let report = store.gc(&GcOptions { pack_bytes: 128 << 10, ..gc_options() }, &()).unwrap();
            let freed = before - packs_bytes(&memory);
            assert_eq!(report.bytes_freed, freed, "{shape} {number}");
            assert!(
                freed.abs_diff(said) <= said / 20 + 4096,
                "{shape}: forgetting image {number} freed {freed}, statistics said {said}"
            );
        }
    }
}

fn recorded(memory: &MemoryBackend) -> (RecordBackend, Store) {
    let record = RecordBackend::new(Arc::new(memory.clone()), Arc::new(memory.clone()));
    let store = Store::open(&Home::custom(Arc::new(record.clone()), Arc::new(record.clone()))).unwrap();
    (record, store)
}

/// Folders of what was put and of what was deleted, sorted.
fn changes(record: &RecordBackend) -> (Vec<String>, Vec<String>) {
    let of = |operation| {
        let calls = record.records().into_iter().filter(move |call| call.operation == operation);
        let mut names: Vec<String> = calls
            .map(|call| {
                let folder = call.name.split('/').next().unwrap().to_string();
                if call.name.ends_with(".ok") { folder + " ok" } else { folder }
            })
            .collect();
        names.sort();
        names
    };
    (of(Operation::Put), of(Operation::Delete))
}

#[test]
fn a_second_capture_publishes_its_session_a_manifest_and_a_marker() {
    for seed in 0..8 {
        let mut rng = StdRng::seed_from_u64(seed);
        let memory = MemoryBackend::new();
        Store::init(&home(&memory), config()).unwrap();
        let disk = Disk::random(&mut rng, 8, 0);
        capture_in_parallel(&open(&memory), &disk, "disk").unwrap();
        for (name, twice) in [("disk", false), ("twin", false), ("disk", true)] {
            if twice {
                // What was moved is written down anew once, and never again.
                let other = capture(&open(&memory), &disk.changed(&mut rng, 100_000), "disk").unwrap();
                open(&memory).forget(&[other]).unwrap();
                gc(&open(&memory)).unwrap();
                capture(&open(&memory), &disk, "disk").unwrap();
            }
            let (record, store) = recorded(&memory);
            capture(&store, &disk, name).unwrap();
            let (put, deleted) = changes(&record);
            assert_eq!(put, ["images", "images ok", "sessions"], "seed {seed}, {name}, {twice}");
            assert_eq!(deleted, ["sessions"], "seed {seed}, {name}");
        }
    }
}

#[test]
fn moved_chunks_are_found_with_and_without_the_records_of_moves() {
    let mut moves = 0;
    for seed in 0..10 {
        let mut rng = StdRng::seed_from_u64(seed);
        let memory = MemoryBackend::new();
        let store = Store::init(&home(&memory), config()).unwrap();
        let mut disk = Disk::random(&mut rng, 6, 0);
        let mut images = Images::new();
        let reader = open(&memory);
        let mut passing = None;
        // Moved, and moved again: of what an image brought, the one after it needs a part.
        for time in 1..10 {
            let image = capture(&store, &disk, "disk").unwrap();
            if let Some(passing) = passing.take() {
                store.forget(&[passing]).unwrap();
                gc(&store).unwrap();
            }
            if time % 3 == 0 {
                images.insert(image, disk.clone());
            } else {
                passing = Some(image);
            }
            disk = disk.changed(&mut rng, time * 100_000);
            assert_images(&reader, &images, "by a reader that was open before");
            assert_images(&open(&memory), &images, "by a new reader");
        }
        moves += names(&memory, "moves").len();
        delete_all(&memory, "moves");
        assert_images(&open(&memory), &images, "without moves");
        assert_images(&reader, &images, "without moves, by the old reader");
        assert!(scrub(&open(&memory)).unwrap().findings.is_empty());
    }
    assert!(moves > 0, "nothing was ever moved");
}

fn read_until(done: &AtomicBool, memory: &MemoryBackend, images: &Images) -> u64 {
    let old = open(memory);
    let mut rounds = 0;
    while !done.load(Ordering::Acquire) || rounds == 0 {
        assert_images(&old, images, "beside gc, by the old reader");
        assert_images(&open(memory), images, "beside gc, by a new reader");
        rounds += 1;
    }
    rounds
}

#[test]
fn reading_beside_a_gc_never_fails() {
    let begun = std::time::Instant::now();
    let (mut rounds, mut copied) = (0, 0);
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let memory = MemoryBackend::new();
        let store = Store::init(&home(&memory), config()).unwrap();
        let mut disk = Disk::random(&mut rng, 5, 0);
        let mut images = Images::new();
        for time in 1..4 {
            images.insert(capture(&store, &disk, "disk").unwrap(), disk.clone());
            disk = disk.changed(&mut rng, time * 100_000);
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_until(&done, &memory, &images));
            // Of what an image brought, the one after it needs a part.
            let mut last = capture(&store, &Disk::random(&mut rng, 5, 5_000_000), "disk").unwrap();
            for time in 10..22 {
                let image = capture(&store, &disk, "disk").unwrap();
                disk = disk.changed(&mut rng, time * 100_000);
                if !images.contains_key(&last) {
                    store.forget(&[last]).unwrap();
                }
                last = image;
                copied += gc(&store).unwrap().packs_rewritten;
            }
            done.store(true, Ordering::Release);
            rounds += reader.join().unwrap();
        });
    }
    assert!(copied > 0);
    println!(
        "reading beside gc: {rounds} rounds, {copied} packs rewritten, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
}

//! Every operation of a store with its n-th call failing, for every n, in each way; and with the power cut at every call
//! to its files.
//!
//! Promise: after any of it the store opens without manual steps, every image that was confirmed reads back identically,
//! the operation succeeds when it is repeated, scrub finds nothing, and gc takes nothing that is needed.
//! Knows nothing of how the operations work.

// The house allows `unwrap` in tests; clippy sees that for functions marked `#[test]` only.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::backend::sim::{SimFault, SimFiles};
use store::backend::{
    Backend, Delete, Fault, FaultBackend, FaultPlan, LocalBackend, MemoryBackend, Operation, RecordBackend,
};
use store::{Error, Home, ImageId, Store};

const FAULTS: [Fault; 6] =
    [Fault::Eio, Fault::NoSpace, Fault::Short, Fault::EioAfter, Fault::KillBefore, Fault::KillAfter];
/// What a power cut leaves is chance: so many throws of it at each call.
const CUTS: u64 = 3;
const ROOT: &str = "/store";
const SEED: u64 = 7;

/// A store in some state, and what has to be true of it.
#[derive(Clone)]
struct Scene {
    /// Confirmed, and not to be lost.
    images: Images,
    /// What is captured, forgotten, undeleted or confirmed.
    disk: Disk,
    image: Option<ImageId>,
}

/// What the operation gives when it succeeds: an image of the scene's disk, if any.
type Outcome = Result<Option<ImageId>, Error>;

struct Case {
    name: &'static str,
    /// Brings an empty store into the state before.
    prepare: fn(&dyn Fn() -> Pair) -> Scene,
    /// Can be repeated.
    run: fn(&Store, &Scene) -> Outcome,
}

type Pair = (Arc<dyn Backend>, Arc<dyn Delete>);

const CASES: [Case; 9] = [
    Case { name: "first capture", prepare: empty, run: capture_it },
    Case { name: "second capture of a changed disk", prepare: one_image, run: capture_it },
    Case { name: "forget and gc with rewriting", prepare: three_images, run: forget_and_collect },
    Case { name: "gc of what a dead gc has condemned", prepare: half_collected, run: collect },
    Case { name: "undelete", prepare: one_forgotten, run: undelete },
    Case { name: "undelete with condemned packs", prepare: condemned_forgotten, run: undelete },
    Case { name: "confirm", prepare: unconfirmed, run: confirm },
    Case { name: "scrub", prepare: one_image, run: scrub_it },
    Case { name: "index check on a fresh catalogue", prepare: one_image, run: check_index },
];

fn disks() -> [Disk; 3] {
    let mut rng = StdRng::seed_from_u64(SEED);
    let first = Disk::random(&mut rng, 4, 0);
    let second = first.changed(&mut rng, 100_000);
    let third = second.changed(&mut rng, 300_000);
    [first, second, third]
}

fn store_on(pair: Pair) -> Store {
    Store::open(&Home::custom(pair.0, pair.1)).unwrap()
}

fn captured(store: &Store, disk: &Disk) -> (ImageId, Disk) {
    (capture(store, disk, "disk").unwrap(), disk.clone())
}

fn empty(_: &dyn Fn() -> Pair) -> Scene {
    Scene { images: Images::new(), disk: disks()[0].clone(), image: None }
}

fn one_image(open: &dyn Fn() -> Pair) -> Scene {
    let [first, second, _] = disks();
    let images = BTreeMap::from([captured(&store_on(open()), &first)]);
    Scene { images, disk: second, image: None }
}

/// The scene's image is in the middle: what it alone needs shares packs with what others need.
fn three_images(open: &dyn Fn() -> Pair) -> Scene {
    let store = store_on(open());
    let [first, second, third] = disks().map(|disk| captured(&store, &disk));
    Scene { image: Some(first.0), disk: first.1, images: BTreeMap::from([second, third]) }
}

/// A collector has published its records and nothing more.
fn half_collected(open: &dyn Fn() -> Pair) -> Scene {
    let scene = three_images(open);
    store_on(open()).forget(&[scene.image.unwrap()]).unwrap();
    // It dies after the first copy that it publishes: by then the packs to rewrite are condemned.
    let (backend, delete) = open();
    let mut at_call = 0;
    loop {
        at_call += 1;
        let fault = FaultBackend::new(backend.clone(), delete.clone());
        fault.plan(Some(FaultPlan { at_call, fault: Fault::KillBefore }));
        let record = RecordBackend::new(Arc::new(fault.clone()), Arc::new(fault.clone()));
        let died = Store::open(&Home::custom(Arc::new(record.clone()), Arc::new(record.clone())))
            .and_then(|store| gc(&store))
            .is_err();
        assert!(died, "the collection copies nothing");
        // This process lives, so nobody sweeps the dead collector's session: the next one would have a call more to make.
        names(backend.as_ref(), "sessions").iter().for_each(|name| delete.delete(name).unwrap());
        let mut put = record.records().into_iter().filter(|call| call.operation == Operation::Put);
        if put.next_back().is_some_and(|call| call.name.starts_with("packs/")) {
            return scene;
        }
    }
}

fn condemned_forgotten(open: &dyn Fn() -> Pair) -> Scene {
    let mut scene = half_collected(open);
    let (image, disk) = scene.images.pop_first().unwrap();
    store_on(open()).forget(&[image]).unwrap();
    Scene { image: Some(image), disk, ..scene }
}

fn one_forgotten(open: &dyn Fn() -> Pair) -> Scene {
    let scene = three_images(open);
    store_on(open()).forget(&[scene.image.unwrap()]).unwrap();
    scene
}

fn unconfirmed(open: &dyn Fn() -> Pair) -> Scene {
    let scene = three_images(open);
    let image = scene.image.unwrap();
    let marker = store::backend::Name::new(&format!("images/{image}.ok")).unwrap();
    open().1.delete(&marker).unwrap();
    scene
}

fn capture_it(store: &Store, scene: &Scene) -> Outcome {
    capture(store, &scene.disk, "disk").map(Some)
}

fn forget_and_collect(store: &Store, scene: &Scene) -> Outcome {
    let image = scene.image.unwrap();
    if store.images()?.iter().any(|entry| entry.id == image) {
        store.forget(&[image])?;
    }
    collect(store, scene)
}

fn collect(store: &Store, _: &Scene) -> Outcome {
    gc(store).map(|_| None)
}

fn undelete(store: &Store, scene: &Scene) -> Outcome {
    store.undelete(scene.image.unwrap(), Duration::ZERO).map(Some)
}

fn confirm(store: &Store, scene: &Scene) -> Outcome {
    store.confirm(scene.image.unwrap(), Duration::ZERO).map(Some)
}

fn scrub_it(store: &Store, _: &Scene) -> Outcome {
    // A call that fails is a finding of that run; the one after it must have none.
    scrub(store).map(|_| None)
}

fn check_index(store: &Store, _: &Scene) -> Outcome {
    store.check_index(Duration::ZERO).map(|_| None)
}

/// All that has to be true after a fault, with a store that knows nothing of it.
fn assert_recovers(open: &dyn Fn() -> Pair, case: &Case, scene: &Scene, outcome: Outcome) {
    let mut images = scene.images.clone();
    // What was reported as done counts.
    images.extend(outcome.ok().flatten().map(|image| (image, scene.disk.clone())));
    assert_images(&store_on(open()), &images, "before repeating");
    let store = store_on(open());
    let again = (case.run)(&store, scene).unwrap_or_else(|error| panic!("repeated: {error:?}"));
    images.extend(again.map(|image| (image, scene.disk.clone())));
    for entry in store.images().unwrap().iter().filter(|entry| images.contains_key(&entry.id)) {
        assert!(entry.confirmed && entry.forgotten.is_none(), "{entry:?}");
    }
    let report = scrub(&store).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_images(&store, &images, "after repeating");
    gc(&store).unwrap_or_else(|error| panic!("gc: {error:?}"));
    assert_images(&store_on(open()), &images, "after gc");
    let report = scrub(&store_on(open())).unwrap();
    assert!(report.findings.is_empty(), "after gc: {:?}", report.findings);
}

/// Faults of one kind at every call; how many there were.
fn every_call(case: &Case, fault: Fault) -> u64 {
    let before = MemoryBackend::new();
    Store::init(&home(&before), config()).unwrap();
    let pair = |memory: &MemoryBackend| -> Pair { (Arc::new(memory.clone()), Arc::new(memory.clone())) };
    let scene = (case.prepare)(&|| pair(&before));
    for at_call in 1.. {
        let _context = Context(format!("{}, {fault:?} at call {at_call}", case.name));
        let memory = before.snapshot();
        let faulty = FaultBackend::new(Arc::new(memory.clone()), Arc::new(memory.clone()));
        faulty.plan(Some(FaultPlan { at_call, fault }));
        let outcome = Store::open(&Home::custom(Arc::new(faulty.clone()), Arc::new(faulty.clone())))
            .and_then(|store| (case.run)(&store, &scene));
        if !faulty.fired() {
            outcome.unwrap();
            return at_call - 1;
        }
        assert_recovers(&|| pair(&memory), case, &scene, outcome);
    }
    0
}

#[test]
fn every_operation_survives_a_fault_at_every_call() {
    let begun = std::time::Instant::now();
    let mut points = 0;
    for case in &CASES {
        let before = points;
        points += FAULTS.iter().map(|fault| every_call(case, *fault)).sum::<u64>();
        println!("{}: {} points", case.name, points - before);
    }
    println!("faults: {points} points in {:.1} s", begun.elapsed().as_secs_f64());
}

fn open_files(files: &SimFiles) -> Pair {
    let backend = Arc::new(LocalBackend::open_on(files.clone(), ROOT).unwrap());
    // As whoever holds the writer lock does first.
    backend.clean_temporaries().unwrap();
    (backend.clone(), backend)
}

/// The process dies at every call to the files, and the power with it or not; how many points there were.
fn every_file_call(case: &Case, stride: usize) -> u64 {
    let before = SimFiles::new();
    let backend = Arc::new(LocalBackend::create_on(before.clone(), ROOT).unwrap());
    Store::init(&Home::custom(backend.clone(), backend), config()).unwrap();
    let scene = (case.prepare)(&|| open_files(&before));
    let mut points = 0;
    for at_call in (1..).step_by(stride) {
        let files = before.copy();
        files.arm(at_call, SimFault::Die);
        let backend = LocalBackend::open_on(files.clone(), ROOT).map(Arc::new);
        let outcome = backend
            .map_err(|source| Error::Backend { place: ROOT.into(), source })
            .and_then(|backend| Store::open(&Home::custom(backend.clone(), backend)))
            .and_then(|store| (case.run)(&store, &scene));
        if !files.fired() {
            outcome.unwrap();
            return points;
        }
        let reported = outcome.ok().flatten();
        for cut in 0..=CUTS {
            let _context = Context(format!("{}, death at file call {at_call}, cut {cut}", case.name));
            let after = files.copy();
            if cut == 0 {
                after.revive()
            } else {
                after.power_cut(at_call * CUTS + cut)
            }
            assert_recovers(&|| open_files(&after), case, &scene, Ok(reported));
            points += 1;
        }
    }
    points
}

#[test]
fn every_operation_survives_losing_power_at_every_file_call() {
    let begun = std::time::Instant::now();
    let mut points = 0;
    for case in &CASES {
        let before = points;
        points += every_file_call(case, 1);
        println!("{}: {} points", case.name, points - before);
    }
    println!("faults: {points} points of losing power in {:.1} s", begun.elapsed().as_secs_f64());
}

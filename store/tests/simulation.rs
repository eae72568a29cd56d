//! The real writer, collector, scrub and reader, against each other under a seeded scheduler (DESIGN §5.3, §5.6).
//!
//! Each actor is a thread with a store of its own over one memory; every backend call waits until the seed chooses its
//! actor. Actors sleep between any two calls, die at any call and are followed by new ones. After every call: what was
//! confirmed and not forgotten by the user is there. At the end, with everybody dead: a collection and a scrub are clean.
//! That the simulation would notice is shown by weakenings of the backend's answers, each of which must lose an image.
//!
//! Deterministic: disks, what each actor does, where it dies, and every decision of the scheduler given the calls so far.
//! Not deterministic: ids of packs, records and sessions (random by design), and so the order in which packs of equal
//! standing are taken. That can change which copy of a chunk is used, and the calls after it, so a seed repeats most
//! schedules, not all; a schedule that fails is printed whole, and a single seed can be tried many times.
//!
//! `CAS_SIM_SCHEDULES=N` runs N schedules; `CAS_SIM_SEED=S` runs one seed 50 times and prints its trace.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "simulation/actors.rs"]
mod actors;
#[path = "simulation/backend.rs"]
mod backend;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/scheduler.rs"]
mod scheduler;

use actors::{Plan, capture, gc_options};
use backend::{Events, Role, Shared, Weakness};
use oracle::{Disks, Oracle};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scheduler::{Scheduler, Step};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use store::backend::MemoryBackend;
use store::{Config, Home, Store};

const CHUNK_BYTES: usize = 256;
const SCHEDULES: u64 = 3000;
/// Each weakening must lose an image within so many seeds.
const SEEDS_MAX: u64 = 2000;

/// The first four take part in every schedule.
const ROLES: [Role; 8] = [
    Role::User,
    Role::Writer,
    Role::Collector,
    Role::Writer,
    Role::Reader,
    Role::Collector,
    Role::Writer,
    Role::Scrub,
];

/// Many collectors, for what only they can do to each other. They act in every fourth schedule, all of them.
const COLLECTORS: [Role; 8] = [
    Role::User,
    Role::Collector,
    Role::Writer,
    Role::Collector,
    Role::Writer,
    Role::Collector,
    Role::Collector,
    Role::Collector,
];

/// A store with two images to begin with, and the disks.
struct Start {
    raw: MemoryBackend,
    disks: Disks,
    segment_chunks: usize,
    pack_bytes: u32,
}

/// Threads that are kept from schedule to schedule. Each is a rayon pool of its own with one thread, so that what the
/// store does in parallel stays on its actor's thread.
struct Crew {
    threads: Vec<rayon::ThreadPool>,
    starts: Vec<Start>,
}

/// What a schedule came to.
struct Outcome {
    /// An image that was promised is gone.
    lost: Option<String>,
    /// Nothing is lost, and collection or scrub is not clean.
    stuck: Option<String>,
    events: Events,
    steps: u64,
    confirmed: u64,
    trace: Vec<Step>,
}

fn disks(rng: &mut StdRng, chunks: usize) -> Disks {
    let mut pool: Vec<Vec<u8>> = Vec::new();
    for _ in 0..chunks * 2 {
        pool.push((0..CHUNK_BYTES).map(|_| rng.random()).collect());
    }
    // Neighbouring disks share half of their chunks.
    let disk =
        |first: usize| (0..chunks).map(|n| pool[(first * chunks / 2 + n) % pool.len()].clone()).collect();
    (0..4).map(disk).collect()
}

fn start(number: usize) -> Start {
    let mut rng = StdRng::seed_from_u64(number as u64);
    let (segments, segment_chunks) = [(1, 4), (2, 2), (3, 2)][number % 3];
    let disks = disks(&mut rng, segments * segment_chunks);
    let pack_bytes = [700, 100_000][number / 3 % 2];
    let raw = MemoryBackend::new();
    let mut config = Config::new("fixed:4096");
    (config.segment_bytes, config.leaf_bytes, config.fan_out) = (4096, 4096, 2);
    let home = Home::custom(Arc::new(raw.clone()), Arc::new(raw.clone()));
    let store = Store::init(&home, config).unwrap();
    for disk in 0..2 {
        let created = format!("2026-01-01T00:00:0{disk}Z");
        capture(&store, &disks, disk, segment_chunks, pack_bytes, created, None).unwrap();
    }
    Start { raw, disks, segment_chunks, pack_bytes }
}

impl Crew {
    fn new() -> Crew {
        let thread = |_| rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        Crew { threads: ROLES.iter().map(thread).collect(), starts: (0..6).map(start).collect() }
    }

    /// One schedule, from the start that the seed chooses to everybody's end.
    fn run(&self, seed: u64, weakness: Weakness) -> Outcome {
        let start = &self.starts[usize::try_from(seed / 4).unwrap() % self.starts.len()];
        let (roles, least) = if seed % 4 == 3 { (COLLECTORS, 8) } else { (ROLES, 4) };
        let actors = StdRng::seed_from_u64(seed).random_range(least..=roles.len());
        let shared = Arc::new(Shared {
            scheduler: Scheduler::new(seed, actors),
            oracle: Mutex::new(Oracle::new(start.raw.snapshot(), start.disks.clone())),
            events: Mutex::default(),
            weakness,
        });
        let plan = Arc::new(Plan {
            shared: shared.clone(),
            disks: start.disks.clone(),
            segment_chunks: start.segment_chunks,
            pack_bytes: start.pack_bytes,
            seed,
        });
        let (ended, ends) = mpsc::channel();
        for (actor, role) in roles.into_iter().enumerate().take(actors) {
            let (plan, ended) = (plan.clone(), ended.clone());
            self.threads[actor].spawn(move || {
                act(&plan, actor, role);
                drop(plan);
                ended.send(()).unwrap();
            });
        }
        shared.scheduler.run();
        ends.iter().take(actors).for_each(drop);
        finish(&shared, start.pack_bytes)
    }
}

fn act(plan: &Plan, actor: usize, role: Role) {
    plan.shared.scheduler.begin(actor);
    if catch_unwind(AssertUnwindSafe(|| actors::run(plan, actor, role))).is_err() {
        plan.shared.scheduler.fail(format!("actor {actor} panicked"));
    }
    plan.shared.scheduler.finish(actor);
}

fn finish(shared: &Shared, pack_bytes: u32) -> Outcome {
    let oracle = shared.oracle();
    let mut lost = shared.scheduler.failure().or_else(|| oracle.check());
    let stuck = if lost.is_none() { aftermath(&oracle, pack_bytes) } else { None };
    lost = lost.or_else(|| oracle.check());
    let (steps, crashes) = shared.scheduler.steps_and_crashes();
    let events = Events { crashes, ..shared.events().clone() };
    Outcome { lost, stuck, events, steps, confirmed: oracle.confirmed, trace: shared.scheduler.trace() }
}

/// Everybody is dead: what they left must not stand in anybody's way.
fn aftermath(oracle: &Oracle, pack_bytes: u32) -> Option<String> {
    let store = oracle.store();
    for _ in 0..2 {
        if let Err(error) = store.gc(&gc_options(pack_bytes), &()) {
            return Some(format!("the last collection: {error:?}"));
        }
    }
    // Images that never were confirmed may lack packs; a person forgets them.
    let images = store.images().unwrap();
    let unconfirmed: Vec<_> = images.iter().filter(|it| !it.confirmed).map(|it| it.id).collect();
    store.forget(&unconfirmed).unwrap();
    store.gc(&gc_options(pack_bytes), &()).unwrap();
    let report = oracle.store().scrub(&store::ScrubOptions::default(), &()).unwrap();
    (!report.findings.is_empty()).then(|| format!("the last scrub: {:?}", report.findings))
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn print(seed: u64, outcome: &Outcome) {
    for (number, step) in outcome.trace.iter().enumerate() {
        println!("{number:5} {step}");
    }
    println!("seed {seed}: lost {:?}, stuck {:?}\n{:?}", outcome.lost, outcome.stuck, outcome.events);
}

/// Kinds of calls by actor, names left out, as ids are random.
fn hash(trace: &[Step]) -> u64 {
    let words = trace.iter().flat_map(|step| {
        let folder = step.name.split('/').next().unwrap_or_default();
        [step.actor.to_string(), step.what.to_string(), folder.to_string()]
    });
    words
        .flat_map(String::into_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[derive(Default)]
struct Totals {
    steps: u64,
    confirmed: u64,
    events: Events,
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.steps += outcome.steps;
        self.confirmed += outcome.confirmed;
        let (sum, new) = (&mut self.events, outcome.events);
        sum.post_checks_failed += new.post_checks_failed;
        sum.packs_evacuated += new.packs_evacuated;
        sum.moves += new.moves;
        sum.packs_deleted += new.packs_deleted;
        sum.crashes += new.crashes;
        sum.undeletes += new.undeletes;
        sum.reads += new.reads;
        sum.reads_repeated += new.reads_repeated;
        sum.scrubs += new.scrubs;
        new.errors.into_iter().for_each(|(kind, count)| *sum.errors.entry(kind).or_default() += count);
    }
}

#[test]
fn nothing_confirmed_is_lost() {
    let crew = Crew::new();
    let single = number_from("CAS_SIM_SEED");
    let count = number_from("CAS_SIM_SCHEDULES").unwrap_or(SCHEDULES);
    let seeds: Vec<u64> = single.map_or_else(|| (0..count).collect(), |seed| vec![seed; 50]);
    let mut totals = Totals::default();
    for (number, seed) in seeds.iter().enumerate() {
        let outcome = crew.run(*seed, Weakness::None);
        if outcome.lost.is_some() || outcome.stuck.is_some() || (single.is_some() && number == 0) {
            print(*seed, &outcome);
        }
        let (lost, stuck) = (&outcome.lost, &outcome.stuck);
        assert_eq!((lost, stuck), (&None, &None), "seed {seed}: run it alone with CAS_SIM_SEED={seed}");
        totals.add(outcome);
    }
    let events = &totals.events;
    println!(
        "simulation: {} schedules, {} backend calls, {} images confirmed, {} post-checks that found lost packs",
        seeds.len(),
        totals.steps,
        totals.confirmed,
        events.post_checks_failed
    );
    println!("{events:?}");
    if single.is_none() && count >= SCHEDULES {
        assert!(totals.confirmed > 1000 && events.post_checks_failed > 10);
        assert!(events.packs_evacuated > 100 && events.moves > 100 && events.packs_deleted > 1000);
        assert!(events.crashes > 100 && events.undeletes > 100 && events.scrubs > 100 && events.reads > 1000);
    }
}

/// The first seed that loses something.
fn lost_with(weakness: Weakness) {
    let crew = Crew::new();
    let found = (0..SEEDS_MAX).find_map(|seed| Some((seed, crew.run(seed, weakness).lost?)));
    let (seed, failure) =
        found.unwrap_or_else(|| panic!("{weakness:?}: nothing lost in {SEEDS_MAX} schedules"));
    println!("{weakness:?}: seed {seed}: {failure}");
}

#[test]
fn a_writer_that_sees_no_condemn_records_loses_images() {
    lost_with(Weakness::WriterSeesNoCondemned);
}

#[test]
fn a_writer_without_post_check_loses_images() {
    lost_with(Weakness::WriterStaleCondemned);
}

#[test]
fn a_writer_that_lists_packs_first_loses_images() {
    lost_with(Weakness::WriterPacksFirst);
}

#[test]
fn a_collector_that_does_not_look_again_loses_images() {
    lost_with(Weakness::CollectorStaleImages);
}

#[test]
fn a_collector_that_heeds_only_its_own_records_loses_images() {
    lost_with(Weakness::CollectorOwnRecords);
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    let crew = Crew::new();
    let same = |seed: &u64| {
        let run = || hash(&crew.run(*seed, Weakness::None).trace);
        run() == run()
    };
    let count = (0..40).filter(same).count();
    println!("{count} of 40 seeds gave the same calls in the same order twice");
    assert!(count >= 10, "{count} of 40");
}

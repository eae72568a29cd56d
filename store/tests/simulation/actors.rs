//! The actors: what a capture, a collection, a user, a reader and a scrub do, through the store's public face only.
//!
//! Promise: each ends whatever happens to it; an operation of an actor that did not die may fail only in ways listed here.
//! Knows nothing of who runs when.

use crate::backend::{Role, Scheduled, Shared};
use crate::oracle::{Disks, read};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use store::{Compression, Description, Error, GcOptions, Home, ImageId, NewRun, Store, WriterOptions};

/// What the actors of one schedule share beside the store.
pub(crate) struct Plan {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disks: Disks,
    pub(crate) segment_chunks: usize,
    pub(crate) pack_bytes: u32,
    pub(crate) seed: u64,
}

/// One operation's process: a view of the store, dying at the call that the seed says, or not.
struct Process {
    view: Arc<Scheduled>,
    store: Option<Store>,
    rng: StdRng,
    actor: usize,
}

impl Process {
    fn new(plan: &Plan, actor: usize, role: Role) -> Process {
        let view = Arc::new(Scheduled::new(&plan.shared, actor, role));
        let rng = StdRng::seed_from_u64(plan.seed.wrapping_mul(31).wrapping_add(actor as u64 + 1));
        Process { view, store: None, rng, actor }
    }

    /// A new process, or the old one going on: then its caches are stale. `None` when it dies at once.
    fn store(&mut self, plan: &Plan) -> Option<Store> {
        let scheduler = &plan.shared.scheduler;
        let crash = if self.rng.random_range(0..4) == 0 { Some(self.rng.random_range(1..120)) } else { None };
        let died = scheduler.is_dead(self.actor);
        scheduler.revive(self.actor, crash);
        self.view.begin();
        if died || self.rng.random_range(0..2) == 0 {
            self.store = None;
        }
        if self.store.is_none() {
            self.store = Store::open(&Home::custom(self.view.clone(), self.view.clone())).ok();
        }
        self.store.clone()
    }
}

/// Runs one actor from its first turn to its last.
pub(crate) fn run(plan: &Plan, actor: usize, role: Role) {
    let mut process = Process::new(plan, actor, role);
    let rounds = match role {
        Role::Writer | Role::Collector => 2 + process.rng.random_range(0..2),
        Role::User => 4,
        Role::Reader => 6,
        Role::Scrub => 1,
    };
    for round in 0..rounds {
        if plan.shared.scheduler.failure().is_some() {
            return;
        }
        // A death here is a process that opened nothing: the next one takes its place.
        let Some(store) = process.store(plan) else { continue };
        let result = match role {
            Role::Writer => write(plan, &mut process, &store, round),
            Role::Collector => collect(plan, &store),
            Role::User => decide(plan, &mut process, &store),
            Role::Reader => look(plan, &mut process, &store),
            Role::Scrub => scrub(plan, &store),
        };
        if let Err(error) = result {
            judge(plan, actor, role, &error);
        }
    }
}

/// A dead actor may fail; of the others only what is known to be harmless may.
fn judge(plan: &Plan, actor: usize, role: Role, error: &Error) {
    if plan.shared.scheduler.is_dead(actor) {
        return;
    }
    let text = kind_of(error);
    plan.shared.scheduler.note(actor, "fails", text.clone());
    *plan.shared.events().errors.entry(format!("{role:?}: {text}")).or_default() += 1;
}

fn kind_of(error: &Error) -> String {
    let text = format!("{error:?}");
    let words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 3).collect();
    words.into_iter().take(2).collect::<Vec<&str>>().join(" ")
}

pub(crate) fn write_options(pack_bytes: u32) -> WriterOptions {
    WriterOptions { compression: Compression::Off, pack_bytes, ..WriterOptions::default() }
}

pub(crate) fn gc_options(pack_bytes: u32) -> GcOptions {
    GcOptions { leftover_percent: 0, grace: Duration::ZERO, pack_bytes, ..GcOptions::default() }
}

/// Captures one disk.
pub(crate) fn capture(
    store: &Store,
    disks: &Disks,
    disk: usize,
    segment_chunks: usize,
    pack_bytes: u32,
    created: String,
    parent: Option<ImageId>,
) -> Result<ImageId, Error> {
    let writer = store.writer(&write_options(pack_bytes))?;
    let guide = parent.and_then(|parent| store.image(parent).ok()).map(|parent| writer.guide(parent));
    let mut bytes = 0;
    for (segment, chunks) in (0u64..).zip(disks[disk].chunks(segment_chunks)) {
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let known = guide.as_ref().and_then(|guide| guide.segment(bytes, length)).unwrap_or_default();
        let mut at = 0;
        let put = |chunk: &Vec<u8>| {
            let same = known.chunks.iter().find(|known| known.offset == at);
            at += chunk.len() as u64;
            let same = same.and_then(|same| writer.put_if(chunk, same));
            same.map_or_else(|| writer.put(chunk), Ok).map(NewRun::Chunk)
        };
        let runs = chunks.iter().map(put).collect::<Result<Vec<NewRun>, Error>>()?;
        writer.submit_guided(segment, runs, &known)?;
        bytes += length;
    }
    let description = Description { created, disk: disk.to_string(), bytes, ..Description::default() };
    Ok(writer.finish(description)?.image)
}

fn write(plan: &Plan, process: &mut Process, store: &Store, round: u64) -> Result<(), Error> {
    let disk = process.rng.random_range(0..plan.disks.len());
    let created = format!("2026-01-0{}T00:00:0{round}Z", process.actor + 1);
    plan.shared.scheduler.note(process.actor, "captures", format!("disk {disk}"));
    // Any image may be the guide, of another disk or collected meanwhile: it is advice.
    let promised = plan.shared.oracle().promised();
    let pick = process.rng.random_range(0..=promised.len());
    let parent = promised.get(pick).copied();
    let image = capture(store, &plan.disks, disk, plan.segment_chunks, plan.pack_bytes, created, parent)?;
    let oracle = plan.shared.oracle();
    if !oracle.is_promised(image) && !oracle.forgotten.contains(&image) {
        drop(oracle);
        plan.shared.scheduler.fail(format!("capture returned {image}, which is not confirmed"));
    }
    Ok(())
}

fn collect(plan: &Plan, store: &Store) -> Result<(), Error> {
    store.gc(&gc_options(plan.pack_bytes), &()).map(drop)
}

fn scrub(plan: &Plan, store: &Store) -> Result<(), Error> {
    plan.shared.events().scrubs += 1;
    store.scrub(&store::ScrubOptions::default(), &()).map(drop)
}

/// Forgets an image, or takes that back.
fn decide(plan: &Plan, process: &mut Process, store: &Store) -> Result<(), Error> {
    let (promised, forgotten) = {
        let oracle = plan.shared.oracle();
        (oracle.promised(), oracle.forgotten.clone())
    };
    if !forgotten.is_empty() && process.rng.random_range(0..2) == 0 {
        let image = forgotten[process.rng.random_range(0..forgotten.len())];
        // What was collected in the meantime can't come back.
        let now = match store.undelete(image, Duration::ZERO) {
            Err(Error::NoImage { .. }) => return Ok(()),
            now => now?,
        };
        plan.shared.events().undeletes += 1;
        if !plan.shared.oracle().is_promised(now) {
            plan.shared.scheduler.fail(format!("undelete returned {now}, which is not there"));
        }
        return Ok(());
    }
    if let Some(last) = promised.len().checked_sub(1) {
        let image = promised[process.rng.random_range(0..=last)];
        // From the moment it is asked for nothing is owed.
        plan.shared.oracle().forgotten.push(image);
        match store.forget(&[image]) {
            Err(Error::NoImage { .. }) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Reads an image; one that is still promised after it could not be read must be readable the next time.
fn look(plan: &Plan, process: &mut Process, store: &Store) -> Result<(), Error> {
    let promised = plan.shared.oracle().promised();
    let Some(last) = promised.len().checked_sub(1) else { return Ok(()) };
    let image = promised[process.rng.random_range(0..=last)];
    plan.shared.events().reads += 1;
    let result = read(store, image);
    let oracle = plan.shared.oracle();
    if result.is_err() && oracle.is_promised(image) && !plan.shared.scheduler.is_dead(process.actor) {
        plan.shared.events().reads_repeated += 1;
        let lost = oracle.check();
        drop(oracle);
        lost.into_iter().for_each(|lost| plan.shared.scheduler.fail(lost));
    }
    Ok(())
}

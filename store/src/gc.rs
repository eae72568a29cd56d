//! Garbage collection: condemn, look again, copy what is still needed, delete. The protocol and why it is safe: DESIGN §5.6.
//!
//! Promise: a chunk that any image needs is never deleted before a proved copy of it is published; a run that dies
//! anywhere leaves a store in which the next one goes on; wholly dead packs go first, so that a full disk can be
//! collected. Knows nothing of retention: it acts on tombstones.

use crate::catalogue::Listing;
use crate::id::{ImageId, PackId, SessionId};
use crate::live::Live;
use crate::manifest::Manifest;
use crate::objects::{Objects, condemned_name, delete, image_name, mark_name, moves_name, pack_name};
use crate::pack::PACK_BYTES;
use crate::reader::{KnownPacks, follow};
use crate::session::{self, Condemned, MarkKind, Moves, Reason};
use crate::work::Work;
use crate::{Error, Progress, Store, crew};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Copying and looking again converges after one round unless somebody else writes; more than this is somebody else's
/// collector running against ours, and the packs are left to the next run.
const ROUNDS_MAX: usize = 8;
/// A pack with less than this share of dead bytes is not worth copying.
const DEAD_PERCENT_MIN: u64 = 2;

/// How to collect.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long to wait for another writer.
    pub lock_wait: Duration,
    /// Packs are rewritten, the worst first, until at most this share of the dead bytes is left.
    pub leftover_percent: u32,
    /// Act only on tombstones at least this old.
    pub forgotten_older_than: Duration,
    /// How long condemned packs are kept while other sessions live. Saves work; safety does not rest on it.
    pub grace: Duration,
    /// Packs are closed at this size.
    pub pack_bytes: u32,
}

impl Default for GcOptions {
    fn default() -> GcOptions {
        GcOptions {
            dry_run: false,
            lock_wait: Duration::ZERO,
            leftover_percent: 4,
            forgotten_older_than: Duration::ZERO,
            grace: Duration::from_secs(24 * 3600),
            pack_bytes: PACK_BYTES,
        }
    }
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Forgotten images whose manifests went.
    pub images_removed: Vec<ImageId>,
    /// Packs that went, those whose needed chunks were copied included.
    pub packs_deleted: u64,
    /// Of these, packs with chunks that were copied.
    pub packs_rewritten: u64,
    /// Condemned, and kept for the grace period as somebody else is at work.
    pub packs_waiting: u64,
    /// Kept because a needed chunk in them is damaged and has no copy, or their listing can't be read.
    pub packs_spared: Vec<PackId>,
    /// Size of all packs before.
    pub bytes_before: u64,
    /// How much smaller all packs are now (would be: an estimate).
    pub bytes_freed: u64,
    /// Dead bytes in packs that were not worth rewriting.
    pub bytes_unused_left: u64,
}

/// A pack, and how much of it is needed.
struct Weighed {
    id: PackId,
    bytes: u64,
    live_bytes: u64,
    dead_bytes: u64,
}

/// What a run will do: a value, so that it can be shown without being done.
#[derive(Default)]
struct Plan {
    dead: Vec<Weighed>,
    rewrite: Vec<Weighed>,
    spared: Vec<PackId>,
    unused_left: u64,
}

/// A run of gc.
pub(crate) struct Collector<'a> {
    pub(crate) work: Work,
    pub(crate) options: &'a GcOptions,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) live: Live,
    /// Old pack -> packs that hold its chunks, as published by this run.
    moved: BTreeMap<PackId, BTreeSet<PackId>>,
    pub(crate) report: GcReport,
}

impl Store {
    /// Collects what no image needs.
    pub fn gc(&self, options: &GcOptions, progress: &dyn Progress) -> Result<GcReport, Error> {
        let work = Work::begin(self, "gc", options.lock_wait, false)?;
        work.tell(progress);
        let (live, moved, report) = (Live::default(), BTreeMap::new(), GcReport::default());
        let mut collector = Collector { work, options, progress, live, moved, report };
        let mut forgotten = collector.forgotten()?;
        collector.refuse_unreadable(&forgotten)?;
        if !options.dry_run {
            collector.remove_images(&mut forgotten)?;
        }
        collector.report.images_removed = forgotten.iter().copied().collect();
        collector.walk_images(&forgotten)?;
        let plan = collector.plan()?;
        collector.report_plan(&plan);
        if !options.dry_run {
            collector.carry_out(plan)?;
        }
        Ok(collector.report)
    }
}

impl Collector<'_> {
    pub(crate) fn store(&self) -> &Store {
        self.work.store()
    }

    pub(crate) fn objects(&self) -> &Objects {
        self.work.objects()
    }

    /// Images whose tombstones are old enough.
    fn forgotten(&self) -> Result<BTreeSet<ImageId>, Error> {
        let names = self.objects().image_names()?;
        let now = jiff::Timestamp::now();
        let old = |time: &str| {
            let Ok(time) = time.parse::<jiff::Timestamp>() else { return true };
            now.duration_since(time).unsigned_abs() >= self.options.forgotten_older_than
        };
        let mut forgotten = BTreeSet::new();
        for image in
            names.manifests.iter().filter(|id| names.marks.contains(&(**id, MarkKind::Forgotten.suffix())))
        {
            let protected = names.marks.contains(&(*image, MarkKind::Protected.suffix()));
            let mark = self.objects().mark(*image, MarkKind::Forgotten);
            // A damaged tombstone counts as absent, a protected image as not forgotten: the sides that lose nothing.
            if !protected && matches!(mark, Ok(Some(mark)) if old(&mark.time)) {
                forgotten.insert(*image);
            }
        }
        Ok(forgotten)
    }

    /// Nothing can be proved unused beside an image that can't be read.
    fn refuse_unreadable(&self, forgotten: &BTreeSet<ImageId>) -> Result<(), Error> {
        self.manifests(|image| forgotten.contains(image)).map(drop)
    }

    /// All images but these.
    fn manifests(&self, without: impl Fn(&ImageId) -> bool) -> Result<Vec<(ImageId, Manifest)>, Error> {
        let mut manifests = Vec::new();
        let names = self.objects().image_names()?;
        // Without a lock a slow writer may put its marker on an image that was confirmed by another, forgotten and removed.
        if let Some(image) = names.lost.first().filter(|_| self.work.is_locked()) {
            let source = Box::new(Error::MissingManifest { image: *image });
            return Err(Error::UnreadableImage { image: *image, source });
        }
        for image in names.manifests.into_iter().filter(|id| !without(id)) {
            match self.objects().manifest(image) {
                Ok(manifest) => manifests.push((image, manifest)),
                Err(Error::NoImage { .. }) => {}
                Err(error @ Error::Backend { .. }) => return Err(error),
                Err(error) => return Err(Error::UnreadableImage { image, source: Box::new(error) }),
            }
        }
        Ok(manifests)
    }

    /// Condemned first, looked at again, then removed. An undelete takes the tombstone away and *then* reads the
    /// condemn records; we publish the record and *then* look for the tombstone: one of us sees the other.
    fn remove_images(&self, forgotten: &mut BTreeSet<ImageId>) -> Result<(), Error> {
        let already = self.objects().condemned_images()?;
        let images: Vec<ImageId> =
            forgotten.iter().filter(|image| !already.contains(image)).copied().collect();
        if !images.is_empty() {
            let (session, time) = (self.work.session(), session::now());
            let record = Condemned { session, time, packs: Vec::new(), images, reason: Reason::Collect };
            self.objects().put(&condemned_name(SessionId::random()), &session::encode(&record))?;
        }
        let still = self.forgotten()?;
        forgotten.retain(|image| still.contains(image));
        forgotten.iter().try_for_each(|image| self.remove_image(*image))
    }

    /// The manifest before any pack (I2). Its `ok` goes before it, as a lone one means a loss; the tombstone last, so that
    /// a run that dies between them is taken up again.
    fn remove_image(&self, image: ImageId) -> Result<(), Error> {
        let power = self.store().powers().delete.clone();
        delete(self.objects(), power.as_ref(), &mark_name(image, MarkKind::Ok))?;
        delete(self.objects(), power.as_ref(), &image_name(image))?;
        delete(self.objects(), power.as_ref(), &mark_name(image, MarkKind::Forgotten))
    }

    /// What was walked before is not even read again: a manifest never changes (I1).
    fn walk_images(&mut self, without: &BTreeSet<ImageId>) -> Result<(), Error> {
        let walked = |image: &ImageId| without.contains(image) || self.live.has_image(*image);
        for (image, manifest) in self.manifests(walked)? {
            self.check_cancelled()?;
            let walked = self.live.add_image(image, &manifest, self.work.store().reader());
            self.unless_stillborn(image, walked)?;
        }
        self.live.settle();
        Ok(())
    }

    /// A writer that died between manifest and post-check may leave a manifest whose tables were collected under its
    /// hands. Packs never come back (I1), so that no post-check of it will ever pass: it needs nothing, and must not
    /// stop collections for ever. `None` in place of its error.
    fn unless_stillborn<T>(&self, image: ImageId, result: Result<T, Error>) -> Result<Option<T>, Error> {
        let is_gone = |error: &Error| matches!(error, Error::Chunk { source: None, .. });
        match result {
            Err(Error::UnreadableImage { source, .. })
                if is_gone(&source) && matches!(self.objects().mark(image, MarkKind::Ok), Ok(None)) =>
            {
                Ok(None)
            }
            Err(error) if is_gone(&error) && matches!(self.objects().mark(image, MarkKind::Ok), Ok(None)) => {
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    pub(crate) fn check_cancelled(&self) -> Result<(), Error> {
        if self.progress.cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn plan(&mut self) -> Result<Plan, Error> {
        let condemned = self.objects().condemned_packs()?;
        let mut plan = Plan::default();
        let mut partly = Vec::new();
        let packs: Vec<(PackId, u64)> = self.objects().packs()?.into_iter().collect();
        self.report.bytes_before = packs.iter().map(|(_, bytes)| bytes).sum();
        let weigh = |(id, bytes): &(PackId, u64)| Ok((*id, *bytes, self.weigh(*id, *bytes)?));
        let weighed = packs.par_iter().map(weigh).collect::<Result<Vec<_>, Error>>()?;
        for (id, bytes, weighed) in weighed {
            let Some(weighed) = weighed else {
                if condemned.contains(&id) && self.is_all_listed(&|pack| !condemned.contains(pack)) {
                    plan.dead.push(Weighed { id, bytes, live_bytes: 0, dead_bytes: bytes });
                } else {
                    plan.spared.push(id);
                }
                continue;
            };
            match weighed.live_bytes {
                0 => plan.dead.push(weighed),
                _ if condemned.contains(&id) => plan.rewrite.push(weighed),
                _ if weighed.dead_bytes > 0 => partly.push(weighed),
                _ => {}
            }
        }
        self.choose(partly, &mut plan);
        Ok(plan)
    }

    /// How much of a pack is needed; `None` when its listing can't be read.
    fn weigh(&self, id: PackId, bytes: u64) -> Result<Option<Weighed>, Error> {
        let Some(brief) = unless_damaged(self.work.catalogue().brief(id, bytes))? else { return Ok(None) };
        let (mut live_bytes, mut dead_bytes) = (0, 0);
        for (short, stored_bytes) in brief.chunks {
            let sum = if self.live.has_short(short) { &mut live_bytes } else { &mut dead_bytes };
            *sum += u64::from(stored_bytes);
        }
        Ok(Some(Weighed { id, bytes, live_bytes, dead_bytes }))
    }

    pub(crate) fn entries(&self, id: PackId, bytes: u64) -> Result<Option<Listing>, Error> {
        unless_damaged(self.work.catalogue().entries(id, bytes))
    }

    /// The packs with most to gain, until little of what is dead is left.
    fn choose(&self, mut partly: Vec<Weighed>, plan: &mut Plan) {
        let dead: u64 = partly.iter().chain(&plan.dead).map(|pack| pack.dead_bytes).sum();
        let allowed = dead * u64::from(self.options.leftover_percent) / 100;
        let mut left: u64 = partly.iter().map(|pack| pack.dead_bytes).sum();
        partly.sort_by_key(|pack| std::cmp::Reverse((pack.dead_bytes * 1000 / pack.bytes.max(1), pack.id)));
        for pack in partly {
            if left > allowed && pack.dead_bytes * 100 >= pack.bytes * DEAD_PERCENT_MIN {
                left -= pack.dead_bytes;
                plan.rewrite.push(pack);
            }
        }
        plan.unused_left = left;
    }

    fn report_plan(&mut self, plan: &Plan) {
        let all = || plan.dead.iter().chain(&plan.rewrite);
        self.report.packs_deleted = all().count() as u64;
        self.report.packs_rewritten = plan.rewrite.len() as u64;
        self.report.packs_spared = plan.spared.clone();
        self.report.bytes_unused_left = plan.unused_left;
        self.report.bytes_freed = all().map(|pack| pack.bytes.saturating_sub(pack.live_bytes)).sum();
        // What is copied, then what is deleted.
        let copied: u64 = plan.rewrite.iter().map(|pack| pack.live_bytes).sum();
        self.progress.total(copied + all().map(|pack| pack.bytes).sum::<u64>());
    }

    fn carry_out(&mut self, plan: Plan) -> Result<(), Error> {
        self.report.packs_deleted = 0;
        self.report.packs_rewritten = 0;
        self.collect(plan.dead.iter().map(|pack| pack.id).collect())?;
        // In portions, so that a nearly full disk needs room for one portion's copies only.
        for portion in portions(&plan.rewrite) {
            self.check_cancelled()?;
            self.collect(portion)?;
        }
        self.retire()?;
        let after: u64 = self.objects().packs()?.values().sum();
        self.report.bytes_freed = self.report.bytes_before.saturating_sub(after);
        Ok(())
    }

    /// Steps 3 to 8 of DESIGN §5.6 for some packs.
    fn collect(&mut self, packs: Vec<PackId>) -> Result<(), Error> {
        if packs.is_empty() {
            return Ok(());
        }
        let mut packs: BTreeSet<PackId> = packs.into_iter().collect();
        self.condemn(&packs)?;
        self.work.catalogue().forget_packs(&packs.iter().copied().collect::<Vec<PackId>>());
        if self.in_grace(&packs)? {
            self.report.packs_waiting += packs.len() as u64;
            return Ok(());
        }
        let mut rewritten = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            // In this order: manifests, condemn records, packs. With another one data is lost (the model shows it).
            self.walk_images(&BTreeSet::new())?;
            let condemned = self.objects().condemned_packs()?;
            let there = self.objects().packs()?;
            packs.retain(|pack| there.contains_key(pack));
            let sound = |pack: &PackId| there.contains_key(pack) && !condemned.contains(pack);
            let (copied, done) = self.evacuate(&mut packs, &there, &sound)?;
            rewritten.extend(copied);
            if done {
                rewritten.retain(|pack| packs.contains(pack));
                self.report.packs_rewritten += rewritten.len() as u64;
                return self.delete_packs(&packs, &there);
            }
        }
        self.report.packs_waiting += packs.len() as u64;
        Ok(())
    }

    /// Publishes the record, unless records that are there condemn all of them already.
    fn condemn(&self, packs: &BTreeSet<PackId>) -> Result<(), Error> {
        let already = self.objects().condemned_packs()?;
        let new: Vec<PackId> = packs.iter().filter(|pack| !already.contains(pack)).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let record = Condemned {
            session: self.work.session(),
            time: session::now(),
            packs: new,
            images: Vec::new(),
            reason: Reason::Collect,
        };
        self.objects().put(&condemned_name(SessionId::random()), &session::encode(&record)).map(drop)
    }

    /// Somebody else is at work, and may be about to rely on packs that were condemned a short while ago: waiting
    /// saves them work.
    fn in_grace(&self, packs: &BTreeSet<PackId>) -> Result<bool, Error> {
        if self.options.grace.is_zero() {
            return Ok(false);
        }
        let sessions = self.objects().sessions()?;
        if !sessions.iter().any(|(id, info)| *id != self.work.session() && !info.is_dead()) {
            return Ok(false);
        }
        let now = jiff::Timestamp::now();
        let is_young = |record: &Condemned| {
            let time = record.time.parse::<jiff::Timestamp>().unwrap_or(now);
            now.duration_since(time).unsigned_abs() < self.options.grace
        };
        let records = self.objects().condemned()?;
        Ok(records
            .iter()
            .any(|(_, record)| is_young(record) && record.packs.iter().any(|pack| packs.contains(pack))))
    }

    /// Before anything is deleted, so that a reader with an old hint finds its way; only what was not said before.
    pub(crate) fn publish_moves(
        &mut self,
        elsewhere: BTreeMap<PackId, BTreeSet<PackId>>,
    ) -> Result<(), Error> {
        let is_new = |(old, new): &(PackId, BTreeSet<PackId>)| {
            !self.moved.get(old).is_some_and(|said| new.is_subset(said))
        };
        let news: Vec<(PackId, BTreeSet<PackId>)> = elsewhere.into_iter().filter(is_new).collect();
        if news.is_empty() {
            return Ok(());
        }
        let moved = news.iter().map(|(old, new)| (*old, new.iter().copied().collect())).collect();
        let record = Moves { session: self.work.session(), time: session::now(), moved };
        self.objects().put(&moves_name(SessionId::random()), &session::encode(&record))?;
        news.into_iter().for_each(|(old, new)| self.moved.entry(old).or_default().extend(new));
        Ok(())
    }

    fn delete_packs(&mut self, packs: &BTreeSet<PackId>, there: &BTreeMap<PackId, u64>) -> Result<(), Error> {
        let power = self.store().powers().delete.clone();
        let packs: Vec<PackId> = packs.iter().copied().collect();
        let (deleted, failed) = (AtomicU64::new(0), Mutex::new(None));
        // Each deletion waits until it is durable, and several may wait together.
        crew::each(crew::threads().min(DELETIONS_AT_ONCE), &packs, |pack| {
            if let Err(error) = delete(self.objects(), power.as_ref(), &pack_name(*pack)) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return false;
            }
            self.work.catalogue().records().remove(*pack);
            self.progress.add(there.get(pack).copied().unwrap_or(0));
            deleted.fetch_add(1, Ordering::Relaxed);
            true
        });
        self.report.packs_deleted += deleted.into_inner();
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Drops condemn records none of whose packs exists, moves that no image's hints lead to, and stray markers.
    fn retire(&self) -> Result<(), Error> {
        let power = self.store().powers().delete.clone();
        let records = self.objects().condemned()?;
        let there = self.objects().packs()?;
        let images: HashSet<ImageId> = self.objects().image_names()?.manifests.into_iter().collect();
        let in_force = |record: &Condemned| {
            record.packs.iter().any(|pack| there.contains_key(pack))
                || record.images.iter().any(|image| images.contains(image))
        };
        for (id, _) in records.iter().filter(|(_, record)| !in_force(record)) {
            delete(self.objects(), power.as_ref(), &condemned_name(*id))?;
        }
        // The records first, the manifests after them: a move published meanwhile is not judged.
        let moves = self.objects().moves()?;
        if !moves.is_empty() {
            let needed = self.packs_hinted_at()?;
            for (id, _) in
                moves.iter().filter(|(_, record)| !record.moved.keys().any(|old| needed.contains(old)))
            {
                delete(self.objects(), power.as_ref(), &moves_name(*id))?;
            }
        }
        let names = self.objects().image_names()?;
        let manifests: HashSet<ImageId> = names.manifests.iter().copied().collect();
        // A lone `ok` would mean that a manifest was lost: the tombstone goes last here too.
        let mut stray: Vec<_> = names.marks.iter().filter(|(image, _)| !manifests.contains(image)).collect();
        stray.sort_unstable_by_key(|(image, suffix)| (*suffix == MarkKind::Forgotten.suffix(), *image));
        for (image, suffix) in stray {
            let kind = MarkKind::ALL.into_iter().find(|kind| kind.suffix() == *suffix);
            // A listing may show the marker of an image that was published while it ran, and miss its manifest.
            let exists = self.objects().backend.exists(&image_name(*image));
            let exists = exists.map_err(|source| self.objects().fail(source))?;
            if let Some(kind) = kind.filter(|_| !exists) {
                delete(self.objects(), power.as_ref(), &mark_name(*image, kind))?;
            }
        }
        Ok(())
    }

    /// Every pack that hints of any image name, and where moves lead from there.
    fn packs_hinted_at(&self) -> Result<HashSet<PackId>, Error> {
        let moved = self.objects().moved()?;
        let mut known = KnownPacks::default();
        let mut hinted = HashSet::new();
        for (image, manifest) in self.manifests(|_| false)? {
            let packs = self.store().reader().packs_of(&manifest, &mut known);
            for pack in self.unless_stillborn(image, packs)?.unwrap_or_default() {
                hinted.extend(follow(&moved, pack));
                hinted.insert(pack);
            }
        }
        Ok(hinted)
    }
}

/// Deletions under way at once.
const DELETIONS_AT_ONCE: usize = 8;
/// At most so many packs are copied before the old ones are deleted.
const PORTION_PACKS: usize = 32;

fn portions(packs: &[Weighed]) -> Vec<Vec<PackId>> {
    packs.chunks(PORTION_PACKS).map(|portion| portion.iter().map(|pack| pack.id).collect()).collect()
}

/// `None` for a pack whose listing is damaged.
fn unless_damaged<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if error.family() == crate::Family::Damaged => Ok(None),
        result => result.map(Some),
    }
}

//! Scrub: every byte of the store read, every chunk decoded and hashed, every reference followed (DESIGN §5.7).
//!
//! Promise: collects findings and goes on; names the images and byte ranges that each finding hits; a pack with damage
//! is condemned, so that its chunks count as absent and the next capture of the same disk stores them again.
//! Knows nothing of what the bytes mean to a filesystem.

use crate::error::line;
use crate::id::{ChunkId, ImageId, PackId, SessionId};
use crate::inspect::{self, Checked};
use crate::manifest::Manifest;
use crate::objects::{CONFIG_NAMES, condemned_name, delete, fixed_name, pack_name};
use crate::reader::KnownPacks;
use crate::session::{self, Condemned, MarkKind, Reason};
use crate::table::{Child, Entry};
use crate::work::Work;
use crate::{ChunkKind, Error, Progress, Store, crew};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Hits listed of one image; more are summed up in the last one.
const HITS_MAX: usize = 1000;

/// What to scrub.
#[derive(Clone, Debug, Default)]
pub struct ScrubOptions {
    /// How long to wait for another writer.
    pub lock_wait: Duration,
    /// Only this share of the packs, those not looked at for longest.
    pub sample_percent: Option<f64>,
    /// Stop after this time; the next scrub goes on where this one stopped.
    pub max_time: Option<Duration>,
    /// Only packs that were not looked at for this long.
    pub older_than: Option<Duration>,
}

/// What was looked at, and found.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    /// Packs read.
    pub packs_checked: u64,
    /// Packs there are.
    pub packs_total: u64,
    /// Bytes of packs read.
    pub bytes_checked: u64,
    /// Chunks decoded and hashed.
    pub chunks_checked: u64,
    /// Images whose manifests and markers were read.
    pub images_checked: u64,
    /// All that is wrong.
    pub findings: Vec<Finding>,
    /// What was put right: the copy of a damaged config, a damaged marker.
    pub repaired: Vec<String>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The object.
    pub object: String,
    /// Place, expected, found, in one line.
    pub what: String,
    /// Images hit, and where.
    pub hits: Vec<Hit>,
}

/// A stretch of an image that can't be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// The image.
    pub image: ImageId,
    /// First byte on the device.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

struct Scrub<'a> {
    work: Work,
    progress: &'a dyn Progress,
    report: ScrubReport,
    /// Packs in which something is wrong, with the finding that says so.
    damaged: HashMap<PackId, usize>,
    bad: HashSet<ChunkId>,
}

impl Store {
    /// Looks for damage. Takes the writer's lock, as it may condemn packs.
    pub fn scrub(&self, options: &ScrubOptions, progress: &dyn Progress) -> Result<ScrubReport, Error> {
        // Its own caches: what was read before the damage must not hide it.
        let fresh = Store::with_powers(self.powers().clone())?;
        let work = Work::begin_mending(&fresh, "scrub", options.lock_wait)?;
        work.tell(progress);
        let report = ScrubReport::default();
        let (damaged, bad) = (HashMap::new(), HashSet::new());
        let mut scrub = Scrub { work, progress, report, damaged, bad };
        scrub.report_mended();
        scrub.check_config()?;
        scrub.check_records()?;
        let packs = scrub.work.objects().packs()?;
        let images = scrub.check_images()?;
        scrub.check_packs(&packs, options)?;
        scrub.check_references(&packs, &images)?;
        scrub.condemn_damaged()?;
        Ok(scrub.report)
    }
}

impl Scrub<'_> {
    fn find(&mut self, object: &str, what: String) -> usize {
        self.report.findings.push(Finding { object: object.to_string(), what, hits: Vec::new() });
        self.report.findings.len() - 1
    }

    /// Both copies; a damaged or missing one is replaced from the other.
    fn check_config(&mut self) -> Result<(), Error> {
        let good = self.work.store().config().encode();
        for text in CONFIG_NAMES {
            let what = match self.work.objects().config_of(text) {
                Ok(Some(_)) => continue,
                Ok(None) => format!("{text}: missing"),
                Err(error) if error.family() == crate::Family::Damaged => line(&error),
                Err(error) => return Err(error),
            };
            self.find(text, what);
            let name = fixed_name(text);
            delete(self.work.objects(), self.work.store().powers().delete.as_ref(), &name)?;
            self.work.objects().put(&name, &good)?;
            self.report.repaired.push(format!("{text}: written anew from the other copy"));
        }
        Ok(())
    }

    /// Damaged condemn records that were removed under the lock, before the catalogue was opened.
    fn report_mended(&mut self) {
        for (name, error) in self.work.mended().to_vec() {
            self.find(&name, error);
            self.report.repaired.push(format!("{name}: removed, as no collector is at work"));
        }
    }

    /// A damaged record of moves goes: what it said is in the trailers.
    fn check_records(&mut self) -> Result<(), Error> {
        for (name, error) in self.work.objects().damaged_moves()? {
            self.find(name.as_str(), line(&error));
            delete(self.work.objects(), self.work.store().powers().delete.as_ref(), &name)?;
            self.report.repaired.push(format!("{name}: removed"));
        }
        Ok(())
    }

    fn check_images(&mut self) -> Result<Vec<(ImageId, Manifest)>, Error> {
        let names = self.work.objects().image_names()?;
        let mut images = Vec::new();
        for id in &names.manifests {
            self.report.images_checked += 1;
            match self.work.objects().manifest(*id) {
                Ok(manifest) => images.push((*id, manifest)),
                Err(Error::NoImage { .. }) => {}
                Err(error @ Error::Backend { .. }) if error.family() == crate::Family::Io => {
                    return Err(error);
                }
                Err(error) => {
                    let finding = self.find(&format!("images/{id}"), line(&error));
                    self.report.findings[finding].hits.push(Hit { image: *id, offset: 0, bytes: u64::MAX });
                }
            }
        }
        for id in &names.lost {
            let finding = self.find(&format!("images/{id}"), line(&Error::MissingManifest { image: *id }));
            self.report.findings[finding].hits.push(Hit { image: *id, offset: 0, bytes: u64::MAX });
        }
        for (id, suffix) in &names.marks {
            let Some(kind) = MarkKind::ALL.into_iter().find(|kind| kind.suffix() == *suffix) else {
                continue;
            };
            if let Err(error) = self.work.objects().mark(*id, kind) {
                self.find(&format!("images/{id}.{suffix}"), line(&error));
                self.mend_mark(*id, kind, &images)?;
            }
        }
        Ok(images)
    }

    /// A damaged `ok` is proved again, a damaged `protected` is what its name says; a damaged tombstone goes.
    fn mend_mark(
        &mut self,
        id: ImageId,
        kind: MarkKind,
        images: &[(ImageId, Manifest)],
    ) -> Result<(), Error> {
        let Some((_, manifest)) = images.iter().find(|(image, _)| *image == id) else { return Ok(()) };
        let store = self.work.store().clone();
        let sound = kind == MarkKind::Protected
            || (kind == MarkKind::Ok && store.packs_lost(manifest, None).is_ok_and(|lost| lost.is_empty()));
        let name = crate::objects::mark_name(id, kind);
        delete(store.objects(), store.powers().delete.as_ref(), &name)?;
        if sound {
            store.objects().put_mark(id, kind)?;
        }
        let done = if sound { "written anew" } else { "removed" };
        self.report.repaired.push(format!("{name}: {done}"));
        Ok(())
    }

    fn check_packs(&mut self, packs: &BTreeMap<PackId, u64>, options: &ScrubOptions) -> Result<(), Error> {
        self.report.packs_total = packs.len() as u64;
        let chosen = self.choose(packs, options);
        self.progress.total(chosen.iter().map(|(_, bytes)| *bytes).sum());
        let deadline = options.max_time.map(|time| Instant::now() + time);
        let (progress, objects) = (self.progress, self.work.objects().clone());
        let is_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let taken = Mutex::new(&mut *self);
        crew::each(crew::threads(), &chosen, |(id, bytes)| {
            if progress.cancelled() || is_late() {
                return false;
            }
            let checked = inspect::check_pack(&objects, *id, *bytes);
            taken.lock().unwrap_or_else(PoisonError::into_inner).take_in(checked);
            true
        });
        if progress.cancelled() {
            return Err(Error::Interrupted);
        }
        if is_late() && self.report.packs_checked < chosen.len() as u64 {
            progress.note("time is up; the next scrub goes on from here");
        }
        Ok(())
    }

    /// Those not looked at for longest first.
    fn choose(&self, packs: &BTreeMap<PackId, u64>, options: &ScrubOptions) -> Vec<(PackId, u64)> {
        let records = self.work.catalogue().records();
        let now = jiff::Timestamp::now().as_second();
        let mut dated: Vec<(i64, PackId, u64)> =
            packs.iter().map(|(id, bytes)| (records.scrubbed(*id).unwrap_or(0), *id, *bytes)).collect();
        dated.sort_unstable();
        if let Some(older) = options.older_than {
            let older = i64::try_from(older.as_secs()).unwrap_or(i64::MAX);
            dated.retain(|(time, ..)| now.saturating_sub(*time) >= older);
        }
        if let Some(percent) = options.sample_percent {
            let share = (packs.len() as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil();
            // At most the number of packs, never negative.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            dated.truncate(share as usize);
        }
        dated.into_iter().map(|(_, id, bytes)| (id, bytes)).collect()
    }

    fn take_in(&mut self, checked: Checked) {
        self.report.packs_checked += 1;
        self.report.bytes_checked += checked.bytes;
        self.report.chunks_checked += checked.chunks;
        self.progress.add(checked.bytes);
        if checked.errors.is_empty() {
            let now = jiff::Timestamp::now().as_second();
            return self.work.catalogue().records().set_scrubbed(checked.pack, now);
        }
        let finding = self.find(pack_name(checked.pack).as_str(), checked.errors.join("; "));
        self.damaged.insert(checked.pack, finding);
        self.bad.extend(checked.bad);
    }

    /// Which images need what is damaged or gone and has no other sound copy.
    fn check_references(
        &mut self,
        packs: &BTreeMap<PackId, u64>,
        images: &[(ImageId, Manifest)],
    ) -> Result<(), Error> {
        let lost: Vec<PackId> = self.damaged.keys().copied().collect();
        self.work.catalogue().forget_packs(&lost);
        let mut known = KnownPacks::default();
        for (id, manifest) in images {
            let Some(root) = &manifest.root else { continue };
            let top = root.child();
            let needed = self.work.store().reader().packs_of(manifest, &mut known);
            let in_doubt = |pack: &PackId| !packs.contains_key(pack) || self.damaged.contains_key(pack);
            // With an unreadable upper table the walk below says what is hit.
            if needed.is_ok_and(|needed| !needed.iter().any(in_doubt)) {
                continue;
            }
            let mut hits = BTreeSet::new();
            self.walk(*id, &top, root.level, 0, manifest.bytes, packs, &mut hits)?;
            self.report_hits(hits);
        }
        Ok(())
    }

    /// Hits are put to the pack's finding, or make one for a pack that is gone.
    fn report_hits(&mut self, hits: BTreeSet<(PackId, Hit)>) {
        for (pack, hit) in hits {
            let finding = match self.damaged.get(&pack) {
                Some(finding) => *finding,
                None => {
                    let finding = self.find(
                        pack_name(pack).as_str(),
                        "pack: missing, or without a chunk that is needed".to_string(),
                    );
                    self.damaged.insert(pack, finding);
                    finding
                }
            };
            let list = &mut self.report.findings[finding].hits;
            let room = list.len() < HITS_MAX;
            match list.last_mut() {
                Some(last)
                    if last.image == hit.image && last.offset.saturating_add(last.bytes) == hit.offset =>
                {
                    last.bytes += hit.bytes
                }
                _ if room => list.push(hit),
                _ => {}
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn walk(
        &self,
        image: ImageId,
        child: &Child,
        level: u8,
        start: u64,
        bytes: u64,
        packs: &BTreeMap<PackId, u64>,
        hits: &mut BTreeSet<(PackId, Hit)>,
    ) -> Result<(), Error> {
        let table = match self.work.store().reader().table(child, level) {
            Ok(table) => table,
            Err(Error::Chunk { .. } | Error::Table { .. }) => {
                hits.insert((child.pack, Hit { image, offset: start, bytes }));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let in_doubt = |pack: &PackId| !packs.contains_key(pack) || self.damaged.contains_key(pack);
        if level <= 2 && !table.packs.iter().any(in_doubt) {
            return Ok(());
        }
        let mut offset = start;
        for entry in &table.entries {
            match entry {
                Entry::Child { child, bytes } if level > 0 => {
                    self.walk(image, child, level - 1, offset, *bytes, packs, hits)?;
                }
                Entry::Child { child, bytes } if self.is_lost(child, packs)? => {
                    hits.insert((child.pack, Hit { image, offset, bytes: *bytes }));
                }
                _ => {}
            }
            offset = offset.saturating_add(entry.bytes());
        }
        Ok(())
    }

    /// Whether a data chunk can't be had from anywhere.
    fn is_lost(&self, child: &Child, packs: &BTreeMap<PackId, u64>) -> Result<bool, Error> {
        // A damaged pack may be another one whole under this name: then its listing is sound and lacks the chunk.
        let in_doubt = !packs.contains_key(&child.pack) || self.damaged.contains_key(&child.pack);
        if !in_doubt && !self.bad.contains(&child.id) {
            return Ok(false);
        }
        if self.work.catalogue().find(child.id)?.is_some_and(|(_, entry)| entry.kind == ChunkKind::Data) {
            return Ok(false);
        }
        // Slow and sure: by hint, moves and all trailers, decoded and hashed.
        match self.work.store().reader().chunk(ChunkKind::Data, child) {
            Ok(_) => Ok(false),
            Err(Error::Chunk { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// From now on the chunks of damaged packs count as absent: the next capture stores them again.
    fn condemn_damaged(&mut self) -> Result<(), Error> {
        let there = self.work.objects().packs()?;
        let already = self.work.objects().condemned_packs().unwrap_or_default();
        let new = |pack: &&PackId| there.contains_key(pack) && !already.contains(pack);
        let packs: Vec<PackId> = self.damaged.keys().filter(new).copied().collect();
        if packs.is_empty() {
            return Ok(());
        }
        self.report.repaired.push(format!(
            "damaged packs set aside: {}; the next capture that sees what they held stores it again",
            packs.len()
        ));
        let record = Condemned {
            session: self.work.session(),
            time: session::now(),
            packs,
            images: Vec::new(),
            reason: Reason::Damaged,
        };
        self.work.objects().put(&condemned_name(SessionId::random()), &session::encode(&record)).map(drop)
    }
}

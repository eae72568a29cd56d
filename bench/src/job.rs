//! One operation on a store, in a process of its own: its time and its memory are then its own too.
//!
//! Promise: what is timed is what the command line would do between its arguments and its report, opening the store
//! included; starting the process and taking the image's id from the list are not.
//! Knows nothing of what the measures are for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use disk::{Device, Identity, Layout, ReadAt, Target};
use image::{CaptureOptions, Compare, RestoreOptions, SourceInfo};
use serde::{Deserialize, Serialize};
use store::backend::{Backend, LocalBackend};
use store::{Compression, GcOptions, Home, ImageId, ScrubOptions, Store, StoredImage, WriterOptions};

use crate::CHILD;
use crate::data::MadeUpDisk;
use crate::measure::{Measure, measure};
use crate::slow;

/// What a child is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Name of the measure.
    pub(crate) name: String,
    /// The store's folder.
    pub(crate) store: PathBuf,
    /// Threads; 0: one for each processor.
    pub(crate) threads: usize,
    /// What to do.
    pub(crate) work: Work,
}

/// Operations that the command line has too. Images are given by their place in the list, the oldest being 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    Capture(Source),
    CaptureToSlowStore(MadeUpDisk),
    RestoreToFile { image: usize, target: PathBuf, write_all: bool },
    RestoreToNothing { image: usize },
    Verify { image: usize },
    Scrub,
    Stats,
    ForgetAndCollect { image: usize },
}

/// What is captured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Source {
    /// A file or a device.
    Path(PathBuf),
    MadeUp(MadeUpDisk),
}

impl Job {
    /// Does the work in a child and gives back what it measured.
    pub(crate) fn run(&self) -> Result<Measure> {
        let program = std::env::current_exe()?;
        let output = Command::new(program).arg(CHILD).arg(serde_json::to_string(self)?).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {said}", self.name, output.status);
        let line = String::from_utf8(output.stdout)?;
        serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))
    }
}

/// What the child does.
pub(crate) fn run_child(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    let measured = measure(job.name.clone(), |watch| {
        let image = job.image()?;
        let bytes = watch.time(|| job.work(image))?;
        Ok::<_, anyhow::Error>((bytes, Some(stored_bytes(&job.store)?)))
    })?;
    measured.print()?;
    Ok(())
}

/// A new store with this rule.
pub(crate) fn init(path: &Path, rule: &str) -> Result<()> {
    // As the command line does: the config has the rule in full.
    let rule: chunker::Rule = rule.parse()?;
    Store::init(&Home::local(path), store::Config::new(&rule.to_string()))?;
    Ok(())
}

/// Bytes of all packs.
fn stored_bytes(path: &Path) -> Result<u64> {
    Ok(LocalBackend::open(path)?.list("packs")?.iter().map(|entry| entry.bytes).sum())
}

impl Job {
    fn open(&self) -> Result<Store> {
        Ok(Store::open(&Home::local(&self.store))?)
    }

    /// The image that the work is about, if any.
    fn image(&self) -> Result<Option<ImageId>> {
        let place = match &self.work {
            Work::RestoreToFile { image, .. }
            | Work::RestoreToNothing { image }
            | Work::Verify { image }
            | Work::ForgetAndCollect { image } => *image,
            Work::Capture(_) | Work::CaptureToSlowStore(_) | Work::Scrub | Work::Stats => return Ok(None),
        };
        let images = self.open()?.images()?;
        let entry = images.get(place).with_context(|| format!("no image {place} of {}", images.len()))?;
        Ok(Some(entry.id))
    }

    /// Bytes that went in: of the device, or of what was read of the store.
    fn work(&self, image: Option<ImageId>) -> Result<u64> {
        let store = self.open()?;
        let stored = || match image {
            Some(id) => Ok(store.image(id)?),
            None => bail!("{}: no image", self.name),
        };
        match &self.work {
            Work::Capture(source) => self.capture(&store, source),
            Work::CaptureToSlowStore(disk) => {
                self.capture_made_up(&Store::open(&slow::home(&self.store)?)?, disk)
            }
            Work::RestoreToFile { target, write_all, .. } => {
                self.restore_to_file(&stored()?, target, *write_all)
            }
            Work::RestoreToNothing { .. } => {
                let options = RestoreOptions { threads: self.threads, ..RestoreOptions::default() };
                let report = image::restore_to_stream(&stored()?, &mut std::io::sink(), &options, &())?;
                Ok(report.written_bytes)
            }
            Work::Verify { .. } => {
                let stored = stored()?;
                let report = image::verify_image(&stored, self.threads, &())?;
                ensure!(report.is_clean(), "{}: {report:?}", self.name);
                Ok(stored.bytes())
            }
            Work::Scrub => {
                let report = store.scrub(&ScrubOptions::default(), &())?;
                ensure!(report.findings.is_empty(), "{}: {:?}", self.name, report.findings);
                Ok(report.bytes_checked)
            }
            Work::Stats => Ok(store.statistics(&())?.raw_bytes),
            Work::ForgetAndCollect { .. } => {
                store.forget(&[stored()?.id()])?;
                let options = GcOptions { lock_wait: Duration::from_secs(10), ..GcOptions::default() };
                let report = store.gc(&options, &())?;
                ensure!(report.packs_spared.is_empty(), "{}: {report:?}", self.name);
                Ok(report.bytes_before)
            }
        }
    }

    fn capture(&self, store: &Store, source: &Source) -> Result<u64> {
        match source {
            Source::Path(path) => {
                let device = Device::open(path)?;
                self.capture_device(store, &device, device.identity().clone())
            }
            Source::MadeUp(disk) => self.capture_made_up(store, disk),
        }
    }

    fn capture_made_up(&self, store: &Store, disk: &MadeUpDisk) -> Result<u64> {
        let size_bytes = disk.size_bytes();
        let identity = Identity { name: "made-up".into(), size_bytes, ..Identity::stream() };
        self.capture_device(store, disk, identity)
    }

    fn capture_device(&self, store: &Store, device: &dyn ReadAt, identity: Identity) -> Result<u64> {
        let layout = Layout::read(device, device.sector_bytes());
        let source = SourceInfo::new(identity, layout, device.size_bytes(), &[])?;
        let options = CaptureOptions {
            writer: WriterOptions { compression: Compression::default(), ..WriterOptions::default() },
            threads: self.threads,
            created: store::now(),
            host: "bench".to_owned(),
            // All are the same disk on different days.
            disk: Some("bench".to_owned()),
            ..CaptureOptions::default()
        };
        let captured = image::capture(&source, device, store, &options, &())?;
        Ok(captured.manifest.bytes)
    }

    fn restore_to_file(&self, stored: &StoredImage, target: &Path, write_all: bool) -> Result<u64> {
        let compare = if write_all { Compare::WriteAll } else { Compare::Read };
        let options = RestoreOptions { compare, threads: self.threads, ..RestoreOptions::default() };
        let plan = image::plan_restore_file(stored, target, Some(&self.store), &options)?;
        ensure!(plan.refusals.is_empty(), "{}: {:?}", self.name, plan.refusals);
        let opened = Target::open_file(target, plan.target_bytes)?;
        let report = image::restore(&plan, stored, &opened, &options, &())?;
        ensure!(report.finished, "{}: {report:?}", self.name);
        Ok(stored.bytes())
    }
}

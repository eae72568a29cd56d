//! `cas clone SOURCE TARGET…`: one disk right onto others, without a store.
//!
//! Promise: the source is only read, and once for all targets of one size; each target is shown and asked about.
//! Knows nothing of how bytes get there.

use crate::args::Context;
use crate::arranged::{Job, Planned};
use crate::commands::{capture, plan};
use crate::errors::Said;
use crate::exit::Exit;
use crate::layout::{self, LayoutArgs};
use crate::{picture, place, target};
use anyhow::{Context as _, Result};
use disk::{Device, Target};
use image::{
    CaptureChecks, ClonePlan, Compare, CopyOptions, Origin, RestoreOptions, Severity, SourceInfo, TargetKind,
    UsedBlocks,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The disk, partition or file to copy
    source: PathBuf,
    /// One or more disks, partitions or files to write
    #[arg(required = true)]
    targets: Vec<PathBuf>,
    /// Store an image too: the source is read into the store, and the targets are written from there
    #[arg(long)]
    also_keep: bool,
    /// Read every sector, also what no filesystem uses
    #[arg(long)]
    raw: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Refuse any target but the one with this serial number (its name, where it has none); for a single target
    #[arg(long, value_name = "SERIAL")]
    target_serial: Option<String>,
    /// Do not read what the targets hold: write everything. For blank targets
    #[arg(long)]
    no_compare: bool,
    /// Read everything back from the media when it is written
    #[arg(long)]
    verify: bool,
    /// Clone although a filesystem of the source is mounted read-write; the copies will need a check
    #[arg(long)]
    allow_mounted: bool,
    /// Clone to a partition of the disk that the store is on
    #[arg(long)]
    allow_store_disk: bool,
    /// Threads that read and write, 24 at most [default: two for each processor and target]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Show what would be done, and what speaks against it; write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    layout: LayoutArgs,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let device = Arc::new(Device::open(&args.source)?);
    let plan = plan(context, &device, &args)?;
    let origin = Origin { device: device.clone(), info: plan.capture.source.clone() };
    let job = Job::new(
        context,
        "clone",
        format!("a copy of {}", picture::headline(&plan.capture.source.identity)),
        &args.layout,
        args.layout.options(None)?,
        args.copy(),
    )?;
    if args.dry_run {
        for target in plan.targets {
            plan::show(&job, &origin, target, |document| context.ui.event("summary", document))?;
        }
        return Ok(Exit::Done);
    }
    let planned = planned(context, &job, &origin, &plan, &args)?;
    let in_use_only = capture::only_in_use(context, &plan.capture, &device, args.raw);
    let mut exit = Exit::Done;
    if args.also_keep {
        let store = place::open_or_create(context)?;
        let captured = capture::keep(context, &store, &device, &plan.capture, in_use_only)?;
        context.ui.say(format!("kept       image {}", captured.image.short()));
        let origin = Origin::of_image(&store.image(captured.image)?)?;
        for targets in groups(&planned) {
            exit = from_image(&job, &origin, &targets, exit)?;
        }
        return Ok(exit);
    }
    context.signals.guard()?;
    for targets in groups(&planned) {
        exit = from_device(&job, &device, &plan.capture.source, in_use_only, &targets, exit)?;
    }
    Ok(exit)
}

impl Args {
    fn copy(&self) -> CopyOptions {
        CopyOptions {
            compare: if self.no_compare { Compare::WriteAll } else { Compare::Read },
            verify: self.verify,
            threads: self.threads,
            keep_damaged: false,
        }
    }
}

/// Looks at source and targets, and says everything that speaks against it.
fn plan(context: &Context, device: &Device, args: &Args) -> Result<ClonePlan> {
    if args.target_serial.is_some() && args.targets.len() > 1 {
        return Err(Said::usage("--target-serial: expected one target, found several").into());
    }
    let folder = place::find(context)?.path;
    let store = (args.also_keep || folder.exists()).then_some(folder.as_path());
    let checks = CaptureChecks { allow_mounted: args.allow_mounted, exclude: Vec::new() };
    let options = RestoreOptions {
        target_serial: args.target_serial.clone(),
        allow_store_disk: args.allow_store_disk,
        ..RestoreOptions::default()
    };
    let mut plan = image::plan_clone(device, &args.targets, store, &checks, &options)?;
    if !args.also_keep {
        // Where a store lies is no matter when nothing is stored.
        plan.capture.concerns.retain(|concern| !concern.is_about_store());
    }
    for concern in plan.capture.concerns.iter().filter(|concern| concern.severity() == Severity::Warn) {
        context.ui.warn(concern.to_string());
    }
    capture::refuse("clone", &plan.capture.source.identity.path, &plan.capture.concerns)?;
    Ok(plan)
}

/// Plans each target, shows it and asks.
fn planned(
    context: &Context,
    job: &Job<'_>,
    origin: &Origin,
    plan: &ClonePlan,
    args: &Args,
) -> Result<Vec<Planned>> {
    for target in &plan.targets {
        target::refuse("clone", &target.facts.path, &target.refusals)?;
    }
    let mut planned = Vec::new();
    for target in &plan.targets {
        let one = job.plan(origin, target.clone())?;
        layout::check_programs(&one.layout)?;
        planned.push(one);
    }
    if !job.options.new_ids && planned.iter().any(|one| one.target.facts.kind == Some(TargetKind::Device)) {
        context.ui.note(
            "the copy has the identities of its source: never start a system with both attached, or use --new-ids",
        );
    }
    for one in &planned {
        job.confirm(origin, one, args.yes)?;
    }
    Ok(planned)
}

/// Targets of one size and kind of sectors, which are written with one reading.
fn groups(planned: &[Planned]) -> Vec<Vec<&Planned>> {
    let mut groups: Vec<Vec<&Planned>> = Vec::new();
    for one in planned {
        match groups.iter_mut().find(|group| group.iter().all(|it| it.layout.target == one.layout.target)) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

fn open_all<'a>(job: &Job<'_>, targets: &[&'a Planned]) -> Result<Vec<(&'a Planned, Target)>> {
    targets.iter().map(|planned| Ok((*planned, job.open(planned)?))).collect()
}

fn from_device(
    job: &Job<'_>,
    device: &Arc<Device>,
    source: &SourceInfo,
    in_use_only: bool,
    targets: &[&Planned],
    exit: Exit,
) -> Result<Exit> {
    let opened = open_all(job, targets)?;
    let Some(first) = targets.first() else { return Ok(exit) };
    let started = Instant::now();
    let quiet = ();
    let result = image::while_steady(source, device, in_use_only, &quiet, |unused, still_good| {
        let view = Arc::new(UsedBlocks::new(device.clone(), unused.to_vec()));
        let origin = Origin { device: view, info: source.clone() };
        job.write(&origin, &first.layout, &opened, still_good, device)
    });
    let ((ready, report), _) = result.context("clone")?;
    say_done(job, &opened);
    let found = job.tell(&ready, &report, &opened, started.elapsed());
    job.context.ui.event("summary", job.summary(&ready, &report, &opened, started.elapsed()));
    Ok(exit.worse(found))
}

fn from_image(job: &Job<'_>, origin: &Origin, targets: &[&Planned], exit: Exit) -> Result<Exit> {
    let opened = open_all(job, targets)?;
    let Some(first) = targets.first() else { return Ok(exit) };
    let started = Instant::now();
    let (ready, report) =
        job.write(origin, &first.layout, &opened, &|| true, &origin.device).context("clone")?;
    say_done(job, &opened);
    let found = job.tell(&ready, &report, &opened, started.elapsed());
    job.context.ui.event("summary", job.summary(&ready, &report, &opened, started.elapsed()));
    Ok(exit.worse(found))
}

fn say_done(job: &Job<'_>, targets: &[(&Planned, Target)]) {
    for (planned, _) in targets {
        job.context.ui.say(format!("cloned     to {}", planned.target.facts.path.display()));
    }
}

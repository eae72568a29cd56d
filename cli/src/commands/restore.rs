//! `cas restore IMAGE TARGET`: plan, checks, show, ask, write.
//!
//! Promise: nothing is written before the plan is free of refusals and somebody said yes (or `--yes`).
//! Knows nothing of how bytes get to the target.

use crate::args::Context;
use crate::arranged::Job;
use crate::commands::{plan, verify};
use crate::errors::Said;
use crate::exit::Exit;
use crate::layout::{self, LayoutArgs};
use crate::naming::{Narrow, Place};
use crate::progress::{Meter, Work};
use crate::units::{show_bytes, show_duration, show_rate};
use crate::{catalog, place, target, units};
use anyhow::{Context as _, Result};
use disk::Extent;
use image::{
    Compare, CopyOptions, Damage, LayoutOptions, Origin, RestoreOptions, RestorePlan, RestoreReport,
    StreamReport, Warning,
};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::{Store, StoredImage};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: 4 or more digits of its id, latest, latest~2; IMAGE:2 is its partition 2
    image: OsString,
    /// A disk, a partition, a file, or - for standard output
    target: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Refuse any target but the one with this serial number (its name, where it has none)
    #[arg(long, value_name = "SERIAL")]
    target_serial: Option<String>,
    /// Do not read what the target holds: write everything. For blank targets
    #[arg(long)]
    no_compare: bool,
    /// The image's bytes and nothing else: on a larger target, leave the end of the disk alone
    #[arg(long)]
    exact: bool,
    /// Read everything back from the medium when it is written
    #[arg(long)]
    verify: bool,
    /// Finish although parts of the image are damaged in the store
    #[arg(long)]
    keep_damaged: bool,
    /// Restore to a smaller target when what is lost is unused
    #[arg(long)]
    allow_smaller: bool,
    /// Restore to a partition of the disk that the store is on
    #[arg(long)]
    allow_store_disk: bool,
    /// Threads that fetch and write, 24 at most [default: two for each processor]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Show what would be done, and what speaks against it; write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    layout: LayoutArgs,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let store = place::open(context)?;
    let (image, volume) = open_image(context, &store, &args.image, &args.narrow)?;
    let options = args.options();
    let layout = args.layout.options(volume)?;
    if args.target == Path::new("-") {
        if layout.changes_anything() {
            return Err(Said::usage("restore to standard output: a layout needs a device or file").into());
        }
        return to_stream(context, &image, &args, &options);
    }
    if layout.changes_anything() {
        return arranged(context, &image, &args, layout);
    }
    let folder = place::find(context)?.path;
    let plan = image::plan_restore(&image, &args.target, Some(&folder), &options)?;
    if !args.exact && plan.warnings.iter().any(|warning| matches!(warning, Warning::SectorSize { .. })) {
        return arranged(context, &image, &args, layout);
    }
    for warning in &plan.warnings {
        context.ui.warn(warning.to_string());
    }
    if args.dry_run {
        show_plan(context, &plan, &image);
        target::refuse("restore", &plan.path, &plan.refusals)?;
        return Ok(Exit::Done);
    }
    target::refuse("restore", &plan.path, &plan.refusals)?;
    confirm(context, &plan, &image, args.yes)?;
    let target = target::open(&plan.path, Some(plan.kind), plan.target_bytes)?;
    let started = Instant::now();
    context.signals.guard()?;
    let report = {
        let title = format!("restore {}", plan.path.display());
        let meter = Meter::start(&context.ui, &context.signals, Work::Restore, &title);
        image::restore(&plan, &image, &target, &options, &meter).context(title)?
    };
    Ok(tell(context, &plan, &report, started.elapsed()))
}

/// The image, and the partition of it, that `IMAGE[:N]` names.
pub(crate) fn open_image(
    context: &Context,
    store: &Store,
    name: &OsStr,
    narrow: &Narrow,
) -> Result<(StoredImage, Option<u32>)> {
    let place = Place::parse(name)?;
    if place.path.is_some() {
        let text = format!("{}: expected an image or a partition of one, found a path", name.display());
        return Err(Said::usage(text).into());
    }
    Ok((catalog::open(context, store, &place.image, narrow)?, place.volume))
}

/// To a target whose layout is another.
fn arranged(context: &Context, image: &StoredImage, args: &Args, layout: LayoutOptions) -> Result<Exit> {
    let options = args.options();
    if args.exact || args.allow_smaller {
        return Err(Said::usage(
            "--exact and --allow-smaller leave the layout as it is: not with other layouts",
        )
        .into());
    }
    let origin = Origin::of_image(image)?;
    let folder = place::find(context)?.path;
    let target = image::plan_target(&args.target, Some(&folder), &origin.info, &options)?;
    let copy = CopyOptions {
        compare: options.compare,
        verify: options.verify,
        threads: options.threads,
        keep_damaged: options.keep_damaged,
    };
    let job = Job::new(context, "restore", image_line(image), &args.layout, layout, copy)?;
    if args.dry_run {
        return plan::show(&job, &origin, target, |document| context.ui.event("summary", document));
    }
    target::refuse("restore", &args.target, &target.refusals)?;
    let planned = job.plan(&origin, target)?;
    layout::check_programs(&planned.layout)?;
    job.confirm(&origin, &planned, args.yes)?;
    let targets = [(&planned, job.open(&planned)?)];
    context.signals.guard()?;
    let started = Instant::now();
    let (ready, report) = job
        .write(&origin, &planned.layout, &targets, &|| true, &origin.device)
        .with_context(|| format!("restore {}", args.target.display()))?;
    context.ui.say(format!("restored   image {} to {}", image.id().short(), args.target.display()));
    let exit = job.tell(&ready, &report, &targets, started.elapsed());
    context.ui.event("summary", job.summary(&ready, &report, &targets, started.elapsed()));
    Ok(exit)
}

impl Args {
    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            compare: if self.no_compare { Compare::WriteAll } else { Compare::Read },
            exact: self.exact,
            allow_smaller: self.allow_smaller,
            allow_store_disk: self.allow_store_disk,
            target_serial: self.target_serial.clone(),
            keep_damaged: self.keep_damaged,
            verify: self.verify,
            threads: self.threads,
        }
    }
}

fn show_plan(context: &Context, plan: &RestorePlan, image: &StoredImage) {
    context.ui.say_all(target_lines(plan));
    context.ui.say(format!("would restore {}", image_line(image)));
    context.ui.say_all(changes(plan));
    context.ui.event(
        "summary",
        json!({
            "dry_run": true,
            "image": plan.image.to_string(),
            "target": plan.path.display().to_string(),
            "image_bytes": plan.image_bytes,
            "target_bytes": plan.target_bytes,
            "gpt_moved": plan.gpt_moved,
            "tail_zeroed": plan.tail_zeroed,
            "refusals": plan.refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "warnings": plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
    );
}

/// Shows the target, and asks unless that is answered already.
fn confirm(context: &Context, plan: &RestorePlan, image: &StoredImage, yes: bool) -> Result<()> {
    let mut lines = target_lines(plan);
    lines.push(format!("will be overwritten with {}", image_line(image)));
    lines.extend(changes(plan));
    target::confirm(context, Some(plan.kind), &plan.target, lines, yes)
}

fn target_lines(plan: &RestorePlan) -> Vec<String> {
    target::lines(&plan.path, Some(plan.kind), &plan.target, plan.target_bytes)
}

/// `image abababab of 2026-08-01 12:00:00, host alba, disk S3RIAL, 1.0 TiB`.
pub(crate) fn image_line(image: &StoredImage) -> String {
    let manifest = image.manifest();
    let time = manifest.created.parse().map(|time| units::show_time(time, &TimeZone::system()));
    let time = time.unwrap_or_else(|_| manifest.created.clone());
    let size = show_bytes(manifest.bytes);
    format!("image {} of {time}, host {}, disk {}, {size}", image.id().short(), manifest.host, manifest.disk)
}

/// What the target will hold besides the image's own bytes.
fn changes(plan: &RestorePlan) -> Vec<String> {
    let gpt = plan.gpt_moved.then(|| "the backup partition table goes to the target's end".to_owned());
    let tail = plan
        .tail_zeroed
        .map(|tail| format!("the last {} of the target become zeros", show_bytes(tail.bytes)));
    gpt.into_iter().chain(tail).collect()
}

/// Writes the image to stdout; everything else goes to stderr.
fn to_stream(context: &Context, image: &StoredImage, args: &Args, options: &RestoreOptions) -> Result<Exit> {
    context.ui.give_stdout_away();
    if args.verify || args.no_compare || args.exact || args.target_serial.is_some() {
        let options = "--verify, --no-compare, --exact and --target-serial";
        return Err(
            Said::usage(format!("restore to standard output: {options} need a device or file")).into()
        );
    }
    if args.dry_run {
        context.ui.say(format!("would write {} to standard output", image_line(image)));
        context
            .ui
            .event("summary", json!({ "dry_run": true, "image": image.id().to_string(), "target": "-" }));
        return Ok(Exit::Done);
    }
    if io::stdout().is_terminal() {
        return Err(Said::refused("standard output: expected a file or pipe, found a terminal")
            .hint("cas restore latest - | ssh host 'cat > /dev/sdb'")
            .into());
    }
    let started = Instant::now();
    context.signals.guard()?;
    let report = {
        let meter = Meter::start(&context.ui, &context.signals, Work::Check, "restore to standard output");
        image::restore_to_stream(image, &mut io::stdout().lock(), options, &meter)
            .context("restore to standard output")?
    };
    tell_damage(context, &report.damaged);
    let elapsed = started.elapsed();
    let (bytes, rate) = (show_bytes(image.bytes()), show_rate(image.bytes(), elapsed));
    context.ui.note(format!("wrote {bytes} in {}, {rate}", show_duration(elapsed)));
    context.ui.event("summary", stream_summary(image, &report, elapsed));
    Ok(exit_of(&report.damaged, &report.bad_ranges, None))
}

/// What has become of it.
fn tell(context: &Context, plan: &RestorePlan, report: &RestoreReport, elapsed: Duration) -> Exit {
    let say = |name: &str, text: String| context.ui.say(format!("{name:<10} {text}"));
    let total = report.written_bytes + report.zeroed_bytes + report.unchanged_bytes;
    say("restored", format!("image {} to {}", plan.image.short(), plan.path.display()));
    say(
        "written",
        format!("{}, and {} of zeros", show_bytes(report.written_bytes), show_bytes(report.zeroed_bytes)),
    );
    say("unchanged", show_bytes(report.unchanged_bytes));
    say("time", format!("{}, {}", show_duration(elapsed), show_rate(total, elapsed)));
    if let Some(verified) = &report.verified {
        let clean = if verified.is_clean() { "all of it is what it should be" } else { "differences found" };
        say("read back", format!("{}: {clean}", show_bytes(verified.checked_bytes)));
        verify::tell_findings(context, verified);
    }
    tell_damage(context, &report.damaged);
    if !report.finished {
        context.ui.warn(
            "the first and last MiB of the target were not written, so that it does not boot half-restored: --keep-damaged writes them",
        );
    }
    if !report.bad_ranges.is_empty() {
        let bytes: u64 = report.bad_ranges.iter().map(|range| range.bytes).sum();
        context.ui.warn(format!(
            "{} could not be read when the image was taken: zeros stand there",
            show_bytes(bytes)
        ));
    }
    if let Some(error) = &report.reread {
        let error = verify::chain(error);
        context.ui.warn(format!("{error}; run `partprobe {}` or restart", plan.path.display()));
    }
    context.ui.event("summary", summary(plan, report, elapsed));
    exit_of(&report.damaged, &report.bad_ranges, report.verified.as_ref())
}

fn tell_damage(context: &Context, damaged: &[Damage]) {
    verify::warn_of_each(context, damaged.iter().map(verify::damage_line));
}

fn exit_of(damaged: &[Damage], bad: &[Extent], verified: Option<&image::VerifyReport>) -> Exit {
    let clean = verified.is_none_or(image::VerifyReport::is_clean);
    match (damaged.is_empty() && clean, bad.is_empty()) {
        (false, _) => Exit::Damage,
        (true, false) => Exit::Incomplete,
        (true, true) => Exit::Done,
    }
}

fn summary(plan: &RestorePlan, report: &RestoreReport, elapsed: Duration) -> Value {
    json!({
        "image": plan.image.to_string(),
        "target": plan.path.display().to_string(),
        "written_bytes": report.written_bytes,
        "zeroed_bytes": report.zeroed_bytes,
        "unchanged_bytes": report.unchanged_bytes,
        "bad_ranges": report.bad_ranges,
        "damaged": report.damaged.iter().map(verify::damage_json).collect::<Vec<_>>(),
        "finished": report.finished,
        "table_reread": report.reread.is_none(),
        "verified": report.verified.as_ref().map(verify::report_json),
        "seconds": elapsed.as_secs_f64(),
    })
}

fn stream_summary(image: &StoredImage, report: &StreamReport, elapsed: Duration) -> Value {
    json!({
        "image": image.id().to_string(),
        "target": "-",
        "written_bytes": report.written_bytes,
        "bad_ranges": report.bad_ranges,
        "damaged": report.damaged.iter().map(verify::damage_json).collect::<Vec<_>>(),
        "seconds": elapsed.as_secs_f64(),
    })
}

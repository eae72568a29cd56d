//! `cas capture SOURCE`: a disk, partition, file or stream becomes an image.
//!
//! Promise: what speaks against it is said before the first byte is read; the source is only ever read.
//! Knows nothing of segments and chunks.

use crate::args::Context;
use crate::errors::Said;
use crate::exit::Exit;
use crate::locking::LockWait;
use crate::progress::{Meter, Work};
use crate::units::{show_bytes, show_duration, show_rate};
use crate::{picture, place};
use anyhow::{Context as _, Result};
use disk::Device;
use image::{CaptureChecks, CaptureOptions, CapturePlan, Captured, Concern, Severity, SourceInfo, Survey};
use jiff::Timestamp;
use serde_json::json;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};
use store::{Compression, Store, WriterOptions};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A disk, a partition, a file, or - for standard input
    source: String,
    /// Mark the image with a tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A remark for people
    #[arg(long, default_value = "", hide_default_value = true)]
    comment: String,
    /// The host that the image is filed under [default: this one]
    #[arg(long)]
    host: Option<String>,
    /// The disk that the image is filed under [default: its serial number, else its name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// off, fast, auto, max, or a zstd level from 1 to 22
    #[arg(long, default_value = "auto")]
    compression: Compression,
    /// Threads that read and hash [default: one for each processor]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Leave out the partition with this number; may be repeated
    #[arg(long = "exclude-partition", value_name = "N")]
    exclude: Vec<u32>,
    /// Read every sector, also what no filesystem uses
    #[arg(long)]
    raw: bool,
    /// Capture although a filesystem is mounted read-write; the image is marked not consistent
    #[arg(long)]
    allow_mounted: bool,
    /// Say what would be captured, and what speaks against it; read and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    lock: LockWait,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let existing = place::open_if_any(context)?;
    if args.source == "-" {
        check_stream(&args)?;
        return capture_stream(context, existing, &args);
    }
    let device = Device::open(Path::new(&args.source))?;
    let plan = plan(context, &device, &args)?;
    let in_use_only = !plan.is_refused() && only_in_use(context, &plan, &device, args.raw);
    if args.dry_run {
        let survey = in_use_only.then(|| image::survey(&device, &plan.source, |_| true));
        show_plan(context, &plan, survey);
        refuse("capture", &plan.source.identity.path, &plan.concerns)?;
        return Ok(Exit::Done);
    }
    refuse("capture", &plan.source.identity.path, &plan.concerns)?;
    let store = existing.map_or_else(|| place::open_or_create(context), Ok)?;
    let started = Instant::now();
    let options = CaptureOptions { in_use_only, ..args.options() };
    let captured = work(context, &args.source, &args.lock, |progress| {
        image::capture(&plan.source, &device, &store, &options, progress)
    })?;
    tell_doubts(context, &captured.source);
    Ok(report(context, &store, &captured, started.elapsed()))
}

/// Whether blocks that nothing uses are left out; says when that can't be.
pub(crate) fn only_in_use(context: &Context, plan: &CapturePlan, device: &Device, raw: bool) -> bool {
    let in_use_only = !raw && plan.is_steady(device);
    if !in_use_only && !raw {
        let path = &plan.source.identity.path;
        context.ui.note(format!("{path}: every sector is read: something may write to it"));
    }
    in_use_only
}

/// Captures with the usual options, for commands that do more than that.
pub(crate) fn keep(
    context: &Context,
    store: &Store,
    device: &Device,
    plan: &CapturePlan,
    in_use_only: bool,
) -> Result<Captured> {
    let options = CaptureOptions { in_use_only, ..usual_options() };
    let captured = work(context, &plan.source.identity.path, &LockWait::default(), |progress| {
        image::capture(&plan.source, device, store, &options, progress)
    })?;
    tell_doubts(context, &captured.source);
    Ok(captured)
}

fn usual_options() -> CaptureOptions {
    CaptureOptions {
        writer: WriterOptions {
            what: "capture".to_owned(),
            lock_wait: Duration::ZERO,
            ..WriterOptions::default()
        },
        created: Timestamp::now().to_string(),
        host: host_name(),
        ..CaptureOptions::default()
    }
}

impl Args {
    fn options(&self) -> CaptureOptions {
        let usual = usual_options();
        CaptureOptions {
            writer: WriterOptions { compression: self.compression, ..usual.writer },
            threads: self.threads,
            host: self.host.clone().unwrap_or(usual.host),
            disk: self.name.clone(),
            tags: self.tags.clone(),
            comment: self.comment.clone(),
            ..usual
        }
    }
}

/// One line for each volume that is taken whole although its filesystem is known.
fn tell_doubts(context: &Context, source: &SourceInfo) {
    for volume in source.volume_use.iter().flatten() {
        if let Some(doubt) = &volume.doubt {
            let place = volume.volume.map_or_else(String::new, |number| format!(", partition {number}"));
            let path = &source.identity.path;
            context.ui.note(format!("{path}{place}: every sector is read: {doubt}"));
        }
    }
}

fn capture_stream(context: &Context, existing: Option<Store>, args: &Args) -> Result<Exit> {
    if args.dry_run {
        context.ui.say("would capture standard input until it ends");
        context.ui.event("summary", json!({ "dry_run": true, "source": "-" }));
        return Ok(Exit::Done);
    }
    let store = existing.map_or_else(|| place::open_or_create(context), Ok)?;
    let started = Instant::now();
    let options = args.options();
    let captured = work(context, &args.source, &args.lock, |progress| {
        image::capture_stream(&mut io::stdin().lock(), &store, &options, progress)
    })?;
    Ok(report(context, &store, &captured, started.elapsed()))
}

/// Options that make no sense with a stream are errors rather than ignored.
fn check_stream(args: &Args) -> Result<(), Said> {
    if !args.exclude.is_empty() {
        return Err(Said::usage("standard input: it has no partitions to leave out"));
    }
    if !args.dry_run && io::stdin().is_terminal() {
        return Err(Said::usage("standard input: expected data, found a terminal")
            .hint("pipe the data in: ssh host cat /dev/sda | cas capture - --name sda"));
    }
    Ok(())
}

/// Looks at the source, and says everything that speaks against capturing it.
fn plan(context: &Context, device: &Device, args: &Args) -> Result<CapturePlan> {
    let place = place::find(context)?;
    let checks = CaptureChecks { allow_mounted: args.allow_mounted, exclude: args.exclude.clone() };
    let plan = image::plan_capture(device, Some(&place.path), &checks)?;
    for concern in plan.concerns.iter().filter(|concern| concern.severity() == Severity::Warn) {
        context.ui.warn(concern.to_string());
    }
    Ok(plan)
}

/// All refusals at once, with the options that would lift them.
pub(crate) fn refuse(verb: &str, path: &str, concerns: &[Concern]) -> Result<(), Said> {
    let refusals: Vec<&Concern> = concerns.iter().filter(|it| it.severity() == Severity::Refuse).collect();
    let Some(first) = refusals.first() else { return Ok(()) };
    let mut texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    texts.dedup();
    let mut options: Vec<String> = refusals.iter().filter_map(|it| it.override_option()).collect();
    options.dedup();
    let mut hint = match first {
        Concern::MountedReadWrite { .. } => "unmount it, or capture a snapshot of it",
        _ => "choose a store on another disk with -s/--store",
    }
    .to_owned();
    if !options.is_empty() {
        hint = format!("{hint}; or go on with {}", options.join(" "));
    }
    Err(Said::refused(format!("{verb} {path}: {}", texts.join("; "))).hint(hint))
}

fn show_plan(context: &Context, plan: &CapturePlan, survey: Option<Survey>) {
    let unused_bytes = survey.as_ref().map_or(0, Survey::unused_bytes);
    let source = SourceInfo { volume_use: survey.map(|survey| survey.volumes), ..plan.source.clone() };
    tell_doubts(context, &source);
    context.ui.say(format!("would capture {}", picture::headline(&source.identity)));
    if let Some(table) = picture::partitions(&source.layout, &source.excluded, source.volume_use.as_deref()) {
        context.ui.say_all(table.lines());
    }
    let read: u64 =
        source.regions.iter().filter(|region| !region.excluded).map(|region| region.extent.bytes).sum();
    let read = read.saturating_sub(unused_bytes);
    let unused = if unused_bytes > 0 {
        format!(", and not {} that nothing uses", show_bytes(unused_bytes))
    } else {
        String::new()
    };
    context.ui.say(format!("would read {}{unused}", show_bytes(read)));
    context.ui.event(
        "summary",
        json!({
            "dry_run": true,
            "source": source.identity.path,
            "bytes": source.bytes(),
            "bytes_to_read": read,
            "unused_bytes": unused_bytes,
            "volumes": source.volume_use,
            "excluded_partitions": source.excluded,
            "consistent": source.consistent,
            "refused": plan.is_refused(),
            "concerns": plan.concerns.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }),
    );
}

/// The part that takes long: interruptible, with progress, waiting for the lock if asked to.
fn work(
    context: &Context,
    source: &str,
    lock: &LockWait,
    mut capture: impl FnMut(&dyn image::Progress) -> Result<Captured, image::Error>,
) -> Result<Captured> {
    context.signals.guard()?;
    let title = format!("capture {source}");
    let once = || {
        let meter = Meter::start(&context.ui, &context.signals, Work::Capture, &title);
        capture(&meter)
    };
    lock.run(context, once).with_context(|| title.clone())
}

/// The name of this machine.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What has become of it.
fn report(context: &Context, store: &Store, captured: &Captured, elapsed: Duration) -> Exit {
    let statistics = &captured.manifest.statistics;
    let source = &captured.source;
    let unused_bytes = captured.unused_bytes;
    let left_out: u64 =
        source.regions.iter().filter(|region| region.excluded).map(|region| region.extent.bytes).sum();
    let read = captured.manifest.bytes.saturating_sub(left_out).saturating_sub(unused_bytes);
    let duplicate = statistics.data_bytes.saturating_sub(statistics.new_bytes);
    let say = |name: &str, text: String| context.ui.say(format!("{name:<13} {text}"));
    say("image", captured.image.to_string());
    say("read", format!("{} in {}, {}", show_bytes(read), show_duration(elapsed), show_rate(read, elapsed)));
    if unused_bytes > 0 {
        say("unused", format!("{}, not read", show_bytes(unused_bytes)));
    }
    say("zeros", show_bytes(statistics.zero_bytes.saturating_sub(unused_bytes)));
    say("deduplicated", show_bytes(duplicate));
    say(
        "new",
        format!(
            "{}, stored as {}",
            show_bytes(statistics.new_bytes),
            show_bytes(statistics.new_stored_bytes)
        ),
    );
    let incomplete = statistics.bad_bytes > 0;
    if incomplete {
        say(
            "unreadable",
            format!("{} in {} ranges", show_bytes(statistics.bad_bytes), source.bad_ranges.len()),
        );
        let text =
            format!("{}: {} could not be read", source.identity.path, show_bytes(statistics.bad_bytes));
        context.ui.warn(format!("{text}; `cas show {}` lists the ranges", captured.image.short()));
    }
    if captured.manifest.bytes == 0 {
        context
            .ui
            .warn(format!("{}: there was nothing to capture: the image is empty", source.identity.path));
    }
    context.ui.event(
        "summary",
        json!({
            "image": captured.image.to_string(),
            "store": store.place(),
            "disk": captured.manifest.disk,
            "bytes": captured.manifest.bytes,
            "bytes_read": read,
            "unused_bytes": unused_bytes,
            "zero_bytes": statistics.zero_bytes,
            "deduplicated_bytes": duplicate,
            "new_bytes": statistics.new_bytes,
            "stored_bytes": statistics.new_stored_bytes,
            "bad_bytes": statistics.bad_bytes,
            "bad_ranges": source.bad_ranges,
            "consistent": source.consistent,
            "parent": captured.manifest.parent.map(|parent| parent.to_string()),
            "seconds": elapsed.as_secs_f64(),
        }),
    );
    if incomplete { Exit::Incomplete } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_options_that_lift_it() {
        let mounted = |allowed| Concern::MountedReadWrite {
            device: "sda2".into(),
            volume: Some(2),
            at: "/".into(),
            allowed,
        };
        let store = Concern::StoreOnSource { volume: Some(3) };
        assert!(refuse("capture", "/dev/sda", &[mounted(true)]).is_ok());
        let told = crate::errors::tell(
            &refuse("capture", "/dev/sda", &[mounted(false), store.clone()]).unwrap_err().into(),
        );
        assert_eq!(told.exit, Exit::Refused);
        assert_eq!(
            told.text,
            "capture /dev/sda: sda2: mounted read-write at /; partition 3: holds the store"
        );
        let hint =
            "unmount it, or capture a snapshot of it; or go on with --allow-mounted --exclude-partition 3";
        assert_eq!(told.hint.as_deref(), Some(hint));
        let told = crate::errors::tell(&refuse("capture", "/dev/sda", &[store]).unwrap_err().into());
        assert!(told.hint.is_some_and(|hint| hint.starts_with("choose a store on another disk")));
    }
}

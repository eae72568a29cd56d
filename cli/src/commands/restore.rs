//! `cas restore IMAGE TARGET`: plan, checks, show, ask, write.
//!
//! Promise: nothing is written before the plan is free of refusals and somebody said yes (or `--yes`).
//! Knows nothing of how bytes get to the target.

use crate::args::Context;
use crate::commands::verify;
use crate::confirm::{self, Question};
use crate::errors::Said;
use crate::exit::Exit;
use crate::naming::Narrow;
use crate::progress::{Meter, Work};
use crate::units::{show_bytes, show_bytes_exactly, show_duration, show_rate};
use crate::{catalog, picture, place, units};
use anyhow::{Context as _, Result};
use disk::{Device, Extent, Layout, ReadAt, Target};
use image::{Compare, Damage, Refusal, RestoreOptions, RestorePlan, RestoreReport, StreamReport, TargetKind};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::StoredImage;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: 4 or more digits of its id, latest, latest~2
    image: String,
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
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let store = place::open(context)?;
    let image = catalog::open(context, &store, &args.image, &args.narrow)?;
    let options = args.options();
    if args.target == Path::new("-") {
        return to_stream(context, &image, &args, &options);
    }
    let folder = place::find(context)?.path;
    let plan = image::plan_restore(&image, &args.target, Some(&folder), &options)?;
    for warning in &plan.warnings {
        context.ui.warn(warning.to_string());
    }
    if args.dry_run {
        show_plan(context, &plan, &image);
        refuse(&plan.path, &plan.refusals)?;
        return Ok(Exit::Done);
    }
    refuse(&plan.path, &plan.refusals)?;
    confirm(context, &plan, &image, args.yes)?;
    let target = open_target(&plan)?;
    let started = Instant::now();
    context.signals.guard()?;
    let report = {
        let title = format!("restore {}", plan.path.display());
        let meter = Meter::start(&context.ui, &context.signals, Work::Restore, &title);
        image::restore(&plan, &image, &target, &options, &meter).context(title)?
    };
    Ok(tell(context, &plan, &report, started.elapsed()))
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

/// All refusals at once. Alone, a target that is too small has an exit code of its own.
fn refuse(path: &Path, refusals: &[Refusal]) -> Result<(), Said> {
    let path = path.display().to_string();
    match refusals {
        [] => Ok(()),
        [Refusal::TooSmall { needed, has, allowable }] => {
            let said = Said::too_small(&path, *needed, *has);
            Err(if *allowable {
                said.hint("what would be lost is unused: --allow-smaller leaves it out")
            } else {
                said
            })
        }
        [first, ..] => {
            let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            Err(Said::refused(format!("restore to {path}: {}", texts.join("; "))).hint(way_out(first)))
        }
    }
}

/// What to do about a refusal.
fn way_out(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Mounted { at, .. } => format!("`umount {}`, or choose another target", at.display()),
        Refusal::Swap { device } => format!("`swapoff /dev/{device}`, or choose another target"),
        Refusal::Held { holder, .. } => {
            format!("stop {holder} (LVM, RAID, encryption, loop), or choose another target")
        }
        Refusal::HoldsStore { .. } => {
            "a store cannot be restored over itself: move the store, or choose another target".into()
        }
        Refusal::StoreDisk => {
            "one wrong digit away from the store; if you are sure: --allow-store-disk".into()
        }
        Refusal::RootDisk => "start the machine from another disk or a rescue system".into(),
        Refusal::ReadOnly => "look for a write-protect switch, or try `blockdev --setrw`".into(),
        Refusal::SerialMismatch { .. } => "`cas disks` shows the serial numbers".into(),
        Refusal::TooSmall { allowable: true, .. } => {
            "what would be lost is unused: --allow-smaller leaves it out".into()
        }
        Refusal::TooSmall { .. } => "choose a larger target, or restore to a file".into(),
        Refusal::NoDevice | Refusal::NotATarget => {
            "`cas disks` lists the disks; a new file can be anywhere but in /dev".into()
        }
        Refusal::IsSource | Refusal::SharesSource | Refusal::OnSource { .. } | Refusal::Again { .. } => {
            "`cas disks` lists the disks: choose another target".into()
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

/// Shows the target, and asks unless that is answered already; a file that does not exist yet needs no question.
fn confirm(context: &Context, plan: &RestorePlan, image: &StoredImage, yes: bool) -> Result<()> {
    if plan.kind == TargetKind::NewFile {
        return Ok(());
    }
    let mut lines = target_lines(plan);
    lines.push(format!("will be overwritten with {}", image_line(image)));
    lines.extend(changes(plan));
    if yes {
        lines.iter().for_each(|line| context.ui.note(line));
        return Ok(());
    }
    context.ui.show_for_question(lines);
    confirm::ask(context, &Question::about(plan.target.serial.as_deref(), &plan.target.name))
}

/// What the target is, what is on it, and who uses it.
fn target_lines(plan: &RestorePlan) -> Vec<String> {
    if plan.kind == TargetKind::NewFile {
        return vec![format!(
            "{}: a new file, {}",
            plan.path.display(),
            show_bytes_exactly(plan.target_bytes)
        )];
    }
    let mut lines = vec![picture::headline(&plan.target)];
    if let Ok(device) = Device::open_buffered(&plan.path) {
        let layout = Layout::read(&device, plan.target.logical_sector_bytes);
        let whole = Extent { offset: 0, bytes: device.size_bytes() };
        match (picture::partitions(&layout, &[], None), disk::probe(&device, whole)) {
            (Some(table), _) => lines.extend(table.lines().into_iter().map(|line| format!("  {line}"))),
            (None, Some(content)) => {
                let label = content.label.map(|label| format!(" {label:?}")).unwrap_or_default();
                lines.push(format!("  holds {}{label}", content.kind));
            }
            (None, None) => lines.push("  no partition table and no known content".to_owned()),
        }
    }
    let uses = disk::uses(&plan.path).unwrap_or_default();
    lines.extend(uses.iter().map(|used| format!("  {}: {}", used.device, picture::use_text(used))));
    lines
}

/// `image abababab of 2026-08-01 12:00:00, host alba, disk S3RIAL, 1.0 TiB`.
fn image_line(image: &StoredImage) -> String {
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

fn open_target(plan: &RestorePlan) -> Result<Target, disk::Error> {
    match plan.kind {
        TargetKind::Device => Target::open_device(&plan.path),
        TargetKind::NewFile | TargetKind::ExistingFile => Target::open_file(&plan.path, plan.target_bytes),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refusals: &[Refusal]) -> (Exit, String, String) {
        let told = crate::errors::tell(&refuse(Path::new("/dev/sdb"), refusals).unwrap_err().into());
        (told.exit, told.text, told.hint.unwrap_or_default())
    }

    #[test]
    fn every_refusal_is_said_and_the_first_has_a_way_out() {
        let mounted = Refusal::Mounted { device: "sdb1".into(), at: "/mnt".into() };
        assert!(refuse(Path::new("/dev/sdb"), &[]).is_ok());
        let (exit, text, hint) = refused(&[mounted.clone(), Refusal::ReadOnly]);
        assert_eq!(exit, Exit::Refused);
        assert_eq!(text, "restore to /dev/sdb: sdb1: mounted at /mnt; the target is read-only");
        assert_eq!(hint, "`umount /mnt`, or choose another target");
        assert!(refused(&[Refusal::StoreDisk]).2.contains("--allow-store-disk"));
    }

    #[test]
    fn too_small_alone_is_exit_6_and_names_the_override_only_where_it_helps() {
        let small = |allowable| Refusal::TooSmall { needed: 2048, has: 1024, allowable };
        let (exit, text, hint) = refused(&[small(false)]);
        assert_eq!(exit, Exit::TooSmall);
        assert_eq!(text, "/dev/sdb: expected at least 2.0 KiB (2048 bytes), found 1.0 KiB (1024 bytes)");
        assert!(!hint.contains("--allow-smaller"));
        assert!(refused(&[small(true)]).2.contains("--allow-smaller"));
        assert_eq!(refused(&[Refusal::RootDisk, small(true)]).0, Exit::Refused);
    }
}

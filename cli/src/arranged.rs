//! From a disk or an image to targets whose layout may differ: what `restore`, `plan` and `clone` have in common.
//!
//! Promise: the plan is shown before anything is asked, and nothing is written to a target before all that can fail
//! elsewhere has succeeded. Knows nothing of where the source comes from.

use crate::args::Context;
use crate::commands::verify;
use crate::errors::Said;
use crate::exit::Exit;
use crate::layout::{self, LayoutArgs};
use crate::progress::{Meter, Work};
use crate::target;
use crate::units::{show_bytes, show_duration, show_rate};
use crate::workshop::Workshop;
use anyhow::Result;
use disk::arrange::{Geometry, Mode, Unfit};
use disk::{Device, DeviceKind, Layout, ReadAt, TableKind, Target};
use image::{
    CopyOptions, CopyReport, CopySource, CopyTarget, LayoutOptions, LayoutPlan, Origin, Ready, TargetKind,
    TargetPlan, TargetReport,
};
use serde_json::{Value, json};
use std::time::Duration;

/// What is to be done, whatever it is done to.
pub(crate) struct Job<'a> {
    pub(crate) context: &'a Context,
    /// `restore`, `clone`.
    pub(crate) verb: &'static str,
    /// What is written, in one line.
    pub(crate) source_line: String,
    pub(crate) options: LayoutOptions,
    pub(crate) copy: CopyOptions,
    pub(crate) workshop: Workshop,
}

/// A target, and what it will look like.
pub(crate) struct Planned {
    pub(crate) target: TargetPlan,
    pub(crate) layout: LayoutPlan,
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        context: &'a Context,
        verb: &'static str,
        source_line: String,
        args: &LayoutArgs,
        options: LayoutOptions,
        copy: CopyOptions,
    ) -> Result<Job<'a>> {
        let workshop = Workshop::new(args.work_folder())?;
        Ok(Job { context, verb, source_line, options, copy, workshop })
    }

    /// Plans one target; its refusals are left to the caller.
    pub(crate) fn plan(&self, origin: &Origin, target: TargetPlan) -> Result<Planned> {
        for warning in &target.warnings {
            self.context.ui.warn(warning.to_string());
        }
        self.check_shape(&target)?;
        let geometry = self.geometry(origin, &target);
        let planned = image::plan_layout(origin, geometry, &self.options, &self.workshop);
        let layout = planned.map_err(|error| self.explain(origin, &target, error))?;
        Ok(Planned { target, layout })
    }

    /// A single partition goes to a partition, or into a table of its own: never over a table.
    fn check_shape(&self, target: &TargetPlan) -> Result<(), Said> {
        let facts = &target.facts;
        if self.options.volume.is_none() || facts.identity.kind == DeviceKind::Partition {
            return Ok(());
        }
        let Ok(device) = Device::open_buffered(&facts.path) else { return Ok(()) };
        let table = Layout::read(&device, facts.identity.logical_sector_bytes).table;
        if table == TableKind::None {
            return Ok(());
        }
        let path = facts.path.display();
        Err(Said::refused(format!(
            "{} to {path}: expected a partition, found a disk with a partition table",
            self.verb
        ))
        .hint(format!(
            "name the partition to overwrite; `cas disks` lists them; `wipefs -a {path}` makes a disk empty"
        )))
    }

    /// The target's size and sectors. A new file gets what the source has; one that exists is as large as it is.
    fn geometry(&self, origin: &Origin, target: &TargetPlan) -> Geometry {
        let identity = &target.facts.identity;
        let sector_bytes = origin.info.layout.sector_bytes;
        match target.facts.kind {
            Some(TargetKind::Device) => {
                Geometry { bytes: identity.size_bytes, sector_bytes: identity.logical_sector_bytes }
            }
            Some(TargetKind::ExistingFile) if identity.size_bytes > 0 => {
                Geometry { bytes: identity.size_bytes, sector_bytes }
            }
            _ => {
                let volumes = &origin.info.layout.volumes;
                let volume = volumes.iter().find(|volume| Some(volume.number) == self.options.volume);
                // Room for the tables, where there is to be one.
                let room = if self.options.create_partition { 2 << 20 } else { 0 };
                let bytes = volume.map_or(origin.info.bytes(), |volume| volume.extent.bytes + room);
                Geometry { bytes, sector_bytes }
            }
        }
    }

    /// Says of a target that is too small what would fit.
    fn explain(&self, origin: &Origin, target: &TargetPlan, error: image::Error) -> anyhow::Error {
        let path = target.facts.path.display().to_string();
        let image::Error::Unfit(Unfit::TooSmall { needed, has }) = error else {
            return anyhow::Error::new(error).context(format!("{} to {path}", self.verb));
        };
        let said = Said::too_small(&path, needed, has);
        if !matches!(self.options.mode, Mode::Keep) || self.options.volume.is_some() {
            return said.into();
        }
        let sector_bytes = target.facts.identity.logical_sector_bytes;
        match image::layout_minimum(origin, sector_bytes, &self.workshop) {
            Ok(least) if least <= has => {
                let least = show_bytes(least);
                said.hint(format!("--layout fit shrinks filesystems: it needs {least} of these")).into()
            }
            _ => said.into(),
        }
    }

    /// Everything that is known of a plan, before the question or instead of it.
    pub(crate) fn show(&self, origin: &Origin, planned: &Planned) -> Vec<String> {
        let facts = &planned.target.facts;
        let bytes = planned.layout.target.bytes;
        let mut lines = target::lines(&facts.path, facts.kind, &facts.identity, bytes);
        lines.push(format!("will be overwritten with {}", self.source_line));
        lines.push(String::new());
        lines.extend(layout::table(&planned.layout, origin));
        lines.push(String::new());
        lines.push(layout::sizes(&planned.layout));
        lines.extend(planned.layout.remarks.iter().map(|remark| format!("note: {remark}")));
        if planned.layout.work_bytes > 0 {
            let folder = image::Workshop::folder(&self.workshop).display().to_string();
            lines
                .push(format!("takes up to {} in {folder} meanwhile", show_bytes(planned.layout.work_bytes)));
        }
        let steps = layout::steps(&planned.layout, &self.options);
        lines.extend((1..).zip(steps).map(|(number, step)| format!("{number:>3}. {step}")));
        lines
    }

    /// Shows and asks; a new file needs no question.
    pub(crate) fn confirm(&self, origin: &Origin, planned: &Planned, yes: bool) -> Result<()> {
        let facts = &planned.target.facts;
        target::confirm(self.context, facts.kind, &facts.identity, self.show(origin, planned), yes)
    }

    /// Opens a target and makes sure that it is still what was looked at.
    pub(crate) fn open(&self, planned: &Planned) -> Result<Target> {
        let facts = &planned.target.facts;
        let target = target::open(&facts.path, facts.kind, planned.layout.target.bytes)?;
        let (expected, found) = (facts.identity.key(), target.identity().key());
        if expected != found {
            let (expected, found) = (expected.to_owned(), found.to_owned());
            return Err(image::Error::TargetChanged { expected, found }.into());
        }
        if facts.kind == Some(TargetKind::Device) && target.size_bytes() != planned.layout.target.bytes {
            let (expected, found) = (planned.layout.target.bytes, target.size_bytes());
            return Err(image::Error::TargetSizeChanged { expected, found }.into());
        }
        Ok(target)
    }

    /// Makes everything ready beside the targets, which have one geometry, and copies it.
    pub(crate) fn write(
        &self,
        origin: &Origin,
        layout: &LayoutPlan,
        targets: &[(&Planned, Target)],
        still_good: &(dyn Fn() -> bool + Sync),
        medium: &dyn ReadAt,
    ) -> Result<(Ready, CopyReport), image::Error> {
        let context = self.context;
        let names: Vec<String> =
            targets.iter().map(|(planned, _)| planned.target.facts.path.display().to_string()).collect();
        let title = format!("{} {}", self.verb, names.join(" "));
        let meter = Meter::start(&context.ui, &context.signals, Work::Restore, &title);
        let ready = image::make_ready(origin, layout, &self.options, &self.workshop, &meter)?;
        let to: Vec<CopyTarget<'_>> = targets
            .iter()
            .map(|(planned, target)| {
                let fresh = planned.target.facts.kind == Some(TargetKind::NewFile)
                    && target.next_data(0).is_ok_and(|data| data.is_none());
                CopyTarget { device: target, fresh }
            })
            .collect();
        let source = CopySource { view: &ready.device, medium, still_good };
        let report = image::copy_from(&source, &ready.extents, &to, &self.copy, &meter)?;
        Ok((ready, report))
    }

    /// What has become of it; the kernel looks at the new tables.
    pub(crate) fn tell(
        &self,
        ready: &Ready,
        report: &CopyReport,
        targets: &[(&Planned, Target)],
        elapsed: Duration,
    ) -> Exit {
        let ui = &self.context.ui;
        ready.done.iter().for_each(|line| ui.say(format!("{:<10} {line}", "changed")));
        let mut exit = if report.bad_ranges.is_empty() { Exit::Done } else { Exit::Incomplete };
        if !report.damaged.is_empty() {
            exit = Exit::Damage;
        }
        for damage in &report.damaged {
            let (offset, bytes) = (damage.extent.offset, damage.extent.bytes);
            ui.warn(format!(
                "offset {offset:#x}: {bytes} bytes could not be had: {}",
                verify::chain(&damage.error)
            ));
        }
        for ((planned, target), one) in targets.iter().zip(&report.targets) {
            exit = exit.worse(self.tell_target(planned, target, one, elapsed));
        }
        if !report.bad_ranges.is_empty() {
            let bytes: u64 = report.bad_ranges.iter().map(|range| range.bytes).sum();
            ui.warn(format!("{} of the source could not be read: zeros stand there", show_bytes(bytes)));
        }
        ready.left.iter().for_each(|line| ui.warn(line));
        exit
    }

    fn tell_target(
        &self,
        planned: &Planned,
        target: &Target,
        report: &TargetReport,
        elapsed: Duration,
    ) -> Exit {
        let ui = &self.context.ui;
        let path = planned.target.facts.path.display().to_string();
        let say = |name: &str, text: String| ui.say(format!("{name:<10} {text}"));
        if let Some(error) = &report.failed {
            ui.warn(format!("{path}: {}", verify::chain(error)));
        }
        let total = report.written_bytes + report.zeroed_bytes + report.unchanged_bytes;
        say(
            "written",
            format!(
                "{path}: {}, and {} of zeros",
                show_bytes(report.written_bytes),
                show_bytes(report.zeroed_bytes)
            ),
        );
        say("unchanged", show_bytes(report.unchanged_bytes));
        say("time", format!("{}, {}", show_duration(elapsed), show_rate(total, elapsed)));
        let mut exit = if report.failed.is_some() { Exit::Failed } else { Exit::Done };
        if let Some(verified) = &report.verified {
            let clean =
                if verified.is_clean() { "all of it is what it should be" } else { "differences found" };
            say("read back", format!("{}: {clean}", show_bytes(verified.checked_bytes)));
            verify::tell_findings(self.context, verified);
            exit = exit.worse(if verified.is_clean() { Exit::Done } else { Exit::Damage });
        }
        if !report.finished {
            ui.warn(format!(
                "{path}: its first and last MiB were not written, so that it does not boot half-written"
            ));
        }
        if let Err(error) = target.reread_table() {
            ui.warn(format!("{}; run `partprobe {path}` or restart", verify::chain(&error)));
        }
        exit
    }

    /// For programs.
    pub(crate) fn summary(
        &self,
        ready: &Ready,
        report: &CopyReport,
        targets: &[(&Planned, Target)],
        elapsed: Duration,
    ) -> Value {
        let of = |((planned, _), one): (&(&Planned, Target), &TargetReport)| {
            json!({
                "target": planned.target.facts.path.display().to_string(),
                "layout": layout::to_json(&planned.layout),
                "written_bytes": one.written_bytes,
                "zeroed_bytes": one.zeroed_bytes,
                "unchanged_bytes": one.unchanged_bytes,
                "finished": one.finished,
                "failed": one.failed.as_ref().map(|error| verify::chain(error)),
                "verified": one.verified.as_ref().map(verify::report_json),
            })
        };
        json!({
            "targets": targets.iter().zip(&report.targets).map(of).collect::<Vec<_>>(),
            "bad_ranges": report.bad_ranges,
            "damaged": report.damaged.iter().map(|damage| damage.extent).collect::<Vec<_>>(),
            "changed": ready.done,
            "left": ready.left,
            "seconds": elapsed.as_secs_f64(),
        })
    }
}

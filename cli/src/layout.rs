//! Layouts on the command line: the options, and a plan as people read it.
//!
//! Promise: what is shown is the plan that is carried out; nothing is shown that is not in it.
//! Knows nothing of how a plan is made.

use crate::errors::Said;
use crate::table::Table;
use crate::units::{show_bytes, show_bytes_exactly};
use anyhow::{Context as _, Result};
use disk::TableKind;
use disk::arrange::{LayoutFile, Mode};
use image::{Fixups, LayoutOptions, LayoutPlan, Origin, VolumeChange, VolumePlan};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// How the target is laid out.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Layout of the target")]
pub(crate) struct LayoutArgs {
    /// keep: partitions stay as they are. grow: the last one that can grow takes the free space. proportional: all that
    /// can share it. fit: onto a smaller disk, filesystems shrink. Or a file with lines like `2 : start=1G, size=+10G`
    #[arg(
        long,
        value_name = "keep|grow|proportional|fit|FILE",
        default_value = "keep",
        hide_default_value = true
    )]
    layout: String,
    /// Turn an MBR into a GPT, which has no limit at 2 TiB
    #[arg(long)]
    to_gpt: bool,
    /// Only these partitions
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    partitions: Vec<u32>,
    /// Onto a disk without a partition table: make one with the image's partition in it (IMAGE:2)
    #[arg(long)]
    create_partition: bool,
    /// Give disk, partitions and filesystems new identities, and rewrite what names them: for a copy that stays in the
    /// same machine as its original
    #[arg(long)]
    new_ids: bool,
    /// Mend what boots: auto, none, or some of grub,efi,start [default: auto where anything moves, else none]
    #[arg(long, value_name = "auto|none|LIST")]
    fixup: Option<String>,
    /// Where filesystems are changed before the target is written: what changes takes space there
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp")]
    work_folder: PathBuf,
}

impl LayoutArgs {
    /// What they ask for; `volume`: of one partition only.
    pub(crate) fn options(&self, volume: Option<u32>) -> Result<LayoutOptions> {
        if volume.is_some() && !self.partitions.is_empty() {
            return Err(Said::usage("--partitions: the image is named with one partition already").into());
        }
        if volume.is_none() && self.create_partition {
            return Err(
                Said::usage("--create-partition: which partition? name it with the image: IMAGE:2").into()
            );
        }
        let mode = self.mode()?;
        if volume.is_some() && !self.create_partition && matches!(mode, Mode::Explicit(_)) {
            return Err(
                Said::usage("--layout FILE: a single partition has no layout: keep, grow or fit").into()
            );
        }
        Ok(LayoutOptions {
            mode,
            to_gpt: self.to_gpt,
            partitions: (!self.partitions.is_empty()).then(|| self.partitions.clone()),
            volume,
            create_partition: self.create_partition,
            new_ids: self.new_ids,
            fixups: self.fixups()?,
        })
    }

    pub(crate) fn work_folder(&self) -> &Path {
        &self.work_folder
    }

    fn mode(&self) -> Result<Mode> {
        Ok(match self.layout.as_str() {
            "keep" => Mode::Keep,
            "grow" => Mode::Grow,
            "proportional" => Mode::Proportional,
            "fit" => Mode::Fit,
            file => {
                let text = fs::read_to_string(file).with_context(|| {
                    format!("--layout {file}: expected keep, grow, proportional, fit or a file")
                })?;
                Mode::Explicit(LayoutFile::parse(&text).with_context(|| format!("layout file {file}"))?)
            }
        })
    }

    fn fixups(&self) -> Result<Option<Fixups>> {
        let Some(wanted) = self.fixup.as_deref() else { return Ok(None) };
        match wanted {
            "auto" => return Ok(Some(Fixups::all())),
            "none" => return Ok(Some(Fixups::default())),
            _ => {}
        }
        let mut fixups = Fixups::default();
        for name in wanted.split(',') {
            match name {
                "grub" => fixups.grub = true,
                "efi" => fixups.efi = true,
                "start" => fixups.start = true,
                other => {
                    let text = format!("--fixup: expected auto, none, grub, efi or start, found {other:?}");
                    return Err(Said::usage(text).into());
                }
            }
        }
        Ok(Some(fixups))
    }
}

/// The partitions before and after, and what is done to them.
pub(crate) fn table(plan: &LayoutPlan, origin: &Origin) -> Vec<String> {
    let mut table =
        Table::new(&["N", "FSTYPE", "LABEL", ">SIZE", ">START", "", ">NEW SIZE", ">NEW START", "CHANGE"]);
    for volume in &plan.volumes {
        let label =
            origin.info.layout.volumes.iter().find(|it| it.number == volume.number).and_then(label_of);
        table.row([
            volume.number.to_string(),
            volume.kind.clone().unwrap_or_default(),
            label.unwrap_or_default(),
            show_bytes(volume.from.bytes),
            show_bytes(volume.from.offset),
            "→".to_owned(),
            show_bytes(volume.to.bytes),
            show_bytes(volume.to.offset),
            change(volume),
        ]);
    }
    let is_gone =
        |it: &&disk::Volume| !plan.in_place && plan.volumes.iter().all(|kept| kept.number != it.number);
    for gone in origin.info.layout.volumes.iter().filter(is_gone) {
        table.row([
            gone.number.to_string(),
            gone.content.as_ref().map(|content| content.kind.clone()).unwrap_or_default(),
            label_of(gone).unwrap_or_default(),
            show_bytes(gone.extent.bytes),
            show_bytes(gone.extent.offset),
            "→".to_owned(),
            String::new(),
            String::new(),
            "left out".to_owned(),
        ]);
    }
    table.lines()
}

fn label_of(volume: &disk::Volume) -> Option<String> {
    let label = volume.content.as_ref().and_then(|content| content.label.clone());
    label.or_else(|| volume.name.clone())
}

/// What happens to a volume, in a few words.
fn change(volume: &VolumePlan) -> String {
    let size = match volume.change {
        VolumeChange::Same => None,
        VolumeChange::Grow => Some("grows"),
        VolumeChange::Shrink => Some("shrinks"),
        VolumeChange::Recreate => Some("shrinks: made anew, files copied"),
        VolumeChange::Room => Some("has more room"),
    };
    let moves = (volume.from.offset != volume.to.offset).then_some("moves");
    let identity = volume.new_identity.then_some("new identity");
    [moves, size, identity].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Between what is done beside the target and what is done to it.
const BESIDE: &str = "     (so far beside the target, which is not touched until all of this has succeeded)";

/// What will be done, in order and with numbers.
pub(crate) fn steps(plan: &LayoutPlan, options: &LayoutOptions) -> Vec<String> {
    let mut number = 0;
    let numbered = |step: String| match step.as_str() {
        BESIDE => step,
        _ => {
            number += 1;
            format!("{number:>3}. {step}")
        }
    };
    unnumbered(plan, options).into_iter().map(numbered).collect()
}

fn unnumbered(plan: &LayoutPlan, options: &LayoutOptions) -> Vec<String> {
    let mut steps = Vec::new();
    for volume in &plan.volumes {
        let (number, kind) = (volume.number, volume.kind.as_deref().unwrap_or("content"));
        let size = show_bytes(volume.to.bytes);
        match volume.change {
            VolumeChange::Grow => steps.push(format!("grow the {kind} of partition {number} to {size}")),
            VolumeChange::Shrink => steps.push(format!("shrink the {kind} of partition {number} to {size}")),
            VolumeChange::Recreate => {
                steps.push(format!("make a new {kind} of {size} for partition {number} and copy its files"));
            }
            VolumeChange::Same | VolumeChange::Room => {}
        }
    }
    if options.new_ids {
        steps.push(
            "give the disk, its partitions and filesystems new identities, and rewrite what names them"
                .to_owned(),
        );
    }
    if !steps.is_empty() {
        steps.push(BESIDE.to_owned());
    }
    steps.push("take the target's partition table out of service".to_owned());
    steps.push("write what differs".to_owned());
    let table = match plan.table.as_ref().map_or(TableKind::None, |table| table.kind) {
        TableKind::Gpt => "write the GPT, both copies, last",
        TableKind::Mbr => "write the partition table last",
        TableKind::None => "write the first MiB last",
    };
    steps.push(table.to_owned());
    steps
}

/// Sizes in one line.
pub(crate) fn sizes(plan: &LayoutPlan) -> String {
    let (needs, has) = (plan.needed_bytes, plan.target.bytes);
    format!("needs {}, the target has {}", show_bytes_exactly(needs), show_bytes_exactly(has))
}

/// For programs.
pub(crate) fn to_json(plan: &LayoutPlan) -> Value {
    let volumes: Vec<Value> = plan
        .volumes
        .iter()
        .map(|volume| {
            json!({
                "number": volume.number,
                "kind": volume.kind,
                "from": volume.from,
                "to": volume.to,
                "change": change(volume),
            })
        })
        .collect();
    json!({
        "target_bytes": plan.target.bytes,
        "in_place": plan.in_place,
        "needed_bytes": plan.needed_bytes,
        "volumes": volumes,
        "missing_programs": plan.missing.iter().map(|program| program.package).collect::<Vec<_>>(),
        "remarks": plan.remarks,
        "work_bytes": plan.work_bytes,
    })
}

/// Refuses when programs are missing, with the line that installs them.
pub(crate) fn check_programs(plan: &LayoutPlan) -> Result<(), Said> {
    if plan.missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = plan.missing.iter().map(|program| program.name).collect();
    let mut packages: Vec<&str> = plan.missing.iter().map(|program| program.package).collect();
    packages.dedup();
    let text = format!("layout: these programs are needed and are not here: {}", names.join(", "));
    Err(Said::refused(text).hint(format!("apt-get install {}", packages.join(" "))))
}

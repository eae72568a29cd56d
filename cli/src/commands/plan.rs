//! `cas plan IMAGE TARGET`: what a restore would make of a target, before and after, without writing anything.
//!
//! Promise: nothing is written; the plan is the one that `restore` with the same options carries out.
//! Knows nothing of how it is made.

use crate::args::Context;
use crate::arranged::Job;
use crate::commands::restore;
use crate::exit::Exit;
use crate::layout::{self, LayoutArgs};
use crate::naming::Narrow;
use crate::{place, target};
use anyhow::Result;
use image::{CopyOptions, Origin, RestoreOptions, TargetPlan};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image: 4 or more digits of its id, latest, latest~2; IMAGE:2 is its partition 2
    image: OsString,
    /// A disk, a partition or a file
    target: PathBuf,
    #[command(flatten)]
    layout: LayoutArgs,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let (image, volume) = restore::open_image(context, &store, &args.image, &args.narrow)?;
    let origin = Origin::of_image(&image)?;
    let folder = place::find(context)?.path;
    let target = image::plan_target(&args.target, Some(&folder), &origin.info, &RestoreOptions::default())?;
    let options = args.layout.options(volume)?;
    let line = restore::image_line(&image);
    let job = Job::new(context, "restore", line, &args.layout, options, CopyOptions::default())?;
    show(&job, &origin, target, |document| context.ui.document(&document))
}

/// Shows a plan, hands it out for programs; what refuses the target is said in the end.
pub(crate) fn show(
    job: &Job<'_>,
    origin: &Origin,
    target: TargetPlan,
    emit: impl FnOnce(Value),
) -> Result<Exit> {
    let ui = &job.context.ui;
    let planned = job.plan(origin, target)?;
    ui.say_all(job.show(origin, &planned));
    ui.say("nothing was written");
    let facts = &planned.target.facts;
    let refusals = &planned.target.refusals;
    emit(json!({
        "dry_run": true,
        "target": facts.path.display().to_string(),
        "layout": layout::to_json(&planned.layout),
        "refusals": refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "warnings": planned.target.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }));
    target::refuse(job.verb, &facts.path, refusals)?;
    layout::check_programs(&planned.layout)?;
    Ok(Exit::Done)
}

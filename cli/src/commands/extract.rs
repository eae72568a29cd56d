//! `cas extract IMAGE:N:/PATH… -C DIR | --tar | --zip`: files out of an image.
//!
//! Promise: writes beneath DIR only, and overwrites nothing; what was not extracted, or not whole, is said and is in the
//! exit code. Knows nothing of filesystems.

use crate::args::Context;
use crate::errors::Said;
use crate::exit::Exit;
use crate::inside;
use crate::naming::{Narrow, Place};
use crate::place;
use crate::units::show_bytes;
use anyhow::{Context as _, Result};
use image::{ExtractOptions, ExtractReport, Extraction, FindingKind, Found, LastLink, VolumeFiles};
use serde_json::json;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

/// Findings that are listed one by one; `--json` has all of them.
const FINDINGS_SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["into", "tar", "zip"]))]
pub(crate) struct Args {
    /// Files or folders of one volume: IMAGE:N:/path. Without a path, all of the volume
    #[arg(value_name = "IMAGE:N:/PATH", required = true)]
    places: Vec<OsString>,
    /// Write into this folder; it is made if it is not there
    #[arg(short = 'C', long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Write a tar to standard output: with owners, times, links and extended attributes
    #[arg(long)]
    tar: bool,
    /// Write a zip to standard output
    #[arg(long)]
    zip: bool,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let places = args.places.iter().map(|name| Place::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = one_volume(&places)? else { return Ok(Exit::Usage) };
    if args.into.is_none() {
        context.ui.give_stdout_away();
        if io::stdout().is_terminal() {
            return Err(Said::refused("standard output is a terminal").hint("add `> FILE`").into());
        }
    }
    let store = place::open(context)?;
    let volume = inside::open(context, &store, first, &args.narrow)?;
    let find = |place: &Place| volume.find(place.path.as_deref().unwrap_or(b"/"), LastLink::Keep);
    let found = places.iter().map(find).collect::<Result<Vec<Found>, _>>()?;
    if let Some(stream) = found.iter().find(|found| found.stream.is_some()) {
        let text = format!("{}: a stream cannot be extracted", inside::shown(&stream.path));
        return Err(Said::usage(text).hint("`cas cat` writes it to standard output").into());
    }
    context.signals.guard()?;
    let report = match &args.into {
        Some(folder) => into_folder(context, &volume, &found, folder)?,
        None => to_stream(&volume, &found, args.tar)?,
    };
    Ok(tell(context, &report))
}

/// All from one volume of one image: what they have in common.
fn one_volume(places: &[Place]) -> Result<Option<&Place>, Said> {
    let same = |place: &&Place| {
        places.first().map(|it| (&it.image, it.volume)) == Some((&place.image, place.volume))
    };
    match places.iter().all(|place| same(&place)) {
        true => Ok(places.first()),
        false => {
            Err(Said::usage("files of several volumes: expected those of one").hint("run it once for each"))
        }
    }
}

fn into_folder(
    context: &Context,
    volume: &VolumeFiles,
    found: &[Found],
    folder: &Path,
) -> Result<ExtractReport> {
    let place = || folder.display().to_string();
    std::fs::create_dir_all(folder).with_context(place)?;
    let options = ExtractOptions { privileged: rustix::process::geteuid().is_root() };
    let stopped = || context.signals.stopped();
    let mut extraction = Extraction::new(&*volume.files, folder, options, &stopped).with_context(place)?;
    for one in found {
        let name = one.path.rsplit(|byte| *byte == b'/').next().filter(|name| !name.is_empty());
        if extraction.add(one.file, &one.path, name).is_err() {
            return Err(Said::new(Exit::Interrupted, "interrupted").into());
        }
    }
    Ok(extraction.finish())
}

fn to_stream(volume: &VolumeFiles, found: &[Found], tar: bool) -> Result<ExtractReport> {
    let out = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let done = match tar {
        true => image::to_tar(&*volume.files, found, out),
        false => image::to_zip(&*volume.files, found, out),
    };
    done.context("standard output: write")
}

/// What was done, and what not.
fn tell(context: &Context, report: &ExtractReport) -> Exit {
    let shown = if context.ui.json() { usize::MAX } else { FINDINGS_SHOWN };
    for finding in report.findings.iter().take(shown) {
        let mut text = format!("{}: {}", inside::shown(&finding.path), finding.what);
        let mut cause = std::error::Error::source(&finding.what);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        context.ui.warn(text);
    }
    if report.findings.len() > shown {
        context.ui.warn(format!("and {} more", report.findings.len() - shown));
    }
    context.ui.event(
        "summary",
        json!({
            "files": report.files,
            "folders": report.folders,
            "bytes": report.bytes,
            "findings": report.findings.len(),
        }),
    );
    context.ui.note(format!(
        "{} files, {} folders, {}",
        report.files,
        report.folders,
        show_bytes(report.bytes)
    ));
    match &report.findings[..] {
        [] => Exit::Done,
        found => found.iter().fold(Exit::Incomplete, |exit, it| match &it.what {
            FindingKind::Unreadable(error) => exit.worse(inside::exit_of(error)),
            _ => exit,
        }),
    }
}

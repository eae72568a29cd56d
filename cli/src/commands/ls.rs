//! `cas ls IMAGE[:N[:/PATH]]`: the volumes of an image, or the files in one.
//!
//! Promise: what cannot be read is said, and what can is listed all the same. Knows nothing of filesystems.

use crate::args::Context;
use crate::exit::Exit;
use crate::inside::{self, is_readable};
use crate::naming::{Narrow, Place};
use crate::place;
use crate::table::Table;
use crate::units::show_bytes;
use anyhow::Result;
use disk::files::{FileInfo, FileKind};
use image::{Found, LastLink, Met, VolumeFiles, VolumeLine};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::ffi::OsString;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An image (lists its volumes), IMAGE:N or IMAGE:N:/path
    #[arg(value_name = "IMAGE[:N[:/PATH]]")]
    place: OsString,
    /// Mode, links, owner, group, size and time of each file
    #[arg(short, long)]
    long: bool,
    /// Folders within folders too
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let wanted = Place::parse(&args.place)?;
    let store = place::open(context)?;
    if wanted.volume.is_none() {
        let reader = inside::reader(context, &store, &wanted.image, &args.narrow)?;
        let lines = image::volumes(&reader)?;
        context.ui.document(&Value::Array(lines.iter().map(volume_json).collect()));
        context.ui.say_all(volume_table(&lines).lines());
        return Ok(Exit::Done);
    }
    let volume = inside::open(context, &store, &wanted, &args.narrow)?;
    let found = volume.find(wanted.path.as_deref().unwrap_or(b"/"), LastLink::Follow)?;
    Ok(list(context, &args, &volume, &found))
}

fn volume_json(line: &VolumeLine) -> Value {
    json!({
        "number": line.number,
        "offset": line.extent.offset,
        "bytes": line.extent.bytes,
        "kind": line.kind,
        "label": line.label,
        "left_out": line.left_out,
        "readable": is_readable(line),
    })
}

fn volume_table(lines: &[VolumeLine]) -> Table {
    let mut table = Table::new(&[">N", ">SIZE", "KIND", "LABEL", "FILES"]);
    for line in lines {
        let files = match (line.left_out, is_readable(line)) {
            (true, _) => "left out",
            (false, true) => "yes",
            (false, false) => "-",
        };
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        table.row([
            line.number.to_string(),
            show_bytes(line.extent.bytes),
            text(&line.kind),
            text(&line.label),
            files.to_owned(),
        ]);
    }
    table
}

/// A folder's files with their names, or from its path on with `-R`; anything else by itself.
fn list(context: &Context, args: &Args, volume: &VolumeFiles, found: &Found) -> Exit {
    let zone = TimeZone::system();
    let mut lines = Lines { args, zone, table: Table::new(&TITLES), json: Vec::new(), context };
    let mut exit = Exit::Done;
    let mut failed = |path: &[u8], error: disk::files::FilesError| {
        exit = exit.worse(inside::exit_of(&error));
        context.ui.warn(format!("{}: {:#}", inside::shown(path), anyhow::Error::new(error)));
    };
    match volume.files.info(found.file) {
        Err(error) => failed(&found.path, error),
        Ok(info) if info.kind != FileKind::Folder => lines.add(&found.path, &found.path, &info),
        Ok(_) => {
            let skip = found.path.len() + 1;
            let mut each = |met: Met<'_>| {
                lines.add(met.path, met.path.get(skip..).unwrap_or_default(), met.info);
                args.recursive
            };
            image::walk(&*volume.files, found, &mut each, &mut failed);
        }
    }
    lines.finish();
    exit
}

const TITLES: [&str; 7] = ["MODE", ">LINKS", ">UID", ">GID", ">SIZE", "MODIFIED", "NAME"];

struct Lines<'a> {
    args: &'a Args,
    zone: TimeZone,
    table: Table,
    json: Vec<Value>,
    context: &'a Context,
}

impl Lines<'_> {
    fn add(&mut self, path: &[u8], name: &[u8], info: &FileInfo) {
        if self.context.ui.json() {
            self.json.push(inside::to_json(path, info));
        } else if self.args.long {
            let target = match &info.kind {
                FileKind::Link { target } => format!(" -> {}", String::from_utf8_lossy(target)),
                _ => String::new(),
            };
            self.table.row([
                inside::mode(info),
                info.links.to_string(),
                info.uid.to_string(),
                info.gid.to_string(),
                size(info),
                inside::time(info.modified, &self.zone),
                format!("{}{target}", inside::shown(name)),
            ]);
        } else {
            self.context.ui.say(inside::shown(name));
        }
    }

    fn finish(self) {
        self.context.ui.document(&Value::Array(self.json));
        if self.args.long && !self.table.is_empty() {
            self.context.ui.say_all(self.table.lines());
        }
    }
}

/// Of devices, their numbers.
fn size(info: &FileInfo) -> String {
    match info.kind {
        FileKind::CharDevice { major, minor } | FileKind::BlockDevice { major, minor } => {
            format!("{major}, {minor}")
        }
        _ => info.bytes.to_string(),
    }
}

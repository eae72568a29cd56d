//! `cas cat IMAGE:N:/PATH`: a file's contents to standard output.
//!
//! Promise: wrong bytes are never written; where the file cannot be read, it ends with an error. Knows nothing of filesystems.

use crate::args::Context;
use crate::errors::Said;
use crate::exit::Exit;
use crate::inside;
use crate::naming::{Narrow, Place};
use crate::place;
use anyhow::{Context as _, Result};
use image::{Found, LastLink, VolumeFiles};
use std::ffi::OsString;
use std::io::{self, Write};

/// Contents go out in such pieces.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file: IMAGE:N:/path. On NTFS, /path:stream is an alternate data stream
    #[arg(value_name = "IMAGE:N:/PATH")]
    place: OsString,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let wanted = Place::parse(&args.place)?;
    let Some(path) = &wanted.path else {
        return Err(Said::usage(format!("{}: expected IMAGE:N:/path", args.place.display())).into());
    };
    let store = place::open(context)?;
    let volume = inside::open(context, &store, &wanted, &args.narrow)?;
    let found = volume.find(path, LastLink::Follow)?;
    context.ui.give_stdout_away();
    match copy(&volume, &found, &mut io::stdout().lock())? {
        Ok(()) => Ok(Exit::Done),
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => Err(anyhow::Error::new(error).context("standard output: write")),
    }
}

/// Outside: the image. Inside: the output.
fn copy(volume: &VolumeFiles, found: &Found, out: &mut dyn Write) -> Result<io::Result<()>> {
    let mut buf = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let read = match &found.stream {
            Some(stream) => volume.files.read_stream(found.file, stream, at, &mut buf),
            None => volume.files.read(found.file, at, &mut buf),
        };
        let count = read.with_context(|| inside::shown(&found.path))?;
        if count == 0 {
            return Ok(out.flush());
        }
        if let Err(error) = out.write_all(&buf[..count]) {
            return Ok(Err(error));
        }
        at += count as u64;
    }
}

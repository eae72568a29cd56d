//! `cas man DIR`: one manual page for each command, generated from the definitions of the options.
//!
//! Knows nothing of any command.

use crate::args::{Cli, Context};
use crate::exit::Exit;
use anyhow::{Context as _, Result};
use clap::CommandFactory;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that the pages are written to
    dir: PathBuf,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let place = || format!("{}: write manual pages", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(place)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).with_context(place)?;
    context.ui.note(format!("manual pages are in {}", args.dir.display()));
    Ok(Exit::Done)
}

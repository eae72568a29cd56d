//! `cas completions SHELL`: generated from the definitions of the options.
//!
//! Knows nothing of any command.

use crate::args::{Cli, Context};
use crate::exit::Exit;
use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For which shell
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cas", &mut script);
    context.ui.raw(&script);
    Ok(Exit::Done)
}

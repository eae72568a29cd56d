//! The command line: options that every command has, and the list of commands. Each command's own options are in its
//! file.
//!
//! Promise: what is not built is not here. Knows nothing of what the commands do.

use crate::commands;
use crate::interrupt::Signals;
use crate::ui::Ui;
use clap::{Args, Parser, Subcommand};
use std::sync::Arc;

/// Images whole drives into a deduplicating store, and puts them back bit by bit.
#[derive(Debug, Parser)]
#[command(name = "cas", version, max_term_width = 100, subcommand_required = true)]
#[command(arg_required_else_help = true, infer_subcommands = false, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const AFTER_HELP: &str = "\
An IMAGE is 4 or more digits of an id, `latest`, or `latest~2` (two before it).
Exit codes: cas help exit-codes";

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// The store [default: CAS_STORE, else /var/lib/cas for root, $XDG_DATA_HOME/cas for others]
    #[arg(short, long, global = true, value_name = "PATH")]
    pub(crate) store: Option<String>,
    /// Results as JSON: one document, or lines with `message_type` from commands that take long
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress and no notes
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a store
    Init(commands::init::Args),
    /// Image a disk, partition, file or stream into the store
    #[command(visible_alias = "backup")]
    Capture(commands::capture::Args),
    /// List the images of the store
    #[command(visible_alias = "list")]
    Images(commands::images::Args),
    /// Show everything about an image
    Show(commands::show::Args),
    /// List the volumes of an image, or the files in one
    Ls(commands::ls::Args),
    /// Write a file of an image to standard output
    Cat(commands::cat::Args),
    /// Take files out of an image, into a folder or an archive
    Extract(commands::extract::Args),
    /// Find files in images by name
    Find(commands::find::Args),
    /// List the disks of this machine, and the last image of each
    Disks(commands::disks::Args),
    /// Write an image to a disk, partition, file or stream
    Restore(commands::restore::Args),
    /// Show what a restore would make of a target, before and after, and write nothing
    Plan(commands::plan::Args),
    /// Copy a disk right onto others, without a store
    Clone(commands::clone::Args),
    /// Show images as folders of files: each disk, its partitions, and what is in them
    Mount(commands::mount::Args),
    /// Check that an image can be read whole, or that a device holds it
    Verify(commands::verify::Args),
    /// Write an image as a virtual machine's disk file: qcow2, vhdx, vmdk, vdi or raw
    Export(commands::export::Args),
    /// Serve an image as a network block device to nbdcopy, qemu or a kernel
    Nbd(commands::nbd::Args),
    /// Check the whole store for damage
    Scrub(commands::scrub::Args),
    /// Forget images by name or by rules; `undelete` brings them back until `gc`
    Forget(commands::forget::Args),
    /// Bring forgotten images back
    Undelete(commands::undelete::Args),
    /// Keep images from being forgotten
    Protect(commands::protect::Args),
    /// Give back the space that only forgotten images needed
    Gc(commands::gc::Args),
    /// Show what the store holds, and what removing each image would free
    Stats(commands::stats::Args),
    /// The index of the store: a cache that can always be rebuilt
    Index(commands::index::Args),
    /// Print completions for a shell
    Completions(commands::completions::Args),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man(commands::man::Args),
    /// The exit codes
    #[command(hide = true, long_about = crate::exit::table(), help_template = "{about}")]
    ExitCodes,
}

/// What every command is given.
pub(crate) struct Context {
    pub(crate) ui: Arc<Ui>,
    pub(crate) signals: Signals,
    /// The store as it was named on the command line.
    pub(crate) store: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_what_is_built_is_in_the_help() {
        let help = Cli::command().render_long_help().to_string();
        for verb in [
            "init",
            "capture",
            "images",
            "show",
            "disks",
            "restore",
            "plan",
            "clone",
            "mount",
            "verify",
            "export",
            "nbd",
            "scrub",
            "forget",
            "undelete",
            "protect",
            "gc",
            "stats",
            "index",
            "ls",
            "cat",
            "extract",
            "find",
            "completions",
            "[alias: backup]",
            "[alias: list]",
        ] {
            assert!(help.contains(verb), "{verb}");
        }
        for verb in ["  man", "  exit-codes", "  key", "  web"] {
            assert!(!help.contains(verb), "{verb}");
        }
    }

    #[test]
    fn help_exit_codes_prints_the_table_alone() {
        let error = Cli::try_parse_from(["cas", "help", "exit-codes"]).unwrap_err();
        let text = error.render().to_string();
        assert!(text.starts_with("Exit codes of cas:"), "{text}");
        assert!(text.contains("  130  interrupted"), "{text}");
    }

    #[test]
    fn no_option_is_called_force() {
        fn walk(command: &clap::Command) {
            assert!(
                command.get_arguments().all(|arg| arg.get_long() != Some("force")),
                "{}",
                command.get_name()
            );
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}

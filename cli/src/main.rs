//! `cas`: images whole drives into a deduplicating store, and puts them back.
//!
//! Arguments in, words and exit code out. Promise: every failure leaves through `errors.rs`, every word through `ui.rs`.
//! Knows nothing of formats, chunks or partition tables.

#![forbid(unsafe_code)]

mod args;
mod arranged;
mod catalog;
mod commands;
mod confirm;
mod errors;
mod exit;
mod inside;
mod interrupt;
mod layout;
mod locking;
mod naming;
mod picture;
mod place;
mod progress;
mod table;
mod target;
mod ui;
mod units;
mod workshop;

use crate::args::{Cli, Context, Verb};
use crate::exit::Exit;
use crate::interrupt::Signals;
use crate::ui::{Manner, Ui};
use clap::Parser;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    silence_sled();
    let cli = Cli::parse();
    let ui = Arc::new(Ui::new(Manner { quiet: cli.global.quiet, json: cli.global.json }));
    let outcome = run(cli, &ui).and_then(|exit| {
        ui.finish().map_err(|error| anyhow::Error::new(error).context("standard output: write"))?;
        Ok(exit)
    });
    let exit = outcome.unwrap_or_else(|error| {
        let told = errors::tell(&error);
        ui.error(told.exit.code(), &told.text, told.hint.as_deref());
        told.exit
    });
    ExitCode::from(exit.code())
}

fn run(cli: Cli, ui: &Arc<Ui>) -> anyhow::Result<Exit> {
    let context = Context { ui: Arc::clone(ui), signals: Signals::listen()?, store: cli.global.store };
    match cli.verb {
        Verb::Init(args) => commands::init::run(&context, args),
        Verb::Capture(args) => commands::capture::run(&context, args),
        Verb::Ls(args) => commands::ls::run(&context, args),
        Verb::Cat(args) => commands::cat::run(&context, args),
        Verb::Extract(args) => commands::extract::run(&context, args),
        Verb::Find(args) => commands::find::run(&context, args),
        Verb::Images(args) => commands::images::run(&context, args),
        Verb::Show(args) => commands::show::run(&context, args),
        Verb::Disks(args) => commands::disks::run(&context, args),
        Verb::Restore(args) => commands::restore::run(&context, args),
        Verb::Plan(args) => commands::plan::run(&context, args),
        Verb::Clone(args) => commands::clone::run(&context, args),
        Verb::Mount(args) => commands::mount::run(&context, args),
        Verb::Verify(args) => commands::verify::run(&context, args),
        Verb::Export(args) => commands::export::run(&context, args),
        Verb::Nbd(args) => commands::nbd::run(&context, args),
        Verb::Scrub(args) => commands::scrub::run(&context, args),
        Verb::Forget(args) => commands::forget::run(&context, args),
        Verb::Undelete(args) => commands::undelete::run(&context, args),
        Verb::Protect(args) => commands::protect::run(&context, args),
        Verb::Gc(args) => commands::gc::run(&context, args),
        Verb::Stats(args) => commands::stats::run(&context, args),
        Verb::Index(args) => commands::index::run(&context, args),
        Verb::Completions(args) => commands::completions::run(&context, args),
        Verb::Man(args) => commands::man::run(&context, args),
        Verb::ExitCodes => commands::exit_codes::run(&context),
    }
}

/// sled 0.34 panics on damaged files of its own. `store` catches that and begins the index anew; people are told so by a
/// note, and need not see the panic.
fn silence_sled() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let in_sled = panic.location().is_some_and(|location| location.file().contains("/sled-0.34"));
        if !in_sled {
            hook(panic);
        }
    }));
}

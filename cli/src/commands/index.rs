//! `cas index`: the catalogue of packs, a cache of this host.
//!
//! Promise: losing it costs time and nothing else. Knows nothing of what it looks like.

use crate::args::Context;
use crate::commands::images::count;
use crate::exit::Exit;
use crate::locking::LockWait;
use crate::place;
use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::json;
use std::time::Duration;
use store::CatalogueState;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Throw the index away and read it anew from the packs
    Rebuild(LockWait),
    /// Bring the index in line with the packs, and say what that took
    Check(LockWait),
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let state = match args.verb {
        Verb::Rebuild(lock) => {
            lock.run(context, || store.rebuild_index(Duration::ZERO)).context("index rebuild")?
        }
        Verb::Check(lock) => {
            lock.run(context, || store.check_index(Duration::ZERO)).context("index check")?
        }
    };
    context.ui.say_all(lines(&state));
    let unreadable: Vec<String> = state.packs_unreadable.iter().map(ToString::to_string).collect();
    context.ui.document(&json!({
        "packs": state.packs,
        "packs_kept": state.packs_kept,
        "packs_read": state.packs_read,
        "packs_dropped": state.packs_dropped,
        "packs_unreadable": unreadable,
        "rebuilt": state.rebuilt,
    }));
    if unreadable.is_empty() {
        return Ok(Exit::Done);
    }
    let packs = count(unreadable.len(), "pack");
    context
        .ui
        .warn(format!("{packs} could not be read: {}; `cas scrub` says what is hit", unreadable.join(", ")));
    Ok(Exit::Damage)
}

fn lines(state: &CatalogueState) -> Vec<String> {
    let mut lines = vec![
        format!("packs    {}", state.packs),
        format!("known    {}", state.packs_kept),
        format!("read     {}", state.packs_read),
        format!("dropped  {}", state.packs_dropped),
    ];
    lines.extend(state.rebuilt.as_ref().map(|why| format!("rebuilt  {why}")));
    lines
}

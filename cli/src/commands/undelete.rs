//! `cas undelete IMAGE…`: forgotten images come back.
//!
//! Promise: an image is back, whole, or the error says that it is not. It may have a new id: gc had begun to take its
//! packs, and they were copied. Knows nothing of what gc did meanwhile.

use crate::args::Context;
use crate::catalog;
use crate::exit::Exit;
use crate::locking::LockWait;
use crate::naming::{Narrow, Scope};
use crate::place;
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The images, by id: `cas images --all` lists forgotten ones
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    lock: LockWait,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let images = catalog::list(&store)?;
    let find = |name: &String| catalog::find(&images, name, &Narrow::default(), Scope::Forgotten);
    let ids = args.images.iter().map(find).collect::<Result<Vec<_>>>()?;
    let mut undeleted = Vec::new();
    for id in ids {
        let now = args.lock.run(context, || store.undelete(id, Duration::ZERO))?;
        let name = if now == id { String::new() } else { format!(" as {}", now.short()) };
        context.ui.say(format!("brought back {}{name}", id.short()));
        undeleted.push(json!({ "id": id.to_string(), "now": now.to_string() }));
    }
    context.ui.document(&json!({ "undeleted": undeleted }));
    Ok(Exit::Done)
}

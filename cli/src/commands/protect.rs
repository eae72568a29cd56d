//! `cas protect IMAGE…`: neither rules nor names can forget these images.
//!
//! Promise: protecting what is protected is fine. Knows nothing of retention.

use crate::args::Context;
use crate::catalog;
use crate::exit::Exit;
use crate::naming::{Narrow, Scope};
use crate::place;
use anyhow::Result;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The images: 4 or more digits of an id, latest, latest~2
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Lift the protection
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let store = place::open(context)?;
    let images = catalog::list(&store)?;
    let find = |name: &String| catalog::find(&images, name, &args.narrow, Scope::Live);
    let ids = args.images.iter().map(find).collect::<Result<Vec<_>>>()?;
    for id in &ids {
        store.protect(*id, !args.off)?;
        let word = if args.off { "no longer protected" } else { "protected" };
        context.ui.say(format!("{word}: {}", id.short()));
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    context.ui.document(&json!({ "images": ids, "protected": !args.off }));
    Ok(Exit::Done)
}

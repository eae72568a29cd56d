//! `cas exit-codes`: the same table as `cas help exit-codes`.

use crate::args::Context;
use crate::exit::{self, Exit};
use anyhow::Result;

pub(crate) fn run(context: &Context) -> Result<Exit> {
    context.ui.say(exit::table().trim_end());
    Ok(Exit::Done)
}

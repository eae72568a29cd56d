//! How fast `cas` is: `cargo run --release -p bench -- [--full] [STAGE…]`.
//!
//! Promise: data follow from a seed; each measure is one JSON line on standard output, a table of all follows on
//! standard error; seconds by default, minutes with `--full`.
//! Knows nothing of other tools.

#![forbid(unsafe_code)]

mod stages;

use anyhow::{Result, bail};

use bench::data::{MadeUpDisk, Mix};
use bench::measure::print_table;
use stages::{Bench, STAGES};

/// Part of every figure's meaning: never changed.
const SEED: u64 = 20_261_122;
const QUICK_BYTES: u64 = 256 << 20;
const FULL_BYTES: u64 = 8 << 30;

fn main() -> Result<()> {
    let (options, wanted): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|it| it.starts_with('-'));
    let names = STAGES.map(|(name, _)| name);
    if let Some(unknown) =
        options.iter().find(|it| *it != "--full").or(wanted.iter().find(|it| !names.contains(&it.as_str())))
    {
        bail!("{unknown}: expected --full or stages among: {}", names.join(" "));
    }
    let size_bytes = if options.is_empty() { QUICK_BYTES } else { FULL_BYTES };
    let bench = Bench { disk: MadeUpDisk::new(size_bytes, SEED, Mix::USUAL) };
    let mut measures = Vec::new();
    for (_, stage) in
        STAGES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|it| it == name))
    {
        for measure in stage(&bench)? {
            measure.print()?;
            measures.push(measure);
        }
    }
    print_table(&measures);
    Ok(())
}

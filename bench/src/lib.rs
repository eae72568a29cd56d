//! Measures of `cas`: each stage of a capture apart, the whole from capture to collection, memory against size, and all of
//! it beside other tools.
//!
//! Promise: data follow from a seed, or are a disk image whose hash is printed; each measure is one JSON line on standard
//! output, tables for people follow on standard error; seconds by default, minutes with `--full`. Only public interfaces
//! are measured. Only `compare` knows other tools.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to whoever started it")]

mod account;
mod compare;
pub mod data;
mod growth;
mod job;
pub mod measure;
mod memory;
mod place;
mod sieve;
mod slow;
mod stages;
mod whole;

use anyhow::{Result, bail};

use data::{MadeUpDisk, Mix};
use measure::{Measure, print_table};

/// The first argument of a process that this program starts of itself.
pub const CHILD: &str = "--child";
/// The one bench that needs other programs, and has options of its own.
const COMPARE: &str = "compare";
/// … and this one makes stores of its own.
const GROWTH: &str = "growth";
/// Part of every figure's meaning: never changed.
const SEED: u64 = 20_261_122;
const QUICK_BYTES: u64 = 256 << 20;
const FULL_BYTES: u64 = 2 << 30;
/// Each measure is taken so often, with the others in between; tables show medians. Odd, so that a median is a measure.
const ROUNDS: usize = 3;

/// What every bench needs to know.
struct Plan {
    /// The data of the stages and of the whole.
    disk: MadeUpDisk,
    /// Minutes instead of seconds.
    full: bool,
}

/// A bench: its name on the command line, whether it is run without being named, and what measures it.
type Bench = (&'static str, bool, fn(&Plan) -> Result<Vec<Measure>>);

/// All benches: the stages in the order of a capture, then what is made of them.
const BENCHES: [Bench; 13] = [
    ("read", true, stages::read),
    ("cut", true, stages::cut),
    ("hash", true, stages::hash),
    ("look-up", true, stages::look_up),
    ("compress", true, stages::compress),
    ("prove", true, stages::prove),
    ("publish", true, stages::publish),
    ("account", true, account::account),
    ("whole", true, whole::made_up),
    ("real", false, whole::real),
    ("memory", false, memory::memory),
    ("memory-threads", false, memory::threads),
    ("memory-all-data", false, memory::all_data),
];

/// Measures what the arguments name; without a name, all that takes seconds.
pub fn run(arguments: Vec<String>) -> Result<()> {
    if let [first, job] = &arguments[..]
        && first == CHILD
    {
        return job::run_child(job);
    }
    match &arguments[..] {
        [first, timed] if first == compare::TIMED => return compare::run_child(timed),
        [first, rest @ ..] if first == COMPARE => return compare::run(rest),
        [first, rest @ ..] if first == GROWTH => return growth::run(rest),
        _ => {}
    }
    let (options, wanted): (Vec<String>, Vec<String>) =
        arguments.into_iter().partition(|it| it.starts_with('-'));
    let names = BENCHES.map(|(name, ..)| name);
    if let Some(unknown) =
        options.iter().find(|it| *it != "--full").or(wanted.iter().find(|it| !names.contains(&it.as_str())))
    {
        bail!("{unknown}: expected {COMPARE}, {GROWTH}, or --full and names among: {}", names.join(" "));
    }
    let full = !options.is_empty();
    let size_bytes = if full { FULL_BYTES } else { QUICK_BYTES };
    let plan = Plan { disk: MadeUpDisk::new(size_bytes, SEED, Mix::USUAL), full };
    let mut measures = Vec::new();
    for (name, by_default, bench) in BENCHES {
        let named = wanted.iter().any(|it| it == name);
        if named || (wanted.is_empty() && by_default) {
            measures.extend(bench(&plan)?);
        }
    }
    print_table(&measures);
    Ok(())
}

/// Takes each measure `ROUNDS` times, all of them in each round.
fn in_rounds(mut round: impl FnMut() -> Result<Vec<Measure>>) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    for _ in 0..ROUNDS {
        for measure in round()? {
            measure.print()?;
            measures.push(measure);
        }
    }
    Ok(measures)
}

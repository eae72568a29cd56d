//! `cas init`: a new store.
//!
//! Promise: a store and a folder with other things in it are left alone. Knows nothing of how chunks are cut.

use crate::args::Context;
use crate::exit::Exit;
use crate::{place, units};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder; the same as --store
    #[arg(value_name = "PATH", conflicts_with = "store")]
    path: Option<PathBuf>,
    /// Average size of a chunk: smaller finds more duplicates and needs more memory [default: 64KiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_average, conflicts_with = "rule")]
    chunk_size: Option<String>,
    /// How chunks are cut: fastcdc:SIZE, or fixed:SIZE for disks of virtual machines
    #[arg(long, value_parser = parse_rule)]
    rule: Option<String>,
}

/// Averages that FastCDC can work with: smaller ones weigh as much in tables as they save, and four times the largest is
/// the largest chunk.
const AVERAGE_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=4 << 20;
/// One sector, to the largest chunk.
const FIXED_BYTES: std::ops::RangeInclusive<u64> = 512..=16 << 20;

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    let path = match args.path {
        Some(path) => path,
        None => place::find(context)?.path,
    };
    let rule = args.rule.or(args.chunk_size).unwrap_or_else(|| place::DEFAULT_RULE.to_owned());
    let store = place::create(&path, &rule)?;
    let config = store.config();
    context.ui.say(format!("created store {}", store.place()));
    context.ui.say(format!("id    {}", config.store_id));
    context.ui.say(format!("rule  {}", config.rule));
    context.ui.document(&json!({ "store": store.place(), "store_id": config.store_id, "rule": config.rule }));
    Ok(Exit::Done)
}

/// `64KiB` → the rule that has this average.
fn parse_average(text: &str) -> Result<String, String> {
    let average = units::parse_size(text)?;
    if !average.is_power_of_two() || !AVERAGE_BYTES.contains(&average) {
        return Err(format!("expected a power of two from 1KiB to 4MiB, found {average} bytes"));
    }
    Ok(format!("fastcdc:{},{average},{}", average / 4, average * 4))
}

/// `fastcdc:64KiB`, `fastcdc:MIN,AVERAGE,MAX` or `fixed:4MiB`, in the form that the store keeps.
fn parse_rule(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some(("fixed", size)) => parse_fixed(size),
        Some(("fastcdc", sizes)) if sizes.contains(',') => parse_bounds(sizes),
        Some(("fastcdc", size)) => parse_average(size),
        _ => Err("expected fastcdc:SIZE, fastcdc:MIN,AVERAGE,MAX or fixed:SIZE".to_owned()),
    }
}

fn parse_fixed(size: &str) -> Result<String, String> {
    let bytes = units::parse_size(size)?;
    if !bytes.is_multiple_of(512) || !FIXED_BYTES.contains(&bytes) {
        return Err(format!("expected a multiple of 512 up to 16MiB, found {bytes} bytes"));
    }
    Ok(format!("fixed:{bytes}"))
}

fn parse_bounds(sizes: &str) -> Result<String, String> {
    let sizes = sizes.split(',').map(units::parse_size).collect::<Result<Vec<u64>, String>>()?;
    let [min, average, max] = sizes[..] else {
        return Err("expected three sizes: fastcdc:MIN,AVERAGE,MAX".to_owned());
    };
    let even = [min, average, max].iter().all(|size| size.is_multiple_of(2));
    let legal = min >= 64 && average >= 256 && max >= 1024 && max <= *FIXED_BYTES.end();
    let legal = legal && min <= 1 << 20 && average <= *AVERAGE_BYTES.end();
    if !(even && legal && min <= average && average <= max) {
        return Err(
            "expected even sizes, 64 ≤ MIN ≤ 1MiB, 256 ≤ AVERAGE ≤ 4MiB, 1KiB ≤ MAX ≤ 16MiB, in order"
                .to_owned(),
        );
    }
    Ok(format!("fastcdc:{min},{average},{max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_kept_in_one_form() {
        assert_eq!(parse_average("64KiB").as_deref(), Ok(place::DEFAULT_RULE));
        assert_eq!(parse_rule("fastcdc:64KiB").as_deref(), Ok(place::DEFAULT_RULE));
        assert_eq!(parse_rule("fastcdc:16KiB,64KiB,256KiB").as_deref(), Ok(place::DEFAULT_RULE));
        assert_eq!(parse_rule("fixed:4MiB").as_deref(), Ok("fixed:4194304"));
        for bad in
            ["", "fixed", "fixed:1000", "fixed:32MiB", "fastcdc:65", "fastcdc:3,4,5", "fastcdc:1K,2K", "x:1"]
        {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
        for bad in ["100KiB", "512", "8MiB", "-1"] {
            assert!(parse_average(bad).is_err(), "{bad}");
        }
    }
}

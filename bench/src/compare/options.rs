//! What `compare` is told on the command line.
//!
//! Promise: anything it does not understand is an error that says what it expects. Knows nothing of what is done with it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::step::{Step, with_needed};
use super::tools::{Kind, TOOLS, Tool};

/// So many rounds unless told: the least that has a median.
const ROUNDS: usize = 3;

pub(crate) const USAGE: &str = "\
compare [--rounds N] [--scale small|full] [--cold] [--tools A,B] [--steps A,B] [--cas PATH] [--wrap COMMAND] [--from FILE] [--write]

  --rounds N      of each step by each tool; 3 unless told
  --scale small   disks of 2 GiB, 1.4 GB of each in non-zero blocks (default); full: four times as much
  --cold          the page cache is emptied before each timed command (root), instead of filled
  --tools A,B     only these; --steps A,B: only these, and the captures that they need
  --cas PATH      compares that program instead of building this checkout's
  --wrap COMMAND  taken in front of each timed command, such as a lock that has the machine to itself
  --from FILE     measures nothing: tables of the JSON lines of an earlier run
  --write         writes README and chart also of a part, or of an earlier run";

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) scale: &'static str,
    pub(crate) cold: bool,
    pub(crate) tools: Vec<&'static Tool>,
    pub(crate) steps: Vec<Step>,
    pub(crate) cas: Option<PathBuf>,
    pub(crate) wrap: Vec<String>,
    pub(crate) from: Option<PathBuf>,
    /// The README's tables and the chart are made anew.
    pub(crate) write: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options {
            rounds: ROUNDS,
            scale: "small",
            cold: false,
            tools: TOOLS.iter().collect(),
            steps: Step::all().collect(),
            cas: None,
            wrap: Vec::new(),
            from: None,
            write: true,
        };
        let mut forced = false;
        let mut left = arguments.iter();
        while let Some(name) = left.next() {
            let mut value = || left.next().with_context(|| format!("{name}: expected a value\n{USAGE}"));
            match name.as_str() {
                "--rounds" => options.rounds = value()?.parse().context("--rounds: expected a number")?,
                "--scale" => options.scale = scale(value()?)?,
                "--cold" => options.cold = true,
                "--tools" => {
                    options.tools = tools(value()?)?;
                    options.write = false;
                }
                "--steps" => {
                    options.steps = steps(value()?)?;
                    options.write = false;
                }
                "--cas" => options.cas = Some(PathBuf::from(value()?)),
                "--wrap" => options.wrap = value()?.split_whitespace().map(str::to_owned).collect(),
                "--from" => {
                    options.from = Some(PathBuf::from(value()?));
                    options.write = false;
                }
                "--write" => forced = true,
                "--help" => bail!("{USAGE}"),
                unknown => bail!("{unknown}: no such option\n{USAGE}"),
            }
        }
        ensure!(options.rounds > 0, "--rounds: expected 1 or more");
        options.write |= forced;
        Ok(options)
    }

    /// As tables and files are called.
    pub(crate) fn cache(&self) -> &'static str {
        if self.cold { "cold" } else { "warm" }
    }
}

fn scale(name: &str) -> Result<&'static str> {
    match name {
        "small" => Ok("small"),
        "full" => Ok("full"),
        _ => bail!("--scale {name}: expected small or full"),
    }
}

fn tools(names: &str) -> Result<Vec<&'static Tool>> {
    let all: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
    for name in names.split(',') {
        let known = all.contains(&name) || kind(name).is_some();
        ensure!(known, "--tools {name}: expected peers, single, limits or some of {}", all.join(","));
    }
    let asked =
        |tool: &&Tool| names.split(',').any(|name| name == tool.name || kind(name) == Some(tool.kind));
    Ok(TOOLS.iter().filter(asked).collect())
}

/// All tools of a kind.
fn kind(name: &str) -> Option<Kind> {
    match name {
        "peers" => Some(Kind::Deduplicating),
        "single" => Some(Kind::Single),
        "limits" => Some(Kind::Limit),
        _ => None,
    }
}

fn steps(names: &str) -> Result<Vec<Step>> {
    let all: Vec<&str> = Step::all().map(Step::name).collect();
    let step = |name: &str| {
        Step::parse(name).with_context(|| format!("--steps {name}: expected some of {}", all.join(",")))
    };
    Ok(with_needed(&names.split(',').map(step).collect::<Result<Vec<Step>>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_not_said_is_usual() {
        let options = parse("").unwrap();
        assert_eq!(
            (options.rounds, options.scale, options.cache(), options.write),
            (3, "small", "warm", true)
        );
        assert_eq!((options.tools.len(), options.steps.len()), (TOOLS.len(), 9));
    }

    #[test]
    fn a_part_is_not_written_unless_asked() {
        let options = parse("--tools cas,limits --steps second --cold").unwrap();
        assert!(!options.write);
        assert_eq!(options.tools.len(), 1 + TOOLS.iter().filter(|tool| tool.kind == Kind::Limit).count());
        assert_eq!(options.steps, [Step::First, Step::Second]);
        assert!(parse("--steps second --write").unwrap().write);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (line, expected) in [
            ("--tools tar", "expected peers, single, limits or some of cas,"),
            ("--steps fourth", "expected some of first,second"),
            ("--scale huge", "expected small or full"),
            ("--rounds 0", "expected 1 or more"),
            ("--rounds", "expected a value"),
            ("first", "no such option"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}

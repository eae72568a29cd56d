//! What one timed command gave, as a JSON line, and what follows from many.
//!
//! Promise: medians are over rounds, of wall time, processor time, bytes and memory each. Knows nothing of tables.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::step::Step;
use crate::measure::Measure;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Named `compare/small/warm/TOOL/STEP`; stored bytes are those of all files of the tool's store.
    #[serde(flatten)]
    pub(crate) measure: Measure,
    pub(crate) cpu_seconds: f64,
    /// With what is not timed: preparing, proving.
    pub(crate) elapsed_seconds: f64,
    pub(crate) round: usize,
    pub(crate) tool: String,
    pub(crate) step: String,
    /// What the tool calls itself.
    pub(crate) version: String,
}

/// The middle of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) stored_bytes: f64,
    pub(crate) peak_memory_bytes: f64,
}

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Records(pub(crate) Vec<Record>);

impl Records {
    pub(crate) fn read(path: &Path) -> Result<Records> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let line =
            |line: &str| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()));
        Ok(Records(text.lines().map(line).collect::<Result<_>>()?))
    }

    /// `None`: that tool did not do that step.
    pub(crate) fn cell(&self, tool: &str, step: Step) -> Option<Cell> {
        let of: Vec<&Record> = self.0.iter().filter(|it| it.tool == tool && it.step == step.name()).collect();
        let median_of = |what: fn(&Record) -> f64| median(of.iter().map(|it| what(it)).collect());
        Some(Cell {
            seconds: median_of(|it| it.measure.seconds)?,
            cpu_seconds: median_of(|it| it.cpu_seconds)?,
            stored_bytes: median_of(|it| it.measure.stored_bytes.unwrap_or(0) as f64)?,
            peak_memory_bytes: median_of(|it| it.measure.peak_memory_bytes.unwrap_or(0) as f64)?,
        })
    }

    /// Seconds that this tool's step takes with all around it.
    pub(crate) fn elapsed(&self, tool: &str, step: Step) -> Option<f64> {
        let of = self.0.iter().filter(|it| it.tool == tool && it.step == step.name());
        median(of.map(|it| it.elapsed_seconds).collect())
    }

    pub(crate) fn version(&self, tool: &str) -> Option<&str> {
        self.0.iter().find(|it| it.tool == tool).map(|it| it.version.as_str())
    }

    pub(crate) fn rounds(&self) -> usize {
        self.0.iter().map(|it| it.round).max().unwrap_or(0)
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record of a tool that took so long and holds so much.
    pub(crate) fn record(tool: &str, step: Step, round: usize, seconds: f64, stored_bytes: u64) -> Record {
        let measure = Measure {
            name: format!("compare/small/warm/{tool}/{}", step.name()),
            bytes: 1 << 30,
            seconds,
            stored_bytes: Some(stored_bytes),
            peak_memory_bytes: Some(100 << 20),
            commit: "test".to_owned(),
        };
        let (tool, step, version) = (tool.to_owned(), step.name().to_owned(), "1".to_owned());
        Record {
            measure,
            cpu_seconds: seconds * 2.0,
            elapsed_seconds: seconds + 1.0,
            round,
            tool,
            step,
            version,
        }
    }

    #[test]
    fn the_middle_of_any_number() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn cells_are_medians_and_lines_are_read_back() {
        let records: Vec<Record> = [5.0, 1.0, 2.0]
            .into_iter()
            .zip(1..)
            .map(|(s, round)| record("cas", Step::First, round, s, 7))
            .collect();
        let text: Vec<String> = records.iter().map(|it| serde_json::to_string(it).unwrap()).collect();
        let again = Records(text.iter().map(|line| serde_json::from_str(line).unwrap()).collect());
        let cell = again.cell("cas", Step::First).unwrap();
        assert_eq!((cell.seconds, cell.cpu_seconds, cell.stored_bytes), (2.0, 4.0, 7.0));
        assert_eq!((again.elapsed("cas", Step::First), again.rounds()), (Some(3.0), 3));
        assert_eq!(again.cell("cas", Step::Second), None);
    }
}

//! What was measured, as the README shows it.
//!
//! Promise: every figure is a median; ratios are to `cas` in the same run. Knows nothing of files.

use std::fmt::Write;

use super::options::Options;
use super::record::{Cell, Records};
use super::series::Series;
use super::step::Step;
use super::tools::{Kind, TOOLS, Tool};
use super::verdict::verdicts;

const MB: f64 = 1e6;
const MIB: f64 = 1_048_576.0;

/// All tables of a run.
pub(crate) fn tables(records: &Records, series: &Series, options: &Options) -> String {
    let mut text = head(records, series, options);
    text += &times(records);
    text += &sizes(records);
    text += &ratios(records);
    text += &singles(records);
    text += &judged(records);
    text
}

fn head(records: &Records, series: &Series, options: &Options) -> String {
    let commit = records.0.first().map_or("nothing", |it| it.measure.commit.as_str());
    let cache = if options.cold {
        "cold: the page cache emptied before each command"
    } else {
        "warm: what a command reads, image and store, was read once before it"
    };
    let mut text = format!(
        "Commit {commit}, medians of {}, scale {}, {} threads. Page cache {cache}.\n\n",
        count(records.rounds()),
        options.scale,
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    text += "| image | MB | MB in non-zero blocks | BLAKE3 |\n|---|---|---|---|\n";
    for image in &series.images {
        let (bytes, used) = (image.bytes as f64 / MB, image.used_bytes as f64 / MB);
        line(&mut text, &format!("| {} | {bytes:.0} | {used:.0} | `{}` |", image.name, image.hash));
    }
    text
}

fn count(rounds: usize) -> String {
    if rounds == 1 { "one round".to_owned() } else { format!("{rounds} rounds") }
}

/// Tools that keep many images, ours first, as far as they were measured.
fn keepers(records: &Records) -> Vec<&'static Tool> {
    let kept = |tool: &&Tool| matches!(tool.kind, Kind::Ours | Kind::Deduplicating);
    TOOLS.iter().filter(kept).filter(|tool| records.version(tool.name).is_some()).collect()
}

/// A table with a row for each title and a column for each of `tools`.
fn table(first: &str, tools: &[&Tool], rows: &[(String, Vec<Option<String>>)]) -> String {
    let titles: Vec<&str> = tools.iter().map(|tool| tool.title).collect();
    let mut text = format!("\n| {first} | {} |\n|---{}|\n", titles.join(" | "), "|---".repeat(titles.len()));
    for (title, cells) in rows {
        let cells: Vec<&str> = cells.iter().map(|cell| cell.as_deref().unwrap_or("–")).collect();
        line(&mut text, &format!("| {title} | {} |", cells.join(" | ")));
    }
    text
}

fn times(records: &Records) -> String {
    let tools = keepers(records);
    let row = |step: Step| {
        let cell = |tool: &&Tool| {
            let cell = records.cell(tool.name, step)?;
            Some(format!("{} ({})", seconds(cell.seconds), seconds(cell.cpu_seconds)))
        };
        (step.title().to_owned(), tools.iter().map(cell).collect::<Vec<_>>())
    };
    let rows: Vec<_> = Step::all().map(row).filter(measured).collect();
    table("seconds wall (CPU)", &tools, &rows)
}

fn sizes(records: &Records) -> String {
    let tools = keepers(records);
    let row = |title: &str, of: &dyn Fn(&Tool) -> Option<f64>| {
        (title.to_owned(), tools.iter().map(|tool| of(tool).map(|value| format!("{value:.0}"))).collect())
    };
    let stored = |step: Step| move |tool: &Tool| Some(records.cell(tool.name, step)?.stored_bytes / MB);
    let freed = |tool: &Tool| Some(stored(Step::Again)(tool)? - stored(Step::Delete)(tool)?);
    let peak = |tool: &Tool| {
        let cells: Vec<Cell> = Step::all().filter_map(|step| records.cell(tool.name, step)).collect();
        cells.iter().map(|cell| cell.peak_memory_bytes / MIB).max_by(f64::total_cmp)
    };
    let rows: Vec<_> = [
        row("stored after v1, MB", &stored(Step::First)),
        row("stored after all four, MB", &stored(Step::Other)),
        row("stored after deletion, MB", &stored(Step::Delete)),
        row("freed by deletion, MB", &freed),
        row("peak memory of the largest process in any step, MiB", &peak),
    ]
    .into_iter()
    .filter(measured)
    .collect();
    table("bytes", &tools, &rows)
}

fn measured(row: &(String, Vec<Option<String>>)) -> bool {
    row.1.iter().any(Option::is_some)
}

/// How many times as much as ours.
fn ratios(records: &Records) -> String {
    let ratio = |tool: &Tool, step: Step, of: fn(&Cell) -> f64| {
        let (theirs, ours) = (records.cell(tool.name, step)?, records.cell("cas", step)?);
        Some(of(&theirs) / of(&ours))
    };
    let tools: Vec<&Tool> = keepers(records).into_iter().filter(|tool| tool.name != "cas").collect();
    let mut rows = Vec::new();
    for step in Step::all() {
        let cell = |tool: &&Tool| {
            let wall = ratio(tool, step, |cell| cell.seconds)?;
            let cpu = ratio(tool, step, |cell| cell.cpu_seconds)?;
            let memory = ratio(tool, step, |cell| cell.peak_memory_bytes)?;
            Some(format!("{wall:.1} ({cpu:.1}; {memory:.1})"))
        };
        rows.push((step.title().to_owned(), tools.iter().map(cell).collect::<Vec<_>>()));
    }
    for (title, step) in
        [("after v1", Step::First), ("after all four", Step::Other), ("after deletion", Step::Delete)]
    {
        let cell = |tool: &&Tool| Some(format!("{:.3}", ratio(tool, step, |cell| cell.stored_bytes)?));
        rows.push((format!("stored {title}"), tools.iter().map(cell).collect()));
    }
    rows.retain(measured);
    table("times cas: wall (CPU; memory)", &tools, &rows)
}

/// Tools of one image, and limits: one row for each of their commands.
fn singles(records: &Records) -> String {
    let mut text = "\n| one image, and limits | step | seconds wall (CPU) | stored MB | cas takes times its wall |\n|---|---|---|---|---|\n".to_owned();
    let empty = text.len();
    for tool in TOOLS.iter().filter(|tool| matches!(tool.kind, Kind::Single | Kind::Limit)) {
        for step in Step::all() {
            let Some(cell) = records.cell(tool.name, step) else { continue };
            let ours = records
                .cell("cas", step)
                .map_or("–".to_owned(), |ours| format!("{:.2}", ours.seconds / cell.seconds));
            let stored = if cell.stored_bytes > 0.0 {
                format!("{:.0}", cell.stored_bytes / MB)
            } else {
                "–".to_owned()
            };
            let title = if step.is_restore() {
                step.title().replace("v3", tool.restores)
            } else {
                step.title().to_owned()
            };
            let (wall, cpu) = (seconds(cell.seconds), seconds(cell.cpu_seconds));
            line(&mut text, &format!("| {} | {title} | {wall} ({cpu}) | {stored} | {ours} |", tool.title));
        }
    }
    if text.len() == empty { String::new() } else { text }
}

fn judged(records: &Records) -> String {
    let mut text = "\n| promised | target | reached | |\n|---|---|---|---|\n".to_owned();
    for verdict in verdicts(records) {
        let met = match verdict.met {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "–",
        };
        line(&mut text, &format!("| {} | {} | {} | {met} |", verdict.what, verdict.target, verdict.reached));
    }
    text
}

/// What each tool was told, in the words that it was told in.
pub(crate) fn commands(records: &Records) -> String {
    let mut text = String::new();
    for tool in TOOLS {
        let version = records
            .version(tool.name)
            .filter(|it| !it.is_empty())
            .map_or(String::new(), |it| format!(" ({it})"));
        line(
            &mut text,
            &format!(
                "\n**{}**{version}{}{}\n",
                tool.title,
                if tool.note.is_empty() { "" } else { ": " },
                tool.note
            ),
        );
        let settings: Vec<String> =
            tool.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        text += "```\n";
        if !settings.is_empty() {
            line(&mut text, &format!("# {}", settings.join(" ")));
        }
        if tool.init != "true" {
            line(&mut text, &format!("{:<15} {}", "before", tool.init));
        }
        let mut last = "";
        for (step, command) in tool.commands.iter().filter(|(_, command)| !command.is_empty()) {
            // The same for all captures.
            if *command != last {
                let name = if step.is_capture() { "capture" } else { step.name() };
                line(&mut text, &format!("{name:<15} {command}"));
            }
            last = command;
        }
        text += "```\n";
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes all that is written");
}

/// Three digits are what such a measure is worth.
fn seconds(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.3}"),
        value if value < 10.0 => format!("{value:.2}"),
        value => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn a_column_for_each_tool_that_was_measured() {
        let records = Records(vec![
            record("cas", Step::First, 1, 2.0, 4_000_000),
            record("borg", Step::First, 1, 5.0, 6_000_000),
            record("zstd-3", Step::First, 1, 4.0, 7_000_000),
        ]);
        assert!(times(&records).contains("| seconds wall (CPU) | cas, every sector | borg |"));
        assert!(times(&records).contains("| first image, v1 | 2.00 (4.00) | 5.00 (10.0) |"));
        assert!(sizes(&records).contains("| stored after v1, MB | 4 | 6 |"));
        assert!(ratios(&records).contains("| first image, v1 | 2.5 (2.5; 1.0) |"));
        assert!(ratios(&records).contains("| stored after v1 | 1.500 |"));
        assert!(singles(&records).contains("| zstd -3 -T0 | first image, v1 | 4.00 (8.00) | 7 | 0.50 |"));
        assert!(!times(&records).contains("a day later"));
    }

    #[test]
    fn three_digits() {
        assert_eq!([0.1234, 1.234, 12.34, 123.4].map(seconds), ["0.123", "1.23", "12.3", "123.4"]);
    }
}

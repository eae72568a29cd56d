//! The chart beside the tables: for each step a group of bars, how long each tool takes, `cas` being 1.
//!
//! Promise: plain SVG 1.1 with its own background, so that it reads the same on light and dark pages.
//! Knows nothing of how the figures came about.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::options::Options;
use super::record::Records;
use super::step::Step;
use super::tools::{Kind, TOOLS, Tool};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 28.0;
/// Titles of steps stand left of the bars.
const BARS_AT: f64 = 250.0;
/// Behind the longest bar is room for its figures.
const BARS_WIDTH: f64 = 520.0;
const BAR_HEIGHT: f64 = 13.0;
const BAR_STEP: f64 = 16.0;
const GROUP_GAP: f64 = 18.0;
const HEAD: f64 = 96.0;
/// A bar that is longer is cut, and shown to be.
const RATIO_MAX: f64 = 20.0;
/// `cas`, then the others: told apart by people who see no red or green too (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#b8a800", "#8c8c8c"];

/// Writes `compare.svg`, or `compare-cold.svg`.
pub(crate) fn write(records: &Records, options: &Options) -> Result<()> {
    let name = if options.cold { "compare-cold.svg" } else { "compare.svg" };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let subtitle = format!(
        "{} page cache, scale {}, medians of {} rounds",
        options.cache(),
        options.scale,
        records.rounds()
    );
    fs::write(path, draw(records, &subtitle))?;
    Ok(())
}

/// One bar.
struct Bar {
    tool: usize,
    /// Of our time.
    ratio: f64,
    seconds: f64,
}

fn draw(records: &Records, subtitle: &str) -> String {
    let tools: Vec<&Tool> = TOOLS
        .iter()
        .filter(|tool| {
            matches!(tool.kind, Kind::Ours | Kind::Deduplicating) && records.version(tool.name).is_some()
        })
        .collect();
    let mut body = String::new();
    let mut y = HEAD;
    for step in Step::all() {
        let bars = bars(records, &tools, step);
        if !bars.is_empty() {
            group(&mut body, y, step, &bars);
            y += bars.len() as f64 * BAR_STEP + GROUP_GAP;
        }
    }
    let height = y + MARGIN;
    let mut page = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#fff\"/>\n"
    );
    text(&mut page, MARGIN, 34.0, "font-size=\"18\" font-weight=\"bold\"", "How many times as long as cas");
    text(&mut page, MARGIN, 54.0, "fill=\"#555\"", &format!("wall time, less is better; {subtitle}"));
    legend(&mut page, &tools);
    grid(&mut page, height - MARGIN);
    page + &body + "</svg>\n"
}

fn bars(records: &Records, tools: &[&Tool], step: Step) -> Vec<Bar> {
    let Some(ours) = records.cell("cas", step) else { return Vec::new() };
    let bar = |(tool, it): (usize, &&Tool)| {
        let seconds = records.cell(it.name, step)?.seconds;
        Some(Bar { tool, ratio: seconds / ours.seconds, seconds })
    };
    tools.iter().enumerate().filter_map(bar).collect()
}

fn group(page: &mut String, top: f64, step: Step, bars: &[Bar]) {
    let middle = top + bars.len() as f64 * BAR_STEP / 2.0 + 2.0;
    text(page, BARS_AT - 14.0, middle, "text-anchor=\"end\" font-weight=\"bold\"", step.title());
    for (number, bar) in bars.iter().enumerate() {
        let y = top + number as f64 * BAR_STEP;
        let width = across(bar.ratio.min(RATIO_MAX)) - BARS_AT;
        let colour = COLOURS[bar.tool % COLOURS.len()];
        put(
            page,
            &format!(
                "<rect x=\"{BARS_AT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" fill=\"{colour}\"/>"
            ),
        );
        let cut = if bar.ratio > RATIO_MAX { "» " } else { "" };
        let figures = if bar.tool == 0 {
            format!("{:.2} s", bar.seconds)
        } else {
            format!("{cut}{:.1} × ({:.1} s)", bar.ratio, bar.seconds)
        };
        text(page, BARS_AT + width + 6.0, y + 10.5, "font-size=\"11\" fill=\"#444\"", &figures);
    }
}

/// A line at each fifth multiple, and at ours.
fn grid(page: &mut String, bottom: f64) {
    for ratio in [1.0, 5.0, 10.0, 15.0, 20.0] {
        let (x, top) = (across(ratio), HEAD - 8.0);
        let colour = if ratio > 1.0 { "#e4e4e4" } else { "#0072b2" };
        put(
            page,
            &format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom:.1}\" stroke=\"{colour}\" stroke-width=\"1\"/>"
            ),
        );
        text(
            page,
            x,
            HEAD - 12.0,
            "text-anchor=\"middle\" font-size=\"11\" fill=\"#777\"",
            &format!("{ratio} ×"),
        );
    }
}

fn legend(page: &mut String, tools: &[&Tool]) {
    let mut x = WIDTH - MARGIN;
    // From the right, as the widths of texts are only guessed.
    for (number, tool) in tools.iter().enumerate().rev() {
        x -= tool.name.len() as f64 * 7.0 + 26.0;
        let colour = COLOURS[number % COLOURS.len()];
        put(
            page,
            &format!("<rect x=\"{x:.1}\" y=\"24\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{colour}\"/>"),
        );
        text(page, x + 16.0, 34.0, "", tool.name);
    }
}

/// Where a ratio lies from left to right.
fn across(ratio: f64) -> f64 {
    BARS_AT + ratio / RATIO_MAX * BARS_WIDTH
}

fn text(page: &mut String, x: f64, y: f64, how: &str, what: &str) {
    put(
        page,
        &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" {how}>{}</text>",
            what.replace('&', "&amp;").replace('<', "&lt;")
        ),
    );
}

fn put(page: &mut String, line: &str) {
    writeln!(page, "{line}").expect("a string takes all that is written");
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn a_bar_for_each_tool_of_a_step() {
        let records = Records(vec![
            record("cas", Step::First, 1, 2.0, 1),
            record("borg", Step::First, 1, 5.0, 1),
            record("borg", Step::Second, 1, 5.0, 1),
        ]);
        let page = draw(&records, "a < b");
        assert!(page.contains("2.5 × (5.0 s)") && page.contains("2.00 s"), "{page}");
        // Without ours there is nothing to compare with.
        assert!(!page.contains(Step::Second.title()));
        assert!(page.contains("a &lt; b"));
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_long_bar_is_cut() {
        let records =
            Records(vec![record("cas", Step::Again, 1, 0.1, 1), record("borg", Step::Again, 1, 9.0, 1)]);
        let page = draw(&records, "");
        assert!(page.contains("» 90.0 ×") && page.contains(&format!("width=\"{BARS_WIDTH:.1}\"")), "{page}");
    }
}

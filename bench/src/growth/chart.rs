//! What was measured, for people: tables as the README has them, and a chart of four panels.
//!
//! Promise: of several measures of one name the one in the middle; what was not measured is left out. Knows nothing of how
//! it was taken.

use std::fmt::Write;

use super::made::CHUNK_BYTES_MEAN;
use super::steps::Step;
use super::trees::Change;
use crate::GROWTH;
use crate::measure::{Measure, medians, mib};

const MIB: f64 = 1_048_576.0;
/// Limits of memory, drawn where they matter.
const LIMITS_MIB: [(f64, &str); 2] = [(512.0, "512 MiB"), (2048.0, "2 GiB")];

/// The measures by chunks (or TiB) and by what was measured.
struct Measured(Vec<(String, u64, String, Measure)>);

impl Measured {
    fn new(measures: &[Measure]) -> Measured {
        let parts = |measure: &Measure| {
            let mut parts = measure.name.splitn(4, '/');
            if parts.next() != Some(GROWTH) {
                return None;
            }
            let (second, third, fourth) = (parts.next()?, parts.next()?, parts.next());
            Some(match fourth {
                Some(what) => {
                    let tib = third.split(' ').next()?.parse().ok()?;
                    (second.to_owned(), tib, what.to_owned(), measure.clone())
                }
                None => ("store".to_owned(), second.parse().ok()?, third.to_owned(), measure.clone()),
            })
        };
        Measured(medians(measures).iter().filter_map(parts).collect())
    }

    fn sizes(&self, kind: &str) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.0.iter().filter(|it| it.0 == kind).map(|it| it.1).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn of(&self, kind: &str, size: u64, what: &str) -> Option<&Measure> {
        self.0.iter().find(|it| it.0 == kind && it.1 == size && it.2 == what).map(|it| &it.3)
    }

    fn line(&self, kind: &str, what: &str, value: impl Fn(&Measure) -> Option<f64>) -> Line {
        let point = |size: &u64| Some((*size as f64, value(self.of(kind, *size, what)?)?));
        Line { name: what.to_owned(), points: self.sizes(kind).iter().filter_map(point).collect() }
    }
}

fn rate(measure: &Measure) -> f64 {
    (measure.bytes / CHUNK_BYTES_MEAN) as f64 / measure.seconds
}

/// Figures that people can compare at a glance: three digits.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1} M", value / 1e6),
        value if value >= 1e4 => format!("{:.0} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// Rows of what was measured, columns of sizes.
pub(super) fn print_tables(measures: &[Measure]) {
    let measured = Measured::new(measures);
    let sizes = measured.sizes("store");
    if !sizes.is_empty() {
        let heads: Vec<String> = sizes.iter().map(|size| format!("{} chunks", power(*size as f64))).collect();
        print_head("seconds (or chunks a second) · peak MiB", &heads);
        for step in Step::ALL {
            let cell = |size: &u64| match measured.of("store", *size, step.name()) {
                None => "-".to_owned(),
                Some(it) => {
                    let memory =
                        it.peak_memory_bytes.map_or("-".to_owned(), |bytes| format!("{:.0}", mib(bytes)));
                    let time =
                        if step.is_rate() { format!("{}/s", short(rate(it))) } else { short(it.seconds) };
                    format!("{time} · {memory}")
                }
            };
            print_row(step.name(), sizes.iter().map(cell));
        }
        let cell = |size: &u64| {
            let index = measured.of("store", *size, Step::RebuildIndex.name()).and_then(|it| it.stored_bytes);
            index.map_or("-".to_owned(), |bytes| format!("{} MiB", short(mib(bytes))))
        };
        print_row("index on disk", sizes.iter().map(cell));
    }
    let sizes = measured.sizes("tables");
    if !sizes.is_empty() {
        print_head("new tables, MiB", &sizes.iter().map(|tib| format!("{tib} TiB")).collect::<Vec<_>>());
        for change in Change::ALL {
            let cell = |tib: &u64| {
                let bytes = measured.of("tables", *tib, &change.name()).and_then(|it| it.stored_bytes);
                bytes.map_or("-".to_owned(), |bytes| short(mib(bytes)))
            };
            print_row(&change.name(), sizes.iter().map(cell));
        }
    }
}

fn print_head(what: &str, columns: &[String]) {
    eprintln!("\n| {what} | {} |\n|---{}|", columns.join(" | "), "|---".repeat(columns.len()));
}

fn print_row(what: &str, cells: impl Iterator<Item = String>) {
    eprintln!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Panel {
    title: &'static str,
    below: &'static str,
    lines: Vec<Line>,
    limits: &'static [(f64, &'static str)],
}

/// The chart, as an SVG file.
pub(super) fn draw(measures: &[Measure]) -> String {
    let measured = Measured::new(measures);
    let seconds = |step: Step| measured.line("store", step.name(), |it| Some(it.seconds));
    let memory = |step: Step| measured.line("store", step.name(), |it| it.peak_memory_bytes.map(mib));
    let rates = |step: Step| measured.line("store", step.name(), |it| Some(rate(it)));
    let tables = |change: &Change| {
        // What stores nothing has no place on such a scale.
        let new = |it: &Measure| it.stored_bytes.map(|bytes| bytes as f64 / MIB).filter(|mib| *mib > 0.0);
        measured.line("tables", &change.name(), new)
    };
    let timed = Step::ALL.into_iter().filter(|step| !step.is_rate() && *step != Step::Forget);
    let looked = [Step::LookUpInOrder, Step::LookUpAnywhere, Step::LookUpUnknown, Step::Recapture];
    let heavy = [Step::RebuildIndex, Step::OpenIndex, Step::FirstLookUp, Step::Recapture, Step::Stats];
    let heavy = heavy.into_iter().chain([Step::GcDryRun, Step::Gc]);
    let chunks = "chunks in the store";
    let panels = [
        Panel { title: "Seconds", below: chunks, lines: timed.map(seconds).collect(), limits: &[] },
        Panel {
            title: "Peak memory, MiB",
            below: chunks,
            lines: heavy.map(memory).collect(),
            limits: &LIMITS_MIB,
        },
        Panel { title: "Chunks a second", below: chunks, lines: looked.map(rates).into(), limits: &[] },
        Panel {
            title: "New tables of an image, MiB",
            below: "size of the disk, TiB",
            lines: Change::ALL.iter().map(tables).collect(),
            limits: &[],
        },
    ];
    let mut svg = String::from(HEAD);
    for (number, panel) in panels.iter().enumerate() {
        let (column, row) = (number % 2, number / 2);
        panel.draw(&mut svg, (column as f64) * PANEL.0, (row as f64) * PANEL.1);
    }
    svg + "</svg>\n"
}

const PANEL: (f64, f64) = (560.0, 400.0);
/// Left, top, right (where the names of lines stand), bottom.
const MARGIN: (f64, f64, f64, f64) = (70.0, 40.0, 170.0, 50.0);
const HEAD: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="1120" height="800" font-family="sans-serif" font-size="12">
<rect width="1120" height="800" fill="#fff"/>
"##;
const COLOURS: [&str; 10] = [
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f",
    "#bcbd22",
];
/// Between the names of two lines.
const NAME_STEP: f64 = 15.0;

/// A logarithmic scale over whole powers of ten.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Scale {
        let low = values.clone().fold(f64::MAX, f64::min).log10().floor();
        let high = values.fold(f64::MIN_POSITIVE, f64::max).log10().ceil();
        Scale { low, high: high.max(low + 1.0), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        let mut exponent = self.low;
        let mut ticks = Vec::new();
        while exponent <= self.high {
            ticks.push(10f64.powf(exponent));
            exponent += 1.0;
        }
        ticks
    }
}

/// A power of ten as people write it.
fn power(value: f64) -> String {
    match value.log10().round() {
        exponent if !(-3.0..=3.0).contains(&exponent) && (value.log10() - exponent).abs() < 1e-9 => {
            let digit =
                |c: char| c.to_digit(10).and_then(|n| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(n as usize)).unwrap_or('⁻');
            format!("10{}", format!("{exponent}").chars().map(digit).collect::<String>())
        }
        _ => format!("{}", (value * 1000.0).round() / 1000.0),
    }
}

impl Panel {
    fn draw(&self, svg: &mut String, x: f64, y: f64) {
        // Writing to a string does not fail.
        self.try_draw(svg, x, y).unwrap_or_default();
    }

    fn try_draw(&self, svg: &mut String, x: f64, y: f64) -> std::fmt::Result {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        if points().next().is_none() {
            return Ok(());
        }
        let (left, right) = (x + MARGIN.0, x + PANEL.0 - MARGIN.2);
        let (top, bottom) = (y + MARGIN.1, y + PANEL.1 - MARGIN.3);
        let across = Scale::over(points().map(|point| point.0), left, right);
        let limits = self.limits.iter().map(|limit| limit.0);
        let up = Scale::over(points().map(|point| point.1).chain(limits), bottom, top);
        let middle = (left + right) / 2.0;
        writeln!(
            svg,
            r#"<text x="{left}" y="{}" font-size="15" font-weight="bold">{}</text>"#,
            top - 14.0,
            self.title
        )?;
        writeln!(
            svg,
            r#"<text x="{middle}" y="{}" text-anchor="middle">{}</text>"#,
            bottom + 36.0,
            self.below
        )?;
        for tick in across.ticks() {
            let at = across.at(tick);
            writeln!(svg, r##"<path d="M{at:.1} {top}V{bottom}" stroke="#ddd"/>"##)?;
            writeln!(
                svg,
                r#"<text x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#,
                bottom + 18.0,
                power(tick)
            )?;
        }
        for tick in up.ticks() {
            let at = up.at(tick);
            writeln!(svg, r##"<path d="M{left} {at:.1}H{right}" stroke="#ddd"/>"##)?;
            writeln!(
                svg,
                r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                left - 6.0,
                at + 4.0,
                power(tick)
            )?;
        }
        for (limit, name) in self.limits {
            let at = up.at(*limit);
            writeln!(svg, r##"<path d="M{left} {at:.1}H{right}" stroke="#000" stroke-dasharray="5 4"/>"##)?;
            writeln!(svg, r#"<text x="{}" y="{:.1}">{name}</text>"#, left + 4.0, at - 4.0)?;
        }
        self.draw_lines(svg, &across, &up, right)
    }

    fn draw_lines(&self, svg: &mut String, across: &Scale, up: &Scale, right: f64) -> std::fmt::Result {
        // Names stand beside the ends of their lines, from the top down, none over another.
        let mut ends: Vec<(usize, &str, f64)> = Vec::new();
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let at: Vec<(f64, f64)> = line.points.iter().map(|(x, y)| (across.at(*x), up.at(*y))).collect();
            let Some((_, end)) = at.last() else { continue };
            let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            writeln!(
                svg,
                r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2"/>"#,
                path.join("L")
            )?;
            for (x, y) in &at {
                writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#)?;
            }
            ends.push((number, &line.name, *end));
        }
        let mut last = f64::MIN;
        ends.sort_by(|one, other| one.2.total_cmp(&other.2));
        for (number, name, end) in ends {
            last = end.max(last + NAME_STEP);
            let colour = COLOURS[number % COLOURS.len()];
            writeln!(
                svg,
                r#"<text x="{}" y="{:.1}" fill="{colour}">{name}</text>"#,
                right + 8.0,
                last + 4.0
            )?;
        }
        Ok(())
    }
}

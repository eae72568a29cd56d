//! `cas` beside the tools that people would use otherwise: the same images, one after another, in one run.
//!
//! Promise: in each round every tool does each step before any does the next, and who begins moves on from round to round;
//! nothing is dirty when a clock starts, and the page cache is in the stated condition; what is restored is proved outside
//! of the time; a tool that fails or is not there is an error. Knows nothing of how a tool works: `tools.rs` does.

mod chart;
mod folder;
mod options;
mod readme;
mod record;
mod series;
mod step;
mod table;
mod timed;
mod tools;
mod verdict;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use self::folder::{Place, said};
use self::options::Options;
use self::record::{Record, Records};
use self::series::Series;
use self::step::Step;
use self::tools::{Kind, Tool};
use crate::measure::{Measure, commit};
use crate::place::{Folder, data_folder};

pub(crate) use self::timed::{TIMED, run_child};

/// Measures, or takes up what was measured; then the tables.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let folder = data_folder()?;
    let series = Series::get(&folder.join(format!("series-{}", options.scale)), options.scale)?;
    let records = match &options.from {
        Some(path) => Records::read(path)?,
        None => measure_all(&options, &series, &folder)?,
    };
    let tables = table::tables(&records, &series, &options);
    eprintln!("{tables}");
    if options.write {
        readme::write(options.cache(), &tables)?;
        readme::write("commands", &table::commands(&records))?;
        chart::write(&records, &options)?;
    }
    Ok(())
}

fn measure_all(options: &Options, series: &Series, folder: &Path) -> Result<Records> {
    let kept = folder.join(format!("compare-{}-{}.jsonl", options.scale, options.cache()));
    folder::check_programs(&options.tools)?;
    let cas = match &options.cas {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
        None => folder::build_cas()?,
    };
    say_how_long(options, &kept);
    let partial = kept.with_extension("partial");
    let mut lines = File::create(&partial).with_context(|| partial.display().to_string())?;
    let mut records = Vec::new();
    for round in 1..=options.rounds {
        let comparison = Round { options, series, cas: &cas, round };
        comparison.run(&mut |record: Record| {
            let line = serde_json::to_string(&record)?;
            println!("{line}");
            writeln!(lines, "{line}")?;
            records.push(record);
            Ok(())
        })?;
    }
    // Each of its lines is whole, but only a run that came to its end replaces the one before.
    std::fs::copy(&partial, &kept)?;
    std::fs::remove_file(&partial)?;
    Ok(Records(records))
}

/// From what an earlier run took.
fn say_how_long(options: &Options, kept: &Path) {
    let earlier = Records::read(kept).unwrap_or(Records(Vec::new()));
    let pairs = options.steps.iter().flat_map(|step| options.tools.iter().map(|tool| (tool, *step)));
    let mut unknown = 0;
    let mut seconds = 0.0;
    for (tool, step) in pairs.filter(|(tool, step)| tool.command(*step).is_some()) {
        match earlier.elapsed(tool.name, step) {
            Some(elapsed) => seconds += elapsed,
            None => unknown += 1,
        }
    }
    let rounds = options.rounds;
    eprintln!(
        "{rounds} rounds of {:.1} minutes each, by earlier runs{}",
        seconds / 60.0,
        match unknown {
            0 => String::new(),
            _ => format!(", and of {unknown} commands that were never timed"),
        }
    );
}

/// One time through all steps.
struct Round<'a> {
    options: &'a Options,
    series: &'a Series,
    cas: &'a Path,
    round: usize,
}

impl Round<'_> {
    fn run(&self, keep: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        let folder = Folder::new("compare")?;
        let mut places = Vec::new();
        for tool in self.rotated() {
            let place = Place::new(&folder.join(tool.name), tool, self.cas)?;
            let version = said(&place, tool.version)?;
            said(&place, tool.init)?;
            places.push((tool, place, version));
        }
        for step in &self.options.steps {
            for (tool, place, version) in &places {
                if let Some(command) = tool.command(*step) {
                    let record = self.step(tool, place, *step, command, version);
                    let record = record.with_context(|| format!("{}, {}", tool.name, step.title()))?;
                    keep(record)?;
                }
                // Tools that do little are done early, and disks are small.
                if tool.commands.iter().all(|(later, _)| later <= step) {
                    place.empty()?;
                }
            }
        }
        Ok(())
    }

    /// The tools, in another order in each round.
    fn rotated(&self) -> Vec<&'static Tool> {
        let mut tools = self.options.tools.clone();
        let by = (self.round - 1) * tools.len() / self.options.rounds;
        tools.rotate_left(by);
        tools
    }

    fn step(&self, tool: &Tool, place: &Place, step: Step, command: &str, version: &str) -> Result<Record> {
        let started = Instant::now();
        // A single-image tool restores the one that it has.
        let name = if step.is_restore() { tool.restores } else { step.image() };
        let image = self.series.path(name);
        let target = place.target(step, self.series)?;
        let mut environment = place.environment();
        environment.extend([
            ("IMAGE".to_owned(), image.display().to_string()),
            ("NAME".to_owned(), step.image_name().to_owned()),
            ("MACHINE".to_owned(), step.machine().to_owned()),
            (
                "TARGET".to_owned(),
                target.as_ref().map_or(String::new(), |it| it.path().display().to_string()),
            ),
        ]);
        // Restored is what is on the disk: some tools sync what they write, for the others it is done here.
        let command =
            if step.is_restore() { format!("{command}\nsync \"$TARGET\"") } else { command.to_owned() };
        let timed = timed::Timed {
            command,
            environment: environment.clone(),
            folder: place.folder().to_path_buf(),
            warm: self.warm(tool, place, step, &image),
        };
        let usage = timed.run(&self.options.wrap)?;
        if let Some(target) = target {
            target.prove(tool, place, &environment, &image)?;
        }
        let stored_bytes = timed::bytes_below(&place.store())?;
        let measure = Measure {
            name: format!(
                "compare/{}/{}/{}/{}",
                self.options.scale,
                self.options.cache(),
                tool.name,
                step.name()
            ),
            bytes: self.series.image(name)?.bytes,
            seconds: usage.seconds,
            stored_bytes: (stored_bytes > 0).then_some(stored_bytes),
            peak_memory_bytes: Some(usage.peak_memory_bytes),
            commit: commit(),
        };
        Ok(Record {
            measure,
            cpu_seconds: usage.cpu_seconds,
            elapsed_seconds: started.elapsed().as_secs_f64(),
            round: self.round,
            tool: tool.name.to_owned(),
            step: step.name().to_owned(),
            version: version.to_owned(),
        })
    }

    /// What is read before the clock starts: what the command reads.
    fn warm(&self, tool: &Tool, place: &Place, step: Step, image: &Path) -> Vec<PathBuf> {
        if self.options.cold {
            return Vec::new();
        }
        let used = image.with_extension("used");
        let mut paths = vec![place.store()];
        match (tool.kind, step.is_capture()) {
            (Kind::Limit, true) if tool.name == "b3sum-used" => paths.push(used),
            (Kind::Limit, _) | (_, true) => paths.push(image.to_path_buf()),
            _ => {}
        }
        paths
    }
}

/// The paths that commands are given are absolute, and without what a shell would take for something else.
fn plain(path: &Path) -> Result<&str> {
    let text = path.to_str().context("a path that is no text")?;
    ensure!(path.is_absolute(), "{text}: expected an absolute path");
    Ok(text)
}

//! How cost grows with the number of chunks in a store and with the size of images: `growth [OPTION…]`.
//!
//! Promise: stores are made up without their data (`made`), and everything measured on them is the code that runs on real
//! ones, each step in a process of its own. Only what is named by `--chunks` and `--images` is made. Knows nothing of how
//! fast data go in and out: that is for the other benches.

mod chart;
mod made;
mod steps;
mod trees;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use store::{Home, Store};

use crate::job::init;
use crate::measure::Measure;
use crate::place::Folder;
use crate::whole::USUAL_RULE;
use crate::{CHILD, GROWTH};
use made::Series;
use steps::Step;

const USAGE: &str = "growth [--chunks 1e5,1e6,1e7] [--images 1,10,20 (TiB)] [--threads N] [--steps NAME,…|none] \
    [--kept FOLDER] [--chart FILE.svg] [--with FILE.json]";

/// What the command line asks for.
struct Options {
    chunks: Vec<u64>,
    images_tib: Vec<u64>,
    /// Of the parallel parts; 0: one for each processor.
    threads: usize,
    /// What is measured on stores; all of it when nothing is named.
    steps: Option<Vec<String>>,
    /// Stores are made here, found here again, and stay.
    kept: Option<PathBuf>,
    chart: Option<PathBuf>,
    /// Measures of earlier runs, for the tables and the chart.
    with: Vec<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options> {
        let mut options = Options {
            chunks: vec![100_000, 1_000_000, 10_000_000],
            images_tib: vec![1],
            threads: 0,
            steps: None,
            kept: None,
            chart: None,
            with: Vec::new(),
        };
        for pair in arguments.chunks(2) {
            let [name, value] = pair else { bail!("{}: expected {USAGE}", pair.join(" ")) };
            match name.as_str() {
                "--chunks" => options.chunks = numbers(value)?,
                "--images" => options.images_tib = numbers(value)?,
                "--threads" => options.threads = value.parse()?,
                "--steps" => options.steps = Some(value.split(',').map(str::to_owned).collect()),
                "--kept" => options.kept = Some(value.into()),
                "--chart" => options.chart = Some(value.into()),
                "--with" => options.with.push(value.into()),
                _ => bail!("{name}: expected {USAGE}"),
            }
        }
        Ok(options)
    }
}

/// `1e5,20` and the like; `none` is an empty list.
fn numbers(text: &str) -> Result<Vec<u64>> {
    let number = |text: &str| {
        let (digits, zeros) = text.split_once('e').unwrap_or((text, "0"));
        let power = 10u64.checked_pow(zeros.parse()?).context("too large")?;
        digits.parse::<u64>()?.checked_mul(power).context("too large")
    };
    if text == "none" {
        return Ok(Vec::new());
    }
    text.split(',').map(|part| number(part).with_context(|| format!("{part}: expected a number"))).collect()
}

/// What a child is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Job {
    Step { step: Step, name: String, store: PathBuf, series: Series },
    Trees { tib: u64 },
}

/// Measures what the arguments name.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let [first, job] = arguments
        && first == CHILD
    {
        return run_child(job);
    }
    let options = Options::parse(arguments)?;
    let mut measures = Vec::new();
    for file in &options.with {
        for line in fs::read_to_string(file).with_context(|| file.display().to_string())?.lines() {
            measures.push(serde_json::from_str(line)?);
        }
    }
    for chunks in &options.chunks {
        measures.extend(measure_store(Series { chunks: *chunks }, &options)?);
    }
    for tib in &options.images_tib {
        measures.extend(run_job(&Job::Trees { tib: *tib }, 0)?);
    }
    chart::print_tables(&measures);
    if let Some(path) = &options.chart {
        fs::write(path, chart::draw(&measures))?;
    }
    Ok(())
}

fn run_child(job: &str) -> Result<()> {
    match serde_json::from_str(job)? {
        Job::Step { step, name, store, series } => step.measure(name, &store, series)?.print()?,
        Job::Trees { tib } => trees::measure_trees(tib, |measure| Ok(measure.print()?))?,
    }
    Ok(())
}

/// Does the work in a child and gives back what it measured.
fn run_job(job: &Job, threads: usize) -> Result<Vec<Measure>> {
    let mut command = Command::new(std::env::current_exe()?);
    if threads > 0 {
        command.env("RAYON_NUM_THREADS", threads.to_string());
    }
    let output = command.arg(GROWTH).arg(CHILD).arg(serde_json::to_string(job)?).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{job:?}: {}: {said}", output.status);
    let lines = String::from_utf8(output.stdout)?;
    print!("{lines}");
    lines.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn measure_store(series: Series, options: &Options) -> Result<Vec<Measure>> {
    let mut made = None;
    let folder = match &options.kept {
        Some(folder) => folder.clone(),
        None => made.insert(Folder::new("growth")?).join(""),
    };
    let store = folder.join(format!("{}", series.chunks));
    make(series, &store)?;
    let mut measures = Vec::new();
    for step in Step::ALL {
        // What a kept store is kept for is taken out of it only when that is asked for.
        let is_wanted = match &options.steps {
            Some(names) => names.iter().any(|name| name == step.name()),
            None => options.kept.is_none() || !matches!(step, Step::Forget | Step::Gc),
        };
        if !is_wanted {
            continue;
        }
        let threads =
            if options.threads > 0 { format!(", {} threads", options.threads) } else { String::new() };
        let name = format!("growth/{}/{}{threads}", series.chunks, step.name());
        let job = Job::Step { step, name, store: store.clone(), series };
        measures.extend(run_job(&job, options.threads)?);
    }
    Ok(measures)
}

/// Makes the store, or what an earlier run has not come to.
fn make(series: Series, path: &Path) -> Result<()> {
    let (packs, images) = (path.with_extension("packs"), path.with_extension("images"));
    if !packs.exists() {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        fs::create_dir_all(path)?;
        init(path, USUAL_RULE)?;
        series.write_packs(path)?;
        fs::write(packs, "")?;
    }
    if !images.exists() {
        series.write_images(&Store::open(&Home::local(path))?)?;
        fs::write(images, "")?;
    }
    Ok(())
}

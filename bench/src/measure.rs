//! One measure: a JSON line for machines and a row for people.
//!
//! Promise: a measure carries the commit it was taken of and the memory that was needed for it alone.
//! Knows nothing of what is measured.

use std::fs;
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What a bench prints, one JSON line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measure {
    /// Stage and data, such as `cut/fastcdc:16384,65536,262144`.
    pub name: String,
    /// Bytes that went in.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// Bytes of all packs afterwards (of the blobs, where there are no packs yet), where there is a store.
    pub stored_bytes: Option<u64>,
    /// The most memory that was resident meanwhile; `None` where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// The commit that was measured, with `+` when there were changes on top.
    pub commit: String,
}

/// Times `work`, which says how many bytes went in and, where there is a store, how many came out.
pub fn measure<E>(
    name: impl Into<String>,
    work: impl FnOnce(&mut Stopwatch) -> Result<(u64, Option<u64>), E>,
) -> Result<Measure, E> {
    forget_peak_memory();
    let mut watch = Stopwatch::default();
    let (bytes, stored_bytes) = work(&mut watch)?;
    Ok(Measure {
        name: name.into(),
        bytes,
        seconds: watch.seconds,
        stored_bytes,
        peak_memory_bytes: peak_memory_bytes(),
        commit: commit(),
    })
}

/// Counts the time inside `time` only, so that making up data costs nothing.
#[derive(Debug, Default)]
pub struct Stopwatch {
    seconds: f64,
}

impl Stopwatch {
    /// Runs `work` with the clock going.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.seconds += start.elapsed().as_secs_f64();
        result
    }
}

impl Measure {
    /// The line for machines.
    pub fn print(&self) -> serde_json::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

/// All measures as a table on standard error, beside the JSON lines on standard output; of several with one name the
/// median.
pub fn print_table(measures: &[Measure]) {
    let medians = medians(measures);
    let width = medians.iter().map(|it| it.name.chars().count()).max().unwrap_or(0);
    let or_none = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| format!("{:.0}", mib(bytes)));
    let [mibs, seconds, rate, stored, memory] = ["MIB", "SECONDS", "MIB/S", "STORED", "MEMORY"];
    eprintln!("{:<width$} {mibs:>8} {seconds:>8} {rate:>7} {stored:>7} {memory:>6}", "NAME");
    for it in medians {
        eprintln!(
            "{:<width$} {:>8.0} {:>8.3} {:>7.0} {:>7} {:>6}",
            it.name,
            mib(it.bytes),
            it.seconds,
            mib(it.bytes) / it.seconds,
            or_none(it.stored_bytes),
            or_none(it.peak_memory_bytes)
        );
    }
}

/// Of the measures with one name the one in the middle by time, in the order in which the names came first.
pub fn medians(measures: &[Measure]) -> Vec<Measure> {
    let mut groups: Vec<Vec<&Measure>> = Vec::new();
    for measure in measures {
        match groups.iter_mut().find(|group| group[0].name == measure.name) {
            Some(group) => group.push(measure),
            None => groups.push(vec![measure]),
        }
    }
    let median = |mut group: Vec<&Measure>| {
        group.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        group[group.len() / 2].clone()
    };
    groups.into_iter().map(median).collect()
}

/// For tables: MEMORY and STORED are in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// proc(5): 5 resets the peak. Where that is refused, peaks include what came before.
fn forget_peak_memory() {
    fs::write("/proc/self/clear_refs", "5").ok();
}

/// proc(5): VmHWM, in KiB.
fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The commit of the checkout, with `+` when there are changes on top.
pub(crate) fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    commit + if changed { "+" } else { "" }
}

//! Whether the stages explain the whole: their sum, in one thread, against a capture in one thread. What a capture
//! takes for itself is the time of capturing a tiny disk into the same store.
//!
//! Promise: all of them, on the same data, in each round; medians are compared. If sum and whole disagree, something in
//! a capture is not understood. Knows nothing of how stages are measured.

use std::path::PathBuf;

use anyhow::{Context, Result};
use store::Compression;

use crate::data::{MadeUpDisk, Mix};
use crate::job::{Job, Source, Work, init};
use crate::measure::{Measure, medians, mib};
use crate::place::{Folder, write_file};
use crate::stages::{cut_by, hash_all, publish_bytes, put_known, put_open, put_proved, read_path, zeros};
use crate::whole::USUAL_RULE;
use crate::{Plan, SEED, in_rounds};

const WHOLE: &str = "capture, one thread";
const AGAIN: &str = "capture again, one thread";
const NOTHING: &str = "capture of 4 KiB";

/// A stage of the sum: what it is called, and the measures whose times are added and subtracted.
type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Of a first capture.
const ROWS: [Row; 9] = [
    ("open, begin, commit", &[NOTHING], &[]),
    ("read", &["read/file"], &[]),
    ("find zeros", &["zeros"], &[]),
    ("cut", &["cut/"], &[]),
    ("hash", &["hash"], &[]),
    ("look up, copy", &["put/off"], &["hash"]),
    ("compress", &["put/auto"], &["put/off"]),
    ("seal, prove", &["put and prove/auto"], &["put/auto"]),
    ("publish", &["publish"], &[]),
];
/// Of a second one that finds nothing new.
const ROWS_AGAIN: [Row; 6] =
    [ROWS[0], ROWS[1], ROWS[2], ROWS[3], ROWS[4], ("look up", &["put/known"], &["hash"])];

/// Measures all and prints the sums.
pub(crate) fn account(plan: &Plan) -> Result<Vec<Measure>> {
    let folder = Folder::new("account")?;
    let path = folder.join("disk.img");
    write_file(&plan.disk, &path)?;
    let tiny = folder.join("tiny.img");
    write_file(&MadeUpDisk::new(4096, SEED, Mix::USUAL), &tiny)?;
    let measures = in_rounds(|| {
        let disk = &plan.disk;
        let proved = put_proved(disk, Compression::Auto)?;
        let published = publish_bytes(proved.stored_bytes.unwrap_or(0))?;
        let store = folder.join("store");
        init(&store, USUAL_RULE)?;
        let capture = |name: &str, path: &PathBuf| {
            let work = Work::Capture(Source::Path(path.clone()));
            Job { name: name.to_owned(), store: store.clone(), threads: 1, work }.run()
        };
        let round = vec![
            read_path("read/file", &path)?,
            zeros(disk)?,
            cut_by(disk, USUAL_RULE)?,
            hash_all(disk)?,
            put_known(disk)?,
            put_open(disk, Compression::Off)?,
            put_open(disk, Compression::Auto)?,
            proved,
            published,
            capture(WHOLE, &path)?,
            capture(AGAIN, &path)?,
            capture(NOTHING, &tiny)?,
        ];
        std::fs::remove_dir_all(&store)?;
        Ok(round)
    })?;
    let medians = medians(&measures);
    print_sum("first capture", &ROWS, WHOLE, &medians)?;
    print_sum("second capture, unchanged", &ROWS_AGAIN, AGAIN, &medians)?;
    let named = |mut measure: Measure| {
        measure.name = format!("account/{}", measure.name);
        measure
    };
    Ok(measures.into_iter().map(named).collect())
}

fn print_sum(title: &str, rows: &[Row], whole: &str, medians: &[Measure]) -> Result<()> {
    let find = |name: &str| {
        let same = |it: &&Measure| it.name == name || (name.ends_with('/') && it.name.starts_with(name));
        medians.iter().find(same).with_context(|| format!("no measure {name}"))
    };
    let seconds = |names: &[&str]| -> Result<f64> { names.iter().map(|name| Ok(find(name)?.seconds)).sum() };
    let whole = find(whole)?;
    eprintln!("{:<28} {:>9} {:>9}", title.to_uppercase(), "SECONDS", "PERCENT");
    let mut sum = 0.0;
    for (name, plus, minus) in rows {
        let stage = seconds(plus)? - seconds(minus)?;
        sum += stage;
        eprintln!("{name:<28} {stage:>9.3} {:>9.0}", 100.0 * stage / whole.seconds);
    }
    eprintln!("{:<28} {sum:>9.3} {:>9.0}", "sum of the stages", 100.0 * sum / whole.seconds);
    eprintln!("{:<28} {:>9.3} {:>9} {:.0} MiB", "whole", whole.seconds, 100, mib(whole.bytes));
    eprintln!();
    Ok(())
}

//! Peak memory against the size of the image, operation by operation.
//!
//! Promise: each operation is a process of its own, and its peak is what the kernel says of that process (VmHWM); the
//! disks are made up while they are read, so that 1 TiB needs no disk. What stands in for a disk of 1 TiB: the
//! README says exactly.
//! Knows nothing of how memory is used.

use anyhow::Result;

use crate::data::{MadeUpDisk, Repeats};
use crate::job::{Job, Source, Work, init};
use crate::measure::{Measure, mib};
use crate::place::Folder;
use crate::whole::USUAL_RULE;
use crate::{Plan, SEED};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// What no operation may exceed, whatever the size.
const LIMIT_BYTES: u64 = 512 << 20;
/// Contents of one MiB that the large disk repeats: with those of the other disk, some 2 GB in the store.
const CONTENTS: u64 = 2048;
/// The sparse disk has so much data, half of it shared with the large disk, so that gc has packs to rewrite.
const SPARSE_BYTES: u64 = GIB;
/// A small machine, a usual one, and as many as a capture ever uses.
const THREADS: [usize; 3] = [2, 16, 64];
/// Blocks may come in any order without new chunks where they meet; every table of chunks is then different.
const FIXED_RULE: &str = "fixed:64KiB";

/// In this order on each store.
const OPERATIONS: [&str; 8] = [
    "capture sparse",
    "capture",
    "restore sparse to a file",
    "scrub",
    "stats",
    "forget sparse, gc",
    "restore to a stream",
    "verify",
];

/// One store, with two images of disks of one size.
struct Shape {
    size_bytes: u64,
    rule: &'static str,
    threads: usize,
    /// One stretch in so many has data on the large disk; the others are zeros that are read.
    data_every: u64,
}

impl Shape {
    fn of(size_bytes: u64) -> Shape {
        Shape { size_bytes, rule: FIXED_RULE, threads: 0, data_every: 8 }
    }

    fn title(&self) -> String {
        let threads = if self.threads == 0 { String::new() } else { format!(", {} threads", self.threads) };
        let rule = if self.rule == FIXED_RULE { String::new() } else { format!(", {}", self.rule) };
        let data = if self.data_every == 1 { ", all data" } else { "" };
        format!("{} GiB{data}{rule}{threads}", self.size_bytes / GIB)
    }

    fn repeating(&self, data_every: u64, contents: std::ops::Range<u64>, holes: bool) -> MadeUpDisk {
        let order_seed = contents.start;
        MadeUpDisk::repeating(self.size_bytes, SEED, Repeats { data_every, contents, order_seed, holes })
    }

    /// One for each of `OPERATIONS`.
    fn work(&self, folder: &Folder) -> [Work; OPERATIONS.len()] {
        let sparse_every = (self.size_bytes / SPARSE_BYTES).max(1);
        let half = SPARSE_BYTES / MIB / 2;
        let sparse = self.repeating(sparse_every, CONTENTS - half..CONTENTS + half, true);
        let large = self.repeating(self.data_every, 0..CONTENTS, false);
        let target = folder.join("target.img");
        [
            Work::Capture(Source::MadeUp(sparse)),
            Work::Capture(Source::MadeUp(large)),
            Work::RestoreToFile { image: 0, target, write_all: false },
            Work::Scrub,
            Work::Stats,
            Work::ForgetAndCollect { image: 0 },
            // Only the large one is left, and a collection has moved some of its chunks.
            Work::RestoreToNothing { image: 0 },
            Work::Verify { image: 0 },
        ]
    }
}

/// At four sizes, and with more chunks.
pub(crate) fn memory(_: &Plan) -> Result<Vec<Measure>> {
    let mut shapes: Vec<Shape> = [1, 16, 128, 1024].into_iter().map(|gib| Shape::of(gib * GIB)).collect();
    shapes.push(Shape { rule: "fixed:4KiB", ..Shape::of(16 * GIB) });
    measure_shapes(&shapes)
}

/// By threads: at a size that does not matter, and captures of new data into a store that keeps nobody waiting and into
/// one that does.
pub(crate) fn threads(_: &Plan) -> Result<Vec<Measure>> {
    let shape = |threads| Shape { threads, rule: USUAL_RULE, ..Shape::of(16 * GIB) };
    let mut measures = measure_shapes(&THREADS.map(shape))?;
    let mut rows = Vec::new();
    for threads in THREADS {
        let mut row = Vec::new();
        for slow in [false, true] {
            let measure = capture_new(threads, slow)?;
            measure.print()?;
            row.push(measure.peak_memory_bytes);
            measures.push(measure);
        }
        rows.push((format!("{threads} threads"), row));
    }
    print_peaks(&["capture of 2 GiB of new data", "into a slow store"], &rows);
    Ok(measures)
}

/// A capture that stores all it reads.
fn capture_new(threads: usize, slow: bool) -> Result<Measure> {
    let folder = Folder::new("memory")?;
    let store = folder.join("store");
    init(&store, USUAL_RULE)?;
    let shape = Shape { data_every: 1, ..Shape::of(2 * GIB) };
    let disk = shape.repeating(1, 0..2 * CONTENTS, false);
    let (into, work) = match slow {
        true => ("a slow store", Work::CaptureToSlowStore(disk)),
        false => ("a store", Work::Capture(Source::MadeUp(disk))),
    };
    Job { name: format!("memory/capture of new data into {into}, {threads} threads"), store, threads, work }
        .run()
}

/// 1 TiB without a zero: every byte hashed, every table different. Takes a quarter of an hour or more.
pub(crate) fn all_data(_: &Plan) -> Result<Vec<Measure>> {
    measure_shapes(&[Shape { data_every: 1, ..Shape::of(1024 * GIB) }])
}

fn measure_shapes(shapes: &[Shape]) -> Result<Vec<Measure>> {
    let mut measures = Vec::new();
    let mut rows = Vec::new();
    for shape in shapes {
        let measured = measure_shape(shape)?;
        let peaks: Vec<Option<u64>> = measured.iter().map(|it| it.peak_memory_bytes).collect();
        rows.push((shape.title(), peaks));
        measures.extend(measured);
    }
    print_peaks(&OPERATIONS, &rows);
    Ok(measures)
}

fn measure_shape(shape: &Shape) -> Result<Vec<Measure>> {
    let folder = Folder::new("memory")?;
    let store = folder.join("store");
    init(&store, shape.rule)?;
    let mut measures = Vec::new();
    for (operation, work) in OPERATIONS.into_iter().zip(shape.work(&folder)) {
        let name = format!("memory/{operation}/{}", shape.title());
        let job = Job { name, store: store.clone(), threads: shape.threads, work };
        let measure = job.run()?;
        measure.print()?;
        measures.push(measure);
    }
    Ok(measures)
}

/// A row for each shape, a column for each operation, as the README has it.
fn print_peaks(operations: &[&str], rows: &[(String, Vec<Option<u64>>)]) {
    eprintln!("Peak memory in MiB; the limit is {:.0}.\n", mib(LIMIT_BYTES));
    eprintln!("| image | {} |", operations.join(" | "));
    eprintln!("|---{}|", "|---".repeat(operations.len()));
    for (title, peaks) in rows {
        let cells: Vec<String> = peaks.iter().copied().map(cell).collect();
        eprintln!("| {title} | {} |", cells.join(" | "));
    }
    eprintln!();
}

/// In bold when it is too much.
fn cell(peak: Option<u64>) -> String {
    match peak {
        None => "-".to_owned(),
        Some(bytes) if bytes > LIMIT_BYTES => format!("**{:.0}**", mib(bytes)),
        Some(bytes) => format!("{:.0}", mib(bytes)),
    }
}

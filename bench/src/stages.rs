//! The stages of a capture, each measured apart on the same made-up disk.
//!
//! Promise: a stage's time is its own: data are made up before the clock runs.
//! Knows nothing of arguments or printing.

use anyhow::Result;
use chunker::Rule;

use bench::data::MadeUpDisk;
use bench::measure::{Measure, measure};

/// As much as is made up at once: one segment, as in a capture.
const SEGMENT_BYTES: usize = 64 << 20;

/// What every stage needs to know.
pub(crate) struct Bench {
    /// The data.
    pub(crate) disk: MadeUpDisk,
}

/// A stage: its name, as on the command line, and what measures it.
pub(crate) type Stage = (&'static str, fn(&Bench) -> Result<Vec<Measure>>);

/// All stages, in the order of a capture.
pub(crate) const STAGES: [Stage; 1] = [("cut", cut)];

/// Cut points alone, for the sizes that people choose. (A fixed rule looks at no byte: nothing to measure.)
fn cut(bench: &Bench) -> Result<Vec<Measure>> {
    let rules = ["fastcdc:16KiB", "fastcdc:64KiB", "fastcdc:256KiB"];
    rules
        .iter()
        .map(|text| {
            let rule: Rule = text.parse()?;
            measure(format!("cut/{rule}"), |watch| {
                let mut bytes = 0;
                segments(&bench.disk, |segment| {
                    bytes += watch.time(|| rule.cuts(segment).map(|chunk| chunk.len() as u64).sum::<u64>());
                });
                Ok((bytes, None))
            })
        })
        .collect()
}

fn segments(disk: &MadeUpDisk, mut visit: impl FnMut(&[u8])) {
    let mut buffer = vec![0; SEGMENT_BYTES];
    for offset in (0..disk.size_bytes()).step_by(SEGMENT_BYTES) {
        let left = usize::try_from(disk.size_bytes() - offset).unwrap_or(SEGMENT_BYTES);
        let segment = &mut buffer[..left.min(SEGMENT_BYTES)];
        disk.fill(offset, segment);
        visit(segment);
    }
}

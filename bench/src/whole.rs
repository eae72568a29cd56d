//! End to end: a disk captured, captured again, changed and captured, restored, checked, counted and collected.
//!
//! Promise: each operation is a process of its own on a store on disk; the page cache is warm, as the files were just
//! written. Knows nothing of stages.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::job::{Job, Source, Work, init};
use crate::measure::Measure;
use crate::place::{Folder, real_images, write_file};
use crate::{Plan, SEED, in_rounds};

/// What `cas init` takes when nobody says otherwise.
pub(crate) const USUAL_RULE: &str = "fastcdc:64KiB";
/// Overwritten between the second and the third capture.
const CHANGED_PERCENT: u64 = 2;

/// On the disk that follows from the seed.
pub(crate) fn made_up(plan: &Plan) -> Result<Vec<Measure>> {
    let folder = Folder::new("whole")?;
    let (first, later) = (folder.join("disk.img"), folder.join("disk.later.img"));
    write_file(&plan.disk, &first)?;
    write_file(&plan.disk.changed(CHANGED_PERCENT, !SEED), &later)?;
    in_rounds(|| all("whole", &folder, &first, &later))
}

/// On a real disk, with a day's changes.
pub(crate) fn real(_: &Plan) -> Result<Vec<Measure>> {
    let folder = Folder::new("real")?;
    let (first, later) = real_images()?;
    in_rounds(|| all("real", &folder, &first, &later))
}

fn all(prefix: &str, folder: &Folder, first: &Path, later: &Path) -> Result<Vec<Measure>> {
    let store = folder.join("store");
    init(&store, USUAL_RULE)?;
    let target = folder.join("target.img");
    let capture = |path: &Path| Work::Capture(Source::Path(path.to_path_buf()));
    let restore = |image, write_all| Work::RestoreToFile { image, target: PathBuf::from(&target), write_all };
    let work = [
        ("capture, first", capture(first)),
        ("capture, unchanged", capture(first)),
        ("capture, changed", capture(later)),
        ("restore to a new file", restore(2, false)),
        ("restore, nothing to write", restore(2, false)),
        ("restore, a day back", restore(0, false)),
        ("restore, --no-compare", restore(2, true)),
        ("restore to a stream", Work::RestoreToNothing { image: 2 }),
        ("verify", Work::Verify { image: 2 }),
        ("scrub", Work::Scrub),
        ("stats", Work::Stats),
        ("forget the first, gc", Work::ForgetAndCollect { image: 0 }),
        // The second holds what the first held.
        ("forget the second, gc", Work::ForgetAndCollect { image: 0 }),
    ];
    let mut measures = Vec::new();
    for (name, work) in work {
        let job = Job { name: format!("{prefix}/{name}"), store: store.clone(), threads: 0, work };
        measures.push(job.run()?);
    }
    std::fs::remove_dir_all(&store)?;
    std::fs::remove_file(&target)?;
    Ok(measures)
}

//! What is measured on a made-up store, each step in a process of its own.
//!
//! Promise: a step does what a command of `cas` does, through the same public face (and `store::made_up` where a command
//! would hash bytes that are not there); what is timed says its name. Knows nothing of how the store was made.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use store::{GcOptions, Home, Store, WriterOptions, made_up};

use super::made::{CHUNK_BYTES_MEAN, Series, anywhere, blob, unknown};
use crate::measure::{Measure, Stopwatch, measure};

/// Look-ups that are measured: in the order of a disk, where neighbours share a pack, …
const LOOK_UPS: u64 = 1_000_000;
/// … and anywhere, where each needs another pack's listing.
const LOOK_UPS_ANYWHERE: u64 = 20_000;

/// In this order on each store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Step {
    RebuildIndex,
    OpenIndex,
    FirstLookUp,
    LookUpInOrder,
    LookUpAnywhere,
    LookUpUnknown,
    Recapture,
    OpenImage,
    Images,
    Stats,
    GcDryRun,
    Forget,
    Gc,
}

impl Step {
    pub(super) const ALL: [Step; 13] = [
        Step::RebuildIndex,
        Step::OpenIndex,
        Step::FirstLookUp,
        Step::LookUpInOrder,
        Step::LookUpAnywhere,
        Step::LookUpUnknown,
        Step::Recapture,
        Step::OpenImage,
        Step::Images,
        Step::Stats,
        Step::GcDryRun,
        Step::Forget,
        Step::Gc,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Step::RebuildIndex => "index rebuild",
            Step::OpenIndex => "index open",
            Step::FirstLookUp => "first look-up",
            Step::LookUpInOrder => "look-ups in order",
            Step::LookUpAnywhere => "look-ups anywhere",
            Step::LookUpUnknown => "look-ups of unknown",
            Step::Recapture => "capture of known",
            Step::OpenImage => "image open",
            Step::Images => "images",
            Step::Stats => "stats",
            Step::GcDryRun => "gc --dry-run",
            Step::Forget => "forget",
            Step::Gc => "gc of one image",
        }
    }

    /// Whether the figure for people is a rate of chunks.
    pub(super) fn is_rate(self) -> bool {
        matches!(self, Step::LookUpInOrder | Step::LookUpAnywhere | Step::LookUpUnknown | Step::Recapture)
    }

    /// In this process.
    pub(super) fn measure(self, name: String, path: &Path, series: Series) -> Result<Measure> {
        measure(name, |watch| {
            let chunks = self.work(path, series, watch)?;
            let stored = match self {
                Step::RebuildIndex => Some(folder_bytes(&path.join("index"))?),
                _ => None,
            };
            Ok((chunks * CHUNK_BYTES_MEAN, stored))
        })
    }

    /// How many chunks it was about.
    fn work(self, path: &Path, series: Series, watch: &mut Stopwatch) -> Result<u64> {
        let open = || Store::open(&Home::local(path));
        let wait = Duration::ZERO;
        match self {
            Step::RebuildIndex => {
                let state = watch.time(|| open()?.rebuild_index(wait))?;
                ensure!(state.packs_read == state.packs, "{state:?}");
            }
            Step::OpenIndex => {
                let state = watch.time(|| open()?.check_index(wait))?;
                ensure!(state.packs_kept == state.packs, "{state:?}");
            }
            Step::FirstLookUp | Step::LookUpInOrder | Step::LookUpAnywhere | Step::LookUpUnknown => {
                return self.look_up(&open()?, series, watch);
            }
            Step::Recapture => {
                let image = series.images()[0];
                watch.time(|| {
                    let writer = open()?.writer(&WriterOptions::default())?;
                    image.submit(&writer)?;
                    made_up::finish_tables(&writer)?;
                    Ok::<_, anyhow::Error>(writer.abandon()?)
                })?;
                return Ok(image.chunks());
            }
            Step::OpenImage => {
                let id = newest(&open()?)?;
                watch.time(|| {
                    let image = open()?.image(id)?;
                    ensure!(!image.runs(image.bytes() / 2, 1)?.is_empty(), "no run");
                    Ok(())
                })?;
            }
            Step::Images => {
                let images = watch.time(|| open()?.images())?;
                ensure!(images.len() == series.images().len(), "{} images", images.len());
            }
            Step::Stats => {
                let statistics = watch.time(|| open()?.statistics(&()))?;
                // Up to one of a disk's chunks is in no image.
                ensure!(
                    statistics.unique_chunks + series.images().len() as u64 > series.chunks,
                    "{statistics:?}"
                );
            }
            Step::GcDryRun => {
                let options = GcOptions { dry_run: true, ..GcOptions::default() };
                let report = watch.time(|| open()?.gc(&options, &()))?;
                ensure!(report.packs_deleted == 0, "{report:?}");
            }
            Step::Forget => {
                let id = newest(&open()?)?;
                watch.time(|| open()?.forget(&[id]))?;
            }
            Step::Gc => {
                let report = watch.time(|| open()?.gc(&GcOptions::default(), &()))?;
                // The packs between the chunks of one day and the next hold both, and can't be copied, being holes.
                let spared = report.packs_spared.len();
                ensure!(report.images_removed.len() == 1 && spared <= series.images().len(), "{report:?}");
            }
        }
        Ok(series.chunks)
    }

    fn look_up(self, store: &Store, series: Series, watch: &mut Stopwatch) -> Result<u64> {
        let writer = store.writer(&WriterOptions::default())?;
        let find = |id| made_up::put_known(&writer, id, 1);
        let first = |watch: &mut Stopwatch| watch.time(|| find(blob(series.chunks / 2).id));
        let mut unmeasured = Stopwatch::default();
        let (count, found) = match self {
            Step::FirstLookUp => (1, u64::from(first(watch)?.is_some())),
            Step::LookUpInOrder => {
                first(&mut unmeasured)?;
                let count = LOOK_UPS.min(series.chunks);
                let ids: Vec<_> = (0..count).map(|number| blob(number).id).collect();
                (count, watch.time(|| count_found(&ids, find))?)
            }
            Step::LookUpAnywhere => {
                first(&mut unmeasured)?;
                let id = |number| blob(anywhere(number, series.chunks)).id;
                let ids: Vec<_> = (0..LOOK_UPS_ANYWHERE).map(id).collect();
                (LOOK_UPS_ANYWHERE, watch.time(|| count_found(&ids, find))?)
            }
            _ => {
                first(&mut unmeasured)?;
                let ids: Vec<_> = (0..LOOK_UPS).map(unknown).collect();
                let found = watch.time(|| count_found(&ids, find))?;
                ensure!(found == 0, "{found} chunks that nobody stored");
                (LOOK_UPS, LOOK_UPS)
            }
        };
        writer.abandon()?;
        ensure!(found == count, "{found} of {count} chunks found");
        Ok(count)
    }
}

fn count_found(
    ids: &[store::ChunkId],
    find: impl Fn(store::ChunkId) -> Result<Option<store::NewChunk>, store::Error>,
) -> Result<u64, store::Error> {
    ids.iter().map(|id| Ok(u64::from(find(*id)?.is_some()))).sum()
}

fn newest(store: &Store) -> Result<store::ImageId> {
    Ok(store.images()?.last().context("no image")?.id)
}

/// What the files of a folder take on the disk.
fn folder_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

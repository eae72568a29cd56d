//! Clusters of a file, one leading to the next: FAT and exFAT.
//!
//! Promise: no chain is followed further than the file is long, so that none goes round for ever; memory is bounded by
//! [`RUNS_MAX`].
//! Knows nothing of where clusters lie.

use super::fault::{Fault, len, len64, window};
use crate::Extent;
use crate::fs::Doubt;

/// More pieces of one file are not followed: 4 GiB in its smallest pieces of 4 KiB.
const RUNS_MAX: usize = 1 << 20;

/// Consecutive clusters: the file's first one of them, where it is, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    cluster: u64,
    count: u64,
}

/// All clusters of a file.
#[derive(Debug)]
pub(super) struct Chain {
    runs: Vec<Run>,
    clusters: u64,
}

impl Chain {
    /// One behind the other.
    pub(super) fn contiguous(cluster: u64, count: u64) -> Self {
        Self { runs: vec![Run { first: 0, cluster, count }], clusters: count }
    }

    /// At most `count` clusters; `next` says which one follows, `None` behind the last.
    pub(super) fn follow(
        first: u64,
        count: u64,
        next: impl Fn(u64) -> Result<Option<u64>, Fault>,
    ) -> Result<Self, Fault> {
        let mut runs: Vec<Run> = Vec::new();
        let mut clusters = 0_u64;
        let mut at = Some(first);
        while let Some(cluster) = at.filter(|_| clusters < count) {
            let is_full = runs.len() >= RUNS_MAX;
            match runs.last_mut() {
                Some(run) if run.cluster.saturating_add(run.count) == cluster => {
                    run.count = run.count.saturating_add(1);
                }
                _ if is_full => return Err(Fault::Unsupported("a file in so many pieces")),
                _ => runs.push(Run { first: clusters, cluster, count: 1 }),
            }
            clusters = clusters.saturating_add(1);
            // The last one's entry is not needed where the size says that it is the last.
            at = if clusters < count { next(cluster)? } else { None };
        }
        Ok(Self { runs, clusters })
    }

    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    /// The numbers of the clusters, in order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|run| (run.cluster..).take(len(run.count)))
    }

    /// The bytes from an offset on that lie together: how many, in which cluster they begin, and where in it.
    fn at(&self, offset: u64, cluster_bytes: u64) -> Result<(u64, u64, u64), Fault> {
        let number = offset.checked_div(cluster_bytes).unwrap_or(0);
        let within = offset.checked_rem(cluster_bytes).unwrap_or(0);
        let index = self.runs.partition_point(|run| run.first.saturating_add(run.count) <= number);
        let short = Doubt::Impossible { place: "clusters of a file", found: self.clusters };
        let run = self.runs.get(index).ok_or(short)?;
        let skipped = number.saturating_sub(run.first);
        let bytes = run.count.saturating_sub(skipped).saturating_mul(cluster_bytes).saturating_sub(within);
        Ok((bytes, run.cluster.saturating_add(skipped), within))
    }

    /// Fills `buf` with contents; `read` gets a cluster, an offset in it, and what to fill.
    pub(super) fn read(
        &self,
        cluster_bytes: u64,
        offset: u64,
        buf: &mut [u8],
        read: impl Fn(u64, u64, &mut [u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut done = 0_u64;
        while done < len64(buf.len()) {
            let (bytes, cluster, within) = self.at(offset.saturating_add(done), cluster_bytes)?;
            let part = window(buf, done, bytes);
            read(cluster, within, part)?;
            done = done.saturating_add(len64(part.len()).max(1));
        }
        Ok(())
    }

    /// Where so many bytes of contents lie.
    pub(super) fn places(
        &self,
        cluster_bytes: u64,
        bytes: u64,
        place: impl Fn(u64) -> u64,
    ) -> Vec<(Extent, u64)> {
        let of_run = |run: &Run| {
            let offset = run.first.saturating_mul(cluster_bytes);
            let count = run.count.saturating_mul(cluster_bytes).min(bytes.saturating_sub(offset));
            (Extent { offset, bytes: count }, place(run.cluster))
        };
        self.runs.iter().map(of_run).filter(|(extent, _)| extent.bytes > 0).collect()
    }
}

//! Which chunks the images need: walks over trees of tables, each table once however many images share it, by as many
//! threads as there are.
//!
//! Promise: what is not in `Live` is needed by no image that was walked; the reverse may be wrong for one chunk in
//! 2^64 / n, which costs its bytes and nothing else. Memory: 8.5 bytes a chunk and a quarter more while images are added;
//! some 40 bytes a table, of which there is one for 50 chunks or so. Knows nothing of packs that come and go.

use crate::Error;
use crate::id::{ChunkId, ImageId};
use crate::manifest::Manifest;
use crate::reader::Reader;
use crate::table::{Child, Entry, Table};
use rayon::prelude::*;
use std::collections::HashSet;

/// New fingerprints are sorted into the set when there are so many (32 MiB), or a quarter of those that are sorted:
/// however many there are, each is moved a few times only.
const UNSORTED_MAX: usize = 4 << 20;
/// Tables of one level that are read together, and all below them before the next: 256 with 256 children each of 72 bytes
/// are 5 MB, at each level.
const TABLES_AT_ONCE: usize = 256;
/// Fingerprints in one bucket, on average: two cache lines.
const BUCKET: usize = 16;

/// A set of chunk ids by their first 64 bits: 90 MB for 1 TB of unique data.
#[derive(Debug, Default)]
pub(crate) struct Live {
    sorted: Vec<u64>,
    /// Where each bucket of `sorted` begins, and the end: buckets are told by the upper bits, which are random.
    buckets: Vec<usize>,
    unsorted: Vec<u64>,
    tables_seen: HashSet<ChunkId>,
    images_seen: HashSet<ImageId>,
}

/// The first 64 bits of an id.
pub(crate) fn short(id: ChunkId) -> u64 {
    let b = id.as_bytes();
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

impl Live {
    /// Whether all that this image needs is in already.
    pub(crate) fn has_image(&self, image: ImageId) -> bool {
        self.images_seen.contains(&image)
    }

    /// Adds all that an image needs. `settle` before asking what is in.
    pub(crate) fn add_image(
        &mut self,
        image: ImageId,
        manifest: &Manifest,
        reader: &Reader,
    ) -> Result<(), Error> {
        if let Some(root) = &manifest.root {
            let unreadable = |source| match source {
                error @ (Error::Chunk { .. } | Error::Table { .. }) => {
                    Error::UnreadableImage { image, source: Box::new(error) }
                }
                other => other,
            };
            let walked = self.add_tables(vec![root.child()], root.level, reader);
            if walked.is_err() {
                // A table that could not be walked whole is not seen: the next image that shares it must fail too.
                self.tables_seen.clear();
            }
            walked.map_err(unreadable)?;
        }
        self.images_seen.insert(image);
        Ok(())
    }

    /// Adds these tables and all below them.
    fn add_tables(&mut self, mut tables: Vec<Child>, level: u8, reader: &Reader) -> Result<(), Error> {
        tables.retain(|child| self.tables_seen.insert(child.id));
        self.add(tables.iter().map(|child| short(child.id)));
        for portion in tables.chunks(TABLES_AT_ONCE) {
            if level == 0 {
                let chunks = |child: &Child| reader.table(child, 0).map(|table| shorts(&table));
                let found = portion.par_iter().map(chunks).collect::<Result<Vec<Vec<u64>>, Error>>()?;
                self.add(found.into_iter().flatten());
            } else {
                let below = |child: &Child| reader.table(child, level).map(|table| children(&table));
                let found = portion.par_iter().map(below).collect::<Result<Vec<Vec<Child>>, Error>>()?;
                self.add_tables(found.into_iter().flatten().collect(), level - 1, reader)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, shorts: impl Iterator<Item = u64>) {
        self.unsorted.extend(shorts);
        if self.unsorted.len() >= UNSORTED_MAX.max(self.sorted.len() / 4) {
            self.merge();
        }
    }

    /// Makes what was added since the last time known to the questions below.
    pub(crate) fn settle(&mut self) {
        if !self.unsorted.is_empty() {
            self.merge();
        }
        let bits = (self.sorted.len() / BUCKET).max(2).ilog2();
        self.buckets = vec![0; (1 << bits) + 1];
        for short in &self.sorted {
            self.buckets[bucket_of(*short, bits) + 1] += 1;
        }
        let mut sum = 0;
        for bucket in &mut self.buckets {
            sum += *bucket;
            *bucket = sum;
        }
    }

    /// Sorts the new ones and merges them in from the end, in place.
    fn merge(&mut self) {
        self.unsorted.par_sort_unstable();
        self.unsorted.dedup();
        let (mut old, mut new) = (self.sorted.len(), self.unsorted.len());
        self.sorted.reserve_exact(new);
        self.sorted.resize(old + new, 0);
        while new > 0 {
            // The place to fill is `old + new - 1`.
            if old > 0 && self.sorted[old - 1] > self.unsorted[new - 1] {
                self.sorted[old + new - 1] = self.sorted[old - 1];
                old -= 1;
            } else {
                self.sorted[old + new - 1] = self.unsorted[new - 1];
                new -= 1;
            }
        }
        self.sorted.dedup();
        self.unsorted.clear();
    }

    /// Where it stands in the sorted list.
    fn position(&self, short: u64) -> Option<usize> {
        debug_assert!(self.unsorted.is_empty(), "not settled");
        let bits = self.buckets.len().checked_sub(1)?.checked_ilog2()?;
        let bucket = bucket_of(short, bits);
        let (start, end) = (self.buckets[bucket], self.buckets[bucket + 1]);
        self.sorted[start..end].binary_search(&short).ok().map(|place| start + place)
    }

    /// Whether all chunks that are needed are among these, by the first 64 bits of their ids.
    pub(crate) fn is_within(&self, listed: impl Iterator<Item = u64>) -> bool {
        let mut found = vec![0u64; self.sorted.len().div_ceil(64)];
        for place in listed.filter_map(|short| self.position(short)) {
            found[place / 64] |= 1 << (place % 64);
        }
        found.iter().map(|word| word.count_ones() as usize).sum::<usize>() == self.sorted.len()
    }

    /// Whether an image that was added needs this chunk.
    pub(crate) fn contains(&self, id: ChunkId) -> bool {
        self.position(short(id)).is_some()
    }
}

/// The upper bits: at least one, so that the shift is below 64.
fn bucket_of(short: u64, bits: u32) -> usize {
    usize::try_from(short >> (64 - bits)).unwrap_or(0)
}

fn children(table: &Table) -> Vec<Child> {
    let child = |entry: &Entry| match entry {
        Entry::Child { child, .. } => Some(*child),
        Entry::Zeros { .. } | Entry::Bad { .. } => None,
    };
    table.entries.iter().filter_map(child).collect()
}

fn shorts(table: &Table) -> Vec<u64> {
    children(table).iter().map(|child| short(child.id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(short: u64) -> ChunkId {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&short.to_le_bytes());
        ChunkId(bytes)
    }

    proptest! {
        #[test]
        fn a_live_set_is_a_set(portions in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..300), 0..5)) {
            let mut live = Live::default();
            prop_assert!(!live.contains(id(1)) && live.is_within(std::iter::empty()));
            for portion in &portions {
                // Half of them close together, and some twice.
                live.add(portion.iter().flat_map(|short| [*short, *short % 64]));
                live.settle();
            }
            let all: HashSet<u64> = portions.iter().flatten().flat_map(|short| [*short, *short % 64]).collect();
            prop_assert_eq!(live.sorted.len(), all.len());
            prop_assert!(all.iter().all(|short| live.contains(id(*short))));
            prop_assert!((0..70).all(|short| live.contains(id(short)) == all.contains(&short)));
            prop_assert!(live.is_within(all.iter().copied().chain([1, 2, 3])));
            if let Some(first) = all.iter().next() {
                prop_assert!(!live.is_within(all.iter().copied().filter(|short| short != first)));
            }
        }
    }
}

//! Statistics: raw -> used -> unique -> stored, and what each image alone holds on to.
//!
//! Promise: reads tables, never packs' bodies; each table is walked at most twice however many images share it,
//! and so for every 16 million chunks. Memory: 17 bytes at most for each of these, 280 MB, and for each table.

use crate::Error;
use crate::id::ImageId;
use crate::manifest::Manifest;
use crate::owners::{self, Before, Owners};
use crate::reader::Reader;
use crate::table::Child;
use crate::walk::{Visitor, walk};
use crate::{Progress, Store};
use std::ops::Range;

/// Chunks counted in one walk; beyond, those of some ids are left to another.
const CHUNKS_MAX: usize = 16 << 20;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Images, forgotten ones left out.
    pub images: u64,
    /// Sizes of their devices.
    pub raw_bytes: u64,
    /// Of which not zeros.
    pub used_bytes: u64,
    /// Plain bytes of the distinct chunks, tables left out.
    pub unique_bytes: u64,
    /// Distinct chunks, tables left out.
    pub unique_chunks: u64,
    /// What their blobs take, tables included.
    pub blob_bytes: u64,
    /// All packs.
    pub stored_bytes: u64,
    /// Number of packs.
    pub packs: u64,
    /// Bytes of packs that no image needs (forgotten images need nothing): what gc may free.
    pub unused_bytes: u64,
    /// For each image what forgetting it and gc would free.
    pub freed_by: Vec<(ImageId, u64)>,
    /// Images that could not be read to the end, and so are not counted.
    pub unreadable: Vec<ImageId>,
}

/// One walk over all images: counts the tables, and the chunks of some ids.
struct Walk {
    /// The image that is being walked.
    owner: u32,
    tables: Owners,
    chunks: Owners,
    /// Parts of the ids that are counted; narrowed when there are too many.
    parts: Range<usize>,
    chunks_max: usize,
    /// Plain bytes of the distinct chunks, by part.
    plain_bytes: Vec<u64>,
}

impl Store {
    /// Counts what is there. Needs no lock.
    pub fn statistics(&self, progress: &dyn Progress) -> Result<StoreStatistics, Error> {
        self.statistics_by(CHUNKS_MAX, progress)
    }

    fn statistics_by(&self, chunks_max: usize, progress: &dyn Progress) -> Result<StoreStatistics, Error> {
        let mut statistics = StoreStatistics::default();
        let packs = self.objects().packs()?;
        statistics.packs = packs.len() as u64;
        statistics.stored_bytes = packs.values().sum();
        drop(packs);
        let mut images = Vec::new();
        for entry in self.images()?.into_iter().filter(|entry| entry.forgotten.is_none()) {
            images.push((entry.id, unless_damaged(entry.manifest)?));
        }
        let mut freed = vec![0; images.len()];
        let mut next = 0..owners::PARTS;
        while !next.is_empty() {
            let mut walk = Walk::new(next, chunks_max);
            for (owner, (_, manifest)) in (0u32..).zip(&mut images) {
                if progress.cancelled() {
                    return Err(Error::Interrupted);
                }
                let Some(readable) = &*manifest else { continue };
                if unless_damaged(walk.add_image(owner, readable, self.reader()))?.is_none() {
                    *manifest = None;
                }
            }
            walk.sum_up(&mut freed, &mut statistics);
            next = walk.rest();
        }
        for (id, manifest) in &images {
            let Some(manifest) = manifest else {
                statistics.unreadable.push(*id);
                continue;
            };
            statistics.images += 1;
            statistics.raw_bytes += manifest.bytes;
            statistics.used_bytes += manifest.statistics.data_bytes;
        }
        statistics.unused_bytes = statistics.stored_bytes.saturating_sub(statistics.blob_bytes);
        statistics.freed_by = images.iter().map(|(id, _)| *id).zip(freed).collect();
        Ok(statistics)
    }
}

fn unless_damaged<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if error.family() == crate::Family::Damaged => Ok(None),
        result => result.map(Some),
    }
}

impl Walk {
    fn new(parts: Range<usize>, chunks_max: usize) -> Walk {
        let (tables, chunks) = (Owners::default(), Owners::default());
        Walk { owner: 0, tables, chunks, parts, chunks_max, plain_bytes: vec![0; owners::PARTS] }
    }

    fn add_image(&mut self, owner: u32, manifest: &Manifest, reader: &Reader) -> Result<(), Error> {
        let Some(root) = &manifest.root else { return Ok(()) };
        let top = root.child();
        self.owner = owner;
        walk(self, reader, &top, root.level)
    }

    fn add_chunk(&mut self, child: &Child) {
        let part = owners::part_of(child.id);
        if !self.parts.contains(&part) {
            return;
        }
        if self.chunks.add(self.owner, child.id, child.stored_bytes) == Before::Nobody {
            self.plain_bytes[part] += u64::from(child.plain_bytes);
        }
        while self.chunks.chunks() > self.chunks_max && self.parts.len() > 1 {
            self.parts.end = self.parts.start + self.parts.len() / 2;
            self.chunks.truncate(self.parts.end);
            self.plain_bytes[self.parts.end..].fill(0);
        }
    }

    /// Adds to the sums; the tables with the first walk only, as each goes through all of them.
    fn sum_up(&self, freed: &mut [u64], statistics: &mut StoreStatistics) {
        let tables = (self.parts.start == 0).then(|| self.tables.cells());
        for cell in self.chunks.cells().chain(tables.into_iter().flatten()) {
            statistics.blob_bytes += u64::from(cell.stored_bytes);
            if let Some(sum) = freed.get_mut(cell.owner as usize) {
                *sum += u64::from(cell.stored_bytes);
            }
        }
        statistics.unique_bytes += self.plain_bytes.iter().sum::<u64>();
        statistics.unique_chunks += self.chunks.chunks() as u64;
    }

    /// The parts for the next walk: as many as fitted this one.
    fn rest(&self) -> Range<usize> {
        self.parts.end..(self.parts.end + self.parts.len()).min(owners::PARTS)
    }
}

impl Visitor for Walk {
    fn enter(&mut self, table: &Child) -> bool {
        self.tables.add(self.owner, table.id, table.stored_bytes) != Before::Known
    }

    fn failed(&mut self, _: &Child) {}

    fn chunk(&mut self, chunk: &Child) {
        self.add_chunk(chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Description, Home, NewRun, WriterOptions};

    /// An image whose chunks begin with these numbers.
    fn capture(store: &Store, numbers: Range<u32>) {
        let writer = store.writer(&WriterOptions::default()).unwrap();
        for (segment, number) in (0..).zip(numbers) {
            let plain: Vec<u8> = number.to_le_bytes().into_iter().cycle().take(1000).collect();
            let chunk = writer.put(&plain).unwrap();
            writer.submit(segment, vec![NewRun::Chunk(chunk)]).unwrap();
        }
        let bytes = 1000;
        writer.finish(Description { created: crate::now(), bytes, ..Description::default() }).unwrap();
    }

    #[test]
    fn however_many_walks_it_takes_the_sums_are_the_same() {
        let store = Store::init(&Home::memory(), Config::new("fixed:65536")).unwrap();
        capture(&store, 0..300);
        capture(&store, 100..400);
        let once = store.statistics(&()).unwrap();
        assert_eq!((once.unique_chunks, once.unique_bytes, once.unreadable.len()), (400, 400_000, 0));
        assert!(once.freed_by.iter().all(|(_, freed)| (1..once.blob_bytes).contains(freed)));
        for chunks_max in [399, 150, 60] {
            assert_eq!(store.statistics_by(chunks_max, &()).unwrap(), once, "{chunks_max} chunks a walk");
        }
    }
}

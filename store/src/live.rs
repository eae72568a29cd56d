//! Which chunks the images need: walks over trees of tables, each table once however many images share it.
//!
//! Promise: what is not in `Live` is needed by no image that was walked; the reverse may be wrong for one chunk in
//! 2^64 / n, which costs its bytes and nothing else. Knows nothing of packs that come and go.

use crate::Error;
use crate::id::{ChunkId, ImageId};
use crate::manifest::Manifest;
use crate::reader::Reader;
use crate::table::{Child, Entry};
use std::collections::HashSet;

/// New fingerprints are sorted into the set in portions of this size: 32 MiB.
const UNSORTED_MAX: usize = 4 << 20;

/// A set of chunk ids by their first 64 bits: 8 bytes a chunk, 90 MB for 1 TB of unique data.
#[derive(Debug, Default)]
pub(crate) struct Live {
    sorted: Vec<u64>,
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
    /// Adds all that an image needs; an image that was added before costs nothing.
    pub(crate) fn add_image(
        &mut self,
        image: ImageId,
        manifest: &Manifest,
        reader: &Reader,
    ) -> Result<(), Error> {
        if self.images_seen.contains(&image) {
            return Ok(());
        }
        if let Some(root) = &manifest.root {
            let top = root.child();
            let unreadable = |source| match source {
                error @ (Error::Chunk { .. } | Error::Table { .. }) => {
                    Error::UnreadableImage { image, source: Box::new(error) }
                }
                other => other,
            };
            self.add_table(&top, root.level, reader).map_err(unreadable)?;
        }
        self.settle();
        self.images_seen.insert(image);
        Ok(())
    }

    fn add_table(&mut self, child: &Child, level: u8, reader: &Reader) -> Result<(), Error> {
        if !self.tables_seen.insert(child.id) {
            return Ok(());
        }
        self.add(child.id);
        // A table that could not be walked whole is not seen: the next image that shares it must fail too.
        let walked = self.add_children(child, level, reader);
        if walked.is_err() {
            self.tables_seen.remove(&child.id);
        }
        walked
    }

    fn add_children(&mut self, child: &Child, level: u8, reader: &Reader) -> Result<(), Error> {
        let table = reader.table(child, level)?;
        for entry in &table.entries {
            match entry {
                Entry::Child { child, .. } if level > 0 => self.add_table(child, level - 1, reader)?,
                Entry::Child { child, .. } => self.add(child.id),
                Entry::Zeros { .. } | Entry::Bad { .. } => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, id: ChunkId) {
        self.unsorted.push(short(id));
        if self.unsorted.len() >= UNSORTED_MAX {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.sorted.append(&mut self.unsorted);
        // Two sorted stretches and a new one: the sort is adaptive, so this is a merge.
        self.sorted.sort();
        self.sorted.dedup();
    }

    /// Whether all chunks that are needed are among these, by the first 64 bits of their ids.
    pub(crate) fn is_within(&self, shorts: &HashSet<u64>) -> bool {
        self.sorted.iter().all(|short| shorts.contains(short))
    }

    /// Whether an image that was added needs this chunk.
    pub(crate) fn contains(&self, id: ChunkId) -> bool {
        self.sorted.binary_search(&short(id)).is_ok()
    }
}

//! Which chunks the images need: walks over trees of tables, each table once however many images share it, by as many
//! threads as there are.
//!
//! Promise: what is not in `Live` is needed by no image that was walked; the reverse may be wrong for one chunk in
//! 2^48 / n, which costs its bytes and nothing else. Memory: 5 bytes a chunk, and some 40 a table, of which there is one
//! for 50 chunks or so. Knows nothing of packs that come and go.

use crate::Error;
use crate::id::{ChunkId, ImageId};
use crate::manifest::Manifest;
use crate::reader::Reader;
use crate::records::short;
use crate::shorts::Shorts;
use crate::table::Child;
use crate::walk::{Visitor, walk};
use std::collections::HashSet;

/// A set of chunk ids by their first 48 bits: 60 MB for 1 TB of unique data.
#[derive(Debug, Default)]
pub(crate) struct Live {
    chunks: Shorts,
    tables_seen: HashSet<ChunkId>,
    images_seen: HashSet<ImageId>,
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
            let top = root.child();
            let unreadable = |source| match source {
                error @ (Error::Chunk { .. } | Error::Table { .. }) => {
                    Error::UnreadableImage { image, source: Box::new(error) }
                }
                other => other,
            };
            walk(self, reader, &top, root.level).map_err(unreadable)?;
        }
        self.images_seen.insert(image);
        Ok(())
    }

    /// Makes what was added since the last time known to the questions below.
    pub(crate) fn settle(&mut self) {
        self.chunks.settle();
    }

    /// Whether all chunks that are needed are among these, by the first 64 bits of their ids.
    pub(crate) fn is_within(&self, listed: impl Iterator<Item = u64>) -> bool {
        self.chunks.is_within(listed)
    }

    /// Whether an image that was added needs this chunk.
    pub(crate) fn contains(&self, id: ChunkId) -> bool {
        self.has_short(short(id))
    }

    /// The same, by the first 64 bits of its id.
    pub(crate) fn has_short(&self, short: u64) -> bool {
        self.chunks.contains(short)
    }
}

impl Visitor for Live {
    fn enter(&mut self, table: &Child) -> bool {
        let is_new = self.tables_seen.insert(table.id);
        if is_new {
            self.chunk(table);
        }
        is_new
    }

    /// The next image that shares it must fail too.
    fn failed(&mut self, table: &Child) {
        self.tables_seen.remove(&table.id);
    }

    fn chunk(&mut self, chunk: &Child) {
        self.chunks.insert(short(chunk.id));
    }
}

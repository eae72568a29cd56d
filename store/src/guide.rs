//! What an older image says about a stretch of a device, for the writer of the next one: where its chunks began and
//! ended, and tables that may be used again (DESIGN §5.3, *Guided*).
//!
//! Promise: advice only (I9). Everything in it lies in packs that the writer's catalogue relies on; what can't be read
//! or is not there is left out, and costs time only. Knows nothing of bytes: who uses a chunk of it hashes first.

use crate::catalogue::{Catalogue, Place};
use crate::id::{ChunkId, PackId};
use crate::stored::StoredImage;
use crate::table::{Child, Entry, Table};
use std::collections::HashMap;
use std::sync::Arc;

/// A chunk of the older image.
#[derive(Clone, Copy, Debug)]
pub struct GuideChunk {
    /// Where it begins, counted from the segment's start.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u32,
    /// Another chunk follows at once: so it ends where the rule cut, not where zeros, bad sectors or the segment's end
    /// cut the stretch short.
    pub cut_by_rule: bool,
    /// Its id.
    pub id: ChunkId,
    pub(crate) place: Place,
}

/// What the older image says about one segment.
#[derive(Clone, Debug, Default)]
pub struct GuideSegment {
    /// In order; those that are not in the store any more are left out.
    pub chunks: Vec<GuideChunk>,
    /// Its leaves and its segment table.
    pub(crate) tables: Arc<[(ChunkId, Place)]>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Guide {
    image: StoredImage,
    slots: HashMap<PackId, u32>,
}

impl Guide {
    pub(crate) fn new(image: StoredImage, catalogue: &Catalogue) -> Guide {
        Guide { image, slots: catalogue.slots() }
    }

    /// What the image says about the segment of `bytes` bytes at `offset` of the device; nothing when it had no segment
    /// with these borders, or nothing but zeros there.
    pub fn segment(&self, offset: u64, bytes: u64) -> Option<GuideSegment> {
        let (child, table) = self.segment_table(offset, bytes)?;
        let mut chunks = Vec::new();
        let mut tables: Vec<(ChunkId, Place)> =
            self.place(&child).map(|place| (child.id, place)).into_iter().collect();
        let mut at = 0;
        // The chunk that ends at `at`, whether or not it is in `chunks`.
        let mut touches = false;
        for entry in &table.entries {
            let Entry::Child { bytes, child } = entry else {
                (at, touches) = (at + entry.bytes(), false);
                continue;
            };
            // A leaf that can't be read: the next one may be.
            let leaf = self.image.reader.table(child, 0).ok().filter(|leaf| leaf.bytes() == *bytes);
            let Some(leaf) = leaf else {
                (at, touches) = (at + bytes, false);
                continue;
            };
            tables.extend(self.place(child).map(|place| (child.id, place)));
            for entry in &leaf.entries {
                if let Entry::Child { child, .. } = entry {
                    if touches {
                        mark_cut(&mut chunks, at);
                    }
                    chunks.extend(self.chunk(child, at));
                }
                touches = matches!(entry, Entry::Child { .. });
                at += entry.bytes();
            }
        }
        Some(GuideSegment { chunks, tables: tables.into() })
    }

    fn chunk(&self, child: &Child, offset: u64) -> Option<GuideChunk> {
        let place = self.place(child)?;
        Some(GuideChunk { offset, bytes: child.plain_bytes, cut_by_rule: false, id: child.id, place })
    }

    fn place(&self, child: &Child) -> Option<Place> {
        let slot = *self.slots.get(&child.pack)?;
        Some(Place { slot, offset: child.offset, stored_bytes: child.stored_bytes })
    }

    fn segment_table(&self, offset: u64, bytes: u64) -> Option<(Child, Arc<Table>)> {
        let root = self.image.manifest().root.as_ref()?;
        let (mut child, mut table) = (root.child(), self.image.reader.root(root).ok()?);
        let mut start = 0u64;
        while table.level > 1 {
            let mut below = None;
            for entry in &table.entries {
                let end = start.checked_add(entry.bytes())?;
                if offset < end {
                    below = Some(entry);
                    break;
                }
                start = end;
            }
            let Some(Entry::Child { child: next, .. }) = below else { return None };
            child = *next;
            table = self.image.reader.table(&child, table.level - 1).ok()?;
        }
        (start == offset && table.bytes() == bytes).then_some((child, table))
    }

    /// The tables above the segments' that may be used again: one in 16 GiB of the device.
    pub(crate) fn upper_tables(&self) -> HashMap<ChunkId, Place> {
        let mut found = HashMap::new();
        if let Some(root) = &self.image.manifest().root {
            self.collect_upper(&root.child(), root.level, &mut found);
        }
        found
    }

    fn collect_upper(&self, child: &Child, level: u8, found: &mut HashMap<ChunkId, Place>) {
        if level < 2 {
            return;
        }
        found.extend(self.place(child).map(|place| (child.id, place)));
        if level > 2
            && let Ok(table) = self.image.reader.table(child, level)
        {
            for entry in &table.entries {
                if let Entry::Child { child, .. } = entry {
                    self.collect_upper(child, level - 1, found);
                }
            }
        }
    }
}

/// The chunk that ends at `end`, if it is the last one known, was cut by the rule.
fn mark_cut(chunks: &mut [GuideChunk], end: u64) {
    if let Some(last) = chunks.last_mut().filter(|last| last.offset + u64::from(last.bytes) == end) {
        last.cut_by_rule = true;
    }
}

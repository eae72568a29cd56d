//! Who needs a chunk, and what its blob takes: 12 bytes a chunk and a quarter of room at most.
//!
//! Promise: chunks are told apart by 48 bits of their ids, so one in 2^48 / n is taken for another: enough for statistics,
//! and for nothing else. Knows nothing of images: owners are numbers.

use crate::id::ChunkId;
use crate::records::short;
use crate::shorts::low;

/// Needed by more than one.
pub(crate) const SHARED: u32 = u32::MAX;
/// The first 16 bits of an id choose the part, the next 32 stand in it.
pub(crate) const PARTS: usize = 1 << 16;
/// Seven eighths full at most.
const LOAD: (usize, usize) = (7, 8);
const CELLS_MIN: usize = 8;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Owners {
    parts: Vec<Part>,
    chunks: usize,
}

/// Open addressing; a cell without stored bytes is free.
#[derive(Clone, Debug, Default)]
struct Part {
    cells: Vec<Cell>,
    filled: usize,
}

/// A chunk that somebody needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cell {
    key: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) owner: u32,
}

/// What `add` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Before {
    Nobody,
    Another,
    /// The same owner, or several.
    Known,
}

impl Default for Owners {
    fn default() -> Owners {
        Owners { parts: vec![Part::default(); PARTS], chunks: 0 }
    }
}

/// Which part a chunk is in.
pub(crate) fn part_of(id: ChunkId) -> usize {
    (short(id) & 0xffff) as usize
}

impl Owners {
    /// How many chunks there are.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Enters that `owner` needs a chunk whose blob takes so much.
    pub(crate) fn add(&mut self, owner: u32, id: ChunkId, stored_bytes: u32) -> Before {
        let key = low(short(id) >> 16);
        // A blob has one byte at least (DESIGN §4.5).
        let before = self.parts[part_of(id)].add(Cell { key, stored_bytes: stored_bytes.max(1), owner });
        self.chunks += usize::from(before == Before::Nobody);
        before
    }

    /// Forgets the parts from this one on.
    pub(crate) fn truncate(&mut self, part: usize) {
        for part in self.parts.iter_mut().skip(part) {
            self.chunks -= part.filled;
            *part = Part::default();
        }
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.parts.iter().flat_map(|part| &part.cells).filter(|cell| cell.stored_bytes > 0)
    }
}

impl Part {
    fn add(&mut self, new: Cell) -> Before {
        if (self.filled + 1) * LOAD.1 > self.cells.len() * LOAD.0 {
            self.grow();
        }
        let cell = self.place(new.key);
        if cell.stored_bytes == 0 {
            *cell = new;
            self.filled += 1;
            Before::Nobody
        } else if cell.owner == new.owner || cell.owner == SHARED {
            Before::Known
        } else {
            cell.owner = SHARED;
            Before::Another
        }
    }

    /// The cell of this key, or the free one where it belongs; there is always a free one.
    fn place(&mut self, key: u32) -> &mut Cell {
        let count = self.cells.len();
        let mut at = ((u64::from(key) * count as u64) >> 32) as usize;
        while self.cells[at].stored_bytes > 0 && self.cells[at].key != key {
            at = if at + 1 == count { 0 } else { at + 1 };
        }
        &mut self.cells[at]
    }

    fn grow(&mut self) {
        let cells = (self.filled * 5 / 4 * LOAD.1 / LOAD.0).max(self.filled + 2).max(CELLS_MIN);
        let old = std::mem::replace(&mut self.cells, vec![Cell::default(); cells]);
        for cell in old.into_iter().filter(|cell| cell.stored_bytes > 0) {
            *self.place(cell.key) = cell;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    proptest! {
        #[test]
        fn it_counts_like_a_map(adds in prop::collection::vec((0u32..4, 0u32..300, 1u32..9), 0..2000), cut in 0usize..PARTS) {
            let mut owners = Owners::default();
            let mut plain: HashMap<u32, (HashSet<u32>, u32)> = HashMap::new();
            let id = |chunk: u32| {
                let mut id = [0; 32];
                // Few parts, so that they fill up.
                id[..2].copy_from_slice(&u16::try_from(chunk % 7 * 9000).unwrap().to_le_bytes());
                id[2..6].copy_from_slice(&chunk.wrapping_mul(2_654_435_761).to_le_bytes());
                ChunkId(id)
            };
            for (owner, chunk, stored_bytes) in adds {
                let (who, _) = plain.entry(chunk).or_insert_with(|| (HashSet::new(), stored_bytes));
                let expected = match who.len() {
                    0 => Before::Nobody,
                    1 if !who.contains(&owner) => Before::Another,
                    _ => Before::Known,
                };
                who.insert(owner);
                prop_assert_eq!(owners.add(owner, id(chunk), stored_bytes), expected);
            }
            prop_assert_eq!(owners.chunks(), plain.len());
            let sum = owners.cells().map(|cell| cell.stored_bytes).sum::<u32>();
            prop_assert_eq!(sum, plain.values().map(|(_, stored)| stored).sum::<u32>());
            owners.truncate(cut);
            prop_assert_eq!(owners.cells().count(), plain.keys().filter(|chunk| part_of(id(**chunk)) < cut).count());
            prop_assert_eq!(owners.chunks(), owners.cells().count());
        }
    }
}

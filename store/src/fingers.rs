//! Fingerprint table: where a chunk may be, in 9.5 bytes a chunk. A claim only; the pack's own listing decides.
//!
//! Promise: every (fingerprint, place) put in is found again; a few others may be offered beside it.
//! Knows nothing of chunks beyond 32 bits of their id.

use crate::id::ChunkId;

/// What the table knows of a chunk: the first 32 bits of its id.
pub(crate) fn finger(id: ChunkId) -> u32 {
    let bytes = id.as_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A pack known to this process, by order of arrival; and which entry of its listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    pub(crate) slot: u32,
    pub(crate) entry: u32,
}

/// Open addressing over (fingerprint, ordinal of the entry over all packs); zero ordinal = free.
#[derive(Debug, Default)]
pub(crate) struct FingerTable {
    cells: Vec<(u32, u32)>,
    filled: usize,
    /// First ordinal of each pack that was added, with its slot; ordinals begin at 1.
    starts: Vec<(u32, u32)>,
    next_ordinal: u32,
}

/// Seven eighths full at most: probes stay short, and 8 bytes a cell make 9.5 bytes a chunk on average.
const LOAD: (usize, usize) = (7, 8);
const CELLS_MIN: usize = 1 << 10;

impl FingerTable {
    /// Room for this many chunks without growing.
    pub(crate) fn with_capacity(chunks: usize) -> FingerTable {
        let cells = (chunks * LOAD.1 / LOAD.0 + 1).max(CELLS_MIN);
        FingerTable { cells: vec![(0, 0); cells], filled: 0, starts: Vec::new(), next_ordinal: 1 }
    }

    /// Adds the entries of one pack; `fingers` in the order of its listing. False when 2^32 ordinals are used up.
    pub(crate) fn add_pack(&mut self, slot: u32, fingers: &[u32]) -> bool {
        let Some(next) = u32::try_from(fingers.len()).ok().and_then(|n| self.next_ordinal.checked_add(n))
        else {
            return false;
        };
        self.starts.push((self.next_ordinal, slot));
        self.reserve(fingers.len());
        for (finger, ordinal) in fingers.iter().zip(self.next_ordinal..) {
            self.insert(*finger, ordinal);
        }
        self.next_ordinal = next;
        true
    }

    /// Places where a chunk of this fingerprint may be.
    pub(crate) fn find(&self, finger: u32) -> impl Iterator<Item = Spot> + '_ {
        let mut at = self.home(finger);
        std::iter::from_fn(move || {
            loop {
                let (have, ordinal) = *self.cells.get(at)?;
                if ordinal == 0 {
                    return None;
                }
                at = self.after(at);
                if have == finger {
                    return self.spot(ordinal);
                }
            }
        })
    }

    fn spot(&self, ordinal: u32) -> Option<Spot> {
        let pack = self.starts.partition_point(|(start, _)| *start <= ordinal).checked_sub(1)?;
        let (start, slot) = self.starts[pack];
        Some(Spot { slot, entry: ordinal - start })
    }

    fn home(&self, finger: u32) -> usize {
        // Multiply-shift: spreads over any number of cells without a division.
        ((u64::from(finger) * self.cells.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.cells.len() { 0 } else { at + 1 }
    }

    fn insert(&mut self, finger: u32, ordinal: u32) {
        let mut at = self.home(finger);
        while self.cells[at].1 != 0 {
            at = self.after(at);
        }
        self.cells[at] = (finger, ordinal);
        self.filled += 1;
    }

    fn reserve(&mut self, more: usize) {
        if (self.filled + more) * LOAD.1 <= self.cells.len() * LOAD.0 {
            return;
        }
        let cells = ((self.filled + more) * 3 / 2 + 1) * LOAD.1 / LOAD.0;
        let old = std::mem::replace(&mut self.cells, vec![(0, 0); cells.max(CELLS_MIN)]);
        self.filled = 0;
        old.into_iter()
            .filter(|(_, ordinal)| *ordinal != 0)
            .for_each(|(finger, ordinal)| self.insert(finger, ordinal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_put_in_is_found(packs in prop::collection::vec(prop::collection::vec(0u32..500, 0..400), 0..12)) {
            let mut table = FingerTable::with_capacity(0);
            for (slot, fingers) in packs.iter().enumerate() {
                prop_assert!(table.add_pack(u32::try_from(slot).unwrap() + 7, fingers));
            }
            for (slot, fingers) in packs.iter().enumerate() {
                for (entry, finger) in fingers.iter().enumerate() {
                    let spot = Spot { slot: u32::try_from(slot).unwrap() + 7, entry: u32::try_from(entry).unwrap() };
                    prop_assert!(table.find(*finger).any(|found| found == spot));
                }
            }
            prop_assert_eq!(table.find(1000).count(), 0);
        }
    }
}

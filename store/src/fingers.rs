//! Fingerprint table: where a chunk may be, in 9.5 bytes a chunk. A claim only; the pack's own listing decides.
//!
//! Promise: every (fingerprint, place) put in is found again; a few others may be offered beside it.
//! Knows nothing of chunks beyond 32 bits of their id.

use crate::id::ChunkId;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

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

/// Open addressing over (fingerprint, ordinal of the entry over all packs); in parts by the fingerprint's top bits, so
/// that threads can fill it together, what is being filled fits their caches, and only one part at a time is there
/// twice while it grows.
#[derive(Debug)]
pub(crate) struct FingerTable {
    parts: Vec<Part>,
    /// First ordinal of each pack that was added, with its slot; ordinals begin at 1.
    starts: Vec<(u32, u32)>,
    next_ordinal: u32,
}

/// Cells of neighbouring fingerprints; zero ordinal = free.
#[derive(Debug)]
struct Part {
    cells: Vec<(u32, u32)>,
    filled: usize,
}

/// A pack whose fingerprints are to be read: its slot, and how many they should be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) slot: u32,
    pub(crate) chunks: u32,
}

/// By the top eight bits.
const PARTS: usize = 256;
const PART_SHIFT: u32 = 24;
/// Seven eighths full at most: probes stay short, and 8 bytes a cell make 9.5 bytes a chunk on average.
const LOAD: (usize, usize) = (7, 8);
const CELLS_MIN: usize = 16;
/// Packs whose fingerprints one thread sorts by part before it locks any: some 50,000, 100 for each part.
const PORTION_PACKS: usize = 128;
/// Fewer are not worth a pool. (And the simulation of the protocol runs every call on its actor's own thread.)
const PARALLEL_MIN: usize = 64;

impl FingerTable {
    /// Room for this many chunks without growing.
    pub(crate) fn with_capacity(chunks: usize) -> FingerTable {
        // A part may have more than its share: three standard deviations and a few.
        let share = chunks / PARTS;
        let share = if chunks == 0 { 0 } else { share + 3 * share.isqrt() + 8 };
        FingerTable {
            parts: std::iter::repeat_with(|| Part::with_capacity(share)).take(PARTS).collect(),
            starts: Vec::new(),
            next_ordinal: 1,
        }
    }

    /// The table of these packs; `read` gives the fingerprints of one, in the order of its listing. In parallel.
    pub(crate) fn build(packs: &[Expected], read: impl Fn(Expected) -> Vec<u32> + Sync) -> FingerTable {
        let chunks = packs.iter().map(|pack| pack.chunks as usize).sum();
        let mut table = FingerTable::with_capacity(chunks);
        if packs.len() < PARALLEL_MIN || u32::try_from(chunks).is_err() {
            for pack in packs {
                table.add_pack(pack.slot, &read(*pack));
            }
            return table;
        }
        for pack in packs {
            table.starts.push((table.next_ordinal, pack.slot));
            table.next_ordinal += pack.chunks;
        }
        let parts: Vec<Mutex<Part>> = std::mem::take(&mut table.parts).into_iter().map(Mutex::new).collect();
        let fill = |(packs, starts): (&[Expected], &[(u32, u32)])| {
            let mut surprises = Vec::new();
            let mut found = Vec::with_capacity(packs.iter().map(|pack| pack.chunks as usize).sum());
            for (pack, (start, _)) in packs.iter().zip(starts) {
                let fingers = read(*pack);
                if fingers.len() == pack.chunks as usize {
                    found.extend(fingers.into_iter().zip(*start..));
                } else {
                    surprises.push((pack.slot, fingers));
                }
            }
            insert_sorted(&mut found, &parts);
            surprises
        };
        let portions = packs.par_chunks(PORTION_PACKS).zip(table.starts.par_chunks(PORTION_PACKS));
        let surprises: Vec<_> = portions.flat_map_iter(fill).collect();
        table.parts =
            parts.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        // Their ordinals stay unused; they get others.
        for (slot, fingers) in surprises {
            table.add_pack(slot, &fingers);
        }
        table
    }

    /// Adds the entries of one pack; `fingers` in the order of its listing. False when 2^32 ordinals are used up.
    pub(crate) fn add_pack(&mut self, slot: u32, fingers: &[u32]) -> bool {
        let Some(next) = u32::try_from(fingers.len()).ok().and_then(|n| self.next_ordinal.checked_add(n))
        else {
            return false;
        };
        self.starts.push((self.next_ordinal, slot));
        for (finger, ordinal) in fingers.iter().zip(self.next_ordinal..) {
            self.parts[part_of(*finger)].insert(*finger, ordinal);
        }
        self.next_ordinal = next;
        true
    }

    /// Places where a chunk of this fingerprint may be.
    pub(crate) fn find(&self, finger: u32) -> impl Iterator<Item = Spot> + '_ {
        self.parts[part_of(finger)].find(finger).filter_map(|ordinal| self.spot(ordinal))
    }

    fn spot(&self, ordinal: u32) -> Option<Spot> {
        let pack = self.starts.partition_point(|(start, _)| *start <= ordinal).checked_sub(1)?;
        let (start, slot) = self.starts[pack];
        Some(Spot { slot, entry: ordinal - start })
    }
}

fn part_of(finger: u32) -> usize {
    (finger >> PART_SHIFT) as usize
}

/// Each part is locked once, for all that goes into it.
fn insert_sorted(found: &mut [(u32, u32)], parts: &[Mutex<Part>]) {
    found.sort_unstable_by_key(|(finger, _)| *finger);
    for group in found.chunk_by(|a, b| part_of(a.0) == part_of(b.0)) {
        let mut part = parts[part_of(group[0].0)].lock().unwrap_or_else(PoisonError::into_inner);
        group.iter().for_each(|(finger, ordinal)| part.insert(*finger, *ordinal));
    }
}

impl Part {
    fn with_capacity(chunks: usize) -> Part {
        Part { cells: vec![(0, 0); (chunks * LOAD.1 / LOAD.0 + 1).max(CELLS_MIN)], filled: 0 }
    }

    fn find(&self, finger: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.home(finger);
        std::iter::from_fn(move || {
            loop {
                let (have, ordinal) = *self.cells.get(at)?;
                if ordinal == 0 {
                    return None;
                }
                at = self.after(at);
                if have == finger {
                    return Some(ordinal);
                }
            }
        })
    }

    fn home(&self, finger: u32) -> usize {
        // Multiply-shift over the bits that differ within a part: spreads over any number of cells without a division.
        ((u64::from(finger << (u32::BITS - PART_SHIFT)) * self.cells.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.cells.len() { 0 } else { at + 1 }
    }

    fn insert(&mut self, finger: u32, ordinal: u32) {
        if (self.filled + 1) * LOAD.1 > self.cells.len() * LOAD.0 {
            self.grow();
        }
        let mut at = self.home(finger);
        while self.cells[at].1 != 0 {
            at = self.after(at);
        }
        self.cells[at] = (finger, ordinal);
        self.filled += 1;
    }

    fn grow(&mut self) {
        let more = Part::with_capacity(self.filled * 5 / 4 + CELLS_MIN);
        let old = std::mem::replace(self, more);
        old.cells
            .into_iter()
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

    #[test]
    fn built_in_parallel_it_finds_the_same() {
        let fingers = |slot: u32| -> Vec<u32> {
            // Every ninth pack lists other than expected.
            (0..slot % 50 + 3).map(|n| (slot * 1000 + n).wrapping_mul(2_654_435_761)).collect()
        };
        let expected = |slot: u32| {
            let real = slot % 50 + 3;
            Expected { slot, chunks: if slot.is_multiple_of(9) { real + 1 } else { real } }
        };
        let packs: Vec<Expected> = (0..1000).map(expected).collect();
        let mut table = FingerTable::build(&packs, |pack| fingers(pack.slot));
        table.add_pack(1000, &fingers(1000));
        for slot in 0..=1000 {
            for (entry, finger) in (0u32..).zip(fingers(slot)) {
                assert!(table.find(finger).any(|spot| spot == Spot { slot, entry }), "{slot} {entry}");
            }
        }
    }
}

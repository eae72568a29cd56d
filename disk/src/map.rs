//! Which parts of a volume are free: what a filesystem's parser finds, and what a capture may leave out.
//!
//! Promise: extents are sorted, disjoint, merged and inside the volume; memory is bounded whatever the input. What is
//! forgotten to keep it so, and what is told out of order, counts as used: never the other way round.
//! Knows nothing of filesystems.

use crate::Extent;

/// More free extents than this are not kept, so that a hostile or very fragmented volume costs at most 16 MiB.
pub const EXTENTS_MAX: usize = 1 << 20;
/// Shorter free extents are not worth a hole in an image: zeros are seen on a grid of this size too.
pub const FREE_BYTES_MIN: u64 = 4096;

/// The free parts of a volume: sorted, disjoint, merged extents counted from the volume's first byte.
///
/// Never more than [`EXTENTS_MAX`]: when there are more, the shortest are forgotten, that is, counted as used. None is
/// shorter than [`FREE_BYTES_MIN`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeMap {
    free: Vec<Extent>,
    free_bytes: u64,
}

impl FreeMap {
    /// The free extents, in order.
    #[must_use]
    pub fn free(&self) -> &[Extent] {
        &self.free
    }

    /// How many bytes are free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// Begins the map of a volume of this size, in which all is used.
    pub(crate) fn builder(volume_bytes: u64) -> FreeMapBuilder {
        FreeMapBuilder { volume_bytes, told_bytes: 0, free: Vec::new(), shortest_bytes: FREE_BYTES_MIN }
    }

    /// All that none of these extents (in any order, overlapping or not) touches.
    pub(crate) fn from_used(volume_bytes: u64, mut used: Vec<Extent>) -> Self {
        used.sort_unstable();
        let mut builder = Self::builder(volume_bytes);
        let mut free_from = 0_u64;
        for extent in used {
            builder.add_free(between(free_from, extent.offset));
            free_from = free_from.max(extent.end());
        }
        builder.add_free(between(free_from, volume_bytes));
        builder.finish()
    }
}

/// From one byte up to another; nothing when they are the wrong way round.
fn between(from: u64, to: u64) -> Extent {
    Extent { offset: from, bytes: to.saturating_sub(from) }
}

/// Takes free extents in ascending order.
#[derive(Debug)]
pub(crate) struct FreeMapBuilder {
    volume_bytes: u64,
    /// Everything before this was told: what is told of it again is ignored.
    told_bytes: u64,
    free: Vec<Extent>,
    shortest_bytes: u64,
}

impl FreeMapBuilder {
    /// Adds a free extent; what lies outside the volume, or before what was added last, is left out.
    pub(crate) fn add_free(&mut self, extent: Extent) {
        let extent = between(extent.offset.max(self.told_bytes), extent.end().min(self.volume_bytes));
        if extent.bytes == 0 {
            return;
        }
        self.told_bytes = extent.end();
        match self.free.last_mut() {
            Some(last) if last.end() == extent.offset => last.bytes = last.bytes.saturating_add(extent.bytes),
            Some(last) if last.bytes < self.shortest_bytes => *last = extent,
            _ => self.push(extent),
        }
    }

    fn push(&mut self, extent: Extent) {
        // Ends: no extent is longer than the largest number, to which the threshold doubles.
        while self.free.len() >= EXTENTS_MAX {
            self.shortest_bytes = self.shortest_bytes.saturating_mul(2);
            let shortest_bytes = self.shortest_bytes;
            self.free.retain(|extent| extent.bytes >= shortest_bytes && shortest_bytes < u64::MAX);
        }
        self.free.push(extent);
    }

    /// Adds the units whose bit is 0: `count` units of `unit_bytes` from the byte `first` on, lowest bit first. Units
    /// for which `bits` is too short are used.
    pub(crate) fn add_bitmap(&mut self, first: u64, unit_bytes: u64, bits: &[u8], count: u64) {
        let place = |unit: u64| first.saturating_add(unit.saturating_mul(unit_bytes));
        let mut unit = 0_u64;
        let mut free_from = None;
        let mut step = |is_free: bool, unit: u64| match (is_free, free_from) {
            (true, None) => free_from = Some(unit),
            (false, Some(from)) => {
                self.add_free(between(place(from), place(unit)));
                free_from = None;
            }
            _ => {}
        };
        for byte in bits {
            let whole = unit.saturating_add(8) <= count;
            match byte {
                0x00 if whole => step(true, unit),
                0xff if whole => step(false, unit),
                _ => {
                    let left = count.saturating_sub(unit).min(8);
                    for bit in 0..left {
                        step(
                            byte.checked_shr(u32::try_from(bit).unwrap_or(0)).unwrap_or(1) & 1 == 0,
                            unit.saturating_add(bit),
                        );
                    }
                }
            }
            unit = unit.saturating_add(8).min(count);
            if unit == count {
                break;
            }
        }
        step(false, unit);
    }

    /// The map of what was added.
    pub(crate) fn finish(mut self) -> FreeMap {
        let shortest_bytes = self.shortest_bytes;
        self.free.retain(|extent| extent.bytes >= shortest_bytes);
        let free_bytes = self.free.iter().fold(0_u64, |sum, extent| sum.saturating_add(extent.bytes));
        FreeMap { free: self.free, free_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: u64 = 4096;

    fn extents(map: &FreeMap) -> Vec<(u64, u64)> {
        map.free().iter().map(|extent| (extent.offset / UNIT, extent.bytes / UNIT)).collect()
    }

    #[test]
    fn neighbours_merge_and_what_is_outside_or_told_twice_is_left_out() {
        let mut builder = FreeMap::builder(100 * UNIT);
        for (offset, bytes) in [(1, 2), (3, 1), (2, 3), (0, 1), (10, 0), (90, 200), (300, 5)] {
            builder.add_free(Extent { offset: offset * UNIT, bytes: bytes * UNIT });
        }
        let map = builder.finish();
        assert_eq!(extents(&map), [(1, 4), (90, 10)]);
        assert_eq!(map.free_bytes(), 14 * UNIT);
    }

    #[test]
    fn short_extents_are_used() {
        let mut builder = FreeMap::builder(100 * UNIT);
        for (offset, bytes) in [(0, 4095), (5000, 1000), (6000, 3096), (20_000, 100)] {
            builder.add_free(Extent { offset, bytes });
        }
        assert_eq!(builder.finish().free(), [Extent { offset: 5000, bytes: 4096 }]);
    }

    #[test]
    fn of_too_many_extents_the_longest_stay() {
        let many = EXTENTS_MAX as u64 + 10;
        let mut builder = FreeMap::builder(u64::MAX);
        for number in 0..many {
            let bytes = if number % 1000 == 0 { 3 * UNIT } else { UNIT };
            builder.add_free(Extent { offset: number * 4 * UNIT, bytes });
        }
        let map = builder.finish();
        assert_eq!(map.free().len() as u64, many.div_ceil(1000));
        assert!(map.free().iter().all(|extent| extent.bytes == 3 * UNIT));
    }

    proptest! {
        #[test]
        fn a_bitmap_is_its_zero_bits(bits in prop::collection::vec(prop_oneof![Just(0_u8), Just(255), any::<u8>()], 0..40), count in 0_u64..400, first in 0_u64..3) {
            let mut builder = FreeMap::builder(u64::MAX);
            builder.add_bitmap(first * UNIT, UNIT, &bits, count);
            let map = builder.finish();
            let is_free = |unit: u64| map.free().iter().any(|e| e.overlaps(&Extent { offset: unit * UNIT, bytes: UNIT }));
            for unit in 0_u64..450 {
                let bit = unit.checked_sub(first).filter(|bit| *bit < count);
                let zero = bit.and_then(|bit| bits.get(usize::try_from(bit / 8).unwrap()).map(|byte| byte >> (bit % 8) & 1 == 0));
                prop_assert_eq!(is_free(unit), zero.unwrap_or(false), "unit {}", unit);
            }
        }

        #[test]
        fn the_complement_of_used_extents_touches_none(used in prop::collection::vec((0_u64..60, 0_u64..9), 0..20)) {
            let used: Vec<Extent> = used.into_iter().map(|(offset, bytes)| Extent { offset: offset * UNIT, bytes: bytes * UNIT }).collect();
            let map = FreeMap::from_used(50 * UNIT, used.clone());
            for unit in 0..70 {
                let unit_extent = Extent { offset: unit * UNIT, bytes: UNIT };
                let is_used = unit >= 50 || used.iter().any(|extent| extent.overlaps(&unit_extent));
                let is_free = map.free().iter().any(|extent| extent.overlaps(&unit_extent));
                prop_assert_eq!(is_free, !is_used, "unit {}", unit);
            }
        }
    }
}

//! A set of chunk ids in short: 4 bytes a chunk and a little room, whatever their number.
//!
//! Promise: what was put in is found; what was not may be found too, one in 2^48 / n of them. Knows nothing of why.

/// The first 16 bits of an id choose the group, the next 32 stand in it; the last 16 of what is handed in are not used.
const GROUPS: usize = 1 << 16;
/// A group sorts what is new into the rest when there is so much of it, or an eighth as much as there is already.
const NEW_MAX: usize = 64;

/// See the file's head. Empty it takes 2 MB.
#[derive(Debug)]
pub(crate) struct Shorts {
    groups: Vec<Group>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    /// The first `sorted` are in order, without duplicates.
    members: Vec<u32>,
    sorted: usize,
}

impl Default for Shorts {
    fn default() -> Shorts {
        Shorts { groups: vec![Group::default(); GROUPS] }
    }
}

/// The lower half of a number.
pub(crate) fn low(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Group and member of the first 64 bits of an id.
fn split(short: u64) -> (usize, u32) {
    ((short & 0xffff) as usize, low(short >> 16))
}

impl Shorts {
    /// Puts in the first 64 bits of an id; found after the next `settle`.
    pub(crate) fn insert(&mut self, short: u64) {
        let (group, member) = split(short);
        self.groups[group].insert(member);
    }

    /// Makes all that was put in findable.
    pub(crate) fn settle(&mut self) {
        self.groups.iter_mut().for_each(Group::settle);
    }

    pub(crate) fn contains(&self, short: u64) -> bool {
        let (group, member) = split(short);
        self.groups[group].sorted().binary_search(&member).is_ok()
    }

    /// Whether all of them are among these; settled. A byte for each is in memory meanwhile.
    pub(crate) fn is_within(&self, others: impl Iterator<Item = u64>) -> bool {
        let mut found: Vec<Vec<bool>> = self.groups.iter().map(|group| vec![false; group.sorted]).collect();
        for short in others {
            let (group, member) = split(short);
            if let Ok(place) = self.groups[group].sorted().binary_search(&member) {
                found[group][place] = true;
            }
        }
        found.iter().flatten().all(|found| *found)
    }
}

impl Group {
    fn sorted(&self) -> &[u32] {
        &self.members[..self.sorted]
    }

    fn insert(&mut self, member: u32) {
        if self.members.len() == self.members.capacity() {
            // By an eighth, not by half: memory is what this set is for.
            self.settle();
            self.members.reserve_exact((self.members.len() / 8).max(8));
        }
        self.members.push(member);
        if self.members.len() - self.sorted > NEW_MAX.max(self.sorted / 8) {
            self.settle();
        }
    }

    fn settle(&mut self) {
        if self.sorted < self.members.len() {
            // Two sorted stretches at most and a new one: what is sorted already costs a merge.
            self.members.sort();
            self.members.dedup();
            self.sorted = self.members.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// All over, and half of them close together in one group: that one grows.
    fn both(short: u64) -> [u64; 2] {
        [short, (short % 6000) << 16]
    }

    proptest! {
        #[test]
        fn a_set_is_a_set(portions in prop::collection::vec(prop::collection::vec(0u64..1 << 48, 0..900), 0..5)) {
            let mut set = Shorts::default();
            prop_assert!(!set.contains(1) && set.is_within(std::iter::empty()));
            for portion in &portions {
                portion.iter().flat_map(|short| both(*short)).for_each(|short| set.insert(short));
                set.settle();
            }
            let all: HashSet<u64> = portions.iter().flatten().flat_map(|short| both(*short)).collect();
            prop_assert_eq!(set.groups.iter().map(|group| group.members.len()).sum::<usize>(), all.len());
            prop_assert!(all.iter().all(|short| set.contains(*short)));
            prop_assert!((0..70).all(|n| set.contains(n << 16) == all.contains(&(n << 16))));
            prop_assert!(set.is_within(all.iter().copied().chain([1, 2, 3])));
            if let Some(first) = all.iter().next() {
                prop_assert!(!set.is_within(all.iter().copied().filter(|short| short != first)));
            }
        }
    }
}

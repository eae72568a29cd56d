//! The tree of tables of one image, built while its packs are still being written. Shape: DESIGN §4.6.
//!
//! Promise: the tree depends on the runs and on where their blobs are, not on the order in which segments arrive. A
//! table is encoded only when the packs of all its children have their names; what waits is bounded by the caller, who
//! closes packs. Knows nothing of backends: a `Sink` stores tables and names packs.

use crate::Error;
use crate::catalogue::Place;
use crate::codec::{ChunkKind, chunk_id};
use crate::id::{ChunkId, PackId};
use crate::table::{Child, Entry, Table, TableRef};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Where tables go.
pub(crate) trait Sink {
    /// The name of a slot's pack, once it is published.
    fn pack(&self, slot: u32) -> Option<PackId>;
    /// Stores a table unless it is there, and says where.
    fn store(&mut self, level: u8, id: ChunkId, plain: &[u8]) -> Result<Place, Error>;
    /// Publishes the pack in which tables of this level are gathered.
    fn seal(&mut self, level: u8) -> Result<(), Error>;
}

/// A child whose pack may not have a name yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) id: ChunkId,
    pub(crate) place: Place,
    pub(crate) plain_bytes: u32,
}

/// What stands at one place of a table to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    Child { bytes: u64, child: Pending },
    Zeros { bytes: u64 },
    Bad { bytes: u64 },
}

impl Item {
    fn bytes(&self) -> u64 {
        match self {
            Item::Child { bytes, .. } | Item::Zeros { bytes } | Item::Bad { bytes } => *bytes,
        }
    }
}

/// Tables that are in the store already, and where: an unchanged stretch needs no look-up.
pub(crate) type KnownTables = Arc<[(ChunkId, Place)]>;

/// A table whose children are all known.
#[derive(Debug)]
struct Node {
    level: u8,
    /// Ordinal among its siblings' parents: see `parent_of`.
    parent: u64,
    position: u64,
    items: Vec<Item>,
    packs: BTreeSet<PackId>,
    /// The slot that was without a name when this was last looked at.
    waits_for: Option<u32>,
    known: KnownTables,
}

/// A table whose children are still arriving.
#[derive(Debug, Default)]
struct Gathering {
    expected: Option<u64>,
    items: BTreeMap<u64, Item>,
    packs: BTreeSet<PackId>,
    known: KnownTables,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct TreeBuilder {
    leaf_bytes: u64,
    fan_out: u64,
    waiting: Vec<Node>,
    gathering: HashMap<(u8, u64), Gathering>,
    segments: u64,
    /// Tables above the segments' that are in the store already.
    known: HashMap<ChunkId, Place>,
}

impl TreeBuilder {
    pub(crate) fn new(leaf_bytes: u32, fan_out: u32) -> TreeBuilder {
        TreeBuilder {
            leaf_bytes: u64::from(leaf_bytes),
            fan_out: u64::from(fan_out),
            waiting: Vec::new(),
            gathering: HashMap::new(),
            segments: 0,
            known: HashMap::new(),
        }
    }

    /// These tables, above the segments', are in the store already.
    pub(crate) fn know(&mut self, tables: HashMap<ChunkId, Place>) {
        self.known.extend(tables);
    }

    /// Leaves that wait for a data pack to get its name.
    pub(crate) fn leaves_waiting(&self) -> usize {
        self.waiting.iter().filter(|node| node.level == 0).count()
    }

    /// One segment's runs, in order; each segment once, in any order. Of `known`, its tables need not be stored again.
    pub(crate) fn add_segment(&mut self, segment: u64, runs: Vec<Item>, known: &KnownTables) {
        let leaves = split(runs, self.leaf_bytes);
        self.segments = self.segments.max(segment + 1);
        let gathering = self.gathering.entry((1, segment)).or_default();
        gathering.expected = Some(leaves.len() as u64);
        gathering.known = known.clone();
        for (position, items) in (0u64..).zip(leaves) {
            let packs = BTreeSet::new();
            let known = known.clone();
            self.waiting.push(Node {
                level: 0,
                parent: segment,
                position,
                items,
                packs,
                waits_for: None,
                known,
            });
        }
    }

    /// Encodes and stores every table that can be, upwards.
    pub(crate) fn settle(&mut self, sink: &mut dyn Sink) -> Result<(), Error> {
        loop {
            let (ready, waiting) =
                std::mem::take(&mut self.waiting).into_iter().partition(|node| is_ready(node, sink));
            self.waiting = waiting;
            let ready: Vec<Node> = ready;
            if ready.is_empty() {
                self.waiting.iter_mut().for_each(|node| node.waits_for = unnamed(&node.items, sink));
                return Ok(());
            }
            for node in ready {
                self.store(node, sink)?;
            }
        }
    }

    fn store(&mut self, node: Node, sink: &mut dyn Sink) -> Result<(), Error> {
        let entries =
            node.items.iter().map(|item| entry(item, sink)).collect::<Result<Vec<Entry>, Error>>()?;
        let table = Table::new(node.level, entries, node.packs);
        let bytes = table.bytes();
        let item = if table.is_zeros() {
            Item::Zeros { bytes }
        } else {
            let plain = table.encode();
            let id = chunk_id(ChunkKind::Table, &plain);
            let in_segment = node.known.iter().find(|(known, _)| *known == id).map(|(_, place)| *place);
            let place = match in_segment.or_else(|| self.known.get(&id).copied()) {
                Some(place) => place,
                None => sink.store(node.level, id, &plain)?,
            };
            let plain_bytes =
                u32::try_from(plain.len()).map_err(|_| Error::Misuse("a table of over 4 GiB"))?;
            Item::Child { bytes, child: Pending { id, place, plain_bytes } }
        };
        // Levels 1 and 2 list everything below them, so that gc need not read leaves (DESIGN §4.6).
        let below = if node.level <= 1 { table.packs } else { Vec::new() };
        self.gather(node.level + 1, node.parent, node.position, item, below);
        Ok(())
    }

    fn gather(&mut self, level: u8, index: u64, position: u64, item: Item, packs: Vec<PackId>) {
        let gathering = self.gathering.entry((level, index)).or_default();
        gathering.items.insert(position, item);
        gathering.packs.extend(packs);
        self.complete(level, index);
    }

    /// Makes a table of a gathering that has all its children.
    fn complete(&mut self, level: u8, index: u64) {
        let expected = if level == 1 { None } else { Some(self.fan_out) };
        let full = |g: &Gathering| g.expected.or(expected) == Some(g.items.len() as u64);
        if !self.gathering.get(&(level, index)).is_some_and(full) {
            return;
        }
        if let Some(done) = self.gathering.remove(&(level, index)) {
            self.waiting.push(Node {
                level,
                parent: index / self.fan_out,
                position: index % self.fan_out,
                items: done.items.into_values().collect(),
                packs: done.packs,
                waits_for: None,
                known: done.known,
            });
        }
    }

    /// All segments are in: the root, once every pack below it is published.
    pub(crate) fn finish(mut self, sink: &mut dyn Sink) -> Result<Option<TableRef>, Error> {
        let (mut count, mut root_level) = (self.segments, 1u8);
        while count > 1 {
            let below = count;
            count = below.div_ceil(self.fan_out);
            root_level += 1;
            // Full tables complete by themselves, and may have done so long ago; only the last can be short.
            let short = below % self.fan_out;
            if short > 0 {
                self.gathering.entry((root_level, count - 1)).or_default().expected = Some(short);
                self.complete(root_level, count - 1);
            }
        }
        // Above the root nothing may complete: the gathering there holds the root alone.
        self.gathering.entry((root_level + 1, 0)).or_default().expected = Some(u64::MAX);
        for level in 0..=root_level {
            self.settle(sink)?;
            sink.seal(level)?;
        }
        self.settle(sink)?;
        if !self.waiting.is_empty() || self.gathering.len() > 1 {
            return Err(Error::Misuse("segments are missing"));
        }
        match self.gathering.get(&(root_level + 1, 0)).and_then(|top| top.items.get(&0)) {
            Some(Item::Child { child, .. }) => root(child, root_level, sink).map(Some),
            Some(Item::Zeros { .. } | Item::Bad { .. }) => Ok(None),
            None if self.segments == 0 => Ok(None),
            None => Err(Error::Misuse("segments are missing")),
        }
    }
}

fn root(child: &Pending, level: u8, sink: &dyn Sink) -> Result<TableRef, Error> {
    let pack = sink.pack(child.place.slot).ok_or(Error::Misuse("the root's pack is not published"))?;
    Ok(TableRef {
        level,
        id: child.id,
        pack,
        offset: child.place.offset,
        stored_bytes: child.place.stored_bytes,
        plain_bytes: child.plain_bytes,
    })
}

fn entry(item: &Item, sink: &dyn Sink) -> Result<Entry, Error> {
    Ok(match item {
        Item::Zeros { bytes } => Entry::Zeros { bytes: *bytes },
        Item::Bad { bytes } => Entry::Bad { bytes: *bytes },
        Item::Child { bytes, child: Pending { id, place, plain_bytes } } => {
            let pack = sink.pack(place.slot).ok_or(Error::Misuse("a table before its packs"))?;
            let (offset, stored_bytes) = (place.offset, place.stored_bytes);
            Entry::Child {
                bytes: *bytes,
                child: Child { id: *id, pack, offset, stored_bytes, plain_bytes: *plain_bytes },
            }
        }
    })
}

/// The first slot among the items whose pack has no name yet.
fn unnamed(items: &[Item], sink: &dyn Sink) -> Option<u32> {
    items.iter().find_map(|item| match item {
        Item::Child { child, .. } if sink.pack(child.place.slot).is_none() => Some(child.place.slot),
        _ => None,
    })
}

fn is_ready(node: &Node, sink: &dyn Sink) -> bool {
    // Most nodes still wait for the pack that they waited for last time: one look instead of one per item.
    node.waits_for.is_none_or(|slot| sink.pack(slot).is_some()) && unnamed(&node.items, sink).is_none()
}

/// A segment's runs by the leaf step in which they start (DESIGN §4.6).
fn split(runs: Vec<Item>, leaf_bytes: u64) -> Vec<Vec<Item>> {
    let mut leaves: Vec<Vec<Item>> = Vec::new();
    let (mut offset, mut step) = (0u64, None);
    for run in runs {
        if step != Some(offset / leaf_bytes) {
            step = Some(offset / leaf_bytes);
            leaves.push(Vec::new());
        }
        offset = offset.saturating_add(run.bytes());
        if let Some(leaf) = leaves.last_mut() {
            leaf.push(run);
        }
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables by id; packs are named as soon as their level is sealed.
    #[derive(Default)]
    struct Memory {
        tables: HashMap<ChunkId, Vec<u8>>,
        sealed: BTreeSet<u32>,
        stored: u32,
    }

    impl Sink for Memory {
        fn pack(&self, slot: u32) -> Option<PackId> {
            (slot >= 100 || self.sealed.contains(&slot))
                .then(|| PackId([u8::try_from(slot % 256).unwrap(); 32]))
        }
        fn store(&mut self, level: u8, id: ChunkId, plain: &[u8]) -> Result<Place, Error> {
            self.tables.insert(id, plain.to_vec());
            self.stored += 1;
            Ok(Place { slot: u32::from(level), offset: 32, stored_bytes: 9 })
        }
        fn seal(&mut self, level: u8) -> Result<(), Error> {
            self.sealed.insert(u32::from(level));
            Ok(())
        }
    }

    fn segment(number: u64) -> Vec<Item> {
        let chunk = |n: u64, bytes: u64| Item::Child {
            bytes,
            child: Pending {
                id: ChunkId([u8::try_from(number * 8 + n).unwrap(); 32]),
                place: Place { slot: 100 + u32::try_from(number).unwrap(), offset: 0, stored_bytes: 5 },
                plain_bytes: u32::try_from(bytes).unwrap(),
            },
        };
        vec![chunk(0, 3000), chunk(1, 2000), Item::Zeros { bytes: 9000 }, chunk(2, 100)]
    }

    fn build(order: &[u64]) -> (Option<TableRef>, Memory) {
        let mut sink = Memory::default();
        let mut tree = TreeBuilder::new(4096, 2);
        for number in order {
            let runs = if number % 3 == 2 { vec![Item::Zeros { bytes: 16384 }] } else { segment(*number) };
            tree.add_segment(*number, runs, &KnownTables::default());
            tree.settle(&mut sink).unwrap();
        }
        (tree.finish(&mut sink).unwrap(), sink)
    }

    #[test]
    fn the_order_of_segments_does_not_matter() {
        for count in 1..9u64 {
            let forward: Vec<u64> = (0..count).collect();
            let backward: Vec<u64> = (0..count).rev().collect();
            let (root, sink) = build(&forward);
            assert_eq!(root, build(&backward).0, "{count} segments");
            let table = Table::decode(&sink.tables[&root.unwrap().id]).unwrap();
            let zeros = (0..count).filter(|n| n % 3 == 2).count() as u64;
            assert_eq!(table.bytes(), (count - zeros) * 14100 + zeros * 16384);
        }
    }

    #[test]
    fn zeros_need_no_table() {
        let mut sink = Memory::default();
        let mut tree = TreeBuilder::new(4096, 2);
        (0..5).for_each(|number| {
            tree.add_segment(number, vec![Item::Zeros { bytes: 16384 }], &KnownTables::default())
        });
        assert_eq!(tree.finish(&mut sink).unwrap(), None);
        assert_eq!(sink.stored, 0);
    }

    #[test]
    fn tables_that_complete_before_the_end_are_not_missed() {
        for count in 1..20u64 {
            // As when a disk is captured again: every table is in a pack that has its name.
            let mut sink = Memory { sealed: (0..9).collect(), ..Memory::default() };
            let mut tree = TreeBuilder::new(4096, 2);
            for number in 0..count {
                tree.add_segment(number, segment(number), &KnownTables::default());
                tree.settle(&mut sink).unwrap();
            }
            assert!(tree.finish(&mut sink).unwrap().is_some(), "{count} segments");
        }
    }

    #[test]
    fn a_missing_segment_is_noticed() {
        let mut sink = Memory::default();
        let mut tree = TreeBuilder::new(4096, 2);
        tree.add_segment(1, segment(1), &KnownTables::default());
        assert!(tree.finish(&mut sink).is_err());
    }

    #[test]
    fn runs_fall_into_the_leaf_in_which_they_start() {
        let leaves = split(segment(0), 4096);
        assert_eq!(leaves.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1]);
    }
}

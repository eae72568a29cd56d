//! Tables: which chunks make a stretch of a device, and where they were when it was written. Format: DESIGN §4.6.
//!
//! Promise: what `decode` returns adds up (lengths, indexes, order), whatever bytes it was given (I6); `encode` of it
//! gives the same bytes, so that an unchanged stretch has an unchanged id. Knows nothing of how tables are fetched.

use crate::codec::PLAIN_BYTES_MAX;
use crate::id::{ChunkId, PackId};
use serde::{Deserialize, Serialize};

/// Nine levels of fan-out 2 and more cover any device that fits 64 bits of bytes with the default fan-out.
pub(crate) const LEVEL_MAX: u8 = 40;

const HEADER_BYTES: usize = 24;
const KIND_CHILD: u8 = 0;
const KIND_ZEROS: u8 = 1;
const KIND_BAD: u8 = 2;

/// A chunk or a table below, with the hint where its blob was (I9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Child {
    pub(crate) id: ChunkId,
    pub(crate) pack: PackId,
    pub(crate) offset: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) plain_bytes: u32,
}

/// What stands at one place of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    Child { bytes: u64, child: Child },
    Zeros { bytes: u64 },
    Bad { bytes: u64 },
}

impl Entry {
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Entry::Child { bytes, .. } | Entry::Zeros { bytes } | Entry::Bad { bytes } => *bytes,
        }
    }
}

/// A table, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    pub(crate) level: u8,
    /// Sorted, no duplicates: the packs of the children, and what DESIGN §4.6 adds for levels 1 and 2.
    pub(crate) packs: Vec<PackId>,
    pub(crate) entries: Vec<Entry>,
}

/// Where a tree of tables begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableRef {
    /// Level of the root table.
    pub level: u8,
    /// Its id.
    pub id: ChunkId,
    /// Where it was when the manifest was written: pack, …
    pub pack: PackId,
    /// … offset, …
    pub offset: u32,
    /// … and bytes of the blob.
    pub stored_bytes: u32,
    /// Bytes of the table.
    pub plain_bytes: u32,
}

impl TableRef {
    /// The root as a table above it would name it.
    pub(crate) fn child(&self) -> Child {
        Child {
            id: self.id,
            pack: self.pack,
            offset: self.offset,
            stored_bytes: self.stored_bytes,
            plain_bytes: self.plain_bytes,
        }
    }

    /// A root of this level.
    pub(crate) fn of(level: u8, child: &Child) -> TableRef {
        let Child { id, pack, offset, stored_bytes, plain_bytes } = *child;
        TableRef { level, id, pack, offset, stored_bytes, plain_bytes }
    }
}

/// Why some bytes are no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Columns and counts do not fit the bytes.
    #[error("table: expected {expected} bytes, found {found}")]
    Length {
        /// Bytes that the counts ask for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// Not a level that can stand here.
    #[error("table: expected level {expected}, found {found}")]
    Level {
        /// Level that the table above implies.
        expected: u8,
        /// Level that stands there.
        found: u8,
    },
    /// Reserved bytes are not zero.
    #[error("table: reserved bytes are not zero")]
    Reserved,
    /// Packs out of order or twice.
    #[error("table: packs are not in order")]
    PackOrder,
    /// An entry of an unknown kind, empty, too long, or of a pack that is not listed.
    #[error("table: entry {0} is not possible")]
    Entry(u32),
    /// The entries do not add up to what the table covers.
    #[error("table: expected {expected} device bytes, found {found}")]
    Covered {
        /// Bytes that the table says it covers.
        expected: u64,
        /// Sum of its entries.
        found: u64,
    },
}

impl Table {
    /// A table of these entries; its packs are those of the children and `more`.
    pub(crate) fn new(level: u8, entries: Vec<Entry>, more: impl IntoIterator<Item = PackId>) -> Table {
        let own = entries.iter().filter_map(|entry| match entry {
            Entry::Child { child, .. } => Some(child.pack),
            _ => None,
        });
        let mut packs: Vec<PackId> = own.chain(more).collect();
        packs.sort_unstable();
        packs.dedup();
        Table { level, packs, entries: join_zeros(entries) }
    }

    /// Device bytes covered.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum()
    }

    /// Whether there is nothing but zeros.
    pub(crate) fn is_zeros(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry, Entry::Zeros { .. }))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.packs.len() * 32 + self.entries.len() * 57);
        bytes.extend_from_slice(&[self.level, 0, 0, 0]);
        for count in [self.packs.len(), self.entries.len(), 0] {
            bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes.extend_from_slice(&self.bytes().to_le_bytes());
        self.packs.iter().for_each(|pack| bytes.extend_from_slice(pack.as_bytes()));
        bytes.extend(self.entries.iter().map(|entry| match entry {
            Entry::Child { .. } => KIND_CHILD,
            Entry::Zeros { .. } => KIND_ZEROS,
            Entry::Bad { .. } => KIND_BAD,
        }));
        self.entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.bytes().to_le_bytes()));
        self.encode_children(&mut bytes);
        bytes
    }

    fn encode_children(&self, bytes: &mut Vec<u8>) {
        let children = || {
            self.entries.iter().filter_map(|entry| match entry {
                Entry::Child { child, .. } => Some(child),
                _ => None,
            })
        };
        let mut column = |values: &mut dyn Iterator<Item = u32>| {
            values.for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
        };
        let pack_index = |child: &Child| {
            // `new` has put every child's pack into the list; tables have far fewer than 2^32 packs.
            self.packs.binary_search(&child.pack).map_or(u32::MAX, |at| u32::try_from(at).unwrap_or(u32::MAX))
        };
        let mut expected = 0u32;
        let offsets = children().map(|child| {
            let difference = child.offset.wrapping_sub(expected);
            expected = child.offset.wrapping_add(child.stored_bytes);
            difference
        });
        let offsets: Vec<u32> = offsets.collect();
        let ids: Vec<u32> = children()
            .flat_map(|child| {
                child.id.as_bytes().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            })
            .collect();
        column(&mut ids.into_iter());
        column(&mut children().map(pack_index));
        column(&mut offsets.into_iter());
        column(&mut children().map(|child| child.stored_bytes));
        if self.level > 0 {
            column(&mut children().map(|child| child.plain_bytes));
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Table, TableError> {
        let header = Header::decode(bytes)?;
        let (packs, rest) = bytes[HEADER_BYTES..].split_at(header.packs * 32);
        let packs: Vec<PackId> = packs.chunks_exact(32).map(|id| PackId(to_32(id))).collect();
        if packs.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(TableError::PackOrder);
        }
        let entries = decode_entries(&header, &packs, rest)?;
        let found = entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.bytes()));
        if found != Some(header.covered) {
            return Err(TableError::Covered { expected: header.covered, found: found.unwrap_or(u64::MAX) });
        }
        Ok(Table { level: header.level, packs, entries })
    }

    /// Decodes a table that must have this level.
    pub(crate) fn decode_level(bytes: &[u8], level: u8) -> Result<Table, TableError> {
        let table = Table::decode(bytes)?;
        if table.level == level {
            Ok(table)
        } else {
            Err(TableError::Level { expected: level, found: table.level })
        }
    }
}

fn join_zeros(entries: Vec<Entry>) -> Vec<Entry> {
    let mut joined: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match (joined.last_mut(), entry) {
            (Some(Entry::Zeros { bytes }), Entry::Zeros { bytes: more }) => {
                *bytes = bytes.saturating_add(more)
            }
            (Some(Entry::Bad { bytes }), Entry::Bad { bytes: more }) => *bytes = bytes.saturating_add(more),
            _ => joined.push(entry),
        }
    }
    joined
}

struct Header {
    level: u8,
    packs: usize,
    entries: usize,
    children: usize,
    covered: u64,
}

impl Header {
    /// The header, with all lengths checked against the bytes: the columns can be split off without further checks.
    fn decode(bytes: &[u8]) -> Result<Header, TableError> {
        let found = bytes.len() as u64;
        let length = |expected| TableError::Length { expected, found };
        if bytes.len() < HEADER_BYTES || bytes.len() > PLAIN_BYTES_MAX {
            return Err(length(HEADER_BYTES as u64));
        }
        let level = bytes[0];
        if bytes[1..4] != [0; 3] || bytes[12..16] != [0; 4] {
            return Err(TableError::Reserved);
        }
        if level > LEVEL_MAX {
            return Err(TableError::Level { expected: LEVEL_MAX, found: level });
        }
        let (packs, entries) = (u32_at(bytes, 4) as usize, u32_at(bytes, 8) as usize);
        let fixed = HEADER_BYTES as u64 + packs as u64 * 32 + entries as u64 * 9;
        if fixed > found {
            return Err(length(fixed));
        }
        let kinds_at = HEADER_BYTES + packs * 32;
        let children = bytes[kinds_at..kinds_at + entries].iter().filter(|kind| **kind == KIND_CHILD).count();
        let each = if level > 0 { 48 } else { 44 };
        let expected = fixed + children as u64 * each;
        if expected != found {
            return Err(length(expected));
        }
        Ok(Header { level, packs, entries, children, covered: u64_at(bytes, 16) })
    }
}

fn decode_entries(header: &Header, packs: &[PackId], rest: &[u8]) -> Result<Vec<Entry>, TableError> {
    let (kinds, rest) = rest.split_at(header.entries);
    let (lengths, rest) = rest.split_at(header.entries * 8);
    let mut children = Children::new(header, packs, rest);
    let mut entries = Vec::with_capacity(header.entries);
    for (number, kind) in kinds.iter().enumerate() {
        let bad = TableError::Entry(u32::try_from(number).unwrap_or(u32::MAX));
        let bytes = u64_at(lengths, number * 8);
        let entry = match *kind {
            KIND_CHILD => Entry::Child { bytes, child: children.next(bytes).ok_or(bad)? },
            KIND_ZEROS => Entry::Zeros { bytes },
            KIND_BAD if header.level == 0 => Entry::Bad { bytes },
            _ => return Err(bad),
        };
        if bytes == 0 {
            return Err(bad);
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The columns of the children, read side by side.
struct Children<'a> {
    level: u8,
    packs: &'a [PackId],
    ids: &'a [u8],
    columns: &'a [u8],
    count: usize,
    next: usize,
    expected_offset: u32,
}

impl<'a> Children<'a> {
    fn new(header: &Header, packs: &'a [PackId], rest: &'a [u8]) -> Children<'a> {
        let (ids, columns) = rest.split_at(header.children * 32);
        Children {
            level: header.level,
            packs,
            ids,
            columns,
            count: header.children,
            next: 0,
            expected_offset: 0,
        }
    }

    fn column(&self, column: usize) -> u32 {
        u32_at(self.columns, (column * self.count + self.next) * 4)
    }

    fn next(&mut self, bytes: u64) -> Option<Child> {
        let id = ChunkId(to_32(self.ids.get(self.next * 32..self.next * 32 + 32)?));
        let pack = *self.packs.get(self.column(0) as usize)?;
        let offset = self.expected_offset.wrapping_add(self.column(1));
        let stored_bytes = self.column(2);
        let plain_bytes = if self.level > 0 { self.column(3) } else { u32::try_from(bytes).ok()? };
        if plain_bytes as usize > PLAIN_BYTES_MAX {
            return None;
        }
        self.expected_offset = offset.wrapping_add(stored_bytes);
        self.next += 1;
        Some(Child { id, pack, offset, stored_bytes, plain_bytes })
    }
}

fn to_32(bytes: &[u8]) -> [u8; 32] {
    let mut id = [0; 32];
    id.copy_from_slice(bytes);
    id
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn child() -> impl Strategy<Value = Child> {
        (any::<[u8; 32]>(), 0u8..4, any::<u32>(), any::<u32>(), 1u32..1 << 20).prop_map(
            |(id, pack, offset, stored_bytes, plain_bytes)| Child {
                id: ChunkId(id),
                pack: PackId([pack; 32]),
                offset,
                stored_bytes,
                plain_bytes,
            },
        )
    }

    fn table(level: u8) -> impl Strategy<Value = Table> {
        let entry = prop_oneof![
            4 => child().prop_map(move |child| Entry::Child { bytes: u64::from(child.plain_bytes), child }),
            1 => (1u64..1 << 40).prop_map(|bytes| Entry::Zeros { bytes }),
            1 => (1u64..1 << 40).prop_map(move |bytes| if level == 0 { Entry::Bad { bytes } } else { Entry::Zeros { bytes } }),
        ];
        prop::collection::vec(entry, 0..40)
            .prop_map(move |entries| Table::new(level, entries, [PackId([9; 32])]))
    }

    /// Found by fuzzing: lengths whose sum is beyond 64 bits, in a table that says it covers 2^64 - 1 bytes.
    #[test]
    fn lengths_that_add_up_beyond_64_bits_are_refused() {
        let mut bytes = Table::new(0, vec![Entry::Bad { bytes: 1 }, Entry::Zeros { bytes: 2 }], []).encode();
        let lengths_at = HEADER_BYTES + 2;
        for at in [16, lengths_at, lengths_at + 8] {
            bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        }
        let refused = Err(TableError::Covered { expected: u64::MAX, found: u64::MAX });
        assert_eq!(Table::decode(&bytes), refused);
    }

    proptest! {
        #[test]
        fn tables_go_both_ways(table in prop_oneof![table(0), table(1), table(3)]) {
            let bytes = table.encode();
            let back = Table::decode(&bytes).unwrap();
            prop_assert_eq!(&back, &table);
            prop_assert_eq!(back.encode(), bytes);
        }

        #[test]
        fn damaged_tables_never_panic(table in table(0), at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
            let mut bytes = table.encode();
            let place = at.index(bytes.len());
            bytes[place] = value;
            let cut = cut.index(bytes.len() + 1);
            Table::decode(&bytes[..cut]).ok();
            if let Ok(decoded) = Table::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            Table::decode(&bytes).ok();
        }
    }
}

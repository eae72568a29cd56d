//! Putting partitions behind each other: what is to be placed, where, and the passes over them.
//!
//! Promise: a pass never lets two overlap and never changes their order; it may run out of the area, which the caller
//! sees. A partition that is not where it was begins on a border of [`GRAIN_BYTES`].
//! Knows nothing of modes.

use crate::Extent;
use crate::arrange::table::{Entry, PartitionTable};
use crate::arrange::{GRAIN_BYTES, Geometry, Need, gpt, mbr, read};
use crate::table::TableKind;

/// Where partitions may be.
pub(super) struct Area {
    /// The first byte.
    pub(super) first: u64,
    /// The first byte behind.
    pub(super) end: u64,
    /// What the table needs behind that.
    tail: u64,
    /// How far the table can reach, if the target isn't what ends it.
    pub(super) limit: Option<u64>,
    pub(super) sector: u32,
}

impl Area {
    pub(super) fn of(table: &PartitionTable, target: Geometry) -> Self {
        let sector = u64::from(target.sector_bytes);
        let bytes = target.sectors().saturating_mul(sector);
        let (first, tail, limit) = match &table.gpt {
            Some(kept) if table.kind == TableKind::Gpt => {
                let lba = gpt::entries_lba(kept, table.sector_bytes, target.sector_bytes);
                (read::table_end(kept, lba, sector), gpt::tail_bytes(kept, sector), None)
            }
            _ => (sector, 0, Some(mbr::limit_bytes(sector))),
        };
        let end = bytes.saturating_sub(tail).min(limit.unwrap_or(u64::MAX));
        Self { first, end, tail, limit, sector: target.sector_bytes }
    }

    /// The size of a target whose partitions end here.
    pub(super) fn target_bytes(&self, end: u64) -> u64 {
        end.max(self.first)
            .checked_next_multiple_of(u64::from(self.sector))
            .unwrap_or(u64::MAX)
            .saturating_add(self.tail)
    }

    /// Whether partitions that end here are inside; the table itself has to be, too.
    pub(super) fn holds(&self, end: u64) -> bool {
        end.max(self.first) <= self.end
    }
}

/// A partition to be placed.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Which of the table's entries.
    pub(super) index: usize,
    /// Its number on the source.
    pub(super) number: u32,
    /// Its old place.
    pub(super) from: Extent,
    /// Its size, as planned so far: a multiple of the target's sector.
    pub(super) bytes: u64,
    /// The smallest size that its content allows.
    pub(super) least: u64,
    /// The largest one.
    pub(super) most: u64,
    /// Whether a mode may make it larger.
    pub(super) grows: bool,
    /// Whether a mode may make it smaller.
    pub(super) shrinks: bool,
    /// Whether its content can become larger.
    pub(super) can_grow: bool,
    /// Whether its old place is one on the target.
    home: bool,
    /// Where it shall not begin before, when nothing has to be close together.
    hint: u64,
    /// What lies before it in its old place and belongs to it.
    lead: u64,
    /// What must be free before it in a new place.
    lead_moved: u64,
}

/// A place for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// The first byte of the partition.
    pub(super) start: u64,
    /// Bytes before it that belong to it.
    pub(super) lead: u64,
}

impl Spot {
    /// The first byte that is not free for others.
    pub(super) fn begin(&self) -> u64 {
        self.start.saturating_sub(self.lead)
    }
}

impl Item {
    /// A partition of which nothing is known but its entry.
    pub(super) fn new(index: usize, number: u32, entry: &Entry, sector: u64) -> Self {
        let from = entry.extent;
        let bytes = from.bytes.checked_next_multiple_of(sector.max(1)).unwrap_or(u64::MAX);
        Self {
            index,
            number,
            from,
            bytes,
            least: bytes,
            most: u64::MAX,
            grows: false,
            shrinks: false,
            can_grow: false,
            home: is_multiple(from.offset, sector),
            hint: from.offset,
            lead: 0,
            lead_moved: 0,
        }
    }

    /// A logical partition: what lies before it, and what has to.
    pub(super) fn set_lead(&mut self, lead: u64, least: u64, sector: u64) {
        self.lead = if least == 0 { 0 } else { lead };
        self.lead_moved = if least == 0 { 0 } else { GRAIN_BYTES };
        self.home &= self.lead >= least && is_multiple(self.lead, sector);
    }

    /// The old place means nothing.
    pub(super) fn forget_home(&mut self) {
        (self.home, self.hint) = (false, 0);
    }

    pub(super) fn set_need(&mut self, need: &Need, fixed_type: bool, sector: u64) {
        let min = need.min_bytes.checked_next_multiple_of(sector.max(1)).unwrap_or(u64::MAX);
        let fixed = fixed_type || need.fixed;
        self.least = if need.fixed { self.bytes } else { min.max(sector).min(self.bytes) };
        self.most = need.max_bytes.unwrap_or(u64::MAX).max(self.bytes);
        self.can_grow = need.can_grow;
        self.grows = need.can_grow && !fixed;
        self.shrinks = self.least < self.bytes && !fixed;
    }

    /// How much smaller a mode may make it and leave it this: whole grains, so that all sizes stay multiples of
    /// what they were multiples of.
    pub(super) fn spare(&self, leave: u64) -> u64 {
        match self.shrinks {
            true => down(self.bytes.saturating_sub(leave.max(self.least))),
            false => 0,
        }
    }

    /// Whether a spot is its old place.
    pub(super) fn stays(&self, spot: &Spot) -> bool {
        self.home && spot.start == self.from.offset && self.bytes == self.from.bytes
    }

    /// How small a file may make it, whatever the modes may: in whole grains less than it was.
    pub(super) fn smallest(&self) -> u64 {
        self.bytes.saturating_sub(down(self.bytes.saturating_sub(self.least)))
    }

    /// In its old place, or behind that as little as possible.
    pub(super) fn kept(&self, cursor: u64) -> Spot {
        self.at_home(cursor, false).unwrap_or_else(|| self.on_border(cursor, self.hint))
    }

    /// As near to `cursor` as borders allow; its old place is as good as a border.
    pub(super) fn closed(&self, cursor: u64) -> Spot {
        let on_border = self.on_border(cursor, 0);
        self.at_home(cursor, true).filter(|spot| spot.start <= on_border.start).unwrap_or(on_border)
    }

    /// Its old place, if that is free from `cursor` on. `close`: what lies before it is not worth more than a grain.
    fn at_home(&self, cursor: u64, close: bool) -> Option<Spot> {
        let lead = if close { self.lead.min(GRAIN_BYTES) } else { self.lead };
        let spot = Spot { start: self.from.offset, lead };
        (self.home && cursor <= spot.begin() && lead <= spot.start).then_some(spot)
    }

    /// The first border behind `cursor` with room for what has to lie before it.
    pub(super) fn on_border(&self, cursor: u64, not_before: u64) -> Spot {
        Spot { start: up(cursor.saturating_add(self.lead_moved).max(not_before)), lead: self.lead_moved }
    }

    /// Exactly there, if that is free from `cursor` on; what has to lie before it takes what room there is, up to a
    /// grain, and two records at least. The error is the first start that would do.
    pub(super) fn exactly(&self, start: u64, cursor: u64, sector: u64) -> Result<Spot, u64> {
        if let Some(spot) = self.at_home(cursor, false).filter(|spot| spot.start == start) {
            return Ok(spot);
        }
        let free_from = cursor.saturating_add(self.lead_moved.min(sector.saturating_mul(2)));
        match start.checked_sub(cursor) {
            Some(room) if start >= free_from => Ok(Spot { start, lead: self.lead_moved.min(room) }),
            _ => Err(free_from),
        }
    }
}

/// Where the last of them ends; 0 when there is none.
pub(super) fn end_of(items: &[Item], spots: &[Spot]) -> u64 {
    items.iter().zip(spots).map(|(item, spot)| spot.start.saturating_add(item.bytes)).max().unwrap_or(0)
}

/// All in their old places; what can't be there is moved behind, as little as possible.
pub(super) fn keep(items: &[Item], first: u64) -> Vec<Spot> {
    run(items, first, Item::kept)
}

/// All as close together as borders allow, the first one in its old place.
pub(super) fn close(items: &[Item], first: u64) -> Vec<Spot> {
    let mut leading = true;
    run(items, first, |item, cursor| match std::mem::take(&mut leading) {
        true => item.kept(cursor),
        false => item.closed(cursor),
    })
}

/// All on borders, one behind the other.
pub(super) fn on_borders(items: &[Item], first: u64) -> Vec<Spot> {
    run(items, first, |item, cursor| item.on_border(cursor, 0))
}

/// Each where it is in `spots` if that is free, behind that otherwise.
pub(super) fn push(items: &[Item], spots: &[Spot], first: u64) -> Vec<Spot> {
    let mut spots = spots.iter();
    run(items, first, |item, cursor| match spots.next() {
        Some(spot) if cursor <= spot.begin() => *spot,
        _ => item.on_border(cursor, 0),
    })
}

fn run(items: &[Item], first: u64, mut place: impl FnMut(&Item, u64) -> Spot) -> Vec<Spot> {
    let mut cursor = first;
    let mut spots = Vec::with_capacity(items.len());
    for item in items {
        let spot = place(item, cursor);
        cursor = spot.start.saturating_add(item.bytes);
        spots.push(spot);
    }
    spots
}

/// All as near to `end` as borders allow, but never before where they are in `spots`. Where the first of them begins
/// is the second answer.
pub(super) fn against(items: &[Item], spots: &[Spot], end: u64) -> (Vec<Spot>, u64) {
    let mut cursor = end;
    let mut placed = Vec::with_capacity(items.len());
    for (item, spot) in items.iter().zip(spots).rev() {
        let moved = Spot { start: down(cursor.saturating_sub(item.bytes)), lead: item.lead_moved };
        let better = moved.start > spot.start && moved.begin() >= spot.begin();
        let spot = if better { moved } else { *spot };
        cursor = spot.begin();
        placed.push(spot);
    }
    placed.reverse();
    (placed, cursor)
}

fn is_multiple(bytes: u64, of: u64) -> bool {
    bytes.checked_rem(of) == Some(0)
}

/// The border at or behind.
pub(super) fn up(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(GRAIN_BYTES).unwrap_or(u64::MAX)
}

/// The border at or before.
pub(super) fn down(bytes: u64) -> u64 {
    bytes.saturating_sub(bytes.checked_rem(GRAIN_BYTES).unwrap_or(0))
}

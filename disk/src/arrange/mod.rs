//! Where partitions go on a target: a pure function of a table, what its contents need, the target and the wishes.
//! DESIGN.md §6.2.
//!
//! Promise: partitions of an arrangement do not overlap, lie where the table allows, keep their order, and have what
//! they need; or the answer says why not. Knows nothing of devices, filesystems and how contents are moved.

mod error;
mod file;
mod gpt;
mod mbr;
mod place;
mod read;
mod scheme;
mod table;
mod types;
mod wanted;

use std::str::FromStr;

use crate::Extent;
use crate::arrange::place::{Area, Item, Spot};
use crate::arrange::wanted::Wanted;
use crate::table::{TableKind, sane};

pub use error::{Remark, Unfit};
pub use file::{LayoutFile, LayoutFileError};
pub use table::{Entry, PartitionTable};

/// Moved partitions begin on such borders: what partitioning tools do, and a multiple of all sectors and erase blocks.
const GRAIN_BYTES: u64 = 1 << 20;

/// Size of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes.
    pub bytes: u64,
    /// Size of its logical sectors.
    pub sector_bytes: u32,
}

impl Geometry {
    fn check(self) -> Result<(), Unfit> {
        match sane(self.sector_bytes) == self.sector_bytes {
            true => Ok(()),
            false => Err(Unfit::SectorSize { sector_bytes: self.sector_bytes }),
        }
    }

    /// Whole sectors.
    fn sectors(self) -> u64 {
        self.bytes.checked_div(u64::from(self.sector_bytes)).unwrap_or(0)
    }

    fn sector_len(self) -> usize {
        usize::try_from(self.sector_bytes).unwrap_or(512)
    }

    /// The sector that begins at `offset`, of partition `number`.
    fn lba(self, number: u32, offset: u64) -> Result<u64, Unfit> {
        let sector = u64::from(self.sector_bytes);
        match offset.checked_rem(sector) {
            Some(0) => Ok(offset.checked_div(sector).unwrap_or(0)),
            _ => Err(Unfit::Misaligned { number, offset, sector_bytes: self.sector_bytes }),
        }
    }
}

/// What the content of a partition needs. A partition of which nothing is said keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Need {
    /// The partition.
    pub number: u32,
    /// The smallest size that its content can be given.
    pub min_bytes: u64,
    /// Whether its content can become larger.
    pub can_grow: bool,
    /// It keeps its size, whatever its type.
    pub fixed: bool,
    /// The largest size that its content can be given, if there is one.
    pub max_bytes: Option<u64>,
    /// The logical sector size that the content is bound to, if it is.
    pub sector_bytes: Option<u32>,
    /// Bytes in use, for those who print plans.
    pub used_bytes: Option<u64>,
}

/// How sizes follow the target's.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// All places stay.
    #[default]
    Keep,
    /// The last partition that can grow takes the free space, those behind it move to the end.
    Grow,
    /// All that can grow share the free space by their sizes.
    Proportional,
    /// As [`Mode::Keep`]; where that doesn't fit, those with most to spare shrink.
    Fit,
    /// As a file says.
    Explicit(LayoutFile),
}

/// A word that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected keep, grow, proportional or fit, found {found:?}")]
pub struct UnknownMode {
    /// The word.
    pub found: String,
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "keep" => Ok(Self::Keep),
            "grow" => Ok(Self::Grow),
            "proportional" => Ok(Self::Proportional),
            "fit" => Ok(Self::Fit),
            found => Err(UnknownMode { found: found.to_owned() }),
        }
    }
}

/// What is wished for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Wishes {
    /// How sizes follow the target's.
    pub mode: Mode,
    /// An MBR becomes a GPT.
    pub to_gpt: bool,
    /// These partitions only, by the source's numbers.
    pub only: Option<Vec<u32>>,
    /// The partitions go into a new GPT, from its start and numbered from 1, as if made by hand: for a single
    /// partition onto a disk without a table.
    pub create: bool,
}

/// One partition's old and new place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its number on the source.
    pub number: u32,
    /// Its number on the target.
    pub becomes: u32,
    /// Its place on the source.
    pub from: Extent,
    /// Its place on the target.
    pub to: Extent,
}

/// A target as it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrangement {
    /// The target.
    pub target: Geometry,
    /// Its table, as it will be.
    pub table: PartitionTable,
    /// Bytes of the source before the first partition that go to the target as they are, under the table; 0 where
    /// they would make no sense there.
    pub head_bytes: u64,
    /// The partitions, in order of place.
    pub volumes: Vec<Placed>,
    /// The size of the smallest target on which these wishes can be met.
    pub min_bytes: u64,
    /// Identities that changed, old and new, as `PTUUID=` and `PARTUUID=` spell them.
    pub ids: Vec<(String, String)>,
    /// What people should know.
    pub notes: Vec<Remark>,
}

/// Finds a place for each partition. `random` is asked where a new table needs identities.
///
/// # Errors
/// [`Unfit`]: the wishes can't be met on this target; [`Unfit::TooSmall`] says on which they could.
pub fn arrange(
    table: &PartitionTable,
    needs: &[Need],
    target: Geometry,
    wishes: &Wishes,
    random: &mut dyn FnMut() -> [u8; 16],
) -> Result<Arrangement, Unfit> {
    target.check()?;
    let wanted = wanted::wanted(table, wishes, target.sector_bytes, random)?;
    check_sectors(&wanted, needs, target.sector_bytes)?;
    let items = items(&wanted, needs, target.sector_bytes);
    let area = Area::of(&wanted.table, target);
    let least = scheme::least_end(&items, &area, &wishes.mode)?;
    let min_bytes = area.target_bytes(least);
    let scheme = match scheme::scheme(items, &area, &wishes.mode)? {
        Some(scheme) => scheme,
        None => return Err(too_small(&area, least, target)),
    };
    Ok(finish(table, wanted, target, min_bytes, &area, scheme))
}

/// The size of the smallest target, with sectors of this size, on which the wishes can be met.
///
/// # Errors
/// [`Unfit`]: there is none.
pub fn minimum(
    table: &PartitionTable,
    needs: &[Need],
    sector_bytes: u32,
    wishes: &Wishes,
) -> Result<u64, Unfit> {
    let target = Geometry { bytes: u64::MAX, sector_bytes };
    target.check()?;
    let wanted = wanted::wanted(table, wishes, sector_bytes, &mut || [0; 16])?;
    check_sectors(&wanted, needs, sector_bytes)?;
    let area = Area::of(&wanted.table, target);
    let least = scheme::least_end(&items(&wanted, needs, sector_bytes), &area, &wishes.mode)?;
    match area.limit {
        Some(limit) if least > limit => Err(Unfit::BeyondMbr { needed: least, limit }),
        _ => Ok(area.target_bytes(least)),
    }
}

fn check_sectors(wanted: &Wanted, needs: &[Need], target: u32) -> Result<(), Unfit> {
    for need in needs.iter().filter(|need| wanted.origins.contains(&need.number)) {
        if let Some(bound) = need.sector_bytes.filter(|bound| *bound != target) {
            return Err(Unfit::SectorBound { number: need.number, bound, target });
        }
    }
    Ok(())
}

/// What is to be placed, in order of place.
fn items(wanted: &Wanted, needs: &[Need], sector_bytes: u32) -> Vec<Item> {
    let first_of_chain = read::first_of_chain(&wanted.table);
    let sector = u64::from(sector_bytes);
    let mut first_logical = true;
    let mut items = Vec::with_capacity(wanted.order.len());
    for index in wanted.order.iter().copied() {
        let (Some(entry), Some(number)) = (wanted.table.entries.get(index), wanted.origins.get(index)) else {
            continue;
        };
        let mut item = Item::new(index, *number, entry, sector);
        if entry.logical {
            let chained_first = first_of_chain == Some(entry.number);
            item.set_lead(entry.lead, read::least_lead(first_logical, chained_first, sector), sector);
            first_logical = false;
        }
        if wanted.homeless {
            item.forget_home();
        }
        if let Some(need) = needs.iter().find(|need| need.number == *number) {
            item.set_need(need, types::is_fixed(&entry.type_id), sector);
        }
        items.push(item);
    }
    items
}

fn too_small(area: &Area, least: u64, target: Geometry) -> Unfit {
    match area.limit {
        Some(limit) if least > limit => Unfit::BeyondMbr { needed: least, limit },
        _ => Unfit::TooSmall { needed: area.target_bytes(least), has: target.bytes },
    }
}

fn finish(
    source: &PartitionTable,
    wanted: Wanted,
    target: Geometry,
    min_bytes: u64,
    area: &Area,
    scheme: scheme::Scheme,
) -> Arrangement {
    let Wanted { mut table, mut notes, ids, homeless, .. } = wanted;
    let sector_changed = source.sector_bytes != target.sector_bytes;
    let mut volumes = Vec::with_capacity(scheme.items.len());
    for (item, spot) in scheme.items.iter().zip(&scheme.spots) {
        if let Some(entry) = table.entries.get_mut(item.index) {
            let (from, becomes) = (entry.extent, entry.number);
            let to = Extent { offset: spot.start, bytes: item.bytes };
            entry.extent = to;
            entry.lead = spot.lead;
            volumes.push(Placed { number: item.number, becomes, from, to });
        }
    }
    end_extended(&mut table, &scheme.items, &scheme.spots, area);
    let same_start = !homeless && !sector_changed && source.kind == table.kind;
    let head_bytes = match same_start {
        true => head_bytes(source, &table, area),
        false => 0,
    };
    if source.kind == TableKind::Mbr && !homeless && !same_start {
        notes.push(Remark::GapLeft);
    }
    notes.extend(scheme.notes);
    if let Some(limit) = area.limit.filter(|limit| *limit < target.bytes) {
        notes.push(Remark::OutOfReach { bytes: target.bytes.saturating_sub(limit) });
    }
    gpt::recount(&mut table, target.sector_bytes);
    Arrangement { target, table, head_bytes, volumes, min_bytes, ids, notes }
}

/// The extended partition ends where it did when nothing in it moved, and where its last one does otherwise.
fn end_extended(table: &mut PartitionTable, items: &[Item], spots: &[Spot], area: &Area) {
    let Some(mut extended) = table.extended else { return };
    let logical = |item: &Item| table.entries.get(item.index).is_some_and(|entry| entry.logical);
    let placed: Vec<(&Item, &Spot)> = items.iter().zip(spots).collect();
    let mut inside = placed.iter().filter(|(item, _)| logical(item));
    let last = inside.clone().map(|(item, spot)| spot.start.saturating_add(item.bytes)).max().unwrap_or(0);
    let stays = inside.all(|(item, spot)| item.stays(spot));
    let behind = placed.iter().filter(|(item, spot)| !logical(item) && spot.start >= last);
    let room = behind.map(|(_, spot)| spot.start).min().unwrap_or(u64::MAX).min(area.end);
    let sector = u64::from(area.sector);
    let room = room.saturating_sub(room.checked_rem(sector).unwrap_or(0));
    let whole = extended.end.checked_rem(sector) == Some(0);
    extended.end = if stays && whole { extended.end.min(room).max(last) } else { last };
    table.extended = Some(extended);
}

/// What lies before the first partition, on the source and on the target.
fn head_bytes(source: &PartitionTable, table: &PartitionTable, area: &Area) -> u64 {
    let on_source = source.first_byte().unwrap_or(area.first);
    let on_target = table.first_byte().unwrap_or(area.first);
    on_source.min(on_target).min(area.end)
}

#[cfg(test)]
mod tests;

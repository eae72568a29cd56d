//! The modes: which sizes partitions get, and in which pass they are placed.
//!
//! Promise: sizes change by whole grains, so they stay multiples of what they were multiples of; those of fixed kinds
//! do not change unless a file says so. Knows nothing of tables.

use std::ops::Range;

use crate::arrange::error::{Remark, Unfit};
use crate::arrange::file::{LayoutFile, Line, Size};
use crate::arrange::place::{Area, Item, Spot, against, close, down, end_of, keep, on_borders, push, up};
use crate::arrange::{GRAIN_BYTES, Mode};

/// A shrunk filesystem is left this part of its minimum as room to live, where there is room.
const SLACK_PART: u64 = 20;

/// Sizes and places.
pub(super) struct Scheme {
    pub(super) items: Vec<Item>,
    pub(super) spots: Vec<Spot>,
    pub(super) notes: Vec<Remark>,
}

impl Scheme {
    fn of(items: Vec<Item>, spots: Vec<Spot>) -> Self {
        Self { items, spots, notes: Vec::new() }
    }

    fn if_it_fits(self, area: &Area) -> Option<Self> {
        area.holds(end_of(&self.items, &self.spots)).then_some(self)
    }
}

/// Where the last partition ends when the wishes are met with as little as possible.
pub(super) fn least_end(items: &[Item], area: &Area, mode: &Mode) -> Result<u64, Unfit> {
    match mode {
        Mode::Keep => Ok(end_of(items, &keep(items, area.first))),
        Mode::Grow | Mode::Proportional | Mode::Fit => {
            let mut smallest = items.to_vec();
            for item in &mut smallest {
                item.bytes = item.bytes.saturating_sub(item.spare(0));
            }
            // Never further than where they are: closing up moves each partition to the front, or not at all.
            Ok(end_of(&smallest, &close(&smallest, area.first)))
        }
        Mode::Explicit(file) => {
            let (scheme, _) = as_the_file_says(items.to_vec(), area, file, true)?;
            Ok(end_of(&scheme.items, &scheme.spots))
        }
    }
}

/// Sizes and places by the mode; `None`: there is not enough room.
pub(super) fn scheme(items: Vec<Item>, area: &Area, mode: &Mode) -> Result<Option<Scheme>, Unfit> {
    if let Mode::Explicit(file) = mode {
        if let Ok((scheme, rest)) = as_the_file_says(items.clone(), area, file, false)
            && let Some(scheme) = scheme.if_it_fits(area)
        {
            return Ok(Some(fill(scheme, rest, area)));
        }
        let (scheme, rest) = as_the_file_says(items, area, file, true)?;
        return Ok(scheme.if_it_fits(area).map(|scheme| fill(scheme, rest, area)));
    }
    let fits = |spots: &Vec<Spot>| area.holds(end_of(&items, spots));
    let kept = Some(keep(&items, area.first)).filter(fits);
    // Closing gaps may do, on a target that is a little smaller; then there may be something to give away again.
    let closed = || Some(close(&items, area.first)).filter(fits);
    Ok(match (mode, kept) {
        (Mode::Keep, None) => None,
        (Mode::Keep | Mode::Fit, Some(spots)) => Some(Scheme::of(items, spots)),
        (Mode::Grow, kept) => match kept.or_else(closed) {
            Some(spots) => Some(grow(items, spots, area)),
            None => fit(items, area),
        },
        (Mode::Proportional, kept) => match kept.or_else(closed) {
            Some(spots) => Some(proportional(items, spots, area)),
            None => fit(items, area),
        },
        _ => fit(items, area),
    })
}

/// The last one that grows takes what is free.
fn grow(mut items: Vec<Item>, mut spots: Vec<Spot>, area: &Area) -> Scheme {
    let Some(last) = items.iter().rposition(|item| item.grows) else { return stays(items, spots, area) };
    let behind = last.saturating_add(1)..items.len();
    stretch(&mut items, &mut spots, last, behind, area.end);
    Scheme::of(items, spots)
}

fn stays(items: Vec<Item>, spots: Vec<Spot>, area: &Area) -> Scheme {
    let free = area.end.saturating_sub(end_of(&items, &spots));
    let mut scheme = Scheme::of(items, spots);
    if free >= GRAIN_BYTES && !scheme.items.is_empty() {
        scheme.notes.push(Remark::NothingGrows);
    }
    scheme
}

/// Makes one as large as it can be before `end`; those behind it are moved there. If it can't take all, they are
/// moved no further than they must.
fn stretch(items: &mut [Item], spots: &mut [Spot], index: usize, behind: Range<usize>, end: u64) {
    let (Some(others), Some(places)) = (items.get(behind.clone()), spots.get(behind.clone())) else { return };
    let (moved, limit) = against(others, places, end);
    let start = spots.get(index).map_or(0, |spot| spot.start);
    let Some(item) = items.get(index) else { return };
    let room = down(limit.saturating_sub(start).saturating_sub(item.bytes));
    let extra = room.min(down(item.most.saturating_sub(item.bytes)));
    if extra == 0 {
        return;
    }
    let bytes = item.bytes.saturating_add(extra);
    let moved = match extra == room {
        true => moved,
        false => push(others, places, start.saturating_add(bytes)),
    };
    if let Some(item) = items.get_mut(index) {
        item.bytes = bytes;
    }
    for (spot, moved) in spots.iter_mut().skip(behind.start).zip(moved) {
        *spot = moved;
    }
}

/// All that grow share what is free. Those before the first of them stay where they are, gaps behind it are closed.
fn proportional(mut items: Vec<Item>, kept: Vec<Spot>, area: &Area) -> Scheme {
    let Some(first) = items.iter().position(|item| item.grows) else { return stays(items, kept, area) };
    let place = |items: &[Item]| {
        let (before, behind) = items.split_at_checked(first.saturating_add(1)).unwrap_or((items, &[]));
        let mut spots: Vec<Spot> = kept.iter().take(before.len()).copied().collect();
        let cursor =
            before.last().zip(spots.last()).map_or(0, |(item, spot)| spot.start.saturating_add(item.bytes));
        spots.extend(on_borders(behind, cursor));
        spots
    };
    // What is shared is in whole grains, so those behind are moved by exactly as much: it will fit.
    let free = down(area.end.saturating_sub(end_of(&items, &place(&items))));
    if free == 0 {
        return Scheme::of(items, kept);
    }
    share(&mut items, free);
    let spots = place(&items);
    Scheme::of(items, spots)
}

/// Gives away `free`, in grains, by the sizes that they had; what one can't take goes to the others.
fn share(items: &mut [Item], mut free: u64) {
    loop {
        let room = |item: &Item| down(item.most.saturating_sub(item.bytes));
        let takes = |item: &&mut Item| item.grows && room(item) > 0;
        let whole: u128 = items.iter_mut().filter(takes).map(|item| u128::from(item.from.bytes)).sum();
        let mut left = free;
        for item in items.iter_mut().filter(takes) {
            let part =
                u128::from(free).saturating_mul(item.from.bytes.into()).checked_div(whole).unwrap_or(0);
            let part = down(u64::try_from(part).unwrap_or(u64::MAX)).min(room(item)).min(left);
            item.bytes = item.bytes.saturating_add(part);
            left = left.saturating_sub(part);
        }
        if left == free {
            // Less than a grain for each: the last one takes what is left.
            if let Some(item) = items.iter_mut().rfind(takes) {
                item.bytes = item.bytes.saturating_add(room(item).min(left));
            }
            return;
        }
        free = left;
    }
}

/// First closes gaps, then takes from those with most to spare, until all that gave have equally much to spare: so few
/// filesystems have to be shrunk, and none loses all its room while others keep theirs. Their minimum and some slack is left
/// to them, their minimum alone if it has to be.
fn fit(mut items: Vec<Item>, area: &Area) -> Option<Scheme> {
    let slack: fn(&Item) -> u64 = |item| item.least.saturating_add(item.least.div_ceil(SLACK_PART));
    let none: fn(&Item) -> u64 = |item| item.least;
    for leave in [slack, none] {
        // More than once for one level, as a partition behind may have been nearer in its old place than on the next border.
        while let Some(over @ 1..) = Some(end_of(&items, &close(&items, area.first)).saturating_sub(area.end))
            && take_from_the_richest(&mut items, over, leave)
        {}
    }
    let spots = close(&items, area.first);
    Scheme::of(items, spots).if_it_fits(area)
}

/// Takes from those with most to spare what is over, or what brings them down to the next. Whether there was anything.
fn take_from_the_richest(items: &mut [Item], over: u64, leave: fn(&Item) -> u64) -> bool {
    let spare = |item: &Item| item.spare(leave(item));
    let most = items.iter().map(spare).max().unwrap_or(0);
    if most == 0 {
        return false;
    }
    let level = most.saturating_sub(GRAIN_BYTES);
    let is_rich = |item: &Item| spare(item) > level;
    let count = u64::try_from(items.iter().filter(|item| is_rich(item)).count()).unwrap_or(u64::MAX);
    let next = items.iter().filter(|item| !is_rich(item)).map(spare).max().unwrap_or(0);
    let each = up(over.div_ceil(count)).min(up(most.saturating_sub(next))).max(GRAIN_BYTES);
    for item in items.iter_mut().filter(|item| is_rich(item)) {
        item.bytes = item.bytes.saturating_sub(each.min(spare(item)));
    }
    true
}

/// Sizes and places of a file; the one that takes the rest as small as it can be. Which one that is, and the first
/// behind it that has a place of its own, is the second answer. `close`: what the file gives no place to needs not be
/// where it was.
fn as_the_file_says(
    mut items: Vec<Item>,
    area: &Area,
    file: &LayoutFile,
    close: bool,
) -> Result<(Scheme, Option<(usize, usize)>), Unfit> {
    let known = |line: &&Line| items.iter().any(|item| item.number == line.number);
    if let Some(line) = file.lines.iter().find(|line| !known(line)) {
        return Err(Unfit::NoSuchPartition { number: line.number });
    }
    let unit = u64::from(file.sector_bytes.unwrap_or(area.sector));
    let sector = u64::from(area.sector);
    let mut spots = Vec::with_capacity(items.len());
    let mut rest: Option<(usize, usize)> = None;
    let mut cursor = area.first;
    let len = items.len();
    for (index, item) in items.iter_mut().enumerate() {
        let line = file.lines.iter().find(|line| line.number == item.number);
        let start = line.and_then(|line| line.start).map(|start| start.bytes(unit));
        if let Some((_, next)) = rest.as_mut().filter(|(_, next)| *next == len && start.is_some()) {
            *next = index;
        }
        match line.and_then(|line| line.size) {
            Some(Size::Rest) => {
                item.bytes = item.smallest();
                rest = Some((index, len));
            }
            Some(size) => set_bytes(item, size.bytes(item.from.bytes, unit), sector)?,
            None => {}
        }
        let spot = match start {
            // What is behind the one that takes the rest shall leave it as much as it can.
            None if index > 0 && (close || rest.is_some_and(|(rest, next)| rest < index && next == len)) => {
                item.closed(cursor)
            }
            None => item.kept(cursor),
            Some(start) => at(item, start, cursor, sector)?,
        };
        cursor = spot.start.saturating_add(item.bytes);
        spots.push(spot);
    }
    Ok((Scheme::of(items, spots), rest))
}

fn at(item: &Item, start: u64, cursor: u64, sector: u64) -> Result<Spot, Unfit> {
    let number = item.number;
    if start.checked_rem(sector) != Some(0) {
        let sector_bytes = u32::try_from(sector).unwrap_or(u32::MAX);
        return Err(Unfit::Misaligned { number, offset: start, sector_bytes });
    }
    item.exactly(start, cursor, sector).map_err(|free_from| Unfit::Occupied { number, free_from, start })
}

fn set_bytes(item: &mut Item, bytes: u64, sector: u64) -> Result<(), Unfit> {
    let number = item.number;
    let given = bytes.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
    if given < item.least {
        return Err(Unfit::BelowMinimum { number, needed: item.least, given });
    }
    if given > item.most {
        return Err(Unfit::AboveMaximum { number, most: item.most, given });
    }
    item.bytes = given;
    Ok(())
}

/// Gives the rest to the one that shall have it.
fn fill(mut scheme: Scheme, rest: Option<(usize, usize)>, area: &Area) -> Scheme {
    if let Some((index, next)) = rest {
        let end = scheme.spots.get(next).map_or(area.end, Spot::begin);
        stretch(&mut scheme.items, &mut scheme.spots, index, index.saturating_add(1)..next, end);
    }
    let stays = |item: &&Item| item.bytes > item.from.bytes && !item.can_grow;
    let notes = scheme.items.iter().filter(stays).map(|item| Remark::ContentStays { number: item.number });
    scheme.notes = notes.collect();
    scheme
}

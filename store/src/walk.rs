//! Walking down a tree of tables: the tables of a few segments are fetched together, their leaves in parallel.
//!
//! Promise: `chunk` is called for every chunk below every table that was entered, or the walk fails and says of each table
//! that may not have been walked whole that it failed. Memory: the tables of `SEGMENTS_AT_ONCE` segments. Knows nothing
//! of what is collected.

use crate::Error;
use crate::reader::Reader;
use crate::table::{Child, Entry, Table};
use rayon::prelude::*;

/// Leaves that are in memory at once: 512 of 5 KB, or of 100 KB with the smallest chunks; two levels up a range of some
/// 30 KB fetches 16 of them.
const SEGMENTS_AT_ONCE: usize = 32;
/// Fewer segments are not worth a pool. (And the simulation of the protocol runs every call on its actor's own thread.)
const PARALLEL_MIN: usize = 4;

/// Who walks.
pub(crate) trait Visitor {
    /// Whether to look into a table; asked before it is read.
    fn enter(&mut self, table: &Child) -> bool;
    /// A table that was entered may not have been walked whole.
    fn failed(&mut self, table: &Child);
    /// A chunk below a table that was entered.
    fn chunk(&mut self, chunk: &Child);
}

/// From a table of this level down.
pub(crate) fn walk(visitor: &mut impl Visitor, reader: &Reader, top: &Child, level: u8) -> Result<(), Error> {
    if !visitor.enter(top) {
        return Ok(());
    }
    let walked = below(visitor, reader, top, level);
    if walked.is_err() {
        visitor.failed(top);
    }
    walked
}

fn below(visitor: &mut impl Visitor, reader: &Reader, top: &Child, level: u8) -> Result<(), Error> {
    let table = reader.table(top, level)?;
    match level {
        0 => children(&table).for_each(|chunk| visitor.chunk(chunk)),
        1 => leaves(visitor, reader, &[&table])?,
        2 => {
            let all: Vec<Child> = children(&table).copied().collect();
            all.chunks(SEGMENTS_AT_ONCE).try_for_each(|some| segments(visitor, reader, some))?;
        }
        _ => children(&table).try_for_each(|child| walk(visitor, reader, child, level - 1))?,
    }
    Ok(())
}

fn children(table: &Table) -> impl Iterator<Item = &Child> {
    table.entries.iter().filter_map(|entry| match entry {
        Entry::Child { child, .. } => Some(child),
        Entry::Zeros { .. } | Entry::Bad { .. } => None,
    })
}

/// Some segment tables of one table above them.
fn segments(visitor: &mut impl Visitor, reader: &Reader, some: &[Child]) -> Result<(), Error> {
    let entered: Vec<Child> = some.iter().filter(|child| visitor.enter(child)).copied().collect();
    let walked = reader
        .tables(&entered, 1)
        .and_then(|tables| leaves(visitor, reader, &tables.iter().collect::<Vec<&Table>>()));
    if walked.is_err() {
        entered.iter().for_each(|child| visitor.failed(child));
    }
    walked
}

/// The leaves of some segment tables.
fn leaves(visitor: &mut impl Visitor, reader: &Reader, segments: &[&Table]) -> Result<(), Error> {
    let mut enter = |table: &&Table| -> Vec<Child> {
        children(table).filter(|child| visitor.enter(child)).copied().collect()
    };
    let entered: Vec<Vec<Child>> = segments.iter().map(&mut enter).filter(|some| !some.is_empty()).collect();
    let read = |some: &Vec<Child>| reader.tables(some, 0);
    let tables: Result<Vec<Vec<Table>>, Error> = if entered.len() < PARALLEL_MIN {
        entered.iter().map(read).collect()
    } else {
        entered.par_iter().map(read).collect()
    };
    match tables {
        Ok(tables) => {
            tables.iter().flatten().flat_map(children).for_each(|chunk| visitor.chunk(chunk));
            Ok(())
        }
        Err(error) => {
            entered.iter().flatten().for_each(|child| visitor.failed(child));
            Err(error)
        }
    }
}

//! The same image without certain packs: what they held is stored again, and the tables above it are made anew.
//! For the post-check (DESIGN §5.3, step 5) and for undelete.
//!
//! Promise: reads only the tables that lead to those packs; an image it cannot do wholly it does not do at all.

use crate::Error;
use crate::codec::{ChunkKind, chunk_id};
use crate::id::{ChunkId, PackId};
use crate::manifest::Manifest;
use crate::reader::Reader;
use crate::table::{Child, Entry, Table, TableRef};
use crate::tree::Sink;
use crate::writer::Writer;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Tables that name a lost pack, or lie in one, by level.
type Affected = BTreeMap<u8, Vec<(ChunkId, Arc<Table>)>>;

/// The root of the image's tree without `lost`.
pub(crate) fn without(
    writer: &Writer,
    manifest: &Manifest,
    lost: &[PackId],
) -> Result<Option<TableRef>, Error> {
    let Some(root) = manifest.root else { return Ok(None) };
    let lost: HashSet<PackId> = lost.iter().copied().collect();
    let reader = writer.store().reader();
    let mut affected = Affected::new();
    let top = root.child();
    find(reader, &top, root.level, &lost, &mut affected)?;
    store_chunks(writer, reader, &lost, &affected)?;
    let replaced = writer.with_tables(|sink| replace(writer, sink, &lost, &affected))?;
    let new = replaced.get(&root.id).map_or(top, |(child, _)| *child);
    Ok(Some(TableRef::of(root.level, &new)))
}

fn find(
    reader: &Reader,
    child: &Child,
    level: u8,
    lost: &HashSet<PackId>,
    affected: &mut Affected,
) -> Result<bool, Error> {
    let table = reader.table(child, level)?;
    let mut hit = lost.contains(&child.pack) || table.packs.iter().any(|pack| lost.contains(pack));
    // Levels 1 and 2 list all that is below them: nothing lost there, nothing lost further down.
    if level > 2 || (level > 0 && hit) {
        for entry in &table.entries {
            if let Entry::Child { child, .. } = entry {
                hit |= find(reader, child, level - 1, lost, affected)?;
            }
        }
    }
    if hit {
        affected.entry(level).or_default().push((child.id, table));
    }
    Ok(hit)
}

fn store_chunks(
    writer: &Writer,
    reader: &Reader,
    lost: &HashSet<PackId>,
    affected: &Affected,
) -> Result<(), Error> {
    for (_, table) in affected.get(&0).into_iter().flatten() {
        for entry in &table.entries {
            if let Entry::Child { child, .. } = entry
                && lost.contains(&child.pack)
            {
                writer.place_of(child.id, || reader.chunk(ChunkKind::Data, child))?;
            }
        }
    }
    Ok(())
}

/// Old table -> where the new one is, and its packs.
type Replaced = HashMap<ChunkId, (Child, Vec<PackId>)>;

fn replace(
    writer: &Writer,
    sink: &mut dyn Sink,
    lost: &HashSet<PackId>,
    affected: &Affected,
) -> Result<Replaced, Error> {
    let mut replaced = Replaced::new();
    for (level, tables) in affected {
        let mut stored = Vec::new();
        for (old, table) in tables {
            let new = replace_one(writer, sink, lost, table, &replaced)?;
            let plain = new.encode();
            let id = chunk_id(ChunkKind::Table, &plain);
            let place = sink.store(*level, id, &plain)?;
            let plain_bytes =
                u32::try_from(plain.len()).map_err(|_| Error::Misuse("a table of over 4 GiB"))?;
            stored.push((*old, id, place, plain_bytes, new.packs));
        }
        sink.seal(*level)?;
        for (old, id, place, plain_bytes, packs) in stored {
            let pack = sink.pack(place.slot).ok_or(Error::Misuse("a table before its packs"))?;
            let child =
                Child { id, pack, offset: place.offset, stored_bytes: place.stored_bytes, plain_bytes };
            replaced.insert(old, (child, packs));
        }
    }
    Ok(replaced)
}

fn replace_one(
    writer: &Writer,
    sink: &dyn Sink,
    lost: &HashSet<PackId>,
    table: &Table,
    replaced: &Replaced,
) -> Result<Table, Error> {
    let mut more: Vec<PackId> = Vec::new();
    let mut entries = Vec::with_capacity(table.entries.len());
    for entry in &table.entries {
        entries.push(match entry {
            Entry::Child { bytes, child } if table.level > 0 => {
                let (child, packs) = replaced.get(&child.id).cloned().unwrap_or((*child, Vec::new()));
                more.extend(packs);
                Entry::Child { bytes: *bytes, child }
            }
            Entry::Child { bytes, child } if lost.contains(&child.pack) => {
                let gone = || Err(Error::Misuse("a chunk that was just stored"));
                let place = writer.place_of(child.id, gone)?;
                let pack = sink.pack(place.slot).ok_or(Error::Misuse("a leaf before its packs"))?;
                let (offset, stored_bytes) = (place.offset, place.stored_bytes);
                Entry::Child { bytes: *bytes, child: Child { pack, offset, stored_bytes, ..*child } }
            }
            other => *other,
        });
    }
    // Levels 1 and 2 keep what they listed of unchanged children; above, only direct children count.
    let deep = table.level == 1 || table.level == 2;
    let kept = table.packs.iter().copied().chain(more).filter(|pack| deep && !lost.contains(pack));
    Ok(Table::new(table.level, entries, kept.collect::<Vec<PackId>>()))
}

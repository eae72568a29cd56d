//! The records of the catalogue: one per pack, in sled or in memory. Layout: DESIGN §5.4.
//!
//! Promise: whatever state the sled files are in, `open` gives usable records: unclean, unknown or panicking files are
//! removed and begun anew. A read that fails or whose check fails is a miss. Knows nothing of what the packs hold.

use crate::Error;
use crate::codec::ChunkKind;
use crate::id::{ChunkId, PackId, blake3_of};
use crate::pack::PackEntry;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// sled's page cache. Records are read in order or kept decoded elsewhere; more does not help.
const SLED_CACHE_BYTES: u64 = 64 << 20;
/// Written when all is in line with the store; removed before anything is changed.
const CLEAN_KEY: &[u8] = b"clean";
const GENERATION: &str = "cas catalogue 1";
const ENTRY_BYTES: usize = 44;
/// Check and pack size before the entries.
const HEAD_BYTES: usize = 16;

#[derive(Debug)]
enum Home {
    Sled { database: sled::Db, packs: sled::Tree, scrubbed: sled::Tree },
    Memory,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Records {
    home: Home,
    /// All of them when the home is memory; else those that sled would not take.
    memory: Mutex<HashMap<PackId, Vec<u8>>>,
    scrubbed: Mutex<HashMap<PackId, i64>>,
    rebuilt: Option<String>,
    generation: String,
}

impl Records {
    /// Records of this process only.
    pub(crate) fn in_memory() -> Records {
        Records {
            home: Home::Memory,
            memory: Mutex::default(),
            scrubbed: Mutex::default(),
            rebuilt: None,
            generation: String::new(),
        }
    }

    /// The records in a folder, begun anew if they can't be trusted. The caller holds the store's lock.
    pub(crate) fn open(folder: &Path, store_id: &str) -> Result<Records, Error> {
        let path = folder.join("sled");
        let generation = format!("{GENERATION} {store_id}");
        let fresh = !path.exists();
        let (home, rebuilt) = match open_trusted(&path, &generation) {
            Ok(home) => (home, None),
            Err(why) => {
                let home = begin_anew(&path)?;
                (home, if fresh { None } else { Some(why) })
            }
        };
        Ok(Records { home, memory: Mutex::default(), scrubbed: Mutex::default(), rebuilt, generation })
    }

    /// Removes the files of a catalogue. The caller holds the store's lock.
    pub(crate) fn remove_files(folder: &Path) -> Result<(), Error> {
        remove_folder(&folder.join("sled"))
    }

    /// Why `open` began anew, if it did.
    pub(crate) fn rebuilt(&self) -> Option<String> {
        self.rebuilt.clone()
    }

    /// Every pack recorded, with the size that its file had.
    pub(crate) fn sizes(&self) -> HashMap<PackId, u64> {
        let mut sizes: HashMap<PackId, u64> = HashMap::new();
        if let Home::Sled { packs, .. } = &self.home {
            let read = catch_unwind(AssertUnwindSafe(|| {
                // Not beyond an error: over damaged files the iterator gives the same one without end.
                let sound = packs.iter().map_while(Result::ok);
                sound.filter_map(|(key, value)| size_of(&key, &value)).collect()
            }));
            sizes = read.unwrap_or_default();
        }
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.extend(memory.iter().filter_map(|(id, value)| size_of(id.as_bytes(), value)));
        sizes
    }

    /// The entries of a pack whose file has this size; `None` when there is no sound record of it.
    pub(crate) fn get(&self, id: PackId, pack_bytes: u64) -> Option<Vec<PackEntry>> {
        if let Some(value) = self.memory.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return decode(value, pack_bytes);
        }
        let Home::Sled { packs, .. } = &self.home else { return None };
        let value = catch_unwind(AssertUnwindSafe(|| packs.get(id.as_bytes()))).ok()?.ok()??;
        decode(&value, pack_bytes)
    }

    pub(crate) fn insert(&self, id: PackId, pack_bytes: u64, entries: &[PackEntry]) {
        let value = encode(pack_bytes, entries);
        if let Home::Sled { packs, .. } = &self.home {
            let written =
                catch_unwind(AssertUnwindSafe(|| packs.insert(id.as_bytes(), value.as_slice()).is_ok()));
            if written.unwrap_or(false) {
                return;
            }
        }
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(id, value);
    }

    pub(crate) fn remove(&self, id: PackId) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if let Home::Sled { packs, scrubbed, .. } = &self.home {
            // A record that can't be removed is found stale by its size or absence again, or is read once more.
            catch_unwind(AssertUnwindSafe(|| packs.remove(id.as_bytes()).is_ok())).unwrap_or(false);
            catch_unwind(AssertUnwindSafe(|| scrubbed.remove(id.as_bytes()).is_ok())).unwrap_or(false);
        }
    }

    /// When a pack was last scrubbed, seconds since 1970.
    pub(crate) fn scrubbed(&self, id: PackId) -> Option<i64> {
        if let Some(time) = self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Some(*time);
        }
        let Home::Sled { scrubbed, .. } = &self.home else { return None };
        let value = catch_unwind(AssertUnwindSafe(|| scrubbed.get(id.as_bytes()))).ok()?.ok()??;
        Some(i64::from_le_bytes(value.as_ref().try_into().ok()?))
    }

    pub(crate) fn set_scrubbed(&self, id: PackId, seconds: i64) {
        self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner).insert(id, seconds);
        if let Home::Sled { scrubbed, .. } = &self.home {
            let write = || scrubbed.insert(id.as_bytes(), seconds.to_le_bytes().as_slice()).is_ok();
            catch_unwind(AssertUnwindSafe(write)).unwrap_or(false);
        }
    }

    /// Marks the records as in line with the store. Failing only means that the next `open` begins anew.
    pub(crate) fn close(&self) {
        let memory_used = !self.memory.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let Home::Sled { database, .. } = &self.home else { return };
        if memory_used {
            return;
        }
        let mark = || {
            database.flush().is_ok()
                && database.insert(CLEAN_KEY, self.generation.as_bytes()).is_ok()
                && database.flush().is_ok()
        };
        catch_unwind(AssertUnwindSafe(mark)).unwrap_or(false);
    }
}

fn size_of(key: &[u8], value: &[u8]) -> Option<(PackId, u64)> {
    let size = value.get(8..16)?;
    Some((PackId(key.try_into().ok()?), u64::from_le_bytes(size.try_into().ok()?)))
}

/// The check that a record of the catalogue carries.
fn record_check(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3_of(bytes);
    [hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]
}

fn encode(pack_bytes: u64, entries: &[PackEntry]) -> Vec<u8> {
    let mut value = vec![0; 8];
    value.extend_from_slice(&pack_bytes.to_le_bytes());
    for entry in entries {
        value.extend_from_slice(entry.id.as_bytes());
        value.extend_from_slice(&entry.offset.to_le_bytes());
        value.extend_from_slice(&entry.stored_bytes.to_le_bytes());
        let kind = u32::from(entry.kind.code()) << 31;
        value.extend_from_slice(&(entry.plain_bytes | kind).to_le_bytes());
    }
    let check = record_check(&value[8..]);
    value[..8].copy_from_slice(&check);
    value
}

fn decode(value: &[u8], pack_bytes: u64) -> Option<Vec<PackEntry>> {
    let body = value.get(8..)?;
    if record_check(body)[..] != value[..8] || value.get(8..16)? != pack_bytes.to_le_bytes() {
        return None;
    }
    let entries = value.get(HEAD_BYTES..)?;
    let number = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let entry = |bytes: &[u8]| {
        let plain = number(bytes, 40);
        let kind = if plain >> 31 == 1 { ChunkKind::Table } else { ChunkKind::Data };
        let mut id = [0; 32];
        id.copy_from_slice(&bytes[..32]);
        PackEntry {
            id: ChunkId(id),
            kind,
            offset: number(bytes, 32),
            stored_bytes: number(bytes, 36),
            plain_bytes: plain & (u32::MAX >> 1),
        }
    };
    Some(entries.chunks_exact(ENTRY_BYTES).map(entry).collect())
}

/// Opens sled files that were closed cleanly and are of this store; the text says why not.
fn open_trusted(path: &Path, generation: &str) -> Result<Home, String> {
    if !path.exists() {
        return Err("there was none".to_string());
    }
    // sled 0.34 panics on most flipped bits in its files.
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let (database, packs, scrubbed) = open_sled(path)?;
        let clean = database.remove(CLEAN_KEY)?;
        database.flush()?;
        Ok::<_, sled::Error>((clean, database, packs, scrubbed))
    }));
    match attempt {
        Err(_) => Err("its files are damaged".to_string()),
        Ok(Err(error)) => Err(format!("it could not be opened: {error}")),
        Ok(Ok((None, ..))) => Err("it was not closed cleanly".to_string()),
        Ok(Ok((Some(found), ..))) if found.as_ref() != generation.as_bytes() => {
            Err("it belongs to another store or version".to_string())
        }
        Ok(Ok((Some(_), database, packs, scrubbed))) => Ok(Home::Sled { database, packs, scrubbed }),
    }
}

fn open_sled(path: &Path) -> Result<(sled::Db, sled::Tree, sled::Tree), sled::Error> {
    let config = sled::Config::new().path(path).cache_capacity(SLED_CACHE_BYTES).flush_every_ms(None);
    let database = config.open()?;
    let packs = database.open_tree("packs")?;
    let scrubbed = database.open_tree("scrubbed")?;
    Ok((database, packs, scrubbed))
}

fn begin_anew(path: &Path) -> Result<Home, Error> {
    remove_folder(path)?;
    let failed = |source| Error::Catalogue { place: path.display().to_string(), source };
    let opened = catch_unwind(AssertUnwindSafe(|| open_sled(path)));
    match opened {
        Ok(Ok((database, packs, scrubbed))) => Ok(Home::Sled { database, packs, scrubbed }),
        // No room or no right to write there: the records live in memory for this run.
        Ok(Err(sled::Error::Io(_))) => Ok(Home::Memory),
        Ok(Err(error)) => Err(failed(Box::new(error))),
        Err(_) => Err(failed("sled panicked on an empty folder".into())),
    }
}

fn remove_folder(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::Catalogue { place: path.display().to_string(), source: Box::new(error) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<PackEntry> {
        (0..9u8)
            .map(|n| PackEntry {
                id: ChunkId([n; 32]),
                kind: if n % 2 == 0 { ChunkKind::Data } else { ChunkKind::Table },
                offset: u32::from(n) * 100,
                stored_bytes: 100,
                plain_bytes: 300,
            })
            .collect()
    }

    #[test]
    fn a_flipped_bit_in_a_record_is_a_miss() {
        let good = encode(77, &entries());
        assert_eq!(decode(&good, 77).unwrap(), entries());
        assert!(decode(&good, 78).is_none());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert!(decode(&bad, 77).is_none(), "byte {at}");
            assert!(decode(&good[..at], 77).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn records_survive_a_clean_close_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), "s").unwrap();
        assert_eq!(records.rebuilt(), None);
        records.insert(PackId([1; 32]), 77, &entries());
        records.set_scrubbed(PackId([1; 32]), 5);
        records.close();
        drop(records);
        let records = Records::open(folder.path(), "s").unwrap();
        assert_eq!((records.rebuilt(), records.scrubbed(PackId([1; 32]))), (None, Some(5)));
        assert_eq!(records.get(PackId([1; 32]), 77), Some(entries()));
        drop(records); // not closed: as after a kill
        let records = Records::open(folder.path(), "s").unwrap();
        assert!(records.rebuilt().unwrap().contains("not closed cleanly"));
        assert!(records.sizes().is_empty());
        records.close();
        drop(records);
        assert!(Records::open(folder.path(), "other").unwrap().rebuilt().unwrap().contains("another store"));
    }

    #[test]
    fn any_damage_to_the_files_ends_in_usable_records() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0u64..12 {
            Records::remove_files(folder.path()).unwrap();
            let records = Records::open(folder.path(), "s").unwrap();
            (0..50u8).for_each(|n| records.insert(PackId([n; 32]), 77, &entries()));
            records.close();
            drop(records);
            let file = folder.path().join("sled/db");
            let mut bytes = std::fs::read(&file).unwrap();
            let at = usize::try_from(round * 7919 % 20_000).unwrap() % bytes.len();
            bytes[at] ^= 1 << (round % 8);
            std::fs::write(&file, bytes).unwrap();
            let records = Records::open(folder.path(), "s").unwrap();
            for (id, size) in records.sizes() {
                assert!(records.get(id, size).is_none_or(|found| found == entries()));
            }
        }
    }
}

//! The records of the catalogue: in brief what each pack lists, in sled; in full in memory where there is no folder for it.
//! Layout: DESIGN §5.4.
//!
//! sled 0.34 looks for something to evict only after 64 accesses in one of 256 shards, so up to 16,384 of its pages stay
//! whatever its cache is said to hold. A page has up to 16 records, so records are kept short, and what is asked for
//! every time the store is opened (the packs' sizes) lies in a tree of its own.
//!
//! Promise: whatever state the sled files are in, `open` gives usable records: unclean, unknown or panicking files are
//! removed and begun anew. A read that fails or whose check fails is a miss. Knows nothing of what the packs hold.

use crate::Error;
use crate::id::{ChunkId, PackId, blake3_of};
use crate::pack::PackEntry;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// sled's page cache. Records are read in order or kept decoded elsewhere; more does not help.
const SLED_CACHE_BYTES: u64 = 64 << 20;
/// Written when all is in line with the store; removed before anything is changed.
const CLEAN_KEY: &[u8] = b"clean";
const GENERATION: &str = "cas catalogue 2";
const SHORT_BYTES: usize = 8;
const LENGTH_BYTES: usize = 4;
/// Check and pack size before the entries.
const HEAD_BYTES: usize = 16;

#[derive(Debug)]
enum Home {
    Sled(Sled),
    Memory,
}

#[derive(Debug)]
struct Sled {
    database: sled::Db,
    packs: sled::Tree,
    sizes: sled::Tree,
    scrubbed: sled::Tree,
}

/// A pack, and how many chunks it lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PackSize {
    pub(crate) bytes: u64,
    pub(crate) chunks: u32,
}

/// What a pack lists, in short: enough to say where a chunk may be and how much of the pack is needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Brief {
    /// The first 64 bits of each id, and the bytes of its blob.
    pub(crate) chunks: Vec<(u64, u32)>,
}

impl Brief {
    pub(crate) fn of(entries: &[PackEntry]) -> Brief {
        Brief { chunks: entries.iter().map(|entry| (short(entry.id), entry.stored_bytes)).collect() }
    }
}

/// The first 64 bits of an id.
pub(crate) fn short(id: ChunkId) -> u64 {
    let b = id.as_bytes();
    u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
}

#[derive(Clone, Debug)]
struct InFull {
    pack_bytes: u64,
    entries: Arc<[PackEntry]>,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Records {
    home: Home,
    /// All of them when the home is memory; else those that sled would not take.
    memory: Mutex<HashMap<PackId, InFull>>,
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
    pub(crate) fn sizes(&self) -> HashMap<PackId, PackSize> {
        let mut all: HashMap<PackId, PackSize> = HashMap::new();
        if let Home::Sled(Sled { sizes, .. }) = &self.home {
            let read = catch_unwind(AssertUnwindSafe(|| {
                // Not beyond an error: over damaged files the iterator gives the same one without end.
                let sound = sizes.iter().map_while(Result::ok);
                sound.filter_map(|(key, value)| decode_size(&key, &value)).collect()
            }));
            all = read.unwrap_or_default();
        }
        let memory = locked(&self.memory);
        all.extend(memory.iter().map(|(id, full)| (*id, full.size())));
        all
    }

    /// What a pack whose file has this size lists, in brief; `None` when there is no sound record of it.
    pub(crate) fn brief(&self, id: PackId, pack_bytes: u64) -> Option<Brief> {
        if let Some(entries) = self.entries(id, pack_bytes) {
            return Some(Brief::of(&entries));
        }
        let Home::Sled(Sled { packs, .. }) = &self.home else { return None };
        let value = catch_unwind(AssertUnwindSafe(|| packs.get(id.as_bytes()))).ok()?.ok()??;
        decode(&value, pack_bytes)
    }

    /// What it lists, in full, where that is kept: in memory only, as a pack in a folder tells it as fast as sled would.
    pub(crate) fn entries(&self, id: PackId, pack_bytes: u64) -> Option<Arc<[PackEntry]>> {
        let memory = locked(&self.memory);
        memory.get(&id).filter(|full| full.pack_bytes == pack_bytes).map(|full| full.entries.clone())
    }

    pub(crate) fn insert(&self, id: PackId, pack_bytes: u64, entries: &[PackEntry]) {
        if let Home::Sled(Sled { packs, sizes, .. }) = &self.home {
            let (value, size) = (encode(pack_bytes, entries), encode_size(pack_bytes, entries.len()));
            let written = catch_unwind(AssertUnwindSafe(|| {
                packs.insert(id.as_bytes(), value).is_ok() && sizes.insert(id.as_bytes(), &size).is_ok()
            }));
            if written.unwrap_or(false) {
                return;
            }
        }
        locked(&self.memory).insert(id, InFull { pack_bytes, entries: entries.into() });
    }

    pub(crate) fn remove(&self, id: PackId) {
        locked(&self.memory).remove(&id);
        if let Home::Sled(Sled { packs, sizes, scrubbed, .. }) = &self.home {
            // A record that can't be removed is found stale by its size or absence again, or is read once more.
            for tree in [sizes, packs, scrubbed] {
                catch_unwind(AssertUnwindSafe(|| tree.remove(id.as_bytes()).is_ok())).unwrap_or(false);
            }
        }
    }

    /// When a pack was last scrubbed, seconds since 1970.
    pub(crate) fn scrubbed(&self, id: PackId) -> Option<i64> {
        if let Some(time) = locked(&self.scrubbed).get(&id) {
            return Some(*time);
        }
        let Home::Sled(Sled { scrubbed, .. }) = &self.home else { return None };
        let value = catch_unwind(AssertUnwindSafe(|| scrubbed.get(id.as_bytes()))).ok()?.ok()??;
        Some(i64::from_le_bytes(value.as_ref().try_into().ok()?))
    }

    pub(crate) fn set_scrubbed(&self, id: PackId, seconds: i64) {
        locked(&self.scrubbed).insert(id, seconds);
        if let Home::Sled(Sled { scrubbed, .. }) = &self.home {
            let write = || scrubbed.insert(id.as_bytes(), seconds.to_le_bytes().as_slice()).is_ok();
            catch_unwind(AssertUnwindSafe(write)).unwrap_or(false);
        }
    }

    /// Marks the records as in line with the store. Failing only means that the next `open` begins anew.
    pub(crate) fn close(&self) {
        let memory_used = !locked(&self.memory).is_empty();
        let Home::Sled(Sled { database, .. }) = &self.home else { return };
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

impl InFull {
    fn size(&self) -> PackSize {
        PackSize { bytes: self.pack_bytes, chunks: u32::try_from(self.entries.len()).unwrap_or(u32::MAX) }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a cache that is still a cache.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode_size(pack_bytes: u64, chunks: usize) -> [u8; 12] {
    let mut value = [0; 12];
    value[..8].copy_from_slice(&pack_bytes.to_le_bytes());
    value[8..].copy_from_slice(&u32::try_from(chunks).unwrap_or(u32::MAX).to_le_bytes());
    value
}

fn decode_size(key: &[u8], value: &[u8]) -> Option<(PackId, PackSize)> {
    let (bytes, chunks) = value.split_first_chunk::<8>()?;
    let size =
        PackSize { bytes: u64::from_le_bytes(*bytes), chunks: u32::from_le_bytes(chunks.try_into().ok()?) };
    Some((PackId(key.try_into().ok()?), size))
}

/// The check that a record of the catalogue carries.
fn record_check(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3_of(bytes);
    [hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]
}

fn encode(pack_bytes: u64, entries: &[PackEntry]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + entries.len() * (SHORT_BYTES + LENGTH_BYTES));
    value.extend_from_slice(&[0; 8]);
    value.extend_from_slice(&pack_bytes.to_le_bytes());
    entries.iter().for_each(|entry| value.extend_from_slice(&entry.id.as_bytes()[..SHORT_BYTES]));
    entries.iter().for_each(|entry| value.extend_from_slice(&entry.stored_bytes.to_le_bytes()));
    let check = record_check(&value[8..]);
    value[..8].copy_from_slice(&check);
    value
}

fn decode(value: &[u8], pack_bytes: u64) -> Option<Brief> {
    let body = value.get(8..)?;
    if record_check(body)[..] != value[..8] || value.get(8..16)? != pack_bytes.to_le_bytes() {
        return None;
    }
    let columns = value.get(HEAD_BYTES..)?;
    let (shorts, lengths) = columns.split_at(columns.len() / (SHORT_BYTES + LENGTH_BYTES) * SHORT_BYTES);
    let shorts = shorts.as_chunks::<SHORT_BYTES>().0.iter().map(|b| u64::from_le_bytes(*b));
    let lengths = lengths.as_chunks::<LENGTH_BYTES>().0.iter().map(|b| u32::from_le_bytes(*b));
    Some(Brief { chunks: shorts.zip(lengths).collect() })
}

/// Opens sled files that were closed cleanly and are of this store; the text says why not.
fn open_trusted(path: &Path, generation: &str) -> Result<Home, String> {
    if !path.exists() {
        return Err("there was none".to_string());
    }
    // sled 0.34 panics on most flipped bits in its files.
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let sled = open_sled(path)?;
        let clean = sled.database.remove(CLEAN_KEY)?;
        sled.database.flush()?;
        Ok::<_, sled::Error>((clean, sled))
    }));
    match attempt {
        Err(_) => Err("its files are damaged".to_string()),
        Ok(Err(error)) => Err(format!("it could not be opened: {error}")),
        Ok(Ok((None, _))) => Err("it was not closed cleanly".to_string()),
        Ok(Ok((Some(found), _))) if found.as_ref() != generation.as_bytes() => {
            Err("it belongs to another store or version".to_string())
        }
        Ok(Ok((Some(_), sled))) => Ok(Home::Sled(sled)),
    }
}

fn open_sled(path: &Path) -> Result<Sled, sled::Error> {
    let config = sled::Config::new().path(path).cache_capacity(SLED_CACHE_BYTES).flush_every_ms(None);
    let database = config.open()?;
    let packs = database.open_tree("packs")?;
    let sizes = database.open_tree("sizes")?;
    let scrubbed = database.open_tree("scrubbed")?;
    Ok(Sled { database, packs, sizes, scrubbed })
}

fn begin_anew(path: &Path) -> Result<Home, Error> {
    remove_folder(path)?;
    let failed = |source| Error::Catalogue { place: path.display().to_string(), source };
    let opened = catch_unwind(AssertUnwindSafe(|| open_sled(path)));
    match opened {
        Ok(Ok(sled)) => Ok(Home::Sled(sled)),
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
    use crate::codec::ChunkKind;

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
        assert_eq!(decode(&good, 77).unwrap(), Brief::of(&entries()));
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
        assert_eq!(records.brief(PackId([1; 32]), 77), Some(Brief::of(&entries())));
        assert_eq!(records.sizes()[&PackId([1; 32])], PackSize { bytes: 77, chunks: 9 });
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
                assert!(records.brief(id, size.bytes).is_none_or(|found| found == Brief::of(&entries())));
            }
        }
    }
}

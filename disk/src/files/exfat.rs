//! Files of exFAT.
//!
//! Promise: an entry counts only whole, with its checksum. What was never written of a file reads as zeros. A file is known
//! by where its entry is, as it has no number.
//! Knows nothing of owners: they are 0, modes a guess. Format: Microsoft exFAT specification 1.00, cited as §.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::cached::Cached;
use super::chain::Chain;
use super::fat::root_info;
use super::fault::{Fault, check_name, len, len64, window};
use super::ntfs::names;
use super::{FileId, FileInfo, FileKind, FileTime, Files, FilesError, FolderEntry, dostime};
use crate::fs::exfat::Boot;
use crate::fs::view::{Fields, View};
use crate::{Extent, ReadAt};

const ENTRY_BYTES: u64 = 32;
/// §7: kinds of entries.
const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
/// §7.4: a file entry is followed by 2 to 18 others.
const FOLLOWING_MAX: u8 = 18;
/// §7.7.
const NAME_LETTERS: usize = 15;
/// §6.2.1.
const FOLDER_BYTES_MAX: u64 = 256 << 20;
/// §7.4.4.
const READ_ONLY: u16 = 0x01;
const FOLDER: u16 = 0x10;
/// §6.3.4.2: the clusters lie one behind the other, and the table says nothing of them.
const NO_CHAIN: u8 = 0x02;
/// In a file's number: its folder's clusters lie one behind the other.
const IN_CONTIGUOUS: u64 = 1 << 63;
const CHAINS_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();
const ROOT: FileId = FileId(0);

/// A filesystem.
pub(super) struct ExFat {
    volume: Cached,
    boot: Boot,
    chains: Mutex<LruCache<u64, Arc<Chain>>>,
}

/// Opens it.
pub(super) fn open(volume: Arc<dyn ReadAt>) -> Result<ExFat, FilesError> {
    let volume = Cached::new(volume);
    let opened = Boot::in_any_state(&View::new(&volume, whole(&volume))).map_err(Fault::from);
    let boot = opened.map_err(|fault| fault.at("exFAT"))?;
    Ok(ExFat { volume, boot, chains: Mutex::new(LruCache::new(CHAINS_MAX)) })
}

fn whole(device: &dyn ReadAt) -> Extent {
    Extent { offset: 0, bytes: device.size_bytes() }
}

/// A file entry and those that follow it, whole.
struct Set {
    raw: Vec<u8>,
}

impl Set {
    fn stream(&self) -> Result<&[u8], Fault> {
        Ok(self.raw.part(32, 32)?)
    }

    fn is_folder(&self) -> Result<bool, Fault> {
        Ok(self.raw.le16(4)? & FOLDER != 0)
    }

    fn is_contiguous(&self) -> Result<bool, Fault> {
        Ok(self.stream()?.byte(1)? & NO_CHAIN != 0)
    }

    fn written_bytes(&self) -> Result<u64, Fault> {
        Ok(self.stream()?.le64(8)?)
    }

    fn first_cluster(&self) -> Result<u64, Fault> {
        Ok(self.stream()?.le32(20)?.into())
    }

    fn bytes(&self) -> Result<u64, Fault> {
        Ok(self.stream()?.le64(24)?)
    }

    fn name(&self) -> Result<Vec<u8>, Fault> {
        let letters = usize::from(self.stream()?.byte(3)?);
        let mut utf16 = Vec::new();
        for entry in self.raw.chunks_exact(len(ENTRY_BYTES)).skip(2) {
            if entry.byte(0)? == NAME {
                utf16.extend_from_slice(entry.part(2, NAME_LETTERS.saturating_mul(2))?);
            }
        }
        Ok(names::decode(utf16[..].part(0, letters.saturating_mul(2))?))
    }

    fn info(&self) -> Result<FileInfo, Fault> {
        let is_folder = self.is_folder()?;
        let writable = if self.raw.le16(4)? & READ_ONLY == 0 { 0o200 } else { 0 };
        Ok(FileInfo {
            kind: if is_folder { FileKind::Folder } else { FileKind::Regular },
            bytes: if is_folder { 0 } else { self.bytes()? },
            mode: if is_folder { 0o755 } else { 0o444 | writable },
            uid: 0,
            gid: 0,
            links: 1,
            created: Some(self.time(8, Some(20), 22)?),
            modified: self.time(12, Some(21), 23)?,
            accessed: Some(self.time(16, None, 24)?),
            changed: None,
        })
    }

    /// §7.4.8 to §7.4.10: date and time, hundredths, and quarters of an hour from UTC.
    fn time(&self, at: usize, hundredths: Option<usize>, zone: usize) -> Result<FileTime, Fault> {
        const IS_KNOWN: u8 = 0x80;
        let more = hundredths.map_or(Ok(0), |at| self.raw.byte(at))?.min(199);
        let mut time = dostime::time(self.raw.le16(at.saturating_add(2))?, self.raw.le16(at)?, more);
        let zone = self.raw.byte(zone)?;
        if zone & IS_KNOWN != 0 {
            // Seven bits with a sign.
            let quarters = i64::from((zone << 1).cast_signed() >> 1);
            time.seconds = time.seconds.saturating_sub(quarters.saturating_mul(900));
        }
        Ok(time)
    }
}

impl ExFat {
    fn view(&self) -> View<'_> {
        View::new(&self.volume, whole(&self.volume))
    }

    fn check(&self, cluster: u64) -> Result<u64, Fault> {
        match (2..self.boot.clusters.saturating_add(2)).contains(&cluster) {
            true => Ok(cluster),
            false => Err(Fault::Damaged(format!("its chain leads to cluster {cluster}, which is not one"))),
        }
    }

    /// §4.1.
    fn next(&self, cluster: u64) -> Result<Option<u64>, Fault> {
        let at = self.boot.fat_first_byte.saturating_add(cluster.saturating_mul(4));
        match self.view().read(at, 4)?.le32(0)? {
            u32::MAX => Ok(None),
            next => self.check(next.into()).map(Some),
        }
    }

    fn chain(&self, first: u64, bytes: u64, contiguous: bool) -> Result<Arc<Chain>, Fault> {
        let first = self.check(first)?;
        let count = bytes.div_ceil(self.boot.cluster_bytes);
        if contiguous {
            self.check(first.saturating_add(count).saturating_sub(1))?;
            return Ok(Arc::new(Chain::contiguous(first, count)));
        }
        let lock = || self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chain) = lock().get(&first).filter(|chain| chain.clusters() == count) {
            return Ok(Arc::clone(chain));
        }
        let chain = Arc::new(Chain::follow(first, count, |cluster| self.next(cluster))?);
        lock().put(first, Arc::clone(&chain));
        Ok(chain)
    }

    /// A file's entries. They may go on in the folder's next cluster.
    fn set(&self, file: FileId) -> Result<Set, Fault> {
        let contiguous = file.0 & IN_CONTIGUOUS != 0;
        let mut at = (file.0 & !IN_CONTIGUOUS).saturating_mul(ENTRY_BYTES);
        let mut raw = self.view().read(at, len(ENTRY_BYTES))?;
        let following = raw.byte(1)?;
        if raw.byte(0)? != FILE || !(2..=FOLLOWING_MAX).contains(&following) {
            return Err(Fault::NotFound);
        }
        for _ in 0..following {
            at = self.next_entry(at, contiguous)?;
            raw.extend(self.view().read(at, len(ENTRY_BYTES))?);
        }
        // §6.3.3: the sum itself is left out.
        let summed = raw.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
        let sum = summed.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
        match sum == raw.le16(2)? && raw.byte(32)? == STREAM {
            true => Ok(Set { raw }),
            false => Err(Fault::damaged("the checksum of its entry is wrong")),
        }
    }

    fn next_entry(&self, at: u64, contiguous: bool) -> Result<u64, Fault> {
        let next = at.saturating_add(ENTRY_BYTES);
        let in_heap = next.checked_sub(self.boot.heap_first_byte).ok_or(Fault::NotFound)?;
        if !in_heap.is_multiple_of(self.boot.cluster_bytes) || contiguous {
            return Ok(next);
        }
        let cluster = in_heap.checked_div(self.boot.cluster_bytes).unwrap_or(0).saturating_add(1);
        let next = self.next(self.check(cluster)?)?;
        let next = next.ok_or_else(|| Fault::damaged("its entry ends before it is whole"))?;
        Ok(self.boot.cluster_place(next))
    }

    /// A regular file's entries and chain; no chain for an empty one.
    fn contents(&self, file: FileId) -> Result<(Set, Option<Arc<Chain>>), Fault> {
        if file == ROOT {
            return Err(Fault::NotA("a regular file"));
        }
        let set = self.set(file)?;
        if set.is_folder()? {
            return Err(Fault::NotA("a regular file"));
        }
        let bytes = set.bytes()?;
        let chain = match bytes {
            0 => None,
            _ => Some(self.chain(set.first_cluster()?, bytes, set.is_contiguous()?)?),
        };
        Ok((set, chain))
    }

    /// A folder's clusters, and whether they lie one behind the other.
    fn folder(&self, folder: FileId) -> Result<(Arc<Chain>, bool), Fault> {
        if folder == ROOT {
            let count = FOLDER_BYTES_MAX.div_ceil(self.boot.cluster_bytes);
            let first = self.check(self.boot.root.into())?;
            return Ok((Arc::new(Chain::follow(first, count, |cluster| self.next(cluster))?), false));
        }
        let set = self.set(folder)?;
        if !set.is_folder()? {
            return Err(Fault::NotA("a folder"));
        }
        let (bytes, contiguous) = (set.bytes()?, set.is_contiguous()?);
        if bytes > FOLDER_BYTES_MAX {
            return Err(Fault::Damaged(format!("{bytes} bytes are too many for a folder")));
        }
        if bytes == 0 {
            return Ok((Arc::new(Chain::contiguous(2, 0)), true));
        }
        Ok((self.chain(set.first_cluster()?, bytes, contiguous)?, contiguous))
    }

    fn list_in(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), Fault> {
        /// Clusters may have 32 MiB.
        const STEP_BYTES: u64 = 64 << 10;
        let (chain, contiguous) = self.folder(folder)?;
        let mark = if contiguous { IN_CONTIGUOUS } else { 0 };
        for cluster in chain.numbers() {
            let place = self.boot.cluster_place(cluster);
            let mut within = 0_u64;
            while within < self.boot.cluster_bytes {
                let offset = place.saturating_add(within);
                let step = self.boot.cluster_bytes.min(STEP_BYTES);
                let bytes = self.view().read(offset, len(step))?;
                for (number, raw) in (0_u64..).zip(bytes.chunks_exact(len(ENTRY_BYTES))) {
                    match raw.byte(0)? {
                        0 => return Ok(()),
                        FILE => {}
                        _ => continue,
                    }
                    let at = offset.checked_div(ENTRY_BYTES).unwrap_or(0).saturating_add(number);
                    let file = FileId(at | mark);
                    let name = self.set(file)?.name()?;
                    check_name(&name)?;
                    if !each(FolderEntry { name, file }) {
                        return Ok(());
                    }
                }
                within = within.saturating_add(step);
            }
        }
        Ok(())
    }
}

/// `entry at 0x4000`.
fn place_of(file: FileId) -> String {
    match file {
        ROOT => "root folder".to_owned(),
        FileId(at) => format!("entry at {:#x}", (at & !IN_CONTIGUOUS).saturating_mul(ENTRY_BYTES)),
    }
}

impl Files for ExFat {
    fn root(&self) -> FileId {
        ROOT
    }

    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        if file == ROOT {
            return Ok(root_info());
        }
        self.set(file).and_then(|set| set.info()).map_err(|fault| fault.at(place_of(file)))
    }

    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        self.list_in(folder, each).map_err(|fault| fault.at(place_of(folder)))
    }

    fn find(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
        super::find_folded(self, folder, name)
    }

    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        let read = |buf: &mut [u8]| -> Result<usize, Fault> {
            let (set, chain) = self.contents(file)?;
            let buf = window(buf, 0, set.bytes()?.saturating_sub(offset));
            let written = set.written_bytes()?.saturating_sub(offset).min(len64(buf.len()));
            window(buf, written, u64::MAX).fill(0);
            if let Some(chain) = chain {
                let buf = window(buf, 0, written);
                chain.read(self.boot.cluster_bytes, offset, buf, |cluster, within, part| {
                    Ok(self
                        .view()
                        .read_into(self.boot.cluster_place(cluster).saturating_add(within), part)?)
                })?;
            }
            Ok(buf.len())
        };
        read(buf).map_err(|fault| fault.at(place_of(file)))
    }

    fn places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, FilesError> {
        let places = || -> Result<Vec<(Extent, u64)>, Fault> {
            let (set, chain) = self.contents(file)?;
            let bytes = set.bytes()?;
            let place = |cluster| self.boot.cluster_place(cluster);
            Ok(chain.map(|it| it.places(self.boot.cluster_bytes, bytes, place)).unwrap_or_default())
        };
        places().map_err(|fault| fault.at(place_of(file)))
    }
}

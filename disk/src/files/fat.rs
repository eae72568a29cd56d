//! Files of FAT12, FAT16 and FAT32.
//!
//! Promise: long names where there are whole ones, else short ones as Windows shows them. A file is known by where its
//! entry is, as it has no number.
//! Knows nothing of owners: they are 0, modes a guess, times taken for UTC. Format: Microsoft FAT specification (fatgen103,
//! 2005), cited as §.
//!
//! Why not the crate `fatfs` 0.3: it wants to write, goes by paths, and follows a chain from its beginning for each read.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::cached::Cached;
use super::chain::Chain;
use super::fault::{Fault, check_name, len, window};
use super::ntfs::names;
use super::{FileId, FileInfo, FileKind, FileTime, Files, FilesError, FolderEntry, dostime};
use crate::fs::fat::{Boot, Width};
use crate::fs::view::{Fields, View};
use crate::{Extent, ReadAt};

const ENTRY_BYTES: u64 = 32;
/// §6.1: `DIR_Attr`.
const READ_ONLY: u8 = 0x01;
const LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// §6.3: what a first byte of a name means.
const END: u8 = 0;
const DELETED: u8 = 0xe5;
const STANDS_FOR_E5: u8 = 0x05;
/// §6.5: 2^16 entries.
const FOLDER_BYTES_MAX: u64 = 2 << 20;
/// §7: parts of a long name, and letters in each.
const PARTS_MAX: usize = 20;
const PART_LETTERS: usize = 13;
/// Chains that are kept: each read of a file needs its own.
const CHAINS_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();
const ROOT: FileId = FileId(0);

/// Letters above 127 in short names, as DOS had them in most of the world (code page 437).
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// A filesystem.
pub(super) struct Fat {
    volume: Cached,
    boot: Boot,
    chains: Mutex<LruCache<u64, Arc<Chain>>>,
}

/// Opens it.
pub(super) fn open(volume: Arc<dyn ReadAt>) -> Result<Fat, FilesError> {
    let volume = Cached::new(volume);
    let opened = Boot::in_any_state(&View::new(&volume, whole(&volume))).map_err(Fault::from);
    let boot = opened.map_err(|fault| fault.at("FAT"))?;
    Ok(Fat { volume, boot, chains: Mutex::new(LruCache::new(CHAINS_MAX)) })
}

fn whole(device: &dyn ReadAt) -> Extent {
    Extent { offset: 0, bytes: device.size_bytes() }
}

/// §6.1: what a folder says of a file.
struct Entry {
    raw: Vec<u8>,
}

impl Entry {
    fn is_folder(&self) -> Result<bool, Fault> {
        Ok(self.raw.byte(11)? & FOLDER != 0)
    }

    fn bytes(&self) -> Result<u64, Fault> {
        Ok(self.raw.le32(28)?.into())
    }

    fn first_cluster(&self, width: Width) -> Result<u64, Fault> {
        let high = if width == Width::ThirtyTwo { self.raw.le16(20)? } else { 0 };
        Ok(u64::from(high) << 16 | u64::from(self.raw.le16(26)?))
    }

    fn info(&self) -> Result<FileInfo, Fault> {
        let time = |date: usize, time: usize, more: u8| -> Result<FileTime, Fault> {
            Ok(dostime::time(self.raw.le16(date)?, self.raw.le16(time)?, more))
        };
        let is_folder = self.is_folder()?;
        let writable = if self.raw.byte(11)? & READ_ONLY == 0 { 0o200 } else { 0 };
        let has = |date: usize| self.raw.le16(date).is_ok_and(|date| date != 0);
        Ok(FileInfo {
            kind: if is_folder { FileKind::Folder } else { FileKind::Regular },
            bytes: if is_folder { 0 } else { self.bytes()? },
            mode: if is_folder { 0o755 } else { 0o444 | writable },
            uid: 0,
            gid: 0,
            links: 1,
            modified: time(24, 22, 0)?,
            accessed: has(18)
                .then(|| self.raw.le16(18).map_or(FileTime::default(), |date| dostime::time(date, 0, 0))),
            changed: None,
            created: if has(16) { Some(time(16, 14, self.raw.byte(13)?.min(199))?) } else { None },
        })
    }
}

impl Fat {
    fn view(&self) -> View<'_> {
        View::new(&self.volume, whole(&self.volume))
    }

    fn entry(&self, file: FileId) -> Result<Entry, Fault> {
        let raw = self.view().read(file.0.saturating_mul(ENTRY_BYTES), len(ENTRY_BYTES))?;
        match matches!(raw.byte(0)?, END | DELETED) || raw.byte(11)? & LABEL != 0 {
            true => Err(Fault::NotFound),
            false => Ok(Entry { raw }),
        }
    }

    /// §4: the entry of a cluster in the table.
    fn next(&self, cluster: u64) -> Result<Option<u64>, Fault> {
        let (at, last) = match self.boot.width {
            Width::Twelve => (cluster.saturating_mul(3) / 2, 0xff8),
            Width::Sixteen => (cluster.saturating_mul(2), 0xfff8),
            Width::ThirtyTwo => (cluster.saturating_mul(4), 0x0fff_fff8),
        };
        let at = self.boot.fat_first_byte.saturating_add(at);
        let entry = match self.boot.width {
            Width::Twelve => {
                let pair = self.view().read(at, 2)?.le16(0)?;
                u32::from(if cluster.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 })
            }
            Width::Sixteen => self.view().read(at, 2)?.le16(0)?.into(),
            Width::ThirtyTwo => self.view().read(at, 4)?.le32(0)? & 0x0fff_ffff,
        };
        match entry >= last {
            true => Ok(None),
            false => self.check(entry.into()).map(Some),
        }
    }

    fn check(&self, cluster: u64) -> Result<u64, Fault> {
        match (2..self.boot.clusters.saturating_add(2)).contains(&cluster) {
            true => Ok(cluster),
            false => Err(Fault::Damaged(format!("its chain leads to cluster {cluster}, which is not one"))),
        }
    }

    fn place(&self, cluster: u64) -> u64 {
        let before = cluster.saturating_sub(2).saturating_mul(self.boot.cluster_bytes);
        self.boot.data_first_byte.saturating_add(before)
    }

    fn chain(&self, first: u64, bytes: u64) -> Result<Arc<Chain>, Fault> {
        let lock = || self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        let count = bytes.div_ceil(self.boot.cluster_bytes);
        if let Some(chain) = lock().get(&first).filter(|chain| chain.clusters() == count) {
            return Ok(Arc::clone(chain));
        }
        let chain = Arc::new(Chain::follow(self.check(first)?, count, |cluster| self.next(cluster))?);
        lock().put(first, Arc::clone(&chain));
        Ok(chain)
    }

    /// A regular file's chain and size; no chain for an empty one.
    fn contents(&self, file: FileId) -> Result<(Option<Arc<Chain>>, u64), Fault> {
        if file == ROOT {
            return Err(Fault::NotA("a regular file"));
        }
        let entry = self.entry(file)?;
        if entry.is_folder()? {
            return Err(Fault::NotA("a regular file"));
        }
        let bytes = entry.bytes()?;
        if bytes == 0 {
            return Ok((None, 0));
        }
        Ok((Some(self.chain(entry.first_cluster(self.boot.width)?, bytes)?), bytes))
    }

    /// Where the pieces of a folder lie.
    fn pieces(&self, folder: FileId) -> Result<Vec<Extent>, Fault> {
        let first = match (folder == ROOT, self.boot.root_cluster) {
            (true, None) => {
                let offset = self.boot.data_first_byte.saturating_sub(self.boot.root_bytes);
                return Ok(vec![Extent { offset, bytes: self.boot.root_bytes }]);
            }
            (true, Some(cluster)) => cluster.into(),
            (false, _) => {
                let entry = self.entry(folder)?;
                if !entry.is_folder()? {
                    return Err(Fault::NotA("a folder"));
                }
                entry.first_cluster(self.boot.width)?
            }
        };
        let count = FOLDER_BYTES_MAX.div_ceil(self.boot.cluster_bytes);
        let chain = Chain::follow(self.check(first)?, count, |cluster| self.next(cluster))?;
        let bytes = self.boot.cluster_bytes;
        Ok(chain.numbers().map(|cluster| Extent { offset: self.place(cluster), bytes }).collect())
    }

    fn list_in(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), Fault> {
        let mut long = LongName::default();
        for piece in self.pieces(folder)? {
            let bytes = self.view().read(piece.offset, len(piece.bytes))?;
            for (number, raw) in (0_u64..).zip(bytes.chunks_exact(len(ENTRY_BYTES))) {
                let (first, flags) = (raw.byte(0)?, raw.byte(11)?);
                if first == END {
                    return Ok(());
                }
                if first != DELETED && flags & 0x3f == LONG_NAME {
                    long.add(raw)?;
                    continue;
                }
                let name = std::mem::take(&mut long).finish(raw)?;
                // `.` and `..`, which begin so, are the only short names that do.
                if first == DELETED || flags & LABEL != 0 || first == b'.' {
                    continue;
                }
                let name = name.map_or_else(|| short_name(raw), Ok)?;
                check_name(&name)?;
                let at = piece.offset.checked_div(ENTRY_BYTES).unwrap_or(0).saturating_add(number);
                if !each(FolderEntry { name, file: FileId(at) }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// §7: the parts of a long name, last one first, before the entry with the short one.
#[derive(Default)]
struct LongName {
    /// Newest first.
    parts: Vec<[u8; 2 * PART_LETTERS]>,
    next: usize,
    sum: u8,
    broken: bool,
}

impl LongName {
    fn add(&mut self, raw: &[u8]) -> Result<(), Fault> {
        const IS_LAST: u8 = 0x40;
        let (order, sum) = (raw.byte(0)?, raw.byte(13)?);
        let number = usize::from(order & !IS_LAST);
        if order & IS_LAST != 0 {
            *self = Self { next: number, sum, ..Self::default() };
        }
        self.broken |= number == 0 || number > PARTS_MAX || number != self.next || sum != self.sum;
        self.next = number.saturating_sub(1);
        let letters = [raw.part(1, 10)?, raw.part(14, 12)?, raw.part(28, 4)?].concat();
        if let Ok(letters) = letters.try_into()
            && !self.broken
        {
            self.parts.push(letters);
        }
        Ok(())
    }

    /// The name, when all its parts are there and it belongs to this entry.
    fn finish(self, short: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let sum = short.part(0, 11)?.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.parts.is_empty() || self.broken || self.next != 0 || sum != self.sum {
            return Ok(None);
        }
        let utf16: Vec<u8> = self.parts.iter().rev().flatten().copied().collect();
        let letters = utf16.chunks_exact(2).take_while(|letter| *letter != [0, 0]);
        Ok(Some(names::decode(&letters.flatten().copied().collect::<Vec<u8>>())))
    }
}

/// §6.2: eight and three letters; NT keeps in a reserved byte whether either part is in small ones.
fn short_name(raw: &[u8]) -> Result<Vec<u8>, Fault> {
    let part = |at: usize, bytes: usize, small: bool| -> Result<String, Fault> {
        let letters = raw.part(at, bytes)?.iter().enumerate().map(|(number, byte)| match byte {
            &STANDS_FOR_E5 if number == 0 && at == 0 => DELETED,
            byte => *byte,
        });
        let text: String = letters.map(letter).collect();
        let text = text.trim_end_matches(' ');
        Ok(if small { text.to_lowercase() } else { text.to_owned() })
    };
    let case = raw.byte(12)?;
    let (base, extension) = (part(0, 8, case & 0x08 != 0)?, part(8, 3, case & 0x10 != 0)?);
    let dot = if extension.is_empty() { "" } else { "." };
    Ok(format!("{base}{dot}{extension}").into_bytes())
}

fn letter(byte: u8) -> char {
    match byte.checked_sub(128) {
        Some(above) => CP437.chars().nth(above.into()).unwrap_or('?'),
        None => byte.into(),
    }
}

/// `entry at 0x4000`.
fn place_of(file: FileId) -> String {
    match file {
        ROOT => "root folder".to_owned(),
        FileId(at) => format!("entry at {:#x}", at.saturating_mul(ENTRY_BYTES)),
    }
}

/// What a root folder without an entry is.
pub(super) fn root_info() -> FileInfo {
    FileInfo {
        kind: FileKind::Folder,
        bytes: 0,
        mode: 0o755,
        uid: 0,
        gid: 0,
        links: 1,
        modified: FileTime::default(),
        accessed: None,
        changed: None,
        created: None,
    }
}

impl Files for Fat {
    fn root(&self) -> FileId {
        ROOT
    }

    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        if file == ROOT {
            return Ok(root_info());
        }
        self.entry(file).and_then(|entry| entry.info()).map_err(|fault| fault.at(place_of(file)))
    }

    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        self.list_in(folder, each).map_err(|fault| fault.at(place_of(folder)))
    }

    fn find(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
        super::find_folded(self, folder, name)
    }

    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        let read = |buf: &mut [u8]| -> Result<usize, Fault> {
            let (chain, bytes) = self.contents(file)?;
            let buf = window(buf, 0, bytes.saturating_sub(offset));
            if let Some(chain) = chain {
                chain.read(self.boot.cluster_bytes, offset, buf, |cluster, within, part| {
                    Ok(self.view().read_into(self.place(cluster).saturating_add(within), part)?)
                })?;
            }
            Ok(buf.len())
        };
        read(buf).map_err(|fault| fault.at(place_of(file)))
    }

    fn places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, FilesError> {
        let (chain, bytes) = self.contents(file).map_err(|fault| fault.at(place_of(file)))?;
        let places = |chain: Arc<Chain>| chain.places(self.boot.cluster_bytes, bytes, |it| self.place(it));
        Ok(chain.map(places).unwrap_or_default())
    }
}

//! The contents of files: pieces in the tree, stored plainly or compressed, elsewhere on the device.
//!
//! Promise: bytes whose checksum does not hold are never handed out, from no copy; where a file should have checksums
//! and has none, that is an error. Pieces come in ascending order and do not overlap.
//! Knows nothing of names. Format: linux include/uapi/linux/btrfs_tree.h, `struct btrfs_file_extent_item`,
//! `btrfs_csum_item`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::tree::{Space, Tree};
use super::unpack::{BYTES_MAX, Method};
use crate::Extent;
use crate::files::fault::{Fault, len, len64, window};
use crate::fs::btrfs::tree::Key;
use crate::fs::view::Fields;

const EXTENT_DATA: u8 = 108;
const CHECKSUMS: u8 = 128;
/// `BTRFS_EXTENT_CSUM_OBJECTID`.
const CHECKSUMS_OBJECT: u64 = 10_u64.wrapping_neg();
/// Where bytes in the item begin.
const INLINE_AT: usize = 21;
/// `BTRFS_FILE_EXTENT_INLINE`…
const INLINE: u8 = 0;
const REGULAR: u8 = 1;
const RESERVED: u8 = 2;
/// Checked in one go.
const STEP_BYTES: u64 = 1 << 20;
/// Unpacked extents that are remembered, 128 KiB each: for those who read a little at a time, in several files.
const UNPACKED_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// A file within its tree.
#[derive(Clone, Copy)]
pub(super) struct File {
    pub(super) tree: Tree,
    pub(super) inode: u64,
    pub(super) has_sums: bool,
}

/// A piece of a file, and what there is of it.
pub(super) struct Piece<'a> {
    pub(super) extent: Extent,
    pub(super) kept: Kept<'a>,
}

pub(super) enum Kept<'a> {
    /// Nothing, or only room.
    Hole,
    /// In the item.
    Inline(&'a [u8], Option<Method>),
    /// At an address.
    Plain(u64),
    /// As part of so many bytes that are compressed at these addresses.
    Packed { method: Method, from: Extent, bytes: u64, skip: u64 },
}

/// Where compressed bytes are, and whether they were checked.
type Packed = (Extent, bool);

/// Where contents come from, and what was unpacked last.
pub(super) struct Contents {
    checksums: Option<Tree>,
    unpacked: Mutex<LruCache<Packed, Arc<Vec<u8>>>>,
}

impl Contents {
    pub(super) fn new(checksums: Option<Tree>) -> Self {
        Self { checksums, unpacked: Mutex::new(LruCache::new(UNPACKED_MAX)) }
    }

    /// Fills `buf` from a byte of the file on.
    pub(super) fn read(&self, space: &Space, file: File, from: u64, buf: &mut [u8]) -> Result<(), Fault> {
        buf.fill(0);
        let end = from.saturating_add(len64(buf.len()));
        pieces(space, file, from, &mut |piece| {
            if piece.extent.offset >= end {
                return Ok(false);
            }
            let start = piece.extent.offset.max(from);
            let bytes = piece.extent.end().min(end).saturating_sub(start);
            let skip = start.saturating_sub(piece.extent.offset);
            let to = window(buf, start.saturating_sub(from), bytes);
            match piece.kept {
                Kept::Hole => {}
                Kept::Inline(bytes, None) => copy(bytes, skip, to),
                Kept::Inline(bytes, Some(method)) => {
                    let sector_bytes = space.superblock.sector_bytes;
                    copy(&method.unpack(bytes, piece.extent.bytes, sector_bytes)?, skip, to);
                }
                Kept::Plain(at) => self.plain(space, file, at.saturating_add(skip), to)?,
                Kept::Packed { method, from, bytes, skip: more } => {
                    let unpacked = self.unpacked(space, file, (method, from, bytes))?;
                    copy(&unpacked, skip.saturating_add(more), to);
                }
            }
            Ok(piece.extent.end() < end)
        })
    }

    /// From any address on: whole sectors where they are wanted whole.
    fn plain(&self, space: &Space, file: File, at: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let sector = space.superblock.sector_bytes;
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let skip = at.checked_rem(sector).unwrap_or(0);
            let left = len64(rest.len());
            let whole =
                left.min(STEP_BYTES).saturating_sub(left.min(STEP_BYTES).checked_rem(sector).unwrap_or(0));
            let count = if skip > 0 || whole == 0 { sector.saturating_sub(skip).min(left) } else { whole };
            let (now, later) = rest.split_at_mut(len(count));
            if skip > 0 || whole == 0 {
                let mut one = vec![0; len(sector)];
                self.sectors(space, file, at.saturating_sub(skip), &mut one)?;
                copy(&one, skip, now);
            } else {
                self.sectors(space, file, at, now)?;
            }
            at = at.saturating_add(count);
            rest = later;
        }
        Ok(())
    }

    fn unpacked(
        &self,
        space: &Space,
        file: File,
        (method, from, bytes): (Method, Extent, u64),
    ) -> Result<Arc<Vec<u8>>, Fault> {
        let key = (from, file.has_sums);
        let lock = || self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&key).map(Arc::clone);
        // Another item may say something else of the same bytes.
        if let Some(known) = known.filter(|known| len64(known.len()) == bytes) {
            return Ok(known);
        }
        if from.bytes > BYTES_MAX {
            return Err(Fault::Damaged(format!("a compressed extent of {} bytes", from.bytes)));
        }
        let mut packed = vec![0; len(from.bytes)];
        self.sectors(space, file, from.offset, &mut packed)?;
        let unpacked = Arc::new(method.unpack(&packed, bytes, space.superblock.sector_bytes)?);
        lock().put(key, Arc::clone(&unpacked));
        Ok(unpacked)
    }

    /// Whole sectors, with their checksums.
    fn sectors(&self, space: &Space, file: File, at: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let extent = Extent { offset: at, bytes: len64(buf.len()) };
        let sums = if file.has_sums { Some(self.sums(space, extent)?) } else { None };
        let places: Vec<u64> = space.chunks.copies(extent).collect();
        let first = *places.first().ok_or_else(|| Fault::Damaged(format!("no chunk has address {at}")))?;
        let sum_bytes = space.superblock.checksum.bytes();
        let sector = len(space.superblock.sector_bytes).max(1);
        let holds = |number: usize, bytes: &[u8]| {
            let Some(sums) = &sums else { return true };
            let sum = sums.get(number.saturating_mul(sum_bytes)..).unwrap_or_default();
            sum.len() >= sum_bytes && space.superblock.checksum.is_of(sum, bytes)
        };
        let is_read = space.view().read_into(first, buf).is_ok();
        if is_read && buf.chunks(sector).enumerate().all(|(number, bytes)| holds(number, bytes)) {
            return Ok(());
        }
        for (number, bytes) in buf.chunks_mut(sector).enumerate() {
            let skip = len64(number.saturating_mul(sector));
            one(space, &places, skip, bytes, &|bytes: &[u8]| holds(number, bytes))?;
        }
        Ok(())
    }

    /// The checksums of whole sectors, one behind the other.
    fn sums(&self, space: &Space, extent: Extent) -> Result<Vec<u8>, Fault> {
        let missing = |at: u64| Fault::Damaged(format!("no checksum for address {at}"));
        let tree = self.checksums.ok_or_else(|| missing(extent.offset))?;
        let (sector, sum_bytes) = (space.superblock.sector_bytes, len64(space.superblock.checksum.bytes()));
        let mut sums = Vec::new();
        let mut next = extent.offset;
        let from = Key { objectid: CHECKSUMS_OBJECT, kind: CHECKSUMS, offset: extent.offset };
        space.items(tree, from, &mut |key, item| {
            if (key.objectid, key.kind) != (CHECKSUMS_OBJECT, CHECKSUMS) {
                return Ok(key < from);
            }
            let sectors = len64(item.len()).checked_div(sum_bytes).unwrap_or(0);
            let end = key.offset.saturating_add(sectors.saturating_mul(sector)).min(extent.end());
            if key.offset > next {
                return Ok(false);
            }
            if end > next {
                let place = |at: u64| {
                    let sector = at.saturating_sub(key.offset).checked_div(sector).unwrap_or(0);
                    len(sector.saturating_mul(sum_bytes))
                };
                sums.extend_from_slice(item.get(place(next)..place(end)).unwrap_or_default());
                next = end;
            }
            Ok(next < extent.end())
        })?;
        if next < extent.end() { Err(missing(next)) } else { Ok(sums) }
    }
}

/// One sector, from the first copy whose checksum holds.
fn one(
    space: &Space,
    places: &[u64],
    skip: u64,
    buf: &mut [u8],
    holds: &dyn Fn(&[u8]) -> bool,
) -> Result<(), Fault> {
    let mut fault = None;
    for place in places {
        let at = place.saturating_add(skip);
        match space.view().read_into(at, buf) {
            Ok(()) if holds(buf) => return Ok(()),
            Ok(()) => fault = Some(Fault::Damaged(format!("wrong checksum of the sector at {at:#x}"))),
            Err(doubt) => fault = Some(doubt.into()),
        }
    }
    Err(fault.unwrap_or_else(|| Fault::damaged("no copy of a sector")))
}

/// The rest of `to` stays as it is.
fn copy(from: &[u8], skip: u64, to: &mut [u8]) {
    let from = from.get(len(skip)..).unwrap_or_default();
    let count = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..count), to.get_mut(..count)) {
        to.copy_from_slice(from);
    }
}

/// What is done with each piece; `false` ends it.
pub(super) type Each<'a> = dyn FnMut(Piece<'_>) -> Result<bool, Fault> + 'a;

/// The pieces of a file that end behind this byte. Between them are holes too.
pub(super) fn pieces(space: &Space, file: File, from: u64, each: &mut Each<'_>) -> Result<(), Fault> {
    let key = Key { objectid: file.inode, kind: EXTENT_DATA, offset: from };
    let mut told = 0;
    space.items(file.tree, key, &mut |at, item| {
        if (at.objectid, at.kind) != (file.inode, EXTENT_DATA) {
            return Ok(at < key);
        }
        let piece = piece(at.offset, item, space.superblock.sector_bytes)?;
        if at.offset < told {
            return Err(Fault::Damaged(format!("two pieces at its byte {}", at.offset)));
        }
        told = piece.extent.end();
        if told <= from { Ok(true) } else { each(piece) }
    })
}

fn piece(offset: u64, item: &[u8], sector: u64) -> Result<Piece<'_>, Fault> {
    let wrong = || Fault::Damaged(format!("the piece at its byte {offset} is not possible"));
    let (all, method, kind) = (item.le64(8)?, Method::of(item.byte(16)?)?, item.byte(20)?);
    if item.byte(17)? != 0 || item.le16(18)? != 0 {
        return Err(Fault::Unsupported("an encrypted file"));
    }
    if kind == INLINE {
        let bytes = item.get(INLINE_AT..).unwrap_or_default();
        let count = if method.is_some() { all } else { len64(bytes.len()).min(all) };
        let is_sound = offset == 0 && count <= BYTES_MAX;
        let piece = Piece { extent: Extent { offset, bytes: count }, kept: Kept::Inline(bytes, method) };
        return if is_sound { Ok(piece) } else { Err(wrong()) };
    }
    let from = Extent { offset: item.le64(INLINE_AT)?, bytes: item.le64(29)? };
    let (skip, bytes) = (item.le64(37)?, item.le64(45)?);
    let room = if method.is_some() { all } else { from.bytes };
    let is_hole = kind == RESERVED || from.offset == 0;
    let aligned = |number: u64| number.checked_rem(sector) == Some(0);
    let is_sound = offset.checked_add(bytes).is_some()
        && [offset, bytes].into_iter().all(aligned)
        && (is_hole
            || ([from.offset, from.bytes, skip].into_iter().all(aligned)
                && from.offset.checked_add(from.bytes).is_some()
                && skip.checked_add(bytes).is_some_and(|end| end <= room)));
    let kept = match (kind, method) {
        _ if bytes == 0 || !is_sound => return Err(wrong()),
        (RESERVED | REGULAR, _) if is_hole => Kept::Hole,
        (REGULAR, None) => Kept::Plain(from.offset.saturating_add(skip)),
        (REGULAR, Some(method)) => Kept::Packed { method, from, bytes: all, skip },
        _ => return Err(Fault::Unsupported("an unknown kind of extent")),
    };
    Ok(Piece { extent: Extent { offset, bytes }, kept })
}

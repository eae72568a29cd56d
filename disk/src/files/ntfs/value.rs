//! Bytes of a value, from any offset: plain, with holes, or compressed.
//!
//! Promise: at most a compressed piece is held; what was never written is zeros, encrypted bytes are an error.
//! Knows nothing of what has the value.

use super::super::fault::{Fault, copy_from, len, len64, window};
use super::lznt1;
use crate::Extent;
use crate::fs::ntfs::record::{COMPRESSED_MASK, ENCRYPTED};
use crate::fs::ntfs::stream::{Disk, Stream};

/// The only kind of compression there is: layout.h, `ATTR_IS_COMPRESSED`.
const LZNT1: u16 = 1;
/// Windows makes pieces of 16 clusters, of 4 KiB at most.
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a piece that is compressed as a whole; `None` where nothing is.
pub(super) fn piece_bytes(disk: Disk<'_>, value: &Stream) -> Result<Option<u64>, Fault> {
    if value.flags() & ENCRYPTED != 0 {
        return Err(Fault::Unsupported("encryption"));
    }
    match value.flags() & COMPRESSED_MASK {
        0 => Ok(None),
        _ if value.is_inside() => Ok(None),
        LZNT1 if value.compression_unit() > 0 => {
            let bytes = disk.boot.cluster_bytes.checked_shl(value.compression_unit().into()).unwrap_or(0);
            match (disk.boot.cluster_bytes..=PIECE_BYTES_MAX).contains(&bytes) {
                true => Ok(Some(bytes)),
                false => Err(Fault::Unsupported("compression in pieces of this size")),
            }
        }
        _ => Err(Fault::Unsupported("this kind of compression")),
    }
}

/// Fills `buf`; the caller has seen to it that the value has so many bytes.
pub(super) fn read(disk: Disk<'_>, value: &Stream, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
    let piece = piece_bytes(disk, value)?;
    if let Some(inside) = value.inside() {
        return copy_from(inside, offset, buf);
    }
    let written = value.initialized_bytes().saturating_sub(offset).min(len64(buf.len()));
    window(buf, written, u64::MAX).fill(0);
    let buf = window(buf, 0, written);
    match piece {
        Some(piece) => read_pieces(disk, value, piece, offset, buf),
        None => read_plain(disk, value, offset, buf),
    }
}

fn read_plain(disk: Disk<'_>, value: &Stream, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
    let mut done = 0_u64;
    while done < len64(buf.len()) {
        let (extent, at) = run(disk, value, offset.saturating_add(done))
            .ok_or_else(|| Fault::damaged("its runs end before its size"))?;
        let part = window(buf, done, extent.bytes);
        match at {
            Some(at) => disk.volume.read_into(at, part)?,
            None => part.fill(0),
        }
        // A run has at least one byte.
        done = done.saturating_add(len64(part.len()).max(1));
    }
    Ok(())
}

/// The bytes from an offset on that lie together, and where; `None` behind the last.
pub(super) fn run(disk: Disk<'_>, value: &Stream, offset: u64) -> Option<(Extent, Option<u64>)> {
    let cluster = offset.checked_div(disk.boot.cluster_bytes)?;
    let within = offset.checked_rem(disk.boot.cluster_bytes)?;
    let (skipped, run) = value.run_at(cluster)?;
    let into = disk.boot.place(skipped).saturating_add(within);
    let bytes = disk.boot.place(run.clusters).saturating_sub(into);
    let at = run.at.map(|at| disk.boot.place(at).saturating_add(into));
    Some((Extent { offset, bytes }, at))
}

fn read_pieces(
    disk: Disk<'_>,
    value: &Stream,
    piece_bytes: u64,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), Fault> {
    let mut done = 0_u64;
    while done < len64(buf.len()) {
        let at = offset.saturating_add(done);
        let within = at.checked_rem(piece_bytes).unwrap_or(0);
        let piece = piece(disk, value, at.saturating_sub(within), piece_bytes)?;
        let found = piece.get(len(within)..).unwrap_or_default();
        let part = window(buf, done, len64(found.len()));
        part.copy_from_slice(found.get(..part.len()).unwrap_or_default());
        done = done.saturating_add(len64(part.len()).max(1));
    }
    Ok(())
}

/// One piece: all its clusters there, none, or the first ones with the compressed bytes.
fn piece(disk: Disk<'_>, value: &Stream, offset: u64, piece_bytes: u64) -> Result<Vec<u8>, Fault> {
    let mut packed = Vec::new();
    let mut at = offset;
    let end = offset.saturating_add(piece_bytes);
    let mut hole = false;
    while at < end {
        // The last piece may have fewer clusters.
        let Some((extent, place)) = run(disk, value, at) else { break };
        let bytes = extent.bytes.min(end.saturating_sub(at));
        match place {
            None => hole = true,
            Some(_) if hole => return Err(Fault::damaged("its compressed contents are scattered")),
            Some(place) => packed.extend(disk.volume.read(place, len(bytes))?),
        }
        at = at.saturating_add(bytes.max(1));
    }
    match len64(packed.len()) {
        0 => Ok(vec![0; len(piece_bytes)]),
        bytes if bytes == piece_bytes => Ok(packed),
        _ => lznt1::decode(&packed, len(piece_bytes)),
    }
}

//! What stands for something else: links of Windows and of its Linux, and those that ntfs-3g makes.
//!
//! Promise: contents that are kept elsewhere (compressed by Windows' own means, deduplicated, in a cloud) are said to be
//! unsupported, not read as the zeros that stand in their place.
//! Knows nothing of where a link leads. Format: [MS-FSCC] §2.1.2; WSL's in ntfs-3g include/ntfs-3g/layout.h; those of
//! Interix in libntfs-3g/dir.c, `INTX_FILE`.

use super::super::FileKind;
use super::super::fault::{Fault, len};
use super::names;
use crate::fs::view::Fields;

/// [MS-FSCC] §2.1.2.1.
const SYMLINK: u32 = 0xa000_000c;
const MOUNT_POINT: u32 = 0xa000_0003;
const LX_SYMLINK: u32 = 0xa000_001d;
const AF_UNIX: u32 = 0x8000_0023;
const LX_FIFO: u32 = 0x8000_0024;
const WOF: u32 = 0x8000_0017;
const DEDUP: u32 = 0x8000_0013;
const HSM: [u32; 2] = [0xc000_0004, 0x8000_0006];

/// What a reparse point makes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// For another kind of file.
    As(FileKind),
    /// For contents that are elsewhere.
    Elsewhere(&'static str),
    /// For nothing that matters here.
    Itself,
}

/// Decodes a reparse point.
pub(super) fn decode(point: &[u8]) -> Result<Stands, Fault> {
    const HEADER_BYTES: usize = 8;
    let (tag, bytes) = (point.le32(0)?, usize::from(point.le16(4)?));
    let data = point.part(HEADER_BYTES, bytes)?;
    Ok(match tag {
        // Flags: bit 0 says that the target is relative.
        SYMLINK => Stands::As(link(data, 12, data.le32(8)? & 1 != 0)?),
        MOUNT_POINT => Stands::As(link(data, 8, false)?),
        // A version, then UTF-8.
        LX_SYMLINK => Stands::As(FileKind::Link { target: data.get(4..).unwrap_or_default().to_vec() }),
        AF_UNIX => Stands::As(FileKind::Socket),
        LX_FIFO => Stands::As(FileKind::Fifo),
        WOF => Stands::Elsewhere("compression of Windows' own files (WOF)"),
        DEDUP => Stands::Elsewhere("deduplication of Windows"),
        tag if HSM.contains(&tag) => Stands::Elsewhere("contents on other storage"),
        _ => Stands::Itself,
    })
}

/// [MS-FSCC] §2.1.2.4 and §2.1.2.5: a name to be used, and a nicer one to be printed. A relative target gets the slashes
/// that it means; others begin with a drive or a volume, and nobody here knows where that is.
fn link(data: &[u8], names_at: usize, relative: bool) -> Result<FileKind, Fault> {
    let name = |at: usize| -> Result<&[u8], Fault> {
        let from = names_at.saturating_add(data.le16(at)?.into());
        Ok(data.part(from, data.le16(at.saturating_add(2))?.into())?)
    };
    let (used, printed) = (name(0)?, name(4)?);
    let mut target = names::decode(if printed.is_empty() { used } else { printed });
    if relative {
        target.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    }
    Ok(FileKind::Link { target })
}

/// What ntfs-3g and Interix make of a file with the attribute *system*; `None`: nothing.
pub(super) fn interix(bytes: u64, contents: &[u8]) -> Result<Option<FileKind>, Fault> {
    const DEVICE_BYTES: usize = 24;
    let device = || -> Result<(u32, u32), Fault> {
        let number = |at| -> Result<u32, Fault> {
            u32::try_from(contents.le64(at)?)
                .map_err(|_| Fault::damaged("the number of its device is not possible"))
        };
        Ok((number(8)?, number(16)?))
    };
    Ok(match bytes {
        0 => Some(FileKind::Fifo),
        1 => Some(FileKind::Socket),
        _ if contents.starts_with(b"IntxLNK\x01") => {
            Some(FileKind::Link { target: names::decode(contents.get(8..).unwrap_or_default()) })
        }
        _ if contents.len() == DEVICE_BYTES && contents.starts_with(b"IntxCHR\0") => {
            device().map(|(major, minor)| Some(FileKind::CharDevice { major, minor }))?
        }
        _ if contents.len() == DEVICE_BYTES && contents.starts_with(b"IntxBLK\0") => {
            device().map(|(major, minor)| Some(FileKind::BlockDevice { major, minor }))?
        }
        _ => None,
    })
}

/// The longest contents that [`interix`] has to see: a target of 4096 characters.
pub(super) const INTERIX_BYTES_MAX: u64 = 8 + 2 * 4096;

/// A reparse point has at most 16 KiB: [MS-FSCC] §2.1.2.2.
pub(super) fn check_bytes(bytes: u64) -> Result<usize, Fault> {
    match bytes {
        0..=16_384 => Ok(len(bytes)),
        _ => Err(Fault::damaged("its reparse point is too long")),
    }
}

//! Compressed extents: zlib, LZO, zstd.
//!
//! Promise: as many bytes as were asked for, at most [`BYTES_MAX`], or an error; what a stream that ended well lacks are
//! zeros, as in the kernel.
//! Knows nothing of where the bytes come from. Format of LZO's segments: linux fs/btrfs/lzo.c.

use std::io::Read;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::files::fault::{Fault, len};
use crate::fs::view::Fields;

/// `BTRFS_MAX_UNCOMPRESSED`, and `BTRFS_MAX_COMPRESSED`.
pub(super) const BYTES_MAX: u64 = 128 << 10;
/// `ZSTD_BTRFS_MAX_WINDOWLOG`.
const WINDOW_BYTES_MAX: u64 = 128 << 10;

/// How an extent is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Method {
    Zlib,
    Lzo,
    Zstd,
}

impl Method {
    /// `BTRFS_COMPRESS_*`; `None` for none.
    pub(super) fn of(number: u8) -> Result<Option<Self>, Fault> {
        Ok(match number {
            0 => None,
            1 => Some(Self::Zlib),
            2 => Some(Self::Lzo),
            3 => Some(Self::Zstd),
            _ => return Err(Fault::Unsupported("an unknown compression")),
        })
    }

    /// `bytes` bytes out of `packed`.
    pub(super) fn unpack(self, packed: &[u8], bytes: u64, sector_bytes: u64) -> Result<Vec<u8>, Fault> {
        if bytes > BYTES_MAX {
            return Err(Fault::Damaged(format!("{bytes} bytes in one compressed extent")));
        }
        let mut out = vec![0; len(bytes)];
        let is_sound = match self {
            Self::Zlib => zlib(packed, &mut out),
            Self::Lzo => lzo(packed, &mut out, len(sector_bytes)),
            Self::Zstd => zstd(packed, &mut out),
        };
        is_sound.map(|()| out).ok_or_else(|| Fault::Damaged(format!("bad {self:?} data")))
    }
}

fn zlib(packed: &[u8], out: &mut [u8]) -> Option<()> {
    let flags =
        inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, _) = decompress(&mut DecompressorOxide::new(), packed, out, 0, flags);
    // More than was asked for is no error: the kernel stops there too.
    matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput).then_some(())
}

/// The length of all, then segments with theirs, each of one sector of contents; no length crosses a sector's border.
fn lzo(packed: &[u8], out: &mut [u8], sector_bytes: usize) -> Option<()> {
    let packed = packed.part(0, len(packed.le32(0).ok()?.into())).ok()?;
    // What the kernel makes room for: `lzo1x_worst_compress`.
    let mut segment = vec![0; sector_bytes.saturating_add(sector_bytes / 16).saturating_add(67)];
    let (mut at, mut done) = (4_usize, 0_usize);
    while at < packed.len() && done < out.len() {
        let left = sector_bytes.saturating_sub(at.checked_rem(sector_bytes)?);
        if left < 4 {
            at = at.saturating_add(left);
            continue;
        }
        let bytes = len(packed.le32(at).ok()?.into());
        let body = packed.part(at.saturating_add(4), bytes).ok()?;
        let count = lzo::decompress_into(body, &mut segment).ok()?;
        at = at.saturating_add(4).saturating_add(bytes);
        let to = out.get_mut(done..)?;
        let count = count.min(to.len());
        to.get_mut(..count)?.copy_from_slice(segment.get(..count)?);
        done = done.saturating_add(count);
    }
    Some(())
}

fn zstd(packed: &[u8], out: &mut [u8]) -> Option<()> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW_BYTES_MAX);
    let mut source = packed;
    decoder.init(&mut source).ok()?;
    let mut rest = out;
    while !rest.is_empty() {
        let is_last = decoder.decode_blocks(&mut source, BlockDecodingStrategy::UptoBlocks(1)).ok()?;
        loop {
            let count = decoder.read(rest).ok()?;
            if count == 0 {
                break;
            }
            rest = rest.get_mut(count..)?;
        }
        if is_last {
            break;
        }
    }
    Some(())
}

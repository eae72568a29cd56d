//! Swap areas: the header, by ourselves.
//!
//! Promise: label and UUID stay when it grows; a hibernated system's area is not one, and is refused.
//! Knows nothing of what was swapped out. Format: linux include/linux/swap.h, `union swap_header`.

use std::path::Path;

use super::bytes::Bytes;
use super::{CannotChange, Change, IdentityChange, Program, ToolError, changed, dashed, size_is};

/// The magic ends the first page, whose size it tells.
const MAGIC: [u8; 10] = *b"SWAPSPACE2";
const PAGE_BYTES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
const VERSION: u64 = 1024;
const LAST_PAGE: u64 = 1028;
const UUID: u64 = 1036;

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::Grow | Change::NewIdentity | Change::Check => Ok(&[]),
        Change::Measure | Change::Shrink => Err(CannotChange::SwapShrink),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

/// Size of a page; the header is one that we know.
fn page_bytes(volume: &Bytes) -> Result<u64, ToolError> {
    let mut found = None;
    for page_bytes in PAGE_BYTES {
        let at = page_bytes.saturating_sub(10);
        if found.is_none() && volume.read(at).is_ok_and(|bytes| bytes == MAGIC) {
            found = Some(page_bytes);
        }
    }
    let page_bytes = found.ok_or(ToolError::Unknown { place: "swap: signature", found: 0 })?;
    match volume.le32(VERSION)? {
        1 => Ok(page_bytes),
        found => Err(ToolError::Unknown { place: "swap: version", found: found.into() }),
    }
}

pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    page_bytes(&Bytes::open(path)?).map(drop)
}

/// As mkswap(8) counts: the header is page 0.
pub(super) fn grow(path: &Path, bytes: u64) -> Result<(), ToolError> {
    let volume = Bytes::open_writable(path)?;
    let page_bytes = page_bytes(&volume)?;
    let pages = bytes.checked_div(page_bytes).unwrap_or(0);
    // More pages than the header can count stay unused.
    let last = u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX);
    if last < volume.le32(LAST_PAGE)? {
        return Err(CannotChange::SwapShrink.into());
    }
    volume.write(LAST_PAGE, &last.to_le_bytes())?;
    let pages = u64::from(volume.le32(LAST_PAGE)?).saturating_add(1);
    size_is("swap: bytes of the area", bytes, u64::MAX, pages.saturating_mul(page_bytes))
}

pub(super) fn new_identity(path: &Path, uuid: [u8; 16]) -> Result<Vec<IdentityChange>, ToolError> {
    changed(path, dashed(uuid), || {
        let volume = Bytes::open_writable(path)?;
        page_bytes(&volume)?;
        volume.write(UUID, &uuid)
    })
}

//! Swap areas: the first page is kept, the rest is not worth keeping, unless a system hibernates there.
//!
//! Promise: only a header of version 1 in this byte order, that fits the volume, is believed.
//! Knows nothing of what was swapped out. Format: linux include/linux/swap.h, `union swap_header`.

use super::view::{Fields, View};
use super::{Allocation, Doubt, Excluded};
use crate::Extent;
use crate::map::FreeMap;

/// The magic ends the first page.
const MAGIC: &[u8] = b"SWAPSPACE2";
/// What a page may have: the magic's place says which.
const PAGE_BYTES: [usize; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// `info.version` and `info.last_page`.
const VERSION: usize = 1024;
const LAST_PAGE: usize = 1028;
/// `info.badpages`, of which areas on whole media have none.
const BAD_PAGES: usize = 1536;

pub(super) fn allocation(volume: &View<'_>) -> Result<Allocation, Doubt> {
    let page_bytes = page_bytes(volume)?;
    let header = volume.read(0, page_bytes)?;
    let version = header.le32(VERSION)?;
    if version != 1 {
        return Err(Doubt::Mismatch {
            place: "version of the swap area",
            expected: 1,
            found: version.into(),
        });
    }
    // mkswap clears the whole page. Anything else there: the area was put to another use, and only the signature stayed.
    let empty = [
        header.part(0, VERSION)?,
        header.part(BAD_PAGES, page_bytes.saturating_sub(BAD_PAGES).saturating_sub(MAGIC.len()))?,
    ];
    if empty.iter().any(|part| part.iter().any(|byte| *byte != 0)) {
        return Err(Doubt::Impossible { place: "bytes in the first page of the swap area", found: 0 });
    }
    let last_page = header.le32(LAST_PAGE)?;
    if last_page == 0 {
        return Err(Doubt::Impossible { place: "last page of the swap area", found: 0 });
    }
    let offset = u64::try_from(page_bytes).unwrap_or(u64::MAX);
    // Without overflow: 32 bits of pages of at most 17 bits.
    let bytes = u64::from(last_page).saturating_mul(offset);
    let (expected, found) = (bytes.saturating_add(offset), volume.bytes());
    if expected > found {
        return Err(Doubt::TooLarge { expected, found });
    }
    let rest = Excluded { name: "swap area".to_owned(), extents: vec![Extent { offset, bytes }] };
    Ok(Allocation { kind: "swap", free: FreeMap::default(), excluded: vec![rest] })
}

fn page_bytes(volume: &View<'_>) -> Result<usize, Doubt> {
    let mut found = None;
    for page_bytes in PAGE_BYTES {
        let at = u64::try_from(page_bytes.saturating_sub(MAGIC.len())).unwrap_or(u64::MAX);
        if at.saturating_add(10) <= volume.bytes() && volume.read(at, MAGIC.len())? == MAGIC {
            // Of two, one lies in the other's swapped pages; which, nobody can say.
            if found.replace(page_bytes).is_some() {
                return Err(Doubt::Impossible { place: "two sizes of a page of the swap area", found: at });
            }
        }
    }
    found.ok_or(Doubt::Impossible { place: "signature of the swap area", found: 0 })
}

/// A swap area whose signature gave way to that of a hibernated system.
pub(super) fn hibernated(_: &View<'_>) -> Result<Allocation, Doubt> {
    Err(Doubt::Hibernated { place: "swap area" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::allocation;
    use crate::{MemoryDevice, ReadAt};

    fn header(page_bytes: usize, last_page: u32) -> Vec<u8> {
        let mut bytes = vec![0x5a; 40 * page_bytes + 100];
        bytes[..page_bytes].fill(0);
        bytes[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
        bytes[1028..1032].copy_from_slice(&last_page.to_le_bytes());
        bytes[page_bytes - 10..page_bytes].copy_from_slice(MAGIC);
        bytes
    }

    fn read(bytes: Vec<u8>) -> Result<Option<Allocation>, Doubt> {
        let device = MemoryDevice::new(bytes);
        allocation(&device, Extent { offset: 0, bytes: device.size_bytes() })
    }

    #[test]
    fn all_but_the_first_page_and_the_tail_is_excluded() {
        for page_bytes in PAGE_BYTES {
            let found = read(header(page_bytes, 38)).unwrap().unwrap();
            assert_eq!((found.kind, found.free.free_bytes()), ("swap", 0));
            let page = page_bytes as u64;
            assert_eq!(found.excluded[0].extents, [Extent { offset: page, bytes: 38 * page }]);
        }
    }

    #[test]
    fn what_hibernates_or_does_not_fit_is_whole() {
        for sign in [
            &b"S1SUSPEND\0"[..],
            b"S2SUSPEND\0",
            b"ULSUSPEND\0",
            b"LINHIB0001",
            b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c",
        ] {
            let mut bytes = header(4096, 39);
            bytes[4086..4096].fill(0);
            bytes[4086..4086 + sign.len()].copy_from_slice(sign);
            assert!(matches!(read(bytes), Err(Doubt::Hibernated { .. })));
        }
        assert!(matches!(read(header(4096, 40)), Err(Doubt::TooLarge { .. })));
        assert!(matches!(read(header(4096, 0)), Err(Doubt::Impossible { .. })));
        let mut big_endian = header(4096, 39);
        big_endian[1024..1028].copy_from_slice(&[0, 0, 0, 1]);
        assert!(matches!(read(big_endian), Err(Doubt::Mismatch { .. })));
        let mut twice = header(4096, 39);
        twice[8182..8192].copy_from_slice(MAGIC);
        assert!(matches!(read(twice), Err(Doubt::Impossible { .. })));
    }

    #[test]
    fn two_signatures_are_a_doubt() {
        let mut bytes = header(4096, 39);
        bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
        assert!(matches!(read(bytes), Err(Doubt::Ambiguous { .. })));
    }
}

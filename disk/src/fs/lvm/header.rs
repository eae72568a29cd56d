//! Label, physical volume header and metadata areas: where the volume group's text is.
//!
//! Promise: the text's checksum holds; every copy on this device is the same, and no change was under way.
//! Knows nothing of what the text says. Format: lvm2 lib/label/label.h, lib/format_text/layout.h.

use crate::Extent;
use crate::fs::Doubt;
use crate::fs::view::{Fields, READ_BYTES_MAX, View};

const SECTOR: usize = 512;
/// The label is in one of the first four sectors.
const LABEL_SECTORS: usize = 4;
/// `INITIAL_CRC`: lvm2 lib/misc/crc.h.
const INITIAL_CRC: u32 = 0xf597_a6cf;
/// `FMTT_MAGIC`.
const MAGIC: &[u8] = b"\x20LVM2\x20x[5A%r0N*>";
const MDA_HEADER_BYTES: u64 = 512;
const IGNORED: u32 = 1;
/// More areas than this have no room in the label's sector.
const AREAS_MAX: usize = 32;

pub(super) struct Header {
    /// Of this physical volume, without dashes.
    pub(super) uuid: [u8; 32],
    /// Where extents begin.
    pub(super) data: u64,
    /// Metadata and boot loaders.
    pub(super) reserved: Vec<Extent>,
    pub(super) metadata: Vec<u8>,
}

/// `calc_crc`: the register in and out, without inversions.
fn crc(register: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!register);
    hasher.update(bytes);
    !hasher.finalize()
}

pub(super) fn read(volume: &View<'_>) -> Result<Header, Doubt> {
    let head = volume.read(0, SECTOR.saturating_mul(LABEL_SECTORS))?;
    let sector = label(&head)?;
    let at = usize::try_from(sector.le32(20)?).unwrap_or(usize::MAX);
    let uuid = sector.array(at)?;
    let mut at = at.saturating_add(40);
    let data = areas(sector, &mut at)?;
    let metadata_areas = areas(sector, &mut at)?;
    // An extension follows, whose version is 0 when there is none; the sector may end before.
    let boot = match sector.le32(at) {
        Ok(1..) => {
            at = at.saturating_add(8);
            areas(sector, &mut at)?
        }
        _ => Vec::new(),
    };
    let [data] = data.as_slice() else {
        return Err(Doubt::Impossible { place: "number of data areas", found: len64(data.len()) });
    };
    let metadata = metadata(volume, &metadata_areas)?;
    Ok(Header { uuid, data: data.offset, reserved: [metadata_areas, boot].concat(), metadata })
}

fn label(head: &[u8]) -> Result<&[u8], Doubt> {
    let mut found = None;
    for (number, sector) in (0_u64..).zip(head.chunks_exact(SECTOR)) {
        if !sector.starts_with(b"LABELONE") {
            continue;
        }
        if sector.part(24, 8)? != b"LVM2 001" || sector.le64(8)? != number {
            return Err(Doubt::Impossible { place: "label in sector", found: number });
        }
        if crc(INITIAL_CRC, sector.get(20..).unwrap_or_default()) != sector.le32(16)? {
            return Err(Doubt::Checksum { place: "label in sector", number });
        }
        if found.replace(sector).is_some() {
            return Err(Doubt::Impossible { place: "a second label in sector", found: number });
        }
    }
    found.ok_or(Doubt::Impossible { place: "number of labels", found: 0 })
}

/// A list of `struct disk_locn`, up to one whose offset is 0.
fn areas(sector: &[u8], at: &mut usize) -> Result<Vec<Extent>, Doubt> {
    let mut areas = Vec::new();
    while areas.len() < AREAS_MAX {
        let area = Extent { offset: sector.le64(*at)?, bytes: sector.le64(at.saturating_add(8))? };
        *at = at.saturating_add(16);
        if area.offset == 0 {
            return Ok(areas);
        }
        areas.push(area);
    }
    Err(Doubt::Impossible { place: "number of areas", found: len64(areas.len()) })
}

/// The text that all metadata areas have.
fn metadata(volume: &View<'_>, areas: &[Extent]) -> Result<Vec<u8>, Doubt> {
    let mut found: Option<Vec<u8>> = None;
    for area in areas {
        let Some(text) = area_text(volume, *area)? else { continue };
        match &found {
            Some(before) if *before != text => {
                return Err(Doubt::Impossible { place: "another metadata text at", found: area.offset });
            }
            _ => found = Some(text),
        }
    }
    found.ok_or(Doubt::Elsewhere { place: "the volume group's metadata" })
}

/// `None`: this area is not in use.
fn area_text(volume: &View<'_>, area: Extent) -> Result<Option<Vec<u8>>, Doubt> {
    let mismatch = |place, expected, found| Doubt::Mismatch { place, expected, found };
    let impossible = |place, found| Doubt::Impossible { place, found };
    let header = volume.part(area)?.read(0, SECTOR)?;
    if crc(INITIAL_CRC, header.get(4..).unwrap_or_default()) != header.le32(0)? {
        return Err(Doubt::Checksum { place: "metadata area at", number: area.offset });
    }
    if header.part(4, 16)? != MAGIC || header.le32(20)? != 1 {
        return Err(impossible("version of the metadata area", header.le32(20)?.into()));
    }
    let (start, bytes) = (header.le64(24)?, header.le64(32)?);
    if start != area.offset {
        return Err(mismatch("place of the metadata area", area.offset, start));
    }
    if bytes != area.bytes {
        return Err(mismatch("bytes of the metadata area", area.bytes, bytes));
    }
    // `struct raw_locn`: what is committed, what is about to be, and the end of the list.
    let (offset, len, sum, flags) = (header.le64(40)?, header.le64(48)?, header.le32(56)?, header.le32(60)?);
    if flags & !IGNORED != 0 {
        return Err(Doubt::Feature { place: "metadata area", found: flags.into() });
    }
    if flags & IGNORED != 0 {
        return Ok(None);
    }
    if offset == 0 && len == 0 {
        return Err(Doubt::Elsewhere { place: "the volume group (there is none here)" });
    }
    if header.le64(64)? != 0 || header.le64(72)? != 0 {
        return Err(Doubt::NotClean { place: "a change of the volume group is under way" });
    }
    let fits = offset >= MDA_HEADER_BYTES && offset < bytes && len <= bytes.saturating_sub(MDA_HEADER_BYTES);
    let wanted = usize::try_from(len).ok().filter(|len| fits && *len > 0 && *len <= READ_BYTES_MAX);
    let wanted = wanted.ok_or(impossible("bytes of the metadata text", len))?;
    // The area behind its header is a ring.
    let area = volume.part(area)?;
    let first = wanted.min(usize::try_from(bytes.saturating_sub(offset)).unwrap_or(usize::MAX));
    let mut text = area.read(offset, first)?;
    text.extend(area.read(MDA_HEADER_BYTES, wanted.saturating_sub(first))?);
    match crc(INITIAL_CRC, &text) == sum {
        true => Ok(Some(text)),
        false => Err(Doubt::Checksum { place: "metadata text at", number: offset }),
    }
}

fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

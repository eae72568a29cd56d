//! A record of the file table, and the attributes in it.
//!
//! Promise: a record was read whole (the update sequence in each of its blocks fits) and says it is what it should be;
//! attributes and their lists of runs lie inside it.
//! Knows nothing of attributes that are spread over several records. Format: ntfs-3g include/ntfs-3g/layout.h,
//! `MFT_RECORD`, `ATTR_RECORD`; libfsntfs documentation, "MFT entry", "Fix-up values", "Data runs".

use super::super::Doubt;
use super::super::view::Fields;
use super::boot::{BLOCK_BYTES, Boot};
use crate::Extent;

/// Kinds of attributes: layout.h, `ATTR_TYPES`.
pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
pub(crate) const DATA: u32 = 0x80;
pub(crate) const INDEX_ROOT: u32 = 0x90;
pub(crate) const INDEX_ALLOCATION: u32 = 0xa0;
pub(crate) const BITMAP: u32 = 0xb0;
const END: u32 = 0xffff_ffff;

/// Flags of an attribute: layout.h, `ATTR_FLAGS`.
pub(crate) const SPARSE: u16 = 0x8000;
pub(crate) const COMPRESSED_MASK: u16 = 0x00ff;
pub(crate) const ENCRYPTED: u16 = 0x4000;
pub(crate) const NOT_PLAIN: u16 = COMPRESSED_MASK | ENCRYPTED | SPARSE;

/// Flags of a record: layout.h, `MFT_RECORD_FLAGS`.
const IN_USE: u16 = 0x0001;
const DIRECTORY: u16 = 0x0002;

/// Low bits of a reference to a record: its number; the others count how often it was used anew.
const NUMBER_MASK: u64 = (1 << 48) - 1;

/// Number and sequence of a reference.
pub(crate) fn split_reference(reference: u64) -> (u64, u16) {
    let [.., a, b] = reference.to_le_bytes();
    (reference & NUMBER_MASK, u16::from_le_bytes([a, b]))
}

/// Puts the bytes back that the update sequence took from the end of each block, when every block has the sequence's
/// number there: else a write did not get through.
pub(crate) fn fix_up(bytes: &mut [u8], place: &'static str, number: u64) -> Result<(), Doubt> {
    const OFFSET: usize = 4;
    const COUNT: usize = 6;
    let torn = || Doubt::Checksum { place, number };
    let at = usize::from(bytes.le16(OFFSET)?);
    let count = usize::from(bytes.le16(COUNT)?);
    let blocks = bytes.len().checked_div(BLOCK_BYTES).unwrap_or(0);
    let len = count.saturating_mul(2);
    // The sequence lies in the first block, and not where it would be replaced itself.
    let fits = at % 2 == 0 && at >= 8 && at.saturating_add(len) <= BLOCK_BYTES.saturating_sub(2);
    if count != blocks.saturating_add(1) || !fits || !bytes.len().is_multiple_of(BLOCK_BYTES) {
        return Err(torn());
    }
    let sequence = bytes.part(at, len)?.to_vec();
    let (expected, saved) = sequence.split_first_chunk::<2>().ok_or_else(torn)?;
    for (block, saved) in bytes.chunks_exact_mut(BLOCK_BYTES).zip(saved.chunks_exact(2)) {
        let end = block.last_chunk_mut::<2>().ok_or_else(torn)?;
        if end != expected {
            return Err(torn());
        }
        end.copy_from_slice(saved);
    }
    Ok(())
}

/// A record in use.
#[derive(Debug)]
pub(crate) struct Record {
    number: u64,
    /// Up to what is in use of it.
    bytes: Vec<u8>,
}

impl Record {
    /// Whether the bytes are those of a record that says it is in use; looks at its first block only.
    pub(crate) fn says_used(bytes: &[u8]) -> bool {
        bytes.starts_with(b"FILE") && bytes.le16(22).is_ok_and(|flags| flags & IN_USE != 0)
    }

    /// Doubts a record that must be there, though not in use: a file that was never finished is none, a torn one may be.
    pub(crate) fn check_unused(mut bytes: Vec<u8>, number: u64) -> Result<(), Doubt> {
        match bytes.starts_with(b"FILE") {
            true => fix_up(&mut bytes, "file record", number),
            false => {
                Err(Doubt::Impossible { place: "no file record where one should be: number", found: number })
            }
        }
    }

    /// Takes a record that should be in use.
    pub(crate) fn parse(mut bytes: Vec<u8>, number: u64) -> Result<Self, Doubt> {
        let wrong = |place| Doubt::Impossible { place, found: number };
        if !bytes.starts_with(b"FILE") {
            return Err(wrong("no file record where one should be: number"));
        }
        fix_up(&mut bytes, "file record", number)?;
        if bytes.le16(22)? & IN_USE == 0 {
            return Err(wrong("a file record that should be in use: number"));
        }
        let in_use = usize::try_from(bytes.le32(24)?).unwrap_or(usize::MAX);
        if in_use > bytes.len() {
            return Err(wrong("bytes in use of file record"));
        }
        bytes.truncate(in_use);
        Ok(Self { number, bytes })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How often the record was used anew.
    pub(crate) fn sequence(&self) -> Result<u16, Doubt> {
        self.bytes.le16(16)
    }

    pub(crate) fn links(&self) -> Result<u16, Doubt> {
        self.bytes.le16(18)
    }

    pub(crate) fn is_directory(&self) -> Result<bool, Doubt> {
        Ok(self.bytes.le16(22)? & DIRECTORY != 0)
    }

    /// The record whose attributes did not all fit there; `None` for a file's first record.
    pub(crate) fn base(&self) -> Result<Option<u64>, Doubt> {
        let (number, _) = split_reference(self.bytes.le64(32)?);
        Ok((number != 0).then_some(number))
    }

    /// The bytes in use, for comparing with a copy.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All attributes.
    pub(crate) fn attributes(&self) -> Result<Vec<Attribute<'_>>, Doubt> {
        /// Of a resident attribute; others have more.
        const HEADER_BYTES: usize = 24;
        let wrong = || Doubt::Impossible { place: "attributes of file record", found: self.number };
        let mut attributes = Vec::new();
        let mut at = usize::from(self.bytes.le16(20)?);
        // Ends: each attribute is at least a header long.
        while self.bytes.le32(at)? != END {
            let len = usize::try_from(self.bytes.le32(at.saturating_add(4))?).unwrap_or(usize::MAX);
            if len < HEADER_BYTES || len % 8 != 0 {
                return Err(wrong());
            }
            attributes.push(Attribute { record: self.number, bytes: self.bytes.part(at, len)? });
            at = at.saturating_add(len);
        }
        Ok(attributes)
    }

    /// The attribute of this kind and name whose runs begin at this cluster of its value.
    pub(crate) fn find(&self, kind: u32, name: &str, first: u64) -> Result<Option<Attribute<'_>>, Doubt> {
        for attribute in self.attributes()? {
            if attribute.is(kind, name) && (!attribute.has_runs()? || attribute.first()? == first) {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }
}

/// One attribute, or the part of it that one record has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    record: u64,
    bytes: &'a [u8],
}

/// Consecutive clusters of an attribute's value; `at`: where on the volume, `None` for a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) clusters: u64,
    pub(crate) at: Option<u64>,
}

impl<'a> Attribute<'a> {
    pub(crate) fn is(&self, kind: u32, name: &str) -> bool {
        self.bytes.le32(0).is_ok_and(|found| found == kind) && self.name().is_ok_and(|found| is(found, name))
    }

    pub(crate) fn kind(&self) -> Result<u32, Doubt> {
        self.bytes.le32(0)
    }

    /// Of a value that is compressed in pieces: the power of two of clusters in one; 0 otherwise.
    pub(crate) fn compression_unit(&self) -> Result<u8, Doubt> {
        self.bytes.byte(34)
    }

    /// UTF-16.
    pub(crate) fn name(&self) -> Result<&'a [u8], Doubt> {
        let len = usize::from(self.bytes.byte(9)?).saturating_mul(2);
        self.bytes.part(self.bytes.le16(10)?.into(), len)
    }

    /// Whether the value is elsewhere.
    pub(crate) fn has_runs(&self) -> Result<bool, Doubt> {
        match self.bytes.byte(8)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong("attributes of file record")),
        }
    }

    pub(crate) fn flags(&self) -> Result<u16, Doubt> {
        self.bytes.le16(12)
    }

    /// The value, of an attribute that has it inside.
    pub(crate) fn value(&self) -> Result<&'a [u8], Doubt> {
        if self.has_runs()? {
            return Err(self.wrong("an attribute without value in file record"));
        }
        let len = usize::try_from(self.bytes.le32(16)?).unwrap_or(usize::MAX);
        self.bytes.part(self.bytes.le16(20)?.into(), len)
    }

    /// First cluster of the value that these runs are for.
    pub(crate) fn first(&self) -> Result<u64, Doubt> {
        self.bytes.le64(16)
    }

    /// Allocated, real and initialized bytes; only the attribute's first part has them.
    pub(crate) fn sizes(&self) -> Result<[u64; 3], Doubt> {
        Ok([self.bytes.le64(40)?, self.bytes.le64(48)?, self.bytes.le64(56)?])
    }

    /// The runs: pairs of a length and a distance to the place of the run before, each with as many bytes as the pair's
    /// first byte says.
    pub(crate) fn runs(&self, boot: &Boot) -> Result<Vec<Run>, Doubt> {
        let wrong = || self.wrong("runs of file record");
        let mut pairs = self.bytes.get(usize::from(self.bytes.le16(32)?)..).ok_or_else(wrong)?;
        let (mut runs, mut at, mut total) = (Vec::new(), 0_i64, 0_u64);
        loop {
            let (sizes, rest) = pairs.split_first().ok_or_else(wrong)?;
            if *sizes == 0 {
                break;
            }
            let (len, rest) = rest.split_at_checked(usize::from(sizes & 0x0f)).ok_or_else(wrong)?;
            let (distance, rest) = rest.split_at_checked(usize::from(sizes >> 4)).ok_or_else(wrong)?;
            pairs = rest;
            let clusters = signed(len).and_then(|len| u64::try_from(len).ok()).filter(|len| *len > 0);
            let clusters = clusters.ok_or_else(wrong)?;
            total = total.checked_add(clusters).ok_or_else(wrong)?;
            let mut run = Run { clusters, at: None };
            if !distance.is_empty() {
                at = signed(distance).and_then(|distance| at.checked_add(distance)).ok_or_else(wrong)?;
                // Windows NT 4 had holes at -1: no place, and a doubt.
                let place = u64::try_from(at).map_err(|_| wrong())?;
                let end = place.checked_add(clusters).ok_or_else(wrong)?;
                if end > boot.clusters {
                    return Err(wrong());
                }
                run.at = Some(place);
            }
            runs.push(run);
        }
        // The last cluster; -1 when there is none.
        let last = self.bytes.le64(24)?;
        let expected = last.wrapping_add(1).checked_sub(self.first()?).ok_or_else(wrong)?;
        if expected != total {
            return Err(Doubt::Mismatch { place: "clusters of an attribute", expected, found: total });
        }
        Ok(runs)
    }

    /// Where on the volume its runs are; nothing for a value that is inside.
    pub(crate) fn extents(&self, boot: &Boot) -> Result<Vec<Extent>, Doubt> {
        if !self.has_runs()? {
            self.value()?;
            return Ok(Vec::new());
        }
        Ok(self.runs(boot)?.iter().filter_map(|run| run.extent(boot)).collect())
    }

    fn wrong(&self, place: &'static str) -> Doubt {
        Doubt::Impossible { place, found: self.record }
    }
}

impl Run {
    pub(crate) fn extent(&self, boot: &Boot) -> Option<Extent> {
        let offset = boot.place(self.at?);
        Some(Extent { offset, bytes: boot.place(self.clusters) })
    }
}

/// A number of at most 8 bytes, in two's complement; `None` for longer ones and for none.
fn signed(bytes: &[u8]) -> Option<i64> {
    let fill = if bytes.last()? & 0x80 == 0 { 0 } else { 0xff };
    let mut whole = [fill; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(whole))
}

/// Whether UTF-16 text is this name.
pub(crate) fn is(utf16: &[u8], name: &str) -> bool {
    utf16.chunks(2).eq(name.encode_utf16().map(u16::to_le_bytes))
}

/// Whether UTF-16 text is this name of ASCII letters, in capitals or not.
pub(crate) fn is_like(utf16: &[u8], name: &str) -> bool {
    let lower = |unit: &[u8]| match unit {
        [byte, 0] => byte.to_ascii_lowercase(),
        _ => 0,
    };
    utf16.chunks(2).map(lower).eq(name.bytes())
}

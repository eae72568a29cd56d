//! What a volume holds, by the magic numbers of its first 68 KiB (and of its end, for RAID members).
//!
//! Promise: reads a bounded amount, believes nothing, and uses blkid's names. What cannot be read is not there.
//! Knows nothing of what is inside the file systems; a label kept in a folder or a table is looked up no further than
//! one block (exFAT, NTFS).

mod foreign;

use crate::{Error, Extent, ReadAt};

/// The furthest magic is that of btrfs, 64 KiB in.
const HEAD_BYTES: u64 = 68 << 10;
/// The head is read in such steps, so that one bad sector hides only its own.
const STEP_BYTES: u64 = 4096;

/// What a volume holds.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Content {
    /// `ext4`, `xfs`, `btrfs`, `ntfs`, `vfat`, `exfat`, `swap`, `swsuspend`, `LVM2_member`, `crypto_LUKS`…: blkid's names.
    pub kind: String,
    /// Label.
    pub label: Option<String>,
    /// UUID, written as blkid writes it.
    pub uuid: Option<String>,
}

impl Content {
    fn new(kind: &str, label: Option<String>, uuid: Option<String>) -> Self {
        Self { kind: kind.to_owned(), label: label.filter(|label| !label.is_empty()), uuid }
    }
}

const PROBES: [fn(&Head<'_>) -> Option<Content>; 20] = [
    luks,
    raid,
    lvm,
    bitlocker,
    bcache,
    swap,
    ext,
    xfs,
    btrfs,
    f2fs,
    ntfs,
    exfat,
    vfat,
    squashfs,
    erofs,
    iso9660,
    apfs,
    hfs_plus,
    foreign::foreign,
    foreign::zfs,
];

/// Looks at an extent of a device. Containers (LUKS, RAID, LVM) come first: what they hold may look like more.
#[must_use]
pub fn probe(device: &dyn ReadAt, extent: Extent) -> Option<Content> {
    let head = Head::read(device, extent)?;
    PROBES.iter().find_map(|probe| probe(&head))
}

/// All kinds of content that the extent looks like, the likeliest first.
///
/// # Errors
/// When a part of where they would say so cannot be read: what is there may be anything.
pub(crate) fn kinds(device: &dyn ReadAt, extent: Extent) -> Result<Vec<String>, Error> {
    let Some(mut head) = Head::read(device, extent) else { return Ok(Vec::new()) };
    if let Some(unreadable) = head.unreadable.take() {
        return Err(unreadable);
    }
    Ok(PROBES.iter().filter_map(|probe| probe(&head)).map(|content| content.kind).collect())
}

/// The first bytes of a volume, and the means to read a few more.
struct Head<'a> {
    device: &'a dyn ReadAt,
    extent: Extent,
    bytes: Vec<u8>,
    /// Why the first part that can't be read, and is zeros here, can't be.
    unreadable: Option<Error>,
}

impl<'a> Head<'a> {
    fn read(device: &'a dyn ReadAt, extent: Extent) -> Option<Self> {
        let end = extent.end().min(device.size_bytes());
        let extent = Extent { offset: extent.offset, bytes: end.checked_sub(extent.offset)? };
        let mut bytes = vec![0; usize::try_from(extent.bytes.min(HEAD_BYTES)).ok()?];
        let mut offset = extent.offset;
        let mut unreadable = None;
        for step in bytes.chunks_mut(usize::try_from(STEP_BYTES).ok()?) {
            if let Err(error) = device.read_exact_at(offset, step) {
                step.fill(0);
                unreadable.get_or_insert(error);
            }
            offset = offset.saturating_add(STEP_BYTES);
        }
        Some(Self { device, extent, bytes, unreadable })
    }

    fn at(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.bytes.get(offset..offset.checked_add(len)?)
    }

    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.at(offset, N)?.try_into().ok()
    }

    fn has(&self, offset: usize, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == Some(magic)
    }

    fn le32(&self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn le16(&self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.bytes.get(offset).copied()
    }

    fn text(&self, offset: usize, len: usize) -> Option<String> {
        self.at(offset, len).map(text)
    }

    fn uuid(&self, offset: usize) -> Option<String> {
        self.array::<16>(offset).filter(|uuid| *uuid != [0; 16]).map(|uuid| dashed(&uuid))
    }

    /// Bytes elsewhere in the volume.
    fn elsewhere(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        let mut bytes = vec![0; len];
        let inside = end <= self.extent.bytes;
        (inside && self.device.read_exact_at(self.extent.offset.checked_add(offset)?, &mut bytes).is_ok())
            .then_some(bytes)
    }
}

/// Text up to the first NUL, without blanks at its end.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

fn text16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).filter_map(|pair| pair.try_into().ok()).map(u16::from_le_bytes);
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn dashed(uuid: &[u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, rest @ ..] = uuid;
    let parts = [&[*a0, *a1, *a2, *a3][..], &[*b0, *b1], &[*c0, *c1], &[*d0, *d1], rest];
    parts.map(hex).join("-")
}

/// `1A2B-3C4D`: FAT and exFAT.
pub(crate) fn serial(number: u32) -> String {
    let [a, b, c, d] = number.to_le_bytes();
    format!("{d:02X}{c:02X}-{b:02X}{a:02X}")
}

/// cryptsetup docs: LUKS1 on-disk format §2.3, LUKS2 on-disk format §2.1.
fn luks(head: &Head<'_>) -> Option<Content> {
    let version: [u8; 2] = head.has(0, b"LUKS\xba\xbe").then(|| head.array(6))??;
    let label = (version == [0, 2]).then(|| head.text(24, 48)).flatten();
    Some(Content::new("crypto_LUKS", label, head.text(168, 40)))
}

/// linux include/uapi/linux/raid/md_p.h. Version 1.1 and 1.2 lie at the start, 1.0 and 0.90 at the end.
fn raid(head: &Head<'_>) -> Option<Content> {
    const MAGIC: [u8; 4] = 0xa92b_4efc_u32.to_le_bytes();
    let member = |block: &[u8]| {
        let uuid: [u8; 16] = block.get(16..32)?.try_into().ok()?;
        Some(Content::new("linux_raid_member", block.get(32..64).map(text), Some(dashed(&uuid))))
    };
    for offset in [0, 4096] {
        if head.has(offset, &MAGIC) && head.le32(offset.saturating_add(4)) == Some(1) {
            return member(head.at(offset, 64)?);
        }
    }
    let sectors = head.extent.bytes >> 9;
    let v1_0 = sectors.checked_sub(16)? & !7;
    let v0_90 = (sectors & !127).checked_sub(128);
    if let Some(block) = head.elsewhere(v1_0.checked_mul(512)?, 64).filter(|block| block.starts_with(&MAGIC))
    {
        return member(&block);
    }
    let block = head.elsewhere(v0_90?.checked_mul(512)?, 64).filter(|block| block.starts_with(&MAGIC))?;
    // The four words of the UUID are apart, and in the machine's order: blkid prints them as they lie.
    let [first, rest] = [block.get(20..24)?, block.get(52..64)?];
    let uuid: [u8; 16] = [first, rest].concat().try_into().ok()?;
    let swapped: Vec<u8> = uuid.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    Some(Content::new("linux_raid_member", None, Some(dashed(&swapped.try_into().ok()?))))
}

/// lvm2 lib/format_text/layout.h, lib/label/label.h: the label is in one of the first four sectors.
fn lvm(head: &Head<'_>) -> Option<Content> {
    let label = [0_usize, 512, 1024, 1536]
        .into_iter()
        .find(|at| head.has(*at, b"LABELONE") && head.has(at.saturating_add(24), b"LVM2 001"))?;
    let id = head.text(label.checked_add(32)?, 32)?;
    let cuts = [0, 6, 10, 14, 18, 22, 26, 32];
    let parts: Option<Vec<&str>> =
        cuts.iter().zip(cuts.iter().skip(1)).map(|(from, to)| id.get(*from..*to)).collect();
    Some(Content::new("LVM2_member", None, parts.map(|parts| parts.join("-"))))
}

/// libbde documentation, "Volume header": the signature takes the place of NTFS'; "BitLocker To Go": a FAT32 of
/// stand-ins, whose boot sector has an identifier.
fn bitlocker(head: &Head<'_>) -> Option<Content> {
    // In use, and while it is being encrypted: dislocker src/metadata/guid.h.
    const TO_GO: [&[u8; 16]; 2] = [
        b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01",
        b"\x3b\x4d\xa8\x92\x80\xdd\x0e\x4d\x9e\x4e\xb1\xe3\x28\x4e\xae\xd8",
    ];
    let to_go = head.has(3, b"MSWIN4.1") && TO_GO.iter().any(|id| head.has(424, *id));
    let found = to_go || head.has(3, b"-FVE-FS-");
    found.then(|| Content::new("BitLocker", None, None))
}

/// linux drivers/md/bcache/bcache_ondisk.h.
fn bcache(head: &Head<'_>) -> Option<Content> {
    const MAGIC: [u8; 16] = *b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    head.has(4120, &MAGIC).then(|| Content::new("bcache", head.text(4168, 32), head.uuid(4136)))
}

/// linux include/linux/swap.h, union swap_header: the magic ends the first page, whatever a page is. A hibernated
/// system's takes its place: util-linux libblkid/src/superblocks/swap.c.
fn swap(head: &Head<'_>) -> Option<Content> {
    const SUSPENDED: [&[u8]; 5] =
        [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"];
    let kind_at = |end: usize| {
        let at = end.saturating_sub(10);
        let suspended = || SUSPENDED.iter().any(|magic| head.has(at, magic)).then_some("swsuspend");
        if head.has(at, b"SWAPSPACE2") { Some("swap") } else { suspended() }
    };
    let kind = [4096_usize, 8192, 16384, 32768, 65536].into_iter().find_map(kind_at)?;
    Some(Content::new(kind, head.text(1052, 16), head.uuid(1036)))
}

/// linux Documentation/filesystems/ext4/super.rst. What ext3 does not know makes it ext4; a journal makes it ext3.
fn ext(head: &Head<'_>) -> Option<Content> {
    const HAS_JOURNAL: u32 = 0x4;
    const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10;
    const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    if !head.has(1080, &[0x53, 0xef]) {
        return None;
    }
    let (compat, incompat, ro_compat) = (head.le32(1116)?, head.le32(1120)?, head.le32(1124)?);
    let kind = match () {
        () if incompat & JOURNAL_DEVICE != 0 => "jbd",
        () if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 => "ext4",
        () if compat & HAS_JOURNAL != 0 => "ext3",
        () => "ext2",
    };
    Some(Content::new(kind, head.text(1144, 16), head.uuid(1128)))
}

/// linux fs/xfs/libxfs/xfs_format.h, struct xfs_dsb.
fn xfs(head: &Head<'_>) -> Option<Content> {
    head.has(0, b"XFSB").then(|| Content::new("xfs", head.text(108, 12), head.uuid(32)))
}

/// btrfs documentation, "On-disk format", superblock.
fn btrfs(head: &Head<'_>) -> Option<Content> {
    head.has(0x1_0040, b"_BHRfS_M")
        .then(|| Content::new("btrfs", head.text(0x1_012b, 256), head.uuid(0x1_0020)))
}

/// linux include/linux/f2fs_fs.h, struct f2fs_super_block.
fn f2fs(head: &Head<'_>) -> Option<Content> {
    let label = head.at(1024 + 124, 1024).map(text16);
    head.has(1024, &0xf2f5_2010_u32.to_le_bytes()).then(|| Content::new("f2fs", label, head.uuid(1024 + 108)))
}

/// libfsntfs documentation, "Volume header"; the label is in file 3, `$Volume`.
fn ntfs(head: &Head<'_>) -> Option<Content> {
    if !head.has(3, b"NTFS    ") {
        return None;
    }
    let serial = u64::from_le_bytes(head.array(72)?);
    Some(Content::new("ntfs", ntfs_label(head), Some(format!("{serial:016X}"))))
}

/// Attribute 0x60 of MFT record 3, if it is where a record of ordinary size has it.
fn ntfs_label(head: &Head<'_>) -> Option<String> {
    /// Records are 1 KiB, or 4 KiB on disks with such sectors.
    const RECORD_BYTES_MAX: u64 = 4096;
    const VOLUME_NAME: u32 = 0x60;
    let sector = u64::from(head.le16(11)?);
    let factor = head.byte(13)?;
    // Above 128 it is the negative of a power of two.
    let cluster_sectors =
        if factor > 128 { 1_u64.checked_shl(u32::from(factor.wrapping_neg()))? } else { factor.into() };
    let cluster = sector.checked_mul(cluster_sectors)?;
    let size = head.byte(64)?;
    let record = if size > 127 {
        1_u64.checked_shl(u32::from(size.wrapping_neg()))?
    } else {
        cluster.checked_mul(size.into())?
    };
    if !(512..=RECORD_BYTES_MAX).contains(&record) {
        return None;
    }
    let mft = u64::from_le_bytes(head.array(48)?).checked_mul(cluster)?;
    let bytes = head.elsewhere(mft.checked_add(record.checked_mul(3)?)?, usize::try_from(record).ok()?)?;
    let le16 = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let le32 = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    if !bytes.starts_with(b"FILE") {
        return None;
    }
    let mut at = usize::from(le16(20)?);
    // An attribute has at least 16 bytes, so this ends.
    while le32(at)? < VOLUME_NAME {
        at = at.checked_add(usize::try_from(le32(at.checked_add(4)?)?).ok().filter(|len| *len >= 16)?)?;
    }
    let len = usize::try_from(le32(at.checked_add(16)?)?).ok()?;
    let start = at.checked_add(usize::from(le16(at.checked_add(20)?)?))?;
    (le32(at)? == VOLUME_NAME).then(|| bytes.get(start..start.checked_add(len)?).map(text16)).flatten()
}

/// Microsoft exFAT specification §3.1; the label is an entry of the root directory, §7.3.
fn exfat(head: &Head<'_>) -> Option<Content> {
    if !head.has(3, b"EXFAT   ") {
        return None;
    }
    Some(Content::new("exfat", exfat_label(head), head.le32(100).map(serial)))
}

fn exfat_label(head: &Head<'_>) -> Option<String> {
    const ENTRY_BYTES: usize = 32;
    let sector_shift = u32::from(head.byte(108)?);
    let cluster_shift = sector_shift.checked_add(u32::from(head.byte(109)?))?;
    let heap = u64::from(head.le32(88)?).checked_mul(1_u64.checked_shl(sector_shift)?)?;
    let root = u64::from(head.le32(96)?.checked_sub(2)?).checked_mul(1_u64.checked_shl(cluster_shift)?)?;
    let entries = head.elsewhere(heap.checked_add(root)?, 512)?;
    let label = entries.chunks_exact(ENTRY_BYTES).find(|entry| entry.first() == Some(&0x83))?;
    let len = usize::from(*label.get(1)?).min(11);
    label.get(2..len.checked_mul(2)?.checked_add(2)?).map(text16)
}

/// Microsoft FAT specification (2005) §3: no single magic, so all that must hold is checked.
fn vfat(head: &Head<'_>) -> Option<Content> {
    let sector = head.le16(11)?;
    let plausible = head.has(510, &[0x55, 0xaa])
        && matches!(head.byte(0)?, 0xeb | 0xe9)
        && matches!(sector, 512 | 1024 | 2048 | 4096)
        && head.byte(13)?.is_power_of_two()
        && head.le16(14)? != 0
        && matches!(head.byte(16)?, 1 | 2)
        && matches!(head.byte(21)?, 0xf0 | 0xf8..=0xff);
    if !plausible {
        return None;
    }
    let (number, label) = match head.le16(22)? {
        0 if head.has(82, b"FAT32   ") => (67, 71),
        0 => return None,
        _ if head.has(54, b"FAT") => (39, 43),
        _ => return None,
    };
    let label = head.text(label, 11).filter(|label| label != "NO NAME");
    Some(Content::new("vfat", label, head.le32(number).map(serial)))
}

/// linux fs/squashfs/squashfs_fs.h.
fn squashfs(head: &Head<'_>) -> Option<Content> {
    (head.has(0, b"hsqs") && head.le16(28) == Some(4)).then(|| Content::new("squashfs", None, None))
}

/// linux fs/erofs/erofs_fs.h, struct erofs_super_block.
fn erofs(head: &Head<'_>) -> Option<Content> {
    let found = head.has(1024, &0xe0f5_e1e2_u32.to_le_bytes());
    found.then(|| Content::new("erofs", head.text(1088, 16), head.uuid(1072)))
}

/// ECMA-119 §8.4.
fn iso9660(head: &Head<'_>) -> Option<Content> {
    head.has(32769, b"CD001").then(|| Content::new("iso9660", head.text(32808, 32), None))
}

/// Apple File System Reference, `nx_superblock_t`.
fn apfs(head: &Head<'_>) -> Option<Content> {
    head.has(32, b"NXSB").then(|| Content::new("apfs", None, head.uuid(72)))
}

/// Apple Technical Note 1150, "Volume Header".
fn hfs_plus(head: &Head<'_>) -> Option<Content> {
    (head.has(1024, b"H+\0\x04") || head.has(1024, b"HX\0\x05")).then(|| Content::new("hfsplus", None, None))
}

#[cfg(test)]
mod tests;

//! An inode: what a file is, and its two forks, the contents and the attributes.
//!
//! Promise: its checksum (version 5), number and owner hold, it is in use, its forks lie in it.
//! Knows nothing of what the forks lead to. Format: xfsprogs libxfs/xfs_format.h, `struct xfs_dinode`; the checks:
//! libxfs/xfs_inode_buf.c, `xfs_dinode_verify`.

use super::geometry::Geometry;
use crate::files::FileTime;
use crate::files::fault::{Fault, len, len64};
use crate::fs::view::{Fields, View};
use crate::fs::xfs::check_sum;

/// `XFS_DIFLAG_REALTIME`: the contents are not on this device.
const REALTIME: u16 = 1;
/// `XFS_DIFLAG2_BIGTIME`, `XFS_DIFLAG2_NREXT64`.
const BIG_TIMES: u64 = 1 << 3;
const BIG_COUNTS: u64 = 1 << 4;
/// `XFS_BIGTIME_EPOCH_OFFSET`: big times count nanoseconds from the first moment that 32 bits can name.
const EPOCH: i64 = 1 << 31;
const SECOND: u64 = 1_000_000_000;
/// Where the forks begin: behind `di_next_unlinked`, and behind what version 3 adds.
const CORE_BYTES: usize = 100;
const CORE_3_BYTES: usize = 176;

/// How a fork is kept: `enum xfs_dinode_fmt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// A device's number.
    Device,
    /// The bytes themselves.
    Local,
    /// A list of extents.
    Extents,
    /// The root of a tree of extents.
    Tree,
}

/// Contents, or attributes.
pub(super) struct Fork {
    pub(super) format: Format,
    /// What of it is in the inode.
    pub(super) bytes: Vec<u8>,
    /// Of a list.
    pub(super) extents: u64,
}

pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) accessed: FileTime,
    pub(super) modified: FileTime,
    pub(super) changed: FileTime,
    pub(super) created: Option<FileTime>,
    pub(super) is_realtime: bool,
    pub(super) contents: Fork,
    pub(super) attributes: Option<Fork>,
}

impl Inode {
    pub(super) fn read(volume: &View<'_>, geometry: &Geometry, number: u64) -> Result<Self, Fault> {
        let raw = volume.read(geometry.inode_place(number)?, len(geometry.inode_bytes))?;
        let version = raw.byte(4)?;
        if raw.part(0, 2)? != b"IN" || !(1..=3).contains(&version) {
            return Err(Fault::damaged("no inode is there"));
        }
        // One that is not in use has no mode.
        let mode = raw.be16(2)?;
        if mode == 0 {
            return Err(Fault::NotFound);
        }
        if (version == 3) != geometry.superblock.has_sums {
            return Err(Fault::Damaged(format!("an inode of version {version}")));
        }
        let flags2 = if version == 3 { check_3(&raw, geometry, number)? } else { 0 };
        let size = raw.be64(56)?;
        if i64::try_from(size).is_err() {
            return Err(Fault::Damaged(format!("{size} bytes are not possible")));
        }
        let time = |at| time(&raw, at, flags2 & BIG_TIMES != 0);
        let (contents, attributes) = forks(&raw, version, flags2 & BIG_COUNTS != 0)?;
        Ok(Self {
            number,
            mode,
            uid: raw.be32(8)?,
            gid: raw.be32(12)?,
            links: if version == 1 { raw.be16(6)?.into() } else { raw.be32(16)? },
            size,
            accessed: time(32)?,
            modified: time(40)?,
            changed: time(48)?,
            created: if version == 3 { Some(time(144)?) } else { None },
            is_realtime: raw.be16(90)? & REALTIME != 0,
            contents,
            attributes,
        })
    }
}

/// What version 3 has to be checked by; its flags.
fn check_3(raw: &[u8], geometry: &Geometry, number: u64) -> Result<u64, Fault> {
    check_sum(raw, 100, "inode", number)?;
    if raw.be64(152)? != number || raw.array(160)? != geometry.superblock.meta_uuid {
        return Err(Fault::Damaged(format!("inode {} of another place is there", raw.be64(152)?)));
    }
    Ok(raw.be64(120)?)
}

fn time(raw: &[u8], at: usize, is_big: bool) -> Result<FileTime, Fault> {
    if is_big {
        let found = raw.be64(at)?;
        let seconds = i64::try_from(found / SECOND).unwrap_or(i64::MAX).saturating_sub(EPOCH);
        return Ok(FileTime { seconds, nanos: u32::try_from(found % SECOND).unwrap_or(0) });
    }
    let seconds = i32::from_le_bytes(raw.be32(at)?.to_le_bytes());
    // Nothing sums it in version 4: a time that is a little wrong is no reason to keep a file from its owner.
    let nanos = raw.be32(at.saturating_add(4))?.min(999_999_999);
    Ok(FileTime { seconds: seconds.into(), nanos })
}

/// Contents and attributes, one behind the other.
fn forks(raw: &[u8], version: u8, has_big_counts: bool) -> Result<(Fork, Option<Fork>), Fault> {
    let area = raw.get(if version == 3 { CORE_3_BYTES } else { CORE_BYTES }..).unwrap_or_default();
    let border = usize::from(raw.byte(82)?).saturating_mul(8);
    let (extents, attribute_extents) = match has_big_counts {
        true => (raw.be64(24)?, raw.be32(76)?),
        false => (raw.be32(76)?.into(), raw.be16(80)?.into()),
    };
    if border >= area.len() {
        return Err(Fault::Damaged(format!("its attributes begin {border} bytes behind its contents")));
    }
    if border == 0 {
        return Ok((fork(raw.byte(5)?, area, extents)?, None));
    }
    let (contents, attributes) = area.split_at_checked(border).unwrap_or((area, &[]));
    Ok((
        fork(raw.byte(5)?, contents, extents)?,
        Some(fork(raw.byte(83)?, attributes, attribute_extents.into())?),
    ))
}

fn fork(format: u8, bytes: &[u8], extents: u64) -> Result<Fork, Fault> {
    let format = match format {
        0 => Format::Device,
        1 => Format::Local,
        2 => Format::Extents,
        3 => Format::Tree,
        found => return Err(Fault::Damaged(format!("a fork of format {found}"))),
    };
    if format == Format::Extents && extents.saturating_mul(16) > len64(bytes.len()) {
        return Err(Fault::Damaged(format!("{extents} extents in {} bytes", bytes.len())));
    }
    Ok(Fork { format, bytes: bytes.to_vec(), extents })
}

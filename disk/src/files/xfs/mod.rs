//! Files of XFS, versions 4 and 5.
//!
//! Promise: what has a checksum (version 5: all but contents) is checked before it is believed, with its place and owner.
//! Knows nothing of free blocks, of the log but whether it is empty, and of the realtime section: its files are listed,
//! not read.
//!
//! The log is not replayed, as with the kernel's `norecovery`: what a crash left in it is missing, and files that were
//! being changed can be of two moments. [`Files::caveat`] says so.
//!
//! Sources: "XFS Algorithms & Data Structures", 3rd edition; xfsprogs libxfs.

mod attributes;
mod extents;
mod folder;
mod geometry;
mod hashes;
mod inode;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::extents::Wanted;
use self::geometry::Geometry;
use self::inode::{Format, Inode};
use super::cached::Cached;
use super::fault::{Fault, len, len64};
use super::{Attribute, FileId, FileInfo, FileKind, Files, FilesError, FolderEntry};
use crate::fs::view::{Fields, View};
use crate::fs::xfs::{check_log, check_sum};
use crate::{Extent, ReadAt};

/// `XFS_SYMLINK_MAXLEN`.
const TARGET_BYTES_MAX: u64 = 1024;
/// A target's header, of version 5; and the longest piece that can hold one: three blocks of the largest size.
const TARGET_HEADER_BYTES: usize = 56;
const TARGET_PIECE_BYTES_MAX: u64 = 3 << 16;
/// Pieces of a file that [`Files::places`] tells of, in 24 MiB.
const PLACES_MAX: usize = 1 << 20;

/// A volume with XFS on it.
pub(super) struct Xfs(Volume);

/// Its bytes, and where things are.
struct Volume {
    device: Cached,
    geometry: Geometry,
}

impl Volume {
    fn view(&self) -> View<'_> {
        View::new(&self.device, whole(&self.device))
    }
}

fn whole(device: &dyn ReadAt) -> Extent {
    Extent { offset: 0, bytes: device.size_bytes() }
}

impl Xfs {
    /// Reads the superblock, no more.
    pub(super) fn open(device: Arc<dyn ReadAt>) -> Result<Self, FilesError> {
        let device = Cached::new(device);
        let geometry = Geometry::read(&View::new(&device, whole(&device)));
        let geometry = geometry.map_err(|doubt| Fault::from(doubt).at("superblock"))?;
        Ok(Self(Volume { device, geometry }))
    }

    fn inode(&self, file: FileId) -> Result<Inode, Fault> {
        Inode::read(&self.0.view(), &self.0.geometry, file.0)
    }

    fn folder(&self, file: FileId) -> Result<Inode, Fault> {
        Some(self.inode(file)?).filter(|it| it.mode >> 12 == 4).ok_or(Fault::NotA("a folder"))
    }

    /// A regular file whose contents are on this volume.
    fn regular(&self, file: FileId) -> Result<Inode, Fault> {
        let inode = self.inode(file)?;
        match inode.mode >> 12 {
            8 if inode.is_realtime => Err(Fault::Unsupported("a file of the realtime section")),
            8 => Ok(inode),
            _ => Err(Fault::NotA("a regular file")),
        }
    }

    fn kind(&self, inode: &Inode) -> Result<FileKind, Fault> {
        Ok(match inode.mode >> 12 {
            1 => FileKind::Fifo,
            2 => device(inode, |major, minor| FileKind::CharDevice { major, minor })?,
            4 => FileKind::Folder,
            6 => device(inode, |major, minor| FileKind::BlockDevice { major, minor })?,
            8 => FileKind::Regular,
            10 => FileKind::Link { target: self.target(inode)? },
            12 => FileKind::Socket,
            _ => return Err(Fault::Damaged(format!("the mode {:#o} is of no kind", inode.mode))),
        })
    }

    fn target(&self, inode: &Inode) -> Result<Vec<u8>, Fault> {
        if inode.size > TARGET_BYTES_MAX {
            return Err(Fault::Damaged(format!("a link to {} bytes", inode.size)));
        }
        let bytes = len(inode.size);
        if inode.contents.format == Format::Local {
            return Ok(inode.contents.bytes.part(0, bytes)?.to_vec());
        }
        let mut target = Vec::new();
        let wanted = Wanted { owner: inode.number, from: 0 };
        extents::mappings(&self.0, &inode.contents, wanted, &mut |mapping| {
            if mapping.file.bytes > TARGET_PIECE_BYTES_MAX {
                return Err(Fault::Damaged(format!("a link in {} bytes", mapping.file.bytes)));
            }
            let raw = self.0.view().read(mapping.place, len(mapping.file.bytes))?;
            let body = match self.0.geometry.superblock.has_sums {
                true => self.target_piece(inode, &raw, mapping.place, target.len())?,
                false => raw.as_slice(),
            };
            target.extend(body.iter().take(bytes.saturating_sub(target.len())));
            Ok(target.len() < bytes)
        })?;
        match target.len() == bytes {
            true => Ok(target),
            false => Err(Fault::Damaged(format!("{} bytes of a link to {bytes}", target.len()))),
        }
    }

    /// `struct xfs_dsymlink_hdr`, and what is behind it.
    fn target_piece<'a>(
        &self,
        inode: &Inode,
        raw: &'a [u8],
        place: u64,
        at: usize,
    ) -> Result<&'a [u8], Fault> {
        check_sum(raw, 12, "target of link", inode.number)?;
        let own = raw.part(0, 4)? == b"XSLM"
            && u64::from(raw.be32(4)?) == len64(at)
            && raw.array(16)? == self.0.geometry.superblock.meta_uuid
            && raw.be64(32)? == inode.number
            && raw.be64(40)? == place / 512;
        match own {
            true => Ok(raw.part(TARGET_HEADER_BYTES, len(raw.be32(8)?.into()))?),
            false => Err(Fault::damaged("its target is another link's")),
        }
    }

    fn describe(&self, file: FileId) -> Result<FileInfo, Fault> {
        let inode = self.inode(file)?;
        let kind = self.kind(&inode)?;
        let bytes = if matches!(kind, FileKind::Regular | FileKind::Link { .. }) { inode.size } else { 0 };
        Ok(FileInfo {
            kind,
            bytes,
            mode: u32::from(inode.mode) & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            links: inode.links,
            modified: inode.modified,
            accessed: Some(inode.accessed),
            changed: Some(inode.changed),
            created: inode.created,
        })
    }

    fn look_up(&self, folder: FileId, name: &[u8]) -> Result<Option<u64>, Fault> {
        let folder = self.folder(folder)?;
        let ignores_case = self.0.geometry.ignores_case;
        if matches!(name, b"." | b"..") {
            return Ok(None);
        }
        if folder::has_hashes(&self.0, &folder) && !ignores_case {
            return hashes::find(&self.0, &folder, name);
        }
        let mut found = None;
        folder::list(&self.0, &folder, &mut |entry, number| {
            let same = entry == name || (ignores_case && entry.eq_ignore_ascii_case(name));
            found = same.then_some(number);
            found.is_none()
        })?;
        Ok(found)
    }

    fn fill(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        let inode = self.regular(file)?;
        let count = len(inode.size.saturating_sub(offset)).min(buf.len());
        let buf = buf.get_mut(..count).unwrap_or_default();
        let wanted = Wanted { owner: inode.number, from: offset };
        if count > 0 {
            extents::read(&self.0, &inode.contents, wanted, buf)?;
        }
        Ok(count)
    }

    /// What is written of a file, from a byte on, as long as `each` wants more.
    fn written(
        &self,
        file: FileId,
        from: u64,
        each: &mut dyn FnMut(Extent, u64) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let inode = self.regular(file)?;
        let wanted = Wanted { owner: inode.number, from };
        extents::mappings(&self.0, &inode.contents, wanted, &mut |mapping| {
            let bytes = mapping.file.end().min(inode.size).saturating_sub(mapping.file.offset);
            // Room behind the end may be reserved, and more of it follow.
            match mapping.is_written && bytes > 0 {
                true => each(Extent { offset: mapping.file.offset, bytes }, mapping.place),
                false => Ok(bytes > 0),
            }
        })
    }
}

/// `xfs_dinode_get_rdev`: 14 bits and 18, as System V has them.
fn device(inode: &Inode, kind: fn(u32, u32) -> FileKind) -> Result<FileKind, Fault> {
    let number = match inode.contents.format {
        Format::Device => inode.contents.bytes.be32(0)?,
        _ => return Err(Fault::damaged("a device without number")),
    };
    Ok(kind(number >> 18 & 0x3fff, number & 0x3_ffff))
}

fn place(file: FileId) -> String {
    format!("inode {}", file.0)
}

impl Files for Xfs {
    fn root(&self) -> FileId {
        FileId(self.0.geometry.root)
    }

    fn caveat(&self) -> Option<String> {
        let doubt = check_log(&self.0.view(), &self.0.geometry.superblock).err()?;
        Some(format!(
            "its log was not replayed, so the newest changes may be missing or half there ({doubt})"
        ))
    }

    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        self.describe(file).map_err(|fault| fault.at(place(file)))
    }

    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        let mut handed =
            |name: &[u8], number| each(FolderEntry { name: name.to_vec(), file: FileId(number) });
        self.folder(folder)
            .and_then(|inode| folder::list(&self.0, &inode, &mut handed))
            .map_err(|fault| fault.at(place(folder)))
    }

    fn find(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
        let found = self.look_up(folder, name).map_err(|fault| fault.at(place(folder)))?;
        Ok(found.map(FileId))
    }

    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        self.fill(file, offset, buf).map_err(|fault| fault.at(place(file)))
    }

    fn next_data(&self, file: FileId, offset: u64) -> Result<Option<Extent>, FilesError> {
        let mut found: Option<Extent> = None;
        self.written(file, offset, &mut |extent, _| {
            let start = extent.offset.max(offset);
            let piece = Extent { offset: start, bytes: extent.end().saturating_sub(start) };
            match &mut found {
                None if piece.bytes == 0 => {}
                None => found = Some(piece),
                Some(before) if before.end() == piece.offset => {
                    before.bytes = before.bytes.saturating_add(piece.bytes);
                }
                Some(_) => return Ok(false),
            }
            Ok(true)
        })
        .map_err(|fault| fault.at(place(file)))?;
        Ok(found)
    }

    fn attributes(&self, file: FileId) -> Result<Vec<Attribute>, FilesError> {
        self.inode(file)
            .and_then(|inode| attributes::attributes(&self.0, &inode))
            .map_err(|fault| fault.at(place(file)))
    }

    fn places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, FilesError> {
        let mut found = Vec::new();
        self.written(file, 0, &mut |extent, at| match found.len() < PLACES_MAX {
            true => {
                found.push((extent, at));
                Ok(true)
            }
            false => Err(Fault::Unsupported("a file in so many pieces")),
        })
        .map_err(|fault| fault.at(place(file)))?;
        Ok(found)
    }
}

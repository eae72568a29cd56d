//! Files of ext2, ext3 and ext4.
//!
//! Promise: what the kernel shows of a mounted filesystem: owners, times, attributes, holes, links; a journal that would
//! be replayed is, in memory. Checksums are looked at wherever there are any. Encrypted contents are an error.
//! Knows nothing of free blocks. Format: linux Documentation/filesystems/ext4/.
//!
//! Why not the crate `ext4-view` 1.0: it goes by paths from one thread, and gives neither attributes, link counts, device
//! numbers, nor where holes are.

mod attributes;
mod folder;
mod inode;
mod map;
mod replay;

use std::sync::Arc;

use self::inode::{CASEFOLD, ENCRYPTED, EXTENTS, INLINE_DATA, Inode, S_IFDIR, S_IFLNK, S_IFREG};
use super::cached::Cached;
use super::fault::{Fault, copy_from, len, len64, window};
use super::{Attribute, FileId, FileInfo, FileKind, Files, FilesError, FolderEntry};
use crate::fs::ext::superblock::{Checksums, Superblock};
use crate::fs::view::View;
use crate::{Extent, ReadAt};

/// Always the root folder.
const ROOT: u64 = 2;
/// A link's target that fits where its map would be is there.
const FAST_BYTES: u64 = 60;
/// The kernel's limit for a path.
const TARGET_BYTES_MAX: u64 = 4096;
/// Holes, one behind the other, that are passed over at once: no sound file has as many.
const HOLES_MAX: u32 = 1 << 16;
/// More stretches are not told: a file of 4 GiB in its smallest pieces.
const PLACES_MAX: usize = 1 << 20;

/// A filesystem.
pub(super) struct Ext {
    device: Arc<dyn ReadAt>,
    superblock: Superblock,
}

/// Opens it.
pub(super) fn open(volume: Arc<dyn ReadAt>) -> Result<Ext, FilesError> {
    let opened = || -> Result<Ext, Fault> {
        let device: Arc<dyn ReadAt> = Arc::new(Cached::new(volume));
        let ext = with(device)?;
        if !ext.superblock.needs_recovery() {
            return Ok(ext);
        }
        // The superblock itself may be among the blocks that are newer.
        with(replay::replayed(&ext)?)
    };
    opened().map_err(|fault| fault.at("ext filesystem"))
}

fn with(device: Arc<dyn ReadAt>) -> Result<Ext, Fault> {
    let superblock =
        Superblock::for_files(&View::new(&*device, Extent { offset: 0, bytes: device.size_bytes() }))?;
    Ok(Ext { device, superblock })
}

impl Ext {
    fn view(&self) -> View<'_> {
        View::new(&*self.device, Extent { offset: 0, bytes: self.device.size_bytes() })
    }

    /// Of all checksums, where there are any.
    fn seed(&self) -> Option<u32> {
        match self.superblock.checksums {
            Checksums::All { seed } => Some(seed),
            _ => None,
        }
    }

    fn inode(&self, file: FileId) -> Result<Inode, Fault> {
        Inode::read(self, file.0)
    }

    fn regular(&self, file: FileId) -> Result<Inode, Fault> {
        let inode = self.inode(file)?;
        match inode.is(S_IFREG) {
            true if inode.has(ENCRYPTED) => Err(Fault::Unsupported("encryption")),
            true => Ok(inode),
            false => Err(Fault::NotA("a regular file")),
        }
    }

    fn kind(&self, inode: &Inode) -> Result<FileKind, Fault> {
        let device = || inode.device();
        Ok(match inode.mode >> 12 {
            0x1 => FileKind::Fifo,
            0x2 => device().map(|(major, minor)| FileKind::CharDevice { major, minor })?,
            0x4 => FileKind::Folder,
            0x6 => device().map(|(major, minor)| FileKind::BlockDevice { major, minor })?,
            0x8 => FileKind::Regular,
            0xa => FileKind::Link { target: self.target(inode)? },
            0xc => FileKind::Socket,
            found => return Err(Fault::Damaged(format!("{found:#x} is no kind of file"))),
        })
    }

    fn target(&self, link: &Inode) -> Result<Vec<u8>, Fault> {
        if link.has(ENCRYPTED) {
            return Err(Fault::Unsupported("encryption"));
        }
        if link.bytes > TARGET_BYTES_MAX {
            return Err(Fault::Damaged(format!("{} bytes are too many for a link's target", link.bytes)));
        }
        if link.bytes < FAST_BYTES && !link.has(EXTENTS | INLINE_DATA) {
            return Ok(link.map()?.get(..len(link.bytes)).unwrap_or_default().to_vec());
        }
        let mut target = vec![0; len(link.bytes)];
        self.contents(link, 0, &mut target)?;
        Ok(target)
    }

    fn info_of(&self, inode: &Inode) -> Result<FileInfo, Fault> {
        let (uid, gid) = inode.owner()?;
        let is_sized = inode.is(S_IFREG) || inode.is(S_IFLNK);
        Ok(FileInfo {
            kind: self.kind(inode)?,
            bytes: if is_sized { inode.bytes } else { 0 },
            mode: u32::from(inode.mode & 0o7777),
            uid,
            gid,
            links: inode.links()?,
            modified: inode.modified()?,
            accessed: Some(inode.accessed()?),
            changed: Some(inode.changed()?),
            created: inode.created()?,
        })
    }

    /// Contents from an offset on, which lie in blocks or in the inode; the caller has seen to it that there are so many.
    fn contents(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        if !inode.has(INLINE_DATA) {
            return self.read_blocks(inode, offset, buf);
        }
        let mut inline = inode.map()?.to_vec();
        inline.extend(attributes::inline_rest(self, inode)?);
        copy_from(&inline, offset, buf)
    }

    /// Contents that lie in blocks; holes are zeros.
    fn read_blocks(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0_u64;
        while done < len64(buf.len()) {
            let (extent, at) = self.run(inode, offset.saturating_add(done))?;
            let part = window(buf, done, extent.bytes);
            match at {
                Some(at) => self.view().read_into(at, part)?,
                None => part.fill(0),
            }
            // A stretch has at least one byte.
            done = done.saturating_add(len64(part.len()).max(1));
        }
        Ok(())
    }

    /// The bytes from an offset on that lie together, and where; `None` for a hole.
    fn run(&self, inode: &Inode, offset: u64) -> Result<(Extent, Option<u64>), Fault> {
        let block_bytes = self.superblock.block_bytes;
        let number = offset.checked_div(block_bytes).unwrap_or(0);
        let into = offset.checked_rem(block_bytes).unwrap_or(0);
        let stretch = self.stretch(inode, number)?;
        let bytes = stretch.blocks.saturating_mul(block_bytes).saturating_sub(into);
        let at = stretch.at.map(|at| at.saturating_mul(block_bytes).saturating_add(into));
        Ok((Extent { offset, bytes }, at))
    }

    /// Calls `each` with the stretches of a file from an offset on, until it says no.
    fn each_run(
        &self,
        inode: &Inode,
        from: u64,
        mut each: impl FnMut(Extent, Option<u64>) -> bool,
    ) -> Result<(), Fault> {
        let mut offset = from;
        while offset < inode.bytes {
            let (mut extent, at) = self.run(inode, offset)?;
            extent.bytes = extent.bytes.min(inode.bytes.saturating_sub(offset));
            if !each(extent, at) {
                break;
            }
            offset = extent.end();
        }
        Ok(())
    }

    fn next_data_of(&self, inode: &Inode, offset: u64) -> Result<Option<Extent>, Fault> {
        if inode.has(INLINE_DATA) {
            let bytes = inode.bytes.saturating_sub(offset);
            return Ok((bytes > 0).then_some(Extent { offset, bytes }));
        }
        let mut found: Option<Extent> = None;
        let mut holes = 0_u32;
        self.each_run(inode, offset, |extent, at| match (&mut found, at) {
            (None, None) => {
                holes = holes.saturating_add(1);
                // A hole that is called data is read as zeros: slower, not wrong.
                found = (holes > HOLES_MAX).then_some(extent);
                holes <= HOLES_MAX
            }
            (None, Some(_)) => {
                found = Some(extent);
                true
            }
            (Some(_), None) => false,
            (Some(found), Some(_)) => {
                found.bytes = found.bytes.saturating_add(extent.bytes);
                // Long enough for one answer.
                found.bytes < 1 << 30
            }
        })?;
        Ok(found)
    }
}

/// `inode 12`.
fn place(file: FileId) -> String {
    format!("inode {}", file.0)
}

impl Files for Ext {
    fn root(&self) -> FileId {
        FileId(ROOT)
    }

    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        let info = self.inode(file).and_then(|inode| self.info_of(&inode));
        info.map_err(|fault| fault.at(place(file)))
    }

    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        let listed = self.inode(folder).and_then(|inode| folder::list(self, &inode, each));
        listed.map_err(|fault| fault.at(place(folder)))
    }

    fn find(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
        let is_folded = self.inode(folder).map_err(|fault| fault.at(place(folder)))?.has(CASEFOLD);
        let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
        let (mut same, mut alike) = (None, None);
        self.list(folder, &mut |entry| {
            if entry.name == name {
                same = Some(entry.file);
            } else if is_folded && alike.is_none() && lower(&entry.name) == lower(name) {
                alike = Some(entry.file);
            }
            same.is_none()
        })?;
        Ok(same.or(alike))
    }

    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        let read = |buf: &mut [u8]| -> Result<usize, Fault> {
            let inode = self.regular(file)?;
            let buf = window(buf, 0, inode.bytes.saturating_sub(offset));
            self.contents(&inode, offset, buf)?;
            Ok(buf.len())
        };
        read(buf).map_err(|fault| fault.at(place(file)))
    }

    fn next_data(&self, file: FileId, offset: u64) -> Result<Option<Extent>, FilesError> {
        let found = self.regular(file).and_then(|inode| self.next_data_of(&inode, offset));
        found.map_err(|fault| fault.at(place(file)))
    }

    fn attributes(&self, file: FileId) -> Result<Vec<Attribute>, FilesError> {
        let found = self.inode(file).and_then(|inode| attributes::all(self, &inode));
        found.map_err(|fault| fault.at(place(file)))
    }

    fn places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, FilesError> {
        let places = || -> Result<Vec<(Extent, u64)>, Fault> {
            let inode = self.inode(file)?;
            let is_mapped = inode.is(S_IFREG) || inode.is(S_IFDIR) || inode.is(S_IFLNK);
            let is_fast = inode.is(S_IFLNK) && inode.bytes < FAST_BYTES && !inode.has(EXTENTS);
            let mut places = Vec::new();
            if !is_mapped || is_fast || inode.has(INLINE_DATA) {
                return Ok(places);
            }
            self.each_run(&inode, 0, |extent, at| {
                places.extend(at.map(|at| (extent, at)));
                places.len() < PLACES_MAX
            })?;
            Ok(places)
        };
        places().map_err(|fault| fault.at(place(file)))
    }
}

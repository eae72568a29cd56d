//! Files of btrfs on one device: all subvolumes, each as a folder where the kernel shows it.
//!
//! Promise: tree blocks and contents are believed when their checksums hold, in the second copy where the first is bad.
//! Knows nothing of free space and of several devices. Format: btrfs documentation, "On-disk format"; linux
//! include/uapi/linux/btrfs_tree.h.
//!
//! What is read is what the last commit left. A log tree, with what was synced since, is not replayed, as with the
//! kernel's `rescue=nologreplay`; [`Files::caveat`] says so.

mod contents;
mod inode;
mod names;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;

use std::sync::Arc;

use self::contents::{Contents, File, Kept, pieces};
use self::inode::{INODE_ITEM, Inode};
use self::names::{ATTRIBUTE, BY_AGE, BY_HASH, hash, names};
use self::tree::{SUBVOLUMES, Space, TOP_TREE, Tree};
use super::fault::{Fault, check_name, len, len64};
use super::{Attribute, FileId, FileInfo, FileKind, FileTime, Files, FilesError, FolderEntry};
use crate::fs::btrfs::tree::Key;
use crate::fs::btrfs::{ROOT_ITEM, ROOT_TREE, Root, Superblock, read_chunks};
use crate::fs::view::{Fields, View};
use crate::{Extent, ReadAt};

/// `BTRFS_ROOT_REF_KEY`, `BTRFS_CSUM_TREE_OBJECTID`, `BTRFS_FIRST_FREE_OBJECTID`: the root folder of each tree.
const ROOT_REF: u8 = 156;
const CHECKSUM_TREE: u64 = 7;
const ROOT_FOLDER: u64 = 256;
/// A file's number has its tree's place in our list above its inode's. Inodes are numbered in the order of their making,
/// so that a new one every microsecond lasts for nine years.
const INODE_BITS: u32 = 48;
const INODE_MASK: u64 = (1 << INODE_BITS) - 1;
/// Trees of files: their places have the bits that inodes leave, but for one that no tree has.
const TREES_MAX: usize = 0xffff;
/// Where a snapshot has a name for a subvolume that is not in it, Linux shows an empty folder.
const EMPTY: FileId = FileId(u64::MAX);
/// `PATH_MAX`.
const TARGET_BYTES_MAX: u64 = 4096;
/// Pieces of a file that [`Files::places`] tells of, in 24 MiB.
const PLACES_MAX: usize = 1 << 20;
const ATTRIBUTES_MAX: usize = 1 << 16;
const ATTRIBUTE_BYTES_MAX: usize = 64 << 20;

/// A volume with btrfs on it.
pub(super) struct Btrfs {
    space: Space,
    roots: Tree,
    /// Those of files, in the order of their numbers, the top one first.
    trees: Vec<Tree>,
    contents: Contents,
    has_log: bool,
}

/// A file: its tree, that one's place in the list, the inode.
#[derive(Clone, Copy)]
struct Place {
    tree: Tree,
    index: u64,
    inode: u64,
}

impl Btrfs {
    /// Reads the superblock, the chunks and the list of trees.
    pub(super) fn open(device: Arc<dyn ReadAt>) -> Result<Self, FilesError> {
        Self::try_open(device).map_err(|fault| fault.at("superblock and roots"))
    }

    fn try_open(device: Arc<dyn ReadAt>) -> Result<Self, Fault> {
        let whole = Extent { offset: 0, bytes: device.size_bytes() };
        let view = View::new(&device, whole);
        let (superblock, has_log) = Superblock::to_read(&view)?;
        let chunks = read_chunks(&view, &superblock, &mut Vec::new())?;
        let roots = Tree { number: ROOT_TREE, root: superblock.root };
        let space = Space::new(Arc::clone(&device), superblock, chunks);
        let (mut trees, mut checksums) = (Vec::<Tree>::new(), None);
        let first = Key { objectid: 0, kind: 0, offset: 0 };
        space.items(roots, first, &mut |key, item| {
            if key.kind != ROOT_ITEM {
                return Ok(true);
            }
            let tree = Tree { number: key.objectid, root: Root::decode(item)? };
            match key.objectid {
                CHECKSUM_TREE => checksums = Some(tree),
                // The last of several counts.
                number if trees.last().is_some_and(|last| last.number == number) => {
                    trees.pop();
                    trees.push(tree);
                }
                number if number == TOP_TREE || SUBVOLUMES.contains(&number) => trees.push(tree),
                _ => {}
            }
            match trees.len() > TREES_MAX {
                true => Err(Fault::Unsupported("a filesystem of so many subvolumes")),
                false => Ok(true),
            }
        })?;
        if trees.first().is_none_or(|tree| tree.number != TOP_TREE) {
            return Err(Fault::damaged("there is no tree of files"));
        }
        Ok(Self { space, roots, trees, contents: Contents::new(checksums), has_log })
    }

    fn place(&self, file: FileId) -> Result<Place, Fault> {
        let (index, inode) = (file.0 >> INODE_BITS, file.0 & INODE_MASK);
        let tree = self.trees.get(len(index)).ok_or(Fault::NotFound)?;
        Ok(Place { tree: *tree, index, inode })
    }

    fn inode(&self, place: Place) -> Result<Inode, Fault> {
        let key = Key { objectid: place.inode, kind: INODE_ITEM, offset: 0 };
        Inode::decode(&self.space.item(place.tree, key)?.ok_or(Fault::NotFound)?)
    }

    fn folder(&self, file: FileId) -> Result<Place, Fault> {
        let place = self.place(file)?;
        match self.inode(place)?.kind() {
            4 => Ok(place),
            _ => Err(Fault::NotA("a folder")),
        }
    }

    /// A regular file, and its size.
    fn regular(&self, file: FileId) -> Result<(File, u64), Fault> {
        if file == EMPTY {
            return Err(Fault::NotA("a regular file"));
        }
        let place = self.place(file)?;
        let inode = self.inode(place)?;
        match inode.kind() {
            8 => Ok((File { tree: place.tree, inode: place.inode, has_sums: inode.has_sums }, inode.size)),
            _ => Err(Fault::NotA("a regular file")),
        }
    }

    /// What a name leads to.
    fn follow(&self, folder: Place, name: &[u8], location: Key) -> Result<FileId, Fault> {
        if location.kind == INODE_ITEM {
            return match location.objectid <= INODE_MASK {
                true => Ok(FileId(folder.index << INODE_BITS | location.objectid)),
                false => Err(Fault::Unsupported("an inode of so large a number")),
            };
        }
        if location.kind != ROOT_ITEM {
            return Err(Fault::Damaged(format!("a name leads to an item of kind {}", location.kind)));
        }
        let key = Key { objectid: folder.tree.number, kind: ROOT_REF, offset: location.objectid };
        let Some(found) = self.space.item(self.roots, key)? else { return Ok(EMPTY) };
        let is_here = found.le64(0)? == folder.inode && found.get(18..) == Some(name);
        let index = self.trees.binary_search_by_key(&location.objectid, |tree| tree.number);
        match index {
            Ok(index) if is_here => Ok(FileId(len64(index) << INODE_BITS | ROOT_FOLDER)),
            _ => Ok(EMPTY),
        }
    }

    fn names_in(&self, file: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), Fault> {
        if file == EMPTY {
            return Ok(());
        }
        let folder = self.folder(file)?;
        let first = Key { objectid: folder.inode, kind: BY_AGE, offset: 0 };
        self.space.items(folder.tree, first, &mut |key, item| {
            if (key.objectid, key.kind) != (folder.inode, BY_AGE) {
                return Ok(key < first);
            }
            for named in names(item)? {
                check_name(named.name)?;
                let file = self.follow(folder, named.name, named.location)?;
                if !each(FolderEntry { name: named.name.to_vec(), file }) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn look_up(&self, file: FileId, name: &[u8]) -> Result<Option<FileId>, Fault> {
        if file == EMPTY {
            return Ok(None);
        }
        let folder = self.folder(file)?;
        let key = Key { objectid: folder.inode, kind: BY_HASH, offset: hash(name) };
        let Some(item) = self.space.item(folder.tree, key)? else { return Ok(None) };
        let found = names(&item)?.into_iter().find(|named| named.name == name);
        found.map(|named| self.follow(folder, name, named.location)).transpose()
    }

    fn describe(&self, file: FileId) -> Result<FileInfo, Fault> {
        if file == EMPTY {
            return Ok(empty());
        }
        let place = self.place(file)?;
        let inode = self.inode(place)?;
        let (major, minor) = inode.device;
        let kind = match inode.kind() {
            1 => FileKind::Fifo,
            2 => FileKind::CharDevice { major, minor },
            4 => FileKind::Folder,
            6 => FileKind::BlockDevice { major, minor },
            8 => FileKind::Regular,
            10 => FileKind::Link { target: self.target(place, &inode)? },
            12 => FileKind::Socket,
            _ => return Err(Fault::Damaged(format!("the mode {:#o} is of no kind", inode.mode))),
        };
        let bytes = if matches!(kind, FileKind::Regular | FileKind::Link { .. }) { inode.size } else { 0 };
        Ok(FileInfo {
            kind,
            bytes,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            links: inode.links,
            modified: inode.modified,
            accessed: Some(inode.accessed),
            changed: Some(inode.changed),
            created: Some(inode.created),
        })
    }

    fn target(&self, place: Place, inode: &Inode) -> Result<Vec<u8>, Fault> {
        if inode.size > TARGET_BYTES_MAX {
            return Err(Fault::Damaged(format!("a link to {} bytes", inode.size)));
        }
        let file = File { tree: place.tree, inode: place.inode, has_sums: inode.has_sums };
        let mut target = vec![0; len(inode.size)];
        self.contents.read(&self.space, file, 0, &mut target)?;
        Ok(target)
    }

    fn all_attributes(&self, file: FileId) -> Result<Vec<Attribute>, Fault> {
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        if file == EMPTY {
            return Ok(found);
        }
        let place = self.place(file)?;
        let first = Key { objectid: place.inode, kind: ATTRIBUTE, offset: 0 };
        self.space.items(place.tree, first, &mut |key, item| {
            if (key.objectid, key.kind) != (place.inode, ATTRIBUTE) {
                return Ok(key < first);
            }
            for named in names(item)? {
                bytes = bytes.saturating_add(named.name.len()).saturating_add(named.value.len());
                found.push((named.name.to_vec(), named.value.to_vec()));
            }
            match bytes > ATTRIBUTE_BYTES_MAX || found.len() > ATTRIBUTES_MAX {
                true => Err(Fault::Unsupported("a file with so many attributes")),
                false => Ok(true),
            }
        })?;
        Ok(found)
    }

    fn fill(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Fault> {
        let (file, size) = self.regular(file)?;
        let count = len(size.saturating_sub(offset)).min(buf.len());
        if count > 0 {
            self.contents.read(&self.space, file, offset, buf.get_mut(..count).unwrap_or_default())?;
        }
        Ok(count)
    }

    fn data_from(&self, file: FileId, offset: u64) -> Result<Option<Extent>, Fault> {
        let (file, size) = self.regular(file)?;
        let mut found: Option<Extent> = None;
        pieces(&self.space, file, offset, &mut |piece| {
            let start = piece.extent.offset.max(offset);
            let bytes = piece.extent.end().min(size).saturating_sub(start);
            match &mut found {
                _ if bytes == 0 => return Ok(false),
                None if matches!(piece.kept, Kept::Hole) => {}
                None => found = Some(Extent { offset: start, bytes }),
                Some(before) if before.end() == start && !matches!(piece.kept, Kept::Hole) => {
                    before.bytes = before.bytes.saturating_add(bytes);
                }
                Some(_) => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(found)
    }

    fn plain_places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, Fault> {
        let (file, size) = self.regular(file)?;
        let mut found = Vec::new();
        pieces(&self.space, file, 0, &mut |piece| {
            let bytes = piece.extent.end().min(size).saturating_sub(piece.extent.offset);
            if let Kept::Plain(at) = piece.kept
                && bytes > 0
            {
                let extent = Extent { offset: piece.extent.offset, bytes };
                found.extend(self.space.chunks.copies(Extent { offset: at, bytes }).map(|at| (extent, at)));
            }
            match found.len() > PLACES_MAX {
                true => Err(Fault::Unsupported("a file in so many pieces")),
                false => Ok(bytes > 0),
            }
        })?;
        Ok(found)
    }

    /// How errors name it.
    fn name(&self, file: FileId) -> String {
        match self.place(file) {
            Ok(place) => format!("subvolume {}, inode {}", place.tree.number, place.inode),
            Err(_) => format!("file {:#x}", file.0),
        }
    }
}

/// `new_simple_dir` of linux fs/btrfs/inode.c; its times are those of the mount.
fn empty() -> FileInfo {
    let now = FileTime::default();
    FileInfo {
        kind: FileKind::Folder,
        bytes: 0,
        mode: 0o755,
        uid: 0,
        gid: 0,
        links: 1,
        modified: now,
        accessed: None,
        changed: None,
        created: None,
    }
}

impl Files for Btrfs {
    fn root(&self) -> FileId {
        FileId(ROOT_FOLDER)
    }

    fn caveat(&self) -> Option<String> {
        let said = "its log was not replayed: what was synced last, just before a crash, is missing";
        self.has_log.then(|| said.to_owned())
    }

    fn info(&self, file: FileId) -> Result<FileInfo, FilesError> {
        self.describe(file).map_err(|fault| fault.at(self.name(file)))
    }

    fn list(&self, folder: FileId, each: &mut dyn FnMut(FolderEntry) -> bool) -> Result<(), FilesError> {
        self.names_in(folder, each).map_err(|fault| fault.at(self.name(folder)))
    }

    fn find(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>, FilesError> {
        self.look_up(folder, name).map_err(|fault| fault.at(self.name(folder)))
    }

    fn read(&self, file: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, FilesError> {
        self.fill(file, offset, buf).map_err(|fault| fault.at(self.name(file)))
    }

    fn next_data(&self, file: FileId, offset: u64) -> Result<Option<Extent>, FilesError> {
        self.data_from(file, offset).map_err(|fault| fault.at(self.name(file)))
    }

    fn attributes(&self, file: FileId) -> Result<Vec<Attribute>, FilesError> {
        self.all_attributes(file).map_err(|fault| fault.at(self.name(file)))
    }

    /// Both copies, where there are two.
    fn places(&self, file: FileId) -> Result<Vec<(Extent, u64)>, FilesError> {
        self.plain_places(file).map_err(|fault| fault.at(self.name(file)))
    }
}

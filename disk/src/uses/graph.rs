//! The kernel's block devices, and which of them stands on which.
//!
//! Promise: one reading of sysfs; no device is opened but loop devices, to ask which file is behind them.
//! Knows nothing of mounts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::makedev;

use crate::system::{System, text};
use crate::{Error, Extent};

/// sysfs counts in these, whatever the device's sectors.
const SYSFS_SECTOR_BYTES: u64 = 512;

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(super) dev: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self { dev: metadata.dev(), inode: metadata.ino() }
    }
}

/// What a loop device stands on.
#[derive(Clone, Debug)]
pub(super) struct Loop {
    /// The file as sysfs names it; it may have been deleted or hidden since.
    pub(super) file: PathBuf,
    pub(super) id: Option<FileId>,
    /// The number of the block device, if the file is one.
    pub(super) rdev: Option<u64>,
    /// The part of the file; to its end when nothing else was asked for.
    pub(super) extent: Extent,
}

/// A whole block device or a partition.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) rdev: u64,
    /// The whole disk's name and the partition's number.
    pub(crate) partition_of: Option<(String, u32)>,
    /// Place on the disk; a whole disk begins at 0.
    pub(crate) extent: Extent,
    pub(crate) hidden: bool,
    pub(super) holders: Vec<String>,
    pub(super) slaves: Vec<String>,
    pub(super) backing: Option<Loop>,
}

impl Node {
    /// The whole disk: itself unless it is a partition.
    pub(crate) fn disk(&self) -> &str {
        self.partition_of.as_ref().map_or(&self.name, |(disk, _)| disk)
    }

    pub(crate) fn volume(&self) -> Option<u32> {
        self.partition_of.as_ref().map(|(_, number)| *number)
    }

    /// Whether it is a loop device with something behind it.
    pub(crate) fn is_attached(&self) -> bool {
        self.backing.is_some()
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// The member devices of each btrfs that the kernel knows.
    pools: Vec<Vec<String>>,
}

impl Graph {
    pub(crate) fn read(system: &System) -> Result<Self, Error> {
        let class = system.sys.join("class/block");
        let failed = |source| Error::System { path: class.clone(), source };
        let mut nodes = Vec::new();
        for entry in fs::read_dir(&class).map_err(failed)? {
            // A device that vanishes while we look is not there.
            let folder = entry.map_err(failed)?.path().canonicalize().ok();
            nodes.extend(folder.and_then(|folder| node(system, &folder)));
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { nodes, pools: pools(system) })
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    pub(super) fn by_rdev(&self, rdev: u64) -> Option<&Node> {
        self.nodes.iter().find(|node| node.rdev == rdev)
    }

    /// The partitions of a whole disk.
    pub(crate) fn partitions(&self, disk: &str) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.partition_of.as_ref().is_some_and(|(of, _)| of == disk))
    }

    pub(super) fn loops(&self) -> impl Iterator<Item = (&Node, &Loop)> {
        self.nodes.iter().filter_map(|node| Some((node, node.backing.as_ref()?)))
    }

    /// The devices that make up the same btrfs as this one.
    pub(super) fn pool(&self, name: &str) -> &[String] {
        let mut pools = self.pools.iter();
        pools.find(|pool| pool.iter().any(|member| member == name)).map(Vec::as_slice).unwrap_or_default()
    }
}

fn node(system: &System, folder: &Path) -> Option<Node> {
    let number = |name: &str| text(&folder.join(name)).and_then(|text| text.parse::<u64>().ok());
    let name = name_of(folder);
    let partition = number("partition").and_then(|number| u32::try_from(number).ok());
    let bytes = number("size").unwrap_or(0).saturating_mul(SYSFS_SECTOR_BYTES);
    let offset = number("start").unwrap_or(0).saturating_mul(SYSFS_SECTOR_BYTES);
    Some(Node {
        rdev: rdev(&text(&folder.join("dev"))?)?,
        partition_of: partition.and_then(|number| Some((name_of(folder.parent()?), number))),
        extent: Extent { offset, bytes },
        hidden: number("hidden") == Some(1),
        holders: names_in(&folder.join("holders")),
        slaves: names_in(&folder.join("slaves")),
        backing: backing(system, folder, &name),
        name,
    })
}

fn rdev(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// sysfs writes a slash in a name (`cciss/c0d0`) as an exclamation mark.
fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().replace('!', "/")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| name_of(&entry.path())).collect();
    names.sort();
    names
}

fn backing(system: &System, folder: &Path, name: &str) -> Option<Loop> {
    let file = PathBuf::from(text(&folder.join("loop/backing_file"))?);
    let number = |name: &str| text(&folder.join("loop").join(name)).and_then(|text| text.parse::<u64>().ok());
    let limit = number("sizelimit").filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let extent = Extent { offset: number("offset").unwrap_or(0), bytes: limit };
    // The kernel knows the file itself; its name may by now be another file's.
    if let Some(status) = system.loop_status(name) {
        let id = FileId { dev: status.device, inode: status.inode };
        let rdev = Some(status.rdev).filter(|rdev| *rdev != 0);
        return Some(Loop { file, id: Some(id), rdev, extent });
    }
    let metadata = fs::metadata(&file).ok();
    let rdev = metadata.as_ref().map(fs::Metadata::rdev).filter(|rdev| *rdev != 0);
    Some(Loop { file, id: metadata.as_ref().map(FileId::of), rdev, extent })
}

fn pools(system: &System) -> Vec<Vec<String>> {
    let entries = fs::read_dir(system.sys.join("fs/btrfs")).into_iter().flatten().flatten();
    entries.map(|entry| names_in(&entry.path().join("devices"))).filter(|pool| !pool.is_empty()).collect()
}

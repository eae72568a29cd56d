//! Who uses a device, and on which devices a folder stands.
//!
//! Promise: goes through device mapper, RAID, loop devices and btrfs pools, up or down, to the end. What other mount
//! namespaces have mounted is not visible here; opening a [`crate::Target`] finds that out.
//! Knows nothing of partition tables: volumes are those of the kernel's nodes.

pub(crate) mod graph;
mod mounts;
mod under;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::system::System;
use crate::uses::graph::{FileId, Graph, Loop, Node};
use crate::uses::mounts::{Mount, Source};
use crate::{Error, Extent};

pub(crate) use under::root_disks;
pub use under::{Backing, backing_devices, is_root_disk};

/// One use of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The node that is used: `loop0p1`, or what stands on it (`dm-0`), or the file.
    pub device: String,
    /// The volume, of the device that was asked about, through which the use goes.
    pub volume: Option<u32>,
    /// How it is used.
    pub what: UseKind,
}

/// How a device is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UseKind {
    /// Mounted.
    Mounted {
        /// Where.
        at: PathBuf,
        /// Whether the file system is mounted for reading only, everywhere.
        read_only: bool,
        /// `ext4`…
        filesystem: String,
    },
    /// Swap space.
    Swap,
    /// Another block device stands on it.
    Holder {
        /// Its name.
        name: String,
        /// `dm`, `md`, `loop`, `bcache`…
        kind: String,
    },
}

/// Everything that uses the device or one of its partitions; for a regular file, the loop devices over it and what
/// stands on them. For a partition, also what uses the whole disk.
///
/// # Errors
/// [`Error::Open`] when there is no such path, [`Error::NotADevice`], [`Error::System`].
pub fn uses(path: &Path) -> Result<Vec<Use>, Error> {
    let facts = Facts::read(System::real())?;
    let subject = facts.subject(path)?;
    Ok(facts.uses(&subject))
}

/// What is asked about.
pub(crate) enum Subject {
    /// A block device, by its kernel name.
    Node(String),
    File(PathBuf, FileId),
}

/// All that the kernel tells, read once.
pub(crate) struct Facts {
    pub(crate) system: System,
    pub(crate) graph: Graph,
    mounts: Vec<Mount>,
    swaps: Vec<Source>,
}

impl Facts {
    pub(crate) fn read(system: System) -> Result<Self, Error> {
        let graph = Graph::read(&system)?;
        let (mounts, swaps) = (mounts::mounts(&system)?, mounts::swaps(&system));
        Ok(Self { system, graph, mounts, swaps })
    }

    pub(crate) fn subject(&self, path: &Path) -> Result<Subject, Error> {
        let metadata = fs::metadata(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        if metadata.is_file() {
            return Ok(Subject::File(path.to_owned(), FileId::of(&metadata)));
        }
        if !metadata.file_type().is_block_device() {
            return Err(Error::NotADevice { path: path.to_owned() });
        }
        let node = self.graph.by_rdev(metadata.rdev());
        let unknown = || Error::System {
            path: self.system.sys.join("class/block"),
            source: std::io::ErrorKind::NotFound.into(),
        };
        node.map(|node| Subject::Node(node.name.clone())).ok_or_else(unknown)
    }

    pub(crate) fn uses(&self, subject: &Subject) -> Vec<Use> {
        let mut search = Search { facts: self, found: Vec::new(), seen: HashSet::new() };
        match subject {
            Subject::File(path, id) => search.file(path, *id),
            Subject::Node(name) => {
                if let Some(node) = self.graph.by_name(name) {
                    search.top(node);
                }
            }
        }
        search.found
    }

    /// The nodes that a mounted file system lies on.
    fn nodes_of(&self, mount: &Mount) -> Vec<&Node> {
        let Source::Device(rdev) = mount.source else { return Vec::new() };
        let Some(node) = self.graph.by_rdev(rdev) else { return Vec::new() };
        let mut nodes = vec![node];
        if mount.filesystem == "btrfs" {
            let others = self.graph.pool(&node.name).iter().filter(|name| **name != node.name);
            nodes.extend(others.filter_map(|name| self.graph.by_name(name)));
        }
        nodes
    }
}

/// A walk upwards.
struct Search<'a> {
    facts: &'a Facts,
    found: Vec<Use>,
    /// Devices can stand on each other in more than one way.
    seen: HashSet<String>,
}

impl Search<'_> {
    fn top(&mut self, node: &Node) {
        let graph = &self.facts.graph;
        let everywhere = Extent { offset: 0, bytes: u64::MAX };
        self.node(node, node.volume(), everywhere);
        for partition in graph.partitions(&node.name) {
            self.node(partition, partition.volume(), everywhere);
        }
        if let Some(disk) = node.partition_of.as_ref().and_then(|(disk, _)| graph.by_name(disk)) {
            self.node(disk, None, node.extent);
        }
    }

    /// What uses this node directly, and what stands on it; of loop devices only those that touch `part`.
    fn node(&mut self, node: &Node, volume: Option<u32>, part: Extent) {
        if !self.seen.insert(node.name.clone()) {
            return;
        }
        let facts = self.facts;
        for mount in
            facts.mounts.iter().filter(|mount| facts.nodes_of(mount).iter().any(|on| on.rdev == node.rdev))
        {
            self.add(&node.name, volume, mounted(mount));
        }
        if facts.swaps.contains(&Source::Device(node.rdev)) {
            self.add(&node.name, volume, UseKind::Swap);
        }
        for holder in &node.holders {
            self.add(&node.name, volume, UseKind::Holder { name: holder.clone(), kind: kind_of(holder) });
            if let Some(holder) = facts.graph.by_name(holder) {
                self.holder(holder, volume, false);
            }
        }
        let touches = |backing: &Loop| backing.rdev == Some(node.rdev) && backing.extent.overlaps(&part);
        for (over, backing) in facts.graph.loops().filter(|(_, backing)| touches(backing)) {
            self.over(&node.name, over, backing, volume);
        }
    }

    fn file(&mut self, path: &Path, id: FileId) {
        let facts = self.facts;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let same = |source: &Source| matches!(source, Source::File(_, found) if *found == id);
        for mount in facts.mounts.iter().filter(|mount| same(&mount.source)) {
            self.add(&name, None, mounted(mount));
        }
        if facts.swaps.iter().any(same) {
            self.add(&name, None, UseKind::Swap);
        }
        for (over, backing) in facts.graph.loops().filter(|(_, backing)| backing.id == Some(id)) {
            self.over(&name, over, backing, None);
        }
    }

    /// A loop device over the subject: from the start, its partitions are the subject's volumes.
    fn over(&mut self, name: &str, over: &Node, backing: &Loop, volume: Option<u32>) {
        self.add(name, volume, UseKind::Holder { name: over.name.clone(), kind: "loop".into() });
        self.holder(over, volume, backing.extent.offset == 0);
    }

    fn holder(&mut self, holder: &Node, volume: Option<u32>, same_volumes: bool) {
        let everywhere = Extent { offset: 0, bytes: u64::MAX };
        self.node(holder, volume, everywhere);
        for partition in self.facts.graph.partitions(&holder.name) {
            let own = partition.volume().filter(|_| same_volumes);
            self.node(partition, volume.or(own), everywhere);
        }
    }

    fn add(&mut self, device: &str, volume: Option<u32>, what: UseKind) {
        self.found.push(Use { device: device.to_owned(), volume, what });
    }
}

fn mounted(mount: &Mount) -> UseKind {
    UseKind::Mounted {
        at: mount.at.clone(),
        read_only: mount.read_only,
        filesystem: mount.filesystem.clone(),
    }
}

/// `dm-0` is a `dm`, `md127` an `md`.
fn kind_of(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

#[cfg(test)]
mod tests;

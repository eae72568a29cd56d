//! The disks of this machine.
//!
//! Promise: a disk that cannot be opened or read is listed all the same, with what sysfs knows and a warning.
//! Knows nothing of which of them someone may want.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::system::System;
use crate::uses::graph::Node;
use crate::uses::{Facts, Subject, root_disks};
use crate::{Content, Device, Error, Extent, Identity, Layout, ReadAt, TableKind, Use, content};

/// Memory, and what stands on other disks that are listed; floppies, where a look takes seconds.
const LEFT_OUT: [&str; 4] = ["ram", "zram", "dm-", "fd"];

/// A partition node of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionNode {
    /// `sda1`.
    pub name: String,
    /// `/dev/sda1`.
    pub path: PathBuf,
    /// Number of the volume.
    pub volume: u32,
    /// Where the kernel believes it to be.
    pub extent: Extent,
}

/// A whole disk and what is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// What it is.
    pub identity: Identity,
    /// Its partition table.
    pub layout: Layout,
    /// Content of the whole disk, when it has no table.
    pub content: Option<Content>,
    /// Who uses it.
    pub uses: Vec<Use>,
    /// The kernel's partition nodes, by number.
    pub nodes: Vec<PartitionNode>,
    /// Whether the running system stands on it.
    pub is_root: bool,
}

/// Whole disks with media; loop devices that have a backing file.
///
/// # Errors
/// [`Error::System`] when the kernel's lists cannot be read.
pub fn list() -> Result<Vec<DiskInfo>, Error> {
    let facts = Facts::read(System::real())?;
    // A root that cannot be traced to disks (a container, the network) marks none.
    let root = root_disks(&facts).unwrap_or_default();
    let disks = facts.graph.nodes.iter().filter(|node| is_listed(node));
    Ok(disks.map(|node| info(&facts, node, root.contains(&node.name))).collect())
}

fn is_listed(node: &Node) -> bool {
    let left_out = LEFT_OUT.iter().any(|prefix| node.name.starts_with(prefix));
    let empty_loop = node.name.starts_with("loop") && !node.is_attached();
    node.partition_of.is_none() && node.extent.bytes > 0 && !node.hidden && !left_out && !empty_loop
}

fn info(facts: &Facts, node: &Node, is_root: bool) -> DiskInfo {
    let path = Path::new("/dev").join(&node.name);
    let (identity, layout, content) = match Device::open(&path) {
        Ok(device) => look(&device),
        Err(error) => {
            let identity = Identity::of_node(node.rdev, &path, node.extent.bytes, &facts.system);
            let warnings = vec![error.to_string()];
            (identity, Layout { sector_bytes: 512, warnings, ..Layout::default() }, None)
        }
    };
    let mut nodes: Vec<PartitionNode> = (facts.graph.partitions(&node.name))
        .map(|partition| PartitionNode {
            name: partition.name.clone(),
            path: Path::new("/dev").join(&partition.name),
            volume: partition.volume().unwrap_or(0),
            extent: partition.extent,
        })
        .collect();
    nodes.sort_by_key(|node| node.volume);
    DiskInfo {
        identity,
        layout,
        content,
        uses: facts.uses(&Subject::Node(node.name.clone())),
        nodes,
        is_root,
    }
}

fn look(device: &Device) -> (Identity, Layout, Option<Content>) {
    let layout = Layout::read(device, device.sector_bytes());
    let whole = Extent { offset: 0, bytes: device.size_bytes() };
    let content = (layout.table == TableKind::None).then(|| content::probe(device, whole)).flatten();
    (device.identity().clone(), layout, content)
}

//! The disks of this machine.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Content, Error, Extent, Identity, Layout, Use};

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
    /// The kernel's partition nodes.
    pub nodes: Vec<PartitionNode>,
    /// Whether the running system stands on it.
    pub is_root: bool,
}

/// Whole disks with media; loop devices that have a backing file.
///
/// # Errors
/// [`Error::System`] when sysfs cannot be read.
pub fn list() -> Result<Vec<DiskInfo>, Error> {
    Ok(Vec::new())
}

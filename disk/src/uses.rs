//! Who uses a device.
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// One use of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The node that is used: `loop0p1`, or what stands on it (`dm-0`), or the file.
    pub device: String,
    /// The volume of the device that was asked about.
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
        /// Whether for reading only.
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

/// A device that a file system stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    /// The whole disk: `sda`.
    pub disk: String,
    /// The node: `sda2`, or `sda` again.
    pub node: String,
    /// The partition's number.
    pub volume: Option<u32>,
    /// The file behind a loop device.
    pub file: Option<PathBuf>,
}

/// Everything that uses the device or one of its partitions.
///
/// # Errors
/// skeleton
pub fn uses(_path: &Path) -> Result<Vec<Use>, Error> {
    Ok(Vec::new())
}

/// All devices that the file system holding `path` stands on.
///
/// # Errors
/// skeleton
pub fn backing_devices(_path: &Path) -> Result<Vec<Backing>, Error> {
    Ok(Vec::new())
}

/// Whether the running system's root stands on this device.
///
/// # Errors
/// skeleton
pub fn is_root_disk(_path: &Path) -> Result<bool, Error> {
    Ok(false)
}

//! Where this machine tells about its devices: /sys, /proc, /run/udev.
//!
//! Promise: nothing here touches a device. The three places can be others in tests.
//! Knows nothing of what the facts are good for.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// The three places.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) sys: PathBuf,
    pub(crate) proc: PathBuf,
    pub(crate) udev: PathBuf,
}

impl System {
    /// Those of the running kernel.
    pub(crate) fn real() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), udev: "/run/udev".into() }
    }

    /// The folder of a block device, as a path without links: a partition's parent folder is its disk's.
    pub(crate) fn node_folder(&self, rdev: u64) -> Option<PathBuf> {
        fs::canonicalize(self.sys.join(format!("dev/block/{}:{}", major(rdev), minor(rdev)))).ok()
    }

    /// The lines of udev's database about a device; none when udev does not run.
    pub(crate) fn udev(&self, folder: &Path) -> Vec<String> {
        let number = fs::read_to_string(folder.join("dev")).unwrap_or_default();
        let file = self.udev.join("data").join(format!("b{}", number.trim()));
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

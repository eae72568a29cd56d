//! Volumes that only the kernel can change: a loop device, mounted in a folder of ours.
//!
//! Promise: what was attached and mounted is taken away again, also after an error; nothing on the volume is run, has
//! powers, or is a device.
//! Knows nothing of filesystems but how mount calls them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::run::Call;
use super::{Program, ToolError};

pub(super) const LOSETUP: Program = Program::new("losetup", "mount");
pub(super) const MOUNT: Program = Program::new("mount", "mount");
/// Only for volumes of its kind.
pub(super) const BTRFS: Program = Program::new("btrfs", "btrfs-progs");
pub(super) const UMOUNT: Program = Program::new("umount", "mount");

/// What every mount is like.
const OPTIONS: &str = "noatime,nosuid,nodev,noexec";

/// A mount that is busy is tried again: programs that look at everything new, and children of other threads that have not
/// yet closed what they inherited, are gone in a moment.
const UMOUNT_TRIES_MAX: u32 = 50;
const UMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// A loop device.
pub(super) struct Loop {
    node: PathBuf,
}

impl Loop {
    /// As [`Loop::attach`], past the page cache of the file below: for much that is written once. Reading many small files
    /// so takes four times as long.
    pub(super) fn attach_direct(path: &Path, bytes: u64) -> Result<Self, ToolError> {
        let device = Self::attach(path, Some(bytes))?;
        // Not every filesystem below can do it, and none needs it.
        Call::new(LOSETUP)?.arg("--direct-io=on").arg(&device.node).run().ok();
        Ok(device)
    }

    /// Over the first `bytes` bytes of a file, or all of it.
    pub(super) fn attach(path: &Path, bytes: Option<u64>) -> Result<Self, ToolError> {
        let mut call = Call::new(LOSETUP)?.args(["--find", "--show"]);
        if let Some(bytes) = bytes {
            call = call.arg("--sizelimit").arg(bytes.to_string());
        }
        let said = call.arg(path).run()?;
        let node = said.out.trim();
        if !node.starts_with("/dev/") {
            return Err(said.lacks("/dev/"));
        }
        Ok(Self { node: PathBuf::from(node) })
    }

    pub(super) fn node(&self) -> &Path {
        &self.node
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Nothing can be done when it fails; the kernel detaches a device that is busy when its last user goes.
        Call::new(LOSETUP).and_then(|call| call.arg("--detach").arg(&self.node).run()).ok();
    }
}

/// A mount. The loop device goes after it.
pub(super) struct Mounted {
    at: PathBuf,
    is_mounted: bool,
    is_btrfs: bool,
    device: Loop,
}

impl Mounted {
    pub(super) fn new(device: Loop, kind: &str, options: &str, scratch: &Path) -> Result<Self, ToolError> {
        // Nobody else has a loop device of this name.
        let name = device.node.file_name().unwrap_or(kind.as_ref());
        let at = scratch.join(name);
        let make = |source| ToolError::Io { path: at.clone(), doing: "make a folder", source };
        std::fs::create_dir(&at).map_err(make)?;
        let mut mounted = Self { at, is_mounted: false, is_btrfs: kind == "btrfs", device };
        let options = if options.is_empty() { OPTIONS.to_owned() } else { format!("{OPTIONS},{options}") };
        Call::new(MOUNT)?
            .args(["-t", kind, "-o", &options])
            .args([mounted.device.node(), &mounted.at])
            .run()?;
        mounted.is_mounted = true;
        Ok(mounted)
    }

    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    pub(super) fn node(&self) -> &Path {
        self.device.node()
    }

    fn umount(&self, option: &[&str]) -> Result<(), ToolError> {
        Call::new(UMOUNT)?.args(option).arg(&self.at).run().map(drop)
    }

    /// Unmounts, and says when that fails: what was written may not be there then.
    pub(super) fn unmount(mut self) -> Result<(), ToolError> {
        let mut result = self.umount(&[]);
        for _ in 1..UMOUNT_TRIES_MAX {
            if result.is_ok() {
                break;
            }
            std::thread::sleep(UMOUNT_PAUSE);
            result = self.umount(&[]);
        }
        self.is_mounted = result.is_err();
        result
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted && self.umount(&[]).is_err() {
            // Somebody is in there: it goes when they go.
            self.umount(&["--lazy"]).ok();
        }
        if self.is_btrfs {
            // The kernel would remember this copy, and refuse the original as the older one.
            Call::new(BTRFS)
                .and_then(|call| call.args(["device", "scan", "--forget"]).arg(self.node()).run())
                .ok();
        }
        std::fs::remove_dir(&self.at).ok();
    }
}

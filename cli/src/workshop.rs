//! Devices shown as files to the filesystems' own tools: FUSE behind `image::Workshop`.
//!
//! Promise: what is shown, and the folder it is shown in, is gone when it is dropped; what a killed process left is taken
//! away by the next one. Knows nothing of what tools do.

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, unmount};
use std::error::Error as StdError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// A private folder, and FUSE.
pub(crate) struct Workshop {
    folder: TempDir,
}

struct Shown(mount::Shown);

impl Workshop {
    /// In a folder that exists.
    pub(crate) fn new(work_folder: &Path) -> Result<Workshop> {
        let named = || format!("work folder {}", work_folder.display());
        // As the kernel names it.
        let work_folder = work_folder.canonicalize().with_context(named)?;
        sweep(&work_folder);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = TempDir::with_prefix_in(prefix, &work_folder).with_context(named)?;
        Ok(Workshop { folder })
    }
}

/// What work folders are called: this, the process, something random.
const PREFIX: &str = "cas-work-";

/// Takes away what processes that were killed have left: mounts, loop devices, folders. As far as that is possible.
fn sweep(work_folder: &Path) {
    for entry in fs::read_dir(work_folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let is_dead = |number: u32| !Path::new(&format!("/proc/{number}")).exists();
        if process.and_then(|number| number.parse().ok()).is_some_and(is_dead) {
            sweep_one(&entry.path());
        }
    }
}

fn sweep_one(folder: &Path) {
    let mut mounted = mounts_below(folder);
    // What was mounted last lies on top.
    mounted.reverse();
    for place in &mounted {
        unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).ok();
    }
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim_end()).starts_with(folder) {
            Command::new("losetup").arg("-d").arg(Path::new("/dev").join(entry.file_name())).status().ok();
        }
    }
    // Never through a mount: what is not ours could be behind it.
    if mounts_below(folder).is_empty() {
        fs::remove_dir_all(folder).ok();
    }
}

/// Mount points at or below a folder, in the order in which they were mounted.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(folder)).collect()
}

impl image::Workshop for Workshop {
    fn show(
        &self,
        device: Arc<dyn disk::WriteAt>,
        name: &str,
    ) -> Result<Box<dyn image::Shown>, Box<dyn StdError + Send + Sync>> {
        Ok(Box::new(Shown(mount::show(device, name, self.folder.path())?)))
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl image::Shown for Shown {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn failure(&self) -> Option<String> {
        self.0.failures().first
    }
}

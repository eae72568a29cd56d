//! On which devices a folder stands: the walk downwards.
//!
//! Promise: every device on the way is named, so that none of them is overwritten in good faith.
//! Knows nothing of what else uses those devices.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, major, statx};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::system::System;
use crate::uses::graph::Node;
use crate::uses::mounts::{Mount, Source};
use crate::uses::{Facts, FileId, Subject};

/// File systems stacked in each other (overlay on loop on file on overlay…): deeper is a circle.
const STACKED_MAX: u32 = 8;

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

/// All devices that the file system holding `path` stands on: partitions and disks, mapped, joined and loop devices,
/// and what those stand on. Empty for memory and network.
///
/// # Errors
/// [`Error::Open`] when there is no such path, [`Error::System`].
pub fn backing_devices(path: &Path) -> Result<Vec<Backing>, Error> {
    let facts = Facts::read(System::real())?;
    let mut walk = Walk { facts: &facts, found: Vec::new(), seen: HashSet::new(), files: Vec::new() };
    walk.file_system(path, 0)?;
    Ok(walk.found)
}

/// Whether the running system's root stands on this device, its disk, or this file.
///
/// # Errors
/// As for [`backing_devices`], and [`Error::NotADevice`].
pub fn is_root_disk(path: &Path) -> Result<bool, Error> {
    let facts = Facts::read(System::real())?;
    let subject = facts.subject(path)?;
    let mut walk = Walk { facts: &facts, found: Vec::new(), seen: HashSet::new(), files: Vec::new() };
    walk.file_system(Path::new("/"), 0)?;
    Ok(match subject {
        Subject::File(_, id) => walk.files.contains(&id),
        Subject::Node(name) => {
            let disk = facts.graph.by_name(&name).map(Node::disk);
            walk.found.iter().any(|backing| Some(backing.disk.as_str()) == disk)
        }
    })
}

/// The names of all disks under the running system's root.
pub(crate) fn root_disks(facts: &Facts) -> Result<HashSet<String>, Error> {
    let mut walk = Walk { facts, found: Vec::new(), seen: HashSet::new(), files: Vec::new() };
    walk.file_system(Path::new("/"), 0)?;
    Ok(walk.found.into_iter().map(|backing| backing.disk).collect())
}

pub(super) struct Walk<'a> {
    pub(super) facts: &'a Facts,
    pub(super) found: Vec<Backing>,
    pub(super) seen: HashSet<String>,
    /// The files on the way.
    pub(super) files: Vec<FileId>,
}

impl Walk<'_> {
    fn file_system(&mut self, path: &Path, depth: u32) -> Result<(), Error> {
        let asked = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
            .map_err(|e| Error::Open { path: path.to_owned(), source: e.into() })?;
        let facts = self.facts;
        let known = asked.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let by_id = || facts.mounts.iter().find(|mount| known && mount.id == asked.stx_mnt_id);
        if let Some(mount) = by_id().or_else(|| by_place(facts, path)) {
            self.mount(mount, depth);
        }
        Ok(())
    }

    fn mount(&mut self, mount: &Mount, depth: u32) {
        if depth >= STACKED_MAX {
            return;
        }
        for node in self.facts.nodes_of(mount) {
            self.node(node, depth);
        }
        let deeper = depth.saturating_add(1);
        if let Source::File(file, id) = &mount.source {
            self.files.push(*id);
            // A file that cannot be found again has its device unnamed; nothing more is known of it.
            self.file_system(file, deeper).ok();
        }
        if mount.filesystem == "overlay" {
            let layers = mount.options.split(',').filter_map(|option| option.split_once('='));
            let layers = layers.filter(|(key, _)| matches!(*key, "lowerdir" | "upperdir" | "lowerdir+"));
            for layer in
                layers.flat_map(|(_, folders)| folders.split(':')).filter(|layer| layer.starts_with('/'))
            {
                // Layers may lie in folders that are no longer visible.
                self.file_system(Path::new(layer), deeper).ok();
            }
        }
    }

    pub(super) fn node(&mut self, node: &Node, depth: u32) {
        if depth >= STACKED_MAX || !self.seen.insert(node.name.clone()) {
            return;
        }
        let graph = &self.facts.graph;
        let disk = graph.by_name(node.disk()).unwrap_or(node);
        let file = disk.backing.as_ref().map(|backing| backing.file.clone());
        let (disk_name, name) = (disk.name.clone(), node.name.clone());
        self.found.push(Backing { disk: disk_name, node: name, volume: node.volume(), file });
        for below in disk.slaves.iter().filter_map(|name| graph.by_name(name)) {
            self.node(below, depth);
        }
        let Some(backing) = &disk.backing else { return };
        self.files.extend(backing.id);
        let device = backing.rdev.or(backing.id.map(|id| id.dev).filter(|dev| major(*dev) != 0));
        match device.and_then(|rdev| graph.by_rdev(rdev)) {
            Some(below) => self.node(below, depth),
            // On btrfs or an overlay the file's device number says nothing: ask where the file is.
            None => drop(self.file_system(&backing.file, depth.saturating_add(1))),
        }
    }
}

/// For kernels before 5.8: the mount with the longest path, and of several there the last, which hides the others.
fn by_place<'a>(facts: &'a Facts, path: &Path) -> Option<&'a Mount> {
    let path = path.canonicalize().ok()?;
    let above = facts.mounts.iter().filter(|mount| path.starts_with(&mount.at));
    above.max_by_key(|mount| mount.at.components().count())
}

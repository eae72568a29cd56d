//! What a mount shows of its own: folders, links, devices, and the places where a volume's files begin.
//!
//! Promise: nothing changes once it is served, so its numbers and attributes may be kept by the kernel for ever.
//! Knows nothing of FUSE.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use disk::files::{Files, FilesError};
use disk::{ReadAt, WriteAt};

/// Opens a device when it is first needed; called for each read, so whoever gives it keeps what is open.
pub(crate) type OpenDevice = Box<dyn Fn() -> Result<Arc<dyn ReadAt>, disk::Error> + Send + Sync>;

/// Opens a volume's files; `None` when nobody can read them. Called as often.
pub(crate) type OpenFiles = Box<dyn Fn() -> Result<Option<Arc<dyn Files>>, FilesError> + Send + Sync>;

/// A device as a file.
pub(crate) struct Device {
    pub(crate) size_bytes: u64,
    pub(crate) open: OpenDevice,
    /// The same device, when it may be written.
    pub(crate) writer: Option<Arc<dyn WriteAt>>,
}

/// What a node is.
pub(crate) enum Kind {
    Folder(Vec<(OsString, usize)>),
    Link(OsString),
    Device(Device),
    Files(OpenFiles),
}

/// One of them.
pub(crate) struct Node {
    /// For people who read of a failure.
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) modified: SystemTime,
}

/// All of them; the first is the root.
pub(crate) struct Nodes(Vec<Node>);

impl Nodes {
    /// An empty root folder.
    pub(crate) fn new() -> Nodes {
        let (path, kind) = (String::new(), Kind::Folder(Vec::new()));
        Nodes(vec![Node { path, kind, modified: SystemTime::now() }])
    }

    /// Adds a node to a folder; its index.
    pub(crate) fn add(&mut self, folder: usize, name: &str, modified: SystemTime, kind: Kind) -> usize {
        let added = self.0.len();
        let parent = &mut self.0[folder];
        let path = if parent.path.is_empty() { name.to_owned() } else { format!("{}/{name}", parent.path) };
        if let Kind::Folder(names) = &mut parent.kind {
            names.push((name.into(), added));
        }
        self.0.push(Node { path, kind, modified });
        added
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Node> {
        self.0.get(index)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Node {
    /// The node that a folder has under this name.
    pub(crate) fn find(&self, name: &OsStr) -> Option<usize> {
        match &self.kind {
            Kind::Folder(names) => names.iter().find(|(it, _)| it == name).map(|(_, index)| *index),
            _ => None,
        }
    }
}

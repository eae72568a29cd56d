//! One device as one file: for programs that want a path, such as the filesystems' own tools.
//!
//! Promise: a read or write that fails here fails there, and is counted; a sync there is a sync here.
//! Knows nothing of what the device is.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use disk::{ReadAt, WriteAt};

use crate::failures::Ledger;
use crate::nodes::{Device, Kind, Nodes};
use crate::server::Server;
use crate::session::{Manner, Session, detach};
use crate::{Error, Failures};

/// What the folders that are mounted on are called: this, the process, a number.
const FOLDER_PREFIX: &str = "cas-shown-";

/// A device that is shown as a file, until this is dropped.
pub struct Shown {
    /// Dropped first: a folder can't be removed while it is mounted on.
    session: Option<Session>,
    folder: PathBuf,
    path: PathBuf,
    ledger: Arc<Ledger>,
}

/// A device as a file `name` in a folder of its own under `folder`. Served by threads of this process, which must not
/// wait for what it does to that file in the thread that holds locks of the device. While it is shown, the device should
/// not be written but through the file.
///
/// # Errors
/// [`Error`].
pub fn show(device: Arc<dyn WriteAt>, name: &str, folder: &Path) -> Result<Shown, Error> {
    Shown::new(device.clone(), Some(device), name, folder)
}

/// As [`show`], for reading only.
///
/// # Errors
/// [`Error`].
pub fn show_read_only(device: Arc<dyn ReadAt>, name: &str, folder: &Path) -> Result<Shown, Error> {
    Shown::new(device, None, name, folder)
}

impl Shown {
    fn new(
        reader: Arc<dyn ReadAt>,
        writer: Option<Arc<dyn WriteAt>>,
        name: &str,
        folder: &Path,
    ) -> Result<Shown, Error> {
        if Path::new(name).file_name() != Some(OsStr::new(name)) {
            return Err(Error::Name { name: name.to_owned() });
        }
        sweep(folder);
        let own = own_folder(folder)?;
        let is_read_only = writer.is_none();
        let mut nodes = Nodes::new();
        let size_bytes = reader.size_bytes();
        let device = Device { size_bytes, open: Box::new(move || Ok(reader.clone())), writer };
        nodes.add(0, name, SystemTime::now(), Kind::Device(device));
        let ledger = Arc::new(Ledger::default());
        let server = Server::new(nodes, ledger.clone());
        // From here on the folder goes with the value.
        let mut shown = Shown { session: None, path: own.join(name), folder: own, ledger };
        shown.session =
            Some(Session::start(server, &shown.folder, Manner { is_read_only, is_for_all: false })?);
        Ok(shown)
    }

    /// Where the device is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and writes that failed so far: what a program says of them is only "Input/output error".
    pub fn failures(&self) -> Failures {
        self.ledger.so_far()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.session = None;
        fs::remove_dir(&self.folder).ok();
    }
}

/// A new folder that only this user may enter.
fn own_folder(folder: &Path) -> Result<PathBuf, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{FOLDER_PREFIX}{}-{number}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            // A process of the same number was killed: the next number is free.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::Folder { path, what: "create", source }),
        }
    }
}

/// Takes away what processes left behind that were killed: mounts that nobody serves.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.split('-').next());
        let Some(process) = process else { continue };
        if Path::new("/proc").join(process).exists() {
            continue;
        }
        // Attributes may still be known; this is always asked for.
        let is_dead = rustix::fs::statfs(entry.path()).is_err_and(|e| e == rustix::io::Errno::NOTCONN);
        if is_dead && detach(&entry.path()) {
            fs::remove_dir(entry.path()).ok();
        }
    }
}

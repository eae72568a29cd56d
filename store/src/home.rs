//! Where a store lives, and the powers over it: bytes, deletion, a lock, a folder for the catalogue.
//!
//! Promise: opening writes nothing, so that a read-only medium will do. Knows nothing of what is kept.

use crate::Error;
use crate::backend::memory::MemoryBackend;
use crate::backend::{self, Backend, Delete, local::LocalBackend};
use crate::lock::{self, StoreLock};
use crate::records::Records;
use crate::session::SessionInfo;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where a store lives.
#[derive(Clone, Debug)]
pub struct Home(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Local(PathBuf),
    Custom(Powers),
}

/// What an open home can do.
#[derive(Clone)]
pub(crate) struct Powers {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) delete: Arc<dyn Delete>,
    local: Option<Arc<LocalBackend>>,
}

impl std::fmt::Debug for Powers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Powers({:?})", self.backend)
    }
}

impl Home {
    /// A folder.
    pub fn local(path: &Path) -> Home {
        Home(Kind::Local(path.to_path_buf()))
    }

    /// Memory; clones share the bytes. For tests.
    pub fn memory() -> Home {
        let backend = Arc::new(MemoryBackend::default());
        Home::custom(backend.clone(), backend)
    }

    /// Any backend; its catalogue is kept in memory and no lock is taken, as on an object store.
    pub fn custom(backend: Arc<dyn Backend>, delete: Arc<dyn Delete>) -> Home {
        Home(Kind::Custom(Powers { backend, delete, local: None }))
    }

    /// The powers over a store that is there.
    pub(crate) fn open(&self) -> Result<Powers, Error> {
        match &self.0 {
            Kind::Custom(powers) => Ok(powers.clone()),
            Kind::Local(path) => {
                let place = path.display().to_string();
                let backend = LocalBackend::open(path).map_err(|source| match &source {
                    backend::Error::Io { source: cause, .. } if backend::is_absent(cause) => {
                        Error::NoStore { place }
                    }
                    _ => Error::Backend { place, source },
                })?;
                Ok(Powers::local(backend))
            }
        }
    }

    /// As `open`, making what is missing; refuses a folder that holds other things.
    pub(crate) fn create(&self) -> Result<Powers, Error> {
        match &self.0 {
            Kind::Custom(powers) => Ok(powers.clone()),
            Kind::Local(path) => {
                let place = path.display().to_string();
                if let Some(found) = first_stranger(path) {
                    return Err(Error::NotEmpty { place, found });
                }
                LocalBackend::create(path)
                    .map(Powers::local)
                    .map_err(|source| Error::Backend { place, source })
            }
        }
    }
}

/// Something in the folder that `init` would not have left.
fn first_stranger(path: &Path) -> Option<String> {
    const OURS: [&str; 10] = [
        "packs",
        "images",
        "condemned",
        "moves",
        "sessions",
        "tmp",
        "config",
        "config.copy",
        "index",
        "lost+found",
    ];
    let names = std::fs::read_dir(path).ok()?.filter_map(Result::ok);
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| !OURS.contains(&name.as_str()))
}

impl Powers {
    fn local(backend: LocalBackend) -> Powers {
        let backend = Arc::new(backend);
        Powers { backend: backend.clone(), delete: backend.clone(), local: Some(backend) }
    }

    fn index_folder(&self) -> Option<PathBuf> {
        self.local.as_ref().map(|local| local.root().join("index"))
    }

    /// The writer lock, on a local store; then what a dead writer left is removed.
    pub(crate) fn lock(
        &self,
        wait: Duration,
        holders: impl Fn() -> Vec<SessionInfo>,
    ) -> Result<Option<StoreLock>, Error> {
        let (Some(local), Some(folder)) = (&self.local, self.index_folder()) else { return Ok(None) };
        let place = self.backend.place();
        let lock = lock::take(&folder, &place, wait, holders)?;
        let failed = |source| Error::Backend { place: place.clone(), source };
        local.clean_temporaries().map_err(failed)?;
        local.ensure_reserve().map_err(failed)?;
        Ok(Some(lock))
    }

    /// The catalogue's records: in the store when it is a folder, else in memory. The caller holds the lock.
    pub(crate) fn records(&self, store_id: &str, anew: bool) -> Result<Records, Error> {
        let Some(folder) = self.index_folder() else { return Ok(Records::in_memory()) };
        if anew {
            Records::remove_files(&folder)?;
        }
        Records::open(&folder, store_id)
    }
}

//! Devices shown as files to the filesystems' own tools: FUSE behind `image::Workshop`.
//!
//! Promise: what is shown, and the folder it is shown in, is gone when it is dropped. Knows nothing of what tools do.

use anyhow::{Context as _, Result};
use std::error::Error as StdError;
use std::path::Path;
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
        let folder = TempDir::with_prefix_in("cas-work-", work_folder)
            .with_context(|| format!("work folder {}", work_folder.display()))?;
        Ok(Workshop { folder })
    }
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

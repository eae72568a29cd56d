//! Why something can't be shown.
//!
//! Promise: place first; the cause is the source, not the text.

use std::io;
use std::path::PathBuf;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder that would be mounted on can't be made or used.
    #[error("{path}: cannot {what}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Not a name for a file.
    #[error("{name:?}: expected the name of a file")]
    Name {
        /// What was given.
        name: String,
    },
    /// The kernel, or `fusermount3` for it, refuses.
    #[error("{path}: cannot mount", path = path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

//! What can go wrong in a store. Three families, because people do three different things about them: Io (retry, check
//! the cable), Damaged (scrub, repair), Unsupported (upgrade); and a few that are answers, such as Locked.
//!
//! Promise: the place comes first, the cause is a `source` and not in the text.

use crate::backend;
use crate::codec::BlobError;
use crate::frame::FrameError;
use crate::id::{ChunkId, ImageId, PackId};
use crate::pack::PackError;
use crate::session::SessionInfo;
use crate::table::TableError;

/// What a person does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Retry, check the cable.
    Io,
    /// Scrub, repair, capture again.
    Damaged,
    /// A newer format or feature: upgrade.
    Unsupported,
    /// A safety rule said no.
    Refused,
    /// Somebody else is writing.
    Locked,
    /// There is no store there.
    NoStore,
    /// The store's home is full.
    Full,
    /// Asked to stop.
    Interrupted,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend could not do it.
    #[error("store {place}")]
    Backend {
        /// Where the store is.
        place: String,
        /// What happened.
        #[source]
        source: backend::Error,
    },
    /// No config and no copy of it.
    #[error("store {place}: no store here: neither config nor config.copy")]
    NoStore {
        /// Where it was looked for.
        place: String,
    },
    /// `init` on a store.
    #[error("store {place}: already a store, id {store_id}")]
    AlreadyAStore {
        /// Where.
        place: String,
        /// Its id.
        store_id: String,
    },
    /// `init` in a folder with other things in it.
    #[error("store {place}: expected an empty folder, found {found:?}")]
    NotEmpty {
        /// Where.
        place: String,
        /// The first thing found.
        found: String,
    },
    /// A small object is not what was written.
    #[error("{name}")]
    Frame {
        /// The object.
        name: String,
        /// What is wrong with it.
        #[source]
        source: FrameError,
    },
    /// A small object is whole, and says something that it should not.
    #[error("{name}: expected {expected}, found {found}")]
    Content {
        /// The object.
        name: String,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A manifest's bytes do not hash to its name.
    #[error("image {image}: manifest: name is not the hash of its bytes")]
    ManifestName {
        /// The image asked for.
        image: ImageId,
    },
    /// An image was confirmed and not forgotten, and its manifest is gone.
    #[error("image {image}: manifest: missing, though it was confirmed")]
    MissingManifest {
        /// The image.
        image: ImageId,
    },
    /// There is no such image.
    #[error("image {image}: not found")]
    NoImage {
        /// The image asked for.
        image: ImageId,
    },
    /// A pack cannot be read as one.
    #[error("pack {pack}")]
    Pack {
        /// Which pack.
        pack: PackId,
        /// What is wrong with it.
        #[source]
        source: PackError,
    },
    /// A chunk is nowhere to be found whole.
    #[error("chunk {chunk}: not found whole in pack {pack}, offset {offset:#x}, nor in any other")]
    Chunk {
        /// Which chunk.
        chunk: ChunkId,
        /// Where it was expected.
        pack: PackId,
        /// Where in the pack.
        offset: u32,
        /// What was found there.
        #[source]
        source: Option<Box<BlobError>>,
    },
    /// A table's bytes are no table.
    #[error("table {table}")]
    Table {
        /// Which table.
        table: ChunkId,
        /// What is wrong with it.
        #[source]
        source: TableError,
    },
    /// Written by a newer `cas`.
    #[error("{name}: needs {what}, which this version does not know")]
    Unsupported {
        /// Which object.
        name: String,
        /// Which feature or format.
        what: String,
    },
    /// Another process writes or collects.
    #[error("store {place}: locked{}", describe(.holders))]
    Locked {
        /// Where.
        place: String,
        /// Who, as far as the sessions say.
        holders: Vec<SessionInfo>,
    },
    /// The lock could not be taken for another reason.
    #[error("store {place}: lock")]
    Lock {
        /// Where.
        place: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The catalogue cannot be used, not even rebuilt.
    #[error("catalogue {place}")]
    Catalogue {
        /// Where.
        place: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The image is protected.
    #[error("image {image}: protected")]
    Protected {
        /// Which image.
        image: ImageId,
    },
    /// A collector has said that it removes the image, and may be doing so.
    #[error("image {image}: a collection is removing it")]
    BeingCollected {
        /// Which image.
        image: ImageId,
    },
    /// Garbage collection will not run with an image that it cannot read.
    #[error("image {image}: unreadable, so nothing can be proved unused")]
    UnreadableImage {
        /// Which image.
        image: ImageId,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// Packs that the new image needs went away while it was written.
    #[error("image {image}: {packs} packs it needs were removed while it was written")]
    PacksVanished {
        /// The unconfirmed image.
        image: ImageId,
        /// How many.
        packs: usize,
    },
    /// Another worker of the same writer failed before.
    #[error("writer: stopped after an earlier error: {0}")]
    WriterFailed(String),
    /// The caller broke an agreement.
    #[error("writer: {0}")]
    Misuse(&'static str),
    /// A pack did not decode to what was put in: memory or processor at fault.
    #[error("pack: what was about to be published does not decode; check this machine's memory")]
    SelfCheck {
        /// What is wrong with it.
        #[source]
        source: PackError,
    },
    /// Asked to stop.
    #[error("interrupted")]
    Interrupted,
}

fn describe(holders: &[SessionInfo]) -> String {
    match holders.first() {
        Some(holder) => format!(" by {holder}"),
        None => " by another process".to_string(),
    }
}

impl Error {
    /// What a person does about it.
    pub fn family(&self) -> Family {
        match self {
            Error::Backend { source: backend::Error::NoSpace { .. }, .. } => Family::Full,
            Error::Backend {
                source: backend::Error::Short { .. } | backend::Error::NotFound { .. }, ..
            } => Family::Damaged,
            Error::Backend { .. } | Error::Lock { .. } | Error::Catalogue { .. } | Error::WriterFailed(_) => {
                Family::Io
            }
            Error::NoStore { .. } => Family::NoStore,
            Error::AlreadyAStore { .. }
            | Error::NotEmpty { .. }
            | Error::NoImage { .. }
            | Error::Misuse(_) => Family::Refused,
            Error::Protected { .. } | Error::BeingCollected { .. } | Error::PacksVanished { .. } => {
                Family::Refused
            }
            Error::Unsupported { .. } => Family::Unsupported,
            Error::Locked { .. } => Family::Locked,
            Error::Interrupted => Family::Interrupted,
            Error::Frame { .. } | Error::Content { .. } | Error::ManifestName { .. } | Error::Pack { .. } => {
                Family::Damaged
            }
            Error::Chunk { .. } | Error::Table { .. } | Error::UnreadableImage { .. } => Family::Damaged,
            Error::SelfCheck { .. } | Error::MissingManifest { .. } => Family::Damaged,
        }
    }
}

/// The error and its causes in one line.
pub(crate) fn line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

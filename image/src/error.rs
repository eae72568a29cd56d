//! What can go wrong between a device and the store.
//!
//! Promise: every text starts with the place. Causes are in `source`, not in the text, so a chain prints once.
//! Knows nothing of exit codes: [`Error::family`] says what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

use disk::Extent;

use crate::OverlayProblem;

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source failed in a way that no retry and no bad range can cover: it is gone, shrank or returns short reads.
    #[error("source, offset {offset:#x}: read {bytes} bytes")]
    ReadSource {
        /// First byte that was asked for.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// Why.
        #[source]
        source: disk::Error,
    },
    /// So many sectors fail, here and at probes all over the source, that it is no longer a disk with bad sectors.
    #[error(
        "source, offset {offset:#x}: {failed} sectors in a row and {probes} probes elsewhere could not be read"
    )]
    SourceDead {
        /// First sector of the last failing range.
        offset: u64,
        /// Failures in a row.
        failed: u64,
        /// Probes that failed too.
        probes: u64,
        /// The last failure.
        #[source]
        source: disk::Error,
    },
    /// What its filesystems use has changed since they were asked.
    #[error("source: something writes to it")]
    SourceInUse,
    /// The stream that is captured failed.
    #[error("stream, offset {offset:#x}: read")]
    ReadStream {
        /// Bytes that came before.
        offset: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The stream that is restored to failed.
    #[error("stream, offset {offset:#x}: write {bytes} bytes")]
    WriteStream {
        /// Bytes that went before.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The target of a restore failed.
    #[error("target, offset {offset:#x}: write {bytes} bytes")]
    WriteTarget {
        /// First byte.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// Why.
        #[source]
        source: disk::Error,
    },
    /// The device that an image is compared with, or restored to, failed to read.
    #[error("device, offset {offset:#x}: read {bytes} bytes")]
    ReadDevice {
        /// First byte.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// Why.
        #[source]
        source: disk::Error,
    },
    /// A chunk of the image can't be had and the operation can't go on without it.
    #[error("image, offset {:#x}: {} bytes", extent.offset, extent.bytes)]
    Chunk {
        /// Where in the image.
        extent: Extent,
        /// Why.
        #[source]
        source: store::Error,
    },
    /// `--exclude-partition` names a partition that isn't there.
    #[error("partition {number}: not on the source, which has {}", list(has))]
    NoSuchVolume {
        /// The number asked for.
        number: u32,
        /// What there is.
        has: Vec<u32>,
    },
    /// The plan has refusals: it must not be carried out.
    #[error("restore: refused by {refusals} checks")]
    Refused {
        /// How many.
        refusals: usize,
    },
    /// What was opened is not what was planned for.
    #[error("target: expected serial or name {expected}, found {found}")]
    TargetChanged {
        /// In the plan.
        expected: String,
        /// On the open descriptor.
        found: String,
    },
    /// What was opened is not as large as when the plan was made.
    #[error("target: expected {expected} bytes, found {found}")]
    TargetSizeChanged {
        /// In the plan.
        expected: u64,
        /// On the open descriptor.
        found: u64,
    },
    /// The store's config can't be used for capturing.
    #[error(
        "store config: segment_bytes: expected a multiple of 4096 from 4096 to 2147483648, found {found}"
    )]
    SegmentBytes {
        /// What it says.
        found: u64,
    },
    /// The store's chunking rule can't be used for capturing.
    #[error("store config: rule {found}")]
    Rule {
        /// What it says.
        found: String,
        /// Why.
        #[source]
        source: chunker::Error,
    },
    /// The manifest's description of the source can't be understood.
    #[error("manifest of {disk}: member source")]
    SourceInfo {
        /// The image's name for people.
        disk: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The description of the source doesn't fit the image's size.
    #[error(
        "manifest of {disk}: regions: expected {expected} bytes in order and without gaps, found {found}"
    )]
    Regions {
        /// The image's name for people.
        disk: String,
        /// Size of the image.
        expected: u64,
        /// End of the first regions that have no gap.
        found: u64,
    },
    /// The file that changes of an overlay go into failed.
    #[error("overlay {path}: cannot {what}", path = path.display())]
    OverlayFile {
        /// The file, or the folder that a temporary one is made in.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file that should hold the changes of an overlay does not.
    #[error("overlay {path}: {problem}", path = path.display())]
    Overlay {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: OverlayProblem,
    },
    /// The wishes can't be met on this target.
    #[error(transparent)]
    Unfit(#[from] disk::arrange::Unfit),
    /// A volume's content can't be moved to sectors of another size.
    #[error("partition {number}")]
    SectorBound {
        /// Which.
        number: u32,
        /// Why not.
        source: disk::SectorBound,
    },
    /// A filesystem's own tool failed; neither source nor target was written to.
    #[error(transparent)]
    Tool(#[from] disk::tools::ToolError),
    /// A volume can't be shown to the tools as a file.
    #[error("work folder: show a volume as a file")]
    Show {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A tool worked on a volume that could not be read or written behind its back.
    #[error("partition {number}, as shown to a filesystem's tool: {failure}")]
    Shown {
        /// Which.
        number: u32,
        /// The first failure.
        failure: String,
    },
    /// Interrupted by the person; nothing is half-published.
    #[error("interrupted")]
    Interrupted,
    /// The store's own errors name their place.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The device's own errors name their place.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}

/// What a person can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Retry, check the cable, the disk, the free space.
    Io,
    /// Scrub, repair.
    Damaged,
    /// Upgrade, or use something else.
    Unsupported,
    /// Ask for something else.
    Refused,
    /// Ask again.
    Interrupted,
    /// See the store's error inside.
    Store,
    /// See the device's error inside.
    Disk,
}

impl Error {
    pub(crate) fn show(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error::Show { source }
    }

    /// The family; for `Store` and `Disk` the error inside knows better.
    pub fn family(&self) -> Family {
        match self {
            Error::Store(_) | Error::Chunk { .. } => Family::Store,
            Error::Disk(_) => Family::Disk,
            Error::ReadSource { .. }
            | Error::SourceDead { .. }
            | Error::SourceInUse
            | Error::ReadStream { .. }
            | Error::WriteStream { .. }
            | Error::WriteTarget { .. }
            | Error::ReadDevice { .. }
            | Error::OverlayFile { .. } => Family::Io,
            Error::Overlay { problem, .. } => match problem {
                OverlayProblem::NoOverlay
                | OverlayProblem::Base { .. }
                | OverlayProblem::Sizes { .. }
                | OverlayProblem::Name { .. } => Family::Refused,
                OverlayProblem::Version { .. } => Family::Unsupported,
                OverlayProblem::Head | OverlayProblem::Log { .. } | OverlayProblem::Short { .. } => {
                    Family::Damaged
                }
            },
            Error::Unfit(_)
            | Error::SectorBound { .. }
            | Error::NoSuchVolume { .. }
            | Error::Refused { .. }
            | Error::TargetChanged { .. }
            | Error::TargetSizeChanged { .. } => Family::Refused,
            Error::SegmentBytes { .. } | Error::Rule { .. } | Error::Tool(_) => Family::Unsupported,
            Error::Show { .. } | Error::Shown { .. } => Family::Io,
            Error::SourceInfo { .. } | Error::Regions { .. } => Family::Damaged,
            Error::Interrupted => Family::Interrupted,
        }
    }

    pub(crate) fn overlay_io(path: &Path, what: &'static str, source: io::Error) -> Error {
        Error::OverlayFile { path: path.to_owned(), what, source }
    }

    pub(crate) fn overlay_problem(path: &Path, problem: OverlayProblem) -> Error {
        Error::Overlay { path: path.to_owned(), problem }
    }
}

/// Numbers as people write them.
fn list(numbers: &[u32]) -> String {
    match numbers {
        [] => "none".to_owned(),
        _ => numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    }
}

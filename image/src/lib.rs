//! Images of devices: where `disk`, `chunker` and `store` meet.
//!
//! Capture goes device → segments → runs → store; restore, verify and the reader go the same road back. Everything that
//! could hurt is a value first: [`CapturePlan`], [`RestorePlan`] are made, shown and compared before a byte is moved.
//! Promise: the runs of an image depend on the device's bytes, its regions and the store's config only (I4); capture
//! holds only `ReadAt` on its source (I7).
//! Knows nothing of terminals, arguments or exit codes: it reports through [`Progress`] and returns values.

#![forbid(unsafe_code)]

mod archive;
mod asking;
mod browse;
mod capture;
mod check;
mod clone;
mod copy;
mod cutter;
mod damage;
mod ends;
mod error;
mod expected;
mod extract;
mod fill;
mod guided;
mod output;
mod overlay;
mod progress;
mod reader;
mod relayout;
mod rescue;
mod restore;
mod save;
mod segment;
mod source;
mod stream;
#[cfg(test)]
mod testing;
mod used;
mod verify;
mod workers;

pub use archive::{to_tar, to_zip};
pub use browse::{
    BrowseError, DEPTH_MAX, Found, LastLink, Met, VolumeFiles, VolumeLine, entries, find, open_volume,
    volumes, walk,
};
pub use capture::{CaptureOptions, Captured, capture};
pub use check::{CaptureChecks, CapturePlan, Concern, Severity, SourceFacts, StorePlace, plan_capture};
pub use clone::{ClonePlan, CloneReport, TargetPlan, clone_device, plan_clone, plan_target, while_steady};
pub use copy::{CopyDamage, CopyOptions, CopyReport, CopySource, CopyTarget, TargetReport, copy, copy_from};
pub use damage::Damage;
pub use error::{Error, Family};
pub use extract::{ExtractOptions, ExtractReport, Extraction, Finding, FindingKind};
pub use overlay::{Overlay, OverlayProblem};
pub use progress::{Counter, Note, Progress, StoreProgress};
pub use reader::ImageReader;
pub use relayout::{
    Fixups, LayoutOptions, LayoutPlan, Origin, Ready, Shown, VolumeChange, VolumePlan, Workshop,
    layout_minimum, make_ready, plan_layout,
};
pub use restore::{
    Compare, Refusal, RestoreOptions, RestorePlan, RestoreReport, StreamReport, TargetFacts, TargetKind,
    Warning, plan_restore, plan_restore_file, restore, restore_to_stream,
};
pub use save::save_overlay;
pub use segment::{Grid, Segment};
pub use source::{SourceInfo, SourceRegion};
pub use stream::capture_stream;
pub use used::{LeftOut, Survey, UsedBlocks, VolumeUse, survey};
pub use verify::{Difference, VerifyReport, verify_against, verify_image};

//! From an image back to a device, a file or a stream: plan, check the plan, do it.
//!
//! Promise: nothing is written that the plan doesn't say, and nothing at all when the plan has refusals. A restore that
//! was interrupted is never half-bootable (see `write.rs`) and continues when repeated; repeated once more it writes
//! nothing. What the store can't deliver is listed and left as the target had it, never made up.
//! Knows nothing of confirmation: the plan is shown and asked about by the caller.

pub(crate) mod plan;
mod stream;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use disk::{Device, Extent, Identity, ReadAt, Target};
use store::{ImageId, StoredImage};

pub use plan::{Refusal, TargetFacts, TargetKind, Warning, plan_restore, plan_restore_file};
pub use stream::{StreamReport, restore_to_stream};

use crate::expected::{Expected, Patch};
use crate::{Damage, Error, Note, Progress, SourceInfo, VerifyReport, verify};

/// How the target's content is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// Read the target, write only what differs. Where it holds nothing of the image, it is read now and then only.
    #[default]
    Read,
    /// `--no-compare`: write everything, holes as zeros too. For blank or fast targets.
    WriteAll,
}

/// How to restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Whether to look at what the target holds.
    pub compare: Compare,
    /// `--exact`: the image's bytes and nothing else; a GPT isn't moved, old signatures at the end aren't wiped.
    pub exact: bool,
    /// `--allow-smaller`: when what is lost is zeros, or lies behind the last volume.
    pub allow_smaller: bool,
    /// `--allow-store-disk`: when the target is a partition of the disk that the store is on.
    pub allow_store_disk: bool,
    /// `--target-serial`: what the target's serial number (its name where it has none) must be.
    pub target_serial: Option<String>,
    /// `--keep-damaged`: finish although parts are damaged in the store: the partition table is written, and in streams
    /// the damaged parts are zeros.
    pub keep_damaged: bool,
    /// `--verify`: read everything back, past the cache.
    pub verify: bool,
    /// Threads, 24 at most; 0: two for each processor, as one waits for the medium while another decodes.
    pub threads: usize,
}

/// What a restore would do, and what speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePlan {
    /// What is restored.
    pub image: ImageId,
    /// Its size.
    pub image_bytes: u64,
    /// As it was given.
    pub path: PathBuf,
    /// Device, new file or existing file.
    pub kind: TargetKind,
    /// What stands at the path; of a new file only path and name are known.
    pub target: Identity,
    /// Its size, after the restore where it is a file.
    pub target_bytes: u64,
    /// Unless empty, nothing may be written.
    pub refusals: Vec<Refusal>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
    /// The backup GPT goes to the target's real end.
    pub gpt_moved: bool,
    /// Behind the image, at the target's end: made zeros, so that old signatures aren't found there.
    pub tail_zeroed: Option<Extent>,
    /// What differs from the image's own bytes.
    pub(crate) patches: Vec<Patch>,
}

/// What a restore did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Written as data.
    pub written_bytes: u64,
    /// Made zeros.
    pub zeroed_bytes: u64,
    /// Were right already.
    pub unchanged_bytes: u64,
    /// The source could not be read there when it was captured: zeros on the target.
    pub bad_ranges: Vec<Extent>,
    /// Could not be had from the store: the target holds there what it held before (exit 4); with
    /// [`Compare::WriteAll`], zeros up to the next multiple of 4096 bytes at both ends.
    pub damaged: Vec<Damage>,
    /// The head is in place: nothing was damaged, or `keep_damaged` was given. Otherwise the target does not boot.
    pub finished: bool,
    /// The kernel would not look at the new partition table (hint: unplug, or `partprobe`).
    pub reread: Option<disk::Error>,
    /// What reading back found, when it was asked for.
    pub verified: Option<VerifyReport>,
}

/// Carries out a plan. `target` was opened after the plan was made: it must still be the same.
pub fn restore(
    plan: &RestorePlan,
    image: &StoredImage,
    target: &Target,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<RestoreReport, Error> {
    check_plan(plan, options, target.identity())?;
    let fresh = plan.kind == TargetKind::NewFile && target.next_data(0)?.is_none();
    let mut report = write::write_image(plan, image, target, options, fresh, progress)?;
    report.reread = target.reread_table().err();
    if options.verify && report.finished {
        let device = Device::open(Path::new(&target.identity().path))?;
        let mut verified = read_back(plan, image, &device, options, progress)?;
        // What could not be had was not written, so it can't be right: it is listed as damaged already.
        let is_known = |found: &Extent| report.damaged.iter().any(|damage| damage.extent.overlaps(found));
        verified.differences.retain(|difference| !is_known(&difference.extent));
        report.verified = Some(verified);
    }
    Ok(report)
}

/// The last look before the first write: no refusals, and the open descriptor is what the plan was made for.
fn check_plan(plan: &RestorePlan, options: &RestoreOptions, target: &Identity) -> Result<(), Error> {
    if !plan.refusals.is_empty() {
        return Err(Error::Refused { refusals: plan.refusals.len() });
    }
    let expected = options.target_serial.as_deref().unwrap_or_else(|| plan.target.key());
    if target.key() != expected {
        return Err(Error::TargetChanged { expected: expected.to_owned(), found: target.key().to_owned() });
    }
    if target.size_bytes != plan.target_bytes {
        return Err(Error::TargetSizeChanged { expected: plan.target_bytes, found: target.size_bytes });
    }
    Ok(())
}

/// Compares all of the target with what the plan says it holds now.
fn read_back(
    plan: &RestorePlan,
    image: &StoredImage,
    device: &dyn ReadAt,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<VerifyReport, Error> {
    progress.note(Note::Verifying);
    let info = SourceInfo::from_manifest(image.manifest())?;
    let expected = plan.expected(image);
    verify::compare(&expected, &info, device, plan.target_bytes, options.threads, progress)
}

impl RestorePlan {
    /// What the target must hold in the end.
    pub(crate) fn expected<'a>(&'a self, image: &'a StoredImage) -> Expected<'a> {
        Expected::patched(image, self.target_bytes, self.tail_zeroed, &self.patches)
    }
}

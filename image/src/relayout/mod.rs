//! A disk laid out anew: for a target of another size, with other partitions, with identities of its own (DESIGN.md §6.2).
//!
//! Planned first ([`plan_layout`]), then made ready beside the target ([`make_ready`]): filesystems are changed by their own
//! tools in overlays, and what comes out is one device to be copied (`copy`). Promise: the source and the target are only
//! read here; when a tool fails, nothing has happened to either.
//! Knows nothing of how an overlay is shown to the tools: a [`Workshop`] does that.

mod boot;
mod plan;
mod ready;
#[cfg(test)]
mod tests;
mod texts;

use std::path::Path;
use std::sync::Arc;

use disk::arrange::{Geometry, Mode, PartitionTable};
use disk::tools::Program;
use disk::{Extent, ReadAt, WriteAt};
use store::StoredImage;

pub use plan::{layout_minimum, plan_layout};
pub use ready::{Ready, make_ready};

use crate::{Error, ImageReader, SourceInfo};

/// What is laid out: a disk, or an image of one.
#[derive(Clone)]
pub struct Origin {
    /// Its bytes.
    pub device: Arc<dyn ReadAt>,
    /// What is known of it.
    pub info: SourceInfo,
}

impl Origin {
    /// A stored image.
    ///
    /// # Errors
    /// When the manifest's description of the source can't be understood.
    pub fn of_image(image: &StoredImage) -> Result<Origin, Error> {
        let info = SourceInfo::from_manifest(image.manifest())?;
        Ok(Origin { device: Arc::new(ImageReader::new(image.clone())), info })
    }
}

/// How the target is to be laid out.
#[derive(Clone, Debug)]
pub struct LayoutOptions {
    /// Which partitions get which size.
    pub mode: Mode,
    /// An MBR becomes a GPT.
    pub to_gpt: bool,
    /// Only these partitions.
    pub partitions: Option<Vec<u32>>,
    /// Only this one, onto a target that is a partition (or a file) itself.
    pub volume: Option<u32>,
    /// That one becomes a partition of a new table.
    pub create_partition: bool,
    /// Disk, partitions and filesystems get identities of their own.
    pub new_ids: bool,
    /// What is mended; `None`: all of it where anything moved, nothing where nothing did.
    pub fixups: Option<Fixups>,
}

/// What may be mended after a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fixups {
    /// GRUB's places in sectors, on disks that boot by BIOS.
    pub grub: bool,
    /// The fallback loader of an EFI system partition.
    pub efi: bool,
    /// What FAT and NTFS boot sectors say of their place.
    pub start: bool,
}

impl Fixups {
    /// All of them.
    pub fn all() -> Fixups {
        Fixups { grub: true, efi: true, start: true }
    }
}

impl LayoutOptions {
    /// Whether anything differs from putting all bytes where they were.
    pub fn changes_anything(&self) -> bool {
        !matches!(self.mode, Mode::Keep)
            || self.to_gpt
            || self.partitions.is_some()
            || self.volume.is_some()
            || self.new_ids
            || self.fixups.is_some_and(|fixups| fixups != Fixups::default())
    }
}

/// What happens to a volume's filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeChange {
    /// Nothing.
    Same,
    /// It becomes larger.
    Grow,
    /// It becomes smaller.
    Shrink,
    /// It is made anew, smaller, and its files are copied.
    Recreate,
    /// The partition grows, its content stays as it is: there is no way to grow it here.
    Room,
}

/// One volume of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Its number on the source.
    pub number: u32,
    /// Its number on the target.
    pub becomes: u32,
    /// Its filesystem, by blkid's name.
    pub kind: Option<String>,
    /// Where it is on the source.
    pub from: Extent,
    /// Where it will be.
    pub to: Extent,
    /// What happens to it.
    pub change: VolumeChange,
    /// Its filesystem gets a new identity.
    pub new_identity: bool,
}

/// What would be done, without the target's own checks.
#[derive(Clone, Debug)]
pub struct LayoutPlan {
    /// The target.
    pub target: Geometry,
    /// Its table, as it will be; none where the target is one volume.
    pub table: Option<PartitionTable>,
    /// Bytes before the first partition that go to the target as they are.
    pub head_bytes: u64,
    /// Everything stays where it was, what lies between partitions too.
    pub in_place: bool,
    /// Size of the smallest target for these wishes.
    pub needed_bytes: u64,
    /// Identities that the new table brings with it, old and new.
    pub(crate) ids: Vec<(String, String)>,
    /// Volumes in order of their new place.
    pub volumes: Vec<VolumePlan>,
    /// Programs that are needed and not there: nothing can be done before they are.
    pub missing: Vec<Program>,
    /// What a person should know.
    pub remarks: Vec<String>,
    /// Bytes that the overlays may need in the work folder, about; 0: little.
    pub work_bytes: u64,
}

/// A device shown as a file, until dropped.
pub trait Shown {
    /// Where.
    fn path(&self) -> &Path;
    /// What went wrong with reading or writing it so far.
    fn failure(&self) -> Option<String>;
}

/// Shows devices as files to other programs.
pub trait Workshop {
    /// Shows `device` as a file with this name.
    ///
    /// # Errors
    /// Why it can't.
    fn show(
        &self,
        device: Arc<dyn WriteAt>,
        name: &str,
    ) -> Result<Box<dyn Shown>, Box<dyn std::error::Error + Send + Sync>>;

    /// A folder for overlays' temporary files and mount points.
    fn folder(&self) -> &Path;
}

//! What a restore would do to a target, decided before anything is opened for writing.
//!
//! Promise: planning only looks. What is decided from facts is decided in [`judge`], which needs no device.
//! Knows nothing of chunks: of the image it asks the layout, and whether its end is zeros.

use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use disk::{Device, DeviceKind, Extent, Identity, TableKind, Use, UseKind};
use store::{Run, StoredImage};

use crate::check::{StorePlace, existing};
use crate::expected::Patch;
use crate::{Error, ImageReader, RestoreOptions, RestorePlan, SourceInfo};

/// Signatures of partition tables, RAID and filesystems at a device's end lie within the last of these bytes: GPT 33
/// sectors, md 0.90 and 1.0 within 128 KiB, ZFS labels within 512 KiB.
const TAIL_BYTES: u64 = 1 << 20;

/// The image's end is looked at in pieces of this size, so that few tables are in memory.
const LOOK_BYTES: u64 = 256 << 20;

/// What the target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// A disk or partition: `Target::open_device`.
    Device,
    /// A file that does not exist yet: `Target::open_file`, with the plan's `target_bytes`.
    NewFile,
    /// A file that is overwritten: likewise.
    ExistingFile,
}

/// Why nothing may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A filesystem on it is mounted.
    Mounted {
        /// Which device.
        device: String,
        /// Where.
        at: PathBuf,
    },
    /// It is swap in use.
    Swap {
        /// Which device.
        device: String,
    },
    /// Another device stands on it.
    Held {
        /// Which device.
        device: String,
        /// By which.
        holder: String,
        /// `dm`, `md`, `loop`…
        kind: String,
    },
    /// The store lies on it: the restore would overwrite what it reads.
    HoldsStore {
        /// On this volume.
        volume: Option<u32>,
    },
    /// The store lies on another partition of the same disk: one wrong digit away.
    StoreDisk,
    /// The running system lies on it.
    RootDisk,
    /// The kernel refuses writes.
    ReadOnly,
    /// Not the disk that was meant.
    SerialMismatch {
        /// What `--target-serial` says.
        expected: String,
        /// What the target says.
        found: String,
    },
    /// The image does not fit (exit 6).
    TooSmall {
        /// Bytes of the image.
        needed: u64,
        /// Bytes of the target.
        has: u64,
        /// Whether `--allow-smaller` would do: nothing but zeros, or nothing of a volume, would be lost.
        allowable: bool,
    },
    /// Nothing, or no device, stands at a path in `/dev`: a file there would be lost at the next boot.
    NoDevice,
    /// The path is neither a block device nor a regular file.
    NotATarget,
    /// A clone's target is its source.
    IsSource,
    /// One of a clone's source and target is a part of the other, or stands on it.
    SharesSource,
    /// The file would lie on what is cloned.
    OnSource {
        /// On this volume of the source.
        volume: Option<u32>,
    },
    /// This target, or one that is a part of it or of which it is, was given before.
    Again {
        /// As what.
        other: PathBuf,
    },
}

impl Refusal {
    /// The option that lifts it.
    pub fn override_option(&self) -> Option<&'static str> {
        match self {
            Refusal::StoreDisk => Some("--allow-store-disk"),
            Refusal::TooSmall { allowable: true, .. } => Some("--allow-smaller"),
            _ => None,
        }
    }

    /// Whether it is about size: an exit code of its own.
    pub fn is_too_small(&self) -> bool {
        matches!(self, Refusal::TooSmall { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Mounted { device, at } => write!(f, "{device}: mounted at {}", at.display()),
            Refusal::Swap { device } => write!(f, "{device}: in use as swap"),
            Refusal::Held { device, holder, kind } => write!(f, "{device}: in use by {holder} ({kind})"),
            Refusal::HoldsStore { volume: Some(number) } => {
                write!(f, "partition {number} of the target holds the store")
            }
            Refusal::HoldsStore { volume: None } => f.write_str("the target holds the store"),
            Refusal::StoreDisk => f.write_str("the target is part of the disk that holds the store"),
            Refusal::RootDisk => f.write_str("the target is the running system's disk"),
            Refusal::ReadOnly => f.write_str("the target is read-only"),
            Refusal::SerialMismatch { expected, found } => {
                write!(f, "target serial: expected {expected}, found {found}")
            }
            Refusal::TooSmall { needed, has, .. } => {
                write!(f, "target size: expected at least {needed} bytes, found {has}")
            }
            Refusal::NoDevice => f.write_str("there is no such device"),
            Refusal::NotATarget => f.write_str("expected a block device or a regular file"),
            Refusal::IsSource => f.write_str("the target is the source"),
            Refusal::SharesSource => f.write_str("target and source are parts of each other"),
            Refusal::OnSource { volume: Some(number) } => {
                write!(f, "the target lies on partition {number} of the source")
            }
            Refusal::OnSource { volume: None } => f.write_str("the target lies on the source"),
            Refusal::Again { other } => write!(f, "the target is, or shares bytes with, {}", other.display()),
        }
    }
}

/// What a person should know before saying yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A filesystem was mounted read-write during the capture.
    NotConsistent,
    /// These volumes were left out of the image: zeros will stand there.
    Excluded {
        /// Their numbers.
        volumes: Vec<u32>,
    },
    /// The source could not be read there: zeros will stand there.
    BadRanges {
        /// How many.
        ranges: usize,
        /// Together.
        bytes: u64,
    },
    /// The table counts in sectors of another size: the target's partitions will not be found.
    SectorSize {
        /// Of the image.
        image: u32,
        /// Of the target.
        target: u32,
    },
    /// The target ends sooner; what is lost is of no use.
    Smaller {
        /// How many bytes.
        lost_bytes: u64,
    },
    /// The target is larger, and the backup GPT can't be moved to its end.
    GptNotMoved {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NotConsistent => {
                f.write_str("the image was taken while mounted read-write: filesystems need a check")
            }
            Warning::Excluded { volumes } => {
                let numbers: Vec<String> = volumes.iter().map(u32::to_string).collect();
                write!(f, "not in the image, zeros will stand there: partition {}", numbers.join(", "))
            }
            Warning::BadRanges { ranges, bytes } => {
                write!(
                    f,
                    "{ranges} ranges ({bytes} bytes) of the source could not be read: zeros will stand there"
                )
            }
            Warning::SectorSize { image, target } => {
                write!(
                    f,
                    "sector size: expected {image}, found {target}: the partition table won't be understood"
                )
            }
            Warning::Smaller { lost_bytes } => {
                write!(f, "the last {lost_bytes} bytes of the image, unused, are left out")
            }
            Warning::GptNotMoved { reason } => write!(f, "the backup partition table is not moved: {reason}"),
        }
    }
}

/// What the system says about a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFacts {
    /// As given.
    pub path: PathBuf,
    /// Device, new file or existing file; `None` when it is neither, or is missing from `/dev`.
    pub kind: Option<TargetKind>,
    /// What stands there.
    pub identity: Identity,
    /// Who uses it.
    pub uses: Vec<Use>,
    /// The running system lies on it.
    pub is_root: bool,
    /// What the store stands on.
    pub store: StorePlace,
}

/// Plans a restore to whatever stands at `path`: a device, a file, or nothing yet. `store` is the store's folder.
pub fn plan_restore(
    image: &StoredImage,
    path: &Path,
    store: Option<&Path>,
    options: &RestoreOptions,
) -> Result<RestorePlan, Error> {
    judge(image, look(path, store)?, options)
}

/// As [`plan_restore`], for a path that must become a file and not be a device.
pub fn plan_restore_file(
    image: &StoredImage,
    path: &Path,
    store: Option<&Path>,
    options: &RestoreOptions,
) -> Result<RestorePlan, Error> {
    let mut facts = look(path, store)?;
    facts.kind = facts.kind.filter(|kind| *kind != TargetKind::Device);
    judge(image, facts, options)
}

/// Asks the system about what stands at `path`.
pub(crate) fn look(path: &Path, store: Option<&Path>) -> Result<TargetFacts, Error> {
    let store = StorePlace::of(store)?;
    let nothing = |kind| {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let path_text = path.to_string_lossy().into_owned();
        let identity = Identity {
            kind: DeviceKind::File,
            path: path_text,
            name,
            read_only: false,
            ..Identity::stream()
        };
        TargetFacts {
            path: path.to_owned(),
            kind,
            identity,
            uses: Vec::new(),
            is_root: false,
            store: store.clone(),
        }
    };
    let kind = match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => TargetKind::Device,
        Ok(metadata) if metadata.is_file() => TargetKind::ExistingFile,
        Ok(_) => return Ok(nothing(None)),
        Err(_) if existing(path).starts_with("/dev") => return Ok(nothing(None)),
        Err(_) => return Ok(nothing(Some(TargetKind::NewFile))),
    };
    let is_root = kind == TargetKind::Device && disk::is_root_disk(path)?;
    let uses = disk::uses(path)?;
    let identity = match Device::open(path) {
        Ok(device) => device.identity().clone(),
        // What must not be written is refused for that, whether or not it can be read.
        Err(_) if is_root || !uses.is_empty() => {
            let kind = if kind == TargetKind::Device { DeviceKind::Disk } else { DeviceKind::File };
            Identity { kind, ..nothing(None).identity }
        }
        Err(error) => return Err(error.into()),
    };
    Ok(TargetFacts { path: path.to_owned(), kind: Some(kind), identity, uses, is_root, store })
}

/// Decides from facts alone.
pub(crate) fn judge(
    image: &StoredImage,
    facts: TargetFacts,
    options: &RestoreOptions,
) -> Result<RestorePlan, Error> {
    let info = SourceInfo::from_manifest(image.manifest())?;
    let target_bytes = match facts.kind {
        Some(TargetKind::Device) => facts.identity.size_bytes,
        _ => image.bytes(),
    };
    let mut refusals = refusals(&facts, options);
    let mut warnings = warnings(&info, &facts);
    let patches = match end_of_table(image, &info, target_bytes, options) {
        Ok(patches) => patches,
        Err(error) => {
            warnings.extend(
                (target_bytes > image.bytes()).then(|| Warning::GptNotMoved { reason: error.to_string() }),
            );
            Vec::new()
        }
    };
    if facts.kind == Some(TargetKind::Device) && target_bytes < image.bytes() {
        let allowable = may_be_smaller(image, &info, target_bytes, !patches.is_empty())?;
        match allowable && options.allow_smaller {
            true => warnings.push(Warning::Smaller { lost_bytes: image.bytes() - target_bytes }),
            false => refusals.push(Refusal::TooSmall { needed: image.bytes(), has: target_bytes, allowable }),
        }
    }
    Ok(RestorePlan {
        image: image.id(),
        image_bytes: image.bytes(),
        path: facts.path,
        kind: facts.kind.unwrap_or(TargetKind::NewFile),
        target: facts.identity,
        target_bytes,
        refusals,
        warnings,
        gpt_moved: !patches.is_empty(),
        tail_zeroed: tail(image.bytes(), target_bytes, options),
        patches,
    })
}

/// What speaks against a target, whatever is to be written there.
pub(crate) fn refusals(facts: &TargetFacts, options: &RestoreOptions) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if facts.kind.is_none() {
        let in_dev = existing(&facts.path).starts_with("/dev") && !facts.path.exists();
        return vec![if in_dev { Refusal::NoDevice } else { Refusal::NotATarget }];
    }
    if let Some(expected) = options.target_serial.as_deref().filter(|serial| *serial != facts.identity.key())
    {
        let found = facts.identity.key().to_owned();
        refusals.push(Refusal::SerialMismatch { expected: expected.to_owned(), found });
    }
    if facts.is_root {
        refusals.push(Refusal::RootDisk);
    }
    let on_target = facts.store.volumes_on(&facts.identity);
    refusals.extend(on_target.iter().map(|volume| Refusal::HoldsStore { volume: *volume }));
    let inside = facts.store.folder.as_ref().is_some_and(|folder| existing(&facts.path).starts_with(folder));
    if facts.kind != Some(TargetKind::Device) && inside {
        refusals.push(Refusal::HoldsStore { volume: None });
    }
    if on_target.is_empty() && facts.store.shares_disk(&facts.identity) && !options.allow_store_disk {
        refusals.push(Refusal::StoreDisk);
    }
    refusals.extend(facts.uses.iter().map(refusal_of));
    if facts.identity.read_only {
        refusals.push(Refusal::ReadOnly);
    }
    refusals
}

fn refusal_of(found: &Use) -> Refusal {
    let device = found.device.clone();
    match &found.what {
        UseKind::Mounted { at, .. } => Refusal::Mounted { device, at: at.clone() },
        UseKind::Swap => Refusal::Swap { device },
        UseKind::Holder { name, kind } => Refusal::Held { device, holder: name.clone(), kind: kind.clone() },
    }
}

pub(crate) fn warnings(info: &SourceInfo, facts: &TargetFacts) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if !info.consistent {
        warnings.push(Warning::NotConsistent);
    }
    if !info.excluded.is_empty() {
        warnings.push(Warning::Excluded { volumes: info.excluded.clone() });
    }
    if !info.bad_ranges.is_empty() {
        warnings.push(Warning::BadRanges { ranges: info.bad_ranges.len(), bytes: info.bad_bytes() });
    }
    warnings.extend(sector_warning(info, facts));
    warnings
}

/// Whether the table would not be understood on the target.
pub(crate) fn sector_warning(info: &SourceInfo, facts: &TargetFacts) -> Option<Warning> {
    let (image, target) = (info.layout.sector_bytes, facts.identity.logical_sector_bytes);
    let counts_sectors = info.layout.table != TableKind::None && facts.kind == Some(TargetKind::Device);
    (counts_sectors && image != target).then_some(Warning::SectorSize { image, target })
}

/// The GPT as it must be on a target of another size: nothing to change when there is none, or the size is the same.
fn end_of_table(
    image: &StoredImage,
    info: &SourceInfo,
    target_bytes: u64,
    options: &RestoreOptions,
) -> Result<Vec<Patch>, Error> {
    if options.exact || target_bytes == image.bytes() || info.layout.table != TableKind::Gpt {
        return Ok(Vec::new());
    }
    let reader = ImageReader::new(image.clone());
    let writes = disk::plan_backup_gpt(&reader, info.layout.sector_bytes, target_bytes)?;
    Ok(writes.into_iter().map(|(offset, bytes)| Patch { offset, bytes }).collect())
}

/// The end of a larger target, where signatures of former lives may lie.
fn tail(image_bytes: u64, target_bytes: u64, options: &RestoreOptions) -> Option<Extent> {
    let offset = image_bytes.max(target_bytes.saturating_sub(TAIL_BYTES));
    (!options.exact && offset < target_bytes).then(|| Extent { offset, bytes: target_bytes - offset })
}

/// Whether nothing of use lies behind `has`: zeros only, or no volume and a table that fits in front.
fn may_be_smaller(image: &StoredImage, info: &SourceInfo, has: u64, gpt_moved: bool) -> Result<bool, Error> {
    let table_fits = match info.layout.table {
        TableKind::None => false,
        TableKind::Gpt => gpt_moved,
        TableKind::Mbr => true,
    };
    if table_fits && info.layout.volumes.iter().all(|volume| volume.extent.end() <= has) {
        return Ok(true);
    }
    let mut offset = has;
    while offset < image.bytes() {
        let runs = image.runs(offset, LOOK_BYTES.min(image.bytes() - offset))?;
        if runs.iter().any(|placed| !matches!(placed.run, Run::Zeros { .. })) {
            return Ok(false);
        }
        let end = runs.last().map_or(image.bytes(), |placed| placed.offset + placed.run.bytes());
        offset = end.max(offset + 1);
    }
    Ok(true)
}

//! What capture looks at before it reads: is the source in use, does the store lie on it, is its table sound?
//!
//! Promise: [`plan_capture`] only looks; [`judge`] decides from facts alone, so every concern can be tested without a
//! device. Knows nothing of how a plan is shown.

use std::fmt;
use std::path::{Path, PathBuf};

use disk::{Backing, Device, DeviceKind, Identity, Layout, Use, UseKind};

use crate::{Error, SourceInfo};

/// What the person asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureChecks {
    /// `--allow-mounted`: capture although filesystems are mounted read-write; the image is marked not consistent.
    pub allow_mounted: bool,
    /// `--exclude-partition N`: numbers of the volumes to leave out.
    pub exclude: Vec<u32>,
}

/// What the system says about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// Which device.
    pub identity: Identity,
    /// Its partition table.
    pub layout: Layout,
    /// Who uses it, or a part of it.
    pub uses: Vec<Use>,
    /// What the store stands on.
    pub store: StorePlace,
}

/// What the store stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorePlace {
    /// Its folder, without symbolic links; `None` when it is not a local folder.
    pub folder: Option<PathBuf>,
    /// The devices below that folder.
    pub backings: Vec<Backing>,
}

/// Whether a concern ends the matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is captured (exit 5).
    Refuse,
    /// It is said, and the capture goes on.
    Warn,
}

/// One thing that a person should know before the capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// A filesystem changes while it would be read.
    MountedReadWrite {
        /// Which device is mounted.
        device: String,
        /// The source's volume that it is, or stands on.
        volume: Option<u32>,
        /// Where it is mounted.
        at: PathBuf,
        /// `--allow-mounted` was given.
        allowed: bool,
    },
    /// Swap space in use: its content is of no use in an image, and does no harm.
    SwapActive {
        /// Which device.
        device: String,
        /// The source's volume.
        volume: Option<u32>,
    },
    /// Another device (LVM, RAID, encryption, loop) stands on the source and may be written to.
    Held {
        /// Which device is held.
        device: String,
        /// By which.
        holder: String,
    },
    /// The store lies on what would be captured: the image would contain itself, growing.
    StoreOnSource {
        /// The volume it lies on, that can be excluded.
        volume: Option<u32>,
    },
    /// The store lies on the same physical disk: when the disk dies, both are gone.
    StoreOnSameDisk {
        /// The kernel's name of the disk.
        disk: String,
    },
    /// The partition table is odd; the image holds all bytes anyway.
    BrokenTable {
        /// What is odd.
        warnings: Vec<String>,
    },
}

impl Concern {
    /// Whether this ends the matter.
    pub fn severity(&self) -> Severity {
        match self {
            Concern::MountedReadWrite { allowed: false, .. } | Concern::StoreOnSource { .. } => {
                Severity::Refuse
            }
            _ => Severity::Warn,
        }
    }

    /// Whether it matters only where something is stored.
    pub fn is_about_store(&self) -> bool {
        matches!(self, Concern::StoreOnSource { .. } | Concern::StoreOnSameDisk { .. })
    }

    /// The option that would let the capture go on; `None` when nothing does, or nothing is needed.
    pub fn override_option(&self) -> Option<String> {
        match self {
            Concern::MountedReadWrite { allowed: false, .. } => Some("--allow-mounted".to_owned()),
            Concern::StoreOnSource { volume: Some(number) } => Some(format!("--exclude-partition {number}")),
            _ => None,
        }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concern::MountedReadWrite { device, at, allowed, .. } => {
                write!(f, "{device}: mounted read-write at {}", at.display())?;
                if *allowed { f.write_str(", the image will not be consistent") } else { Ok(()) }
            }
            Concern::SwapActive { device, .. } => write!(f, "{device}: in use as swap"),
            Concern::Held { device, holder } => write!(f, "{device}: in use by {holder}"),
            Concern::StoreOnSource { volume: Some(number) } => {
                write!(f, "partition {number}: holds the store")
            }
            Concern::StoreOnSource { volume: None } => f.write_str("the source holds the store"),
            Concern::StoreOnSameDisk { disk } => {
                write!(f, "{disk}: holds the store too: when this disk dies, both are gone")
            }
            Concern::BrokenTable { warnings } => write!(f, "partition table: {}", warnings.join("; ")),
        }
    }
}

/// What would be captured, and what speaks against it.
#[derive(Clone, Debug)]
pub struct CapturePlan {
    /// For `capture`.
    pub source: SourceInfo,
    /// In the order of the checks.
    pub concerns: Vec<Concern>,
}

impl CapturePlan {
    /// Whether any concern refuses.
    pub fn is_refused(&self) -> bool {
        self.concerns.iter().any(|concern| concern.severity() == Severity::Refuse)
    }
}

/// Looks at an open source, and at where the store is (its folder, when it has one).
pub fn plan_capture(
    device: &Device,
    store: Option<&Path>,
    checks: &CaptureChecks,
) -> Result<CapturePlan, Error> {
    let identity = device.identity().clone();
    let layout = Layout::read(device, identity.logical_sector_bytes);
    let uses = disk::uses(Path::new(&identity.path))?;
    judge(SourceFacts { identity, layout, uses, store: StorePlace::of(store)? }, checks)
}

impl StorePlace {
    /// Looks up what a store's folder stands on. A folder that doesn't exist yet stands on what its parent does.
    pub fn of(folder: Option<&Path>) -> Result<StorePlace, Error> {
        let Some(folder) = folder else { return Ok(StorePlace::default()) };
        let folder = existing(folder);
        let backings = disk::backing_devices(&folder)?;
        Ok(StorePlace { folder: Some(folder), backings })
    }

    /// The part of a device that the store stands on: the volumes, `None` for the device as a whole.
    pub(crate) fn volumes_on(&self, identity: &Identity) -> Vec<Option<u32>> {
        let mut volumes: Vec<Option<u32>> = match identity.kind {
            DeviceKind::Disk => {
                let on =
                    self.backings.iter().filter(|it| it.disk == identity.name || it.node == identity.name);
                on.map(|backing| backing.volume).collect()
            }
            DeviceKind::Partition => {
                self.backings.iter().filter(|backing| backing.node == identity.name).map(|_| None).collect()
            }
            DeviceKind::File => {
                let file = existing(Path::new(&identity.path));
                let on = self.backings.iter().filter(|backing| backing.file.as_ref() == Some(&file));
                on.map(|backing| backing.volume).collect()
            }
            DeviceKind::Stream => Vec::new(),
        };
        volumes.sort_unstable();
        volumes.dedup();
        volumes
    }

    /// Whether the store stands on the disk that a device is, or is part of.
    pub(crate) fn shares_disk(&self, identity: &Identity) -> bool {
        let disk = match identity.kind {
            DeviceKind::Disk => identity.name.as_str(),
            DeviceKind::Partition => disk_of_partition(&identity.name),
            DeviceKind::File | DeviceKind::Stream => return false,
        };
        self.backings.iter().any(|backing| backing.disk == disk)
    }
}

/// The path without symbolic links, or that of its nearest folder that exists.
pub(crate) fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find_map(|path| path.canonicalize().ok()).unwrap_or(absolute)
}

/// `sda1` is part of `sda`, `nvme0n1p2` of `nvme0n1`: the kernel puts a `p` between when the disk's name ends in a digit.
pub(crate) fn disk_of_partition(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem.strip_suffix('p') {
        Some(disk) if disk.ends_with(|c: char| c.is_ascii_digit()) => disk,
        _ => stem,
    }
}

/// Decides from facts alone.
pub(crate) fn judge(facts: SourceFacts, checks: &CaptureChecks) -> Result<CapturePlan, Error> {
    let SourceFacts { identity, layout, uses, store } = facts;
    let bytes = identity.size_bytes;
    let mut source = SourceInfo::new(identity, layout, bytes, &checks.exclude)?;
    let left_out = |volume: Option<u32>| volume.is_some_and(|number| source.excluded.contains(&number));
    let mut concerns: Vec<Concern> =
        uses.iter().filter(|it| !left_out(it.volume)).filter_map(|it| concern_of(it, checks)).collect();
    let on_source = store.volumes_on(&source.identity);
    for volume in on_source.iter().filter(|volume| !left_out(**volume)) {
        concerns.push(Concern::StoreOnSource { volume: *volume });
    }
    if store.shares_disk(&source.identity) && on_source.iter().all(|volume| left_out(*volume)) {
        let disk = match source.identity.kind {
            DeviceKind::Partition => disk_of_partition(&source.identity.name),
            _ => &source.identity.name,
        };
        concerns.push(Concern::StoreOnSameDisk { disk: disk.to_owned() });
    }
    if !source.layout.warnings.is_empty() {
        concerns.push(Concern::BrokenTable { warnings: source.layout.warnings.clone() });
    }
    source.consistent = !concerns.iter().any(|concern| matches!(concern, Concern::MountedReadWrite { .. }));
    Ok(CapturePlan { source, concerns })
}

fn concern_of(found: &Use, checks: &CaptureChecks) -> Option<Concern> {
    let (device, volume) = (found.device.clone(), found.volume);
    match &found.what {
        UseKind::Mounted { read_only: true, .. } => None,
        UseKind::Mounted { at, .. } => {
            Some(Concern::MountedReadWrite { device, volume, at: at.clone(), allowed: checks.allow_mounted })
        }
        UseKind::Swap => Some(Concern::SwapActive { device, volume }),
        UseKind::Holder { name, .. } => Some(Concern::Held { device, holder: name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use disk::{Extent, TableKind, Volume};

    use super::*;

    pub(crate) fn volume(number: u32, offset: u64, bytes: u64) -> Volume {
        Volume {
            number,
            extent: Extent { offset, bytes },
            type_id: String::new(),
            type_name: None,
            uuid: None,
            name: None,
            bootable: false,
            content: None,
        }
    }

    fn facts() -> SourceFacts {
        let identity = Identity {
            kind: DeviceKind::Disk,
            name: "sdq".into(),
            size_bytes: 1 << 20,
            ..Identity::stream()
        };
        let volumes = vec![volume(1, 4096, 8192), volume(2, 16384, 8192)];
        let layout = Layout { table: TableKind::Gpt, sector_bytes: 512, volumes, ..Layout::default() };
        SourceFacts { identity, layout, uses: Vec::new(), store: StorePlace::default() }
    }

    fn mounted(volume: u32, read_only: bool) -> Use {
        let what = UseKind::Mounted { at: "/mnt".into(), read_only, filesystem: "ext4".into() };
        Use { device: format!("sdq{volume}"), volume: Some(volume), what }
    }

    fn store_on(disk: &str, node: &str, volume: Option<u32>) -> StorePlace {
        let backing = Backing { disk: disk.into(), node: node.into(), volume, file: None };
        StorePlace { folder: None, backings: vec![backing] }
    }

    #[test]
    fn a_mounted_source_is_refused_unless_allowed_or_left_out() {
        let facts = SourceFacts { uses: vec![mounted(2, false), mounted(1, true)], ..facts() };
        let plan = judge(facts.clone(), &CaptureChecks::default()).unwrap();
        assert!(plan.is_refused());
        assert_eq!(plan.concerns[0].override_option().as_deref(), Some("--allow-mounted"));
        assert_eq!(plan.concerns[0].to_string(), "sdq2: mounted read-write at /mnt");
        let allowed = CaptureChecks { allow_mounted: true, exclude: Vec::new() };
        let plan = judge(facts.clone(), &allowed).unwrap();
        assert!(!plan.is_refused() && !plan.source.consistent && plan.concerns.len() == 1);
        let without = CaptureChecks { allow_mounted: false, exclude: vec![2] };
        let plan = judge(facts, &without).unwrap();
        assert!(plan.concerns.is_empty() && plan.source.consistent);
    }

    #[test]
    fn a_store_on_the_source_is_refused_unless_left_out() {
        let facts = SourceFacts { store: store_on("sdq", "sdq1", Some(1)), ..facts() };
        let plan = judge(facts.clone(), &CaptureChecks::default()).unwrap();
        assert_eq!(plan.concerns, [Concern::StoreOnSource { volume: Some(1) }]);
        assert_eq!(plan.concerns[0].override_option().as_deref(), Some("--exclude-partition 1"));
        let without = CaptureChecks { exclude: vec![1], ..CaptureChecks::default() };
        let plan = judge(facts, &without).unwrap();
        assert_eq!(plan.concerns, [Concern::StoreOnSameDisk { disk: "sdq".into() }]);
        assert!(plan.source.regions.iter().any(|region| region.volume == Some(1) && region.excluded));
    }

    #[test]
    fn a_store_on_a_sister_partition_is_a_warning() {
        let mut facts = SourceFacts { store: store_on("nvme0n1", "nvme0n1p2", Some(2)), ..facts() };
        facts.identity.kind = DeviceKind::Partition;
        facts.identity.name = "nvme0n1p1".into();
        let plan = judge(facts, &CaptureChecks::default()).unwrap();
        assert_eq!(plan.concerns, [Concern::StoreOnSameDisk { disk: "nvme0n1".into() }]);
        assert!(!plan.is_refused());
    }

    #[test]
    fn a_store_elsewhere_is_no_concern() {
        let facts = SourceFacts { store: store_on("sda", "sda1", Some(1)), ..facts() };
        assert!(judge(facts, &CaptureChecks::default()).unwrap().concerns.is_empty());
    }

    #[test]
    fn swap_and_odd_tables_are_warnings() {
        let mut facts = facts();
        facts.uses.push(Use { device: "sdq1".into(), volume: Some(1), what: UseKind::Swap });
        facts.layout.warnings.push("backup header: damaged".into());
        let plan = judge(facts, &CaptureChecks::default()).unwrap();
        assert_eq!(plan.concerns.len(), 2);
        assert!(!plan.is_refused() && plan.source.consistent);
    }

    #[test]
    fn only_volumes_that_exist_can_be_left_out() {
        let checks = CaptureChecks { exclude: vec![7], ..CaptureChecks::default() };
        let error = judge(facts(), &checks).unwrap_err();
        assert_eq!(error.to_string(), "partition 7: not on the source, which has 1, 2");
    }
}

//! From one device right onto others: what speaks against it, and the road itself when no layout changes.
//!
//! Promise: planning only looks; nothing is a target that is the source, shares bytes with it or with another target.
//! Only blocks in use are read, as long as nobody is seen to write; when somebody was, every sector is read after all,
//! before any target is finished. Knows nothing of confirmation or of layouts.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use disk::{Device, DeviceKind, Extent, Identity, ReadAt, Use, UseKind};

use crate::check::{CapturePlan, StorePlace, disk_of_partition, existing, plan_capture};
use crate::copy::{CopyOptions, CopyReport, CopySource, CopyTarget, copy_from};
use crate::restore::plan::{look, refusals, sector_warning, warnings};
use crate::source::join_extents;
use crate::{
    CaptureChecks, Error, Note, Progress, Refusal, RestoreOptions, SourceInfo, Survey, TargetFacts,
    TargetKind, UsedBlocks, Warning, survey,
};

/// What a clone would do, and what speaks against it.
#[derive(Clone, Debug)]
pub struct ClonePlan {
    /// The source, and what speaks against reading it; whether it is steady is asked here too.
    pub capture: CapturePlan,
    /// Each target, in the order given.
    pub targets: Vec<TargetPlan>,
}

/// One target, and what speaks against it. Whether all fits is for the layout to say ([`ClonePlan::too_small`] when there
/// is none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlan {
    /// What the system says about it.
    pub facts: TargetFacts,
    /// Unless empty, nothing may be written.
    pub refusals: Vec<Refusal>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

/// What a clone did.
#[derive(Debug)]
pub struct CloneReport {
    /// The targets, and what could not be read.
    pub copy: CopyReport,
    /// What was left out, unread, as no filesystem uses it; `None` when every sector was read.
    pub survey: Option<Survey>,
}

/// Looks at what stands at a path that an image, which `source` describes, is to be written to; of the options, the
/// target's serial number and `allow_store_disk` are asked.
pub fn plan_target(
    path: &Path,
    store: Option<&Path>,
    source: &SourceInfo,
    options: &RestoreOptions,
) -> Result<TargetPlan, Error> {
    let facts = look(path, store)?;
    let refusals = refusals(&facts, options);
    let mut warnings = warnings(source, &facts);
    // The layout planner sees to that.
    warnings.retain(|warning| !matches!(warning, Warning::SectorSize { .. }));
    Ok(TargetPlan { facts, refusals, warnings })
}

/// Looks at an open source and at what stands at the targets' paths. `store` is the store's folder, if one is used too;
/// of the options, the target's serial number and `allow_store_disk` are asked.
pub fn plan_clone(
    source: &Device,
    targets: &[PathBuf],
    store: Option<&Path>,
    checks: &CaptureChecks,
    options: &RestoreOptions,
) -> Result<ClonePlan, Error> {
    let capture = plan_capture(source, store, checks)?;
    let identity = source.identity();
    let from = Spot::new(identity, &disk::uses(Path::new(&identity.path))?);
    let mut plans: Vec<TargetPlan> = Vec::new();
    let mut spots: Vec<Spot> = Vec::new();
    for path in targets {
        let facts = look(path, store)?;
        let spot = Spot::new(&facts.identity, &facts.uses);
        let mut refusals = refusals(&facts, options);
        refusals.extend(from.refusal(&spot));
        refusals.extend(on_source(&facts, identity)?);
        let before = spots.iter().position(|before| before.clash(&spot).is_some());
        if let Some(other) = before.and_then(|number| plans.get(number)) {
            refusals.push(Refusal::Again { other: other.facts.path.clone() });
        }
        let warnings = sector_warning(&capture.source, &facts).into_iter().collect();
        plans.push(TargetPlan { facts, refusals, warnings });
        spots.push(spot);
    }
    Ok(ClonePlan { capture, targets: plans })
}

/// A file that would be written to a filesystem that is being read.
fn on_source(facts: &TargetFacts, source: &Identity) -> Result<Vec<Refusal>, Error> {
    if facts.kind.is_none_or(|kind| kind == TargetKind::Device) {
        return Ok(Vec::new());
    }
    let volumes = StorePlace::of(Some(&facts.path))?.volumes_on(source);
    Ok(volumes.into_iter().map(|volume| Refusal::OnSource { volume }).collect())
}

impl ClonePlan {
    /// Whether anything refuses.
    pub fn is_refused(&self) -> bool {
        self.capture.is_refused() || self.targets.iter().any(|target| !target.refusals.is_empty())
    }

    /// When nothing is moved: whether the source does not fit on a target. Files are as large as is wanted.
    pub fn too_small(&self, target: &TargetPlan) -> Option<Refusal> {
        let (needed, has) = (self.capture.source.bytes(), target.facts.identity.size_bytes);
        let is_device = target.facts.kind == Some(TargetKind::Device);
        (is_device && has < needed).then_some(Refusal::TooSmall { needed, has, allowable: false })
    }
}

/// What two places have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clash {
    /// They are the same.
    Same,
    /// One is a part of the other, or stands on it.
    Part,
}

/// Where bytes lie, as far as it takes to tell whether two places share any.
struct Spot {
    kind: DeviceKind,
    /// The kernel's name.
    name: String,
    /// Its disk's.
    disk: String,
    /// Of a file: where it is, without symbolic links.
    path: PathBuf,
    /// Of a file that exists: its number, as it may have several names.
    file: Option<(u64, u64)>,
    /// Devices that stand on it.
    holders: HashSet<String>,
}

impl Spot {
    fn new(identity: &Identity, uses: &[Use]) -> Spot {
        let path = Path::new(&identity.path);
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        let disk = match identity.kind {
            DeviceKind::Partition => disk_of_partition(&identity.name),
            _ => &identity.name,
        };
        let holders = uses.iter().filter_map(|it| match &it.what {
            UseKind::Holder { name, .. } => Some(name.clone()),
            UseKind::Mounted { .. } | UseKind::Swap => None,
        });
        Spot {
            kind: identity.kind,
            name: identity.name.clone(),
            disk: disk.to_owned(),
            path: resolved(path),
            file: metadata.map(|metadata| (metadata.dev(), metadata.ino())),
            holders: holders.collect(),
        }
    }

    fn is_block_device(&self) -> bool {
        matches!(self.kind, DeviceKind::Disk | DeviceKind::Partition)
    }

    /// Whether the two share bytes.
    fn clash(&self, other: &Spot) -> Option<Clash> {
        let same = match (self.is_block_device(), other.is_block_device()) {
            (true, true) => self.name == other.name,
            (false, false) => self.path == other.path || (self.file.is_some() && self.file == other.file),
            _ => false,
        };
        let is_whole = self.kind == DeviceKind::Disk || other.kind == DeviceKind::Disk;
        let nested = self.is_block_device() && other.is_block_device() && is_whole && self.disk == other.disk;
        match same {
            true => Some(Clash::Same),
            false if nested || self.holds(other) || other.holds(self) => Some(Clash::Part),
            false => None,
        }
    }

    /// Whether a device stands on this place.
    fn holds(&self, device: &Spot) -> bool {
        let names = [&device.name, &device.disk];
        device.is_block_device() && names.into_iter().any(|name| self.holders.contains(name))
    }

    /// Of a target, from the source's side.
    fn refusal(&self, target: &Spot) -> Option<Refusal> {
        self.clash(target).map(|clash| match clash {
            Clash::Same => Refusal::IsSource,
            Clash::Part => Refusal::SharesSource,
        })
    }
}

/// Where a file is, or will be.
fn resolved(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(path), ..) => path,
        // A relative name has an empty parent: here.
        (Err(_), Some(folder), Some(name)) if folder.as_os_str().is_empty() => {
            existing(Path::new(".")).join(name)
        }
        (Err(_), Some(folder), Some(name)) => existing(folder).join(name),
        (Err(_), ..) => path.to_owned(),
    }
}

/// Reads a device without what its filesystems don't use, when `in_use_only` says that nobody writes to it
/// ([`CapturePlan::is_steady`]): calls `attempt` with what is unused, and with the question whether it still is, for
/// [`CopySource::still_good`]. When it was not, `attempt` is called once more, with nothing unused.
pub fn while_steady<T>(
    source: &SourceInfo,
    device: &dyn ReadAt,
    in_use_only: bool,
    progress: &dyn Progress,
    mut attempt: impl FnMut(&[Extent], &(dyn Fn() -> bool + Sync)) -> Result<T, Error>,
) -> Result<(T, Option<Survey>), Error> {
    if in_use_only {
        let before = survey(device, source, |_| true);
        match attempt(&before.unused, &|| before == survey(device, source, |_| true)) {
            Err(Error::SourceInUse) => progress.note(Note::CapturingWhole),
            result => return result.map(|done| (done, Some(before))),
        }
    }
    attempt(&[], &|| true).map(|done| (done, None))
}

/// Copies a device, which `source` describes, as it is: everything stays in its place. Volumes that are excluded become
/// zeros.
pub fn clone_device(
    source: &SourceInfo,
    device: &dyn ReadAt,
    in_use_only: bool,
    targets: &[CopyTarget<'_>],
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CloneReport, Error> {
    let excluded = source.regions.iter().filter(|region| region.excluded).map(|region| region.extent);
    let excluded: Vec<Extent> = excluded.collect();
    let whole = [Extent { offset: 0, bytes: source.bytes() }];
    let mut targets = targets.to_vec();
    let (copy, survey) = while_steady(source, device, in_use_only, progress, |unused, still_good| {
        let left_out = join_extents([unused, &excluded].concat());
        let view = UsedBlocks::new(device, left_out);
        let source = CopySource { view: &view, medium: device, still_good };
        let result = copy_from(&source, &whole, &targets, options, progress);
        // Should there be another attempt, this one has written to them.
        targets.iter_mut().for_each(|target| target.fresh = false);
        result
    })?;
    Ok(CloneReport { copy, survey })
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicU64, Ordering};

    use disk::{FaultDevice, MemoryDevice, Target, WriteAt};

    use super::*;
    use crate::Concern;
    use crate::testing::{Changing, random_bytes, swap_disk};

    fn spot(kind: DeviceKind, name: &str, holders: &[&str]) -> Spot {
        let path = format!("/dev/{name}");
        let identity = Identity { kind, path, name: name.to_owned(), ..Identity::stream() };
        let uses: Vec<Use> = holders
            .iter()
            .map(|holder| Use {
                device: name.to_owned(),
                volume: None,
                what: UseKind::Holder { name: (*holder).to_owned(), kind: "loop".to_owned() },
            })
            .collect();
        Spot::new(&identity, &uses)
    }

    #[test]
    fn disks_and_their_parts_share_bytes_and_sisters_do_not() {
        use DeviceKind::{Disk, Partition};
        let clash = |a: (DeviceKind, &str), b: (DeviceKind, &str)| {
            let (a, b) = (spot(a.0, a.1, &[]), spot(b.0, b.1, &[]));
            assert_eq!(a.clash(&b), b.clash(&a));
            a.clash(&b)
        };
        assert_eq!(clash((Disk, "sda"), (Disk, "sda")), Some(Clash::Same));
        assert_eq!(clash((Disk, "sda"), (Disk, "sdb")), None);
        assert_eq!(clash((Disk, "sda"), (Partition, "sda1")), Some(Clash::Part));
        assert_eq!(clash((Disk, "sda"), (Partition, "sdaa1")), None);
        assert_eq!(clash((Partition, "nvme0n1p2"), (Disk, "nvme0n1")), Some(Clash::Part));
        assert_eq!(clash((Partition, "nvme0n1p2"), (Partition, "nvme0n1p3")), None);
        let below = spot(Disk, "sda", &["dm-0", "loop3"]);
        assert_eq!(below.clash(&spot(Disk, "dm-0", &[])), Some(Clash::Part));
        assert_eq!(spot(Partition, "loop3p1", &[]).clash(&below), Some(Clash::Part));
        assert_eq!(below.clash(&spot(Disk, "dm-1", &[])), None);
    }

    fn plan(source: &Path, targets: &[PathBuf]) -> ClonePlan {
        let device = Device::open(source).unwrap();
        let (checks, options) = (CaptureChecks::default(), RestoreOptions::default());
        plan_clone(&device, targets, None, &checks, &options).unwrap()
    }

    #[test]
    fn a_file_is_no_target_under_any_name_when_it_is_the_source_or_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("source"), [1; 8192]).unwrap();
        std::fs::write(path("other"), [2; 8192]).unwrap();
        std::fs::hard_link(path("source"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("source"), path("soft")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let names = ["new", "source", "hard", "soft", "other", "folder/../other", "folder/../new", "folder"];
        let targets = names.map(path);
        let plan = plan(&path("source"), &targets);
        let again = |name: &str| vec![Refusal::Again { other: path(name) }];
        let refusals: Vec<Vec<Refusal>> = plan.targets.iter().map(|target| target.refusals.clone()).collect();
        let is_source = || vec![Refusal::IsSource];
        assert_eq!(refusals[0], []);
        assert_eq!(refusals[1], is_source());
        let both = [is_source(), again("source")].concat();
        assert_eq!(refusals[2..4], [both.clone(), both]);
        assert_eq!(refusals[4], []);
        assert_eq!(refusals[5..7], [again("other"), again("new")]);
        assert_eq!(refusals[7], [Refusal::NotATarget]);
        assert!(plan.is_refused() && plan.targets[0].facts.kind == Some(TargetKind::NewFile));
        assert!(plan.too_small(&plan.targets[4]).is_none());
        assert_eq!(std::fs::read(path("source")).unwrap(), [1; 8192]);
    }

    /// Detached at the end.
    struct Loop(String);

    impl Loop {
        fn new(file: &Path) -> Loop {
            let output = Command::new("losetup").args(["-f", "--show"]).arg(file).output();
            let output = output
                .unwrap_or_else(|e| panic!("losetup: {e}: apt-get install -y --no-install-recommends mount"));
            assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
            Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            Command::new("losetup").args(["-d", &self.0]).status().ok();
        }
    }

    #[test]
    fn root_loop_devices_are_cloned_and_know_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let bytes = random_bytes(90, 6 << 20);
        std::fs::write(path("a"), &bytes).unwrap();
        std::fs::write(path("b"), random_bytes(91, 7 << 20)).unwrap();
        std::fs::write(path("c"), random_bytes(92, 5 << 20)).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| Loop::new(&path(name)));
        let targets: Vec<PathBuf> =
            [&b.0, &c.0, &a.0].map(PathBuf::from).into_iter().chain([path("a"), path("b")]).collect();
        let plan = plan(Path::new(&a.0), &targets);
        assert_eq!(plan.targets[0].refusals, []);
        assert!(plan.too_small(&plan.targets[0]).is_none());
        let small = plan.too_small(&plan.targets[1]);
        assert!(matches!(small, Some(Refusal::TooSmall { needed, .. }) if needed == 6 << 20));
        assert_eq!(plan.targets[2].refusals, [Refusal::IsSource]);
        assert!(plan.targets[3].refusals.contains(&Refusal::SharesSource));
        assert!(plan.targets[4].refusals.contains(&Refusal::Again { other: targets[0].clone() }));
        let from_file = self::plan(&path("a"), &targets[2..3]);
        assert!(from_file.targets[0].refusals.contains(&Refusal::SharesSource));
        assert!(matches!(from_file.capture.concerns[..], [Concern::Held { .. }]));

        let source = Device::open(Path::new(&a.0)).unwrap();
        let target = Target::open_device(Path::new(&b.0)).unwrap();
        let in_use_only = plan.capture.is_steady(&source);
        let options = CopyOptions { verify: true, ..CopyOptions::default() };
        let targets = [CopyTarget { device: &target, fresh: false }];
        let report =
            clone_device(&plan.capture.source, &source, in_use_only, &targets, &options, &()).unwrap();
        assert!(report.copy.targets[0].verified.as_ref().unwrap().is_clean());
        drop((source, target));
        assert!(std::fs::read(path("b")).unwrap()[..bytes.len()] == bytes);
    }

    #[test]
    fn only_blocks_in_use_are_read_and_excluded_volumes_are_zeros() {
        let (bytes, info) = swap_disk();
        let device = MemoryDevice::new(bytes.clone());
        let mut expected = bytes;
        expected[(4 << 20) + 4096..12 << 20].fill(0);
        expected[(16 << 20) + 4096..24 << 20].fill(0);
        let targets = [93, 94].map(|seed| MemoryDevice::new(random_bytes(seed, expected.len())));
        let both = [&targets[0], &targets[1]]
            .map(|device| CopyTarget { device: device as &dyn WriteAt, fresh: false });
        let report = clone_device(&info, &device, true, &both, &CopyOptions::default(), &()).unwrap();
        assert_eq!(report.survey.unwrap().unused_bytes(), 2 * ((8 << 20) - 4096));
        assert!(targets.iter().all(|target| target.to_vec() == expected));
        let excluded = SourceInfo::new(info.identity, info.layout, expected.len() as u64, &[2]).unwrap();
        clone_device(&excluded, &device, true, &both[..1], &CopyOptions::default(), &()).unwrap();
        expected[16 << 20..(16 << 20) + 4096].fill(0);
        assert!(targets[0].to_vec() == expected);
    }

    /// What is left out can always be "read": it says nothing about the disk.
    #[test]
    fn a_dead_disk_is_an_error_whatever_is_left_out() {
        let (bytes, info) = swap_disk();
        let size = bytes.len() as u64;
        let survey = survey(&MemoryDevice::new(bytes.clone()), &info, |_| true);
        let all = Extent { offset: 0, bytes: size };
        let dead = FaultDevice::new(MemoryDevice::new(bytes), vec![all]);
        let view = UsedBlocks::new(&dead, survey.unused);
        let source = CopySource { view: &view, medium: &dead, still_good: &|| true };
        let target = MemoryDevice::zeros(crate::segment::in_memory(size));
        let targets = [CopyTarget { device: &target, fresh: false }];
        let result = copy_from(&source, &[all], &targets, &CopyOptions::default(), &());
        assert!(matches!(result, Err(Error::SourceDead { .. })), "{result:?}");
    }

    #[test]
    fn what_came_into_use_meanwhile_is_copied_after_all() {
        let (bytes, info) = swap_disk();
        let mut other = bytes.clone();
        other[16 << 20..(16 << 20) + 4096].fill(1);
        let count = Changing {
            before: MemoryDevice::new(bytes.clone()),
            after: MemoryDevice::new(other.clone()),
            reads: AtomicU64::new(0),
            changes_at: u64::MAX,
        };
        survey(&count, &info, |_| true);
        let changes_at = count.reads.load(Ordering::SeqCst) + 1;
        let device = Changing { changes_at, reads: AtomicU64::new(0), ..count };
        let target = MemoryDevice::zeros(other.len());
        let targets = [CopyTarget { device: &target, fresh: true }];
        let options = CopyOptions { threads: 1, ..CopyOptions::default() };
        let report = clone_device(&info, &device, true, &targets, &options, &()).unwrap();
        assert!(report.survey.is_none() && report.copy.targets[0].finished);
        assert!(target.to_vec() == other);
    }
}

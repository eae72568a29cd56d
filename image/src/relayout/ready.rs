//! A plan carried out beside the target: filesystems resized in overlays, identities changed, boot mended, all of it put
//! together as the device that the target will be.
//!
//! Promise: nothing but temporary files is written; what a tool claims to have done was read back (`disk::tools`); when a
//! tool fails, that is the end of it. Knows nothing of targets.

use std::sync::Arc;

use disk::boot::BootProblem;
use disk::tools::{self, ToolError};
use disk::{Assembled, Extent, ReadAt, Section};

use super::{Fixups, LayoutOptions, LayoutPlan, Origin, Shown, VolumeChange, VolumePlan, Workshop};
use super::{boot, texts};
use crate::source::join_extents;
use crate::{Error, Overlay, Progress};

/// Old signatures at the end of a target lie within its last bytes: see `restore/plan.rs`.
const TAIL_BYTES: u64 = 1 << 20;

/// What the target is to hold.
pub struct Ready {
    /// The target as it will be.
    pub device: Assembled,
    /// What of it counts: sorted, disjoint.
    pub extents: Vec<Extent>,
    /// What was done, for people.
    pub done: Vec<String>,
    /// What could not be done, with the way to do it by hand.
    pub left: Vec<String>,
}

/// One volume on its way.
pub(super) struct Prepared {
    pub(super) plan: VolumePlan,
    pub(super) device: Arc<dyn ReadAt>,
    /// Where it was changed; made when it is first needed.
    overlay: Option<Arc<Overlay>>,
}

/// What all steps share.
pub(super) struct Making<'a> {
    pub(super) origin: &'a Origin,
    pub(super) workshop: &'a dyn Workshop,
    pub(super) done: Vec<String>,
    pub(super) left: Vec<String>,
    /// Identities, old and new.
    pub(super) renamed: Vec<(String, String)>,
}

/// Carries out a plan.
///
/// # Errors
/// [`Error::Tool`], [`Error::Shown`], and those of reading the source.
pub fn make_ready(
    origin: &Origin,
    plan: &LayoutPlan,
    options: &LayoutOptions,
    workshop: &dyn Workshop,
    progress: &dyn Progress,
) -> Result<Ready, Error> {
    if let Some(program) = plan.missing.first() {
        return Err(ToolError::Missing { program: program.name, package: program.package }.into());
    }
    let mut table = plan.table.clone();
    let renamed = plan.ids.clone();
    let mut making = Making { origin, workshop, done: Vec::new(), left: Vec::new(), renamed };
    if let Some(table) = table.as_mut().filter(|_| options.new_ids) {
        making.renamed.extend(table.new_ids(&mut disk::random_id));
    }
    // What did not move boots as it did, and stays as it was, bit by bit.
    let fixups = options.fixups.unwrap_or(if plan.in_place { Fixups::default() } else { Fixups::all() });
    let mut volumes = Vec::new();
    for volume in &plan.volumes {
        if progress.cancelled() {
            return Err(Error::Interrupted);
        }
        let mut prepared = Prepared::new(origin, volume);
        making.resize(&mut prepared)?;
        making.rename(&mut prepared)?;
        volumes.push(prepared);
    }
    if !making.renamed.is_empty() {
        for volume in &mut volumes {
            texts::rewrite(&mut making, volume)?;
        }
    }
    for volume in &mut volumes {
        boot::mend_volume(&mut making, volume, fixups)?;
    }
    let target = plan.target;
    let mut device = Assembled::new(target.bytes, target.sector_bytes);
    let mut extents = making.put_surroundings(&mut device, plan);
    for volume in &mut volumes {
        extents.extend(volume.put(&mut device));
    }
    let writes = table.map(|table| table.encode(target)).transpose()?;
    for (offset, bytes) in writes.unwrap_or_default() {
        extents.push(Extent { offset, bytes: bytes.len() as u64 });
        device.put_bytes(offset, bytes);
    }
    extents.extend(boot::mend_places(&mut making, &volumes, &mut device, fixups));
    extents.extend(tail(&device));
    let extents = within(join_extents(extents), target.bytes);
    Ok(Ready { device, extents, done: making.done, left: making.left })
}

impl Prepared {
    fn new(origin: &Origin, plan: &VolumePlan) -> Prepared {
        let device = Arc::new(Section::new(origin.device.clone(), plan.from));
        Prepared { plan: plan.clone(), device, overlay: None }
    }

    pub(super) fn moved(&self) -> bool {
        self.plan.from.offset != self.plan.to.offset
    }

    pub(super) fn kind(&self) -> &str {
        self.plan.kind.as_deref().unwrap_or_default()
    }

    /// The volume as something that can be changed.
    pub(super) fn changeable(&mut self, workshop: &dyn Workshop) -> Result<Arc<Overlay>, Error> {
        if let Some(overlay) = &self.overlay {
            return Ok(overlay.clone());
        }
        let bytes = self.plan.from.bytes.max(self.plan.to.bytes);
        let overlay = Arc::new(Overlay::temporary(self.device.clone(), bytes, workshop.folder())?);
        self.device = overlay.clone();
        self.overlay = Some(overlay.clone());
        Ok(overlay)
    }

    /// Shows the volume as a file to `work`; an error of reading or writing it behind the tool's back counts as one of the tool.
    pub(super) fn with_file<T>(
        &mut self,
        workshop: &dyn Workshop,
        work: impl FnOnce(&dyn Shown) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let overlay = self.changeable(workshop)?;
        let shown = workshop.show(overlay, &format!("p{}.img", self.plan.number)).map_err(Error::show)?;
        let result = work(&*shown);
        match shown.failure() {
            Some(failure) => Err(Error::Shown { number: self.plan.number, failure }),
            None => result,
        }
    }

    /// Puts the volume in its place; what of it counts.
    fn put(&mut self, device: &mut Assembled) -> Vec<Extent> {
        let to = self.plan.to;
        device.put_device(to, self.device.clone(), 0);
        let from_source = Extent { offset: 0, bytes: self.plan.from.bytes };
        let changed = self.overlay.as_ref().map(|overlay| overlay.written()).unwrap_or_default();
        let anew = self.plan.change == VolumeChange::Recreate;
        let counts = if anew { vec![Extent { offset: 0, bytes: to.bytes }] } else { vec![from_source] };
        let all = counts
            .into_iter()
            .chain(changed)
            .map(|extent| Extent { offset: to.offset + extent.offset, ..extent });
        all.filter_map(|extent| crate::source::intersect(extent, to)).collect()
    }
}

impl Making<'_> {
    /// The filesystem gets the size of its new place.
    fn resize(&mut self, volume: &mut Prepared) -> Result<(), Error> {
        let plan = volume.plan.clone();
        let (kind, bytes, workshop) = (volume.kind().to_owned(), plan.to.bytes, self.workshop);
        match plan.change {
            VolumeChange::Same | VolumeChange::Room => return Ok(()),
            VolumeChange::Grow => volume.with_file(workshop, |shown| {
                Ok(tools::grow(&kind, shown.path(), bytes, workshop.folder())?)
            })?,
            VolumeChange::Shrink => volume.with_file(workshop, |shown| {
                Ok(tools::shrink(&kind, shown.path(), bytes, workshop.folder())?)
            })?,
            VolumeChange::Recreate => self.recreate(volume, bytes)?,
        }
        let verb = if plan.change == VolumeChange::Grow { "grown" } else { "shrunk" };
        self.done.push(format!("partition {}: {kind} {verb} to {} MiB", plan.number, bytes >> 20));
        Ok(())
    }

    /// A new, smaller filesystem with the same files.
    fn recreate(&mut self, volume: &mut Prepared, bytes: u64) -> Result<(), Error> {
        let workshop = self.workshop;
        let empty: Arc<dyn ReadAt> = Arc::new(Assembled::new(bytes, volume.device.sector_bytes()));
        let anew = Arc::new(Overlay::temporary(empty, bytes, workshop.folder())?);
        let name = format!("new-p{}.img", volume.plan.number);
        let to = workshop.show(anew.clone(), &name).map_err(Error::show)?;
        volume.with_file(workshop, |from| {
            Ok(tools::recreate_xfs(from.path(), to.path(), bytes, workshop.folder())?)
        })?;
        if let Some(failure) = to.failure() {
            return Err(Error::Shown { number: volume.plan.number, failure });
        }
        drop(to);
        volume.device = anew.clone();
        volume.overlay = Some(anew);
        Ok(())
    }

    /// The filesystem gets an identity of its own.
    fn rename(&mut self, volume: &mut Prepared) -> Result<(), Error> {
        let kind = volume.kind().to_owned();
        if !volume.plan.new_identity || tools::programs(&kind, tools::Change::NewIdentity).is_err() {
            return Ok(());
        }
        let uuid = disk::random_id();
        let workshop = self.workshop;
        let changes = volume.with_file(workshop, |shown| {
            Ok(tools::new_identity(&kind, shown.path(), workshop.folder(), uuid)?)
        })?;
        for change in changes {
            self.done.push(format!(
                "partition {}: {kind} {} is now {}",
                volume.plan.number, change.old, change.new
            ));
            self.renamed.push((change.old, change.new));
        }
        Ok(())
    }

    /// What lies before the first partition, and where nothing moves, all that lies between; what of it counts.
    fn put_surroundings(&self, device: &mut Assembled, plan: &LayoutPlan) -> Vec<Extent> {
        let bytes = if plan.in_place { self.origin.info.bytes() } else { plan.head_bytes };
        let all = Extent { offset: 0, bytes };
        device.put_device(all, self.origin.device.clone(), 0);
        Vec::from_iter((bytes > 0).then_some(all))
    }

    /// Something could not be mended.
    pub(super) fn left_over(&mut self, what: &str, problem: &BootProblem) {
        self.left.push(format!("{what}: {problem}: {}", problem.advice()));
    }
}

/// The end of the target, where signatures of former lives may lie: zeros, but for what belongs there.
fn tail(device: &Assembled) -> Option<Extent> {
    let end = device.size_bytes();
    let offset = end.saturating_sub(TAIL_BYTES);
    (offset < end).then(|| Extent { offset, bytes: end - offset })
}

/// Extents clipped to a device of so many bytes.
fn within(extents: Vec<Extent>, bytes: u64) -> Vec<Extent> {
    let all = Extent { offset: 0, bytes };
    extents.into_iter().filter_map(|extent| crate::source::intersect(extent, all)).collect()
}

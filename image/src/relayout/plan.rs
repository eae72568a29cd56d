//! What a layout asks of each volume, decided before anything is changed.
//!
//! Promise: reads source and filesystems (through overlays where a tool must look), writes nothing to either.
//! Knows nothing of targets but their size and sectors.

use std::sync::Arc;

use disk::arrange::{self, Geometry, Mode, Need, PartitionTable, Placed, Unfit, Wishes};
use disk::tools::{self, CannotChange, Change, Program};
use disk::{Extent, Section, TableKind, Volume};

use super::{LayoutOptions, LayoutPlan, Origin, VolumeChange, VolumePlan, Workshop};
use crate::{Error, Overlay, VolumeUse};

/// The number of a disk without partitions, as in `IMAGE:0`.
const WHOLE: u32 = 0;

/// A single volume that changes its size gets a multiple of this.
const GRAIN_BYTES: u64 = 1 << 20;

/// Plans `origin` for a target.
///
/// # Errors
/// [`Error::Unfit`]: the wishes can't be fulfilled on this target. [`Error::Tool`]: a filesystem can't be measured.
pub fn plan_layout(
    origin: &Origin,
    target: Geometry,
    options: &LayoutOptions,
    workshop: &dyn Workshop,
) -> Result<LayoutPlan, Error> {
    if let Some(number) = options.volume.filter(|_| !options.create_partition) {
        return plan_volume(origin, number, target, options, workshop);
    }
    let table = match PartitionTable::read(&origin.device, origin.info.layout.sector_bytes) {
        Ok(table) if table.kind == TableKind::None => return plan_whole(origin, target, options, workshop),
        // As long as nothing is to be written anew, it may be as odd as it likes.
        Err(Unfit::Odd { oddity }) if !options.changes_anything() && target.bytes >= origin.info.bytes() => {
            let mut plan = plan_of(origin, target, &[], options, Vec::new());
            plan.remarks.push(format!("the partition table is taken as it is: {oddity}"));
            return Ok(LayoutPlan { in_place: true, needed_bytes: origin.info.bytes(), ..plan });
        }
        table => table?,
    };
    let wishes = wishes(options);
    let mut needs = needs(origin, target);
    let mut missing = Vec::new();
    let arrangement = match arrange::arrange(&table, &needs, target, &wishes, &mut disk::random_id) {
        Err(_) if !matches!(options.mode, Mode::Keep) => {
            // How small filesystems can become is worth the time only when it matters.
            for need in &mut needs {
                measure(origin, need, workshop, &mut missing)?;
            }
            arrange::arrange(&table, &needs, target, &wishes, &mut disk::random_id)?
        }
        other => other?,
    };
    let mut plan = plan_of(origin, target, &arrangement.volumes, options, missing);
    plan.remarks.splice(0..0, arrangement.notes.iter().map(ToString::to_string));
    let stays =
        |placed: &Placed| placed.from.offset == placed.to.offset && placed.from.bytes <= placed.to.bytes;
    plan.in_place = table.kind == arrangement.table.kind
        && target.sector_bytes == origin.info.layout.sector_bytes
        && arrangement.volumes.len() == table.entries().len()
        && arrangement.volumes.iter().all(stays);
    plan.table = Some(arrangement.table);
    plan.ids = arrangement.ids;
    plan.head_bytes = arrangement.head_bytes;
    plan.needed_bytes = arrangement.min_bytes;
    Ok(plan)
}

/// The smallest target for these wishes, filesystems shrunk as far as they can be; for saying what would fit.
///
/// # Errors
/// As [`plan_layout`].
pub fn layout_minimum(origin: &Origin, sector_bytes: u32, workshop: &dyn Workshop) -> Result<u64, Error> {
    let table = PartitionTable::read(&origin.device, origin.info.layout.sector_bytes)?;
    let target = Geometry { bytes: origin.info.bytes(), sector_bytes };
    let mut needs = needs(origin, target);
    for need in &mut needs {
        measure(origin, need, workshop, &mut Vec::new())?;
    }
    let wishes = Wishes { mode: Mode::Fit, ..Wishes::default() };
    Ok(arrange::minimum(&table, &needs, sector_bytes, &wishes)?)
}

fn wishes(options: &LayoutOptions) -> Wishes {
    let only = match options.volume {
        Some(number) => Some(vec![number]),
        None => options.partitions.clone(),
    };
    Wishes { mode: options.mode.clone(), to_gpt: options.to_gpt, only, create: options.create_partition }
}

/// What is known of each volume without asking any tool.
fn needs(origin: &Origin, target: Geometry) -> Vec<Need> {
    origin.info.layout.volumes.iter().map(|volume| need_of(origin, volume, target)).collect()
}

/// A volume's filesystem, by blkid's name.
fn kind_of(volume: &Volume) -> Option<&str> {
    volume.content.as_ref().map(|content| content.kind.as_str())
}

fn use_of(origin: &Origin, number: u32) -> Option<&VolumeUse> {
    origin.info.volume_use.iter().flatten().find(|found| found.volume == Some(number))
}

/// As if it could not become smaller.
fn need_of(origin: &Origin, volume: &Volume, target: Geometry) -> Need {
    let kind = kind_of(volume).unwrap_or_default();
    let bound = disk::sector_bound(&origin.device, volume.extent, kind, target.sector_bytes);
    Need {
        number: volume.number,
        min_bytes: volume.extent.bytes,
        max_bytes: None,
        can_grow: tools::programs(kind, Change::Grow).is_ok(),
        fixed: false,
        sector_bytes: bound.is_err().then_some(origin.info.layout.sector_bytes),
        used_bytes: use_of(origin, volume.number)
            .filter(|found| found.kind.is_some())
            .map(|found| volume.extent.bytes.saturating_sub(found.free_bytes)),
    }
}

/// Asks the filesystem's own tool how small it can become. One that can't become smaller stays as it is.
fn measure(
    origin: &Origin,
    need: &mut Need,
    workshop: &dyn Workshop,
    missing: &mut Vec<Program>,
) -> Result<(), Error> {
    let Some(volume) = origin.volume(need.number) else { return Ok(()) };
    let kind = kind_of(&volume).unwrap_or_default();
    let (Ok(programs), Ok(to_shrink)) = (tools::programs(kind, Change::Measure), shrinkers(kind)) else {
        return Ok(());
    };
    let lacking = tools::missing(&[programs, to_shrink].concat());
    if !lacking.is_empty() {
        missing.extend(lacking);
        return Ok(());
    }
    let overlay = Arc::new(origin.overlay(volume.extent, volume.extent.bytes, workshop)?);
    let shown = workshop.show(overlay, &format!("p{}.img", need.number)).map_err(Error::show)?;
    let found = tools::minimum(kind, shown.path(), workshop.folder());
    if let Some(failure) = shown.failure() {
        return Err(Error::Shown { number: need.number, failure });
    }
    need.min_bytes = found?.min(volume.extent.bytes);
    Ok(())
}

/// The programs that make a filesystem smaller, one way or the other.
fn shrinkers(kind: &str) -> Result<Vec<Program>, CannotChange> {
    tools::programs(kind, if kind == "xfs" { Change::Recreate } else { Change::Shrink })
}

fn plan_of(
    origin: &Origin,
    target: Geometry,
    placed: &[Placed],
    options: &LayoutOptions,
    mut missing: Vec<Program>,
) -> LayoutPlan {
    let mut remarks = Vec::new();
    let volumes: Vec<VolumePlan> =
        placed.iter().map(|placed| volume_plan(origin, *placed, options)).collect();
    for volume in &volumes {
        let kind = volume.kind.as_deref().unwrap_or_default();
        for change in changes_of(volume) {
            match tools::programs(kind, change) {
                Ok(programs) => missing.extend(tools::missing(&programs)),
                Err(why) => remarks.push(format!("partition {}: {why}", volume.number)),
            }
        }
        if volume.change == VolumeChange::Room {
            let what = if kind.is_empty() { "its content" } else { kind };
            remarks.push(format!("partition {}: {what} does not grow with it", volume.number));
        }
    }
    missing.sort_unstable();
    missing.dedup();
    let made_anew = volumes.iter().filter(|volume| volume.change == VolumeChange::Recreate);
    let work_bytes = made_anew.map(|volume| used_bytes(origin, volume)).sum();
    LayoutPlan {
        target,
        table: None,
        head_bytes: 0,
        in_place: false,
        needed_bytes: 0,
        ids: Vec::new(),
        volumes,
        missing,
        remarks,
        work_bytes,
    }
}

fn used_bytes(origin: &Origin, volume: &VolumePlan) -> u64 {
    let free = use_of(origin, volume.number).map_or(0, |found| found.free_bytes);
    volume.from.bytes.saturating_sub(free).min(volume.to.bytes)
}

fn volume_plan(origin: &Origin, placed: Placed, options: &LayoutOptions) -> VolumePlan {
    let kind = origin.volume(placed.number).and_then(|volume| volume.content).map(|content| content.kind);
    let name = kind.as_deref().unwrap_or_default();
    let change = match placed.to.bytes.cmp(&placed.from.bytes) {
        std::cmp::Ordering::Equal => VolumeChange::Same,
        std::cmp::Ordering::Less if name == "xfs" => VolumeChange::Recreate,
        std::cmp::Ordering::Less => VolumeChange::Shrink,
        std::cmp::Ordering::Greater if tools::grows_to(name, placed.to.bytes) => VolumeChange::Grow,
        std::cmp::Ordering::Greater => VolumeChange::Room,
    };
    let new_identity = options.new_ids && kind.is_some();
    VolumePlan {
        number: placed.number,
        becomes: placed.becomes,
        kind,
        from: placed.from,
        to: placed.to,
        change,
        new_identity,
    }
}

/// What tools have to do with a volume.
fn changes_of(plan: &VolumePlan) -> Vec<Change> {
    let size = match plan.change {
        VolumeChange::Grow => Some(Change::Grow),
        VolumeChange::Shrink => Some(Change::Shrink),
        VolumeChange::Recreate => Some(Change::Recreate),
        VolumeChange::Same | VolumeChange::Room => None,
    };
    size.into_iter().chain(plan.new_identity.then_some(Change::NewIdentity)).collect()
}

/// One volume onto a target that is a partition, or a file, itself.
fn plan_volume(
    origin: &Origin,
    number: u32,
    target: Geometry,
    options: &LayoutOptions,
    workshop: &dyn Workshop,
) -> Result<LayoutPlan, Error> {
    let Some(volume) = origin.volume(number) else { return Err(origin.no_such_volume(number)) };
    plan_single(origin, &volume, target, options, workshop)
}

/// A disk without a partition table.
fn plan_whole(
    origin: &Origin,
    target: Geometry,
    options: &LayoutOptions,
    workshop: &dyn Workshop,
) -> Result<LayoutPlan, Error> {
    let whole = origin.whole();
    plan_single(origin, &whole, target, options, workshop)
}

fn plan_single(
    origin: &Origin,
    volume: &Volume,
    target: Geometry,
    options: &LayoutOptions,
    workshop: &dyn Workshop,
) -> Result<LayoutPlan, Error> {
    let kind = kind_of(volume).unwrap_or_default();
    disk::sector_bound(&origin.device, volume.extent, kind, target.sector_bytes)
        .map_err(|source| Error::SectorBound { number: volume.number, source })?;
    let mut need = need_of(origin, volume, target);
    let mut missing = Vec::new();
    let keeps = matches!(options.mode, Mode::Keep);
    if target.bytes < volume.extent.bytes && !keeps {
        measure(origin, &mut need, workshop, &mut missing)?;
    }
    let wanted = match options.mode {
        _ if target.bytes < volume.extent.bytes => target.bytes,
        Mode::Grow | Mode::Proportional => target.bytes,
        _ => volume.extent.bytes,
    };
    // Tools count in blocks.
    let bytes = if wanted == volume.extent.bytes { wanted } else { wanted / GRAIN_BYTES * GRAIN_BYTES };
    if bytes < need.min_bytes {
        return Err(Unfit::TooSmall { needed: need.min_bytes, has: target.bytes }.into());
    }
    let number = volume.number;
    let placed = Placed { number, becomes: number, from: volume.extent, to: Extent { offset: 0, bytes } };
    let plan = plan_of(origin, target, &[placed], options, missing);
    Ok(LayoutPlan { needed_bytes: need.min_bytes, ..plan })
}

impl Origin {
    /// A volume by its number; number 0 is all of it.
    pub(super) fn volume(&self, number: u32) -> Option<Volume> {
        match number {
            WHOLE => Some(self.whole()),
            _ => self.info.layout.volumes.iter().find(|volume| volume.number == number).cloned(),
        }
    }

    /// All of it as one volume, for disks without a table.
    fn whole(&self) -> Volume {
        let extent = Extent { offset: 0, bytes: self.info.bytes() };
        Volume {
            number: WHOLE,
            extent,
            type_id: String::new(),
            type_name: None,
            uuid: None,
            name: None,
            bootable: false,
            content: disk::probe(&self.device, extent),
        }
    }

    pub(super) fn no_such_volume(&self, number: u32) -> Error {
        let has = self.info.layout.volumes.iter().map(|volume| volume.number).collect();
        Error::NoSuchVolume { number, has }
    }

    /// A volume that can be changed without changing it.
    pub(super) fn overlay(
        &self,
        volume: Extent,
        bytes: u64,
        workshop: &dyn Workshop,
    ) -> Result<Overlay, Error> {
        let section = Arc::new(Section::new(self.device.clone(), volume));
        Overlay::temporary(section, bytes, workshop.folder())
    }
}

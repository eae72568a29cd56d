//! Layouts without any tool: everything that needs none is here, the rest in `tests/suite/layouts.rs` and `tests/boot`.

use std::path::Path;
use std::sync::Arc;

use disk::arrange::{Geometry, Mode};
use disk::{Layout, MemoryDevice, ReadAt, TableKind, WriteAt};

use super::*;
use crate::testing::random_bytes;

const MIB: usize = 1 << 20;

/// Nothing can be shown here.
struct NoWorkshop;

impl Workshop for NoWorkshop {
    fn show(
        &self,
        _: Arc<dyn WriteAt>,
        name: &str,
    ) -> Result<Box<dyn Shown>, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{name} was to be shown").into())
    }

    fn folder(&self) -> &Path {
        Path::new("/tmp")
    }
}

/// A disk of 8 MiB with an MBR and two partitions of noise: 1 to 3 MiB and 4 to 6 MiB.
fn origin() -> (Vec<u8>, Origin) {
    let mut bytes = random_bytes(120, 8 * MIB);
    bytes[446..512].fill(0);
    for (slot, (start, sectors)) in [(2048_u32, 4096_u32), (8192, 4096)].into_iter().enumerate() {
        let at = 446 + 16 * slot;
        bytes[at + 4] = 0x83;
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let device = MemoryDevice::new(bytes.clone());
    let layout = Layout::read(&device, 512);
    assert_eq!((layout.table, layout.volumes.len()), (TableKind::Mbr, 2));
    let info = SourceInfo::new(disk::Identity::stream(), layout, bytes.len() as u64, &[]).unwrap();
    (bytes, Origin { device: Arc::new(device), info })
}

fn options(mode: Mode) -> LayoutOptions {
    LayoutOptions {
        mode,
        to_gpt: false,
        partitions: None,
        volume: None,
        create_partition: false,
        new_ids: false,
        fixups: None,
    }
}

fn ready(origin: &Origin, bytes: usize, options: &LayoutOptions) -> Result<(LayoutPlan, Ready), Error> {
    let target = Geometry { bytes: bytes as u64, sector_bytes: 512 };
    let plan = plan_layout(origin, target, options, &NoWorkshop)?;
    let ready = make_ready(origin, &plan, options, &NoWorkshop, &())?;
    Ok((plan, ready))
}

fn all(ready: &Ready) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(ready.device.size_bytes()).unwrap()];
    ready.device.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn kept_in_place_every_byte_is_there_between_partitions_too() {
    let (bytes, origin) = origin();
    let (plan, ready) = ready(&origin, 9 * MIB, &options(Mode::Keep)).unwrap();
    assert!(plan.in_place && !options(Mode::Keep).changes_anything());
    assert!(all(&ready)[..8 * MIB] == bytes);
    let tail = Extent { offset: 8 << 20, bytes: 1 << 20 };
    assert_eq!(ready.extents, [Extent { offset: 0, bytes: tail.end() }]);
}

#[test]
fn on_a_smaller_disk_partitions_move_together_when_that_is_enough() {
    let (bytes, origin) = origin();
    let small = ready(&origin, 5 * MIB + 512, &options(Mode::Keep));
    assert!(matches!(small, Err(Error::Unfit(disk::arrange::Unfit::TooSmall { .. }))));
    let (plan, ready) = ready(&origin, 5 * MIB + 512, &options(Mode::Fit)).unwrap();
    let places: Vec<u64> = plan.volumes.iter().map(|volume| volume.to.offset >> 20).collect();
    assert_eq!(places, [1, 3]);
    let found = all(&ready);
    assert!(found[MIB..3 * MIB] == bytes[MIB..3 * MIB]);
    assert!(found[3 * MIB..5 * MIB] == bytes[4 * MIB..6 * MIB]);
    assert!(found[..440] == bytes[..440], "the boot code stays");
}

#[test]
fn of_chosen_partitions_the_others_are_not_there() {
    let (bytes, origin) = origin();
    let only = LayoutOptions { partitions: Some(vec![2]), ..options(Mode::Keep) };
    let (plan, ready) = ready(&origin, 8 * MIB, &only).unwrap();
    assert!(!plan.in_place && plan.volumes.len() == 1);
    let found = all(&ready);
    assert!(found[4 * MIB..6 * MIB] == bytes[4 * MIB..6 * MIB]);
    assert!(found[2 * MIB..4 * MIB].iter().all(|byte| *byte == 0));
    assert!(!ready.extents.iter().any(|extent| extent.overlaps(&Extent { offset: 3 << 20, bytes: 1 << 20 })));
    let none = LayoutOptions { partitions: Some(vec![7]), ..options(Mode::Keep) };
    assert!(plan_layout(&origin, plan.target, &none, &NoWorkshop).is_err());
}

#[test]
fn one_volume_is_a_target_of_its_own() {
    let (bytes, origin) = origin();
    let one = LayoutOptions { volume: Some(2), ..options(Mode::Keep) };
    let (_, ready) = ready(&origin, 3 * MIB, &one).unwrap();
    assert!(all(&ready)[..2 * MIB] == bytes[4 * MIB..6 * MIB]);
    let target = Geometry { bytes: MIB as u64, sector_bytes: 512 };
    assert!(plan_layout(&origin, target, &one, &NoWorkshop).is_err());
    let missing = LayoutOptions { volume: Some(9), ..one };
    let error = plan_layout(&origin, target, &missing, &NoWorkshop);
    assert!(matches!(error, Err(Error::NoSuchVolume { number: 9, .. })));
}

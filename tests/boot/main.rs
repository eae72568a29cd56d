//! Disks that were stored, restored, moved, resized and cloned start: in a machine of QEMU's, by BIOS and by UEFI.
//!
//! Promise: a disk counts as right when the system on it comes up by its own names for its filesystems, finds its files
//! unchanged and can write, when the filesystems' own checkers are content, and when its partitions are where the cell says.
//! A binary of its own: two machines at a time are enough for a small computer. Cells of minutes run with `CAS_BOOT=all`.

#![forbid(unsafe_code)]
// The only error handling of a test is to fail where it stands.
#![allow(clippy::unwrap_used)]
// Times are printed: cargo shows them when a test fails, or with --nocapture.
#![allow(clippy::print_stdout)]

mod cut;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tests::disks::Kind;
use tests::vm::disk::{Bootable, Part, Root, Shape, Wanted, check, identities, parts, table_id, volume};
use tests::vm::{Firmware, start};
use tests::{capture, cas_ok};

const MIB: u64 = 1 << 20;
/// What moving to MiB borders and the tables at both ends may cost.
const SLACK: u64 = 3 * MIB;

const GPT: Wanted = Wanted { shape: Shape::Gpt, root: Root::Ext4, mib: 1536, data_mib: 0, fallback: true };
const CORE_FIRST: Wanted = Wanted { shape: Shape::GptCoreFirst, ..GPT };
const MBR: Wanted = Wanted { shape: Shape::Mbr, root: Root::Btrfs, ..GPT };
const XFS: Wanted = Wanted { root: Root::Xfs, ..CORE_FIRST };
const NO_FALLBACK: Wanted = Wanted { fallback: false, ..GPT };
/// What people have: most of it free, and a recovery partition at the end.
const LARGE: Wanted = Wanted { mib: 16 << 10, data_mib: 3 << 10, ..GPT };

/// How the disk gets onto another; sizes are the other's, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// `restore` into a file that is not there yet.
    New,
    /// `restore` onto a larger disk: nothing moves.
    Keep(u64),
    /// `restore --layout grow` onto a larger one.
    Grow(u64),
    /// `restore --layout proportional` onto a larger one.
    Proportional(u64),
    /// `restore --layout fit` onto a smaller one.
    Fit(u64),
    /// `restore --fixup auto` onto one of the same size.
    FixedUp,
    /// `clone` onto one of this size.
    Clone(u64),
    /// `clone --new-ids`; it starts beside its source.
    NewIds,
    /// `clone --new-ids --layout fit` onto a smaller one; it starts beside its source.
    NewIdsFit(u64),
}

/// Each is a test.
macro_rules! cells {
    ($($name:ident: $wanted:expr, $how:expr;)*) => {
        $(#[test] fn $name() { cell($wanted, $how); })*
    };
}

/// Each is a test when everything is asked for.
macro_rules! slow_cells {
    ($($name:ident: $wanted:expr, $how:expr;)*) => {
        $(#[test] fn $name() {
            if std::env::var_os("CAS_BOOT").is_some_and(|asked| asked == "all") {
                cell($wanted, $how);
            }
        })*
    };
}

cells! {
    gpt_new_as_root: GPT, How::New;
    gpt_kept_as_root: CORE_FIRST, How::Keep(1792);
    mbr_new_as_root: MBR, How::New;
    gpt_grown_as_root: GPT, How::Grow(2560);
    gpt_fitted_as_root: GPT, How::Fit(900);
    gpt_cloned_with_new_ids_as_root: GPT, How::NewIds;
    mbr_fitted_as_root: MBR, How::Fit(1100);
    mbr_cloned_with_new_ids_as_root: MBR, How::NewIds;
    xfs_fitted_as_root: XFS, How::Fit(1000);
}

slow_cells! {
    xfs_new_as_root: XFS, How::New;
    mbr_kept_as_root: MBR, How::Keep(1800);
    xfs_kept_as_root: XFS, How::Keep(1800);
    mbr_grown_as_root: MBR, How::Grow(2560);
    xfs_cloned_with_new_ids_as_root: XFS, How::NewIds;
    without_a_fallback_loader_as_root: NO_FALLBACK, How::FixedUp;
    sixteen_gib_onto_eight_as_root: LARGE, How::Fit(8 << 10);
    core_first_grown_as_root: CORE_FIRST, How::Grow(2560);
    core_first_fitted_as_root: CORE_FIRST, How::Fit(900);
    gpt_proportional_as_root: GPT, How::Proportional(2560);
    gpt_cloned_as_root: GPT, How::Clone(1536);
    gpt_cloned_onto_a_larger_as_root: GPT, How::Clone(2000);
    gpt_cloned_fitting_with_new_ids_as_root: GPT, How::NewIdsFit(900);
    xfs_grown_as_root: XFS, How::Grow(2560);
}

/// One disk on its way to another, which is then judged.
#[track_caller]
fn cell(wanted: Wanted, how: How) {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let disk = Bootable::new(folder.path(), wanted);
    println!("made in {:.1} s", began.elapsed().as_secs_f64());
    let target = folder.path().join("target.img");
    transfer(folder.path(), &disk, &target, how);
    println!("transferred at {:.1} s", began.elapsed().as_secs_f64());
    check(&target);
    assert_layout(&disk, &target, how);
    if matches!(how, How::NewIds | How::NewIdsFit(_)) {
        assert_other_identities(&disk.file, &target);
        starts(&disk, &target, Some(&disk.file));
    } else {
        assert_same_files(&disk, &target, folder.path());
        starts(&disk, &target, None);
    }
    println!("done at {:.1} s", began.elapsed().as_secs_f64());
}

/// A store of its own.
fn store_in(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    store
}

fn transfer(folder: &Path, disk: &Bootable, target: &Path, how: How) {
    let (size, layout): (Option<u64>, &[&str]) = match how {
        How::New => (None, &[]),
        How::Keep(mib) | How::Clone(mib) => (Some(mib), &[]),
        How::Grow(mib) => (Some(mib), &["--layout", "grow"]),
        How::Proportional(mib) => (Some(mib), &["--layout", "proportional"]),
        How::Fit(mib) => (Some(mib), &["--layout", "fit"]),
        How::FixedUp => (Some(disk.wanted.mib), &["--fixup", "auto"]),
        How::NewIds => (Some(disk.wanted.mib), &["--new-ids"]),
        How::NewIdsFit(mib) => (Some(mib), &["--new-ids", "--layout", "fit"]),
    };
    if let Some(mib) = size {
        File::create(target).unwrap().set_len(mib * MIB).unwrap();
    }
    let (source, target) = (disk.file.to_str().unwrap(), target.to_str().unwrap());
    if matches!(how, How::Clone(_) | How::NewIds | How::NewIdsFit(_)) {
        cas_ok(&folder.join("no-store"), &[&["clone", source, target, "--yes", "--quiet"], layout].concat());
    } else {
        let store = store_in(folder);
        let image = capture(&store, &disk.file, &[]);
        cas_ok(&store, &[&["restore", image.as_str(), target, "--yes", "--quiet"], layout].concat());
    }
}

/// Starts it every way it can be started, with the source in the same machine or without.
#[track_caller]
fn starts(disk: &Bootable, file: &Path, beside: Option<&Path>) {
    for firmware in disk.firmwares() {
        starts_by(disk, *firmware, file, beside);
    }
}

#[track_caller]
fn starts_by(disk: &Bootable, firmware: Firmware, file: &Path, beside: Option<&Path>) {
    let began = Instant::now();
    let started = start(firmware, file, beside);
    println!("{firmware:?}: {started:?} in {:.1} s", began.elapsed().as_secs_f64());
    let root = disk.root_of(file);
    assert_eq!(started.efi, firmware == Firmware::Uefi);
    assert_eq!(started.root, disk.wanted.root.name());
    assert_eq!(started.device, format!("/dev/vda{}", root.number), "from the other disk?");
    // A filesystem's own tables are not counted as its size: up to a seventh for these small ones.
    let (size, mib) = (started.size_mib, root.bytes / MIB);
    assert!(size <= mib && size > mib / 7 * 6, "the root has {size} MiB in a partition of {mib}");
}

/// All that is not the root has kept its size, type and order; the root has what the cell says.
#[track_caller]
fn assert_layout(disk: &Bootable, target: &Path, how: How) {
    let (before, after) = (parts(&disk.file), parts(target));
    let (old, new) = (disk.root_of(&disk.file), disk.root_of(target));
    let target_bytes = std::fs::metadata(target).unwrap().len();
    let source_bytes = disk.wanted.mib * MIB;
    match how {
        How::New | How::FixedUp | How::NewIds | How::Keep(_) | How::Clone(_) => {
            let places = |parts: &[Part]| -> Vec<_> {
                parts.iter().map(|part| (part.number, part.start, part.bytes, part.kind.clone())).collect()
            };
            assert_eq!(places(&after), places(&before));
        }
        How::Grow(_) | How::Proportional(_) => {
            let wanted = old.bytes + (target_bytes - source_bytes);
            assert!(new.bytes.abs_diff(wanted) <= SLACK, "{new:?}, expected {wanted} bytes");
        }
        How::Fit(_) | How::NewIdsFit(_) => assert!(new.bytes < old.bytes, "{new:?}"),
    }
    let others = |parts: &[Part]| -> Vec<_> {
        let others = parts.iter().filter(|part| part.number != new.number && part.kind != "5");
        others.map(|part| (part.number, part.bytes, part.kind.clone())).collect()
    };
    assert_eq!(others(&after), others(&before));
}

#[track_caller]
fn assert_same_files(disk: &Bootable, target: &Path, folder: &Path) {
    let kind = match disk.wanted.root {
        Root::Ext4 => Kind::Ext4,
        Root::Btrfs => Kind::Btrfs,
        Root::Xfs => Kind::Xfs,
    };
    let one = volume(&disk.file, &disk.root_of(&disk.file));
    let other = volume(target, &disk.root_of(target));
    kind.assert_same_files(one.node(), other.node(), &folder.join("mounts"));
}

/// No identity of the table, of a partition or of a filesystem is on both disks.
#[track_caller]
fn assert_other_identities(source: &Path, clone: &Path) {
    let all = |file: &Path| -> BTreeSet<String> {
        let of_parts = parts(file).into_iter().filter_map(|part| part.uuid);
        let of_volumes = identities(file).into_iter().map(|(_, _, uuid)| uuid);
        of_parts.chain(of_volumes).chain([table_id(file)]).map(|id| id.to_lowercase()).collect()
    };
    let (before, after) = (all(source), all(clone));
    let common: Vec<_> = before.intersection(&after).collect();
    assert!(common.is_empty() && before.len() == after.len(), "{common:?} of {before:?}, {after:?}");
}

//! LVM2 physical volumes by lvm2: pvresize(8), pvchange(8), vgchange(8), pvck(8), on a loop device of our own.
//!
//! Promise: no other device is looked at, no device-mapper table made, no file of /etc/lvm written: so it works beside a
//! running group of the same name, and where the kernel knows no device-mapper.
//! Knows nothing of logical volumes. A group of several physical volumes is refused by the tools, as others are missing.

use std::path::Path;

use super::mount::{LOSETUP, Loop};
use super::run::{Call, Said};
use super::{CannotChange, Change, IdentityChange, Program, ToolError, size_is};

const PACKAGE: &str = "lvm2";
const PVS: Program = Program::new("pvs", PACKAGE);
const PVRESIZE: Program = Program::new("pvresize", PACKAGE);
const PVCHANGE: Program = Program::new("pvchange", PACKAGE);
const VGCHANGE: Program = Program::new("vgchange", PACKAGE);
const PVCK: Program = Program::new("pvck", PACKAGE);

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::Grow => Ok(&[LOSETUP, PVRESIZE, PVS]),
        Change::NewIdentity => Ok(&[LOSETUP, PVCHANGE, VGCHANGE, PVS]),
        Change::Check => Ok(&[LOSETUP, PVCK]),
        Change::Measure | Change::Shrink => Err(CannotChange::LvmShrink),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

/// lvm.conf(5): this device and nothing else; nothing is kept of what we do.
fn config(device: &Loop) -> String {
    let filter = format!(r#"["a|^{}$|","r|.*|"]"#, device.node().display());
    format!(
        r#"devices{{dir="/dev" scan=["/dev"] filter={filter} global_filter={filter} use_devicesfile=0 hints="none"
obtain_device_list_from_udev=0 external_device_info_source="none"}} backup{{backup=0 archive=0}}
global{{use_lvmpolld=0 event_activation=0 use_lvmlockd=0}} activation{{udev_sync=0 udev_rules=0 monitoring=0}}"#
    )
}

fn call(program: Program, device: &Loop) -> Result<Call, ToolError> {
    // lvm(8): "--driverloaded n": no attempt to contact the device-mapper driver.
    let call = Call::new(program)?.env("LVM_SUPPRESS_FD_WARNINGS", "1");
    Ok(call.args(["--driverloaded", "n", "--config"]).arg(config(device)))
}

/// Its fields, as many as asked for.
fn report<const N: usize>(device: &Loop, fields: &str) -> Result<[String; N], ToolError> {
    let said: Said = call(PVS, device)?
        .args(["--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "-o", fields])
        .arg(device.node())
        .run()?;
    let found: Vec<String> = said.out.trim().split('|').map(|field| field.trim().to_owned()).collect();
    found.try_into().map_err(|_| said.lacks("|"))
}

pub(super) fn grow(path: &Path, bytes: u64) -> Result<(), ToolError> {
    let device = Loop::attach(path, Some(bytes))?;
    call(PVRESIZE, &device)?.arg(device.node()).run()?;
    let [size, start, extent] = report(&device, "pv_size,pe_start,vg_extent_size")?;
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let found = number(&size).saturating_add(number(&start));
    // Whole extents only; metadata may also lie at the end.
    let step_bytes = number(&extent).saturating_add(16 << 20);
    size_is("lvm: bytes of the physical volume", bytes, step_bytes, found)
}

pub(super) fn new_identity(path: &Path) -> Result<Vec<IdentityChange>, ToolError> {
    let device = Loop::attach(path, None)?;
    const FIELDS: &str = "pv_uuid,vg_uuid,vg_name";
    let [old_volume, old_group, group] = report(&device, FIELDS)?;
    call(PVCHANGE, &device)?.arg("--uuid").arg(device.node()).run()?;
    if !group.is_empty() {
        call(VGCHANGE, &device)?.args(["--uuid", &group]).run()?;
    }
    let [new_volume, new_group, _] = report(&device, FIELDS)?;
    let pairs = [(old_volume, new_volume), (old_group, new_group)];
    let changes = pairs.into_iter().filter(|(old, _)| !old.is_empty());
    let changes: Vec<_> = changes.map(|(old, new)| IdentityChange { old, new }).collect();
    match changes.iter().find(|change| change.old == change.new) {
        Some(same) => Err(ToolError::Readback {
            place: "identity",
            expected: "another one".to_owned(),
            found: same.new.clone(),
        }),
        None => Ok(changes),
    }
}

pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    let device = Loop::attach(path, None)?;
    call(PVCK, &device)?.arg(device.node()).run().map(drop)
}

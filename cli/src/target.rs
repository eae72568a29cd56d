//! Targets on the command line: what they are and hold, why one is refused, and the question before it is overwritten.
//!
//! Promise: every refusal is said at once, and the first one's way out. Knows nothing of what will be written.

use crate::args::Context;
use crate::confirm::{self, Question};
use crate::errors::Said;
use crate::picture;
use crate::units::show_bytes_exactly;
use anyhow::Result;
use disk::{Device, Extent, Identity, Layout, ReadAt, Target};
use image::{Refusal, TargetKind};
use std::path::Path;

/// All refusals at once. Alone, a target that is too small has an exit code of its own.
pub(crate) fn refuse(verb: &str, path: &Path, refusals: &[Refusal]) -> Result<(), Said> {
    let path = path.display().to_string();
    match refusals {
        [] => Ok(()),
        [Refusal::TooSmall { needed, has, allowable }] => {
            let said = Said::too_small(&path, *needed, *has);
            Err(if *allowable {
                said.hint("what would be lost is unused: --allow-smaller leaves it out")
            } else {
                said
            })
        }
        [first, ..] => {
            let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            Err(Said::refused(format!("{verb} to {path}: {}", texts.join("; "))).hint(way_out(first)))
        }
    }
}

/// What to do about a refusal.
fn way_out(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Mounted { at, .. } => format!("`umount {}`, or choose another target", at.display()),
        Refusal::Swap { device } => format!("`swapoff /dev/{device}`, or choose another target"),
        Refusal::Held { holder, .. } => {
            format!("stop {holder} (LVM, RAID, encryption, loop), or choose another target")
        }
        Refusal::HoldsStore { .. } => {
            "a store cannot be restored over itself: move the store, or choose another target".into()
        }
        Refusal::StoreDisk => {
            "one wrong digit away from the store; if you are sure: --allow-store-disk".into()
        }
        Refusal::RootDisk => "start the machine from another disk or a rescue system".into(),
        Refusal::ReadOnly => "look for a write-protect switch, or try `blockdev --setrw`".into(),
        Refusal::SerialMismatch { .. } => "`cas disks` shows the serial numbers".into(),
        Refusal::TooSmall { allowable: true, .. } => {
            "what would be lost is unused: --allow-smaller leaves it out".into()
        }
        Refusal::TooSmall { .. } => "choose a larger target, or restore to a file".into(),
        Refusal::NoDevice | Refusal::NotATarget => {
            "`cas disks` lists the disks; a new file can be anywhere but in /dev".into()
        }
        Refusal::IsSource | Refusal::SharesSource | Refusal::OnSource { .. } | Refusal::Again { .. } => {
            "`cas disks` lists the disks: choose another target".into()
        }
    }
}

/// What the target is, what is on it, and who uses it.
pub(crate) fn lines(path: &Path, kind: Option<TargetKind>, identity: &Identity, bytes: u64) -> Vec<String> {
    if kind == Some(TargetKind::NewFile) {
        return vec![format!("{}: a new file, {}", path.display(), show_bytes_exactly(bytes))];
    }
    let mut lines = vec![picture::headline(identity)];
    if let Ok(device) = Device::open_buffered(path) {
        let layout = Layout::read(&device, identity.logical_sector_bytes);
        let whole = Extent { offset: 0, bytes: device.size_bytes() };
        match (picture::partitions(&layout, &[], None), disk::probe(&device, whole)) {
            (Some(table), _) => lines.extend(table.lines().into_iter().map(|line| format!("  {line}"))),
            (None, Some(content)) => {
                let label = content.label.map(|label| format!(" {label:?}")).unwrap_or_default();
                lines.push(format!("  holds {}{label}", content.kind));
            }
            (None, None) => lines.push("  no partition table and no known content".to_owned()),
        }
    }
    let uses = disk::uses(path).unwrap_or_default();
    lines.extend(uses.iter().map(|used| format!("  {}: {}", used.device, picture::use_text(used))));
    lines
}

/// Shows lines about it, and asks unless that is answered already; a file that does not exist yet needs no question.
pub(crate) fn confirm(
    context: &Context,
    kind: Option<TargetKind>,
    identity: &Identity,
    lines: Vec<String>,
    yes: bool,
) -> Result<()> {
    if kind == Some(TargetKind::NewFile) || yes {
        let shown = if kind == Some(TargetKind::NewFile) { Vec::new() } else { lines };
        shown.iter().for_each(|line| context.ui.note(line));
        return Ok(());
    }
    context.ui.show_for_question(lines);
    confirm::ask(context, &Question::about(identity.serial.as_deref(), &identity.name))
}

/// Opens it for writing; a file gets its size.
pub(crate) fn open(path: &Path, kind: Option<TargetKind>, bytes: u64) -> Result<Target, disk::Error> {
    match kind {
        Some(TargetKind::NewFile | TargetKind::ExistingFile) => Target::open_file(path, bytes),
        Some(TargetKind::Device) | None => Target::open_device(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn refused(refusals: &[Refusal]) -> (Exit, String, String) {
        let told =
            crate::errors::tell(&refuse("restore", Path::new("/dev/sdb"), refusals).unwrap_err().into());
        (told.exit, told.text, told.hint.unwrap_or_default())
    }

    #[test]
    fn every_refusal_is_said_and_the_first_has_a_way_out() {
        let mounted = Refusal::Mounted { device: "sdb1".into(), at: "/mnt".into() };
        assert!(refuse("restore", Path::new("/dev/sdb"), &[]).is_ok());
        let (exit, text, hint) = refused(&[mounted.clone(), Refusal::ReadOnly]);
        assert_eq!(exit, Exit::Refused);
        assert_eq!(text, "restore to /dev/sdb: sdb1: mounted at /mnt; the target is read-only");
        assert_eq!(hint, "`umount /mnt`, or choose another target");
        assert!(refused(&[Refusal::StoreDisk]).2.contains("--allow-store-disk"));
    }

    #[test]
    fn too_small_alone_is_exit_6_and_names_the_override_only_where_it_helps() {
        let small = |allowable| Refusal::TooSmall { needed: 2048, has: 1024, allowable };
        let (exit, text, hint) = refused(&[small(false)]);
        assert_eq!(exit, Exit::TooSmall);
        assert_eq!(text, "/dev/sdb: expected at least 2.0 KiB (2048 bytes), found 1.0 KiB (1024 bytes)");
        assert!(!hint.contains("--allow-smaller"));
        assert!(refused(&[small(true)]).2.contains("--allow-smaller"));
        assert_eq!(refused(&[Refusal::RootDisk, small(true)]).0, Exit::Refused);
    }
}

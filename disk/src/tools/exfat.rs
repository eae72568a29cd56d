//! exFAT by exfatprogs: tune.exfat(8), fsck.exfat(8).
//!
//! Promise: the serial number is read back.
//! Knows nothing of its structure.

use std::path::Path;

use super::run::Call;
use super::{CannotChange, Change, IdentityChange, Program, ToolError, changed};

const TUNE: Program = Program::new("tune.exfat", "exfatprogs");
const FSCK: Program = Program::new("fsck.exfat", "exfatprogs");

pub(super) fn programs(change: Change) -> Result<&'static [Program], CannotChange> {
    match change {
        Change::NewIdentity => Ok(&[TUNE]),
        Change::Check => Ok(&[FSCK]),
        Change::Measure | Change::Shrink | Change::Grow => Err(CannotChange::ExfatSize),
        Change::Recreate => Err(CannotChange::RecreateOther),
    }
}

pub(super) fn new_identity(path: &Path, uuid: [u8; 16]) -> Result<Vec<IdentityChange>, ToolError> {
    let [a, b, c, d, ..] = uuid;
    let serial = u32::from_le_bytes([a, b, c, d]);
    changed(path, crate::content::serial(serial), || {
        Call::new(TUNE)?.args(["-I", &format!("{serial:#010x}")]).arg(path).run().map(drop)
    })
}

pub(super) fn check(path: &Path) -> Result<(), ToolError> {
    Call::new(FSCK)?.arg("-n").arg(path).run().map(drop)
}

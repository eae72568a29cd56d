//! What the filesystems' own tools do for us: finding how small one can become, shrinking, growing, a new identity.
//!
//! Promise: programs are run by name and never by a shell, their exit codes read as their manuals say, and what they
//! did is read back from the volume's own bytes; what cannot be done is said before anything is touched.
//! Knows nothing of disks and partitions: a volume is a file whose first byte is the volume's first.

mod btrfs;
mod bytes;
mod copy;
mod error;
mod exfat;
mod ext;
mod f2fs;
mod fat;
mod lvm;
mod mount;
mod ntfs;
mod recreate;
mod run;
mod swap;
mod xfs;

use std::path::{Path, PathBuf};

pub use error::{CannotChange, ToolError};

/// A program of another package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Program {
    /// What it is called.
    pub name: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

impl Program {
    const fn new(name: &'static str, package: &'static str) -> Self {
        Self { name, package }
    }
}

/// What may be done to a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// [`minimum`].
    Measure,
    /// [`shrink`].
    Shrink,
    /// [`grow`].
    Grow,
    /// [`new_identity`].
    NewIdentity,
    /// [`check`].
    Check,
    /// [`recreate_xfs`].
    Recreate,
}

/// An identity that was, and the one that took its place: as `UUID=` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityChange {
    /// Before.
    pub old: String,
    /// Now.
    pub new: String,
}

/// Sizes that are asked for and given lie on this grid.
const GRID_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy)]
enum Kind {
    Ext,
    Ntfs,
    Fat,
    Exfat,
    Btrfs,
    Xfs,
    F2fs,
    Swap,
    Lvm,
}

impl Kind {
    fn of(kind: &str) -> Result<Self, CannotChange> {
        Ok(match kind {
            "ext2" | "ext3" | "ext4" => Self::Ext,
            "ntfs" => Self::Ntfs,
            "vfat" => Self::Fat,
            "exfat" => Self::Exfat,
            "btrfs" => Self::Btrfs,
            "xfs" => Self::Xfs,
            "f2fs" => Self::F2fs,
            "swap" => Self::Swap,
            "LVM2_member" => Self::Lvm,
            _ => return Err(CannotChange::UnknownKind),
        })
    }
}

/// The programs that a change of this kind of content needs, which may be none at all.
///
/// # Errors
/// Why it cannot be changed so, whatever is installed.
pub fn programs(kind: &str, change: Change) -> Result<Vec<Program>, CannotChange> {
    let programs: &[Program] = match Kind::of(kind)? {
        Kind::Ext => ext::programs(change)?,
        Kind::Ntfs => ntfs::programs(change)?,
        Kind::Fat => fat::programs(change)?,
        Kind::Exfat => exfat::programs(change)?,
        Kind::Btrfs => btrfs::programs(change)?,
        Kind::Xfs => xfs::programs(change)?,
        Kind::F2fs => f2fs::programs(change)?,
        Kind::Swap => swap::programs(change)?,
        Kind::Lvm => lvm::programs(change)?,
    };
    Ok(programs.to_vec())
}

/// Those that are not installed.
#[must_use]
pub fn missing(programs: &[Program]) -> Vec<Program> {
    programs.iter().copied().filter(|program| run::find(*program).is_err()).collect()
}

/// The bytes that the filesystem needs at least, so that [`shrink`] (for XFS, [`recreate_xfs`]) succeeds with as many; a
/// multiple of 1 MiB, or just what it has. A journal is replayed for that, and nothing else is changed but where
/// btrfs keeps its chunks: so a copy-on-write overlay is a good place for it.
///
/// # Errors
/// What it cannot be asked for, or which program failed.
pub fn minimum(kind: &str, path: &Path, scratch: &Path) -> Result<u64, ToolError> {
    let path = &absolute(path)?;
    allowed(kind, Change::Measure)?;
    let (bytes, now) = match Kind::of(kind)? {
        Kind::Ext => ext::minimum(path)?,
        Kind::Ntfs => ntfs::minimum(path)?,
        Kind::Btrfs => btrfs::minimum(path, scratch)?,
        Kind::Xfs => recreate::minimum(path, scratch)?,
        _ => return Err(CannotChange::UnknownKind.into()),
    };
    Ok(bytes.checked_next_multiple_of(GRID_BYTES).unwrap_or(now).min(now))
}

/// Makes the filesystem fit into the first `bytes` bytes. The file may be cut there, too (`resize2fs` does).
///
/// # Errors
/// Which program failed, or what is not as it should be afterwards.
pub fn shrink(kind: &str, path: &Path, bytes: u64, scratch: &Path) -> Result<(), ToolError> {
    let path = &absolute(path)?;
    allowed(kind, Change::Shrink)?;
    match Kind::of(kind)? {
        Kind::Ext => ext::resize(path, bytes),
        Kind::Ntfs => ntfs::resize(path, bytes),
        Kind::Btrfs => btrfs::shrink(path, bytes, scratch),
        _ => Err(CannotChange::UnknownKind.into()),
    }
}

/// Whether a filesystem that can grow can have this size: btrfs gets no size below 256 MiB (fs/btrfs/ioctl.c,
/// `btrfs_ioctl_resize`), though it may have been made smaller.
#[must_use]
pub fn grows_to(kind: &str, bytes: u64) -> bool {
    programs(kind, Change::Grow).is_ok() && (kind != "btrfs" || bytes >= btrfs::RESIZE_BYTES_MIN)
}

/// Makes the filesystem fill `bytes`, as far as its structure allows.
///
/// # Errors
/// Which program failed, or what is not as it should be afterwards.
pub fn grow(kind: &str, path: &Path, bytes: u64, scratch: &Path) -> Result<(), ToolError> {
    let path = &absolute(path)?;
    allowed(kind, Change::Grow)?;
    match Kind::of(kind)? {
        Kind::Ext => ext::resize(path, bytes),
        Kind::Ntfs => ntfs::resize(path, bytes),
        Kind::Btrfs => btrfs::grow(path, bytes, scratch),
        Kind::Xfs => xfs::grow(path, bytes, scratch),
        Kind::F2fs => f2fs::grow(path, bytes),
        Kind::Swap => swap::grow(path, bytes),
        Kind::Lvm => lvm::grow(path, bytes),
        Kind::Fat | Kind::Exfat => Err(CannotChange::UnknownKind.into()),
    }
}

/// Gives the filesystem another identity: `uuid`, or as much of it as fits; LVM chooses its own. What it was before and
/// what it is now, as read back; more than one for LVM (physical volume, then group).
///
/// # Errors
/// Which program failed, or what is not as it should be afterwards.
pub fn new_identity(
    kind: &str,
    path: &Path,
    scratch: &Path,
    uuid: [u8; 16],
) -> Result<Vec<IdentityChange>, ToolError> {
    let path = &absolute(path)?;
    allowed(kind, Change::NewIdentity)?;
    match Kind::of(kind)? {
        Kind::Ext => ext::new_identity(path, uuid),
        Kind::Ntfs => ntfs::new_identity(path, uuid),
        Kind::Fat => fat::new_identity(path, uuid),
        Kind::Exfat => exfat::new_identity(path, uuid),
        Kind::Btrfs => btrfs::new_identity(path, scratch, uuid),
        Kind::Xfs => xfs::new_identity(path, scratch, uuid),
        Kind::Swap => swap::new_identity(path, uuid),
        Kind::Lvm => lvm::new_identity(path),
        Kind::F2fs => Err(CannotChange::F2fsIdentity.into()),
    }
}

/// Asks the filesystem's own checker, which changes nothing.
///
/// # Errors
/// [`ToolError::Failed`] with what the checker said.
pub fn check(kind: &str, path: &Path) -> Result<(), ToolError> {
    let path = &absolute(path)?;
    allowed(kind, Change::Check)?;
    match Kind::of(kind)? {
        Kind::Ext => ext::check(path),
        Kind::Ntfs => ntfs::check(path),
        Kind::Fat => fat::check(path),
        Kind::Exfat => exfat::check(path),
        Kind::Btrfs => btrfs::check(path),
        Kind::Xfs => xfs::check(path),
        Kind::F2fs => f2fs::check(path),
        Kind::Swap => swap::check(path),
        Kind::Lvm => lvm::check(path),
    }
}

/// Makes an XFS of `bytes` at `to` with UUID, label and features of the one at `from`, and copies all files: names,
/// contents, holes, owners, modes, times, extended attributes (ACLs, capabilities), hard links, devices, flags and project
/// ids. Every name and all that is known of it is compared afterwards; contents by their length only. What is shared
/// between files (reflinks) is not shared in the copy; quota limits make it refuse.
///
/// # Errors
/// Which program failed, or the first file that differs.
pub fn recreate_xfs(from: &Path, to: &Path, bytes: u64, scratch: &Path) -> Result<(), ToolError> {
    let (from, to) = (&absolute(from)?, &absolute(to)?);
    allowed("xfs", Change::Recreate)?;
    recreate::recreate(from, to, bytes, scratch)
}

/// A filesystem's folder tree, mounted for changing texts in it; unmounted when dropped.
pub struct OpenFolder(mount::Mounted);

impl OpenFolder {
    /// Mounts the volume in a folder of its own under `scratch`.
    ///
    /// # Errors
    /// Which program failed.
    pub fn new(kind: &str, path: &Path, scratch: &Path) -> Result<Self, ToolError> {
        let options = if kind == "xfs" { "nouuid" } else { "" };
        let device = mount::Loop::attach(&absolute(path)?, None)?;
        Ok(Self(mount::Mounted::new(device, kind, options, scratch)?))
    }

    /// Its root.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.at()
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ToolError> {
    std::path::absolute(path).map_err(|source| ToolError::Io { path: path.to_owned(), doing: "find", source })
}

/// Whether it can be done at all, and by programs that are here.
fn allowed(kind: &str, change: Change) -> Result<(), ToolError> {
    match missing(&programs(kind, change)?).first() {
        Some(Program { name, package }) => Err(ToolError::Missing { program: name, package }),
        None => Ok(()),
    }
}

/// As `uuid_unparse` writes it.
fn dashed(uuid: [u8; 16]) -> String {
    crate::content::dashed(&uuid)
}

/// What blkid would say of the volume.
fn identity(path: &Path) -> Result<String, ToolError> {
    let device = crate::Device::open_buffered(path)?;
    let extent = crate::Extent { offset: 0, bytes: crate::ReadAt::size_bytes(&device) };
    let found = crate::probe(&device, extent).and_then(|content| content.uuid);
    Ok(found.unwrap_or_default())
}

/// The identity before and after `change`, which must have made it `expected`.
fn changed(
    path: &Path,
    expected: String,
    change: impl FnOnce() -> Result<(), ToolError>,
) -> Result<Vec<IdentityChange>, ToolError> {
    let old = identity(path)?;
    change()?;
    let new = identity(path)?;
    if new != expected {
        return Err(ToolError::Readback { place: "identity", expected, found: new });
    }
    Ok(vec![IdentityChange { old, new }])
}

/// Whether a filesystem of `found` bytes has become what was asked for: not beyond `bytes`, and short of it by less than
/// `step_bytes`.
fn size_is(place: &'static str, bytes: u64, step_bytes: u64, found: u64) -> Result<(), ToolError> {
    if found <= bytes && bytes.saturating_sub(found) < step_bytes {
        return Ok(());
    }
    Err(ToolError::Readback { place, expected: bytes.to_string(), found: found.to_string() })
}

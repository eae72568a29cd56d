//! All files of one mounted filesystem in another, and whether they are the same.
//!
//! Promise: every name and all that is known of it is compared, on both sides; the first difference is an error.
//! Knows nothing of filesystems but XFS' flags, which Linux knows for others too.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

use super::ToolError;
use super::run::Call;
use super::xfs::CP;
use crate::sys::{self, FileFlags};

/// linux include/uapi/linux/limits.h, `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const LIST_BYTES_MAX: usize = 64 << 10;
const VALUE_BYTES_MAX: usize = 64 << 10;
/// linux include/uapi/linux/fs.h, `FS_XFLAG_*`: immutable, append, sync, noatime, nodump, project ids inherited, no
/// symlinks, nodefrag, filestream, DAX. Hints of extent sizes are of folders only: files have their extents by now.
const FLAGS_KEPT: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000;
const EXTENT_SIZE_INHERITED: u32 = 0x1000;
const FLAGS_KEPT_OF_FOLDERS: u32 = FLAGS_KEPT | EXTENT_SIZE_INHERITED;
/// A file with several names, and where it is in the copy: device and inode of each.
type Links = BTreeMap<(u64, u64), (u64, u64)>;

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> ToolError {
    move |source| ToolError::Io { path: path.to_owned(), doing, source }
}

/// cp(1), which knows deep folders, odd names, holes and hard links better than anyone.
pub(super) fn tree(from: &Path, to: &Path) -> Result<(), ToolError> {
    Call::new(CP)?
        .args(["--recursive", "--no-dereference", "--one-file-system", "--sparse=auto", "--reflink=never"])
        .args(["--preserve=mode,ownership,timestamps,links,xattr", "--no-target-directory", "--"])
        .args([from, to])
        .run()
        .map(drop)
}

/// Room that all files take when each has its own.
pub(super) fn bytes_of_files(root: &Path) -> Result<u64, ToolError> {
    let mut bytes = 0_u64;
    let mut seen = std::collections::BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for (_, path) in entries(&folder)? {
            let meta = path.symlink_metadata().map_err(failed(&path, "look at"))?;
            if meta.is_dir() {
                folders.push(path);
            }
            if meta.nlink() < 2 || meta.is_dir() || seen.insert(meta.ino()) {
                // stat(2): in units of 512 bytes.
                bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
            }
        }
    }
    Ok(bytes)
}

fn entries(folder: &Path) -> Result<BTreeMap<OsString, PathBuf>, ToolError> {
    let listed = std::fs::read_dir(folder).map_err(failed(folder, "list"))?;
    let entry = |entry: io::Result<std::fs::DirEntry>| entry.map(|it| (it.file_name(), it.path()));
    listed.map(entry).collect::<io::Result<_>>().map_err(failed(folder, "list"))
}

/// A folder, and what of it is still to be looked at.
struct Visit {
    from: PathBuf,
    to: PathBuf,
    is_listed: bool,
}

/// Compares all names, and gives the new ones what `cp` does not know of: flags, project ids, rare attributes. A folder's
/// flags come after what is in it: it may be immutable.
pub(super) fn compare(from: &Path, to: &Path) -> Result<(), ToolError> {
    let mut links = Links::new();
    let root = (from.to_owned(), to.to_owned());
    let mut stack = vec![Visit { from: root.0.clone(), to: root.1, is_listed: false }];
    while let Some(visit) = stack.pop() {
        if visit.is_listed {
            keep_flags(&visit.from, &visit.to, FLAGS_KEPT_OF_FOLDERS)?;
            continue;
        }
        let meta = same(&visit, &root.0, &mut links)?;
        if meta.is_file() {
            keep_flags(&visit.from, &visit.to, FLAGS_KEPT)?;
        }
        if meta.is_dir() {
            let (old, new) = (entries(&visit.from)?, entries(&visit.to)?);
            if !old.keys().eq(new.keys()) {
                return Err(differs(&visit.from, &root.0, "list of names"));
            }
            stack.push(Visit { is_listed: true, ..visit });
            let pairs = old.into_values().zip(new.into_values());
            stack.extend(pairs.map(|(from, to)| Visit { from, to, is_listed: false }));
        }
    }
    Ok(())
}

fn differs(path: &Path, root: &Path, what: &'static str) -> ToolError {
    let path = Path::new("/").join(path.strip_prefix(root).unwrap_or(path));
    ToolError::CopyDiffers { path, what }
}

fn same(visit: &Visit, root: &Path, links: &mut Links) -> Result<Metadata, ToolError> {
    let Visit { from, to, .. } = visit;
    let old = from.symlink_metadata().map_err(failed(from, "look at"))?;
    let new = to.symlink_metadata().map_err(failed(to, "look at"))?;
    let what = match () {
        () if old.mode() != new.mode() => Some("kind or mode"),
        () if (old.uid(), old.gid()) != (new.uid(), new.gid()) => Some("owner"),
        () if (old.mtime(), old.mtime_nsec()) != (new.mtime(), new.mtime_nsec()) => Some("time"),
        () if old.rdev() != new.rdev() => Some("device number"),
        () if !old.is_dir() && old.len() != new.len() => Some("length"),
        () if !old.is_dir() && old.nlink() != new.nlink() => Some("number of hard links"),
        () if !old.is_dir() && old.nlink() > 1 => {
            let (old, new) = ((old.dev(), old.ino()), (new.dev(), new.ino()));
            (*links.entry(old).or_insert(new) != new).then_some("hard link")
        }
        () => None,
    };
    if let Some(what) = what {
        return Err(differs(from, root, what));
    }
    if old.is_symlink() && target(from)? != target(to)? {
        return Err(differs(from, root, "target"));
    }
    if keep_attributes(from, to)? != attributes(to)? {
        return Err(differs(from, root, "extended attributes"));
    }
    Ok(old)
}

fn target(path: &Path) -> Result<PathBuf, ToolError> {
    path.read_link().map_err(failed(path, "read"))
}

type Attributes = BTreeMap<OsString, Vec<u8>>;

/// All extended attributes, ACLs and capabilities among them.
fn attributes(path: &Path) -> Result<Attributes, ToolError> {
    let read = |errno: Errno| failed(path, "read the attributes of")(errno.into());
    let mut names = vec![0_u8; LIST_BYTES_MAX];
    let len = match llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(read(errno)),
    };
    names.truncate(len);
    let mut found = Attributes::new();
    let mut value = vec![0_u8; VALUE_BYTES_MAX];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).map_err(read)?;
        let bytes = value.get(..len).unwrap_or_default().to_vec();
        found.insert(OsString::from_vec(name.to_vec()), bytes);
    }
    Ok(found)
}

/// Writes those that `cp` left out: libattr's list (xattr.conf) has some that it thinks nobody wants.
fn keep_attributes(from: &Path, to: &Path) -> Result<Attributes, ToolError> {
    let (old, new) = (attributes(from)?, attributes(to)?);
    for (name, value) in old.iter().filter(|(name, value)| new.get(*name) != Some(value)) {
        let name = CString::new(name.as_bytes()).unwrap_or_default();
        lsetxattr(to, &name, value, XattrFlags::empty())
            .map_err(|errno| failed(to, "write the attributes of")(errno.into()))?;
    }
    Ok(old)
}

/// Flags and project id of a file or folder.
fn keep_flags(from: &Path, to: &Path, kept: u32) -> Result<(), ToolError> {
    let flags = |path: &Path| -> Result<(File, FileFlags), ToolError> {
        let file = File::open(path).map_err(failed(path, "open"))?;
        let flags = sys::file_flags(file.as_fd()).map_err(|e| failed(path, "read the flags of")(e.into()))?;
        Ok((file, flags))
    };
    let ((_, old), (file, new)) = (flags(from)?, flags(to)?);
    let mut wanted = new;
    wanted.flags = old.flags & kept;
    wanted.project = old.project;
    wanted.extent_bytes = if wanted.flags & EXTENT_SIZE_INHERITED == 0 { 0 } else { old.extent_bytes };
    let is_same = new.flags & kept == wanted.flags && new.extent_bytes == wanted.extent_bytes;
    if is_same && new.project == old.project {
        return Ok(());
    }
    sys::set_file_flags(file.as_fd(), wanted).map_err(|e| failed(to, "write the flags of")(e.into()))
}

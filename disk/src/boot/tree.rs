//! The texts of a filesystem that is mounted: identities in them are replaced.
//!
//! Promise: nothing outside the folder is read or written, whatever its links say: a link is followed as a system that has this
//! folder as its root would follow it, never into another mount. Only plain files are opened for writing. Files keep owner, mode,
//! labels, links and inode, as they are written in place: the folder is a filesystem that nobody uses yet, in an overlay that is
//! thrown away when anything fails. Knows nothing of what the identities belong to.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::BootProblem;
use super::references::{FILES, NAMES_MAX, PACKED, TEXT_BYTES_MAX, Texts, expand, rewrite};

/// A btrfs that is mounted whole has the system in a subvolume: of Ubuntu and openSUSE, of Debian's installer, of Fedora.
const SYSTEMS: [&str; 5] = ["", "@/", "@rootfs/", "root/", "@boot/"];

/// Replaces identities in the texts of the filesystem that is mounted on `root`, each read back.
///
/// # Errors
/// A file that names one cannot be written, or the folder cannot be looked at: then nothing in it may be used.
pub fn rewrite_tree(root: &Path, pairs: &[(String, String)]) -> Result<Texts, BootProblem> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty()).map_err(|errno| BootProblem::File {
        path: root.to_owned(),
        what: "read",
        source: errno.into(),
    })?;
    let tree = Tree { folder, path: root };
    let mut texts = Texts::default();
    for system in SYSTEMS {
        for pattern in FILES {
            for name in tree.expand(system, pattern)? {
                tree.rewrite(&name, pairs, &mut texts)?;
            }
        }
        for pattern in PACKED {
            texts.unread.extend(tree.expand(system, pattern)?);
        }
    }
    Ok(texts)
}

struct Tree<'a> {
    folder: OwnedFd,
    path: &'a Path,
}

impl Tree<'_> {
    fn problem(&self, name: &str, what: &'static str) -> impl FnOnce(io::Error) -> BootProblem {
        let path: PathBuf = self.path.join(name);
        move |source| BootProblem::File { path, what, source }
    }

    /// `None` when there is no such thing, or it is not in this filesystem.
    fn open(&self, name: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        // As chroot would: `/` and `..` of links lead no further than the folder.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // A pipe or a terminal must not make us wait, or become ours; a mere place (PATH) is neither opened nor has such flags.
        let careful = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = OFlags::CLOEXEC | if flags.contains(OFlags::PATH) { flags } else { flags | careful };
        match openat2(self.folder.as_fd(), name, flags, Mode::empty(), resolve) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO | Errno::NODEV) => {
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn expand(&self, system: &str, pattern: &str) -> Result<Vec<String>, BootProblem> {
        let mut list = |folder: &str| self.list(if folder.is_empty() { "." } else { folder });
        expand(&format!("{system}{pattern}"), &mut list)
    }

    /// The names in a folder, none when it is not there.
    fn list(&self, name: &str) -> Result<Vec<String>, BootProblem> {
        let read = || -> io::Result<Vec<String>> {
            let Some(folder) = self.open(name, OFlags::RDONLY | OFlags::DIRECTORY)? else {
                return Ok(Vec::new());
            };
            let mut names = Vec::new();
            for entry in Dir::new(folder)?.take(NAMES_MAX) {
                // No name of ours is anything but UTF-8.
                if let Ok(name) = entry?.file_name().to_str().map(str::to_owned)
                    && name != "."
                    && name != ".."
                {
                    names.push(name);
                }
            }
            Ok(names)
        };
        read().map_err(self.problem(name, "read"))
    }

    fn rewrite(&self, name: &str, pairs: &[(String, String)], texts: &mut Texts) -> Result<(), BootProblem> {
        // Without this, opening a device would be a question to its driver.
        let Some(found) = self.open(name, OFlags::PATH).map_err(self.problem(name, "read"))? else {
            return Ok(());
        };
        let about = File::from(found).metadata().map_err(self.problem(name, "read"))?;
        if !about.is_file() {
            return Ok(());
        }
        if about.len() > TEXT_BYTES_MAX {
            texts.unread.push(name.to_owned());
            return Ok(());
        }
        let Some(text) = self.read(name).map_err(self.problem(name, "read"))? else { return Ok(()) };
        let Some((new, count)) = rewrite(&text, pairs) else { return Ok(()) };
        let write = || -> io::Result<()> {
            let file = self.open(name, OFlags::WRONLY)?.map(File::from).ok_or(Errno::STALE)?;
            let again = file.metadata()?;
            if (again.dev(), again.ino()) != (about.dev(), about.ino()) {
                return Err(Errno::STALE.into());
            }
            file.write_all_at(&new, 0)?;
            file.set_len(u64::try_from(new.len()).unwrap_or(u64::MAX))?;
            file.sync_all()?;
            (self.read(name)? == Some(new)).then_some(()).ok_or(Errno::IO.into())
        };
        write().map_err(self.problem(name, "written"))?;
        texts.rewritten.push((name.to_owned(), count));
        Ok(())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name, OFlags::RDONLY)? else { return Ok(None) };
        let mut text = Vec::new();
        File::from(file).take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const OLD: &str = "0f3a9c1e-7d42-4b5e-9a10-2233445566aa";
    const NEW: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

    fn pairs() -> Vec<(String, String)> {
        vec![(OLD.to_owned(), NEW.to_owned())]
    }

    fn put(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_system_gets_its_new_names() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let named = format!("UUID={OLD} /\n");
        for name in [
            "etc/fstab",
            "boot/grub/grub.cfg",
            "loader/entries/one.conf",
            "@rootfs/etc/fstab",
            "etc/hostname",
        ] {
            put(root, name, &named);
        }
        put(root, "etc/crypttab", "# nothing\n");
        put(root, "boot/initrd.img-6.1", "packed");
        fs::set_permissions(root.join("etc/fstab"), fs::Permissions::from_mode(0o640)).unwrap();
        let before = fs::metadata(root.join("etc/fstab")).unwrap();
        let texts = rewrite_tree(root, &pairs()).unwrap();
        let expected = ["etc/fstab", "boot/grub/grub.cfg", "loader/entries/one.conf", "@rootfs/etc/fstab"]
            .map(|name| (name.to_owned(), 1));
        assert_eq!(texts.rewritten, expected);
        assert_eq!(texts.unread, ["boot/initrd.img-6.1"]);
        let after = fs::metadata(root.join("etc/fstab")).unwrap();
        assert_eq!((after.ino(), after.mode(), after.uid()), (before.ino(), before.mode(), before.uid()));
        assert_eq!(fs::read_to_string(root.join("etc/fstab")).unwrap(), format!("UUID={NEW} /\n"));
        assert_eq!(fs::read_to_string(root.join("etc/hostname")).unwrap(), named, "not one of the texts");
        assert_eq!(rewrite_tree(root, &pairs()).unwrap().rewritten, []);
    }

    #[test]
    fn links_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        let named = format!("UUID={OLD} /\n");
        put(&outside, "fstab", &named);
        put(&outside, "grub.cfg", &named);
        put(&root, "static/crypttab", &named);
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("boot")).unwrap();
        symlink(outside.join("fstab"), root.join("etc/fstab")).unwrap();
        symlink("../../outside", root.join("boot/grub")).unwrap();
        // As in a system of its own, this one is inside.
        symlink("/static/crypttab", root.join("etc/crypttab")).unwrap();
        symlink("grub2", root.join("boot/grub2")).unwrap();
        symlink("/proc/self/fd/0", root.join("cmdline.txt")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("refind_linux.conf"), Mode::from_raw_mode(0o600))
            .unwrap();
        let texts = rewrite_tree(&root, &pairs()).unwrap();
        assert_eq!(texts.rewritten, [("etc/crypttab".to_owned(), 1)]);
        for name in ["fstab", "grub.cfg"] {
            assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), named);
        }
        assert!(rewrite_tree(&root.join("not there"), &pairs()).is_err());
    }

    #[test]
    fn a_text_without_end_is_said() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "etc/fstab", "x");
        let file = File::options().write(true).open(folder.path().join("etc/fstab")).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(rewrite_tree(folder.path(), &pairs()).unwrap().unread, ["etc/fstab"]);
    }
}

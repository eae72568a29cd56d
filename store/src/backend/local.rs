//! A backend in a folder of this host.
//!
//! Promise: what `put` acknowledged survives a power cut whole, and nothing torn is ever seen under an object's name:
//! temporary, write, sync, link without replacing, sync the folder. A failed sync is never asked again.
//! Knows nothing of what it keeps, nor of locks: any number of processes may put, get and delete at once.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::files::{Files, Kind, OsFiles};
use super::{Backend, Delete, Entry, Error, Name, Put, check_folder, checked_length, is_absent};

/// Bytes set aside so that a full store can still be collected: room for some hundred records and the folders' growth.
pub const RESERVE_BYTES: usize = 4 << 20;

/// Folders that `create` makes. Of these, [`ESSENTIAL`] must be there for ever after.
const FOLDERS: [&str; 6] = ["packs", "images", "condemned", "moves", "sessions", TEMPORARIES];

/// A root without these is no store, or one that is not mounted: its listings are errors, not empty. The other folders
/// may be missing, since copying a store by means that drop empty folders is no damage.
const ESSENTIAL: [&str; 2] = ["packs", "images"];

/// What is put here may use the reserve: it is little, and without it nothing can be taken away.
const MAY_USE_RESERVE: [&str; 4] = ["condemned", "images", "moves", "sessions"];

const TEMPORARIES: &str = "tmp";
const RESERVE: &str = "reserve";

/// A backend in a folder, on real files unless told otherwise.
#[derive(Debug)]
pub struct LocalBackend<F: Files = OsFiles> {
    root: PathBuf,
    files: F,
    folders: Mutex<Folders>,
}

/// What this process found out about the folders, by their paths below the root.
#[derive(Default, Debug)]
struct Folders {
    /// Made durable by us: need not be made and synced for the next put.
    durable: BTreeSet<PathBuf>,
    /// A sync failed. The system may since have forgotten what it could not write, and would call the next sync a
    /// success; so nothing here is acknowledged any more.
    failed: BTreeSet<PathBuf>,
}

impl LocalBackend {
    /// Makes the folders that are missing, the root too, and the reserve.
    pub fn create(root: impl Into<PathBuf>) -> Result<LocalBackend, Error> {
        LocalBackend::create_on(OsFiles, root)
    }

    /// Opens what `create` made; writes nothing, so that a read-only medium will do.
    pub fn open(root: impl Into<PathBuf>) -> Result<LocalBackend, Error> {
        LocalBackend::open_on(OsFiles, root)
    }
}

impl<F: Files> LocalBackend<F> {
    /// [`LocalBackend::create`] on other files.
    pub fn create_on(files: F, root: impl Into<PathBuf>) -> Result<LocalBackend<F>, Error> {
        let backend = LocalBackend { root: root.into(), files, folders: Mutex::default() };
        make_durable_folder(&backend.files, &backend.root)
            .map_err(|source| Error::changing(&backend.place(), "make this folder", source))?;
        for folder in FOLDERS {
            backend
                .ensure_folder(Path::new(folder))
                .map_err(|source| Error::changing(folder, "make this folder", source))?;
        }
        backend.write_reserve()?;
        Ok(backend)
    }

    /// [`LocalBackend::open`] on other files.
    pub fn open_on(files: F, root: impl Into<PathBuf>) -> Result<LocalBackend<F>, Error> {
        let backend = LocalBackend { root: root.into(), files, folders: Mutex::default() };
        backend.check_root()?;
        Ok(backend)
    }

    /// The folder it is in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes what puts that died have left; how many files that were.
    ///
    /// For the holder of the writer lock, before its own first put. A put that another process has under way (of a
    /// marker, say) fails by it and has to be asked again.
    pub fn clean_temporaries(&self) -> Result<u64, Error> {
        let changing = |source| Error::changing(TEMPORARIES, "remove temporary files", source);
        let folder = self.root.join(TEMPORARIES);
        let found = match self.files.list(&folder) {
            Err(error) if is_absent(&error) => return Ok(0),
            result => result.map_err(changing)?,
        };
        let mut removed = 0;
        for found in found.iter().filter(|found| found.kind != Kind::Folder && found.name != RESERVE) {
            match self.files.remove(&folder.join(&found.name)) {
                Err(error) if !is_absent(&error) => return Err(changing(error)),
                _ => removed += 1,
            }
        }
        Ok(removed)
    }

    /// Makes the reserve again when it has been used up and there is room; whether it is there now.
    pub fn ensure_reserve(&self) -> Result<bool, Error> {
        match self.write_reserve() {
            Ok(()) => Ok(true),
            Err(Error::NoSpace { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Written like an object, so that a reserve of the right size is a whole one.
    fn write_reserve(&self) -> Result<(), Error> {
        let path = self.reserve();
        let changing = |source| Error::changing("tmp/reserve", "make the reserve", source);
        match self.files.kind(&path) {
            Ok(Kind::File(bytes)) if usize::try_from(bytes) == Ok(RESERVE_BYTES) => return Ok(()),
            Ok(_) => self.files.remove(&path).map_err(changing)?,
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(changing(error)),
        }
        let mut bytes = vec![0; RESERVE_BYTES];
        // Zeros would take no room on a filesystem that compresses.
        rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
        self.write_and_link("tmp/reserve", &path, &bytes)?;
        self.sync_folder(Path::new(TEMPORARIES)).map_err(changing)
    }

    /// Gives the reserve's room back; whether there was any to give.
    fn free_reserve(&self) -> bool {
        // The sync makes journaling filesystems free the blocks now and not with the next commit.
        self.files.remove(&self.reserve()).is_ok() && self.sync_folder(Path::new(TEMPORARIES)).is_ok()
    }

    fn reserve(&self) -> PathBuf {
        self.root.join(TEMPORARIES).join(RESERVE)
    }

    fn publish(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        let folder = folder_of(name);
        self.ensure_folder(folder)
            .map_err(|source| Error::changing(name.as_str(), "make its folder", source))?;
        let put = match self.size(name)? {
            Some(_) => Put::Exists,
            None => self.write_and_link(name.as_str(), &self.path(name), bytes)?,
        };
        // When it existed, too: whoever put it may not have come as far as this.
        self.sync_folder(folder)
            .map_err(|source| Error::changing(name.as_str(), "sync its folder", source))?;
        Ok(put)
    }

    /// All of `put` but the sync of the folder.
    fn write_and_link(&self, place: &str, path: &Path, bytes: &[u8]) -> Result<Put, Error> {
        let temporary = self.write_temporary(place, bytes)?;
        let linked = match self.files.link_new(&temporary, path) {
            Err(error) if has_no_hard_links(&error) => self.files.rename_new(&temporary, path),
            result => result,
        };
        self.discard(&temporary);
        match linked {
            Ok(()) => Ok(Put::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::Exists),
            Err(source) => Err(Error::changing(place, "give it its name", source)),
        }
    }

    /// A durable file in `tmp/`, or none.
    fn write_temporary(&self, place: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let folder = Path::new(TEMPORARIES);
        self.ensure_folder(folder)
            .map_err(|source| Error::changing(TEMPORARIES, "make this folder", source))?;
        let path = self.root.join(folder).join(format!("{:032x}", rand::random::<u128>()));
        let mut file = self
            .files
            .create_new(&path)
            .map_err(|source| Error::changing(place, "make a temporary file", source))?;
        let written = write_all(&self.files, &mut file, bytes)
            .map_err(|source| Error::changing(place, "write", source))
            .and_then(|()| {
                self.files.sync(&file).map_err(|source| Error::changing(place, "make it durable", source))
            });
        match written {
            Ok(()) => Ok(path),
            Err(error) => {
                self.discard(&path);
                Err(error)
            }
        }
    }

    /// Removes a temporary file. What cannot be removed now is left to `clean_temporaries`.
    fn discard(&self, temporary: &Path) {
        drop(self.files.remove(temporary));
    }

    /// Makes a folder below the root and those above it, durably. The first time in the life of this backend, a folder
    /// that exists is synced as well: whoever made it may not have come so far.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        let Some(parent) = folder.parent() else { return Ok(()) };
        if self.folders().durable.contains(folder) {
            return Ok(());
        }
        self.ensure_folder(parent)?;
        make_folder(&self.files, &self.root.join(folder))?;
        self.sync_folder(parent)?;
        self.folders().durable.insert(folder.to_owned());
        Ok(())
    }

    /// Syncs a folder below the root; never again once that has failed.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let result = self.files.sync_folder(&self.root.join(folder));
        let mut folders = self.folders();
        if result.as_ref().is_err_and(|error| !is_absent(error)) {
            folders.failed.insert(folder.to_owned());
        } else if folders.failed.contains(folder) {
            return Err(io::Error::other("an earlier sync of this folder failed; open the store again"));
        }
        result
    }

    /// That this is a store, and there: a missing folder of a store that is mounted is an empty one.
    fn check_root(&self) -> Result<(), Error> {
        for folder in ESSENTIAL {
            let failed =
                |source| Error::Io { name: self.place().into(), operation: "find its folders", source };
            match self.files.kind(&self.root.join(folder)).map_err(failed)? {
                Kind::Folder => {}
                Kind::File(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
            }
        }
        Ok(())
    }

    /// Adds what lies below `folder`. Names bound the depth, and leave out `tmp`, `index` and what is not ours.
    fn walk(&self, folder: &str, entries: &mut Vec<Entry>) -> Result<(), Error> {
        let found = match self.files.list(&self.root.join(folder)) {
            Err(error) if is_absent(&error) => return self.check_root(),
            result => {
                result.map_err(|source| Error::Io { name: folder.into(), operation: "list it", source })?
            }
        };
        for found in found {
            let Some(last) = found.name.to_str() else { continue };
            let path = if folder.is_empty() { last.to_owned() } else { format!("{folder}/{last}") };
            let Ok(name) = Name::new(&path) else { continue };
            match found.kind {
                Kind::File(bytes) => entries.push(Entry { name, bytes }),
                Kind::Folder => self.walk(&path, entries)?,
            }
        }
        Ok(())
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Each change of the two sets is whole: a panic elsewhere while they were locked says nothing about them.
    fn folders(&self) -> MutexGuard<'_, Folders> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Files> Backend for LocalBackend<F> {
    fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        match self.publish(name, bytes) {
            Err(Error::NoSpace { .. }) if may_use_reserve(name) && self.free_reserve() => {
                self.publish(name, bytes)
            }
            result => result,
        }
    }

    fn get(&self, name: &Name, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let size = self.size(name)?.ok_or_else(|| Error::NotFound { name: name.clone() })?;
        let length = checked_length(name, &range, size)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let bytes = self
            .files
            .read(&self.path(name), range.start, length)
            .map_err(|source| Error::reading(name, "read", source))?;
        // It was longer a moment ago.
        let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        checked_length(name, &range, range.start.saturating_add(read))?;
        Ok(bytes)
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        check_folder(folder)?;
        let mut entries = Vec::new();
        self.walk(folder, &mut entries)?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn size(&self, name: &Name) -> Result<Option<u64>, Error> {
        match self.files.kind(&self.path(name)) {
            Ok(Kind::File(bytes)) => Ok(Some(bytes)),
            Ok(Kind::Folder) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(Error::reading(name, "find out its size", source)),
        }
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.files.free_bytes(&self.root).ok()
    }
}

impl<F: Files> Delete for LocalBackend<F> {
    fn delete(&self, name: &Name) -> Result<(), Error> {
        match self.files.remove(&self.path(name)) {
            Err(error) if !is_absent(&error) => {
                return Err(Error::changing(name.as_str(), "delete", error));
            }
            _ => {}
        }
        // When it was not there, too: whoever deleted it may not have come as far as this.
        match self.sync_folder(folder_of(name)) {
            Ok(()) => Ok(()),
            Err(error) if is_absent(&error) => Ok(()),
            Err(source) => Err(Error::changing(name.as_str(), "make its deletion durable", source)),
        }
    }
}

fn may_use_reserve(name: &Name) -> bool {
    name.as_str().split_once('/').is_some_and(|(folder, _)| MAY_USE_RESERVE.contains(&folder))
}

/// The folder of an object, below the root; empty for the root itself.
fn folder_of(name: &Name) -> &Path {
    Path::new(name.as_str()).parent().unwrap_or(Path::new(""))
}

/// FAT and its kin, some FUSE and network filesystems.
fn has_no_hard_links(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS))
}

fn write_all<F: Files>(files: &F, file: &mut F::File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match files.write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn make_folder<F: Files>(files: &F, path: &Path) -> io::Result<()> {
    match files.make_folder(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Makes the root, and what is missing above it.
fn make_durable_folder<F: Files>(files: &F, path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if matches!(files.kind(path), Ok(Kind::Folder)) {
        // Somebody made it a moment ago, perhaps. Not ours to insist on: we may not be allowed to open the parent.
        drop(files.sync_folder(parent));
        return Ok(());
    }
    make_durable_folder(files, parent)?;
    make_folder(files, path)?;
    files.sync_folder(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sim::{SimFault, SimFiles};

    const ROOT: &str = "/store";

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn store() -> (SimFiles, LocalBackend<SimFiles>) {
        let files = SimFiles::new();
        let backend = LocalBackend::create_on(files.clone(), ROOT).unwrap();
        (files, backend)
    }

    fn temporaries(files: &SimFiles) -> usize {
        files.list(&Path::new(ROOT).join(TEMPORARIES)).unwrap().len()
    }

    /// Room for the reserve and some packs, and the packs that fit.
    fn full_store() -> (SimFiles, LocalBackend<SimFiles>) {
        let (files, backend) = store();
        files.set_capacity(Some(u64::try_from(RESERVE_BYTES + 100_000).unwrap()));
        let full = (0..).find_map(|n| backend.put(&name(&format!("packs/{n}")), &[1; 9000]).err()).unwrap();
        assert!(matches!(full, Error::NoSpace { .. }));
        (files, backend)
    }

    #[test]
    fn a_full_store_can_still_be_collected() {
        for record in ["condemned/x", "images/x.forgotten", "moves/x", "sessions/x"] {
            let (files, backend) = full_store();
            assert_eq!(temporaries(&files), 1, "the reserve, and nothing of the put that failed");
            assert_eq!(backend.put(&name(record), &[2; 9000]).unwrap(), Put::Created);
            assert_eq!(backend.get_all(&name(record), 9000).unwrap(), [2; 9000]);
            assert_eq!(temporaries(&files), 0);
        }
    }

    #[test]
    fn packs_do_not_use_the_reserve() {
        let (files, backend) = full_store();
        for object in ["packs/more", "config"] {
            assert!(matches!(backend.put(&name(object), &[1; 9000]), Err(Error::NoSpace { .. })));
        }
        assert_eq!(temporaries(&files), 1);
    }

    #[test]
    fn the_reserve_comes_back_when_there_is_room() {
        let (files, backend) = full_store();
        assert!(backend.ensure_reserve().unwrap());
        backend.put(&name("condemned/x"), &[2; 9000]).unwrap();
        assert!(!backend.ensure_reserve().unwrap());
        assert_eq!(temporaries(&files), 0, "no torn reserve");
        backend.delete(&name("packs/0")).unwrap();
        assert!(backend.ensure_reserve().unwrap());
        let reserve = files.read(&backend.reserve(), 0, RESERVE_BYTES).unwrap();
        assert!(reserve.len() == RESERVE_BYTES && reserve.iter().any(|byte| *byte != 0));
    }

    #[test]
    fn leftovers_are_cleaned_and_the_reserve_stays() {
        let (files, backend) = store();
        for leftover in ["/store/tmp/one", "/store/tmp/two"] {
            files.create_new(Path::new(leftover)).unwrap();
        }
        assert_eq!(backend.clean_temporaries().unwrap(), 2);
        assert_eq!(backend.clean_temporaries().unwrap(), 0);
        assert_eq!(files.kind(&backend.reserve()).unwrap(), Kind::File(4 << 20));
    }

    #[test]
    fn temporaries_and_the_index_are_not_listed() {
        let (files, backend) = store();
        files.make_folder(Path::new("/store/index")).unwrap();
        for stray in ["/store/index/db", "/store/README", "/store/packs/.nfs0001", "/store/tmp/left"] {
            files.create_new(Path::new(stray)).unwrap();
        }
        assert_eq!(backend.list("").unwrap(), []);
    }

    #[test]
    fn a_read_only_store_opens_and_reads() {
        let (files, backend) = store();
        backend.put(&name("packs/ab/x"), b"x").unwrap();
        files.set_read_only(true);
        let backend = LocalBackend::open_on(files, ROOT).unwrap();
        assert_eq!(backend.get_all(&name("packs/ab/x"), 1).unwrap(), b"x");
        assert_eq!(backend.list("packs").unwrap().len(), 1);
        assert!(matches!(backend.put(&name("packs/ab/y"), b"y"), Err(Error::ReadOnly { .. })));
        assert!(matches!(backend.delete(&name("packs/ab/x")), Err(Error::ReadOnly { .. })));
    }

    /// To list nothing where a store was a moment ago would tell a collector that all packs are gone, or all images.
    #[test]
    fn a_store_that_is_not_mounted_is_not_empty() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        assert!(matches!(LocalBackend::open(&root), Err(Error::Io { .. })));
        let backend = LocalBackend::create(&root).unwrap();
        std::fs::remove_dir(root.join("condemned")).unwrap();
        assert_eq!(backend.list("condemned").unwrap(), []);
        std::fs::remove_dir_all(&root).unwrap();
        for folder in ["", "packs", "images", "condemned", "packs/ab"] {
            assert!(matches!(backend.list(folder), Err(Error::Io { .. })), "{folder:?}");
        }
    }

    #[test]
    fn folders_lost_in_copying_are_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let backend = LocalBackend::create(folder.path()).unwrap();
        std::fs::remove_file(backend.reserve()).unwrap();
        for lost in ["condemned", "moves", "sessions", "tmp"] {
            std::fs::remove_dir(folder.path().join(lost)).unwrap();
        }
        let backend = LocalBackend::open(folder.path()).unwrap();
        assert_eq!(backend.clean_temporaries().unwrap(), 0);
        assert_eq!(backend.put(&name("sessions/x"), b"x").unwrap(), Put::Created);
        assert!(backend.ensure_reserve().unwrap());
    }

    #[test]
    fn a_folder_whose_sync_failed_acknowledges_no_more() {
        let (files, backend) = store();
        backend.put(&name("packs/ab/warm"), b"x").unwrap();
        // The sync of the folder is the last call of a put.
        let before = files.calls();
        backend.put(&name("packs/ab/probe"), b"x").unwrap();
        let calls = files.calls() - before;
        files.arm(calls, SimFault::Eio);
        assert!(backend.put(&name("packs/ab/new"), b"x").is_err());
        assert!(backend.put(&name("packs/ab/new"), b"x").is_err());
        assert!(backend.put(&name("packs/ab/other"), b"x").is_err());
        assert!(backend.delete(&name("packs/ab/warm")).is_err());
        assert_eq!(backend.put(&name("packs/cd/new"), b"x").unwrap(), Put::Created);
    }

    #[test]
    fn the_root_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let backend = LocalBackend::create(folder.path().join("a/b")).unwrap();
        assert_eq!(std::fs::metadata(backend.root()).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(backend.free_bytes().is_some_and(|bytes| bytes > 0));
    }
}

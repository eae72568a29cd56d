//! A filesystem in memory that can lose its power, for tests of the local backend.
//!
//! Promise: nothing survives a power cut that a filesystem does not have to keep. Content that was not synced is torn
//! at any byte and has zeros for any of its sectors; each change of a folder that was not synced survives or not, on
//! its own; a failed sync forgets what it could not write, and the next one of the same file says it went well.
//! Knows nothing of stores. No permissions, no symbolic links, one writer to a file. All chance comes from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::io::Errno;

use super::files::{Files, Found, Kind};

/// What is written in one go, or not: so many bytes at a time turn out as zeros after a power cut.
const SECTOR_BYTES: usize = 512;

/// What goes wrong at one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SimFault {
    /// An input or output error; a sync forgets what it should have written.
    Eio,
    /// No space left, for this call only.
    NoSpace,
    /// A write stores half of what it was given; other calls go well.
    ShortWrite,
    /// The process dies before the call: it and all later ones fail, until [`SimFiles::power_cut`] or
    /// [`SimFiles::revive`].
    Die,
}

/// A simulated filesystem. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct SimFiles {
    state: Arc<Mutex<State>>,
}

/// An open file of a [`SimFiles`].
#[derive(Debug)]
pub struct SimFile(usize);

/// A name's worth: a folder, or the number of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Clone, Default, Debug)]
struct Content {
    /// Shared with copies of the filesystem until it is written to.
    live: Arc<Vec<u8>>,
    /// So much of `live` is on the disk.
    durable: usize,
    /// A sync failed: from `durable` on, nothing will ever reach the disk.
    forgotten: bool,
}

/// One change of a folder that the disk does not know of yet.
#[derive(Clone, Debug)]
struct Change {
    path: PathBuf,
    /// What is there now; `None` when it was taken away.
    node: Option<Node>,
    /// A sync failed: only luck brings this to the disk.
    forgotten: bool,
}

#[derive(Clone, Default, Debug)]
struct State {
    contents: Vec<Content>,
    live: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    changes: Vec<Change>,
    calls: u64,
    fault: Option<(u64, SimFault)>,
    fired: bool,
    dead: bool,
    capacity_bytes: Option<u64>,
    read_only: bool,
    no_hard_links: bool,
}

impl SimFiles {
    /// An empty filesystem without bounds; `/` is there.
    pub fn new() -> SimFiles {
        SimFiles::default()
    }

    /// Lets the `at_call`-th call from now on (the first is 1) go wrong.
    pub fn arm(&self, at_call: u64, fault: SimFault) {
        let mut state = self.state();
        state.fault = Some((state.calls.saturating_add(at_call), fault));
        state.fired = false;
    }

    /// Another filesystem with the same content, for a test to start from again and again.
    pub fn copy(&self) -> SimFiles {
        SimFiles { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    /// Whether the armed fault has happened.
    pub fn fired(&self) -> bool {
        self.state().fired
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// From now on, files can hold so many bytes in all; `None` for no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// From now on, nothing can be changed, or can again.
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }

    /// From now on, a file can have one name only, as on FAT.
    pub fn forbid_hard_links(&self) {
        self.state().no_hard_links = true;
    }

    /// The process died but the system did not: all that was done is there, for a new process.
    pub fn revive(&self) {
        let mut state = self.state();
        state.dead = false;
        state.fault = None;
    }

    /// The power fails and returns: what was not synced survives as chance has it. Open files must not be used again.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.state();
        let mut rng = StdRng::seed_from_u64(seed);
        // Next to even chances, the two ends: a disk that wrote all of it, and one that wrote none.
        let survives = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
        for change in std::mem::take(&mut state.changes) {
            if rng.random_bool(survives) {
                apply(&mut state.durable, &change);
            }
        }
        drop_orphans(&mut state.durable);
        for content in &mut state.contents {
            tear(content, survives, &mut rng);
        }
        state.live = state.durable.clone();
        state.dead = false;
        state.fault = None;
    }

    /// A panic in a test that holds the state is a failed test already.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and lets it fail if that is planned; what is left to do differently is the result.
    fn enter(&self) -> io::Result<(MutexGuard<'_, State>, Option<SimFault>)> {
        let mut state = self.state();
        state.calls = state.calls.saturating_add(1);
        let fault = match state.fault {
            Some((at_call, fault)) if at_call == state.calls => Some(fault),
            _ => None,
        };
        state.fired |= fault.is_some();
        state.dead |= fault == Some(SimFault::Die);
        if state.dead {
            return Err(io::Error::other("the simulated process is dead"));
        }
        Ok((state, fault))
    }

    /// [`SimFiles::enter`] for calls that read.
    fn reading(&self) -> io::Result<MutexGuard<'_, State>> {
        match self.enter()? {
            (_, Some(SimFault::Eio)) => Err(Errno::IO.into()),
            (state, _) => Ok(state),
        }
    }

    /// [`SimFiles::enter`] for calls that change names.
    fn changing(&self) -> io::Result<MutexGuard<'_, State>> {
        match self.enter()? {
            (_, Some(SimFault::Eio)) => Err(Errno::IO.into()),
            (_, Some(SimFault::NoSpace)) => Err(Errno::NOSPC.into()),
            (state, _) if state.read_only => Err(Errno::ROFS.into()),
            (state, _) => Ok(state),
        }
    }
}

impl Files for SimFiles {
    type File = SimFile;

    fn create_new(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.changing()?;
        state.check_vacant(path)?;
        let number = state.contents.len();
        state.contents.push(Content::default());
        state.change(path, Some(Node::File(number)));
        Ok(SimFile(number))
    }

    fn write(&self, file: &mut SimFile, bytes: &[u8]) -> io::Result<usize> {
        let (mut state, fault) = self.enter()?;
        let wanted = match fault {
            Some(SimFault::Eio) => return Err(Errno::IO.into()),
            Some(SimFault::NoSpace) => return Err(Errno::NOSPC.into()),
            Some(SimFault::ShortWrite) => bytes.len().div_ceil(2),
            _ => bytes.len(),
        };
        let room = usize::try_from(state.free_bytes()).unwrap_or(usize::MAX);
        if room == 0 && wanted > 0 {
            return Err(Errno::NOSPC.into());
        }
        let written = wanted.min(room);
        Arc::make_mut(&mut state.content(file.0)?.live)
            .extend_from_slice(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn sync(&self, file: &SimFile) -> io::Result<()> {
        let (mut state, fault) = self.enter()?;
        let content = state.content(file.0)?;
        match fault {
            Some(SimFault::Eio | SimFault::NoSpace) => {
                content.forgotten = true;
                Err(if fault == Some(SimFault::Eio) { Errno::IO } else { Errno::NOSPC }.into())
            }
            _ if content.forgotten => Ok(()),
            _ => {
                content.durable = content.live.len();
                Ok(())
            }
        }
    }

    fn link_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        if state.no_hard_links {
            return Err(Errno::PERM.into());
        }
        let node = state.file(from)?;
        state.check_vacant(to)?;
        state.change(to, Some(node));
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        let node = state.file(from)?;
        state.check_vacant(to)?;
        state.change(to, Some(node));
        state.change(from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        state.file(path)?;
        state.change(path, None);
        Ok(())
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        state.check_vacant(path)?;
        state.change(path, Some(Node::Folder));
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let (mut state, fault) = self.enter()?;
        if state.node(path)? != Node::Folder {
            return Err(Errno::NOTDIR.into());
        }
        let failed = matches!(fault, Some(SimFault::Eio | SimFault::NoSpace));
        let State { changes, durable, .. } = &mut *state;
        changes.retain_mut(|change| {
            let here = change.path.parent() == Some(path);
            change.forgotten |= here && failed;
            if here && !change.forgotten {
                apply(durable, change);
                return false;
            }
            true
        });
        if failed { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn read(&self, path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut state = self.reading()?;
        let Node::File(number) = state.file(path)? else { return Err(Errno::ISDIR.into()) };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(state.content(number)?.live.iter().skip(offset).take(length).copied().collect())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Found>> {
        let state = self.reading()?;
        if state.node(path)? != Node::Folder {
            return Err(Errno::NOTDIR.into());
        }
        let inside = state.live.iter().filter(|(inside, _)| inside.parent() == Some(path));
        let named = inside.filter_map(|(inside, node)| Some((inside.file_name()?.to_owned(), node)));
        Ok(named.map(|(name, node)| Found { name, kind: state.kind(*node) }).collect())
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        let state = self.reading()?;
        Ok(state.kind(state.node(path)?))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.reading()?.free_bytes())
    }
}

impl State {
    fn node(&self, path: &Path) -> io::Result<Node> {
        if path.parent().is_none() {
            return Ok(Node::Folder);
        }
        self.live.get(path).copied().ok_or_else(|| Errno::NOENT.into())
    }

    fn file(&self, path: &Path) -> io::Result<Node> {
        match self.node(path)? {
            Node::Folder => Err(Errno::ISDIR.into()),
            file => Ok(file),
        }
    }

    fn kind(&self, node: Node) -> Kind {
        match node {
            Node::Folder => Kind::Folder,
            Node::File(number) => {
                let length = self.contents.get(number).map_or(0, |content| content.live.len());
                Kind::File(u64::try_from(length).unwrap_or(u64::MAX))
            }
        }
    }

    /// That `path` is free and its folder there.
    fn check_vacant(&self, path: &Path) -> io::Result<()> {
        if self.node(path).is_ok() {
            return Err(Errno::EXIST.into());
        }
        match self.node(path.parent().unwrap_or(path))? {
            Node::Folder => Ok(()),
            Node::File(_) => Err(Errno::NOTDIR.into()),
        }
    }

    fn change(&mut self, path: &Path, node: Option<Node>) {
        let change = Change { path: path.to_owned(), node, forgotten: false };
        apply(&mut self.live, &change);
        self.changes.push(change);
    }

    fn content(&mut self, number: usize) -> io::Result<&mut Content> {
        self.contents.get_mut(number).ok_or_else(|| Errno::BADF.into())
    }

    /// Files without a name take no room; one with two names takes it once.
    fn free_bytes(&self) -> u64 {
        let Some(capacity) = self.capacity_bytes else { return u64::MAX };
        let files = self.live.values().filter_map(|node| match node {
            Node::File(number) => Some(*number),
            Node::Folder => None,
        });
        let named: BTreeSet<usize> = files.collect();
        let used = named.into_iter().filter_map(|number| self.contents.get(number));
        let used = used.map(|content| u64::try_from(content.live.len()).unwrap_or(u64::MAX));
        capacity.saturating_sub(used.fold(0, u64::saturating_add))
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    match change.node {
        Some(node) => names.insert(change.path.clone(), node),
        None => names.remove(&change.path),
    };
}

/// Names whose folder did not survive are gone. In order of paths, so a folder is judged before what is in it.
fn drop_orphans(names: &mut BTreeMap<PathBuf, Node>) {
    let paths: Vec<PathBuf> = names.keys().cloned().collect();
    for path in paths {
        let parent = path.parent().unwrap_or(&path);
        if parent.parent().is_some() && names.get(parent) != Some(&Node::Folder) {
            names.remove(&path);
        }
    }
}

/// What a power cut leaves of a file: what was synced, then any prefix of the rest, any sectors of it zero.
fn tear(content: &mut Content, survives: f64, rng: &mut StdRng) {
    let Content { live, durable, .. } = content;
    if *durable < live.len() {
        // The length is a matter of its own: often all of it, with nothing written inside.
        let live = Arc::make_mut(live);
        let length = if rng.random_bool(0.5) { live.len() } else { rng.random_range(*durable..live.len()) };
        live.truncate(length);
        let unsynced = live.get_mut(*durable..).unwrap_or_default();
        for sector in unsynced.chunks_mut(SECTOR_BYTES).filter(|_| !rng.random_bool(survives)) {
            sector.fill(0);
        }
    }
    *content = Content { durable: live.len(), live: std::mem::take(live), forgotten: false };
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: std::ops::Range<u64> = 0..64;

    fn written(files: &SimFiles, path: &str, bytes: &[u8]) -> SimFile {
        let mut file = files.create_new(Path::new(path)).unwrap();
        assert_eq!(files.write(&mut file, bytes).unwrap(), bytes.len());
        file
    }

    fn content(files: &SimFiles, path: &str) -> Option<Vec<u8>> {
        files.read(Path::new(path), 0, 1 << 20).ok()
    }

    #[test]
    fn what_was_synced_survives_every_cut() {
        for seed in SEEDS {
            let files = SimFiles::new();
            let file = written(&files, "/a", &[7; 2000]);
            files.sync(&file).unwrap();
            files.sync_folder(Path::new("/")).unwrap();
            files.power_cut(seed);
            assert_eq!(content(&files, "/a"), Some(vec![7; 2000]));
        }
    }

    /// The double must be cruel, or what passes on it means nothing: each bad end is seen among the seeds.
    #[test]
    fn what_was_not_synced_meets_every_end() {
        let mut ends = BTreeSet::new();
        for seed in SEEDS {
            let files = SimFiles::new();
            written(&files, "/a", &[7; 2000]);
            files.sync_folder(Path::new("/")).unwrap();
            files.power_cut(seed);
            let content = content(&files, "/a").unwrap();
            ends.insert((content.len() == 2000, content.iter().all(|byte| *byte == 7)));
        }
        assert_eq!(ends.len(), 4);
    }

    #[test]
    fn names_that_were_not_synced_survive_independently() {
        let mut ends = BTreeSet::new();
        for seed in SEEDS {
            let files = SimFiles::new();
            for path in ["/a", "/b"] {
                let file = written(&files, path, b"x");
                files.sync(&file).unwrap();
            }
            files.power_cut(seed);
            ends.insert((content(&files, "/a").is_some(), content(&files, "/b").is_some()));
        }
        assert_eq!(ends.len(), 4);
    }

    #[test]
    fn a_folder_that_is_lost_takes_what_is_in_it() {
        let lost = SEEDS.filter(|seed| {
            let files = SimFiles::new();
            files.make_folder(Path::new("/f")).unwrap();
            let file = written(&files, "/f/a", b"x");
            files.sync(&file).unwrap();
            files.sync_folder(Path::new("/f")).unwrap();
            files.power_cut(*seed);
            content(&files, "/f/a").is_none()
        });
        assert!(lost.count() > 0);
    }

    #[test]
    fn a_failed_sync_cannot_be_mended_by_another() {
        let mut torn = 0;
        for seed in SEEDS {
            let files = SimFiles::new();
            let file = written(&files, "/a", &[7; 2000]);
            files.sync_folder(Path::new("/")).unwrap();
            files.arm(1, SimFault::Eio);
            assert!(files.sync(&file).is_err());
            files.sync(&file).unwrap();
            files.power_cut(seed);
            torn += u32::from(content(&files, "/a") != Some(vec![7; 2000]));
        }
        assert!(torn > 0);
    }
}

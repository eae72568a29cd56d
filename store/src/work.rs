//! Being at work on a store: the lock, the session that tells others, the catalogue. Writer, collector and scrub hold one.
//!
//! Promise: when it goes, however it goes short of a kill, the session's record goes and the catalogue is closed.

use crate::catalogue::{Catalogue, CatalogueState};
use crate::codec::ChunkKind;
use crate::error::line;
use crate::id::{ImageId, SessionId};
use crate::lock::StoreLock;
use crate::objects::{self, Objects, session_name};
use crate::pack::{PACK_BYTES, PackBuilder};
use crate::session::{self, MarkKind, SessionInfo};
use crate::{Error, Progress, Store};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// As many packs as are usually filled, or on their way, at once; what is kept beyond would only lie there.
const SPARE_PACKS_MAX: usize = 2;

/// For what a pack holds besides its blobs: 44 bytes for each, of which there are a few thousand at most with the usual rule.
const PACK_ROOM_BYTES: usize = 1 << 20;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Work {
    store: Store,
    session: SessionId,
    catalogue: Option<Catalogue>,
    state: CatalogueState,
    mended: Vec<(String, String)>,
    /// Memory of packs that are published, for the next ones: new memory is handed out and zeroed page by page.
    spare: Mutex<Vec<Vec<u8>>>,
    // Last: it must outlive the catalogue, whose files it guards.
    lock: Option<StoreLock>,
}

impl Work {
    /// Steps 1 and 2 of DESIGN §5.3: the lock, the session, then the condemn records, then the list of packs.
    pub(crate) fn begin(store: &Store, what: &str, lock_wait: Duration, anew: bool) -> Result<Work, Error> {
        let mut work = Work::lock(store, what, lock_wait)?;
        work.open_catalogue(anew)?;
        Ok(work)
    }

    /// As `begin`, removing condemn records that can't be read when there is a lock: under it no collector lives that
    /// could act on one, so what it condemned is as good as any pack again. Without a lock they are an error, as always.
    pub(crate) fn begin_mending(store: &Store, what: &str, lock_wait: Duration) -> Result<Work, Error> {
        let mut work = Work::lock(store, what, lock_wait)?;
        if work.is_locked() {
            for (name, error) in store.objects().damaged_condemned()? {
                objects::delete(store.objects(), store.powers().delete.as_ref(), &name)?;
                work.mended.push((name.to_string(), line(&error)));
            }
        }
        work.open_catalogue(false)?;
        Ok(work)
    }

    fn lock(store: &Store, what: &str, lock_wait: Duration) -> Result<Work, Error> {
        store.check_writable()?;
        let objects = store.objects();
        let holders = || {
            objects.sessions().unwrap_or_default().into_iter().map(|(_, info)| info).filter(|s| !s.is_dead())
        };
        let lock = store.powers().lock(lock_wait, || holders().collect())?;
        sweep_dead_sessions(store)?;
        let session = SessionId::random();
        objects.put(&session_name(session), &session::encode(&SessionInfo::of_this_process(what)))?;
        let state = CatalogueState::default();
        let (mended, spare) = (Vec::new(), Mutex::default());
        Ok(Work { store: store.clone(), session, catalogue: None, state, mended, spare, lock })
    }

    fn open_catalogue(&mut self, anew: bool) -> Result<(), Error> {
        let condemned = self.objects().condemned_packs()?;
        let records = self.store.powers().records(&self.store.config().store_id, anew)?;
        let (catalogue, state) = Catalogue::open(self.objects().clone(), records, &condemned)?;
        self.catalogue = Some(catalogue);
        self.state = state;
        self.confirm_pending()
    }

    /// Images whose writer died between manifest and marker: anybody may run the post-check in its place.
    fn confirm_pending(&self) -> Result<(), Error> {
        let names = self.objects().image_names()?;
        let marked = |id: &ImageId, kind: MarkKind| names.marks.contains(&(*id, kind.suffix()));
        let pending = |id: &&ImageId| !marked(id, MarkKind::Ok) && !marked(id, MarkKind::Forgotten);
        let pending: Vec<&ImageId> = names.manifests.iter().filter(pending).collect();
        if pending.is_empty() {
            return Ok(());
        }
        // One that a collector is removing has lost its marker for good.
        let condemned = self.objects().condemned_images()?;
        for id in pending.into_iter().filter(|id| !condemned.contains(id)) {
            let Ok(manifest) = self.objects().manifest(*id) else { continue };
            // One that lacks packs stays unconfirmed, and is shown as such.
            if self.store.packs_lost(&manifest, None).is_ok_and(|lost| lost.is_empty()) {
                self.objects().put_mark(*id, MarkKind::Ok)?;
            }
        }
        Ok(())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn objects(&self) -> &Objects {
        self.store.objects()
    }

    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    pub(crate) fn catalogue(&self) -> &Catalogue {
        // Set by `begin` before anybody sees the value, taken by `drop` only.
        self.catalogue.as_ref().unwrap_or_else(|| unreachable!("the catalogue is open while at work"))
    }

    /// Whether the home has a lock, which is then held.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    pub(crate) fn state(&self) -> &CatalogueState {
        &self.state
    }

    /// Records that were damaged and are gone now, with what was wrong with them.
    pub(crate) fn mended(&self) -> &[(String, String)] {
        &self.mended
    }

    /// A pack to fill with about so many bytes. Only data takes memory that was used before, or that is large enough from the
    /// start (not touched, it is not there yet): tables' packs are few, mostly small, and open for long.
    pub(crate) fn new_pack(&self, kind: ChunkKind, pack_bytes: u32) -> PackBuilder {
        let memory = match kind {
            ChunkKind::Data => {
                self.spare().pop().unwrap_or_else(|| Vec::with_capacity(memory_of(pack_bytes)))
            }
            ChunkKind::Table => Vec::new(),
        };
        PackBuilder::new(memory)
    }

    /// Takes the memory of a pack of this kind that is published.
    pub(crate) fn give_back(&self, kind: ChunkKind, bytes: Vec<u8>) {
        let mut spare = self.spare();
        if kind == ChunkKind::Data && spare.len() < SPARE_PACKS_MAX {
            spare.push(bytes);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // Whole at any time: a panic elsewhere says nothing about it.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what beginning took, when that is out of the ordinary.
    pub(crate) fn tell(&self, progress: &dyn Progress) {
        if let Some(text) = self.state.note() {
            progress.note(&text);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(catalogue) = self.catalogue.take() {
            catalogue.close();
        }
        // A record that stays is swept by the next one at work, once this process is gone.
        objects::delete(
            self.store.objects(),
            self.store.powers().delete.as_ref(),
            &session_name(self.session),
        )
        .ok();
    }
}

/// What a pack of data that is closed at this size usually needs.
fn memory_of(pack_bytes: u32) -> usize {
    usize::try_from(pack_bytes.min(PACK_BYTES)).unwrap_or(0) + PACK_ROOM_BYTES
}

/// Removes the records of processes that are surely gone; only grace periods rest on them.
fn sweep_dead_sessions(store: &Store) -> Result<(), Error> {
    for (id, info) in store.objects().sessions()? {
        if info.is_dead() {
            objects::delete(store.objects(), store.powers().delete.as_ref(), &session_name(id))?;
        }
    }
    Ok(())
}

//! Being at work on a store: the lock, the session that tells others, the catalogue. Writer, collector and scrub hold one.
//!
//! Promise: when it goes, however it goes short of a kill, the session's record goes and the catalogue is closed.

use crate::catalogue::{Catalogue, CatalogueState};
use crate::id::{ImageId, SessionId};
use crate::lock::StoreLock;
use crate::objects::{self, Objects, session_name};
use crate::session::{self, MarkKind, SessionInfo};
use crate::{Error, Progress, Store};
use std::time::Duration;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Work {
    store: Store,
    session: SessionId,
    catalogue: Option<Catalogue>,
    state: CatalogueState,
    // Last: it must outlive the catalogue, whose files it guards.
    lock: Option<StoreLock>,
}

impl Work {
    /// Steps 1 and 2 of DESIGN §5.3: the lock, the session, then the condemn records, then the list of packs.
    pub(crate) fn begin(store: &Store, what: &str, lock_wait: Duration, anew: bool) -> Result<Work, Error> {
        store.check_writable()?;
        let objects = store.objects();
        let holders = || {
            objects.sessions().unwrap_or_default().into_iter().map(|(_, info)| info).filter(|s| !s.is_dead())
        };
        let lock = store.powers().lock(lock_wait, || holders().collect())?;
        sweep_dead_sessions(store)?;
        let session = SessionId::random();
        objects.put(&session_name(session), &session::encode(&SessionInfo::of_this_process(what)))?;
        let mut work =
            Work { store: store.clone(), session, catalogue: None, state: CatalogueState::default(), lock };
        let condemned = objects.condemned_packs()?;
        let records = store.powers().records(&store.config().store_id, anew)?;
        let (catalogue, state) = Catalogue::open(objects.clone(), records, &condemned)?;
        work.catalogue = Some(catalogue);
        work.state = state;
        work.confirm_pending()?;
        Ok(work)
    }

    /// Images whose writer died between manifest and marker: anybody may run the post-check in its place.
    fn confirm_pending(&self) -> Result<(), Error> {
        let names = self.objects().image_names()?;
        let marked = |id: &ImageId, kind: MarkKind| names.marks.contains(&(*id, kind.suffix()));
        let pending = |id: &&ImageId| !marked(id, MarkKind::Ok) && !marked(id, MarkKind::Forgotten);
        for id in names.manifests.iter().filter(pending) {
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

/// Removes the records of processes that are surely gone; only grace periods rest on them.
fn sweep_dead_sessions(store: &Store) -> Result<(), Error> {
    for (id, info) in store.objects().sessions()? {
        if info.is_dead() {
            objects::delete(store.objects(), store.powers().delete.as_ref(), &session_name(id))?;
        }
    }
    Ok(())
}

//! `store`: chunks kept once, images as trees of tables above them. The bytes: DESIGN §4; the order of things: §5.
//!
//! Promise: what leaves here was hashed again (I3); an image whose capture was reported as done stays restorable until
//! somebody forgets it. Knows nothing of disks, partitions or chunking.
#![forbid(unsafe_code)]

mod aligned;
pub mod backend;
mod catalogue;
mod codec;
mod config;
mod confirm;
mod crew;
mod error;
mod evacuate;
mod fingers;
mod frame;
pub mod fuzz;
mod gc;
mod guide;
mod home;
mod id;
mod inspect;
mod live;
mod lock;
#[doc(hidden)]
pub mod made_up;
mod manifest;
mod objects;
mod owners;
mod pack;
pub mod parity;
mod reader;
mod records;
pub mod retain;
mod rewrite;
mod scrub;
mod session;
mod shorts;
mod stats;
mod stored;
mod table;
mod tree;
mod walk;
mod work;
mod writer;

pub use catalogue::CatalogueState;
pub use codec::{BlobError, ChunkKind, Compression, PLAIN_BYTES_MAX, ParseCompressionError};
pub use config::{Config, Features};
pub use error::{Error, Family};
pub use frame::FrameError;
pub use gc::{GcOptions, GcReport};
pub use guide::{Guide, GuideChunk, GuideSegment};
pub use home::Home;
pub use id::{ChunkId, ImageId, PackId, ParseIdError, SessionId};
pub use manifest::{ImageStatistics, Manifest};
pub use objects::ImageEntry;
pub use pack::{PACK_BYTES, PackEntry, PackError};
pub use reader::{StoredChunk, Wanted};
pub use scrub::{Finding, Hit, ScrubOptions, ScrubReport};
pub use session::{SessionInfo, host_name, now};
pub use stats::StoreStatistics;
pub use stored::{PlacedRun, Run, StoredImage};
pub use table::{TableError, TableRef};
pub use writer::{Description, Finished, NewChunk, NewRun, Writer, WriterOptions};

use crate::home::Powers;
use crate::objects::{CONFIG_NAMES, Objects, delete, mark_name};
use crate::reader::{KnownPacks, Reader};
use crate::session::MarkKind;
use crate::work::Work;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How the store tells how far it is. Libraries never print.
pub trait Progress: Sync {
    /// There are this many bytes to do in all.
    fn total(&self, bytes: u64);
    /// So many more are done.
    fn add(&self, bytes: u64);
    /// Something worth a line.
    fn note(&self, text: &str);
    /// Whether to stop at the next good place.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody is watching.
impl Progress for () {
    fn total(&self, _: u64) {}
    fn add(&self, _: u64) {}
    fn note(&self, _: &str) {}
}

/// The id of a chunk of device bytes: their BLAKE3.
pub fn chunk_id(plain: &[u8]) -> ChunkId {
    codec::chunk_id(ChunkKind::Data, plain)
}

/// A store that is open. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    powers: Powers,
    config: Config,
    reader: Arc<Reader>,
}

impl Store {
    /// Makes a store. Writes the config twice, so that one damaged copy does not matter.
    pub fn init(home: &Home, config: Config) -> Result<Store, Error> {
        let powers = home.create()?;
        let objects = Objects { backend: powers.backend.clone() };
        if let Ok((config, _)) = objects.config() {
            return Err(Error::AlreadyAStore { place: objects.backend.place(), store_id: config.store_id });
        }
        for text in CONFIG_NAMES {
            objects.put(&objects::fixed_name(text), &config.encode())?;
        }
        Store::with_powers(powers)
    }

    /// Opens a store for reading: no lock, no index. What writes takes its lock by itself.
    pub fn open(home: &Home) -> Result<Store, Error> {
        Store::with_powers(home.open()?)
    }

    fn with_powers(powers: Powers) -> Result<Store, Error> {
        let objects = Objects { backend: powers.backend.clone() };
        let (config, _) = objects.config()?;
        Ok(Store { inner: Arc::new(Inner { powers, config, reader: Arc::new(Reader::new(objects)) }) })
    }

    /// What the store is and how images are cut in it.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Where it is, for messages.
    pub fn place(&self) -> String {
        self.inner.powers.backend.place()
    }

    /// Free bytes in its home, where that is known.
    pub fn free_bytes(&self) -> Option<u64> {
        self.inner.powers.backend.free_bytes()
    }

    /// All images, oldest first; unreadable ones last, as entries with their errors.
    pub fn images(&self) -> Result<Vec<ImageEntry>, Error> {
        let names = self.objects().image_names()?;
        let entry = |id: &ImageId| self.objects().image_entry(*id, &names);
        // One removed since the listing is no image; any other error is one that people must see.
        let mut images: Vec<ImageEntry> = names.manifests.iter().map(entry).filter(is_there).collect();
        images.extend(names.lost.iter().map(|id| ImageEntry {
            id: *id,
            manifest: Err(Error::MissingManifest { image: *id }),
            confirmed: true,
            forgotten: None,
            protected: names.marks.contains(&(*id, MarkKind::Protected.suffix())),
        }));
        let key = |entry: &ImageEntry| match &entry.manifest {
            Ok(manifest) => (0, manifest.created.parse::<jiff::Timestamp>().ok(), entry.id),
            Err(_) => (1, None, entry.id),
        };
        images.sort_by_key(key);
        Ok(images)
    }

    /// One image, to be read.
    pub fn image(&self, id: ImageId) -> Result<StoredImage, Error> {
        let manifest = self.objects().manifest(id)?;
        Ok(StoredImage::new(id, manifest, self.inner.reader.clone()))
    }

    /// Begins to write an image; [`Error::Locked`] when somebody else is at it for longer than the options allow.
    pub fn writer(&self, options: &WriterOptions) -> Result<Writer, Error> {
        let work = Work::begin(self, &options.what, options.lock_wait, false)?;
        Ok(Writer::new(work, options))
    }

    /// Puts a tombstone on each image; nothing is lost before gc. All or, when one is protected or unknown, none.
    pub fn forget(&self, ids: &[ImageId]) -> Result<(), Error> {
        self.check_writable()?;
        let names = self.objects().image_names()?;
        for id in ids {
            if !names.manifests.contains(id) && !names.lost.contains(id) {
                return Err(Error::NoImage { image: *id });
            }
            if names.marks.contains(&(*id, MarkKind::Protected.suffix())) {
                return Err(Error::Protected { image: *id });
            }
        }
        ids.iter().try_for_each(|id| self.mark(*id, MarkKind::Forgotten))
    }

    /// Puts a marker; one that is damaged is replaced.
    fn mark(&self, id: ImageId, kind: MarkKind) -> Result<(), Error> {
        if self.objects().mark(id, kind).is_err() {
            delete(self.objects(), self.powers().delete.as_ref(), &mark_name(id, kind))?;
        }
        self.objects().put_mark(id, kind)
    }

    /// Takes the tombstone away and proves that the image still is whole; the image that stands for it now (another
    /// one, when some of its packs were about to be collected and had to be copied).
    pub fn undelete(&self, id: ImageId, lock_wait: Duration) -> Result<ImageId, Error> {
        let options = WriterOptions { what: "undelete".to_string(), lock_wait, ..WriterOptions::default() };
        let writer = self.writer(&options)?;
        writer.take_tombstone(id)?;
        let manifest = self.objects().manifest(id)?;
        Ok(writer.confirm(id, &manifest)?.image)
    }

    /// Sets or removes the mark that forget and retention rules respect.
    pub fn protect(&self, id: ImageId, on: bool) -> Result<(), Error> {
        self.check_writable()?;
        if on {
            self.objects().manifest(id)?;
            return self.mark(id, MarkKind::Protected);
        }
        delete(self.objects(), self.powers().delete.as_ref(), &mark_name(id, MarkKind::Protected))
    }

    /// Confirms an image whose capture ended between manifest and marker; the image that stands for it now.
    pub fn confirm(&self, id: ImageId, lock_wait: Duration) -> Result<ImageId, Error> {
        let options = WriterOptions { what: "confirm".to_string(), lock_wait, ..WriterOptions::default() };
        let writer = self.writer(&options)?;
        let manifest = self.objects().manifest(id)?;
        Ok(writer.confirm(id, &manifest)?.image)
    }

    /// Opens the catalogue, brings it in line with the packs and says what that took.
    pub fn check_index(&self, lock_wait: Duration) -> Result<CatalogueState, Error> {
        Ok(Work::begin(self, "index check", lock_wait, false)?.state().clone())
    }

    /// Throws the catalogue away and reads all trailers again.
    pub fn rebuild_index(&self, lock_wait: Duration) -> Result<CatalogueState, Error> {
        Ok(Work::begin(self, "index rebuild", lock_wait, true)?.state().clone())
    }

    /// Who is at work, as far as the store knows; dead processes of this machine left out.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>, Error> {
        let sessions = self.objects().sessions()?.into_iter().map(|(_, info)| info);
        Ok(sessions.filter(|info| !info.is_dead()).collect())
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.inner.reader.objects
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.inner.reader
    }

    pub(crate) fn powers(&self) -> &Powers {
        &self.inner.powers
    }

    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        match self.inner.config.unknown_for_writing() {
            None => Ok(()),
            Some(feature) => Err(Error::Unsupported {
                name: "config".to_string(),
                what: format!("feature {feature:?} for writing"),
            }),
        }
    }

    /// The post-check (DESIGN §5.3, step 5): packs of the image that are condemned, gone or of another size than
    /// `sizes` knows. The records are read before the list of packs: with the other order data is lost.
    pub(crate) fn packs_lost(
        &self,
        manifest: &Manifest,
        sizes: Option<&HashMap<PackId, u64>>,
    ) -> Result<Vec<PackId>, Error> {
        let condemned = self.objects().condemned_packs()?;
        let there = self.objects().packs()?;
        let sound = |pack: &PackId| {
            let size = there.get(pack);
            let known = sizes.and_then(|sizes| sizes.get(pack));
            size.is_some() && !condemned.contains(pack) && known.is_none_or(|known| Some(known) == size)
        };
        // A pack that was collected and has moved counts as lost too: what moved was what others needed.
        let needed = self.reader().packs_of(manifest, &mut KnownPacks::default())?;
        Ok(needed.into_iter().filter(|pack| !sound(pack)).collect())
    }
}

fn is_there(entry: &ImageEntry) -> bool {
    !matches!(entry.manifest, Err(Error::NoImage { .. }))
}

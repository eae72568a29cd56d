//! The objects of a store by their types: names, listings, records. Names: DESIGN §4.1.
//!
//! Promise: every error says which object; a name that is not of a known shape is skipped in listings and reported by
//! scrub. Knows nothing of the order in which objects must be written: that is `writer` and `gc`.

use crate::backend::{self, Backend, Delete, Name, Put};
use crate::config::{CONFIG_BYTES_MAX, Config, ConfigError};
use crate::frame::FRAME_BYTES_MAX;
use crate::id::{ImageId, PackId, SessionId};
use crate::manifest::Manifest;
use crate::pack::{self, PackEntry};
use crate::session::{self, Condemned, Mark, MarkKind, Moves, Record, SessionInfo};
use crate::{Error, PackError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A marker or record is small; anything larger is not ours. A condemn record of a million packs has 67 MB.
const RECORD_BYTES_MAX: u64 = 256 << 20;
/// What is fetched of a pack's end at first: most trailers fit, so that one request does.
const TAIL_GUESS_BYTES: u64 = 64 << 10;
/// No more is fetched at first whatever the catalogue says that a pack lists (I9): 24,000 entries.
const TAIL_BYTES_MAX: u64 = 1 << 20;

pub(crate) const CONFIG_NAMES: [&str; 2] = ["config", "config.copy"];

/// A record as it was found: its object, its id, and what it says or why it can't be read.
type FoundRecord<R> = (Name, SessionId, Result<R, Error>);

/// Typed access to a backend. Holds no power to delete.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    pub(crate) backend: Arc<dyn Backend>,
}

/// An image as its objects show it.
#[derive(Debug)]
pub struct ImageEntry {
    /// The name of its manifest.
    pub id: ImageId,
    /// The manifest, or why it cannot be read.
    pub manifest: Result<Manifest, Error>,
    /// The post-check has passed.
    pub confirmed: bool,
    /// When it was forgotten, RFC 3339.
    pub forgotten: Option<String>,
    /// Forget refuses it.
    pub protected: bool,
}

/// The small objects beside the manifests, as listed.
#[derive(Debug, Default)]
pub(crate) struct ImageNames {
    /// Every image that has a manifest.
    pub(crate) manifests: Vec<ImageId>,
    /// Markers there are, readable or not.
    pub(crate) marks: HashSet<(ImageId, &'static str)>,
    /// Confirmed images, not forgotten, whose manifest is gone.
    pub(crate) lost: Vec<ImageId>,
}

fn name(text: &str) -> Name {
    // Our own names are made of hex digits, slashes, dots and fixed words: always valid.
    Name::new(text).unwrap_or_else(|_| unreachable!("{text:?} is a valid name"))
}

/// The name of one of the fixed objects, `config` and its copy.
pub(crate) fn fixed_name(text: &str) -> Name {
    name(text)
}

pub(crate) fn pack_name(id: PackId) -> Name {
    let hex = id.to_string();
    name(&format!("packs/{}/{hex}", &hex[..2]))
}

pub(crate) fn image_name(id: ImageId) -> Name {
    name(&format!("images/{id}"))
}

pub(crate) fn mark_name(id: ImageId, kind: MarkKind) -> Name {
    name(&format!("images/{id}.{}", kind.suffix()))
}

pub(crate) fn condemned_name(id: SessionId) -> Name {
    name(&format!("condemned/{id}"))
}

pub(crate) fn moves_name(id: SessionId) -> Name {
    name(&format!("moves/{id}"))
}

pub(crate) fn session_name(id: SessionId) -> Name {
    name(&format!("sessions/{id}"))
}

/// The last component of a name.
fn last(name: &Name) -> &str {
    name.as_str().rsplit('/').next().unwrap_or_default()
}

impl Objects {
    pub(crate) fn fail(&self, source: backend::Error) -> Error {
        Error::Backend { place: self.backend.place(), source }
    }

    pub(crate) fn put(&self, name: &Name, bytes: &[u8]) -> Result<Put, Error> {
        self.backend.put(name, bytes).map_err(|source| self.fail(source))
    }

    pub(crate) fn get_range(&self, name: &Name, start: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        self.backend.get(name, start..start.saturating_add(bytes)).map_err(|source| self.fail(source))
    }

    pub(crate) fn list(&self, folder: &str) -> Result<Vec<backend::Entry>, Error> {
        self.backend.list(folder).map_err(|source| self.fail(source))
    }

    /// The config, from whichever copy is good; the other's error beside it.
    pub(crate) fn config(&self) -> Result<(Config, Option<Error>), Error> {
        let mut first_error = None;
        for text in CONFIG_NAMES {
            match self.config_of(text) {
                Ok(Some(config)) => return Ok((config, first_error)),
                Ok(None) => {}
                Err(error @ Error::Unsupported { .. }) => return Err(error),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| Error::NoStore { place: self.backend.place() }))
    }

    /// One copy of the config; `None` when it is not there.
    pub(crate) fn config_of(&self, text: &str) -> Result<Option<Config>, Error> {
        let bytes = match self.backend.get_all(&name(text), CONFIG_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(backend::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.fail(source)),
        };
        let name = || text.to_string();
        Config::decode(&bytes).map(Some).map_err(|error| match error {
            ConfigError::Frame(source) => Error::Frame { name: name(), source },
            ConfigError::Content(found) => Error::Content { name: name(), expected: "a config", found },
            ConfigError::Unsupported(what) => Error::Unsupported { name: name(), what },
        })
    }

    /// All packs, with the sizes of their files.
    pub(crate) fn packs(&self) -> Result<BTreeMap<PackId, u64>, Error> {
        let entries = self.list("packs")?;
        Ok(entries.iter().filter_map(|entry| Some((last(&entry.name).parse().ok()?, entry.bytes))).collect())
    }

    /// The listing of a pack, from its header and tail.
    pub(crate) fn listing(&self, pack: PackId, pack_bytes: u64) -> Result<Vec<PackEntry>, Error> {
        self.listing_by_guess(pack, pack_bytes, TAIL_GUESS_BYTES)
    }

    /// The same where it is known how many entries there should be: no more than they take is read.
    pub(crate) fn listing_of(
        &self,
        pack: PackId,
        pack_bytes: u64,
        entries: u32,
    ) -> Result<Vec<PackEntry>, Error> {
        self.listing_by_guess(pack, pack_bytes, pack::tail_of(entries).min(TAIL_BYTES_MAX))
    }

    fn listing_by_guess(
        &self,
        pack: PackId,
        pack_bytes: u64,
        guess_bytes: u64,
    ) -> Result<Vec<PackEntry>, Error> {
        let damaged = |source| Error::Pack { pack, source };
        let least = (pack::HEADER_BYTES + pack::FOOTER_BYTES) as u64;
        if !(least..=pack::PACK_BYTES_MAX).contains(&pack_bytes) {
            return Err(damaged(PackError::Length { expected: least, found: pack_bytes }));
        }
        let name = pack_name(pack);
        let header = self.get_range(&name, 0, pack::HEADER_BYTES as u64)?;
        let guess = guess_bytes.min(pack_bytes);
        let mut tail = self.get_range(&name, pack_bytes - guess, guess)?;
        let footer = &tail[tail.len().saturating_sub(pack::FOOTER_BYTES)..];
        let needed = pack::tail_bytes(footer, pack_bytes).map_err(damaged)?;
        if needed > guess {
            tail = self.get_range(&name, pack_bytes - needed, needed)?;
        }
        let spare = tail.len().saturating_sub(usize::try_from(needed).unwrap_or(usize::MAX));
        pack::decode_tail(&header, &tail[spare..], pack_bytes).map_err(damaged)
    }

    /// Manifests and markers that are there.
    pub(crate) fn image_names(&self) -> Result<ImageNames, Error> {
        let mut names = ImageNames::default();
        for entry in self.list("images")? {
            let (hex, suffix) = last(&entry.name).split_once('.').unwrap_or((last(&entry.name), ""));
            let Ok(id) = hex.parse::<ImageId>() else { continue };
            if suffix.is_empty() {
                names.manifests.push(id);
            } else if let Some(kind) = MarkKind::ALL.into_iter().find(|kind| kind.suffix() == suffix) {
                names.marks.insert((id, kind.suffix()));
            }
        }
        names.lost = self.lost_manifests(&names)?;
        Ok(names)
    }

    /// A collector takes `ok`, manifest and tombstone in this order, so a lone `ok` is a loss; unless the image was
    /// published while the listing ran.
    fn lost_manifests(&self, names: &ImageNames) -> Result<Vec<ImageId>, Error> {
        let manifests: HashSet<ImageId> = names.manifests.iter().copied().collect();
        let mut lost = Vec::new();
        for (image, suffix) in &names.marks {
            let alone = *suffix == MarkKind::Ok.suffix()
                && !manifests.contains(image)
                && !names.marks.contains(&(*image, MarkKind::Forgotten.suffix()));
            let exists = || self.backend.exists(&image_name(*image)).map_err(|source| self.fail(source));
            if alone && !exists()? {
                lost.push(*image);
            }
        }
        lost.sort_unstable();
        Ok(lost)
    }

    pub(crate) fn manifest(&self, image: ImageId) -> Result<Manifest, Error> {
        match self.backend.get_all(&image_name(image), FRAME_BYTES_MAX) {
            Ok(bytes) => Manifest::decode(image, &bytes),
            Err(backend::Error::NotFound { .. }) => Err(Error::NoImage { image }),
            Err(source) => Err(self.fail(source)),
        }
    }

    /// A marker, `None` when it is not there, an error when it is there and damaged.
    pub(crate) fn mark(&self, image: ImageId, kind: MarkKind) -> Result<Option<Mark>, Error> {
        let name = mark_name(image, kind);
        let Some(mark) = self.record::<Mark>(&name)? else { return Ok(None) };
        if mark.mark != kind || mark.image != image {
            let found = format!("{} of image {}", mark.mark.suffix(), mark.image);
            return Err(Error::Content {
                name: name.to_string(),
                expected: "the mark that its name says",
                found,
            });
        }
        Ok(Some(mark))
    }

    pub(crate) fn put_mark(&self, image: ImageId, kind: MarkKind) -> Result<(), Error> {
        let bytes = session::encode(&Mark { mark: kind, image, time: session::now() });
        let name = mark_name(image, kind);
        // Markers are put without the lock: a writer that begins meanwhile may sweep our temporary file away.
        let swept =
            |result: &Result<Put, Error>| matches!(result, Err(error) if error.family() == crate::Family::Io);
        let first = self.put(&name, &bytes);
        if swept(&first) { self.put(&name, &bytes).map(drop) } else { first.map(drop) }
    }

    /// An image as its objects show it; `names` from one listing.
    pub(crate) fn image_entry(&self, id: ImageId, names: &ImageNames) -> ImageEntry {
        let there = |kind: MarkKind| names.marks.contains(&(id, kind.suffix()));
        let good = |kind: MarkKind| if there(kind) { self.mark(id, kind).ok().flatten() } else { None };
        ImageEntry {
            id,
            manifest: self.manifest(id),
            confirmed: good(MarkKind::Ok).is_some(),
            forgotten: good(MarkKind::Forgotten).map(|mark| mark.time),
            // A damaged protection still protects: the side that loses nothing.
            protected: there(MarkKind::Protected),
        }
    }

    fn record<R: Record>(&self, name: &Name) -> Result<Option<R>, Error> {
        match self.backend.get_all(name, RECORD_BYTES_MAX) {
            Ok(bytes) => session::decode(name.as_str(), &bytes).map(Some),
            Err(backend::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.fail(source)),
        }
    }

    /// All records of a folder, damaged ones as errors; one that went away meanwhile is left out.
    fn records_as_they_are<R: Record>(&self, folder: &str) -> Result<Vec<FoundRecord<R>>, Error> {
        let mut records = Vec::new();
        for entry in self.list(folder)? {
            let Ok(id) = last(&entry.name).parse() else { continue };
            match self.record(&entry.name) {
                Ok(Some(record)) => records.push((entry.name, id, Ok(record))),
                Ok(None) => {}
                Err(error) if error.family() == crate::Family::Damaged => {
                    records.push((entry.name, id, Err(error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    pub(crate) fn condemned(&self) -> Result<Vec<(SessionId, Condemned)>, Error> {
        let records = self.records_as_they_are("condemned")?;
        records.into_iter().map(|(_, id, record)| Ok((id, record?))).collect()
    }

    /// All packs that any record condemns.
    pub(crate) fn condemned_packs(&self) -> Result<HashSet<PackId>, Error> {
        Ok(self.condemned()?.into_iter().flat_map(|(_, record)| record.packs).collect())
    }

    /// All images that a collector has said it removes.
    pub(crate) fn condemned_images(&self) -> Result<HashSet<ImageId>, Error> {
        Ok(self.condemned()?.into_iter().flat_map(|(_, record)| record.images).collect())
    }

    /// The records of moves that can be read: they are hints (I9), so a damaged one is as good as none.
    pub(crate) fn moves(&self) -> Result<Vec<(SessionId, Moves)>, Error> {
        let readable = |(_, id, record): FoundRecord<Moves>| Some((id, record.ok()?));
        Ok(self.records_as_they_are("moves")?.into_iter().filter_map(readable).collect())
    }

    /// The names and causes of records of moves that can't be read.
    pub(crate) fn damaged_moves(&self) -> Result<Vec<(Name, Error)>, Error> {
        self.damaged_records::<Moves>("moves")
    }

    /// The names and causes of condemn records that can't be read.
    pub(crate) fn damaged_condemned(&self) -> Result<Vec<(Name, Error)>, Error> {
        self.damaged_records::<Condemned>("condemned")
    }

    fn damaged_records<R: Record>(&self, folder: &str) -> Result<Vec<(Name, Error)>, Error> {
        let records = self.records_as_they_are::<R>(folder)?;
        Ok(records.into_iter().filter_map(|(name, _, record)| Some((name, record.err()?))).collect())
    }

    /// Old pack -> packs that hold its chunks, over all records.
    pub(crate) fn moved(&self) -> Result<HashMap<PackId, Vec<PackId>>, Error> {
        let mut all: HashMap<PackId, Vec<PackId>> = HashMap::new();
        for (_, record) in self.moves()? {
            for (old, new) in record.moved {
                all.entry(old).or_default().extend(new);
            }
        }
        Ok(all)
    }

    /// Sessions there are; damaged ones are left out, as nothing rests on them.
    pub(crate) fn sessions(&self) -> Result<Vec<(SessionId, SessionInfo)>, Error> {
        let mut sessions = Vec::new();
        for entry in self.list("sessions")? {
            let Ok(id) = last(&entry.name).parse() else { continue };
            if let Ok(Some(info)) = self.record(&entry.name) {
                sessions.push((id, info));
            }
        }
        Ok(sessions)
    }
}

/// Removes an object: only gc, undelete, unprotect and the end of a session hold a `Delete` (I8).
pub(crate) fn delete(objects: &Objects, power: &dyn Delete, name: &Name) -> Result<(), Error> {
    power.delete(name).map_err(|source| objects.fail(source))
}

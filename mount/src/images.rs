//! Images as folders: the whole disk and each partition as a file, and the files in them where someone can read them.
//!
//! Promise: an image is opened when it is first looked into; at most [`IMAGES_OPEN_MAX`] are open at a time, so memory is
//! bounded however many are mounted and whatever is read.
//! Knows nothing of stores: whoever mounts says how an image is opened.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use disk::files::{Files, FilesError};
use disk::{Extent, ReadAt, Section};

use crate::failures::{Ledger, Tell};
use crate::nodes::{Device, Kind, Nodes, OpenFiles};
use crate::server::Server;
use crate::session::{Manner, Session};
use crate::{Error, Failures};

/// Images that are open at a time. Each keeps up to 64 MiB of chunks.
pub const IMAGES_OPEN_MAX: usize = 4;

/// Volumes whose files are open at a time.
const VOLUMES_OPEN_MAX: usize = 8;

/// Opens an image.
pub type OpenImage = Box<dyn Fn() -> Result<Arc<dyn ReadAt>, disk::Error> + Send + Sync>;

/// An image to be mounted.
pub struct MountedImage {
    /// Its folder.
    pub name: String,
    /// When it was captured: the time of its files.
    pub time: SystemTime,
    /// Size of the disk.
    pub size_bytes: u64,
    /// Its partitions; when there are none, it may be a filesystem itself, whose files are in the folder `files`.
    pub volumes: Vec<MountedVolume>,
    /// How to open it.
    pub open: OpenImage,
}

/// A partition of an image.
pub struct MountedVolume {
    /// Its file is `pN.img`, the folder of its files `pN`.
    pub number: u32,
    /// Where it is.
    pub extent: Extent,
    /// Which filesystem, as blkid calls it; `None` when there is none that anyone knows.
    pub content: Option<String>,
}

/// A link beside the images' folders.
pub struct MountedLink {
    /// Its name.
    pub name: String,
    /// The name of an image's folder.
    pub target: String,
}

/// Images that are mounted, until this is dropped.
pub struct Mounted {
    session: Session,
    ledger: Arc<Ledger>,
}

/// Mounts images on `folder`. `is_for_all`: others than this user may look, as far as each file's permissions let them.
/// `tell` is called with each failed read: other programs see only "Input/output error".
///
/// # Errors
/// [`Error::Mount`].
pub fn mount_images(
    images: Vec<MountedImage>,
    links: Vec<MountedLink>,
    folder: &Path,
    is_for_all: bool,
    tell: Box<dyn Fn(&str) + Send + Sync>,
) -> Result<Mounted, Error> {
    let tell: Tell = tell;
    let ledger = Arc::new(Ledger::new(tell));
    let server = Server::new(nodes(images, links), ledger.clone());
    let session = Session::start(server, folder, Manner { is_read_only: true, is_for_all })?;
    Ok(Mounted { session, ledger })
}

impl Mounted {
    /// Whether someone else has unmounted it.
    pub fn has_ended(&self) -> bool {
        self.session.has_ended()
    }

    /// Reads that failed so far.
    pub fn failures(&self) -> Failures {
        self.ledger.so_far()
    }
}

fn nodes(images: Vec<MountedImage>, links: Vec<MountedLink>) -> Nodes {
    let mut nodes = Nodes::new();
    let opened = Arc::new(Kept::new(IMAGES_OPEN_MAX));
    let volumes = Arc::new(Kept::new(VOLUMES_OPEN_MAX));
    for (number, image) in images.into_iter().enumerate() {
        let MountedImage { name, time, size_bytes, volumes: parts, open } = image;
        let folder = nodes.add(0, &name, time, Kind::Folder(Vec::new()));
        let disk = Arc::new(Image { number, size_bytes, open, opened: Arc::clone(&opened) });
        nodes.add(folder, "disk.img", time, device(disk.clone()));
        if parts.is_empty() {
            let files = open_files((number, 0), disk.clone(), None, Arc::clone(&volumes));
            nodes.add(folder, "files", time, Kind::Files(files));
        }
        for part in parts {
            let volume = Arc::new(Section::new(disk.clone(), part.extent));
            nodes.add(folder, &format!("p{}.img", part.number), time, device(volume.clone()));
            if let Some(content) = part.content {
                let files = open_files((number, part.number), volume, Some(content), Arc::clone(&volumes));
                nodes.add(folder, &format!("p{}", part.number), time, Kind::Files(files));
            }
        }
    }
    for link in links {
        nodes.add(0, &link.name, SystemTime::now(), Kind::Link(link.target.into()));
    }
    nodes
}

fn device(device: Arc<dyn ReadAt>) -> Kind {
    let size_bytes = device.size_bytes();
    Kind::Device(Device { size_bytes, open: Box::new(move || Ok(device.clone())), writer: None })
}

type OpenedVolumes = Kept<(usize, u32), Option<Arc<dyn Files>>>;

fn open_files(
    key: (usize, u32),
    volume: Arc<dyn ReadAt>,
    content: Option<String>,
    opened: Arc<OpenedVolumes>,
) -> OpenFiles {
    Box::new(move || {
        opened.get(key, || {
            let whole = Extent { offset: 0, bytes: volume.size_bytes() };
            let found = content.clone().or_else(|| Some(disk::probe(&volume, whole)?.kind));
            let Some(kind) = found else { return Ok(None) };
            let files = disk::files::files(volume.clone(), &kind)?;
            Ok::<_, FilesError>(files.map(Arc::from))
        })
    })
}

/// An image that is opened again where it was closed for others.
struct Image {
    number: usize,
    size_bytes: u64,
    open: OpenImage,
    opened: Arc<Kept<usize, Arc<dyn ReadAt>>>,
}

impl Image {
    fn reader(&self) -> Result<Arc<dyn ReadAt>, disk::Error> {
        self.opened.get(self.number, || (self.open)())
    }
}

impl ReadAt for Image {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        self.reader()?.read_exact_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        self.reader()?.next_data(offset)
    }
}

/// The values that were used last.
struct Kept<K, V> {
    /// The last used one comes last.
    values: Mutex<Vec<(K, V)>>,
    max: usize,
}

impl<K: PartialEq, V: Clone> Kept<K, V> {
    fn new(max: usize) -> Kept<K, V> {
        Kept { values: Mutex::default(), max }
    }

    /// The value of a key, made when it is not there. Two threads may make one at the same time: one is used.
    fn get<E>(&self, key: K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let lock = || self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let mut values = lock();
        if let Some(index) = values.iter().position(|(it, _)| *it == key) {
            let found = values.remove(index);
            let value = found.1.clone();
            values.push(found);
            return Ok(value);
        }
        drop(values);
        let value = make()?;
        let mut values = lock();
        if let Some((_, other)) = values.iter().find(|(it, _)| *it == key) {
            return Ok(other.clone());
        }
        if values.len() >= self.max {
            values.remove(0);
        }
        values.push((key, value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_is_kept() {
        let kept = Kept::new(2);
        let made = Mutex::new(Vec::new());
        for key in [1, 2, 1, 3, 1, 2] {
            let value = kept.get(key, || {
                made.lock().unwrap().push(key);
                Ok::<_, ()>(key * 10)
            });
            assert_eq!(value, Ok(key * 10));
        }
        assert_eq!(*made.lock().unwrap(), [1, 2, 3, 2]);
        assert_eq!(kept.get(9, || Err("no")), Err("no"));
    }
}

//! What was promised to people, watched from outside: an image whose marker was published and that nobody forgot must be
//! readable after every single call.
//!
//! Promise: says what was lost as soon as the last copy of a chunk goes. Reads packs by DESIGN §4.5 with code of its own.
//! Knows nothing of who does what and why.

use std::collections::{BTreeMap, HashMap};
use store::backend::{Backend, MemoryBackend, Name};
use store::{Home, ImageId, Run, Store};

/// The disks that are captured: by number, their chunks.
pub(crate) type Disks = Vec<Vec<Vec<u8>>>;

type Blob = ([u8; 32], u8);

/// See the file's head.
pub(crate) struct Oracle {
    pub(crate) raw: MemoryBackend,
    disks: Disks,
    /// Confirmed and not forgotten: the number of the disk. In the order of confirmation.
    promised: Vec<(ImageId, usize)>,
    /// Forgotten by the user.
    pub(crate) forgotten: Vec<ImageId>,
    packs: BTreeMap<String, Vec<Blob>>,
    copies: HashMap<Blob, usize>,
    pub(crate) confirmed: u64,
}

impl Oracle {
    pub(crate) fn new(raw: MemoryBackend, disks: Disks) -> Oracle {
        let mut oracle = Oracle {
            raw,
            disks,
            promised: Vec::new(),
            forgotten: Vec::new(),
            packs: BTreeMap::new(),
            copies: HashMap::new(),
            confirmed: 0,
        };
        for entry in oracle.raw.list("").unwrap() {
            let bytes = oracle.raw.get(&entry.name, 0..entry.bytes).unwrap();
            oracle.put(&entry.name, &bytes);
        }
        oracle.confirmed = 0;
        oracle
    }

    pub(crate) fn promised(&self) -> Vec<ImageId> {
        self.promised.iter().map(|(image, _)| *image).collect()
    }

    pub(crate) fn is_promised(&self, image: ImageId) -> bool {
        self.promised.iter().any(|(other, _)| *other == image)
    }

    /// After a put.
    pub(crate) fn put(&mut self, name: &Name, bytes: &[u8]) {
        if name.as_str().starts_with("packs/") {
            let blobs = listing(bytes);
            blobs.iter().for_each(|blob| *self.copies.entry(*blob).or_default() += 1);
            self.packs.insert(name.to_string(), blobs);
        }
        match image_and_suffix(name) {
            // Somebody else may have confirmed it before, and the user forgotten it since.
            Some((image, "ok")) if !self.is_promised(image) && !self.has_tombstone(image) => {
                if let Some(disk) = self.disk_of(image) {
                    self.promised.push((image, disk));
                    self.forgotten.retain(|other| *other != image);
                    self.confirmed += 1;
                }
            }
            Some((image, "forgotten")) => self.promised.retain(|(other, _)| *other != image),
            _ => {}
        }
    }

    /// Before a tombstone that `by_user` did not ask for: the same disk must be promised by another image.
    pub(crate) fn before_tombstone(&self, name: &Name, by_user: bool) -> Option<String> {
        let (image, _) = image_and_suffix(name).filter(|(_, suffix)| *suffix == "forgotten")?;
        let (_, disk) = self.promised.iter().find(|(other, _)| *other == image)?;
        let other = self.promised.iter().any(|(other, of)| *other != image && of == disk);
        (!by_user && !other).then(|| format!("image {image} is forgotten though nobody asked for it"))
    }

    /// After a deletion: what was lost by it.
    pub(crate) fn deleted(&mut self, name: &Name) -> Option<String> {
        if let Some((image, "")) = image_and_suffix(name) {
            return self
                .is_promised(image)
                .then(|| format!("the manifest of promised image {image} deleted"));
        }
        let blobs = self.packs.remove(name.as_str())?;
        let mut table_gone = false;
        for blob in blobs {
            let copies = self.copies.entry(blob).or_default();
            *copies = copies.saturating_sub(1);
            if *copies > 0 {
                continue;
            }
            table_gone |= blob.1 == 1;
            let needs = |(_, disk): &&(ImageId, usize)| {
                self.disks[*disk].iter().any(|chunk| store::chunk_id(chunk).as_bytes() == &blob.0)
            };
            if let Some((image, disk)) = self.promised.iter().find(needs) {
                return Some(format!("{name} deleted: the last copy of a chunk of {image}, disk {disk}"));
            }
        }
        if table_gone { self.check() } else { None }
    }

    /// Reads all that was promised, with a store opened anew.
    pub(crate) fn check(&self) -> Option<String> {
        self.promised.iter().find_map(|(image, disk)| {
            let read = read(&self.store(), *image);
            match read {
                Ok(bytes) if bytes == self.disks[*disk].concat() => None,
                Ok(_) => Some(format!("image {image}: other bytes than disk {disk}")),
                Err(error) => Some(format!("image {image} of disk {disk} can't be read: {error}")),
            }
        })
    }

    /// A store without scheduler.
    pub(crate) fn store(&self) -> Store {
        Store::open(&self.home()).unwrap()
    }

    pub(crate) fn home(&self) -> Home {
        let raw = std::sync::Arc::new(self.raw.clone());
        Home::custom(raw.clone(), raw)
    }

    fn has_tombstone(&self, image: ImageId) -> bool {
        let name = Name::new(&format!("images/{image}.forgotten")).unwrap();
        self.raw.exists(&name).unwrap()
    }

    fn disk_of(&self, image: ImageId) -> Option<usize> {
        self.store().image(image).ok()?.manifest().disk.parse().ok()
    }
}

/// The bytes of an image.
pub(crate) fn read(store: &Store, image: ImageId) -> Result<Vec<u8>, store::Error> {
    let image = store.image(image)?;
    let mut chunks = Vec::new();
    for placed in image.runs(0, image.bytes())? {
        if let Run::Chunk(chunk) = placed.run {
            chunks.push(chunk);
        }
    }
    Ok(image.fetch(&chunks).into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// The image that an object belongs to, and what follows its name.
pub(crate) fn image_and_suffix(name: &Name) -> Option<(ImageId, &str)> {
    let rest = name.as_str().strip_prefix("images/")?;
    let (hex, suffix) = rest.split_once('.').unwrap_or((rest, ""));
    Some((hex.parse().ok()?, suffix))
}

/// Ids and kinds in a pack's trailer.
fn listing(bytes: &[u8]) -> Vec<Blob> {
    let footer = bytes.len() - 48;
    let trailer = u32::from_le_bytes(bytes[footer..footer + 4].try_into().unwrap()) as usize;
    let entries = bytes[footer - trailer..footer].chunks_exact(44);
    entries.map(|entry| (entry[..32].try_into().unwrap(), entry[40])).collect()
}

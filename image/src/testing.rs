//! What the tests of this crate share: small stores, bytes from a seed, and devices with partitions.
//!
//! Knows nothing of any one test.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::{Extent, Identity, Layout, MemoryDevice, ReadAt, TableKind, Volume, WriteAt};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use store::{Config, Home, Run, Store, StoredImage};

use crate::{CaptureOptions, Captured, SourceInfo, capture};

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A device's worth of stretches of data, repeated data and zeros, on odd borders.
pub(crate) fn disk_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(seed);
    let repeated = random_bytes(seed ^ 1, 50_000);
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let length = random.random_range(1..150_000usize);
        match random.random_range(0..4) {
            0 => bytes.resize(bytes.len() + length, 0),
            1 => bytes.extend_from_slice(&repeated[..length.min(repeated.len())]),
            _ => bytes.extend(random_bytes(random.random(), length)),
        }
    }
    bytes.truncate(count);
    bytes
}

/// A store in memory with small segments, leaves and chunks: a few MiB show what terabytes would.
pub(crate) fn small_store() -> (Home, Store) {
    let home = Home::memory();
    let config = Config {
        segment_bytes: 256 << 10,
        leaf_bytes: 64 << 10,
        fan_out: 4,
        ..Config::new("fastcdc:1024,4096,16384")
    };
    let store = Store::init(&home, config).unwrap();
    (home, store)
}

pub(crate) fn volume(number: u32, offset: u64, bytes: u64) -> Volume {
    Volume {
        number,
        extent: Extent { offset, bytes },
        type_id: String::new(),
        type_name: None,
        uuid: None,
        name: None,
        bootable: false,
        content: None,
    }
}

/// A source with these volumes.
pub(crate) fn source(bytes: usize, volumes: Vec<Volume>, exclude: &[u32]) -> SourceInfo {
    let bytes = bytes as u64;
    let identity = Identity { name: "testdisk".into(), size_bytes: bytes, ..Identity::stream() };
    let table = if volumes.is_empty() { TableKind::None } else { TableKind::Mbr };
    let layout = Layout { table, sector_bytes: 512, volumes, ..Layout::default() };
    SourceInfo::new(identity, layout, bytes, exclude).unwrap()
}

pub(crate) fn options(threads: usize) -> CaptureOptions {
    CaptureOptions { threads, created: store::now(), host: "testhost".into(), ..CaptureOptions::default() }
}

/// Captures plain bytes without partitions.
pub(crate) fn capture_bytes(store: &Store, bytes: &[u8]) -> (Captured, StoredImage) {
    let device = MemoryDevice::new(bytes.to_vec());
    let captured = capture(&source(bytes.len(), Vec::new(), &[]), &device, store, &options(2), &()).unwrap();
    let image = store.image(captured.image).unwrap();
    (captured, image)
}

/// A store on disk with an image of these bytes, one bit flipped of the data chunk at an offset.
pub(crate) fn damaged_store(folder: &Path, bytes: &[u8], at: u64) -> (Store, StoredImage) {
    let home = Home::local(&folder.join("store"));
    let config =
        Config { segment_bytes: 256 << 10, leaf_bytes: 64 << 10, ..Config::new("fastcdc:1024,4096,16384") };
    let store = Store::init(&home, config).unwrap();
    let (_, image) = capture_bytes(&store, bytes);
    let runs = image.runs(at, 1).unwrap();
    let Run::Chunk(chunk) = runs[0].run else { panic!("no data at {at}") };
    let pack = chunk.pack.to_string();
    let path = folder.join("store/packs").join(&pack[..2]).join(&pack);
    let mut held = std::fs::read(&path).unwrap();
    held[usize::try_from(chunk.offset + chunk.stored_bytes / 2).unwrap()] ^= 4;
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&path, permissions).unwrap();
    std::fs::write(&path, held).unwrap();
    let store = Store::open(&home).unwrap();
    let image = store.image(image.id()).unwrap();
    (store, image)
}

/// A device that counts what is written, and remembers the order of writes.
pub(crate) struct Recorder {
    pub(crate) inner: MemoryDevice,
    writes: Mutex<Vec<Extent>>,
    pub(crate) read: AtomicU64,
}

impl Recorder {
    pub(crate) fn new(bytes: Vec<u8>) -> Recorder {
        Recorder { inner: MemoryDevice::new(bytes), writes: Mutex::default(), read: AtomicU64::default() }
    }

    pub(crate) fn written(&self) -> Vec<Extent> {
        self.writes.lock().unwrap().clone()
    }
}

impl ReadAt for Recorder {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.inner.read_exact_at(offset, buf)
    }
}

impl WriteAt for Recorder {
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), disk::Error> {
        self.writes.lock().unwrap().push(Extent { offset, bytes: buf.len() as u64 });
        self.inner.write_all_at(offset, buf)
    }
    fn write_zeros_at(&self, extent: Extent) -> Result<(), disk::Error> {
        self.writes.lock().unwrap().push(extent);
        self.inner.write_zeros_at(extent)
    }
    fn sync(&self) -> Result<(), disk::Error> {
        self.inner.sync()
    }
}

/// 8 MiB of swap, of which nothing is kept but the first page.
fn swap() -> Vec<u8> {
    let mut bytes = random_bytes(12, 8 << 20);
    bytes[..4096].fill(0);
    bytes[1024..1028].copy_from_slice(&1_u32.to_le_bytes());
    bytes[1028..1032].copy_from_slice(&2047_u32.to_le_bytes());
    bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
    bytes
}

/// A disk with two such volumes, and data between and around.
pub(crate) fn swap_disk() -> (Vec<u8>, SourceInfo) {
    let mut bytes = random_bytes(13, 30 << 20);
    // Nothing that looks like a filesystem over the whole.
    bytes[..1 << 20].fill(0);
    for at in [4 << 20, 16 << 20] {
        bytes[at..at + (8 << 20)].copy_from_slice(&swap());
    }
    let swap = |number, at| Volume { type_id: "0x82".to_owned(), ..volume(number, at, 8 << 20) };
    let info = source(30 << 20, vec![swap(1, 4 << 20), swap(2, 16 << 20)], &[]);
    (bytes, info)
}

/// Gives what it holds, and something else from the so-manieth read on.
pub(crate) struct Changing {
    pub(crate) before: MemoryDevice,
    pub(crate) after: MemoryDevice,
    pub(crate) reads: AtomicU64,
    pub(crate) changes_at: u64,
}

impl ReadAt for Changing {
    fn size_bytes(&self) -> u64 {
        self.before.size_bytes()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let changed = self.reads.fetch_add(1, Ordering::SeqCst) >= self.changes_at;
        if changed { &self.after } else { &self.before }.read_exact_at(offset, buf)
    }
}

/// CRC-32 as in the UEFI specification, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// Writes a GPT (UEFI 2.10 §5.3) with one partition over a device's bytes.
pub(crate) fn write_gpt(bytes: &mut [u8], first_lba: u64, last_lba: u64) {
    let last = bytes.len() as u64 / 512 - 1;
    let mut entries = vec![0; 128 * 128];
    entries[..32].fill(0x42);
    entries[32..40].copy_from_slice(&first_lba.to_le_bytes());
    entries[40..48].copy_from_slice(&last_lba.to_le_bytes());
    let header = |own: u64, other: u64, entries_lba: u64| {
        let mut header = vec![0; 512];
        header[..16].copy_from_slice(b"EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00");
        for (at, value) in [(24, own), (32, other), (40, 34), (48, last - 33), (72, entries_lba)] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..72].fill(0x24);
        for (at, value) in [(80, 128), (84, 128), (88, crc32(&entries))] {
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header
    };
    let mut put = |lba: u64, what: &[u8]| {
        let at = usize::try_from(lba * 512).unwrap();
        bytes[at..at + what.len()].copy_from_slice(what);
    };
    let mut protective = vec![0; 512];
    protective[446..462]
        .copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    protective[510..].copy_from_slice(&[0x55, 0xaa]);
    put(0, &protective);
    put(1, &header(1, last, 2));
    put(2, &entries);
    put(last - 32, &entries);
    put(last, &header(last, 1, last - 32));
}

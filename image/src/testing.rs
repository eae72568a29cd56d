//! What the tests of this crate share: small stores, bytes from a seed, and devices with partitions.
//!
//! Knows nothing of any one test.

use disk::{Extent, Identity, Layout, MemoryDevice, TableKind, Volume};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use store::{Config, Home, Store, StoredImage};

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

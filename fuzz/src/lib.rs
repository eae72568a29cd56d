//! What several fuzz targets have in common.
//!
//! Promise: a failed check is a panic, which is what the fuzzer looks for. Knows nothing of where bytes come from.

use disk::{Extent, MemoryDevice, allocation};

/// Room for the tables that the first bytes point to.
const VOLUME_BYTES: usize = 1 << 20;

/// A volume that begins with `data` and has a filesystem's signatures at their places.
pub fn volume(data: &[u8], signatures: &[(usize, &[u8])]) -> MemoryDevice {
    let mut volume = vec![0; VOLUME_BYTES];
    let len = data.len().min(VOLUME_BYTES);
    volume[..len].copy_from_slice(&data[..len]);
    for (at, bytes) in signatures {
        volume[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    MemoryDevice::new(volume)
}

/// What a filesystem says of its blocks lies in its volume.
pub fn check_allocation(data: &[u8], signatures: &[(usize, &[u8])]) {
    let extent = Extent { offset: 0, bytes: VOLUME_BYTES as u64 };
    if let Ok(Some(found)) = allocation(&volume(data, signatures), extent) {
        let excluded = found.excluded.iter().flat_map(|excluded| &excluded.extents);
        assert!(found.free.free().iter().chain(excluded).all(|part| part.end() <= extent.bytes));
    }
}

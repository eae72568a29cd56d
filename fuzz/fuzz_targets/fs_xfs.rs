//! Any bytes, taken as XFS: a map that lies in the volume, or a doubt, never a panic (I6).
#![no_main]

use disk::{Extent, MemoryDevice, allocation};

/// Room for the tables that the first bytes point to.
const VOLUME_BYTES: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut volume = vec![0; VOLUME_BYTES];
    let len = data.len().min(VOLUME_BYTES);
    volume[..len].copy_from_slice(&data[..len]);
    let magic: &[u8] = b"XFSB";
    volume[..magic.len()].copy_from_slice(magic);
    let extent = Extent { offset: 0, bytes: VOLUME_BYTES as u64 };
    if let Ok(Some(found)) = allocation(&MemoryDevice::new(volume), extent) {
        let excluded = found.excluded.iter().flat_map(|excluded| &excluded.extents);
        assert!(found.free.free().iter().chain(excluded).all(|part| part.end() <= extent.bytes));
    }
});

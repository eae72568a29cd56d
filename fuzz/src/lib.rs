//! What several fuzz targets have in common.
//!
//! Promise: a failed check is a panic, which is what the fuzzer looks for. Knows nothing of where bytes come from.

use std::sync::Arc;

use disk::files::{FileId, FileKind, Files, files};
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

/// Files looked at in one volume, and folders on the way to one.
const FILES_MAX: usize = 300;
const DEPTH_MAX: usize = 6;

/// Whatever a reader of files makes of it, it comes to an end.
pub fn check_files(data: &[u8], kind: &str, signatures: &[(usize, &[u8])]) {
    if let Ok(Some(files)) = files(Arc::new(volume(data, signatures)), kind) {
        look(&*files, files.root(), DEPTH_MAX, &mut FILES_MAX.clone());
    }
}

fn look(files: &dyn Files, folder: FileId, depth: usize, left: &mut usize) {
    let mut entries = Vec::new();
    let listed = files.list(folder, &mut |entry| {
        entries.push(entry);
        entries.len() < FILES_MAX
    });
    drop(listed);
    for entry in entries {
        assert!(!entry.name.is_empty() && !entry.name.contains(&b'/') && !entry.name.contains(&0));
        assert!(entry.name != b"." && entry.name != b"..");
        let Ok(info) = files.info(entry.file) else { continue };
        files.attributes(entry.file).ok();
        files.places(entry.file).ok();
        files.streams(entry.file).ok();
        for at in [0, info.bytes / 2, info.bytes.saturating_sub(1)] {
            files.read(entry.file, at, &mut [0; 5000]).ok();
            files.next_data(entry.file, at).ok();
        }
        *left = left.saturating_sub(1);
        if info.kind == FileKind::Folder && depth > 0 && *left > 0 {
            look(files, entry.file, depth - 1, left);
        }
    }
}

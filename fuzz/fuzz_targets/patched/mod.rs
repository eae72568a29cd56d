//! A sound image that a tool made, with bytes changed as an input says, and a walk through its files.
//!
//! Promise: the same image for the same tool; four bytes of input change one byte, somewhere where there are any.
//! Knows nothing of filesystems.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;

use disk::files::{FileId, FileKind, Files, files};
use disk::{Error, MemoryDevice, ReadAt};

/// More files than the image has: it may have folders within themselves.
const FILES_MAX: usize = 1000;

pub struct Base {
    kind: &'static str,
    device: Arc<MemoryDevice>,
    /// Sectors that hold anything.
    sectors: Vec<u64>,
}

struct Patched {
    device: Arc<MemoryDevice>,
    patches: Vec<(u64, u8)>,
    seal: fn(&mut [u8]),
}

impl ReadAt for Patched {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.device.read_exact_at(offset, buf)?;
        let mut is_patched = false;
        for (at, with) in &self.patches {
            if let Some(byte) = at.checked_sub(offset).and_then(|at| buf.get_mut(at as usize)) {
                *byte ^= with;
                is_patched = true;
            }
        }
        if is_patched {
            (self.seal)(buf);
        }
        Ok(())
    }
}

impl Base {
    /// `make` gets an empty folder and the path of the image.
    pub fn new(kind: &'static str, make: fn(&Path, &Path) -> std::io::Result<ExitStatus>) -> Self {
        let folder = std::env::temp_dir().join(format!("fuzz-{kind}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let image = folder.join("image");
        assert!(make(&folder, &image).unwrap().success());
        let bytes = std::fs::read(&image).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let sectors = (0..).step_by(512).zip(bytes.chunks(512));
        let sectors = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0)).map(|(at, _)| at);
        Self { kind, sectors: sectors.collect(), device: Arc::new(MemoryDevice::new(bytes)) }
    }

    pub fn walk(&self, data: &[u8], seal: fn(&mut [u8])) {
        let patches = data.chunks_exact(4).map(|patch| {
            let place = usize::from(patch[0]) | usize::from(patch[1]) << 8 | usize::from(patch[2]) << 16;
            (self.sectors[place / 512 % self.sectors.len()] + (place % 512) as u64, patch[3])
        });
        let patched = Patched { device: self.device.clone(), patches: patches.collect(), seal };
        if let Ok(Some(reader)) = files(Arc::new(patched), self.kind) {
            walk(&*reader);
        }
    }
}

fn walk(reader: &dyn Files) {
    let mut open: Vec<FileId> = vec![reader.root()];
    for _ in 0..FILES_MAX {
        let Some(file) = open.pop() else { return };
        let Ok(info) = reader.info(file) else { continue };
        reader.attributes(file).ok();
        if info.kind == FileKind::Regular {
            let mut buf = [0; 5000];
            for at in [0, 4095, info.bytes / 2] {
                reader.read(file, at, &mut buf).ok();
            }
            reader.next_data(file, 1).ok();
            reader.places(file).ok();
        }
        let mut names = Vec::new();
        reader
            .list(file, &mut |entry| {
                names.push(entry);
                names.len() < FILES_MAX
            })
            .ok();
        for entry in names.iter().take(5) {
            reader.find(file, &entry.name).ok();
        }
        open.extend(names.iter().map(|entry| entry.file));
    }
}

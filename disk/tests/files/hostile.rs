//! Filesystems with some bytes changed: whatever the readers make of them, they come to an end and do not panic.
//!
//! The changes hit what is metadata: sectors that are not zero, in images without checksums where there is a choice.

use std::path::Path;
use std::sync::Arc;

use disk::files::{FileId, FileKind, Files, files};
use disk::{Error, ReadAt};

use crate::fill;
use crate::testing::{LoopDevice, Mounted, image, run};

/// An image with other bytes in some places.
struct Changed {
    bytes: Arc<Vec<u8>>,
    changes: Vec<(usize, u8)>,
}

impl ReadAt for Changed {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let at = usize::try_from(offset).unwrap();
        let Some(found) = self.bytes.get(at..at.saturating_add(buf.len())) else {
            let (expected, found) = (buf.len() as u64, self.size_bytes().saturating_sub(offset));
            return Err(Error::ShortRead { path: "changed".into(), offset, expected, found });
        };
        buf.copy_from_slice(found);
        for (place, byte) in &self.changes {
            if let Some(target) = place.checked_sub(at).and_then(|at| buf.get_mut(at)) {
                *target = *byte;
            }
        }
        Ok(())
    }
}

/// Looks at all there is, up to a limit that no loop passes.
fn look(files: &dyn Files, folder: FileId, depth: usize, left: &mut usize) {
    let mut entries = Vec::new();
    let listed = files.list(folder, &mut |entry| {
        entries.push(entry);
        entries.len() < 500
    });
    drop(listed);
    files.find(folder, b"size 512").ok();
    for entry in entries {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let Ok(info) = files.info(entry.file) else { continue };
        files.attributes(entry.file).ok();
        files.places(entry.file).ok();
        for (stream, _) in files.streams(entry.file).unwrap_or_default() {
            files.read_stream(entry.file, &stream, 1, &mut [0; 5000]).ok();
        }
        for at in [0, 4000, info.bytes / 2, info.bytes.saturating_sub(3)] {
            files.read(entry.file, at, &mut [0; 9000]).ok();
            files.next_data(entry.file, at).ok();
        }
        if info.kind == FileKind::Folder && depth < 8 {
            look(files, entry.file, depth + 1, left);
        }
    }
}

/// `from`: nothing before it is changed, where a checksum would only say so.
fn shake(kind: &str, image: &Path, from: usize, rounds: u64) {
    let bytes = Arc::new(std::fs::read(image).unwrap());
    let filled: Vec<usize> = (from..bytes.len())
        .step_by(512)
        .filter(|at| bytes[*at..*at + 512].iter().any(|byte| *byte != 0))
        .collect();
    let mut opened = 0;
    for round in 0..rounds {
        let random = fill::noise(round + 1, 400);
        let number = |at: usize| u32::from_le_bytes(random[at..at + 4].try_into().unwrap()) as usize;
        // Half of them in the first sectors, where most of what matters is.
        let reach = if round % 2 == 0 { filled.len() } else { filled.len().min(200) };
        let change = |n: usize| {
            let sector = filled[number(n * 12) % reach];
            (sector + number(n * 12 + 4) % 512, [random[n * 12 + 8], 0, 0xff, 0x80][n % 4])
        };
        let changes = (0..1 + number(390) % 24).map(change).collect();
        let device = Changed { bytes: Arc::clone(&bytes), changes };
        if let Ok(Some(files)) = files(Arc::new(device), kind) {
            opened += 1;
            look(&*files, files.root(), 0, &mut 1500);
        }
    }
    assert!(opened > rounds / 4, "{kind}: {opened} of {rounds} opened");
}

fn rounds() -> u64 {
    if fill::all() { 5000 } else { 120 }
}

#[test]
fn root_changed_ext_is_an_error_at_most() {
    let folder = tempfile::tempdir().unwrap();
    for (name, options) in [("new", "-t ext4 -O ^metadata_csum,inline_data -I 256"), ("old", "-t ext2")] {
        let image = image(folder.path(), name, 16 << 20);
        let args: Vec<&str> = ["-q", "-F", "-b", "1024"].into_iter().chain(options.split(' ')).collect();
        run("mke2fs", "e2fsprogs", &[&args[..], &[image.to_str().unwrap()]].concat(), "");
        {
            let at = folder.path().join("mount");
            let _mounted = Mounted::new(&["-o", "loop", image.to_str().unwrap()], &at);
            fill::plain(&at, 1, 100);
            fill::unix(&at, 1);
            fill::with_holes(&at, 1, 7 << 20);
            fill::attributes(&at, 200);
        }
        shake("ext4", &image, 0, rounds());
    }
}

#[test]
fn root_changed_ntfs_is_an_error_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "ntfs", 16 << 20);
    run("mkntfs", "ntfs-3g", &["-q", "-F", "-f", image.to_str().unwrap()], "");
    {
        let at = folder.path().join("mount");
        let options = "compression,streams_interface=windows";
        let _mounted = Mounted::new(&["-t", "ntfs-3g", "-o", options, image.to_str().unwrap()], &at);
        fill::plain(&at, 1, 100);
        fill::unix(&at, 1);
        let packed = at.join("packed");
        std::fs::create_dir(&packed).unwrap();
        let flags = [0, 0, 8, 0];
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&packed, "system.ntfs_attrib_be", &flags, none).unwrap();
        std::fs::write(packed.join("text"), fill::text(1, 300_000)).unwrap();
    }
    shake("ntfs", &image, 0, rounds());
}

#[test]
fn changed_fat_is_an_error_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "fat", 40 << 20);
    run("mkfs.vfat", "dosfstools", &["-F", "32", "-s", "1", image.to_str().unwrap()], "");
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    fill::plain(&tree, 1, 20);
    run("mcopy", "mtools", &["-s", "-Q", "-i", image.to_str().unwrap(), tree.to_str().unwrap(), "::/"], "");
    shake("vfat", &image, 0, rounds());
}

#[test]
fn root_changed_exfat_is_an_error_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "exfat", 8 << 20);
    run("mkfs.exfat", "exfatprogs", &[image.to_str().unwrap()], "");
    {
        let at = folder.path().join("mount");
        std::fs::create_dir(&at).unwrap();
        let device = LoopDevice::new(&image, &[]);
        run("mount.exfat-fuse", "exfat-fuse", &[device.str(), at.to_str().unwrap()], "");
        let _mounted = (Mounted(at.clone()), device);
        fill::plain(&at, 1, 60);
    }
    /// Both boot regions have twelve sectors, and a sum.
    const REGIONS_BYTES: usize = 24 * 512;
    shake("exfat", &image, REGIONS_BYTES, rounds());
}

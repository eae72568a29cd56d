//! Where benches put what they make: below the build's target folder, which is nobody's source.
//!
//! Promise: a folder or loop device made here is taken away when its value goes; only disk images that are
//! made once stay.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use disk::ReadAt;

/// Written at once while a file is made.
const WRITE_BYTES: usize = 4 << 20;

/// A folder that goes when this value does.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// An empty folder of this process.
    pub(crate) fn new(name: &str) -> Result<Folder> {
        let path = data_folder()?.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Folder(path))
    }

    /// A path in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What can't be removed is below the target folder and goes with it.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// `bench-data` in the target folder that this program was built into.
pub(crate) fn data_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let profile = program.ancestors().find(|it| it.ends_with("release") || it.ends_with("debug"));
    let target = profile.and_then(Path::parent).map_or_else(std::env::temp_dir, Path::to_path_buf);
    Ok(target.join("bench-data"))
}

/// Writes all that a device holds, zeros included: a disk has no holes.
pub(crate) fn write_file(device: &dyn ReadAt, path: &Path) -> Result<()> {
    let mut file = fs::File::create(path).with_context(|| path.display().to_string())?;
    let mut buffer = vec![0; WRITE_BYTES];
    for offset in (0..device.size_bytes()).step_by(WRITE_BYTES) {
        let count = usize::try_from(device.size_bytes() - offset).unwrap_or(WRITE_BYTES).min(WRITE_BYTES);
        device.read_exact_at(offset, &mut buffer[..count])?;
        file.write_all(&buffer[..count])?;
    }
    file.sync_all()?;
    Ok(())
}

/// The real disk image and the same disk a day later, made by `real-image.sh` when they are not there yet.
pub(crate) fn real_images() -> Result<(PathBuf, PathBuf)> {
    let folder = data_folder()?;
    let (image, later) = (folder.join("real.img"), folder.join("real.later.img"));
    let hashes = folder.join("real.sha256");
    if !hashes.exists() {
        fs::create_dir_all(&folder)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("real-image.sh");
        let output = Command::new("sh").arg(&script).arg(&image).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}: {said}", script.display(), output.status);
        fs::write(&hashes, output.stdout)?;
    }
    for line in fs::read_to_string(&hashes)?.lines() {
        let (hash, path) = line.split_once(' ').unwrap_or((line, ""));
        let name = Path::new(path.trim()).file_name().unwrap_or_default();
        eprintln!("{hash} {}", name.to_string_lossy());
    }
    Ok((image, later))
}

/// A loop device over a file: how a disk reads.
#[derive(Debug)]
pub(crate) struct LoopDevice(PathBuf);

impl LoopDevice {
    /// `None` where that is not allowed.
    pub(crate) fn new(file: &Path) -> Option<LoopDevice> {
        LoopDevice::with(&["-r"], file)
    }

    /// One to write to, past the page cache of the file below it, as a disk has none.
    pub(crate) fn writable(file: &Path) -> Option<LoopDevice> {
        LoopDevice::with(&["--direct-io=on"], file)
    }

    fn with(options: &[&str], file: &Path) -> Option<LoopDevice> {
        let output = Command::new("losetup").args(["-f", "--show"]).args(options).arg(file).output().ok()?;
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then(|| LoopDevice(PathBuf::from(path)))
    }

    /// Its node.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // One that stays is seen in `losetup -l`, and a bench has nobody to tell.
        Command::new("losetup").arg("-d").arg(&self.0).status().ok();
    }
}

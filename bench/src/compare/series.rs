//! The images that are compared on, made once by `series.sh`, and what is derived from them.
//!
//! Promise: the images' sizes and hashes are those that were noted when they were made.
//! Knows nothing of tools.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::step::Step;
use crate::SEED;
use crate::data::{MadeUpDisk, Mix};
use crate::place::write_file;

/// What counts as a block when zeros are left out.
const BLOCK_BYTES: usize = 4 << 10;
/// Read at once.
const READ_BYTES: usize = 4 << 20;

/// One image of the series.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) hash: String,
}

/// Where the images are.
#[derive(Debug)]
pub(crate) struct Series {
    folder: PathBuf,
    pub(crate) images: Vec<Image>,
}

impl Series {
    /// Makes it when it is not there yet: minutes.
    pub(crate) fn get(folder: &Path, scale: &str) -> Result<Series> {
        let list = folder.join("series.txt");
        if !list.exists() {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("series.sh");
            eprintln!("makes the series in {}: minutes", folder.display());
            let status = Command::new("bash")
                .arg(&script)
                .arg(folder)
                .arg(scale)
                .stdout(std::io::stderr())
                .status()?;
            ensure!(status.success(), "{}: {status}", script.display());
        }
        let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let series = Series { folder: folder.to_path_buf(), images: parse(&text)? };
        series.derive()?;
        Ok(series)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.img"))
    }

    pub(crate) fn image(&self, name: &str) -> Result<&Image> {
        self.images.iter().find(|it| it.name == name).with_context(|| format!("{name}: no such image"))
    }

    /// Fills a file with a disk's worth of what no image holds: what a target held before.
    pub(crate) fn write_noise(&self, path: &Path) -> Result<()> {
        let mix = Mix { text_percent: 0, random_percent: 100, duplicate_percent: 0 };
        write_file(&MadeUpDisk::new(self.image("v3")?.bytes, !SEED, mix), path)
    }

    fn derive(&self) -> Result<()> {
        // Of the images that are hashed for a limit.
        for step in [Step::First, Step::Again] {
            let image = self.path(step.image());
            let used = image.with_extension("used");
            if !used.exists() {
                keep_used(&image, &used)?;
            }
        }
        Ok(())
    }
}

/// Copies the blocks that are not zero.
fn keep_used(image: &Path, used: &Path) -> Result<()> {
    let partial = used.with_extension("partial");
    let mut from = File::open(image)?;
    let mut to = BufWriter::with_capacity(READ_BYTES, File::create(&partial)?);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        for block in buffer[..count].chunks(BLOCK_BYTES).filter(|block| block.iter().any(|byte| *byte != 0)) {
            to.write_all(block)?;
        }
    }
    to.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    // A file that is there is whole.
    fs::hard_link(&partial, used)?;
    fs::remove_file(&partial)?;
    Ok(())
}

/// Lines of `name bytes used_bytes hash`.
fn parse(text: &str) -> Result<Vec<Image>> {
    let image = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut word =
            || words.next().with_context(|| format!("{line:?}: expected name, bytes, bytes used, hash"));
        Ok(Image { name: word()?, bytes: word()?.parse()?, used_bytes: word()?.parse()?, hash: word()? })
    };
    text.lines().map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let images = parse("v1 4096 1024 abc\nv2 8192 0 def\n").unwrap();
        assert_eq!((images[1].name.as_str(), images[1].bytes, images[0].used_bytes), ("v2", 8192, 1024));
        assert!(parse("v1 4096\n").is_err());
        assert!(parse("v1 x 0 abc\n").is_err());
    }
}

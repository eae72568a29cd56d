//! A few bytes of a volume, read and written in place.
//!
//! Promise: a place that is not there is an error, not a panic; the file is open no longer than this value lives.
//! Knows nothing of any filesystem.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ToolError;

/// The file of a volume.
pub(super) struct Bytes {
    file: File,
    path: PathBuf,
}

impl Bytes {
    pub(super) fn open(path: &Path) -> Result<Self, ToolError> {
        Self::open_with(path, OpenOptions::new().read(true))
    }

    pub(super) fn open_writable(path: &Path) -> Result<Self, ToolError> {
        Self::open_with(path, OpenOptions::new().read(true).write(true))
    }

    fn open_with(path: &Path, options: &OpenOptions) -> Result<Self, ToolError> {
        let open = |source| ToolError::Io { path: path.to_owned(), doing: "open", source };
        Ok(Self { file: options.open(path).map_err(open)?, path: path.to_owned() })
    }

    fn error(&self, doing: &'static str) -> impl Fn(io::Error) -> ToolError {
        move |source| ToolError::Io { path: self.path.clone(), doing, source }
    }

    pub(super) fn read<const N: usize>(&self, offset: u64) -> Result<[u8; N], ToolError> {
        let mut bytes = [0; N];
        self.file.read_exact_at(&mut bytes, offset).map_err(self.error("read"))?;
        Ok(bytes)
    }

    pub(super) fn byte(&self, offset: u64) -> Result<u8, ToolError> {
        self.read(offset).map(u8::from_le_bytes)
    }

    pub(super) fn le16(&self, offset: u64) -> Result<u16, ToolError> {
        self.read(offset).map(u16::from_le_bytes)
    }

    pub(super) fn le32(&self, offset: u64) -> Result<u32, ToolError> {
        self.read(offset).map(u32::from_le_bytes)
    }

    pub(super) fn le64(&self, offset: u64) -> Result<u64, ToolError> {
        self.read(offset).map(u64::from_le_bytes)
    }

    pub(super) fn be16(&self, offset: u64) -> Result<u16, ToolError> {
        self.le16(offset).map(u16::swap_bytes)
    }

    pub(super) fn be32(&self, offset: u64) -> Result<u32, ToolError> {
        self.le32(offset).map(u32::swap_bytes)
    }

    pub(super) fn be64(&self, offset: u64) -> Result<u64, ToolError> {
        self.le64(offset).map(u64::swap_bytes)
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), ToolError> {
        self.file.write_all_at(bytes, offset).map_err(self.error("write"))
    }
}

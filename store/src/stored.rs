//! A stored image: the runs of its device, and the chunks in them.
//!
//! Promise: runs come in order and cover what was asked; what `fetch` gives was hashed (I3).
//! Knows nothing of where blobs are: that is `reader`.

use crate::Error;
use crate::codec::PLAIN_BYTES_MAX;
use crate::id::ImageId;
use crate::manifest::Manifest;
use crate::reader::{Reader, StoredChunk, Wanted};
use crate::table::{Entry, Table};
use std::sync::Arc;

/// What stands at one place of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// A chunk.
    Chunk(StoredChunk),
    /// Zeros.
    Zeros {
        /// How many.
        bytes: u64,
    },
    /// Bytes that the source would not give.
    Bad {
        /// How many.
        bytes: u64,
    },
}

impl Run {
    /// Bytes of the device that it covers.
    pub fn bytes(&self) -> u64 {
        match self {
            Run::Chunk(chunk) => u64::from(chunk.bytes),
            Run::Zeros { bytes } | Run::Bad { bytes } => *bytes,
        }
    }
}

/// A run and where it stands on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedRun {
    /// First byte.
    pub offset: u64,
    /// What is there.
    pub run: Run,
}

/// An image that can be read.
#[derive(Clone, Debug)]
pub struct StoredImage {
    id: ImageId,
    manifest: Arc<Manifest>,
    pub(crate) reader: Arc<Reader>,
}

impl StoredImage {
    pub(crate) fn new(id: ImageId, manifest: Manifest, reader: Arc<Reader>) -> StoredImage {
        StoredImage { id, manifest: Arc::new(manifest), reader }
    }

    /// Its name.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Size of the device.
    pub fn bytes(&self) -> u64 {
        self.manifest.bytes
    }

    /// The runs that overlap `bytes` bytes from `offset` on, clipped at neither end, in order.
    pub fn runs(&self, offset: u64, bytes: u64) -> Result<Vec<PlacedRun>, Error> {
        let end = offset.saturating_add(bytes).min(self.manifest.bytes);
        let mut runs = Vec::new();
        match &self.manifest.root {
            _ if offset >= end => {}
            None => runs.push(PlacedRun { offset: 0, run: Run::Zeros { bytes: self.manifest.bytes } }),
            Some(root) => {
                let table = self.reader.root(root)?;
                self.descend(&table, 0, offset, end, &mut runs)?;
            }
        }
        Ok(runs)
    }

    fn descend(
        &self,
        table: &Table,
        table_start: u64,
        from: u64,
        to: u64,
        runs: &mut Vec<PlacedRun>,
    ) -> Result<(), Error> {
        let mut offset = table_start;
        for entry in &table.entries {
            let end = offset.saturating_add(entry.bytes());
            if end > from && offset < to {
                match entry {
                    Entry::Zeros { bytes } => {
                        runs.push(PlacedRun { offset, run: Run::Zeros { bytes: *bytes } })
                    }
                    Entry::Bad { bytes } => runs.push(PlacedRun { offset, run: Run::Bad { bytes: *bytes } }),
                    Entry::Child { child, .. } if table.level == 0 => {
                        runs.push(PlacedRun { offset, run: Run::Chunk(StoredChunk::new(child)) });
                    }
                    Entry::Child { child, bytes } => {
                        let below = self.reader.table(child, table.level - 1)?;
                        if below.bytes() != *bytes {
                            let source =
                                crate::TableError::Covered { expected: *bytes, found: below.bytes() };
                            return Err(Error::Table { table: child.id, source });
                        }
                        self.descend(&below, offset, from, to, runs)?;
                    }
                }
            }
            offset = end;
        }
        Ok(())
    }

    /// Plain bytes of the chunks, in the order asked, hash-checked (I3).
    pub fn fetch(&self, chunks: &[StoredChunk]) -> Vec<Result<Vec<u8>, Error>> {
        // Nothing is made for what can't be a chunk; that its length is wrong is found out below.
        let length =
            |chunk: &StoredChunk| Some(chunk.bytes as usize).filter(|bytes| *bytes <= PLAIN_BYTES_MAX);
        let mut plains: Vec<Vec<u8>> =
            chunks.iter().map(|chunk| vec![0; length(chunk).unwrap_or(0)]).collect();
        let pairs = chunks.iter().zip(&mut plains);
        let mut wanted: Vec<Wanted<'_>> =
            pairs.map(|(chunk, plain)| Wanted { chunk: *chunk, plain }).collect();
        let results = self.fetch_into(&mut wanted);
        results.into_iter().zip(plains).map(|(result, plain)| result.map(|()| plain)).collect()
    }

    /// As [`StoredImage::fetch`], into memory of the caller: large chunks are decoded right where they are wanted.
    pub fn fetch_into(&self, wanted: &mut [Wanted<'_>]) -> Vec<Result<(), Error>> {
        self.reader.fetch_into(wanted)
    }
}

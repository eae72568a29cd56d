//! A volume with its latest small reads kept: metadata is read again and again.
//!
//! Promise: bounded memory; the bytes are those of the volume. Long reads go past.
//! Knows nothing of filesystems.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::fault::{len, len64};
use crate::{Error, Extent, ReadAt};

/// A few blocks of any filesystem: little is wasted on a read of one inode, and folders come in few steps.
const PAGE_BYTES: u64 = 16 << 10;
/// 16 MiB in all: the inodes and folders on the way to anything.
const PAGES_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// A volume, and pages of it.
pub(crate) struct Cached {
    volume: Arc<dyn ReadAt>,
    pages: Mutex<LruCache<u64, Arc<Vec<u8>>>>,
}

impl Cached {
    pub(crate) fn new(volume: Arc<dyn ReadAt>) -> Self {
        Self { volume, pages: Mutex::new(LruCache::new(PAGES_MAX)) }
    }

    fn page(&self, offset: u64) -> Result<Arc<Vec<u8>>, Error> {
        let lock = || self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = lock().get(&offset) {
            return Ok(Arc::clone(page));
        }
        // Not while holding the lock: it may have to be fetched from far away.
        let bytes = self.volume.size_bytes().saturating_sub(offset).min(PAGE_BYTES);
        let mut page = vec![0; len(bytes)];
        self.volume.read_exact_at(offset, &mut page)?;
        let page = Arc::new(page);
        lock().put(offset, Arc::clone(&page));
        Ok(page)
    }

    fn read_pages(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let into = at.checked_rem(PAGE_BYTES).unwrap_or(0);
            let page = self.page(at.saturating_sub(into))?;
            let found = page.get(len(into)..).unwrap_or_default();
            let count = found.len().min(rest.len());
            if count == 0 {
                // Behind the end: the volume says it in its own words.
                return self.volume.read_exact_at(at, rest);
            }
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(found.get(..count).unwrap_or_default());
            at = at.saturating_add(len64(count));
            rest = later;
        }
        Ok(())
    }
}

impl ReadAt for Cached {
    fn size_bytes(&self) -> u64 {
        self.volume.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if len64(buf.len()) > PAGE_BYTES || self.read_pages(offset, buf).is_err() {
            // A bad sector nearby must not hide what can be read.
            return self.volume.read_exact_at(offset, buf);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        self.volume.next_data(offset)
    }

    fn sector_bytes(&self) -> u32 {
        self.volume.sector_bytes()
    }
}

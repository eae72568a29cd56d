//! Memory that the kernel accepts for reads and writes past the page cache.
//!
//! Promise: the bytes begin at a multiple of [`ALIGNMENT`]. Knows nothing of devices.

use std::ops::{Deref, DerefMut};

/// Enough for every device: drivers ask for 512 bytes or less, file systems for a page at most.
pub(crate) const ALIGNMENT: usize = 4096;

/// A buffer that saves the copy which reads from a block device need otherwise.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zeros.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len.saturating_add(ALIGNMENT)];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        // `align_offset` may refuse to answer (it never does at run time): then the buffer is merely not aligned.
        let start = if start < ALIGNMENT { start } else { 0 };
        Self { memory, start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..self.start.saturating_add(self.len)).unwrap_or_default()
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.start.saturating_add(self.len)).unwrap_or_default()
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Whether the kernel would take this memory as it is.
pub(crate) fn is_aligned(buf: &[u8]) -> bool {
    buf.as_ptr().addr().is_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_aligned() {
        for len in [0, 1, 511, 4096, 1 << 20] {
            let buffer = AlignedBuffer::new(len);
            assert_eq!(buffer.len(), len);
            assert!(is_aligned(&buffer));
        }
    }
}

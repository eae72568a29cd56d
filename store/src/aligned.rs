//! Bytes that grow, the first of them on a page's border: what the kernel takes from memory without copying.
//!
//! Promise: the border stays one however much is added. Knows nothing of what the bytes are.

use std::ops::Deref;

/// What disks and filesystems ask for at most of memory that they read themselves.
pub(crate) const ALIGNMENT: usize = 4096;

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct AlignedBytes {
    memory: Vec<u8>,
    /// What lies before the border.
    start: usize,
}

impl AlignedBytes {
    /// Nothing, in this memory, whatever it held.
    pub(crate) fn anew(mut memory: Vec<u8>) -> AlignedBytes {
        memory.clear();
        // It may refuse to answer (it never does at run time): then there is no room before the border.
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        if memory.capacity() <= start {
            return AlignedBytes::default();
        }
        memory.resize(start, 0);
        AlignedBytes { memory, start }
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        if self.memory.capacity() - self.memory.len() < bytes.len() {
            self.move_to_more(bytes.len());
        }
        self.memory.extend_from_slice(bytes);
    }

    /// Twice the memory, as a vector takes it when it grows, and enough for so many bytes more.
    fn move_to_more(&mut self, more_bytes: usize) {
        let capacity = self.len().saturating_mul(2).max(self.len() + more_bytes) + ALIGNMENT;
        let mut moved = AlignedBytes::anew(Vec::with_capacity(capacity));
        moved.memory.extend_from_slice(self);
        *self = moved;
    }

    /// Gives the memory away.
    pub(crate) fn into_memory(self) -> Vec<u8> {
        self.memory
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // In bounds: `start` bytes were put there first, and none is ever taken away.
        &self.memory[self.start..]
    }
}

/// Whether these bytes begin on a border.
pub(crate) fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_stays_on_a_border() {
        for spare in [0, 1, 5000, 100_000] {
            let mut bytes = AlignedBytes::anew(vec![7; spare]);
            let mut plain = Vec::new();
            for step in 0..300_usize {
                let more = vec![u8::try_from(step % 251).unwrap(); step * 7 % 4099];
                bytes.extend_from_slice(&more);
                plain.extend_from_slice(&more);
                assert_eq!(*bytes, plain[..]);
                assert!(bytes.is_empty() || is_aligned(&bytes));
            }
            let (memory, length) = (bytes.memory.as_ptr(), bytes.memory.capacity());
            let again = AlignedBytes::anew(bytes.into_memory());
            assert_eq!((again.memory.as_ptr(), again.memory.capacity(), again.len()), (memory, length, 0));
        }
    }
}

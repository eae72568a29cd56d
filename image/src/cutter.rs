//! From the bytes of one segment, window by window, to its runs: chunks, zeros, bad ranges.
//!
//! Promise: the runs depend on the bytes, the bad ranges, the rule and the zero threshold only, whatever the windows
//! are (I4). A zero run is never chunked; chunking starts anew after each zero run and bad range.
//! Knows nothing of devices or stores: a closure takes the chunks.
//!
//! The grid of zero blocks counts from the segment's start. A block that the segment's end or a bad range cuts short
//! still counts as a block. A run of zero blocks shorter than the threshold is data.

use chunker::Rule;

use crate::Error;
use crate::segment::{BLOCK_BYTES, in_memory};

/// What a segment consists of; `C` is what became of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CutRun<C> {
    /// A chunk.
    Chunk(C),
    /// So many zeros.
    Zeros(u64),
    /// So many bytes that could not be read.
    Bad(u64),
}

/// The two numbers of a store's config that decide about runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutRule {
    pub(crate) chunks: Rule,
    /// So many zero blocks in a row are a run of zeros.
    zero_blocks_min: u64,
}

impl CutRule {
    pub(crate) fn new(chunks: Rule, zero_run_bytes: u32) -> CutRule {
        CutRule { chunks, zero_blocks_min: u64::from(zero_run_bytes).div_ceil(BLOCK_BYTES).max(1) }
    }

    /// The largest rest that [`Cutter::feed`] may ask for again: an uncut chunk and zeros that may yet be data.
    pub(crate) fn carry_bytes_max(&self) -> usize {
        let zeros = self.zero_blocks_min.saturating_mul(BLOCK_BYTES);
        self.chunks.chunk_bytes_max().saturating_add(in_memory(zeros))
    }

    /// A hole of at least so many bytes need not be filled in: [`Cutter::hole`].
    pub(crate) fn hole_bytes_min(&self) -> u64 {
        self.zero_blocks_min.saturating_mul(BLOCK_BYTES)
    }
}

/// Cuts one segment. What `feed` returns must stand before the new bytes at the next call.
pub(crate) struct Cutter<C, P> {
    rule: CutRule,
    put: P,
    runs: Vec<CutRun<C>>,
    /// Bytes of the segment seen so far.
    position: u64,
    /// Uncut data bytes at the start of the carried rest.
    data: usize,
    /// Length of the zero run that ends at `position`, and how many blocks it is.
    zeros: u64,
    zero_blocks: u64,
}

impl<C, P: FnMut(&[u8]) -> Result<C, Error>> Cutter<C, P> {
    pub(crate) fn new(rule: CutRule, put: P) -> Cutter<C, P> {
        Cutter { rule, put, runs: Vec::new(), position: 0, data: 0, zeros: 0, zero_blocks: 0 }
    }

    /// Bytes of the last call that must precede the new ones in the next.
    pub(crate) fn carry(&self) -> usize {
        if self.zero_blocks >= self.rule.zero_blocks_min {
            return 0;
        }
        // Fits: fewer zeros than the threshold came from one buffer.
        self.data + in_memory(self.zeros)
    }

    /// Takes what was carried plus new bytes. The new ones must end at a block border, before a bad range or at the
    /// end of the segment.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut at = self.carry();
        let mut start = 0;
        let mut data_end = self.data;
        while at < bytes.len() {
            let end = bytes.len().min(at + self.to_border());
            // In bounds: `at < end <= bytes.len()`.
            let block = &bytes[at..end];
            if is_zero(block) {
                self.zeros += block.len() as u64;
                self.zero_blocks += 1;
                if self.zero_blocks == self.rule.zero_blocks_min {
                    self.cut(&bytes[start..data_end], true)?;
                }
                if self.zero_blocks >= self.rule.zero_blocks_min {
                    (start, data_end) = (end, end);
                }
            } else {
                self.end_zeros();
                data_end = end;
            }
            self.position += block.len() as u64;
            at = end;
        }
        let cut = self.cut(&bytes[start..data_end], false)?;
        self.data = data_end - start - cut;
        Ok(())
    }

    /// Takes a hole: zeros that nobody read, at least [`CutRule::hole_bytes_min`] from a block border to another or to
    /// the segment's end.
    pub(crate) fn hole(&mut self, carried: &[u8], bytes: u64) -> Result<(), Error> {
        if self.zero_blocks < self.rule.zero_blocks_min {
            self.cut(&carried[..self.data], true)?;
            self.data = 0;
        }
        self.zeros += bytes;
        self.zero_blocks += bytes.div_ceil(BLOCK_BYTES);
        self.position += bytes;
        Ok(())
    }

    /// Takes a range that could not be read.
    pub(crate) fn bad(&mut self, carried: &[u8], bytes: u64) -> Result<(), Error> {
        self.flush(carried)?;
        self.position += bytes;
        match self.runs.last_mut() {
            Some(CutRun::Bad(before)) => *before += bytes,
            _ => self.runs.push(CutRun::Bad(bytes)),
        }
        Ok(())
    }

    /// Ends the segment.
    pub(crate) fn finish(mut self, carried: &[u8]) -> Result<Vec<CutRun<C>>, Error> {
        self.flush(carried)?;
        Ok(self.runs)
    }

    /// Ends the stretch: too few zeros at its end are data.
    fn flush(&mut self, carried: &[u8]) -> Result<(), Error> {
        let rest = self.carry();
        self.cut(&carried[..rest], true)?;
        self.data = 0;
        self.end_zeros();
        Ok(())
    }

    /// A zero run ends here: recorded when long enough, else it has become data.
    fn end_zeros(&mut self) {
        if self.zero_blocks >= self.rule.zero_blocks_min {
            self.runs.push(CutRun::Zeros(self.zeros));
        }
        (self.zeros, self.zero_blocks) = (0, 0);
    }

    /// Cuts off chunks: all of the stretch when it ends there, else while the window can't matter. Returns the bytes cut.
    fn cut(&mut self, stretch: &[u8], ends: bool) -> Result<usize, Error> {
        let least = if ends { 1 } else { self.rule.chunks.chunk_bytes_max() };
        let mut done = 0;
        while stretch.len() - done >= least {
            let length = self.rule.chunks.first_cut(&stretch[done..]);
            let chunk = (self.put)(&stretch[done..done + length])?;
            self.runs.push(CutRun::Chunk(chunk));
            done += length;
        }
        Ok(done)
    }

    /// Bytes up to the next border of the block grid.
    fn to_border(&self) -> usize {
        in_memory(BLOCK_BYTES - self.position % BLOCK_BYTES)
    }
}

/// Whether all bytes are zero. Wide words in groups: the compiler turns a group into vector instructions, and the loop
/// ends at the first group with data in it.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const GROUP_BYTES: usize = 128;
    let (groups, rest) = bytes.as_chunks::<GROUP_BYTES>();
    let group_is_zero = |group: &[u8; GROUP_BYTES]| group.iter().fold(0, |all, byte| all | byte) == 0;
    groups.iter().all(group_is_zero) && rest.iter().all(|byte| *byte == 0)
}

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

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::random_bytes;

    const BLOCK: usize = 4096;

    fn rule(zero_blocks: u32) -> CutRule {
        CutRule::new("fastcdc:1024,4096,16384".parse().unwrap(), zero_blocks * 4096)
    }

    /// A chunk is told by its bytes: two ways of cutting agree only when they agree on every byte.
    type Runs = Vec<CutRun<Vec<u8>>>;

    /// The definition, as plainly as possible: classify the pieces of blocks, join them, cut what is data.
    fn by_definition(bytes: &[u8], bad: &[Range<usize>], rule: CutRule) -> Runs {
        let mut borders: Vec<usize> = (0..bytes.len()).step_by(BLOCK).chain([bytes.len()]).collect();
        borders.extend(bad.iter().flat_map(|range| [range.start, range.end]));
        borders.sort_unstable();
        borders.dedup();
        let kind = |piece: &Range<usize>| match bad.iter().any(|range| range.contains(&piece.start)) {
            true => 'b',
            false if bytes[piece.clone()].iter().all(|byte| *byte == 0) => 'z',
            false => 'd',
        };
        let mut groups: Vec<(char, Range<usize>, u64)> = Vec::new();
        for piece in borders.windows(2).map(|pair| pair[0]..pair[1]) {
            match groups.last_mut() {
                Some((last, range, count)) if *last == kind(&piece) => {
                    (range.end, *count) = (piece.end, *count + 1)
                }
                _ => groups.push((kind(&piece), piece, 1)),
            }
        }
        let mut joined: Vec<(char, Range<usize>)> = Vec::new();
        for (kind, range, count) in groups {
            let kind = if kind == 'z' && count < rule.zero_blocks_min { 'd' } else { kind };
            match joined.last_mut() {
                Some((last, before)) if *last == kind => before.end = range.end,
                _ => joined.push((kind, range)),
            }
        }
        let mut runs = Vec::new();
        for (kind, range) in joined {
            let stretch = &bytes[range.clone()];
            match kind {
                'b' => runs.push(CutRun::Bad(range.len() as u64)),
                'z' => runs.push(CutRun::Zeros(range.len() as u64)),
                _ => runs.extend(rule.chunks.cuts(stretch).map(|cut| CutRun::Chunk(stretch[cut].to_vec()))),
            }
        }
        runs
    }

    /// As capture does it: window by window, a bad range or hole at a time. `holes` says of each window whether zeros in
    /// it are known to be a hole.
    fn by_windows(bytes: &[u8], bad: &[Range<usize>], rule: CutRule, windows: &[(usize, bool)]) -> Runs {
        let mut cutter = Cutter::new(rule, |plain: &[u8]| Ok(plain.to_vec()));
        let mut windows = windows.iter().cycle();
        let mut carried: Vec<u8> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (blocks, hole) = windows.next().unwrap();
            let end = bytes.len().min(at.next_multiple_of(BLOCK).max(at / BLOCK * BLOCK + blocks * BLOCK));
            let end = if end == at { bytes.len().min(at + BLOCK) } else { end };
            if let Some(range) = bad.iter().find(|range| range.start == at) {
                cutter.bad(&carried, range.len() as u64).unwrap();
                carried.clear();
                at = range.end;
                continue;
            }
            let end = bad.iter().map(|range| range.start).filter(|start| *start > at).fold(end, usize::min);
            let new = &bytes[at..end];
            let at_border = at % BLOCK == 0 && (end % BLOCK == 0 || end == bytes.len());
            if *hole && at_border && is_zero(new) && new.len() as u64 >= rule.hole_bytes_min() {
                cutter.hole(&carried, new.len() as u64).unwrap();
                carried.clear();
            } else {
                carried.extend_from_slice(new);
                cutter.feed(&carried).unwrap();
                carried.drain(..carried.len() - cutter.carry());
                assert!(carried.len() < rule.carry_bytes_max());
            }
            at = end;
        }
        cutter.finish(&carried).unwrap()
    }

    /// Blocks of zeros, of random bytes, and zeros with one byte; the last block may be cut short.
    fn any_segment() -> impl Strategy<Value = Vec<u8>> {
        let part = (0u8..4, 1usize..6, any::<u64>());
        (prop::collection::vec(part, 0..16), 0usize..BLOCK).prop_map(|(parts, short)| {
            let mut bytes = Vec::new();
            for (kind, blocks, seed) in parts {
                match kind {
                    0 | 1 => bytes.resize(bytes.len() + blocks * BLOCK, 0),
                    2 => bytes.extend(random_bytes(seed, blocks * BLOCK)),
                    _ => {
                        bytes.resize(bytes.len() + BLOCK, 0);
                        let at = bytes.len() - 1 - in_memory(seed % 4096);
                        bytes[at] = 1;
                    }
                }
            }
            bytes.truncate(bytes.len().saturating_sub(short));
            bytes
        })
    }

    /// Sector ranges within `bytes`, in order, not touching.
    fn bad_ranges(bytes: usize, picks: &[(prop::sample::Index, usize)]) -> Vec<Range<usize>> {
        let sectors = bytes / 512;
        let mut ranges: Vec<Range<usize>> = Vec::new();
        if sectors == 0 {
            return ranges;
        }
        let mut starts: Vec<(usize, usize)> =
            picks.iter().map(|(at, count)| (at.index(sectors), *count)).collect();
        starts.sort_unstable();
        for (start, count) in starts {
            let range = start * 512..(start + count).min(sectors) * 512;
            if ranges.last().is_none_or(|last| last.end < range.start) {
                ranges.push(range);
            }
        }
        ranges
    }

    proptest! {
        /// I4: neither windows nor holes matter, and the runs are those of the definition.
        #[test]
        fn windows_and_holes_do_not_matter(
            bytes in any_segment(),
            picks in prop::collection::vec((any::<prop::sample::Index>(), 1usize..20), 0..4),
            windows in prop::collection::vec((1usize..9, any::<bool>()), 1..9),
            zero_blocks in 1u32..4,
        ) {
            let rule = rule(zero_blocks);
            let bad = bad_ranges(bytes.len(), &picks);
            let found = by_windows(&bytes, &bad, rule, &windows);
            prop_assert_eq!(found, by_definition(&bytes, &bad, rule));
        }

        #[test]
        fn zero_is_zero(length in 0usize..600, at in any::<prop::sample::Index>()) {
            let mut bytes = vec![0; length];
            prop_assert!(is_zero(&bytes));
            if length > 0 {
                bytes[at.index(length)] = 0x80;
                prop_assert!(!is_zero(&bytes));
            }
        }
    }
}

//! From the bytes of one segment, window by window, to its runs: chunks, zeros, bad ranges.
//!
//! Promise: the runs depend on the bytes, the bad ranges, the rule and the zero threshold only, whatever the windows
//! are (I4). A zero run is never chunked; chunking starts anew after each zero run and bad range.
//! Knows nothing of devices or stores: a [`ChunkSink`] takes the chunks.
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

/// Where chunks go, and where some may be known to end.
pub(crate) trait ChunkSink {
    /// What became of a chunk.
    type Chunk;

    /// The chunk that `stretch` begins with, and its length, where it can be told without cutting: exactly the one that
    /// the rule would cut. `at` counts from the segment's start; where `last`, the stretch ends with these bytes, else
    /// more of it may follow.
    fn take_known(&mut self, at: u64, stretch: &[u8], last: bool) -> Option<(usize, Self::Chunk)>;

    /// Takes a chunk that the rule has cut.
    fn take(&mut self, plain: &[u8]) -> Result<Self::Chunk, Error>;
}

/// Where an older state of the segment had a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Landmark {
    /// Counted from the segment's start.
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
    /// It ended where the rule cut, not where its stretch ended.
    pub(crate) cut_by_rule: bool,
}

/// The landmark that begins where a stretch does, if the rule would cut there once more should the bytes be the same.
///
/// It would: a cut depends on the bytes before it only, as long as the stretch does not end sooner. A chunk that ended
/// with its stretch says nothing about what the rule would have done with more bytes, so the stretch must end there again.
/// `next` is where in `guide` (in order) to look; it only moves forward, as `at` does.
pub(crate) fn landmark_at<'a, T>(
    guide: &'a [T],
    next: &mut usize,
    landmark: impl Fn(&T) -> Landmark,
    at: u64,
    stretch_bytes: usize,
    last: bool,
) -> Option<&'a T> {
    while guide.get(*next).is_some_and(|known| landmark(known).offset < at) {
        *next += 1;
    }
    let found = guide.get(*next)?;
    let Landmark { offset, bytes, cut_by_rule } = landmark(found);
    let ends_alike = (cut_by_rule && bytes <= stretch_bytes) || (last && bytes == stretch_bytes);
    (offset == at && ends_alike).then_some(found)
}

/// Cuts one segment. What `feed` returns must stand before the new bytes at the next call.
pub(crate) struct Cutter<S: ChunkSink> {
    rule: CutRule,
    sink: S,
    runs: Vec<CutRun<S::Chunk>>,
    /// Bytes of the segment in `runs`.
    in_runs: u64,
    /// Bytes of the segment seen so far.
    position: u64,
    /// Uncut data bytes at the start of the carried rest.
    data: usize,
    /// Length of the zero run that ends at `position`, and how many blocks it is.
    zeros: u64,
    zero_blocks: u64,
}

impl<S: ChunkSink> Cutter<S> {
    pub(crate) fn new(rule: CutRule, sink: S) -> Cutter<S> {
        Cutter { rule, sink, runs: Vec::new(), in_runs: 0, position: 0, data: 0, zeros: 0, zero_blocks: 0 }
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
        self.in_runs += bytes;
        match self.runs.last_mut() {
            Some(CutRun::Bad(before)) => *before += bytes,
            _ => self.runs.push(CutRun::Bad(bytes)),
        }
        Ok(())
    }

    /// Ends the segment.
    pub(crate) fn finish(mut self, carried: &[u8]) -> Result<Vec<CutRun<S::Chunk>>, Error> {
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
            self.in_runs += self.zeros;
        }
        (self.zeros, self.zero_blocks) = (0, 0);
    }

    /// Cuts off chunks: all of the stretch when it ends there, else while the window can't matter. Returns the bytes cut.
    fn cut(&mut self, stretch: &[u8], ends: bool) -> Result<usize, Error> {
        let least = if ends { 1 } else { self.rule.chunks.chunk_bytes_max() };
        let mut done = 0;
        while done < stretch.len() {
            let rest = &stretch[done..];
            let (length, chunk) = match self.sink.take_known(self.in_runs, rest, ends) {
                Some(known) => known,
                None if rest.len() >= least => {
                    let length = self.rule.chunks.first_cut(rest);
                    (length, self.sink.take(&rest[..length])?)
                }
                None => break,
            };
            self.runs.push(CutRun::Chunk(chunk));
            self.in_runs += length as u64;
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
    const CHUNK_BYTES_MAX: usize = 16384;

    fn rule(zero_blocks: u32) -> CutRule {
        CutRule::new("fastcdc:1024,4096,16384".parse().unwrap(), zero_blocks * 4096)
    }

    /// Cuts everything.
    struct Keep;

    impl ChunkSink for Keep {
        type Chunk = Vec<u8>;
        fn take_known(&mut self, _: u64, _: &[u8], _: bool) -> Option<(usize, Vec<u8>)> {
            None
        }
        fn take(&mut self, plain: &[u8]) -> Result<Vec<u8>, Error> {
            Ok(plain.to_vec())
        }
    }

    /// Knows the chunks of an older state of the segment.
    struct Guided {
        guide: Vec<(Landmark, Vec<u8>)>,
        next: usize,
        /// Nothing is left out, and nothing has changed.
        complete: bool,
    }

    impl ChunkSink for Guided {
        type Chunk = Vec<u8>;
        fn take_known(&mut self, at: u64, stretch: &[u8], last: bool) -> Option<(usize, Vec<u8>)> {
            let (_, bytes) =
                landmark_at(&self.guide, &mut self.next, |(landmark, _)| *landmark, at, stretch.len(), last)?;
            stretch.starts_with(bytes).then(|| (bytes.len(), bytes.clone()))
        }
        fn take(&mut self, plain: &[u8]) -> Result<Vec<u8>, Error> {
            // One of the greatest length that ends its stretch may be cut before the end of the stretch is seen.
            assert!(!self.complete || plain.len() == CHUNK_BYTES_MAX, "cut what was known");
            Ok(plain.to_vec())
        }
    }

    /// What the runs of an older state tell.
    fn guide(runs: &Runs) -> Vec<(Landmark, Vec<u8>)> {
        let mut guide = Vec::new();
        let mut offset = 0;
        for (index, run) in runs.iter().enumerate() {
            match run {
                CutRun::Chunk(bytes) => {
                    let cut_by_rule = matches!(runs.get(index + 1), Some(CutRun::Chunk(_)));
                    guide.push((Landmark { offset, bytes: bytes.len(), cut_by_rule }, bytes.clone()));
                    offset += bytes.len() as u64;
                }
                CutRun::Zeros(bytes) | CutRun::Bad(bytes) => offset += bytes,
            }
        }
        guide
    }

    /// Writes noise or zeros over a range, inserts, removes, or copies one block onto another.
    fn edit(bytes: &mut Vec<u8>, at: &prop::sample::Index, what: u8, length: usize, seed: u64) {
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + length);
        match what {
            0 => bytes[at..end].copy_from_slice(&random_bytes(seed, end - at)),
            1 => bytes[at..end].fill(0),
            2 => drop(bytes.splice(at..at, random_bytes(seed, length))),
            3 => drop(bytes.drain(at..end)),
            _ => bytes.truncate(at / BLOCK * BLOCK),
        }
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
    fn by_windows(
        bytes: &[u8],
        bad: &[Range<usize>],
        rule: CutRule,
        windows: &[(usize, bool)],
        sink: impl ChunkSink<Chunk = Vec<u8>>,
    ) -> Runs {
        let mut cutter = Cutter::new(rule, sink);
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
            let found = by_windows(&bytes, &bad, rule, &windows, Keep);
            prop_assert_eq!(found, by_definition(&bytes, &bad, rule));
        }

        /// I4: what an older image says about the segment changes nothing, whatever has changed since.
        #[test]
        fn a_guide_does_not_matter(
            before in any_segment(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), 0u8..5, 1usize..3 * BLOCK, any::<u64>()), 0..6),
            picks in prop::collection::vec((any::<prop::sample::Index>(), 1usize..20), 0..3),
            picks_before in prop::collection::vec((any::<prop::sample::Index>(), 1usize..20), 0..3),
            windows in prop::collection::vec((1usize..9, any::<bool>()), 1..9),
            zero_blocks in 1u32..4,
            left_out in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        ) {
            let rule = rule(zero_blocks);
            let mut guide = guide(&by_definition(&before, &bad_ranges(before.len(), &picks_before), rule));
            for index in left_out {
                if !guide.is_empty() {
                    guide.remove(index.index(guide.len()));
                }
            }
            let mut after = before;
            edits.iter().for_each(|(at, what, length, seed)| edit(&mut after, at, *what, *length, *seed));
            let bad = bad_ranges(after.len(), &picks);
            let found = by_windows(&after, &bad, rule, &windows, Guided { guide, next: 0, complete: false });
            prop_assert_eq!(found, by_definition(&after, &bad, rule));
        }

        /// Of an unchanged segment nothing is cut.
        #[test]
        fn an_unchanged_segment_is_all_known(
            bytes in any_segment(),
            zero_blocks in 1u32..4,
            windows in prop::collection::vec((1usize..9, any::<bool>()), 1..9),
        ) {
            let rule = rule(zero_blocks);
            let runs = by_definition(&bytes, &[], rule);
            let sink = Guided { guide: guide(&runs), next: 0, complete: true };
            let found = by_windows(&bytes, &[], rule, &windows, sink);
            prop_assert_eq!(found, runs);
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

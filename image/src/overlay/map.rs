//! Which blocks of an overlay were written.
//!
//! Promise: at most 64 MiB of memory for each TiB that was touched; what was never touched, and long stretches of one
//! kind, cost next to nothing.
//! Knows nothing of files or bytes.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where a block's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// On the base: it was never written.
    Base,
    /// In the overlay's file.
    Data,
    /// Nowhere: it was zeroed.
    Zeros,
}

/// Blocks in a page: with two bits for each, a page of memory.
const PAGE_BLOCKS: u64 = 16_384;

/// Blocks in a word.
const WORD_BLOCKS: u64 = 32;

/// Words in a page.
const PAGE_WORDS: usize = 512;

const _: () = assert!(PAGE_WORDS as u64 * WORD_BLOCKS == PAGE_BLOCKS);

enum Page {
    All(Kind),
    Mixed(Box<[u64; PAGE_WORDS]>),
}

/// The kind of each block; `Base` at first.
#[derive(Default)]
pub(super) struct BlockMap {
    pages: BTreeMap<u64, Page>,
}

impl BlockMap {
    /// One block's kind.
    pub(super) fn kind(&self, block: u64) -> Kind {
        match self.pages.get(&(block / PAGE_BLOCKS)) {
            None => Kind::Base,
            Some(Page::All(kind)) => *kind,
            Some(Page::Mixed(words)) => kind_in(words, block % PAGE_BLOCKS),
        }
    }

    /// The kind of the first of these blocks, and the first one that is of another, or the end.
    pub(super) fn run(&self, blocks: Range<u64>) -> (Kind, u64) {
        let kind = self.kind(blocks.start);
        let mut at = blocks.start;
        while at < blocks.end {
            let page = at / PAGE_BLOCKS;
            let page_end = (page + 1) * PAGE_BLOCKS;
            at = match self.pages.get(&page) {
                // Untouched terabytes are one step.
                None if kind == Kind::Base => {
                    self.pages.range(page..).next().map_or(blocks.end, |(next, _)| next * PAGE_BLOCKS)
                }
                None => break,
                Some(Page::All(all)) if *all == kind => page_end,
                Some(Page::All(_)) => break,
                Some(Page::Mixed(words)) => {
                    let stop = page * PAGE_BLOCKS + same_until(words, at % PAGE_BLOCKS, kind);
                    if stop < page_end {
                        at = stop;
                        break;
                    }
                    page_end
                }
            };
        }
        (kind, at.min(blocks.end))
    }

    /// Gives these blocks a kind.
    pub(super) fn set(&mut self, blocks: Range<u64>, kind: Kind) {
        let mut at = blocks.start;
        while at < blocks.end {
            let number = at / PAGE_BLOCKS;
            let first = number * PAGE_BLOCKS;
            let end = blocks.end.min(first + PAGE_BLOCKS);
            if at == first && end == first + PAGE_BLOCKS {
                self.pages.insert(number, Page::All(kind));
            } else {
                let page = self.pages.entry(number).or_insert(Page::All(Kind::Base));
                page.set(at - first..end - first, kind);
            }
            at = end;
        }
    }
}

impl Page {
    fn set(&mut self, blocks: Range<u64>, kind: Kind) {
        if let Page::All(all) = self {
            if *all == kind {
                return;
            }
            *self = Page::Mixed(Box::new([pattern(*all); PAGE_WORDS]));
        }
        let Page::Mixed(words) = self else { return };
        let mut at = blocks.start;
        while at < blocks.end {
            let (word, bit) = place(at);
            if bit == 0 && at + WORD_BLOCKS <= blocks.end {
                words[word] = pattern(kind);
                at += WORD_BLOCKS;
            } else {
                words[word] = words[word] & !(0b11 << bit) | (pattern(kind) & 0b11) << bit;
                at += 1;
            }
        }
        // A page that has become all of one kind again, as when a filesystem is filled: no need for its memory.
        if words.iter().all(|word| *word == pattern(kind)) {
            *self = Page::All(kind);
        }
    }
}

/// A word, and the lower of a block's two bits in it.
fn place(block: u64) -> (usize, u64) {
    // At most 511: blocks are counted from the page's first.
    let word = usize::try_from(block / WORD_BLOCKS).unwrap_or(PAGE_WORDS);
    (word, block % WORD_BLOCKS * 2)
}

/// A word of 32 blocks of this kind.
fn pattern(kind: Kind) -> u64 {
    match kind {
        Kind::Base => 0,
        Kind::Data => 0x5555_5555_5555_5555,
        Kind::Zeros => 0xaaaa_aaaa_aaaa_aaaa,
    }
}

fn kind_in(words: &[u64; PAGE_WORDS], block: u64) -> Kind {
    let (word, bit) = place(block);
    match words[word] >> bit & 0b11 {
        0 => Kind::Base,
        1 => Kind::Data,
        _ => Kind::Zeros,
    }
}

/// The first block at or behind `block` in the page that is of another kind, or the page's end.
fn same_until(words: &[u64; PAGE_WORDS], block: u64, kind: Kind) -> u64 {
    let mut at = block;
    while at < PAGE_BLOCKS {
        let (word, bit) = place(at);
        if bit == 0 && words[word] == pattern(kind) {
            at += WORD_BLOCKS;
        } else if kind_in(words, at) == kind {
            at += 1;
        } else {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::in_memory;

    const KINDS: [Kind; 3] = [Kind::Base, Kind::Data, Kind::Zeros];

    proptest! {
        #[test]
        fn the_map_is_a_list_of_kinds(
            sets in prop::collection::vec((0u64..70_000, prop_oneof![1u64..100, 1u64..40_000], 0usize..3), 0..12),
        ) {
            const ALL: u64 = 80_000;
            let mut plain = vec![Kind::Base; 80_000];
            let mut map = BlockMap::default();
            for (first, count, kind) in sets {
                let end = (first + count).min(ALL);
                map.set(first..end, KINDS[kind]);
                plain[in_memory(first)..in_memory(end)].fill(KINDS[kind]);
            }
            let mut at = 0;
            while at < ALL {
                let (kind, end) = map.run(at..ALL);
                prop_assert!(end > at && plain[in_memory(at)..in_memory(end)].iter().all(|it| *it == kind));
                prop_assert!(end == ALL || plain[in_memory(end)] != kind);
                prop_assert_eq!(map.kind(end - 1), kind);
                at = end;
            }
        }
    }

    #[test]
    fn terabytes_of_one_kind_are_cheap() {
        let mut map = BlockMap::default();
        let blocks = 0..(16 << 40) / 4096;
        map.set(blocks.clone(), Kind::Zeros);
        assert!(map.pages.values().all(|page| matches!(page, Page::All(Kind::Zeros))));
        assert_eq!(map.run(5..blocks.end), (Kind::Zeros, blocks.end));
        let mut map = BlockMap::default();
        map.set(1 << 50..(1 << 50) + 1, Kind::Data);
        assert_eq!(map.run(0..1 << 51), (Kind::Base, 1 << 50));
        assert_eq!(map.pages.len(), 1);
    }
}

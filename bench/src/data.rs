//! Made-up disks: what they contain follows from a seed, so that a measure names its data and a disk of 1 TiB needs none.
//!
//! Promise: the bytes at an offset depend on the seed, the mix and the offset only, however they are asked for.
//! Knows nothing of partitions, stores or time.

/// Contents come in blocks of this size; equal blocks deduplicate.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// Overwritten parts of a changed disk: about what a day's work leaves, many small files.
pub const CHANGE_BYTES: u64 = 64 << 10;
/// Generated at once; every larger size is a multiple.
const PAGE_BYTES: usize = 4 << 10;
/// Words that text is made of: enough to look like logs and sources to a compressor, few enough to compress by about 3.
const WORDS: u64 = 1 << 10;
/// Different contents among the blocks that are duplicates of each other.
const DUPLICATE_CONTENTS: u64 = 16;

/// Shares of the blocks, in percent; what is left of 100 is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Words and numbers.
    pub text_percent: u64,
    /// Incompressible, each block once.
    pub random_percent: u64,
    /// Incompressible, one of a few contents that come again and again.
    pub duplicate_percent: u64,
}

impl Mix {
    /// A used system disk.
    pub const USUAL: Mix = Mix { text_percent: 40, random_percent: 25, duplicate_percent: 15 };
}

/// A disk without a disk.
#[derive(Clone, Debug)]
pub struct MadeUpDisk {
    size_bytes: u64,
    seed: u64,
    mix: Mix,
    /// After so many blocks the content begins again.
    period_blocks: u64,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    percent: u64,
    seed: u64,
}

impl MadeUpDisk {
    /// A disk whose blocks are mixed as asked.
    pub fn new(size_bytes: u64, seed: u64, mix: Mix) -> MadeUpDisk {
        MadeUpDisk { size_bytes, seed, mix, period_blocks: u64::MAX, changes: Vec::new() }
    }

    /// A disk that holds the same `unique_blocks` blocks over and over: block *i* is content *i* mod `unique_blocks`.
    pub fn mostly_duplicate(size_bytes: u64, seed: u64, unique_blocks: u64) -> MadeUpDisk {
        let mix = Mix { text_percent: 50, random_percent: 50, duplicate_percent: 0 };
        MadeUpDisk { period_blocks: unique_blocks.max(1), ..MadeUpDisk::new(size_bytes, seed, mix) }
    }

    /// The same disk some days later: `percent` of it was overwritten with new text.
    pub fn changed(&self, percent: u64, seed: u64) -> MadeUpDisk {
        let mut later = self.clone();
        later.changes.push(Change { percent, seed });
        later
    }

    /// How large the disk is.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes what the disk holds from `offset` on; behind its end are zeros.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) {
        let mut offset = offset;
        let mut rest = buffer;
        let mut page = [0; PAGE_BYTES];
        while !rest.is_empty() {
            let skipped =
                usize::try_from(offset % PAGE_BYTES as u64).expect("less than a page fits every integer");
            let (now, later) = rest.split_at_mut(rest.len().min(PAGE_BYTES - skipped));
            if now.len() == PAGE_BYTES {
                self.fill_page(offset, now);
            } else {
                self.fill_page(offset - skipped as u64, &mut page);
                now.copy_from_slice(&page[skipped..skipped + now.len()]);
            }
            offset += now.len() as u64;
            rest = later;
        }
    }

    fn fill_page(&self, offset: u64, page: &mut [u8]) {
        match self.content(offset) {
            _ if offset >= self.size_bytes => page.fill(0),
            Content::Zeros => page.fill(0),
            Content::Random(key) => fill_random(key, page),
            Content::Text(key) => fill_text(key, page),
        }
    }

    fn content(&self, offset: u64) -> Content {
        let part = offset / CHANGE_BYTES;
        let hit = |change: &&Change| number(change.seed, part) % 100 < change.percent;
        if let Some(change) = self.changes.iter().rev().find(hit) {
            return Content::Text(number(change.seed, !offset));
        }
        let block = offset / BLOCK_BYTES % self.period_blocks;
        let page = offset % BLOCK_BYTES;
        let Mix { text_percent, random_percent, duplicate_percent } = self.mix;
        let dice = number(self.seed, block) % 100;
        if dice < text_percent {
            Content::Text(number(self.seed ^ block, page))
        } else if dice < text_percent + random_percent {
            Content::Random(number(self.seed ^ block, page))
        } else if dice < text_percent + random_percent + duplicate_percent {
            Content::Random(number(!self.seed ^ (block % DUPLICATE_CONTENTS), page))
        } else {
            Content::Zeros
        }
    }
}

/// What a page holds; the key is the page's own seed.
enum Content {
    Zeros,
    Random(u64),
    Text(u64),
}

/// SplitMix64 as a function of key and position: any place can be computed without those before it.
fn number(key: u64, position: u64) -> u64 {
    let mut word = key.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn fill_random(key: u64, page: &mut [u8]) {
    for (position, bytes) in (0..).zip(page.chunks_mut(8)) {
        bytes.copy_from_slice(&number(key, position).to_le_bytes()[..bytes.len()]);
    }
}

fn fill_text(key: u64, page: &mut [u8]) {
    let mut rest = page;
    let mut position = 0;
    while !rest.is_empty() {
        let random = number(key, position);
        position += 1;
        // Squaring makes low words frequent, as in language.
        let rank = (random >> 32) % WORDS * ((random >> 16) % WORDS) / WORDS;
        let (letters, count) = word(rank, random);
        let taken = count.min(rest.len());
        let (now, later) = rest.split_at_mut(taken);
        now.copy_from_slice(&letters[..taken]);
        rest = later;
    }
}

/// The word of that rank, with the space or line break behind it: 4 to 12 bytes.
fn word(rank: u64, random: u64) -> ([u8; 12], usize) {
    let letters = number(0x776f_7264, rank).to_le_bytes();
    let mut bytes = [0; 12];
    for (byte, letter) in bytes.iter_mut().zip(letters.iter().chain(&letters)) {
        *byte = b'a' + letter % 26;
    }
    let count = 4 + usize::from(letters[7] % 9);
    bytes[count - 1] = if random.is_multiple_of(11) { b'\n' } else { b' ' };
    (bytes, count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE_BYTES: u64 = 64 * BLOCK_BYTES;

    fn all(disk: &MadeUpDisk) -> Vec<u8> {
        let mut bytes = vec![1; usize::try_from(disk.size_bytes()).unwrap()];
        disk.fill(0, &mut bytes);
        bytes
    }

    fn share_percent(parts: &[&[u8]], is: impl Fn(usize, &[u8]) -> bool) -> usize {
        parts.iter().enumerate().filter(|(number, part)| is(*number, part)).count() * 100 / parts.len()
    }

    proptest! {
        #[test]
        fn bytes_do_not_depend_on_how_they_are_asked_for(start in 0u64..2_000_000, count in 0usize..20_000) {
            let disk = MadeUpDisk::new(2_000_000, 7, Mix::USUAL).changed(30, 1);
            let mut whole = vec![1; 2_100_000];
            disk.fill(0, &mut whole);
            let mut part = vec![2; count];
            disk.fill(start, &mut part);
            let start = usize::try_from(start).unwrap();
            prop_assert_eq!(&part[..], &whole[start..start + count]);
        }
    }

    #[test]
    fn shares_are_about_those_asked_for() {
        let bytes = all(&MadeUpDisk::new(SIZE_BYTES, 3, Mix::USUAL));
        let blocks: Vec<&[u8]> = bytes.chunks(usize::try_from(BLOCK_BYTES).unwrap()).collect();
        let zeros = share_percent(&blocks, |_, block| block.iter().all(|byte| *byte == 0));
        let text = share_percent(&blocks, |_, block| {
            block.iter().all(|byte| byte.is_ascii_lowercase() || b" \n".contains(byte))
        });
        assert!((10..30).contains(&zeros), "{zeros} percent zeros");
        assert!((30..50).contains(&text), "{text} percent text");
    }

    #[test]
    fn a_changed_disk_differs_by_the_percentage() {
        let disk = MadeUpDisk::new(SIZE_BYTES, 3, Mix::USUAL);
        let (before, after) = (all(&disk), all(&disk.changed(10, 5)));
        let part_bytes = usize::try_from(CHANGE_BYTES).unwrap();
        let parts: Vec<&[u8]> = after.chunks(part_bytes).collect();
        let changed =
            share_percent(&parts, |number, part| before[number * part_bytes..][..part_bytes] != *part);
        assert!((7..13).contains(&changed), "{changed} percent changed");
    }

    #[test]
    fn a_huge_disk_repeats_its_few_blocks() {
        let disk = MadeUpDisk::mostly_duplicate(1 << 40, 9, 100);
        let at = |offset| {
            let mut bytes = [0; 100];
            disk.fill(offset, &mut bytes);
            bytes
        };
        assert_eq!(at(5 * BLOCK_BYTES + 17), at((900_000 + 5) * BLOCK_BYTES + 17));
        assert_ne!(at(5 * BLOCK_BYTES + 17), at(6 * BLOCK_BYTES + 17));
    }
}

//! Made-up disks: what they contain follows from a seed, so that a measure names its data and a disk of 1 TiB needs none.
//!
//! Promise: the bytes at an offset depend on the seed, the shape and the offset only, however they are asked for.
//! Knows nothing of partitions, stores or time.

use std::ops::Range;

use disk::{Extent, ReadAt};
use serde::{Deserialize, Serialize};

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

/// What is data and what is zeros alternates in stretches of this size on a huge disk: one segment of a capture.
pub const STRETCH_BYTES: u64 = 64 << 20;

/// Shares of the blocks, in percent; what is left of 100 is zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// A disk of any size that holds few contents many times over, quick to make up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repeats {
    /// One stretch in so many holds data, the others are zeros; 1: all hold data.
    pub data_every: u64,
    /// Which contents there are: two disks with the same seed share the contents whose numbers both have.
    pub contents: Range<u64>,
    /// Which block holds which content follows from this, and is not the same anywhere twice.
    pub order_seed: u64,
    /// Zeros are holes, which a capture need not read.
    pub holes: bool,
}

/// A disk without a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MadeUpDisk {
    size_bytes: u64,
    seed: u64,
    shape: Shape,
    changes: Vec<Change>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Shape {
    Mixed(Mix),
    Repeating(Repeats),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Change {
    percent: u64,
    seed: u64,
}

impl MadeUpDisk {
    /// A disk whose blocks are mixed as asked.
    pub fn new(size_bytes: u64, seed: u64, mix: Mix) -> MadeUpDisk {
        MadeUpDisk { size_bytes, seed, shape: Shape::Mixed(mix), changes: Vec::new() }
    }

    /// A disk that holds the same contents over and over.
    pub fn repeating(size_bytes: u64, seed: u64, repeats: Repeats) -> MadeUpDisk {
        MadeUpDisk { size_bytes, seed, shape: Shape::Repeating(repeats), changes: Vec::new() }
    }

    /// The same disk some days later: `percent` of it was overwritten with new text.
    pub fn changed(&self, percent: u64, seed: u64) -> MadeUpDisk {
        let mut later = self.clone();
        later.changes.push(Change { percent, seed });
        later
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
            Content::Echo(key) => {
                let (said, echo) = page.split_at_mut(page.len() / 2);
                fill_random(key, said);
                echo[..said.len()].copy_from_slice(said);
            }
            Content::Text(key) => fill_text(key, page),
        }
    }

    fn content(&self, offset: u64) -> Content {
        let part = offset / CHANGE_BYTES;
        let hit = |change: &&Change| number(change.seed, part) % 100 < change.percent;
        if let Some(change) = self.changes.iter().rev().find(hit) {
            return Content::Text(number(change.seed, !offset));
        }
        match &self.shape {
            Shape::Mixed(mix) => mix.content(self.seed, offset),
            Shape::Repeating(repeats) => repeats.content(self.seed, offset),
        }
    }
}

impl ReadAt for MadeUpDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        let expected = buf.len() as u64;
        let found = self.size_bytes.saturating_sub(offset);
        if expected > found {
            return Err(disk::Error::ShortRead { path: "made-up disk".into(), offset, expected, found });
        }
        self.fill(offset, buf);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        let step = match &self.shape {
            Shape::Repeating(repeats) if repeats.holes && self.changes.is_empty() => {
                repeats.data_every.max(1)
            }
            Shape::Repeating(_) | Shape::Mixed(_) => 1,
        };
        let stretch = offset / STRETCH_BYTES;
        let next = if stretch.is_multiple_of(step) { stretch } else { stretch.next_multiple_of(step) };
        let start = offset.max(next * STRETCH_BYTES);
        let end = if step == 1 { self.size_bytes } else { self.size_bytes.min((next + 1) * STRETCH_BYTES) };
        Ok((start < end).then(|| Extent { offset: start, bytes: end - start }))
    }
}

impl Mix {
    fn content(&self, seed: u64, offset: u64) -> Content {
        let (block, page) = (offset / BLOCK_BYTES, offset % BLOCK_BYTES);
        let Mix { text_percent, random_percent, duplicate_percent } = *self;
        let dice = number(seed, block) % 100;
        if dice < text_percent {
            Content::Text(number(seed ^ block, page))
        } else if dice < text_percent + random_percent {
            Content::Random(number(seed ^ block, page))
        } else if dice < text_percent + random_percent + duplicate_percent {
            Content::Random(number(!seed ^ (block % DUPLICATE_CONTENTS), page))
        } else {
            Content::Zeros
        }
    }
}

impl Repeats {
    /// Half of the contents compress by two, the other half not at all.
    fn content(&self, seed: u64, offset: u64) -> Content {
        if !(offset / STRETCH_BYTES).is_multiple_of(self.data_every.max(1)) {
            return Content::Zeros;
        }
        let count = self.contents.end.saturating_sub(self.contents.start).max(1);
        let content = self.contents.start + number(self.order_seed, offset / BLOCK_BYTES) % count;
        let key = number(number(seed, content), offset % BLOCK_BYTES);
        if content.is_multiple_of(2) { Content::Echo(key) } else { Content::Random(key) }
    }
}

/// What a page holds; the key is the page's own seed.
enum Content {
    Zeros,
    Random(u64),
    /// The same random bytes twice.
    Echo(u64),
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
    fn a_huge_disk_repeats_its_few_contents_in_no_order() {
        let repeats = Repeats { data_every: 4, contents: 0..10, order_seed: 1, holes: true };
        let disk = MadeUpDisk::repeating(1 << 40, 9, repeats);
        let far = (1 << 40) - 4 * STRETCH_BYTES;
        let at = |block: u64| {
            let mut bytes = [0; 100];
            disk.read_exact_at(far + block * BLOCK_BYTES + 17, &mut bytes).unwrap();
            bytes
        };
        let mut seen: Vec<[u8; 100]> = (0..64).map(at).collect();
        assert!((1..64).any(|block| seen[block] == seen[0]), "nothing repeats");
        seen.sort_unstable();
        seen.dedup();
        assert!((5..=10).contains(&seen.len()), "{} contents", seen.len());
        assert_eq!(at(64), [0; 100]);
    }

    #[test]
    fn holes_are_the_stretches_of_zeros() {
        let repeats = Repeats { data_every: 2, contents: 0..10, order_seed: 1, holes: true };
        let disk = MadeUpDisk::repeating(4 * STRETCH_BYTES, 9, repeats);
        let first = disk.next_data(5).unwrap().unwrap();
        assert_eq!(first, Extent { offset: 5, bytes: STRETCH_BYTES - 5 });
        let second = disk.next_data(STRETCH_BYTES + 1).unwrap().unwrap();
        assert_eq!(second, Extent { offset: 2 * STRETCH_BYTES, bytes: STRETCH_BYTES });
        assert_eq!(disk.next_data(3 * STRETCH_BYTES).unwrap(), None);
    }
}

//! Where a stretch of bytes is cut into chunks: a [`Rule`], and the cut points it gives.
//!
//! Promise: cut points depend on the bytes and the `Rule` only (I4), start anew at each cut, and every chunk is within
//! the rule's bounds (the last one may be shorter). The text of a rule is DESIGN.md §4.3.
//! Knows nothing of devices, stores, time or threads: `no_std` lets the compiler hold us to it.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[cfg(test)]
mod tests;
mod text;

use core::ops::Range;

use fastcdc::v2020::{self, Normalization};

/// Smallest fixed chunk: one sector; a cut inside a sector would save nothing on a disk.
const FIXED_BYTES_MIN: u32 = 512;
/// Largest chunk of any rule, as large as FastCDC allows; a reader's buffer for one chunk stays small.
const CHUNK_BYTES_MAX: u32 = 16 << 20;
/// Below this average, the ids and table entries of chunks weigh as much as what they save.
const AVERAGE_BYTES_MIN: u32 = 1 << 10;
/// Above this average, `average * 4` would pass [`CHUNK_BYTES_MAX`].
const AVERAGE_BYTES_MAX: u32 = CHUNK_BYTES_MAX / 4;
/// Part of every store's cut points, like the version of the crate: never changed (DESIGN.md §4.3).
const NORMALIZATION: Normalization = Normalization::Level1;

/// How bytes are cut. Made by [`Rule::fixed`], [`Rule::fastcdc`] or `parse`, which check the numbers; a rule made by
/// hand from numbers that these refuse cuts like its nearest legal neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Every chunk has the same length.
    Fixed {
        /// That length.
        bytes: u32,
    },
    /// Content decides (FastCDC 2020), so that inserted bytes move the cuts around them only.
    FastCdc {
        /// No chunk but the last of a stretch is shorter.
        min: u32,
        /// Most chunks are about this long.
        average: u32,
        /// No chunk is longer.
        max: u32,
    },
}

/// Why a rule was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Chunks of a fixed length may have any length that is whole sectors.
    #[error("chunk rule fixed: expected a multiple of 512 from 512 to 16777216 bytes, found {found}")]
    FixedBytes {
        /// The length asked for.
        found: u32,
    },
    /// `fastcdc` derives its limits from the average, so only some averages are possible.
    #[error(
        "chunk rule fastcdc: expected an average that is a power of two from 1024 to 4194304 bytes, found {found}"
    )]
    Average {
        /// The average asked for.
        found: u32,
    },
    /// Three explicit lengths that FastCDC cannot work with.
    #[error(
        "chunk rule fastcdc: expected even numbers, 64 ≤ min ≤ 1048576, 256 ≤ average ≤ 4194304, \
         1024 ≤ max ≤ 16777216 and min ≤ average ≤ max, found {min},{average},{max}"
    )]
    Bounds {
        /// The shortest chunk asked for.
        min: u32,
        /// The average asked for.
        average: u32,
        /// The longest chunk asked for.
        max: u32,
    },
    /// The text is no size.
    #[error("chunk rule, column {column}: expected a size below 4 GiB such as 65536, 64k or 64KiB")]
    Size {
        /// Where it stands in the text, counted in bytes from 1.
        column: usize,
    },
    /// The text has none of the forms of a rule.
    #[error("chunk rule: expected SIZE, fixed:SIZE, fastcdc:SIZE or fastcdc:MIN,AVERAGE,MAX")]
    Form,
}

impl Rule {
    /// Chunks of `bytes` each.
    pub fn fixed(bytes: u32) -> Result<Rule, Error> {
        let legal = (FIXED_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(512);
        if legal { Ok(Rule::Fixed { bytes }) } else { Err(Error::FixedBytes { found: bytes }) }
    }

    /// FastCDC with chunks of a quarter of `average` to four times as much.
    pub fn fastcdc(average: u32) -> Result<Rule, Error> {
        if !average.is_power_of_two() || !(AVERAGE_BYTES_MIN..=AVERAGE_BYTES_MAX).contains(&average) {
            return Err(Error::Average { found: average });
        }
        Rule::fastcdc_bounds(average / 4, average, average * 4)
    }

    /// FastCDC with explicit bounds: what the crate asserts in debug builds is an error here.
    fn fastcdc_bounds(min: u32, average: u32, max: u32) -> Result<Rule, Error> {
        let rule = Rule::FastCdc { min, average, max };
        let same = rule.legal_bounds() == (min as usize, average as usize, max as usize);
        if same && min <= average { Ok(rule) } else { Err(Error::Bounds { min, average, max }) }
    }

    /// The nearest numbers that `fastcdc` accepts: shortest, average, longest.
    fn legal_bounds(&self) -> (usize, usize, usize) {
        let even = |bytes: usize| bytes & !1;
        match *self {
            Rule::Fixed { bytes } => {
                let bytes = bytes.max(1) as usize;
                (bytes, bytes, bytes)
            }
            Rule::FastCdc { min, average, max } => {
                let average = even(average as usize).clamp(v2020::AVERAGE_MIN, v2020::AVERAGE_MAX);
                let min = even(min as usize).clamp(v2020::MINIMUM_MIN, v2020::MINIMUM_MAX);
                let max = even(max as usize).clamp(v2020::MAXIMUM_MIN, v2020::MAXIMUM_MAX);
                (min, average, max.max(average))
            }
        }
    }

    /// No chunk is longer. Whoever reads a stretch in windows needs windows of at least this many bytes.
    pub fn chunk_bytes_max(&self) -> usize {
        self.legal_bounds().2
    }

    /// Length of the first chunk of `bytes`, never 0 unless `bytes` is empty. Unless they end the stretch, `bytes` must
    /// hold at least [`Rule::chunk_bytes_max`] bytes: with fewer, the end of the window would become a cut.
    pub fn first_cut(&self, bytes: &[u8]) -> usize {
        let (min, average, max) = self.legal_bounds();
        if let Rule::Fixed { .. } = self {
            return bytes.len().min(max);
        }
        let (strict, relaxed) = v2020::select_masks(average, NORMALIZATION);
        // The shifted masks belong to the first byte of each pair ("rolling two bytes each time").
        v2020::cut(bytes, min, average, max, strict, relaxed, strict << 1, relaxed << 1).1
    }

    /// All chunks of a whole stretch, in order, without gaps.
    pub fn cuts<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let rule = *self;
        let mut start = 0;
        core::iter::from_fn(move || {
            // In bounds: `start` grows by lengths that `first_cut` found within the rest.
            let length = rule.first_cut(&bytes[start..]);
            let chunk = start..start + length;
            start = chunk.end;
            (length > 0).then_some(chunk)
        })
    }
}

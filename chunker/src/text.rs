//! A rule as text: the canonical form of DESIGN.md §4.3, and the shorter ones that people type.
//!
//! Promise: `rule.to_string().parse() == Ok(rule)` for every legal rule, and parsing never panics (I6).
//! Knows nothing of cutting.

use core::fmt;
use core::str::FromStr;

use crate::{Error, Rule};

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Fixed { bytes } => write!(out, "fixed:{bytes}"),
            Rule::FastCdc { min, average, max } => write!(out, "fastcdc:{min},{average},{max}"),
        }
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Rule, Error> {
        match text.split_once(':') {
            None => Rule::fastcdc(size(text, 1)?),
            Some(("fixed", bytes)) => Rule::fixed(size(bytes, "fixed:".len() + 1)?),
            Some(("fastcdc", sizes)) => fastcdc(sizes, "fastcdc:".len() + 1),
            Some(_) => Err(Error::Form),
        }
    }
}

/// One size is the average, three are min, average and max.
fn fastcdc(sizes: &str, column: usize) -> Result<Rule, Error> {
    let Some((min, rest)) = sizes.split_once(',') else {
        return Rule::fastcdc(size(sizes, column)?);
    };
    let (average, max) = rest.split_once(',').ok_or(Error::Form)?;
    let average_column = column + min.len() + 1;
    let max_column = average_column + average.len() + 1;
    Rule::fastcdc_bounds(size(min, column)?, size(average, average_column)?, size(max, max_column)?)
}

/// `65536`, `64k`, `64K`, `64KiB`, `1M`, `1MiB`: binary units only, as everywhere in `cas`.
fn size(text: &str, column: usize) -> Result<u32, Error> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // Cannot split a character: all bytes before are ASCII digits.
    let (number, unit) = text.split_at(digits);
    let shift = [("", 0), ("b", 0), ("k", 10), ("kib", 10), ("m", 20), ("mib", 20)]
        .iter()
        .find(|(name, _)| unit.eq_ignore_ascii_case(name))
        .map(|(_, shift)| *shift);
    let bytes =
        number.parse::<u32>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.ok_or(Error::Size { column })
}

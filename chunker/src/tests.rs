//! Tests of the cut points: properties, and the golden cuts that no release may move.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use fastcdc::v2020::{FastCDC, Normalization};
use proptest::prelude::*;

use crate::{Error, Rule};

/// SplitMix64 (Steele, Lea, Flood 2014): the golden bytes must not depend on another crate's generator.
fn pseudo_random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Rules small enough that a short input has several chunks.
fn any_rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        (1u32..=32).prop_map(|sectors| Rule::fixed(sectors * 512).unwrap()),
        (10u32..=13).prop_map(|shift| Rule::fastcdc(1 << shift).unwrap()),
        (32u32..=512, 0u32..=2048, 0u32..=4096).prop_map(|(min, more, most)| {
            let average = (min + more).max(128);
            Rule::fastcdc_bounds(min * 2, average * 2, (average + most).max(512) * 2).unwrap()
        }),
    ]
}

/// Stretches with random, repeated and constant parts: both kinds of cut (by content, by length) happen.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = (any::<u64>(), 0usize..40_000, 0u8..3).prop_map(|(seed, count, kind)| match kind {
        0 => std::vec![seed.to_le_bytes()[0]; count],
        1 => pseudo_random_bytes(seed, 97).into_iter().cycle().take(count).collect(),
        _ => pseudo_random_bytes(seed, count),
    });
    prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat())
}

fn lengths(rule: &Rule, bytes: &[u8]) -> Vec<usize> {
    rule.cuts(bytes).map(|chunk| chunk.len()).collect()
}

proptest! {
    #[test]
    fn chunks_in_order_give_the_input(rule in any_rule(), bytes in any_bytes()) {
        let mut joined = Vec::new();
        for chunk in rule.cuts(&bytes) {
            prop_assert_eq!(chunk.start, joined.len());
            joined.extend_from_slice(&bytes[chunk]);
        }
        prop_assert_eq!(joined, bytes);
    }

    #[test]
    fn chunks_are_within_bounds(rule in any_rule(), bytes in any_bytes()) {
        let (min, _, max) = rule.legal_bounds();
        prop_assert_eq!(max, rule.chunk_bytes_max());
        let lengths = lengths(&rule, &bytes);
        if let Some((last, others)) = lengths.split_last() {
            prop_assert!(0 < *last && *last <= max);
            prop_assert!(others.iter().all(|length| (min..=max).contains(length)));
        }
    }

    /// I4: a reader with any window of at least `chunk_bytes_max` sees the cuts of the whole.
    #[test]
    fn window_size_does_not_matter(
        rule in any_rule(),
        bytes in any_bytes(),
        extra in prop::collection::vec(0usize..9000, 1..8),
    ) {
        let mut extra = extra.iter().cycle();
        let mut start = 0;
        let mut found = Vec::new();
        while start < bytes.len() {
            let window = rule.chunk_bytes_max() + extra.next().unwrap();
            let end = bytes.len().min(start + window);
            let length = rule.first_cut(&bytes[start..end]);
            found.push(length);
            start += length;
        }
        prop_assert_eq!(found, lengths(&rule, &bytes));
    }

    /// What segments rest on: chunking from a cut on gives the rest of the cuts.
    #[test]
    fn cuts_start_anew_at_each_cut(
        rule in any_rule(),
        bytes in any_bytes(),
        pick in any::<prop::sample::Index>(),
    ) {
        let all = lengths(&rule, &bytes);
        prop_assume!(!all.is_empty());
        let before = pick.index(all.len());
        let cut: usize = all[..before].iter().sum();
        prop_assert_eq!(&lengths(&rule, &bytes[cut..])[..], &all[before..]);
    }

    /// The oracle: what DESIGN.md §4.3 promises is the crate's own iterator.
    #[test]
    fn cuts_are_those_of_the_fastcdc_crate(rule in any_rule(), bytes in any_bytes()) {
        if let Rule::FastCdc { min, average, max } = rule {
            let (min, average, max) = (min as usize, average as usize, max as usize);
            let oracle = FastCDC::with_level(&bytes, min, average, max, Normalization::Level1);
            prop_assert_eq!(lengths(&rule, &bytes), oracle.map(|chunk| chunk.length).collect::<Vec<_>>());
        }
    }

    #[test]
    fn text_gives_the_rule_back(rule in any_rule()) {
        prop_assert_eq!(rule.to_string().parse(), Ok(rule));
    }

    #[test]
    fn any_text_is_a_rule_or_an_error(text in "\\PC*|(fixed|fastcdc)?:?[0-9kKMiBb,é]{0,14}") {
        if let Ok(rule) = text.parse::<Rule>() {
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
        }
    }

    /// Numbers that no constructor accepts must not panic or stand still either.
    #[test]
    fn rules_made_by_hand_cut_too(bytes: u32, min: u32, average: u32, max: u32, content in any_bytes()) {
        for rule in [Rule::Fixed { bytes }, Rule::FastCdc { min, average, max }] {
            let legal = 1..=rule.chunk_bytes_max();
            prop_assert!(content.is_empty() || legal.contains(&rule.first_cut(&content)));
        }
    }
}

#[test]
fn nothing_has_no_chunks() {
    assert_eq!(Rule::fastcdc(65536).unwrap().first_cut(&[]), 0);
    assert_eq!(Rule::fixed(4096).unwrap().cuts(&[]).count(), 0);
}

#[test]
fn people_may_write_sizes_their_way() {
    let average = |bytes| Ok(Rule::fastcdc(bytes).unwrap());
    for text in [
        "64KiB",
        "64k",
        "64K",
        "65536",
        "65536B",
        "fastcdc:64KiB",
        "fastcdc:16384,65536,262144",
        "fastcdc:16k,64k,256k",
    ] {
        assert_eq!(text.parse(), average(65536), "{text}");
    }
    assert_eq!("4MiB".parse(), average(4 << 20));
    assert_eq!("fixed:4KiB".parse(), Rule::fixed(4096));
    assert_eq!("fixed:16M".parse(), Rule::fixed(16 << 20));
}

#[test]
fn canonical_text_is_in_bytes() {
    assert_eq!(Rule::fastcdc(65536).unwrap().to_string(), "fastcdc:16384,65536,262144");
    assert_eq!(Rule::fixed(4096).unwrap().to_string(), "fixed:4096");
}

#[test]
fn refusals_say_what_was_expected_and_found() {
    let refused = |text: &str| text.parse::<Rule>().unwrap_err();
    assert_eq!(refused("fixed:1000"), Error::FixedBytes { found: 1000 });
    assert_eq!(refused("fixed:32MiB"), Error::FixedBytes { found: 32 << 20 });
    assert_eq!(refused("48k"), Error::Average { found: 49152 });
    assert_eq!(refused("512"), Error::Average { found: 512 });
    assert_eq!(refused("8M"), Error::Average { found: 8 << 20 });
    assert_eq!(refused("fastcdc:63,256,1024"), Error::Bounds { min: 63, average: 256, max: 1024 });
    assert_eq!(refused("fastcdc:8k,4k,16k"), Error::Bounds { min: 8192, average: 4096, max: 16384 });
    assert_eq!(refused("fastcdc:1k,4k,2k"), Error::Bounds { min: 1024, average: 4096, max: 2048 });
    assert_eq!(refused("fastcdc:1k,x,2k"), Error::Size { column: 12 });
    assert_eq!(refused("fixed:4GiB"), Error::Size { column: 7 });
    assert_eq!(refused("4096M"), Error::Size { column: 1 });
    assert_eq!(refused(""), Error::Size { column: 1 });
    assert_eq!(refused("rabin:64k"), Error::Form);
    assert_eq!(refused("fastcdc:1k,2k"), Error::Form);
}

/// Number of chunks, BLAKE3 over their lengths (u32, little endian), and the first ten cuts. The `fastcdc` crate
/// moved its cut points silently once (4.0.0): stores would stop deduplicating against themselves. Never edit these.
#[test]
fn golden_cut_points() {
    let bytes = pseudo_random_bytes(0xca5, 4 << 20);
    let found: Vec<String> = [16u32 << 10, 64 << 10, 256 << 10]
        .iter()
        .map(|average| {
            let lengths = lengths(&Rule::fastcdc(*average).unwrap(), &bytes);
            let list: Vec<u8> =
                lengths.iter().flat_map(|length| u32::try_from(*length).unwrap().to_le_bytes()).collect();
            let ends = lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end)
            });
            format!("{} {} {:?}", lengths.len(), blake3::hash(&list), ends.take(10).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(found, GOLDEN);
}

const GOLDEN: [&str; 3] = [
    "215 0df162fb7dde30e81cac9ed1db44ce8d25b3a8ea3ea92ae34dcdc51c5c20857d \
     [14743, 27797, 43356, 51051, 68185, 92736, 111727, 147420, 183714, 215562]",
    "51 191582a221a64c52e27482356e983bc567649b3b433f490c226f0e0f97babbae \
     [111727, 232602, 251425, 317863, 348453, 439909, 510501, 580546, 727140, 798134]",
    "11 7bfee5774f07c7c95eeec1845b740c0ea6088477dfe8b59348a608c10604ed11 \
     [348453, 817775, 1148364, 1547295, 1964413, 2083864, 2493280, 2675246, 2947801, 3354370]",
];

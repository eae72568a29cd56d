//! Texts: what is plain, what is doubted, and that no change of a byte leads to a panic.

use proptest::prelude::*;

use super::group::Group;
use super::{header, text};
use crate::Extent;
use crate::fs::Doubt;

const MIB: u64 = 1 << 20;

fn header() -> header::Header {
    header::Header {
        uuid: *b"ygxKMQORpFnjTeSmU2xnX77MzwYzPjUj",
        data: MIB,
        reserved: vec![Extent { offset: 4096, bytes: MIB - 4096 }],
        metadata: Vec::new(),
    }
}

fn text(volumes: &str) -> String {
    format!(
        r#"vg {{
id = "u5sFQl-zIVe-N1eH-b9AD-KiOF-KAjd-va2riA"
seqno = 6
format = "lvm2" # a comment
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = 2048
max_lv = 0
physical_volumes {{
pv0 {{
id = "ygxKMQ-ORpF-njTe-SmU2-xnX7-7Mzw-YzPjUj"
device = "/dev/\"loop0"
status = ["ALLOCATABLE"]
flags = []
pe_start = 2048
pe_count = 50
}}
pv1 {{ id = "another" }}
}}
logical_volumes {{ {volumes} }}
}}
contents = "Text Format Volume Group"
version = 1
"#
    )
}

fn volume(name: &str, extra: &str, segments: &[&str]) -> String {
    let mut it = format!(
        "{name} {{ status = [\"READ\", \"WRITE\", \"VISIBLE\"] {extra} segment_count = {} ",
        segments.len()
    );
    for (number, segment) in (1..).zip(segments) {
        it += &format!("segment{number} {{ {segment} }} ");
    }
    it + "}\n"
}

fn linear(start: u64, count: u64, first: u64) -> String {
    format!(
        "start_extent = {start} extent_count = {count} type = \"striped\" stripe_count = 1 stripes = [ \"pv0\", {first} ]"
    )
}

fn decode(volumes: &str) -> Result<Group, Doubt> {
    Group::decode(&text::parse(text(volumes).as_bytes())?, &header(), 100 * MIB)
}

fn free(volumes: &str) -> Vec<(u64, u64)> {
    let group = decode(volumes).unwrap();
    group.unallocated().iter().map(|extent| (extent.offset / MIB - 1, extent.bytes / MIB)).collect()
}

#[test]
fn what_segments_name_is_used() {
    assert_eq!(free(""), [(0, 50)]);
    let plain = volume("a", "", &[&linear(0, 5, 10), &linear(5, 2, 0)]);
    assert_eq!(free(&plain), [(2, 8), (15, 35)]);
    let group = decode(&plain).unwrap();
    // In the order of the volume, not of the device.
    let runs: Vec<u64> = group.plain[0].iter().map(|run| run.place.offset / MIB - 1).collect();
    assert_eq!(runs, [10, 0]);
    let striped = "start_extent = 0 extent_count = 8 type = \"striped\" stripe_count = 2 stripes = [\"pv0\", 3, \"pv1\", 9]";
    assert_eq!(free(&volume("a", "", &[striped])), [(0, 3), (7, 43)]);
    let mirror = "start_extent = 0 extent_count = 8 type = \"mirror\" mirror_count = 2 mirrors = [\"pv1\", 3, \"pv0\", 9]";
    assert_eq!(free(&volume("a", "", &[mirror])), [(0, 9), (17, 33)]);
}

#[test]
fn only_plain_volumes_are_looked_into() {
    let one = linear(0, 5, 10);
    let plain = |volumes: &str| decode(volumes).unwrap().plain.len();
    assert_eq!(plain(&volume("a", "", &[&one])), 1);
    assert_eq!(plain(&volume("a", "flags = [\"ERROR_WHEN_FULL\"]", &[&one])), 0);
    assert_eq!(plain(&volume("a", "", &[&one]).replace(", \"VISIBLE\"", "")), 0);
    assert_eq!(plain(&volume("a", "", &[&linear(1, 5, 10)])), 0);
    let elsewhere = linear(5, 5, 0).replace("pv0", "pv1");
    assert_eq!(plain(&volume("a", "", &[&one, &elsewhere])), 0);
    let snapshot = "start_extent = 0 extent_count = 5 type = \"snapshot\" chunk_size = 8 origin = \"a\" cow_store = \"b\"";
    let all = volume("a", "", &[&one])
        + &volume("b", "", &[&linear(0, 5, 20)])
        + &volume("c", "", &[&linear(0, 5, 30)]);
    assert_eq!(plain(&all), 3);
    assert_eq!(plain(&(all + &volume("s", "", &[snapshot]))), 1);
}

#[test]
fn doubts() {
    let one = linear(0, 5, 10);
    let two = volume("a", "", &[&one]) + &volume("b", "", &[&linear(0, 5, 14)]);
    let cases = [
        two,
        volume("a", "", &[&linear(0, 5, 46)]),
        volume("a", "", &[&linear(0, 0, 0)]),
        volume("a", "", &[&one.replace("striped", "striped+NEW")]),
        volume("a", "", &[&one.replace("stripe_count = 1", "stripe_count = 2")]),
        volume("a", "", &[&one.replace(", 10", "")]),
        volume("a", "", &[&one]).replace("segment_count = 1", "segment_count = 2"),
        volume("a", "", &[&one]).replace("\"VISIBLE\"", "\"PVMOVE\""),
        volume("a", "", &[&one]) + &volume("a", "", &[&one]),
        "} {".to_owned(),
    ];
    for volumes in cases {
        assert!(decode(&volumes).is_err(), "{volumes}");
    }
    let good = text("");
    for (old, new) in [
        ("Text Format", "Other"),
        ("version = 1", "version = 2"),
        ("pe_start = 2048", "pe_start = 4096"),
        ("pe_count = 50", "pe_count = 100"),
        ("pe_count = 50", "pe_count = 18446744073709551615"),
        ("extent_size = 2048", "extent_size = 0"),
        ("ygxKMQ", "zgxKMQ"),
        ("another", "ygxKMQ-ORpF-njTe-SmU2-xnX7-7Mzw-YzPjUj"),
        ("[\"ALLOCATABLE\"]", "[\"ALLOCATABLE\", \"MISSING\"]"),
        ("format = \"lvm2\"", "format = \"lvm1\""),
    ] {
        let bad = good.replacen(old, new, 1);
        assert_ne!(bad, good);
        let group = text::parse(bad.as_bytes()).and_then(|it| Group::decode(&it, &header(), 100 * MIB));
        assert!(group.is_err(), "{old} -> {new}");
    }
}

#[test]
fn deep_texts_are_doubted() {
    assert!(text::parse("a {".repeat(100_000).as_bytes()).is_err());
    assert!(text::parse(b"a = [").is_err());
    assert!(text::parse(b"a = \"x").is_err());
}

proptest! {
    #[test]
    fn any_change_gives_a_group_or_a_doubt(changes in prop::collection::vec((0_usize..1500, any::<u8>()), 1..4)) {
        let mut bytes = text(&volume("a", "", &[&linear(0, 5, 10), &linear(5, 2, 0)])).into_bytes();
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        if let Ok(group) = text::parse(&bytes).and_then(|it| Group::decode(&it, &header(), 100 * MIB)) {
            prop_assert!(group.unallocated().iter().all(|it| it.offset >= MIB && it.end() <= 100 * MIB));
        }
    }
}

//! A volume group's text: which extents of this physical volume belong to what.
//!
//! Promise: every pair of this volume's name and an extent, in a segment of whatever kind, counts as used; kinds of
//! segments that are not known are a doubt, and so are runs that overlap or leave the volume.
//! Knows nothing of filesystems. Format: lvm2 lib/format_text/export.c, import_vsn1.c.

use super::header::Header;
use super::text::{Section, Value};
use crate::Extent;
use crate::fs::Doubt;
use crate::map::FreeMap;

const SECTOR: u64 = 512;
/// All that have their extents of a physical volume in pairs of its name and a number, or only in other volumes.
const SEGMENTS: [&str; 26] = [
    "striped",
    "linear",
    "mirror",
    "snapshot",
    "thin",
    "thin-pool",
    "cache",
    "cache-pool",
    "writecache",
    "integrity",
    "error",
    "zero",
    "vdo",
    "vdo-pool",
    "raid0",
    "raid0_meta",
    "raid1",
    "raid10",
    "raid4",
    "raid5",
    "raid5_la",
    "raid5_ls",
    "raid5_ra",
    "raid5_rs",
    "raid6",
    "raid6_zr",
];

/// A piece of a logical volume: where it is on the physical volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) place: Extent,
}

pub(super) struct Group {
    /// The extents of the group on this volume.
    extents: Extent,
    /// What of them is used: sorted, disjoint.
    used: Vec<Extent>,
    /// For each plain volume that is on this physical volume alone: its runs in order.
    pub(super) plain: Vec<Vec<Run>>,
}

impl Group {
    pub(super) fn decode(text: &Section, header: &Header, volume_bytes: u64) -> Result<Self, Doubt> {
        let missing = |place| Doubt::Impossible { place, found: 0 };
        if string(text, "contents") != Some("Text Format Volume Group") || number(text, "version")? != 1 {
            return Err(missing("contents of the metadata"));
        }
        let mut groups = text.values().filter_map(as_section);
        let (Some(group), None) = (groups.next(), groups.next()) else {
            return Err(missing("number of volume groups"));
        };
        let format = string(group, "format");
        if format.is_some_and(|format| format != "lvm2") {
            return Err(missing("format of the volume group"));
        }
        let extent_bytes = bytes(number(group, "extent_size")?)?;
        let (name, physical) = this_volume(group, header)?;
        let offset = bytes(number(physical, "pe_start")?)?;
        let count = number(physical, "pe_count")?;
        let length = count.checked_mul(extent_bytes).ok_or(missing("number of extents"))?;
        if offset != header.data {
            return Err(Doubt::Mismatch { place: "first extent", expected: header.data, found: offset });
        }
        let extents = Extent { offset, bytes: length };
        match offset.checked_add(length) {
            Some(end) if end <= volume_bytes && extent_bytes > 0 => {}
            _ => return Err(Doubt::TooLarge { expected: extents.end(), found: volume_bytes }),
        }
        if let Some(found) = header.reserved.iter().find(|it| it.overlaps(&extents) || it.bytes == 0) {
            return Err(Doubt::Impossible { place: "metadata among the extents at", found: found.offset });
        }
        let mut decoder = Decoder { name, extents, count, extent_bytes, used: Vec::new() };
        let mut plain = Vec::new();
        let volumes = section(group, "logical_volumes").ok();
        let referred = volumes.map(names_referred).unwrap_or_default();
        for (name, volume) in volumes.into_iter().flatten() {
            let volume = as_section(volume).ok_or(missing("a logical volume"))?;
            let runs = decoder.logical(volume)?;
            plain.extend(runs.filter(|_| !referred.contains(name.as_str())));
        }
        Ok(Self { extents, used: decoder.finish()?, plain })
    }

    /// What no logical volume has.
    pub(super) fn unallocated(&self) -> Vec<Extent> {
        let before = Extent { offset: 0, bytes: self.extents.offset };
        let used = [&[before], self.used.as_slice()].concat();
        FreeMap::from_used(self.extents.end(), used).free().to_vec()
    }
}

/// The section of the physical volume whose header was read, and its name.
fn this_volume<'a>(group: &'a Section, header: &Header) -> Result<(&'a str, &'a Section), Doubt> {
    let mut found = None;
    for (name, value) in section(group, "physical_volumes")? {
        let physical = as_section(value).ok_or(Doubt::Impossible { place: "a physical volume", found: 0 })?;
        let id = string(physical, "id").unwrap_or_default();
        if id.bytes().filter(|byte| *byte != b'-').eq(header.uuid)
            && found.replace((name.as_str(), physical)).is_some()
        {
            return Err(Doubt::Impossible { place: "number of volumes with this id", found: 2 });
        }
    }
    let (name, physical) = found.ok_or(Doubt::Elsewhere { place: "the volume group's own volume" })?;
    let is_missing = |it: &&str| *it == "MISSING";
    if strings(physical, "flags")?.iter().any(is_missing)
        || strings(physical, "status")?.iter().any(is_missing)
    {
        return Err(Doubt::Damaged { place: "volume group" });
    }
    Ok((name, physical))
}

/// All that segments name: volumes that are part of others, and those with snapshots.
fn names_referred(volumes: &Section) -> std::collections::BTreeSet<&str> {
    fn collect<'a>(value: &'a Value, names: &mut std::collections::BTreeSet<&'a str>) {
        match value {
            Value::Number(_) => {}
            Value::Text(text) => {
                names.insert(text);
            }
            Value::List(list) => list.iter().for_each(|value| collect(value, names)),
            Value::Section(section) => section.values().for_each(|value| collect(value, names)),
        }
    }
    let mut names = std::collections::BTreeSet::new();
    let segments = volumes.values().filter_map(as_section).flat_map(Section::values).filter_map(as_section);
    for value in segments.flat_map(Section::values) {
        collect(value, &mut names);
    }
    names
}

struct Decoder<'a> {
    /// Of this physical volume in the text.
    name: &'a str,
    extents: Extent,
    count: u64,
    extent_bytes: u64,
    used: Vec<Extent>,
}

impl Decoder<'_> {
    /// Notes what it uses; gives its runs if it is plain and all here.
    fn logical(&mut self, volume: &Section) -> Result<Option<Vec<Run>>, Doubt> {
        let status = strings(volume, "status")?;
        if status.iter().any(|it| matches!(*it, "PVMOVE" | "LOCKED")) {
            return Err(Doubt::NotClean { place: "extents of the volume group are being moved" });
        }
        let is_plain = |it: &&str| matches!(*it, "READ" | "WRITE" | "VISIBLE");
        let mut plain = status.iter().all(is_plain)
            && status.contains(&"VISIBLE")
            && strings(volume, "flags")?.is_empty();
        let mut segments = Vec::new();
        for segment in volume.values().filter_map(as_section) {
            let count = number(segment, "extent_count")?;
            let places = self.segment(segment, count)?;
            let one = (string(segment, "type") == Some("striped") && number(segment, "stripe_count")? == 1)
                .then_some(places.as_slice());
            match one {
                Some([place]) => segments.push((number(segment, "start_extent")?, count, *place)),
                _ => plain = false,
            }
        }
        if number(volume, "segment_count")? != len64(volume.values().filter_map(as_section).count()) {
            return Err(Doubt::Impossible {
                place: "number of segments",
                found: number(volume, "segment_count")?,
            });
        }
        segments.sort_unstable();
        let mut end = 0_u64;
        for (start, count, _) in &segments {
            plain &= *start == end;
            end = end.saturating_add(*count);
        }
        plain &= !segments.is_empty();
        Ok(plain.then(|| segments.into_iter().map(|(_, _, place)| Run { place }).collect()))
    }

    /// The extents of this physical volume that a segment has.
    fn segment(&mut self, segment: &Section, count: u64) -> Result<Vec<Extent>, Doubt> {
        let kind = string(segment, "type").unwrap_or_default();
        if !SEGMENTS.contains(&kind) && !matches!(kind, "raid6_nc" | "raid6_nr" | "raid10_near") {
            return Err(Doubt::Feature { place: "kind of a segment", found: len64(kind.len()) });
        }
        let stripes = if kind == "striped" { number(segment, "stripe_count")? } else { 1 };
        let length = count.checked_div(stripes).filter(|length| length.checked_mul(stripes) == Some(count));
        let length = length.ok_or(Doubt::Impossible { place: "number of stripes", found: stripes })?;
        let mut places = Vec::new();
        for value in segment.values() {
            let Value::List(list) = value else {
                if matches!(value, Value::Text(text) if text == self.name) {
                    return Err(Doubt::Impossible { place: "a volume without an extent", found: count });
                }
                continue;
            };
            for (at, _) in
                list.iter().enumerate().filter(|(_, it)| matches!(it, Value::Text(text) if text == self.name))
            {
                let Some(Value::Number(first)) = list.get(at.saturating_add(1)) else {
                    return Err(Doubt::Impossible { place: "a volume without an extent", found: count });
                };
                places.push(self.place(*first, length)?);
            }
        }
        if kind == "striped" && stripes.saturating_mul(2) != len64(list_len(segment, "stripes")) {
            return Err(Doubt::Impossible { place: "number of stripes", found: stripes });
        }
        self.used.extend(&places);
        Ok(places)
    }

    fn place(&self, first: u64, count: u64) -> Result<Extent, Doubt> {
        match first.checked_add(count) {
            Some(end) if end <= self.count && count > 0 => Ok(Extent {
                // Inside what was checked to fit the volume.
                offset: self.extents.offset.saturating_add(first.saturating_mul(self.extent_bytes)),
                bytes: count.saturating_mul(self.extent_bytes),
            }),
            _ => Err(Doubt::Impossible { place: "first extent of a segment", found: first }),
        }
    }

    fn finish(mut self) -> Result<Vec<Extent>, Doubt> {
        self.used.sort_unstable();
        let pairs = self.used.iter().zip(self.used.iter().skip(1));
        match pairs.into_iter().find(|(before, after)| before.overlaps(after)) {
            Some((_, after)) => Err(Doubt::Impossible { place: "two segments at", found: after.offset }),
            None => Ok(self.used),
        }
    }
}

fn as_section(value: &Value) -> Option<&Section> {
    if let Value::Section(section) = value { Some(section) } else { None }
}

fn section<'a>(of: &'a Section, name: &'static str) -> Result<&'a Section, Doubt> {
    of.get(name).and_then(as_section).ok_or(Doubt::Impossible { place: name, found: 0 })
}

fn number(of: &Section, name: &'static str) -> Result<u64, Doubt> {
    match of.get(name) {
        Some(Value::Number(number)) => Ok(*number),
        _ => Err(Doubt::Impossible { place: name, found: 0 }),
    }
}

fn string<'a>(of: &'a Section, name: &str) -> Option<&'a str> {
    if let Some(Value::Text(text)) = of.get(name) { Some(text) } else { None }
}

/// A list of strings; one alone is a list, too, and none is empty.
fn strings<'a>(of: &'a Section, name: &'static str) -> Result<Vec<&'a str>, Doubt> {
    let text = |value: &'a Value| match value {
        Value::Text(text) => Ok(text.as_str()),
        _ => Err(Doubt::Impossible { place: name, found: 0 }),
    };
    match of.get(name) {
        None => Ok(Vec::new()),
        Some(Value::List(list)) => list.iter().map(text).collect(),
        Some(value) => text(value).map(|text| vec![text]),
    }
}

fn list_len(of: &Section, name: &str) -> usize {
    if let Some(Value::List(list)) = of.get(name) { list.len() } else { 0 }
}

fn bytes(sectors: u64) -> Result<u64, Doubt> {
    sectors.checked_mul(SECTOR).ok_or(Doubt::Impossible { place: "number of sectors", found: sectors })
}

fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

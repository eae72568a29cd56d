//! The images of a store as people speak of them: name, time, state.
//!
//! Promise: a damaged manifest is one line with the state `damaged`, never the end of a listing.
//! Knows nothing of how images are kept.

use crate::args::Context;
use crate::naming::{self, Known, Narrow, Scope};
use anyhow::Result;
use image::SourceInfo;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{ImageEntry, ImageId, Manifest, Store};

/// One image with what is known of it.
pub(crate) struct Listed {
    pub(crate) entry: ImageEntry,
    /// `None` when the manifest or its description of the source cannot be understood.
    pub(crate) source: Option<SourceInfo>,
    pub(crate) known: Known,
}

/// All images, oldest first.
pub(crate) fn list(store: &Store) -> Result<Vec<Listed>> {
    let mut images: Vec<Listed> = store.images()?.into_iter().map(Listed::new).collect();
    images.sort_by_key(|image| (image.known.time, image.known.id));
    Ok(images)
}

/// The image that `name` means.
pub(crate) fn find(images: &[Listed], name: &str, narrow: &Narrow, scope: Scope) -> Result<ImageId> {
    let known: Vec<Known> = images.iter().map(|image| image.known.clone()).collect();
    Ok(naming::resolve(name, &known, narrow, scope)?)
}

/// Opens the image that `name` means for reading; says when it is not what one would expect.
pub(crate) fn open(
    context: &Context,
    store: &Store,
    name: &str,
    narrow: &Narrow,
) -> Result<store::StoredImage> {
    let images = list(store)?;
    let id = find(&images, name, narrow, Scope::Live)?;
    if images.iter().any(|image| image.known.id == id && !image.entry.confirmed) {
        let text = "its capture did not end well, so parts of it may be missing";
        context.ui.warn(format!("image {}: unconfirmed: {text}", id.short()));
    }
    Ok(store.image(id)?)
}

impl Listed {
    pub(crate) fn new(entry: ImageEntry) -> Listed {
        let manifest = entry.manifest.as_ref().ok();
        let source = manifest.and_then(|manifest| SourceInfo::from_manifest(manifest).ok());
        let mut disks: Vec<String> = manifest.iter().map(|manifest| manifest.disk.clone()).collect();
        if let Some(source) = &source {
            let identity = &source.identity;
            disks.extend([identity.path.clone(), identity.name.clone()]);
            disks.extend(identity.serial.iter().chain(&identity.wwn).cloned());
        }
        let time = manifest.and_then(|manifest| manifest.created.parse().ok());
        let known = Known {
            id: entry.id,
            time: time.unwrap_or(Timestamp::MIN),
            host: manifest.map_or_else(String::new, |manifest| manifest.host.clone()),
            disks,
            tags: manifest.map_or_else(Vec::new, |manifest| manifest.tags.clone()),
            forgotten: entry.forgotten.is_some(),
            sound: entry.confirmed && manifest.is_some(),
        };
        Listed { entry, source, known }
    }

    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.entry.manifest.as_ref().ok()
    }

    /// What the disk is called: serial number, else its name.
    pub(crate) fn disk(&self) -> &str {
        self.known.disks.first().map_or("", String::as_str)
    }

    /// Sectors that could not be read.
    fn bad_sectors(&self) -> u64 {
        let bad_bytes = self.manifest().map_or(0, |manifest| manifest.statistics.bad_bytes);
        let sector = self.source.as_ref().map_or(512, |source| source.identity.logical_sector_bytes.max(512));
        bad_bytes.div_ceil(u64::from(sector))
    }

    /// `complete`, or everything that is the matter with it.
    pub(crate) fn state(&self) -> String {
        let bad_sectors = self.bad_sectors();
        let plural = if bad_sectors == 1 { "" } else { "s" };
        let left_out = self.source.iter().flat_map(|source| &source.excluded);
        let left_out: Vec<String> = left_out.map(u32::to_string).collect();
        let inconsistent = self.source.as_ref().is_some_and(|source| !source.consistent);
        let matters = [
            (self.manifest().is_none(), "damaged".to_owned()),
            (!self.entry.confirmed, "unconfirmed".to_owned()),
            (bad_sectors > 0, format!("incomplete: {bad_sectors} bad sector{plural}")),
            (inconsistent, "not consistent".to_owned()),
            (!left_out.is_empty(), format!("without partition {}", left_out.join(" and "))),
        ];
        let mut state: Vec<String> =
            matters.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
        if state.is_empty() {
            state.push("complete".to_owned());
        }
        let marks = [(self.entry.protected, "protected"), (self.known.forgotten, "forgotten")];
        state.extend(marks.into_iter().filter(|(is, _)| *is).map(|(_, text)| text.to_owned()));
        state.join(", ")
    }

    /// For programs; the members of `cas images --json`.
    pub(crate) fn to_json(&self) -> Value {
        let mut value = json!({
            "id": self.entry.id.to_string(),
            "short_id": self.entry.id.short(),
            "state": self.state(),
            "confirmed": self.entry.confirmed,
            "protected": self.entry.protected,
            "forgotten": self.entry.forgotten,
            "consistent": self.source.as_ref().map(|source| source.consistent),
            "damaged": self.manifest().is_none(),
        });
        if let Err(error) = &self.entry.manifest {
            value["error"] = error.to_string().into();
        }
        if let Some(manifest) = self.manifest() {
            let statistics = &manifest.statistics;
            let more = json!({
                "time": manifest.created,
                "host": manifest.host,
                "disk": manifest.disk,
                "tags": manifest.tags,
                "comment": manifest.comment,
                "parent": manifest.parent.map(|parent| parent.to_string()),
                "bytes": manifest.bytes,
                "used_bytes": statistics.data_bytes,
                "zero_bytes": statistics.zero_bytes,
                "bad_bytes": statistics.bad_bytes,
                "new_bytes": statistics.new_bytes,
                "added_bytes": statistics.new_stored_bytes,
            });
            if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
                value.extend(more);
            }
        }
        value
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn listed(change: impl FnOnce(&mut ImageEntry)) -> Listed {
        let mut identity = disk::Identity::stream();
        identity.path = "/dev/sda".to_owned();
        identity.name = "sda".to_owned();
        identity.serial = Some("S3RIAL".to_owned());
        identity.size_bytes = 1 << 20;
        let layout = disk::Layout::default();
        let source = SourceInfo {
            identity,
            layout,
            regions: vec![image::SourceRegion {
                extent: disk::Extent { offset: 0, bytes: 1 << 20 },
                volume: None,
                excluded: false,
            }],
            excluded: vec![],
            volume_use: None,
            bad_ranges: vec![],
            consistent: true,
        };
        let manifest = Manifest {
            format: 1,
            created: "2026-08-01T12:00:00Z".to_owned(),
            host: "alba".to_owned(),
            disk: "S3RIAL".to_owned(),
            tags: vec!["weekly".to_owned(), "clean".to_owned()],
            comment: String::new(),
            bytes: 1 << 20,
            root: None,
            parent: None,
            supersedes: None,
            statistics: store::ImageStatistics {
                data_bytes: 1 << 19,
                new_stored_bytes: 4096,
                ..Default::default()
            },
            source: serde_json::to_value(source).unwrap(),
        };
        let id = "ab".repeat(32).parse().unwrap();
        let mut entry =
            ImageEntry { id, manifest: Ok(manifest), confirmed: true, forgotten: None, protected: false };
        change(&mut entry);
        Listed::new(entry)
    }

    fn manifest(entry: &mut ImageEntry) -> &mut Manifest {
        entry.manifest.as_mut().unwrap()
    }

    #[test]
    fn the_state_says_everything_that_is_the_matter() {
        assert_eq!(listed(|_| {}).state(), "complete");
        assert_eq!(listed(|e| e.confirmed = false).state(), "unconfirmed");
        let bad = listed(|e| manifest(e).statistics.bad_bytes = 1536);
        assert_eq!(bad.state(), "incomplete: 3 bad sectors");
        let live = listed(|e| manifest(e).source["consistent"] = false.into());
        assert_eq!(live.state(), "not consistent");
        let partial = listed(|e| manifest(e).source["excluded"] = json!([2, 3]));
        assert_eq!(partial.state(), "without partition 2 and 3");
        let kept = listed(|e| e.protected = true);
        assert_eq!(kept.state(), "complete, protected");
        let gone = listed(|e| e.forgotten = Some("2026-08-02T00:00:00Z".to_owned()));
        assert_eq!((gone.state().as_str(), gone.known.forgotten), ("complete, forgotten", true));
        let image = "ab".repeat(32).parse().unwrap();
        let broken = listed(|e| e.manifest = Err(store::Error::ManifestName { image }));
        assert_eq!((broken.state().as_str(), broken.known.sound), ("damaged", false));
    }

    #[test]
    fn a_disk_is_known_by_serial_path_and_name() {
        assert_eq!(listed(|_| {}).known.disks, ["S3RIAL", "/dev/sda", "sda", "S3RIAL"]);
    }

    #[test]
    fn programs_get_bytes_and_utc() {
        let value = listed(|_| {}).to_json();
        assert_eq!(value["time"], "2026-08-01T12:00:00Z");
        assert_eq!((&value["bytes"], &value["added_bytes"]), (&json!(1 << 20), &json!(4096)));
    }
}

//! The manifest: one image's commit record. Format: DESIGN §4.7.
//!
//! Promise: `decode` proves that the bytes hash to the image's name before it looks inside.
//! Knows nothing of disks: `source` is for `image` to understand.

use crate::codec::{self, Compression};
use crate::frame::{self, FrameKind};
use crate::id::{ImageId, blake3_of};
use crate::table::TableRef;
use crate::{Error, TableError};
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// What an image is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// RFC 3339, UTC: when the capture began.
    pub created: String,
    /// The machine that captured.
    pub host: String,
    /// Serial number of the disk, else its name.
    pub disk: String,
    /// For people.
    pub tags: Vec<String>,
    /// For people.
    pub comment: String,
    /// Size of the device.
    pub bytes: u64,
    /// Root of the table tree; none when the device holds nothing but zeros.
    pub root: Option<TableRef>,
    /// The newest image of the same disk then.
    pub parent: Option<ImageId>,
    /// The unconfirmed image that this one replaces.
    pub supersedes: Option<ImageId>,
    /// What the capture saw.
    pub statistics: ImageStatistics,
    /// Opaque to `store`.
    pub source: serde_json::Value,
}

/// What a capture saw and stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatistics {
    /// Chunks in the image, repeated ones counted each time.
    pub chunks: u64,
    /// Their bytes.
    pub data_bytes: u64,
    /// Bytes in runs of zeros.
    pub zero_bytes: u64,
    /// Bytes that could not be read.
    pub bad_bytes: u64,
    /// Chunks that the store did not have.
    pub new_chunks: u64,
    /// Their bytes …
    pub new_bytes: u64,
    /// … and what they take in the store.
    pub new_stored_bytes: u64,
}

impl Manifest {
    pub(crate) const FORMAT: u32 = FORMAT;

    /// The file, and the name that its bytes give it.
    pub(crate) fn encode(&self) -> (ImageId, Vec<u8>) {
        // Structs of strings, integers and a JSON value always serialise.
        let plain = serde_json::to_vec(self).unwrap_or_default();
        let mut body = u32::try_from(plain.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        body.extend_from_slice(&codec::seal(&plain, Compression::Auto));
        let bytes = frame::encode(FrameKind::Manifest, &body);
        (ImageId(blake3_of(&bytes)), bytes)
    }

    pub(crate) fn decode(image: ImageId, bytes: &[u8]) -> Result<Manifest, Error> {
        if blake3_of(bytes) != image.0 {
            return Err(Error::ManifestName { image });
        }
        Manifest::decode_unnamed(image, bytes)
    }

    /// As `decode`, the name not being checked: for fuzzing what lies behind the hash.
    pub(crate) fn decode_unnamed(image: ImageId, bytes: &[u8]) -> Result<Manifest, Error> {
        let name = || format!("image {image}: manifest");
        let body = frame::decode(FrameKind::Manifest, bytes)
            .map_err(|source| Error::Frame { name: name(), source })?;
        let content = |expected, found| Error::Content { name: name(), expected, found };
        let (length, blob) = body.split_at_checked(4).ok_or_else(|| content("a length", "nothing".into()))?;
        let plain_bytes = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let plain = codec::decode(blob, plain_bytes).map_err(|error| content("a blob", error.to_string()))?;
        let json: serde_json::Value =
            serde_json::from_slice(&plain).map_err(|error| content("JSON", error.to_string()))?;
        match json.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            Some(format) => {
                return Err(Error::Unsupported { name: name(), what: format!("manifest format {format}") });
            }
            None => return Err(content("a format number", "none".into())),
        }
        let manifest: Manifest = serde_json::from_value(json)
            .map_err(|error| content("the members of §4.7", error.to_string()))?;
        manifest.check_root()?;
        Ok(manifest)
    }

    fn check_root(&self) -> Result<(), Error> {
        let Some(root) = &self.root else { return Ok(()) };
        if !(1..=crate::table::LEVEL_MAX).contains(&root.level) {
            let source = TableError::Level { expected: 1, found: root.level };
            return Err(Error::Table { table: root.id, source });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::id::{ChunkId, PackId};
    use proptest::prelude::*;

    pub(crate) fn sample() -> Manifest {
        let root = TableRef {
            level: 1,
            id: ChunkId([1; 32]),
            pack: PackId([2; 32]),
            offset: 32,
            stored_bytes: 5,
            plain_bytes: 6,
        };
        Manifest {
            format: FORMAT,
            created: crate::session::now(),
            host: "h".into(),
            disk: "SERIAL".into(),
            tags: vec!["t".into()],
            comment: String::new(),
            bytes: 1 << 30,
            root: Some(root),
            parent: None,
            supersedes: Some(ImageId([3; 32])),
            statistics: ImageStatistics::default(),
            source: serde_json::json!({"anything": [1, 2]}),
        }
    }

    #[test]
    fn a_manifest_goes_both_ways_under_its_name_only() {
        let (id, bytes) = sample().encode();
        let back = Manifest::decode(id, &bytes).unwrap();
        assert_eq!(back.root, sample().root);
        assert!(matches!(Manifest::decode(ImageId([0; 32]), &bytes), Err(Error::ManifestName { .. })));
    }

    #[test]
    fn a_newer_format_is_unsupported() {
        let (id, bytes) = Manifest { format: 2, ..sample() }.encode();
        assert!(matches!(Manifest::decode(id, &bytes), Err(Error::Unsupported { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body: Vec<u8>) {
            let bytes = frame::encode(FrameKind::Manifest, &body);
            prop_assert!(Manifest::decode(ImageId(blake3_of(&bytes)), &bytes).is_err());
        }
    }
}

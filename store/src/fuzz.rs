//! Every decoder of this crate behind a plain function of bytes, for fuzzing (I6): none may panic, whatever it is given.

use crate::config::Config;
use crate::frame::{self, FrameKind};
use crate::id::ImageId;
use crate::manifest::Manifest;
use crate::session::{self, Condemned, Mark, Moves, SessionInfo};
use crate::table::Table;
use crate::{ChunkId, ChunkKind, codec, pack};

/// The frame around small objects (DESIGN §4.2).
pub fn frame(data: &[u8]) {
    frame::decode(FrameKind::Config, data).ok();
    frame::decode(FrameKind::Manifest, data).ok();
}

/// The config (DESIGN §4.3), as a file and as what stands behind a good checksum.
pub fn config(data: &[u8]) {
    Config::decode(data).ok();
    Config::decode(&frame::encode(FrameKind::Config, data)).ok();
}

/// A manifest (DESIGN §4.7), likewise.
pub fn manifest(data: &[u8]) {
    Manifest::decode_unnamed(ImageId([0; 32]), data).ok();
    Manifest::decode_unnamed(ImageId([0; 32]), &frame::encode(FrameKind::Manifest, data)).ok();
}

/// A pack (DESIGN §4.5) and each of its blobs.
pub fn pack(data: &[u8]) {
    if let Ok(entries) = pack::decode_listing(data) {
        entries.iter().for_each(|entry| drop(pack::check_entry(data, entry)));
    }
    codec::open(ChunkKind::Data, ChunkId([0; 32]), data.len(), data).ok();
}

/// A table (DESIGN §4.6); one that decodes encodes to the same bytes.
pub fn table(data: &[u8]) {
    if let Ok(table) = Table::decode(data) {
        assert_eq!(table.encode(), data, "a table that decodes encodes to itself");
    }
}

/// Markers and records (DESIGN §4.8), as files and as what stands behind a good checksum.
pub fn records(data: &[u8]) {
    session::decode::<Mark>("mark", data).ok();
    session::decode::<Mark>("mark", &frame::encode(FrameKind::Mark, data)).ok();
    session::decode::<Condemned>("condemned", &frame::encode(FrameKind::Condemned, data)).ok();
    session::decode::<Moves>("moves", &frame::encode(FrameKind::Moves, data)).ok();
    session::decode::<SessionInfo>("session", &frame::encode(FrameKind::Session, data)).ok();
}

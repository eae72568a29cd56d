//! Capture with an older image of the same disk at hand: where its chunks are still there nothing is cut or looked up.
//!
//! Promise: the runs are those of a capture without it (I4); only its tables are read, and what can't be read of them
//! costs time only (I9). Knows nothing of devices.

use disk::Extent;
use store::{Guide, GuideChunk, GuideSegment, ImageId, NewChunk, Store, Writer};

use crate::Error;
use crate::cutter::{ChunkSink, Landmark, landmark_at};
use crate::segment::in_memory;

/// The guide to a capture whose parent is this image.
pub(crate) fn guide_of(store: &Store, writer: &Writer, parent: Option<ImageId>) -> Option<Guide> {
    Some(writer.guide(store.image(parent?).ok()?))
}

/// What it says about a segment.
pub(crate) fn guide_segment(guide: Option<&Guide>, segment: Extent) -> GuideSegment {
    guide.and_then(|guide| guide.segment(segment.offset, segment.bytes)).unwrap_or_default()
}

/// Hands the chunks of one segment to the store.
pub(crate) struct Guided<'a> {
    writer: &'a Writer,
    guide: &'a [GuideChunk],
    next: usize,
}

impl<'a> Guided<'a> {
    pub(crate) fn new(writer: &'a Writer, guide: &'a GuideSegment) -> Guided<'a> {
        Guided { writer, guide: &guide.chunks, next: 0 }
    }
}

impl ChunkSink for Guided<'_> {
    type Chunk = NewChunk;

    fn take_known(&mut self, at: u64, stretch: &[u8], last: bool) -> Option<(usize, NewChunk)> {
        let known = landmark_at(self.guide, &mut self.next, landmark, at, stretch.len(), last)?;
        let chunk = self.writer.put_if(&stretch[..known.bytes as usize], known)?;
        Some((known.bytes as usize, chunk))
    }

    fn take(&mut self, plain: &[u8]) -> Result<NewChunk, Error> {
        Ok(self.writer.put(plain)?)
    }
}

fn landmark(chunk: &GuideChunk) -> Landmark {
    let bytes = in_memory(u64::from(chunk.bytes));
    Landmark { offset: chunk.offset, bytes, cut_by_rule: chunk.cut_by_rule }
}

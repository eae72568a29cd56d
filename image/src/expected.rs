//! What a device must hold to be a faithful restore of an image: its runs, and what a target of another size needs.
//!
//! Promise: pieces are in order, inside the extent asked for, and do not overlap; where there is none, any content is
//! right. Restore, its read-back and verify ask the same object, so that what one writes the other expects.
//! Knows nothing of writing.

use disk::Extent;
use store::{Run, StoredChunk, StoredImage};

use crate::segment::in_memory;
use crate::source::intersect;

/// Restore and verify work in steps of this size, cut at multiples of it: what one thread holds in memory (a few times).
/// As large as a leaf table's reach, so that a step needs one or two leaves.
pub(crate) const STEP_BYTES: u64 = 4 << 20;

/// What a piece must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A chunk, or the part of it that the piece covers.
    Chunk {
        chunk: StoredChunk,
        /// Where the whole chunk lies.
        whole: Extent,
    },
    /// Zeros.
    Zeros,
    /// The source could not be read here: zeros, for want of anything better.
    Bad,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// A stretch of a device and what it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) extent: Extent,
    pub(crate) want: Want,
}

/// Bytes that stand in place of the image's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Patch {
    fn extent(&self) -> Extent {
        Extent { offset: self.offset, bytes: self.bytes.len() as u64 }
    }
}

/// All that a device of some size must hold.
pub(crate) struct Expected<'a> {
    image: &'a StoredImage,
    /// Bytes of the image that have a place on the device.
    image_bytes: u64,
    /// Must read as zeros, behind the image.
    tail: Option<Extent>,
    patches: &'a [Patch],
}

impl<'a> Expected<'a> {
    /// The image and nothing else, on a device of `device_bytes`.
    pub(crate) fn image(image: &'a StoredImage, device_bytes: u64) -> Expected<'a> {
        Expected { image, image_bytes: image.bytes().min(device_bytes), tail: None, patches: &[] }
    }

    /// The image with patches, and zeros behind it.
    pub(crate) fn patched(
        image: &'a StoredImage,
        device_bytes: u64,
        tail: Option<Extent>,
        patches: &'a [Patch],
    ) -> Expected<'a> {
        Expected { image, image_bytes: image.bytes().min(device_bytes), tail, patches }
    }

    /// Whether these are the bytes of a part of a chunk, which is read from the store to find out: for parts that can't
    /// be hashed with the rest, it being patched, changed or behind the device's end. `false` for all other pieces.
    pub(crate) fn is_part_of_chunk(&self, piece: &Piece, bytes: &[u8]) -> Result<bool, store::Error> {
        let Want::Chunk { chunk, whole } = &piece.want else { return Ok(false) };
        if *whole == piece.extent {
            return Ok(false);
        }
        let skip = in_memory(piece.extent.offset - whole.offset);
        match self.image.fetch(std::slice::from_ref(chunk)).pop() {
            Some(plain) => plain.map(|plain| plain.get(skip..skip + bytes.len()) == Some(bytes)),
            None => Ok(false),
        }
    }

    /// What must lie in this extent.
    pub(crate) fn pieces(&self, extent: Extent) -> Result<Vec<Piece>, store::Error> {
        let mut pieces = Vec::new();
        let from_image = Extent { offset: 0, bytes: self.image_bytes };
        if let Some(part) = intersect(extent, from_image) {
            for placed in self.image.runs(part.offset, part.bytes)? {
                let whole = Extent { offset: placed.offset, bytes: placed.run.bytes() };
                let want = match placed.run {
                    Run::Chunk(chunk) => Want::Chunk { chunk, whole },
                    Run::Zeros { .. } => Want::Zeros,
                    Run::Bad { .. } => Want::Bad,
                };
                pieces.extend(intersect(whole, part).map(|extent| Piece { extent, want }));
            }
        }
        if let Some(zeros) = self.tail.and_then(|tail| intersect(extent, tail)) {
            pieces.push(Piece { extent: zeros, want: Want::Zeros });
        }
        for patch in self.patches {
            pieces = apply(pieces, patch, extent);
        }
        Ok(pieces)
    }
}

/// Puts a patch in place of what it covers.
fn apply(pieces: Vec<Piece>, patch: &Patch, extent: Extent) -> Vec<Piece> {
    let Some(part) = intersect(patch.extent(), extent) else { return pieces };
    let mut patched = Vec::with_capacity(pieces.len() + 2);
    for piece in pieces {
        if !piece.extent.overlaps(&part) {
            patched.push(piece);
            continue;
        }
        let before = Extent { offset: 0, bytes: part.offset };
        let behind = Extent { offset: part.end(), bytes: u64::MAX - part.end() };
        for rest in [before, behind] {
            patched.extend(intersect(piece.extent, rest).map(|extent| piece.part(extent)));
        }
    }
    // In bounds: `part` lies within the patch, whose bytes are in memory.
    let start = in_memory(part.offset - patch.offset);
    let bytes = patch.bytes[start..start + in_memory(part.bytes)].to_vec();
    patched.push(Piece { extent: part, want: Want::Bytes(bytes) });
    patched.sort_by_key(|piece| piece.extent.offset);
    patched
}

impl Piece {
    /// The same want over a part of the piece.
    fn part(&self, extent: Extent) -> Piece {
        let want = match &self.want {
            Want::Bytes(bytes) => {
                // In bounds: `extent` lies within the piece.
                let start = in_memory(extent.offset - self.extent.offset);
                Want::Bytes(bytes[start..start + in_memory(extent.bytes)].to_vec())
            }
            other => other.clone(),
        };
        Piece { extent, want }
    }
}

/// The steps that cover an extent, cut at multiples of [`STEP_BYTES`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    extent: Extent,
}

impl Steps {
    pub(crate) fn new(extent: Extent) -> Steps {
        Steps { extent }
    }

    pub(crate) fn len(&self) -> u64 {
        if self.extent.bytes == 0 {
            return 0;
        }
        self.extent.end().div_ceil(STEP_BYTES) - self.extent.offset / STEP_BYTES
    }

    /// The step with this number, counted from 0.
    pub(crate) fn step(&self, number: u64) -> Option<Extent> {
        let offset = (self.extent.offset / STEP_BYTES + number) * STEP_BYTES;
        intersect(self.extent, Extent { offset, bytes: STEP_BYTES })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, bytes: u64) -> Extent {
        Extent { offset, bytes }
    }

    #[test]
    fn steps_cover_their_extent() {
        let steps = Steps::new(extent(4096, STEP_BYTES * 2));
        let all: Vec<Extent> = (0..steps.len()).filter_map(|number| steps.step(number)).collect();
        let expected =
            [extent(4096, STEP_BYTES - 4096), extent(STEP_BYTES, STEP_BYTES), extent(2 * STEP_BYTES, 4096)];
        assert_eq!(all, expected);
        assert_eq!(Steps::new(extent(7, 0)).len(), 0);
    }

    #[test]
    fn a_patch_replaces_what_it_covers() {
        let zeros = |offset, bytes| Piece { extent: extent(offset, bytes), want: Want::Zeros };
        let patch = |offset, byte| Patch { offset, bytes: vec![byte; 10] };
        let bytes = |offset, byte, count| Piece {
            extent: extent(offset, count as u64),
            want: Want::Bytes(vec![byte; count]),
        };
        let pieces = apply(vec![zeros(0, 100)], &patch(40, 1), extent(0, 100));
        assert_eq!(pieces, [zeros(0, 40), bytes(40, 1, 10), zeros(50, 50)]);
        let pieces = apply(pieces, &patch(45, 2), extent(0, 100));
        assert_eq!(pieces, [zeros(0, 40), bytes(40, 1, 5), bytes(45, 2, 10), zeros(55, 45)]);
        assert_eq!(apply(Vec::new(), &patch(95, 3), extent(0, 100)), [bytes(95, 3, 5)]);
    }
}

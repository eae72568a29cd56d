//! What pieces want, put into memory: the step that restores to devices and to streams have in common.
//!
//! Promise: chunks are decoded right where they are wanted, without a copy; bytes outside of the pieces are left alone.
//! Knows nothing of targets.

use std::ops::Range;

use store::{StoredImage, Wanted};

use crate::expected::{Piece, Want};
use crate::segment::in_memory;

/// Where a piece lies in memory that begins at `start`.
pub(crate) fn range_of(piece: &Piece, start: u64) -> Range<usize> {
    let from = in_memory(piece.extent.offset - start);
    from..from + in_memory(piece.extent.bytes)
}

/// Fills `bytes`, which begin at `start` and cover the pieces. Returns those that the store could not give, by their
/// place in the list: their bytes are undefined.
pub(crate) fn fill(
    image: &StoredImage,
    start: u64,
    pieces: &[&Piece],
    bytes: &mut [u8],
) -> Vec<(usize, store::Error)> {
    let mut whole = Vec::new();
    let mut wanted = Vec::new();
    let mut parts = Vec::new();
    let (mut rest, mut at) = (&mut *bytes, 0);
    for (number, piece) in pieces.iter().enumerate() {
        let range = range_of(piece, start);
        // In bounds: pieces are in order and do not overlap (`Expected`).
        let (_, from_here) = rest.split_at_mut(range.start - at);
        let (now, behind) = from_here.split_at_mut(range.len());
        (rest, at) = (behind, range.end);
        match &piece.want {
            Want::Zeros | Want::Bad => now.fill(0),
            Want::Bytes(patch) => now.copy_from_slice(patch),
            Want::Chunk { chunk, whole: all } if *all == piece.extent => {
                whole.push(number);
                wanted.push(Wanted { chunk: *chunk, plain: now });
            }
            Want::Chunk { .. } => parts.push(number),
        }
    }
    let results = image.fetch_into(&mut wanted);
    let missing = whole.into_iter().zip(results);
    let mut failed: Vec<(usize, store::Error)> =
        missing.filter_map(|(number, result)| result.err().map(|error| (number, error))).collect();
    failed.extend(fill_parts(image, start, pieces, &parts, bytes));
    failed
}

/// Chunks of which only a part lies here.
fn fill_parts(
    image: &StoredImage,
    start: u64,
    pieces: &[&Piece],
    parts: &[usize],
    bytes: &mut [u8],
) -> Vec<(usize, store::Error)> {
    let mut failed = Vec::new();
    for number in parts {
        let piece = pieces[*number];
        let Want::Chunk { chunk, whole } = &piece.want else { continue };
        let range = range_of(piece, start);
        let skip = in_memory(piece.extent.offset - whole.offset);
        match image.fetch(std::slice::from_ref(chunk)).pop() {
            // In bounds: the store returns as many bytes as the chunk has, and the piece is part of it.
            Some(Ok(plain)) => bytes[range.clone()].copy_from_slice(&plain[skip..skip + range.len()]),
            Some(Err(error)) => failed.push((*number, error)),
            // `fetch` answers for each chunk; should it not, verify will tell.
            None => {}
        }
    }
    failed
}

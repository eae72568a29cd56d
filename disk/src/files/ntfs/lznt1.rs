//! LZNT1, the compression of NTFS.
//!
//! Promise: never more bytes than were asked for, whatever the input; input that makes no sense is an error.
//! Knows nothing of files. Format: [MS-XCA] §2.5; ntfs-3g libntfs-3g/compress.c, `ntfs_decompress`.

use super::super::fault::Fault;
use crate::fs::view::Fields;

/// What one chunk decodes to, but for the last.
const CHUNK_BYTES: usize = 4096;
const IS_COMPRESSED: u16 = 0x8000;
const SIZE_MASK: u16 = 0x0fff;

/// Decodes to exactly so many bytes: what the input does not say is zeros.
pub(crate) fn decode(input: &[u8], bytes: usize) -> Result<Vec<u8>, Fault> {
    let mut output = Vec::with_capacity(bytes);
    let mut rest = input;
    while output.len() < bytes && rest.len() >= 2 {
        let header = rest.le16(0)?;
        if header == 0 {
            break;
        }
        let len = usize::from(header & SIZE_MASK).saturating_add(1);
        let chunk = rest.part(2, len)?;
        rest = rest.get(len.saturating_add(2)..).unwrap_or_default();
        // A chunk that is short is followed by zeros, or by nothing.
        let next = output.len().saturating_add(CHUNK_BYTES);
        match header & IS_COMPRESSED {
            0 => output.extend_from_slice(chunk),
            _ => decode_chunk(chunk, &mut output)?,
        }
        if output.len() > next {
            return Err(damaged());
        }
        output.resize(next, 0);
    }
    output.resize(bytes, 0);
    Ok(output)
}

fn damaged() -> Fault {
    Fault::damaged("its compressed contents make no sense")
}

fn decode_chunk(chunk: &[u8], output: &mut Vec<u8>) -> Result<(), Fault> {
    let start = output.len();
    let mut rest = chunk;
    while let Some((flags, tokens)) = rest.split_first() {
        rest = tokens;
        for bit in 0..8_u32 {
            if flags.checked_shr(bit).unwrap_or(0) & 1 == 0 {
                let Some((literal, after)) = rest.split_first() else { return Ok(()) };
                output.push(*literal);
                rest = after;
            } else {
                let Some((token, after)) = rest.split_first_chunk::<2>() else { return Err(damaged()) };
                copy(u16::from_le_bytes(*token), start, output)?;
                rest = after;
            }
            if output.len().saturating_sub(start) > CHUNK_BYTES {
                return Err(damaged());
            }
        }
    }
    Ok(())
}

/// Bytes from before, in the same chunk: the further it got, the more bits say how far back.
fn copy(token: u16, start: usize, output: &mut Vec<u8>) -> Result<(), Fault> {
    let written = output.len().saturating_sub(start);
    let mut back_bits = 4_u32;
    let mut reach = written.saturating_sub(1);
    while reach >= 0x10 {
        reach >>= 1;
        back_bits = back_bits.saturating_add(1);
    }
    let len_bits = 16_u32.saturating_sub(back_bits);
    let back = usize::from(token.checked_shr(len_bits).unwrap_or(0)).saturating_add(1);
    let len_mask = 0xffff_u16.checked_shr(back_bits).unwrap_or(0);
    let len = usize::from(token & len_mask).saturating_add(3);
    if back > written {
        return Err(damaged());
    }
    // One by one: what is copied may reach into what is being written.
    for _ in 0..len {
        let from = output.len().saturating_sub(back);
        let byte = output.get(from).copied().ok_or_else(damaged)?;
        output.push(byte);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// [MS-XCA] §3.2: "F# F# G A A G F# E D D E F# F# E E …".
    #[test]
    fn the_example_of_the_specification() {
        let input = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let expected = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# \
                        G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let found = decode(&input, expected.len()).unwrap();
        assert_eq!(String::from_utf8_lossy(&found), expected);
    }

    proptest! {
        #[test]
        fn any_bytes_give_as_many_as_asked_or_an_error(input: Vec<u8>, bytes in 0_usize..70_000) {
            if let Ok(found) = decode(&input, bytes) {
                prop_assert_eq!(found.len(), bytes);
            }
        }
    }
}

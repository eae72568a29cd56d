//! The checksums that filesystems put on their metadata, other than CRC-32.
//!
//! Promise: the raw register in and out, as the filesystems' own code has it: no inversion but the caller's.
//! Knows nothing of what is summed.

/// Castagnoli's polynomial, reflected: RFC 3720 appendix B.4.
const CRC32C: [u32; 256] = table32(0x82f6_3b78);
/// x^16 + x^15 + x^2 + 1, reflected: linux lib/crc/crc16.c.
const CRC16: [u32; 256] = table32(0xa001);

#[allow(clippy::indexing_slicing)] // evaluated when compiled, where a bad index is an error
const fn table32(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    let mut at = 0_usize;
    while at < 256 {
        let mut value = byte;
        let mut bit = 0_u32;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ polynomial } else { value >> 1 };
            bit = bit.wrapping_add(1);
        }
        table[at] = value;
        byte = byte.wrapping_add(1);
        at = at.wrapping_add(1);
    }
    table
}

fn update(table: &[u32; 256], register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |register, byte| {
        let [low, ..] = register.to_le_bytes();
        // A byte is always an index of the table.
        (register >> 8) ^ table.get(usize::from(low ^ byte)).copied().unwrap_or(0)
    })
}

/// What a byte does that has so many more behind it: "slicing by 8", Kounavis and Berry 2005.
static CRC32C_BY_8: [[u32; 256]; 8] = slices(&CRC32C);

#[allow(clippy::indexing_slicing)] // evaluated when compiled, where a bad index is an error
const fn slices(table: &[u32; 256]) -> [[u32; 256]; 8] {
    let mut slices = [*table; 8];
    let mut slice = 1_usize;
    while slice < 8 {
        let mut at = 0_usize;
        while at < 256 {
            let before = slices[slice.wrapping_sub(1)][at];
            let [low, ..] = before.to_le_bytes();
            #[allow(clippy::as_conversions)] // `From` is not for constants
            let low = low as usize;
            slices[slice][at] = (before >> 8) ^ table[low];
            at = at.wrapping_add(1);
        }
        slice = slice.wrapping_add(1);
    }
    slices
}

/// CRC-32C, from a register on: `crc32c_le(register, …)` of ext4, without the inversions that others put around it.
pub(crate) fn crc32c(register: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let register = words.iter().fold(register, |register, [a, b, c, d, e, f, g, h]| {
        let [p, q, r, s] = register.to_le_bytes();
        let mixed = [p ^ a, q ^ b, r ^ c, s ^ d, *e, *f, *g, *h];
        let tables = CRC32C_BY_8.iter().rev();
        tables
            .zip(mixed)
            .fold(0, |sum, (table, byte)| sum ^ table.get(usize::from(byte)).copied().unwrap_or(0))
    });
    update(&CRC32C, register, rest)
}

/// CRC-16, from a register on.
pub(crate) fn crc16(register: u16, bytes: &[u8]) -> u16 {
    let [low, high, ..] = update(&CRC16, register.into(), bytes).to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values: "Catalogue of parametrised CRC algorithms", CRC-32/ISCSI and CRC-16/ARC.
    #[test]
    fn check_values() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }

    #[test]
    fn eight_at_a_time_is_one_at_a_time() {
        let bytes: Vec<u8> = (0..100_u32).flat_map(|number| (number * number * 77).to_le_bytes()).collect();
        for from in 0..20 {
            for to in from..bytes.len() {
                let register = u32::try_from(from * 12_345).unwrap();
                let piece = &bytes[from..to];
                assert_eq!(crc32c(register, piece), update(&CRC32C, register, piece));
            }
        }
    }
}

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

/// CRC-32C, from a register on: `crc32c_le(register, …)` of ext4, without the inversions that others put around it.
pub(crate) fn crc32c(register: u32, bytes: &[u8]) -> u32 {
    update(&CRC32C, register, bytes)
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
}

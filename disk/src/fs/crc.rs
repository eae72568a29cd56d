//! The checksums that filesystems put on their metadata, other than CRC-32.
//!
//! Promise: the raw register in and out, as the filesystems' own code has it: no inversion but the caller's.
//! Knows nothing of what is summed.

use ::crc::{Algorithm, CRC_16_ARC, CRC_32_ISCSI, Crc, Table};

/// Castagnoli's polynomial: RFC 3720 appendix B.4. Sixteen bytes at a time.
static CRC32C: Crc<u32, Table<16>> =
    Crc::<u32, Table<16>>::new(&Algorithm { init: 0, xorout: 0, ..CRC_32_ISCSI });
/// linux lib/crc/crc16.c.
static CRC16: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_ARC);

/// CRC-32C, from a register on: `crc32c_le(register, …)` of ext4, without the inversions that others put around it.
pub(crate) fn crc32c(register: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC32C.digest_with_initial(register.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

/// CRC-16, from a register on.
pub(crate) fn crc16(register: u16, bytes: &[u8]) -> u16 {
    let mut digest = CRC16.digest_with_initial(register.reverse_bits());
    digest.update(bytes);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check values: "Catalogue of parametrised CRC algorithms", CRC-32/ISCSI and CRC-16/ARC.
    #[test]
    fn check_values_and_pieces() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        let bytes = [0x5a; 100];
        for cut in 0..bytes.len() {
            let (one, other) = bytes.split_at(cut);
            assert_eq!(crc32c(crc32c(7, one), other), crc32c(7, &bytes));
            assert_eq!(crc16(crc16(7, one), other), crc16(7, &bytes));
        }
    }
}

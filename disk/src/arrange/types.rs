//! Partition types that decide something: those never scaled, and what MBR types are called in a GPT.
//!
//! Promise: a type that is not here is an ordinary one, and has no counterpart. Knows nothing of tables.

/// As in `crate::table::types`: UEFI 2.10 §5.3.3 table 5.7, the Discoverable Partitions Specification, Microsoft.
const BASIC_DATA: &str = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const SWAP: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";
const WINDOWS_RECOVERY: &str = "de94bba4-06d1-4d40-a16a-bfd50179d6ac";

/// Firmware, loaders and recovery systems expect these as they were made.
const FIXED: [&str; 13] = [
    ESP,
    SWAP,
    WINDOWS_RECOVERY,
    "e3c9e316-0b5c-4db8-817d-f92df00215ae", // Microsoft reserved
    "21686148-6449-6e6f-744e-656564454649", // BIOS boot
    "bc13c2ff-59e6-4262-a352-b275fd6f7172", // XBOOTLDR
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b", // PReP
    "0x12",                                 // maker's diagnostics
    "0x27",                                 // Windows recovery
    "0x41",                                 // PReP
    "0x82",                                 // Linux swap
    "0xde",                                 // maker's utilities
    "0xef",                                 // ESP
];

/// MBR types whose meaning a GPT can say.
const TO_GPT: [(&str, &str); 10] = [
    ("0x07", BASIC_DATA),
    ("0x0b", BASIC_DATA),
    ("0x0c", BASIC_DATA),
    ("0x0e", BASIC_DATA),
    ("0x27", WINDOWS_RECOVERY),
    ("0x82", SWAP),
    ("0x83", "0fc63daf-8483-4772-8e79-3d69d8477de4"), // Linux filesystem
    ("0x8e", "e6d6d379-f507-44c2-a23c-238f2a3df928"), // Linux LVM
    ("0xef", ESP),
    ("0xfd", "a19d880f-05fc-4d3b-a006-743f0f84911e"), // Linux RAID
];

/// Whether a partition of this type keeps its size, whatever its content could do.
pub(super) fn is_fixed(type_id: &str) -> bool {
    FIXED.contains(&type_id)
}

/// The GPT type of an MBR type.
pub(super) fn gpt_type(type_id: &str) -> Option<&'static str> {
    TO_GPT.iter().find(|(mbr, _)| *mbr == type_id).map(|(_, gpt)| *gpt)
}

/// The bytes of a GUID's text: the first three fields are little endian (UEFI 2.10 appendix A). `None`: it is none.
pub(super) fn guid_bytes(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.chars().filter(|letter| *letter != '-').map(|letter| letter.to_digit(16));
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high.checked_mul(16)?.checked_add(low)?).ok()?;
    }
    let [a0, a1, a2, a3, b0, b1, c0, c1, rest @ ..] = bytes;
    let [d0, d1, e0, e1, e2, e3, e4, e5] = rest;
    let bytes = [a3, a2, a1, a0, b1, b0, c1, c0, d0, d1, e0, e1, e2, e3, e4, e5];
    digits.next().is_none().then_some(bytes)
}

/// A random GUID out of random bytes: version 4 of RFC 9562 §5.4, in the byte order of a GPT.
pub(super) fn random_guid(random: &mut dyn FnMut() -> [u8; 16]) -> [u8; 16] {
    let mut bytes = random();
    let [.., version, variant, _, _, _, _, _, _, _] = &mut bytes;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::gpt::guid;

    #[test]
    fn guids_there_and_back() {
        for text in FIXED.iter().copied().chain(TO_GPT.map(|(_, gpt)| gpt)).filter(|text| text.len() == 36) {
            assert_eq!(guid(&guid_bytes(text).unwrap()), text);
        }
        assert_eq!(guid_bytes("0x83"), None);
        assert_eq!(guid_bytes("c12a7328-f81f-11d2-ba4b-00a0c93ec93b0"), None);
        let text = guid(&random_guid(&mut || [0xff; 16]));
        assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}

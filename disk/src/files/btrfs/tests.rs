//! Compressed data that nobody made, in the forms that each method has.

use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::names::{hash, names};
use super::unpack::Method;

#[test]
fn what_was_packed_comes_back() {
    // liblzo2's form of the text, in one segment behind the length of all.
    let block = [&[34][..], b"hello, lzo world!", &[17, 0, 0]].concat();
    let mut framed = u32::try_from(block.len() + 8).unwrap().to_le_bytes().to_vec();
    framed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    framed.extend(block);
    framed.resize(4096, 0);
    assert_eq!(Method::Lzo.unpack(&framed, 17, 4096).unwrap(), b"hello, lzo world!");
    // Python's zlib.compress(b"z" * 5000, 9).
    let zlib: [u8; 28] = [
        120, 218, 237, 193, 49, 1, 0, 0, 0, 194, 160, 222, 75, 111, 10, 63, 160, 0, 0, 0, 0, 128, 183, 1,
        182, 49, 79, 88,
    ];
    assert_eq!(Method::Zlib.unpack(&zlib, 5000, 4096).unwrap(), [b'z'; 5000]);
    // Less is wanted than there is; more is wanted, which are zeros.
    assert_eq!(Method::Zlib.unpack(&zlib, 50, 4096).unwrap(), [b'z'; 50]);
    assert_eq!(Method::Zlib.unpack(&zlib, 5001, 4096).unwrap()[4999..], [b'z', 0]);
    assert!(Method::Zlib.unpack(&zlib[..10], 5000, 4096).is_err());
    assert!(Method::Zlib.unpack(&zlib, (128 << 10) + 1, 4096).is_err());
    let zstd = compress_to_vec(&[b'y'; 5000][..], CompressionLevel::Fastest);
    assert_eq!(Method::Zstd.unpack(&zstd, 5000, 4096).unwrap(), [b'y'; 5000]);
    assert!(Method::Zstd.unpack(&zstd[..8], 5000, 4096).is_err());
    assert!(Method::of(4).is_err());
}

/// The key of `default` in every tree of roots.
#[test]
fn names_are_hashed_as_the_kernel_does() {
    assert_eq!(hash(b"default"), 2_378_154_706);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_unpacked_or_not(
        method in prop_oneof![Just(Method::Zlib), Just(Method::Lzo), Just(Method::Zstd)],
        start in 0_usize..3,
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        wanted in 0_u64..200_000,
    ) {
        let starts: [&[u8]; 3] = [&[], &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0xff], &[0x78, 0x9c]];
        let all = [starts[start], &bytes].concat();
        if let Ok(unpacked) = method.unpack(&all, wanted, 4096) {
            prop_assert_eq!(unpacked.len() as u64, wanted);
        }
    }

    #[test]
    fn any_bytes_are_names_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        names(&bytes).ok();
    }
}

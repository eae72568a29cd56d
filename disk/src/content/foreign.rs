//! Filesystems and members of arrays of which only the signature is known, so that nobody takes what was there before
//! for what is there now.
//!
//! Promise: a name, by blkid's where it has one. Knows nothing of labels. Places: util-linux libblkid/src/superblocks; for
//! ReFS the boot sector's name field.

use super::{Content, Head};

/// Kind, offset, magic. What is told by two places has two lines.
const SIGNATURES: [(&str, usize, &[u8]); 21] = [
    ("ReFS", 3, b"ReFS\0\0\0\0"),
    ("bcachefs", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    ("jfs", 32_768, b"JFS1"),
    ("reiserfs", 8192 + 52, b"ReIsErFs"),
    ("reiserfs", 65_536 + 52, b"ReIsErFs"),
    ("reiserfs", 65_536 + 52, b"ReIsEr2Fs"),
    ("reiserfs", 65_536 + 52, b"ReIsEr3Fs"),
    ("reiser4", 65_536, b"ReIsEr4"),
    ("ocfs2", 1024, b"OCFSV2"),
    ("ocfs2", 2048, b"OCFSV2"),
    ("ocfs2", 4096, b"OCFSV2"),
    ("ocfs2", 8192, b"OCFSV2"),
    ("gfs2", 65_536, b"\x01\x16\x19\x70"),
    ("ufs", 8192 + 1372, b"\x54\x19\x01\x00"),
    ("ufs", 8192 + 1372, b"\x19\x01\x54\x19"),
    ("ufs", 65_536 + 1372, b"\x54\x19\x01\x00"),
    ("ufs", 65_536 + 1372, b"\x19\x01\x54\x19"),
    ("udf", 32_768 + 1, b"BEA01"),
    ("ceph_bluestore", 0, b"bluestore block device"),
    ("vdo", 0, b"dmvdo001"),
    ("stratis", 512 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
];

/// Where the first label of ZFS keeps its uberblocks, how many bytes they take, and how far apart they are at least:
/// OpenZFS include/sys/vdev_impl.h.
const UBERBLOCKS: u64 = 128 << 10;
const UBERBLOCKS_BYTES: usize = 128 << 10;
const UBERBLOCK_BYTES: usize = 1 << 10;
const UBERBLOCK_MAGIC: u64 = 0x00ba_b10c;

pub(super) fn zfs(head: &Head<'_>) -> Option<Content> {
    let ring = head.elsewhere(UBERBLOCKS, UBERBLOCKS_BYTES)?;
    let magics = [UBERBLOCK_MAGIC.to_le_bytes(), UBERBLOCK_MAGIC.swap_bytes().to_le_bytes()];
    let mut blocks = ring.chunks(UBERBLOCK_BYTES);
    let found = blocks.any(|block| magics.iter().any(|magic| block.starts_with(magic)));
    found.then(|| Content::new("zfs_member", None, None))
}

pub(super) fn foreign(head: &Head<'_>) -> Option<Content> {
    let found = SIGNATURES.iter().find(|(_, offset, magic)| head.has(*offset, magic));
    found.map(|(kind, ..)| Content::new(kind, None, None))
}

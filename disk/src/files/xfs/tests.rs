//! Hashes of names, as xfs_db has them.

use super::hashes::hash;
use crate::testing::{image, run};

#[test]
fn names_are_hashed_as_xfs_db_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "xfs", 300 << 20);
    run("mkfs.xfs", "xfsprogs", &["-q", path.to_str().unwrap()], "");
    for name in ["a", "ab", "abc", "abcd", "lost+found", "some-what-longer-name"] {
        let command = format!("hash {name}");
        let out = run("xfs_db", "xfsprogs", &["-r", "-c", &command, path.to_str().unwrap()], "");
        let expected = u32::from_str_radix(out.trim().trim_start_matches("0x"), 16).unwrap();
        assert_eq!(hash(name.as_bytes()), expected, "{name}");
    }
}

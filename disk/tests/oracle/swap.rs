//! Swap areas of `mkswap`: everything but the first page can be noise, and it is the same area still.

use disk::Extent;

use crate::testing::{image, run};
use crate::tools::{ours_sure, spoil};

#[test]
fn all_but_the_header_is_excluded() {
    for page in [4096_u64, 8192, 16384, 65536] {
        for pages in [10, 300, 1027] {
            let folder = tempfile::tempdir().unwrap();
            // The tail is no page.
            let file = image(folder.path(), "swap", page * pages + 1536);
            let path = file.to_str().unwrap();
            let size = page.to_string();
            run("mkswap", "util-linux", &["-p", &size, "-L", "name", path], "");
            let found = ours_sure(&file, &format!("mkswap -p {page}, {pages} pages"));
            assert_eq!((found.kind, found.free.free_bytes()), ("swap", 0));
            let expected = Extent { offset: page, bytes: page * (pages - 1) };
            assert_eq!(found.excluded[0].extents, [expected]);
            let blkid = || run("blkid", "util-linux", &["-p", "-o", "export", path], "");
            let before = blkid();
            assert!(before.contains("TYPE=swap") && before.contains("LABEL=name"), "{before}");
            spoil(&file, &found);
            assert_eq!(blkid(), before);
            assert_eq!(ours_sure(&file, "spoilt"), found);
        }
    }
}

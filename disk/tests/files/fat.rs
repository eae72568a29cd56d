//! FAT against mtools: there is no driver for it in every kernel.

use std::path::{Path, PathBuf};

use crate::fill;
use crate::testing::{image, run};
use crate::tree::{Judge, Tree, assert_same, open, ours, theirs};

const JUDGE: Judge = Judge { owners: false, links: false, attributes: false, time_step: 0 };

fn made(folder: &Path, options: &str, bytes: u64) -> PathBuf {
    let image = image(folder, "fat", bytes);
    let mut args: Vec<&str> = options.split_whitespace().collect();
    args.push(image.to_str().unwrap());
    run("mkfs.vfat", "dosfstools", &args, "");
    image
}

fn copied(image: &Path, tree: &Path) {
    let folder = tree.parent().unwrap().join("back");
    std::fs::create_dir(&folder).unwrap();
    let mut args = vec!["LC_ALL=C.UTF-8", "mcopy", "-s", "-Q", "-i", image.to_str().unwrap()];
    let names: Vec<PathBuf> = std::fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path()).collect();
    args.extend(names.iter().map(|path| path.to_str().unwrap()));
    args.push("::/");
    run("env", "mtools", &args, "");
}

fn tree(folder: &Path, seed: u64) -> PathBuf {
    let tree = folder.join("tree");
    std::fs::create_dir(&tree).unwrap();
    fill::plain(&tree, seed, 60);
    // mtools cuts letters beyond 16 bits.
    std::fs::remove_file(tree.join("Größe – 大きさ – 😀.txt")).unwrap();
    for name in [
        "SHORT.TXT",
        "lower.txt",
        "Mixed.Txt",
        "noext",
        "UPPER",
        "a.b.c.d",
        "with space.x",
        "über.txt",
        "大きさ – ½.txt",
    ] {
        std::fs::write(tree.join(name), name).unwrap();
    }
    tree
}

fn compare(options: &str, bytes: u64, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), options, bytes);
    let tree = tree(folder.path(), seed);
    copied(&image, &tree);
    let expected: Tree = theirs(&tree, JUDGE);
    let files = open(&image);
    assert_same(&ours(&*files, JUDGE), &expected, options);
    let found = files.find(files.root(), "ÜBER.TXT".as_bytes()).unwrap().expect("without regard to case");
    let info = files.info(found).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // mtools writes local time; whichever zone that is.
    assert!(info.modified.seconds.abs_diff(now as i64) < 15 * 3600, "{info:?}");
}

#[test]
fn trees_of_fat_are_what_mtools_wrote() {
    compare("-F 12 -s 8", 12 << 20, 1);
    compare("-F 16 -s 4 -S 512", 64 << 20, 2);
    compare("-F 32 -s 1", 64 << 20, 3);
    if fill::all() {
        for seed in 10..30 {
            compare("-F 16 -s 8", 96 << 20, seed);
            compare("-F 32 -s 2", 128 << 20, seed);
            compare("-F 32 -S 4096 -s 1", 300 << 20, seed);
        }
    }
}

//! ext2, ext3, ext4 against the kernel.

use std::path::{Path, PathBuf};

use crate::fill;
use crate::testing::{Mounted, image, run};
use crate::tree::{ALL, assert_places, assert_same, open, ours, theirs};

/// Options of mke2fs, and the longest value of an attribute that fits.
const SETS: [(&str, usize); 8] = [
    ("-t ext4 -b 4096", 3000),
    ("-t ext4 -b 1024 -I 128", 200),
    ("-t ext4 -b 4096 -I 1024 -O inline_data", 3000),
    ("-t ext2 -b 1024", 200),
    ("-t ext4 -b 1024 -O ^metadata_csum,uninit_bg,^64bit", 200),
    ("-t ext4 -b 4096 -O bigalloc,ea_inode -C 16384", 20_000),
    ("-t ext3 -b 2048 -I 256", 900),
    ("-t ext4 -O meta_bg,^resize_inode,large_dir -b 2048", 900),
];

fn made(folder: &Path, options: &str) -> PathBuf {
    let image = image(folder, "ext", 96 << 20);
    let mut args: Vec<&str> = vec!["-q", "-F"];
    args.extend(options.split_whitespace());
    args.extend(["-E", "lazy_itable_init=0,lazy_journal_init=0", image.to_str().unwrap()]);
    run("mke2fs", "e2fsprogs", &args, "");
    image
}

fn fill(root: &Path, options: &str, large: usize, seed: u64) {
    fill::plain(root, seed, if fill::all() { 4000 } else { 600 });
    fill::in_pieces(root, seed);
    fill::with_holes(root, seed, 40 << 20);
    fill::unix(root, seed);
    let old = options.contains("-I 128") || options.contains("-t ext2") && !options.contains("-I");
    if !old {
        fill::metadata(root);
    }
    fill::attributes(root, large);
    allocated(root);
}

/// Blocks that were never written read as zeros.
fn allocated(root: &Path) {
    let file = std::fs::File::create(root.join("allocated")).unwrap();
    // Block lists know no such thing.
    if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).is_ok() {
        std::os::unix::fs::FileExt::write_all_at(&file, b"written", 500_000).unwrap();
    }
}

fn compare(options: &str, large: usize, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), options);
    let at = folder.path().join("mount");
    let (driver, running) = {
        let _mounted = Mounted::new(&["-o", "loop", image.to_str().unwrap()], &at);
        fill(&at, options, large, seed);
        // As it is on a machine that runs: the journal has what the blocks do not.
        let running = folder.path().join("running");
        rustix::fs::syncfs(std::fs::File::open(&at).unwrap()).unwrap();
        std::fs::write(at.join("late"), "late").unwrap();
        std::fs::remove_file(at.join("size 60")).unwrap();
        std::fs::File::open(at.join("late")).unwrap().sync_all().unwrap();
        std::fs::copy(&image, &running).unwrap();
        (theirs(&at, ALL), running)
    };
    let files = open(&image);
    assert_same(&ours(&*files, ALL), &driver, options);
    assert_places(&*files, &image, &[b"pieces 0", b"pieces 1", b"size 300001", b"holes"]);
    let replayed = ours(&*open(&running), ALL);
    let _mounted = Mounted::new(&["-o", "loop", running.to_str().unwrap()], &at);
    assert_same(&replayed, &theirs(&at, ALL), &format!("{options}, running"));
}

#[test]
fn root_trees_of_ext_are_those_of_the_kernel() {
    // Each costs seconds, which its writes to the medium take.
    let few = if fill::all() { SETS.len() } else { 4 };
    for (seed, (options, large)) in (1..).zip(SETS).take(few) {
        compare(options, large, seed);
    }
    if !fill::all() {
        return;
    }
    let mut seed = 100;
    for kind in [
        "-t ext2",
        "-t ext3",
        "-t ext4",
        "-t ext4 -O inline_data",
        "-t ext4 -O ^extent",
        "-t ext4 -O ^64bit,^flex_bg",
        "-t ext4 -O ^metadata_csum",
        "-t ext4 -O metadata_csum_seed,sparse_super2",
        "-t ext4 -O fast_commit",
        "-t ext4 -O ^dir_index,^filetype",
    ] {
        for block in ["1024", "2048", "4096"] {
            for inode in ["256", "512"] {
                seed += 1;
                compare(&format!("{kind} -b {block} -I {inode}"), 200, seed);
            }
        }
    }
    println!("ext: {} more", seed - 100);
}

//! exFAT against exfat-fuse.

use std::path::Path;

use crate::fill;
use crate::testing::{LoopDevice, Mounted, image, run};
use crate::tree::{Judge, assert_same, open, ours, theirs};

/// Times are kept in steps of 10 ms, by exfat-fuse of two seconds.
const JUDGE: Judge = Judge { owners: false, links: false, attributes: false, time_step: 2_000_000_000 };

fn compare(options: &str, bytes: u64, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path(), "exfat", bytes);
    let mut args: Vec<&str> = options.split_whitespace().collect();
    args.push(image.to_str().unwrap());
    run("mkfs.exfat", "exfatprogs", &args, "");
    let at = folder.path().join("mount");
    std::fs::create_dir(&at).unwrap();
    let mounted = |at: &Path| {
        let device = LoopDevice::new(&image, &[]);
        run("mount.exfat-fuse", "exfat-fuse", &[device.str(), at.to_str().unwrap()], "");
        (Mounted(at.to_owned()), device)
    };
    {
        let _mounted = mounted(&at);
        fill::plain(&at, seed, if fill::all() { 2000 } else { 300 });
        fill::in_pieces(&at, seed);
        let file = std::fs::File::create(at.join("never written")).unwrap();
        file.set_len(500_000).unwrap();
        fill::set_time(&at.join("size 0"), 1_700_000_000, 0);
    }
    let driver = {
        let _mounted = mounted(&at);
        theirs(&at, JUDGE)
    };
    let files = open(&image);
    assert_same(&ours(&*files, JUDGE), &driver, options);
    assert!(files.find(files.root(), b"SIZE 4096").unwrap().is_some());
}

#[test]
fn root_trees_of_exfat_are_those_of_exfat_fuse() {
    compare("-c 4K", 64 << 20, 1);
    compare("-c 512", 64 << 20, 2);
    compare("-c 128K", 200 << 20, 3);
    if fill::all() {
        for seed in 10..40 {
            for clusters in ["512", "4K", "32K"] {
                compare(&format!("-c {clusters}"), 100 << 20, seed);
            }
        }
    }
}

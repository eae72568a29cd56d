//! ext2, ext3 and ext4 against `dumpe2fs`, `e2fsck` and `debugfs`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Allocation, Extent};

use crate::testing::{LoopDevice, Mounted, image, run};
use crate::tools::{Noise, all, assert_same_free, ours, ours_sure, spoil};

/// What the kernel mounts: no larger than a page.
const MOUNTABLE_BYTES: u64 = 4096;

struct Case {
    kind: &'static str,
    block_bytes: u64,
    bytes: u64,
    options: Vec<&'static str>,
}

impl Case {
    fn new(kind: &'static str, block_bytes: u64, mib: u64, options: &[&'static str]) -> Self {
        Self { kind, block_bytes, bytes: mib << 20, options: options.to_vec() }
    }

    fn name(&self) -> String {
        format!("{} -b {} {} ({} bytes)", self.kind, self.block_bytes, self.options.join(" "), self.bytes)
    }

    /// Whether any kernel can be asked to fill it; otherwise mke2fs does.
    fn is_mountable(&self) -> bool {
        let needs_config = ["casefold", "encrypt", "verity", "quota"];
        let is_plain = |option: &&str| !needs_config.iter().any(|feature| option.contains(feature));
        self.block_bytes <= MOUNTABLE_BYTES && self.options.iter().all(is_plain)
    }

    /// Makes the filesystem; `false` when mke2fs does not want these options together.
    fn make(&self, file: &Path, content: &Path) -> bool {
        let block = self.block_bytes.to_string();
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-F", "-F", "-t", self.kind, "-b", &block]).args(&self.options);
        if !self.is_mountable() {
            command.arg("-d").arg(content);
        }
        let output =
            command.arg(file).output().expect("mke2fs: apt-get install -y --no-install-recommends e2fsprogs");
        if !output.status.success() {
            println!("not made: {}: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    }
}

/// Files of many sizes, every third of which goes again, so that the free space is in pieces.
fn fill(folder: &Path, seed: u64, budget: u64) {
    let mut noise = Noise::new(seed);
    let mut written = 0;
    let mut doomed = Vec::new();
    for number in 0..400_u64 {
        let bytes = match noise.below(8) {
            0 => budget / 24 + noise.below(budget / 24 + 1),
            1..=3 => noise.below(200 << 10),
            _ => noise.below(9 << 10),
        };
        if written + bytes > budget {
            break;
        }
        let parent = folder.join(format!("d{}", number % 7));
        std::fs::create_dir_all(&parent).unwrap();
        let path = parent.join(format!("f{number}"));
        if std::fs::write(&path, noise.bytes(usize::try_from(bytes).unwrap())).is_err() {
            break;
        }
        written += bytes;
        if number % 3 == 1 {
            doomed.push(path);
        }
    }
    run("sync", "coreutils", &["-f", folder.to_str().unwrap()], "");
    for path in doomed {
        std::fs::remove_file(path).unwrap();
    }
}

fn fill_filesystem(case: &Case, file: &Path, folder: &Path, seed: u64) {
    if case.is_mountable() {
        let device = LoopDevice::new(file, &[]);
        let mounted = Mounted::new(&[device.str()], &folder.join("mnt"));
        fill(&mounted.0, seed, case.bytes / 3);
        return;
    }
    // Made with files in it; some go.
    let doomed: Vec<String> = (0..40).map(|number| format!("rm /d{}/f{number}", number % 7)).collect();
    run(
        "debugfs",
        "e2fsprogs",
        &["-w", "-f", "/dev/stdin", file.to_str().unwrap()],
        &(doomed.join("\n") + "\n"),
    );
    // mke2fs and debugfs leave quota files behind the times.
    let status = Command::new("e2fsck").arg("-fy").arg(file).output().unwrap().status;
    assert!(matches!(status.code(), Some(0 | 1)), "{}: {status}", case.name());
}

/// The extents that dumpe2fs lists, block group by block group.
fn free_by_dumpe2fs(case: &Case, file: &Path) -> Vec<Extent> {
    let text = run("dumpe2fs", "e2fsprogs", &[file.to_str().unwrap()], "");
    let lists = text.lines().filter_map(|line| line.strip_prefix("  Free blocks: "));
    let ranges = lists.flat_map(|list| list.split(", ")).filter(|range| !range.trim().is_empty());
    // Without bigalloc there is no such line.
    let cluster_bytes =
        text.lines().any(|line| line.starts_with("Cluster size:")).then(|| field(&text, "Cluster size:"));
    let cluster = cluster_bytes.unwrap_or(case.block_bytes) / case.block_bytes;
    ranges
        .map(|range| {
            let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
            let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
            let offset = first * case.block_bytes;
            // dumpe2fs before 1.47.1 names the first block of the last cluster. A cluster may reach past the last block.
            let last = last / cluster * cluster + cluster - 1;
            let end = ((last + 1) * case.block_bytes).min(field(&text, "Block count:") * case.block_bytes);
            Extent { offset, bytes: end.saturating_sub(offset) }
        })
        .collect()
}

fn field(dumped: &str, name: &str) -> u64 {
    let line = dumped.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

/// Every file: length and hash.
fn files(file: &Path, folder: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let out = folder.join("rdump");
    std::fs::create_dir_all(&out).unwrap();
    let command = format!("rdump / {}", out.display());
    run("debugfs", "e2fsprogs", &["-R", &command, file.to_str().unwrap()], "");
    let mut found = BTreeMap::new();
    let mut folders = vec![out.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            found.insert(path.strip_prefix(&out).unwrap().to_owned(), (bytes.len() as u64, hasher.finish()));
        }
    }
    std::fs::remove_dir_all(out).unwrap();
    found
}

/// All that is free is overwritten: the check must be clean and the files the same.
fn prove(case: &Case, file: &Path, folder: &Path, allocation: &Allocation) {
    let before = files(file, folder);
    assert!(before.len() > 5, "{}: {} files only", case.name(), before.len());
    spoil(file, allocation);
    run("e2fsck", "e2fsprogs", &["-fn", file.to_str().unwrap()], "");
    assert!(files(file, folder) == before, "{}: files changed", case.name());
}

/// `true` when mke2fs made it.
fn check(case: &Case, number: u64) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let file = image(folder.path(), "image", case.bytes);
    let content = folder.path().join("content");
    if !case.is_mountable() {
        std::fs::create_dir_all(&content).unwrap();
        fill(&content, number, case.bytes / 3);
    }
    if !case.make(&file, &content) {
        return false;
    }
    let fresh = ours_sure(&file, &case.name());
    assert_same_free(&fresh, free_by_dumpe2fs(case, &file), &format!("{}, fresh", case.name()));
    fill_filesystem(case, &file, folder.path(), number);
    let filled = ours_sure(&file, &case.name());
    assert_same_free(&filled, free_by_dumpe2fs(case, &file), &case.name());
    prove(case, &file, folder.path(), &filled);
    true
}

fn few() -> Vec<Case> {
    vec![
        Case::new("ext2", 1024, 24, &[]),
        Case::new("ext3", 1024, 24, &["-O", "^resize_inode"]),
        Case::new("ext4", 4096, 300, &[]),
        Case::new("ext4", 1024, 100, &["-O", "^metadata_csum,uninit_bg,^64bit", "-g", "2048"]),
        Case::new("ext4", 4096, 200, &["-O", "bigalloc", "-C", "65536"]),
        Case::new("ext4", 1024, 60, &["-O", "bigalloc", "-C", "8192"]),
        Case::new("ext4", 1024, 64, &["-O", "meta_bg,^resize_inode", "-g", "1024"]),
        Case::new("ext4", 65536, 128, &["-O", "sparse_super2"]),
    ]
}

fn many() -> Vec<Case> {
    let features: [&[&str]; 24] = [
        &[],
        &["-O", "^64bit"],
        &["-O", "^metadata_csum,uninit_bg"],
        &["-O", "^metadata_csum,uninit_bg,^64bit"],
        &["-O", "^metadata_csum,^uninit_bg"],
        &["-O", "^flex_bg"],
        &["-O", "^flex_bg,^metadata_csum,uninit_bg,^resize_inode"],
        &["-O", "meta_bg,^resize_inode"],
        &["-O", "meta_bg,^resize_inode,^flex_bg,^64bit"],
        &["-O", "sparse_super2"],
        &["-O", "sparse_super2,meta_bg,^resize_inode"],
        &["-O", "sparse_super2", "-E", "num_backup_sb=1"],
        &["-O", "^sparse_super"],
        &["-O", "orphan_file,metadata_csum_seed,inline_data,ea_inode,large_dir"],
        &["-O", "fast_commit,encrypt,casefold,verity,stable_inodes"],
        &["-O", "quota,project,mmp"],
        &["-O", "^has_journal"],
        &["-O", "^resize_inode", "-G", "64"],
        &["-E", "resize=100000000"],
        &["-E", "packed_meta_blocks=1"],
        &["-E", "lazy_itable_init=0,nodiscard", "-N", "5000"],
        &["-O", "bigalloc"],
        &["-O", "bigalloc,meta_bg,^resize_inode"],
        &["-O", "bigalloc,^flex_bg,sparse_super2", "-I", "512"],
    ];
    let mut cases = few();
    for block_bytes in [1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for options in features {
            for mib in [40 + block_bytes / 1024, 700] {
                let mut options = options.to_vec();
                // Small groups, so that there are many.
                if mib < 700 && block_bytes < 8192 && !options.iter().any(|it| it.contains("bigalloc")) {
                    options.extend(["-g", if block_bytes == 1024 { "1024" } else { "2048" }]);
                }
                cases.push(Case::new("ext4", block_bytes, mib, &options));
            }
        }
        for kind in ["ext2", "ext3"] {
            for mib in [10 + block_bytes / 512, 150] {
                for options in [&[][..], &["-O", "^resize_inode,^sparse_super"], &["-O", "sparse_super2"]] {
                    cases.push(Case::new(kind, block_bytes, mib, options));
                }
            }
        }
    }
    // Sizes that leave a short last group, and a tail shorter than a block.
    for odd in 1..40 {
        let mut case = Case::new("ext4", [1024, 2048, 4096][odd % 3], 30, &["-g", "2048"]);
        case.bytes += odd as u64 * 777 * 512;
        cases.push(case);
    }
    cases
}

#[test]
fn free_blocks_are_those_of_dumpe2fs_and_nobody_misses_them_as_root() {
    let cases = if all() { many() } else { few() };
    let made = (1..).zip(&cases).filter(|(number, case)| check(case, *number)).count();
    println!("ext: {made} filesystems, each fresh and filled: none wrongly free, all that is free found");
    assert!(made * 10 >= cases.len() * 8, "only {made} of {}", cases.len());
}

/// While it is mounted, and after the power went, the journal holds what the bitmaps do not.
#[test]
fn what_is_mounted_or_was_torn_away_is_whole_as_root() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["ext2", "ext4"] {
        let file = image(folder.path(), kind, 20 << 20);
        run("mke2fs", "e2fsprogs", &["-q", "-F", "-t", kind, file.to_str().unwrap()], "");
        let device = LoopDevice::new(&file, &[]);
        let mounted = Mounted::new(&[device.str()], &folder.path().join("mnt"));
        std::fs::write(mounted.0.join("file"), "content").unwrap();
        run("sync", "coreutils", &["-f", mounted.0.to_str().unwrap()], "");
        let doubt = ours(&file).expect_err("a mounted filesystem");
        assert!(doubt.to_string().contains("mount and unmount it once"), "{doubt}");
        drop(mounted);
        ours_sure(&file, "after it was unmounted");
    }
}

#[test]
fn a_journal_on_another_device_is_a_doubt_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let (file, journal) = (image(folder.path(), "fs", 20 << 20), image(folder.path(), "journal", 8 << 20));
    run(
        "mke2fs",
        "e2fsprogs",
        &["-q", "-F", "-O", "journal_dev", "-b", "1024", journal.to_str().unwrap()],
        "",
    );
    let device = LoopDevice::new(&journal, &[]);
    let option = format!("device={}", device.str());
    run(
        "mke2fs",
        "e2fsprogs",
        &["-q", "-F", "-t", "ext4", "-b", "1024", "-J", &option, file.to_str().unwrap()],
        "",
    );
    assert_eq!(ours(&file).unwrap_err().to_string(), "the journal is on another device");
    assert!(ours(&journal).unwrap().is_none());
}

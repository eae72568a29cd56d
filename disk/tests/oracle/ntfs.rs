//! NTFS against `ntfscat` (the bitmap's bytes), `partclone.ntfs` (its domain file), `ntfsresize` (which compares the
//! bitmap with every file) and `ntfs-3g`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use disk::{Doubt, Extent};

use crate::testing::{image, run};
use crate::tools::{Noise, all, assert_free_within, assert_same_free, ours, ours_sure, spoil};

struct Case {
    sector_bytes: u64,
    cluster_bytes: u64,
    bytes: u64,
    compress: bool,
    /// Makes files of many runs, and a file table and folders that do not fit in one record.
    fragment: bool,
}

impl Case {
    fn new(sector_bytes: u64, cluster_bytes: u64, mib: u64) -> Self {
        Self { sector_bytes, cluster_bytes, bytes: mib << 20, compress: false, fragment: false }
    }

    fn name(&self) -> String {
        let Self { sector_bytes, cluster_bytes, bytes, compress, fragment } = self;
        format!(
            "mkntfs -s {sector_bytes} -c {cluster_bytes} ({bytes} bytes, compress {compress}, fragment {fragment})"
        )
    }

    fn make(&self, file: &Path) {
        let (sector, cluster) = (self.sector_bytes.to_string(), self.cluster_bytes.to_string());
        let file = file.to_str().unwrap();
        let mut args =
            vec!["-F", "-Q", "-q", "-s", &sector, "-c", &cluster, "-p", "0", "-H", "16", "-S", "63"];
        if self.compress {
            args.push("-C");
        }
        args.push(file);
        run("mkntfs", "ntfs-3g", &args, "");
    }
}

/// ntfs-3g in the foreground: when it has ended, all is written.
struct Mounted {
    at: PathBuf,
    child: Child,
}

impl Mounted {
    fn new(file: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut child = Command::new("ntfs-3g")
            .args(["-o", &format!("no_detach,{options}")])
            .args([file, at])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ntfs-3g: apt-get install -y --no-install-recommends ntfs-3g");
        while !std::fs::read_to_string("/proc/mounts").unwrap().contains(at.to_str().unwrap()) {
            assert!(child.try_wait().unwrap().is_none(), "ntfs-3g does not mount {}", file.display());
            std::thread::yield_now();
        }
        Self { at: at.to_owned(), child }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.at).status().ok();
        self.child.wait().ok();
    }
}

fn fill(case: &Case, root: &Path, seed: u64) {
    let mut noise = Noise::new(seed);
    let budget = case.bytes / 3;
    let (mut written, mut doomed) = (0, Vec::new());
    let count = if case.fragment { 1500 } else { 250 };
    if case.compress {
        let folder = root.join("d0");
        std::fs::create_dir_all(&folder).unwrap();
        // FILE_ATTRIBUTE_COMPRESSED
        let args = ["-h", "-n", "system.ntfs_attrib_be", "-v", "0x00000810", folder.to_str().unwrap()];
        run("setfattr", "attr", &args, "");
    }
    for number in 0..count {
        let bytes = match noise.below(8) {
            _ if case.fragment => case.cluster_bytes,
            0 => budget / 24 + noise.below(budget / 24 + 1),
            1..=3 => noise.below(200 << 10),
            _ => noise.below(9 << 10),
        };
        if written + bytes > budget {
            break;
        }
        let parent = root.join(format!("d{}", number % 7));
        std::fs::create_dir_all(&parent).unwrap();
        let path = parent.join(format!("file with a longer name {number}"));
        let mut content = noise.bytes(usize::try_from(bytes).unwrap());
        if number % 2 == 0 {
            content.iter_mut().for_each(|byte| *byte &= 3);
        }
        std::fs::write(&path, content).unwrap();
        written += bytes;
        if number % (if case.fragment { 2 } else { 3 }) == 1 {
            doomed.push(path);
        }
    }
    for path in doomed {
        std::fs::remove_file(path).unwrap();
    }
    if case.fragment {
        // The holes are one cluster each now, and the rest of the volume is one large piece: fill that, then the holes.
        let large = root.join("large");
        std::fs::write(&large, noise.bytes(usize::try_from(case.bytes / 3).unwrap())).unwrap();
    }
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    for name in ["pagefile.sys", "SwapFile.sys"] {
        std::fs::write(root.join(name), noise.bytes(usize::try_from(case.bytes / 20).unwrap())).unwrap();
    }
    let mut sleeping = noise.bytes(usize::try_from(case.bytes / 25 + 4096).unwrap());
    sleeping[..4096].fill(0);
    if !case.compress {
        std::fs::write(root.join("hiberfil.sys"), sleeping).unwrap();
    }
}

/// The bits of `$Bitmap`, as ntfs-3g reads it.
fn free_by_ntfscat(case: &Case, file: &Path) -> Vec<Extent> {
    let output = Command::new("ntfscat")
        .args(["-i", "6"])
        .arg(file)
        .output()
        .expect("ntfscat: apt-get install -y --no-install-recommends ntfs-3g");
    assert!(output.status.success(), "ntfscat: {}", String::from_utf8_lossy(&output.stderr));
    let clusters = (case.bytes / case.sector_bytes - 1) * case.sector_bytes / case.cluster_bytes;
    (0..clusters)
        .filter(|cluster| output.stdout[usize::try_from(cluster / 8).unwrap()] >> (cluster % 8) & 1 == 0)
        .map(|cluster| Extent { offset: cluster * case.cluster_bytes, bytes: case.cluster_bytes })
        .collect()
}

/// What partclone would not copy.
fn free_by_partclone(file: &Path, folder: &Path) -> Vec<Extent> {
    let domain = folder.join("domain");
    let log = folder.join("partclone.log");
    let args = [
        "-D",
        "-F",
        "-s",
        file.to_str().unwrap(),
        "-o",
        domain.to_str().unwrap(),
        "-L",
        log.to_str().unwrap(),
    ];
    run("partclone.ntfs", "partclone", &args, "");
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let text = std::fs::read_to_string(domain).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("0x"));
    lines
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [offset, bytes, "?"] = words[..] else { return None };
            Some(Extent { offset: number(offset), bytes: number(bytes) })
        })
        .collect()
}

/// Every file but those whose contents go: length and hash.
fn files(file: &Path, folder: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let at = folder.join("ro");
    let _mounted = Mounted::new(file, &at, "ro");
    let (mut found, mut folders) = (BTreeMap::new(), vec![at.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_none_or(|extension| extension != "sys") {
                let bytes = std::fs::read(&path).unwrap();
                let mut hasher = DefaultHasher::new();
                bytes.hash(&mut hasher);
                found.insert(path, (bytes.len() as u64, hasher.finish()));
            }
        }
    }
    found
}

fn check(case: &Case, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let file = image(folder.path(), "image", case.bytes);
    case.make(&file);
    let fresh = ours_sure(&file, &case.name());
    assert_same_free(&fresh, free_by_ntfscat(case, &file), &format!("{}, fresh", case.name()));
    {
        let options = if case.compress { "compression" } else { "rw" };
        let mounted = Mounted::new(&file, &folder.path().join("mnt"), options);
        fill(case, &mounted.at, seed);
    }
    let filled = ours_sure(&file, &case.name());
    assert_same_free(&filled, free_by_ntfscat(case, &file), &case.name());
    assert_free_within(&filled, free_by_partclone(&file, folder.path()), &case.name());
    let mut names: Vec<&str> = filled.excluded.iter().map(|excluded| excluded.name.as_str()).collect();
    names.sort_unstable();
    let excluded: u64 = filled.excluded.iter().flat_map(|it| &it.extents).map(|extent| extent.bytes).sum();
    if case.compress {
        assert_eq!(names, [""; 0], "{}", case.name());
    } else {
        assert_eq!(names, ["hiberfil.sys", "pagefile.sys", "swapfile.sys"], "{}", case.name());
    }
    assert!(case.compress || excluded >= case.bytes / 10, "{}: {excluded}", case.name());

    let before = files(&file, folder.path());
    assert!(before.len() > 20, "{}: {} files only", case.name(), before.len());
    spoil(&file, &filled);
    run("ntfsresize", "ntfs-3g", &["-f", "-f", "-i", file.to_str().unwrap()], "");
    assert!(files(&file, folder.path()) == before, "{}: files changed", case.name());
}

fn few() -> Vec<Case> {
    vec![
        Case::new(512, 4096, 60),
        Case { compress: true, ..Case::new(512, 4096, 60) },
        Case { fragment: true, ..Case::new(512, 512, 20) },
        Case::new(4096, 65536, 200),
    ]
}

fn many() -> Vec<Case> {
    let mut cases = few();
    for sector_bytes in [256, 512, 1024, 2048, 4096] {
        for cluster_bytes in (9..=21).map(|bits| 1_u64 << bits).filter(|bytes| *bytes >= sector_bytes) {
            let is_large = cluster_bytes > 64 << 10;
            if cluster_bytes / sector_bytes > 4096 || (is_large && ![512, 4096].contains(&sector_bytes)) {
                continue;
            }
            let mib = 30.max(cluster_bytes >> 12);
            for odd in [0, 7] {
                let mut case = Case::new(sector_bytes, cluster_bytes, mib);
                case.bytes += odd * 4096 + sector_bytes * odd;
                // NTFS compresses up to this size of a cluster.
                case.compress = odd > 0 && cluster_bytes <= 4096;
                cases.push(case);
            }
        }
    }
    for cluster_bytes in [512, 1024, 2048, 4096] {
        cases.push(Case { fragment: true, ..Case::new(512, cluster_bytes, 40) });
    }
    cases
}

#[test]
fn free_clusters_are_those_of_ntfs_3g_and_nobody_misses_them_as_root() {
    let cases = if all() { many() } else { few() };
    for (seed, case) in (1..).zip(&cases) {
        println!("{}", case.name());
        check(case, seed);
    }
    println!(
        "ntfs: {} filesystems, each fresh and filled: none wrongly free, all that is free found",
        cases.len()
    );
}

#[test]
fn a_volume_where_a_system_sleeps_is_whole_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::new(512, 4096, 30);
    for (header, sleeps) in
        [(&b"hibr"[..], true), (b"HIBR", true), (b"RSTR", true), (b"wake", false), (b"WAKE", false)]
    {
        let file = image(folder.path(), "image", case.bytes);
        case.make(&file);
        {
            let mounted = Mounted::new(&file, &folder.path().join("mnt"), "rw");
            let mut content = vec![0; 1 << 20];
            content[..4].copy_from_slice(header);
            std::fs::write(mounted.at.join("hiberfil.sys"), content).unwrap();
        }
        match ours(&file) {
            Err(Doubt::Hibernated { .. }) => assert!(sleeps, "{header:?}"),
            Ok(Some(allocation)) => assert!(!sleeps && allocation.excluded.len() == 1, "{header:?}"),
            other => panic!("{header:?}: {other:?}"),
        }
    }
}

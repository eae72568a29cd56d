//! XFS against `xfs_db`, `partclone.xfs` (its domain file), `xfs_repair` and the kernel.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Allocation, Doubt, Extent};

use crate::testing::{LoopDevice, Mounted, image, run};
use crate::tools::{Noise, all, assert_free_within, assert_same_free, merged, ours, ours_sure, spoil};

struct Case {
    block_bytes: u64,
    bytes: u64,
    options: Vec<&'static str>,
    /// Files of one block each, every other of which goes.
    fragment: bool,
}

impl Case {
    fn new(block_bytes: u64, mib: u64, options: &[&'static str]) -> Self {
        Self { block_bytes, bytes: mib << 20, options: options.to_vec(), fragment: false }
    }

    fn name(&self) -> String {
        format!("mkfs.xfs -b size={} {} ({} bytes)", self.block_bytes, self.options.join(" "), self.bytes)
    }

    /// `false` when mkfs.xfs does not want these options together.
    fn make(&self, file: &Path) -> bool {
        let output = Command::new("mkfs.xfs")
            .args(["-q", "-f", "-b", &format!("size={}", self.block_bytes)])
            .args(&self.options)
            .arg(file)
            .output()
            .expect("mkfs.xfs: apt-get install -y --no-install-recommends xfsprogs");
        if !output.status.success() {
            println!("not made: {}: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    }
}

fn fill(case: &Case, folder: &Path, seed: u64) {
    let mut noise = Noise::new(seed);
    let budget = case.bytes / 6;
    let (mut written, mut doomed) = (0, Vec::new());
    for number in 0..if case.fragment { 6000 } else { 300_u64 } {
        let bytes = match noise.below(8) {
            _ if case.fragment => case.block_bytes,
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
        std::fs::write(&path, noise.bytes(usize::try_from(bytes).unwrap())).unwrap();
        written += bytes;
        if number % if case.fragment { 2 } else { 3 } == 1 {
            doomed.push(path);
        }
    }
    run("sync", "coreutils", &["-f", folder.to_str().unwrap()], "");
    for path in doomed {
        std::fs::remove_file(path).unwrap();
    }
    // Where reflinks are known, blocks that are shared.
    let (from, to) = (folder.join("d0/f0"), folder.join("d0/shared"));
    Command::new("cp").arg("--reflink=auto").args([from, to]).status().unwrap();
}

/// Mounts, fills and unmounts; `false` when the kernel cannot mount it.
fn fill_filesystem(case: &Case, file: &Path, folder: &Path, seed: u64) -> bool {
    let device = LoopDevice::new(file, &[]);
    let at = folder.join("mnt");
    std::fs::create_dir_all(&at).unwrap();
    let output = Command::new("mount").arg(device.str()).arg(&at).output().unwrap();
    if !output.status.success() {
        println!("not mounted: {}: {}", case.name(), String::from_utf8_lossy(&output.stderr).trim());
        return false;
    }
    let mounted = Mounted(at);
    fill(case, &mounted.0, seed);
    true
}

fn xfs_db(file: &Path, commands: &[&str]) -> String {
    let mut args = vec!["-r"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(file.to_str().unwrap());
    run("xfs_db", "xfsprogs", &args, "")
}

fn number(text: &str) -> u64 {
    text.rsplit('=').next().unwrap().trim().parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

/// Groups, and blocks of a group.
fn groups(file: &Path) -> (u64, u64) {
    let text = xfs_db(file, &["sb 0", "p agcount", "p agblocks"]);
    let mut lines = text.lines().map(number);
    (lines.next().unwrap(), lines.next().unwrap())
}

/// What `freesp` lists: free extents, and the blocks of the free lists, which we call used.
fn free_by_xfs_db(case: &Case, file: &Path) -> Vec<Extent> {
    let (count, group_blocks) = groups(file);
    let extent = |group: u64, block: u64, blocks: u64| Extent {
        offset: (group * group_blocks + block) * case.block_bytes,
        bytes: blocks * case.block_bytes,
    };
    let mut free = Vec::new();
    for line in xfs_db(file, &["freesp -d"]).lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
        match numbers[..] {
            [group, block, blocks] if words.len() == 3 => free.push(extent(group, block, blocks)),
            // The histogram follows.
            _ => break,
        }
    }
    let mut listed = Vec::new();
    for group in 0..count {
        let agf = xfs_db(file, &[&format!("agf {group}"), "p flfirst", "p fllast", "p flcount"]);
        let numbers: Vec<u64> = agf.lines().map(number).collect();
        let [first, last, blocks] = numbers[..] else { panic!("{agf}") };
        let text = xfs_db(file, &[&format!("agfl {group}"), "p bno"]);
        let places = places(&text);
        let len = places.len() as u64;
        let ring =
            (0..len).cycle().skip(usize::try_from(first).unwrap()).take(usize::try_from(blocks).unwrap());
        let ring: Vec<u64> = ring.collect();
        assert!(blocks == 0 || ring.last() == Some(&last));
        listed.extend(ring.iter().map(|place| extent(group, places[place], 1)));
    }
    without(merged(free), &merged(listed))
}

/// `bno[0-118] = 0:4 1:5 … 4:null`.
fn places(text: &str) -> BTreeMap<u64, u64> {
    let pairs = text.split_once('=').unwrap().1.split_whitespace();
    pairs
        .flat_map(|pair| {
            let (place, block) = pair.split_once(':').unwrap();
            let block = block.parse().unwrap_or(u64::MAX);
            match place.split_once('-') {
                Some((from, to)) => {
                    (from.parse().unwrap()..=to.parse().unwrap()).map(|at| (at, block)).collect()
                }
                None => vec![(place.parse().unwrap(), block)],
            }
        })
        .collect()
}

fn without(extents: Vec<Extent>, less: &[Extent]) -> Vec<Extent> {
    let mut rest = Vec::new();
    for extent in extents {
        let mut from = extent.offset;
        for less in less.iter().filter(|less| less.overlaps(&extent)) {
            rest.push(Extent { offset: from, bytes: less.offset.saturating_sub(from) });
            from = from.max(less.end());
        }
        rest.push(Extent { offset: from, bytes: extent.end().saturating_sub(from) });
    }
    rest.retain(|extent| extent.bytes > 0);
    rest
}

/// What partclone would not copy; `None` when it does not know the features.
fn free_by_partclone(file: &Path, folder: &Path) -> Option<Vec<Extent>> {
    let (domain, log) = (folder.join("domain"), folder.join("partclone.log"));
    let output = Command::new("partclone.xfs")
        .args(["-D", "-F", "-s", file.to_str().unwrap(), "-o", domain.to_str().unwrap()])
        .args(["-L", log.to_str().unwrap()])
        .output()
        .expect("partclone.xfs: apt-get install -y --no-install-recommends partclone");
    if !output.status.success() {
        println!("partclone.xfs does not read {}", file.display());
        return None;
    }
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let text = std::fs::read_to_string(domain).unwrap();
    let extents = text.lines().filter(|line| line.starts_with("0x")).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [offset, bytes, "?"] = words[..] else { return None };
        Some(Extent { offset: number(offset), bytes: number(bytes) })
    });
    Some(extents.collect())
}

/// Every file: length and hash.
fn files(file: &Path, folder: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let device = LoopDevice::new(file, &["-r"]);
    let at = folder.join("ro");
    let mounted = Mounted::new(&["-o", "ro,norecovery,nouuid", device.str()], &at);
    let (mut found, mut folders) = (BTreeMap::new(), vec![mounted.0.clone()]);
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
            found.insert(path, (bytes.len() as u64, hasher.finish()));
        }
    }
    found
}

fn compare(case: &Case, file: &Path, folder: &Path, state: &str) -> Allocation {
    let name = format!("{}, {state}", case.name());
    let allocation = ours_sure(file, &name);
    assert_same_free(&allocation, free_by_xfs_db(case, file), &name);
    if let Some(theirs) = free_by_partclone(file, folder) {
        assert_free_within(&allocation, theirs, &name);
    }
    allocation
}

/// Whether it was made, and whether it was filled.
fn check(case: &Case, seed: u64) -> (bool, bool) {
    let folder = tempfile::tempdir().unwrap();
    let file = image(folder.path(), "image", case.bytes);
    if !case.make(&file) {
        return (false, false);
    }
    let mut allocation = compare(case, &file, folder.path(), "fresh");
    let is_filled = fill_filesystem(case, &file, folder.path(), seed);
    let mut before = None;
    if is_filled {
        allocation = compare(case, &file, folder.path(), "filled");
        before = Some(files(&file, folder.path()));
        assert!(before.as_ref().unwrap().len() > 20, "{}: too few files", case.name());
    }
    spoil(&file, &allocation);
    run("xfs_repair", "xfsprogs", &["-n", "-f", file.to_str().unwrap()], "");
    if let Some(before) = before {
        assert!(files(&file, folder.path()) == before, "{}: files changed", case.name());
    }
    (true, is_filled)
}

fn few() -> Vec<Case> {
    vec![
        Case::new(4096, 320, &[]),
        Case::new(4096, 320, &["-m", "rmapbt=1,reflink=1", "-i", "sparse=1,nrext64=1", "-d", "agcount=7"]),
        Case { fragment: true, ..Case::new(1024, 320, &["-m", "rmapbt=1", "-d", "agcount=2"]) },
        Case::new(512, 320, &["-m", "crc=0", "-l", "version=1"]),
    ]
}

fn many() -> Vec<Case> {
    let mut cases = few();
    let features: [&[&str]; 14] = [
        &[],
        &["-m", "rmapbt=1"],
        &["-m", "reflink=0"],
        &["-m", "rmapbt=1,reflink=1", "-i", "nrext64=1"],
        &["-m", "bigtime=0,inobtcount=0"],
        &["-m", "finobt=0,inobtcount=0,reflink=0"],
        &["-i", "sparse=0"],
        &["-i", "size=2048"],
        &["-l", "su=32768"],
        &["-d", "su=65536,sw=4"],
        &["-m", "crc=0"],
        &["-m", "crc=0", "-l", "lazy-count=0"],
        &["-m", "crc=0", "-l", "version=1", "-i", "projid32bit=0"],
        &["-m", "crc=0,finobt=0", "-n", "ftype=1"],
    ];
    for block_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for options in features {
            for groups in ["agcount=3", "agcount=8"] {
                for sector in ["size=512", "size=4096"] {
                    if options.contains(&"-d") || (sector == "size=4096" && block_bytes < 4096) {
                        continue;
                    }
                    let mut options = options.to_vec();
                    options.extend(["-d", groups, "-s", sector]);
                    // The log wants room in one group.
                    let mib = if groups == "agcount=8" { 700 } else { 320 };
                    cases.push(Case::new(block_bytes, mib, &options));
                }
            }
        }
        for rmap in ["rmapbt=0", "rmapbt=1"] {
            let options = ["-m", rmap, "-d", "agcount=2"];
            cases.push(Case { fragment: true, ..Case::new(block_bytes, 400, &options) });
        }
    }
    // A last group that is shorter, and a tail that is no block.
    for odd in 1..20 {
        let mut case = Case::new(4096, 600, &["-d", "agsize=67108864"]);
        case.bytes += odd * 3_333_333 / 512 * 512;
        cases.push(case);
    }
    cases
}

#[test]
fn free_blocks_are_those_of_xfs_db_and_nobody_misses_them_as_root() {
    let cases = if all() { many() } else { few() };
    let done: Vec<(bool, bool)> = (1..).zip(&cases).map(|(seed, case)| check(case, seed)).collect();
    let made = done.iter().filter(|(made, _)| *made).count();
    let filled = done.iter().filter(|(_, filled)| *filled).count();
    println!(
        "xfs: {made} filesystems fresh, {filled} of them filled: none wrongly free, all that is free found"
    );
    assert!(
        made * 10 >= cases.len() * 6 && filled > 0,
        "only {made} made, {filled} filled of {}",
        cases.len()
    );
}

/// While it is mounted, and after the power went, the log holds what the trees do not.
#[test]
fn a_log_that_is_not_closed_is_a_doubt_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let case = Case::new(4096, 320, &[]);
    let file = image(folder.path(), "image", case.bytes);
    assert!(case.make(&file));
    let device = LoopDevice::new(&file, &[]);
    // Many small logs, so that the log goes round; closed and open again in between.
    for round in 0..12 {
        let mounted = Mounted::new(&[device.str()], &folder.path().join("mnt"));
        for number in 0..300 {
            std::fs::write(mounted.0.join(format!("f{number}")), vec![7; 5000 + round]).unwrap();
            if round == 11 && number == 100 {
                run("sync", "coreutils", &["-f", mounted.0.to_str().unwrap()], "");
                let torn = folder.path().join("torn");
                run(
                    "cp",
                    "coreutils",
                    &["--sparse=always", file.to_str().unwrap(), torn.to_str().unwrap()],
                    "",
                );
                assert!(matches!(ours(&torn), Err(Doubt::Journal)), "{:?}", ours(&torn));
            }
        }
        run("sync", "coreutils", &["-f", mounted.0.to_str().unwrap()], "");
        drop(mounted);
        ours_sure(&file, &format!("closed, round {round}"));
    }
}

#[test]
fn parts_on_other_devices_are_a_doubt_as_root() {
    let folder = tempfile::tempdir().unwrap();
    let (file, other) = (image(folder.path(), "image", 320 << 20), image(folder.path(), "other", 64 << 20));
    let (file_name, other) = (file.to_str().unwrap(), other.to_str().unwrap());
    for (option, place) in [("-l", "the log"), ("-r", "the realtime section")] {
        let device = if option == "-l" { "logdev" } else { "rtdev" };
        let device = format!("{device}={other},size=64m");
        run("mkfs.xfs", "xfsprogs", &["-q", "-f", option, &device, file_name], "");
        assert_eq!(ours(&file).unwrap_err().to_string(), format!("{place} is on another device"));
    }
}

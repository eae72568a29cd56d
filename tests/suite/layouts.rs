//! Restores and clones whose target looks different: one partition, a table of its own, other sectors, another table.
//!
//! Promise: the filesystems' own checkers and drivers judge what came out; what is refused touches nothing. Whether
//! it boots is asked in `tests/boot`. Knows nothing of how a layout is planned.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::disks::{Disk, Kind, noise};
use tests::{Loop, Ran, capture, cas, cas_ok, run};

const MIB: u64 = 1 << 20;

/// A store with an image of a disk that has a FAT, an ext4, an XFS and a btrfs, or an MBR with logical partitions.
struct Bench {
    folder: tempfile::TempDir,
    store: PathBuf,
    disk: Disk,
    image: String,
}

impl Bench {
    fn new(make: fn(&Path) -> Disk) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        cas_ok(&store, &["init", store.to_str().unwrap()]);
        let disk = make(folder.path());
        disk.fill(3, 6 << 20);
        run("sync", &[]);
        let image = capture(&store, disk.device.node(), &[]);
        Bench { folder, store, disk, image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A target full of noise.
    fn target(&self, name: &str, bytes: u64, options: &[&str]) -> Loop {
        let file = self.path(name);
        fs::write(&file, noise(bytes, usize::try_from(bytes).unwrap())).unwrap();
        run("wipefs", &["-q", "-a", file.to_str().unwrap()]);
        Loop::new(&file, options)
    }

    fn cas(&self, arguments: &[&str]) -> Ran {
        cas(&self.store, arguments)
    }

    fn volume(&self, number: u32) -> String {
        format!("{}:{number}", self.image)
    }

    /// The filesystem at a node is sound, and has the files of the source's partition.
    #[track_caller]
    fn assert_volume(&self, number: u32, node: &Path) {
        let (_, kind) = self.disk.volumes.iter().find(|(it, _)| *it == number).unwrap();
        kind.check(node);
        kind.assert_same_files(&self.disk.device.partition(number), node, &self.path("compare"));
    }
}

/// Bytes of an ext filesystem, by its own tool.
fn ext_bytes(node: &Path) -> u64 {
    let text = run("dumpe2fs", &["-h", node.to_str().unwrap()]);
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    field("Block count:") * field("Block size:")
}

fn layout(folder: &Path) -> Disk {
    Disk::gpt(folder, "512")
}

#[test]
fn root_one_partition_goes_onto_another_and_grows_with_it() {
    let bench = Bench::new(layout);
    let target = bench.target("target.img", 200 * MIB, &[]);
    run("sgdisk", &["-n1:0:+20M", "-n2:0:+160M", target.text()]);
    let (small, large) = (target.partition(1), target.partition(2));
    let before = fs::read(&small).unwrap();
    let refused = bench.cas(&["restore", &bench.volume(2), small.to_str().unwrap(), "--yes"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(fs::read(&small).unwrap() == before, "a refused target was written to");
    let over_the_table = bench.cas(&["restore", &bench.volume(2), target.text(), "--yes"]);
    assert_eq!(over_the_table.code, 5, "{over_the_table:?}");
    assert!(over_the_table.stderr.contains("partition table"), "{over_the_table:?}");

    cas_ok(&bench.store, &["restore", &bench.volume(2), large.to_str().unwrap(), "--yes"]);
    bench.assert_volume(2, &large);
    assert_eq!(ext_bytes(&large), 48 * MIB);
    let more = ["--yes", "--layout", "grow", "--verify"];
    cas_ok(&bench.store, &[&["restore", &bench.volume(2), large.to_str().unwrap()][..], &more].concat());
    bench.assert_volume(2, &large);
    assert_eq!(ext_bytes(&large), 160 * MIB);
    assert!(fs::read(&small).unwrap() == before, "the neighbour was written to");
}

/// What a summary says was written to its first target.
fn written(ran: &Ran) -> u64 {
    assert_eq!(ran.code, 0, "{ran:?}");
    let last = ran.stdout.lines().last().unwrap();
    let summary: Value = serde_json::from_str(last).unwrap();
    let one = &summary["targets"][0];
    one["written_bytes"].as_u64().unwrap() + one["zeroed_bytes"].as_u64().unwrap()
}

/// Its boot sector says where it is on the disk, which nobody knows better.
#[test]
fn root_a_partition_back_in_its_own_place_is_what_it_was() {
    let bench = Bench::new(Disk::mbr);
    let target = bench.target("target.img", 144 * MIB, &[]);
    cas_ok(&bench.store, &["restore", &bench.image, target.text(), "--yes"]);
    for (number, _) in &bench.disk.volumes {
        let node = target.partition(*number);
        let again =
            bench.cas(&["restore", &bench.volume(*number), node.to_str().unwrap(), "--yes", "--json"]);
        assert_eq!(written(&again), 0, "partition {number}");
    }
}

#[test]
fn root_a_partition_gets_a_table_of_its_own() {
    let bench = Bench::new(layout);
    let target = bench.target("target.img", 100 * MIB, &[]);
    let arguments = ["restore", &bench.volume(2), target.text(), "--create-partition", "--yes"];
    cas_ok(&bench.store, &arguments);
    run("sgdisk", &["-v", target.text()]);
    bench.assert_volume(2, &target.partition(1));
    // Now it has a table, and is no place for another.
    let again = bench.cas(&arguments);
    assert_eq!(again.code, 5, "{again:?}");
}

#[test]
fn root_chosen_partitions_stay_where_they_were() {
    let bench = Bench::new(layout);
    let target = bench.target("target.img", 520 * MIB, &[]);
    cas_ok(&bench.store, &["restore", &bench.image, target.text(), "--partitions", "1,3", "--yes"]);
    let listed = run("sfdisk", &["-d", target.text()]);
    assert_eq!(listed.lines().filter(|line| line.contains("start=")).count(), 2, "{listed}");
    bench.assert_volume(1, &target.partition(1));
    bench.assert_volume(3, &target.partition(3));
}

#[test]
fn root_an_mbr_with_logical_partitions_shrinks_and_becomes_a_gpt() {
    let bench = Bench::new(Disk::mbr);
    let target = bench.target("target.img", 110 * MIB, &[]);
    let arguments = ["restore", &bench.image, target.text(), "--layout", "fit", "--yes", "--verify"];
    cas_ok(&bench.store, &arguments);
    run("sfdisk", &["-V", target.text()]);
    for (number, _) in &bench.disk.volumes {
        bench.assert_volume(*number, &target.partition(*number));
    }
    // All is right already.
    let again = cas(&bench.store, &[&arguments[..], &["--json"]].concat());
    assert_eq!(again.code, 0, "{again:?}");
    drop(target);

    let target = bench.target("gpt.img", 150 * MIB, &[]);
    cas_ok(&bench.store, &["restore", &bench.image, target.text(), "--to-gpt", "--yes"]);
    run("sgdisk", &["-v", target.text()]);
    for (number, _) in &bench.disk.volumes {
        bench.assert_volume(*number, &target.partition(*number));
    }
}

#[test]
fn root_other_sectors_are_borne_or_refused_with_the_reason() {
    let bench = Bench::new(layout);
    let target = bench.target("target.img", 524 * MIB, &["--sector-size", "4096"]);
    let before = fs::read(bench.path("target.img")).unwrap();
    let refused = bench.cas(&["restore", &bench.image, target.text(), "--yes"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("partition 1") && refused.stderr.contains("512"), "{refused:?}");
    assert!(fs::read(bench.path("target.img")).unwrap() == before, "a refused target was written to");
    // Ext4 and btrfs have blocks of 4 KiB; the FAT and the XFS count in sectors of 512 bytes.
    cas_ok(&bench.store, &["restore", &bench.image, target.text(), "--partitions", "4", "--yes"]);
    bench.assert_volume(4, &target.partition(4));
}

#[test]
fn root_clones_have_files_and_identities_of_their_own() {
    let bench = Bench::new(layout);
    let [one, two] = ["one.img", "two.img"].map(|name| bench.target(name, 700 * MIB, &[]));
    let arguments =
        ["clone", bench.disk.device.text(), one.text(), two.text(), "--new-ids", "--layout", "grow", "--yes"];
    cas_ok(&bench.store, &arguments);
    let uuid = |node: PathBuf| run("blkid", &["-p", "-s", "UUID", "-o", "value", node.to_str().unwrap()]);
    for target in [&one, &two] {
        run("sgdisk", &["-v", target.text()]);
        for (number, kind) in &bench.disk.volumes {
            let node = target.partition(*number);
            kind.check(&node);
            assert_ne!(uuid(node.clone()), uuid(bench.disk.device.partition(*number)), "partition {number}");
            if *kind != Kind::Btrfs {
                bench.assert_volume(*number, &node);
            }
        }
    }
    let itself = bench.cas(&["clone", bench.disk.device.text(), bench.disk.device.text(), "--yes"]);
    assert_eq!(itself.code, 5, "{itself:?}");
}

#[test]
fn root_a_clone_can_be_kept_and_repeated_at_the_cost_of_the_difference() {
    let bench = Bench::new(Disk::mbr);
    let target = bench.target("target.img", 144 * MIB, &[]);
    let arguments = ["clone", bench.disk.device.text(), target.text(), "--yes", "--json", "--also-keep"];
    assert!(written(&bench.cas(&arguments)) > 100 * MIB);
    assert_eq!(written(&bench.cas(&arguments)), 0);
    for (number, _) in &bench.disk.volumes {
        bench.assert_volume(*number, &target.partition(*number));
    }
    let images: Value = serde_json::from_str(&bench.cas(&["images", "--json"]).stdout).unwrap();
    assert!(images.to_string().matches("short_id").count() >= 3, "{images}");
}

#[test]
fn root_a_plan_writes_nothing_and_says_what_would_be() {
    let bench = Bench::new(Disk::mbr);
    let target = bench.target("target.img", 110 * MIB, &[]);
    let before = fs::read(bench.path("target.img")).unwrap();
    let small = bench.cas(&["plan", &bench.image, target.text()]);
    assert_eq!(small.code, 6, "{small:?}");
    assert!(small.stderr.contains("--layout fit"), "{small:?}");
    let plan = bench.cas(&["plan", &bench.image, target.text(), "--layout", "fit"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    for words in ["NEW SIZE", "shrinks", "needs ", "nothing was written", target.text()] {
        assert!(plan.stdout.contains(words), "{words}: {}", plan.stdout);
    }
    let json = bench.cas(&["plan", &bench.image, target.text(), "--layout", "fit", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["layout"]["volumes"].as_array().unwrap().len(), 3);
    assert!(fs::read(bench.path("target.img")).unwrap() == before, "the plan wrote");
}

/// A filesystem that its own checker gives up on keeps its size; when it must be changed, that is the end of it, before the
/// target is touched.
#[test]
fn root_what_no_tool_can_change_stays_or_ends_it() {
    let bench = Bench::new(Disk::mbr);
    let node = bench.disk.device.partition(5);
    // A damage that e2fsck does not mend unasked: no more root folder.
    run("debugfs", &["-w", "-R", "clri <2>", node.to_str().unwrap()]);
    let image = capture(&bench.store, bench.disk.device.node(), &["--raw"]);
    let target = bench.target("target.img", 110 * MIB, &[]);
    let before = fs::read(bench.path("target.img")).unwrap();
    let work = bench.path("work");
    fs::create_dir(&work).unwrap();
    let fit = [
        "restore",
        &image,
        target.text(),
        "--layout",
        "fit",
        "--yes",
        "--work-folder",
        work.to_str().unwrap(),
    ];
    let failed = bench.cas(&[&fit[..], &["--new-ids"]].concat());
    assert_ne!(failed.code, 0, "{failed:?}");
    assert!(failed.stderr.contains("e2fsck"), "{failed:?}");
    assert!(fs::read(bench.path("target.img")).unwrap() == before, "the target was written to");
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "something was left in the work folder");

    let fitted = bench.cas(&fit);
    assert_eq!(fitted.code, 0, "{fitted:?}");
    assert!(fitted.stderr.contains("partition 5: it keeps its size: e2fsck"), "{fitted:?}");
    assert!(fs::read(target.partition(5)).unwrap() == fs::read(&node).unwrap());
    bench.assert_volume(6, &target.partition(6));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "something was left in the work folder");
}

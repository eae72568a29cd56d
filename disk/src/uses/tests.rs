//! Tests: who uses a device, on made-up system trees and on real loop devices.

use std::os::unix::fs::symlink;

use rustix::fs::makedev;
use tempfile::{TempDir, tempdir};

use super::*;
use crate::testing::{LoopDevice, Mounted, image, run};
use crate::{DeviceKind, Identity, is_root_disk, list};

/// A made-up machine, for what this kernel does not have.
struct Machine {
    folder: TempDir,
    mounts: String,
}

impl Machine {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        for name in ["sys/class/block", "sys/dev/block", "sys/fs/btrfs", "proc/self", "udev/data"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        Self { folder, mounts: String::new() }
    }

    /// A block device at a place below `sys/devices`, with files in its folder.
    fn device(&self, place: &str, number: &str, files: &[(&str, &str)]) {
        let sys = self.folder.path().join("sys");
        let folder = sys.join("devices").join(place);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
        for (name, text) in files {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), text).unwrap();
        }
        symlink(&folder, sys.join("class/block").join(folder.file_name().unwrap())).unwrap();
        symlink(&folder, sys.join("dev/block").join(number)).unwrap();
    }

    fn stands_on(&self, over: &str, under: &str) {
        let block = self.folder.path().join("sys/class/block");
        for (from, kind, to) in [(over, "slaves", under), (under, "holders", over)] {
            let folder = block.join(from).join(kind);
            fs::create_dir_all(&folder).unwrap();
            symlink(block.join(to), folder.join(to)).unwrap();
        }
    }

    fn mount(&mut self, number: &str, at: &str, filesystem: &str, source: &str) {
        let id = self.mounts.lines().count() + 20;
        self.mounts += &format!("{id} 1 {number} / {at} rw,noatime shared:1 - {filesystem} {source} rw\n");
    }

    fn system(&self) -> System {
        let path = |name: &str| self.folder.path().join(name);
        System { sys: path("sys"), proc: path("proc"), udev: path("udev"), dev: path("dev") }
    }

    fn facts(&self) -> Facts {
        fs::write(self.folder.path().join("proc/self/mountinfo"), &self.mounts).unwrap();
        Facts::read(self.system()).unwrap()
    }
}

/// sda2 is a RAID member, the array holds LUKS, that holds LVM, of which two volumes are mounted.
fn stacked() -> Machine {
    let mut machine = Machine::new();
    machine.device("pci/ata1/host0/block/sda", "8:0", &[("size", "2048000")]);
    machine.device(
        "pci/ata1/host0/block/sda/sda1",
        "8:1",
        &[("partition", "1"), ("start", "2048"), ("size", "2048")],
    );
    machine.device(
        "pci/ata1/host0/block/sda/sda2",
        "8:2",
        &[("partition", "2"), ("start", "4096"), ("size", "99")],
    );
    machine.device("pci/ata2/host1/block/sdb", "8:16", &[("size", "2048000")]);
    machine.device("virtual/block/md127", "9:127", &[("size", "2048000")]);
    machine.device("virtual/block/md127/md127p1", "259:0", &[("partition", "1"), ("size", "2048000")]);
    for (name, number) in [("dm-0", "253:0"), ("dm-1", "253:1"), ("dm-2", "253:2")] {
        machine.device(&format!("virtual/block/{name}"), number, &[("size", "1000")]);
    }
    machine.stands_on("md127", "sda2");
    machine.stands_on("md127", "sdb");
    machine.stands_on("dm-0", "md127p1");
    machine.stands_on("dm-1", "dm-0");
    machine.stands_on("dm-2", "dm-0");
    machine.mount("253:1", "/", "ext4", "/dev/mapper/root");
    machine.mount("253:2", "/home\\040of", "xfs", "/dev/mapper/home");
    machine.mount("8:1", "/boot", "ext4", "/dev/sda1");
    machine
}

fn node(name: &str) -> Subject {
    Subject::Node(name.into())
}

fn words(found: &[Use]) -> Vec<String> {
    let text = |one: &Use| {
        let volume = one.volume.map_or("-".into(), |number| number.to_string());
        let what = match &one.what {
            UseKind::Mounted { at, filesystem, .. } => format!("{filesystem} at {}", at.display()),
            UseKind::Swap => "swap".into(),
            UseKind::Holder { name, kind } => format!("{kind} {name}"),
        };
        format!("{} {volume} {what}", one.device)
    };
    found.iter().map(text).collect()
}

#[test]
fn a_disk_is_used_by_all_that_stands_on_it() {
    let machine = stacked();
    let facts = machine.facts();
    let expected = [
        "sda1 1 ext4 at /boot",
        "sda2 2 md md127",
        "md127p1 2 dm dm-0",
        "dm-0 2 dm dm-1",
        "dm-1 2 ext4 at /",
        "dm-0 2 dm dm-2",
        "dm-2 2 xfs at /home of",
    ];
    assert_eq!(words(&facts.uses(&node("sda"))), expected);
    assert_eq!(words(&facts.uses(&node("sda1"))), expected[..1]);
    assert_eq!(words(&facts.uses(&node("sdb")))[0], "sdb - md md127");
    assert_eq!(words(&facts.uses(&node("dm-2"))), ["dm-2 - xfs at /home of"]);
}

#[test]
fn a_mount_stands_on_all_that_is_under_it() {
    let machine = stacked();
    let facts = machine.facts();
    let mut walk = under::Walk { facts: &facts, found: Vec::new(), seen: HashSet::new(), files: Vec::new() };
    walk.node(facts.graph.by_name("dm-1").unwrap(), 0);
    let names: Vec<_> = walk.found.iter().map(|b| (b.disk.as_str(), b.node.as_str(), b.volume)).collect();
    let expected = [
        ("dm-1", "dm-1", None),
        ("dm-0", "dm-0", None),
        ("md127", "md127p1", Some(1)),
        ("sda", "sda2", Some(2)),
        ("sdb", "sdb", None),
    ];
    assert_eq!(names, expected);
}

#[test]
fn devices_that_stand_on_each_other_do_not_hang() {
    let machine = stacked();
    machine.stands_on("md127", "dm-1");
    let facts = machine.facts();
    assert!(facts.uses(&node("sda")).len() > 7);
    let mut walk = under::Walk { facts: &facts, found: Vec::new(), seen: HashSet::new(), files: Vec::new() };
    walk.node(facts.graph.by_name("dm-1").unwrap(), 0);
    assert_eq!(walk.found.len(), 5);
}

#[test]
fn identity_comes_from_udev_then_sysfs_and_of_a_partition_from_its_disk() {
    let machine = Machine::new();
    let identity = |number: (u32, u32)| {
        Identity::of_node(makedev(number.0, number.1), "/dev/x".as_ref(), 512, &machine.system())
    };
    let disk = "pci/ata1/host0/block/sda";
    let files = [
        ("device/model", "DISK 3000  \n"),
        ("device/vpd_pg80", "\0\u{0}\0\u{8}   SER1 "),
        ("ro", "0"),
        ("queue/rotational", "1\n"),
        ("removable", "0\n"),
        ("device/wwid", "naa.5000\n"),
    ];
    machine.device(disk, "8:0", &files);
    machine.device(&format!("{disk}/sda1"), "8:1", &[("partition", "1"), ("ro", "1")]);
    let found = identity((8, 1));
    assert_eq!((found.kind, found.name.as_str(), found.read_only), (DeviceKind::Partition, "sda1", true));
    assert_eq!(
        (found.model.as_deref(), found.key(), found.bus.as_deref()),
        (Some("DISK 3000"), "SER1", Some("ata"))
    );
    assert_eq!((found.rotational, found.removable), (Some(true), Some(false)));
    assert_eq!(found.wwn.as_deref(), Some("naa.5000"));
    let udev = "S:disk/by-id/x\nE:ID_SERIAL=DISK_3000_SER2\nE:ID_SERIAL_SHORT=SER2\nE:ID_BUS=usb\n";
    fs::write(machine.folder.path().join("udev/data/b8:0"), udev).unwrap();
    let found = identity((8, 0));
    assert_eq!((found.kind, found.key(), found.bus.as_deref()), (DeviceKind::Disk, "SER2", Some("usb")));
    let nvme = [("device/model", "FAST"), ("device/serial", "N1"), ("wwid", "eui.00")];
    machine.device("pci/nvme/nvme0/nvme0n1", "259:1", &nvme);
    let found = identity((259, 1));
    assert_eq!((found.name.as_str(), found.key(), found.bus.as_deref()), ("nvme0n1", "N1", Some("nvme")));
    machine.device("pci/usb1/1-2/host7/block/sdc", "8:32", &[("size", "1")]);
    let usb = machine.folder.path().join("sys/devices/pci/usb1/1-2");
    fs::write(usb.join("idVendor"), "abcd").unwrap();
    fs::write(usb.join("serial"), "U1\n").unwrap();
    let found = identity((8, 32));
    assert_eq!((found.key(), found.bus.as_deref()), ("U1", Some("usb")));
    assert_eq!(identity((99, 9)).key(), "/dev/x");
}

fn partitioned(folder: &Path) -> PathBuf {
    let path = image(folder, "disk.img", 64 << 20);
    let script = "label: gpt\nstart=2048, size=40960\nstart=43008, size=40960\n";
    run("sfdisk", "fdisk", &["-q", path.to_str().unwrap()], script);
    path
}

#[test]
fn root_mounts_of_partitions_are_found_from_disk_partition_and_file() {
    let folder = tempdir().unwrap();
    let path = partitioned(folder.path());
    let mut device = LoopDevice::new(&path, &[]);
    device.add_partitions();
    let second = format!("{}p2", device.str());
    run("mkfs.ext4", "e2fsprogs", &["-q", &second], "");
    let at = folder.path().join("a blank");
    let _mounted = Mounted::new(&["-o", "ro", &second], &at);
    let name = device.name();
    let mount = format!("{name}p2 2 ext4 at {}", at.display());
    assert_eq!(words(&uses(&device.path).unwrap()), [mount.as_str()]);
    assert_eq!(words(&uses(Path::new(&second)).unwrap()), [mount.as_str()]);
    assert_eq!(words(&uses(Path::new(&format!("{}p1", device.str()))).unwrap()), [""; 0]);
    let of_file = uses(&path).unwrap();
    assert_eq!(words(&of_file), [format!("disk.img - loop {name}"), mount]);
    assert!(matches!(of_file[1].what, UseKind::Mounted { read_only: true, .. }));

    let backing = backing_devices(&at).unwrap();
    assert_eq!((backing[0].disk.as_str(), backing[0].volume), (name.as_str(), Some(2)));
    assert_eq!(backing[0].file.as_deref(), Some(path.as_path()));
    assert_eq!(backing[1..], backing_devices(folder.path()).unwrap());
    assert!(!is_root_disk(&device.path).unwrap());
    assert!(!is_root_disk(&path).unwrap());

    let all = list().unwrap();
    let ours = all.iter().find(|disk| disk.identity.name == name).unwrap();
    assert_eq!(ours.uses.len(), 1);
    assert_eq!(ours.layout.volumes[1].content.as_ref().unwrap().kind, "ext4");
    assert_eq!(ours.nodes.iter().map(|node| node.volume).collect::<Vec<_>>(), [1, 2]);
    for (node, volume) in ours.nodes.iter().zip(&ours.layout.volumes) {
        assert_eq!(node.extent, volume.extent);
    }
    assert!(all.iter().all(|disk| !disk.identity.name.starts_with("zram")));
    serde_json::to_string(&all).unwrap();
}

#[test]
fn root_mounts_through_loop_devices_at_an_offset_are_found() {
    let folder = tempdir().unwrap();
    let path = partitioned(folder.path());
    let device = LoopDevice::new(&path, &[]);
    let part = ["-o", "22020096", "--sizelimit", "20971520"];
    let over_file = LoopDevice::new(&path, &part);
    run("mkfs.ext4", "e2fsprogs", &["-q", over_file.str()], "");
    let at = folder.path().join("at");
    let mounted = Mounted::new(&[over_file.str()], &at);
    let found = words(&uses(&path).unwrap());
    let mount = format!("{} - ext4 at {}", over_file.name(), at.display());
    assert!(found.contains(&mount), "{found:?}");
    assert_eq!(found.len(), 3);
    drop(mounted);
    drop(over_file);
    let over_disk = LoopDevice::new(&device.path, &part);
    let _mounted = Mounted::new(&[over_disk.str()], &at);
    let found = words(&uses(&device.path).unwrap());
    let holder = format!("{} - loop {}", device.name(), over_disk.name());
    let mount = format!("{} - ext4 at {}", over_disk.name(), at.display());
    assert_eq!(found, [holder, mount]);
    let disks: Vec<String> = backing_devices(&at).unwrap().into_iter().map(|backing| backing.disk).collect();
    assert_eq!(disks[..2], [over_disk.name(), device.name()]);
}

#[test]
fn root_all_devices_of_a_btrfs_are_in_use() {
    let folder = tempdir().unwrap();
    let images = ["a", "b"].map(|name| image(folder.path(), name, 256 << 20));
    let devices = images.each_ref().map(|path| LoopDevice::new(path, &[]));
    run("mkfs.btrfs", "btrfs-progs", &["-q", "-f", "-d", "raid1", devices[0].str(), devices[1].str()], "");
    run("btrfs", "btrfs-progs", &["device", "scan", devices[0].str(), devices[1].str()], "");
    let at = folder.path().join("at");
    let mounted = Mounted::new(&[devices[1].str()], &at);
    for device in &devices {
        let found = words(&uses(&device.path).unwrap());
        assert_eq!(found, [format!("{} - btrfs at {}", device.name(), at.display())]);
    }
    let below = backing_devices(&at).unwrap();
    for device in &devices {
        assert!(below.iter().any(|backing| backing.disk == device.name()));
    }
    drop(mounted);
    run("btrfs", "btrfs-progs", &["device", "scan", "-u", devices[0].str(), devices[1].str()], "");
}

/// The root disk itself is not opened: not every machine that runs tests lets them.
#[test]
fn root_the_root_disk_is_known() {
    let below = backing_devices(Path::new("/")).unwrap();
    for backing in &below {
        let path = Path::new("/dev").join(&backing.node);
        assert!(is_root_disk(&path).unwrap());
        assert!(!uses(&path).unwrap().is_empty());
        assert!(list().unwrap().iter().any(|disk| disk.identity.name == backing.disk && disk.is_root));
    }
    assert!(matches!(uses(Path::new("/dev/null")), Err(Error::NotADevice { .. })));
    assert!(matches!(uses(Path::new("/none")), Err(Error::Open { .. })));
}

#[test]
fn root_swap_space_is_in_use() {
    let folder = tempdir().unwrap();
    let device = LoopDevice::new(&image(folder.path(), "swap", 8 << 20), &[]);
    run("mkswap", "util-linux", &[device.str()], "");
    run("swapon", "mount", &[device.str()], "");
    let found = uses(&device.path);
    run("swapoff", "mount", &[device.str()], "");
    assert_eq!(words(&found.unwrap()), [format!("{} - swap", device.name())]);
}

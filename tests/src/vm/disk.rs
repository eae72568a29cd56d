//! Disks that start, of several shapes, and what their own tools say of them afterwards.
//!
//! Promise: built without a running system on them, in seconds; every shape has something behind its root that must move when the
//! root does. Checkers, not `cas`, say whether a filesystem is sound.

use super::parts::{self, Names};
use crate::{Loop, Mount, run, sh};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// Size of the files of noise that a disk with data has.
const DATA_FILE_MIB: u64 = 16;
/// The first sector's room for code, before the disk's signature: GRUB include/grub/i386/pc/boot.h.
const BOOT_CODE: usize = 440;
/// In the first sector: where the core image begins, and the drive it is on (0xff: the one that the firmware started).
const KERNEL_SECTOR: usize = 0x5c;
const BOOT_DRIVE: usize = 0x64;
/// Two bytes that GRUB's own installer makes "do nothing", so that the firmware's drive number counts.
const DRIVE_CHECK: usize = 0x66;
/// In the core image's first sector: its list of blocks; the last 12 bytes are the first entry.
const BLOCK_LIST: usize = 0x1f4;
/// Where the rest of the core image goes in memory, in paragraphs.
const CORE_SEGMENT: u16 = 0x820;

/// How a disk is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// GPT: EFI system partition, root, and behind it GRUB's core image, swap and a recovery partition. Starts both ways.
    Gpt,
    /// The same with the partitions in the order in which Debian's installer makes them: the core image first.
    GptCoreFirst,
    /// MBR: GRUB before the first partition, root, swap as a logical partition. Starts by BIOS.
    Mbr,
}

/// The root's filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Filled by mke2fs.
    Ext4,
    /// Filled by mkfs.btrfs.
    Btrfs,
    /// Filled by the kernel.
    Xfs,
}

impl Root {
    /// As `mount -t` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Root::Ext4 => "ext4",
            Root::Btrfs => "btrfs",
            Root::Xfs => "xfs",
        }
    }
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The layout.
    pub shape: Shape,
    /// What the root is.
    pub root: Root,
    /// The size of the disk.
    pub mib: u64,
    /// Noise on the root beside the system.
    pub data_mib: u64,
    /// Whether the EFI system partition has the fallback loader, which firmware that knows nothing of this disk looks for.
    pub fallback: bool,
}

/// A disk that starts.
#[derive(Debug)]
pub struct Bootable {
    /// The file it is.
    pub file: PathBuf,
    /// What it was made as.
    pub wanted: Wanted,
    /// The identities that its own files name.
    pub names: Names,
}

/// A partition as `sfdisk` says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its type.
    pub kind: String,
    /// Its own identity, where the table has such.
    pub uuid: Option<String>,
}

impl Shape {
    /// For sfdisk; the root's number; the name that GRUB has for the root's partition.
    fn script(self, mib: u64) -> (String, u32, &'static str) {
        const ESP: &str = "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"EFI System Partition\"";
        const CORE: &str = "type=21686148-6449-6E6F-744E-656564454649, name=core";
        const ROOT: &str = "type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root";
        const SWAP: &str = "type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name=swap";
        const RECOVERY: &str =
            "type=DE94BBA4-06D1-4D40-A16A-BFD50179D6AC, name=Recovery, attrs=\"RequiredPartition GUID:63\"";
        match self {
            Shape::Gpt => {
                let root = mib - 1 - 64 - 1 - 32 - 40 - 1;
                let text = format!(
                    "label: gpt\nstart=1MiB, size=64MiB, {ESP}\nsize={root}MiB, {ROOT}\nsize=1MiB, {CORE}\n\
                     size=32MiB, {SWAP}\nsize=40MiB, {RECOVERY}\n"
                );
                (text, 2, "gpt2")
            }
            Shape::GptCoreFirst => {
                let root = mib - 1 - 1 - 64 - 32 - 40 - 1;
                let text = format!(
                    "label: gpt\nstart=1MiB, size=1MiB, {CORE}\nsize=64MiB, {ESP}\nsize={root}MiB, {ROOT}\n\
                     size=32MiB, {SWAP}\nsize=40MiB, {RECOVERY}\n"
                );
                (text, 3, "gpt3")
            }
            Shape::Mbr => {
                let root = mib - 1 - 34;
                let text = format!(
                    "label: dos\n1: start=1MiB, size={root}MiB, type=83, bootable\n2: type=5\n5: type=82\n"
                );
                (text, 1, "msdos1")
            }
        }
    }
}

impl Bootable {
    /// Makes one in `folder`.
    pub fn new(folder: &Path, wanted: Wanted) -> Bootable {
        let disk = Bootable { file: folder.join("source.img"), wanted, names: names(wanted.shape) };
        File::create(&disk.file).unwrap().set_len(wanted.mib * MIB).unwrap();
        let (script, root, grub) = wanted.shape.script(wanted.mib);
        let script_file = folder.join("sfdisk");
        fs::write(&script_file, script).unwrap();
        sh(&format!("sfdisk -q '{}' <'{}'", disk.file.display(), script_file.display()));
        for part in parts(&disk.file) {
            match part.kind.as_str() {
                _ if part.number == root => disk.make_root(&part, folder),
                "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => disk.make_esp(&part, folder),
                "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" | "82" => disk.make_swap(&part),
                "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC" => disk.make_recovery(&part),
                _ => {}
            }
        }
        disk.install_grub(folder, grub);
        disk
    }

    /// The firmwares that start it.
    pub fn firmwares(&self) -> &'static [super::Firmware] {
        match self.wanted.shape {
            Shape::Gpt | Shape::GptCoreFirst => &[super::Firmware::Bios, super::Firmware::Uefi],
            Shape::Mbr => &[super::Firmware::Bios],
        }
    }

    /// The root's partition, on this disk or on what became of it.
    #[track_caller]
    pub fn root_of(&self, disk: &Path) -> Part {
        let (_, number, _) = self.wanted.shape.script(self.wanted.mib);
        parts(disk).into_iter().find(|part| part.number == number).unwrap()
    }

    fn make_root(&self, part: &Part, folder: &Path) {
        let (tree, kind) = (folder.join("root"), self.wanted.root);
        parts::root_tree(&tree, kind.name(), &self.names);
        let device = self.volume(part);
        let (uuid, tree_text) = (self.names.root.as_str(), tree.to_str().unwrap());
        match kind {
            Root::Ext4 => {
                run("mkfs.ext4", &["-q", "-F", "-U", uuid, "-L", "root", "-d", tree_text, device.text()]);
            }
            Root::Btrfs => {
                run("mkfs.btrfs", &["-q", "-f", "-U", uuid, "-L", "root", "-r", tree_text, device.text()]);
            }
            Root::Xfs => {
                run("mkfs.xfs", &["-q", "-f", "-m", &format!("uuid={uuid}"), "-L", "root", device.text()]);
                let mount = Mount::new(device.node(), &folder.join("mount"), &[]);
                run("cp", &["-a", &format!("{tree_text}/."), mount.folder().to_str().unwrap()]);
            }
        }
        fs::remove_dir_all(&tree).unwrap();
        if self.wanted.data_mib > 0 {
            let mount = Mount::new(device.node(), &folder.join("mount"), &[]);
            write_data(&mount.folder().join("srv"), self.wanted.data_mib);
        }
    }

    fn make_esp(&self, part: &Part, folder: &Path) {
        let tree = folder.join("esp");
        parts::esp_tree(&tree, &self.names, self.wanted.fallback);
        let serial = self.names.esp.as_ref().unwrap().replace('-', "");
        self.make_fat(part, "32", &serial, "ESP");
        let device = self.volume(part);
        run("mcopy", &["-s", "-i", device.text(), tree.join("EFI").to_str().unwrap(), "::/"]);
    }

    fn make_recovery(&self, part: &Part) {
        self.make_fat(part, "16", "0badcafe", "RECOVERY");
        let device = self.volume(part);
        run("mcopy", &["-i", device.text(), "/proc/version", "::/VERSION"]);
    }

    fn make_fat(&self, part: &Part, bits: &str, serial: &str, label: &str) {
        // On a partition, mkfs.vfat finds out by itself where it begins.
        let hidden = (part.start / SECTOR).to_string();
        run("mkfs.vfat", &["-F", bits, "-h", &hidden, "-i", serial, "-n", label, self.volume(part).text()]);
    }

    fn make_swap(&self, part: &Part) {
        run("mkswap", &["-q", "-U", &self.names.swap, self.volume(part).text()]);
    }

    /// A device over one partition, with this disk's kernel or without.
    fn volume(&self, part: &Part) -> Loop {
        volume(&self.file, part)
    }

    /// What `grub-install` does for BIOS; it can't be run, as it wants to find the disk that this system has started from.
    fn install_grub(&self, folder: &Path, partition: &str) {
        let core_part = parts(&self.file).into_iter().find(|part| part.kind.starts_with("21686148"));
        let lba = core_part.map_or(1, |part| part.start / SECTOR);
        let mut core = parts::core_image(folder, partition);
        let sectors = u16::try_from(core.len().div_ceil(512) - 1).unwrap();
        assert!(u64::from(sectors) + 1 < MIB / SECTOR, "the core image does not fit");
        core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(lba + 1).to_le_bytes());
        core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&sectors.to_le_bytes());
        core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&CORE_SEGMENT.to_le_bytes());
        let file = File::options().read(true).write(true).open(&self.file).unwrap();
        let mut first = parts::boot_sector();
        first[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&lba.to_le_bytes());
        first[BOOT_DRIVE] = 0xff;
        first[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
        file.write_all_at(&first[..BOOT_CODE], 0).unwrap();
        file.write_all_at(&core, lba * SECTOR).unwrap();
    }
}

/// Files of noise, this much.
fn write_data(folder: &Path, mib: u64) {
    for index in 0..mib.div_ceil(DATA_FILE_MIB) {
        let bytes = crate::disks::noise(5000 + index, usize::try_from(DATA_FILE_MIB * MIB).unwrap());
        fs::write(folder.join(format!("data-{index}")), bytes).unwrap();
    }
}

/// Not the same twice: two disks in one machine must not be mistaken for each other.
fn names(shape: Shape) -> Names {
    let uuid = || fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
    let serial = uuid().to_uppercase();
    let esp = (shape != Shape::Mbr).then(|| format!("{}-{}", &serial[0..4], &serial[4..8]));
    Names { root: uuid(), esp, swap: uuid() }
}

/// A device over one partition of a disk in a file.
pub fn volume(file: &Path, part: &Part) -> Loop {
    Loop::new(file, &["--offset", &part.start.to_string(), "--sizelimit", &part.bytes.to_string()])
}

/// What sfdisk says of the disk in a file.
fn table(file: &Path) -> serde_json::Value {
    let text = run("sfdisk", &["--json", file.to_str().unwrap()]);
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["partitiontable"].take()
}

/// The identity of the table itself.
pub fn table_id(file: &Path) -> String {
    table(file)["id"].as_str().unwrap().to_owned()
}

/// The partitions of a disk in a file, in the order of its table.
pub fn parts(file: &Path) -> Vec<Part> {
    let path = file.to_str().unwrap();
    let bytes = |value: &serde_json::Value| value.as_u64().unwrap() * SECTOR;
    let part = |part: &serde_json::Value| Part {
        number: part["node"].as_str().unwrap()[path.len()..].trim_start_matches('p').parse().unwrap(),
        start: bytes(&part["start"]),
        bytes: bytes(&part["size"]),
        kind: part["type"].as_str().unwrap().to_owned(),
        uuid: part["uuid"].as_str().map(str::to_owned),
    };
    table(file)["partitions"].as_array().unwrap().iter().map(part).collect()
}

/// The identity and kind of each partition's filesystem, as `blkid` sees them: (number, kind, `UUID=` form).
pub fn identities(file: &Path) -> Vec<(u32, String, String)> {
    let mut found = Vec::new();
    for part in parts(file) {
        let device = volume(file, &part);
        let script = format!("blkid -p -o value -s TYPE -s UUID '{}' || true", device.text());
        let said = sh(&script);
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        // blkid prints UUID before TYPE.
        if let (Some(kind), Some(uuid)) = (lines.pop(), lines.pop()) {
            found.push((part.number, kind, uuid));
        }
    }
    found
}

/// Table and filesystems are sound by their own tools, which change nothing.
#[track_caller]
pub fn check(file: &Path) {
    let table = sh(&format!("sfdisk --verify '{}' 2>&1", file.display()));
    assert!(table.contains("No errors detected"), "{table}");
    for part in parts(file) {
        let device = volume(file, &part);
        let node = device.text();
        let kind = sh(&format!("blkid -p -o value -s TYPE '{node}' || true"));
        match kind.trim() {
            "ext4" => drop(run("e2fsck", &["-fn", node])),
            "btrfs" => drop(run("btrfs", &["check", "--force", "--check-data-csum", node])),
            "xfs" => drop(run("xfs_repair", &["-n", node])),
            "vfat" => {
                run("fsck.vfat", &["-n", node]);
                let mut hidden = [0; 4];
                File::open(file).unwrap().read_exact_at(&mut hidden, part.start + 0x1c).unwrap();
                let hidden = u64::from(u32::from_le_bytes(hidden));
                assert_eq!(hidden, part.start / SECTOR, "partition {}: sectors before it", part.number);
            }
            _ => {}
        }
    }
}

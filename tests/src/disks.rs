//! Disks as people have them: partition tables and filesystems made, filled and judged by their own tools.
//!
//! Promise: what is written and where is the same on every run of one machine; a filesystem's own checker has the last
//! word on it. Knows nothing of `cas`.

use crate::{Loop, Mount, run};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Comparing goes by pieces of this size.
const PIECE: usize = 1 << 20;

/// A filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// FAT, filled by mtools: few kernels of test machines know it.
    Fat,
    /// Ext4.
    Ext4,
    /// XFS, from 300 MiB.
    Xfs,
    /// Btrfs, from 110 MiB.
    Btrfs,
    /// NTFS, filled by the tools of ntfs-3g.
    Ntfs,
}

impl Kind {
    /// Makes one.
    pub fn make(self, node: &Path) {
        let node = node.to_str().unwrap();
        match self {
            Kind::Fat => run("mkfs.vfat", &[node]),
            Kind::Ext4 => run("mkfs.ext4", &["-q", "-F", node]),
            Kind::Xfs => run("mkfs.xfs", &["-q", "-f", node]),
            Kind::Btrfs => run("mkfs.btrfs", &["-q", "-f", node]),
            Kind::Ntfs => run("mkntfs", &["-q", "-F", "-f", node]),
        };
    }

    /// Puts about this many bytes of real files on it, others for each `part`; those of the same names change.
    pub fn fill(self, node: &Path, mount_at: &Path, part: usize, bytes: u64) {
        let files = real_files(part, bytes);
        let text = node.to_str().unwrap();
        let source = |file: &PathBuf| file.to_str().unwrap().to_owned();
        match self {
            Kind::Fat => {
                let mut words = vec!["-o".to_owned(), "-i".to_owned(), text.to_owned()];
                words.extend(files.iter().map(source));
                words.push("::/".to_owned());
                run("mcopy", &words.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Kind::Ntfs => files.iter().for_each(|file| {
                let name = format!("/{}", file.file_name().unwrap().to_str().unwrap());
                run("ntfscp", &["-q", "-f", text, &source(file), &name]);
            }),
            Kind::Ext4 | Kind::Xfs | Kind::Btrfs => {
                let mount = Mount::new(node, mount_at, &[]);
                for file in &files {
                    fs::copy(file, mount.folder().join(file.file_name().unwrap())).unwrap();
                }
            }
        }
    }

    /// Takes files away, and changes one in place: what a mounted filesystem sees from day to day.
    pub fn thin_out(self, node: &Path, mount_at: &Path) {
        if !matches!(self, Kind::Ext4 | Kind::Xfs | Kind::Btrfs) {
            return;
        }
        let mount = Mount::new(node, mount_at, &[]);
        let names = fs::read_dir(mount.folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = names.filter(|path| path.is_file()).collect();
        files.sort();
        files.iter().step_by(5).for_each(|file| fs::remove_file(file).unwrap());
        let kept = File::options().write(true).open(&files[1]).unwrap();
        kept.write_all_at(b"changed in place", 100).unwrap();
    }

    /// Both hold the same files, by a driver or tool that only reads.
    #[track_caller]
    pub fn assert_same_files(self, one: &Path, other: &Path, folder: &Path) {
        let sides = [(one, folder.join("one")), (other, folder.join("other"))];
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut mounts = Vec::new();
        for (node, at) in &sides {
            fs::create_dir_all(at).unwrap();
            match self {
                Kind::Fat => drop(run("mcopy", &["-s", "-n", "-i", &text(node), "::/", &text(at)])),
                Kind::Ntfs => {
                    run("ntfs-3g", &["-o", "ro", &text(node), &text(at)]);
                    mounts.push(Mount::taken(at));
                }
                // Without these, even a read-only mount writes to the log.
                Kind::Ext4 => mounts.push(Mount::new(node, at, &["-o", "ro,noload"])),
                Kind::Xfs => mounts.push(Mount::new(node, at, &["-o", "ro,norecovery,nouuid"])),
                Kind::Btrfs => {
                    // The kernel takes two btrfs with one UUID for one: so one after the other, by way of a copy.
                    let mount = Mount::new(node, &at.with_extension("btrfs"), &["-o", "ro"]);
                    run("cp", &["-a", &format!("{}/.", text(mount.folder())), &text(at)]);
                }
            }
        }
        run("diff", &["-r", "--no-dereference", &text(&sides[0].1), &text(&sides[1].1)]);
        drop(mounts);
        fs::remove_dir_all(folder).unwrap();
    }

    /// Its own checker, changing nothing, finds nothing wrong.
    pub fn check(self, node: &Path) {
        let node = node.to_str().unwrap();
        match self {
            Kind::Fat => run("fsck.vfat", &["-n", node]),
            Kind::Ext4 => run("e2fsck", &["-fn", node]),
            Kind::Xfs => run("xfs_repair", &["-n", node]),
            Kind::Btrfs => run("btrfs", &["check", "--force", "--check-data-csum", node]),
            Kind::Ntfs => run("ntfsfix", &["-n", node]),
        };
    }
}

/// A disk with filesystems on its partitions.
#[derive(Debug)]
pub struct Disk {
    /// The file behind it.
    pub file: PathBuf,
    /// The device.
    pub device: Loop,
    /// Which filesystem each numbered partition holds.
    pub volumes: Vec<(u32, Kind)>,
}

impl Disk {
    /// A GPT with a FAT system partition, ext4, xfs and btrfs.
    pub fn gpt(folder: &Path, sector: &str) -> Disk {
        let file = folder.join("source.img");
        let device = Loop::blank(&file, 520 << 20, &["--sector-size", sector]);
        let sizes = ["-n1:0:+34M", "-t1:ef00", "-n2:0:+48M", "-n3:0:+304M", "-n4:0:+116M"];
        run("sgdisk", &[&sizes[..], &[device.text()]].concat());
        let volumes = vec![(1, Kind::Fat), (2, Kind::Ext4), (3, Kind::Xfs), (4, Kind::Btrfs)];
        Disk { file, device, volumes }.made()
    }

    /// An MBR with a primary FAT partition, and ext4 and NTFS on logical ones.
    pub fn mbr(folder: &Path) -> Disk {
        let file = folder.join("source.img");
        let device = Loop::blank(&file, 144 << 20, &[]);
        let table = "label: dos\n1: size=32M, type=e, bootable\n2: type=5\n5: size=48M, type=83\n6: type=7\n";
        crate::sh(&format!("sfdisk -q --no-reread {} <<'TABLE'\n{table}TABLE", device.text()));
        Disk { file, device, volumes: vec![(1, Kind::Fat), (5, Kind::Ext4), (6, Kind::Ntfs)] }.made()
    }

    fn made(self) -> Disk {
        self.volumes.iter().for_each(|(number, kind)| kind.make(&self.device.partition(*number)));
        self
    }

    /// Real files on every volume.
    pub fn fill(&self, part: usize, bytes: u64) {
        let at = self.file.with_extension("mount");
        for (number, kind) in &self.volumes {
            kind.fill(&self.device.partition(*number), &at, part + *number as usize, bytes);
        }
    }

    /// A day's work: some files go, one changes, others come.
    pub fn change(&self, part: usize, bytes: u64) {
        let at = self.file.with_extension("mount");
        for (number, kind) in &self.volumes {
            kind.thin_out(&self.device.partition(*number), &at);
        }
        self.fill(part, bytes);
    }

    /// A copy of it as it is now.
    pub fn saved(&self, name: &str) -> PathBuf {
        let copy = self.file.with_file_name(name);
        run("cp", &["--sparse=always", self.file.to_str().unwrap(), copy.to_str().unwrap()]);
        copy
    }

    /// Every filesystem of it, found on another device, holds the same files.
    #[track_caller]
    pub fn assert_same_files(&self, device: &Loop, folder: &Path) {
        for (number, kind) in &self.volumes {
            kind.assert_same_files(&self.device.partition(*number), &device.partition(*number), folder);
        }
    }

    /// Every filesystem of it, found on another device, passes its own checker.
    pub fn check_on(&self, device: &Loop) {
        self.volumes.iter().for_each(|(number, kind)| kind.check(&device.partition(*number)));
    }
}

/// Programs and documents of this machine, about so many bytes of them, and others for each `part`.
pub fn real_files(part: usize, bytes: u64) -> Vec<PathBuf> {
    let programs = fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap().path());
    let is_fit = |path: &PathBuf| {
        let metadata = fs::symlink_metadata(path).unwrap();
        metadata.is_file() && (1..1 << 20).contains(&metadata.len())
    };
    let mut files: Vec<PathBuf> = programs.filter(is_fit).collect();
    files.sort();
    let mut left = bytes;
    let from = part * 37 % files.len();
    let in_turn = files.iter().cycle().skip(from).take(files.len());
    let enough = |file: &&PathBuf| {
        let more = left > 0;
        left = left.saturating_sub(fs::metadata(file).unwrap().len());
        more
    };
    in_turn.take_while(enough).cloned().collect()
}

/// Bytes that no compression and no deduplication makes smaller, the same for the same seed (xorshift64*).
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        noise.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Where two files differ: offsets of their 512-byte sectors, in the first `bytes`.
pub fn differences(one: &Path, other: &Path, bytes: u64) -> Vec<u64> {
    let (one, other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
    let mut found = Vec::new();
    for offset in (0..bytes).step_by(PIECE) {
        let piece = PIECE.min(usize::try_from(bytes - offset).unwrap());
        one.read_exact_at(&mut ours[..piece], offset).unwrap();
        other.read_exact_at(&mut theirs[..piece], offset).unwrap();
        if ours[..piece] != theirs[..piece] {
            let sectors =
                ours[..piece].chunks(512).zip(theirs[..piece].chunks(512)).zip((offset..).step_by(512));
            found.extend(sectors.filter(|((a, b), _)| a != b).map(|(_, at)| at));
        }
    }
    found
}

/// Two files have the same size and bytes.
#[track_caller]
pub fn assert_same(one: &Path, other: &Path) {
    let bytes = |path| fs::metadata(path).map(|metadata| metadata.len()).unwrap();
    assert_eq!(bytes(one), bytes(other), "{} and {}", one.display(), other.display());
    let found = differences(one, other, bytes(one));
    let first = &found[..found.len().min(20)];
    assert!(
        found.is_empty(),
        "{} and {} differ in {} sectors: {first:x?}",
        one.display(),
        other.display(),
        found.len()
    );
}

/// Bytes of all files under a folder.
pub fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |path: PathBuf| {
        if path.is_dir() { folder_bytes(&path) } else { fs::metadata(path).map_or(0, |it| it.len()) }
    };
    entries.map(|entry| of(entry.path())).sum()
}

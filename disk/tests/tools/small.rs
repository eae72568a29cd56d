//! FAT, exFAT, F2FS, swap, LVM2: those with one tool, or none.
//!
//! Promise: what each tool can be asked works, and what it cannot is said before anything is touched.
//! Knows nothing of files but that they stay the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use disk::tools::{CannotChange, Change, check, grow, new_identity, programs, shrink};

use crate::cycle::{UUID, UUID_TEXT, assert_detached, assert_tools, blkid, grow_and_look, identity};
use crate::files::hashes;
use crate::testing::{LoopDevice, image, run};
use crate::tools::Noise;

#[test]
fn fat_of_all_widths_gets_a_serial() {
    assert_tools("vfat", Change::Check);
    for (width, mib) in [("12", 4), ("16", 40), ("32", 80)] {
        let folder = tempfile::tempdir().unwrap();
        let path = image(folder.path(), "fat.img", mib << 20);
        run("mkfs.fat", "dosfstools", &["-F", width, path.to_str().unwrap()], "");
        let content = folder.path().join("content");
        std::fs::write(&content, Noise::new(1).bytes(1 << 20)).unwrap();
        let (file, content) = (path.to_str().unwrap(), content.to_str().unwrap());
        run("mcopy", "mtools", &["-i", file, content, "::/content"], "");
        identity("vfat", width, &path, folder.path());
        assert_eq!(blkid(&path), "4D3C-2B1A");
        check("vfat", &path).unwrap();
        let back = folder.path().join("back");
        run("mcopy", "mtools", &["-i", file, "::/content", back.to_str().unwrap()], "");
        assert_eq!(std::fs::read(content).unwrap(), std::fs::read(back).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        assert!(width != "32" || bytes[..512] == bytes[6 * 512..7 * 512], "backup boot sector");
        let error = shrink("vfat", &path, 1 << 20, folder.path()).unwrap_err();
        assert_eq!(error.to_string(), CannotChange::FatSize.to_string());
    }
}

#[test]
fn exfat_gets_a_serial() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "exfat.img", 64 << 20);
    run("mkfs.exfat", "exfatprogs", &[path.to_str().unwrap()], "");
    identity("exfat", "exfat", &path, folder.path());
    assert_eq!(blkid(&path), "4D3C-2B1A");
    check("exfat", &path).unwrap();
}

/// What `dump.f2fs` puts in the folder it runs in.
fn f2fs_files(folder: &Path, image: &Path) -> Vec<(String, u64)> {
    for inode in 4..40 {
        let mut child = Command::new("dump.f2fs")
            .args(["-i", &format!("{inode:#x}")])
            .arg(image)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"y\n").ok();
        child.wait().unwrap();
    }
    let dumped = folder.join("lost_found");
    let found = hashes(&dumped);
    std::fs::remove_dir_all(dumped).unwrap();
    found
}

#[test]
fn f2fs_grows() {
    assert_tools("f2fs", Change::Grow);
    let folder = tempfile::tempdir().unwrap();
    for (options, mib) in [(&[][..], 120), (&["-O", "extra_attr,inode_checksum,sb_checksum"], 300)] {
        let path = image(folder.path(), "f2fs.img", mib << 20);
        let from = folder.path().join("from");
        crate::cycle::fill(&from, 30 << 20, mib);
        let name = path.to_str().unwrap();
        run("mkfs.f2fs", "f2fs-tools", &[&["-q", "-f"], options, &[name]].concat(), "");
        run("sload.f2fs", "f2fs-tools", &["-f", from.to_str().unwrap(), name], "");
        let before = f2fs_files(folder.path(), &path);
        assert!(before.len() > 5, "{before:?}");
        grow_and_look("f2fs", "f2fs", &path, 3 * (mib << 20), folder.path());
        check("f2fs", &path).unwrap();
        assert_eq!(f2fs_files(folder.path(), &path), before);
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_dir_all(&from).unwrap();
    }
}

#[test]
fn swap_grows_as_mkswap_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    for page in ["4096", "65536"] {
        let make = |name: &str, mib: u64| -> PathBuf {
            let path = image(folder.path(), name, mib << 20);
            let args = ["-q", "-p", page, "-U", UUID_TEXT, "-L", "label", path.to_str().unwrap()];
            run("mkswap", "util-linux", &args, "");
            path
        };
        let (ours, theirs) = (make("ours", 10), make("theirs", 40));
        let old = "00000000-1111-2222-3333-444444444444";
        run("swaplabel", "util-linux", &["-U", old, ours.to_str().unwrap()], "");
        grow_and_look("swap", "swap", &ours, 40 << 20, folder.path());
        let changes = new_identity("swap", &ours, folder.path(), UUID).unwrap();
        assert_eq!((changes[0].old.as_str(), changes[0].new.as_str()), (old, UUID_TEXT));
        assert!(std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap(), "not as mkswap makes it");
        check("swap", &ours).unwrap();
        assert!(grow("swap", &ours, 5 << 20, folder.path()).is_err());
    }
}

/// lvm2 on one device, as far as it goes without device-mapper.
fn lvm(tool: &str, device: &LoopDevice, args: &[&str]) -> String {
    let filter = format!(r#"["a|^{}$|","r|.*|"]"#, device.str());
    let config = format!(
        "devices{{filter={filter} global_filter={filter} use_devicesfile=0}} backup{{backup=0 archive=0}} \
         activation{{udev_sync=0 udev_rules=0 monitoring=0}}"
    );
    run(tool, "lvm2", &[&["--driverloaded", "n", "--config", &config], args].concat(), "")
}

#[test]
fn root_lvm_grows_and_gets_other_identities() {
    let folder = tempfile::tempdir().unwrap();
    let path = image(folder.path(), "lvm.img", 200 << 20);
    {
        let device = LoopDevice::new(&path, &[]);
        lvm("pvcreate", &device, &[device.str()]);
        lvm("vgcreate", &device, &["group", device.str()]);
        lvm("lvcreate", &device, &["-an", "-Zn", "-Wn", "-n", "volume", "-L", "120M", "group"]);
    }
    for change in [Change::Grow, Change::NewIdentity, Change::Check] {
        assert_tools("LVM2_member", change);
    }
    grow_and_look("LVM2_member", "lvm", &path, 600 << 20, folder.path());
    let old = blkid(&path);
    let changes = new_identity("LVM2_member", &path, folder.path(), UUID).unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!((&changes[0].old, &changes[0].new), (&old, &blkid(&path)));
    check("LVM2_member", &path).unwrap();
    assert_detached(&path);
    let device = LoopDevice::new(&path, &[]);
    let fields = "vg_uuid,vg_size,lv_size,lv_name";
    let args = ["--noheadings", "--nosuffix", "--units", "m", "-o", fields, "group"];
    let text = lvm("lvs", &device, &args);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, [changes[1].new.as_str(), "596.00", "120.00", "volume"]);
}

#[test]
fn what_cannot_be_done_is_said_before() {
    assert_eq!(programs("xfs", Change::Shrink), Err(CannotChange::XfsShrink));
    assert_eq!(programs("f2fs", Change::NewIdentity), Err(CannotChange::F2fsIdentity));
    assert_eq!(programs("zfs_member", Change::Grow), Err(CannotChange::UnknownKind));
    assert_eq!(programs("swap", Change::Grow), Ok(Vec::new()));
}

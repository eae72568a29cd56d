//! btrfs: compression, subvolumes, snapshots, a second copy of the same UUID.
//!
//! Promise: what `cycle` promises, for all subvolumes together.
//! Knows nothing of chunks.

use std::path::{Path, PathBuf};

use disk::tools::{ToolError, minimum};

use crate::cycle::{Files, fill, round};
use crate::files::hashes;
use crate::testing::{LoopDevice, Mounted, image, run};

const PACKAGE: &str = "btrfs-progs";

fn make(folder: &Path, options: &[&str], mount: &str, mib: u64) -> PathBuf {
    let path = image(folder, "btrfs.img", mib << 20);
    run("mkfs.btrfs", PACKAGE, &[&["-q", "-f"], options, &[path.to_str().unwrap()]].concat(), "");
    let device = LoopDevice::new(&path, &[]);
    let mounted = Mounted::new(&["-t", "btrfs", "-o", mount, device.str()], &folder.join("mnt"));
    let inside = |name: &str| mounted.0.join(name).to_str().unwrap().to_owned();
    run("btrfs", PACKAGE, &["subvolume", "create", &inside("sub")], "");
    fill(&mounted.0.join("sub"), (mib << 20) / 12, 1);
    run("btrfs", PACKAGE, &["subvolume", "snapshot", &inside("sub"), &inside("snap")], "");
    fill(&mounted.0.join("sub/more"), (mib << 20) / 12, 2);
    run("btrfs", PACKAGE, &["subvolume", "snapshot", "-r", &inside("sub"), &inside("fixed")], "");
    fill(&mounted.0, (mib << 20) / 12, 3);
    // What comes and goes leaves chunks that are far apart.
    std::fs::write(mounted.0.join("doomed"), vec![0x5a; usize::try_from(mib << 18).unwrap()]).unwrap();
    run("btrfs", PACKAGE, &["filesystem", "sync", mounted.0.to_str().unwrap()], "");
    std::fs::write(mounted.0.join("stays"), vec![0xa5; 3 << 20]).unwrap();
    std::fs::remove_file(mounted.0.join("doomed")).unwrap();
    path
}

fn files(folder: &Path, image: &Path) -> Files {
    let device = LoopDevice::new(image, &["-r"]);
    let found = {
        let mounted = Mounted::new(&["-t", "btrfs", "-o", "ro", device.str()], &folder.join("mnt"));
        hashes(&mounted.0)
    };
    run("btrfs", PACKAGE, &["device", "scan", "--forget", device.str()], "");
    found
}

#[test]
fn root_btrfs() {
    for (options, mount, mib) in
        [(&[][..], "compress-force=zstd", 900), (&["-m", "single", "--csum", "xxhash"], "noatime", 600)]
    {
        let folder = tempfile::tempdir().unwrap();
        let image = make(folder.path(), options, mount, mib);
        round("btrfs", mount, &image, &folder.path().join("scratch"), &|image| files(folder.path(), image));
    }
}

#[test]
fn root_btrfs_of_several_devices_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let images = ["a.img", "b.img"].map(|name| image(folder.path(), name, 300 << 20));
    let devices = [0, 1].map(|at| LoopDevice::new(&images[at], &[]));
    run("mkfs.btrfs", PACKAGE, &["-q", "-f", devices[0].str(), devices[1].str()], "");
    let error = minimum("btrfs", &images[0], folder.path()).unwrap_err();
    assert!(matches!(error, ToolError::Unknown { found: 2, .. }), "{error}");
    for device in &devices {
        run("btrfs", PACKAGE, &["device", "scan", "--forget", device.str()], "");
    }
}

/// A copy of a filesystem that is mounted, as when a system clones its own disk.
#[test]
fn root_btrfs_beside_its_twin() {
    let folder = tempfile::tempdir().unwrap();
    let image = make(folder.path(), &[], "noatime", 300);
    let twin = folder.path().join("twin.img");
    std::fs::copy(&image, &twin).unwrap();
    let device = LoopDevice::new(&image, &[]);
    let mounted = Mounted::new(&["-t", "btrfs", device.str()], &folder.path().join("mnt"));
    match minimum("btrfs", &twin, folder.path()) {
        Ok(bytes) => assert!(bytes >= 256 << 20),
        Err(ToolError::SameUuidMounted { uuid, .. }) => assert_eq!(uuid, crate::cycle::blkid(&twin)),
        Err(error) => panic!("{error}"),
    }
    // The one that is mounted is none the worse.
    assert!(!hashes(&mounted.0).is_empty());
}

//! XFS: grown, renamed, and made anew with everything that a file can have.
//!
//! Promise: find, getfattr, lsattr and xfs_db say the same of the old and the new one.
//! Knows nothing of how files are copied.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use disk::tools::{Change, ToolError, check, minimum, recreate_xfs};

use crate::cycle::{Files, assert_detached, assert_tools, blkid, fill, grow_and_look, identity};
use crate::files::hashes;
use crate::testing::{LoopDevice, Mounted, image, run};

const PACKAGE: &str = "xfsprogs";

fn make(folder: &Path, options: &[&str], mib: u64) -> PathBuf {
    let path = image(folder, "xfs.img", mib << 20);
    run("mkfs.xfs", PACKAGE, &[&["-q", "-f"], options, &[path.to_str().unwrap()]].concat(), "");
    path
}

/// With all that a tree can have.
fn full(folder: &Path, options: &[&str], mib: u64, seed: u64) -> PathBuf {
    let path = make(folder, options, mib);
    let device = LoopDevice::new(&path, &[]);
    let mounted = Mounted::new(&["-o", "nouuid", device.str()], &folder.join("mnt"));
    fill(&mounted.0, (mib << 20) / 8, seed);
    decorate(&mounted.0);
    path
}

fn decorate(at: &Path) {
    let odd = at.join(OsStr::from_bytes(b"odd \xff\n-name"));
    std::fs::create_dir(&odd).unwrap();
    let name = |path: &str| at.join(path).to_str().unwrap().to_owned();
    let file = odd.join(OsStr::from_bytes(&[b'x'; 255]));
    std::fs::write(&file, b"content").unwrap();
    std::fs::hard_link(&file, at.join("hard link")).unwrap();
    std::os::unix::fs::symlink("a target that is nowhere", at.join("symlink")).unwrap();
    std::os::unix::fs::symlink("y".repeat(1000), at.join("long symlink")).unwrap();
    run("mkfifo", "coreutils", &[&name("fifo")], "");
    run("mknod", "coreutils", &[&name("block"), "b", "7", "300"], "");
    run("mknod", "coreutils", &["-m", "620", &name("character"), "c", "1", "3"], "");
    drop(std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap());
    for path in ["with all", "immutable", "append"] {
        std::fs::write(at.join(path), path).unwrap();
    }
    let set = |attribute: &str, value: &str, path: &str| {
        run("setfattr", "attr", &["-h", "-n", attribute, "-v", value, &name(path)], "");
    };
    set("user.colour", "blue", "with all");
    // cp(1) leaves this one out, by libattr's list.
    set("user.Beagle.note", "kept", "with all");
    set("trusted.note", &"t".repeat(3000), "with all");
    set("trusted.note", "of a link", "symlink");
    set("trusted.note", "of a folder", "d0");
    // user:daemon:rw-, mask: linux include/uapi/linux/posix_acl_xattr.h, version 2.
    let entry = |tag: u16, permissions: u16, id: u32| {
        [tag.to_le_bytes().to_vec(), permissions.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()].concat()
    };
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 6, u32::MAX),
        entry(2, 6, 1),
        entry(4, 4, u32::MAX),
        entry(16, 6, u32::MAX),
        entry(32, 4, u32::MAX),
    ]
    .concat();
    let acl: String = acl.iter().map(|byte| format!("{byte:02x}")).collect();
    set("system.posix_acl_access", &format!("0x{acl}"), "with all");
    set("system.posix_acl_default", &format!("0x{acl}"), "d1");
    run("chown", "coreutils", &["-h", "1234:70000", &name("with all"), &name("symlink")], "");
    run("chmod", "coreutils", &["u+s,o+t", &name("with all")], "");
    run("setcap", "libcap2-bin", &["cap_net_raw+ep", &name("d0/e0/file 0")], "");
    let sparse = std::fs::File::create(at.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 3 << 30).unwrap();
    sparse.set_len(10 << 30).unwrap();
    run("touch", "coreutils", &["-h", "-d", "1999-12-31T23:59:59.123456789Z", &name("symlink")], "");
    run("touch", "coreutils", &["-d", "2037-01-01T00:00:00.5Z", &name("d2"), &name("sparse")], "");
    run("xfs_io", PACKAGE, &["-c", "chproj 42", "-c", "chattr +P", &name("d3")], "");
    run("xfs_io", PACKAGE, &["-c", "extsize 65536", &name("d4")], "");
    run("xfs_io", PACKAGE, &["-c", "chattr +i", &name("immutable")], "");
    run("xfs_io", PACKAGE, &["-r", "-c", "chattr +a", &name("append")], "");
    run("xfs_io", PACKAGE, &["-r", "-c", "chattr +i", odd.to_str().unwrap_or(&name("d4/e4"))], "");
}

fn mounted<T>(folder: &Path, image: &Path, look: impl Fn(&Path) -> T) -> T {
    let device = LoopDevice::new(image, &["-r"]);
    let mounted = Mounted::new(&["-o", "ro,nouuid,norecovery,noatime", device.str()], &folder.join("mnt"));
    look(&mounted.0)
}

fn files(folder: &Path, image: &Path) -> Files {
    mounted(folder, image, hashes)
}

/// What other programs say of every name: `find`, `getfattr`, `lsattr`.
fn listing(folder: &Path, image: &Path) -> Vec<String> {
    mounted(folder, image, |at| {
        let inside = |tool: &str, script: &str| {
            let text = run("sh", "dash", &["-c", &format!("cd '{}' && {script}", at.display())], "");
            let mut lines: Vec<String> = text.split('\0').map(|line| format!("{tool} {line}")).collect();
            lines.sort();
            lines
        };
        [
            inside("find", "find . ! -type d -printf '%p %y %m %U %G %s %n %T@ %l\\0' -o -printf '%p %m %U %G %T@\\0'"),
            inside("getfattr", "find . -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex | tr '\\n' '\\0'"),
            inside("stat", "find . -type b -o -type c -print0 | xargs -0 stat --printf '%n %t %T\\0'"),
            inside("xfs_io", "find . \\( -type f -o -type d \\) -print0 | xargs -0 -n 40 xfs_io -r -c 'lsattr' | sort | tr '\\n' '\\0'"),
            inside("lsproj", "xfs_io -r -c lsproj d3 | tr '\\n' '\\0'; xfs_io -r -c extsize d4 | tr '\\n' '\\0'"),
        ]
        .concat()
    })
}

#[test]
fn root_xfs_grows_and_gets_another_identity() {
    for change in [Change::Grow, Change::NewIdentity, Change::Check] {
        assert_tools("xfs", change);
    }
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let path = full(folder.path(), &[], 400, 1);
    let before = files(folder.path(), &path);
    grow_and_look("xfs", "xfs", &path, 1200 << 20, &scratch);
    assert_eq!(files(folder.path(), &path), before);
    identity("xfs", "xfs", &path, &scratch);
    check("xfs", &path).unwrap();
    assert_eq!(files(folder.path(), &path), before);
    assert_detached(&path);
}

#[test]
fn root_xfs_anew() {
    assert_tools("xfs", Change::Recreate);
    for (seed, options) in (1..).zip([
        &["-L", "a label"][..],
        &["-m", "rmapbt=1,bigtime=0,inobtcount=0", "-i", "size=1024,nrext64=1", "-n", "size=8192"],
        &["-b", "size=1024", "-m", "reflink=0"],
        &["-s", "size=4096", "-i", "sparse=0", "-m", "finobt=0"],
    ]) {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        let old = full(folder.path(), options, 600, seed);
        let bytes = minimum("xfs", &old, &scratch).unwrap();
        let new = image(folder.path(), "new.img", bytes + (3 << 20));
        let started = std::time::Instant::now();
        recreate_xfs(&old, &new, bytes, &scratch).unwrap_or_else(|e| panic!("{options:?}: {bytes}: {e}"));
        println!("{options:?}: 600 MiB, {} anew, {:.2} s", bytes >> 20, started.elapsed().as_secs_f32());
        crate::cycle::set_len(&new, bytes);
        assert_eq!(blkid(&old), blkid(&new));
        check("xfs", &new).unwrap();
        assert_eq!(files(folder.path(), &old), files(folder.path(), &new));
        let (old_lines, new_lines) = (listing(folder.path(), &old), listing(folder.path(), &new));
        for (old, new) in old_lines.iter().zip(&new_lines) {
            assert_eq!(old, new, "{options:?}");
        }
        assert_eq!(old_lines.len(), new_lines.len());
        let room = std::fs::metadata(&new).unwrap().blocks() * 512;
        assert!(room <= bytes);
        assert!(std::fs::read_dir(&scratch).unwrap().next().is_none());
        for path in [&old, &new] {
            assert_detached(path);
        }
        same_features(&old, &new);
    }
}

fn same_features(old: &Path, new: &Path) {
    let fields = |path: &Path| {
        let commands = ["version", "label", "sb 0", "p sectsize inodesize blocksize dirblklog"];
        let mut args = vec!["-r"];
        for command in &commands {
            args.extend(["-c", command]);
        }
        args.push(path.to_str().unwrap());
        run("xfs_db", PACKAGE, &args, "")
    };
    assert_eq!(fields(old), fields(new));
}

/// Many small files fill the smallest size to the brim.
#[test]
fn root_xfs_anew_with_many_files_and_shared_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let old = make(folder.path(), &["-m", "rmapbt=1"], 1000);
    {
        let device = LoopDevice::new(&old, &[]);
        let mounted = Mounted::new(&[device.str()], &folder.path().join("mnt"));
        for number in 0..5_000 {
            let at = mounted.0.join(format!("{}", number % 100));
            std::fs::create_dir_all(&at).unwrap();
            std::fs::write(at.join(format!("{number}")), [7; 300]).unwrap();
        }
        std::fs::write(mounted.0.join("large"), vec![1; 100 << 20]).unwrap();
        let large = mounted.0.join("large").to_str().unwrap().to_owned();
        for number in 0..3 {
            run("cp", "coreutils", &["--reflink=always", &large, &format!("{large}{number}")], "");
        }
    }
    let bytes = minimum("xfs", &old, &scratch).unwrap();
    println!("5000 small and 4 shared files: {} MiB", bytes >> 20);
    assert!((400 << 20..1000 << 20).contains(&bytes), "{bytes}");
    let new = image(folder.path(), "new.img", bytes);
    let started = std::time::Instant::now();
    recreate_xfs(&old, &new, bytes, &scratch).unwrap();
    println!("anew in {:.2} s", started.elapsed().as_secs_f32());
    assert_eq!(files(folder.path(), &old), files(folder.path(), &new));
}

#[test]
fn root_xfs_with_quotas_or_a_realtime_section_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let old = make(folder.path(), &[], 320);
    let new = image(folder.path(), "new.img", 310 << 20);
    run("xfs_db", PACKAGE, &["-x", "-c", "sb 0", "-c", "write qflags 1", old.to_str().unwrap()], "");
    let error = recreate_xfs(&old, &new, 310 << 20, folder.path()).unwrap_err();
    assert!(matches!(error, ToolError::XfsQuota), "{error}");
    // sb_rblocks
    let file = std::fs::OpenOptions::new().write(true).open(&old).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0, 0, 0, 0, 0, 0, 0, 9], 16).unwrap();
    let error = recreate_xfs(&old, &new, 310 << 20, folder.path()).unwrap_err();
    assert!(matches!(error, ToolError::Unknown { found: 9, .. }), "{error}");
}

//! Files out of images: `ls`, `cat`, `extract`, `find`, with the real binary.
//!
//! Promise: tar, unzip's library and the kernel's own view judge. Knows nothing of filesystems' insides.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::disks::noise;
use tests::{Mount, capture, cas, cas_ok, command, run, sh};

/// A tree with what Unix has.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("home/ana/deep/er")).unwrap();
    fs::write(root.join("home/ana/tesis.odt"), noise(1, 300_000)).unwrap();
    fs::write(root.join("home/ana/deep/er/Größe.txt"), "size\n").unwrap();
    fs::hard_link(root.join("home/ana/tesis.odt"), root.join("home/ana/deep/again.odt")).unwrap();
    symlink("../ana/tesis.odt", root.join("home/link")).unwrap();
    symlink("/home/ana", root.join("ana")).unwrap();
    symlink("/etc/passwd", root.join("outside")).unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 5 << 20).unwrap();
    sh(&format!(
        "cd {root}; chown 1000:1001 home/ana/tesis.odt; mknod null c 1 3; mkfifo pipe; setfattr -n user.note -v kept run.sh; touch -d '2001-02-03 04:05:06.789' home",
        root = root.display()
    ));
}

/// A disk with an ext4 and a FAT; the tree is on the first.
fn disk(folder: &Path) -> PathBuf {
    let (root, disk) = (folder.join("tree"), folder.join("disk.img"));
    fs::create_dir(&root).unwrap();
    tree(&root);
    sh(&format!(
        "truncate -s 128M {disk}; printf 'label: gpt\nstart=2048,size=131072\nstart=133120,size=65536\n' | sfdisk -q {disk}; \
         mke2fs -q -t ext4 -L root -d {root} -E offset=1048576 -F {disk} 65536k; \
         truncate -s 32M {fat}; mkfs.vfat -n STICK {fat} >/dev/null; mcopy -i {fat} {root}/run.sh ::/Run.Sh; \
         dd if={fat} of={disk} bs=512 seek=133120 conv=notrunc,sparse status=none",
        disk = disk.display(),
        root = root.display(),
        fat = folder.join("fat").display()
    ));
    disk
}

/// The names, kinds, contents and metadata of a tree, as `find` and `sha256sum` see it; folders' own sizes left out.
fn listing(root: &Path, what: &str) -> String {
    sh(&format!("cd {}; find . -mindepth 1 -not -path './lost+found' {what} | sort", root.display()))
}

const ALL: &str = r"\( -type d -printf '%P %M %U:%G %TY-%Tm-%Td %TT\n' -o -printf '%P %M %U:%G %s %n %l %TY-%Tm-%Td %TT\n' \)";

fn assert_same_tree(one: &Path, other: &Path) {
    assert_eq!(listing(one, ALL), listing(other, ALL));
    run(
        "diff",
        &[
            "-r",
            "--no-dereference",
            "-x",
            "null",
            "-x",
            "pipe",
            "-x",
            "lost+found",
            one.to_str().unwrap(),
            other.to_str().unwrap(),
        ],
    );
}

fn bytes_of(store: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = command(store).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", output.status);
    output.stdout
}

#[test]
fn root_files_come_out_of_an_image_as_they_went_in() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let store = folder.path().join("store");
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    let image = capture(&store, &disk, &[]);
    // What mke2fs made of the tree: it keeps whole seconds only.
    let kernel = folder.path().join("kernel");
    let _mounted = Mount::new(&disk, &kernel, &["-o", "ro,loop,offset=1048576,sizelimit=67108864"]);
    let root = kernel;
    listed(&store, &image);
    read(&store, &root);
    into_a_folder(&store, folder.path(), &root);
    into_archives(&store, folder.path(), &root);
    as_nobody(&store, folder.path());
    refused(&store, folder.path());
}

fn listed(store: &Path, image: &str) {
    let volumes = cas_ok(store, &["ls", image]);
    assert!(volumes.contains("ext4  root") && volumes.contains("vfat  STICK"), "{volumes}");
    assert_eq!(cas_ok(store, &["ls", "latest:2"]), "Run.Sh\n");
    let ana = cas_ok(store, &["ls", "latest:1:/ana/", "-R"]);
    assert_eq!(ana, "deep\ndeep/again.odt\ndeep/er\ndeep/er/Größe.txt\ntesis.odt\n");
    let long = cas_ok(store, &["ls", "-l", "latest:1:/"]);
    assert!(
        long.contains("-rwsr-xr-x") && long.contains("outside -> /etc/passwd") && long.contains("1, 3"),
        "{long}"
    );
    let found = cas_ok(store, &["find", "*.ODT"]);
    assert_eq!(found.lines().count(), 2, "{found}");
    assert!(found.contains(":1:/home/ana/tesis.odt  300000  "), "{found}");
    let found = cas_ok(store, &["find", "run.sh", "--all-images", "--json"]);
    assert_eq!(found.matches("\"message_type\":\"file\"").count(), 2, "{found}");
}

fn read(store: &Path, root: &Path) {
    let expected = fs::read(root.join("home/ana/tesis.odt")).unwrap();
    // Links are followed within the volume: this one begins at its root, not at ours.
    for path in [
        "latest:1:/home/ana/tesis.odt",
        "latest:1:/ana/tesis.odt",
        "latest:1:/home/link",
        "latest:1:/../home/./link",
    ] {
        assert!(bytes_of(store, &["cat", path]) == expected, "{path}");
    }
    assert_eq!(bytes_of(store, &["cat", "latest:2:/RUN.SH"]), b"#!/bin/sh\n");
    for (place, code) in [
        ("latest:1:/outside", 1),
        ("latest:1:/home", 1),
        ("latest:9:/x", 2),
        ("latest:1", 2),
        ("latest:1:x", 2),
    ] {
        let ran = cas(store, &["cat", place]);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{place}: {}", ran.stderr);
    }
}

fn into_a_folder(store: &Path, folder: &Path, root: &Path) {
    let to = folder.join("all");
    cas_ok(store, &["extract", "latest:1", "-C", to.to_str().unwrap(), "--quiet"]);
    assert_same_tree(root, &to);
    assert!(fs::metadata(to.join("sparse")).unwrap().blocks() < 100);
    assert!(
        sh(&format!("getfattr --only-values -n user.note {}", to.join("run.sh").display())).contains("kept")
    );
    // Again: nothing is overwritten, and that is said.
    let again = cas(store, &["extract", "latest:1:/run.sh", "-C", to.to_str().unwrap()]);
    assert_eq!(again.code, 3, "{}", again.stderr);
    assert!(again.stderr.contains("/run.sh: exists already: not extracted"), "{}", again.stderr);
    let some = folder.join("some");
    cas_ok(store, &["extract", "latest:1:/ana/deep", "latest:1:/run.sh", "-C", some.to_str().unwrap(), "-q"]);
    assert_eq!(
        listing(&some, "-printf '%P\\n'"),
        "deep\ndeep/again.odt\ndeep/er\ndeep/er/Größe.txt\nrun.sh\n"
    );
}

fn into_archives(store: &Path, folder: &Path, root: &Path) {
    let (tar, zip) = (folder.join("all.tar"), folder.join("all.zip"));
    fs::write(&tar, bytes_of(store, &["extract", "latest:1", "--tar"])).unwrap();
    let to = folder.join("untarred");
    fs::create_dir(&to).unwrap();
    sh(&format!("tar -x --xattrs --numeric-owner -f {} -C {}", tar.display(), to.display()));
    assert_same_tree(root, &to);
    assert!(
        sh(&format!("getfattr --only-values -n user.note {}", to.join("run.sh").display())).contains("kept")
    );
    let ran = command(store).args(["extract", "latest:1:/home", "--zip"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    fs::write(&zip, ran.stdout).unwrap();
    let listed = run(
        "python3",
        &[
            "-c",
            "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; print(sorted(z.namelist()))",
            zip.to_str().unwrap(),
        ],
    );
    assert_eq!(
        listed.trim(),
        "['home/', 'home/ana/', 'home/ana/deep/', 'home/ana/deep/again.odt', 'home/ana/deep/er/', \
        'home/ana/deep/er/Größe.txt', 'home/ana/tesis.odt', 'home/link']"
    );
}

/// Somebody who can only read the store.
fn as_nobody(store: &Path, folder: &Path) {
    sh(&format!("chmod -R a+rX {} {}; chmod a+rx {}", store.display(), folder.display(), folder.display()));
    let to = folder.join("nobody's");
    fs::create_dir(&to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o777)).unwrap();
    let cas = folder.join("cas");
    fs::copy(tests::cas_path(), &cas).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&cas);
    command.env("CAS_STORE", store).env("NO_COLOR", "1").env("HOME", "/nonexistent");
    let ran = tests::ran(command.args(["extract", "latest:1", "-C", to.to_str().unwrap()]).output().unwrap());
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("/null: a device, which only root can make"), "{}", ran.stderr);
    let run_sh = fs::metadata(to.join("run.sh")).unwrap();
    assert_eq!((run_sh.uid(), run_sh.mode() & 0o7777), (65534, 0o755), "not set-user-id of somebody else");
    assert_eq!(fs::metadata(to.join("home/ana/tesis.odt")).unwrap().len(), 300_000);
}

fn refused(store: &Path, folder: &Path) {
    let to = folder.join("none");
    for arguments in [
        vec!["extract", "latest:1:/home"],
        vec!["extract", "latest:1:/home", "--tar", "--zip"],
        vec!["extract", "latest:1:/run.sh", "latest:2:/Run.Sh", "-C", to.to_str().unwrap()],
        vec!["extract", "latest", "-C", to.to_str().unwrap()],
    ] {
        let ran = cas(store, &arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.stderr);
    }
    assert!(!to.exists());
}

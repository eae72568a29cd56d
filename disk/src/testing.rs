//! For tests: outside tools, image files, loop devices.
//!
//! Promise: what a test attaches or mounts is taken away when it ends, however it ends.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a tool, or says how to get it.
pub(crate) fn run(tool: &str, package: &str, args: &[&str], stdin: &str) -> String {
    let mut child = Command::new(tool)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{tool}: {e}: apt-get install -y --no-install-recommends {package}"));
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{tool} {args:?}: {}\n{out}{err}", output.status);
    out
}

/// A sparse file.
pub(crate) fn image(folder: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

/// A loop device over a file.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    partx: bool,
}

impl LoopDevice {
    pub(crate) fn new(file: &Path, options: &[&str]) -> Self {
        let mut args = vec!["-f", "--show"];
        args.extend(options);
        args.push(file.to_str().unwrap());
        let out = run("losetup", "mount", &args, "");
        Self { path: PathBuf::from(out.trim()), partx: false }
    }

    /// Adds the partitions' nodes, which this kernel may not do by itself.
    pub(crate) fn add_partitions(&mut self) {
        self.partx = true;
        run("partx", "util-linux", &["-a", self.str()], "");
    }

    pub(crate) fn str(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap().to_str().unwrap().to_owned()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let quiet = |tool: &str, args: &[&str]| {
            Command::new(tool).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()
        };
        if self.partx {
            quiet("partx", &["-d", self.str()]);
        }
        quiet("losetup", &["-d", self.str()]);
    }
}

/// A mount.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(args: &[&str], at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut args = args.to_vec();
        args.push(at.to_str().unwrap());
        run("mount", "mount", &args, "");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Busy for a moment, when another thread's child still has what it inherited.
        for _ in 0..100 {
            let umount = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
            if umount.is_ok_and(|status| status.success()) {
                break;
            }
        }
    }
}

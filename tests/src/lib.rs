//! Helpers of the tests under `suite/`: the real binary, real loop devices, real filesystems, all cleaned up.
//!
//! Promise: what a helper makes (loop device, mount, folder) goes when its value goes, in a panic too; a missing tool is
//! a failure that names the command that installs it, never a skip. Nothing outside this package uses them.

#![forbid(unsafe_code)]
// A test helper's only error handling is to fail the test where it stands.
#![allow(clippy::unwrap_used)]

pub mod disks;
pub mod vm;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Two seconds: far longer than from a fork to its exec.
const UMOUNT_TRIES: u32 = 100;

/// The `cas` binary, built once for a test run in the profile of the tests.
pub fn cas_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // <target>/<profile>/deps/<this test>
        let profile = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_path_buf();
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--package", "cli", "--bin", "cas", "--target-dir"]);
        build.arg(profile.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.file_name() == Some(OsStr::new("release")) {
            build.arg("--release");
        }
        let output = build.output().unwrap();
        assert!(output.status.success(), "building cas: {}", String::from_utf8_lossy(&output.stderr));
        profile.join("cas")
    })
}

/// What a run of `cas` gave.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

/// `cas` on a store of its own: no environment of the machine's leaks in.
pub fn command(store: &Path) -> Command {
    let mut command = Command::new(cas_path());
    command.env_remove("CAS_STORE").env("CAS_STORE", store).env("NO_COLOR", "1").env("TZ", "UTC");
    command.stdin(Stdio::null());
    command
}

/// Runs `cas` with these arguments to its end.
pub fn cas<S: AsRef<OsStr>>(store: &Path, arguments: &[S]) -> Ran {
    ran(command(store).args(arguments).output().unwrap())
}

/// An `Output` in words.
pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `cas` and fails the test unless it exits with 0; its stdout.
pub fn cas_ok<S: AsRef<OsStr>>(store: &Path, arguments: &[S]) -> String {
    let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    let ran = cas(store, arguments);
    assert_eq!(ran.code, 0, "cas {}\n{}{}", words.join(" "), ran.stdout, ran.stderr);
    ran.stdout
}

/// Captures and gives back the image's full id.
pub fn capture(store: &Path, source: &Path, more: &[&str]) -> String {
    let source = source.to_string_lossy().into_owned();
    let mut arguments = vec!["capture", source.as_str(), "--json", "--quiet"];
    arguments.extend(more);
    let text = cas_ok(store, &arguments);
    let summary =
        text.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).unwrap();
    summary["image"].as_str().or(summary["id"].as_str()).unwrap().to_string()
}

/// The JSON that a run ended with: its summary, or its one document.
#[track_caller]
pub fn summary(stdout: &str) -> serde_json::Value {
    let last = stdout.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    last.unwrap_or_else(|| panic!("no JSON in {stdout:?}"))
}

/// Runs another program; fails the test, with the way to get the program, when it is missing or says no.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `sh tests/setup.sh` installs it"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {}\n{text}{errors}", arguments.join(" "), output.status);
    text
}

/// Runs a shell script with `set -eu`.
pub fn sh(script: &str) -> String {
    run("sh", &["-euc", script])
}

/// A loop device over a file.
#[derive(Debug)]
pub struct Loop {
    node: PathBuf,
}

impl Loop {
    /// Attaches a file; more options of losetup, such as `-b 4096`.
    pub fn new(file: &Path, options: &[&str]) -> Loop {
        let file = file.to_string_lossy().into_owned();
        let mut arguments = vec!["--find", "--show"];
        arguments.extend(options);
        arguments.push(&file);
        Loop { node: PathBuf::from(run("losetup", &arguments).trim()) }
    }

    /// A loop device over a new sparse file of this size.
    pub fn blank(file: &Path, bytes: u64, options: &[&str]) -> Loop {
        std::fs::File::create(file).unwrap().set_len(bytes).unwrap();
        Loop::new(file, options)
    }

    /// Its node.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Its node as text.
    pub fn text(&self) -> &str {
        self.node.to_str().unwrap()
    }

    /// Makes nodes for its partitions (kernels without partition tables have `partx` do it), and names one.
    pub fn partition(&self, number: u32) -> PathBuf {
        let path = PathBuf::from(format!("{}p{number}", self.text()));
        if !path.exists() {
            // One by one: all at once, partx leaves out logical ones.
            run("partx", &["--update", "--nr", &number.to_string(), self.text()]);
        }
        path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for arguments in [["partx", "--delete"], ["losetup", "--detach"]] {
            Command::new(arguments[0]).arg(arguments[1]).arg(&self.node).output().ok();
        }
    }
}

/// A mounted filesystem.
#[derive(Debug)]
pub struct Mount {
    folder: PathBuf,
}

impl Mount {
    /// Mounts `source` on `folder`, which is made.
    pub fn new(source: &Path, folder: &Path, options: &[&str]) -> Mount {
        std::fs::create_dir_all(folder).unwrap();
        let (source, folder_text) = (source.to_string_lossy(), folder.to_string_lossy());
        let mut arguments = options.to_vec();
        arguments.extend([source.as_ref(), folder_text.as_ref()]);
        run("mount", &arguments);
        Mount { folder: folder.to_path_buf() }
    }

    /// What another program has mounted there.
    pub fn taken(folder: &Path) -> Mount {
        Mount { folder: folder.to_path_buf() }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A child that another thread has just forked holds our files until it becomes its program.
        for _ in 0..UMOUNT_TRIES {
            let output = Command::new("umount").arg(&self.folder).output();
            if output.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

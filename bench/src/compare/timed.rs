//! One command, timed, in a process that does nothing else: what the kernel counts for its children is the command's.
//!
//! Promise: wall time from start to exit of the shell that runs the command; processor time and peak memory of it and all
//! it waited for; before the clock starts, nothing is dirty, and the page cache is as asked.
//! Knows nothing of what the command is.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::{Deserialize, Serialize};

/// The first argument of such a process.
pub(crate) const TIMED: &str = "--timed";
/// So much of what a failed command said is shown.
const SAID_CHARS: usize = 4000;
const READ_BYTES: usize = 4 << 20;

/// What is run, and what the page cache holds then.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    /// For bash.
    pub(crate) command: String,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) folder: PathBuf,
    /// Files and folders that are read once before; empty: the page cache is emptied.
    pub(crate) warm: Vec<PathBuf>,
}

/// What it took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) seconds: f64,
    /// User and system, of all processes.
    pub(crate) cpu_seconds: f64,
    /// Of the largest process.
    pub(crate) peak_memory_bytes: u64,
}

impl Timed {
    /// Runs it in a child of this program, itself run by `wrap` if there is one.
    pub(crate) fn run(&self, wrap: &[String]) -> Result<Usage> {
        let program = std::env::current_exe()?.into_os_string();
        let mut words: Vec<_> = wrap.iter().map(Into::into).collect();
        words.push(program);
        let mut child = Command::new(&words[0]);
        // The command's complaint is what counts, not where it was noticed.
        child.env("RUST_BACKTRACE", "0");
        let output = child.args(&words[1..]).arg(TIMED).arg(serde_json::to_string(self)?).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let line = String::from_utf8(output.stdout)?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    fn prepare(&self) -> Result<()> {
        rustix::fs::sync();
        if self.warm.is_empty() {
            let path = "/proc/sys/vm/drop_caches";
            return fs::write(path, "3").with_context(|| format!("{path}: needs root"));
        }
        let mut buffer = vec![0; READ_BYTES];
        self.warm.iter().try_for_each(|path| read_all(path, &mut buffer))
    }
}

/// What the child does.
pub(crate) fn run_child(timed: &str) -> Result<()> {
    let timed: Timed = serde_json::from_str(timed)?;
    timed.prepare()?;
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &timed.command]).current_dir(&timed.folder);
    shell.envs(timed.environment.iter().map(|(name, value)| (name, value)));
    let start = Instant::now();
    let output = shell.output()?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let skipped = said.chars().count().saturating_sub(SAID_CHARS);
        let end: String = said.chars().skip(skipped).collect();
        bail!("{}: {}\n{end}", timed.command, output.status);
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let usage = Usage {
        seconds,
        cpu_seconds: cpu as f64 / 1e6,
        // getrusage(2): in KiB.
        peak_memory_bytes: u64::try_from(usage.max_rss())? << 10,
    };
    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}

fn read_all(path: &Path, buffer: &mut [u8]) -> Result<()> {
    for file in files(path)? {
        let mut open = File::open(&file).with_context(|| file.display().to_string())?;
        while open.read(buffer).with_context(|| file.display().to_string())? > 0 {}
    }
    Ok(())
}

/// Bytes of all files below a folder.
pub(crate) fn bytes_below(path: &Path) -> Result<u64> {
    files(path)?.iter().map(|file| Ok(fs::metadata(file)?.len())).sum()
}

/// All files below a folder, or the one file.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![path.to_path_buf()];
    while let Some(path) = left.pop() {
        let kind = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

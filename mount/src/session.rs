//! Mounting and unmounting.
//!
//! Promise: when the value is dropped nothing is in the mount table any more; where someone still has a file open, the
//! mount ends when he closes it. Needs no helper as root; others need `fusermount3`.
//! Knows nothing of what is mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::available_parallelism;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::mount::UnmountFlags;

use crate::Error;
use crate::server::Server;

/// Decoding chunks takes a processor, waiting for a disk none: two at least, so that one slow read does not stop all.
const THREADS_MIN: usize = 2;
/// Each has a buffer of 16 MiB, of which it touches what a request is long.
const THREADS_MAX: usize = 16;

/// What the kernel reads ahead of a sequential reader, in KiB: 128, its own choice, is less than a window of chunks.
const READ_AHEAD_KIB: &str = "4096";

/// How to mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) is_read_only: bool,
    /// Others than who mounts may look; each file's own permissions hold then.
    pub(crate) is_for_all: bool,
}

/// A mount that is being served.
pub(crate) struct Session {
    folder: PathBuf,
    background: Option<BackgroundSession>,
}

impl Session {
    /// Mounts on `folder`.
    pub(crate) fn start(server: Server, folder: &Path, manner: Manner) -> Result<Session, Error> {
        let failed = |source| Error::Mount { path: folder.to_owned(), source };
        let folder_found = folder.canonicalize().map_err(failed)?;
        let background = fuser::Session::new(server, folder, &config(manner))
            .and_then(fuser::Session::spawn)
            .map_err(failed)?;
        let session = Session { folder: folder_found, background: Some(background) };
        session.raise_read_ahead();
        Ok(session)
    }

    /// Whether it was unmounted by someone else.
    pub(crate) fn has_ended(&self) -> bool {
        self.background.as_ref().is_none_or(|background| background.guard.is_finished())
    }

    /// Only root may; others read with the kernel's own choice.
    fn raise_read_ahead(&self) {
        if let Ok(stat) = rustix::fs::stat(&self.folder) {
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB).ok();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(background) = self.background.take() else { return };
        if background.guard.is_finished() || unmount(&self.folder) {
            // Nobody uses it: the threads are at their end, and give back what they served.
            background.join().ok();
        } else {
            detach(&self.folder);
            // Its own drop would unmount once more, and so perhaps what lies below.
            std::mem::forget(background);
        }
    }
}

fn config(manner: Manner) -> Config {
    let mut options = vec![
        MountOption::FSName("cas".into()),
        MountOption::Subtype("cas".into()),
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    options.push(if manner.is_read_only { MountOption::RO } else { MountOption::RW });
    if manner.is_for_all {
        options.push(MountOption::DefaultPermissions);
    }
    let mut config = Config::default();
    config.mount_options = options;
    config.acl = if manner.is_for_all { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(available_parallelism().map_or(1, |it| it.get()).clamp(THREADS_MIN, THREADS_MAX));
    config.clone_fd = true;
    config
}

/// Unmounts, unless someone uses it.
fn unmount(folder: &Path) -> bool {
    rustix::mount::unmount(folder, UnmountFlags::NOFOLLOW).is_ok() || fusermount(folder, "-u")
}

/// Takes it out of the mount table.
pub(crate) fn detach(folder: &Path) -> bool {
    rustix::mount::unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok()
        || fusermount(folder, "-uz")
}

/// What is not root asks the helper that may.
fn fusermount(folder: &Path, how: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    let run = |tool: &str| {
        let mut command = Command::new(tool);
        command.args([how, "-q", "--"]).arg(folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    run("fusermount3").or_else(|_| run("fusermount")).is_ok_and(|status| status.success())
}

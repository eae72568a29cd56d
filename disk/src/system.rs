//! Where this machine tells about its devices: /sys, /proc, /run/udev.
//!
//! Promise: nothing here touches a device. The three places can be others in tests.
//! Knows nothing of what the facts are good for.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::sys;

/// The three places.
#[derive(Clone, Debug)]
pub(crate) struct System {
    pub(crate) sys: PathBuf,
    pub(crate) proc: PathBuf,
    pub(crate) udev: PathBuf,
    pub(crate) dev: PathBuf,
}

/// What a loop device says about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopStatus {
    /// Number of the device that its file lies on.
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Number of the device that its file is; 0 for regular files.
    pub(crate) rdev: u64,
}

/// A random UUID (RFC 9562 §5.4), for a new identity.
///
/// # Panics
/// On a kernel older than 3.17, which has no random numbers to give.
#[must_use]
pub fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    loop {
        match rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()) {
            // So few bytes come in one piece.
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("getrandom: {error}"),
        }
    }
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut id;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    id
}

impl System {
    /// Those of the running kernel.
    pub(crate) fn real() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), udev: "/run/udev".into(), dev: "/dev".into() }
    }

    /// The folder of a block device, as a path without links: a partition's parent folder is its disk's.
    pub(crate) fn node_folder(&self, rdev: u64) -> Option<PathBuf> {
        fs::canonicalize(self.sys.join(format!("dev/block/{}:{}", major(rdev), minor(rdev)))).ok()
    }

    /// The lines of udev's database about a device; none when udev does not run.
    pub(crate) fn udev(&self, folder: &Path) -> Vec<String> {
        let number = fs::read_to_string(folder.join("dev")).unwrap_or_default();
        let file = self.udev.join("data").join(format!("b{}", number.trim()));
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Asks a loop device for its file. Opening it is harmless: one that nobody has open and that should then vanish
    /// has vanished already.
    pub(crate) fn loop_status(&self, name: &str) -> Option<LoopStatus> {
        let device = fs::File::open(self.dev.join(name)).ok()?;
        let status = sys::loop_status(device.as_fd()).ok()?;
        // linux include/uapi/linux/loop.h, struct loop_info64: lo_device, lo_inode, lo_rdevice.
        let (words, _) = status.as_chunks::<8>();
        let word = |index: usize| words.get(index).copied().map(u64::from_le_bytes);
        Some(LoopStatus { device: word(0)?, inode: word(1)?, rdev: word(2)? })
    }
}

/// One line of sysfs; `None` when it is missing, unreadable or blank.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

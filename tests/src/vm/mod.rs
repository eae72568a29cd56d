//! A disk started as a computer would start it: QEMU without hardware help, firmware, boot loader, kernel, init.
//!
//! Promise: the disk's file is not written to (what the guest writes is thrown away); no machine outlives the test, even one that is
//! killed; never more than two run at once. Nothing is believed but what the started system says of itself on its serial console.

pub mod disk;
pub mod parts;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// A start takes about 12 s on a machine of its own; others may be at work beside.
const START_SECONDS_MAX: u64 = 300;
/// As many as a small machine has processors: an emulated one takes a whole processor.
const RUNNING_MAX: usize = 2;
/// Where Debian's package `ovmf` keeps the UEFI firmware, and the state that a new machine has.
const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// What starts the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// The first sector's code.
    Bios,
    /// The EFI system partition's loader.
    Uefi,
}

/// What the started system said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Started by UEFI.
    pub efi: bool,
    /// The root's filesystem.
    pub root: String,
    /// The root's device.
    pub device: String,
    /// How much the root filesystem holds, free or not.
    pub size_mib: u64,
}

/// Starts the disk; `beside` is a second disk in the same machine.
///
/// # Panics
/// When the system does not come up, or says that something is wrong with it: with all that it printed.
#[track_caller]
pub fn start(firmware: Firmware, disk: &Path, beside: Option<&Path>) -> Started {
    let folder = tempfile::tempdir().unwrap();
    let _turn = Turn::take();
    let mut machine = Machine::new(firmware, disk, beside, folder.path());
    let began = Instant::now();
    let said = machine.listen(began + Duration::from_secs(START_SECONDS_MAX));
    drop(machine);
    let marker = said.iter().find_map(|line| parse(line));
    let seconds = began.elapsed().as_secs();
    marker.unwrap_or_else(|| {
        panic!("{}: does not start by {firmware:?} ({seconds} s):\n{}", disk.display(), said.join("\n"))
    })
}

/// `CAS-BOOT-OK efi=no root=ext4 device=/dev/vda2 size=1234`, which the init of `parts.rs` prints.
fn parse(line: &str) -> Option<Started> {
    let words = line.trim().strip_prefix(parts::MARKER)?;
    let value =
        |name: &str| words.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Some(Started {
        efi: value("efi")? == "yes",
        root: value("root")?.to_owned(),
        device: value("device")?.to_owned(),
        size_mib: value("size")?.parse().ok()?,
    })
}

/// One of the places for a running machine.
struct Turn;

impl Turn {
    fn take() -> Self {
        let running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= RUNNING_MAX)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *running += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A running QEMU.
struct Machine {
    child: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn new(firmware: Firmware, disk: &Path, beside: Option<&Path>, folder: &Path) -> Self {
        // When this thread dies, however it does, the kernel ends the machine.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args("-machine q35 -accel tcg,thread=multi -cpu max -smp 1 -m 768".split(' '));
        command.args("-nodefaults -no-user-config -no-reboot -display none -serial stdio".split(' '));
        if firmware == Firmware::Uefi {
            let state = folder.join("vars.fd");
            std::fs::copy(OVMF[1], &state)
                .unwrap_or_else(|error| panic!("{}: {error}; {}", OVMF[1], parts::SETUP));
            add_flash(&mut command, 0, Path::new(OVMF[0]), ",readonly=on");
            add_flash(&mut command, 1, &state, "");
        }
        let disks = [Some(disk), beside];
        for (index, path) in disks.into_iter().flatten().enumerate() {
            let drive = format!("file={},format=raw,if=none,id=d{index},snapshot=on", escaped(path));
            let device = format!("virtio-blk-pci,drive=d{index},bootindex={index}");
            command.args(["-drive", &drive, "-device", &device]);
        }
        // What is thrown away goes where the test's own files are.
        command.env("TMPDIR", folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("setpriv, qemu-system-x86_64: {error}; {}", parts::SETUP));
        let (sender, lines) = channel();
        let (console, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let second = sender.clone();
        std::thread::spawn(move || forward(BufReader::new(console), &sender));
        std::thread::spawn(move || forward(BufReader::new(errors), &second));
        Machine { child, lines }
    }

    /// All lines up to the marker, to a complaint, to the machine's end, or to the time when patience ends.
    fn listen(&mut self, until: Instant) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let done = line.contains(parts::MARKER) || line.contains(parts::COMPLAINT);
                    said.push(line);
                    if done {
                        return said;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    said.push(format!("(nothing more in {START_SECONDS_MAX} s)"));
                    return said;
                }
                Err(RecvTimeoutError::Disconnected) => return said,
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn add_flash(command: &mut Command, unit: u32, file: &Path, more: &str) {
    let drive = format!("if=pflash,format=raw,unit={unit},file={}{more}", escaped(file));
    command.args(["-drive", &drive]);
}

/// QEMU reads a comma as the end of a value; two are one.
fn escaped(path: &Path) -> String {
    path.to_str().unwrap().replace(',', ",,")
}

fn forward(mut from: impl BufRead, to: &std::sync::mpsc::Sender<String>) {
    let mut line = Vec::new();
    // A console may say anything, so not `lines`, which ends at what is not UTF-8.
    while from.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        if to.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

/// Where `tests/setup.sh` keeps what is not installed but fetched.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("cas-tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_read() {
        let line = "\u{1b}[0mCAS-BOOT-OK efi=yes root=ext4 device=/dev/vda2 size=1301 ";
        assert_eq!(parse(line), None, "only at the start of a line");
        let found = parse(&line[4..]).unwrap();
        assert_eq!((found.efi, found.root.as_str(), found.size_mib), (true, "ext4", 1301));
    }
}

//! What a device says about itself, through sysfs and, where it runs, udev.
//!
//! Promise: what is read from an open descriptor is about that very device, whatever its path means by then.
//! Knows nothing of what lies on the device.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs as rfs;

use crate::Error;
use crate::system::{System, text};

/// What kind of thing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A whole block device.
    Disk,
    /// A partition node.
    Partition,
    /// A regular file.
    File,
    /// Standard input.
    Stream,
}

/// What a device is called, and by what it is recognised.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Kind of device.
    pub kind: DeviceKind,
    /// The path that was opened.
    pub path: String,
    /// The kernel's name (`sda`, `loop0p1`) or the file's.
    pub name: String,
    /// Model, of the whole disk.
    pub model: Option<String>,
    /// Serial number, of the whole disk.
    pub serial: Option<String>,
    /// World wide name, of the whole disk.
    pub wwn: Option<String>,
    /// `ata`, `nvme`, `usb`, `virtio`…
    pub bus: Option<String>,
    /// Size when it was opened.
    pub size_bytes: u64,
    /// Smallest unit that can be addressed.
    pub logical_sector_bytes: u32,
    /// Smallest unit that can be written without reading.
    pub physical_sector_bytes: u32,
    /// Whether it has moving parts.
    pub rotational: Option<bool>,
    /// Whether the medium can be taken out.
    pub removable: Option<bool>,
    /// Whether the kernel refuses writes.
    pub read_only: bool,
}

impl Identity {
    /// The identity of standard input.
    #[must_use]
    pub fn stream() -> Self {
        Self {
            kind: DeviceKind::Stream,
            path: "-".into(),
            name: "stdin".into(),
            model: None,
            serial: None,
            wwn: None,
            bus: None,
            size_bytes: 0,
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            rotational: None,
            removable: None,
            read_only: true,
        }
    }

    /// By what the device is known from one day to the next: its serial number, else its name.
    #[must_use]
    pub fn key(&self) -> &str {
        self.serial.as_deref().unwrap_or(&self.name)
    }

    /// Reads the identity of what is open, be it a block device or a regular file.
    pub(crate) fn of_open(file: &fs::File, path: &Path, system: &System) -> Result<Self, Error> {
        let query = |what, source| Error::Query { path: path.to_owned(), what, source };
        let metadata = file.metadata().map_err(|source| query("its kind", source))?;
        let size_bytes =
            rfs::seek(file.as_fd(), rfs::SeekFrom::End(0)).map_err(|e| query("its size", e.into()))?;
        let mut identity = Self {
            kind: DeviceKind::File,
            path: path.to_string_lossy().into_owned(),
            name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            size_bytes,
            read_only: metadata.mode() & 0o222 == 0,
            ..Self::stream()
        };
        if rfs::FileType::from_raw_mode(metadata.mode()).is_block_device() {
            let sector = |size: rustix::io::Result<u32>, what| size.map_err(|e| query(what, e.into()));
            identity.logical_sector_bytes = sector(rfs::ioctl_blksszget(file), "its sector size")?.max(512);
            identity.physical_sector_bytes =
                sector(rfs::ioctl_blkpbszget(file), "its physical sector size")?.max(512);
            identity.describe(metadata.rdev(), system);
        }
        Ok(identity)
    }

    /// The identity of a block device that cannot be opened.
    pub(crate) fn of_node(rdev: u64, path: &Path, size_bytes: u64, system: &System) -> Self {
        let path = path.to_string_lossy().into_owned();
        let mut identity = Self { name: path.clone(), path, size_bytes, ..Self::stream() };
        identity.describe(rdev, system);
        identity
    }

    /// Adds what sysfs and udev know. A device that sysfs does not list (a container) keeps its path's name.
    fn describe(&mut self, rdev: u64, system: &System) {
        self.kind = DeviceKind::Disk;
        self.read_only = false;
        let Some(node) = system.node_folder(rdev) else { return };
        let disk = match node.join("partition").exists() {
            true => {
                self.kind = DeviceKind::Partition;
                node.parent().unwrap_or(&node).to_owned()
            }
            false => node.clone(),
        };
        self.name = name_of(&node);
        self.read_only = text(&node.join("ro")).is_some_and(|ro| ro == "1");
        self.rotational = flag(&disk.join("queue/rotational"));
        self.removable = flag(&disk.join("removable"));
        let udev = system.udev(&disk);
        let from_udev = |key: &str| udev.iter().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        let first = |names: &[&str]| names.iter().find_map(|name| text(&disk.join(name)));
        self.model = first(&["device/model", "device/name", "dm/name"]);
        self.serial = from_udev("E:ID_SERIAL_SHORT=")
            .or_else(|| first(&["device/serial", "serial", "dm/uuid", "md/uuid"]))
            .or_else(|| vital_page(&disk.join("device/vpd_pg80")))
            .or_else(|| usb_serial(&disk));
        self.wwn = from_udev("E:ID_WWN_WITH_EXTENSION=")
            .or_else(|| from_udev("E:ID_WWN="))
            .or_else(|| first(&["device/wwid", "wwid"]));
        self.bus = from_udev("E:ID_BUS=").or_else(|| bus(&disk).map(str::to_owned));
    }
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().replace('!', "/")
}

fn flag(path: &Path) -> Option<bool> {
    text(path).map(|value| value != "0")
}

/// Unit serial number: SPC-5 §7.7.20, page 80h: four bytes of header, then text.
fn vital_page(path: &Path) -> Option<String> {
    let page = fs::read(path).ok()?;
    let serial = String::from_utf8_lossy(page.get(4..)?).trim_matches(['\0', ' ']).to_owned();
    (!serial.is_empty()).then_some(serial)
}

/// The serial number of the USB device that the disk is part of.
fn usb_serial(disk: &Path) -> Option<String> {
    let usb: PathBuf = disk.ancestors().find(|folder| folder.join("idVendor").exists())?.to_owned();
    text(&usb.join("serial"))
}

/// The bus, from the names on the road through sysfs; nearest to the disk first.
fn bus(disk: &Path) -> Option<&'static str> {
    const BUSES: [(&str, &str); 6] = [
        ("nvme", "nvme"),
        ("ata", "ata"),
        ("usb", "usb"),
        ("virtio", "virtio"),
        ("mmc", "mmc"),
        ("host", "scsi"),
    ];
    let mut names = disk.ancestors().skip(1).filter_map(Path::file_name).filter_map(|name| name.to_str());
    // `host0` comes below `ata1` or `usb1` and says less than they do.
    let all: Vec<&str> = names.by_ref().collect();
    BUSES.iter().find(|(prefix, _)| all.iter().any(|name| numbered(name, prefix))).map(|(_, bus)| *bus)
}

fn numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

//! `cas disks`: the disks of this machine as `lsblk` shows them, with the last image of each.
//!
//! Promise: nothing on a disk is touched; a disk that cannot be opened is listed with what the kernel says of it.
//! Knows nothing of how devices are found.

use crate::args::Context;
use crate::catalog::{self, Listed};
use crate::commands::capture::host_name;
use crate::exit::Exit;
use crate::table::Table;
use crate::{picture, place, units};
use anyhow::Result;
use disk::{DiskInfo, Use, Volume};
use jiff::Timestamp;
use serde_json::{Value, json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<Exit> {
    let disks = disk::list()?;
    let images = match place::open_if_any(context)? {
        Some(store) => Some(catalog::list(&store)?),
        None => None,
    };
    let host = host_name();
    let last = |disk: &DiskInfo| images.as_deref().and_then(|images| last_image(disk, images, &host));
    context.ui.document(&Value::Array(disks.iter().map(|disk| to_json(disk, last(disk))).collect()));
    if disks.is_empty() {
        context.ui.note("no disks");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&TITLES[..if images.is_some() { TITLES.len() } else { TITLES.len() - 1 }]);
    for disk in &disks {
        let last = last(disk).map_or_else(|| "never".to_owned(), |image| age(image, Timestamp::now()));
        add_disk(&mut table, disk, if images.is_some() { &last } else { "" });
    }
    context.ui.say_all(table.lines());
    Ok(Exit::Done)
}

const TITLES: [&str; 11] = [
    "NAME",
    "TYPE",
    ">SIZE",
    "BUS",
    "SECTOR",
    "MODEL",
    "SERIAL",
    "CONTENT",
    "LABEL",
    "MOUNTED",
    "LAST IMAGE",
];

/// The newest sound image of a disk: by serial number, or by name on this host.
fn last_image<'a>(disk: &DiskInfo, images: &'a [Listed], host: &str) -> Option<&'a Listed> {
    let identity = &disk.identity;
    images.iter().rev().find(|image| {
        let same_place = identity.serial.is_some() || image.known.host == host;
        image.known.sound && !image.known.forgotten && same_place && image.disk() == identity.key()
    })
}

/// `3 days ago (abababab)`.
fn age(image: &Listed, now: Timestamp) -> String {
    format!("{} ({})", units::show_age(image.known.time, now), image.entry.id.short())
}

fn add_disk(table: &mut Table, disk: &DiskInfo, last: &str) {
    let identity = &disk.identity;
    let content = match &disk.content {
        Some(content) => content.kind.clone(),
        None => picture::table_kind(&disk.layout).to_owned(),
    };
    let label = disk.content.as_ref().and_then(|content| content.label.clone());
    table.row([
        identity.name.clone(),
        if identity.name.starts_with("loop") { "loop" } else { "disk" }.to_owned(),
        units::show_bytes(identity.size_bytes),
        identity.bus.clone().unwrap_or_default(),
        picture::sectors(identity),
        identity.model.clone().unwrap_or_default(),
        identity.serial.clone().unwrap_or_default(),
        content,
        label.unwrap_or_default(),
        uses(&disk.uses, None),
        last.to_owned(),
    ]);
    let volumes = &disk.layout.volumes;
    for (index, volume) in volumes.iter().enumerate() {
        add_volume(table, disk, volume, index + 1 == volumes.len());
    }
}

fn add_volume(table: &mut Table, disk: &DiskInfo, volume: &Volume, is_last: bool) {
    let node = disk.nodes.iter().find(|node| node.volume == volume.number);
    let name = node.map_or_else(|| format!("({})", volume.number), |node| node.name.clone());
    let label = volume.content.as_ref().and_then(|content| content.label.clone());
    table.row([
        format!("{}{name}", if is_last { "└─" } else { "├─" }),
        "part".to_owned(),
        units::show_bytes(volume.extent.bytes),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        picture::content_of(volume),
        label.unwrap_or_default(),
        uses(&disk.uses, Some(volume.number)),
    ]);
}

/// Who uses this volume, or the disk as a whole.
fn uses(uses: &[Use], volume: Option<u32>) -> String {
    let here = uses.iter().filter(|used| used.volume == volume);
    here.map(picture::use_cell).collect::<Vec<_>>().join(", ")
}

fn to_json(disk: &DiskInfo, last: Option<&Listed>) -> Value {
    // A struct of strings and integers always serialises.
    let mut value = serde_json::to_value(disk).unwrap_or_default();
    value["last_image"] = match last {
        Some(image) => json!({
            "id": image.entry.id.to_string(),
            "time": image.manifest().map(|manifest| manifest.created.clone()),
        }),
        None => Value::Null,
    };
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::listed;
    use disk::{Content, DeviceKind, Extent, Identity, Layout, PartitionNode, TableKind, UseKind};

    fn disk() -> DiskInfo {
        let volume = |number: u32, kind: &str| Volume {
            number,
            extent: Extent { offset: 1 << 20, bytes: 1 << 30 },
            type_id: String::new(),
            type_name: Some("Linux".into()),
            uuid: None,
            name: None,
            bootable: false,
            content: (!kind.is_empty()).then(|| Content { kind: kind.into(), label: None, uuid: None }),
        };
        let identity = Identity {
            kind: DeviceKind::Disk,
            path: "/dev/sda".into(),
            name: "sda".into(),
            model: Some("M".into()),
            serial: Some("S3RIAL".into()),
            bus: Some("ata".into()),
            size_bytes: 1 << 40,
            ..Identity::stream()
        };
        let mounted = UseKind::Mounted { at: "/".into(), read_only: false, filesystem: "ext4".into() };
        DiskInfo {
            identity,
            layout: Layout {
                table: TableKind::Gpt,
                sector_bytes: 512,
                volumes: vec![volume(1, "ext4"), volume(2, "")],
                ..Layout::default()
            },
            content: None,
            uses: vec![Use { device: "sda1".into(), volume: Some(1), what: mounted }],
            nodes: vec![PartitionNode {
                name: "sda1".into(),
                path: "/dev/sda1".into(),
                volume: 1,
                extent: Extent { offset: 1 << 20, bytes: 1 << 30 },
            }],
            is_root: true,
        }
    }

    #[test]
    fn a_disk_looks_like_lsblk() {
        let mut table = Table::new(&TITLES);
        add_disk(&mut table, &disk(), "never");
        assert_eq!(
            table.lines(),
            [
                "NAME    TYPE     SIZE  BUS  SECTOR  MODEL  SERIAL  CONTENT  LABEL  MOUNTED  LAST IMAGE",
                "sda     disk  1.0 TiB  ata  512     M      S3RIAL  gpt                      never",
                "├─sda1  part  1.0 GiB                              ext4            /",
                "└─(2)   part  1.0 GiB                              (Linux)",
            ]
        );
    }

    #[test]
    fn the_last_image_is_found_by_serial_or_by_name_on_this_host() {
        let images = [listed(|_| {})];
        assert!(last_image(&disk(), &images, "other").is_some());
        let mut nameless = disk();
        nameless.identity.serial = None;
        nameless.identity.name = "S3RIAL".into();
        assert!(last_image(&nameless, &images, "other").is_none());
        assert!(last_image(&nameless, &images, "alba").is_some());
        let forgotten = [listed(|e| e.forgotten = Some(String::new()))];
        assert!(last_image(&disk(), &forgotten, "alba").is_none());
        let now = "2026-08-04T13:00:00Z".parse().unwrap();
        assert_eq!(age(&images[0], now), "3 days ago (abababab)");
    }
}

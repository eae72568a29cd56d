//! Devices as people recognise them: what they are, what is on them, who uses them.
//!
//! Promise: the same device looks the same in `disks`, `show` and the question of `restore`.
//! Knows nothing of images or stores.

use crate::table::Table;
use crate::units::{show_bytes, show_bytes_exactly};
use disk::{Content, Identity, Layout, TableKind, Use, UseKind, Volume};
use image::VolumeUse;

/// `/dev/sda: Samsung SSD 870, serial S5Y1, 931.5 GiB (… bytes), ata`.
pub(crate) fn headline(identity: &Identity) -> String {
    let serial = identity.serial.as_ref().map(|serial| format!("serial {serial}"));
    let facts = [
        Some(kind(identity).to_owned()),
        identity.model.clone(),
        serial,
        Some(show_bytes_exactly(identity.size_bytes)),
        identity.bus.clone(),
        identity.read_only.then(|| "read-only".to_owned()),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    format!("{}: {}", identity.path, facts.join(", "))
}

/// One word for what it is.
pub(crate) fn kind(identity: &Identity) -> &'static str {
    match identity.kind {
        disk::DeviceKind::Disk => "disk",
        disk::DeviceKind::Partition => "partition",
        disk::DeviceKind::File => "file",
        disk::DeviceKind::Stream => "stream",
    }
}

/// `512`, or `512/4096` where the medium is coarser than what can be addressed.
pub(crate) fn sectors(identity: &Identity) -> String {
    match (identity.logical_sector_bytes, identity.physical_sector_bytes) {
        (logical, physical) if logical == physical => logical.to_string(),
        (logical, physical) => format!("{logical}/{physical}"),
    }
}

/// `gpt`, `mbr`; empty without a table.
pub(crate) fn table_kind(layout: &Layout) -> &'static str {
    match layout.table {
        TableKind::None => "",
        TableKind::Gpt => "gpt",
        TableKind::Mbr => "mbr",
    }
}

/// What a volume holds: `ext4`, else the type that the table claims.
pub(crate) fn content_of(volume: &Volume) -> String {
    match &volume.content {
        Some(content) => content.kind.clone(),
        None => volume.type_name.clone().map_or_else(String::new, |name| format!("({name})")),
    }
}

/// The partitions, as in `lsblk -f`; none without a table. `volume_use`: what was found out when only used blocks were read.
pub(crate) fn partitions(
    layout: &Layout,
    excluded: &[u32],
    volume_use: Option<&[VolumeUse]>,
) -> Option<Table> {
    if layout.volumes.is_empty() {
        return None;
    }
    let head = [">N", ">START", ">SIZE", ">FREE", "FSTYPE", "LABEL", "UUID", "PARTLABEL", "NOTE"];
    let shown = |column: &&str| *column != ">FREE" || volume_use.is_some();
    let mut table = Table::new(&head.into_iter().filter(shown).collect::<Vec<_>>());
    for volume in &layout.volumes {
        let content = volume.content.as_ref();
        let text = |field: fn(&Content) -> &Option<String>| content.and_then(|c| field(c).clone());
        let found = volume_use.into_iter().flatten().find(|found| found.volume == Some(volume.number));
        let mut cells = vec![
            volume.number.to_string(),
            (volume.extent.offset / u64::from(layout.sector_bytes.max(1))).to_string(),
            show_bytes(volume.extent.bytes),
        ];
        if volume_use.is_some() {
            let known = found.filter(|found| found.kind.is_some());
            cells.push(known.map_or_else(String::new, |found| show_bytes(found.free_bytes)));
        }
        cells.extend([
            content_of(volume),
            text(|content| &content.label).unwrap_or_default(),
            text(|content| &content.uuid).unwrap_or_default(),
            volume.name.clone().unwrap_or_default(),
            notes(volume, excluded, found),
        ]);
        table.row(cells);
    }
    Some(table)
}

/// What is to be said of a partition.
fn notes(volume: &Volume, excluded: &[u32], found: Option<&VolumeUse>) -> String {
    let mut notes = Vec::new();
    if volume.bootable {
        notes.push("bootable".to_owned());
    }
    if excluded.contains(&volume.number) {
        notes.push("left out".to_owned());
    }
    for left_out in found.iter().flat_map(|found| &found.left_out) {
        notes.push(format!("without {} ({})", left_out.name, show_bytes(left_out.bytes)));
    }
    if found.is_some_and(|found| found.doubt.is_some()) {
        notes.push("every sector".to_owned());
    }
    notes.join(", ")
}

/// `mounted at /mnt (read-only)`, `swap`, `held by dm-0 (dm)`.
pub(crate) fn use_text(used: &Use) -> String {
    match &used.what {
        UseKind::Mounted { at, read_only, .. } => {
            format!("mounted at {}{}", at.display(), if *read_only { " (read-only)" } else { "" })
        }
        UseKind::Swap => "swap".to_owned(),
        UseKind::Holder { name, kind } => format!("held by {name} ({kind})"),
    }
}

/// What a terse table says of a use: the mount point, `[SWAP]`, the holder.
pub(crate) fn use_cell(used: &Use) -> String {
    match &used.what {
        UseKind::Mounted { at, .. } => at.display().to_string(),
        UseKind::Swap => "[SWAP]".to_owned(),
        UseKind::Holder { name, .. } => format!("[{name}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{DeviceKind, Extent};

    fn identity() -> Identity {
        Identity {
            kind: DeviceKind::Disk,
            path: "/dev/sda".into(),
            name: "sda".into(),
            model: Some("Samsung SSD 870".into()),
            serial: Some("S5Y1".into()),
            bus: Some("ata".into()),
            size_bytes: 1 << 40,
            physical_sector_bytes: 4096,
            read_only: false,
            ..Identity::stream()
        }
    }

    #[test]
    fn a_device_is_recognised_by_model_serial_and_size() {
        let text = "/dev/sda: disk, Samsung SSD 870, serial S5Y1, 1.0 TiB (1099511627776 bytes), ata";
        assert_eq!(headline(&identity()), text);
        assert_eq!(sectors(&identity()), "512/4096");
        assert!(headline(&Identity { read_only: true, ..identity() }).ends_with("ata, read-only"));
    }

    #[test]
    fn partitions_look_like_lsblk() {
        let volume = |number, content: Option<Content>| Volume {
            number,
            extent: Extent { offset: 1 << 20, bytes: 1 << 30 },
            type_id: "0x83".into(),
            type_name: Some("Linux".into()),
            uuid: None,
            name: None,
            bootable: number == 1,
            content,
        };
        let root = Content { kind: "ext4".into(), label: Some("root".into()), uuid: Some("6f-1".into()) };
        let volumes = vec![volume(1, Some(root)), volume(2, None)];
        let layout = Layout { table: TableKind::Mbr, sector_bytes: 512, volumes, ..Layout::default() };
        assert_eq!(
            partitions(&layout, &[2], None).unwrap().lines(),
            [
                "N  START     SIZE  FSTYPE   LABEL  UUID  PARTLABEL  NOTE",
                "1   2048  1.0 GiB  ext4     root   6f-1             bootable",
                "2   2048  1.0 GiB  (Linux)                          left out",
            ]
        );
        assert!(partitions(&Layout::default(), &[], None).is_none());
        let found = |number, kind: Option<&str>, doubt: Option<&str>| VolumeUse {
            volume: Some(number),
            kind: kind.map(str::to_owned),
            free_bytes: 3 << 20,
            left_out: Vec::new(),
            doubt: doubt.map(str::to_owned),
        };
        let mut of_root = found(1, Some("ext4"), None);
        of_root.left_out.push(image::LeftOut { name: "pagefile.sys".to_owned(), bytes: 1 << 30 });
        let both = [of_root, found(2, None, Some("the journal must be replayed first"))];
        assert_eq!(
            partitions(&layout, &[], Some(&both)).unwrap().lines(),
            [
                "N  START     SIZE     FREE  FSTYPE   LABEL  UUID  PARTLABEL  NOTE",
                "1   2048  1.0 GiB  3.0 MiB  ext4     root   6f-1             bootable, without pagefile.sys (1.0 GiB)",
                "2   2048  1.0 GiB           (Linux)                          every sector",
            ]
        );
    }

    #[test]
    fn uses_are_said_in_words_and_in_cells() {
        let used = |what| Use { device: "sda1".into(), volume: Some(1), what };
        let mounted =
            used(UseKind::Mounted { at: "/mnt".into(), read_only: true, filesystem: "ext4".into() });
        let held = used(UseKind::Holder { name: "dm-0".into(), kind: "dm".into() });
        assert_eq!(
            [use_text(&mounted), use_text(&held)],
            ["mounted at /mnt (read-only)", "held by dm-0 (dm)"]
        );
        assert_eq!([use_cell(&used(UseKind::Swap)), use_cell(&held)], ["[SWAP]", "[dm-0]"]);
    }
}

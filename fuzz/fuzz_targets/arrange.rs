//! Any bytes, taken as the first and last sectors of a disk: a table that is refused, or one whose partitions can be
//! arranged and written, and are read back as arranged; never a panic (I6).
#![no_main]

use disk::arrange::{Geometry, Mode, Need, PartitionTable, Wishes, arrange};
use disk::{Assembled, MemoryDevice};

const DISK_BYTES: usize = 1 << 20;
const TARGET_BYTES: u64 = 64 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((modes, data)) = data.split_first() else { return };
    let (first, last) = data[..data.len().min(DISK_BYTES)].split_at(data.len().min(DISK_BYTES) / 2);
    let mut disk = vec![0; DISK_BYTES];
    disk[..first.len()].copy_from_slice(first);
    disk[DISK_BYTES - last.len()..].copy_from_slice(last);
    let device = MemoryDevice::new(disk);
    let Ok(table) = PartitionTable::read(&device, 512) else { return };
    let can_grow = |number| Need { number, can_grow: true, ..Need::default() };
    let needs: Vec<Need> = table.entries().iter().map(|entry| can_grow(entry.number)).collect();
    let mode = [Mode::Keep, Mode::Grow, Mode::Proportional, Mode::Fit][usize::from(modes & 3)].clone();
    let wishes = Wishes { mode, to_gpt: modes & 4 != 0, create: modes & 8 != 0, ..Wishes::default() };
    let sector_bytes = if modes & 16 != 0 { 4096 } else { 512 };
    let target = Geometry { bytes: TARGET_BYTES, sector_bytes };
    let Ok(found) = arrange(&table, &needs, target, &wishes, &mut || [7; 16]) else { return };
    let mut written = Assembled::new(TARGET_BYTES, sector_bytes);
    for (offset, bytes) in found.table.encode(target).expect("what was arranged can be written") {
        written.put_bytes(offset, bytes);
    }
    let read = PartitionTable::read(&written, sector_bytes).expect("what was written can be read");
    let places = |table: &PartitionTable| -> Vec<_> {
        table.entries().iter().map(|entry| (entry.number, entry.extent, entry.type_id.clone())).collect()
    };
    // A boot sector may be a filesystem's on a device of the target's size, and then there is no table.
    assert!(read.kind != found.table.kind || places(&read) == places(&found.table));
});

//! Devices: what they are, what lies on them, who uses them, and reading and writing their bytes.
//!
//! Promise: whoever holds [`ReadAt`] cannot write (I7); no bytes of a device lead to a panic or a large allocation (I6).
//! Knows nothing of chunks, stores or images.
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::indexing_slicing)
)]

pub mod arrange;
mod assembled;
pub mod boot;
mod content;
mod device;
mod double;
mod error;
pub mod files;
mod fs;
mod io;
mod list;
mod map;
mod section;
mod sys;
mod system;
mod table;
#[cfg(test)]
mod testing;
pub mod tools;
mod uses;

pub use assembled::Assembled;
pub use content::{Content, probe};
pub use device::aligned::AlignedBuffer;
pub use device::identity::{DeviceKind, Identity};
pub use device::read::Device;
pub use device::target::Target;
pub use double::{FaultDevice, MemoryDevice};
pub use error::Error;
pub use fs::{
    Allocation, Doubt, Excluded, SectorBound, allocation, allocation_of, check_table, sector_bound,
};
pub use io::{Extent, ReadAt, WriteAt};
pub use list::{DiskInfo, PartitionNode, list};
pub use map::{EXTENTS_MAX, FREE_BYTES_MIN, FreeMap};
pub use section::Section;
pub use system::random_id;
pub use table::gpt::{plan_backup_gpt, relocate_backup_gpt};
pub use table::{Layout, Region, TableKind, Volume};
pub use uses::{Backing, Use, UseKind, backing_devices, is_root_disk, uses};

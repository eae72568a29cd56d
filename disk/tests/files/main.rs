//! Readers of files against the filesystems' own drivers: whole trees with contents and metadata.
//!
//! Filesystems are made by the real `mkfs`, filled through a mount (or mtools), and read by us while the driver's view of the
//! same image is the judge. Some feature sets by default, more with `CAS_ORACLE=all`. A missing tool fails with the package
//! that has it.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in tests: it is nothing else
#![allow(clippy::cast_possible_truncation)] // images fit into memory

mod exfat;
mod ext;
mod fat;
mod fill;
mod hostile;
mod ntfs;
#[allow(dead_code)] // each filesystem needs some of it
#[path = "../../src/testing.rs"]
mod testing;
mod tree;

//! The filesystems' own tools, run by `disk::tools` on volumes full of files: each becomes as small as it can, then three
//! times as large, then somebody else; after each step its own checker is content and every file the same.
//!
//! Promise: the tools are the real ones; a missing one fails with the package that has it. Needs root: loop devices.
//! Knows nothing of disks and partitions.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in tests: it is nothing else

mod btrfs;
mod cycle;
mod ext;
#[allow(dead_code)] // of the oracles' helpers some are needed here
#[path = "../oracle/files.rs"]
mod files;
mod ntfs;
mod small;
#[allow(dead_code)]
#[path = "../../src/testing.rs"]
mod testing;
#[path = "../oracle/tools.rs"]
mod tools;
mod xfs;

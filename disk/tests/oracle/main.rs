//! Filesystem parsers against the filesystems' own tools: what a tool calls used is never free in ours.
//!
//! Images are made by the real `mkfs`, filled, and compared block for block; then all that is free or excluded is
//! overwritten with noise, after which the filesystem's own check must be clean and every file the same. Some
//! combinations by default, hundreds with `CAS_ORACLE=all`. A missing tool fails with the package that has it.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in tests: it is nothing else

mod btrfs;
mod exfat;
mod ext;
mod f2fs;
mod fat;
mod files;
mod lvm;
mod ntfs;
mod swap;
#[allow(dead_code)] // each filesystem needs some of it
#[path = "../../src/testing.rs"]
mod testing;
mod tools;
mod xfs;

//! Readers of files against the kernel: filesystems of many shapes are made, filled, and read twice, by our reader and
//! through a mount; names, metadata, attributes, contents and places must be the same.
//!
//! A few shapes by default, hundreds with `CAS_ORACLE=all`. A missing tool fails with the package that has it.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // as in tests: it is nothing else

mod btrfs;
mod compare;
mod fill;
mod flips;
#[allow(dead_code)] // each filesystem needs some of it
#[path = "../../src/testing.rs"]
mod testing;
mod xfs;
mod xfs4;

/// Whether hundreds of shapes are asked for.
fn all() -> bool {
    std::env::var_os("CAS_ORACLE").is_some_and(|it| it == "all")
}

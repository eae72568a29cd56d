//! Made-up disks and measures, for the benches and for tests that need a disk larger than any at hand.
//!
//! Promise: nothing here reads the disks of the machine.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks to whoever started it")]

pub mod data;
pub mod measure;

//! One file for each command: its options, and `run`, which reads like its table of contents.

pub(crate) mod capture;
pub(crate) mod cat;
pub(crate) mod clone;
pub(crate) mod completions;
pub(crate) mod disks;
pub(crate) mod exit_codes;
pub(crate) mod export;
pub(crate) mod extract;
pub(crate) mod find;
pub(crate) mod forget;
pub(crate) mod gc;
pub(crate) mod images;
pub(crate) mod index;
pub(crate) mod init;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod nbd;
pub(crate) mod plan;
pub(crate) mod protect;
pub(crate) mod restore;
pub(crate) mod scrub;
pub(crate) mod show;
pub(crate) mod stats;
pub(crate) mod undelete;
pub(crate) mod verify;

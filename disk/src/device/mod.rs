//! Devices of this machine: opening, reading, writing, and what they say about themselves.
//!
//! Promise: what is read or written has bypassed or left alone the page cache. Knows nothing of partition tables.

pub(crate) mod aligned;
pub(crate) mod identity;
pub(crate) mod medium;
pub(crate) mod read;
pub(crate) mod target;

#[cfg(test)]
mod tests;

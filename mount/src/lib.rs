//! Devices shown to other programs.
//!
//! Promise: what cannot be read is an error to who asked, never other bytes; whatever a stranger sends, the process lives on.
//! Knows nothing of stores, images or what is on a device.

#![forbid(unsafe_code)]

pub mod nbd;

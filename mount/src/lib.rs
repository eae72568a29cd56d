//! Images and devices shown to other programs as files by FUSE, and as network block devices.
//!
//! Promise: what is read was checked or is an error: never wrong bytes. What was mounted is unmounted when the value that
//! stands for it is dropped, lazily when someone still uses it.
//! Knows nothing of stores, commands or terminals.

#![forbid(unsafe_code)]

mod error;
mod failures;
mod files;
mod images;
pub mod nbd;
mod nodes;
mod server;
mod session;
mod shown;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use failures::Failures;
pub use images::{
    IMAGES_OPEN_MAX, Mounted, MountedImage, MountedLink, MountedVolume, OpenImage, mount_images,
};
pub use shown::{Shown, show, show_read_only};

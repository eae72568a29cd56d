//! System calls that no safe crate offers, one wrapper each.
//!
//! Promise: no logic here, and `unsafe` nowhere else in this crate.
//! Knows nothing of why they are called.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::io::Result;
use rustix::ioctl::{Getter, NoArg, Setter, ioctl};

/// linux include/uapi/linux/fs.h: `_IO(0x12, 95)`.
const BLKRRPART: u32 = 0x125f;
/// linux include/uapi/linux/fs.h: `_IO(0x12, 127)`.
const BLKZEROOUT: u32 = 0x127f;
/// linux include/uapi/linux/loop.h.
const LOOP_GET_STATUS64: u32 = 0x4c05;
/// Size of `struct loop_info64`, linux include/uapi/linux/loop.h.
pub(crate) const LOOP_INFO_BYTES: usize = 232;

/// linux include/uapi/linux/fs.h: `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

/// `struct fsxattr`, linux include/uapi/linux/fs.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct FileFlags {
    /// `FS_XFLAG_*`.
    pub(crate) flags: u32,
    /// A hint: extents of so many bytes.
    pub(crate) extent_bytes: u32,
    extents: u32,
    /// To whose quota it counts.
    pub(crate) project: u32,
    shared_extent_bytes: u32,
    padding: [u8; 8],
}

/// Makes the kernel read the partition table again.
pub(crate) fn reread_partitions(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: BLKRRPART takes no argument and touches no memory of ours.
    unsafe { ioctl(device, NoArg::<BLKRRPART>::new()) }
}

/// Makes `[offset, length]` read as zeros; both must be whole sectors.
pub(crate) fn zero_out(device: BorrowedFd<'_>, span: [u64; 2]) -> Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 from the pointer that Setter passes, and writes nothing there.
    unsafe { ioctl(device, Setter::<BLKZEROOUT, [u64; 2]>::new(span)) }
}

/// The bytes of `struct loop_info64` of a loop device.
pub(crate) fn loop_status(device: BorrowedFd<'_>) -> Result<[u8; LOOP_INFO_BYTES]> {
    // SAFETY: LOOP_GET_STATUS64 fills exactly the 232 bytes of `struct loop_info64`, which may hold any values.
    unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, [u8; LOOP_INFO_BYTES]>::new()) }
}

/// A file's flags.
pub(crate) fn file_flags(file: BorrowedFd<'_>) -> Result<FileFlags> {
    // SAFETY: FS_IOC_FSGETXATTR fills exactly the 28 bytes of `struct fsxattr`, which may hold any values.
    unsafe { ioctl(file, Getter::<FS_IOC_FSGETXATTR, FileFlags>::new()) }
}

/// Sets a file's flags.
pub(crate) fn set_file_flags(file: BorrowedFd<'_>, flags: FileFlags) -> Result<()> {
    // SAFETY: FS_IOC_FSSETXATTR reads exactly the 28 bytes of `struct fsxattr`, and writes nothing there.
    unsafe { ioctl(file, Setter::<FS_IOC_FSSETXATTR, FileFlags>::new(flags)) }
}

//! The two powers over a device: reading it and writing it.
//!
//! Promise: a stored image, a disk and a test double look the same through these traits.
//! Knows nothing of files or kernels.

use crate::Error;

/// A run of bytes on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Extent {
    /// The first byte behind the extent; the largest number when there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }

    /// Whether the two have a byte in common.
    #[must_use]
    pub fn overlaps(&self, other: &Extent) -> bool {
        self.offset.max(other.offset) < self.end().min(other.end())
    }
}

/// Bytes that can be read at any place, by many threads at once.
pub trait ReadAt: Send + Sync {
    /// Size of the device when it was opened.
    fn size_bytes(&self) -> u64;

    /// Fills `buf`, or says why not; the content of `buf` is undefined after an error.
    ///
    /// # Errors
    /// [`Error::Unreadable`]: a smaller read may succeed. [`Error::Gone`]: no other read will.
    /// [`Error::ShortRead`]: the device ends inside the span.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error>;

    /// The next extent at or after `offset` that may hold data; `None` when only holes are left. Without knowledge
    /// of holes, everything is data.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        let bytes = self.size_bytes().saturating_sub(offset);
        Ok((bytes > 0).then_some(Extent { offset, bytes }))
    }

    /// Smallest unit worth retrying on a read error.
    fn sector_bytes(&self) -> u32 {
        512
    }
}

/// Bytes that can be written at any place. Only restores and resizes hold this (I7).
pub trait WriteAt: ReadAt {
    /// Writes all of `buf`.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Gone`], or [`Error::OutOfRange`] before anything is written.
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error>;

    /// Makes the extent read as zeros.
    ///
    /// # Errors
    /// As for [`WriteAt::write_all_at`].
    fn write_zeros_at(&self, extent: Extent) -> Result<(), Error>;

    /// Returns when everything written before would survive a loss of power.
    ///
    /// # Errors
    /// [`Error::Sync`]: what was written since the last success must be written again.
    fn sync(&self) -> Result<(), Error>;
}

macro_rules! read_at_through {
    ($($pointer:ty),*) => {$(
        impl<T: ReadAt + ?Sized> ReadAt for $pointer {
            fn size_bytes(&self) -> u64 {
                (**self).size_bytes()
            }
            fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
                (**self).read_exact_at(offset, buf)
            }
            fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
                (**self).next_data(offset)
            }
            fn sector_bytes(&self) -> u32 {
                (**self).sector_bytes()
            }
        }

        impl<T: WriteAt + ?Sized> WriteAt for $pointer {
            fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error> {
                (**self).write_all_at(offset, buf)
            }
            fn write_zeros_at(&self, extent: Extent) -> Result<(), Error> {
                (**self).write_zeros_at(extent)
            }
            fn sync(&self) -> Result<(), Error> {
                (**self).sync()
            }
        }
    )*};
}
read_at_through!(&T, Box<T>, std::sync::Arc<T>);

//! A part of a device as a device of its own: a partition, an export, a filesystem at an offset.
//!
//! Promise: no read or write leaves the part; errors name the place on the whole device.
//! Knows nothing of what is in it.

use std::path::PathBuf;

use crate::{Error, Extent, ReadAt, WriteAt};

/// One extent of a device; its first byte is at offset 0.
#[derive(Clone, Copy, Debug)]
pub struct Section<D> {
    device: D,
    extent: Extent,
}

impl<D: ReadAt> Section<D> {
    /// The part of `extent` that the device has.
    pub fn new(device: D, extent: Extent) -> Self {
        let bytes = extent.end().min(device.size_bytes()).saturating_sub(extent.offset);
        Self { device, extent: Extent { offset: extent.offset, bytes } }
    }

    /// Where on the device a span of the section lies; an error when it is not inside.
    fn place(&self, offset: u64, bytes: u64) -> Result<u64, Error> {
        let found = self.extent.bytes.saturating_sub(offset);
        match self.extent.offset.checked_add(offset) {
            Some(place) if bytes <= found => Ok(place),
            _ => Err(Error::ShortRead { path: PathBuf::from("section"), offset, expected: bytes, found }),
        }
    }
}

impl<D: ReadAt> ReadAt for Section<D> {
    fn size_bytes(&self) -> u64 {
        self.extent.bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let bytes = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        self.device.read_exact_at(self.place(offset, bytes)?, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        if offset >= self.extent.bytes {
            return Ok(None);
        }
        let found = self.device.next_data(self.place(offset, 0)?)?;
        Ok(found.filter(|data| data.offset < self.extent.end()).map(|data| {
            let end = data.end().min(self.extent.end());
            Extent {
                offset: data.offset.saturating_sub(self.extent.offset),
                bytes: end.saturating_sub(data.offset),
            }
        }))
    }

    fn sector_bytes(&self) -> u32 {
        self.device.sector_bytes()
    }
}

impl<D: WriteAt> WriteAt for Section<D> {
    fn write_all_at(&self, offset: u64, buf: &[u8]) -> Result<(), Error> {
        let bytes = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        self.device.write_all_at(self.place(offset, bytes)?, buf)
    }

    fn write_zeros_at(&self, extent: Extent) -> Result<(), Error> {
        let offset = self.place(extent.offset, extent.bytes)?;
        self.device.write_zeros_at(Extent { offset, bytes: extent.bytes })
    }

    fn sync(&self) -> Result<(), Error> {
        self.device.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDevice;

    #[test]
    fn a_section_is_a_device_and_cannot_be_left() {
        let device = MemoryDevice::new((0..100).collect());
        let section = Section::new(&device, Extent { offset: 10, bytes: 20 });
        let mut buf = [0; 4];
        section.read_exact_at(16, &mut buf).unwrap();
        assert_eq!(buf, [26, 27, 28, 29]);
        assert!(section.read_exact_at(17, &mut buf).is_err());
        assert!(section.read_exact_at(u64::MAX, &mut buf).is_err());
        assert_eq!(section.next_data(5).unwrap(), Some(Extent { offset: 5, bytes: 15 }));
        assert_eq!(section.next_data(20).unwrap(), None);
        section.write_all_at(0, &[1, 2]).unwrap();
        assert!(section.write_zeros_at(Extent { offset: 19, bytes: 2 }).is_err());
        assert_eq!(device.to_vec()[9..13], [9, 1, 2, 12]);
        assert_eq!(Section::new(&device, Extent { offset: 90, bytes: 20 }).size_bytes(), 10);
    }
}

//! A device put together from parts of others and from bytes: a disk as a planned layout will have it.
//!
//! Promise: where nothing was put there are zeros, and a hole; what was put later covers what was put before.
//! Knows nothing of why things are where they are.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Error, Extent, ReadAt};

/// What stands in one place.
#[derive(Clone)]
enum Part {
    /// A device's bytes, from this offset of it on.
    Device(Arc<dyn ReadAt>, u64),
    /// These bytes, from this index on.
    Bytes(Arc<[u8]>, u64),
}

/// A device of a given size, read only.
#[derive(Clone)]
pub struct Assembled {
    size_bytes: u64,
    sector_bytes: u32,
    /// Sorted, disjoint.
    parts: Vec<(Extent, Part)>,
}

impl Assembled {
    /// A device of zeros.
    #[must_use]
    pub fn new(size_bytes: u64, sector_bytes: u32) -> Self {
        Self { size_bytes, sector_bytes, parts: Vec::new() }
    }

    /// Puts `bytes` at `offset`.
    pub fn put_bytes(&mut self, offset: u64, bytes: Vec<u8>) {
        let extent = Extent { offset, bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX) };
        self.put(extent, Part::Bytes(bytes.into(), 0));
    }

    /// Puts what `device` holds from `from` on at `extent`. What it does not have stays as it was.
    pub fn put_device(&mut self, extent: Extent, device: Arc<dyn ReadAt>, from: u64) {
        let bytes = extent.bytes.min(device.size_bytes().saturating_sub(from));
        self.put(Extent { offset: extent.offset, bytes }, Part::Device(device, from));
    }

    fn put(&mut self, extent: Extent, part: Part) {
        let end = extent.end().min(self.size_bytes);
        if extent.offset >= end {
            return;
        }
        let extent = Extent { offset: extent.offset, bytes: end.saturating_sub(extent.offset) };
        let mut parts = Vec::with_capacity(self.parts.len().saturating_add(2));
        for (place, before) in self.parts.drain(..) {
            let keeps = [
                (place.offset, place.end().min(extent.offset)),
                (place.offset.max(extent.end()), place.end()),
            ];
            for (start, end) in keeps.into_iter().filter(|(start, end)| start < end) {
                let kept = Extent { offset: start, bytes: end.saturating_sub(start) };
                parts.push((kept, before.skipped(start.saturating_sub(place.offset))));
            }
        }
        parts.push((extent, part));
        parts.sort_by_key(|(place, _)| *place);
        self.parts = parts;
    }

    /// The parts that end behind `offset`.
    fn behind(&self, offset: u64) -> &[(Extent, Part)] {
        let first = self.parts.partition_point(|(place, _)| place.end() <= offset);
        self.parts.get(first..).unwrap_or_default()
    }
}

impl Part {
    fn skipped(&self, bytes: u64) -> Self {
        match self {
            Self::Device(device, from) => Self::Device(device.clone(), from.saturating_add(bytes)),
            Self::Bytes(all, from) => Self::Bytes(all.clone(), from.saturating_add(bytes)),
        }
    }

    /// Fills `buf` from `skip` bytes into the part on.
    fn read(&self, skip: u64, buf: &mut [u8]) -> Result<(), Error> {
        match self {
            Self::Device(device, from) => device.read_exact_at(from.saturating_add(skip), buf),
            Self::Bytes(all, from) => {
                let start = usize::try_from(from.saturating_add(skip)).unwrap_or(usize::MAX);
                // The caller stays inside the part, which is as long as the bytes.
                if let Some(bytes) = all.get(start..).and_then(|rest| rest.get(..buf.len())) {
                    buf.copy_from_slice(bytes);
                }
                Ok(())
            }
        }
    }
}

impl ReadAt for Assembled {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let expected = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let found = self.size_bytes.saturating_sub(offset);
        if expected > found {
            return Err(Error::ShortRead { path: PathBuf::from("planned disk"), offset, expected, found });
        }
        buf.fill(0);
        let end = offset.saturating_add(expected);
        for (place, part) in self.behind(offset).iter().take_while(|(place, _)| place.offset < end) {
            let (from, to) = (place.offset.max(offset), place.end().min(end));
            let index = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
            if let Some(piece) = buf.get_mut(index(from)..index(to)) {
                part.read(from.saturating_sub(place.offset), piece)?;
            }
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        for (place, part) in self.behind(offset) {
            let start = place.offset.max(offset);
            let data = match part {
                Part::Bytes(..) => Some(Extent { offset: start, bytes: place.end().saturating_sub(start) }),
                Part::Device(device, from) => {
                    let at = from.saturating_add(start.saturating_sub(place.offset));
                    device.next_data(at)?.and_then(|data| {
                        let begin = start.checked_add(data.offset.saturating_sub(at))?;
                        let end = begin.saturating_add(data.bytes).min(place.end());
                        (begin < end).then(|| Extent { offset: begin, bytes: end.saturating_sub(begin) })
                    })
                }
            };
            if data.is_some() {
                return Ok(data);
            }
        }
        Ok(None)
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MemoryDevice;

    proptest! {
        #[test]
        fn the_last_put_counts_and_holes_are_zeros(
            puts in prop::collection::vec((0usize..900, 1usize..300, any::<bool>(), 0usize..50), 0..12),
            reads in prop::collection::vec((0usize..1000, 0usize..400), 1..10),
        ) {
            let mut plain = vec![0_u8; 1000];
            let mut assembled = Assembled::new(1000, 512);
            for ((at, length, is_device, from), seed) in puts.into_iter().zip(1_u8..) {
                let bytes: Vec<u8> = (1..=250).cycle().map(|it: u8| it ^ seed | 1).take(length + from).collect();
                let end = 1000.min(at + length);
                plain[at..end].copy_from_slice(&bytes[from..from + end - at]);
                if is_device {
                    let place = Extent { offset: at as u64, bytes: length as u64 };
                    assembled.put_device(place, Arc::new(MemoryDevice::new(bytes)), from as u64);
                } else {
                    assembled.put_bytes(at as u64, bytes[from..].to_vec());
                }
            }
            for (at, length) in reads {
                let length = length.min(1000 - at);
                let mut buf = vec![9; length];
                assembled.read_exact_at(at as u64, &mut buf).unwrap();
                prop_assert_eq!(&buf, &plain[at..at + length]);
                let data = assembled.next_data(at as u64).unwrap();
                let start = data.map_or(1000, |data| usize::try_from(data.offset).unwrap());
                prop_assert!(start >= at && plain[at..start].iter().all(|byte| *byte == 0));
                prop_assert!(data.is_none_or(|data| data.bytes > 0 && data.end() <= 1000));
            }
        }
    }

    #[test]
    fn a_read_behind_the_end_is_an_error() {
        let assembled = Assembled::new(1000, 512);
        assert!(assembled.read_exact_at(999, &mut [0; 2]).is_err());
        assert!(assembled.read_exact_at(u64::MAX, &mut [0; 2]).is_err());
    }
}

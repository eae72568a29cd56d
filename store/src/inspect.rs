//! One pack looked at whole: its name against its bytes, its listing, each of its blobs (DESIGN §5.7).
//!
//! Promise: read once, in order, a window at a time, each hashed and its blobs tried while they are in the processor's
//! cache; memory is a window and the largest blob, whatever the size of the pack. All that is wrong is told, not the
//! first of it. Knows nothing of images or of what is done about damage.

use crate::Error;
use crate::error::line;
use crate::id::{ChunkId, PackId};
use crate::objects::{Objects, pack_name};
use crate::pack::{self, PACK_BYTES_MAX, PackEntry};
use std::ops::Range;

/// What is read at once: as large as a processor's own cache. A power of two, as hashing is fastest on such borders.
const WINDOW_BYTES: u64 = 1 << 20;

/// What reading one pack showed.
pub(crate) struct Checked {
    pub(crate) pack: PackId,
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
    pub(crate) errors: Vec<String>,
    /// Chunks whose blobs are damaged.
    pub(crate) bad: Vec<ChunkId>,
}

/// Reads one pack whole and tries every blob of it.
pub(crate) fn check_pack(objects: &Objects, pack: PackId, listed_bytes: u64) -> Checked {
    let mut checked = Checked { pack, bytes: listed_bytes, chunks: 0, errors: Vec::new(), bad: Vec::new() };
    // A file that can't be read is damage to find, not a reason to stop looking.
    if let Err(error) = read_pack(objects, pack, &mut checked) {
        checked.errors.push(line(&error));
    }
    checked
}

fn read_pack(objects: &Objects, pack: PackId, checked: &mut Checked) -> Result<(), Error> {
    let name = pack_name(pack);
    let bytes = objects.pack_size(pack)?;
    let entries = match objects.listing(pack, bytes) {
        Ok(entries) => entries,
        Err(error) if error.family() == crate::Family::Damaged => {
            checked.errors.push(line(&error));
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    checked.chunks = entries.len() as u64;
    let mut hasher = blake3::Hasher::new();
    let mut blobs = Blobs { entries: &entries, begun: Vec::new() };
    let mut start = 0;
    while start < bytes {
        let window = start..bytes.min(start + WINDOW_BYTES);
        let read = objects.get_range(&name, start, window.end - start)?;
        hasher.update(&read);
        blobs.take_in(&window, &read, checked);
        start = window.end;
    }
    // The name proves the bytes; the blobs are tried all the same, so that a bad writer is found too.
    if *hasher.finalize().as_bytes() != pack.0 {
        checked.errors.insert(0, format!("pack {}: name is not the hash of its bytes", pack.short()));
    }
    Ok(())
}

/// The blobs that are not tried yet.
struct Blobs<'a> {
    entries: &'a [PackEntry],
    /// What earlier windows held of the first of them.
    begun: Vec<u8>,
}

impl Blobs<'_> {
    /// Tries all blobs that end in this window.
    fn take_in(&mut self, window: &Range<u64>, read: &[u8], checked: &mut Checked) {
        while let Some((entry, rest)) = self.entries.split_first() {
            let start = u64::from(entry.offset);
            let end = start + u64::from(entry.stored_bytes);
            if start >= window.end {
                return;
            }
            // Both within the window, whose length fits memory.
            let place = |at: u64| usize::try_from(at - window.start).unwrap_or(usize::MAX);
            let part = read.get(place(start.max(window.start))..place(end.min(window.end))).unwrap_or(&[]);
            if end > window.end {
                return self.begun.extend_from_slice(part);
            }
            let tried = if self.begun.is_empty() {
                pack::check_blob(part, entry)
            } else {
                self.begun.extend_from_slice(part);
                pack::check_blob(&self.begun, entry)
            };
            if let Err(error) = tried {
                checked.errors.push(line(&error));
                checked.bad.push(entry.id);
            }
            self.begun.clear();
            self.entries = rest;
        }
    }
}

impl Objects {
    /// The size of a pack's file; an error when it is none, or too large to be one.
    fn pack_size(&self, pack: PackId) -> Result<u64, Error> {
        use crate::backend::Error as Cause;
        let name = pack_name(pack);
        let size = self.backend.size(&name).map_err(|source| self.fail(source))?;
        let bytes = size.ok_or_else(|| self.fail(Cause::NotFound { name: name.clone() }))?;
        if bytes > PACK_BYTES_MAX {
            return Err(self.fail(Cause::TooLarge { name, bytes, limit: PACK_BYTES_MAX }));
        }
        Ok(bytes)
    }
}

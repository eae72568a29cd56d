//! The head of an overlay's file, and the log of what became of its blocks. Format: DESIGN.md §6.5.
//!
//! Promise: a change that [`Log::append`] returned for is found again, whatever happens later; half an append is found
//! not to be one. Any bytes give a log or an error, in memory that does not depend on them (I6).
//! Knows nothing of the blocks' contents.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::map::Kind;
use super::{BLOCK_BYTES, OverlayProblem};
use crate::Error;

/// The head takes a block, so that the blocks behind it are aligned.
pub(super) const HEAD_BYTES: u64 = BLOCK_BYTES;

const HEAD_MAGIC: [u8; 8] = *b"CASOVLY1";
const HEAD_NAME_AT: usize = 40;
const HEAD_SUM_AT: usize = 4092;
/// What fits between the other fields.
const NAME_BYTES_MAX: usize = HEAD_SUM_AT - HEAD_NAME_AT;

const BATCH_MAGIC: [u8; 8] = *b"CASOVLOG";
const BATCH_HEAD_BYTES: usize = 32;
const RECORD_BYTES: usize = 16;

/// Changes in a batch, so that a torn one is small enough to be looked through: 64 KiB.
pub(super) const BATCH_CHANGES_MAX: usize = 4096;

/// The longest batch, and so the longest tail that a power cut can leave: the next one is begun when this one is synced.
const BATCH_BYTES_MAX: u64 = (BATCH_HEAD_BYTES + BATCH_CHANGES_MAX * RECORD_BYTES) as u64;

/// What the head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) size_bytes: u64,
    pub(super) base_bytes: u64,
    pub(super) base_name: String,
}

impl Head {
    /// Where the log begins: behind the place of the last block.
    pub(super) fn log_offset(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES).saturating_add(HEAD_BYTES)
    }

    /// `None` when the name is too long.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HEAD_SUM_AT];
        bytes[..8].copy_from_slice(&HEAD_MAGIC);
        bytes[8..12].copy_from_slice(&BLOCK_BYTES.to_le_bytes()[..4]);
        bytes[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.base_bytes.to_le_bytes());
        bytes[32..34].copy_from_slice(&u16::try_from(self.base_name.len()).ok()?.to_le_bytes());
        bytes
            .get_mut(HEAD_NAME_AT..)?
            .get_mut(..self.base_name.len())?
            .copy_from_slice(self.base_name.as_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes.extend(sum.to_le_bytes());
        Some(bytes)
    }

    /// The head that `bytes`, all of it, are.
    pub(super) fn decode(bytes: &[u8]) -> Result<Head, OverlayProblem> {
        if bytes.len() as u64 != HEAD_BYTES || bytes[..7] != HEAD_MAGIC[..7] {
            return Err(OverlayProblem::NoOverlay);
        }
        let version = bytes[7];
        if version != HEAD_MAGIC[7] {
            return Err(OverlayProblem::Version { found: version });
        }
        if crc32fast::hash(&bytes[..HEAD_SUM_AT]) != u32_at(bytes, HEAD_SUM_AT) {
            return Err(OverlayProblem::Head);
        }
        let name_bytes = usize::from(u16::from_le_bytes([bytes[32], bytes[33]]));
        let name = bytes[HEAD_NAME_AT..HEAD_NAME_AT + NAME_BYTES_MAX].get(..name_bytes);
        let head = Head {
            size_bytes: u64_at(bytes, 16),
            base_bytes: u64_at(bytes, 24),
            base_name: String::from_utf8(name.ok_or(OverlayProblem::Head)?.to_vec())
                .map_err(|_| OverlayProblem::Head)?,
        };
        // Reserved bytes, the length of blocks, all of it: a head that says the same is the same.
        match head.size_bytes < 1 << 62 && head.encode().as_deref() == Some(bytes) {
            true => Ok(head),
            false => Err(OverlayProblem::Head),
        }
    }
}

/// What became of some blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) blocks: Range<u64>,
    pub(super) kind: Kind,
}

/// Where the log goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Log {
    end: u64,
    sequence: u64,
    /// Whether an empty batch came last: whoever wrote before has closed the file.
    is_closed: bool,
}

impl Log {
    /// Goes through the log, and cuts off what a power cut left of its last batch.
    pub(super) fn open(
        file: &File,
        path: &Path,
        head: &Head,
        each: &mut dyn FnMut(Change),
    ) -> Result<Log, Error> {
        let file_bytes = file.metadata().map_err(|e| Error::overlay_io(path, "read", e))?.len();
        let mut log = Log { end: head.log_offset(), sequence: 0, is_closed: false };
        let blocks = head.size_bytes.div_ceil(BLOCK_BYTES);
        while let Some(changes) = log.batch_at(file, log.end, log.sequence..log.sequence + 1, path)? {
            for record in changes.chunks_exact(RECORD_BYTES) {
                each(
                    decode_record(record, blocks).ok_or_else(|| {
                        Error::overlay_problem(path, OverlayProblem::Log { offset: log.end })
                    })?,
                );
            }
            log.is_closed = changes.is_empty();
            log.sequence += 1;
            log.end += (BATCH_HEAD_BYTES + changes.len()) as u64;
        }
        let tail_bytes = file_bytes.saturating_sub(log.end);
        if tail_bytes > BATCH_BYTES_MAX || log.goes_on(file, file_bytes, path)? {
            return Err(Error::overlay_problem(path, OverlayProblem::Log { offset: log.end }));
        }
        if tail_bytes > 0 {
            file.set_len(log.end)
                .and_then(|()| file.sync_all())
                .map_err(|e| Error::overlay_io(path, "cut", e))?;
        }
        Ok(log)
    }

    /// Whether a whole batch stands behind the place where there is none: then it is not a torn end, but damage.
    fn goes_on(&self, file: &File, file_bytes: u64, path: &Path) -> Result<bool, Error> {
        let mut at = self.end + RECORD_BYTES as u64;
        while at + BATCH_HEAD_BYTES as u64 <= file_bytes {
            if self.batch_at(file, at, self.sequence + 1..u64::MAX, path)?.is_some() {
                return Ok(true);
            }
            at += RECORD_BYTES as u64;
        }
        Ok(false)
    }

    /// The records of the batch at `offset`, if there is a whole one with such a number.
    fn batch_at(
        &self,
        file: &File,
        offset: u64,
        sequence: Range<u64>,
        path: &Path,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut head = [0; BATCH_HEAD_BYTES];
        if !read_whole(file, &mut head, offset, path)? || head[..8] != BATCH_MAGIC {
            return Ok(None);
        }
        let count = u32_at(&head, 16) as usize;
        if !sequence.contains(&u64_at(&head, 8)) || count > BATCH_CHANGES_MAX || head[24..] != [0; 8] {
            return Ok(None);
        }
        let mut records = vec![0; count * RECORD_BYTES];
        let is_whole = read_whole(file, &mut records, offset + BATCH_HEAD_BYTES as u64, path)?;
        Ok((is_whole && batch_sum(&head, &records) == u32_at(&head, 20)).then_some(records))
    }

    /// Writes the changes, and returns when they would survive a loss of power.
    pub(super) fn append(&mut self, file: &File, changes: &[Change]) -> io::Result<()> {
        let mut records = Vec::new();
        for change in changes {
            encode_record(change, &mut records);
        }
        for batch in records.chunks(BATCH_CHANGES_MAX * RECORD_BYTES) {
            self.append_batch(file, batch)?;
        }
        Ok(())
    }

    /// Says that the log is complete, so that damage to its last batch is not taken for a power cut.
    pub(super) fn close(&mut self, file: &File) -> io::Result<()> {
        match self.is_closed || self.sequence == 0 {
            true => Ok(()),
            false => self.append_batch(file, &[]),
        }
    }

    fn append_batch(&mut self, file: &File, records: &[u8]) -> io::Result<()> {
        let mut bytes = vec![0; BATCH_HEAD_BYTES];
        bytes[..8].copy_from_slice(&BATCH_MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        // At most 4096.
        let count = u32::try_from(records.len() / RECORD_BYTES).unwrap_or(u32::MAX);
        bytes[16..20].copy_from_slice(&count.to_le_bytes());
        let sum = batch_sum(&bytes, records);
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        bytes.extend(records);
        file.write_all_at(&bytes, self.end)?;
        file.sync_data()?;
        self.end += bytes.len() as u64;
        self.sequence += 1;
        self.is_closed = records.is_empty();
        Ok(())
    }
}

/// Over the head but for the sum itself, and the records.
fn batch_sum(head: &[u8], records: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head[..20]);
    sum.update(records);
    sum.finalize()
}

/// One record, or more where there are too many blocks for one.
fn encode_record(change: &Change, records: &mut Vec<u8>) {
    let kind = match change.kind {
        // Never written: blocks do not go back.
        Kind::Base => 0,
        Kind::Data => 1,
        Kind::Zeros => 2,
    };
    let mut first = change.blocks.start;
    while first < change.blocks.end {
        let count = u32::try_from(change.blocks.end - first).unwrap_or(u32::MAX);
        records.extend(first.to_le_bytes());
        records.extend(count.to_le_bytes());
        records.extend([kind, 0, 0, 0]);
        first += u64::from(count);
    }
}

fn decode_record(record: &[u8], blocks: u64) -> Option<Change> {
    let kind = match record[12..] {
        [1, 0, 0, 0] => Kind::Data,
        [2, 0, 0, 0] => Kind::Zeros,
        _ => return None,
    };
    let first = u64_at(record, 0);
    let end = first.checked_add(u64::from(u32_at(record, 8)))?;
    (first < end && end <= blocks).then_some(Change { blocks: first..end, kind })
}

/// Whether the file has that many bytes there.
fn read_whole(file: &File, buf: &mut [u8], offset: u64, path: &Path) -> Result<bool, Error> {
    match file.read_exact_at(buf, offset) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(Error::overlay_io(path, "read", e)),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::in_memory;

    fn head() -> Head {
        Head { size_bytes: 100 * BLOCK_BYTES - 512, base_bytes: 7, base_name: "a name".into() }
    }

    fn open(file: &File) -> Result<(Log, Vec<Change>), Error> {
        let mut changes = Vec::new();
        let log = Log::open(file, Path::new("x"), &head(), &mut |change| changes.push(change))?;
        Ok((log, changes))
    }

    fn with_batches(batches: &[Vec<Change>]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(head().log_offset()).unwrap();
        let (mut log, _) = open(&file).unwrap();
        for batch in batches {
            log.append(&file, batch).unwrap();
        }
        file
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let change = (0u64..99, any::<bool>()).prop_flat_map(|(first, data)| {
            let kind = if data { Kind::Data } else { Kind::Zeros };
            (first + 1..=100).prop_map(move |end| Change { blocks: first..end, kind })
        });
        prop::collection::vec(change, 1..20)
    }

    proptest! {
        #[test]
        fn heads_come_back_and_no_flipped_bit_does(
            size_bytes in 0u64..1 << 62, base_bytes: u64, base_name in ".{0,60}", at in 0usize..4096, bit in 0u32..8,
        ) {
            let head = Head { size_bytes, base_bytes, base_name };
            let mut bytes = head.encode().unwrap();
            prop_assert_eq!(Head::decode(&bytes).unwrap(), head);
            bytes[at] ^= 1 << bit;
            prop_assert!(Head::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_a_head_or_not(bytes in prop::collection::vec(any::<u8>(), 4096)) {
            prop_assert!(Head::decode(&bytes).is_err());
        }

        #[test]
        fn a_torn_batch_is_none_and_a_damaged_one_is_told(
            batches in prop::collection::vec(changes(), 1..5), damage: prop::sample::Index, bit in 0u32..8, cut: bool,
        ) {
            let file = with_batches(&batches);
            let log_offset = head().log_offset();
            let (log, found) = open(&file).unwrap();
            prop_assert_eq!(found, batches.concat());
            let at = log_offset + damage.index(in_memory(log.end - log_offset)) as u64;
            if cut {
                file.set_len(at).unwrap();
            } else {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
            }
            let mut whole = 0;
            let mut end = log_offset;
            for batch in &batches {
                end += (BATCH_HEAD_BYTES + batch.len() * RECORD_BYTES) as u64;
                whole += usize::from(end <= at);
            }
            match open(&file) {
                Ok((log, found)) => {
                    prop_assert!(cut || whole == batches.len() - 1);
                    prop_assert_eq!(found, batches[..whole].concat());
                    prop_assert_eq!(file.metadata().unwrap().len(), log.end);
                }
                Err(error) => {
                    prop_assert!(!cut && whole < batches.len() - 1, "{}", error);
                    prop_assert_eq!(error.family(), crate::Family::Damaged);
                }
            }
        }

        #[test]
        fn any_bytes_are_a_log_or_not(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let file = with_batches(&[]);
            file.write_all_at(&bytes, head().log_offset()).unwrap();
            prop_assert!(open(&file).is_ok_and(|(_, changes)| changes.is_empty()));
        }
    }

    #[test]
    fn a_closed_log_has_no_torn_end() {
        let change = Change { blocks: 3..5, kind: Kind::Data };
        let file = with_batches(&[vec![change.clone()]]);
        let (mut log, _) = open(&file).unwrap();
        log.close(&file).unwrap();
        log.close(&file).unwrap();
        let (log, found) = open(&file).unwrap();
        assert_eq!((log.is_closed, log.sequence, found), (true, 2, vec![change]));
        file.write_all_at(&[0xff], head().log_offset() + 40).unwrap();
        assert_eq!(open(&file).unwrap_err().family(), crate::Family::Damaged);
    }

    #[test]
    fn changes_outside_and_long_tails_are_damage() {
        let file = with_batches(&[vec![Change { blocks: 99..101, kind: Kind::Data }]]);
        assert_eq!(open(&file).unwrap_err().family(), crate::Family::Damaged);
        let file = with_batches(&[]);
        file.set_len(head().log_offset() + BATCH_BYTES_MAX + 1).unwrap();
        assert_eq!(open(&file).unwrap_err().family(), crate::Family::Damaged);
    }

    #[test]
    fn long_extents_take_several_records() {
        let mut records = Vec::new();
        encode_record(&Change { blocks: 1..(1 << 33) + 1, kind: Kind::Zeros }, &mut records);
        let decoded = records.chunks_exact(RECORD_BYTES).map(|it| decode_record(it, 1 << 34).unwrap().blocks);
        let max = u64::from(u32::MAX);
        assert_eq!(
            decoded.collect::<Vec<_>>(),
            [1..max + 1, max + 1..2 * max + 1, 2 * max + 1..(1 << 33) + 1]
        );
    }
}

//! A partition table as a value: what it says, and all that must be kept to write it again, elsewhere.
//!
//! Promise: what is not understood (names, attributes, boot code, unused entries) is kept byte for byte.
//! Knows nothing of where partitions should be.

use crate::Extent;
use crate::arrange::error::Unfit;
use crate::arrange::{Geometry, gpt, mbr, types};
use crate::table::gpt::{HEADER_BYTES, Kept, guid, sealed};
use crate::table::mbr::RECORD_BYTES;
use crate::table::{TableKind, overwrite};

/// Entries of a new GPT: UEFI 2.10 §5.3.1 reserves 16 KiB for them at least.
pub(super) const NEW_GPT_ENTRIES: u32 = 128;
/// Length of one.
pub(super) const NEW_GPT_ENTRY_BYTES: u32 = 128;
/// Fields of a GPT header and entry that are changed here: UEFI 2.10 §5.3.2 table 5.5, §5.3.3 table 5.6.
pub(super) const DISK_GUID: usize = 56;
pub(super) const ENTRY_GUID: usize = 16;
/// The signature of an MBR: UEFI 2.10 §5.2.1.
pub(super) const SIGNATURE: usize = 440;

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTable {
    /// Kind of table.
    pub kind: TableKind,
    /// Size of the sectors that it counts in.
    pub sector_bytes: u32,
    /// By number.
    pub(super) entries: Vec<Entry>,
    /// Sector 0.
    pub(super) boot: Vec<u8>,
    /// What else a GPT holds.
    pub(super) gpt: Option<Kept>,
    /// The extended partition of an MBR.
    pub(super) extended: Option<Extended>,
}

/// The container of logical partitions. It begins where the record before the first of them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    /// Its number, 1 to 4.
    pub(super) number: u32,
    /// The first byte behind it.
    pub(super) end: u64,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number by which the kernel calls it.
    pub number: u32,
    /// Where it lies.
    pub extent: Extent,
    /// Type GUID, or `0x83`.
    pub type_id: String,
    /// As in `PARTUUID=`.
    pub uuid: String,
    /// Partition name (GPT).
    pub name: Option<String>,
    /// Active flag (MBR), legacy BIOS bootable (GPT).
    pub bootable: bool,
    /// Whether it lies in an extended partition.
    pub logical: bool,
    /// The bytes of its entry; of a logical one the whole record, its own entry the first.
    pub(super) raw: Vec<u8>,
    /// Of logical ones: bytes before it that belong to it, as a record lies there.
    pub(super) lead: u64,
}

impl PartitionTable {
    /// The partitions, by number.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The disk's identity, as in `PTUUID=`.
    #[must_use]
    pub fn disk_id(&self) -> Option<String> {
        match (self.kind, &self.gpt) {
            (TableKind::Gpt, Some(kept)) => Some(guid(kept.header.get(DISK_GUID..)?.first_chunk()?)),
            (TableKind::Mbr, _) => self.signature().map(|signature| format!("{signature:08x}")),
            _ => None,
        }
    }

    fn signature(&self) -> Option<u32> {
        Some(u32::from_le_bytes(*self.boot.get(SIGNATURE..)?.first_chunk()?))
    }

    /// A new GPT with nothing in it.
    pub fn empty_gpt(sector_bytes: u32, random: &mut dyn FnMut() -> [u8; 16]) -> Self {
        let sector_bytes = crate::table::sane(sector_bytes);
        let sector = usize::try_from(sector_bytes).unwrap_or(RECORD_BYTES);
        let mut boot = vec![0; sector];
        overwrite(&mut boot, RECORD_BYTES.saturating_sub(2), &[0x55, 0xaa]);
        Self {
            kind: TableKind::Gpt,
            sector_bytes,
            entries: Vec::new(),
            boot,
            gpt: Some(empty_kept(sector, types::random_guid(random))),
            extended: None,
        }
    }

    /// Everything to write on a target: sector 0 with the source's boot code, and a GPT's two copies or an MBR's
    /// chain of records. Offsets and bytes, whole sectors, in the order in which they are safe to write: sector 0 last.
    ///
    /// # Errors
    /// When a partition is not on borders of the target's sectors, or out of reach.
    pub fn encode(&self, target: Geometry) -> Result<Vec<(u64, Vec<u8>)>, Unfit> {
        target.check()?;
        match (self.kind, &self.gpt) {
            (TableKind::Gpt, Some(kept)) => gpt::encode(self, kept, target),
            (TableKind::Mbr, _) => mbr::encode(self, target),
            _ => Err(Unfit::NoTable),
        }
    }

    /// Gives disk and partitions new identities. Pairs of what they were and what they are, as `PTUUID=` and
    /// `PARTUUID=` spell them, the disk's first.
    pub fn new_ids(&mut self, random: &mut dyn FnMut() -> [u8; 16]) -> Vec<(String, String)> {
        let before = self.ids();
        match (self.kind, &mut self.gpt) {
            (TableKind::Gpt, Some(kept)) => {
                let id = types::random_guid(random);
                kept.header = sealed(&kept.header, [(DISK_GUID, id.as_slice())]);
                for entry in &mut self.entries {
                    entry.set_guid(types::random_guid(random));
                }
            }
            (TableKind::Mbr, _) => {
                let mut signature = before_differs(self.signature(), random);
                overwrite(&mut self.boot, SIGNATURE, &signature.to_le_bytes());
                signature = self.signature().unwrap_or(signature);
                for entry in &mut self.entries {
                    entry.uuid = mbr_uuid(signature, entry.number);
                }
            }
            _ => {}
        }
        before.into_iter().zip(self.ids()).collect()
    }

    /// The disk's identity, then the partitions'.
    pub(super) fn ids(&self) -> Vec<String> {
        self.disk_id().into_iter().chain(self.entries.iter().map(|entry| entry.uuid.clone())).collect()
    }

    /// MBR: spells the partitions' identities anew, as they follow from number and signature.
    pub(super) fn spell_ids(&mut self) {
        let signature = self.signature().unwrap_or(0);
        for entry in &mut self.entries {
            entry.uuid = mbr_uuid(signature, entry.number);
        }
    }

    /// Indices of the entries, in order of place.
    pub(super) fn by_place(&self) -> Vec<usize> {
        let mut order: Vec<(Extent, usize)> =
            self.entries.iter().enumerate().map(|(index, entry)| (entry.extent, index)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, index)| index).collect()
    }

    /// The first byte that belongs to a partition, its record included.
    pub(super) fn first_byte(&self) -> Option<u64> {
        self.entries.iter().map(Entry::begin).min()
    }
}

impl Entry {
    /// The first byte of the partition, or of the record before it.
    pub(super) fn begin(&self) -> u64 {
        self.extent.offset.saturating_sub(self.lead)
    }

    /// GPT: gives the partition an identity.
    pub(super) fn set_guid(&mut self, id: [u8; 16]) {
        overwrite(&mut self.raw, ENTRY_GUID, &id);
        self.uuid = guid(&id);
    }
}

/// As the kernel spells it (block/partitions/msdos.c).
pub(super) fn mbr_uuid(signature: u32, number: u32) -> String {
    format!("{signature:08x}-{number:02x}")
}

/// A random number that is neither 0, which means none, nor the one before.
fn before_differs(before: Option<u32>, random: &mut dyn FnMut() -> [u8; 16]) -> u32 {
    let [a, b, c, d, ..] = random();
    let mut signature = u32::from_le_bytes([a, b, c, d]);
    while signature == 0 || Some(signature) == before {
        signature = signature.wrapping_add(1);
    }
    signature
}

fn empty_kept(sector: usize, id: [u8; 16]) -> Kept {
    let mut header = vec![0; sector];
    let header_bytes = u32::try_from(HEADER_BYTES).unwrap_or(0).to_le_bytes();
    // UEFI 2.10 §5.3.2 table 5.5: signature, revision 1.0, length; the rest is set when it is written.
    overwrite(&mut header, 0, b"EFI PART\0\0\x01\0");
    overwrite(&mut header, 12, &header_bytes);
    overwrite(&mut header, DISK_GUID, &id);
    overwrite(&mut header, 80, &NEW_GPT_ENTRIES.to_le_bytes());
    overwrite(&mut header, 84, &NEW_GPT_ENTRY_BYTES.to_le_bytes());
    let slot_bytes = usize::try_from(NEW_GPT_ENTRY_BYTES).unwrap_or(0);
    let slots = usize::try_from(NEW_GPT_ENTRIES).unwrap_or(0).saturating_mul(slot_bytes);
    Kept {
        header,
        slots: vec![0; slots],
        slot_bytes,
        entries_lba: crate::table::gpt::PRIMARY_ENTRIES_LBA,
        first_usable_lba: 0,
    }
}

//! One file: all its attributes, wherever its records are, with parts put together.
//!
//! Promise: bounded memory: at most [`RECORDS_MAX`] records make up a file.
//! Knows nothing of what the attributes mean.

use super::super::fault::Fault;
use crate::fs::Doubt;
use crate::fs::ntfs::mft::Mft;
use crate::fs::ntfs::record::Record;
use crate::fs::ntfs::stream::Stream;
use crate::fs::view::Fields;

/// Kinds of attributes: layout.h, `ATTR_TYPES`.
pub(super) const STANDARD_INFORMATION: u32 = 0x10;
pub(super) const FILE_NAME: u32 = 0x30;
pub(super) const REPARSE_POINT: u32 = 0xc0;
/// Parts of a file with ten million pieces.
const RECORDS_MAX: usize = 1 << 14;
/// In a name: which kind of name it is; short ones for DOS go with a long one.
const NAMESPACE: usize = 65;
const DOS: u8 = 2;

/// One attribute.
#[derive(Debug)]
pub(super) struct Attribute {
    pub(super) kind: u32,
    /// UTF-16.
    pub(super) name: Vec<u8>,
    pub(super) value: Stream,
}

/// A file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) is_folder: bool,
    pub(super) attributes: Vec<Attribute>,
}

impl File {
    pub(super) fn load(mft: &Mft<'_>, reference: u64) -> Result<Self, Fault> {
        let base = mft.referred(reference)?;
        if base.base()?.is_some() {
            return Err(Fault::NotFound);
        }
        let others = mft.other_records(&base)?;
        if others.len() > RECORDS_MAX {
            return Err(Fault::Unsupported("a file in so many parts"));
        }
        let is_folder = base.is_directory()?;
        let mut records = vec![base];
        for other in others {
            let part = records.first().map(|base| mft.part_of(base, other));
            records.extend(part.transpose()?);
        }
        Ok(Self { is_folder, attributes: attributes(mft, &records)? })
    }

    /// The value of an attribute by kind and name (UTF-16).
    pub(super) fn value(&self, kind: u32, name: &[u8]) -> Option<&Stream> {
        let found = self.attributes.iter().find(|it| it.kind == kind && it.name == name);
        found.map(|attribute| &attribute.value)
    }

    /// The value of one that is always inside.
    pub(super) fn inside(&self, kind: u32) -> Option<&[u8]> {
        self.value(kind, b"").and_then(Stream::inside)
    }

    /// How many names it has.
    pub(super) fn links(&self) -> u32 {
        let is_long = |value: &Stream| {
            value.inside().and_then(|name| name.byte(NAMESPACE).ok()).is_some_and(|kind| kind != DOS)
        };
        let names = self.attributes.iter().filter(|it| it.kind == FILE_NAME && is_long(&it.value));
        u32::try_from(names.count()).unwrap_or(u32::MAX)
    }
}

/// Attributes of one kind and name whose runs continue each other are one.
fn attributes(mft: &Mft<'_>, records: &[Record]) -> Result<Vec<Attribute>, Fault> {
    let mut parts = Vec::new();
    for record in records {
        for part in record.attributes()? {
            let first = if part.has_runs()? { part.first()? } else { 0 };
            parts.push((part.kind()?, part.name()?.to_vec(), first, part));
        }
    }
    // Stable: names of a file, which have the same kind and no name, keep their order.
    parts.sort_by(|one, other| (one.0, &one.1, one.2).cmp(&(other.0, &other.1, other.2)));
    let mut attributes: Vec<Attribute> = Vec::new();
    for (kind, name, first, part) in parts {
        match attributes.last_mut() {
            Some(last) if first > 0 && last.kind == kind && last.name == name => {
                last.value.extend(&part, mft.boot())?;
            }
            _ if first > 0 => {
                return Err(Doubt::Impossible { place: "first part of an attribute", found: first }.into());
            }
            _ => attributes.push(Attribute { kind, name, value: Stream::of(&part, mft.boot())? }),
        }
    }
    for attribute in &attributes {
        attribute.value.check_complete(mft.boot())?;
    }
    Ok(attributes)
}

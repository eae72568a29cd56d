//! Why a layout can't be, and what is to be said of one that can.
//!
//! Promise: the partition first, then what was expected, then what was found. Knows nothing of how it was decided.

use std::fmt;

/// Why partitions can't be arranged as wished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The target is too small for these wishes.
    #[error("the target has {has} bytes, the partitions need {needed}")]
    TooSmall {
        /// Size of the smallest target on which these wishes can be met.
        needed: u64,
        /// Size of this one.
        has: u64,
    },
    /// 32-bit sector numbers do not reach that far.
    #[error(
        "an mbr reaches {limit} bytes, the partitions need {needed}: they would fit with a gpt (--to-gpt)"
    )]
    BeyondMbr {
        /// How far the partitions reach.
        needed: u64,
        /// How far an MBR does.
        limit: u64,
    },
    /// A content counts in sectors of another size than the target has.
    #[error("partition {number}: its content is bound to sectors of {bound} bytes, the target has {target}")]
    SectorBound {
        /// The partition.
        number: u32,
        /// Sector size of the content.
        bound: u32,
        /// Sector size of the target.
        target: u32,
    },
    /// Sectors that no disk has.
    #[error("sectors of {sector_bytes} bytes: expected a power of two from 512 to 65536")]
    SectorSize {
        /// The size given.
        sector_bytes: u32,
    },
    /// The device has no table to arrange.
    #[error("there is no partition table")]
    NoTable,
    /// A wish names a partition that is not there.
    #[error("partition {number}: there is none of this number")]
    NoSuchPartition {
        /// The number.
        number: u32,
    },
    /// The table says things that would be lost, or go wrong, if it were written anew.
    #[error("partition table: expected one that can be written anew, found: {oddity}")]
    Odd {
        /// What is odd, in the words of [`crate::Layout::warnings`].
        oddity: String,
    },
    /// The table can't be read.
    #[error("partition table: cannot read")]
    Read {
        /// The cause.
        source: crate::Error,
    },
    /// `--to-gpt` does not know what to call a partition.
    #[error("partition {number}: type {type_id} has no counterpart in a gpt")]
    NoGptType {
        /// The partition.
        number: u32,
        /// Its type.
        type_id: String,
    },
    /// A layout file makes a partition smaller than its content can become.
    #[error("partition {number}: its content needs {needed} bytes, the layout file gives it {given}")]
    BelowMinimum {
        /// The partition.
        number: u32,
        /// What the content needs.
        needed: u64,
        /// What the file says.
        given: u64,
    },
    /// A layout file makes a partition larger than its content can become.
    #[error("partition {number}: its content can have {most} bytes, the layout file gives it {given}")]
    AboveMaximum {
        /// The partition.
        number: u32,
        /// How large the content can become.
        most: u64,
        /// What the file says.
        given: u64,
    },
    /// A layout file puts a partition where another one is, or out of order.
    #[error(
        "partition {number}: expected a start of byte {free_from} or later, the layout file says {start}"
    )]
    Occupied {
        /// The partition.
        number: u32,
        /// Where it could begin.
        free_from: u64,
        /// What the file says.
        start: u64,
    },
    /// A place that is not on a border of sectors.
    #[error("partition {number}: byte {offset} is no border of sectors of {sector_bytes} bytes")]
    Misaligned {
        /// The partition.
        number: u32,
        /// The border.
        offset: u64,
        /// Sector size of the target.
        sector_bytes: u32,
    },
    /// The table has no place for an entry of this number.
    #[error("partition {number}: the table ends with number {last}")]
    NoSlot {
        /// The partition.
        number: u32,
        /// How many entries the table has.
        last: u32,
    },
}

/// What people should know of an arrangement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remark {
    /// An MBR can't reach the end of the target.
    OutOfReach {
        /// So many bytes at the end stay unused.
        bytes: u64,
    },
    /// What lies between the table and the first partition stays behind; a boot loader's core would be there.
    GapLeft,
    /// Logical partitions are counted, so leaving one out renumbers those behind it.
    Renumbered {
        /// The number on the source.
        from: u32,
        /// The number on the target.
        to: u32,
    },
    /// An extended partition without logical ones is not made again.
    EmptyExtended,
    /// There is space, but no partition that could take it.
    NothingGrows,
    /// A layout file makes a partition larger, whose content stays as it is.
    ContentStays {
        /// The partition.
        number: u32,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfReach { bytes } => {
                write!(f, "an mbr can't reach the last {bytes} bytes of the target (--to-gpt makes a table that can)")
            }
            Self::GapLeft => f.write_str(
                "what lies between the table and the first partition stays behind: a boot loader that is there has to be installed again",
            ),
            Self::Renumbered { from, to } => write!(f, "logical partition {from} becomes number {to}"),
            Self::EmptyExtended => f.write_str("the extended partition holds no other, and is not made again"),
            Self::NothingGrows => f.write_str("no partition can take the free space"),
            Self::ContentStays { number } => {
                write!(f, "partition {number} becomes larger, its content stays as it is")
            }
        }
    }
}

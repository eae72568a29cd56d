//! Layout files: lines in the form of `sfdisk --dump`, of which starts and sizes count.
//!
//! ```text
//! # number : start=, size=; in sectors, or with K, M, G, T (powers of 1024)
//! 1 : start=2048, size=512M
//! 2 : size=+10G
//! 3 : size=+
//! ```
//!
//! Promise: what is not understood is an error that says where; what a file does not name keeps its size.
//! Knows nothing of the table that it is for.

/// Larger ones are no layout files: a full GPT of 2048 entries takes some 100 KiB.
const FILE_BYTES_MAX: usize = 1 << 20;

/// A layout as a file says it.
///
/// `start=` is a place, `size=` a size, `size=+N` and `size=-N` a change of the size, `size=+` all that is left (of
/// one partition). Numbers are sectors of the target, unless a line `sector-size: N` says otherwise. A number may be
/// written as a device, as `sfdisk --dump` does: of `/dev/sda3` only the 3 counts.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LayoutFile {
    pub(super) sector_bytes: Option<u32>,
    pub(super) lines: Vec<Line>,
}

/// One partition's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: u32,
    pub(super) start: Option<Amount>,
    pub(super) size: Option<Size>,
}

/// A number with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    Sectors(u64),
    Bytes(u64),
}

impl Amount {
    pub(super) fn bytes(self, sector: u64) -> u64 {
        match self {
            Self::Sectors(sectors) => sectors.saturating_mul(sector),
            Self::Bytes(bytes) => bytes,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Exactly(Amount),
    More(Amount),
    Less(Amount),
    Rest,
}

impl Size {
    /// The size in bytes, of a partition that had `before`.
    pub(super) fn bytes(self, before: u64, sector: u64) -> u64 {
        match self {
            Self::Exactly(amount) => amount.bytes(sector),
            Self::More(amount) => before.saturating_add(amount.bytes(sector)),
            Self::Less(amount) => before.saturating_sub(amount.bytes(sector)),
            Self::Rest => before,
        }
    }
}

/// A line that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, found {found:?}")]
pub struct LayoutFileError {
    /// Its number, from 1.
    pub line: usize,
    /// What would have been understood.
    pub expected: &'static str,
    /// What is there.
    pub found: String,
}

impl LayoutFile {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`LayoutFileError`]: where something is not understood, or said twice.
    pub fn parse(text: &str) -> Result<Self, LayoutFileError> {
        let mut file = Self::default();
        if text.len() > FILE_BYTES_MAX {
            let found = format!("{} bytes", text.len());
            return Err(LayoutFileError { line: 1, expected: "a file of at most 1 MiB", found });
        }
        for (text, line) in text.lines().zip(1..) {
            let text = text.split('#').next().unwrap_or_default().trim();
            if !text.is_empty() {
                file.add(text).map_err(|(expected, found)| LayoutFileError {
                    line,
                    expected,
                    found: found.to_owned(),
                })?;
            }
        }
        Ok(file)
    }

    fn add<'a>(&mut self, text: &'a str) -> Result<(), (&'static str, &'a str)> {
        const FORM: &str = "NUMBER : start=…, size=…";
        let (name, values) = text.split_once(':').ok_or((FORM, text))?;
        let (name, values) = (name.trim(), values.trim());
        match name {
            "unit" if values == "sectors" => return Ok(()),
            "unit" => return Err(("unit: sectors", values)),
            "sector-size" => {
                let bytes = values.parse().ok().filter(|bytes| crate::table::sane(*bytes) == *bytes);
                self.sector_bytes = Some(bytes.ok_or(("a sector size such as 512", values))?);
                return Ok(());
            }
            _ => {}
        }
        let number = number_of(name).ok_or((FORM, name))?;
        if self.lines.iter().any(|line| line.number == number) {
            return Err(("each partition once", name));
        }
        let mut line = Line { number, start: None, size: None };
        for value in values.split(',').map(str::trim).filter(|value| !value.is_empty()) {
            let (key, value) = value.split_once('=').ok_or(("start=… or size=…", value))?;
            match (key.trim(), value.trim()) {
                ("start", value) if line.start.is_none() => line.start = Some(amount(value)?),
                ("size", value) if line.size.is_none() => line.size = Some(size(value)?),
                (key, _) => return Err(("start=… or size=…, each once; all else stays as it is", key)),
            }
        }
        let rest = |line: &Line| line.size == Some(Size::Rest);
        if rest(&line) && self.lines.iter().any(rest) {
            return Err(("one partition that takes the rest", text));
        }
        self.lines.push(line);
        Ok(())
    }
}

/// `3`, or what ends in a 3 and begins as a path.
fn number_of(name: &str) -> Option<u32> {
    let digits = match name.starts_with('/') {
        true => name.rsplit(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default(),
        false => name,
    };
    digits.parse().ok().filter(|number| *number > 0)
}

fn size(text: &str) -> Result<Size, (&'static str, &str)> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(""), _) => Ok(Size::Rest),
        (Some(more), _) => Ok(Size::More(amount(more)?)),
        (_, Some(less)) => Ok(Size::Less(amount(less)?)),
        _ => match amount(text)? {
            Amount::Bytes(0) | Amount::Sectors(0) => Err(("a size that is not 0", text)),
            amount => Ok(Size::Exactly(amount)),
        },
    }
}

/// `2048`, `512M`, `512MiB`.
fn amount(text: &str) -> Result<Amount, (&'static str, &str)> {
    const EXPECTED: &str = "a number of sectors, or a number with K, M, G or T";
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u64 = digits.parse().map_err(|_| (EXPECTED, text))?;
    let shift = match unit.strip_suffix("iB").unwrap_or(unit) {
        "" if unit.is_empty() => return Ok(Amount::Sectors(number)), // and not `iB` alone
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err((EXPECTED, text)),
    };
    let bytes = number.checked_mul(1_u64 << shift).ok_or((EXPECTED, text))?;
    Ok(Amount::Bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let text = "# mine\nunit: sectors\nsector-size: 512\n\n1 : start=2048, size=512M\n\
                    /dev/nvme0n1p2 : size=+10GiB # more\n3:size=+\n7 : start= 1M,size=-5K,\n";
        let file = LayoutFile::parse(text).unwrap();
        assert_eq!(file.sector_bytes, Some(512));
        let line = |number, start, size| Line { number, start, size: Some(size) };
        let expected = [
            line(1, Some(Amount::Sectors(2048)), Size::Exactly(Amount::Bytes(512 << 20))),
            line(2, None, Size::More(Amount::Bytes(10 << 30))),
            line(3, None, Size::Rest),
            line(7, Some(Amount::Bytes(1 << 20)), Size::Less(Amount::Bytes(5 << 10))),
        ];
        assert_eq!(file.lines, expected);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let says = |text: &str| LayoutFile::parse(text).unwrap_err().to_string();
        assert_eq!(
            says("1 : size=5\n2 : size=5X"),
            "line 2: expected a number of sectors, or a number with K, M, G or T, found \"5X\""
        );
        assert_eq!(
            says("1 : type=83"),
            "line 1: expected start=… or size=…, each once; all else stays as it is, found \"type\""
        );
        for wrong in [
            "label: gpt",
            "0 : size=5",
            "1",
            "1 : size",
            "1 : size=0",
            "1 : size=iB",
            "1 : size=",
            "1 : size=1, size=2",
            "1 : size=99999999999999999999",
            "1 : size=99999999999T",
            "1 : size=+\n2 : size=+",
            "1 : size=1\n1 : start=1",
            "sector-size: 513",
            "unit: bytes",
            "/dev/sda : size=1",
            "x3 : size=1",
        ] {
            assert!(LayoutFile::parse(wrong).is_err(), "{wrong}");
        }
    }
}

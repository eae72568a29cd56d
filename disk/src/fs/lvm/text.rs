//! LVM2's text: sections in sections, and values, which are numbers, strings and lists.
//!
//! Promise: no deeper than [`DEPTH_MAX`]; anything that is not understood is a doubt; a name given twice is one, too.
//! Knows nothing of volumes. Format: lvm2 libdm/libdm-config.c, `_section`, `_value`, `_eat_space`.

use std::collections::BTreeMap;

use crate::fs::Doubt;

/// The format needs five.
const DEPTH_MAX: u8 = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

pub(super) type Section = BTreeMap<String, Value>;

pub(super) fn parse(bytes: &[u8]) -> Result<Section, Doubt> {
    // The text ends with a NUL, which its length may count.
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let mut parser = Parser { bytes, at: 0 };
    let section = parser.section(0)?;
    if parser.peek().is_some() {
        return Err(parser.doubt());
    }
    Ok(section)
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn doubt(&self) -> Doubt {
        let found = u64::try_from(self.at).unwrap_or(u64::MAX);
        Doubt::Impossible { place: "metadata text, byte", found }
    }

    fn raw(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    /// The next byte that is neither blank nor comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.raw()? {
                b'#' => {
                    while self.raw().is_some_and(|byte| byte != b'\n') {
                        self.step();
                    }
                }
                byte if byte.is_ascii_whitespace() => self.step(),
                byte => return Some(byte),
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Doubt> {
        if self.peek() != Some(byte) {
            return Err(self.doubt());
        }
        self.step();
        Ok(())
    }

    /// Up to its closing brace, or to the end of the text.
    fn section(&mut self, depth: u8) -> Result<Section, Doubt> {
        if depth > DEPTH_MAX {
            return Err(self.doubt());
        }
        let mut section = Section::new();
        while let Some(byte) = self.peek() {
            if byte == b'}' {
                break;
            }
            let name = if byte == b'"' { self.string()? } else { self.name()? };
            let value = match self.peek() {
                Some(b'{') => {
                    self.step();
                    let inner = self.section(depth.saturating_add(1))?;
                    self.expect(b'}')?;
                    Value::Section(inner)
                }
                _ => {
                    self.expect(b'=')?;
                    self.value()?
                }
            };
            if section.insert(name, value).is_some() {
                return Err(self.doubt());
            }
        }
        Ok(section)
    }

    fn name(&mut self) -> Result<String, Doubt> {
        let from = self.at;
        let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-/".contains(&byte);
        while self.raw().is_some_and(belongs) {
            self.step();
        }
        let name = self.bytes.get(from..self.at).filter(|name| !name.is_empty()).ok_or(self.doubt())?;
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    fn value(&mut self) -> Result<Value, Doubt> {
        if self.peek() != Some(b'[') {
            return self.single();
        }
        self.step();
        let mut list = Vec::new();
        while self.peek() != Some(b']') {
            list.push(self.single()?);
            if self.peek() == Some(b',') {
                self.step();
            } else if self.peek() != Some(b']') {
                return Err(self.doubt());
            }
        }
        self.step();
        Ok(Value::List(list))
    }

    fn single(&mut self) -> Result<Value, Doubt> {
        if self.peek() == Some(b'"') {
            return self.string().map(Value::Text);
        }
        let from = self.at;
        while self.raw().is_some_and(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte)) {
            self.step();
        }
        let number = self.bytes.get(from..self.at).and_then(|it| std::str::from_utf8(it).ok());
        number.and_then(|it| it.parse().ok()).map(Value::Number).ok_or(self.doubt())
    }

    fn string(&mut self) -> Result<String, Doubt> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            let byte = self.raw().ok_or(self.doubt())?;
            self.step();
            match byte {
                b'"' => return Ok(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => {
                    text.push(self.raw().ok_or(self.doubt())?);
                    self.step();
                }
                _ => text.push(byte),
            }
        }
    }
}

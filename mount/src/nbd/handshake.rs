//! Fixed newstyle negotiation: the client lists exports, asks about them, says what it can do, and chooses one.
//!
//! Promise: whatever a client sends, it takes no more than [`OPTION_BYTES_MAX`] of memory, and no more than
//! [`OPTIONS_MAX`] options. Knows nothing of what is done with the export.

use std::io::{self, Read, Write};

use super::wire::{self, Fields, Outbox, Style};
use super::{Export, PAYLOAD_BYTES_MAX};

/// Names are at most 4096 bytes; a few queries for contexts go with them.
const OPTION_BYTES_MAX: usize = 64 << 10;

/// A client that lists a disk of 128 partitions asks some six questions about each.
const OPTIONS_MAX: usize = 4096;

/// What was agreed on.
pub(super) struct Session<'a> {
    pub(super) export: &'a Export,
    pub(super) style: Style,
    /// Block status was asked for.
    pub(super) tells_allocation: bool,
}

/// Ends in a session, or in `None` when the client leaves or must leave.
pub(super) fn negotiate<'a>(
    exports: &'a [Export],
    reading: &mut dyn Read,
    writing: &mut dyn Write,
) -> io::Result<Option<Session<'a>>> {
    let mut outbox = Outbox::default();
    outbox.u64(wire::NBDMAGIC);
    outbox.u64(wire::IHAVEOPT);
    outbox.u16(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    writing.write_all(outbox.bytes())?;
    let mut head = [0; 4];
    reading.read_exact(&mut head)?;
    let flags = Fields(&head).u32().unwrap_or(0);
    if flags & !u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES) != 0 {
        return Ok(None);
    }
    let no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
    let mut talk = Talk { exports, style: Style::Simple, context_of: None, no_zeroes };
    for _ in 0..OPTIONS_MAX {
        let mut head = [0; 16];
        reading.read_exact(&mut head)?;
        let Some((option, data)) = read_option(&head, reading)? else { return Ok(None) };
        outbox.clear();
        let next = talk.option(option, &data, &mut outbox);
        writing.write_all(outbox.bytes())?;
        match next {
            Next::Option => {}
            Next::Leave => return Ok(None),
            Next::Serve(export) => {
                let tells_allocation = talk.context_of.is_some_and(|chosen| std::ptr::eq(chosen, export));
                return Ok(Some(Session { export, style: talk.style, tells_allocation }));
            }
        }
    }
    Ok(None)
}

fn read_option(head: &[u8], reading: &mut dyn Read) -> io::Result<Option<(u32, Vec<u8>)>> {
    let mut fields = Fields(head);
    let (Some(wire::IHAVEOPT), Some(option), Some(bytes)) = (fields.u64(), fields.u32(), fields.u32()) else {
        return Ok(None);
    };
    let Some(bytes) = usize::try_from(bytes).ok().filter(|bytes| *bytes <= OPTION_BYTES_MAX) else {
        return Ok(None);
    };
    let mut data = vec![0; bytes];
    reading.read_exact(&mut data)?;
    Ok(Some((option, data)))
}

enum Next<'a> {
    Option,
    Leave,
    Serve(&'a Export),
}

/// What the options so far have settled.
struct Talk<'a> {
    exports: &'a [Export],
    style: Style,
    /// The export for which `base:allocation` was chosen.
    context_of: Option<&'a Export>,
    no_zeroes: bool,
}

impl<'a> Talk<'a> {
    fn option(&mut self, option: u32, data: &[u8], out: &mut Outbox) -> Next<'a> {
        match option {
            wire::OPT_EXPORT_NAME => return self.export_name(data, out),
            wire::OPT_ABORT => {
                acknowledge(option, out);
                return Next::Leave;
            }
            wire::OPT_LIST if data.is_empty() => self.list(out),
            wire::OPT_INFO | wire::OPT_GO => {
                if let Some(export) = self.info(option, data, out)
                    && option == wire::OPT_GO
                {
                    return Next::Serve(export);
                }
            }
            wire::OPT_STRUCTURED_REPLY if data.is_empty() && self.style != Style::Extended => {
                self.style = Style::Structured;
                acknowledge(option, out);
            }
            wire::OPT_EXTENDED_HEADERS if data.is_empty() && self.style != Style::Extended => {
                self.style = Style::Extended;
                acknowledge(option, out);
            }
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => self.contexts(option, data, out),
            wire::OPT_LIST | wire::OPT_STRUCTURED_REPLY | wire::OPT_EXTENDED_HEADERS => {
                refuse(option, wire::REP_ERR_INVALID, "not with these data, or not twice", out);
            }
            wire::OPT_STARTTLS => {
                refuse(option, wire::REP_ERR_POLICY, "no TLS here: put a tunnel around the connection", out);
            }
            _ => refuse(option, wire::REP_ERR_UNSUP, "", out),
        }
        Next::Option
    }

    /// The export of that name; the first one has no name, too.
    fn find(&self, name: &str) -> Option<&'a Export> {
        match name {
            "" => self.exports.first(),
            name => self.exports.iter().find(|export| export.name == name),
        }
    }

    fn export_name(&self, data: &[u8], out: &mut Outbox) -> Next<'a> {
        let name = std::str::from_utf8(data).ok();
        let Some(export) = name.and_then(|name| self.find(name)) else { return Next::Leave };
        out.u64(export.size_bytes());
        out.u16(self.flags(export));
        if !self.no_zeroes {
            out.zeros(124);
        }
        Next::Serve(export)
    }

    fn flags(&self, export: &Export) -> u16 {
        let mut flags = wire::HAS_FLAGS | wire::SEND_FLUSH | wire::CAN_MULTI_CONN;
        flags |= match export.is_writable() {
            true => wire::SEND_FUA | wire::SEND_TRIM | wire::SEND_WRITE_ZEROES,
            false => wire::READ_ONLY,
        };
        if self.style != Style::Simple {
            flags |= wire::SEND_DF;
        }
        flags
    }

    fn list(&self, out: &mut Outbox) {
        for export in self.exports {
            out.option_reply(wire::OPT_LIST, wire::REP_SERVER, |out| {
                out.u32(u32::try_from(export.name.len()).unwrap_or(0));
                out.text(&export.name);
                out.text(&export.description);
            });
        }
        acknowledge(wire::OPT_LIST, out);
    }

    /// Tells about an export; which one, unless there is none of that name.
    fn info(&self, option: u32, data: &[u8], out: &mut Outbox) -> Option<&'a Export> {
        let Some((name, wanted)) = decode_info(data) else {
            refuse(option, wire::REP_ERR_INVALID, "expected a name and a list of questions", out);
            return None;
        };
        let Some(export) = self.find(name) else {
            refuse(option, wire::REP_ERR_UNKNOWN, "no export of that name", out);
            return None;
        };
        out.option_reply(option, wire::REP_INFO, |out| {
            out.u16(wire::INFO_EXPORT);
            out.u64(export.size_bytes());
            out.u16(self.flags(export));
        });
        out.option_reply(option, wire::REP_INFO, |out| {
            out.u16(wire::INFO_BLOCK_SIZE);
            out.u32(1);
            out.u32(export.preferred_bytes());
            out.u32(PAYLOAD_BYTES_MAX);
        });
        for (kind, text) in [(wire::INFO_NAME, &export.name), (wire::INFO_DESCRIPTION, &export.description)] {
            if wanted.contains(&kind) {
                out.option_reply(option, wire::REP_INFO, |out| {
                    out.u16(kind);
                    out.text(text);
                });
            }
        }
        acknowledge(option, out);
        Some(export)
    }

    fn contexts(&mut self, option: u32, data: &[u8], out: &mut Outbox) {
        let sets = option == wire::OPT_SET_META_CONTEXT;
        if sets {
            self.context_of = None;
        }
        let Some((name, queries)) = decode_contexts(data).filter(|_| self.style != Style::Simple) else {
            let text = "expected structured replies first, then a name and a list of queries";
            return refuse(option, wire::REP_ERR_INVALID, text, out);
        };
        let Some(export) = self.find(name) else {
            return refuse(option, wire::REP_ERR_UNKNOWN, "no export of that name", out);
        };
        // A list may be asked for a whole namespace, or for all.
        let lists_all = !sets && (queries.is_empty() || queries.contains(&"base:"));
        if lists_all || queries.contains(&wire::ALLOCATION) {
            out.option_reply(option, wire::REP_META_CONTEXT, |out| {
                out.u32(if sets { wire::ALLOCATION_ID } else { 0 });
                out.text(wire::ALLOCATION);
            });
            if sets {
                self.context_of = Some(export);
            }
        }
        acknowledge(option, out);
    }
}

fn acknowledge(option: u32, out: &mut Outbox) {
    out.option_reply(option, wire::REP_ACK, |_| {});
}

fn refuse(option: u32, kind: u32, text: &str, out: &mut Outbox) {
    out.option_reply(option, kind, |out| out.text(text));
}

fn decode_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.text()?;
    let count = usize::from(fields.u16()?);
    if fields.0.len() != count * 2 {
        return None;
    }
    let wanted = std::iter::from_fn(|| fields.u16()).collect();
    Some((name, wanted))
}

fn decode_contexts(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.text()?;
    let count = fields.u32()?;
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.text()?);
    }
    fields.0.is_empty().then_some((name, queries))
}

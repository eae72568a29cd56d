//! The NBD protocol's numbers, and its messages as bytes. Specification: NetworkBlockDevice/nbd, doc/proto.md; names are its.
//!
//! Promise: any bytes give a message or none (I6). Knows nothing of sockets or of what is asked.

// The protocol is big endian throughout.
#![allow(clippy::big_endian_bytes)]

pub(super) const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
pub(super) const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags, the server's and the client's: fixed newstyle, no zeroes.
pub(super) const FLAG_FIXED_NEWSTYLE: u16 = 1;
pub(super) const FLAG_NO_ZEROES: u16 = 2;

pub(super) const OPT_EXPORT_NAME: u32 = 1;
pub(super) const OPT_ABORT: u32 = 2;
pub(super) const OPT_LIST: u32 = 3;
pub(super) const OPT_STARTTLS: u32 = 5;
pub(super) const OPT_INFO: u32 = 6;
pub(super) const OPT_GO: u32 = 7;
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(super) const OPT_SET_META_CONTEXT: u32 = 10;
pub(super) const OPT_EXTENDED_HEADERS: u32 = 11;

pub(super) const REP_ACK: u32 = 1;
pub(super) const REP_SERVER: u32 = 2;
pub(super) const REP_INFO: u32 = 3;
pub(super) const REP_META_CONTEXT: u32 = 4;
pub(super) const REP_ERR_UNSUP: u32 = 1 << 31 | 1;
pub(super) const REP_ERR_POLICY: u32 = 1 << 31 | 2;
pub(super) const REP_ERR_INVALID: u32 = 1 << 31 | 3;
pub(super) const REP_ERR_UNKNOWN: u32 = 1 << 31 | 6;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_NAME: u16 = 1;
pub(super) const INFO_DESCRIPTION: u16 = 2;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags.
pub(super) const HAS_FLAGS: u16 = 1;
pub(super) const READ_ONLY: u16 = 1 << 1;
pub(super) const SEND_FLUSH: u16 = 1 << 2;
pub(super) const SEND_FUA: u16 = 1 << 3;
pub(super) const SEND_TRIM: u16 = 1 << 5;
pub(super) const SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(super) const SEND_DF: u16 = 1 << 7;
pub(super) const CAN_MULTI_CONN: u16 = 1 << 8;

pub(super) const CMD_READ: u16 = 0;
pub(super) const CMD_WRITE: u16 = 1;
pub(super) const CMD_DISC: u16 = 2;
pub(super) const CMD_FLUSH: u16 = 3;
pub(super) const CMD_TRIM: u16 = 4;
pub(super) const CMD_WRITE_ZEROES: u16 = 6;
pub(super) const CMD_BLOCK_STATUS: u16 = 7;

pub(super) const CMD_FLAG_FUA: u16 = 1;
pub(super) const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
pub(super) const CMD_FLAG_DF: u16 = 1 << 2;
pub(super) const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
pub(super) const CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

pub(super) const EPERM: u32 = 1;
pub(super) const EIO: u32 = 5;
pub(super) const EINVAL: u32 = 22;
pub(super) const ENOSPC: u32 = 28;

pub(super) const ALLOCATION: &str = "base:allocation";
pub(super) const ALLOCATION_ID: u32 = 1;
pub(super) const STATE_DATA: u32 = 0;
/// Not allocated, and reads as zeros.
pub(super) const STATE_HOLE_ZERO: u32 = 3;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;
const REPLY_FLAG_DONE: u16 = 1;

/// How requests and replies look, as the client asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Style {
    Simple,
    Structured,
    Extended,
}

/// What a chunk of a reply holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum ChunkKind {
    None = 0,
    OffsetData = 1,
    OffsetHole = 2,
    BlockStatus = 5,
    BlockStatusExt = 6,
    Error = 1 << 15 | 1,
    ErrorOffset = 1 << 15 | 2,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Request {
    /// Bytes before the payload.
    pub(super) fn head_bytes(style: Style) -> usize {
        if style == Style::Extended { 32 } else { 28 }
    }

    /// `None`: this is no request, and where the next one begins nobody knows.
    pub(super) fn decode(head: &[u8], style: Style) -> Option<Request> {
        let mut fields = Fields(head);
        let magic = if style == Style::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if fields.u32()? != magic {
            return None;
        }
        Some(Request {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            bytes: if style == Style::Extended { fields.u64()? } else { u64::from(fields.u32()?) },
        })
    }

    /// How many bytes follow the head.
    pub(super) fn payload_bytes(&self, style: Style) -> u64 {
        let says_so = style == Style::Extended && self.flags & CMD_FLAG_PAYLOAD_LEN != 0;
        if self.command == CMD_WRITE || says_so { self.bytes } else { 0 }
    }

    #[cfg(test)]
    pub(super) fn encode(&self, style: Style) -> Vec<u8> {
        let mut out = Vec::new();
        let magic = if style == Style::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        out.extend(magic.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.command.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        match style {
            Style::Extended => out.extend(self.bytes.to_be_bytes()),
            _ => out.extend(u32::try_from(self.bytes).unwrap().to_be_bytes()),
        }
        out
    }
}

/// Takes numbers and text off the front of bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(front)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Text behind its 32-bit length.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let bytes = usize::try_from(self.u32()?).ok()?;
        std::str::from_utf8(self.take(bytes)?).ok()
    }
}

/// Bytes on their way out. Kept from reply to reply, so that memory is made ready once.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// How many of `bytes` are of this reply.
    len: usize,
}

/// Where a chunk began.
#[derive(Clone, Copy)]
pub(super) struct ChunkStart(usize);

impl Outbox {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // `len` never exceeds what there is.
        &self.bytes[..self.len]
    }

    /// Gives memory back that only the largest requests need.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        self.clear();
        if self.bytes.len() > bytes_max {
            self.bytes = Vec::new();
        }
    }

    /// The next bytes, whose content is undefined.
    pub(super) fn room(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.len;
        self.len += bytes;
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len, 0);
        }
        &mut self.bytes[start..self.len]
    }

    fn put(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.put(text.as_bytes());
    }

    pub(super) fn zeros(&mut self, bytes: usize) {
        self.room(bytes).fill(0);
    }

    /// One reply to an option; `data` are its parts.
    pub(super) fn option_reply(&mut self, option: u32, kind: u32, data: impl FnOnce(&mut Outbox)) {
        self.u64(REPLY_MAGIC);
        self.u32(option);
        self.u32(kind);
        let length_at = self.len;
        self.u32(0);
        data(self);
        let bytes = u32::try_from(self.len - length_at - 4).unwrap_or(u32::MAX);
        self.bytes[length_at..length_at + 4].copy_from_slice(&bytes.to_be_bytes());
    }

    /// The head of a simple reply; what was read follows.
    pub(super) fn simple_reply(&mut self, error: u32, cookie: u64) {
        self.u32(SIMPLE_REPLY_MAGIC);
        self.u32(error);
        self.u64(cookie);
    }

    /// Begins a chunk of a reply to `request`; its payload follows, then [`Outbox::end_chunk`].
    pub(super) fn begin_chunk(&mut self, style: Style, request: &Request) -> ChunkStart {
        let start = self.len;
        self.u32(if style == Style::Extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC });
        self.u32(0);
        self.u64(request.cookie);
        if style == Style::Extended {
            self.u64(request.offset);
            self.u64(0);
        } else {
            self.u32(0);
        }
        ChunkStart(start)
    }

    /// Says what the chunk is, and how long.
    pub(super) fn end_chunk(&mut self, style: Style, start: ChunkStart, kind: ChunkKind, is_last: bool) {
        let at = start.0;
        let flags = if is_last { REPLY_FLAG_DONE } else { 0 };
        self.bytes[at + 4..at + 6].copy_from_slice(&flags.to_be_bytes());
        self.bytes[at + 6..at + 8].copy_from_slice(&(kind as u16).to_be_bytes());
        if style == Style::Extended {
            let bytes = (self.len - at - 32) as u64;
            self.bytes[at + 24..at + 32].copy_from_slice(&bytes.to_be_bytes());
        } else {
            // A payload is at most as long as a request.
            let bytes = u32::try_from(self.len - at - 20).unwrap_or(u32::MAX);
            self.bytes[at + 16..at + 20].copy_from_slice(&bytes.to_be_bytes());
        }
    }

    /// Takes a chunk back that was begun.
    pub(super) fn undo_chunk(&mut self, start: ChunkStart) {
        self.len = start.0;
    }
}

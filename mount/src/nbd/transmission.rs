//! Requests and replies: what an export's bytes are, where its holes are, what is written.
//!
//! Promise: what cannot be read is an error to the client; no byte is sent that the device did not give, and replies do
//! not mix. Several threads take requests in turn, so a client that has several under way has them worked on at once;
//! memory is [`PIECE_BYTES`] a thread, and one request of up to [`PAYLOAD_BYTES_MAX`] a connection.
//! Knows nothing of sockets.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use disk::{Extent, ReadAt, WriteAt};

use super::handshake::Session;
use super::wire::{self, ChunkKind, Outbox, Request, Style};
use super::{Device, Event, PAYLOAD_BYTES_MAX, Watcher};

/// Long reads are sent in pieces of this size, so that the first goes out while the next is made.
const PIECE: usize = 1 << 20;
const PIECE_BYTES: u64 = PIECE as u64;

/// Shorter reads are not split into data and holes: to ask where the holes are would cost more than to send zeros.
const SPLIT_BYTES_MIN: u64 = 32 << 10;

/// What a thread keeps from reply to reply: a piece that was begun, one more, and their heads.
const OUTBOX_BYTES_MAX: usize = 2 * PIECE + 4096;

/// Extents in one answer about holes. Clients ask again from where the answer ends.
const EXTENTS_MAX: usize = 4096;

/// Questions that one answer about holes may cost the device: a stored image answers for 4 MiB at a time.
const LOOKS_MAX: usize = 4096;

/// What is said about an error; the protocol allows 4096 bytes.
const MESSAGE_BYTES_MAX: usize = 1000;

/// Serves one client until it leaves.
pub(super) fn serve(
    session: &Session<'_>,
    reading: &mut (dyn Read + Send),
    writing: &mut (dyn Write + Send),
    threads: usize,
    watcher: &dyn Watcher,
) {
    let transmission = Transmission {
        session,
        incoming: Mutex::new(Incoming { stream: reading, is_open: true }),
        outgoing: Mutex::new(writing),
        large: Mutex::new(()),
        watcher,
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer threads than wished for it is slower, no more.
            if thread::Builder::new().spawn_scoped(scope, || transmission.work()).is_err() {
                break;
            }
        }
        transmission.work();
    });
}

struct Incoming<'a> {
    stream: &'a mut (dyn Read + Send),
    is_open: bool,
}

struct Transmission<'a> {
    session: &'a Session<'a>,
    /// Held while a request is read.
    incoming: Mutex<Incoming<'a>>,
    /// Held while some whole chunks, or a whole simple reply, are written.
    outgoing: Mutex<&'a mut (dyn Write + Send)>,
    /// Held by the one request that needs more memory than a piece. Taken after `incoming`, before `outgoing`.
    large: Mutex<()>,
    watcher: &'a dyn Watcher,
}

/// Why a request is not done.
struct Refusal {
    code: u32,
    text: String,
    offset: Option<u64>,
}

impl Refusal {
    fn new(code: u32, text: &str) -> Refusal {
        Refusal { code, text: text.to_owned(), offset: None }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request, its payload, and what it holds while it is worked on.
type Taken<'a> = (Request, Vec<u8>, Option<MutexGuard<'a, ()>>);

impl Transmission<'_> {
    fn work(&self) {
        let mut out = Outbox::default();
        while let Some((request, payload, large)) = self.next() {
            out.clear();
            let sent = self.answer(&request, &payload, &mut out);
            drop(large);
            out.shrink(OUTBOX_BYTES_MAX);
            if sent.is_err() {
                locked(&self.incoming).is_open = false;
            }
        }
    }

    /// The next request; `None` when there will be none.
    fn next(&self) -> Option<Taken<'_>> {
        let mut incoming = locked(&self.incoming);
        if !incoming.is_open {
            return None;
        }
        let taken = self.read_request(&mut *incoming.stream).ok().flatten();
        incoming.is_open = taken.is_some();
        taken
    }

    fn read_request(&self, stream: &mut dyn Read) -> io::Result<Option<Taken<'_>>> {
        let style = self.session.style;
        let mut head = [0; 32];
        let head = &mut head[..Request::head_bytes(style)];
        stream.read_exact(head)?;
        let request = Request::decode(head, style).filter(|request| request.command != wire::CMD_DISC);
        let Some(request) = request else { return Ok(None) };
        let payload_bytes = request.payload_bytes(style);
        if payload_bytes > u64::from(PAYLOAD_BYTES_MAX) {
            return Ok(None);
        }
        let needed = payload_bytes.max(self.unbroken_bytes(&request));
        let large = (needed > PIECE_BYTES).then(|| locked(&self.large));
        let mut payload = vec![0; usize::try_from(payload_bytes).unwrap_or(0)];
        stream.read_exact(&mut payload)?;
        Ok(Some((request, payload, large)))
    }

    /// Bytes that a reply must hold at once.
    fn unbroken_bytes(&self, request: &Request) -> u64 {
        let is_whole = self.session.style == Style::Simple || request.flags & wire::CMD_FLAG_DF != 0;
        if request.command == wire::CMD_READ && is_whole { request.bytes } else { 0 }
    }

    fn answer(&self, request: &Request, payload: &[u8], out: &mut Outbox) -> io::Result<()> {
        let done = self.check(request).and_then(|()| match request.command {
            wire::CMD_READ | wire::CMD_BLOCK_STATUS => Ok(()),
            _ => self.change(request, payload),
        });
        match (done, request.command) {
            (Err(refusal), _) => self.refuse(request, refusal, out),
            (Ok(()), wire::CMD_READ) if self.session.style == Style::Simple => self.read_simple(request, out),
            (Ok(()), wire::CMD_READ) => self.read(request, out),
            (Ok(()), wire::CMD_BLOCK_STATUS) => self.block_status(request, out),
            (Ok(()), _) if self.session.style == Style::Extended => {
                let start = out.begin_chunk(Style::Extended, request);
                out.end_chunk(Style::Extended, start, ChunkKind::None, true);
                self.send(out)
            }
            (Ok(()), _) => {
                out.simple_reply(0, request.cookie);
                self.send(out)
            }
        }
    }

    fn device(&self) -> &dyn ReadAt {
        match &self.session.export.device {
            Device::ReadOnly(device) => device,
            Device::Writable(device) => device,
        }
    }

    /// Whether the request makes sense on this export.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let style = self.session.style;
        let writable = self.session.export.is_writable();
        let changes = match request.command {
            wire::CMD_READ | wire::CMD_FLUSH => false,
            wire::CMD_BLOCK_STATUS if self.session.tells_allocation => false,
            wire::CMD_WRITE | wire::CMD_TRIM | wire::CMD_WRITE_ZEROES => true,
            _ => return Err(Refusal::new(wire::EINVAL, "no such command, or not agreed on")),
        };
        if changes && !writable {
            return Err(Refusal::new(wire::EPERM, "the export is read-only"));
        }
        // FUA is known to be set where it means nothing.
        let allowed = wire::CMD_FLAG_FUA
            | match request.command {
                wire::CMD_READ if style != Style::Simple => wire::CMD_FLAG_DF,
                wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
                wire::CMD_WRITE if style == Style::Extended => wire::CMD_FLAG_PAYLOAD_LEN,
                // All of an overlay is holes until it is written: nothing is set aside, nothing is lost by one more.
                wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE,
                _ => 0,
            };
        if request.flags & !allowed != 0 {
            return Err(Refusal::new(wire::EINVAL, "a flag that this command does not have"));
        }
        if request.command == wire::CMD_FLUSH {
            return Ok(());
        }
        let end = request.offset.checked_add(request.bytes);
        if request.bytes == 0 || end.is_none_or(|end| end > self.session.export.size_bytes()) {
            let code = if changes { wire::ENOSPC } else { wire::EINVAL };
            return Err(Refusal::new(code, "not within the export"));
        }
        if request.command == wire::CMD_READ && request.bytes > u64::from(PAYLOAD_BYTES_MAX) {
            return Err(Refusal::new(wire::EINVAL, "longer than the longest read"));
        }
        Ok(())
    }

    fn change(&self, request: &Request, payload: &[u8]) -> Result<(), Refusal> {
        // A read-only device has nothing to flush; everything else was refused.
        let Device::Writable(device) = &self.session.export.device else { return Ok(()) };
        let extent = Extent { offset: request.offset, bytes: request.bytes };
        let done = match request.command {
            wire::CMD_WRITE => device.write_all_at(request.offset, payload),
            wire::CMD_TRIM | wire::CMD_WRITE_ZEROES => device.write_zeros_at(extent),
            _ => Ok(()),
        };
        let syncs = request.command == wire::CMD_FLUSH || request.flags & wire::CMD_FLAG_FUA != 0;
        done.and_then(|()| if syncs { device.sync() } else { Ok(()) })
            .map_err(|error| self.failed(request.offset, &error))
    }

    /// Tells the one who watches, and makes the answer for the client.
    fn failed(&self, offset: u64, error: &disk::Error) -> Refusal {
        self.watcher.event(Event::Failed { export: &self.session.export.name, error });
        let is_full = matches!(error, disk::Error::Write { source, .. }
            if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded);
        let code = if is_full { wire::ENOSPC } else { wire::EIO };
        let links = std::iter::successors(Some(error as &dyn std::error::Error), |link| link.source());
        let text = links.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Refusal { code, text, offset: Some(offset) }
    }

    fn refuse(&self, request: &Request, refusal: Refusal, out: &mut Outbox) -> io::Result<()> {
        let style = self.session.style;
        if style == Style::Simple {
            out.simple_reply(refusal.code, request.cookie);
            return self.send(out);
        }
        let start = out.begin_chunk(style, request);
        out.u32(refusal.code);
        let mut end = refusal.text.len().min(MESSAGE_BYTES_MAX);
        while !refusal.text.is_char_boundary(end) {
            end -= 1;
        }
        out.u16(u16::try_from(end).unwrap_or(0));
        out.text(&refusal.text[..end]);
        let has_place = matches!(request.command, wire::CMD_READ | wire::CMD_WRITE | wire::CMD_TRIM);
        let kind = match refusal.offset.filter(|_| has_place) {
            Some(offset) => {
                out.u64(offset);
                ChunkKind::ErrorOffset
            }
            None => ChunkKind::Error,
        };
        out.end_chunk(style, start, kind, true);
        self.send(out)
    }

    fn read_simple(&self, request: &Request, out: &mut Outbox) -> io::Result<()> {
        out.simple_reply(0, request.cookie);
        // At most PAYLOAD_BYTES_MAX.
        let room = out.room(usize::try_from(request.bytes).unwrap_or(0));
        if let Err(error) = self.device().read_exact_at(request.offset, room) {
            let refusal = self.failed(request.offset, &error);
            out.clear();
            return self.refuse(request, refusal, out);
        }
        self.send(out)
    }

    /// Data and holes as they lie; a client that wants all in one piece gets the holes' zeros too.
    fn read(&self, request: &Request, out: &mut Outbox) -> io::Result<()> {
        let style = self.session.style;
        let end = request.offset + request.bytes;
        let is_whole = request.flags & wire::CMD_FLAG_DF != 0 || request.bytes < SPLIT_BYTES_MIN;
        let mut at = request.offset;
        while at < end {
            let stretch = if is_whole { Ok((true, end)) } else { self.stretch(at, end) };
            let (is_data, stretch_end) = match stretch {
                Ok(stretch) => stretch,
                Err(error) => return self.break_off(request, at, &error, out),
            };
            let start = out.begin_chunk(style, request);
            out.u64(at);
            let stop = if is_data && !is_whole { stretch_end.min(at + PIECE_BYTES) } else { stretch_end };
            if is_data {
                let room = out.room(usize::try_from(stop - at).unwrap_or(0));
                if let Err(error) = self.device().read_exact_at(at, room) {
                    out.undo_chunk(start);
                    return self.break_off(request, at, &error, out);
                }
                out.end_chunk(style, start, ChunkKind::OffsetData, stop == end);
            } else {
                out.u32(u32::try_from(stop - at).unwrap_or(0));
                out.end_chunk(style, start, ChunkKind::OffsetHole, stop == end);
            }
            at = stop;
            if at == end || out.len() as u64 >= PIECE_BYTES {
                self.send(out)?;
                out.clear();
            }
        }
        Ok(())
    }

    /// What was made so far is sent, and the error behind it.
    fn break_off(&self, request: &Request, at: u64, error: &disk::Error, out: &mut Outbox) -> io::Result<()> {
        let refusal = self.failed(at, error);
        self.refuse(request, refusal, out)
    }

    /// Whether data or a hole is at `at`, and where it ends, `end` at the latest.
    fn stretch(&self, at: u64, end: u64) -> Result<(bool, u64), disk::Error> {
        Ok(match self.device().next_data(at)? {
            Some(data) if data.offset <= at => (true, data.end().clamp(at + 1, end)),
            Some(data) => (false, data.offset.min(end)),
            None => (false, end),
        })
    }

    fn block_status(&self, request: &Request, out: &mut Outbox) -> io::Result<()> {
        let style = self.session.style;
        let end = request.offset + request.bytes;
        let count_max = if request.flags & wire::CMD_FLAG_REQ_ONE != 0 { 1 } else { EXTENTS_MAX };
        let extents = match self.extents(request.offset, end, count_max) {
            Ok(extents) => extents,
            Err(error) => return self.break_off(request, request.offset, &error, out),
        };
        let start = out.begin_chunk(style, request);
        out.u32(wire::ALLOCATION_ID);
        if style == Style::Extended {
            out.u32(u32::try_from(extents.len()).unwrap_or(0));
        }
        for (is_data, bytes) in extents {
            let state = if is_data { wire::STATE_DATA } else { wire::STATE_HOLE_ZERO };
            if style == Style::Extended {
                out.u64(bytes);
                out.u64(u64::from(state));
            } else {
                // A request was no longer.
                out.u32(u32::try_from(bytes).unwrap_or(u32::MAX));
                out.u32(state);
            }
        }
        let kind = if style == Style::Extended { ChunkKind::BlockStatusExt } else { ChunkKind::BlockStatus };
        out.end_chunk(style, start, kind, true);
        self.send(out)
    }

    /// Data and holes from `at` on, joined; at least one.
    fn extents(&self, mut at: u64, end: u64, count_max: usize) -> Result<Vec<(bool, u64)>, disk::Error> {
        let mut extents: Vec<(bool, u64)> = Vec::new();
        for _ in 0..LOOKS_MAX {
            if at == end {
                break;
            }
            let (is_data, stop) = self.stretch(at, end)?;
            let count = extents.len();
            match extents.last_mut() {
                Some((last, bytes)) if *last == is_data => *bytes += stop - at,
                _ if count == count_max => break,
                _ => extents.push((is_data, stop - at)),
            }
            at = stop;
        }
        Ok(extents)
    }

    fn send(&self, out: &Outbox) -> io::Result<()> {
        let mut outgoing = locked(&self.outgoing);
        outgoing.write_all(out.bytes())?;
        outgoing.flush()
    }
}

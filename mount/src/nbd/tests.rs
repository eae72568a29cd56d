//! A small client that says what it likes: replies against the device's bytes, and what strangers may send.
//!
//! Real clients (libnbd, qemu) judge in the suite of black-box tests.

#![allow(clippy::big_endian_bytes)]
// Sizes of a few megabytes.
#![allow(clippy::cast_possible_truncation)]

use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use disk::{Extent, FaultDevice, MemoryDevice};
use proptest::prelude::*;

use super::wire::{self, Fields, Request, Style};
use super::*;

const SIZE: usize = 3_000_000;

/// A device of data and holes in turns, 100,000 bytes each.
struct Striped(MemoryDevice);

const STRIPE: u64 = 100_000;

impl Striped {
    fn new() -> Striped {
        let byte = |at: usize| if (at as u64 / STRIPE).is_multiple_of(2) { (at % 251) as u8 + 1 } else { 0 };
        Striped(MemoryDevice::new((0..SIZE).map(byte).collect()))
    }
}

impl ReadAt for Striped {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), disk::Error> {
        self.0.read_exact_at(offset, buf)
    }
    fn next_data(&self, offset: u64) -> Result<Option<Extent>, disk::Error> {
        let stripe = (offset / STRIPE).next_multiple_of(2);
        let start = offset.max(stripe * STRIPE);
        let end = ((stripe + 1) * STRIPE).min(self.size_bytes());
        Ok((start < end).then(|| Extent { offset: start, bytes: end - start }))
    }
}

struct Client {
    stream: UnixStream,
    style: Style,
}

/// One chunk of a reply, or all of a simple one.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Data(u64, Vec<u8>),
    Hole(u64, u64),
    Status(Vec<(u64, u64)>),
    Error(u32, Option<u64>, String),
}

impl Client {
    fn new(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = Client { stream, style: Style::Simple };
        assert_eq!(client.bytes(18)[..16], *b"NBDMAGICIHAVEOPT");
        client.send(&3u32.to_be_bytes());
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    /// Kinds and data of the replies, up to the last one.
    fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send(b"IHAVEOPT");
        self.send(&option.to_be_bytes());
        self.send(&u32::try_from(data.len()).unwrap().to_be_bytes());
        self.send(data);
        let mut replies = Vec::new();
        loop {
            let head = self.bytes(20);
            let mut fields = Fields(&head);
            assert_eq!((fields.u64(), fields.u32()), (Some(wire::REPLY_MAGIC), Some(option)));
            let (kind, bytes) = (fields.u32().unwrap(), fields.u32().unwrap());
            replies.push((kind, self.bytes(bytes as usize)));
            if kind == wire::REP_ACK || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    fn last(&mut self, option: u32, data: &[u8]) -> u32 {
        self.option(option, data).last().unwrap().0
    }

    /// Ready for requests.
    fn go(&mut self, name: &str, style: Style) {
        self.style = style;
        let option = match style {
            Style::Simple => None,
            Style::Structured => Some(wire::OPT_STRUCTURED_REPLY),
            Style::Extended => Some(wire::OPT_EXTENDED_HEADERS),
        };
        if let Some(option) = option {
            assert_eq!(self.last(option, &[]), wire::REP_ACK);
            assert_eq!(
                self.last(wire::OPT_SET_META_CONTEXT, &contexts(name, &["base:allocation"])),
                wire::REP_ACK
            );
        }
        assert_eq!(self.last(wire::OPT_GO, &info(name, &[])), wire::REP_ACK);
    }

    fn ask(&mut self, command: u16, flags: u16, offset: u64, bytes: u64) {
        let request = Request { flags, command, cookie: offset ^ 0x55, offset, bytes };
        let encoded = request.encode(self.style);
        self.send(&encoded);
    }

    /// The chunks of one reply, which must be to the request at this offset.
    fn reply(&mut self, offset: u64, read_bytes: usize) -> Vec<Said> {
        let mut said = Vec::new();
        loop {
            let magic = u32::from_be_bytes(self.bytes(4).try_into().unwrap());
            if magic == 0x6744_6698 {
                let head = self.bytes(12);
                let mut fields = Fields(&head);
                let error = fields.u32().unwrap();
                assert_eq!(fields.u64(), Some(offset ^ 0x55));
                return match (error, read_bytes) {
                    (0, 0) => said,
                    (0, bytes) => vec![Said::Data(offset, self.bytes(bytes))],
                    (error, _) => vec![Said::Error(error, None, String::new())],
                };
            }
            let extended = self.style == Style::Extended;
            assert_eq!(magic, if extended { 0x6e8a_278c } else { 0x668e_33ef });
            let head = self.bytes(if extended { 28 } else { 16 });
            let mut fields = Fields(&head);
            let (flags, kind) = (fields.u16().unwrap(), fields.u16().unwrap());
            assert_eq!(fields.u64(), Some(offset ^ 0x55));
            let length = match extended {
                true => {
                    assert_eq!(fields.u64(), Some(offset));
                    fields.u64().unwrap()
                }
                false => u64::from(fields.u32().unwrap()),
            };
            let payload = self.bytes(usize::try_from(length).unwrap());
            said.extend(chunk(kind, &payload));
            if flags & 1 != 0 {
                return said;
            }
        }
    }

    fn read(&mut self, flags: u16, offset: u64, bytes: u64) -> Vec<Said> {
        self.ask(wire::CMD_READ, flags, offset, bytes);
        self.reply(offset, usize::try_from(bytes).unwrap())
    }
}

fn chunk(kind: u16, payload: &[u8]) -> Option<Said> {
    let mut fields = Fields(payload);
    match kind {
        0 => None,
        1 => Some(Said::Data(fields.u64().unwrap(), fields.0.to_vec())),
        2 => Some(Said::Hole(fields.u64().unwrap(), u64::from(fields.u32().unwrap()))),
        5 | 6 => {
            assert_eq!(fields.u32(), Some(wire::ALLOCATION_ID));
            let number = |fields: &mut Fields<'_>| match kind {
                5 => fields.u32().map(u64::from),
                _ => fields.u64(),
            };
            let count = if kind == 6 { fields.u32().unwrap() as usize } else { payload.len() / 8 };
            let pairs: Vec<_> =
                (0..count).map(|_| (number(&mut fields).unwrap(), number(&mut fields).unwrap())).collect();
            assert!(fields.0.is_empty() && !pairs.is_empty());
            Some(Said::Status(pairs))
        }
        kind => {
            let (code, bytes) = (fields.u32().unwrap(), fields.u16().unwrap());
            let text = String::from_utf8(fields.take(usize::from(bytes)).unwrap().to_vec()).unwrap();
            Some(Said::Error(code, (kind == 0x8002).then(|| fields.u64().unwrap()), text))
        }
    }
}

/// Put together again; nothing twice, nothing left out.
fn assembled(said: &[Said], offset: u64, bytes: u64) -> Vec<u8> {
    let mut parts: Vec<(u64, Vec<u8>)> = said
        .iter()
        .map(|said| match said {
            Said::Data(at, bytes) => (*at, bytes.clone()),
            Said::Hole(at, bytes) => (*at, vec![0; *bytes as usize]),
            other => panic!("{other:?}"),
        })
        .collect();
    parts.sort();
    let mut found = Vec::new();
    for (at, part) in parts {
        assert_eq!(at, offset + found.len() as u64);
        found.extend(part);
    }
    assert_eq!(found.len() as u64, bytes);
    found
}

fn info(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    data.extend(name.as_bytes());
    data.extend(u16::try_from(wanted.len()).unwrap().to_be_bytes());
    wanted.iter().for_each(|kind| data.extend(kind.to_be_bytes()));
    data
}

fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    data.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    data.extend(name.as_bytes());
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend(u32::try_from(query.len()).unwrap().to_be_bytes());
        data.extend(query.as_bytes());
    }
    data
}

fn striped() -> Server {
    let device = || Arc::new(Striped::new());
    Server::new(vec![Export::read_only("disk", "all of it", device()), Export::read_only("p1", "", device())])
}

/// Runs a client against a server that ends when the client is done.
fn talk(server: &Server, watcher: &dyn Watcher, client: impl FnOnce(&mut Client)) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut reading, mut writing) = (&ours, &ours);
            server.serve_stream(&mut reading, &mut writing, watcher);
            ours.shutdown(std::net::Shutdown::Both).ok();
        });
        client(&mut Client::new(theirs));
    });
}

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_extent_reads_as_the_device(style in 0usize..3, spans in prop::collection::vec((0u64..3_000_000, 1u64..2_500_000), 1..6), whole: bool) {
        let plain = { let d = Striped::new(); d.0.to_vec() };
        talk(&striped(), &(), |client| {
            client.go("", STYLES[style]);
            for (offset, bytes) in spans {
                let bytes = bytes.min(SIZE as u64 - offset);
                let flags = if whole && style > 0 { wire::CMD_FLAG_DF } else { 0 };
                let said = client.read(flags, offset, bytes);
                assert!(flags == 0 || said.len() == 1);
                let span = offset as usize..(offset + bytes) as usize;
                assert!(assembled(&said, offset, bytes) == plain[span]);
            }
        });
    }

    #[test]
    fn any_bytes_of_a_stranger_end_in_silence(bytes in prop::collection::vec(any::<u8>(), 0..300), agreed: bool) {
        talk(&striped(), &(), |client| {
            if agreed {
                client.go("disk", Style::Structured);
            }
            client.stream.write_all(&bytes).ok();
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            client.stream.read_to_end(&mut rest).ok();
            assert!(rest.len() < 40_000_000);
        });
    }
}

#[test]
fn holes_are_told_and_not_sent() {
    for style in [Style::Structured, Style::Extended] {
        talk(&striped(), &(), |client| {
            client.go("p1", style);
            let said = client.read(0, 150_000, 200_000);
            let kinds: Vec<_> = said
                .iter()
                .map(|said| match said {
                    Said::Data(at, bytes) => (*at, bytes.len() as u64),
                    Said::Hole(at, _) => (*at, 0),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(kinds, [(150_000, 0), (200_000, 100_000), (300_000, 0)]);
            client.ask(wire::CMD_BLOCK_STATUS, 0, 150_000, 200_000);
            assert_eq!(
                client.reply(150_000, 0),
                [Said::Status(vec![(50_000, 3), (100_000, 0), (50_000, 3)])]
            );
            client.ask(wire::CMD_BLOCK_STATUS, wire::CMD_FLAG_REQ_ONE, 250_000, 200_000);
            assert_eq!(client.reply(250_000, 0), [Said::Status(vec![(50_000, 0)])]);
        });
    }
}

#[test]
fn exports_are_listed_and_described() {
    talk(&striped(), &(), |client| {
        let list = client.option(wire::OPT_LIST, &[]);
        assert_eq!(list[0], (wire::REP_SERVER, b"\0\0\0\x04diskall of it".to_vec()));
        assert_eq!((list.len(), list[1].1.as_slice()), (3, &b"\0\0\0\x02p1"[..]));
        let told = client.option(wire::OPT_INFO, &info("", &[1, 2, 3, 9]));
        let expected = [&[0, 0][..], &3_000_000u64.to_be_bytes(), &[1, 0b111]].concat();
        assert_eq!(told[0].1, expected);
        assert_eq!(told[1].1, [&[0, 3][..], &[0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]].concat());
        assert_eq!((&told[2].1[..], &told[3].1[..]), (&b"\0\x01disk"[..], &b"\0\x02all of it"[..]));
        let all = client.option(wire::OPT_LIST_META_CONTEXT, &contexts("disk", &[]));
        assert_eq!(all[0].0, wire::REP_ERR_INVALID);
        assert_eq!(client.last(wire::OPT_STRUCTURED_REPLY, &[]), wire::REP_ACK);
        for (queries, found) in
            [(&[][..], 1), (&["base:"], 1), (&["x:y", "base:allocation"], 1), (&["x:y"], 0)]
        {
            assert_eq!(
                client.option(wire::OPT_LIST_META_CONTEXT, &contexts("disk", queries)).len(),
                found + 1
            );
        }
        assert_eq!(client.last(wire::OPT_GO, &info("p2", &[])), wire::REP_ERR_UNKNOWN);
        assert_eq!(client.last(wire::OPT_STARTTLS, &[]), wire::REP_ERR_POLICY);
        assert_eq!(client.last(77, b"anything"), wire::REP_ERR_UNSUP);
        assert_eq!(client.last(wire::OPT_GO, b"\xff\xff\xff\xff"), wire::REP_ERR_INVALID);
        assert_eq!(client.last(wire::OPT_LIST, b"x"), wire::REP_ERR_INVALID);
        assert_eq!(client.last(wire::OPT_ABORT, &[]), wire::REP_ACK);
        assert!(client.is_closed());
    });
}

#[test]
fn the_old_way_to_choose_an_export_works() {
    talk(&striped(), &(), |client| {
        client.send(b"IHAVEOPT\0\0\0\x01\0\0\0\x02p1");
        let told = client.bytes(10);
        assert_eq!(told[..8], 3_000_000u64.to_be_bytes());
        assert_eq!(client.read(0, 300, 2), [Said::Data(300, vec![50, 51])]);
        client.ask(wire::CMD_DISC, 0, 0, 0);
        assert!(client.is_closed());
    });
    talk(&striped(), &(), |client| {
        client.send(b"IHAVEOPT\0\0\0\x01\0\0\0\x02p7");
        assert!(client.is_closed());
    });
}

#[test]
fn what_makes_no_sense_is_refused_and_the_connection_lives() {
    for style in STYLES {
        talk(&striped(), &(), |client| {
            client.go("disk", style);
            let refused = |said: &[Said]| match said {
                [Said::Error(code, _, _)] => *code,
                other => panic!("{other:?}"),
            };
            for (flags, offset, bytes) in
                [(0, 2_999_999, 2), (0, u64::MAX, 1), (0, 3_000_000, 1), (0, 5, 0), (1 << 9, 0, 1)]
            {
                assert_eq!(refused(&client.read(flags, offset, bytes)), wire::EINVAL);
            }
            client.ask(99, 0, 7, 8);
            assert_eq!(refused(&client.reply(7, 0)), wire::EINVAL);
            client.ask(wire::CMD_TRIM, 0, 7, 8);
            assert_eq!(refused(&client.reply(7, 0)), wire::EPERM);
            client.ask(wire::CMD_WRITE, if style == Style::Extended { 32 } else { 0 }, 7, 8);
            client.send(b"whatever");
            assert_eq!(refused(&client.reply(7, 0)), wire::EPERM);
            if style == Style::Simple {
                client.ask(wire::CMD_BLOCK_STATUS, 0, 0, 8);
                assert_eq!(refused(&client.reply(0, 0)), wire::EINVAL);
            }
            client.ask(wire::CMD_FLUSH, 0, 0, 0);
            assert_eq!(client.reply(0, 0), []);
            // A payload that is too long to be taken: nothing can follow it.
            client.ask(wire::CMD_WRITE, 0, 0, 1 << 31);
            assert!(client.is_closed());
        });
    }
}

#[test]
fn options_without_end_have_an_end() {
    talk(&striped(), &(), |client| {
        client.send(b"IHAVEOPT\0\0\0\x03\x7f\xff\xff\xff");
        assert!(client.is_closed());
    });
    talk(&striped(), &(), |client| {
        let mut asked = 0;
        while client.stream.write_all(b"IHAVEOPT\0\0\0\x4d\0\0\0\0").is_ok()
            && client.stream.read_exact(&mut [0; 20]).is_ok()
        {
            asked += 1;
        }
        assert_eq!(asked, 4096);
    });
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Watcher for Seen {
    fn event(&self, event: Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_the_rest_is_right() {
    let plain: Vec<u8> = (0..SIZE).map(|at| (at % 253) as u8).collect();
    let bad = Extent { offset: 2_000_000, bytes: 512 };
    let device = Arc::new(FaultDevice::new(MemoryDevice::new(plain.clone()), vec![bad]));
    let server = Server::new(vec![Export::read_only("disk", "", device)]);
    for style in STYLES {
        let seen = Seen::default();
        talk(&server, &seen, |client| {
            client.go("disk", style);
            let said = client.read(0, 500_000, 2_000_000);
            let Some(Said::Error(wire::EIO, place, _)) = said.last() else { panic!("{said:?}") };
            if style == Style::Simple {
                assert_eq!(said.len(), 1);
            } else {
                let at = place.unwrap();
                assert!((500_000..=2_000_000).contains(&at));
                let before = &said[..said.len() - 1];
                assert!(assembled(before, 500_000, at - 500_000) == plain[500_000..at as usize]);
            }
            assert_eq!(
                client.read(0, 2_000_512, 3),
                [Said::Data(2_000_512, plain[2_000_512..2_000_515].to_vec())]
            );
        });
        let seen = seen.0.into_inner().unwrap();
        assert!(seen.len() == 1 && seen[0].contains("disk"), "{seen:?}");
    }
}

#[test]
fn writes_zeroes_and_trims_reach_the_device() {
    for style in STYLES {
        let device = Arc::new(MemoryDevice::new(vec![7; 100_000]));
        let server = Server::new(vec![Export::writable("disk", "", device.clone())]);
        talk(&server, &(), |client| {
            client.go("disk", style);
            let payload_flag = if style == Style::Extended { wire::CMD_FLAG_PAYLOAD_LEN } else { 0 };
            client.ask(wire::CMD_WRITE, payload_flag | wire::CMD_FLAG_FUA, 1000, 5);
            client.send(b"seven");
            assert_eq!(client.reply(1000, 0), []);
            client.ask(wire::CMD_WRITE_ZEROES, wire::CMD_FLAG_NO_HOLE, 2000, 1000);
            assert_eq!(client.reply(2000, 0), []);
            client.ask(wire::CMD_TRIM, 0, 4000, 96_000);
            assert_eq!(client.reply(4000, 0), []);
            client.ask(wire::CMD_FLUSH, 0, 0, 0);
            assert_eq!(client.reply(0, 0), []);
            client.ask(wire::CMD_WRITE, payload_flag, 99_999, 2);
            client.send(b"no");
            let said = client.reply(99_999, 0);
            assert!(matches!(said[..], [Said::Error(wire::ENOSPC, None, _)]), "{said:?}");
        });
        let mut expected = vec![7; 100_000];
        expected[1000..1005].copy_from_slice(b"seven");
        expected[2000..3000].fill(0);
        expected[4000..].fill(0);
        assert!(device.to_vec() == expected);
    }
}

/// Many requests under way, replies in any order: each is whole, and to its request.
#[test]
fn replies_do_not_mix() {
    let plain = Striped::new().0.to_vec();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = striped();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut reading, mut writing) = (&ours, &ours);
            server.serve_stream(&mut reading, &mut writing, &());
            ours.shutdown(std::net::Shutdown::Both).ok();
        });
        let mut client = Client::new(theirs);
        client.go("disk", Style::Simple);
        let offsets: Vec<u64> = (0..300).map(|number| number * 9_777).collect();
        let mut asking = Client { stream: client.stream.try_clone().unwrap(), style: Style::Simple };
        let (asked, plain) = (offsets.clone(), &plain);
        scope.spawn(move || {
            asked.iter().for_each(|offset| asking.ask(wire::CMD_READ, 0, *offset, 30_000));
            asking.ask(wire::CMD_DISC, 0, 0, 0);
        });
        let mut left: std::collections::HashSet<u64> = offsets.into_iter().collect();
        while !left.is_empty() {
            let head = client.bytes(16);
            let mut fields = Fields(&head);
            assert_eq!((fields.u32(), fields.u32()), (Some(0x6744_6698), Some(0)));
            let offset = fields.u64().unwrap() ^ 0x55;
            assert!(left.remove(&offset));
            assert!(client.bytes(30_000) == plain[offset as usize..][..30_000]);
        }
        assert!(client.is_closed());
    });
}

/// Runs `client` while the server listens; then it is told to stop.
fn listening(listener: &Listener, server: &Server, client: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| server.serve(listener, &(), &|| stop.load(Ordering::SeqCst)).unwrap());
        client();
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_socket_is_its_owners_and_goes_with_the_listener() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a socket");
    let listener = Listener::bind(&Place::Unix(path.clone())).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(listener.uri("a b").starts_with("nbd+unix:///a%20b?socket=/"));
    let server = striped();
    let mut idle = None;
    listening(&listener, &server, || {
        let mut client = Client::new(UnixStream::connect(&path).unwrap());
        client.go("disk", Style::Structured);
        assert_eq!(client.read(0, 0, 2), [Said::Data(0, vec![1, 2])]);
        assert!(matches!(Listener::bind(&Place::Unix(path.clone())), Err(Error::Taken { .. })));
        idle = Some(client);
    });
    assert!(idle.unwrap().is_closed(), "all are sent away in the end");
    // Killed: the socket is left, and nobody listens.
    std::mem::forget(listener);
    let unused = Listener::bind(&Place::Unix(path.clone()));
    assert!(matches!(unused, Err(Error::Taken { .. })), "the descriptor is still open here");
    let other = folder.path().join("left");
    drop(std::os::unix::net::UnixListener::bind(&other).unwrap());
    drop(Listener::bind(&Place::Unix(other.clone())).unwrap());
    assert!(!other.exists());
    std::fs::write(&other, "a file").unwrap();
    assert!(matches!(Listener::bind(&Place::Unix(other)), Err(Error::Taken { .. })));
    let long = folder.path().join("x".repeat(120));
    assert!(matches!(Listener::bind(&Place::Unix(long)), Err(Error::LongPath { .. })));
}

#[test]
fn tcp_serves_many_and_turns_away_too_many() {
    let listener = Listener::bind(&Place::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let Place::Tcp(address) = listener.place().clone() else { panic!() };
    assert_eq!(listener.uri("disk"), format!("nbd://{address}/disk"));
    let server = striped();
    listening(&listener, &server, || {
        let connect = || std::net::TcpStream::connect(address).unwrap();
        let mut streams: Vec<_> = (0..32).map(|_| connect()).collect();
        for stream in &mut streams {
            stream.read_exact(&mut [0; 18]).unwrap();
        }
        assert!(matches!(connect().read(&mut [0]), Ok(0) | Err(_)));
    });
}

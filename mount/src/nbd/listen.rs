//! Sockets: where clients connect, how many may, and how they are sent away in the end.
//!
//! Promise: a unix socket can be used by its owner only, and is gone when its [`Listener`] is; nothing that is no unused
//! socket is overwritten. When asked to stop, clients have [`GRACE`] to take their replies. Knows nothing of the protocol.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::handshake::negotiate;
use super::{Error, Event, Server, Watcher, transmission};

/// nbdcopy opens four, a kernel one for each processor at most. Each has its threads and buffers.
const CONNECTIONS_MAX: usize = 32;

/// How often the request to stop is looked at.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Who says nothing for so long before an export is chosen gives its place to others.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);

/// What a client has to take its last replies.
const GRACE: Duration = Duration::from_secs(5);

/// Clients that connect wait here until they are looked at.
const BACKLOG: i32 = 64;

/// `sun_path` of Linux has 108 bytes, with a zero in the end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Requests are short: many fit in one read.
const REQUESTS_BYTES: usize = 4096;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A unix socket.
    Unix(PathBuf),
    /// An address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
}

/// A place where clients can connect.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    place: Place,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Taken`], [`Error::LongPath`].
    pub fn bind(place: &Place) -> Result<Listener, Error> {
        match place {
            Place::Unix(path) => {
                let socket = bind_unix(path)?;
                Ok(Listener { socket: Socket::Unix(socket), place: place.clone() })
            }
            Place::Tcp(address) => {
                let failed = |source| Error::Listen { place: address.to_string(), source };
                let socket = TcpListener::bind(address).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                let place = Place::Tcp(socket.local_addr().map_err(failed)?);
                Ok(Listener { socket: Socket::Tcp(socket), place })
            }
        }
    }

    /// Where it listens: with the port that the kernel chose.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// How clients name an export of it, as the NBD specification's doc/uri.md says.
    pub fn uri(&self, export: &str) -> String {
        let export = escape(export.as_bytes(), b"");
        match &self.place {
            Place::Unix(path) => {
                use std::os::unix::ffi::OsStrExt;
                format!("nbd+unix:///{export}?socket={}", escape(path.as_os_str().as_bytes(), b"/"))
            }
            Place::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Unix(socket) => Ok(Stream::Unix(socket.accept()?.0)),
            Socket::Tcp(socket) => {
                let stream = socket.accept()?.0;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    fn name(&self) -> String {
        match &self.place {
            Place::Unix(path) => path.display().to_string(),
            Place::Tcp(address) => address.to_string(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Place::Unix(path) = &self.place {
            // If it is gone already, so much the better.
            fs::remove_file(path).ok();
        }
    }
}

fn bind_unix(path: &Path) -> Result<UnixListener, Error> {
    let found = path.as_os_str().len();
    if found > SOCKET_PATH_BYTES_MAX {
        return Err(Error::LongPath { path: path.to_owned(), expected: SOCKET_PATH_BYTES_MAX, found });
    }
    remove_unused(path)?;
    let failed = |source| Error::Listen { place: path.display().to_string(), source };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let bound = || -> Result<OwnedFd, io::Error> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before `listen`: no stranger gets in before this.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    bound().map(UnixListener::from).map_err(failed)
}

/// What a server that was killed left behind.
fn remove_unused(path: &Path) -> Result<(), Error> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let refused = |error: &io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if !found.file_type().is_socket() || !UnixStream::connect(path).is_err_and(|error| refused(&error)) {
        return Err(Error::Taken { path: path.to_owned() });
    }
    fs::remove_file(path).map_err(|source| Error::Listen { place: path.display().to_string(), source })
}

/// Percent signs and hex for what has a meaning in a URI.
fn escape(bytes: &[u8], also_plain: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte))
            }
            byte if also_plain.contains(byte) => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// One client's socket. Read and written by reference, so that one thread may read while another writes.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
        }
    }

    fn shutdown(&self, how: Shutdown) {
        // It may be gone.
        match self {
            Stream::Unix(stream) => stream.shutdown(how).ok(),
            Stream::Tcp(stream) => stream.shutdown(how).ok(),
        };
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buf),
            Stream::Tcp(stream) => (&*stream).read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(buf),
            Stream::Tcp(stream) => (&*stream).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who is connected, so that all can be sent away.
#[derive(Default)]
struct Guests {
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    one_left: Condvar,
}

impl Guests {
    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, number: u64) {
        self.streams().remove(&number);
        self.one_left.notify_all();
    }

    /// No more requests, then no more replies.
    fn send_away(&self) {
        let streams = self.streams();
        streams.values().for_each(|stream| stream.shutdown(Shutdown::Read));
        let waited = self.one_left.wait_timeout_while(streams, GRACE, |streams| !streams.is_empty());
        let (streams, _) = waited.unwrap_or_else(PoisonError::into_inner);
        streams.values().for_each(|stream| stream.shutdown(Shutdown::Both));
    }
}

/// See [`Server::serve`].
pub(super) fn serve(
    server: &Server,
    listener: &Listener,
    watcher: &dyn Watcher,
    stopped: &(dyn Fn() -> bool + Sync),
) -> Result<(), Error> {
    let guests = Guests::default();
    let failed = |source| Error::Accept { place: listener.name(), source };
    thread::scope(|scope| {
        let mut numbers = 0u64..;
        let result = loop {
            if stopped() {
                break Ok(());
            }
            match wait_for(listener.as_fd()) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => break Err(failed(error)),
            }
            // A client that has gone again, or no descriptors left for now: neither is the end.
            let (Ok(stream), Some(number)) = (listener.accept(), numbers.next()) else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            let mut streams = guests.streams();
            if streams.len() >= CONNECTIONS_MAX {
                watcher.event(Event::TooMany { connections: streams.len() });
                continue;
            }
            let stream = Arc::new(stream);
            streams.insert(number, stream.clone());
            drop(streams);
            let guests = &guests;
            let begun = thread::Builder::new().spawn_scoped(scope, move || {
                serve_guest(server, &stream, watcher);
                guests.leave(number);
            });
            if begun.is_err() {
                guests.leave(number);
            }
        };
        guests.send_away();
        result
    })
}

fn serve_guest(server: &Server, stream: &Stream, watcher: &dyn Watcher) {
    let (mut reading, mut writing) = (BufReader::with_capacity(REQUESTS_BYTES, stream), stream);
    if stream.set_patience(Some(HANDSHAKE_MAX)).is_err() {
        return;
    }
    // A client that breaks off is no error of the server's.
    if let Ok(Some(session)) = negotiate(&server.exports, &mut reading, &mut writing)
        && stream.set_patience(None).is_ok()
    {
        transmission::serve(&session, &mut reading, &mut writing, server.threads, watcher);
    }
    stream.shutdown(Shutdown::Both);
}

/// A pipe that ends when someone says so.
pub(super) struct Interruptible<'a> {
    file: &'a File,
    stopped: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Interruptible<'a> {
    pub(super) fn new(file: &'a File, stopped: &'a (dyn Fn() -> bool + Sync)) -> Interruptible<'a> {
        Interruptible { file, stopped }
    }
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !wait_for(self.file.as_fd())? {
            if (self.stopped)() {
                return Ok(0);
            }
        }
        self.file.read(buf)
    }
}

/// Whether something is to be read from it, after a tick at most.
fn wait_for(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    match poll(&mut polled, Some(&TICK)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

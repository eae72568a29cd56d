//! Devices served as network block devices (NBD): nbdcopy, qemu and kernels read them, and write where that is allowed.
//!
//! Fixed newstyle negotiation with structured replies, extended headers and `base:allocation`, so that clients skip holes;
//! any number of exports, by name; several connections, and several requests of each, at once. Written here because the
//! crates there are have no structured replies, or another licence.
//! Promise: no client can stop the server, make it take more than some memory, or get bytes that the device did not give.
//! There is no encryption and no password: who can connect can read. So it listens where it is told to only.

mod handshake;
mod listen;
#[cfg(test)]
mod tests;
mod transmission;
mod wire;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use disk::{ReadAt, WriteAt};

pub use listen::{Listener, Place};

/// The longest read or write: what clients may count on that ask for no other.
const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Threads a connection: while one waits for the store or the client, another decodes. More than eight gain nothing, as
/// clients open several connections.
const THREADS_MAX: usize = 8;

/// Blocks that an overlay writes without reading, and pages of memory.
const PREFERRED_BYTES_MIN: u32 = 4096;

/// What can go wrong with the server itself; clients' errors are theirs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The place cannot be listened at.
    #[error("{place}: cannot listen")]
    Listen {
        /// Path or address.
        place: String,
        /// The cause.
        source: io::Error,
    },
    /// Somebody else listens there, or it is a file.
    #[error("{path}: expected nothing or a socket that nobody uses, found something else", path = path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// The kernel takes no longer path.
    #[error("{path}: expected a path of at most {expected} bytes, found {found}", path = path.display())]
    LongPath {
        /// The path.
        path: PathBuf,
        /// What sockets can have.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// Nobody can connect any more.
    #[error("{place}: cannot accept connections")]
    Accept {
        /// Path or address.
        place: String,
        /// The cause.
        source: io::Error,
    },
}

/// One device under its name.
pub struct Export {
    name: String,
    description: String,
    device: Device,
}

enum Device {
    ReadOnly(Arc<dyn ReadAt>),
    Writable(Arc<dyn WriteAt>),
}

impl Export {
    /// A device that clients can read.
    pub fn read_only(name: &str, description: &str, device: Arc<dyn ReadAt>) -> Export {
        Export::new(name, description, Device::ReadOnly(device))
    }

    /// A device that clients can read and write. A flush by one is a sync of all that was written.
    pub fn writable(name: &str, description: &str, device: Arc<dyn WriteAt>) -> Export {
        Export::new(name, description, Device::Writable(device))
    }

    fn new(name: &str, description: &str, device: Device) -> Export {
        Export { name: name.to_owned(), description: description.to_owned(), device }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What people are told of it.
    pub fn description(&self) -> &str {
        &self.description
    }

    fn is_writable(&self) -> bool {
        matches!(self.device, Device::Writable(_))
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        match &self.device {
            Device::ReadOnly(device) => device.size_bytes(),
            Device::Writable(device) => device.size_bytes(),
        }
    }

    fn preferred_bytes(&self) -> u32 {
        let sector_bytes = match &self.device {
            Device::ReadOnly(device) => device.sector_bytes(),
            Device::Writable(device) => device.sector_bytes(),
        };
        sector_bytes.clamp(PREFERRED_BYTES_MIN, PAYLOAD_BYTES_MAX).next_power_of_two()
    }
}

/// Something that whoever runs the server may want to know.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The device could not do what a client asked for; the client got an error.
    Failed {
        /// Name of the export.
        export: &'a str,
        /// Why.
        error: &'a disk::Error,
    },
    /// A client was sent away, as there are too many.
    TooMany {
        /// How many there are.
        connections: usize,
    },
}

/// Is told of events, by any thread.
pub trait Watcher: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// For who does not want to know.
impl Watcher for () {
    fn event(&self, _: Event<'_>) {}
}

/// Exports, ready to be served. The first one is also what clients get that name none.
pub struct Server {
    exports: Vec<Export>,
    threads: usize,
}

impl Server {
    /// A server of these; names should differ.
    pub fn new(exports: Vec<Export>) -> Server {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Server { exports, threads: (processors * 2).min(THREADS_MAX) }
    }

    /// What it serves.
    pub fn exports(&self) -> &[Export] {
        &self.exports
    }

    /// Serves all who connect, until `stopped` says so; then what is under way is answered, for some seconds at most.
    ///
    /// # Errors
    /// [`Error::Accept`].
    pub fn serve(
        &self,
        listener: &Listener,
        watcher: &dyn Watcher,
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), Error> {
        listen::serve(self, listener, watcher, stopped)
    }

    /// Serves the one client at the other ends of two pipes (or of one socket), until it leaves or `stopped` says so.
    pub fn serve_pipes(
        &self,
        reading: &File,
        writing: &File,
        watcher: &dyn Watcher,
        stopped: &(dyn Fn() -> bool + Sync),
    ) {
        let mut writing = writing;
        self.serve_stream(&mut listen::Interruptible::new(reading, stopped), &mut writing, watcher);
    }

    /// Serves one client over a pair of streams, until it leaves.
    pub fn serve_stream(
        &self,
        reading: &mut (dyn Read + Send),
        writing: &mut (dyn Write + Send),
        watcher: &dyn Watcher,
    ) {
        // A client that breaks off is no error of the server's.
        if let Ok(Some(session)) = handshake::negotiate(&self.exports, reading, writing) {
            transmission::serve(&session, reading, writing, self.threads, watcher);
        }
    }
}

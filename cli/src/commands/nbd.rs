//! `cas nbd IMAGE[:N]`: an image, or what becomes of it, as a network block device.
//!
//! Promise: the image stays as it is: what is written goes into an overlay. Nobody but this user, or this machine when a
//! port is asked for, can connect unless told otherwise. Knows nothing of the protocol.

use crate::args::Context;
use crate::errors::Said;
use crate::exit::Exit;
use crate::locking::LockWait;
use crate::naming::{Narrow, Place as ImagePlace};
use crate::progress::{Meter, Work};
use crate::units::show_bytes;
use crate::{catalog, place};
use anyhow::{Context as _, Result};
use disk::{Extent, ReadAt, Section, WriteAt};
use image::{CaptureOptions, Captured, ImageReader, Overlay, SourceInfo};
use jiff::Timestamp;
use mount::nbd::{Event, Export, Listener, Place, Server, Watcher};
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use store::{ImageId, Store, WriterOptions};

/// The port that is NBD's by IANA.
const PORT: u16 = 10809;

/// Failed reads that are told one by one: a client may try thousands of times.
const FAILURES_SHOWN: u64 = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The image, or one partition of it: IMAGE or IMAGE:N
    image: OsString,
    /// Listen on this unix socket [default: one in the runtime folder]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["listen", "stdio"])]
    socket: Option<PathBuf>,
    /// Listen on this TCP port, or address and port
    #[arg(long, value_name = "[IP:]PORT", value_parser = parse_address, conflicts_with = "stdio")]
    listen: Option<SocketAddr>,
    /// Let other machines connect: --listen may name an address that is not this machine's own
    #[arg(long, requires = "listen")]
    allow_remote: bool,
    /// Serve one client on standard input and output
    #[arg(long)]
    stdio: bool,
    /// Let clients write, into an overlay
    #[arg(long)]
    rw: bool,
    /// Keep what is written in this file, or go on with what it has; without it, changes are lost in the end
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// In the end capture the overlay as a new image; without --rw nothing is served
    #[arg(long)]
    save: bool,
    #[command(flatten)]
    saving: Saving,
    #[command(flatten)]
    narrow: Narrow,
}

/// How an overlay becomes an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Saving {
    /// With --save, mark the new image with a remark for people
    #[arg(long, default_value = "", hide_default_value = true)]
    comment: String,
    /// With --save, the disk that the new image is filed under [default: that of the image]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// With --save, mark the new image with a tag; may be repeated
    #[arg(long = "mark", value_name = "TAG")]
    tags: Vec<String>,
    #[command(flatten)]
    lock: LockWait,
}

const AFTER_HELP: &str = "\
Exports are called disk, p1, p2… There is no encryption and no password: leave that to a tunnel, such as
ssh -L 10809:127.0.0.1:10809 HOST, and connect to nbd://127.0.0.1/disk there. Ctrl-C ends the service.";

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let (name, volume) = check(&args)?;
    let store = place::open(context)?;
    let image = catalog::open(context, &store, &name, &args.narrow)?;
    let title = format!("nbd {}", image.id().short());
    let source = SourceInfo::from_manifest(image.manifest()).context(title.clone())?;
    let id = image.id();
    let reader: Arc<dyn ReadAt> = Arc::new(ImageReader::new(image));
    let overlay = open_overlay(&args, id, &reader).context(title.clone())?;
    context.signals.guard()?;
    if args.rw || !args.save {
        let exports = match &overlay {
            Some(overlay) if args.rw => {
                exports_of(&source, volume, |extent| Bytes::Writable(overlay.clone(), extent))
            }
            Some(overlay) => exports_of(&source, volume, |extent| Bytes::ReadOnly(overlay.clone(), extent)),
            None => exports_of(&source, volume, |extent| Bytes::ReadOnly(reader.clone(), extent)),
        };
        let exports = exports.ok_or_else(|| no_such_volume(&name, volume))?;
        serve(context, &args, Server::new(exports), &id.short()).context(title.clone())?;
    }
    let Some(overlay) = overlay else { return Ok(Exit::Done) };
    overlay.sync().context(title)?;
    if args.save { save(context, &args, &store, id, &overlay) } else { Ok(Exit::Done) }
}

/// What was written becomes an image; the overlay stays as it is.
fn save(context: &Context, args: &Args, store: &Store, parent: ImageId, overlay: &Overlay) -> Result<Exit> {
    let parent = store.image(parent)?;
    let options = CaptureOptions {
        writer: WriterOptions { what: "capture".to_owned(), ..WriterOptions::default() },
        created: Timestamp::now().to_string(),
        // Filed where its parent is.
        host: parent.manifest().host.clone(),
        disk: args.saving.name.clone(),
        tags: args.saving.tags.clone(),
        comment: args.saving.comment.clone(),
        ..CaptureOptions::default()
    };
    let started = Instant::now();
    let title = format!("save {}", parent.id().short());
    let captured = args
        .saving
        .lock
        .run(context, || {
            let meter = Meter::start(&context.ui, &context.signals, Work::Capture, &title);
            image::save_overlay(overlay, &parent, store, &options, &meter)
        })
        .context(title.clone())?;
    Ok(report_saved(context, overlay, parent.id(), &captured, started))
}

fn report_saved(
    context: &Context,
    overlay: &Overlay,
    parent: ImageId,
    captured: &Captured,
    started: Instant,
) -> Exit {
    let statistics = &captured.manifest.statistics;
    let written: u64 = overlay.written().iter().map(|extent| extent.bytes).sum();
    let (new, stored) = (show_bytes(statistics.new_bytes), show_bytes(statistics.new_stored_bytes));
    context.ui.say(format!("{:<13} {}", "image", captured.image));
    context.ui.say(format!("{:<13} {}", "parent", parent));
    context.ui.say(format!("{:<13} {}", "written", show_bytes(written)));
    context.ui.say(format!("{:<13} {new}, stored as {stored}", "new"));
    context.ui.event(
        "summary",
        json!({
            "image": captured.image.to_string(),
            "parent": parent.to_string(),
            "written_bytes": written,
            "new_bytes": statistics.new_bytes,
            "stored_bytes": statistics.new_stored_bytes,
            "bad_bytes": statistics.bad_bytes,
            "seconds": started.elapsed().as_secs_f64(),
        }),
    );
    if statistics.bad_bytes > 0 { Exit::Incomplete } else { Exit::Done }
}

/// What makes no sense, before anything is opened; the image's name and the volume.
fn check(args: &Args) -> Result<(String, Option<u32>)> {
    let named = ImagePlace::parse(&args.image)?;
    if named.path.is_some() {
        return Err(Said::usage("nbd: expected an image or a partition, found a path").into());
    }
    if args.save && args.overlay.is_none() {
        let said = Said::usage("nbd: --save needs --overlay: an overlay is what is saved");
        return Err(said.hint("name a file with --overlay; it is kept until you remove it").into());
    }
    if let Some(file) = args.overlay.as_ref().filter(|file| !args.rw && !file.exists()) {
        let said = Said::new(Exit::Failed, format!("{}: expected an overlay, found nothing", file.display()));
        return Err(said.hint("with --rw it is made").into());
    }
    if let Some(address) = args.listen.filter(|address| !address.ip().is_loopback() && !args.allow_remote) {
        let text =
            format!("nbd: --listen {address}: expected an address of this machine alone, as 127.0.0.1");
        let hint = "there is no encryption and no password: use a tunnel (ssh -L), or say --allow-remote";
        return Err(Said::refused(text).hint(hint).into());
    }
    if args.stdio && io::stdin().is_terminal() {
        let said = Said::usage("nbd: --stdio: expected a client on standard input, found a terminal");
        return Err(said
            .hint("inetd, ssh or socat start it: socat UNIX-LISTEN:s,fork EXEC:'cas nbd IMAGE --stdio'")
            .into());
    }
    Ok((named.image, named.volume))
}

pub(super) fn no_such_volume(image: &str, volume: Option<u32>) -> Said {
    let number = volume.unwrap_or(0);
    Said::usage(format!("{image}:{number}: no such partition")).hint("`cas show IMAGE` lists the partitions")
}

/// `10809`, `127.0.0.1:10809`, `[::1]:10809`, `127.0.0.1`.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = text.parse().map(|port| SocketAddr::new(local, port));
    let address = || text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
    port.or_else(|_| text.parse())
        .or_else(|_| address())
        .map_err(|_| "expected a port, or an IP address with or without one".to_owned())
}

fn open_overlay(args: &Args, image: ImageId, reader: &Arc<dyn ReadAt>) -> Result<Option<Arc<Overlay>>> {
    let size_bytes = reader.size_bytes();
    let overlay = match &args.overlay {
        Some(file) => Overlay::open(reader.clone(), size_bytes, file, &format!("image {image}"))?,
        None if args.rw => Overlay::temporary(reader.clone(), size_bytes, &std::env::temp_dir())?,
        None => return Ok(None),
    };
    Ok(Some(Arc::new(overlay)))
}

/// A device and the part of it that is served.
pub(super) enum Bytes {
    ReadOnly(Arc<dyn ReadAt>, Extent),
    Writable(Arc<dyn WriteAt>, Extent),
}

impl Bytes {
    fn export(self, name: &str, description: &str) -> Export {
        match self {
            Bytes::ReadOnly(device, extent) => {
                Export::read_only(name, description, Arc::new(Section::new(device, extent)))
            }
            Bytes::Writable(device, extent) => {
                Export::writable(name, description, Arc::new(Section::new(device, extent)))
            }
        }
    }
}

/// The whole disk and each partition, or the one that was named; `None` when there is no such partition.
pub(super) fn exports_of(
    source: &SourceInfo,
    volume: Option<u32>,
    bytes: impl Fn(Extent) -> Bytes,
) -> Option<Vec<Export>> {
    let whole = Extent { offset: 0, bytes: source.bytes() };
    let mut exports = Vec::new();
    if volume.is_none_or(|number| number == 0) {
        exports.push(bytes(whole).export("disk", &source.identity.name));
    }
    for found in
        source.layout.volumes.iter().filter(|found| volume.is_none_or(|number| number == found.number))
    {
        let content = found.content.as_ref();
        let kind = content.map(|content| content.kind.clone());
        let label = content.and_then(|content| content.label.clone()).or_else(|| found.name.clone());
        let description: Vec<String> = kind.into_iter().chain(label).collect();
        exports.push(bytes(found.extent).export(&format!("p{}", found.number), &description.join(" ")));
    }
    (!exports.is_empty()).then_some(exports)
}

/// Tells of what clients could not be given.
pub(super) struct Failures<'a> {
    context: &'a Context,
    count: AtomicU64,
}

impl<'a> Failures<'a> {
    pub(super) fn new(context: &'a Context) -> Failures<'a> {
        Failures { context, count: AtomicU64::new(0) }
    }
}

impl Watcher for Failures<'_> {
    fn event(&self, event: Event<'_>) {
        let ui = &self.context.ui;
        match event {
            Event::Failed { export, error } => match self.count.fetch_add(1, Ordering::Relaxed) {
                0..FAILURES_SHOWN => ui.warn(format!("{export}: {}", super::verify::chain(error))),
                FAILURES_SHOWN => ui.warn("and more of this kind"),
                _ => {}
            },
            Event::TooMany { connections } => {
                ui.warn(format!("a client was sent away: there are {connections} connections"));
            }
            _ => {}
        }
    }
}

fn serve(context: &Context, args: &Args, server: Server, image: &str) -> Result<()> {
    let watcher = Failures::new(context);
    let stopped = || context.signals.stopped();
    if args.stdio {
        context.ui.give_stdout_away();
        let reading = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let writing = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        server.serve_pipes(&reading, &writing, &watcher, &stopped);
    } else {
        let listener = Listener::bind(&listen_place(args, image)?)?;
        tell(context, args, &server, &listener, image);
        server.serve(&listener, &watcher, &stopped)?;
    }
    context.signals.followed();
    Ok(())
}

fn listen_place(args: &Args, image: &str) -> Result<Place> {
    if let Some(address) = args.listen {
        return Ok(Place::Tcp(address));
    }
    let path = match &args.socket {
        Some(path) => path.clone(),
        None => private_socket(image)?,
    };
    // A client may be started elsewhere.
    Ok(Place::Unix(std::path::absolute(path)?))
}

/// A path that no other process uses.
pub(super) fn private_socket(image: &str) -> Result<PathBuf> {
    Ok(runtime_folder()?.join(format!("nbd-{image}-{}.sock", std::process::id())))
}

/// A folder for sockets that only this user can enter.
fn runtime_folder() -> Result<PathBuf> {
    let user = rustix::process::geteuid();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        Some(runtime) => Path::new(&runtime).join("cas"),
        None if user.is_root() => PathBuf::from("/run/cas"),
        None => std::env::temp_dir().join(format!("cas-{}", user.as_raw())),
    };
    let place = || format!("{}: make a folder for sockets", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).with_context(place)?;
    let found = fs::symlink_metadata(&folder).with_context(place)?;
    if !found.is_dir() || found.uid() != user.as_raw() || found.mode() & 0o077 != 0 {
        let text = format!("{}: expected a folder that only this user can enter", folder.display());
        return Err(Said::refused(text).hint("name a socket elsewhere with --socket").into());
    }
    Ok(folder)
}

/// Where clients find it, and what they could do.
fn tell(context: &Context, args: &Args, server: &Server, listener: &Listener, image: &str) {
    let ui = &context.ui;
    let manner = match (&args.overlay, args.rw) {
        (None, true) => ", writable; changes are lost in the end",
        (Some(_), true) => ", writable; changes are kept in the overlay",
        (_, false) => ", read-only",
    };
    ui.say(format!("serving  image {image}{manner}"));
    for export in server.exports() {
        let size = show_bytes(export.size_bytes());
        ui.say(format!(
            "{:<8} {}  {size} {}",
            export.name(),
            listener.uri(export.name()),
            export.description()
        ));
    }
    if let Some(first) = server.exports().first() {
        let uri = listener.uri(first.name());
        ui.note(format!("nbdcopy '{uri}' disk.img"));
        ui.note(format!("qemu-img convert -O qcow2 '{uri}' disk.qcow2"));
        ui.note(
            "there is no encryption: for other machines, put a tunnel around it (ssh -L); Ctrl-C ends it",
        );
    }
    let exports: Vec<_> = server
        .exports()
        .iter()
        .map(|export| {
            let uri = listener.uri(export.name());
            json!({ "name": export.name(), "uri": uri, "bytes": export.size_bytes(), "writable": args.rw })
        })
        .collect();
    ui.event("listening", json!({ "image": image, "exports": exports }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_port_alone() {
        for (text, expected) in [
            ("10809", Some("127.0.0.1:10809")),
            ("0", Some("127.0.0.1:0")),
            ("[::1]:5", Some("[::1]:5")),
            ("::1", Some("[::1]:10809")),
            ("0.0.0.0:80", Some("0.0.0.0:80")),
            ("localhost", None),
            ("70000", None),
            ("", None),
        ] {
            assert_eq!(parse_address(text).ok().map(|it| it.to_string()).as_deref(), expected, "{text}");
        }
    }
}

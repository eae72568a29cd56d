//! `cas export IMAGE FILE --format qcow2`: an image as a virtual machine's disk file.
//!
//! qemu-img writes the file and reads the image over a private socket; it is started and ended here. Promise: what is there
//! already is not overwritten; a file that did not become whole is removed. Knows nothing of the formats.

use crate::args::Context;
use crate::commands::nbd::{Bytes, Failures, exports_of, no_such_volume, private_socket};
use crate::errors::Said;
use crate::exit::Exit;
use crate::naming::{Narrow, Place as ImagePlace};
use crate::units::{show_bytes, show_duration};
use crate::{catalog, place};
use anyhow::{Context as _, Result};
use clap::ValueEnum;
use image::{ImageReader, SourceInfo};
use mount::nbd::{Listener, Place, Server};
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often it is looked whether qemu-img has ended, or is asked to.
const TICK: Duration = Duration::from_millis(50);

/// Reads under way at once: qemu-img's most, as each waits for a chunk to be decoded.
const COROUTINES: &str = "16";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image, or one partition of it: IMAGE or IMAGE:N
    image: OsString,
    /// The file to be made; it must not exist
    file: PathBuf,
    /// What kind of file
    #[arg(long, value_enum)]
    format: Format,
    /// Compress, where the format can (qcow2, vmdk for streaming)
    #[arg(long)]
    compress: bool,
    /// Read the file again when it is written, and compare
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    narrow: Narrow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// QEMU, KVM, libvirt, Proxmox
    Qcow2,
    /// Hyper-V
    Vhdx,
    /// VMware
    Vmdk,
    /// VirtualBox
    Vdi,
    /// The bytes as they are, with holes
    Raw,
}

impl Format {
    /// As qemu-img calls it.
    fn name(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Vhdx => "vhdx",
            Format::Vmdk => "vmdk",
            Format::Vdi => "vdi",
            Format::Raw => "raw",
        }
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let named = ImagePlace::parse(&args.image)?;
    if named.path.is_some() {
        return Err(Said::usage("export: expected an image or a partition, found a path").into());
    }
    let file = std::path::absolute(&args.file)?;
    if fs::symlink_metadata(&file).is_ok() {
        let said = Said::refused(format!("{}: expected no file of that name", file.display()));
        return Err(said.hint("remove it first, or name another").into());
    }
    if args.compress && !matches!(args.format, Format::Qcow2 | Format::Vmdk) {
        return Err(Said::usage(format!("export: --compress: {} cannot", args.format.name())).into());
    }
    let store = place::open(context)?;
    let image = catalog::open(context, &store, &named.image, &args.narrow)?;
    let (id, title) = (image.id(), format!("export {}", image.id().short()));
    let source = SourceInfo::from_manifest(image.manifest()).context(title.clone())?;
    let reader = Arc::new(ImageReader::new(image));
    // The one that was named, or the whole disk: the first.
    let exports = exports_of(&source, named.volume, |extent| Bytes::ReadOnly(reader.clone(), extent));
    let server = Server::new(exports.ok_or_else(|| no_such_volume(&named.image, named.volume))?);
    let listener = Listener::bind(&Place::Unix(private_socket(&id.short())?))?;
    context.signals.guard()?;
    let started = Instant::now();
    let exit = while_served(context, &server, &listener, |uri| convert(context, &args, uri, &file))
        .inspect_err(|_| drop(fs::remove_file(&file)))
        .context(title)?;
    report(context, &args, &id.to_string(), &file, &server, started.elapsed());
    Ok(exit)
}

/// Does `work` while clients are served, and ends with it.
fn while_served<T>(
    context: &Context,
    server: &Server,
    listener: &Listener,
    work: impl FnOnce(&str) -> Result<T>,
) -> Result<T> {
    let done = AtomicBool::new(false);
    let uri = server.exports().first().map_or_else(String::new, |first| listener.uri(first.name()));
    let watcher = Failures::new(context);
    thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve(listener, &watcher, &|| done.load(Ordering::SeqCst)));
        let result = work(&uri);
        done.store(true, Ordering::SeqCst);
        match serving.join() {
            Ok(served) => served?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        result
    })
}

fn convert(context: &Context, args: &Args, uri: &str, file: &Path) -> Result<Exit> {
    let format = args.format.name();
    let mut words: Vec<&OsStr> =
        ["convert", "-f", "raw", "-O", format, "-m", COROUTINES].map(OsStr::new).to_vec();
    if args.compress {
        words.push(OsStr::new("-c"));
    }
    if args.compress && args.format == Format::Vmdk {
        words.extend(["-o", "subformat=streamOptimized"].map(OsStr::new));
    }
    words.extend([OsStr::new(uri), file.as_os_str()]);
    qemu_img(context, &words)?;
    if args.verify {
        let words = ["compare", "-f", "raw", "-F", format, uri].map(OsStr::new);
        qemu_img(context, &[&words[..], &[file.as_os_str()]].concat())?;
    }
    Ok(Exit::Done)
}

/// Runs qemu-img to its end, or until it is to stop.
fn qemu_img(context: &Context, words: &[&OsStr]) -> Result<()> {
    let child = Command::new("qemu-img").args(words).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::Error::new(
            Said::new(Exit::Failed, "qemu-img: not installed").hint("apt install qemu-utils"),
        ),
        _ => anyhow::Error::new(error).context("qemu-img: start"),
    })?;
    let status = loop {
        if context.signals.stopped() {
            end(&mut child);
            return Err(store::Error::Interrupted.into());
        }
        match child.try_wait().context("qemu-img: wait")? {
            Some(status) => break status,
            None => thread::sleep(TICK),
        }
    };
    match status.success() {
        true => Ok(()),
        false => Err(Said::new(Exit::Failed, format!("qemu-img: {status}"))
            .hint("what it said stands above; `cas verify IMAGE` tells whether the image can be read")
            .into()),
    }
}

/// It may have ended by itself.
fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

fn report(context: &Context, args: &Args, id: &str, file: &Path, server: &Server, elapsed: Duration) {
    let bytes = server.exports().first().map_or(0, |first| first.size_bytes());
    let file_bytes = fs::metadata(file).map_or(0, |found| found.blocks().saturating_mul(512));
    let format = args.format.name();
    let (size, stored) = (show_bytes(bytes), show_bytes(file_bytes));
    let compared = if args.verify { ", compared" } else { "" };
    context.ui.say(format!(
        "{}  {format}, {size} in {stored}, {}{compared}",
        file.display(),
        show_duration(elapsed)
    ));
    context.ui.event(
        "summary",
        json!({
            "image": id,
            "file": file.display().to_string(),
            "format": format,
            "bytes": bytes,
            "file_bytes": file_bytes,
            "verified": args.verify,
            "seconds": elapsed.as_secs_f64(),
        }),
    );
}

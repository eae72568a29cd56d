//! `cas mount DIR [IMAGE]`: images as folders, until Ctrl-C, SIGTERM or `umount`.
//!
//! Promise: read only; a damaged chunk is an input/output error for whoever reads it and a line here that names it.
//! Knows nothing of FUSE.

use crate::args::Context;
use crate::catalog::{self, Listed};
use crate::errors::Said;
use crate::exit::Exit;
use crate::naming::{Narrow, Scope};
use crate::place;
use anyhow::{Context as _, Result};
use disk::ReadAt;
use image::ImageReader;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mount::{Mounted, MountedImage, MountedLink, MountedVolume, OpenImage, mount_images};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, SystemTime};
use store::{ImageId, Store};

/// How often it looks whether it should end: soon enough for a person.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Different failures that are told one by one: a program that reads on over damage would fill the terminal.
const FAILURES_TOLD_MAX: usize = 1000;

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// An empty folder; it is made when it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Only this image: 4 or more digits of its id, latest, latest~2 [default: all]
    image: Option<String>,
    /// Other users may look too, each as far as the files' own permissions let him
    #[arg(long)]
    allow_other: bool,
    #[command(flatten)]
    narrow: Narrow,
}

const AFTER_HELP: &str = "\
In DIR: a folder for each image (ID-DATE) with disk.img, a file for each partition (p1.img), and the files in it
(p1/) where its filesystem can be read; `latest`, and `latest-DISK` when there are several disks. Images that
are captured later are seen by the next mount. Ends with Ctrl-C, SIGTERM, or `umount DIR`.
A filesystem inside: losetup -r -f --show --direct-io=on DIR/latest/p2.img, then mount -o ro";

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let store = Arc::new(place::open(context)?);
    let images = catalog::list(&store)?;
    let chosen = choose(&images, &args)?;
    let names = name_all(&chosen, &TimeZone::system());
    let is_made = prepare(&args.folder)?;
    context.signals.guard()?;
    let mounted = mount(context, &store, &chosen, &names, &args);
    let served = mounted.map(|mounted| serve(context, &mounted, &names, &args.folder));
    if is_made {
        // Left where someone has put something meanwhile.
        fs::remove_dir(&args.folder).ok();
    }
    served
}

/// The image that was named, or all that can be used.
fn choose<'a>(images: &'a [Listed], args: &Args) -> Result<Vec<&'a Listed>> {
    let Some(name) = &args.image else {
        let fits =
            |image: &&Listed| image.known.sound && !image.known.forgotten && args.narrow.admits(&image.known);
        let chosen: Vec<&Listed> = images.iter().filter(fits).collect();
        if chosen.is_empty() {
            let hint = "`cas images --all` lists every image; check --disk, --host, --tag and --before";
            return Err(Said::new(Exit::Failed, "mount: no image fits").hint(hint).into());
        }
        return Ok(chosen);
    };
    let id = catalog::find(images, name, &args.narrow, Scope::Live)?;
    Ok(images.iter().filter(|image| image.known.id == id).collect())
}

/// Names of the images' folders, in their order.
fn name_all(images: &[&Listed], zone: &TimeZone) -> Vec<String> {
    images.iter().map(|image| folder_name(image.known.id, image.known.time, zone)).collect()
}

fn folder_name(id: ImageId, time: Timestamp, zone: &TimeZone) -> String {
    format!("{}-{}", id.short(), time.to_zoned(zone.clone()).strftime("%Y-%m-%d"))
}

/// Makes the folder, or sees that it is empty; whether it was made.
fn prepare(folder: &Path) -> Result<bool> {
    match fs::create_dir(folder) {
        Ok(()) => return Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e).with_context(|| format!("{}: cannot create", folder.display())),
    }
    let entries = fs::read_dir(folder);
    if entries.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotConnected) {
        let text = format!("{}: something is mounted there whose process was killed", folder.display());
        let hint = format!("`umount {}` takes it away", folder.display());
        return Err(Said::new(Exit::Failed, text).hint(hint).into());
    }
    let mut entries = entries.with_context(|| format!("{}: cannot read", folder.display()))?;
    match entries.next() {
        None => Ok(false),
        Some(_) => {
            let text = format!("{}: expected an empty folder, found files in it", folder.display());
            Err(Said::usage(text).hint("name a new folder: it is made, and removed afterwards").into())
        }
    }
}

fn mount(
    context: &Context,
    store: &Arc<Store>,
    images: &[&Listed],
    names: &[String],
    args: &Args,
) -> Result<Mounted> {
    let links = if args.image.is_some() { Vec::new() } else { links(images, names) };
    let shown = images.iter().zip(names).map(|(image, name)| to_be_mounted(store, image, name)).collect();
    let ui = Arc::clone(&context.ui);
    let told = Mutex::new(HashSet::new());
    let tell = move |text: &str| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < FAILURES_TOLD_MAX && told.insert(text.to_owned()) {
            ui.warn(text);
        }
    };
    mount_images(shown, links, &args.folder, args.allow_other, Box::new(tell)).map_err(|error| {
        let hint = "FUSE is needed: /dev/fuse, and for others than root `apt-get install fuse3`";
        Said::new(Exit::Failed, super::verify::chain(&error)).hint(hint).into()
    })
}

/// `latest` is the newest image; with several disks there is one for each too.
fn links(images: &[&Listed], names: &[String]) -> Vec<MountedLink> {
    let newest: BTreeMap<String, &String> =
        images.iter().zip(names).map(|(image, name)| (safe_name(image.disk()), name)).collect();
    let of_disks = newest.iter().filter(|_| newest.len() > 1);
    let link = |name: String, target: &String| MountedLink { name, target: target.clone() };
    let of_all = names.last().map(|name| link("latest".to_owned(), name));
    of_all.into_iter().chain(of_disks.map(|(disk, name)| link(format!("latest-{disk}"), name))).collect()
}

/// A disk's name as part of a file's.
fn safe_name(disk: &str) -> String {
    disk.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).take(100).collect()
}

fn to_be_mounted(store: &Arc<Store>, image: &Listed, name: &str) -> MountedImage {
    let source = image.source.as_ref();
    let excluded = source.map_or(&[][..], |source| &source.excluded);
    let volumes = source.iter().flat_map(|source| &source.layout.volumes);
    let volumes = volumes.filter(|volume| !excluded.contains(&volume.number)).map(|volume| MountedVolume {
        number: volume.number,
        extent: volume.extent,
        content: volume.content.as_ref().map(|content| content.kind.clone()),
    });
    MountedImage {
        name: name.to_owned(),
        time: SystemTime::from(image.known.time),
        size_bytes: image.manifest().map_or(0, |manifest| manifest.bytes),
        volumes: volumes.collect(),
        open: opener(Arc::clone(store), image.known.id),
    }
}

fn opener(store: Arc<Store>, id: ImageId) -> OpenImage {
    Box::new(move || {
        let failed = |source: store::Error| disk::Error::Foreign {
            path: PathBuf::from(format!("image {}", id.short())),
            offset: 0,
            bytes: 0,
            source: Box::new(source),
        };
        let reader: Arc<dyn ReadAt> = Arc::new(ImageReader::new(store.image(id).map_err(failed)?));
        Ok(reader)
    })
}

/// Says what there is, and waits for the end.
fn serve(context: &Context, mounted: &Mounted, names: &[String], folder: &Path) -> Exit {
    let what = match names {
        [name] => name.clone(),
        names => format!("{} images", names.len()),
    };
    context.ui.say(format!("mounted  {what} on {}", folder.display()));
    context.ui.event("mounted", json!({ "folder": folder.display().to_string(), "images": names }));
    context.ui.note("Ctrl-C ends it");
    while !context.signals.stopped() && !mounted.has_ended() {
        sleep(LOOK_EVERY);
    }
    let failures = mounted.failures();
    if failures.count > 0 {
        context.ui.warn(format!("{} reads failed; `cas scrub` checks the store", failures.count));
    }
    context.ui.event("summary", json!({ "failures": failures.count, "first_failure": failures.first }));
    if failures.count > 0 { Exit::Damage } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::listed;

    #[test]
    fn folders_have_id_and_date_and_disks_a_latest() {
        let one = listed(|_| {});
        let two = listed(|entry| {
            entry.id = "cd".repeat(32).parse().unwrap();
            let manifest = entry.manifest.as_mut().unwrap();
            manifest.disk = "a/b c".to_owned();
            manifest.created = "2026-08-02T12:00:00Z".to_owned();
        });
        let names = name_all(&[&one, &two], &TimeZone::UTC);
        assert_eq!(names, ["abababab-2026-08-01", "cdcdcdcd-2026-08-02"]);
        let shown = |links: Vec<MountedLink>| -> Vec<String> {
            links.into_iter().map(|link| format!("{} -> {}", link.name, link.target)).collect()
        };
        assert_eq!(shown(links(&[&one], &names[..1])), ["latest -> abababab-2026-08-01"]);
        let expected = [
            "latest -> cdcdcdcd-2026-08-02",
            "latest-S3RIAL -> abababab-2026-08-01",
            "latest-a_b_c -> cdcdcdcd-2026-08-02",
        ];
        assert_eq!(shown(links(&[&one, &two], &names)), expected);
    }

    #[test]
    fn only_an_empty_folder_is_mounted_on() {
        let home = tempfile::tempdir().unwrap();
        assert!(!prepare(home.path()).unwrap());
        assert!(prepare(&home.path().join("new")).unwrap());
        assert!(prepare(home.path()).unwrap_err().to_string().contains("expected an empty folder"));
    }
}

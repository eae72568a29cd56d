//! `cas find PATTERN [IMAGE[:N]…]`: where files are, in one image or in all.
//!
//! Promise: an image or a volume that cannot be read is said, and the others are searched. Knows nothing of filesystems.

use crate::args::Context;
use crate::errors::Said;
use crate::exit::Exit;
use crate::inside::{self, is_readable};
use crate::naming::{Narrow, Place};
use crate::{catalog, place};
use anyhow::Result;
use image::{Found, ImageReader, Met};
use jiff::tz::TimeZone;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use store::Store;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name with * and ?, or a part of one; with a / in it, it is compared with whole paths
    pattern: OsString,
    /// Where to look: images, or volumes of them [default: latest]
    #[arg(value_name = "IMAGE[:N]")]
    places: Vec<OsString>,
    /// In all images that are not forgotten
    #[arg(long, conflicts_with = "places")]
    all_images: bool,
    #[command(flatten)]
    narrow: Narrow,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit> {
    context.ui.start_streaming();
    let store = place::open(context)?;
    let mut search = Search {
        context,
        pattern: Pattern::new(args.pattern.into_vec()),
        exit: Exit::Done,
        zone: TimeZone::system(),
    };
    for place in places(&store, &args.places, args.all_images, &args.narrow)? {
        if place.path.is_some() {
            return Err(Said::usage("expected IMAGE or IMAGE:N, found a path").into());
        }
        let searched = inside::reader(context, &store, &place.image, &args.narrow)
            .and_then(|reader| search.image(&reader, place.volume));
        match searched {
            // One image of many is not the end of the others.
            Err(error) if args.all_images => search.failed(&place.image, error, Exit::Damage),
            searched => searched?,
        }
    }
    Ok(search.exit)
}

fn places(store: &Store, named: &[OsString], all: bool, narrow: &Narrow) -> Result<Vec<Place>> {
    let whole = |image: String| Place { image, volume: None, path: None };
    if all {
        let images = catalog::list(store)?;
        let live =
            images.iter().filter(|it| !it.known.forgotten && it.known.sound && narrow.admits(&it.known));
        return Ok(live.map(|it| whole(it.known.id.to_string())).collect());
    }
    match named {
        [] => Ok(vec![whole("latest".to_owned())]),
        named => Ok(named.iter().map(|name| Place::parse(name)).collect::<Result<_, _>>()?),
    }
}

struct Search<'a> {
    context: &'a Context,
    pattern: Pattern,
    exit: Exit,
    zone: TimeZone,
}

impl Search<'_> {
    fn image(&mut self, reader: &Arc<ImageReader>, number: Option<u32>) -> Result<()> {
        let id = reader.image().id().short();
        let lines = image::volumes(reader)?;
        if let Some(number) = number.filter(|number| lines.iter().all(|line| line.number != *number)) {
            return Err(Said::usage(format!("image {id}: there is no partition {number}"))
                .hint(format!("`cas ls {id}` lists them"))
                .into());
        }
        for line in lines.iter().filter(|line| number.is_none_or(|number| number == line.number)) {
            let place = format!("{id}:{}", line.number);
            if number.is_none() && !is_readable(line) {
                let what = line.kind.as_deref().unwrap_or("nothing known");
                self.context.ui.note(format!("{place}: not searched: {what}"));
                continue;
            }
            match image::open_volume(Arc::clone(reader), line.number) {
                Ok(volume) => self.volume(&place, &volume),
                Err(error) => self.failed(&place, anyhow::Error::new(error), Exit::Damage),
            }
        }
        Ok(())
    }

    fn volume(&mut self, place: &str, volume: &image::VolumeFiles) {
        let root = Found { file: volume.files.root(), path: Vec::new(), stream: None };
        let (pattern, context, zone) = (&self.pattern, self.context, &self.zone);
        let mut errors = Vec::new();
        let mut each = |met: Met<'_>| {
            if pattern.fits(met.path) {
                let size = met.info.bytes;
                let time = inside::time(met.info.modified, zone);
                context.ui.say(format!("{place}:{}  {size}  {time}", inside::shown(met.path)));
                let mut value = inside::to_json(met.path, met.info);
                value["place"] = place.into();
                context.ui.event("file", value);
            }
            true
        };
        let mut failed = |path: &[u8], error| errors.push((path.to_vec(), error));
        image::walk(&*volume.files, &root, &mut each, &mut failed);
        for (path, error) in errors {
            let exit = inside::exit_of(&error);
            self.failed(&format!("{place}:{}", inside::shown(&path)), anyhow::Error::new(error), exit);
        }
    }

    fn failed(&mut self, place: &str, error: anyhow::Error, exit: Exit) {
        self.context.ui.warn(format!("{place}: {error:#}"));
        self.exit = self.exit.worse(exit);
    }
}

/// `*` and `?`; letters count as the same without regard to case, as people look for names they half remember.
struct Pattern {
    text: Vec<u8>,
    /// Compared with paths, not names.
    whole: bool,
}

impl Pattern {
    fn new(text: Vec<u8>) -> Pattern {
        let whole = text.contains(&b'/');
        let is_part = !text.iter().any(|byte| matches!(byte, b'*' | b'?'));
        let text = if is_part { [b"*", &text[..], b"*"].concat() } else { text };
        Pattern { text: folded(&text), whole }
    }

    fn fits(&self, path: &[u8]) -> bool {
        let name = match self.whole {
            true => path,
            false => path.rsplit(|byte| *byte == b'/').next().unwrap_or_default(),
        };
        fits(&self.text, &folded(name))
    }
}

fn folded(text: &[u8]) -> Vec<u8> {
    match str::from_utf8(text) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(_) => text.to_ascii_lowercase(),
    }
}

/// Goes back to the last `*` only: never more than the product of both lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((star_at, star_from)) => {
                    star = Some((star_at, star_from + 1));
                    at = star_at + 1;
                    from = star_from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        let fits = |pattern: &str, path: &str| Pattern::new(pattern.into()).fits(path.as_bytes());
        assert!(fits("*.odt", "/home/ana/Tesis.ODT"));
        assert!(fits("tesis", "/home/ana/Mi Tesis (2).odt"));
        assert!(fits("t?sis.*", "/x/tesis.odt"));
        assert!(fits("/home/*/*.odt", "/home/ana/a.odt"));
        assert!(fits("*a*b*c*", "/xxaxxbxxc"));
        assert!(!fits("ana", "/home/ana/tesis.odt"), "the name only");
        assert!(!fits("*.odt", "/home/x.odt/y"));
        assert!(!fits("t?sis", "/tsis"));
        assert!(fits("GRÖSSE", "/größe".replace('ß', "ss").as_str()));
    }
}

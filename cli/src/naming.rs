//! Naming an image: a prefix of its id, `latest`, `latest~2`; narrowed by disk, host, tag and date. The same syntax in
//! every command.
//!
//! Promise: an answer is one image or an error that says what there is instead; `latest` is never a forgotten, an
//! unconfirmed or an unreadable image. Knows nothing of where the list of images comes from.

use crate::units;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use store::ImageId;

/// Fewer digits are as likely a typing error as a name.
const PREFIX_DIGITS_MIN: usize = 4;

/// Candidates listed for an ambiguous prefix: more than this do not help.
const CANDIDATES_SHOWN: usize = 10;

/// What a name can be resolved by.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: ImageId,
    pub(crate) time: Timestamp,
    pub(crate) host: String,
    /// Serial number first, then path and whatever else people call the disk.
    pub(crate) disks: Vec<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) forgotten: bool,
    /// Confirmed and readable: fit to be called `latest`.
    pub(crate) sound: bool,
}

/// Options that narrow a choice of images.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Which images")]
pub(crate) struct Narrow {
    /// Only images of the disk with this serial number or name
    #[arg(long, value_name = "SERIAL|NAME")]
    pub(crate) disk: Option<String>,
    /// Only images taken on this host
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Only images with this tag; repeated: with all of them
    #[arg(long)]
    pub(crate) tag: Vec<String>,
    /// Only images older than this, e.g. 2026-08-01
    #[arg(long, value_name = "DATE", value_parser = units::parse_moment)]
    pub(crate) before: Option<Timestamp>,
}

impl Narrow {
    /// Whether this image is among those asked for.
    pub(crate) fn admits(&self, image: &Known) -> bool {
        let called = |name: &String| image.disks.iter().any(|disk| disk == name);
        self.disk.as_ref().is_none_or(called)
            && self.host.as_ref().is_none_or(|host| *host == image.host)
            && self.tag.iter().all(|tag| image.tags.contains(tag))
            && self.before.is_none_or(|before| image.time < before)
    }
}

/// Which images a command may be pointed at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// Those that are not forgotten.
    Live,
    /// All; by its id a forgotten one too.
    Any,
    /// Forgotten ones, by id.
    Forgotten,
}

/// What `IMAGE[:N[:/PATH]]` names: an image, one of its volumes, a file in that. Volume 0 is the whole disk, for images of
/// disks without partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// As [`resolve`] takes it.
    pub(crate) image: String,
    pub(crate) volume: Option<u32>,
    /// Begins with `/`; any bytes but zero.
    pub(crate) path: Option<Vec<u8>>,
}

impl Place {
    /// Splits a name; colons within the path belong to it.
    pub(crate) fn parse(name: &OsStr) -> Result<Place, NamingError> {
        let malformed = || NamingError::MalformedPlace { name: name.to_string_lossy().into_owned() };
        let mut parts = name.as_bytes().splitn(3, |byte| *byte == b':');
        let text = |part: &[u8]| str::from_utf8(part).map(str::to_owned).map_err(|_| malformed());
        let image = text(parts.next().unwrap_or_default())?;
        let volume = parts.next().map(text).transpose()?;
        let digits =
            |number: &String| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        if image.is_empty() || !volume.as_ref().is_none_or(digits) {
            return Err(malformed());
        }
        let volume = volume.map(|number| number.parse()).transpose().map_err(|_| malformed())?;
        let path = parts.next().map(<[u8]>::to_vec);
        match path.as_ref().is_none_or(|path| path.starts_with(b"/") && !path.contains(&0)) {
            true => Ok(Place { image, volume, path }),
            false => Err(malformed()),
        }
    }
}

/// A name that does not lead to one image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NamingError {
    Malformed { name: String },
    MalformedPlace { name: String },
    PartNotBuilt { name: String },
    NoImages { name: String },
    TooFar { name: String, images: usize },
    NotFound { name: String },
    Forgotten { name: String, id: ImageId },
    NotForgotten { id: ImageId },
    Ambiguous { name: String, candidates: Vec<String>, more: usize },
}

/// The one image that is meant.
pub(crate) fn resolve(
    name: &str,
    images: &[Known],
    narrow: &Narrow,
    scope: Scope,
) -> Result<ImageId, NamingError> {
    let name = name.trim();
    if name.contains(':') {
        return Err(NamingError::PartNotBuilt { name: name.to_owned() });
    }
    let admitted: Vec<&Known> = images.iter().filter(|image| narrow.admits(image)).collect();
    match steps_back(name) {
        Some(steps) => latest(name, &admitted, steps),
        None => by_prefix(name, &admitted, scope),
    }
}

/// `latest` is 0 steps back, `latest~2` is 2; anything else is not of this kind.
fn steps_back(name: &str) -> Option<usize> {
    match name.strip_prefix("latest")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

fn latest(name: &str, images: &[&Known], steps: usize) -> Result<ImageId, NamingError> {
    let mut sound: Vec<&&Known> = images.iter().filter(|image| image.sound && !image.forgotten).collect();
    sound.sort_by_key(|image| (image.time, image.id));
    let name = || name.to_owned();
    match sound.iter().rev().nth(steps) {
        Some(image) => Ok(image.id),
        None if sound.is_empty() => Err(NamingError::NoImages { name: name() }),
        None => Err(NamingError::TooFar { name: name(), images: sound.len() }),
    }
}

fn by_prefix(name: &str, images: &[&Known], scope: Scope) -> Result<ImageId, NamingError> {
    let prefix = name.to_ascii_lowercase();
    let hex = prefix.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !hex || !(PREFIX_DIGITS_MIN..=64).contains(&prefix.len()) {
        return Err(NamingError::Malformed { name: name.to_owned() });
    }
    let called: Vec<&&Known> =
        images.iter().filter(|image| image.id.to_string().starts_with(&prefix)).collect();
    let fits = |image: &&&&Known| match scope {
        Scope::Any => true,
        Scope::Live => !image.forgotten,
        Scope::Forgotten => image.forgotten,
    };
    let meant: Vec<&&Known> = called.iter().filter(fits).copied().collect();
    match (meant.as_slice(), called.as_slice()) {
        ([image], _) => Ok(image.id),
        ([], []) => Err(NamingError::NotFound { name: name.to_owned() }),
        ([], [other, ..]) if scope == Scope::Live => {
            Err(NamingError::Forgotten { name: name.to_owned(), id: other.id })
        }
        ([], [other, ..]) => Err(NamingError::NotForgotten { id: other.id }),
        (many, _) => Err(ambiguous(name, many)),
    }
}

fn ambiguous(name: &str, images: &[&&Known]) -> NamingError {
    let zone = TimeZone::system();
    let digits = name.len().max(8) + 4;
    let line = |image: &&&Known| {
        let id: String = image.id.to_string().chars().take(digits).collect();
        let disk = image.disks.first().map_or("", String::as_str);
        format!("{id}  {}  {}  {disk}", units::show_time(image.time, &zone), image.host)
    };
    NamingError::Ambiguous {
        name: name.to_owned(),
        candidates: images.iter().take(CANDIDATES_SHOWN).map(line).collect(),
        more: images.len().saturating_sub(CANDIDATES_SHOWN),
    }
}

impl fmt::Display for NamingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamingError::Malformed { name } => {
                write!(f, "image {name:?}: expected 4 to 64 hex digits, latest or latest~N")
            }
            NamingError::MalformedPlace { name } => {
                write!(f, "{name:?}: expected IMAGE, IMAGE:N or IMAGE:N:/path, N being a partition's number")
            }
            NamingError::PartNotBuilt { name } => {
                write!(
                    f,
                    "image {name:?}: a partition or path inside an image cannot be named yet, only whole images"
                )
            }
            NamingError::NoImages { name } => write!(f, "image {name:?}: no image fits"),
            NamingError::TooFar { name, images } => {
                let images = if *images == 1 { "1 image".to_owned() } else { format!("{images} images") };
                write!(f, "image {name:?}: expected an image that far back, found {images} in all")
            }
            NamingError::NotFound { name } => write!(f, "image {name:?}: no image has an id that begins so"),
            NamingError::Forgotten { name, id } => write!(f, "image {name:?}: {} is forgotten", id.short()),
            NamingError::NotForgotten { id } => write!(f, "image {}: is not forgotten", id.short()),
            NamingError::Ambiguous { name, candidates, more } => {
                write!(f, "image {name:?}: ambiguous; candidates:")?;
                for candidate in candidates {
                    write!(f, "\n  {candidate}")?;
                }
                if *more > 0 {
                    write!(f, "\n  and {more} more")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for NamingError {}

impl NamingError {
    /// The next thing to do.
    pub(crate) fn hint(&self) -> String {
        match self {
            NamingError::Malformed { .. } | NamingError::NotFound { .. } => {
                "`cas images` lists the ids; 4 or more digits of one are enough".to_owned()
            }
            NamingError::MalformedPlace { .. } => {
                "`cas show IMAGE` lists the partitions; a disk without any is volume 0".to_owned()
            }
            NamingError::PartNotBuilt { .. } => "name the image without what follows the colon".to_owned(),
            NamingError::NoImages { .. } => {
                "`cas images --all` lists every image; check --disk, --host, --tag and --before".to_owned()
            }
            NamingError::TooFar { images, .. } => {
                format!("the oldest of them is latest~{}", images.saturating_sub(1))
            }
            NamingError::Forgotten { id, .. } => format!("`cas undelete {}` brings it back", id.short()),
            NamingError::NotForgotten { .. } => "nothing has to be done".to_owned(),
            NamingError::Ambiguous { .. } => "type more digits".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, time: &str, disk: &str) -> Known {
        Known {
            id: format!("{id:0<64}").parse().unwrap(),
            time: format!("{time}T00:00:00Z").parse().unwrap(),
            host: "alba".to_owned(),
            disks: vec![disk.to_owned(), "/dev/sda".to_owned()],
            tags: vec!["weekly".to_owned()],
            forgotten: false,
            sound: true,
        }
    }

    fn images() -> Vec<Known> {
        vec![
            image("abcd1", "2026-01-01", "S1"),
            image("abcd2", "2026-02-01", "S2"),
            image("beef", "2026-03-01", "S1"),
            Known { forgotten: true, ..image("dead", "2026-04-01", "S1") },
            Known { sound: false, ..image("fade", "2026-05-01", "S1") },
        ]
    }

    fn found(name: &str, narrow: &Narrow, scope: Scope) -> Result<String, NamingError> {
        resolve(name, &images(), narrow, scope).map(|id| id.to_string().trim_end_matches('0').to_owned())
    }

    fn live(name: &str) -> Result<String, NamingError> {
        found(name, &Narrow::default(), Scope::Live)
    }

    #[test]
    fn a_prefix_of_four_digits_or_more_is_enough_when_it_is_unique() {
        assert_eq!(live("beef").as_deref(), Ok("beef"));
        assert_eq!(live("BEEF0").as_deref(), Ok("beef"));
        assert_eq!(live("abcd2").as_deref(), Ok("abcd2"));
        assert_eq!(live(&format!("{:0<64}", "fade")).as_deref(), Ok("fade"));
        for bad in ["bee", "", "xyzw", "latest~", "latest~x", "latestt", &"a".repeat(65)] {
            assert_eq!(live(bad), Err(NamingError::Malformed { name: bad.to_owned() }));
        }
        assert_eq!(live("0000"), Err(NamingError::NotFound { name: "0000".to_owned() }));
    }

    #[test]
    fn an_ambiguous_prefix_lists_its_candidates_and_filters_can_decide() {
        let text = live("abcd").unwrap_err().to_string();
        assert!(
            text.starts_with("image \"abcd\": ambiguous; candidates:\n  abcd10000000  2026-01-01"),
            "{text}"
        );
        assert!(text.contains("alba  S2"), "{text}");
        let narrow = Narrow { disk: Some("S2".to_owned()), ..Narrow::default() };
        assert_eq!(found("abcd", &narrow, Scope::Live).as_deref(), Ok("abcd2"));
    }

    #[test]
    fn latest_counts_back_over_sound_images_only() {
        assert_eq!(live("latest").as_deref(), Ok("beef"));
        assert_eq!(live("latest~1").as_deref(), Ok("abcd2"));
        assert_eq!(live("latest~2").as_deref(), Ok("abcd1"));
        let error = live("latest~3").unwrap_err();
        assert_eq!(error, NamingError::TooFar { name: "latest~3".to_owned(), images: 3 });
        assert_eq!(error.hint(), "the oldest of them is latest~2");
        assert_eq!(found("latest", &Narrow::default(), Scope::Any).as_deref(), Ok("beef"));
    }

    #[test]
    fn filters_narrow_by_disk_host_tag_and_date() {
        let with = |narrow: Narrow| found("latest", &narrow, Scope::Live);
        let none = || Narrow::default();
        assert_eq!(with(Narrow { disk: Some("S2".into()), ..none() }).as_deref(), Ok("abcd2"));
        assert_eq!(with(Narrow { disk: Some("/dev/sda".into()), ..none() }).as_deref(), Ok("beef"));
        assert_eq!(with(Narrow { tag: vec!["weekly".into()], ..none() }).as_deref(), Ok("beef"));
        let before = Some("2026-02-01T00:00:00Z".parse().unwrap());
        assert_eq!(with(Narrow { before, ..none() }).as_deref(), Ok("abcd1"));
        for nothing in [
            Narrow { host: Some("other".into()), ..none() },
            Narrow { tag: vec!["weekly".into(), "x".into()], ..none() },
        ] {
            assert_eq!(with(nothing), Err(NamingError::NoImages { name: "latest".into() }));
        }
    }

    #[test]
    fn forgotten_images_are_named_only_where_that_is_meant() {
        let id = images()[3].id;
        assert_eq!(live("dead"), Err(NamingError::Forgotten { name: "dead".into(), id }));
        assert!(live("dead").unwrap_err().hint().contains("cas undelete dead0000"));
        assert_eq!(found("dead", &Narrow::default(), Scope::Any).as_deref(), Ok("dead"));
        assert_eq!(found("dead", &Narrow::default(), Scope::Forgotten).as_deref(), Ok("dead"));
        let error = found("beef", &Narrow::default(), Scope::Forgotten).unwrap_err();
        assert_eq!(error, NamingError::NotForgotten { id: images()[2].id });
    }

    #[test]
    fn a_part_of_an_image_is_refused_with_a_clear_message() {
        for name in ["beef:2", "latest:1:/etc/fstab"] {
            let error = live(name).unwrap_err();
            assert_eq!(error, NamingError::PartNotBuilt { name: name.to_owned() });
            assert!(error.to_string().contains("cannot be named yet"));
        }
    }

    #[test]
    fn a_place_is_an_image_a_volume_and_a_path() {
        let place = |name: &[u8]| Place::parse(OsStr::from_bytes(name));
        let is = |image: &str, volume, path: Option<&[u8]>| {
            Ok(Place { image: image.to_owned(), volume, path: path.map(<[u8]>::to_vec) })
        };
        assert_eq!(place(b"beef"), is("beef", None, None));
        assert_eq!(place(b"latest~2:3"), is("latest~2", Some(3), None));
        assert_eq!(place(b"latest:0:/"), is("latest", Some(0), Some(b"/")));
        assert_eq!(place(b"beef:1:/a:b/\xff"), is("beef", Some(1), Some(b"/a:b/\xff")));
        let bad: [&[u8]; 9] = [
            b"",
            b":1",
            b"beef:",
            b"beef:x",
            b"beef:+1",
            b"beef:1:",
            b"beef:1:etc",
            b"beef:/etc",
            b"beef:1:/a\0",
        ];
        for name in bad {
            assert!(matches!(place(name), Err(NamingError::MalformedPlace { .. })), "{name:?}");
        }
        assert!(place(b"beef:99999999999").is_err());
    }
}

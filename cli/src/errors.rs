//! Every error on its way out: the text, the hint and the exit code. The only place that knows all three.
//!
//! Promise: an error of a library is recognised wherever it stands in the chain; what is not recognised is exit 1.
//! Knows nothing of how they came about.

use crate::exit::Exit;
use crate::naming::NamingError;
use crate::units::show_bytes_exactly;
use std::error::Error as StdError;
use std::fmt;

/// An error that the program itself speaks.
#[derive(Debug)]
pub(crate) struct Said {
    exit: Exit,
    text: String,
    hint: Option<String>,
}

impl Said {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Said {
        Said { exit, text: text.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Said {
        Said { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn usage(text: impl Into<String>) -> Said {
        Said::new(Exit::Usage, text)
    }

    pub(crate) fn refused(text: impl Into<String>) -> Said {
        Said::new(Exit::Refused, text)
    }

    /// The target cannot hold the image.
    pub(crate) fn too_small(target: &str, needed_bytes: u64, target_bytes: u64) -> Said {
        let (needed, has) = (show_bytes_exactly(needed_bytes), show_bytes_exactly(target_bytes));
        Said::new(Exit::TooSmall, format!("{target}: expected at least {needed}, found {has}"))
            .hint("choose a target of at least that size, or restore to a file")
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Said {}

/// What is told, and how the program ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) exit: Exit,
    pub(crate) text: String,
    pub(crate) hint: Option<String>,
}

/// Turns any error into words.
pub(crate) fn tell(error: &anyhow::Error) -> Told {
    let (exit, hint) = error.chain().find_map(judge).unwrap_or((Exit::Failed, None));
    Told { exit, text: format!("{error:#}"), hint }
}

type Judgement = (Exit, Option<String>);

/// What one link of the chain has to say; `None` leaves it to those behind.
fn judge(link: &(dyn StdError + 'static)) -> Option<Judgement> {
    if let Some(said) = link.downcast_ref::<Said>() {
        return Some((said.exit, said.hint.clone()));
    }
    if let Some(naming) = link.downcast_ref::<NamingError>() {
        return Some((exit_of_naming(naming), Some(naming.hint())));
    }
    if let Some(error) = link.downcast_ref::<image::Error>() {
        return of_image(error);
    }
    if let Some(error) = link.downcast_ref::<image::BrowseError>() {
        return of_browsing(error);
    }
    if let Some(error) = link.downcast_ref::<disk::files::FilesError>() {
        return of_files(error);
    }
    if let Some(error) = link.downcast_ref::<store::Error>() {
        return Some(of_store(error));
    }
    if let Some(error) = link.downcast_ref::<mount::nbd::Error>() {
        return Some(of_nbd(error));
    }
    link.downcast_ref::<disk::Error>().map(of_disk)
}

fn exit_of_naming(error: &NamingError) -> Exit {
    match error {
        NamingError::Malformed { .. }
        | NamingError::MalformedPlace { .. }
        | NamingError::PartNotBuilt { .. } => Exit::Usage,
        _ => Exit::Failed,
    }
}

fn of_browsing(error: &image::BrowseError) -> Option<Judgement> {
    use image::BrowseError as E;
    let told = |exit, hint: &str| Some((exit, Some(hint.to_owned())));
    match error {
        E::NoSuchVolume { .. } => told(Exit::Usage, "`cas ls IMAGE` lists the volumes"),
        E::LeftOut { .. } => told(Exit::Failed, "another image may have it: `cas images`"),
        E::NoReader { .. } => told(Exit::Failed, "restore it to a file, and mount that"),
        E::NotFound { .. } => told(Exit::Failed, "`cas ls` lists a folder, `cas find` looks for a name"),
        // The cause says more.
        _ => None,
    }
}

fn of_files(error: &disk::files::FilesError) -> Option<Judgement> {
    use disk::files::FilesError as E;
    match error {
        E::Damaged { .. } => {
            let hint = "the filesystem was damaged when the image was made, or was in use; the disk's fsck knows more";
            Some((Exit::Damage, Some(hint.to_owned())))
        }
        E::Unsupported { .. } => {
            Some((Exit::Failed, Some("restore it to a file, and mount that".to_owned())))
        }
        E::WrongKind { .. } | E::NotFound { .. } => Some((Exit::Failed, None)),
        // The image or the store says more.
        _ => None,
    }
}

fn of_image(error: &image::Error) -> Option<Judgement> {
    use image::Error as E;
    let told = |exit, hint: &str| Some((exit, Some(hint.to_owned())));
    match error {
        E::Store(inner) => Some(of_store(inner)),
        E::Disk(inner) => Some(of_disk(inner)),
        E::Interrupted => Some(interrupted()),
        E::SourceDead { .. } => told(
            Exit::Failed,
            "look at the cable and at `smartctl -a`; what was read is in the store and is not read into it twice",
        ),
        E::NoSuchVolume { .. } => told(Exit::Usage, "`cas disks` lists the partitions"),
        E::TargetChanged { .. } | E::TargetSizeChanged { .. } => {
            told(Exit::Refused, "another device has taken this name; look at `cas disks` and start again")
        }
        E::SegmentBytes { .. } | E::Rule { .. } => told(
            Exit::Failed,
            "a newer version of cas may know it; capture into a store made with `cas init`",
        ),
        E::SourceInfo { .. } | E::Regions { .. } => {
            told(Exit::Damage, "a newer version of cas may know it; `cas scrub` checks the image itself")
        }
        E::Overlay { .. } => match error.family() {
            image::Family::Damaged => {
                told(Exit::Damage, "what was written to it can't be told any more; begin another")
            }
            image::Family::Unsupported => told(Exit::Failed, "this needs a newer version of cas"),
            _ => told(Exit::Refused, "an overlay goes with one image; name that, or another file"),
        },
        // Reading and writing devices and chunks: the cause says more.
        _ => None,
    }
}

fn of_store(error: &store::Error) -> Judgement {
    use store::Error as E;
    let told = |exit, hint: &str| (exit, Some(hint.to_owned()));
    match (error, error.family()) {
        (E::AlreadyAStore { .. }, _) => told(Exit::Failed, "use it as it is, or name another folder"),
        (E::NotEmpty { .. }, _) => told(Exit::Failed, "name a folder that is empty or does not exist yet"),
        (E::NoImage { .. }, _) => told(Exit::Failed, "`cas images --all` lists what there is"),
        (E::Protected { image }, _) => {
            (Exit::Refused, Some(format!("`cas protect --off {}` lifts the protection", image.short())))
        }
        (E::UnreadableImage { image, .. }, _) => {
            let hint =
                format!("`cas forget {}` gives that image up; then run the command again", image.short());
            (Exit::Damage, Some(hint))
        }
        (E::PacksVanished { .. }, _) => {
            told(Exit::Failed, "capture again: what is in the store already is not stored twice")
        }
        (_, store::Family::NoStore) => {
            told(Exit::NoStore, "check -s/--store and CAS_STORE, or create it with `cas init`")
        }
        (_, store::Family::Locked) => {
            told(Exit::Locked, "wait for it with --lock-wait 10m; reading is possible meanwhile")
        }
        (_, store::Family::Full) => told(
            Exit::StoreFull,
            "free space there, or `cas forget` old images and run `cas gc`; then run the command again",
        ),
        (_, store::Family::Damaged) => {
            told(Exit::Damage, "`cas scrub` names every image and range that is hit")
        }
        (_, store::Family::Unsupported) => told(Exit::Failed, "this needs a newer version of cas"),
        (_, store::Family::Interrupted) => interrupted(),
        (_, store::Family::Refused) => (Exit::Refused, None),
        (_, store::Family::Io) => told(
            Exit::Failed,
            "check that the store's disk is there and writable (`dmesg`, `df`), then run the command again",
        ),
    }
}

fn of_nbd(error: &mount::nbd::Error) -> Judgement {
    use mount::nbd::Error as E;
    let hint = match error {
        E::Taken { .. } => "another `cas nbd` may serve there; name another socket with --socket",
        E::LongPath { .. } => "sockets need short paths; name one with --socket",
        _ => "name another place with --socket or --listen",
    };
    (Exit::Failed, Some(hint.to_owned()))
}

fn of_disk(error: &disk::Error) -> Judgement {
    use disk::Error as E;
    let told = |exit, hint: &str| (exit, Some(hint.to_owned()));
    match error {
        E::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => told(
            Exit::Failed,
            "devices are opened by root (try sudo), and a container may forbid it to root too",
        ),
        E::Open { .. } => told(Exit::Failed, "check the path; `cas disks` lists the devices"),
        E::Busy { .. } => {
            told(Exit::Refused, "`cas disks` and `fuser -v` show who uses it; unmount it and start again")
        }
        E::NotADevice { .. } | E::NotABlockDevice { .. } => {
            told(Exit::Usage, "name a disk, a partition, a regular file or -")
        }
        E::Gone { .. } | E::ShortRead { .. } => {
            told(Exit::Failed, "look at the cable; the device went away or changed its size")
        }
        E::Unreadable { .. } | E::Read { .. } => told(Exit::Failed, "look at the cable and at `smartctl -a`"),
        E::Write { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            told(Exit::Failed, "free space at the target, then run the command again: it continues")
        }
        E::Write { .. } | E::Sync { .. } => told(
            Exit::Failed,
            "look at the cable and at `smartctl -a` of the target, then run the command again: it continues",
        ),
        E::GptTooLarge { .. } => told(Exit::TooSmall, "choose a larger target, or --exact"),
        _ => (Exit::Failed, None),
    }
}

fn interrupted() -> Judgement {
    (Exit::Interrupted, Some("nothing is half done; run the same command again to go on".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use std::io;
    use std::path::PathBuf;

    fn told(error: impl Into<anyhow::Error>) -> (Exit, String, String) {
        let told = tell(&error.into());
        (told.exit, told.text, told.hint.unwrap_or_default())
    }

    #[test]
    fn a_missing_store_is_exit_10_with_what_to_do() {
        let (exit, text, hint) = told(store::Error::NoStore { place: "/mnt/s".to_owned() });
        assert_eq!(
            (exit, text.as_str()),
            (Exit::NoStore, "store /mnt/s: no store here: neither config nor config.copy")
        );
        assert_eq!(hint, "check -s/--store and CAS_STORE, or create it with `cas init`");
    }

    #[test]
    fn the_stores_errors_are_seen_through_those_of_image() {
        let locked = || store::Error::Locked { place: "p".to_owned(), holders: vec![] };
        assert_eq!(told(image::Error::Store(locked())).0, Exit::Locked);
        let extent = disk::Extent { offset: 0, bytes: 1 };
        assert_eq!(told(image::Error::Chunk { extent, source: locked() }).0, Exit::Locked);
        let wrapped = Err::<(), _>(image::Error::Interrupted).context("outer").unwrap_err();
        assert_eq!(tell(&wrapped).exit, Exit::Interrupted);
        assert_eq!(tell(&wrapped).text, "outer: interrupted");
    }

    #[test]
    fn a_protected_image_is_refused_and_the_hint_names_the_way() {
        let image = "ab".repeat(32).parse().unwrap();
        let (exit, _, hint) = told(store::Error::Protected { image });
        assert_eq!(
            (exit, hint.as_str()),
            (Exit::Refused, "`cas protect --off abababab` lifts the protection")
        );
    }

    #[test]
    fn devices_say_whether_root_is_needed() {
        let open =
            |kind| disk::Error::Open { path: PathBuf::from("/dev/sda"), source: io::Error::from(kind) };
        assert!(told(open(io::ErrorKind::PermissionDenied)).2.contains("sudo"));
        assert!(told(open(io::ErrorKind::NotFound)).2.contains("cas disks"));
        let source = open(io::ErrorKind::PermissionDenied);
        assert!(told(image::Error::ReadSource { offset: 0, bytes: 1, source }).2.contains("sudo"));
    }

    #[test]
    fn what_the_program_says_itself_keeps_its_code_and_hint() {
        let said = Said::too_small("/dev/sdb", 2 << 30, 1 << 30);
        let (exit, text, _) = told(said);
        assert_eq!(exit, Exit::TooSmall);
        assert_eq!(
            text,
            "/dev/sdb: expected at least 2.0 GiB (2147483648 bytes), found 1.0 GiB (1073741824 bytes)"
        );
        assert_eq!(told(NamingError::PartNotBuilt { name: "a:1".into() }).0, Exit::Usage);
        assert_eq!(told(io::Error::other("x")), (Exit::Failed, "x".into(), String::new()));
    }
}

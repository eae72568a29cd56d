//! The files of an image: its volumes, each with a reader of its filesystem, and paths in them.
//!
//! Promise: paths are resolved inside the volume only, however its links are made: none leads out of it or round for ever.
//! Knows nothing of where files are taken to.

use std::sync::Arc;

use disk::files::{self, FileId, FileInfo, FileKind, Files, FilesError, FolderEntry};
use disk::{Extent, ReadAt, Section};

use crate::{ImageReader, SourceInfo};

/// The kernel's limit for links on one path: include/linux/namei.h, `MAXSYMLINKS`.
const LINKS_MAX: usize = 40;
/// Deeper folders are not gone into: each one on the way costs an open file when it is extracted.
pub const DEPTH_MAX: usize = 256;
/// Names of one folder that are held at once: some hundred MiB.
const ENTRIES_MAX: usize = 4 << 20;

/// Why files of an image cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrowseError {
    /// No volume has this number.
    #[error("volume {number}: no such volume, there are {has:?}")]
    NoSuchVolume {
        /// The number.
        number: u32,
        /// Those that there are; 0 is the whole disk.
        has: Vec<u32>,
    },
    /// The volume was left out when the image was made.
    #[error("volume {number}: was left out of the image")]
    LeftOut {
        /// The volume.
        number: u32,
    },
    /// There is no reader for what is there.
    #[error("volume {number}: files of {kind} cannot be read")]
    NoReader {
        /// The volume.
        number: u32,
        /// What it holds, or `nothing that is known`.
        kind: String,
    },
    /// Files of one volume.
    #[error("volume {number}")]
    Files {
        /// The volume.
        number: u32,
        /// Why.
        #[source]
        source: FilesError,
    },
    /// The image itself.
    #[error(transparent)]
    Image(#[from] crate::Error),
    /// A path does not lead to a file.
    #[error("{path}: no such file")]
    NotFound {
        /// As far as it was gone.
        path: String,
    },
    /// More links on a path than anybody follows.
    #[error("{path}: more than {LINKS_MAX} links")]
    TooManyLinks {
        /// Where.
        path: String,
    },
    /// A path of the volume.
    #[error("{path}")]
    Path {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: FilesError,
    },
}

/// A volume of an image as people look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeLine {
    /// Its number; 0 for the whole disk.
    pub number: u32,
    /// Where it lies.
    pub extent: Extent,
    /// blkid's name of its content.
    pub kind: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Whether it was left out when the image was made.
    pub left_out: bool,
}

/// The volumes of an image: its partitions, or the whole disk where there are none.
///
/// # Errors
/// When the manifest cannot be understood, or a volume not be read.
pub fn volumes(reader: &ImageReader) -> Result<Vec<VolumeLine>, BrowseError> {
    let info = SourceInfo::from_manifest(reader.image().manifest())?;
    if info.layout.volumes.is_empty() {
        let extent = Extent { offset: 0, bytes: reader.size_bytes() };
        let content = disk::probe(reader, extent);
        let (kind, label) = content.map_or((None, None), |content| (Some(content.kind), content.label));
        return Ok(vec![VolumeLine { number: 0, extent, kind, label, left_out: false }]);
    }
    let lines = info.layout.volumes.into_iter().map(|volume| VolumeLine {
        number: volume.number,
        extent: volume.extent,
        left_out: info.excluded.contains(&volume.number),
        kind: volume.content.as_ref().map(|content| content.kind.clone()),
        label: volume.content.and_then(|content| content.label),
    });
    Ok(lines.collect())
}

/// Opens a volume for its files.
///
/// # Errors
/// A [`BrowseError`] that says what is there instead.
pub fn open_volume(reader: Arc<ImageReader>, number: u32) -> Result<VolumeFiles, BrowseError> {
    let lines = volumes(&reader)?;
    let line = lines.iter().find(|line| line.number == number).cloned();
    let Some(line) = line else {
        return Err(BrowseError::NoSuchVolume {
            number,
            has: lines.iter().map(|line| line.number).collect(),
        });
    };
    if line.left_out {
        return Err(BrowseError::LeftOut { number });
    }
    let kind = line.kind.unwrap_or_else(|| "nothing that is known".to_owned());
    let section: Arc<dyn ReadAt> = Arc::new(Section::new(reader, line.extent));
    let found = files::files(section, &kind).map_err(|source| BrowseError::Files { number, source })?;
    found.map(|files| VolumeFiles { number, files }).ok_or(BrowseError::NoReader { number, kind })
}

/// The files of a volume.
pub struct VolumeFiles {
    /// The volume's number.
    pub number: u32,
    /// Its reader.
    pub files: Box<dyn Files>,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub file: FileId,
    /// Its path without links, from the volume's root; empty for that itself.
    pub path: Vec<u8>,
    /// An alternate data stream of it that was asked for.
    pub stream: Option<Vec<u8>>,
}

/// Whether a link at a path's end is what is meant, or what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// The link.
    Keep,
    /// What it leads to.
    Follow,
}

impl VolumeFiles {
    /// What a path leads to, links on the way followed within the volume. A last name that is not there may be
    /// `file:stream`.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn find(&self, path: &[u8], last: LastLink) -> Result<Found, BrowseError> {
        find(&*self.files, path, last)
    }
}

/// As [`VolumeFiles::find`].
pub fn find(files: &dyn Files, path: &[u8], last: LastLink) -> Result<Found, BrowseError> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
        parts.rev().map(<[u8]>::to_vec).collect()
    };
    // The folders on the way, each with its name; names still to go, the next one last.
    let mut way: Vec<(Vec<u8>, FileId)> = Vec::new();
    let mut to_go = parts(path);
    let mut links = 0;
    while let Some(name) = to_go.pop() {
        if name == b".." {
            way.pop();
            continue;
        }
        let folder = way.last().map_or(files.root(), |(_, file)| *file);
        let at = |source| BrowseError::Path { path: shown(&way, &name), source };
        let Some(file) = files.find(folder, &name).map_err(at)? else {
            let stream = to_go.is_empty().then(|| stream(files, folder, &name)).flatten();
            return stream.map(|found| found_at(&way, found)).ok_or_else(|| not_found(&way, &name));
        };
        let is_last = to_go.is_empty();
        let info = files.info(file).map_err(at)?;
        match info.kind {
            FileKind::Link { target } if !is_last || last == LastLink::Follow => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(BrowseError::TooManyLinks { path: shown(&way, &name) });
                }
                if target.starts_with(b"/") {
                    way.clear();
                }
                to_go.extend(parts(&target));
            }
            _ => way.push((name, file)),
        }
    }
    let file = way.last().map_or(files.root(), |(_, file)| *file);
    Ok(Found { file, path: joined(&way), stream: None })
}

/// `file:stream`, as Windows writes it.
fn stream(files: &dyn Files, folder: FileId, name: &[u8]) -> Option<(Vec<u8>, FileId, Vec<u8>)> {
    let colon = name.iter().position(|byte| *byte == b':')?;
    let (file_name, stream) = (&name[..colon], &name[colon + 1..]);
    let file = files.find(folder, file_name).ok()??;
    let has = files.streams(file).ok()?.into_iter().any(|(found, _)| found == stream);
    has.then(|| (file_name.to_vec(), file, stream.to_vec()))
}

fn found_at(way: &[(Vec<u8>, FileId)], (name, file, stream): (Vec<u8>, FileId, Vec<u8>)) -> Found {
    let mut path = joined(way);
    path.push(b'/');
    path.extend(name);
    Found { file, path, stream: Some(stream) }
}

fn not_found(way: &[(Vec<u8>, FileId)], name: &[u8]) -> BrowseError {
    BrowseError::NotFound { path: shown(way, name) }
}

fn joined(way: &[(Vec<u8>, FileId)]) -> Vec<u8> {
    way.iter().flat_map(|(name, _)| [b"/", &name[..]].concat()).collect()
}

fn shown(way: &[(Vec<u8>, FileId)], name: &[u8]) -> String {
    String::from_utf8_lossy(&[&joined(way), &b"/"[..], name].concat()).into_owned()
}

/// All names in a folder, sorted.
///
/// # Errors
/// When it is no folder or cannot be read.
pub fn entries(files: &dyn Files, folder: FileId) -> Result<Vec<FolderEntry>, FilesError> {
    let mut entries = Vec::new();
    files.list(folder, &mut |entry| {
        entries.push(entry);
        entries.len() <= ENTRIES_MAX
    })?;
    if entries.len() > ENTRIES_MAX {
        let what = format!("a folder with more than {ENTRIES_MAX} names");
        return Err(FilesError::Unsupported { place: format!("file {}", folder.0), what });
    }
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

/// A file met by [`walk`].
#[derive(Debug)]
pub struct Met<'a> {
    /// From the volume's root.
    pub path: &'a [u8],
    /// The file.
    pub file: FileId,
    /// What it is.
    pub info: &'a FileInfo,
}

/// Goes through a folder and all below it, parents first, names sorted. What cannot be read goes to `failed`, with its
/// path, and is passed over; `each` says whether to go on (into a folder).
pub fn walk(
    files: &dyn Files,
    from: &Found,
    each: &mut dyn FnMut(Met<'_>) -> bool,
    failed: &mut dyn FnMut(&[u8], FilesError),
) {
    let mut path = from.path.clone();
    let mut above = vec![from.file];
    descend(files, &mut path, &mut above, each, failed);
}

fn descend(
    files: &dyn Files,
    path: &mut Vec<u8>,
    above: &mut Vec<FileId>,
    each: &mut dyn FnMut(Met<'_>) -> bool,
    failed: &mut dyn FnMut(&[u8], FilesError),
) {
    let Some(folder) = above.last().copied() else { return };
    let found = match entries(files, folder) {
        Ok(found) => found,
        Err(error) => return failed(path, error),
    };
    for entry in found {
        let len = path.len();
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        match files.info(entry.file) {
            Err(error) => failed(path, error),
            Ok(info) => {
                let go_on = each(Met { path, file: entry.file, info: &info });
                if go_on && info.kind == FileKind::Folder {
                    match check_way(above, entry.file) {
                        Err(error) => failed(path, error),
                        Ok(()) => {
                            above.push(entry.file);
                            descend(files, path, above, each, failed);
                            above.pop();
                        }
                    }
                }
            }
        }
        path.truncate(len);
    }
}

/// A folder that is its own parent, or too deep, is not gone into.
pub(crate) fn check_way(above: &[FileId], folder: FileId) -> Result<(), FilesError> {
    let place = || format!("file {}", folder.0);
    if above.contains(&folder) {
        return Err(FilesError::Damaged { place: place(), what: "a folder that contains itself".to_owned() });
    }
    match above.len() < DEPTH_MAX {
        true => Ok(()),
        false => Err(FilesError::Unsupported {
            place: place(),
            what: format!("a depth of more than {DEPTH_MAX} folders"),
        }),
    }
}

//! The small records of a store: who is at work, markers, what is condemned, what has moved. Format: DESIGN §4.8.
//!
//! Promise: a record whose body and name disagree is an error. Knows nothing of when records are written: that is
//! `writer`, `gc` and `lib`.

use crate::frame::{self, FrameKind};
use crate::id::{ImageId, PackId, SessionId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fmt;

/// Now, RFC 3339, UTC.
pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// Who is writing or collecting (for people, and for the grace period of gc; safety does not rest on it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// `capture`, `gc`, …
    pub what: String,
    /// Name of the machine.
    pub host: String,
    /// Process on that machine.
    pub pid: u32,
    /// The machine's boot, so that a process number isn't mistaken for another's.
    pub boot_id: String,
    /// RFC 3339, UTC: when it began.
    pub time: String,
}

impl fmt::Display for SessionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}, process {}, since {}", self.what, self.host, self.pid, self.time)
    }
}

impl SessionInfo {
    /// This process.
    pub(crate) fn of_this_process(what: &str) -> SessionInfo {
        SessionInfo {
            what: what.to_string(),
            host: host_name(),
            pid: std::process::id(),
            boot_id: boot_id(),
            time: now(),
        }
    }

    /// Whether the process is surely gone: same machine, and another boot or no such process.
    pub(crate) fn is_dead(&self) -> bool {
        if self.host != host_name() {
            return false;
        }
        self.boot_id != boot_id() || !std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

/// What a marker beside a manifest says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MarkKind {
    /// Confirmed: the post-check has passed.
    Ok,
    /// Tombstone.
    Forgotten,
    /// Not to be forgotten.
    Protected,
}

impl MarkKind {
    pub(crate) const ALL: [MarkKind; 3] = [MarkKind::Ok, MarkKind::Forgotten, MarkKind::Protected];

    /// The last part of the marker's name.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            MarkKind::Ok => "ok",
            MarkKind::Forgotten => "forgotten",
            MarkKind::Protected => "protected",
        }
    }
}

/// A marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) mark: MarkKind,
    pub(crate) image: ImageId,
    pub(crate) time: String,
}

/// Why packs were condemned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reason {
    /// Mostly or wholly unused.
    Collect,
    /// Scrub found damage in them.
    Damaged,
}

/// Packs that nobody may rely on any more; for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condemned {
    pub(crate) session: SessionId,
    pub(crate) time: String,
    pub(crate) packs: Vec<PackId>,
    /// Forgotten images whose manifests are about to go: undelete refuses them.
    #[serde(default)]
    pub(crate) images: Vec<ImageId>,
    pub(crate) reason: Reason,
}

/// Where the chunks of collected packs are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moves {
    pub(crate) session: SessionId,
    pub(crate) time: String,
    pub(crate) moved: BTreeMap<PackId, Vec<PackId>>,
}

/// A record that stands in a frame of its own kind.
pub(crate) trait Record: Serialize + DeserializeOwned {
    const KIND: FrameKind;
}

impl Record for SessionInfo {
    const KIND: FrameKind = FrameKind::Session;
}
impl Record for Mark {
    const KIND: FrameKind = FrameKind::Mark;
}
impl Record for Condemned {
    const KIND: FrameKind = FrameKind::Condemned;
}
impl Record for Moves {
    const KIND: FrameKind = FrameKind::Moves;
}

pub(crate) fn encode<R: Record>(record: &R) -> Vec<u8> {
    // Structs of strings and ids always serialise.
    frame::encode(R::KIND, &serde_json::to_vec(record).unwrap_or_default())
}

/// The record in a frame, `name` being for the error.
pub(crate) fn decode<R: Record>(name: &str, bytes: &[u8]) -> Result<R, crate::Error> {
    let name = || name.to_string();
    let body =
        frame::decode(R::KIND, bytes).map_err(|source| crate::Error::Frame { name: name(), source })?;
    serde_json::from_slice(body).map_err(|error| crate::Error::Content {
        name: name(),
        expected: "a record of this kind",
        found: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_go_both_ways() {
        let moves = Moves {
            session: SessionId([3; 16]),
            time: now(),
            moved: BTreeMap::from([(PackId([1; 32]), vec![PackId([2; 32])])]),
        };
        assert_eq!(decode::<Moves>("moves/x", &encode(&moves)).unwrap(), moves);
        assert!(decode::<Condemned>("moves/x", &encode(&moves)).is_err());
    }

    #[test]
    fn this_process_is_not_dead_and_one_of_another_boot_is() {
        let mut me = SessionInfo::of_this_process("capture");
        assert!(!me.is_dead());
        me.boot_id = "another".into();
        assert!(me.is_dead());
        me.host = "elsewhere".into();
        assert!(!me.is_dead());
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body: Vec<u8>) {
            prop_assert!(decode::<Mark>("x", &frame::encode(FrameKind::Mark, &body)).is_err());
            prop_assert!(decode::<Condemned>("x", &body).is_err());
        }
    }
}

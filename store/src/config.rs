//! The config of a store: written twice, read once, never changed. Format: DESIGN §4.3.
//!
//! Promise: an unknown incompatible feature or format is refused, an unknown read-only compatible one allows reading.
//! Knows nothing of chunking: the rule is text, for `image` to understand.

use crate::frame::{self, FrameError, FrameKind};
use serde::{Deserialize, Serialize};

/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// Upper bound of a config file; ours have some 400 bytes.
pub(crate) const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What a store is and how images are cut in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// 1.
    pub format: u32,
    /// 32 hex digits, random.
    pub store_id: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// What a reader must know.
    pub features: Features,
    /// The chunking rule, as `chunker::Rule` prints it.
    pub rule: String,
    /// Runs of zero blocks of at least this size are recorded, not stored.
    pub zero_run_bytes: u32,
    /// The grid of segments within a region.
    pub segment_bytes: u64,
    /// The grid of leaf tables within a segment.
    pub leaf_bytes: u32,
    /// Children of a table of level 2 and above.
    pub fan_out: u32,
}

/// Feature names, by what not knowing one means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// Ignored when unknown.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Reading only when unknown.
    #[serde(default)]
    pub read_only_compatible: Vec<String>,
    /// Refused when unknown.
    #[serde(default)]
    pub incompatible: Vec<String>,
}

/// Why a config can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigError {
    Frame(FrameError),
    Content(String),
    Unsupported(String),
}

impl Config {
    /// A new store's config with this rule and the defaults of DESIGN §4.3.
    pub fn new(rule: &str) -> Config {
        Config {
            format: FORMAT,
            store_id: crate::SessionId::random().to_string(),
            created: crate::session::now(),
            features: Features::default(),
            rule: rule.to_string(),
            zero_run_bytes: 4096,
            segment_bytes: 64 << 20,
            leaf_bytes: 4 << 20,
            fan_out: 256,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // A struct of strings and integers always serialises.
        frame::encode(FrameKind::Config, &serde_json::to_vec(self).unwrap_or_default())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Config, ConfigError> {
        let body = frame::decode(FrameKind::Config, bytes).map_err(ConfigError::Frame)?;
        let config: Config =
            serde_json::from_slice(body).map_err(|error| ConfigError::Content(error.to_string()))?;
        if config.format != FORMAT {
            return Err(ConfigError::Unsupported(format!("format {}", config.format)));
        }
        if let Some(feature) = config.features.incompatible.first() {
            return Err(ConfigError::Unsupported(format!("feature {feature:?}")));
        }
        config.check_numbers().map_err(|what| ConfigError::Content(what.to_string()))?;
        Ok(config)
    }

    /// The feature that forbids writing to this version, if any.
    pub(crate) fn unknown_for_writing(&self) -> Option<&str> {
        self.features.read_only_compatible.first().map(String::as_str)
    }

    fn check_numbers(&self) -> Result<(), &'static str> {
        let power = |number: u64| number.is_power_of_two();
        if !power(u64::from(self.zero_run_bytes)) || !(512..=1 << 30).contains(&self.zero_run_bytes) {
            return Err("zero_run_bytes is not a power of two from 512 B to 1 GiB");
        }
        if !power(self.segment_bytes) || !(4096..=1 << 30).contains(&self.segment_bytes) {
            return Err("segment_bytes is not a power of two from 4 KiB to 1 GiB");
        }
        if !power(u64::from(self.leaf_bytes)) || u64::from(self.leaf_bytes) > self.segment_bytes {
            return Err("leaf_bytes is not a power of two up to segment_bytes");
        }
        if self.leaf_bytes < 4096 || !(2..=4096).contains(&self.fan_out) {
            return Err("leaf_bytes or fan_out is out of bounds");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn features_decide_who_may_do_what() {
        let mut config = Config::new("fixed:4096");
        assert_eq!(Config::decode(&config.encode()), Ok(config.clone()));
        config.features.compatible.push("parity".into());
        config.features.read_only_compatible.push("later".into());
        let read = Config::decode(&config.encode()).unwrap();
        assert_eq!(read.unknown_for_writing(), Some("later"));
        config.features.incompatible.push("encryption".into());
        assert!(matches!(Config::decode(&config.encode()), Err(ConfigError::Unsupported(_))));
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        for break_it in [
            (|c: &mut Config| c.segment_bytes = 3) as fn(&mut Config),
            |c| c.leaf_bytes = 1,
            |c| c.fan_out = 0,
            |c| c.zero_run_bytes = 0,
        ] {
            let mut config = Config::new("fixed:4096");
            break_it(&mut config);
            assert!(matches!(Config::decode(&config.encode()), Err(ConfigError::Content(_))));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bodies_never_panic(body: Vec<u8>) {
            prop_assert!(Config::decode(&frame::encode(FrameKind::Config, &body)).is_err());
        }
    }
}

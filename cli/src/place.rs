//! Naming a store: `-s/--store`, else `CAS_STORE`, else the default for root or for a person.
//!
//! Promise: only the default store is ever created without being asked for. Knows nothing of what is in a store.

use crate::args::Context;
use crate::errors::Said;
use crate::exit::Exit;
use anyhow::Context as _;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use store::{Config, Home, Store};

/// Where the store is, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// Nobody named it.
    pub(crate) is_default: bool,
}

/// The rule of new stores: see MEASURED figures in DESIGN.md's list of choices.
pub(crate) const DEFAULT_RULE: &str = "fastcdc:16384,65536,262144";

/// The place that is meant.
pub(crate) fn find(context: &Context) -> anyhow::Result<Place> {
    let environment = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let root = rustix::process::geteuid().is_root();
    Ok(choose(context.store.as_deref(), root, environment)?)
}

fn choose(
    named: Option<&str>,
    root: bool,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Place, Said> {
    let named = named.map(OsString::from).filter(|name| !name.is_empty());
    if let Some(name) = named.or_else(|| environment("CAS_STORE")) {
        if name.to_string_lossy().contains("://") {
            let text = format!("store {}: expected a folder, found a remote address", name.display());
            return Err(
                Said::usage(text).hint("remote stores are not built yet; name a local or mounted folder")
            );
        }
        return Ok(Place { path: PathBuf::from(name), is_default: false });
    }
    let default = |path: PathBuf| Ok(Place { path, is_default: true });
    if root {
        return default(PathBuf::from("/var/lib/cas"));
    }
    if let Some(data) = environment("XDG_DATA_HOME") {
        return default(Path::new(&data).join("cas"));
    }
    match environment("HOME") {
        Some(home) => default(Path::new(&home).join(".local/share/cas")),
        None => Err(Said::new(Exit::NoStore, "store: neither named nor is there a HOME for the default")
            .hint("name it with -s/--store or CAS_STORE")),
    }
}

/// Opens the store for reading; a missing one is exit 10.
pub(crate) fn open(context: &Context) -> anyhow::Result<Store> {
    let place = find(context)?;
    Ok(Store::open(&Home::local(&place.path))?)
}

/// Opens the store; a missing *default* store is created, and said.
pub(crate) fn open_or_create(context: &Context) -> anyhow::Result<Store> {
    let place = find(context)?;
    match Store::open(&Home::local(&place.path)) {
        Err(store::Error::NoStore { .. }) if place.is_default => {
            let store = create(&place.path, DEFAULT_RULE)?;
            context.ui.note(format!("created store {}", place.path.display()));
            Ok(store)
        }
        other => Ok(other?),
    }
}

/// Opens the store for a look beside the main thing; `None` when there is none by default.
pub(crate) fn open_if_any(context: &Context) -> anyhow::Result<Option<Store>> {
    let Ok(place) = find(context) else { return Ok(None) };
    match Store::open(&Home::local(&place.path)) {
        Err(store::Error::NoStore { .. }) if place.is_default => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// A new store, with the folders that lead to it.
pub(crate) fn create(path: &Path, rule: &str) -> anyhow::Result<Store> {
    if let Ok(there) = Store::open(&Home::local(path)) {
        let store_id = there.config().store_id.clone();
        return Err(store::Error::AlreadyAStore { place: there.place(), store_id }.into());
    }
    std::fs::create_dir_all(path).with_context(|| format!("store {}: create the folder", path.display()))?;
    Ok(Store::init(&Home::local(path), Config::new(rule))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(named: Option<&str>, root: bool, variables: &[(&str, &str)]) -> Result<(String, bool), Exit> {
        let environment = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        match choose(named, root, environment) {
            Ok(place) => Ok((place.path.display().to_string(), place.is_default)),
            Err(said) => Err(crate::errors::tell(&said.into()).exit),
        }
    }

    #[test]
    fn a_named_store_wins_and_is_not_the_default() {
        assert_eq!(choice(Some("/mnt/s"), true, &[]), Ok(("/mnt/s".to_owned(), false)));
        assert_eq!(choice(Some(""), true, &[]), Ok(("/var/lib/cas".to_owned(), true)));
        let variable = [("CAS_STORE", "/mnt/e")];
        assert_eq!(choice(None, true, &variable), Ok(("/mnt/e".to_owned(), false)));
        assert_eq!(choice(Some("/mnt/s"), true, &variable), Ok(("/mnt/s".to_owned(), false)));
    }

    #[test]
    fn the_default_depends_on_who_asks() {
        assert_eq!(choice(None, true, &[("HOME", "/root")]), Ok(("/var/lib/cas".to_owned(), true)));
        let home = [("HOME", "/home/ana")];
        assert_eq!(choice(None, false, &home), Ok(("/home/ana/.local/share/cas".to_owned(), true)));
        let both = [("HOME", "/home/ana"), ("XDG_DATA_HOME", "/data")];
        assert_eq!(choice(None, false, &both), Ok(("/data/cas".to_owned(), true)));
        assert_eq!(choice(None, false, &[]), Err(Exit::NoStore));
    }

    #[test]
    fn remote_stores_are_refused_clearly() {
        assert_eq!(choice(Some("s3://bucket/x"), true, &[]), Err(Exit::Usage));
    }
}

//! Stores of earlier releases, and one of today's, read by two readers: `store`, and `tests/reader.py`, which was
//! written from DESIGN.md §4 alone.
//!
//! Promise: every folder `tests/golden/v*` is read; golden files are copied before anybody may write beside them.
//! Knows nothing of how a golden store was made: its README tells.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use store::{Home, ImageEntry, Run, ScrubOptions, Store};
use tempfile::TempDir;

#[path = "../../store/examples/golden.rs"]
mod recipe;

/// The folders that are read below. A release that touches a format adds one.
const GOLDEN: [&str; 1] = ["golden/v1"];
/// Debian's own: another `python3` on the path would not find the modules that apt installs.
const PYTHON: &str = "/usr/bin/python3";
const APT: &str = "apt-get install python3 python3-zstandard";

fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("a listed entry").file_name();
    let mut names: Vec<String> = entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder for the copy");
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
    }
}

/// A copy of `store/` and `expect.json`.
fn golden_copy(version: &str) -> TempDir {
    let copy = TempDir::new().expect("a temporary folder");
    copy_folder(&tests_folder().join(version), copy.path());
    copy
}

fn python(store: &Path, arguments: &[&str]) -> Output {
    let proof = Command::new(PYTHON).args(["-c", "import zstandard"]).output();
    assert!(proof.is_ok_and(|proof| proof.status.success()), "{PYTHON} or its zstandard is missing: {APT}");
    let script = tests_folder().join("reader.py");
    let mut command = Command::new(PYTHON);
    command.arg("-B").arg(script).arg(store).args(arguments);
    command.output().expect("python3 was there a moment ago")
}

fn python_well(store: &Path, arguments: &[&str]) -> String {
    let output = python(store, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "reader.py {arguments:?}: {}: {said}", output.status);
    String::from_utf8(output.stdout).expect("names for people are text")
}

fn expectations(folder: &Path) -> Vec<Value> {
    let text = fs::read(folder.join("expect.json")).expect("what is expected");
    let all: Value = serde_json::from_slice(&text).expect("JSON");
    all.as_array().expect("a list of images").clone()
}

/// The bytes of an image, and the ranges that its source could not give, as in `expect.json`.
fn read_image(store: &Store, entry: &ImageEntry) -> (Vec<u8>, Vec<Value>) {
    let image = store.image(entry.id).expect("a manifest");
    let (mut bytes, mut bad) = (Vec::new(), Vec::<(u64, u64)>::new());
    for placed in image.runs(0, image.bytes()).expect("its tables") {
        assert_eq!(placed.offset, bytes.len() as u64, "image {}: a gap or an overlap", entry.id);
        match (placed.run, bad.last_mut()) {
            (Run::Chunk(chunk), _) => bytes.extend(image.fetch(&[chunk]).remove(0).expect("its chunks")),
            (Run::Bad { bytes: more }, Some((from, size))) if *from + *size == placed.offset => *size += more,
            (Run::Bad { bytes: more }, _) => bad.push((placed.offset, more)),
            (Run::Zeros { .. }, _) => {}
        }
        let end = placed.offset + placed.run.bytes();
        bytes.resize(usize::try_from(end).expect("golden images are small"), 0);
    }
    (
        bytes,
        bad.iter().map(|(offset, bytes)| serde_json::json!({ "offset": offset, "bytes": bytes })).collect(),
    )
}

fn states_in_words(expected: &Value) -> String {
    let word = |name: &str| expected[name] == true;
    let mut words = vec![if word("confirmed") { "confirmed" } else { "unconfirmed" }];
    words.extend(["forgotten", "protected"].into_iter().filter(|name| word(name)));
    words.join(",")
}

/// Both readers find in `folder/store` what `folder/expect.json` says.
fn assert_read_by_both(folder: &Path) {
    let path = folder.join("store");
    python_well(&path, &["check"]);
    let list = python_well(&path, &["list"]);
    let store = Store::open(&Home::local(&path)).expect("a store");
    let entries = store.images().expect("a list of images");
    let expectations = expectations(folder);
    assert_eq!(entries.len(), expectations.len(), "images");
    for expected in &expectations {
        let id = expected["image"].as_str().expect("an id");
        let entry = entries.iter().find(|entry| entry.id.to_string() == id);
        let entry = entry.unwrap_or_else(|| panic!("image {id} is not there"));
        let (bytes, bad) = read_image(&store, entry);
        assert_eq!(bytes.len() as u64, expected["bytes"], "image {id}");
        assert_eq!(store::chunk_id(&bytes).to_string(), expected["blake3"], "image {id}");
        assert_eq!(Value::from(bad), expected["bad_ranges"], "image {id}");
        assert_eq!(entry.confirmed, expected["confirmed"], "image {id}");
        assert_eq!(entry.forgotten.is_some(), expected["forgotten"], "image {id}");
        assert_eq!(entry.protected, expected["protected"], "image {id}");
        let line = format!("{id}\t{}\t{}\t", states_in_words(expected), bytes.len());
        assert!(list.lines().any(|found| found.starts_with(&line)), "{line} is not in\n{list}");
        let out = folder.join("restored");
        python_well(&path, &["restore", &id[..16], &out.to_string_lossy()]);
        assert!(fs::read(&out).expect("what Python restored") == bytes, "image {id}: the readers disagree");
        fs::remove_file(&out).expect("the restored file can go");
    }
    let report = store.scrub(&ScrubOptions::default(), &()).expect("a scrub");
    assert!(report.findings.is_empty() && report.repaired.is_empty(), "{report:#?}");
}

#[test]
fn every_golden_store_is_read_by_both_readers() {
    let mut found = names(&tests_folder().join("golden"));
    found.retain(|name| name.starts_with('v'));
    let found: Vec<String> = found.iter().map(|name| format!("golden/{name}")).collect();
    assert_eq!(found, GOLDEN, "folders in tests/golden, and those that are read here");
    for version in GOLDEN {
        assert_read_by_both(golden_copy(version).path());
    }
}

#[test]
fn a_store_of_today_with_moved_chunks_is_read_by_both_readers() {
    let folder = TempDir::new().expect("a temporary folder");
    recipe::write(folder.path()).expect("a store by the recipe");
    assert!(!names(&folder.path().join("store/moves")).is_empty(), "nothing has moved");
    assert_read_by_both(folder.path());
}

#[test]
fn chunks_are_found_without_the_records_of_moves() {
    let copy = golden_copy(GOLDEN[0]);
    fs::remove_dir_all(copy.path().join("store/moves")).expect("the golden store has moves");
    assert_read_by_both(copy.path());
}

/// Files of a store by kind of object, a few of each.
fn victims(store: &Path) -> Vec<PathBuf> {
    let mut victims = vec![store.join("config")];
    let packs = store.join("packs");
    let folders = names(&packs).into_iter().map(|two| packs.join(two));
    let packs: Vec<PathBuf> =
        folders.flat_map(|two| names(&two).into_iter().map(move |name| two.join(name))).collect();
    victims.extend(packs.into_iter().take(3));
    for folder in ["images", "moves"] {
        victims
            .extend(names(&store.join(folder)).into_iter().take(3).map(|name| store.join(folder).join(name)));
    }
    victims
}

#[test]
fn python_sees_a_flipped_bit_wherever_it_is() {
    let copy = golden_copy(GOLDEN[0]);
    let store = copy.path().join("store");
    for (number, path) in victims(&store).iter().enumerate() {
        let sound = fs::read(path).expect("a file of the store");
        let mut flipped = sound.clone();
        // Another place in each: in the head, in the middle, near the end.
        let at = (number * 37 + number % 3 * sound.len() / 2) % sound.len();
        flipped[at] ^= 1 << (number % 8);
        fs::write(path, &flipped).expect("the copy can be written");
        let output = python(&store, &["check"]);
        let said = String::from_utf8_lossy(&output.stderr);
        let name = path.file_name().expect("a name").to_string_lossy();
        assert_eq!(output.status.code(), Some(1), "{name}, byte {at} flipped: {said}");
        assert!(said.contains(&*name), "{name}, byte {at} flipped, and not named: {said}");
        fs::write(path, &sound).expect("the copy can be written");
    }
    python_well(&store, &["check"]);
}

#[test]
fn python_restores_nothing_from_damage() {
    let copy = golden_copy(GOLDEN[0]);
    let store = copy.path().join("store");
    let packs = store.join("packs");
    for two in names(&packs) {
        for name in names(&packs.join(&two)) {
            let path = packs.join(&two).join(name);
            let mut bytes = fs::read(&path).expect("a pack");
            bytes[40] ^= 1;
            fs::write(&path, bytes).expect("the copy can be written");
        }
    }
    let images = expectations(copy.path());
    let full = images.iter().find(|image| image["protected"] == true).expect("a protected image");
    let out = copy.path().join("restored");
    let id = full["image"].as_str().expect("an id");
    let output = python(&store, &["restore", id, &out.to_string_lossy()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(id) && said.contains("offset 0x20"), "{said}");
}

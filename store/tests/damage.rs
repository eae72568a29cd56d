//! Damage is a product: what is done to an object, which object and where in it, and what happens next.
//!
//! Promise: no panic, and never a wrong byte given out; scrub finds what matters, and names the images and ranges hit; the
//! next capture of the same disks makes everything whole again. Knows nothing of how.

// The house allows `unwrap` in tests; clippy sees that for functions marked `#[test]` only.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use store::backend::{Backend, Delete, FaultBackend, FaultPlan, MemoryBackend, Name};
use store::{Error, Home, ImageId, Run, Store};

const SEED: u64 = 3;
/// Header and footer of a pack, DESIGN §4.5.
const HEADER_BYTES: usize = 32;
const FOOTER_BYTES: usize = 48;
/// Places tried in each file of the catalogue.
const SLED_PLACES: u64 = 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    Flip,
    Truncate,
    Delete,
    /// Its bytes under another name of the same kind.
    Duplicate,
    /// Its bytes over another object of the same kind.
    Misdirect,
    Swap,
}

const DAMAGES: [Damage; 6] =
    [Damage::Flip, Damage::Truncate, Damage::Delete, Damage::Duplicate, Damage::Misdirect, Damage::Swap];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Scrub,
    Read,
    Capture,
    Gc,
}

const NEXTS: [Next; 4] = [Next::Scrub, Next::Read, Next::Capture, Next::Gc];

/// An object, and where in it damage is done.
#[derive(Clone, Debug)]
struct Target {
    part: &'static str,
    name: Name,
    other: Option<Name>,
    at: usize,
}

struct Scene {
    memory: MemoryBackend,
    images: Images,
}

/// Three images of one disk and one of its twin; packs that have moved, and packs that a dead collector has condemned.
fn scene() -> Scene {
    let mut rng = StdRng::seed_from_u64(SEED);
    let memory = MemoryBackend::new();
    let store = Store::init(&home(&memory), config()).unwrap();
    let mut disk = Disk::random(&mut rng, 5, 0);
    let mut images = Images::new();
    for time in 1..4 {
        // Of what a passing image brought, the one that is kept needs a part.
        let passing = capture(&store, &disk, "disk").unwrap();
        disk = disk.changed(&mut rng, time * 100_000);
        images.insert(capture(&store, &disk, "disk").unwrap(), disk.clone());
        store.forget(&[passing]).unwrap();
        gc(&store).unwrap();
        disk = disk.changed(&mut rng, time * 1_000_000);
    }
    let [protected, forgotten] = [0, 1].map(|n| *images.keys().nth(n).unwrap());
    store.protect(protected, true).unwrap();
    store.protect(*images.keys().nth(2).unwrap(), true).unwrap();
    let passing = capture(&store, &disk, "disk").unwrap();
    disk = disk.changed(&mut rng, 9_000_000);
    images.insert(capture(&store, &disk, "disk").unwrap(), disk);
    store.forget(&[passing]).unwrap();
    condemn(&memory);
    store.forget(&[forgotten]).unwrap();
    // Some of its packs are condemned: another image stands for it now.
    let undeleted = store.undelete(forgotten, Duration::ZERO).unwrap();
    let disk = images.remove(&forgotten).unwrap();
    images.insert(undeleted, disk);
    Scene { memory, images }
}

/// A collector publishes its records and dies before it deletes.
fn condemn(memory: &MemoryBackend) {
    for at_call in 1.. {
        let copy = memory.snapshot();
        let fault = FaultBackend::new(Arc::new(copy.clone()), Arc::new(copy.clone()));
        fault.plan(Some(FaultPlan { at_call, fault: store::backend::Fault::KillAfter }));
        let home = Home::custom(Arc::new(fault.clone()), Arc::new(fault.clone()));
        assert!(Store::open(&home).and_then(|store| gc(&store)).is_err(), "nothing was condemned");
        let before = names(memory, "packs").len();
        if names(&copy, "condemned").len() > 1 && names(&copy, "packs").len() >= before {
            for name in names(&copy, "condemned").into_iter().chain(names(&copy, "images")) {
                memory.put(&name, &copy.get_all(&name, 1 << 20).unwrap()).unwrap();
            }
            for name in names(memory, "images") {
                if !copy.exists(&name).unwrap() {
                    memory.delete(&name).unwrap();
                }
            }
            return;
        }
    }
}

fn bytes_of(memory: &MemoryBackend, name: &Name) -> Vec<u8> {
    memory.get_all(name, 1 << 30).unwrap()
}

/// Whether a pack holds tables: the kinds of its entries, DESIGN §4.5.
fn holds_tables(bytes: &[u8]) -> bool {
    trailer(bytes).any(|entry| entry[40] == 1)
}

fn trailer(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = bytes.len() - FOOTER_BYTES;
    let length = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
    bytes[end - length..end].chunks_exact(44)
}

/// A few objects of each kind, and places in them.
fn targets(scene: &Scene) -> Vec<Target> {
    let memory = &scene.memory;
    let mut targets = Vec::new();
    for tables in [false, true] {
        let packs: Vec<Name> = names(memory, "packs")
            .into_iter()
            .filter(|name| holds_tables(&bytes_of(memory, name)) == tables)
            .collect();
        for number in [0, packs.len() / 2] {
            let (name, other) = (packs[number].clone(), packs.get(number + 1).cloned());
            let bytes = bytes_of(memory, &name);
            let footer = bytes.len() - FOOTER_BYTES;
            let trailer = footer - trailer(&bytes).count() * 44;
            for (part, at) in [
                ("pack header", 20),
                ("pack body", HEADER_BYTES + 3),
                ("pack body", (HEADER_BYTES + trailer) / 2),
                ("pack trailer", trailer + 5),
                ("pack footer", footer + 9),
            ] {
                targets.push(Target { part, name: name.clone(), other: other.clone(), at });
            }
        }
    }
    let mut small = |part, folder: &str, suffix: &str| {
        let fits = |name: &Name| name.as_str().split_once('.').map_or("", |(_, suffix)| suffix) == suffix;
        let found: Vec<Name> = names(memory, folder).into_iter().filter(fits).collect();
        assert!(!found.is_empty(), "the scene has no {part}");
        let length = bytes_of(memory, &found[0]).len();
        for at in [3, 20, length - 7] {
            let other = found.get(1).cloned();
            targets.push(Target { part, name: found[0].clone(), other, at });
        }
    };
    small("manifest", "images", "");
    small("ok marker", "images", "ok");
    small("protected marker", "images", "protected");
    small("condemn record", "condemned", "");
    small("moves record", "moves", "");
    for (part, name, other) in [("config", "config", "config.copy"), ("config.copy", "config.copy", "config")]
    {
        let [name, other] = [name, other].map(|name| Name::new(name).unwrap());
        targets.push(Target { part, name, other: Some(other), at: 30 });
    }
    targets
}

/// The name with its hash replaced by another.
fn another_name(name: &Name) -> Option<Name> {
    let (folder, last) = name.as_str().rsplit_once('/')?;
    let turned: String = last
        .char_indices()
        .map(|(at, c)| if at > 5 && at < 9 { if c == 'a' { 'b' } else { 'a' } } else { c })
        .collect();
    Name::new(&format!("{folder}/{turned}")).ok()
}

/// Whether there was something to do it to.
fn apply(damage: Damage, target: &Target, memory: &MemoryBackend) -> bool {
    let mut bytes = bytes_of(memory, &target.name);
    match (damage, &target.other) {
        (Damage::Flip, _) => {
            bytes[target.at] ^= 16;
            memory.damage(&target.name, &bytes);
        }
        (Damage::Truncate, _) => memory.damage(&target.name, &bytes[..target.at]),
        (Damage::Delete, _) => memory.delete(&target.name).unwrap(),
        (Damage::Duplicate, _) => {
            let Some(name) = another_name(&target.name) else { return false };
            memory.damage(&name, &bytes);
        }
        (Damage::Misdirect, Some(other)) => memory.damage(other, &bytes),
        (Damage::Swap, Some(other)) => {
            memory.damage(&target.name, &bytes_of(memory, other));
            memory.damage(other, &bytes);
        }
        _ => return false,
    }
    true
}

/// Whether scrub has to say something. The rest is as good as what was there.
fn matters(damage: Damage, part: &str) -> bool {
    let renamed = matches!(damage, Damage::Duplicate | Damage::Misdirect | Damage::Swap);
    match part {
        // The copy of a record under another name says the same; that one went is what a collector does too.
        "condemn record" | "moves record" => !renamed && damage != Damage::Delete,
        "config" | "config.copy" => !renamed,
        // Not to be told from one that was never there.
        "protected marker" => damage != Damage::Delete,
        // Unconfirmed: shown as such.
        "ok marker" => damage != Damage::Delete,
        _ => true,
    }
}

/// Right bytes or an error, and nothing else; which images are whole.
fn check_reads(store: &Store, images: &Images) -> BTreeSet<ImageId> {
    let mut whole = BTreeSet::new();
    for (image, disk) in images {
        let plain = disk.plain();
        let Ok(parts) = read_parts(store, *image) else { continue };
        let mut good = true;
        for (range, part) in parts {
            let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
            match part {
                Ok(Some(bytes)) => assert!(bytes == plain.bytes[from..to], "{image}: wrong bytes at {from}"),
                Ok(None) => {
                    assert!(plain.bad.iter().any(|bad| bad.start <= range.start && bad.end >= range.end))
                }
                Err(_) => good = false,
            }
        }
        if good {
            whole.insert(*image);
        }
    }
    whole
}

/// One case: damage, what happens next, and then the road back.
fn run_case(scene: &Scene, target: &Target, damage: Damage, next: Next) -> bool {
    let _context =
        Context(format!("{damage:?} {} {} at {}, then {next:?}", target.part, target.name, target.at));
    let memory = scene.memory.snapshot();
    if !apply(damage, target, &memory) {
        return false;
    }
    let store = open(&memory);
    let mut found = 0;
    match next {
        Next::Scrub => {}
        Next::Read => drop(check_reads(&store, &scene.images)),
        Next::Capture => {
            let disk = scene.images.values().next().unwrap();
            if let Ok(image) = capture(&store, disk, "next") {
                check_reads(&store, &BTreeMap::from([(image, disk.clone())]));
            }
        }
        Next::Gc => {
            // A missing manifest is a reason to refuse only where a lock rules out that a collector took it.
            let unreadable = |entry: &store::ImageEntry| {
                !matches!(entry.manifest, Ok(_) | Err(Error::MissingManifest { .. }))
                    && entry.forgotten.is_none()
            };
            let refuses = store.images().unwrap().iter().any(unreadable);
            let result = gc(&store);
            if refuses {
                assert!(matches!(result, Err(Error::UnreadableImage { .. })), "{result:?}");
            }
        }
    }
    check_reads(&open(&memory), &scene.images);
    if target.part == "condemn record" && matters(damage, target.part) {
        // Nobody can say what it condemned: everything that writes stops, naming it, until a person takes it away.
        let error = scrub(&open(&memory)).unwrap_err();
        assert!(error.to_string().contains(target.name.as_str()), "{error:?}");
        assert!(gc(&open(&memory)).is_err());
        memory.delete(&target.name).unwrap();
        heal(&memory, &scene.images, false);
        return true;
    }
    found += scrub(&open(&memory)).unwrap_or_else(|error| panic!("scrub: {error:?}")).findings.len();
    // After gc and capture, what was damaged may have been taken away or written anew.
    // A pack whose every needed chunk has a copy elsewhere is no loss: to be told from one that gc took away it would
    // have to be needed.
    let redundant =
        || damage == Damage::Delete && check_reads(&open(&memory), &scene.images).len() == scene.images.len();
    if matters(damage, target.part) && matches!(next, Next::Scrub | Next::Read) {
        assert!(found > 0 || redundant(), "scrub found nothing");
    }
    let tables = target.part.starts_with("pack") && holds_tables(&bytes_of(&scene.memory, &target.name));
    heal(&memory, &scene.images, tables);
    true
}

/// Unreadable images are forgotten, every disk is captured again: then all is whole, and nothing is left to find.
///
/// A table says where its chunks were, so once they have moved no capture makes the same table again: of `tables` that
/// are damaged an image may be lost, which scrub has to say, and which has to be forgotten before gc goes on.
fn heal(memory: &MemoryBackend, images: &Images, tables: bool) {
    let store = open(memory);
    let mut images = images.clone();
    for entry in store.images().unwrap() {
        if entry.manifest.is_err() {
            store.protect(entry.id, false).ok();
            if entry.protected {
                memory.delete(&Name::new(&format!("images/{}.protected", entry.id)).unwrap()).unwrap();
            }
            store.forget(&[entry.id]).unwrap();
        }
    }
    let there: BTreeSet<ImageId> =
        store.images().unwrap().iter().filter(|entry| entry.manifest.is_ok()).map(|entry| entry.id).collect();
    images.retain(|image, _| there.contains(image));
    let before = there;
    for disk in images.clone().into_values() {
        let image = capture(&open(memory), &disk, "again").unwrap();
        images.insert(image, disk);
    }
    if tables {
        let lost = forget_lost(&open(memory), &images);
        images.retain(|image, _| !lost.contains(image));
    }
    assert_images(&open(memory), &images, "captured again");
    gc(&open(memory)).unwrap_or_else(|error| panic!("gc after healing: {error:?}"));
    assert_images(&open(memory), &images, "captured again, after gc");
    let mut report = scrub(&open(memory)).unwrap();
    if tables && !report.findings.is_empty() {
        // A pack whose listing is damaged stays as long as it alone may hold a table that is needed.
        let store = open(memory);
        let old: Vec<ImageId> = images.keys().filter(|image| before.contains(image)).copied().collect();
        old.iter().for_each(|image| store.protect(*image, false).unwrap());
        store.forget(&old).unwrap();
        gc(&store).unwrap();
        images.retain(|image, _| !old.contains(image));
        assert_images(&open(memory), &images, "old images forgotten");
        report = scrub(&store).unwrap();
    }
    assert!(report.findings.is_empty(), "left after healing: {:?}", report.findings);
}

/// Images that can't be read to the end are named by scrub, and forgotten.
fn forget_lost(store: &Store, images: &Images) -> Vec<ImageId> {
    let whole = check_reads(store, images);
    let lost: Vec<ImageId> = images.keys().filter(|image| !whole.contains(image)).copied().collect();
    let findings = scrub(store).unwrap().findings;
    let named: BTreeSet<ImageId> =
        findings.iter().flat_map(|finding| &finding.hits).map(|hit| hit.image).collect();
    assert!(lost.iter().all(|image| named.contains(image)), "{lost:?} are lost, {findings:?}");
    lost.iter().for_each(|image| store.protect(*image, false).unwrap());
    store.forget(&lost).unwrap();
    lost
}

#[test]
fn damage_is_seen_gives_out_nothing_wrong_and_heals() {
    let begun = std::time::Instant::now();
    let scene = scene();
    let mut cases = 0;
    let mut failed: BTreeMap<String, u32> = BTreeMap::new();
    std::panic::set_hook(Box::new(|_| {}));
    for target in targets(&scene) {
        for damage in DAMAGES {
            for next in NEXTS {
                let case = std::panic::AssertUnwindSafe(|| run_case(&scene, &target, damage, next));
                match std::panic::catch_unwind(case) {
                    Ok(done) => cases += u32::from(done),
                    Err(panic) => {
                        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        let text: String = text.chars().take(400).collect();
                        *failed.entry(format!("{damage:?} {}: {text}", target.part)).or_default() += 1;
                    }
                }
            }
        }
    }
    drop(std::panic::take_hook());
    println!("damage: {cases} cases in {:.1} s", begun.elapsed().as_secs_f64());
    let total: u32 = failed.values().sum();
    assert!(failed.is_empty(), "{total} cases failed: {failed:#?}");
}

/// The places at which an image has this chunk.
fn places(store: &Store, image: ImageId, id: store::ChunkId) -> Vec<Range<u64>> {
    let stored = store.image(image).unwrap();
    let runs = stored.runs(0, stored.bytes()).unwrap();
    let has = |run: &Run| matches!(run, Run::Chunk(chunk) if chunk.id == id);
    runs.iter().filter(|placed| has(&placed.run)).map(|p| p.offset..p.offset + p.run.bytes()).collect()
}

#[test]
fn scrub_names_exactly_the_ranges_of_a_damaged_chunk() {
    let scene = scene();
    let mut checked = 0;
    for name in names(&scene.memory, "packs") {
        let bytes = bytes_of(&scene.memory, &name);
        if holds_tables(&bytes) {
            continue;
        }
        let mut offset = HEADER_BYTES;
        let entries: Vec<Vec<u8>> = trailer(&bytes).map(<[u8]>::to_vec).collect();
        for entry in entries.iter().filter(|entry| entry[40] == 0) {
            let stored = u32::from_le_bytes(entry[32..36].try_into().unwrap()) as usize;
            let at = offset + stored / 2;
            offset += stored;
            let memory = scene.memory.snapshot();
            let id = chunk_id_of(entry);
            let store = open(&memory);
            let mut expected = BTreeSet::new();
            for entry in store.images().unwrap() {
                expected.extend(
                    places(&store, entry.id, id).into_iter().map(|range| (entry.id, range.start, range.end)),
                );
            }
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            memory.damage(&name, &damaged);
            let report = scrub(&open(&memory)).unwrap();
            let mut hits = BTreeSet::new();
            for hit in report.findings.iter().flat_map(|finding| &finding.hits) {
                // Neighbours are reported as one stretch: taken apart again for the comparison.
                let mut start = hit.offset;
                while start < hit.offset + hit.bytes {
                    hits.insert((hit.image, start, start + CHUNK_BYTES as u64));
                    start += CHUNK_BYTES as u64;
                }
            }
            assert_eq!(hits, expected, "{name}, chunk at {at}");
            checked += u32::from(!expected.is_empty());
        }
    }
    assert!(checked > 50, "{checked} chunks");
    println!("damage: the ranges of {checked} damaged chunks");
}

fn chunk_id_of(entry: &[u8]) -> store::ChunkId {
    let hex: String = entry[..32].iter().map(|byte| format!("{byte:02x}")).collect();
    hex.parse().unwrap()
}

fn files_below(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn damaged_catalogue_files_always_end_in_full_recovery() {
    let begun = std::time::Instant::now();
    let mut rng = StdRng::seed_from_u64(SEED);
    let folder = tempfile::tempdir().unwrap();
    let home = Home::local(folder.path());
    let store = Store::init(&home, config()).unwrap();
    let disk = Disk::random(&mut rng, 4, 0);
    let mut images = BTreeMap::from([(capture(&store, &disk, "disk").unwrap(), disk.clone())]);
    let (mut cases, mut rebuilt) = (0, 0);
    for kind in 0..3 {
        for place in 0..SLED_PLACES {
            for number in 0.. {
                let files = files_below(&folder.path().join("index/sled"));
                let Some(file) = files.get(number) else { break };
                let _context = Context(format!("kind {kind}, place {place}, {}", file.display()));
                let mut bytes = std::fs::read(file).unwrap();
                // A file may be mostly empty room: half of the places are near its start.
                let bound = if place % 2 == 0 { bytes.len().min(4096) } else { bytes.len() };
                let at = if bound == 0 { 0 } else { rng.random_range(0..bound) };
                match kind {
                    0 if bytes.is_empty() => continue,
                    0 => {
                        bytes[at] ^= 1 << rng.random_range(0..8);
                        std::fs::write(file, bytes).unwrap();
                    }
                    1 => std::fs::write(file, &bytes[..at]).unwrap(),
                    _ if place > 0 => continue,
                    _ => std::fs::remove_file(file).unwrap(),
                }
                let store = Store::open(&home).unwrap();
                let changed = disk.changed(&mut rng, 1000 * cases);
                let writer_state = store.check_index(Duration::ZERO).unwrap();
                assert!(writer_state.packs_unreadable.is_empty());
                rebuilt += u32::from(writer_state.rebuilt.is_some());
                let image = capture(&store, &changed, "disk").unwrap();
                assert_images(&store, &BTreeMap::from([(image, changed.clone())]), "after damage");
                images.insert(image, changed);
                cases += 1;
                if images.len() > 8 {
                    let oldest: Vec<ImageId> = images.keys().copied().take(6).collect();
                    store.forget(&oldest).unwrap();
                    gc(&store).unwrap();
                    images.retain(|image, _| !oldest.contains(image));
                    assert_images(&store, &images, "after gc");
                    assert!(scrub(&store).unwrap().findings.is_empty());
                }
            }
        }
    }
    assert!(rebuilt > 0);
    println!(
        "damage: {cases} cases of the catalogue, {rebuilt} rebuilt, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
}

//! Damaged stores under the real binary: {flip, truncate, delete, duplicate, swap} × {pack body, pack trailer, table pack,
//! manifest, marker, config, sled files} × {scrub, restore, capture, gc}.
//!
//! Promise: no command panics; a restore that exits with 0 is right to the last byte, another one writes right bytes or
//! none; scrub finds the damage and names image and range; scrub and the next capture heal it: images that still have
//! their manifests read back whole, and after gc the store is clean. Knows nothing of formats.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;
use tests::{Ran, capture, cas, cas_ok};

use crate::kills::Dice;

const SEED: u64 = 0xda_3a6e;
const DISK_BYTES: usize = 2 << 20;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Object {
    PackBody,
    PackTrailer,
    TablePack,
    Manifest,
    Marker,
    Config,
    Sled,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Damage {
    Flip,
    Truncate,
    Delete,
    Duplicate,
    Swap,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Verb {
    Scrub,
    Restore,
    Capture,
    Gc,
}

const OBJECTS: [Object; 7] = [
    Object::PackBody,
    Object::PackTrailer,
    Object::TablePack,
    Object::Manifest,
    Object::Marker,
    Object::Config,
    Object::Sled,
];
const DAMAGES: [Damage; 5] =
    [Damage::Flip, Damage::Truncate, Damage::Delete, Damage::Duplicate, Damage::Swap];

/// A sound store with two images of one disk, copied for each case.
struct Template {
    folder: TempDir,
    images: [String; 2],
    contents: [Vec<u8>; 2],
}

impl Template {
    fn get() -> &'static Template {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        TEMPLATE.get_or_init(|| {
            println!("seed {SEED:#x}");
            let folder = TempDir::with_prefix("cas-damage-").unwrap();
            let store = folder.path().join("store");
            let mut dice = Dice(SEED);
            let first = dice.noise(DISK_BYTES);
            let mut second = first.clone();
            second[700_000..900_000].copy_from_slice(&dice.noise(200_000));
            cas_ok(&store, &["init", "--chunk-size", "16KiB"]);
            let contents = [first, second];
            let images = [0, 1].map(|n| {
                let disk = folder.path().join(format!("disk{n}"));
                fs::write(&disk, &contents[n]).unwrap();
                capture(&store, &disk, &["--name", "disk"])
            });
            Template { folder, images, contents }
        })
    }

    fn disk(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("disk{number}"))
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Packs, largest first: two of data, two of leaves, two of upper tables.
fn packs(store: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<PathBuf> = Vec::new();
    for folder in fs::read_dir(store.join("packs")).unwrap() {
        packs.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|pack| pack.unwrap().path()));
    }
    packs.sort_by_key(|pack| (std::cmp::Reverse(fs::metadata(pack).unwrap().len()), pack.clone()));
    packs
}

/// One damaged copy of the store.
struct Case {
    _folder: TempDir,
    store: PathBuf,
    template: &'static Template,
    object: Object,
    damage: Damage,
    verb: Verb,
    dice: Dice,
}

impl Case {
    fn new(object: Object, damage: Damage, verb: Verb) -> Case {
        let template = Template::get();
        let folder = TempDir::with_prefix("cas-damage-").unwrap();
        let store = folder.path().join("store");
        copy_folder(&template.folder.path().join("store"), &store);
        let seed = SEED ^ ((object as u64) << 40) ^ ((damage as u64) << 32) ^ ((verb as u64) << 24);
        Case { _folder: folder, store, template, object, damage, verb, dice: Dice(seed) }
    }

    fn name(&self) -> String {
        format!("{:?} {:?} before {:?}", self.damage, self.object, self.verb)
    }

    /// The file that is hit, and one of its kind to be taken for it.
    fn victims(&mut self) -> [PathBuf; 2] {
        let images = &self.template.images;
        let at = |name: &str| self.store.join(name);
        match self.object {
            Object::PackBody | Object::PackTrailer => [0, 1].map(|n| packs(&self.store)[n].clone()),
            Object::TablePack => [2, 3].map(|n| packs(&self.store)[n].clone()),
            Object::Manifest => [0, 1].map(|n| at(&format!("images/{}", images[n]))),
            Object::Marker => [0, 1].map(|n| at(&format!("images/{}.ok", images[n]))),
            Object::Config => [at("config"), at(&format!("images/{}.ok", images[0]))],
            Object::Sled => [at("index/sled/db"), at("index/sled/conf")],
        }
    }

    fn inflict(&mut self) {
        let [victim, other] = self.victims();
        let mut bytes = fs::read(&victim).unwrap();
        match self.damage {
            Damage::Flip => {
                let at = match self.object {
                    Object::PackBody => 32 + self.dice.below(bytes.len() - 16_000),
                    Object::PackTrailer => bytes.len() - 1 - self.dice.below(400),
                    // The log begins there; behind it the file is mostly empty.
                    Object::Sled => self.dice.below(bytes.len().min(20_000)),
                    _ => self.dice.below(bytes.len()),
                };
                bytes[at] ^= 1 << self.dice.below(8);
                fs::write(&victim, bytes).unwrap();
            }
            Damage::Truncate => {
                let keep = match self.object {
                    Object::PackTrailer => bytes.len() - 20,
                    // The rest is empty room.
                    Object::Sled => 1000,
                    _ => bytes.len() / 2,
                };
                fs::write(&victim, &bytes[..keep]).unwrap();
            }
            Damage::Delete => fs::remove_file(&victim).unwrap(),
            // Objects with names of their own get a second name, others a second copy behind the first.
            Damage::Duplicate if !matches!(self.object, Object::Config | Object::Sled) => {
                let name = victim.file_name().unwrap().to_str().unwrap();
                let digit = if name.contains("00") { "11" } else { "00" };
                let begin = &name[..2];
                fs::write(victim.with_file_name(format!("{begin}{digit}{}", &name[4..])), bytes).unwrap();
            }
            Damage::Duplicate => {
                bytes.extend_from_within(..);
                fs::write(&victim, bytes).unwrap();
            }
            Damage::Swap => {
                fs::write(&victim, fs::read(&other).unwrap()).unwrap();
                fs::write(&other, bytes).unwrap();
            }
        }
    }

    /// Runs `cas`; whatever it says, it does not fall over, and a failure has words.
    fn run(&self, arguments: &[&str]) -> Ran {
        let ran = cas(&self.store, arguments);
        let told = format!("{}: cas {arguments:?}: {ran:?}", self.name());
        assert!(!ran.stderr.contains("panicked"), "{told}");
        assert!([0, 1, 4, 5].contains(&ran.code), "{told}");
        let words = ["error: ", "warning: "].iter().any(|word| ran.stderr.contains(word));
        assert!(ran.code == 0 || words, "{told}");
        ran
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{}: cas {arguments:?}: {ran:?}", self.name());
        ran.stdout
    }

    fn images(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["images", "--json"])).unwrap()
    }

    /// What is written is right; what is not right was not written, and the exit says so.
    fn restore(&self, image: &str, expected: &[u8]) -> i32 {
        let target = self.store.with_file_name("restored");
        fs::remove_file(&target).ok();
        let ran = self.run(&["restore", image, target.to_str().unwrap()]);
        let found = fs::read(&target).unwrap_or_default();
        if ran.code == 0 {
            assert!(found == expected, "{}: image {image}: exit 0 and wrong bytes", self.name());
        }
        for (number, (found, expected)) in found.chunks(512).zip(expected.chunks(512)).enumerate() {
            let right = found == expected || found.iter().all(|byte| *byte == 0);
            assert!(right, "{}: image {image}: a wrong byte in sector {number}", self.name());
        }
        ran.code
    }

    /// Chunks are gone. Swapped packs are found by their trailers, chunks behind a damaged trailer by the tables' hints.
    fn is_lossy(&self) -> bool {
        matches!(self.object, Object::PackBody | Object::TablePack)
            && matches!(self.damage, Damage::Flip | Damage::Truncate | Damage::Delete)
    }

    /// Beyond what sled itself gets over.
    fn is_index_lost(&self) -> bool {
        self.object == Object::Sled && matches!(self.damage, Damage::Truncate | Damage::Delete | Damage::Swap)
    }

    /// A lost marker is proved and written anew by whoever is at work next; the sled files are nothing that can be lost.
    fn is_for_scrub(&self) -> bool {
        self.object != Object::Sled && (self.object, self.damage) != (Object::Marker, Damage::Delete)
    }

    fn check_scrub(&self, ran: &Ran) {
        let told = format!("{}: {ran:?}", self.name());
        assert_eq!(ran.code, if self.is_for_scrub() { 4 } else { 0 }, "{told}");
        if self.is_lossy() {
            let image = |image: &String| ran.stderr.contains(&format!("image {}", &image[..8]));
            assert!(self.template.images.iter().any(image) && ran.stderr.contains("offset 0x"), "{told}");
        }
        if self.object == Object::Manifest && self.damage != Damage::Duplicate {
            assert!(ran.stderr.contains(&self.template.images[0]), "{told}");
        }
        let ids: Vec<Value> = self.images().iter().map(|image| image["confirmed"].clone()).collect();
        if (self.object, self.damage) == (Object::Marker, Damage::Delete) {
            assert!(ids.iter().all(|confirmed| *confirmed == Value::Bool(true)), "{told}");
        }
    }

    /// The command under test, and what it may and must say.
    fn act(&self) {
        let told_of_index = |ran: &Ran| {
            let said = format!("{}{}", ran.stdout, ran.stderr);
            let told = said.contains("index: read anew from the packs");
            assert!(told || !self.is_index_lost(), "{}: {ran:?}", self.name());
        };
        match self.verb {
            Verb::Scrub => {
                let ran = self.run(&["scrub"]);
                self.check_scrub(&ran);
                told_of_index(&ran);
            }
            Verb::Restore => {
                let [first, second] =
                    [0, 1].map(|n| self.restore(&self.template.images[n], &self.template.contents[n]));
                assert!(
                    !self.is_lossy() || [first, second].contains(&4),
                    "{}: {first}, {second}",
                    self.name()
                );
            }
            Verb::Capture => {
                told_of_index(&self.run(&[
                    "capture",
                    self.template.disk(0).to_str().unwrap(),
                    "--name",
                    "disk",
                ]));
            }
            Verb::Gc => told_of_index(&self.run(&["gc"])),
        }
    }

    /// Scrub, the next captures and gc: then everything is as it should be.
    fn heal(&self) {
        self.run(&["scrub"]);
        for number in [0, 1] {
            let disk = self.template.disk(number);
            self.ok(&["capture", disk.to_str().unwrap(), "--name", "disk"]);
            let code = self.restore("latest", &self.template.contents[number]);
            assert_eq!(code, 0, "{}: the new image of disk {number} is not whole", self.name());
        }
        let damaged = |image: &&Value| image["damaged"] == true;
        for image in self.images().iter().filter(damaged) {
            self.ok(&["forget", image["id"].as_str().unwrap()]);
        }
        self.ok(&["gc"]);
        self.ok(&["scrub"]);
        for image in self.images() {
            let id = image["id"].as_str().unwrap();
            let known = self.template.images.iter().position(|known| known == id);
            if let Some(number) = known {
                let code = self.restore(id, &self.template.contents[number]);
                assert_eq!(code, 0, "{}: image {id} is not healed", self.name());
            }
        }
    }
}

/// All kinds of damage before this command; how many cases there were.
fn before(verb: Verb) {
    let started = std::time::Instant::now();
    let mut cases = 0;
    for object in OBJECTS {
        for damage in DAMAGES {
            // The rest of a pack's damage hits body and trailer alike.
            if object == Object::PackTrailer && !matches!(damage, Damage::Flip | Damage::Truncate) {
                continue;
            }
            let mut case = Case::new(object, damage, verb);
            case.inflict();
            case.act();
            case.heal();
            cases += 1;
        }
    }
    println!("damage before {verb:?}: {cases} cases, {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn damage_before_scrub() {
    before(Verb::Scrub);
}

#[test]
fn damage_before_restore() {
    before(Verb::Restore);
}

#[test]
fn damage_before_capture() {
    before(Verb::Capture);
}

#[test]
fn damage_before_gc() {
    before(Verb::Gc);
}

/// sled 0.34 panics on many flipped bits; nobody should see that.
#[test]
fn damage_to_any_byte_of_the_index_costs_time_only() {
    let mut dice = Dice(SEED ^ 1);
    let case = Case::new(Object::Sled, Damage::Flip, Verb::Capture);
    for _ in 0..24 {
        let files: Vec<PathBuf> =
            fs::read_dir(case.store.join("index/sled")).unwrap().map(|file| file.unwrap().path()).collect();
        let files: Vec<&PathBuf> = files.iter().filter(|file| file.is_file()).collect();
        let file = files[dice.below(files.len())];
        let mut bytes = fs::read(file).unwrap();
        for _ in 0..1 + dice.below(8) {
            let at = dice.below(bytes.len().min(20_000));
            bytes[at] ^= 1 << dice.below(8);
        }
        fs::write(file, bytes).unwrap();
        let image = case.ok(&["capture", case.template.disk(0).to_str().unwrap(), "--json"]);
        let image: Value = serde_json::from_str(image.lines().last().unwrap()).unwrap();
        assert_eq!(case.restore(image["image"].as_str().unwrap(), &case.template.contents[0]), 0);
    }
    case.ok(&["scrub"]);
}

//! The real binary, killed: `kill -9` at random moments of every command that writes or reads at length, and the signals
//! that people send.
//!
//! Promise: after each kill the store opens without a manual step, every image that a capture confirmed is there and
//! reads back byte by byte, and the same command succeeds. Delays come from a seed that is printed; how many kills hit a
//! living process is counted and asserted. Knows nothing of what a killed process leaves behind.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tests::{Loop, Ran, capture, cas, cas_ok, command, sh};

const MIB: usize = 1 << 20;
/// A capture of this much takes a fraction of a second, and fills most of a pack.
const DISK_BYTES: usize = 20 * MIB;

const FIRST: usize = 32;
const INCREMENTAL: usize = 44;
const GC: usize = 44;
const RESTORE_FILE: usize = 24;
const RESTORE_LOOP: usize = 24;
const UNDELETE: usize = 20;
const SCRUB: usize = 20;
const _: () = assert!(FIRST + INCREMENTAL + GC + RESTORE_FILE + RESTORE_LOOP + UNDELETE + SCRUB >= 200);

/// Numbers from a seed (SplitMix64): the same everywhere and always.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub(crate) fn noise(&mut self, bytes: usize) -> Vec<u8> {
        let mut noise: Vec<u8> =
            std::iter::repeat_with(|| self.next().to_le_bytes()).take(bytes.div_ceil(8)).flatten().collect();
        noise.truncate(bytes);
        noise
    }

    /// What disks hold: noise, text, zeros, and some of it twice.
    pub(crate) fn disk(&mut self, bytes: usize) -> Vec<u8> {
        let mut disk = Vec::with_capacity(bytes);
        while disk.len() < bytes {
            let run = (64 << 10) + self.below(1 << 20);
            match self.below(5) {
                0 => disk.resize(disk.len() + run, 0),
                1 => {
                    let word = self.next();
                    let line = |n: usize| format!("{n} of the lines that begin with {word:x}\n").into_bytes();
                    disk.extend((0..).flat_map(line).take(run));
                }
                2 if disk.len() > run => disk.extend_from_within(..run),
                _ => disk.extend(self.noise(run)),
            }
        }
        disk.truncate(bytes);
        disk
    }
}

/// A name for bytes that the tests made themselves.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// A store, a disk, and what must never be lost.
struct Lane {
    folder: TempDir,
    name: &'static str,
    store: PathBuf,
    disk: PathBuf,
    content: Vec<u8>,
    dice: Dice,
    /// Images whose captures exited with 0, oldest first.
    confirmed: Vec<(String, u64)>,
    /// About how long the command takes.
    pace: Duration,
    /// How many rounds there are to be, more only when too many kills came late.
    planned: usize,
    rounds: usize,
    killed: usize,
    started: Instant,
}

impl Lane {
    fn new(name: &'static str, planned: usize, seed: u64) -> Lane {
        println!("{name}: seed {seed:#x}");
        let folder = TempDir::with_prefix("cas-kills-").unwrap();
        let mut dice = Dice(seed);
        let (store, disk) = (folder.path().join("store"), folder.path().join("disk.img"));
        let content = dice.disk(DISK_BYTES);
        fs::write(&disk, &content).unwrap();
        cas_ok(&store, &["init"]);
        let (confirmed, started) = (Vec::new(), Instant::now());
        let pace = Duration::from_millis(250);
        let (rounds, killed) = (0, 0);
        Lane { folder, name, store, disk, content, dice, confirmed, pace, planned, rounds, killed, started }
    }

    fn ok(&self, arguments: &[&str]) -> String {
        cas_ok(&self.store, arguments)
    }

    fn disk(&self) -> String {
        self.disk.to_str().unwrap().to_string()
    }

    fn newest(&self) -> &(String, u64) {
        self.confirmed.last().unwrap()
    }

    /// Some stretches of the disk are written anew.
    fn change(&mut self, stretches: usize, bytes_max: usize) {
        for _ in 0..stretches {
            let bytes = 1 + self.dice.below(bytes_max);
            let at = self.dice.below(DISK_BYTES - bytes);
            let noise = self.dice.noise(bytes);
            self.content[at..at + bytes].copy_from_slice(&noise);
        }
        fs::write(&self.disk, &self.content).unwrap();
    }

    fn capture(&mut self) {
        let image = capture(&self.store, &self.disk, &["--name", "disk"]);
        self.confirmed.push((image, fingerprint(&self.content)));
    }

    /// All planned rounds, then on until half as many kills hit a living process: how long a command lives depends on
    /// the machine, and `pace` has to find it first.
    fn goes_on(&self) -> bool {
        self.rounds < self.planned || (self.killed * 2 < self.planned && self.rounds < self.planned * 6)
    }

    /// Starts the command and kills it at a moment of its life.
    fn kill(&mut self, arguments: &[&str]) {
        let mut child = command(&self.store);
        child.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = child.spawn().unwrap();
        std::thread::sleep(self.pace.mul_f64(0.03 + self.dice.below(1000) as f64 / 1100.0));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        self.rounds += 1;
        match status.code() {
            // The kill came too late: the machine is faster than thought.
            Some(code) => {
                assert_eq!(code, 0, "{}: {arguments:?}", self.name);
                self.pace = self.pace.mul_f64(0.7);
            }
            None => {
                self.killed += 1;
                self.pace = self.pace.mul_f64(1.06);
            }
        }
    }

    /// Every confirmed image is listed as such.
    fn look(&self) {
        let images: Value = serde_json::from_str(&self.ok(&["images", "--json"])).unwrap();
        for (id, _) in &self.confirmed {
            let image = images.as_array().unwrap().iter().find(|image| image["id"] == id.as_str());
            let image = image.unwrap_or_else(|| panic!("{}: image {id} is gone: {images}", self.name));
            assert_eq!((&image["confirmed"], &image["damaged"]), (&true.into(), &false.into()), "{image}");
        }
    }

    /// The image reads back as what was captured.
    fn check(&self, (id, expected): &(String, u64)) {
        let output = command(&self.store).args(["restore", id, "-", "--quiet"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fingerprint(&output.stdout), *expected, "{}: image {id} is not what it was", self.name);
    }

    fn forget_oldest_but(&mut self, keep: usize) {
        while self.confirmed.len() > keep {
            let (id, _) = self.confirmed.remove(0);
            self.ok(&["forget", &id]);
        }
    }

    fn clean(&self) {
        self.ok(&["scrub", "--quiet"]);
        self.ok(&["gc", "--quiet"]);
        self.ok(&["scrub", "--quiet"]);
    }

    /// All of them, and the sums.
    fn finish(&self) {
        self.look();
        self.clean();
        self.confirmed.iter().for_each(|image| self.check(image));
        let (name, rounds, killed) = (self.name, self.rounds, self.killed);
        println!("{name}: {rounds} rounds, {killed} killed, {:.1} s", self.started.elapsed().as_secs_f64());
        assert!(killed * 2 >= self.planned, "{name}: only {killed} of {rounds} kills came in time");
    }
}

#[test]
fn kills_during_a_first_capture() {
    let mut lane = Lane::new("first capture", FIRST, 0xca5_0001);
    while lane.goes_on() {
        fs::remove_dir_all(&lane.store).unwrap();
        lane.confirmed.clear();
        lane.ok(&["init"]);
        lane.kill(&["capture", &lane.disk(), "--name", "disk"]);
        lane.look();
        lane.capture();
        lane.look();
        lane.check(lane.newest());
        if lane.rounds % 4 == 1 {
            lane.clean();
        }
    }
    lane.finish();
}

#[test]
fn kills_during_an_incremental_capture() {
    let mut lane = Lane::new("incremental capture", INCREMENTAL, 0xca5_0002);
    lane.capture();
    while lane.goes_on() {
        lane.change(4, 512 << 10);
        lane.kill(&["capture", &lane.disk(), "--name", "disk"]);
        lane.look();
        lane.capture();
        lane.check(lane.newest());
        if lane.rounds.is_multiple_of(12) {
            lane.forget_oldest_but(8);
            lane.ok(&["gc"]);
        }
    }
    lane.finish();
}

#[test]
fn kills_during_gc_that_rewrites_packs() {
    let mut lane = Lane::new("gc", GC, 0xca5_0003);
    lane.capture();
    let mut rewritten = 0;
    while lane.goes_on() {
        lane.change(5, 2 * MIB);
        lane.capture();
        lane.forget_oldest_but(2);
        lane.kill(&["gc"]);
        lane.look();
        lane.check(lane.newest());
        let summary: Value =
            serde_json::from_str(lane.ok(&["gc", "--json"]).lines().last().unwrap()).unwrap();
        rewritten += summary["packs_rewritten"].as_u64().unwrap();
    }
    assert!(rewritten > 0, "gc had nothing to rewrite");
    lane.finish();
}

#[test]
fn kills_during_a_restore_to_a_file() {
    let lane = Lane::new("restore to a file", RESTORE_FILE, 0xca5_0004);
    let target = lane.folder.path().join("restored.img");
    fs::write(&target, b"something else").unwrap();
    kills_during_restore(lane, &target);
}

#[test]
fn kills_during_a_restore_to_a_loop_device_needs_root() {
    let lane = Lane::new("restore to a loop device", RESTORE_LOOP, 0xca5_0005);
    let target = Loop::blank(&lane.folder.path().join("target.img"), DISK_BYTES as u64, &[]);
    let node = target.node().to_path_buf();
    kills_during_restore(lane, &node);
}

/// The target holds another image each time, so that there is much to write.
fn kills_during_restore(mut lane: Lane, target: &Path) {
    for _ in 0..3 {
        lane.capture();
        lane.change(30, MIB);
    }
    let path = target.to_str().unwrap();
    while lane.goes_on() {
        let round = lane.rounds;
        let (id, expected) = lane.confirmed[round % 3].clone();
        let arguments = ["restore", &id, path, "--yes"];
        lane.kill(&arguments);
        lane.look();
        lane.ok(&arguments);
        assert_eq!(fingerprint(&fs::read(target).unwrap()), expected, "round {round}");
    }
    lane.finish();
}

#[test]
fn kills_during_an_undelete() {
    let mut lane = Lane::new("undelete", UNDELETE, 0xca5_0006);
    for _ in 0..3 {
        lane.capture();
        lane.change(6, MIB);
    }
    while lane.goes_on() {
        let round = lane.rounds;
        let image = lane.confirmed.remove(round % 3);
        lane.ok(&["forget", &image.0]);
        lane.kill(&["undelete", &image.0]);
        lane.look();
        // It was back already when the kill came late.
        let again = cas(&lane.store, &["undelete", &image.0]);
        assert!(again.code == 0 || again.stderr.contains("is not forgotten"), "{again:?}");
        lane.confirmed.insert(round % 3, image.clone());
        lane.look();
        lane.check(&image);
    }
    lane.finish();
}

#[test]
fn kills_during_a_scrub() {
    let mut lane = Lane::new("scrub", SCRUB, 0xca5_0007);
    for _ in 0..3 {
        lane.capture();
        lane.change(6, MIB);
    }
    while lane.goes_on() {
        lane.kill(&["scrub"]);
        lane.look();
        lane.ok(&["scrub"]);
    }
    lane.check(lane.newest());
    lane.finish();
}

/// More than any capture buffers.
const FED_MIB_MAX: usize = 2000;

/// A capture from a pipe: the test decides how far it gets.
struct Fed {
    child: Child,
    dice: Dice,
}

impl Fed {
    /// Begins a capture of the noise of this seed, and hands over 4 MiB of it: by then the work has begun.
    fn start(store: &Path, seed: u64) -> Fed {
        cas_ok(store, &["init"]);
        let mut child = command(store);
        child.args(["capture", "-", "--name", "piped"]);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut fed = Fed { child, dice: Dice(seed) };
        (0..4).for_each(|_| fed.feed().unwrap());
        fed
    }

    fn feed(&mut self) -> std::io::Result<()> {
        let noise = self.dice.noise(MIB);
        self.child.stdin.as_mut().unwrap().write_all(&noise)
    }

    fn signal(&self, name: &str) {
        sh(&format!("kill -s {name} {} 2>/dev/null || true", self.child.id()));
    }

    /// Its exit and what it said.
    fn end(mut self) -> Ran {
        drop(self.child.stdin.take());
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Ran { code, stdout: String::new(), stderr }
    }
}

fn interrupted_once(signal: &str, seed: u64) {
    let folder = TempDir::with_prefix("cas-signal-").unwrap();
    let store = folder.path().join("store");
    let mut fed = Fed::start(&store, seed);
    let mut fed_mib = 4..FED_MIB_MAX;
    let published = || fs::read_dir(store.join("packs")).is_ok_and(|mut packs| packs.next().is_some());
    while !published() {
        fed_mib.next().expect("a pack before that much");
        fed.feed().unwrap();
    }
    fed.signal(signal);
    while fed.feed().is_ok() {
        fed_mib.next().expect("an end before that much");
    }
    let ran = fed.end();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.stderr.contains("ending cleanly") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    assert_eq!(cas_ok(&store, &["images", "--json"]).trim(), "[]", "{signal}: something was published");
    for (folder, left) in [("tmp", 1), ("sessions", 0)] {
        let names = fs::read_dir(store.join(folder)).map(|names| names.count()).unwrap_or(0);
        assert!(names <= left, "{signal}: {names} files in {folder}");
    }
    cas_ok(&store, &["scrub"]);

    let disk = folder.path().join("disk.img");
    let content = Dice(seed).noise(64 * MIB);
    fs::write(&disk, &content).unwrap();
    let text = cas_ok(&store, &["capture", disk.to_str().unwrap(), "--json"]);
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(summary["deduplicated_bytes"].as_u64().unwrap() > 16 << 20, "what was stored counts: {summary}");
    let output = command(&store).args(["restore", "latest", "-"]).output().unwrap();
    assert!(output.stdout == content, "{signal}: the image is not the disk");
    cas_ok(&store, &["scrub"]);
}

#[test]
fn signals_interrupt_is_a_clean_end_and_running_again_continues() {
    interrupted_once("INT", 0xca5_0010);
}

#[test]
fn signals_terminate_is_a_clean_end_and_running_again_continues() {
    interrupted_once("TERM", 0xca5_0011);
}

#[test]
fn signals_the_second_one_stops_at_once() {
    for (signal, seed) in [("INT", 0xca5_0012), ("TERM", 0xca5_0013)] {
        let folder = TempDir::with_prefix("cas-signal-").unwrap();
        let store = folder.path().join("store");
        let mut fed = Fed::start(&store, seed);
        // Its input stays open and silent: nothing but the signals can end it.
        let deadline = Instant::now() + Duration::from_secs(20);
        fed.signal(signal);
        while fed.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{signal}: twice, and still there");
            fed.signal(signal);
        }
        assert_eq!(fed.end().code, 130, "{signal}");
        assert_eq!(cas_ok(&store, &["images", "--json"]).trim(), "[]");
        cas_ok(&store, &["scrub"]);
    }
}

#[test]
fn signals_usr1_prints_a_line_and_kills_nothing() {
    let folder = TempDir::with_prefix("cas-signal-").unwrap();
    let store = folder.path().join("store");
    let mut fed = Fed::start(&store, 0xca5_0014);
    let mut said = BufReader::new(fed.child.stderr.take().unwrap());
    fed.signal("USR1");
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.starts_with("capture -: ") && line.contains("deduplicated"), "{line:?}");
    drop(fed.child.stdin.take());
    assert_eq!(fed.child.wait().unwrap().code(), Some(0));
    let images: Value = serde_json::from_str(&cas_ok(&store, &["images", "--json"])).unwrap();
    assert_eq!(images[0]["bytes"], 4 * MIB as u64);
}

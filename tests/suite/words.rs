//! What people and scripts see of `cas`: names, texts, exit codes, JSON, silence, progress (`cas --help`, README).
//!
//! Promise: each sentence of the conventions is a test of the real binary; other texts may change freely.
//! Knows nothing of what the commands do to a store.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tests::{Loop, Ran, capture, cas, cas_ok, cas_path, command, ran, run};

use crate::kills::Dice;
use crate::mount::Served;

const DISK_BYTES: usize = 300_000;

/// A store with three images of one disk.
struct Shelf {
    folder: TempDir,
    images: Vec<String>,
}

impl Shelf {
    fn new() -> Shelf {
        let folder = TempDir::with_prefix("cas-words-").unwrap();
        let mut shelf = Shelf { folder, images: Vec::new() };
        fs::write(shelf.disk(), Dice(0x3030d5).noise(DISK_BYTES)).unwrap();
        cas_ok(&shelf.store(), &["init"]);
        for tag in ["one", "two", "three"] {
            let comment = format!("the comment {tag}");
            let more = ["--tag", tag, "--comment", &comment, "--name", "disk", "--host", "alba"];
            let image = capture(&shelf.store(), &shelf.disk(), &more);
            shelf.images.push(image);
        }
        shelf
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    fn cas(&self, arguments: &[&str]) -> Ran {
        cas(&self.store(), arguments)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        cas_ok(&self.store(), arguments)
    }

    /// It fails with this code, says so, and names a way out.
    fn refused(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let ran = self.cas(arguments);
        assert_eq!(ran.code, code, "cas {arguments:?}: {ran:?}");
        for word in ["error: ", "hint: "].iter().chain(words) {
            assert!(ran.stderr.contains(word), "cas {arguments:?}: no {word:?} in {}", ran.stderr);
        }
        assert!(ran.stdout.is_empty(), "cas {arguments:?}: {}", ran.stdout);
    }
}

fn anywhere(arguments: &[&str]) -> Ran {
    cas(Path::new("/nonexistent/store"), arguments)
}

/// The verbs under `Commands:` in a help.
fn verbs() -> Vec<String> {
    let help = anywhere(&["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let named = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.map(|line| line.split_whitespace().next().unwrap().to_string()).collect()
}

#[test]
fn words_exit_codes_are_one_table() {
    let ran = anywhere(&["help", "exit-codes"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let code = |line: &str| line.split_whitespace().next()?.parse::<u32>().ok();
    let codes: Vec<u32> = ran.stdout.lines().filter_map(code).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 130]);
}

#[test]
fn words_every_verb_of_the_help_has_a_help() {
    let verbs = verbs();
    assert!(verbs.len() > 10, "{verbs:?}");
    for verb in verbs.iter().filter(|verb| *verb != "help") {
        let ran = anywhere(&[verb, "--help"]);
        assert_eq!(ran.code, 0, "{verb}: {ran:?}");
        assert!(ran.stdout.contains(&format!("Usage: cas {verb}")), "{verb}: {}", ran.stdout);
        assert_eq!(anywhere(&["help", verb]).code, 0, "{verb}");
    }
}

/// Each verb is told to do something that it can do.
#[test]
fn words_the_help_lists_only_verbs_that_work() {
    let shelf = Shelf::new();
    let (disk, other, target) = (shelf.path("disk.img"), shelf.path("other"), shelf.path("target"));
    let exported = shelf.path("exported");
    let copy = shelf.path("copy");
    let tries: &[&[&str]] = &[
        &["init", &other],
        &["capture", &disk],
        &["images"],
        &["show", "latest"],
        &["disks"],
        &["restore", "latest", &target],
        &["plan", "latest", &target],
        &["clone", &disk, &copy],
        &["ls", "latest"],
        &["find", "*"],
        &["verify", "latest"],
        &["export", "latest", &exported, "--format", "raw"],
        // Nobody is at the other end.
        &["nbd", "latest", "--stdio"],
        &["scrub"],
        &["forget", &shelf.images[0]],
        &["undelete", &shelf.images[0]],
        &["protect", "latest"],
        &["gc"],
        &["stats"],
        &["index", "check"],
        &["completions", "bash"],
        &["help"],
    ];
    tries.iter().for_each(|arguments| drop(shelf.ok(arguments)));
    let mut tried: BTreeSet<String> = tries.iter().map(|arguments| arguments[0].to_string()).collect();
    // It goes on until it is told to end.
    let mounted = Served::start(&shelf.store(), Path::new(&shelf.path("mounted")), &[]);
    assert_eq!(mounted.end("INT").code, 0);
    // They want a filesystem: `files.rs` tries them.
    tried.extend(["cat", "extract"].map(str::to_owned));
    tried.insert("mount".to_owned());
    assert_eq!(verbs().into_iter().collect::<BTreeSet<_>>(), tried);
}

#[test]
fn words_wrong_usage_is_exit_2() {
    let usages: &[&[&str]] =
        &[&[], &["frobnicate"], &["show"], &["images", "--frobnicate"], &["restore", "latest"], &["forget"]];
    let shelf = Shelf::new();
    for arguments in usages {
        let ran = shelf.cas(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn words_a_missing_store_is_exit_10() {
    let lost = |arguments: &[&str]| {
        let ran = anywhere(arguments);
        assert_eq!(ran.code, 10, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("/nonexistent/store") && ran.stderr.contains("hint: "), "{}", ran.stderr);
    };
    lost(&["images"]);
    lost(&["restore", "latest", "/tmp/nowhere.img"]);
    lost(&["gc"]);
    let shelf = Shelf::new();
    lost(&["capture", &shelf.path("disk.img")]);
    assert_eq!(shelf.cas(&["-s", "/nonexistent/other", "images"]).code, 10, "-s wins over CAS_STORE");
    assert!(!Path::new("/nonexistent").exists(), "a store that was named is not created");
}

#[test]
fn words_names_of_images() {
    let shelf = Shelf::new();
    let shown = |name: &str| -> Value { serde_json::from_str(&shelf.ok(&["show", name, "--json"])).unwrap() };
    for (name, expected) in [("latest", 2), ("latest~1", 1), ("latest~2", 0)] {
        assert_eq!(shown(name)["id"], shelf.images[expected].as_str(), "{name}");
    }
    assert_eq!(shown(&shelf.images[0][..12])["id"], shelf.images[0].as_str());
    shelf.refused(&["show", "latest~3"], 1, &["3 images", "latest~2"]);
    shelf.refused(&["show", "latest", "--disk", "other"], 1, &["no image fits"]);
    shelf.refused(&["show", "zzzz"], 2, &["4 to 64 hex digits"]);
    let unknown = if shelf.images.iter().any(|id| id.starts_with("0123")) { "4567" } else { "0123" };
    shelf.refused(&["show", unknown], 1, &["cas images"]);

    // Another one with the same beginning.
    let id = &shelf.images[0];
    let images = shelf.store().join("images");
    let twin = format!("{}{}", &id[..8], "5".repeat(56));
    fs::copy(images.join(id), images.join(twin)).unwrap();
    shelf.refused(
        &["show", &id[..6]],
        1,
        &["ambiguous", &id[..12], &format!("{}5555", &id[..8]), "more digits"],
    );
}

#[test]
fn words_a_target_that_is_too_small_is_exit_6_needs_root() {
    let shelf = Shelf::new();
    let small = Loop::blank(&shelf.folder.path().join("small.img"), 128 << 10, &[]);
    shelf.refused(&["restore", "latest", small.text(), "--yes"], 6, &["128.0 KiB", "293"]);
}

#[test]
fn words_a_busy_store_is_exit_11_and_can_be_read() {
    let shelf = Shelf::new();
    let mut holder = command(&shelf.store());
    holder.args(["capture", "-", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut holder = holder.spawn().unwrap();
    let mut input = holder.stdin.take().unwrap();
    // When the pipe has taken this, the capture is at work.
    input.write_all(&vec![7; 4 << 20]).unwrap();
    shelf.refused(&["gc"], 11, &["locked", &holder.id().to_string(), "--lock-wait"]);
    shelf.ok(&["images"]);
    shelf.ok(&["verify", "latest"]);
    drop(input);
    assert_eq!(holder.wait().unwrap().code(), Some(0));
    shelf.ok(&["gc"]);
}

/// `2026-08-01T12:00:00Z`, with or without a fraction.
fn is_rfc3339(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape.starts_with("0000-00-00T00:00:00") && shape.ends_with('Z')
}

#[test]
fn words_json_documents_have_bytes_and_times() {
    let shelf = Shelf::new();
    let parse = |arguments: &[&str]| -> Value {
        let ran = shelf.cas(arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}");
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    };
    let images = parse(&["images", "--json"]);
    assert_eq!(images.as_array().unwrap().len(), 3);
    for image in [&images[0], &parse(&["show", "latest", "--json"])] {
        assert_eq!(image["bytes"], DISK_BYTES as u64);
        assert!(is_rfc3339(image["time"].as_str().unwrap()), "{image}");
    }
    assert_eq!(parse(&["stats", "--json"])["raw_bytes"], 3 * DISK_BYTES as u64);
    parse(&["disks", "--json"]);
    assert_eq!(parse(&["index", "check", "--json"])["packs"].as_u64().map(|packs| packs > 0), Some(true));
    assert_eq!(parse(&["protect", "latest", "--json"])["protected"], true);
    parse(&["protect", "latest", "--off", "--json"]);
    assert_eq!(parse(&["forget", &shelf.images[0], "--json"])["forgotten"][0], shelf.images[0].as_str());
    assert_eq!(
        parse(&["undelete", &shelf.images[0], "--json"])["undeleted"][0]["id"],
        shelf.images[0].as_str()
    );
    assert_eq!(parse(&["init", &shelf.path("new"), "--json"])["store"], shelf.path("new"));
}

#[test]
fn words_json_of_long_commands_is_lines_with_a_message_type() {
    let shelf = Shelf::new();
    let (disk, target) = (shelf.path("disk.img"), shelf.path("target"));
    let long: &[&[&str]] = &[
        &["capture", &disk, "--json"],
        &["restore", "latest", &target, "--json"],
        &["verify", "latest", "--json"],
        &["scrub", "--json"],
        &["gc", "--json"],
    ];
    for arguments in long {
        let lines: Vec<Value> =
            shelf.ok(arguments).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let types: Vec<&str> = lines.iter().map(|line| line["message_type"].as_str().unwrap()).collect();
        assert_eq!(types.last(), Some(&"summary"), "{arguments:?}");
        let bytes = |line: &Value| line.as_object().unwrap().keys().any(|key| key.contains("bytes"));
        assert!(lines.last().is_some_and(bytes), "{arguments:?}: {lines:?}");
        assert!(types.iter().all(|it| ["status", "warning", "error", "summary"].contains(it)), "{types:?}");
    }
    let ran = shelf.cas(&["verify", "latest~9", "--json"]);
    let error: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((ran.code, &error["message_type"], &error["code"]), (1, &"error".into(), &1.into()));
}

#[test]
fn words_quiet_is_silent_and_nothing_draws_without_a_terminal() {
    let shelf = Shelf::new();
    let (disk, target, man) = (shelf.path("disk.img"), shelf.path("target"), shelf.path("man"));
    let all: &[&[&str]] = &[
        &["capture", &disk],
        &["images"],
        &["show", "latest"],
        &["restore", "latest", &target],
        &["restore", "latest", &target, "--yes"],
        &["verify", "latest"],
        &["scrub"],
        &["forget", &shelf.images[0]],
        &["images"],
        &["gc"],
        &["stats"],
        &["man", &man],
    ];
    for arguments in all {
        let quiet = [*arguments, &["--quiet"]].concat();
        let ran = shelf.cas(&quiet);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{quiet:?}");
        let plain = shelf.cas(arguments);
        for text in [&ran.stdout, &plain.stdout, &plain.stderr] {
            assert!(!text.contains(['\x1b', '\r']), "{arguments:?}: {text:?}");
        }
    }
}

#[test]
fn words_a_reader_who_goes_away_is_no_error() {
    let shelf = Shelf::new();
    let all: &[&[&str]] = &[
        &["images"],
        &["show", "latest"],
        &["stats"],
        &["completions", "bash"],
        &["--help"],
        &["scrub", "--json"],
    ];
    for arguments in all {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = ran(command(&shelf.store()).args(*arguments).stdout(writer).output().unwrap());
        assert!(!ran.stderr.contains("panicked"), "{arguments:?}: {}", ran.stderr);
        assert!(ran.code == 0, "{arguments:?}: {ran:?}");
    }
    // A disk that is full is another thing.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = ran(command(&shelf.store()).arg("images").stdout(full).output().unwrap());
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("standard output") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn words_policies_give_reasons_and_keep_the_last_of_a_group() {
    let shelf = Shelf::new();
    let plan = shelf.ok(&["forget", "--keep-last", "1", "--keep-tag", "one", "-n"]);
    for word in ["host alba, disk disk", "keep 2 images", "last image", "forget 1 image", "would forget 1"] {
        assert!(plan.contains(word), "{word}: {plan}");
    }
    assert_eq!(shelf.ok(&["images"]).lines().count(), 4, "a dry run changes nothing");
    // No rule wants any of them.
    let done = shelf.ok(&["forget", "--keep-tag", "nothing"]);
    assert!(done.contains("last image of its group"), "{done}");
    let left: Value = serde_json::from_str(&shelf.ok(&["images", "--json"])).unwrap();
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["id"], shelf.images[2].as_str());
}

#[test]
fn words_protect_refuses_and_undelete_brings_back() {
    let shelf = Shelf::new();
    shelf.ok(&["protect", "latest"]);
    assert!(shelf.ok(&["images"]).contains("protected"));
    shelf.refused(&["forget", "latest"], 5, &["protected", "--off"]);
    shelf.ok(&["protect", "latest", "--off"]);
    shelf.ok(&["forget", "latest"]);
    let (gone, short) = (&shelf.images[2], &shelf.images[2][..8]);
    assert!(!shelf.ok(&["images"]).contains(short));
    let all = shelf.ok(&["images", "--all"]);
    assert!(all.lines().any(|line| line.starts_with(short) && line.contains("forgotten")), "{all}");
    shelf.refused(&["restore", gone, &shelf.path("target")], 1, &["forgotten", "cas undelete"]);
    shelf.ok(&["undelete", gone]);
    assert!(shelf.ok(&["images"]).contains(short));
    shelf.ok(&["verify", "latest"]);
}

#[test]
fn words_tags_and_comments_are_shown() {
    let shelf = Shelf::new();
    let images = shelf.ok(&["images"]);
    assert!(images.lines().all(|line| !line.contains(['|', '+'])), "no boxes: {images}");
    for (line, tag) in images.lines().skip(1).zip(["one", "two", "three"]) {
        assert!(line.contains(tag) && line.contains("alba") && line.contains("293.0 KiB"), "{line}");
    }
    let show = shelf.ok(&["show", "latest"]);
    assert!(show.contains("the comment three") && show.contains("three"), "{show}");
    assert_eq!(shelf.ok(&["images", "--tag", "two"]).lines().count(), 2);
}

#[test]
fn words_completions_and_manual_pages_are_made() {
    let shelf = Shelf::new();
    for (shell, sign) in [("bash", "complete -F _cas"), ("zsh", "#compdef cas"), ("fish", "complete -c cas")]
    {
        let script = shelf.ok(&["completions", shell]);
        assert!(script.contains(sign) && script.contains("restore"), "{shell}");
        let file = shelf.path(shell);
        fs::write(&file, script).unwrap();
        // bash is everywhere; the others are asked where they are.
        let there = shell == "bash" || Path::new("/usr/bin").join(shell).exists();
        there.then(|| run(shell, &["-n", &file]));
    }
    let folder = shelf.path("man");
    shelf.ok(&["man", &folder]);
    for verb in verbs().iter().filter(|verb| *verb != "help") {
        let page = fs::read_to_string(format!("{folder}/cas-{verb}.1")).unwrap();
        assert!(page.contains(".TH") && page.contains(".SH"), "{verb}");
    }
}

/// Runs a command with stderr on a terminal of 80 columns; with input, until something was drawn. Prints rows and text.
const TERMINAL: &str = r#"
import fcntl, json, os, pty, re, struct, subprocess, sys, termios
feed, *command = sys.argv[1:]
ours, theirs = pty.openpty()
fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs)
os.close(theirs)
seen = b""
def more():
    global seen
    try:
        got = os.read(ours, 65536)
    except OSError:
        got = b""
    seen += got
    return got
if feed == "feed":
    child.stdin.write(b"x" * (4 << 20))
    while seen.count(b"deduplicated") < 3:
        assert more(), "it ended before it drew"
child.stdin.close()
while more():
    pass
row = column = rows = 0
for part in re.findall(r"\x1b\[\d*[A-Za-z]|[^\x1b]", seen.decode(), re.S):
    move = re.fullmatch(r"\x1b\[(\d*)([AB])", part)
    if move:
        row += int(move[1] or 1) * (1 if move[2] == "B" else -1)
    elif part in "\r\n":
        row, column = row + (part == "\n"), 0
    elif len(part) == 1:
        row, column = (row + 1, 1) if column == 80 else (row, column + 1)
        rows = max(rows, row + 1)
print(json.dumps({"code": child.wait(), "rows": rows, "text": seen.decode()}))
"#;

fn on_terminal(shelf: &Shelf, feed: bool, variable: &str, arguments: &[&str]) -> Value {
    let mut python = Command::new("python3");
    python.args(["-c", TERMINAL, if feed { "feed" } else { "-" }]).arg(cas_path()).args(arguments);
    python.env("CAS_STORE", shelf.store()).env("TERM", "xterm").env_remove("NO_COLOR").env(variable, "1");
    let python = python.output().unwrap();
    let text = String::from_utf8_lossy(&python.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&python.stderr)))
}

#[test]
fn words_progress_on_a_terminal_has_at_most_two_lines() {
    let shelf = Shelf::new();
    let seen = on_terminal(&shelf, true, "X", &["capture", "-", "--name", "piped"]);
    assert_eq!(seen["code"], 0, "{seen}");
    assert_eq!(seen["rows"], 2, "{seen}");
    let quiet = on_terminal(&shelf, false, "X", &["verify", "latest", "--quiet"]);
    assert_eq!((&quiet["code"], &quiet["text"]), (&0.into(), &"".into()));
}

#[test]
fn words_no_color_is_obeyed() {
    let shelf = Shelf::new();
    let text = |variable: &str| {
        let seen = on_terminal(&shelf, false, variable, &["show", "latest~9"]);
        assert_eq!(seen["code"], 1, "{seen}");
        seen["text"].as_str().unwrap().to_string()
    };
    assert!(text("X").contains("\x1b["), "errors have a colour on a terminal");
    assert!(!text("NO_COLOR").contains("\x1b["));
}

#[test]
fn words_a_stream_to_stdout_is_the_image_and_nothing_else() {
    let shelf = Shelf::new();
    let mut child = command(&shelf.store());
    let mut child =
        child.args(["restore", "latest", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stream = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut stream).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(stream == fs::read(shelf.disk()).unwrap());
}

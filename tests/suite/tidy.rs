//! The house rules that a machine can keep: arrows between crates, homes of outside crates, files that open with what
//! they are, no `unsafe` or printing elsewhere than agreed, and formats that have golden files (DESIGN.md §1, §7).
//!
//! Promise: reads every `Cargo.toml`, `.rs` file and golden folder of the checkout, and names each offence with its place.
//! Knows nothing of what the code does; comments and text literals are no code here.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

/// DESIGN.md §1, the drawing: who may use which of our own crates.
const ARROWS: [(&str, &[&str]); 8] = [
    ("chunker", &[]),
    ("disk", &[]),
    ("store", &[]),
    ("image", &["disk", "chunker", "store"]),
    ("mount", &["image", "disk"]),
    ("cli", &["mount", "image", "store", "disk"]),
    ("bench", &["chunker", "disk", "store", "image", "mount", "cli"]),
    ("tests", &["chunker", "disk", "store", "image", "mount", "cli", "bench"]),
];

/// Outside crates that only these of ours may depend on. Tests (dev-dependencies) may use any.
const HOMES: [(&str, &[&str]); 24] = [
    ("fuser", &["mount"]),
    ("crc", &["disk"]),
    ("blake2", &["disk"]),
    ("sha2", &["disk"]),
    ("twox-hash", &["disk"]),
    ("lzo", &["disk"]),
    ("miniz_oxide", &["disk"]),
    ("ruzstd", &["disk"]),
    ("fastcdc", &["chunker"]),
    ("blake3", &["store"]),
    ("zstd", &["store"]),
    ("sled", &["store"]),
    ("walkdir", &["store"]),
    ("rayon", &["image", "store"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("fatfs", &["disk"]),
    ("gptman", &["disk"]),
    ("mbrman", &["disk"]),
    ("tar", &["image"]),
    ("zip", &["image"]),
    ("rand", &["store", "bench", "tests"]),
    ("anyhow", &["cli", "bench", "tests"]),
];

/// Sections of DESIGN.md that describe bytes which a release writes into a store.
const FORMAT_SECTIONS: [&str; 5] = ["§4.3", "§4.5", "§4.6", "§4.7", "§4.8"];

/// A longer file is more than one sitting.
const CODE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is a folder of the checkout")
        .to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn table(path: &str) -> Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn members() -> Vec<String> {
    let workspace = table("Cargo.toml");
    let members = workspace["workspace"]["members"].as_array().expect("a list of members");
    members.iter().map(|member| member.as_str().expect("a folder").to_owned()).collect()
}

/// Paths of all files below `folder`, from the root of the checkout; build output and hidden folders left out.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).into_iter().flatten() {
            let entry = entry.expect("the checkout can be listed");
            let name = entry.file_name().into_string().expect("names in the checkout are text");
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            match entry.file_type().expect("the kind of a listed file") {
                kind if kind.is_dir() && name != "target" && !name.starts_with('.') => folders.push(path),
                kind if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn sources() -> impl Iterator<Item = (String, String)> {
    files("").into_iter().filter(|path| path.ends_with(".rs")).map(|path| {
        let text = read(&path);
        (path, text)
    })
}

#[track_caller]
fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

// --- crates ---

#[test]
fn crates_use_each_other_as_drawn_only() {
    let mut offences = Vec::new();
    for member in members() {
        let manifest = table(&format!("{member}/Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        if name != member {
            offences.push(format!("{member}/Cargo.toml: package {name}: folder and package have one name"));
        }
        offences.extend(wrong_arrows(&member, &manifest));
        offences.extend(strayed_crates(&member, &manifest));
        if manifest.get("lints").and_then(|lints| lints.get("workspace")).is_none() {
            offences.push(format!("{member}/Cargo.toml: no `[lints] workspace = true`"));
        }
    }
    assert_none(offences);
}

/// Names of the crates that a manifest depends on, by the name in the registry, in every section of that kind.
fn dependencies<'a>(manifest: &'a Table, section: &str) -> Vec<&'a str> {
    let targets = manifest.get("target").and_then(|targets| targets.as_table());
    let per_target =
        targets.into_iter().flat_map(|targets| targets.values().filter_map(|target| target.as_table()));
    let tables =
        std::iter::once(manifest).chain(per_target).filter_map(|table| table.get(section)?.as_table());
    tables
        .flatten()
        .map(|(name, it)| it.get("package").and_then(|package| package.as_str()).unwrap_or(name))
        .collect()
}

fn wrong_arrows(member: &str, manifest: &Table) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == member) else {
        return vec![format!("{member}: not in the drawing of DESIGN.md §1")];
    };
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let used = sections.iter().flat_map(|section| dependencies(manifest, section));
    used.filter(|name| ARROWS.iter().any(|(ours, _)| ours == name) && !allowed.contains(name))
        .map(|name| format!("{member} -> {name}: no such arrow in DESIGN.md §1"))
        .collect()
}

fn strayed_crates(member: &str, manifest: &Table) -> Vec<String> {
    let used =
        ["dependencies", "build-dependencies"].iter().flat_map(|section| dependencies(manifest, section));
    used.filter_map(|name| {
        let (_, homes) = HOMES.iter().find(|(outside, _)| *outside == name)?;
        let strayed = !homes.contains(&member);
        strayed.then(|| format!("{member}: {name} belongs in {}", homes.join(", ")))
    })
    .collect()
}

#[test]
fn planted_offences_in_a_manifest_are_seen() {
    let manifest: Table = "[dependencies]\nimage = { path = '../image' }\nhash = { package = 'blake3', version = '1' }\n\
                           [dev-dependencies]\ncli = '1'\nsled = '1'\n[target.'cfg(unix)'.dependencies]\nclap = '4'"
        .parse()
        .unwrap();
    let arrows =
        ["disk -> image", "disk -> cli"].map(|arrow| format!("{arrow}: no such arrow in DESIGN.md §1"));
    assert_eq!(wrong_arrows("disk", &manifest), arrows);
    let mut strayed = strayed_crates("disk", &manifest);
    strayed.sort();
    assert_eq!(strayed, ["disk: blake3 belongs in store", "disk: clap belongs in cli"]);
    assert_eq!(wrong_arrows("novel", &manifest), ["novel: not in the drawing of DESIGN.md §1"]);
}

// --- sources ---

#[test]
fn every_source_opens_with_what_it_is() {
    assert_none(
        sources()
            .filter(|(_, text)| !text.starts_with("//! "))
            .map(|(path, _)| format!("{path}:1: no `//!`"))
            .collect(),
    );
}

#[test]
fn no_source_is_longer_than_a_sitting() {
    let code_lines = |text: &str| {
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        text.lines().filter(is_code).count()
    };
    assert_none(
        sources()
            .map(|(path, text)| (path, code_lines(&text)))
            .filter(|(_, lines)| *lines > CODE_LINES_MAX)
            .map(|(path, lines)| {
                format!("{path}: expected at most {CODE_LINES_MAX} lines of code, found {lines}")
            })
            .collect(),
    );
}

#[test]
fn every_crate_root_forbids_unsafe_code_except_disk() {
    let is_root = |path: &str| match path.split('/').collect::<Vec<_>>()[..] {
        ["disk" | "fuzz", ..] => false,
        [_, "src", "lib.rs" | "main.rs"] | [_, "src", "bin", _] | [_, _, "main.rs"] => true,
        _ => false,
    };
    assert_none(
        sources()
            .filter(|(path, text)| is_root(path) && !text.contains("#![forbid(unsafe_code)]"))
            .map(|(path, _)| format!("{path}: no `#![forbid(unsafe_code)]`"))
            .collect(),
    );
}

#[test]
fn unsafe_code_is_in_one_file() {
    let mut offences = Vec::new();
    for (path, text) in sources().filter(|(path, _)| path != "disk/src/sys.rs") {
        offences
            .extend(lines_with(&code_of(&text), &["unsafe"]).map(|line| format!("{path}:{line}: unsafe")));
    }
    assert_none(offences);
}

#[test]
fn only_the_command_line_and_bench_print() {
    let prints = ["print!", "println!", "eprint!", "eprintln!", "dbg!"];
    let may_print = |path: &str| {
        path == "cli/src/ui.rs"
            || path.starts_with("bench/")
            || path.starts_with("tests/")
            || path.ends_with("/tests.rs")
            || path.contains("/tests/")
            || path.ends_with("/build.rs")
    };
    let mut offences = Vec::new();
    for (path, text) in sources().filter(|(path, _)| !may_print(path)) {
        let code = code_of(&text);
        // What follows is for tests, which may print their seed.
        let shipped = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        offences.extend(lines_with(shipped, &prints).map(|line| format!("{path}:{line}: prints")));
    }
    assert_none(offences);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut offences = Vec::new();
    for (path, text) in sources() {
        offences.extend(lines_with(&text, &marks).map(|line| format!("{path}:{line}: left for later")));
    }
    assert_none(offences);
}

/// Numbers of the lines that hold one of `words` as a word of its own.
fn lines_with<'a>(code: &'a str, words: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    let holds = move |line: &str, word: &str| {
        line.match_indices(word).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + word.len()..]);
            !before.ends_with(is_part) && !after.starts_with(is_part)
        })
    };
    let numbered = (1..).zip(code.lines());
    numbered.filter(move |(_, line)| words.iter().any(|word| holds(line, word))).map(|(number, _)| number)
}

/// The text with comments and the insides of literals blanked; lines stay where they are.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = literal_or_comment_bytes(rest, code.chars().next_back());
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().map(|it| if it == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length of the comment or literal that `rest` begins with, or 0.
fn literal_or_comment_bytes(rest: &str, before: Option<char>) -> usize {
    let until =
        |start: usize, end: &str| rest[start..].find(end).map_or(rest.len(), |at| start + at + end.len());
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until(2, "*/");
    }
    if rest.starts_with('"') {
        return escaped_until(rest, '"');
    }
    let hashes = rest.trim_start_matches('r').chars().take_while(|it| *it == '#').count();
    if rest.starts_with('r')
        && rest[1 + hashes..].starts_with('"')
        && !before.is_some_and(char::is_alphanumeric)
    {
        return until(hashes + 2, &format!("\"{}", "#".repeat(hashes)));
    }
    // 'a' and '\n' are characters, 'a without a second quote is a lifetime.
    let mut quoted = rest.chars();
    match (quoted.next(), quoted.next(), quoted.next()) {
        (Some('\''), Some('\\'), _) => escaped_until(rest, '\''),
        (Some('\''), Some(letter), Some('\'')) => letter.len_utf8() + 2,
        _ => 0,
    }
}

fn escaped_until(rest: &str, end: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        if letter == end && !escaped {
            return at + end.len_utf8();
        }
        escaped = letter == '\\' && !escaped;
    }
    rest.len()
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "a(); // unsafe\nb(\"unsafe \\\" \"); /* unsafe\nunsafe */ c('\"', '\\'', r#\"unsafe \" \"#, 'x');\n\
                unsafe { d::<'a>() }; let unsafe_code = e;\n";
    assert_eq!(lines_with(&code_of(text), &["unsafe"]).collect::<Vec<_>>(), [4]);
    assert_eq!(code_of(text).lines().count(), text.lines().count());
}

// --- golden stores, and the commands of the README ---

fn golden_folders() -> Vec<String> {
    let folder = root().join("tests/golden");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let names = entries.map(|entry| {
        entry.expect("a folder that can be listed").file_name().into_string().expect("a name in text")
    });
    names.filter(|name| name.starts_with('v')).collect()
}

#[test]
fn every_golden_folder_is_read_by_a_test() {
    let tests: String =
        sources().filter(|(path, _)| path.starts_with("tests/")).map(|(_, text)| text).collect();
    assert_none(
        golden_folders()
            .iter()
            .filter(|name| !tests.contains(&format!("golden/{name}")))
            .map(|name| format!("tests/golden/{name}: no test names it"))
            .collect(),
    );
}

#[test]
fn every_format_section_has_golden_files() {
    let design = read("DESIGN.md");
    let is_readme = |path: &String| path.ends_with("README.md");
    let readme: String =
        files("tests/golden").iter().filter(|path| is_readme(path)).map(|path| read(path)).collect();
    for section in FORMAT_SECTIONS {
        let heading = section.replace('§', "\n### ");
        assert!(design.contains(&heading), "DESIGN.md: no section {section}");
        assert!(
            readme.contains(section),
            "tests/golden: README.md does not say which files show DESIGN.md {section}"
        );
    }
}

/// The README promises two commands; CI must run the second one and no other.
#[test]
fn ci_runs_the_command_of_the_readme() {
    let readme = read("README.md");
    let commands: Vec<&str> = readme
        .split("```")
        .skip(1)
        .step_by(2)
        .take(2)
        .filter_map(|block| block.lines().skip(1).find(|line| !line.starts_with('#')))
        .collect();
    let [_, test_command] = commands[..] else { panic!("README.md: two set-up commands expected") };
    assert!(test_command.contains("cargo test"), "README.md: not a test command: {test_command}");
    let ci = read(".ci/run");
    let run: Vec<&str> =
        ci.lines().filter(|line| line.contains("cargo")).filter(|line| !line.starts_with('#')).collect();
    assert_eq!(run, [test_command], ".ci/run and README.md disagree");
}

//! `cas nbd` and its clients: nbdinfo, nbdcopy, qemu-img, qemu-io, over a socket, a port and a pipe.
//!
//! Promise: real clients judge; what they read is the image, what they write is in the overlay and, if asked for, in a new
//! image. Knows nothing of the protocol: `mount` has tests of its own for that.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tests::disks::{assert_same, noise};
use tests::{cas, cas_ok, command, run, sh, summary};

const MIB: u64 = 1 << 20;

/// A server; ends with SIGTERM, and its words with it.
struct Served {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// URIs by name.
    exports: Vec<(String, String)>,
}

impl Served {
    fn start(store: &Path, image: &str, more: &[&str]) -> Served {
        let mut command = command(store);
        command.args(["nbd", image, "--json"]).args(more).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let said = summary(&line);
        assert_eq!(said["message_type"], "listening", "{line}");
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let exports = said["exports"].as_array().unwrap();
        let exports = exports.iter().map(|export| (text(&export["name"]), text(&export["uri"]))).collect();
        Served { child, stdout, exports }
    }

    fn uri(&self, name: &str) -> &str {
        &self.exports.iter().find(|(known, _)| known == name).unwrap().1
    }

    /// Asks it to end; what else it printed.
    fn stop(mut self) -> String {
        run("kill", &["-TERM", &self.child.id().to_string()]);
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A disk with two partitions: an ext4 with a file, and noise; between and behind them holes.
fn disk(folder: &Path) -> PathBuf {
    let file = folder.join("disk.img");
    let text = file.to_str().unwrap();
    sh(&format!(
        "truncate -s 96M '{text}'
         printf 'label: gpt\\nsize=40M\\nsize=20M, name=second\\n' | sfdisk -q '{text}'
         mkdir '{0}/files'; head -c 3000000 /dev/urandom > '{0}/files/kept'
         mkfs.ext4 -q -F -L first -d '{0}/files' -E offset=1048576 '{text}' 40M",
        folder.display()
    ));
    let image = File::options().write(true).open(&file).unwrap();
    image.write_all_at(&noise(5, 9_000_000), 50 * MIB).unwrap();
    file
}

fn captured(folder: &Path) -> (PathBuf, PathBuf, String) {
    let (file, store) = (disk(folder), folder.join("store"));
    cas_ok(&store, &["init", store.to_str().unwrap()]);
    let image = tests::capture(&store, &file, &["--raw"]);
    (file, store, image)
}

fn allocated(file: &Path) -> u64 {
    fs::metadata(file).unwrap().blocks() * 512
}

#[test]
fn clients_read_the_image_and_see_its_holes() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store, image) = captured(folder.path());
    let socket = folder.path().join("a socket");
    let served = Served::start(&store, &image, &["--socket", socket.to_str().unwrap()]);
    let names: Vec<&str> = served.exports.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["disk", "p1", "p2"]);
    let uri = served.uri("disk");

    let told = summary(&run("nbdinfo", &["--json", uri]).replace('\n', " "));
    let export = &told["exports"][0];
    assert_eq!((&told["protocol"], &told["structured"]), (&"newstyle-fixed".into(), &true.into()));
    assert_eq!(export["export-size"], 96 * MIB);
    for (what, expected) in
        [("is_read_only", true), ("can_multi_conn", true), ("can_df", true), ("can_write", false)]
    {
        assert!(export[what].is_null() || export[what] == expected, "{what}: {told}");
    }
    let list = run("nbdinfo", &["--list", uri]);
    assert!(list.contains("export=\"p1\"") && list.contains("ext4 first"), "{list}");

    let map = summary(&run("nbdinfo", &["--map", "--json", uri]).replace('\n', " "));
    let extents = map.as_array().unwrap();
    let plain = fs::read(&file).unwrap();
    let mut end = 0;
    for extent in extents {
        assert_eq!(extent["offset"], end);
        let start = usize::try_from(end).unwrap();
        end += extent["length"].as_u64().unwrap();
        let is_hole = extent["type"] == 3;
        let bytes = &plain[start..usize::try_from(end).unwrap()];
        assert_eq!(is_hole, bytes.iter().all(|byte| *byte == 0), "{extent}");
    }
    assert_eq!((end, extents.len() > 4), (96 * MIB, true));

    let copy = folder.path().join("copy.img");
    for more in [&[][..], &["--connections=1", "--requests=1"], &["--connections=4", "--requests=64"]] {
        fs::remove_file(&copy).ok();
        run("nbdcopy", &[more, &[uri, copy.to_str().unwrap()]].concat());
        assert_same(&copy, &file);
        assert!(allocated(&copy) < 24 * MIB, "{}", allocated(&copy));
    }
    fs::remove_file(&copy).unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", "-m", "8", uri, copy.to_str().unwrap()]);
    assert_same(&copy, &file);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", uri, file.to_str().unwrap()]);
    let map = summary(&run("qemu-img", &["map", "--output=json", "-f", "raw", uri]).replace('\n', " "));
    assert!(map.as_array().unwrap().iter().any(|extent| extent["zero"] == true && extent["data"] == false));
    run("qemu-io", &["-r", "-f", "raw", "-c", "read -v 1M 512", "-c", "read 96468992 4194304", uri]);

    let part = folder.path().join("p1.img");
    run("nbdcopy", &[served.uri("p1"), part.to_str().unwrap()]);
    run("e2fsck", &["-fn", part.to_str().unwrap()]);
    let kept = run("debugfs", &["-R", "stat kept", part.to_str().unwrap()]);
    assert!(kept.contains("Size: 3000000"), "{kept}");
    served.stop();
    assert!(!socket.exists());
}

#[test]
fn a_port_a_pipe_and_one_partition() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store, image) = captured(folder.path());
    let served = Served::start(&store, &format!("{image}:2"), &["--listen", "0"]);
    assert_eq!(served.exports.len(), 1);
    let uri = served.uri("p2").to_owned();
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    let copy = folder.path().join("p2.img");
    run("nbdcopy", &[&uri, copy.to_str().unwrap()]);
    let whole = File::open(&file).unwrap();
    let mut expected = vec![0; usize::try_from(20 * MIB).unwrap()];
    whole.read_exact_at(&mut expected, 41 * MIB).unwrap();
    assert!(fs::read(&copy).unwrap() == expected);
    // A stranger that talks something else, and one that says nothing at all.
    let address = uri.strip_prefix("nbd://").unwrap().split('/').next().unwrap().to_owned();
    let silent = TcpStream::connect(&address).unwrap();
    let mut stranger = TcpStream::connect(&address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stranger.read_to_end(&mut Vec::new()).ok();
    run("nbdinfo", &["--size", &uri]);
    served.stop();
    drop(silent);

    let piped = folder.path().join("piped.img");
    let gate = folder.path().join("gate");
    // Were it missing, nobody would ever connect below.
    run("nbdcopy", &["--version"]);
    let inetd = UnixListener::bind(&gate).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let uri = format!("nbd+unix:///?socket={}", gate.display());
            run("nbdcopy", &["--connections=1", &uri, piped.to_str().unwrap()]);
        });
        let client = OwnedFd::from(inetd.accept().unwrap().0);
        let mut server = command(&store);
        server.args(["nbd", &image, "--stdio"]).stdin(client.try_clone().unwrap()).stdout(client);
        let mut child = server.spawn().unwrap();
        // Our own ends of the socket, so that the client's end is the end.
        drop(server);
        assert!(child.wait().unwrap().success());
    });
    assert_same(&piped, &file);
}

#[test]
fn what_is_written_is_kept_and_becomes_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store, image) = captured(folder.path());
    let expected = folder.path().join("expected.img");
    fs::copy(&file, &expected).unwrap();
    let (socket, overlay) = (folder.path().join("s"), folder.path().join("changes"));
    let (socket, overlay) = (socket.to_str().unwrap(), overlay.to_str().unwrap());
    let start = || Served::start(&store, &image, &["--socket", socket, "--rw", "--overlay", overlay]);
    let served = start();
    let writes = |target: &str| {
        let commands = [
            "write -P 0xa5 1M 64k",
            "write -P 0x17 52428811 777",
            "write -z 54M 1M",
            "write -z -u 56M 100k",
            "discard 57M 64k",
            "write -f -P 0x99 95M 1M",
            "flush",
        ];
        let mut arguments = vec!["-f", "raw"];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        // What a discard leaves is not said; here it is zeros.
        arguments.extend(["-c", "write -z 57M 64k", target]);
        run("qemu-io", &arguments);
    };
    writes(served.uri("disk"));
    writes(expected.to_str().unwrap());
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", served.uri("disk"), expected.to_str().unwrap()]);
    // Two at once are refused: the file is held.
    let second = cas(&store, &["nbd", &image, "--rw", "--overlay", overlay]);
    assert_ne!(second.code, 0, "{}", second.stderr);
    assert!(allocated(Path::new(overlay)) < 3 * MIB);

    // Killed in the middle of writing: what was flushed before is there when it is opened again.
    let until_killed = ["-c", "write -P 0x42 80M 1M", "-c", "flush", "-c", "sleep 100000"];
    // Into a pipe it would tell only in the end.
    let mut writer = Command::new("stdbuf")
        .args(["-oL", "qemu-io", "-f", "raw"])
        .args(until_killed)
        .arg(served.uri("disk"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(writer.stdout.take().unwrap()).lines();
    said.find(|line| line.as_ref().unwrap().contains("wrote")).unwrap().unwrap();
    run("nbdinfo", &["--size", served.uri("disk")]);
    drop(served);
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(Path::new(socket).exists(), "a killed server leaves its socket");
    let served = start();
    let differs = run(
        "qemu-io",
        &["-f", "raw", "-c", "read -P 0xa5 1M 64k", "-c", "read -P 0x99 95M 1M", served.uri("disk")],
    );
    assert!(!differs.contains("failed"), "{differs}");
    run("qemu-io", &["-f", "raw", "-c", "write -z 80M 1M", served.uri("disk")]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", served.uri("disk"), expected.to_str().unwrap()]);
    served.stop();

    let saved = summary(&cas_ok(&store, &["nbd", &image, "--save", "--overlay", overlay, "--json"]));
    assert_eq!(saved["parent"].as_str(), Some(image.as_str()));
    let (written, new) = (saved["written_bytes"].as_u64().unwrap(), saved["new_bytes"].as_u64().unwrap());
    assert!(written < 5 * MIB && new < written + 2 * MIB, "{saved}");
    let new_image = saved["image"].as_str().unwrap();
    cas_ok(&store, &["verify", new_image, "--against", expected.to_str().unwrap()]);
    cas_ok(&store, &["verify", &image, "--against", file.to_str().unwrap()]);
    let other = cas(&store, &["nbd", new_image, "--rw", "--overlay", overlay]);
    assert!(other.stderr.contains("expected changes of image"), "{}", other.stderr);
}

#[test]
fn served_then_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store, image) = captured(folder.path());
    let overlay = folder.path().join("changes");
    let listen = ["--listen", "0", "--rw", "--save", "--overlay", overlay.to_str().unwrap()];
    let served = Served::start(&store, &image, &listen);
    run("qemu-io", &["-f", "raw", "-c", "write -P 3 1000 100", served.uri("p2")]);
    let said = summary(&served.stop());
    assert_eq!((&said["message_type"], &said["written_bytes"]), (&"summary".into(), &4096.into()), "{said}");
    let copy = folder.path().join("copy.img");
    cas_ok(&store, &["restore", said["image"].as_str().unwrap(), copy.to_str().unwrap(), "--quiet"]);
    let mut found = [0; 102];
    File::open(&copy).unwrap().read_exact_at(&mut found, 41 * MIB + 999).unwrap();
    assert_eq!(found, [&[0][..], &[3; 100], &[0]].concat()[..]);
}

/// Many connections read here and there at once, each compares.
#[test]
fn random_reads_by_many_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store, image) = captured(folder.path());
    let served = Served::start(&store, &image, &["--listen", "0"]);
    let (uri, plain) = (served.uri("disk").to_owned(), fs::read(&file).unwrap());
    std::thread::scope(|scope| {
        for seed in 0..6u64 {
            let (uri, plain) = (&uri, &plain);
            scope.spawn(move || {
                let (mut commands, mut expected) = (Vec::new(), Vec::<u8>::new());
                let mut at = seed * 7919 + 1;
                for _ in 0..60 {
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let offset = usize::try_from((at >> 16) % (plain.len() as u64 - 600)).unwrap();
                    commands.extend(["-c".to_owned(), format!("read -v {offset} 512")]);
                    expected.extend(&plain[offset..offset + 512]);
                }
                let mut arguments = vec!["-r", "-f", "raw"];
                arguments.extend(commands.iter().map(String::as_str));
                arguments.push(uri);
                assert!(dumped(&run("qemu-io", &arguments)) == expected);
            });
        }
    });
    served.stop();
}

/// The bytes in lines like `00000000:  45 46 …  EF`.
fn dumped(text: &str) -> Vec<u8> {
    let is_dump = |line: &&str| line.split_once(":  ").is_some_and(|(at, _)| at.len() >= 8);
    let bytes = |line: &str| {
        let hex: Vec<u8> = line.split_once(":  ").unwrap().1[..48]
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        hex
    };
    text.lines().filter(is_dump).flat_map(bytes).collect()
}

#[test]
fn damage_is_an_error_and_never_other_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store, image) = captured(folder.path());
    // In the middle of every pack.
    for pack in sh(&format!("find '{}/packs' -type f -size +1M", store.display())).lines() {
        let middle = fs::metadata(pack).unwrap().len() / 2;
        let pack = File::options().write(true).open(pack).unwrap();
        pack.write_all_at(&[0x5a; 3000], middle).unwrap();
    }
    let socket = folder.path().join("s");
    let served = Served::start(&store, &image, &["--socket", socket.to_str().unwrap()]);
    let plain = fs::read(&file).unwrap();
    let mut failed = 0;
    for at in (0..4).chain(48..60) {
        let read = format!("read -v {at}M 1M");
        let output = Command::new("qemu-io")
            .args(["-r", "-f", "raw", "-c", &read, served.uri("disk")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains("read failed") || String::from_utf8_lossy(&output.stderr).contains("read failed") {
            failed += 1;
        } else {
            assert!(dumped(&text) == plain[at << 20..(at + 1) << 20], "{at} MiB");
        }
    }
    assert!((1..16).contains(&failed), "{failed}");
    let said = served.stop();
    assert!(said.contains("\"message_type\":\"warning\"") && said.contains("chunk"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, store, image) = captured(folder.path());
    let file = folder.path().join("a file");
    fs::write(&file, "here").unwrap();
    let file = file.to_str().unwrap();
    for (more, code, text) in [
        (&["--listen", "0.0.0.0:0"][..], 5, "this machine alone"),
        (&["--save"], 2, "--save needs --overlay"),
        (&["--save", "--overlay", "/none/there"], 1, "found nothing"),
        (&["--socket", file], 1, "expected nothing or a socket"),
        (&["--rw", "--overlay", file], 5, "overlay"),
        (&["--stdio", "--listen", "0"], 2, "cannot be used with"),
        (&["--allow-remote"], 2, "--listen"),
    ] {
        let ran = cas(&store, &[&["nbd", &image], more].concat());
        assert_eq!(ran.code, code, "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(text), "{more:?}: {}", ran.stderr);
    }
    assert_eq!(fs::read_to_string(file).unwrap(), "here");
    let ran = cas(&store, &["nbd", &format!("{image}:9")]);
    assert!(ran.code == 2 && ran.stderr.contains("no such partition"), "{}", ran.stderr);
}

#[test]
fn an_image_becomes_a_virtual_machines_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (file, store, image) = captured(folder.path());
    for (format, more) in [
        ("qcow2", &["--verify"][..]),
        ("qcow2", &["--compress"]),
        ("vhdx", &[]),
        ("vmdk", &[]),
        ("vdi", &[]),
        ("raw", &[]),
    ] {
        let made = folder.path().join(format!("disk.{format}"));
        let made = made.to_str().unwrap();
        fs::remove_file(made).ok();
        cas_ok(&store, &[&["export", &image, made, "--format", format], more].concat());
        run("qemu-img", &["compare", "-f", "raw", "-F", format, file.to_str().unwrap(), made]);
        assert!(allocated(Path::new(made)) < 40 * MIB, "{format}: {}", allocated(Path::new(made)));
        if format != "vhdx" {
            assert!(allocated(Path::new(made)) < 26 * MIB, "{format}: {}", allocated(Path::new(made)));
        }
    }
    let part = folder.path().join("p2.raw");
    cas_ok(&store, &["export", &format!("{image}:2"), part.to_str().unwrap(), "--format", "raw"]);
    assert_eq!(fs::metadata(&part).unwrap().len(), 20 * MIB);
    let refused = cas(&store, &["export", &image, part.to_str().unwrap(), "--format", "vdi"]);
    assert!(refused.code == 5 && refused.stderr.contains("expected no file"), "{}", refused.stderr);
    let other = folder.path().join("other.qcow2");
    let missing = command(&store)
        .args(["export", &image, other.to_str().unwrap(), "--format", "qcow2"])
        .env("PATH", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&missing.stderr);
    assert!(missing.status.code() == Some(1) && text.contains("apt install qemu-utils"), "{text}");
    assert!(!other.exists());
}

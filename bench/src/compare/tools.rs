//! The tools as data: for each, the command of every step that it has.
//!
//! Promise: every tool at its best usual settings, zstd level 3 where it can be chosen, no encryption where it can be left
//! out; where not, the note says so. Commands are for bash and are given: `$STORE` (a folder of the tool's own), `$IMAGE`
//! (what is captured), `$NAME` (v1 v2 v3 b1 again), `$MACHINE` (a or b), `$TARGET` (a new file `a.img` in a folder that
//! holds nothing else, or a loop device), `$THREADS`, `$BENCH` (this crate's folder). Knows nothing of measuring.

use super::step::Step;

/// What a tool is compared as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Ours,
    /// Keeps many images, each piece once.
    Deduplicating,
    /// Makes a file of an image.
    Single,
    /// What no tool that does its work can beat by much.
    Limit,
}

/// How what was restored is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// `cmp` with the image.
    Equal,
    /// A command: the tool restores less than the image.
    Own(&'static str),
}

/// A tool and its commands.
#[derive(Debug)]
pub(crate) struct Tool {
    /// On the command line.
    pub(crate) name: &'static str,
    /// In tables.
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    /// Programs that must be there; `peers.sh` knows the first by this name.
    pub(crate) programs: &'static [&'static str],
    /// Prints its version.
    pub(crate) version: &'static str,
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// Before the first step, not timed.
    pub(crate) init: &'static str,
    pub(crate) commands: &'static [(Step, &'static str)],
    /// What is restored: the third image, or the only one.
    pub(crate) restores: &'static str,
    pub(crate) proof: Proof,
    /// What the reader of the table must know.
    pub(crate) note: &'static str,
}

impl Tool {
    /// `None`: the tool has no such thing.
    pub(crate) fn command(&self, step: Step) -> Option<&'static str> {
        self.commands.iter().find(|(known, _)| *known == step).map(|(_, command)| *command)
    }
}

/// The same command for the captures of all images.
macro_rules! commands {
    (capture: $capture:expr, $($step:ident: $command:expr),* $(,)?) => {
        &[
            (Step::First, $capture),
            (Step::Second, $capture),
            (Step::Third, $capture),
            (Step::Other, $capture),
            (Step::Again, $capture),
            $((Step::$step, $command)),*
        ]
    };
}

/// What most have in common.
const USUAL: Tool = Tool {
    name: "",
    title: "",
    kind: Kind::Deduplicating,
    programs: &[],
    version: "true",
    environment: &[],
    init: "true",
    commands: &[],
    restores: "v3",
    proof: Proof::Equal,
    note: "",
};

/// Ours, whatever was captured.
const RESTORE_FILE: &str = r#"cas restore --quiet latest "$TARGET""#;
const RESTORE_DEVICE: &str = r#"cas restore --quiet --yes latest "$TARGET""#;
const VERIFY: &str = "cas scrub --quiet";
const DELETE: &str = "cas forget --quiet latest~4 latest~3 && cas gc --quiet";

const OURS: Tool = Tool {
    kind: Kind::Ours,
    programs: &["cas"],
    version: "cas --version",
    environment: &[("CAS_STORE", "$STORE")],
    init: "cas init",
    ..USUAL
};

/// All tools, ours first.
pub(crate) const TOOLS: [Tool; 18] = [
    Tool {
        name: "cas",
        title: "cas, every sector",
        commands: commands! {
            capture: r#"cas capture --raw --quiet --name "$MACHINE" "$IMAGE""#,
            RestoreFile: RESTORE_FILE,
            RestoreDevice: RESTORE_DEVICE,
            Verify: VERIFY,
            Delete: DELETE,
        },
        note: "reads the image by its path; what it publishes is decoded again, hashed and synced first; what it restores is synced",
        ..OURS
    },
    Tool {
        name: "cas-used",
        title: "cas, blocks in use",
        commands: commands! {
            capture: r#"cas capture --quiet --name "$MACHINE" "$IMAGE""#,
            RestoreFile: RESTORE_FILE,
            RestoreDevice: RESTORE_DEVICE,
            Verify: VERIFY,
            Delete: DELETE,
        },
        proof: Proof::Own(r#""$BENCH/single.sh" partclone-same "$IMAGE" "$TARGET""#),
        note: "its default: blocks that no filesystem uses are not read, and are zeros when restored; restored blocks in use are \
               compared, by partclone's account of them",
        ..OURS
    },
    Tool {
        name: "restic",
        title: "restic",
        programs: &["restic"],
        version: "restic version",
        environment: &[
            ("RESTIC_REPOSITORY", "$STORE"),
            ("RESTIC_PASSWORD", "comparison"),
            ("RESTIC_PROGRESS_FPS", "0.1"),
        ],
        init: "restic init",
        commands: commands! {
            capture: r#"restic backup --quiet --host "$MACHINE" --tag "$NAME" --stdin --stdin-filename "$MACHINE.img" < "$IMAGE""#,
            RestoreFile: r#"restic restore latest --quiet --tag v3 --sparse --target "$(dirname "$TARGET")""#,
            RestoreDevice: r#"restic dump --tag v3 latest /a.img > "$TARGET""#,
            Verify: "restic check --read-data",
            Delete: r"restic forget --quiet --tag v1 --tag v2 --unsafe-allow-remove-all --prune",
        },
        note: "always encrypts (AES-256); compression auto: about zstd 3, it has no numbers; keeps up to 5 % of unused data (default)",
        ..USUAL
    },
    Tool {
        name: "borg",
        title: "borg",
        programs: &["borg"],
        version: "borg --version",
        environment: &[
            ("BORG_REPO", "$STORE"),
            ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes"),
            ("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes"),
        ],
        init: "borg init --encryption none",
        commands: commands! {
            capture: r#"borg create --compression zstd,3 --stdin-name "$MACHINE.img" "::$NAME" - < "$IMAGE""#,
            RestoreFile: r#"cd "$(dirname "$TARGET")" && borg extract --sparse ::v3"#,
            RestoreDevice: r#"borg extract --stdout ::v3 > "$TARGET""#,
            Verify: "borg check --verify-data",
            Delete: "borg delete :: v1 v2 && borg compact",
        },
        note: "encryption none; one thread; keeps segments that are more than 90 % used (default)",
        ..USUAL
    },
    Tool {
        name: "rustic",
        title: "rustic",
        programs: &["rustic"],
        version: "rustic --version",
        environment: &[
            ("RUSTIC_REPOSITORY", "$STORE"),
            ("RUSTIC_PASSWORD", "comparison"),
            ("RUSTIC_NO_PROGRESS", "true"),
        ],
        init: "rustic init --set-compression 3",
        commands: commands! {
            capture: r#"rustic backup --force --host "$MACHINE" --tag "$NAME" --stdin-filename "$MACHINE.img" - < "$IMAGE""#,
            RestoreFile: r#"rustic restore --sparse by-content latest:/a.img "$TARGET""#,
            RestoreDevice: r#"rustic dump latest:/a.img > "$TARGET""#,
            Verify: "rustic check --read-data",
            Delete: "rustic forget latest~4 latest~3 --prune --instant-delete",
        },
        note: "always encrypts (AES-256); zstd 3; keeps up to 5 % of unused data (default); without --force it takes what it reads \
               from standard input for unchanged, whatever it is",
        ..USUAL
    },
    Tool {
        name: "bupstash",
        title: "bupstash",
        programs: &["bupstash"],
        version: "bupstash version",
        environment: &[("BUPSTASH_REPOSITORY", "$STORE"), ("BUPSTASH_KEY", "$HOME/key")],
        init: r#"bupstash new-key -o "$BUPSTASH_KEY" && bupstash init"#,
        commands: commands! {
            capture: r#"bupstash put --no-progress --compression zstd:3 "name=$NAME" - < "$IMAGE""#,
            RestoreFile: r#"bupstash get --no-progress name=v3 > "$TARGET""#,
            RestoreDevice: r#"bupstash get --no-progress name=v3 > "$TARGET""#,
            Delete: "bupstash rm name=v1 && bupstash rm name=v2 && bupstash gc --no-progress",
        },
        note: "always encrypts (XChaCha20-Poly1305); has no verification of all data; a file for each chunk",
        ..USUAL
    },
    Tool {
        name: "casync",
        title: "casync",
        programs: &["casync"],
        version: "casync --version",
        init: r#"mkdir -p "$STORE""#,
        commands: commands! {
            capture: r#"casync make --compression=zstd --store="$STORE/chunks" "$STORE/$NAME.caibx" "$IMAGE""#,
            RestoreFile: r#"casync extract --store="$STORE/chunks" "$STORE/v3.caibx" "$TARGET""#,
            Delete: r#"rm "$STORE/v1.caibx" "$STORE/v2.caibx" && casync gc --store="$STORE/chunks" "$STORE"/*.caibx"#,
        },
        note: "no encryption; zstd at its default level 3; one thread; has no verification of all data; a file for each chunk; \
               syncs nothing; left out of restores to a device: it writes those so slowly (12 s for 0.2 GB) that a round \
               would take twice as long",
        ..USUAL
    },
    Tool {
        name: "desync",
        title: "desync",
        programs: &["desync"],
        init: r#"mkdir -p "$STORE/chunks""#,
        commands: commands! {
            capture: r#"desync make -s "$STORE/chunks" "$STORE/$NAME.caibx" "$IMAGE""#,
            RestoreFile: r#"desync extract -s "$STORE/chunks" "$STORE/v3.caibx" "$TARGET""#,
            RestoreDevice: r#"desync extract --in-place -s "$STORE/chunks" "$STORE/v3.caibx" "$TARGET""#,
            Verify: r#"desync verify -s "$STORE/chunks""#,
            Delete: r#"rm "$STORE/v1.caibx" "$STORE/v2.caibx" && desync prune --yes -s "$STORE/chunks" "$STORE"/*.caibx"#,
        },
        note: "version 1.0.4; the format of casync in Go; no encryption; zstd at its default level; a file for each chunk; syncs nothing",
        ..USUAL
    },
    Tool {
        name: "partclone",
        title: "partclone + zstd -3",
        kind: Kind::Single,
        programs: &["partclone", "zstd"],
        version: "partclone.extfs --version",
        commands: &[
            (Step::First, r#""$BENCH/single.sh" partclone-save "$IMAGE" "$STORE""#),
            (Step::RestoreFile, r#""$BENCH/single.sh" partclone-restore "$STORE" "$TARGET""#),
        ],
        restores: "v1",
        proof: Proof::Own(r#""$BENCH/single.sh" partclone-same "$IMAGE" "$TARGET""#),
        note: "blocks in use only, of each partition, some of its time is a second for each in which it waits for its own progress \
               display; restored blocks in use are compared",
        ..USUAL
    },
    Tool {
        name: "qemu-img",
        title: "qemu-img convert -c, zstd",
        kind: Kind::Single,
        programs: &["qemu-img"],
        version: "qemu-img --version",
        commands: &[
            (
                Step::First,
                r#"qemu-img convert -c -W -f raw -O qcow2 -o compression_type=zstd "$IMAGE" "$STORE/image.qcow2""#,
            ),
            (Step::RestoreFile, r#"qemu-img convert -W -f qcow2 -O raw "$STORE/image.qcow2" "$TARGET""#),
        ],
        restores: "v1",
        note: "every sector that is not zero; zstd at its default level",
        ..USUAL
    },
    Tool {
        name: "fsarchiver",
        title: "fsarchiver, zstd 3",
        kind: Kind::Single,
        programs: &["fsarchiver"],
        version: "fsarchiver -V",
        commands: &[
            (Step::First, r#""$BENCH/single.sh" fsarchiver-save "$IMAGE" "$STORE""#),
            (Step::RestoreFile, r#""$BENCH/single.sh" fsarchiver-restore "$STORE" "$TARGET" "$IMAGE""#),
        ],
        restores: "v1",
        proof: Proof::Own(r#""$BENCH/single.sh" fsarchiver-same "$IMAGE" "$TARGET""#),
        note: "files only, of the ext4 and NTFS partitions (it knows no FAT); files of the ext4 partition are compared",
        ..USUAL
    },
    Tool {
        name: "dd",
        title: "dd",
        kind: Kind::Limit,
        programs: &["dd"],
        commands: &[
            (Step::First, r#"dd if="$IMAGE" of=/dev/null bs=4M"#),
            (Step::RestoreFile, r#"dd if="$IMAGE" of="$TARGET" bs=4M conv=fsync"#),
            (Step::RestoreDevice, r#"dd if="$IMAGE" of="$TARGET" bs=4M conv=fsync"#),
        ],
        note: "reads the image; writes it with fsync",
        ..USUAL
    },
    Tool {
        name: "b3sum",
        title: "b3sum",
        kind: Kind::Limit,
        programs: &["b3sum"],
        version: "b3sum --version",
        commands: &[
            (Step::First, r#"b3sum --num-threads "$THREADS" "$IMAGE""#),
            (Step::Again, r#"b3sum --num-threads "$THREADS" "$IMAGE""#),
        ],
        note: "BLAKE3 of the whole image, as many threads as cas",
        ..USUAL
    },
    Tool {
        name: "b3sum-used",
        title: "b3sum, non-zero blocks",
        kind: Kind::Limit,
        programs: &["b3sum"],
        version: "b3sum --version",
        commands: &[
            (Step::First, r#"b3sum --num-threads "$THREADS" "${IMAGE%.img}.used""#),
            (Step::Again, r#"b3sum --num-threads "$THREADS" "${IMAGE%.img}.used""#),
        ],
        note: "BLAKE3 of a file that holds just the image's non-zero blocks of 4 KiB",
        ..USUAL
    },
    Tool {
        name: "zstd-1",
        title: "zstd -1 -T0",
        kind: Kind::Limit,
        programs: &["zstd"],
        version: "zstd --version",
        commands: &[(Step::First, r#"zstd -q -1 -T0 "$IMAGE" -o "$STORE/image.zst""#)],
        ..USUAL
    },
    Tool {
        name: "zstd-3",
        title: "zstd -3 -T0",
        kind: Kind::Limit,
        programs: &["zstd"],
        version: "zstd --version",
        commands: &[
            (Step::First, r#"zstd -q -3 -T0 "$IMAGE" -o "$STORE/image.zst""#),
            (Step::RestoreFile, r#"zstd -q -d "$STORE/image.zst" -o "$TARGET""#),
        ],
        restores: "v1",
        ..USUAL
    },
    Tool {
        name: "dd-zstd",
        title: "dd \\| zstd -3 -T0",
        kind: Kind::Limit,
        programs: &["zstd"],
        version: "zstd --version",
        commands: &[(Step::First, r#"dd if="$IMAGE" bs=4M | zstd -q -3 -T0 -o "$STORE/image.zst""#)],
        ..USUAL
    },
    Tool {
        name: "cp",
        title: "cp --sparse=always",
        kind: Kind::Limit,
        programs: &["cp"],
        version: "cp --version | head -1",
        commands: &[(Step::RestoreFile, r#"cp --sparse=always "$IMAGE" "$TARGET""#)],
        note: "writes what is not zero",
        ..USUAL
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_can_be_named_and_installed() {
        let script = include_str!("../../peers.sh");
        for (number, tool) in TOOLS.iter().enumerate() {
            assert!(TOOLS[..number].iter().all(|other| other.name != tool.name), "{}", tool.name);
            let known = ["cas", "dd", "cp"].contains(&tool.programs[0]);
            assert!(known || script.contains(&format!("\n{}) ", tool.programs[0])), "{}", tool.name);
        }
    }

    #[test]
    fn what_is_restored_was_stored_before() {
        for tool in TOOLS.iter().filter(|tool| tool.kind != Kind::Limit) {
            let captured = |name: &str| {
                Step::all()
                    .any(|step| step.is_capture() && step.image() == name && tool.command(step).is_some())
            };
            assert!(captured(tool.restores), "{}", tool.name);
        }
    }
}

#!/bin/sh
# Makes a real disk image from Debian packages, and the same disk a day later: OUT.img and OUT.later.img.
#
#   bench/real-image.sh OUT.img
#
# GPT with one ext4 volume, filled by mke2fs and changed in place by debugfs: no mounts, no root, no loop devices.
# Contents are those of the Debian release it runs on, and mke2fs notes when each file was unpacked, so two runs differ
# by some bytes: the hashes it prints say which image was measured.
set -eu

out=${1:?usage: bench/real-image.sh OUT.img}
later=${out%.img}.later.img
# About 50 MB to download: programs, libraries, documentation, an interpreter's many small files.
packages="perl-modules-5.36 libperl5.36 python3.11-minimal libpython3.11-stdlib gcc-12-base libgcc-12-dev cpp-12 g++-12 git vim-runtime"
# Installed during the day in between.
new_packages="nano less tmux"
image_bytes=$((512 << 20))
start=2048 # sectors: the usual 1 MiB
sectors=$((image_bytes / 512 - start - 2048))

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debs" "$work/root" "$work/new"

# shellcheck disable=SC2086 # a list of words
(cd "$work/debs" && apt-get -q -o APT::Sandbox::User=root download $packages $new_packages >&2)
for package in $packages; do dpkg -x "$work/debs/${package}"_*.deb "$work/root"; done
for package in $new_packages; do dpkg -x "$work/debs/${package}"_*.deb "$work/new"; done
mkdir -p "$work/root/var/log"
seq -f 'day 1: something happened, number %.0f' 200000 > "$work/root/var/log/syslog"

rm -f "$out" "$later"
truncate -s "$image_bytes" "$out"
printf 'label: gpt\nlabel-id: 5EEDCA50-0000-4000-8000-000000000001\nstart=%s, size=%s, type=linux, uuid=5EEDCA50-0000-4000-8000-000000000002\n' \
    "$start" "$sectors" | sfdisk -q "$out"
mke2fs -q -F -t ext4 -U 5eedca50-0000-4000-8000-000000000003 -d "$work/root" \
    -E "offset=$((start * 512)),root_owner=0:0,hash_seed=5eedca50-0000-4000-8000-000000000004" "$out" $((sectors / 2))k

cp --sparse=always "$out" "$later"
# A day's changes: new packages arrive, one old file in fifty goes, the log grows.
seq -f 'day 2: something happened, number %.0f' 30000 | cat "$work/root/var/log/syslog" - > "$work/syslog"
{
    (cd "$work/root" && find usr -type f | sort | awk 'NR % 50 == 0 { print "rm \"/" $0 "\"" }')
    (cd "$work/new" && find . -mindepth 1 -type d | sort | sed 's|^\.\(.*\)|mkdir "\1"|')
    (cd "$work/new" && find . -type f | sort | sed "s|^\.\(.*\)|write \"$work/new\1\" \"\1\"|")
    echo "rm /var/log/syslog"
    echo "write $work/syslog /var/log/syslog"
} > "$work/commands"
# debugfs complains about folders that exist already, which is expected: what counts is that the result is clean.
debugfs -w -f "$work/commands" "$later?offset=$((start * 512))" > "$work/output" 2>&1
dd if="$later" of="$work/volume" bs=1M skip=1 count=$((sectors / 2048)) conv=sparse status=none
e2fsck -fn "$work/volume" > "$work/check" 2>&1 || { cat "$work/check" >&2; exit 1; }

sha256sum "$out" "$later"

#!/bin/bash
# Installs what `compare` compares with, the newest that can be had, as root on Debian.
#
#   bench/peers.sh             all of them: half an hour, most of it for rustic
#   bench/peers.sh restic …    only these
#
# From the release's own packages: casync, partclone, fsarchiver, qemu-img, zstd. From Debian's unstable suite, whose
# programs are statically linked: restic, desync (the release has restic 0.14 and no desync). From crates.io, built here:
# rustic, bupstash, b3sum. From PyPI, built here: borg. Programs go to /usr/local/bin, or $PREFIX/bin.
set -euo pipefail

prefix=${PREFIX:-/usr/local}
packages() { apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; }
crate() { cargo install --locked --root "$prefix" "$@"; }
# unstable PACKAGE PROGRAM: out of a package of a suite that the machine otherwise does not use.
unstable() {
    local lists options
    lists=$(mktemp -d)
    mkdir -p "$lists/lists/partial" "$lists/cache/archives/partial" "$lists/root"
    # The release's own source, for another suite.
    awk '/^Types/ { if (n++) exit } { print }' /etc/apt/sources.list.d/debian.sources | sed 's/^Suites:.*/Suites: sid/' > "$lists/sid.sources"
    options=(-q -o "Dir::Etc::sourcelist=$lists/sid.sources" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$lists/lists"
        -o "Dir::Cache=$lists/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$lists" && apt-get "${options[@]}" download "$1")
    dpkg -x "$lists/$1"_*.deb "$lists/root"
    install -D "$lists/root/usr/bin/$2" "$prefix/bin/$2"
    rm -r "$lists"
}

if [ $# = 0 ]; then set -- casync partclone fsarchiver qemu-img zstd series restic desync borg b3sum bupstash rustic; fi
apt-get -q update
for name; do
    case $name in
restic) unstable restic restic ;;
desync) unstable desync desync ;;
casync) packages casync ;;
partclone) packages partclone ;;
fsarchiver) packages fsarchiver ;;
qemu-img) packages qemu-utils ;;
zstd) packages zstd ;;
borg) packages python3-venv python3-dev gcc pkg-config libacl1-dev libssl-dev liblz4-dev libzstd-dev libxxhash-dev
        python3 -m venv "$prefix/lib/borg"
        "$prefix/lib/borg/bin/pip" install --upgrade borgbackup
        ln -sf "$prefix/lib/borg/bin/borg" "$prefix/bin/borg"
        ;;
b3sum) crate b3sum ;;
bupstash) packages libsodium-dev pkg-config
        crate bupstash
        ;;
rustic) crate rustic-rs --no-default-features ;;
# What makes the images.
series) packages e2fsprogs dosfstools mtools ntfs-3g xfsprogs fdisk perl ;;
*) echo "$name: not among the peers" >&2; exit 2 ;;
    esac
done

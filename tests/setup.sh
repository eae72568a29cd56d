#!/bin/sh
# Installs what the tests need besides Rust, on Debian and its relatives; does nothing when all is there.
# Run as root, as the tests are: they make loop devices.
set -eu

packages="fdisk gdisk dosfstools mtools ntfs-3g xfsprogs btrfs-progs e2fsprogs util-linux mount
    exfatprogs exfat-fuse partclone f2fs-tools lvm2 cryptsetup-bin attr procps
    libnbd-bin qemu-utils
    gcc libc6-dev make python3 zstd python3-zstandard"

missing=
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "tests/setup.sh: no apt-get here; install by hand:$missing" >&2
    exit 1
fi
echo "tests/setup.sh: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# Another apt may be at work, for instance in the first minutes of a machine.
apt-get -q -o DPkg::Lock::Timeout=300 update
# shellcheck disable=SC2086 # a list of words
apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing

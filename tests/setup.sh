#!/bin/sh
# Installs what the tests need besides Rust, on Debian and its relatives, and fetches the kernel that the boot tests
# start; does nothing when all is there. Run as root, as the tests are: they make loop devices.
set -eu

packages="fdisk gdisk dosfstools mtools ntfs-3g xfsprogs btrfs-progs e2fsprogs util-linux mount
    exfatprogs exfat-fuse partclone f2fs-tools lvm2 cryptsetup-bin attr libcap2-bin procps
    libnbd-bin qemu-utils
    gcc libc6-dev make python3 zstd python3-zstandard
    qemu-system-x86 ovmf grub-pc-bin grub-efi-amd64-bin grub-common busybox-static cpio kmod xz-utils"
# A kernel for virtual machines: small, quick to start.
kernel_package=linux-image-cloud-amd64
# Outside the source and the build, as it is large and never changes; tests/src/vm/parts.rs looks for it here too.
cache="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cas-tests"

missing=
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || [ ! -e "$cache/kernel/vmlinuz" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "tests/setup.sh: no apt-get here; install by hand:$missing; unpack a kernel to $cache/kernel (see the end of this file)" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Another apt may be at work, for instance in the first minutes of a machine.
apt() {
    apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}

# Where qemu-utils came from backports, qemu-system-x86 must too: they share qemu-system-common. Where no backports are
# configured, a list of our own, beside the machine's, says where they are: where Debian itself is.
with_backports() {
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mkdir -p "$work/parts" "$work/lists"
    cp /etc/apt/sources.list.d/* "$work/parts/" 2>/dev/null || true
    for list in /etc/apt/sources.list.d/*.sources; do
        # The first paragraph that names this release without a suffix.
        awk -v RS= -v release="$release" '$0 ~ "Suites:[^\n]*[ ]" release "( |\n|$)" { print; exit }' "$list" 2>/dev/null \
            | sed "s/^Suites:.*/Suites: $release-backports/" >"$work/parts/cas-backports.sources"
        [ ! -s "$work/parts/cas-backports.sources" ] || break
    done
    cat /etc/apt/sources.list "$work"/parts/*.list 2>/dev/null \
        | sed -n "s/^\(deb .*\) $release main.*/\1 $release-backports main/p" | head -n 1 >"$work/one-line"
    [ ! -s "$work/one-line" ] || mv "$work/one-line" "$work/parts/cas-backports.list"
    set -- -o Dir::Etc::SourceParts="$work/parts" -o Dir::State::Lists="$work/lists" "$@"
    apt "$@" update
    apt "$@" install -y --no-install-recommends -t "$release-backports" qemu-system-x86
}

apt update
if [ -n "$missing" ]; then
    echo "tests/setup.sh: installing$missing"
    case "$missing:$(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null || true)" in
    *qemu-system-x86*:*~bpo*)
        with_backports
        missing=$(echo "$missing" | sed 's/qemu-system-x86//')
        ;;
    esac
    # shellcheck disable=SC2086 # a list of words
    [ -z "${missing# }" ] || apt install -y --no-install-recommends $missing
fi

# The kernel is unpacked, not installed: nothing of this machine is to start with it. It appears whole or not at all.
if [ ! -e "$cache/kernel/vmlinuz" ]; then
    kernel=$(apt-cache depends "$kernel_package" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    echo "tests/setup.sh: fetching $kernel"
    chmod 755 "$work"
    (cd "$work" && apt-get -q download "${kernel:-$kernel_package}")
    mkdir "$work/kernel"
    dpkg-deb -x "$work"/linux-image-*.deb "$work/kernel"
    release=$(basename "$work"/kernel/boot/vmlinuz-*)
    release=${release#vmlinuz-}
    # Newer Debians merge /lib into /usr, and compress modules.
    [ -d "$work/kernel/lib/modules" ] || mv "$work/kernel/usr/lib" "$work/kernel/lib"
    find "$work/kernel/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    depmod -b "$work/kernel" "$release"
    rm -rf "$cache/kernel" "$cache/kernel.new"
    mkdir -p "$cache/kernel.new"
    cp "$work/kernel/boot/vmlinuz-$release" "$cache/kernel.new/vmlinuz"
    cp -a "$work/kernel/lib/modules/$release" "$cache/kernel.new/modules"
    mv "$cache/kernel.new" "$cache/kernel"
fi

#!/bin/bash
# Makes a series of disk images as a machine's owner would have them: v1.img, v2.img (a day later), v3.img (a heavy day)
# and b1.img (another machine), and says what each is.
#
#   bench/series.sh FOLDER small|full        as root: it mounts loop devices
#
# small: 2 GiB each (b1 1.5 GiB), some 1.4 GB of v1 in non-zero blocks; full: four times as much.
#
# v1  GPT: FAT ESP with boot programs; ext4 root with Debian packages unpacked (of some the older of the two versions that
#     the release has), downloaded packages kept as they are, pictures, logs, a database of 8 KiB pages; NTFS with documents.
#     Blocks that are free hold what was deleted: packages that were unpacked and removed again.
# v2  the same disk a day later: packages upgraded and installed, logs longer, 1 % of the database's pages rewritten, home
#     files new and gone.
# v3  a heavy day after that: 5 % of the pages rewritten, trees moved and copied, one removed, more packages.
# b1  MBR: ext4 root and XFS data. Same release, other packages, another database.
#
# All images are written out in full, without holes: a disk has none. Contents are those of the Debian release it runs on,
# and filesystems note when each file was made, so two runs differ by some bytes: the hashes say which series was measured.
# Needs: dpkg, e2fsprogs, dosfstools, mtools, ntfs-3g, xfsprogs, fdisk, perl, b3sum (bench/peers.sh installs them).
set -Eeuo pipefail

out=${1:?usage: bench/series.sh FOLDER small|full}
scale=${2:?usage: bench/series.sh FOLDER small|full}

# Packages of which the release has two versions: the older in v1, the newer in v2.
upgraded="git libperl5.36 libpython3.11-stdlib openjdk-17-jre-headless"
base="perl-modules-5.36 libpython3.11-dev postgresql-15 libllvm14 cpp-12 g++-12 vim-runtime imagemagick-6-doc
 python-django-doc golang-1.19-src python3-numpy gnome-backgrounds"
base_last="breeze-icon-theme docbook-xsl maxima-doc"
# Unpacked and deleted again.
gone="mariadb-server-core libclamav12 texlive-base libnode108"
# Kept as downloaded.
kept="openjdk-17-jre-headless libllvm14 fonts-noto-cjk"
documents="gimp-help-en mingw-w64-x86-64-dev wordnet-base octave-doc"
next_day="python3-scipy ruby3.1 libruby3.1 nano tmux"
heavy_day="emacs-common r-base-core"
other_machine="git libperl5.36 perl-modules-5.36 libpython3.11-stdlib libllvm14 vim-runtime gnome-backgrounds
 mariadb-server-core libnode108 libruby3.1 golang-1.19-src texlive-base iso-codes locales"
other_data="tuxpaint-stamps-default wordnet-base"
database_pages=8192
mib=1; sizes="64 1620 2048 1536 1000" # ESP, root, disk, b1, b1's root
case $scale in
small) ;;
full)
    mib=4; sizes="128 6200 8192 6144 4300"
    database_pages=65536
    upgraded="$upgraded chromium firefox-esr libreoffice-core mariadb-client"
    base="$base libreoffice-common linux-doc-6.1 freecad-common inkscape locales-all thunderbird openjdk-17-jdk-headless
 libwebkit2gtk-4.1-0 linux-image-6.1.0-48-cloud-amd64 golang-1.19-doc"
    base_last="$base_last libboost1.74-dev"
    gone="$gone chromium-shell telegram-desktop openjdk-17-dbg qemu-system-misc libpython3.11-dbg mariadb-test-data"
    kept="$kept firefox-esr thunderbird chromium tuxpaint-stamps-default bluez-source"
    documents="$documents supertuxkart-data freedombox-doc-en"
    next_day="$next_day libreoffice-writer linux-headers-6.1.0-48-common calibre"
    heavy_day="$heavy_day qemu-system-x86 openjdk-17-source mkvtoolnix"
    other_machine="$other_machine chromium libwine libreoffice-common texlive-latex-extra locales-all qemu-user-static
 libreoffice-help-de libreoffice-help-fr libreoffice-help-es linux-doc-6.1"
    other_data="$other_data supertuxkart-data freecad-common"
    ;;
*) echo "scale $scale: expected small or full" >&2; exit 2 ;;
esac
read -r esp_mib root_mib disk_mib other_mib other_root_mib <<< "$sizes"

mkdir -p "$out/debs"
out=$(realpath "$out")
work=$(mktemp -d -p "$out")
loops=()
close() {
    for folder in "$work/root" "$work/ntfs" "$work/data"; do
        if mountpoint -q "$folder"; then umount "$folder"; fi
    done
    for loop in "${loops[@]}"; do losetup -d "$loop" 2> /dev/null || true; done
    loops=()
}
trap 'close; rm -rf "$work"' EXIT
trap 'echo "series: line $LINENO: failed" >&2' ERR
mkdir "$work/root" "$work/ntfs" "$work/data"
say() { echo "series: $*" >&2; }

# open IMAGE MIB_FROM MIB_LONG: a loop device of that part, in $loop.
open() {
    loop=$(losetup -f --show -o $(($2 << 20)) --sizelimit $(($3 << 20)) "$1")
    loops+=("$loop")
}
# deb PACKAGE older|newer: its file, downloaded once.
deb() {
    local line version file
    line=$(apt-cache madison "$1" | awk -F'[ ]*[|][ ]*' '!seen[$2]++ { print $2 }')
    [ -n "$line" ] || { echo "package $1: not in the lists: apt-get update?" >&2; return 1; }
    # madison has the newest first.
    if [ "$2" = older ]; then version=$(tail -1 <<< "$line"); else version=$(head -1 <<< "$line"); fi
    file=$out/debs/${1}_${version//:/%3a}.deb
    if [ ! -e "$file" ]; then
        (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$1=$version" >&2 && mv "$1"_*.deb "$file")
    fi
    echo "$file"
}
# unpack older|newer FOLDER PACKAGE...
unpack() {
    local age=$1 folder=$2 file
    shift 2
    mkdir -p "$folder"
    for package; do file=$(deb "$package" "$age"); dpkg -x "$file" "$folder"; done
}
# keep FOLDER PACKAGE...: the packages' files themselves.
keep() {
    local folder=$1
    shift
    mkdir -p "$folder"
    for package; do cp "$(deb "$package" newer)" "$folder/"; done
}
# lines DAY COUNT: a log.
lines() {
    perl -e 'my ($day, $count) = @ARGV; srand $day;
        printf "2026-11-%02d %02d:%02d:%02d host daemon[%d]: request %08x took %d ms, status %d\n", $day, int(24 * $_ / $count),
            rand 60, rand 60, 100 + rand 900, rand 2 ** 32, rand 2000, (200, 200, 200, 304, 404)[rand 5] for 1 .. $count' "$1" "$2"
}
# database FILE PAGES SEED: pages of rows, half of each row's bytes compress.
# database FILE PAGES SEED PERCENT: that share of the pages rewritten in place, spread all over.
database() {
    perl -e '
        my ($file, $pages, $seed, $percent) = @ARGV;
        srand $seed;
        my @words = map { join "", map { chr(97 + rand 26) } 0 .. 3 + rand 8 } 1 .. 4000;
        my $page = sub {
            my $rows = "";
            while (length $rows < 8100) {
                $rows .= pack "NNn", rand 2 ** 32, rand 2 ** 32, rand 65536;
                $rows .= join " ", map { $words[rand @words] } 1 .. 6;
                $rows .= "\0" x rand 12;
            }
            return pack("NNNN", $_[0], $seed, length $rows, 0) . substr $rows, 0, 8176;
        };
        open my $out, defined $percent ? "+<" : ">", $file or die "$file: $!";
        for my $number (0 .. $pages - 1) {
            next if defined $percent and rand 100 >= $percent;
            seek $out, $number * 8192, 0;
            print $out $page->($number);
        }
        close $out or die "$file: $!";' "$@"
}

esp_at=1
root_at=$((esp_at + esp_mib))
ntfs_at=$((root_at + root_mib))
ntfs_mib=$((disk_mib - ntfs_at - 1))
mount_disk() { # IMAGE
    open "$1" "$root_at" "$root_mib"; mount "$loop" "$work/root"
    open "$1" "$ntfs_at" "$ntfs_mib"; ntfs-3g "$loop" "$work/ntfs"
}
root=$work/root
ntfs=$work/ntfs

make_v1() {
    say "v1: tables and filesystems"
    truncate -s "${disk_mib}M" "$work/disk"
    sfdisk -q "$work/disk" << TABLE
label: gpt
start=${esp_at}MiB, size=${esp_mib}MiB, type=uefi
start=${root_at}MiB, size=${root_mib}MiB, type=linux
start=${ntfs_at}MiB, size=${ntfs_mib}MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
TABLE
    open "$work/disk" "$esp_at" "$esp_mib"; mkfs.vfat -F 32 "$loop" > /dev/null
    unpack newer "$work/boot" grub-efi-amd64-bin
    mmd -i "$loop" ::/EFI ::/EFI/debian
    mcopy -i "$loop" -s "$work/boot/usr/lib/grub/x86_64-efi" ::/EFI/debian/
    open "$work/disk" "$root_at" "$root_mib"; mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$loop"
    open "$work/disk" "$ntfs_at" "$ntfs_mib"; mkntfs -q -Q "$loop" 2> /dev/null
    close
    mount_disk "$work/disk"
    say "v1: packages"
    # shellcheck disable=SC2086 # lists of words, here and below
    {
        unpack newer "$root" $base
        unpack older "$root" $upgraded
        # What will be deleted lies between what stays.
        unpack newer "$root/opt/old" $gone
        unpack newer "$root" $base_last
        keep "$root/var/cache/apt/archives" $kept
        unpack newer "$ntfs/Users/me/Documents" $documents
    }
    keep "$ntfs/Users/me/Downloads" gnome-backgrounds
    say "v1: logs, a database, home files"
    mkdir -p "$root/var/log" "$root/var/lib/database" "$root/home/me"
    lines 1 $((mib * 150000)) > "$root/var/log/syslog"
    lines 2 $((mib * 50000)) | gzip -n > "$root/var/log/syslog.2.gz"
    database "$root/var/lib/database/base" $database_pages 1
    cp -a "$root/usr/share/vim" "$root/home/me/notes"
    mkdir "$ntfs/Users/me/temp"
    cp "$root/var/lib/database/base" "$ntfs/Users/me/temp/"
    sync
    rm -r "$root/opt/old" "$ntfs/Users/me/temp"
    close
}

make_v2() {
    say "v2: a day later"
    cp "$work/disk" "$work/next"
    mount_disk "$work/next"
    # shellcheck disable=SC2086
    {
        unpack newer "$root" $upgraded $next_day
        keep "$root/var/cache/apt/archives" $upgraded
    }
    lines 3 $((mib * 40000)) >> "$root/var/log/syslog"
    database "$root/var/lib/database/base" $database_pages 2 1
    find "$root/home/me/notes" -type f | sort | awk 'NR % 20 == 0' | xargs rm
    find "$root/home/me/notes" -type f | sort | awk 'NR % 20 == 7' | while read -r file; do date >> "$file"; done
    cp -a "$root/usr/share/go-1.19/src/net" "$root/home/me/project"
    mkdir "$ntfs/Users/me/Pictures"
    find "$ntfs/Users/me/Documents" -name '*.png' | sort | awk 'NR <= 300' | xargs cp -t "$ntfs/Users/me/Pictures"
    lines 4 $((mib * 5000)) > "$ntfs/Users/me/report.txt"
    close
}

make_v3() {
    say "v3: a heavy day"
    cp "$work/next" "$work/heavy"
    mount_disk "$work/heavy"
    # shellcheck disable=SC2086
    unpack newer "$root" $heavy_day
    lines 5 $((mib * 80000)) >> "$root/var/log/syslog"
    database "$root/var/lib/database/base" $database_pages 3 5
    rm -r "$root/usr/share/icons"
    # A move inside a filesystem moves names; across, contents.
    mv "$root/home/me/notes" "$root/home/me/archive"
    cp -a "$root/usr/share/doc/maxima-doc" "$root/home/me/manual"
    cp -a "$root/usr/share/perl" "$root/home/me/perl"
    cp -r "$root/home/me/project" "$ntfs/Users/me/project"
    close
}

make_b1() {
    say "b1: another machine"
    local data_at=$((1 + other_root_mib)) data_mib=$((other_mib - 2 - other_root_mib))
    truncate -s "${other_mib}M" "$work/other"
    sfdisk -q "$work/other" << TABLE
label: dos
start=1MiB, size=${other_root_mib}MiB, type=83, bootable
start=${data_at}MiB, size=${data_mib}MiB, type=83
TABLE
    open "$work/other" 1 "$other_root_mib"
    mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 "$loop"; mount "$loop" "$root"
    open "$work/other" "$data_at" "$data_mib"
    mkfs.xfs -q "$loop"; mount "$loop" "$work/data"
    # shellcheck disable=SC2086
    {
        unpack newer "$root/opt/old" maxima-doc emacs-common
        unpack newer "$root" $other_machine
        unpack newer "$work/data/share" $other_data
    }
    mkdir -p "$root/var/log" "$work/data/database"
    lines 6 $((mib * 100000)) > "$root/var/log/syslog"
    database "$work/data/database/base" $((database_pages / 2)) 4
    keep "$work/data/mirror" fonts-noto-cjk libllvm14 git
    sync
    rm -r "$root/opt/old"
    close
}

# publish FILE NAME: under its name, without holes.
publish() {
    cp --sparse=never "$work/$1" "$work/whole"
    mv "$work/whole" "$out/$2.img"
}

make_v1; make_v2; make_v3; make_b1
rm -f "$out/series.txt"
publish disk v1; publish next v2; publish heavy v3; publish other b1
for name in v1 v2 v3 b1; do
    file=$out/$name.img
    used=$(perl -e 'my $zero = "\0" x 4096; my ($used, $block) = 0; binmode STDIN;
        while (read STDIN, $block, 4096) { $used += length $block if $block ne substr $zero, 0, length $block } print $used' < "$file")
    echo "$name $(stat -c %s "$file") $used $(b3sum --no-names "$file")"
done > "$work/series.txt"
mv "$work/series.txt" "$out/series.txt"
cat "$out/series.txt"

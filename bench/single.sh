#!/bin/bash
# Tools that make a file of one filesystem, made to take a whole disk: partition by partition, and the partition table.
#
#   bench/single.sh partclone-save IMAGE FOLDER       partclone | zstd -3 -T0
#   bench/single.sh partclone-restore FOLDER TARGET
#   bench/single.sh partclone-same IMAGE TARGET       the same blocks in use with the same contents?
#   bench/single.sh fsarchiver-save IMAGE FOLDER      zstd 3, two threads
#   bench/single.sh fsarchiver-restore FOLDER TARGET IMAGE
#   bench/single.sh fsarchiver-same IMAGE TARGET      the same files on the ext4 partition?
#
# As root: a partition of a file is a loop device here, as the kernel may know no partition tables.
set -euo pipefail

loops=()
folder=
finish() {
    if [ -n "$folder" ]; then umount "$folder/one" "$folder/other" 2> /dev/null || true; rm -r "$folder"; fi
    for loop in "${loops[@]}"; do losetup -d "$loop"; done
}
trap finish EXIT

# table IMAGE: start and sectors of each partition.
table() { sfdisk -d "$1" | sed -n 's/.*start= *\([0-9]*\), *size= *\([0-9]*\).*/\1 \2/p'; }
# open IMAGE: a loop device for each partition, in $parts.
open() {
    parts=()
    local start sectors loop
    while read -r start sectors; do
        loop=$(losetup -f --show -o $((start * 512)) --sizelimit $((sectors * 512)) "$1")
        loops+=("$loop")
        parts+=("$loop")
    done < <(table "$1")
}
# tool PARTITION: the partclone for it.
tool() {
    case $(blkid -p -o value -s TYPE "$1") in
    vfat) echo partclone.fat ;;
    ext4) echo partclone.extfs ;;
    ntfs) echo partclone.ntfs ;;
    *) echo "$1: a filesystem that is not in v1" >&2; return 1 ;;
    esac
}
# It ends only when its progress display has woken up once more: after a second at best.
clone() { "$(tool "$1")" -c -f 1 -s "$1" -o - -L /dev/null 2> /dev/null; }
# A table for an empty file as large as the disk.
save_table() {
    sfdisk -d "$1" > "$2/table"
    stat -c %s "$1" > "$2/bytes"
}
restore_table() {
    truncate -s "$(cat "$1/bytes")" "$2"
    sfdisk -q "$2" < "$1/table"
}
# files IMAGE FOLDER: its ext4 partition, mounted.
files() {
    local start sectors
    read -r start sectors < <(table "$1" | sed -n 2p)
    mount -o "ro,noload,loop,offset=$((start * 512)),sizelimit=$((sectors * 512))" "$1" "$2"
}

case $1 in
partclone-save)
    save_table "$2" "$3"
    open "$2"
    for number in "${!parts[@]}"; do clone "${parts[number]}" | zstd -q -3 -T0 -o "$3/$number.zst"; done
    ;;
partclone-restore)
    restore_table "$2" "$3"
    open "$3"
    for number in "${!parts[@]}"; do
        zstd -q -dc "$2/$number.zst" | partclone.restore -f 1 -s - -o "${parts[number]}" -L /dev/null 2> /dev/null
    done
    ;;
partclone-same)
    open "$2"
    before=("${parts[@]}")
    open "$3"
    for number in "${!parts[@]}"; do cmp <(clone "${before[number]}") <(clone "${parts[number]}"); done
    ;;
fsarchiver-save)
    save_table "$2" "$3"
    open "$2"
    fsarchiver savefs -x -A -Z 3 -j 2 "$3/files.fsa" "${parts[@]:1}"
    ;;
fsarchiver-restore)
    restore_table "$2" "$3"
    open "$3"
    fsarchiver restfs -x -j 2 "$2/files.fsa" "id=0,dest=${parts[1]}" "id=1,dest=${parts[2]}"
    ;;
fsarchiver-same)
    folder=$(mktemp -d)
    mkdir "$folder/one" "$folder/other"
    files "$2" "$folder/one"
    files "$3" "$folder/other"
    diff -r --no-dereference "$folder/one" "$folder/other"
    ;;
*) sed -n '2,11p' "$0" >&2; exit 2 ;;
esac

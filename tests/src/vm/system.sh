#!/bin/busybox sh
# First program of the system: comes up as a distribution's does, by /etc/fstab, looks at itself, and says so.
export PATH=/bin
bad() {
    echo "CAS-BOOT-BAD $*"
    poweroff -f
}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -o remount,rw / || bad "root stays read-only"
while read -r what where type options rest; do
    device=$(findfs "$what") || bad "fstab: nothing has $what"
    case $where in
    /) root=$device ;;
    none) swapon "$device" || bad "fstab: swapon $device" ;;
    *) mount -t "$type" -o "$options" "$device" "$where" || bad "fstab: mount $device" ;;
    esac
done < /etc/fstab
mounted=$(awk '$2 == "/" && $1 != "rootfs" { print $1 }' /proc/mounts)
[ "$mounted" = "$root" ] || bad "the root is $mounted, fstab says $root"
(cd /srv && md5sum -c -s sums) || bad "the files are not what they were"
{ cp /srv/noise-0 /srv/written && sync && cmp /srv/noise-0 /srv/written; } || bad "the root cannot be written to"
efi=no
[ ! -d /sys/firmware/efi ] || efi=yes
type=$(awk '$2 == "/" && $1 != "rootfs" { print $3 }' /proc/mounts)
size=$(df -P -m / | awk 'END { print $2 }')
echo
echo "CAS-BOOT-OK efi=$efi root=$type device=$root size=$size"
poweroff -f

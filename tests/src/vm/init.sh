#!/bin/busybox sh
# First program of the initramfs: finds the root by the name that the kernel was given, as a distribution's does.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module" || echo "CAS-BOOT-BAD module $module"
done < /modules/order
for word in $(cat /proc/cmdline); do
    case $word in root=*) root=${word#root=} ;; esac
done
tries=0
until device=$(findfs "$root" 2>/dev/null); do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { echo "CAS-BOOT-BAD no filesystem $root"; cat /proc/partitions; poweroff -f; }
    sleep 0.1
done
mount -o ro "$device" /root || { echo "CAS-BOOT-BAD cannot mount $root, $device"; poweroff -f; }
umount /sys /proc
exec switch_root /root /sbin/init

#!/bin/busybox sh
# Process 1 of the initramfs: reaches the root, and lays an overlay over it.
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs dev /dev
while read -r module; do
    $bb insmod "/mods/$module" || echo "vm: $module not loaded"
done </mods/order
. /vm.conf
$bb mount -t virtiofs -o ro,noatime root /lower || exec $bb poweroff -f
$bb mount -t tmpfs -o size=75% overlay /over
$bb mkdir /over/up /over/work
$bb mount -t overlay -o lowerdir=/lower,upperdir=/over/up,workdir=/over/work overlay /new ||
    exec $bb poweroff -f
for directory in proc sys dev; do $bb mount --move /$directory /new/$directory; done
$bb mount -t tmpfs -o mode=755 run /new/run
$bb mkdir -p /new/run/vm /new/run/lock "/new/usr/lib/modules/$RELEASE"
$bb cp -a /vm.conf /stage2 /command $bb /new/run/vm/
# The kernel's modules, straight from where they are cached.
$bb mount --bind "/lower$MODULES" "/new/usr/lib/modules/$RELEASE"
exec $bb switch_root /new /run/vm/busybox sh /run/vm/stage2

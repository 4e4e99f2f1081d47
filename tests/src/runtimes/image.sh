# Fills the folder $1 with what a container needs: busybox, as first process, DHCP client and web server.
set -e
root=$1
busybox=$(command -v busybox)
mkdir -p "$root"
cd "$root"
mkdir -p bin dev/pts dev/shm etc/init.d mnt proc root run sbin sys tmp usr/bin usr/sbin \
    usr/share/udhcpc var/lib
cp "$busybox" bin/busybox
for applet in $(bin/busybox --list); do
    [ "$applet" = busybox ] || ln -sf busybox "bin/$applet"
done
ln -sf ../bin/busybox sbin/init
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo 'root:x:0:' >etc/group

cat >etc/inittab <<'END'
::sysinit:/etc/init.d/rcS
::respawn:/bin/sleep 1000000
::shutdown:/bin/true
END

cat >etc/init.d/rcS <<'END'
#!/bin/sh
ip link set lo up
ip link set eth0 up
# An address that the runtime has set is kept.
ip -4 addr show eth0 | grep -q inet ||
    udhcpc -i eth0 -s /usr/share/udhcpc/default.script -b -t 10 -T 1 >/run/udhcpc.log 2>&1
echo served >/tmp/index.html
httpd -p 80 -h /tmp
END

cat >usr/share/udhcpc/default.script <<'END'
#!/bin/sh
case $1 in
deconfig) ip addr flush dev "$interface" && ip link set "$interface" up ;;
renew | bound)
    ip addr add "$ip/$mask" dev "$interface"
    for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; done
    for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
    ;;
esac
END
chmod +x etc/init.d/rcS usr/share/udhcpc/default.script

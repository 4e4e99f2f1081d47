# Process 1 of the overlay: the rest of a system, then the command.
bb=/run/vm/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
$bb mkdir -p /dev/shm /dev/pts
$bb mount -t tmpfs -o mode=1777 shm /dev/shm
$bb mount -t devpts -o mode=600,ptmxmode=666 devpts /dev/pts
$bb mount -t tracefs tracefs /sys/kernel/tracing
$bb mount -t debugfs debugfs /sys/kernel/debug
$bb mount -t bpf bpf /sys/fs/bpf
$bb mount -t cgroup2 cgroup2 /sys/fs/cgroup
$bb ln -sf /proc/self/fd /dev/fd
$bb ln -sf fd/0 /dev/stdin
$bb ln -sf fd/1 /dev/stdout
$bb ln -sf fd/2 /dev/stderr
# The kernel loads what is asked of it (nf_tables, bridge) through modprobe.
if ! [ -e /usr/sbin/modprobe ]; then
    for applet in modprobe lsmod rmmod insmod modinfo; do
        $bb ln -sf $bb /usr/sbin/$applet
    done
fi
echo /usr/sbin/modprobe >/proc/sys/kernel/modprobe
$bb hostname guest
$bb ip link set lo up
for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name"
    case $name in
        out) out=/dev/${port##*/} ;;
        err) err=/dev/${port##*/} ;;
        ctl) ctl=/dev/${port##*/} ;;
    esac
done
exec 3>"$ctl"
# A port can be opened once only: the command and its children write to pipes.
$bb mkfifo /run/vm/out /run/vm/err
$bb cat </run/vm/out >"$out" & out_cat=$!
$bb cat </run/vm/err >"$err" & err_cat=$!
echo up >&3
(exec 3>&-; exec $bb setsid /bin/sh /run/vm/command) </dev/null >/run/vm/out 2>/run/vm/err
status=$?
# What the command left running may hold the pipes open: it ends now.
trap '' TERM
$bb kill -9 $($bb ps -o pid,ppid | $bb awk -v a=$out_cat -v b=$err_cat \
    '$2 != 2 && $2 != 0 && $1 > 2 && $1 != a && $1 != b {print $1}') 2>/dev/null
wait $out_cat $err_cat
echo "exit $status" >&3
exec $bb poweroff -f

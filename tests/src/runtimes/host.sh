# The first process of a host: what it mounts is its own, as are the network namespace and the cgroups
# ($hierarchies) that it starts in. $1 is the path of the namespace `world`. Tells its process id, and
# ends, with everything in it, when its input ends.
read -r pid rest </proc/self/stat
mount -t proc proc /proc

# What the daemons write stays in memory, and goes with the mounts.
mount -t tmpfs -o mode=755 none /mnt
for dir in etc var; do
    mkdir "/mnt/$dir" "/mnt/$dir.work"
    mount -t overlay -o "lowerdir=/$dir,upperdir=/mnt/$dir,workdir=/mnt/$dir.work" overlay "/$dir"
done
for dir in cni containerd containers docker lxc lxd; do
    mkdir -p "/var/lib/$dir"
    mount -t tmpfs -o mode=711 none "/var/lib/$dir"
done
mkdir -p /mnt/run/lock /mnt/run/netns /mnt/run/root
: >/mnt/run/netns/world
mount --bind "$1" /mnt/run/netns/world
mount --rbind /mnt/run /run

# The devices of this network namespace, and these cgroups.
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
for kernel in bpf:/sys/fs/bpf tracefs:/sys/kernel/tracing securityfs:/sys/kernel/security; do
    mount -t "${kernel%%:*}" none "${kernel#*:}" || true
done
case $hierarchies in
*"/sys/fs/cgroup|"*) ;;
*) mount -t tmpfs -o mode=755 none /sys/fs/cgroup ;;
esac
for hierarchy in $hierarchies; do
    path=${hierarchy%%|*} options=${hierarchy##*|} type=${hierarchy#*|}
    mkdir -p "$path"
    case ${type%%|*} in
    cgroup)
        mount -t cgroup -o "${options#*relatime,}" none "$path"
        own=$path
        ;;
    # A cgroup that hands its controllers on has no process itself.
    *)
        mount -t cgroup2 none "$path"
        own=$path/init
        mkdir "$own"
        echo 1 >"$own/cgroup.procs"
        for controller in $(cat "$path/cgroup.controllers"); do
            echo "+$controller" >"$path/cgroup.subtree_control" || true
        done
        ;;
    esac
    echo "echo 0 >$own/cgroup.procs" >>/run/enter
done
# Runs a command in the cgroups of this host; whoever comes by way of the namespaces is not yet.
echo 'exec "$@"' >>/run/enter

echo "$pid"
exec >/dev/null
# Whoever loses their parent becomes a child of this shell, which buries them while it waits.
cat

# Moves into cgroups of its own, one of each hierarchy, all named $1, and from there runs the script $3
# as the first process of new process, mount and cgroup namespaces. $2 is passed on.
set -e
hierarchies=$(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 "|" $3 "|" $4 }' /proc/mounts)
for hierarchy in $hierarchies; do
    own=${hierarchy%%|*}/$1
    mkdir "$own"
    if [ -e "$own/tasks" ] && [ -e "$own/cpuset.cpus" ]; then
        # The first version lets nobody in before it has processors and memory.
        cat "$own/../cpuset.cpus" >"$own/cpuset.cpus"
        cat "$own/../cpuset.mems" >"$own/cpuset.mems"
    fi
    echo $$ >"$own/cgroup.procs"
done
export hierarchies
exec unshare --cgroup --mount --propagation private --pid --fork sh -ec "$3" host "$2"

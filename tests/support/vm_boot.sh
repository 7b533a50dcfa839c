#!/bin/bash
# Boots a root file system as if it were a VM: vm_boot.sh BASE SCRATCH NAME, inside the network namespace that it is to have.
# systemd is PID 1, in namespaces of its own (mounts, processes, host name, control groups); the kernel is the box's.
# BASE stays as it is (an overlay); what the machine writes is in SCRATCH, and comes back with it at the next boot.
set -euo pipefail
base=$1 scratch=$2 name=$3
if [ -z "${VM_INSIDE:-}" ]; then
    mkdir -p "$scratch"/{upper,work,root,engine}
    for hierarchy in $(awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts); do
        mkdir -p "$hierarchy/sk8v-$name"
        if [ -e "$hierarchy/cpuset.cpus" ]; then
            for file in cpuset.cpus cpuset.mems; do cat "$hierarchy/$file" >"$hierarchy/sk8v-$name/$file"; done
            echo 1 >"$hierarchy/sk8v-$name/cgroup.clone_children"
        fi
        echo $$ >"$hierarchy/sk8v-$name/cgroup.procs"
    done
    exec env -i VM_INSIDE=1 container=sk8v PATH=/usr/sbin:/usr/bin:/sbin:/bin unshare --mount --propagation private --pid \
        --uts --ipc --cgroup --fork --kill-child "$0" "$@"
fi
hostname "$name"
root=$scratch/root
mount -t overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"
mkdir -p "$root"/{proc,sys,dev,run,tmp,old,var/lib/docker}
echo "$name" >"$root/etc/hostname"
printf "127.0.0.1 localhost\n127.0.1.1 %s\n" "$name" >"$root/etc/hosts"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
while read -r _ path kind options _; do
    case $kind in cgroup | cgroup2) ;; *) continue ;; esac
    mkdir -p "$root$path"
    wanted=$(tr , '\n' <<<"$options" | grep -vxE 'rw|ro|relatime|nosuid|nodev|noexec|xattr|nsdelegate|release_agent=.*' | paste -sd, || true)
    mount -t "$kind" ${wanted:+-o "$wanted"} cgroup "$root$path"
done < <(grep -E '^\S+ /sys/fs/cgroup/' /proc/mounts)
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
while read -r device kind major minor; do
    mknod -m 666 "$root/dev/$device" "$kind" "$major" "$minor"
done <<'DEVICES'
null c 1 3
zero c 1 5
full c 1 7
random c 1 8
urandom c 1 9
tty c 5 0
DEVICES
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
mount --bind "$scratch/engine" "$root/var/lib/docker" # its overlays cannot lie on ours
cd "$root"
pivot_root . old
umount -l /old
exec /sbin/init

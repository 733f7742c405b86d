# Makes the root of scripts/try-units and becomes its systemd: container.sh TREE WORK, in namespaces of its own.
set -euo pipefail
tree=$1 work=$2
mount --make-rprivate /
mkdir "$work/memory"
mount -t tmpfs memory "$work/memory"
root=$work/memory/root
mkdir "$root" "$work/memory"/{upper,work}
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$work/memory/upper,workdir=$work/memory/work" "$root"
mkdir -p "$root"/{proc,sys,dev,run,tmp,out,etc/systemd/system,usr/lib/systemd/user,usr/lib/sysusers.d}
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs run "$root/run"
mount -t tmpfs dev "$root/dev"
mkdir "$root"/dev/{pts,shm,mqueue,hugepages}
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /run/systemd/journal/dev-log "$root/dev/log"
mount -t tmpfs shm "$root/dev/shm"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount --bind "$work/out" "$root/out"

cp "$work"/sv3/{sv3,sv3-supervisor,sv3-worker} "$root/usr/bin/"
cp "$work"/sv3/system/* "$root/usr/lib/systemd/system/"
cp "$work"/sv3/user/* "$root/usr/lib/systemd/user/"
cp "$work/sv3/sv3.sysusers" "$root/usr/lib/sysusers.d/sv3.conf"
cp "$work/inside" "$root/inside"
cat >"$root/usr/lib/systemd/system/try.target" <<'UNIT'
[Unit]
Requires=basic.target
Wants=try.service
After=basic.target
AllowIsolate=yes
UNIT
cat >"$root/usr/lib/systemd/system/try.service" <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/bash /inside
StandardOutput=file:/out/said
StandardError=inherit
UNIT
ln -s /usr/lib/systemd/system/try.target "$root/etc/systemd/system/default.target"
for unit in systemd-logind systemd-networkd systemd-udevd systemd-resolved; do
    ln -s /dev/null "$root/etc/systemd/system/$unit.service"
done
printf 'root:x:0:0::/root:/bin/bash\n' >"$root/etc/passwd"
printf 'root:x:0:\nkvm:x:104:\n' >"$root/etc/group"
echo uninitialized >"$root/etc/machine-id"
mkdir "$root/before"
cd "$root"
pivot_root . before
umount --lazy /before
exec env -i container=sv3 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --system --log-target=journal --show-status=no <&0

#!/bin/sh
# router.sh TREE FOLDER: FRR's daemons, from a tree that scripts/setup made, with all that they write in FOLDER.
#
# The daemons know the paths that they were built for. So they get a root of their own: the tree's /usr, and a user and
# a group that FRR asks for. To be run in namespaces of mounts and processes of its own, with which all this ends.
set -eu
tree=$1 folder=$2
root=$folder/root

mkdir -p "$root"
mount -t tmpfs none "$root"
mkdir -p "$root"/usr "$root"/dev "$root"/proc "$root"/tmp "$root"/etc/frr "$root"/run/frr "$root"/var/tmp/frr \
    "$root"/var/lib/frr
ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root/"
ln -s /run "$root/var/run"
mount --bind "$tree/usr" "$root/usr"
mount --rbind /dev "$root/dev"
mount -t proc none "$root/proc"
mount --bind "$folder/run" "$root/run/frr"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
printf 'root:x:0:\nfrrvty:x:900:root\n' >"$root/etc/group"
cp "$folder"/*.conf "$root/etc/frr/"

for daemon in mgmtd zebra bgpd; do
    chroot "$root" "/usr/lib/frr/$daemon" -u root -g root -P 0 --log stdout >"$folder/$daemon.log" 2>&1 &
    # Each wants the one before it.
    until [ -S "$folder/run/$daemon.vty" ]; do sleep 0.02; done
done
wait

# The guest: Debian's kernel, unpacked, and an initramfs of busybox, iperf3, netperf, the network driver and
# scripts/guest/init.

# In the order of their dependencies; what the kernel has built in is left out.
GUEST_MODULES="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net"

# guest_image: makes $SV3_CACHE/guest/{vmlinux,initrd} from the bookworm tree, and netperf of sid, as bookworm has none.
guest_image() {
    local tree=$SV3_CACHE/bookworm sid=$SV3_CACHE/sid out=$SV3_CACHE/guest made_of
    made_of=$(cat "$tree/.packages" "$sid/.packages" "$ROOT"/scripts/guest/* "$ROOT/scripts/lib/guest.sh" | cksum)
    [ "$(cat "$out/.made-of" 2>/dev/null)" = "$made_of" ] && return
    say "building the guest in $out"
    local root=$out/root module file
    rm -rf "$out"
    mkdir -p "$root"/{bin,modules,usr/lib/x86_64-linux-gnu,lib64}
    cp "$tree/bin/busybox" "$tree/usr/bin/iperf3" "$sid/usr/bin/"{netperf,netserver} "$root/bin/"
    cp "$ROOT"/scripts/guest/* "$root/"
    chmod 755 "$root"/{init,configure,lease}
    # The newer C library comes last and serves both.
    guest_libraries bookworm usr/bin/iperf3 >"$out/libraries"
    guest_libraries sid usr/bin/netperf >>"$out/libraries"
    while read -r file; do cp "$file" "$root/usr/lib/x86_64-linux-gnu/"; done <"$out/libraries"
    cp "$sid/lib64/ld-linux-x86-64.so.2" "$root/lib64/"
    for module in $GUEST_MODULES; do
        file=$(find "$tree/lib/modules" -name "$module.ko")
        [ -n "$file" ] || continue
        cp "$file" "$root/modules/"
        echo "$module" >>"$root/modules/order"
    done
    guest_kernel >"$out/vmlinux"
    (cd "$root" && find . | "$tree/bin/busybox" cpio -o -H newc 2>/dev/null) >"$out/initrd"
    rm -rf "$root" "$out/libraries"
    echo "$made_of" >"$out/.made-of"
}

# guest_kernel: the kernel out of its compressed image. An emulated guest would take 5 s to unpack it at each boot.
guest_kernel() {
    local image offset
    image=$(echo "$SV3_CACHE"/bookworm/boot/vmlinuz-*)
    offset=$(LC_ALL=C grep -abo -P '\xFD7zXZ\x00' "$image" | awk -F : 'NR == 1 { print $1 }')
    [ -n "$offset" ] || die "$image is not compressed by xz"
    # The archive ends before the image does.
    guest_loader bookworm "$SV3_CACHE/bookworm/usr/bin/xz" -dc --single-stream < <(tail -c "+$((offset + 1))" "$image")
}

# guest_libraries TREE PROGRAM: the files of the shared libraries that it loads, one a line.
guest_libraries() { guest_loader "$1" --list "$SV3_CACHE/$1/$2" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'; }

# guest_loader TREE [OPTION...] PROGRAM ARGUMENT...: runs a program of the tree by the tree's loader.
guest_loader() {
    local tree=$SV3_CACHE/$1
    shift
    "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$tree/usr/lib/x86_64-linux-gnu" "$@"
}

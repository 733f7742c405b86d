# shellcheck shell=dash
# PCI functions as the kernel's sysfs shows them, and how to change them. Sourced by vfio-rebind and vf. POSIX sh with
# `local`, which dash and busybox have.

# Where the kernel's trees lie. Tests alone say otherwise: a folder that looks like a machine, in which the program
# `kernel` gets what would be written to the kernel.
SV3_ROOT=${SV3_ROOT:-}
SYS=$SV3_ROOT/sys
PROC=$SV3_ROOT/proc
PCI=$SYS/bus/pci

# say TEXT...: progress for the person, on stderr.
say() { printf '%s\n' "$*" >&2; }

# die TEXT...: what is wrong and what to do about it.
die() {
    say "error: $*"
    exit 1
}

# put FILE VALUE: tells the kernel. An empty value clears what the file says.
put() {
    if [ -n "$SV3_ROOT" ]; then
        "$SV3_ROOT/kernel" "$1" "$2"
    else
        echo "$2" >"$1"
    fi || die "the kernel does not take '$2' in $1: see dmesg"
}

# value FILE: its content, or nothing.
value() { cat "$1" 2>/dev/null || true; }

# target LINK: the last part of the path that it leads to, or nothing.
target() { [ ! -L "$1" ] || basename "$(readlink "$1")"; }

# What to do if a later step fails, the last one first.
UNDO=

# later COMMAND: it takes back what comes next.
later() {
    UNDO="$1
$UNDO"
}

# leave: ends the script; after a failure it takes back what was done.
leave() {
    local status=$? todo="$UNDO"
    UNDO=
    if [ $status != 0 ] && [ -n "$todo" ]; then
        say "taking back what was done"
        # A subshell, as `die` in one of them must not keep the others from being done.
        printf '%s' "$todo" | while read -r command; do (eval "$command") || true; done
    fi
    exit $status
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# must_be_root: changes are root's.
must_be_root() { [ "$(id -u)" = 0 ] || die "this is for root: sudo $0 ..."; }

# must_be_user NAME: it has an account.
must_be_user() { id -u "$1" >/dev/null 2>&1 || die "there is no user '$1'"; }

# address CARD: the PCI address of a card that is told by address, with or without domain, or by interface.
address() {
    local it
    for it in "$1" "0000:$1" "$(target "$SYS/class/net/$1/device")"; do
        if [ -n "$it" ] && [ -d "$PCI/devices/$it" ]; then
            echo "$it"
            return
        fi
    done
    die "there is no PCI device and no interface '$1': ls $PCI/devices; ls /sys/class/net"
}

# driver ADDRESS: the driver that has it, or nothing.
driver() { target "$PCI/devices/$1/driver"; }

# group ADDRESS: the number of its IOMMU group, or nothing.
group() { target "$PCI/devices/$1/iommu_group"; }

# members ADDRESS: all devices of its group, itself too.
members() { ls "$PCI/devices/$1/iommu_group/devices" 2>/dev/null || true; }

# interfaces ADDRESS: the names of the interfaces that its driver made.
interfaces() { ls "$PCI/devices/$1/net" 2>/dev/null || true; }

# functions ADDRESS: the virtual functions of a physical one, in the order of their numbers.
functions() {
    local number=0
    while [ -L "$PCI/devices/$1/virtfn$number" ]; do
        target "$PCI/devices/$1/virtfn$number"
        number=$((number + 1))
    done
}

# has_node ADDRESS: the device by which a program opens the group, while vfio-pci has it.
has_node() { [ -n "$(group "$1")" ] && [ -e "$SV3_ROOT/dev/vfio/$(group "$1")" ]; }

# is_open ADDRESS: a program has its group open. The kernel gives a group to one program at a time.
is_open() { has_node "$1" && ! (: <"$SV3_ROOT/dev/vfio/$(group "$1")") 2>/dev/null; }

# holders ADDRESS: the programs that may have it open: those with its group, and those with any device of VFIO, as the
# kernel does not say which one that is. A child of such a program is not named.
holders() {
    local pid parent found=
    for pid in $(ls -lR "$PROC"/[0-9]*/fd 2>/dev/null | awk -v node="/dev/vfio/$(group "$1")" '
        /^\/.*\/fd:$/ { pid = $0; sub(/\/fd:$/, "", pid); sub(/.*\//, "", pid) }
        ($NF == node || /-> anon_inode:\[vfio-device/) && !seen[pid]++ { print pid }' | sort -n); do
        parent=$(sed -n 's/^PPid:[[:space:]]*//p' "$PROC/$pid/status" 2>/dev/null || true)
        case $found in *"(${parent:-none})"*) continue ;; esac
        found="$found${found:+ or} $(value "$PROC/$pid/comm") ($pid)"
    done
    echo "${found:- a program}"
}

# shellcheck shell=dash
# What must hold before a card can be driven by VFIO: what is missing, with what helps. Sourced behind pci.sh.

# Options: tell also what is well; a card in use is not missing; neighbours in the group go along.
CHECK=no FORCE=no WITH_GROUP=no
# How many things are missing.
MISSING=0
# KiB of a card's memory for each of its queue pairs, if nothing else is said to `sv3 attach nic`.
NEED=6212

# well TEXT: this is as it must be.
well() { [ "$CHECK" = no ] || echo "ok       $1"; }

# missing TEXT HELP...: without this it does not work.
missing() {
    MISSING=$((MISSING + 1))
    tell missing "$@"
}

# needs_force TEXT HELP...: this works and may hurt somebody.
needs_force() { if [ "$FORCE" = yes ]; then tell forced "$1"; else missing "$@"; fi; }

# note TEXT HELP...: worth knowing.
note() { tell note "$@"; }

# tell WORD TEXT HELP...: one thing, and what helps below it. On stdout if the person asked for it.
tell() {
    local word=$1 text=$2
    shift 2
    {
        printf '%-8s %s\n' "$word" "$text"
        [ $# = 0 ] || printf '           %s\n' "$@"
    } >&"$(if [ "$CHECK" = yes ]; then echo 1; else echo 2; fi)"
}

# check_iommu: devices are in groups, and their interrupts are translated.
check_iommu() {
    local tables="$SYS/firmware/acpi/tables" option=/etc/default/grub
    if [ -n "$(ls "$SYS/kernel/iommu_groups" 2>/dev/null)" ]; then
        well "the IOMMU is on"
        check_interrupts
    elif [ -e "$tables/DMAR" ]; then
        missing "the IOMMU is off: no IOMMU groups" \
            "add intel_iommu=on to GRUB_CMDLINE_LINUX_DEFAULT in $option, then: update-grub; reboot"
    elif [ -e "$tables/IVRS" ]; then
        missing "the IOMMU is off: no IOMMU groups" \
            "take iommu=off and amd_iommu=off out of $option, then: update-grub; reboot"
    else
        missing "the firmware offers no IOMMU" \
            "switch VT-d (Intel) or IOMMU (AMD) on in the firmware's settings" \
            "a virtual machine of QEMU: -machine q35 -device intel-iommu,intremap=on,caching-mode=on"
    fi
    check_no_iommu_mode
    if [ "$(value "$SYS/class/dmi/id/sys_vendor")" = QEMU ] && [ -e "$SYS/class/iommu/ivhd0" ]; then
        note "QEMU's amd-iommu translates only with dma-remap=on, and nothing in here shows whether it does" \
            "without it the card reads and writes wrong memory: -device amd-iommu,dma-remap=on, or intel-iommu"
    fi
}

check_no_iommu_mode() {
    [ "$(value "$SYS/module/vfio/parameters/enable_unsafe_noiommu_mode")" = Y ] || return 0
    note "VFIO's mode without IOMMU is on: sv3 refuses such groups, as the card could write all of the memory" \
        "echo N >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
}

# A card that may write any interrupt could signal what it likes, so the kernel refuses such a group with EPERM.
check_interrupts() {
    if grep -q ' IR-' "$PROC/interrupts" 2>/dev/null; then
        well "interrupts are remapped"
    elif [ "$(value "$SYS/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts")" = Y ]; then
        note "interrupts are not remapped, and allow_unsafe_interrupts is set: the card can forge any interrupt"
    else
        missing "interrupts are not remapped: the kernel refuses the group (EPERM)" \
            "switch interrupt remapping (or x2APIC) on in the firmware's settings; no intremap=off, no nointremap" \
            "a virtual machine of QEMU: intel-iommu,intremap=on; virtio-iommu cannot do it" \
            "if you trust card and user: modprobe vfio_iommu_type1" \
            "and echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
    fi
}

# is_loaded MODULE: or a part of the kernel.
is_loaded() { [ -d "$PCI/drivers/$1" ] || [ -d "$SYS/module/$1" ]; }

# check_modules: vfio-pci is there, or can be loaded.
check_modules() {
    local folder module
    folder=$SV3_ROOT/lib/modules/$(uname -r)
    for module in vfio-pci vfio_iommu_type1; do
        if is_loaded "$module"; then
            well "$module is loaded"
        elif grep -qs "/$module\.ko" "$folder/modules.dep" "$folder/modules.builtin"; then
            well "$module can be loaded"
        else
            missing "this kernel has no module $module" \
                "install the distribution's full kernel (Debian: apt install linux-image-amd64), and boot it"
        fi
    done
    case $(value "$SYS/kernel/security/lockdown") in
    *'[none]'* | '') ;;
    *) note "the kernel is locked down: VFIO works, if its modules are signed; allow_unsafe_interrupts may not" ;;
    esac
}

# check_memory USER: its programs may lock the memory of a card.
check_memory() {
    local uid limits least most
    uid=$(id -u "$1")
    limits=$(locked_memory "$uid")
    least=${limits% *} most=${limits#* }
    if [ -z "$limits" ]; then
        note "nothing of $1 runs: its limit of locked memory is unknown; a card needs $NEED KiB for each queue pair" \
            "as $1: ulimit -l"
    elif [ "$most" -lt $NEED ]; then
        advise "$1 may lock $most KiB of memory; a card needs $NEED KiB for each queue pair" \
            "echo '$1 - memlock 65536' >/etc/security/limits.d/sv3.conf; then $1 logs in again" \
            "in a unit of systemd: LimitMEMLOCK=64M"
    elif [ "$least" -lt $NEED ]; then
        note "some programs of $1 may lock only $least KiB: say \`sv3 attach\` in a new login"
    else
        well "$1 may lock $least KiB of memory; a card needs $NEED KiB for each queue pair"
    fi
}

# advise TEXT HELP...: the card can be had without it, not be used.
advise() { if [ "$CHECK" = yes ]; then missing "$@"; else note "$@"; fi; }

# locked_memory UID: the least and the most that programs of a user may lock, in KiB; nothing if none runs. The hard
# limit counts: `sv3 attach nic` raises the soft one.
locked_memory() {
    grep -ls "^Uid:[[:space:]]$1[[:space:]]" "$PROC"/[0-9]*/status | sed 's/status$/limits/' |
        while read -r file; do value "$file"; done | awk '
            /^Max locked memory/ {
                limit = $5 == "unlimited" ? 1000000000 : int($5 / 1024)
                if (!count++ || limit < least) least = limit
                if (limit > most) most = limit
            }
            END { if (count) print least, most }'
}

# check_group ADDRESS: what else the card's group has, and whether the card can have it for itself.
check_group() {
    local it has
    if [ -z "$(group "$1")" ]; then
        [ -z "$(ls "$SYS/kernel/iommu_groups" 2>/dev/null)" ] ||
            missing "$1 has no IOMMU group" "put it into a slot behind the IOMMU"
        return 0
    fi
    if [ "$(value "$PCI/devices/$1/iommu_group/name")" = vfio-noiommu ]; then
        missing "$1 is in a group without IOMMU: it could write all of the memory" \
            "$0 --back $1; echo N >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode; switch the IOMMU on"
    fi
    for it in $(members "$1"); do
        has=$(driver "$it")
        case $it/$(value "$PCI/devices/$it/class")/$has in
        "$1"/*) ;;
        */0x0604*) well "$it, a bridge, is in group $(group "$1") too and stays as it is" ;;
        */vfio-pci) well "$it is in group $(group "$1") too and bound to vfio-pci" ;;
        */) well "$it is in group $(group "$1") too, has no driver, and may have none while the card is the user's" ;;
        *) check_neighbour "$1" "$it" "$has" ;;
        esac
    done
    well "$1 is in IOMMU group $(group "$1")"
}

# check_neighbour ADDRESS OTHER DRIVER: a device that must go along.
check_neighbour() {
    local names
    names=$(interfaces "$2" | paste -s -d ' ' -)
    if [ "$WITH_GROUP" = yes ]; then
        check_card "$2"
        note "$2 (driver $3${names:+, interface $names}) goes along: it is in group $(group "$1")"
    else
        missing "$2 (driver $3${names:+, interface $names}) is in group $(group "$1") too and must go along" \
            "why: the IOMMU cannot tell the devices of a group apart, and each could reach the memory of the others" \
            "--with-group takes it along; or another slot; or ACS switched on in the firmware's settings"
    fi
}

# check_card ADDRESS: it is a network card, and nobody misses it.
check_card() {
    local it="$PCI/devices/$1" class count
    class=$(value "$it/class")
    case $class in
    0x02*) ;;
    *) missing "$1 is no network card: its class is $class" "choose another one: ls -l /sys/class/net/*/device" ;;
    esac
    count=$(value "$it/sriov_numvfs")
    if [ "${count:-0}" != 0 ]; then
        missing "$1 has $count virtual functions, which end with its driver" \
            "give a user one of them, or remove them: ${0%/*}/vf --back $1"
    fi
    if [ "$(target "$it/physfn/driver")" = vfio-pci ]; then
        missing "$1 is a virtual function of $(target "$it/physfn"), which vfio-pci has: opening it wants a token" \
            "$0 --back $(target "$it/physfn")"
    fi
    check_use "$1"
}

# check_use ADDRESS: no program and no address of this host depends on it.
check_use() {
    local has names name
    has=$(driver "$1")
    names=$(interfaces "$1")
    case $has in
    '') well "$1 has no driver" ;;
    vfio-pci) well "$1 is bound to vfio-pci already" ;;
    *)
        [ -n "$names" ] || needs_force "$1 has driver $has and no interface here: a container may have it" \
            "find out which, or --force"
        ;;
    esac
    for name in $names; do check_interface "$1" "$name"; done
}

check_interface() {
    local uses
    uses=$(uses_of "$2" | paste -s -d ',' - | sed 's/,/, /g')
    if [ -n "$uses" ]; then
        needs_force "$1 is in use: $2 $uses" \
            "move them to another interface (ip address flush dev $2), or --force ends them"
    else
        well "$1 has interface $2, which nobody uses"
    fi
}

# uses_of INTERFACE: what depends on it, one a line. Each interface that is up has a link-local address: not a use.
uses_of() {
    local above link
    ip -o address show dev "$1" 2>/dev/null | awk '
        $3 == "inet" || ($3 == "inet6" && !/ scope link/) { print "has address " $4 }'
    { ip route show && ip -6 route show; } 2>/dev/null | awk -v name="$1" '
        $1 == "default" { for (i = 2; i < NF; i++) if ($i == "dev" && $(i + 1) == name) yes = 1 }
        END { if (yes) print "leads the default route" }'
    above=$(target "$SYS/class/net/$1/master")
    [ -z "$above" ] || echo "is a member of $above"
    for link in "$SYS/class/net/$1"/upper_*; do
        [ ! -e "$link" ] || [ "${link##*/upper_}" = "$above" ] || echo "carries ${link##*/upper_}"
    done
}

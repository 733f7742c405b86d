#!/usr/bin/env bash
# systemd of Debian bookworm (252.39-1~deb12u2): `systemd-analyze verify` cannot verify a unit whose instance has colons.
#
# One would guess that each file that systemd loads as a unit can be verified by its path. Colons are valid in the names
# of units (systemd.unit(5)), and an instance named by a PCI address, card@0000:02:00.1.service, is started by systemd
# as any other. Seen: verify takes what follows the first colon for an alias (its manual has FILE:ALIAS), looks for the
# part before it, and ends with "Couldn't process aliases: No such file or directory", which names neither the file nor
# the colon. The template, card@.service, and an instance without colons are verified.
#
# Fetches the package into a temporary folder; fails if the behaviour has changed. Needs apt.
set -euo pipefail
cd "$(dirname "$0")/../scripts"
. lib/say.sh
. lib/tree.sh
SV3_CACHE=$(mktemp -d)
trap 'rm -rf "$SV3_CACHE"' EXIT
tree bookworm-systemd systemd=252.39-1~deb12u2
units=$SV3_CACHE/units
mkdir "$units"
cat >"$units/card@.service" <<'UNIT'
[Unit]
Description=A card at %i

[Service]
Type=oneshot
ExecStart=/bin/true %i
UNIT
cp "$units/card@.service" "$units/card@0000:02:00.1.service"
cp "$units/card@.service" "$units/card@plain.service"
analyze() {
    local tree=$SV3_CACHE/bookworm-systemd
    local libraries=$tree/usr/lib/x86_64-linux-gnu
    "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$libraries/systemd:$libraries" \
        "$tree/usr/bin/systemd-analyze" "$@"
}
verify() {
    analyze verify --man=no "$units/$1" 2>&1
}

analyze --version | head -n 1
for name in card@.service card@plain.service; do
    verify $name || { echo "CHANGED: $name is not verified"; exit 1; }
    echo "$name is verified"
done
if said=$(verify 'card@0000:02:00.1.service'); then
    echo "CHANGED: a unit with colons in its name is verified"
    exit 1
fi
echo "card@0000:02:00.1.service is not: $said"
case $said in
*"Couldn't process aliases"*) ;;
*) echo "CHANGED: that is another error"; exit 1 ;;
esac

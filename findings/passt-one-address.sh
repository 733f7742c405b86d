#!/usr/bin/env bash
# passt of 2 October 2026 (Debian sid, 0.0~git20261002.cba3570-1): its DHCP server leases one address to every client.
#
# One would guess that a DHCP server leases an address to one client at a time (RFC 2131: clients are told apart by
# their identifier or hardware address). Seen: two clients with different Ethernet addresses on one connection get the
# same address, one after the other, and both leases are granted. Behind a switch that is a duplicate address. passt is
# meant for one guest; put a switch between it and guests, and only one of them may use it.
#
# Fetches the package into a temporary folder; fails if the behaviour has changed. Needs apt and perl.
set -euo pipefail
cd "$(dirname "$0")/../scripts"
. lib/say.sh
. lib/tree.sh
. lib/guest.sh
SV3_CACHE=$(mktemp -d)
chmod 755 "$SV3_CACHE"
program=
trap '[ -z "$program" ] || kill "$program" 2>/dev/null || true; rm -rf "$SV3_CACHE"' EXIT
tree sid-passt passt=0.0~git20261002.cba3570-1
mkdir -m 777 "$SV3_CACHE/run"
guest_loader sid-passt "$SV3_CACHE/sid-passt/usr/bin/passt" --version | head -n 1
guest_loader sid-passt "$SV3_CACHE/sid-passt/usr/bin/passt" --foreground --socket "$SV3_CACHE/run/socket" \
    --address 10.0.5.15 --netmask 24 --gateway 10.0.5.2 >"$SV3_CACHE/log" 2>&1 &
program=$!

# Two clients by turns on one connection: DHCP discover and request, with 4 octets of length in front of each frame.
perl -MIO::Socket::UNIX -MIO::Select -e '
    my $path = shift; my $s;
    for (1 .. 100) { last if $s = IO::Socket::UNIX->new(Peer => $path); select undef, undef, undef, 0.05 }
    die "passt does not listen\n" unless $s;
    sub sum { my $t = 0; $t += $_ for unpack "n*", $_[0] . (length($_[0]) % 2 ? "\0" : ""); $t = ($t & 0xffff) + ($t >> 16) while $t >> 16; ~$t & 0xffff }
    sub say_dhcp { my ($n, $type, $more) = @_; my $mac = pack "C6", 0x52, 0x54, 0, 0, 0, $n;
        my $bootp = pack("CCCCNnn", 1, 1, 6, 0, 1000 + $n, 0, 0x8000) . ("\0" x 16) . $mac . ("\0" x 202) . pack("N", 0x63825363) . pack("CCC", 53, 1, $type) . $more . "\xff";
        my $udp = pack("nnnn", 68, 67, 8 + length $bootp, 0) . $bootp;
        my $ip = pack("CCnnnCCna4a4", 0x45, 0, 20 + length $udp, 0, 0, 64, 17, 0, "\0" x 4, "\xff" x 4); substr($ip, 10, 2) = pack "n", sum($ip);
        my $frame = ("\xff" x 6) . $mac . pack("n", 0x800) . $ip . $udp;
        syswrite $s, pack("N", length $frame) . $frame }
    sub octets { my $want = shift; my $all = ""; while (length $all < $want) { die "no answer\n" unless IO::Select->new($s)->can_read(5); sysread($s, my $part, $want - length $all) or die "passt has closed the connection\n"; $all .= $part } $all }
    sub answer { my $n = shift; for (1 .. 200) { my $frame = octets(unpack "N", octets(4));
        next unless substr($frame, 12, 2) eq "\x08\0" && length $frame > 282 && unpack("n", substr $frame, 36, 2) == 68 && unpack("N", substr $frame, 46, 4) == 1000 + $n;
        my $at = index $frame, "\x35\x01", 278; return (ord(substr $frame, $at + 2, 1), join ".", unpack "C4", substr $frame, 58, 4) } die "no answer\n" }
    my @leases;
    for my $n (1, 2) {
        say_dhcp($n, 1, ""); my ($type, $address) = answer($n);
        die "CHANGED: no offer for client $n\n" unless $type == 2;
        say_dhcp($n, 3, pack("CCa4", 50, 4, pack "C4", split /\./, $address)); ($type, $address) = answer($n);
        die "CHANGED: client $n gets no lease\n" unless $type == 5;
        print "client 52:54:00:00:00:0$n has a lease of $address\n"; push @leases, $address;
    }
    die "CHANGED: each client has an address of its own\n" unless $leases[0] eq $leases[1];
' "$SV3_CACHE/run/socket"
echo "both clients have the same address"

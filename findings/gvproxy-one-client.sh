#!/usr/bin/env bash
# gvproxy 0.8.1 (Debian sid, 0.8.1-4) with -listen-qemu: a listening socket that serves one client in its life.
#
# One would guess that a program that listens serves the next client when the first has left, or tells it that it will
# not. Seen: a second client connects without an error while the first one is served, and is never heard. When the first
# one leaves, gvproxy does not turn to the second: it exits, with status 0, and the second one's connection ends. So
# whoever keeps a port to gvproxy must start gvproxy again with each connection.
#
# Fetches the package into a temporary folder; fails if the behaviour has changed. Needs apt and perl.
set -euo pipefail
cd "$(dirname "$0")/../scripts"
. lib/say.sh
. lib/tree.sh
SV3_CACHE=$(mktemp -d)
program=
trap '[ -z "$program" ] || kill "$program" 2>/dev/null || true; rm -rf "$SV3_CACHE"' EXIT
tree sid-gvproxy gvproxy=0.8.1-4
gvproxy=$SV3_CACHE/sid-gvproxy/usr/bin/gvproxy
"$gvproxy" -version
"$gvproxy" -listen-qemu "unix://$SV3_CACHE/socket" -ssh-port $((20000 + RANDOM % 20000)) >"$SV3_CACHE/log" 2>&1 &
program=$!

# A client sends a broadcast ARP request for the gateway, 4 octets of length in front, and waits for an answer.
perl -MIO::Socket::UNIX -MIO::Select -e '
    my $path = shift;
    sub client { for (1 .. 100) { my $s = IO::Socket::UNIX->new(Peer => $path); return $s if $s; select undef, undef, undef, 0.05 } die "nobody listens\n" }
    sub ask { my ($s, $n) = @_; my $mac = pack "C6", 0x52, 0x54, 0, 0, 0, $n;
        my $arp = ("\xff" x 6) . $mac . pack("nnnCCn", 0x806, 1, 0x800, 6, 4, 1) . $mac . pack("C4", 192, 168, 127, 50 + $n) . ("\0" x 6) . pack("C4", 192, 168, 127, 1);
        syswrite $s, pack("N", length $arp) . $arp }
    sub hears { my ($s, $time) = @_; IO::Select->new($s)->can_read($time) ? sysread($s, my $octets, 4096) : -1 }
    my $first = client(); ask($first, 1);
    die "CHANGED: the first client is not answered\n" unless hears($first, 5) > 0;
    print "the first client is answered\n";
    my $second = client(); ask($second, 2);
    die "CHANGED: the second client is heard\n" unless hears($second, 1) == -1;
    print "the second client is connected, and not heard\n";
    close $first;
    my $got = hears($second, 5);
    die "CHANGED: the second client is served after the first has left\n" if $got > 0;
    die "CHANGED: the second client still waits after the first has left\n" if $got == -1;
    print "the first client leaves: the connection of the second one ends\n";
' "$SV3_CACHE/socket"
status=0
wait "$program" || status=$?
program=
[ "$status" = 0 ] || die "CHANGED: gvproxy exits with status $status"
echo "gvproxy has exited with status 0"

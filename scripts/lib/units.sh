# Runs in the container of scripts/try-units, beside its systemd.
systemctl --version | head -n 1 | tr -d '\n' >/out/version
# Whatever comes, the container ends with this.
trap "systemctl --force --force poweroff" EXIT
control=/run/sv3/lan/control.sock
# must WHAT COMMAND...: says whether the command succeeds; if it does not, that is the end.
must() {
    local what=$1
    shift
    if "$@" >/out/last 2>&1; then
        echo "ok: $what"
    else
        echo "FAILED: $what: $(tail -n 5 /out/last)"
        sleep 1
        { systemctl status --no-pager "sv3@lan.*"; journalctl --no-pager --grep="sv3|namespace|mount" --lines=30; } >/out/journal 2>&1
        exit 1
    fi
}
is() { [ "$(systemctl show --value --property="$1" "$2")" = "$3" ]; }
mode() { [ "$(stat -c '%U:%G %a' "$1")" = "$2" ]; }

systemd-sysusers
must "systemd finds no fault in the units" systemd-analyze verify --man=no sv3@lan.service sv3@lan.socket
exposure=$(systemd-analyze security --offline=true --threshold=15 /usr/lib/systemd/system/sv3@.service 2>&1 | tail -n 1)
must "exposure: ${exposure#*: }" systemd-analyze security --offline=true --threshold=15 /usr/lib/systemd/system/sv3@.service
# So that the test is short.
mkdir -p /etc/systemd/system/sv3@.service.d
printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n' >/etc/systemd/system/sv3@.service.d/short.conf
systemctl daemon-reload
must "the doors open" systemctl start sv3@lan.socket
must "no switch runs yet" is ActiveState sv3@lan.service inactive
must "the front door is for guests of libvirt" mode /run/sv3/lan/vhost-user.sock "sv3:kvm 660"
must "the first who asks starts the switch" sv3 status --control $control
# It answers a moment before systemd has heard that it is ready.
must "it runs" systemctl start sv3@lan.service
first=$(systemctl show --value --property=MainPID sv3@lan.service)
must "it is confined, and has no file that it does not tell" sv3 audit --control $control
printf 'SV3_OPTIONS=--config /etc/sv3/lan.toml\n' >/tmp/lan.conf
mkdir -p /etc/sv3
cp /tmp/lan.conf /etc/sv3/lan.conf
printf '[ports.web]\n' >/etc/sv3/lan.toml
must "it starts anew" systemctl restart sv3@lan.service
must "with the ports of a file" test -S /run/sv3/lan/ports/web.sock
printf '[ports.db]\n' >/etc/sv3/lan.toml
must "it reads the file again" systemctl reload sv3@lan.service
must "and has the ports that are in it now" test -S /run/sv3/lan/ports/db.sock -a ! -e /run/sv3/lan/ports/web.sock
pid=$(systemctl show --value --property=MainPID sv3@lan.service)
must "it is another process" test "$pid" != "$first"
kill -STOP "$pid"
for _ in $(seq 300); do
    [ "$(systemctl show --value --property=MainPID sv3@lan.service)" = "$pid" ] || break
    sleep 0.1
done
must "the watchdog ends one that hangs, and it starts anew" sv3 status --control $control
must "systemd has heard that it serves" systemctl start sv3@lan.service
must "one that is killed starts anew" systemctl kill --signal=KILL --kill-whom=main sv3@lan.service
must "and answers" sv3 status --control $control
systemctl start sv3@lan.service
must "it stops" systemctl stop sv3@lan.service
must "the doors stay" test -S $control -a -S /run/sv3/lan/vhost-user.sock
must "they go with their unit" systemctl stop sv3@lan.socket
must "nothing of them is left" test ! -e $control
journalctl --no-pager >/out/journal 2>&1
echo good >/out/verdict

#!/usr/bin/env bash
# Prometheus of Debian sid (3.5.3+ds1-6): `promtool check metrics` finds fault with valid OpenMetrics, without a word that
# it reads another format.
#
# One would guess that the checker reads what the server of the same package asks for first when it scrapes, OpenMetrics
# 1.0.0, in which the help of a counter names the family (frames) and its sample has a suffix (frames_total). Seen: the
# server scrapes such a page, has its value and knows its help. promtool reads it as the older text format, in which no
# family is called frames_total; it says "frames_total no help text" and ends with 3. So a page that is right for the
# server fails its checker, and the message leads to help that is there.
#
# Fetches the package into a temporary folder; fails if the behaviour has changed. Needs apt and python3. The server and
# the page listen on loopback.
set -euo pipefail
cd "$(dirname "$0")/../scripts"
. lib/say.sh
. lib/tree.sh
SV3_CACHE=$(mktemp -d)
pids=()
end() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$SV3_CACHE"
}
trap end EXIT
tree sid-prometheus prometheus=3.5.3+ds1-6
program() {
    local tree=$SV3_CACHE/sid-prometheus
    exec "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$tree/usr/lib/x86_64-linux-gnu" "$tree/usr/bin/$1" "${@:2}"
}
cat >"$SV3_CACHE/page" <<'PAGE'
# TYPE frames counter
# HELP frames Frames forwarded.
frames_total{port="p0"} 5
# EOF
PAGE

(program promtool --version) | head -n 1
said=$( (program promtool check metrics <"$SV3_CACHE/page") 2>&1) && status=0 || status=$?
echo "promtool ends with $status: $said"

# A page on a port that the system chooses, and a server that scrapes it each second.
python3 - "$SV3_CACHE" <<'SERVE' &
import http.server, pathlib, sys
folder = pathlib.Path(sys.argv[1])
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.end_headers()
        self.wfile.write((folder / "page").read_bytes())
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Page)
(folder / "port.new").write_text(str(server.server_port))
(folder / "port.new").rename(folder / "port")
server.serve_forever()
SERVE
pids+=($!)
until [ -e "$SV3_CACHE/port" ]; do sleep 0.1; done
cat >"$SV3_CACHE/prometheus.yml" <<CONFIG
scrape_configs:
  - job_name: page
    scrape_interval: 1s
    static_configs: [{targets: ["127.0.0.1:$(cat "$SV3_CACHE/port")"]}]
CONFIG
listen=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
(program prometheus --config.file="$SV3_CACHE/prometheus.yml" --storage.tsdb.path="$SV3_CACHE/data" \
    --web.listen-address="$listen" >"$SV3_CACHE/log" 2>&1) &
pids+=($!)
ask() {
    python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())' \
        "http://$listen/api/v1/$1" 2>/dev/null
}
value='' help=''
for _ in $(seq 150); do
    value=$(ask 'query?query=frames_total' || true)
    help=$(ask 'metadata?metric=frames_total' || true)$(ask 'metadata?metric=frames' || true)
    [[ $value != *'"5"'* || $help != *'Frames forwarded.'* ]] || break
    sleep 0.2
done
echo "the server has: $value"
echo "and knows: $help"

changed() {
    echo "CHANGED: $1"
    exit 1
}
[[ $value == *'"5"'* ]] || changed "the server does not scrape the page"
[[ $help == *'Frames forwarded.'* ]] || changed "the server does not know the help"
[ "$status" = 3 ] && [[ $said == *"frames_total no help text"* ]] || changed "promtool says something else of it"

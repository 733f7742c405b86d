# Sourced by every script: where things live, and how to tell the person.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SV3_CACHE=${SV3_CACHE:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/sv3}
export SV3_CACHE

# say TEXT...: progress for the person, on stderr so that a script's output stays usable.
say() { printf '%s\n' "$*" >&2; }

# die TEXT...: what is wrong and what to do about it.
die() {
    say "error: $*"
    exit 1
}

# as_root COMMAND...: runs it as root, by sudo for everybody else.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and sudo is not installed: $*"
    fi
}

# cargo-deny, in the cache. Sourced behind say.sh.

CARGO_DENY=0.20.2

# cargo_deny: makes $SV3_CACHE/cargo-deny/bin/cargo-deny be there.
cargo_deny() {
    local dir=$SV3_CACHE/cargo-deny
    [ "$(cat "$dir/version" 2>/dev/null)" = $CARGO_DENY ] && return
    say "building cargo-deny $CARGO_DENY, once: nearly four minutes of processor time"
    cargo install --quiet --locked --force --root "$dir" --target-dir "$dir/target" cargo-deny@$CARGO_DENY
    rm -rf "$dir/target"
    echo $CARGO_DENY >"$dir/version"
}

# Foreign programs, each suite in a tree of its own.
#
# The tests want programs of two Debian releases side by side, whatever the host runs: QEMU 7.2, DPDK and a kernel of
# bookworm, QEMU 11.1 of sid. So apt resolves and checks the packages against an empty status file, and they are unpacked
# below the cache. Nothing is installed, no maintainer script runs, nobody needs root, and an installed QEMU stays as it
# is. A program of a tree runs by the tree's own loader (see `tree_run`), thus sees the host's paths and needs no chroot.

# tree SUITE PACKAGE...: makes $SV3_CACHE/SUITE hold the packages with all that they depend on.
tree() {
    local suite=$1 dir=$SV3_CACHE/$1
    shift
    [ "$(cat "$dir/.packages" 2>/dev/null)" = "$*" ] && return
    say "fetching $* of Debian $suite into $dir"
    rm -rf "$dir"
    mkdir -p "$dir/.apt/lists/partial" "$dir/.apt/archives/partial" "$dir/usr"/{bin,sbin,lib,lib64}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$dir/"
    : >"$dir/.apt/status"
    debian_source "$suite" >"$dir/.apt/sources.list"
    tree_apt "$dir" update
    tree_apt "$dir" install --download-only --yes "$@"
    say "unpacking $(find "$dir/.apt/archives" -name '*.deb' | wc -l) packages"
    local deb
    for deb in "$dir"/.apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" --keep-directory-symlink --no-same-owner \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
            --exclude='./etc/*' --exclude='./dev/*'
    done
    rm -rf "$dir/.apt"
    echo "$*" >"$dir/.packages"
}

# debian_source SUITE: the apt source line, from the mirror that this host already uses for Debian.
debian_source() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    [ -r $keyring ] || die "$keyring is missing: install the package debian-archive-keyring"
    # shellcheck disable=SC2016 # apt expands these, not the shell
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
        awk '$1 == "Debian" && $2 == "main" && $3 !~ /-/ { print $4; exit }')
    [ -n "$mirror" ] || die "apt knows no Debian mirror: run apt-get update once, on Debian"
    echo "deb [signed-by=$keyring] $mirror $1 main"
}

# tree_apt DIR ARGUMENT...: apt-get with its state in the tree; silent unless it fails.
tree_apt() {
    local apt=$1/.apt
    shift
    apt-get -q \
        -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
        -o Dir::Cache="$apt" -o Dir::Cache::archives="$apt/archives" \
        -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@" >"$apt/log" 2>&1 ||
        die "apt-get $1 failed: $(tail -n 5 "$apt/log")"
}

# tree_run SUITE PROGRAM ARGUMENT...: runs usr/bin/PROGRAM of a tree.
tree_run() {
    local dir=$SV3_CACHE/$1 program=$2
    shift 2
    "$dir/lib64/ld-linux-x86-64.so.2" --library-path "$dir/usr/lib/x86_64-linux-gnu" "$dir/usr/bin/$program" "$@"
}

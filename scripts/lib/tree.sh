# Foreign programs, each suite in a tree of its own.
#
# The tests want programs of two Debian releases side by side, whatever the host runs: QEMU 7.2, DPDK and a kernel of
# bookworm, QEMU 11.1 of sid. So apt resolves and checks the packages against an empty status file, and they are unpacked
# below the cache. Nothing is installed, no maintainer script runs, nobody needs root, and an installed QEMU stays as it
# is. A program of a tree runs by the tree's own loader (tests/src/image.rs), thus sees the host's paths and needs no
# chroot.

# tree SUITE[-NAME] PACKAGE...: makes $SV3_CACHE/SUITE[-NAME] hold the packages with all that they depend on.
tree() {
    local suite=${1%%-*} dir=$SV3_CACHE/$1
    shift
    [ "$(cat "$dir/.packages" 2>/dev/null)" = "$*" ] && return
    say "fetching $* of Debian $suite into $dir"
    rm -rf "$dir"
    mkdir -p "$dir/.apt/lists/partial" "$dir/.apt/archives/partial" "$dir/usr"/{bin,sbin,lib,lib64}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$dir/"
    : >"$dir/.apt/status"
    local APT_STATE=(-o Dir::State="$dir/.apt" -o Dir::State::lists="$dir/.apt/lists"
        -o Dir::State::status="$dir/.apt/status"
        -o Dir::Cache="$dir/.apt" -o Dir::Cache::archives="$dir/.apt/archives")
    debian_source "$suite" >"$dir/.apt/sources.list"
    tree_apt update
    tree_apt install --download-only --yes "$@"
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

# debian_source SUITE: the apt source line, from the mirror that this host uses for Debian.
debian_source() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    [ -r $keyring ] || die "$keyring is missing: install the package debian-archive-keyring"
    mirror=$(debian_mirror)
    if [ -z "$mirror" ]; then
        # The host's package lists are empty, as in a container: fetch them for ourselves.
        apt-get "${APT_STATE[@]}" update >/dev/null 2>&1 || true
        mirror=$(debian_mirror "${APT_STATE[@]}")
    fi
    [ -n "$mirror" ] || die "apt has no source that offers Debian: add one to /etc/apt/sources.list"
    echo "deb [signed-by=$keyring] $mirror $1 main"
}

# debian_mirror APT-OPTION...: where apt's sources have Debian's main component, if they are known.
debian_mirror() {
    # shellcheck disable=SC2016 # apt expands these, not the shell
    apt-get "$@" indextargets --format '$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
        awk '$1 == "Debian" && $2 == "main" && $3 !~ /-/ { print $4; exit }'
}

# tree_apt ARGUMENT...: apt-get with the tree's state and sources; silent unless it fails.
tree_apt() {
    local log=$dir/.apt/log
    apt-get -q "${APT_STATE[@]}" -o Dir::Etc::sourcelist="$dir/.apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@" >"$log" 2>&1 ||
        die "apt-get $1 failed: $(tail -n 5 "$log")"
}

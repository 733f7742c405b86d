//! What `scripts/setup` keeps in the cache: the guest's kernel and initramfs, and programs of two Debian releases.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::failure::{Failure, Result};

/// A Debian release with its packages unpacked in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Debian 12: QEMU 7.2, DPDK 22.11, the guest's kernel and tools.
    Bookworm,
    /// Debian's development branch: QEMU 11.1 or newer.
    Sid,
    /// Open vSwitch with DPDK of Debian's development branch.
    Peers,
    /// gnuplot of Debian 12.
    Plot,
    /// slirp4netns, gvproxy and passt of Debian's development branch.
    Uplinks,
    /// tcpdump of Debian 12.
    Tcpdump,
    /// FRR of Debian's development branch.
    Routers,
    /// libvirt of Debian's development branch, with QEMU.
    Libvirt,
    /// Prometheus of Debian's development branch.
    Monitoring,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Sid => "sid",
            Suite::Peers => "sid-peers",
            Suite::Plot => "bookworm-plot",
            Suite::Uplinks => "sid-uplinks",
            Suite::Tcpdump => "bookworm-tcpdump",
            Suite::Routers => "sid-routers",
            Suite::Libvirt => "sid-libvirt",
            Suite::Monitoring => "sid-monitoring",
        }
    }
}

/// The cache, filled by `scripts/setup`, which takes a minute or two the first time and then nothing.
pub fn cache() -> Result<&'static Path> {
    static CACHE: OnceLock<Result<PathBuf>> = OnceLock::new();
    CACHE.get_or_init(|| set_up(&[])).as_deref().map_err(Clone::clone)
}

/// The cache with a tree that not every test needs: `word` has `scripts/setup` make it.
fn cache_with(word: &'static str) -> Result<&'static Path> {
    static MADE: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.contains(word) {
        set_up(&[word])?;
        made.insert(word);
    }
    cache()
}

fn set_up(arguments: &[&str]) -> Result<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/setup");
    let output = Command::new(script).args(arguments).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(Failure::new(format!("{script} failed: {}", output.status)));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The folder of an unpacked release, laid out like its `/`.
pub fn tree(suite: Suite) -> Result<PathBuf> {
    let cache = match suite {
        Suite::Peers => cache_with("peers"),
        Suite::Plot => cache_with("plot"),
        Suite::Uplinks => cache_with("uplinks"),
        Suite::Tcpdump => cache_with("tcpdump"),
        Suite::Routers => cache_with("routers"),
        Suite::Libvirt => cache_with("libvirt"),
        Suite::Monitoring => cache_with("monitoring"),
        Suite::Bookworm | Suite::Sid => cache(),
    };
    Ok(cache?.join(suite.name()))
}

/// A command for `/usr/bin/PROGRAM` of a release. It runs by the release's own loader and libraries, thus sees the
/// host's paths, and dies with the thread that starts it.
pub fn program(suite: Suite, program: &str) -> Result<Command> {
    program_at(suite, &format!("usr/bin/{program}"))
}

/// The same for a program anywhere in the release.
pub fn program_at(suite: Suite, path: &str) -> Result<Command> {
    let tree = tree(suite)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(tree.join("lib64/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(tree.join("usr/lib/x86_64-linux-gnu"))
        .arg(tree.join(path));
    Ok(command)
}

/// The guest's kernel as Debian has it, which takes 5 s more to boot in an emulated guest, and wakes up from S3: booted
/// uncompressed, by PVH, it does not.
pub fn compressed_kernel() -> Result<PathBuf> {
    let folder = tree(Suite::Bookworm)?.join("boot");
    let entries = std::fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_kernel = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    entries.into_iter().find(is_kernel).ok_or_else(|| Failure::new(format!("no kernel in {}", folder.display())))
}

/// The guest's kernel and initramfs.
pub fn kernel() -> Result<(PathBuf, PathBuf)> {
    let guest = cache()?.join("guest");
    Ok((guest.join("vmlinux"), guest.join("initrd")))
}

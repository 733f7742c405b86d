//! The kernel's bridge with two taps, in a network namespace of this program's own.

use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use sv3_tests::failure::{Failure, Result};

const BRIDGE: &str = "sv3-bridge";

/// The taps' names.
pub const TAPS: [&str; 2] = ["sv3-tap1", "sv3-tap2"];

/// Moves this program, and all that it starts, to a network namespace that ends with it. To be called before there is
/// another thread.
pub fn own_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
        Failure::new(format!(
            "the kernel's bridge wants a network namespace: {error}; run this as root or leave bridge out"
        ))
    })
}

/// A bridge that is removed when dropped.
pub struct Bridge(());

impl Bridge {
    /// Makes the bridge and its taps in the namespace that this program is in.
    pub fn start() -> Result<Bridge> {
        ip(&["link", "add", "name", BRIDGE, "type", "bridge"])?;
        let bridge = Bridge(());
        ip(&["link", "set", BRIDGE, "up"])?;
        for tap in TAPS {
            // With a header that tells of offloads, as QEMU wants it.
            ip(&["tuntap", "add", "dev", tap, "mode", "tap", "vnet_hdr"])?;
            ip(&["link", "set", tap, "master", BRIDGE, "up"])?;
        }
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for device in TAPS.into_iter().chain([BRIDGE]) {
            let _ = ip(&["link", "delete", device]);
        }
    }
}

/// The kernel can move a tap's frames without QEMU.
pub fn has_vhost_net() -> bool {
    Path::new("/dev/vhost-net").exists()
}

fn ip(arguments: &[&str]) -> Result<()> {
    let missing = |error| Failure::new(format!("ip: {error}; install the package iproute2"));
    let output = Command::new("ip").args(arguments).output().map_err(missing)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::new(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))),
    }
}

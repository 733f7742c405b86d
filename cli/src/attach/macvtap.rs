//! Opens a macvtap device of this host, and tells what it cannot do.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use super::tap;
use crate::output::print;

/// Opens the device.
pub fn open(device: &str) -> Result<Vec<OwnedFd>, String> {
    let index = std::fs::read_to_string(format!("/sys/class/net/{device}/ifindex"));
    let index = index.map_err(|_| {
        format!("there is no device {device}: `sudo ip link add link eth0 name {device} type macvtap mode passthru`")
    })?;
    let path = format!("/dev/tap{}", index.trim());
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let fd = OwnedFd::from(file.map_err(|error| {
        format!(
            "{path}, the node of {device}: {error}; give it to your user (`sudo chown $USER {path}`), or attach as root"
        )
    })?);
    tap::set_flags(&fd).and_then(|()| tap::set_up(&fd)).map_err(|errno| format!("{device}: {errno}"))?;
    Ok(vec![fd])
}

/// Tells the limits of a macvtap.
pub fn limits(device: &str) -> Result<(), String> {
    let address = std::fs::read_to_string(format!("/sys/class/net/{device}/address")).unwrap_or_default();
    print(&format!(
        "a macvtap in mode bridge, vepa or private gives the switch only frames for {}, its own address, and broadcasts: \
         one guest with exactly this address can be reached through it; in mode passthru it gives all unicast frames. \
         This host itself cannot be reached through it\n",
        address.trim()
    ))
}

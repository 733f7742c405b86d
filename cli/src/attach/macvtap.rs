//! Opens a macvtap device of this host, and tells what it cannot do.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use super::tap;
use crate::output::print;

/// Opens the device.
pub fn open(device: &str) -> Result<Vec<OwnedFd>, String> {
    let make = format!("`sudo ip link add link eth0 name {device} type macvtap mode passthru` makes one");
    if device.contains('/') || device.starts_with('.') {
        return Err(format!("{device:?} is no device's name"));
    }
    let device_folder = Path::new("/sys/class/net").join(device);
    let read = |name: &str| std::fs::read_to_string(device_folder.join(name));
    let index = read("ifindex").map_err(|_| format!("there is no device {device}: {make}"))?;
    let node = format!("tap{}", index.trim());
    let numbers = read(&format!("{node}/dev")).map_err(|_| {
        let tap = device_folder.join("tun_flags").exists();
        if tap {
            format!("{device} is a tap: `sv3 attach tap {device}`")
        } else {
            format!("{device} is no macvtap: {make}")
        }
    })?;
    let path = format!("/dev/{node}");
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let file = file.map_err(|error| {
        format!(
            "{path}, the node of {device}: {error}; give it to your user (`sudo chown $USER {path}`), or attach as root"
        )
    })?;
    // In a network namespace of its own, the node of this number may be another device's.
    if !is_node(&file, &numbers) {
        return Err(format!(
            "{path} belongs to another device: remove it, and make it by `sudo mknod {path} c {}`",
            numbers.trim().replace(':', " ")
        ));
    }
    let fd = OwnedFd::from(file);
    tap::set_flags(&fd).and_then(|()| tap::set_up(&fd)).map_err(|errno| format!("{device}: {errno}"))?;
    Ok(vec![fd])
}

/// Whether a node has these numbers, major:minor.
fn is_node(file: &File, numbers: &str) -> bool {
    let (major, minor) = numbers.trim().split_once(':').unwrap_or_default();
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else { return false };
    file.metadata().is_ok_and(|node| node.rdev() == libc::makedev(major, minor))
}

/// Tells the limits of a macvtap.
pub fn limits(device: &str) -> Result<(), String> {
    let address = std::fs::read_to_string(format!("/sys/class/net/{device}/address")).unwrap_or_default();
    // There is no file with the mode; without `ip`, it is left open.
    let details = Command::new("ip").args(["-d", "-j", "link", "show", "dev", device]).output();
    let mode = details.ok().and_then(|details| mode(&details.stdout));
    print(&format!("{}\n", words(device, mode.as_deref(), address.trim())))
}

fn words(device: &str, mode: Option<&str>, address: &str) -> String {
    let one = format!(
        "gives the switch only frames for {address}, its own address, and broadcasts: one guest, with \
                       exactly this address, can be reached through it"
    );
    let all = "gives the switch all unicast frames of its network card";
    let reach = match mode {
        Some("passthru") => format!("{device} is in mode passthru and {all}"),
        Some(mode) => format!("{device} is in mode {mode} and {one}; mode passthru serves more guests"),
        None => format!("{device} in mode passthru {all}; in any other mode it {one}"),
    };
    format!("{reach}. This host itself cannot be reached through it")
}

fn mode(details: &[u8]) -> Option<String> {
    let details: serde_json::Value = serde_json::from_slice(details).ok()?;
    details.pointer("/0/linkinfo/info_data/mode")?.as_str().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_those_of_the_mode() {
        let details = br#"[{"ifname":"m0","linkinfo":{"info_kind":"macvtap","info_data":{"mode":"bridge"}}}]"#;
        assert_eq!((mode(details).as_deref(), mode(b"[]"), mode(b"")), (Some("bridge"), None, None));
        let address = "02:00:00:00:00:01";
        assert!(
            words("m0", Some("bridge"), address)
                .contains(&format!("mode bridge and gives the switch only frames for {address}"))
        );
        assert!(!words("m0", Some("passthru"), address).contains(address));
        assert!(words("m0", None, address).contains("in any other mode"));
    }

    #[test]
    fn a_node_is_told_by_its_numbers() {
        let null = File::open("/dev/null").unwrap();
        assert!(is_node(&null, "1:3\n"));
        assert!(!is_node(&null, "1:5\n") && !is_node(&null, ""));
        assert!(open("lo").unwrap_err().contains("no macvtap"));
        assert!(open("../net").is_err() && open("no-such-device").unwrap_err().contains("ip link add"));
    }
}

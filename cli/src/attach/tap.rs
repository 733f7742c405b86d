//! Opens a tap of this host: a frame a syscall, with a net header of 12 octets, checksum offload, TSO and USO.
#![allow(unsafe_code)] // ioctl has no safe form

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use crate::output::complain;

// linux/if_tun.h.
const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;
/// All that the switch can take. The offloads of tunnels are left off: the switch refuses such headers.
const OFFLOADS: libc::c_ulong = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6;
/// Octets of the net header.
const HEADER: libc::c_int = sv3::virtio::NET_HDR_LEN as libc::c_int;
/// Octets of a device's name, without the 0 at its end.
const NAME_MAX: usize = 15;

/// `struct ifreq` of linux/if.h.
#[repr(C)]
struct Ifreq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Opens so many queue pairs of a tap.
pub fn open(device: &str, queues: u16) -> Result<Vec<OwnedFd>, String> {
    if device.is_empty() || device.len() > NAME_MAX {
        return Err(format!("{device:?}: the name of a device has 1 to {NAME_MAX} octets"));
    }
    let made = flags_of(device);
    let multi = made.map_or(queues > 1, |flags| flags & IFF_MULTI_QUEUE != 0);
    if queues > 1 && !multi {
        return Err(format!(
            "{device} has one queue: make it anew with several (`sudo ip link delete {device}`, then {})",
            make(device, true)
        ));
    }
    (0..queues).map(|_| queue(device, multi).map_err(|errno| why(device, errno, made.is_some(), multi))).collect()
}

fn queue(device: &str, multi: bool) -> Result<OwnedFd, Problem> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let fd = OwnedFd::from(file.map_err(Problem::Open)?);
    let mut request = Ifreq { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    if multi {
        request.flags |= IFF_MULTI_QUEUE;
    }
    request.name.iter_mut().zip(device.bytes()).for_each(|(to, from)| *to = from);
    ioctl(&fd, TUNSETIFF, (&raw mut request) as libc::c_ulong).map_err(Problem::Attach)?;
    set_up(&fd).map_err(Problem::Offload)?;
    Ok(fd)
}

/// Sets the length of the net header and the offloads of an attached tap or macvtap.
pub fn set_up(fd: &OwnedFd) -> nix::Result<()> {
    let header: libc::c_int = HEADER;
    ioctl(fd, TUNSETVNETHDRSZ, (&raw const header) as libc::c_ulong)?;
    match ioctl(fd, TUNSETOFFLOAD, OFFLOADS) {
        // Before Linux 6.2 there was no USO.
        Err(Errno::EINVAL) => ioctl(fd, TUNSETOFFLOAD, OFFLOADS & !(TUN_F_USO4 | TUN_F_USO6)),
        done => done,
    }
}

/// Attaches an open macvtap device to itself with net headers.
pub fn set_flags(fd: &OwnedFd) -> nix::Result<()> {
    let mut request = Ifreq { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    ioctl(fd, TUNSETIFF, (&raw mut request) as libc::c_ulong)
}

/// `argument` is a number, or the address of what the request reads and writes.
fn ioctl(fd: &OwnedFd, request: u32, argument: libc::c_ulong) -> nix::Result<()> {
    // SAFETY: callers give each request a number, or the address of a live value of the type that it reads and writes.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), argument) }).map(drop)
}

/// What went wrong.
enum Problem {
    Open(std::io::Error),
    Attach(Errno),
    Offload(Errno),
}

/// The error in words, with the command that helps.
fn why(device: &str, problem: Problem, exists: bool, multi: bool) -> String {
    match problem {
        Problem::Open(error) if error.kind() == ErrorKind::PermissionDenied => {
            "/dev/net/tun: permission denied; every user may open it where it has its usual mode (`sudo chmod 666 \
             /dev/net/tun`)"
                .to_string()
        }
        Problem::Open(error) => format!("/dev/net/tun: {error}; load the driver (`sudo modprobe tun`)"),
        Problem::Attach(Errno::EPERM) if exists => {
            format!(
                "{device} belongs to another user: make it anew for you (`sudo ip link delete {device}`, then {}), or ask its owner",
                make(device, multi)
            )
        }
        Problem::Attach(Errno::EPERM) => format!(
            "there is no tap {device}, and you may not make one: run {}, then `sudo ip link set {device} up`",
            make(device, multi)
        ),
        Problem::Attach(Errno::EBUSY) => format!("{device} is in use by another process, and it has one queue"),
        Problem::Attach(Errno::EINVAL) => format!(
            "{device} is no tap, or was made in another way: make it anew (`sudo ip link delete {device}`, then {})",
            make(device, multi)
        ),
        Problem::Attach(errno) => format!("{device}: TUNSETIFF: {errno}"),
        Problem::Offload(errno) => format!("{device}: its offloads cannot be set: {errno}"),
    }
}

fn make(device: &str, multi: bool) -> String {
    let queues = if multi { " multi_queue" } else { "" };
    format!("`sudo ip tuntap add dev {device} mode tap user $USER vnet_hdr{queues}`")
}

/// How a tap was made, if there is one of this name in this network namespace.
fn flags_of(device: &str) -> Option<u16> {
    parse_flags(&std::fs::read_to_string(format!("/sys/class/net/{device}/tun_flags")).ok()?)
}

fn parse_flags(text: &str) -> Option<u16> {
    u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// Says what is still to be done, such as that the link is down.
pub fn hint(device: &str) {
    let flags = std::fs::read_to_string(format!("/sys/class/net/{device}/flags")).unwrap_or_default();
    let up = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).map_or(true, |flags| flags & 1 != 0);
    if !up {
        complain(&format!("{device} is down: no frame passes before `sudo ip link set {device} up`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_says_which_command_helps() {
        assert_eq!((parse_flags("0x5102\n"), parse_flags("")), (Some(0x5102), None));
        let none = why("tap0", Problem::Attach(Errno::EPERM), false, true);
        assert!(none.contains("ip tuntap add dev tap0 mode tap user $USER vnet_hdr multi_queue"), "{none}");
        assert!(why("tap0", Problem::Attach(Errno::EPERM), true, false).contains("another user"));
        assert!(why("tap0", Problem::Attach(Errno::EBUSY), true, false).contains("in use"));
        assert!(why("eth0", Problem::Attach(Errno::EINVAL), true, false).contains("ip link delete eth0"));
        assert!(why("t", Problem::Open(ErrorKind::NotFound.into()), false, false).contains("modprobe tun"));
        assert!(open("a-name-that-is-too-long", 1).is_err());
    }
}

//! Opens a tap of this host: a frame a syscall, with a net header of 12 octets, checksum offload, TSO and USO.
#![allow(unsafe_code)] // ioctl has no safe form

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

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
/// A port that was just detached may still be about to close its tap.
const PATIENCE: Duration = Duration::from_millis(500);
/// Octets of a device's name, without the 0 at its end.
const NAME_MAX: usize = 15;

/// `struct ifreq` of linux/if.h.
#[repr(C)]
struct Ifreq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// What there is of a device's name in this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A tap, the flags that it was made with, and the user that it belongs to.
    Tap {
        flags: u16,
        owner: Option<u32>,
    },
    Tun,
    Macvtap,
    Other,
}

/// Opens so many queue pairs of a tap. Also tells whether the tap is new.
pub fn open(device: &str, queues: u16) -> Result<(Vec<OwnedFd>, bool), String> {
    if device.is_empty() || device.len() > NAME_MAX || device.contains('/') || device.starts_with('.') {
        return Err(format!("{device:?}: the name of a device has 1 to {NAME_MAX} octets, and no '/'"));
    }
    let found = find(device);
    let multi = match found {
        Found::Tap { flags, .. } => flags & IFF_MULTI_QUEUE != 0,
        _ => queues > 1,
    };
    if queues > 1 && !multi {
        return Err(format!(
            "{device} has one queue: make it anew with several (`sudo ip link delete {device}`, then {})",
            make(device, true)
        ));
    }
    let fds = (0..queues).map(|_| queue(device, multi).map_err(|problem| why(device, problem, found, multi)));
    Ok((fds.collect::<Result<_, _>>()?, found == Found::Nothing))
}

fn find(device: &str) -> Found {
    let device = Path::new("/sys/class/net").join(device);
    let read = |name: &str| std::fs::read_to_string(device.join(name)).ok();
    let Some(flags) = read("tun_flags").as_deref().and_then(parse_flags) else {
        return match (device.join("macvtap").exists(), device.exists()) {
            (true, _) => Found::Macvtap,
            (false, true) => Found::Other,
            (false, false) => Found::Nothing,
        };
    };
    let owner = read("owner").and_then(|owner| owner.trim().parse().ok());
    if flags & IFF_TAP == 0 { Found::Tun } else { Found::Tap { flags, owner } }
}

fn queue(device: &str, multi: bool) -> Result<OwnedFd, Problem> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    let fd = OwnedFd::from(file.map_err(Problem::Open)?);
    let mut request = Ifreq { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    if multi {
        request.flags |= IFF_MULTI_QUEUE;
    }
    request.name.iter_mut().zip(device.bytes()).for_each(|(to, from)| *to = from);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ioctl(&fd, TUNSETIFF, (&raw mut request) as libc::c_ulong) {
            Err(Errno::EBUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            done => break done.map_err(Problem::Attach)?,
        }
    }
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
fn why(device: &str, problem: Problem, found: Found, multi: bool) -> String {
    let make = make(device, multi);
    match (problem, found) {
        (Problem::Open(error), _) if error.kind() == ErrorKind::PermissionDenied => {
            "/dev/net/tun: permission denied; every user may open it where it has its usual mode (`sudo chmod 666 \
             /dev/net/tun`)"
                .to_string()
        }
        (Problem::Open(error), _) => format!("/dev/net/tun: {error}; load the driver (`sudo modprobe tun`)"),
        (Problem::Attach(_), Found::Macvtap) => {
            format!("{device} is a macvtap: `sv3 attach macvtap {device}`")
        }
        (Problem::Attach(_), Found::Tun) => {
            format!(
                "{device} is a tun device, which has no Ethernet frames: make a tap of another name, as {make} does"
            )
        }
        (Problem::Attach(_), Found::Other) => format!(
            "{device} is no tap: make one of another name ({}), and put both into a bridge (`sudo ip link set {device} \
             master BRIDGE`)",
            self::make("tap0", multi)
        ),
        (Problem::Attach(Errno::EPERM), Found::Nothing) => format!(
            "there is no tap {device}, and you may not make one: run {make}, then `sudo ip link set {device} up`"
        ),
        (Problem::Attach(Errno::EPERM), Found::Tap { owner, .. }) => {
            let owner = owner.map_or("root".to_string(), |uid| format!("user {uid}"));
            format!(
                "{device} belongs to {owner}: attach it as that user (root: `sudo sv3 attach tap {device} --control \
                 PATH`), or make one for you by {make}, of another name or after `sudo ip link delete {device}`"
            )
        }
        (Problem::Attach(Errno::EBUSY), _) => format!(
            "{device} is in use, by another process or by this switch already (`sv3 status`); it has one queue, so \
             only one may have it"
        ),
        (Problem::Attach(Errno::E2BIG), _) => format!("{device} has no more free queues: take fewer by --queues"),
        (Problem::Attach(Errno::EINVAL), _) => {
            format!("{device} was made in another way: make it anew (`sudo ip link delete {device}`, then {make})")
        }
        (Problem::Attach(errno), _) => format!("{device}: TUNSETIFF: {errno}"),
        (Problem::Offload(errno), _) => format!("{device}: its offloads cannot be set: {errno}"),
    }
}

fn make(device: &str, multi: bool) -> String {
    let queues = if multi { " multi_queue" } else { "" };
    format!("`sudo ip tuntap add dev {device} mode tap user $USER vnet_hdr{queues}`")
}

fn parse_flags(text: &str) -> Option<u16> {
    u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// Says what is still to be done, such as that the link is down.
pub fn hint(device: &str, is_new: bool) {
    if is_new {
        complain(&format!(
            "{device} is new, and goes when its port ends; {} makes one that stays",
            make(device, false)
        ));
    }
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
        let owned = Found::Tap { flags: IFF_TAP, owner: Some(1001) };
        for (errno, found, needed) in [
            (
                Errno::EPERM,
                Found::Nothing,
                "`sudo ip tuntap add dev t0 mode tap user $USER vnet_hdr`, then `sudo ip link",
            ),
            (Errno::EPERM, owned, "belongs to user 1001"),
            (Errno::EPERM, Found::Tap { flags: IFF_TAP, owner: None }, "`sudo sv3 attach tap t0 --control"),
            (Errno::EBUSY, owned, "in use"),
            (Errno::E2BIG, owned, "--queues"),
            (Errno::EINVAL, owned, "ip link delete t0"),
            (Errno::EINVAL, Found::Macvtap, "`sv3 attach macvtap t0`"),
            (Errno::EINVAL, Found::Tun, "another name"),
            (Errno::EINVAL, Found::Other, "master BRIDGE"),
        ] {
            let words = why("t0", Problem::Attach(errno), found, false);
            assert!(words.contains(needed), "{words}");
            assert!(found != Found::Other || !words.contains("delete"), "a network card stays: {words}");
        }
        assert!(why("t", Problem::Attach(Errno::EPERM), Found::Nothing, true).contains("vnet_hdr multi_queue`"));
        assert!(why("t", Problem::Open(ErrorKind::NotFound.into()), owned, false).contains("modprobe tun"));
    }

    #[test]
    fn devices_are_told_apart() {
        assert_eq!((parse_flags("0x5102\n"), parse_flags("")), (Some(0x5102), None));
        assert_eq!((find("lo"), find("no-such-device")), (Found::Other, Found::Nothing));
        for wrong in ["", "a-name-that-is-too-long", "../lo", "."] {
            assert!(open(wrong, 1).unwrap_err().contains("the name of a device"), "{wrong}");
        }
    }
}

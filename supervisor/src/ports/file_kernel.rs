//! Asks the kernel about the open files of which a port is to be made: a tap, a macvtap, or a socket.
//!
//! A process of the switch's own user sends them. So nothing here protects the switch from that user: it protects the
//! user from a port that cannot work, and says what to do.
#![allow(unsafe_code)] // ioctl has no safe form

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::fcntl::readlink;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SocketType, recvmsg, sockopt};
use sv3::attachment::Transport;

/// The send and receive buffer that sockets get, in octets, if the kernel allows that much (`net.core.wmem_max`). The
/// kernel doubles it. A peer that reads nothing holds that much of the kernel's memory.
const BUFFER: usize = 1 << 20;
/// The user of a peer that a socket does not have (net/core/sock.c: `cred_to_ucred`).
const NOBODY: u32 = u32::MAX;
/// asm-generic/socket.h, from 6.16 on.
const SO_PASSRIGHTS: libc::c_int = 83;
/// Octets of the net header in front of each frame of a tap.
const HEADER: libc::c_int = sv3::virtio::NET_HDR_LEN as libc::c_int;

/// What the kernel says of a file that was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Name of the device; `None` for a socket.
    pub device: Option<String>,
    /// Octets of the socket's send buffer; 0 for a tap.
    pub send_buffer: u32,
}

/// Whether no process has the other end of a socket any more.
pub fn has_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let ready = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    ready && fds.iter().any(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

/// Examines a file and makes it non-blocking. The error says what is wrong, and what to do.
pub fn admit(fd: BorrowedFd<'_>, transport: Transport) -> Result<Admitted, String> {
    let admitted = match transport {
        Transport::Tap => tap(fd),
        Transport::Packets | Transport::Stream => socket(fd, transport),
    }?;
    rustix::io::ioctl_fionbio(fd, true).map_err(|error| format!("it cannot be made non-blocking: {error}"))?;
    Ok(admitted)
}

fn tap(fd: BorrowedFd<'_>) -> Result<Admitted, String> {
    // The name comes from the kernel alone, so that no file system is asked. A node's number tells the driver.
    let path = readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).unwrap_or_default();
    let path = path.to_string_lossy();
    if path != "/dev/net/tun" && !path.starts_with("/dev/tap") {
        return Err(format!("a tap is an open /dev/net/tun or /dev/tapN, and this file is {path:?}"));
    }
    let mut request = Ifreq { name: [0; 16], flags: 0, rest: [0; 22] };
    ioctl(fd, TUNGETIFF, (&raw mut request).cast())
        .map_err(|error| format!("it is attached to no device (TUNGETIFF: {error}): open it by TUNSETIFF first"))?;
    let name = request.name.split(|octet| *octet == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    if request.flags & IFF_TAP == 0 {
        return Err(format!(
            "{name} is a tun device, which has no Ethernet frames: make a tap (`ip tuntap add ... mode tap`)"
        ));
    }
    if request.flags & IFF_VNET_HDR == 0 {
        return Err(format!(
            "{name} was opened without net headers: open it with IFF_VNET_HDR (`ip tuntap add ... vnet_hdr`)"
        ));
    }
    match header_len(fd) {
        Ok(HEADER) => Ok(Admitted { device: Some(name), send_buffer: 0 }),
        Ok(len) => Err(format!("{name} has net headers of {len} octets: set {HEADER} by TUNSETVNETHDRSZ")),
        Err(error) => Err(format!("{name}: TUNGETVNETHDRSZ: {error}")),
    }
}

fn header_len(fd: BorrowedFd<'_>) -> nix::Result<libc::c_int> {
    let mut len: libc::c_int = 0;
    ioctl(fd, TUNGETVNETHDRSZ, (&raw mut len).cast()).map(|()| len)
}

/// The size of a tap's net header in octets, if somebody has changed it since the tap was admitted. It belongs to the
/// device: any other program that has one of its queues can set it.
pub fn changed_header(fd: BorrowedFd<'_>) -> Option<i32> {
    header_len(fd).ok().filter(|len| *len != HEADER)
}

fn socket(fd: BorrowedFd<'_>, transport: Transport) -> Result<Admitted, String> {
    let family = sockopt::socket_domain(fd).map_err(|_| "it is not a socket".to_string())?;
    if family != AddressFamily::UNIX {
        return Err("it is a socket of another family: only unix sockets are served".to_string());
    }
    let kind = sockopt::socket_type(fd).map_err(|error| error.to_string())?;
    let (fits, wanted) = match transport {
        Transport::Stream => (kind == SocketType::STREAM, "SOCK_STREAM"),
        _ => ([SocketType::SEQPACKET, SocketType::DGRAM].contains(&kind), "SOCK_SEQPACKET or SOCK_DGRAM"),
    };
    if !fits {
        return Err(format!("it is a socket of another type: this transport needs {wanted}"));
    }
    if sockopt::socket_acceptconn(fd).unwrap_or(true) {
        return Err("it is a listening socket: connect to its path, or accept a connection first".to_string());
    }
    if kind != SocketType::DGRAM && getsockopt(&fd, PeerCredentials).is_ok_and(|peer| peer.uid() == NOBODY) {
        return Err("it is a socket without a peer: connect it first".to_string());
    }
    refuse_files(fd);
    // The kernel gives as much as its limit allows.
    let _ = sockopt::set_socket_send_buffer_size(fd, BUFFER);
    let _ = sockopt::set_socket_recv_buffer_size(fd, BUFFER);
    let size = sockopt::socket_send_buffer_size(fd).map_err(|error| error.to_string())?;
    Ok(Admitted { device: None, send_buffer: u32::try_from(size).unwrap_or(u32::MAX) })
}

/// From now on nobody can send open files to the socket: the worker would close them while it reads, and the last close
/// of a file may wait ([`sv3::foreign`]). A connection that is accepted later has this from its listening socket.
/// Kernels before 6.16 do not know it.
pub fn refuse_files(fd: BorrowedFd<'_>) {
    let off: libc::c_int = 0;
    let length = size_of_val(&off) as libc::socklen_t;
    // SAFETY: the kernel reads one number, which is there, of the length that is told.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const off).cast(), length) };
}

/// Errs if open files wait in a socket that was admitted: they came before it refused them. What waits stays there. Of
/// packets only the first is examined, since the kernel shows no other.
pub fn examine_waiting(fd: BorrowedFd<'_>, transport: Transport) -> Result<(), String> {
    let waiting = match transport {
        Transport::Tap => return Ok(()),
        Transport::Packets => 1,
        Transport::Stream => rustix::io::ioctl_fionread(fd).map_err(|error| error.to_string())?,
    };
    let mut octets = vec![0; usize::try_from(waiting).unwrap_or(0).max(1)];
    // Without room for fds the kernel only says that there are some.
    let mut no_room = RecvAncillaryBuffer::default();
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (seen, files) = match recvmsg(fd, &mut [IoSliceMut::new(&mut octets)], &mut no_room, flags) {
        Ok(message) => (message.bytes as u64, message.flags.contains(ReturnFlags::CTRUNC)),
        // The worker finds out what is wrong.
        Err(_) => (0, false),
    };
    match transport {
        _ if files => Err("its peer sent open files, and a port takes frames only".to_string()),
        // The kernel shows nothing behind such an octet.
        Transport::Stream if seen < waiting => {
            Err("its peer sent an urgent octet (MSG_OOB), and a port takes frames only".to_string())
        }
        _ => Ok(()),
    }
}

/// `struct ifreq` of linux/if.h, as TUNGETIFF fills it.
#[repr(C)]
struct Ifreq {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

// linux/if_tun.h.
const TUNGETIFF: u32 = 0x8004_54d2;
const TUNGETVNETHDRSZ: u32 = 0x8004_54d7;
const IFF_TAP: u16 = 0x0002;
const IFF_VNET_HDR: u16 = 0x4000;

/// `into` has room for what this request writes: 40 octets for TUNGETIFF, 4 for TUNGETVNETHDRSZ.
fn ioctl(fd: impl AsFd, request: u32, into: *mut libc::c_void) -> nix::Result<()> {
    // SAFETY: both requests only write to `into`, and the callers have the room that each of them needs.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request.into(), into) };
    nix::errno::Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::path::Path;

    use super::*;

    fn why(fd: impl AsFd, transport: Transport) -> String {
        admit(fd.as_fd(), transport).unwrap_err()
    }

    #[test]
    fn sockets_of_the_right_kind_are_admitted_and_do_not_block() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        let admitted = admit(stream.as_fd(), Transport::Stream).unwrap();
        assert!(admitted.device.is_none() && admitted.send_buffer > 100_000, "{admitted:?}");
        let error = std::io::Read::read(&mut &stream, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        let (packets, _peer) = UnixDatagram::pair().unwrap();
        admit(packets.as_fd(), Transport::Packets).unwrap();
        assert!(why(&packets, Transport::Stream).contains("SOCK_STREAM"));
        assert!(why(&stream, Transport::Packets).contains("SOCK_SEQPACKET"));
    }

    #[test]
    fn open_files_that_wait_in_a_socket_are_found_and_stay_there() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let null = std::fs::File::open("/dev/null").unwrap();
        let send = |to: &UnixStream, octets: &[u8], with_file: bool, flags| {
            let fds = [null.as_raw_fd()];
            let file = [ControlMessage::ScmRights(&fds)];
            let files = if with_file { &file[..] } else { &[] };
            sendmsg::<()>(to.as_raw_fd(), &[std::io::IoSlice::new(octets)], files, flags, None)
        };
        let examine = |sends: &[(usize, bool, MsgFlags)]| {
            let (local, peer) = UnixStream::pair().unwrap();
            for (octets, with_file, flags) in sends {
                send(&peer, &vec![0; *octets], *with_file, *flags).unwrap();
            }
            admit(local.as_fd(), Transport::Stream).unwrap();
            let examined = examine_waiting(local.as_fd(), Transport::Stream);
            let waiting: usize = sends.iter().map(|(octets, ..)| octets).sum();
            assert_eq!(rustix::io::ioctl_fionread(&local).unwrap(), waiting as u64);
            examined
        };
        let plain = MsgFlags::empty();
        examine(&[]).unwrap();
        examine(&[(1, false, plain)].repeat(50)).unwrap();
        examine(&[(100_000, false, plain)]).unwrap();
        assert!(examine(&[(1, true, plain)]).unwrap_err().contains("open files"));
        let last = [&[(1, false, plain)].repeat(50)[..], &[(1, true, plain), (9, false, plain)]].concat();
        assert!(examine(&last).unwrap_err().contains("open files"));
        // The kernel shows what is before an urgent octet, not what is behind it.
        let hidden = [(5, false, plain), (1, false, MsgFlags::MSG_OOB), (1, true, plain)];
        assert!(examine(&hidden).unwrap_err().contains("urgent"));
        assert!(examine(&[(5, false, plain), (1, true, MsgFlags::MSG_OOB)]).is_err());
    }

    #[test]
    fn what_cannot_be_a_port_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        assert!(why(&listener, Transport::Stream).contains("listening"));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(why(&tcp, Transport::Stream).contains("another family"));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(why(&null, Transport::Stream).contains("not a socket"));
        assert!(why(&null, Transport::Tap).contains("/dev/null"));
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        assert!(
            why(&pipe, Transport::Packets).contains("not a socket") && why(&pipe, Transport::Tap).contains("pipe:")
        );
        let memory = nix::sys::memfd::memfd_create("frames", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        let event = nix::sys::eventfd::EventFd::new().unwrap();
        let dir = std::fs::File::open(folder.path()).unwrap();
        let only_path =
            |path: &Path| std::fs::File::options().read(true).custom_flags(libc::O_PATH).open(path).unwrap();
        let paths = [only_path(&folder.path().join("s")), only_path(Path::new("/dev/null"))];
        let odd: [BorrowedFd<'_>; 5] = [memory.as_fd(), event.as_fd(), dir.as_fd(), paths[0].as_fd(), paths[1].as_fd()];
        for fd in odd {
            assert!(why(fd, Transport::Stream).contains("not a socket"));
            assert!(why(fd, Transport::Packets).contains("not a socket"));
            assert!(why(fd, Transport::Tap).contains("/dev/net/tun"));
        }
        let alone = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        assert!(why(&alone, Transport::Stream).contains("without a peer"));
        let (local, other) = UnixStream::pair().unwrap();
        drop(other);
        admit(local.as_fd(), Transport::Stream).expect("a peer that has left is the worker's to find");
        if let Ok(tun) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
            assert!(why(&tun, Transport::Tap).contains("TUNSETIFF"));
        }
    }
}

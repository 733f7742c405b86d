//! Sends and receives octets and fds over Unix sockets.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg};
use sv3::foreign::ForeignFd;

/// Most fds that the kernel lets one message carry (net/scm.h: `SCM_MAX_FD`). The buffer has room for all of them, even
/// if fewer are wanted: the kernel closes fds that find no room within the call, and such a close may wait
/// ([`sv3::foreign`]).
const SCM_MAX_FD: usize = 253;

/// What one read brought.
#[derive(Debug)]
pub struct Received {
    /// Octets that were read; 0: the peer has closed its end.
    pub count: usize,
    /// Fds, closed on exec.
    pub fds: Vec<ForeignFd>,
    /// The message had more fds than this process may open. The kernel closed the others.
    pub truncated: bool,
}

/// Reads octets and the fds that came with them.
pub fn receive(socket: impl AsFd, into: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut ancillary, flags)?;
    let mut fds = Vec::new();
    for entry in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = entry {
            fds.extend(rights.map(ForeignFd::from));
        }
    }
    Ok(Received { count: message.bytes, fds, truncated: message.flags.contains(ReturnFlags::CTRUNC) })
}

/// The first octet that waits in a socket. It stays there.
pub fn first_octet(socket: impl AsFd) -> Option<u8> {
    let mut octet = [0];
    let looked = rustix::net::recv(socket, &mut octet[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    looked.ok().filter(|(count, _)| *count == 1).map(|_| octet[0])
}

/// Sends as many octets as the socket has room for. Returns how many.
pub fn send(socket: impl AsFd, octets: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, octets, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

/// Whether the call may succeed later: the socket has no data or no room yet, or the kernel is short of something. Such
/// an error says nothing about the peer.
pub fn is_later(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || is_shortage(error)
}

/// Whether the kernel is short of something, or this user has reached a limit.
pub fn is_shortage(error: &io::Error) -> bool {
    let short = [libc::ETOOMANYREFS, libc::ENOBUFS, libc::ENOMEM, libc::EMFILE, libc::ENFILE];
    error.raw_os_error().is_some_and(|errno| short.contains(&errno))
}

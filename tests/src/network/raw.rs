//! A packet socket: sends frames by an interface as if its kernel did, and sees those that come in.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, MultiHeaders, recv, send, sendmmsg};

use super::Namespace;
use crate::failure::{Failure, Result};
use crate::guest::NetHdr;

const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Octets of the header that the socket knows: that of legacy virtio without merged buffers.
const HEADER: usize = 10;
/// Most frames of a call.
const BATCH: usize = 32;

/// The socket, which does not block. Each of its frames has a header.
pub struct RawSocket {
    socket: OwnedFd,
}

impl RawSocket {
    /// A socket on an interface of a network.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<RawSocket> {
        let socket = namespace.inside(|| {
            let index = nix::net::if_::if_nametoindex(interface)?;
            let all = (libc::ETH_P_ALL as u16).to_be();
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: numbers in, a number out.
            let number = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(all)) })?;
            // SAFETY: an fd that nothing else has.
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            // SAFETY: all of it are numbers.
            let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            place.sll_family = libc::AF_PACKET as u16;
            place.sll_protocol = all;
            place.sll_ifindex = i32::try_from(index)?;
            let octets = size_of_val(&place) as libc::socklen_t;
            // SAFETY: the kernel reads a `sockaddr_ll`, which `place` is.
            Errno::result(unsafe { libc::bind(number, (&raw const place).cast(), octets) })?;
            for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
                let on: libc::c_int = 1;
                let octets = size_of_val(&on) as libc::socklen_t;
                // SAFETY: the kernel reads an `int`, which `on` is.
                let set = unsafe { libc::setsockopt(number, libc::SOL_PACKET, option, (&raw const on).cast(), octets) };
                Errno::result(set)?;
            }
            Ok(socket)
        })?;
        Ok(RawSocket { socket })
    }

    /// A frame with its header, as [`RawSocket::send_octets`] wants it.
    pub fn encode(hdr: &NetHdr, frame: &[u8]) -> Vec<u8> {
        let hdr = hdr.octets();
        [hdr.get(..HEADER).unwrap_or(&hdr), frame].concat()
    }

    /// Sends a frame. False: the interface has no room for it.
    pub fn send(&self, hdr: &NetHdr, frame: &[u8]) -> Result<bool> {
        self.send_octets(&RawSocket::encode(hdr, frame))
    }

    /// Sends a frame that was encoded. False: the interface has no room for it.
    pub fn send_octets(&self, octets: &[u8]) -> Result<bool> {
        sent(send(self.socket.as_raw_fd(), octets, MsgFlags::empty()).map(|_| 1)).map(|count| count == 1)
    }

    /// Sends the same frame, encoded, some 32 times. Returns how often there was room.
    pub fn send_batch(&self, octets: &[u8]) -> Result<usize> {
        let frame = [IoSlice::new(octets)];
        let frames = [&frame; BATCH];
        let addresses = [None; BATCH];
        let (mut headers, flags) = (MultiHeaders::<()>::preallocate(BATCH, None), MsgFlags::empty());
        let result = sendmmsg(self.socket.as_raw_fd(), &mut headers, frames, addresses, [], flags);
        sent(result.map(|results| results.count()))
    }

    /// Takes a frame that came in, if there is one.
    pub fn receive(&self) -> Result<Option<(NetHdr, Vec<u8>)>> {
        let mut octets = vec![0; 70_000];
        match recv(self.socket.as_raw_fd(), &mut octets, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => {
                octets.truncate(count);
                let frame = octets.split_off(HEADER.min(count));
                if octets.len() < HEADER {
                    return Err(Failure::new(format!("a frame of {count} octets")));
                }
                Ok(Some((NetHdr::parse(&octets), frame)))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn sent(result: nix::Result<usize>) -> Result<usize> {
    match result {
        Ok(count) => Ok(count),
        Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

//! Sockets whose last close waits.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use nix::sys::socket::{setsockopt, sockopt};

use crate::failure::Result;

/// How long it waits, in seconds: longer than any test does.
const LINGER: i32 = 600;

/// A TCP socket with octets that its peer never reads, whose last close waits for that; and the peer.
pub fn lingering() -> Result<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    while (&socket).write(&[0; 65536]).is_ok() {}
    setsockopt(&socket, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: LINGER })?;
    Ok((socket.into(), peer))
}

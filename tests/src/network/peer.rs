//! What is behind a socket port: QEMU's `stream`, libkrun, slirp4netns, as far as frames go.
//!
//! Written from the formats (QEMU's net/stream.c, libkrun's unixstream.rs) and not from sv3's code. A stream's peer
//! reads as it comes and finds the frames itself.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use crate::failure::{Failure, Result};
use crate::guest::NetHdr;
use crate::patience::PATIENCE;

/// Octets of a frame's length.
const PREFIX: usize = 4;
const HEADER: usize = 12;
/// QEMU takes no longer frames.
const LONGEST: usize = 69_632;

/// What is in front of each frame, beside its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nothing.
    Plain,
    /// A virtio header of 12 octets.
    NetHeader,
}

/// A peer that speaks a stream: frames behind their lengths, 4 octets, big-endian.
pub struct StreamPeer {
    socket: UnixStream,
    form: Form,
    /// What was read and is not a whole frame yet.
    heard: Vec<u8>,
    /// Most octets of a read.
    bite: usize,
}

impl StreamPeer {
    /// Connects to a door.
    pub fn connect(path: &Path, form: Form) -> Result<StreamPeer> {
        StreamPeer::of(UnixStream::connect(path)?, form)
    }

    /// One end of a pair, and the other end.
    pub fn pair(form: Form) -> Result<(StreamPeer, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((StreamPeer::of(ours, form)?, theirs.into()))
    }

    /// Takes a connected socket.
    pub fn of(socket: UnixStream, form: Form) -> Result<StreamPeer> {
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(StreamPeer { socket, form, heard: Vec::new(), bite: 1 << 16 })
    }

    /// Reads at most so many octets at a time.
    pub fn biting(self, octets: usize) -> StreamPeer {
        StreamPeer { bite: octets, ..self }
    }

    /// What it would write for a frame.
    pub fn encode(&self, hdr: &NetHdr, frame: &[u8]) -> Vec<u8> {
        let hdr = hdr.octets();
        let hdr = if self.form == Form::NetHeader { hdr.as_slice() } else { &[] };
        let length = u32::try_from(hdr.len() + frame.len()).unwrap_or(u32::MAX).to_be_bytes();
        [length.as_slice(), hdr, frame].concat()
    }

    /// Sends a frame that is complete.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.send_with(&NetHdr::default(), frame)
    }

    /// Sends a frame with a header, which a plain stream leaves out.
    pub fn send_with(&mut self, hdr: &NetHdr, frame: &[u8]) -> Result<()> {
        self.send_octets(&self.encode(hdr, frame))
    }

    /// Sends octets as they are; waits for room.
    pub fn send_octets(&mut self, octets: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(octets)?)
    }

    /// The frame that comes next; there must be one.
    pub fn receive(&mut self) -> Result<(NetHdr, Vec<u8>)> {
        let none = || Failure::new(format!("no frame came in {PATIENCE:?}"));
        self.receive_within(PATIENCE)?.ok_or_else(none)
    }

    /// The frame that comes next, if it comes in time. An error: the stream is out of step or closed.
    pub fn receive_within(&mut self, patience: Duration) -> Result<Option<(NetHdr, Vec<u8>)>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !ready(self.socket.as_fd(), left)? {
                return Ok(None);
            }
            let mut octets = vec![0; self.bite];
            match recv_some(&self.socket, &mut octets)? {
                Some(0) => return Err(Failure::new("the stream is closed")),
                Some(count) => self.heard.extend_from_slice(octets.get(..count).unwrap_or_default()),
                None => {}
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(NetHdr, Vec<u8>)>> {
        let Some(prefix) = self.heard.first_chunk::<PREFIX>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix) as usize;
        let header = if self.form == Form::NetHeader { HEADER } else { 0 };
        if length < header || length > LONGEST + header {
            return Err(Failure::new(format!("the stream is out of step: a frame of {length} octets")));
        }
        if self.heard.len() < PREFIX + length {
            return Ok(None);
        }
        let whole: Vec<u8> = self.heard.drain(..PREFIX + length).skip(PREFIX).collect();
        let (hdr, frame) = whole.split_at(header);
        let hdr = if header > 0 { NetHdr::parse(hdr) } else { NetHdr::default() };
        Ok(Some((hdr, frame.to_vec())))
    }

    /// Waits until the other side has closed the stream; what it sent before is thrown away.
    pub fn await_closed(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut octets = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !ready(self.socket.as_fd(), left)? {
                return Err(Failure::new("the stream is not closed"));
            }
            match recv_some(&self.socket, &mut octets) {
                Ok(Some(0)) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    /// The socket, for peers that behave otherwise.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }
}

/// A peer behind a socket on which a frame is a message.
pub struct PacketPeer {
    socket: OwnedFd,
}

/// One end of a pair of sockets of this type, and the other end.
pub fn packet_pair(kind: SockType) -> Result<(PacketPeer, OwnedFd)> {
    let (socket, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((PacketPeer { socket }, theirs))
}

impl PacketPeer {
    /// Sends a frame; waits for room.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let sent = send(std::os::fd::AsRawFd::as_raw_fd(&self.socket), frame, MsgFlags::MSG_NOSIGNAL)?;
        if sent == frame.len() { Ok(()) } else { Err(Failure::new(format!("{sent} octets of a frame were sent"))) }
    }

    /// The frame that comes next; there must be one.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let none = || Failure::new(format!("no frame came in {PATIENCE:?}"));
        self.receive_within(PATIENCE)?.ok_or_else(none)
    }

    /// The frame that comes next, if it comes in time.
    pub fn receive_within(&mut self, patience: Duration) -> Result<Option<Vec<u8>>> {
        if !ready(self.socket.as_fd(), patience)? {
            return Ok(None);
        }
        let mut octets = vec![0; 70_000];
        let count = recv(std::os::fd::AsRawFd::as_raw_fd(&self.socket), &mut octets, MsgFlags::MSG_DONTWAIT)?;
        octets.truncate(count);
        if count == 0 { Err(Failure::new("the socket is closed")) } else { Ok(Some(octets)) }
    }
}

/// Whether there is something to read in time.
fn ready(socket: BorrowedFd<'_>, patience: Duration) -> Result<bool> {
    let timeout = PollTimeout::try_from(patience.as_millis().min(60_000) as i32)?;
    match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads what is there; none: nothing is.
fn recv_some(mut socket: &UnixStream, octets: &mut [u8]) -> Result<Option<usize>> {
    match socket.read(octets) {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

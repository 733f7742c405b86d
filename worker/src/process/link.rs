//! The worker's end of the control socket: commands come in, reports go out. Neither blocks in the middle.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::unistd::{read, write};
use passfd::FdPassingExt;
use sv3::ipc::{Envelope, FRAME_MAX, FRAME_PREFIX, Report};

/// Most octets of reports that may wait for the supervisor to read. With more the supervisor counts as dead.
const BACKLOG: usize = 1 << 16;

/// Why the link to the supervisor ended.
#[derive(Debug)]
pub enum LinkEnd {
    /// The supervisor closed the socket: an orderly end.
    Closed,
    /// The supervisor broke the protocol, or does not read.
    Broken(String),
}

/// A command with its fds, in order.
pub type CommandWithFds = (Envelope, Vec<OwnedFd>);

/// The socket and what has arrived so far.
pub struct Link {
    socket: UnixStream,
    /// Octets of the incomplete frame.
    frame: Vec<u8>,
    /// A decoded command that waits for its fds.
    partial: Option<CommandWithFds>,
    backlog: Vec<u8>,
}

impl Link {
    /// Takes over the socket, which must not block. The link uses read(2) and write(2), which the policy permits for
    /// eventfds anyway, and not send(2) and recv(2).
    pub fn new(socket: UnixStream) -> Link {
        Link { socket, frame: Vec::with_capacity(FRAME_MAX), partial: None, backlog: Vec::new() }
    }

    /// The next whole command, if it has arrived.
    pub fn receive(&mut self) -> Result<Option<CommandWithFds>, LinkEnd> {
        if self.partial.is_none() {
            if !self.fill(FRAME_PREFIX)? {
                return Ok(None);
            }
            let prefix = self.frame.first_chunk::<FRAME_PREFIX>().copied().unwrap_or_default();
            let length = u32::from_le_bytes(prefix) as usize;
            if length > FRAME_MAX {
                return Err(LinkEnd::Broken(format!("a command of {length} octets")));
            }
            if !self.fill(FRAME_PREFIX + length)? {
                return Ok(None);
            }
            let body = self.frame.get(FRAME_PREFIX..).unwrap_or(&[]);
            let envelope = Envelope::decode(body).map_err(|e| LinkEnd::Broken(e.to_string()))?;
            self.frame.clear();
            let inherited = envelope.inherited.filter(|fd| *fd > libc::STDERR_FILENO);
            self.partial = Some((envelope, inherited.map(owned).into_iter().collect()));
        }
        if let Some((envelope, fds)) = &mut self.partial {
            while fds.len() < envelope.fds() {
                match self.socket.recv_fd() {
                    Ok(fd) => fds.push(owned(fd)),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(LinkEnd::Closed),
                    Err(e) => return Err(LinkEnd::Broken(format!("no fd: {e}"))),
                }
            }
        }
        Ok(self.partial.take())
    }

    /// Reads until `length` octets of the frame are here. Never reads further: the octets behind them may carry an
    /// fd.
    fn fill(&mut self, length: usize) -> Result<bool, LinkEnd> {
        while self.frame.len() < length {
            let have = self.frame.len();
            self.frame.resize(length, 0);
            let got = read(&self.socket, self.frame.get_mut(have..).unwrap_or(&mut []));
            self.frame.truncate(have + got.unwrap_or(0));
            match got {
                // Reset: the supervisor closed the socket before it read a report.
                Ok(0) | Err(Errno::ECONNRESET) => return Err(LinkEnd::Closed),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(LinkEnd::Broken(format!("the control socket: {errno}"))),
            }
        }
        Ok(true)
    }

    /// Sends a report, now or when the socket has room.
    pub fn report(&mut self, report: Report) -> Result<(), LinkEnd> {
        self.backlog.extend_from_slice(&report.to_bytes());
        self.flush()
    }

    /// Sends waiting reports as far as the socket has room.
    pub fn flush(&mut self) -> Result<(), LinkEnd> {
        while !self.backlog.is_empty() {
            match write(&self.socket, &self.backlog) {
                Ok(sent) => drop(self.backlog.drain(..sent)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if self.backlog.len() < BACKLOG => break,
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(LinkEnd::Closed),
                Err(errno) => return Err(LinkEnd::Broken(format!("reports are not read: {errno}"))),
            }
        }
        Ok(())
    }

    /// Whether reports wait for room.
    pub fn pending(&self) -> bool {
        !self.backlog.is_empty()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[allow(unsafe_code)] // named in the design: fd hand-over
fn owned(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: `passfd` received the fd just now and keeps no copy of it; or the worker started with it, and the
    // supervisor names each such fd once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

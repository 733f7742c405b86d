//! The front-end's half of vhost-user, written from QEMU's docs/interop/vhost-user.rst.
//!
//! Requests go out as they are asked for, well-formed or not; replies are checked.
#![allow(missing_docs, reason = "the requests have the specification's names")]

use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

use crate::failure::{Failure, Result};

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const RESET_OWNER: u32 = 4;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_LOG_BASE: u32 = 6;
pub const SET_LOG_FD: u32 = 7;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const SET_VRING_ERR: u32 = 14;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const SEND_RARP: u32 = 19;
pub const NET_SET_MTU: u32 = 20;
pub const GET_INFLIGHT_FD: u32 = 31;
pub const SET_INFLIGHT_FD: u32 = 32;
pub const RESET_DEVICE: u32 = 34;
pub const GET_MAX_MEM_SLOTS: u32 = 36;
pub const ADD_MEM_REG: u32 = 37;
pub const REM_MEM_REG: u32 = 38;
pub const SET_STATUS: u32 = 39;
pub const GET_STATUS: u32 = 40;

/// `flags`: the protocol's version.
pub const VERSION: u32 = 1;
const REPLY: u32 = 4;
/// `flags`: the message is to be acknowledged.
pub const NEED_REPLY: u32 = 8;

/// How long a reply may take by default.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(2);

/// What [`Wire::connect_within`] says of a back-end that listens and does not accept.
pub const NOT_ACCEPTED: &str = "no connection is accepted";

/// What a back-end sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message of this request's number, with this payload.
    Reply(u32, Vec<u8>),
    /// Nothing, but it listens.
    Nothing,
    /// It has closed the connection.
    Closed,
}

/// A connection to a back-end.
pub struct Wire {
    socket: UnixStream,
    /// Requests are acknowledged: REPLY_ACK is negotiated and asked for.
    pub acknowledged: bool,
    /// How many more requests may be sent before the front-end is gone.
    pub budget: Option<usize>,
}

impl Wire {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Wire> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Wire { socket, acknowledged: false, budget: None })
    }

    /// Connects to a back-end that may be dead or too busy to accept; waits at most so long for this and for anything
    /// later.
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Wire> {
        let deadline = Instant::now() + patience;
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // A full backlog blocks, but for a socket that does not.
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        let address = UnixAddr::new(path)?;
        loop {
            match connect(stream.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < deadline => std::thread::sleep(STEP),
                Err(Errno::EAGAIN) => return Err(Failure::new(format!("{NOT_ACCEPTED} in {patience:?}"))),
                Err(errno) => return Err(Failure::new(format!("{}: {}", path.display(), errno.desc()))),
            }
        }
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Wire { socket: stream, acknowledged: false, budget: None })
    }

    /// What the back-end says next, if it says it in time.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        let usual = self.socket.read_timeout().ok().flatten();
        let heard = self.hear_within(patience);
        let _ = self.socket.set_read_timeout(usual);
        heard
    }

    fn hear_within(&mut self, patience: Duration) -> Heard {
        let deadline = Instant::now() + patience;
        let mut message = Vec::new();
        let mut wanted = 12;
        loop {
            if message.len() == wanted {
                let [code, _flags, size] = words(&message);
                // Nothing that a back-end says is longer.
                wanted = 12 + size.min(65536) as usize;
                if message.len() == wanted {
                    return Heard::Reply(code, message.split_off(12));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut chunk = vec![0; wanted - message.len()];
            // No timeout at all would be for ever.
            let read = self.socket.set_read_timeout(Some(left.max(STEP))).and_then(|()| self.socket.read(&mut chunk));
            match read {
                Ok(0) => return Heard::Closed,
                Ok(count) => message.extend(chunk.iter().take(count)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if left.is_zero() {
                        return Heard::Nothing;
                    }
                }
                Err(_) => return Heard::Closed,
            }
        }
    }

    /// A request that is answered by a u64.
    pub fn get(&mut self, request: u32) -> Result<u64> {
        let payload = self.ask(request, &[], &[])?;
        one_word(request, &payload)
    }

    /// A request that is answered by a payload.
    pub fn ask(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<u8>> {
        self.send(request, VERSION, payload, fds)?;
        self.reply(request)
    }

    /// A request that is answered only if it is to be acknowledged, which it must be by success.
    pub fn set(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        match self.acknowledged {
            false => self.send(request, VERSION, payload, fds),
            true => match self.set_and_ask(request, payload, fds)? {
                0 => Ok(()),
                code => Err(Failure::new(format!("request {request} was refused: {code}"))),
            },
        }
    }

    /// A request with `need_reply`; the acknowledgement (0: done).
    pub fn set_and_ask(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<u64> {
        self.send(request, VERSION | NEED_REPLY, payload, fds)?;
        let payload = self.reply(request)?;
        one_word(request, &payload)
    }

    /// One message with any flags, payload and fds.
    pub fn send(&mut self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        match &mut self.budget {
            Some(0) => return Err(Failure::new("the front-end is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.send_octets(&[&header(request, flags, payload.len() as u32), payload].concat(), fds)
    }

    /// Any octets and fds.
    pub fn send_octets(&mut self, octets: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[_] = if raw.is_empty() { &[] } else { &rights };
        let sent =
            sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(octets)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        if sent == octets.len() { Ok(()) } else { Err(Failure::new(format!("{sent} octets of {}", octets.len()))) }
    }

    /// The payload of the reply to `request`.
    pub fn reply(&mut self, request: u32) -> Result<Vec<u8>> {
        let failed = |error: std::io::Error| Failure::new(format!("no reply to request {request}: {error}"));
        let mut header = [0; 12];
        self.socket.read_exact(&mut header).map_err(failed)?;
        let [code, flags, size] = words(&header);
        if (code, flags) != (request, VERSION | REPLY) || size > 4096 {
            return Err(Failure::new(format!("reply to {request} is of {code}, flags {flags:#x}, {size} octets")));
        }
        let mut payload = vec![0; size as usize];
        self.socket.read_exact(&mut payload).map_err(failed)?;
        Ok(payload)
    }

    /// Waits until the back-end has closed the connection; replies that come before are passed over.
    pub fn await_close(&mut self) -> Result<()> {
        let mut rest = [0; 4096];
        loop {
            match self.socket.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // Closed before it has read all that was sent.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(Failure::new(format!("the back-end does not close the connection: {error}"))),
            }
        }
    }

    /// The socket, for what no method does.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }
}

/// A message's header.
pub fn header(request: u32, flags: u32, size: u32) -> [u8; 12] {
    let mut octets = [0; 12];
    for (place, word) in octets.chunks_exact_mut(4).zip([request, flags, size]) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    octets
}

/// A vring state description: index and number.
pub fn vring_state(index: u32, number: u32) -> Vec<u8> {
    [index.to_ne_bytes(), number.to_ne_bytes()].concat()
}

/// A vring addresses description. Addresses are the front-end's.
pub fn vring_addr(index: u32, descriptors: u64, used: u64, available: u64) -> Vec<u8> {
    let log = 0u64;
    let addrs = [descriptors, used, available, log].map(u64::to_ne_bytes);
    [vring_state(index, 0), addrs.concat()].concat()
}

/// A memory region description: guest address, size, user address, offset in the file.
pub fn region(guest_addr: u64, size: u64, user_addr: u64, offset: u64) -> Vec<u8> {
    [guest_addr, size, user_addr, offset].map(u64::to_ne_bytes).concat()
}

/// A single memory region description.
pub fn single_region(region: &[u8]) -> Vec<u8> {
    [&[0; 8], region].concat()
}

/// A multiple memory regions description.
pub fn region_table(regions: &[Vec<u8>]) -> Vec<u8> {
    [vec![regions.len() as u8, 0, 0, 0, 0, 0, 0, 0], regions.concat()].concat()
}

fn one_word(request: u32, payload: &[u8]) -> Result<u64> {
    let octets = payload.try_into().map_err(|_| {
        Failure::new(format!("the reply to request {request} has {} octets where 8 belong", payload.len()))
    })?;
    Ok(u64::from_ne_bytes(octets))
}

/// The two words of a vring state.
pub fn parse_vring_state(payload: &[u8]) -> Result<(u32, u32)> {
    let octets: [u8; 8] = payload.try_into()?;
    let [index, number] = words(&octets);
    Ok((index, number))
}

fn words<const N: usize>(octets: &[u8]) -> [u32; N] {
    std::array::from_fn(|at| {
        octets.get(at * 4..at * 4 + 4).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
    })
}

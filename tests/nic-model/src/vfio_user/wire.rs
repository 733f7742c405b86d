//! The card's wire: a stream on which a frame is its length in 4 octets, big-endian, and its octets, as QEMU's
//! `-netdev stream` has it. The wire never waits. While the other side takes nothing, the card is to send nothing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Octets that wait at most, in each direction: about what an 82599 has room for.
const ROOM: usize = 512 << 10;
/// Longest frame.
const LONGEST: usize = 16 << 10;
const PREFIX: usize = 4;

/// This side of the wire.
pub struct Wire {
    socket: UnixStream,
    heard: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    waiting: usize,
    to_send: VecDeque<u8>,
    closed: bool,
}

impl Wire {
    /// Takes a connected socket.
    pub fn new(socket: UnixStream) -> io::Result<Wire> {
        socket.set_nonblocking(true)?;
        let (heard, frames, to_send) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Ok(Wire { socket, heard, frames, waiting: 0, to_send, closed: false })
    }

    /// Something waits to be sent.
    pub fn is_full(&self) -> bool {
        !self.to_send.is_empty()
    }

    /// Nobody is at the other end.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Reads what has come.
    pub fn hear(&mut self) {
        let mut octets = vec![0; 1 << 16];
        loop {
            match self.socket.read(&mut octets) {
                Ok(count) if count > 0 => self.heard.extend_from_slice(octets.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {
                    self.closed = true;
                    break;
                }
            }
            self.split();
        }
    }

    /// The frame that came next.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.pop_front()?;
        self.waiting -= frame.len();
        Some(frame)
    }

    /// Sends a frame, or loses it.
    pub fn send(&mut self, frame: &[u8]) {
        if self.to_send.len() + PREFIX + frame.len() <= ROOM {
            self.to_send.extend((frame.len() as u32).to_be_bytes());
            self.to_send.extend(frame);
        }
        self.flush();
    }

    /// Sends what waits, as far as it goes.
    pub fn flush(&mut self) {
        while !self.to_send.is_empty() {
            match self.socket.write(self.to_send.as_slices().0) {
                Ok(count) if count > 0 => drop(self.to_send.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {
                    self.closed = true;
                    self.to_send.clear();
                }
            }
        }
    }

    /// Finds the frames in what was heard. A length beyond all frames: the rest cannot be told apart.
    fn split(&mut self) {
        let mut at = 0;
        while let Some(prefix) = self.heard.get(at..).and_then(|octets| octets.first_chunk::<PREFIX>()) {
            let length = u32::from_be_bytes(*prefix) as usize;
            self.closed |= length > LONGEST;
            let Some(frame) = self.heard.get(at + PREFIX..at + PREFIX + length) else { break };
            if self.waiting + length <= ROOM {
                self.waiting += length;
                self.frames.push_back(frame.to_vec());
            }
            at += PREFIX + length;
        }
        self.heard.drain(..at);
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_whole_however_they_are_cut() -> io::Result<()> {
        let (mut test, card) = UnixStream::pair()?;
        let mut wire = Wire::new(card)?;
        let octets = [&[0, 0, 0, 3, 1, 2, 3][..], &[0, 0, 0, 1, 9]].concat();
        for octet in octets {
            test.write_all(&[octet])?;
            wire.hear();
        }
        assert_eq!((wire.take(), wire.take(), wire.take()), (Some(vec![1, 2, 3]), Some(vec![9]), None));
        Ok(())
    }

    #[test]
    fn a_wire_without_a_listener_takes_no_more_than_its_room() -> io::Result<()> {
        let (test, card) = UnixStream::pair()?;
        let mut wire = Wire::new(card)?;
        for _ in 0..10_000 {
            wire.send(&[0; 1500]);
        }
        assert!(wire.is_full() && wire.to_send.len() <= ROOM && !wire.is_closed());
        drop(test);
        wire.flush();
        assert!(wire.is_closed() && !wire.is_full());
        Ok(())
    }
}

//! Frames that are about to be written to a stream: collected, and written with one syscall.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use sv3::frame::MAX_FRAME;
use sv3::ipc::RingFault;
use sv3::virtio::NET_HDR_LEN;

use super::failure;
use super::input::LENGTH;
use super::room::Room;
use crate::memory::copy::Writer;
use crate::memory::file_io;
use crate::memory::slice::GuestSlice;
use crate::port::sink::Undelivered;
use crate::process::crash_points::{CrashPoint, pass};

/// Octets that are collected at most.
const COLLECTED: usize = 32 * 1024;
/// A frame of more octets is not collected: the kernel copies it from where it is.
const LONG: usize = 4096;
/// Most octets of one write: what is collected, and the longest frame behind its length and its net header.
const MOST: usize = COLLECTED + LENGTH + NET_HDR_LEN + MAX_FRAME;

/// A frame for a stream.
#[derive(Clone, Copy)]
pub struct Piece<'a, 'm> {
    /// What is in front of the frame, and the frame's first octets.
    pub own: [&'a [u8]; 2],
    /// The slices that hold the rest, the octets before it, and its octets.
    pub rest: (&'a [GuestSlice<'m>], usize, usize),
}

/// The outbox of a stream.
pub struct Outbox {
    room: Room,
    collected: Box<[u8]>,
    len: usize,
    /// The kernel had no room for a frame of this burst. It is asked again in the next one, not for each frame.
    is_full: bool,
}

impl Outbox {
    /// An empty outbox, for a socket with this SO_SNDBUF.
    pub fn new(send_buffer: usize) -> Outbox {
        Outbox {
            room: Room::new(send_buffer),
            collected: vec![0; COLLECTED].into_boxed_slice(),
            len: 0,
            is_full: false,
        }
    }

    /// Whether the socket would take a frame of `octets` if its peer had received everything.
    pub fn could_take(&self, octets: usize) -> bool {
        self.room.is_enough(LENGTH + octets)
    }

    /// Sends a frame: now, or with the next [`Outbox::flush`]. EAGAIN: there is no room.
    pub fn put(&mut self, socket: BorrowedFd<'_>, piece: &Piece<'_, '_>) -> Result<(), Undelivered> {
        let octets = piece.own.iter().map(|own| own.len()).sum::<usize>() + piece.rest.2;
        let needed = LENGTH + octets;
        if needed <= LONG && self.len + needed > self.collected.len() {
            self.flush(socket).map_err(Undelivered::Fault)?;
        }
        self.is_full = self.is_full || !self.room.takes(socket, self.len + needed);
        if self.is_full {
            return Err(failure::of_write(Errno::EAGAIN));
        }
        let length = (octets as u32).to_be_bytes();
        if needed <= LONG {
            self.collect(&length, piece);
            return Ok(());
        }
        self.write(socket, &length, piece)
    }

    fn collect(&mut self, length: &[u8], Piece { own: [first, second], rest: (slices, skip, len) }: &Piece<'_, '_>) {
        let to = [GuestSlice::of_host(self.collected.get_mut(self.len..).unwrap_or(&mut []))];
        let mut writer = Writer::new(&to);
        let own: usize = [length, first, second].into_iter().map(|octets| writer.write(octets)).sum();
        self.len += own + writer.copy(slices, *skip, *len);
    }

    /// Writes what is collected and a long frame.
    fn write(&mut self, socket: BorrowedFd<'_>, length: &[u8], piece: &Piece<'_, '_>) -> Result<(), Undelivered> {
        let [first, second] = piece.own;
        let collected = self.collected.get(..self.len).unwrap_or(&[]);
        let all = [collected, length, first, second];
        let whole = all.iter().map(|octets| octets.len()).sum::<usize>() + piece.rest.2;
        let written = file_io::write(socket, &all, piece.rest).map_err(failure::of_write)?;
        self.room.note(whole);
        self.len = 0;
        if written < whole {
            return self.complete(socket, whole - written);
        }
        pass(CrashPoint::FileWritten);
        Ok(())
    }

    /// The kernel wrote a part: the frame's sender has truncated its memory behind that part. The rest becomes zeroes,
    /// so that the receiver finds the next frame. The part ends where a buffer of the kernel ends. So one write of the
    /// rest is cut into the same buffers as the whole would have been, and there is room for them.
    #[cold]
    fn complete(&mut self, socket: BorrowedFd<'_>, left: usize) -> Result<(), Undelivered> {
        let zeroes = [0; LONG];
        let mut pieces = [&zeroes[..]; MOST.div_ceil(LONG)];
        let count = left.div_ceil(LONG);
        if let Some(last) = count.checked_sub(1).and_then(|last| pieces.get_mut(last)) {
            *last = zeroes.get(..left - (count - 1) * LONG).unwrap_or(&zeroes);
        }
        let written = file_io::write(socket, pieces.get(..count).unwrap_or(&pieces), (&[], 0, 0));
        // What counts in the kernel is not known.
        self.room = self.room.unknown();
        match written {
            Ok(written) if written == left => Ok(()),
            _ => Err(Undelivered::Fault(RingFault::BadFile)),
        }
    }

    /// Writes what is collected: the burst is over, or there is no more room to collect.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<(), RingFault> {
        self.is_full = false;
        let len = std::mem::take(&mut self.len);
        let Some(collected) = self.collected.get(..len).filter(|collected| !collected.is_empty()) else {
            return Ok(());
        };
        let written = file_io::write(socket, &[collected], (&[], 0, 0)).map_err(failure::fault)?;
        self.room.note(len);
        if written < len {
            return Err(RingFault::BadFile);
        }
        pass(CrashPoint::FileWritten);
        Ok(())
    }
}

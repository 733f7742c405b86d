//! What was read from a file and is not forwarded yet. It lies in the ledger and outlives the worker.
//!
//! # Theory of operation
//!
//! Octets lie in one of two halves: `[length: 4 octets, big-endian][body]`, again and again. The body is a net header,
//! if the file has one, and a frame. [`Position`] says which octets count. It is one word and changes by one store.
//!
//! **A stream** gives octets that nobody can read again. So the worker must not die between the kernel's count of them
//! and its own. The kernel stores its count in the message with which the worker receives (`msg_len`), before the
//! process can die. There are two messages. The count of the one that is not in use is 0 or stale. So:
//!
//! 1. zero the count of the other message;
//! 2. receive with this message: the kernel adds octets and stores their count;
//! 3. one store: the end grows by the count, and the other message is the one in use.
//!
//! At any moment the octets that count are those of the position, and those of the message in use ([`Input::open`]).
//!
//! **A frame of a tap or a packet socket** is read directly behind 4 free octets, then its length is written there,
//! then the position is stored. A worker that dies before the last store loses the frame that it was reading.
//!
//! If the frame that has begun does not fit into the rest of its half, its octets are copied to the other half, and one
//! store makes that half count. A half holds the longest frame at any offset that this leads to.
//!
//! The worker before may have lied: position, counts and lengths are bounded, and if they contradict each other the
//! stream is broken ([`RingFault::BadLength`]).

use std::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use sv3::ipc::RingFault;
use sv3::ledger::{INPUT_HALF, Input as SharedInput};

use super::position::{FIRST, Position};
use crate::memory::file_io::{MESSAGE_LEN, Message};
use crate::memory::slice::GuestSlice;
use crate::process::crash_points::{CrashPoint, pass};

/// Octets of a length.
pub const LENGTH: usize = 4;
/// If fewer octets than this are free in a half and fewer are in use, the octets move: short reads cost more.
const LITTLE: usize = 16 * 1024;

/// The input of a file, as the worker that serves sees it. Only this worker writes it.
pub struct Input {
    shared: &'static SharedInput,
    position: Position,
    /// Most octets of a body.
    longest: usize,
    /// Octets of the first frames, which are completed and not given back.
    completed: usize,
}

/// What is at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A body of this many octets, [`LENGTH`] octets further.
    Body(usize),
    /// A part of a frame.
    Part,
    /// No octets.
    Nothing,
}

impl Input {
    /// Goes on where the last worker was, if that belongs to the same `run`. Otherwise begins anew. `longest`: most
    /// octets of a body.
    pub fn open(shared: &'static SharedInput, run: u32, longest: usize) -> Result<Input, RingFault> {
        let counts = [0, 1].map(|at| count(shared, at));
        let mut position = Position::EMPTY;
        if shared.run.load(Acquire) == run {
            position = Position::unpack(shared.state.load(Relaxed));
            let [count, other] = if position.message == 0 { counts } else { [counts[1], counts[0]] };
            position.end += (count.load(Relaxed) as u32 as usize).min(INPUT_HALF);
            if !position.is_possible() {
                return Err(RingFault::BadLength);
            }
            other.store(0, Release);
            position.message ^= 1;
            shared.state.store(position.pack(), Release);
        } else {
            // If this worker dies here, nothing counts.
            shared.run.store(0, Release);
            counts.into_iter().for_each(|count| count.store(0, Release));
            shared.state.store(position.pack(), Release);
            shared.run.store(run, Release);
        }
        Ok(Input { shared, position, longest, completed: 0 })
    }

    /// Where the first octet is.
    #[inline]
    pub fn start(&self) -> usize {
        self.position.start
    }

    fn half(&self) -> &'static [AtomicU8; INPUT_HALF] {
        let [first, second] = &self.shared.halves;
        if self.position.half == 0 { first } else { second }
    }

    /// The octets `[from, to)` of the half in use.
    #[inline]
    pub fn octets(&self, from: usize, to: usize) -> GuestSlice<'static> {
        GuestSlice::of_shared(self.half().get(from..to).unwrap_or(&[]))
    }

    /// What is at an offset at which a length may be.
    #[inline]
    pub fn step(&self, at: usize) -> Result<Step, RingFault> {
        match self.position.end.saturating_sub(at) {
            0 => Ok(Step::Nothing),
            1..LENGTH => Ok(Step::Part),
            rest => {
                let mut length = [0; LENGTH];
                self.octets(at, at + LENGTH).read(0, &mut length);
                let length = u32::from_be_bytes(length) as usize;
                if length > self.longest {
                    return Err(RingFault::BadLength);
                }
                Ok(if rest - LENGTH < length { Step::Part } else { Step::Body(length) })
            }
        }
    }

    /// Receives octets of a stream. `receive` fills a part of the room, and stores in the message how much. Returns
    /// how many octets.
    pub fn receive(&mut self, receive: impl FnOnce(&Message, &[AtomicU8]) -> nix::Result<usize>) -> nix::Result<usize> {
        self.make_room();
        let [first, second] = &self.shared.messages;
        let message = if self.position.message == 0 { first } else { second };
        count(self.shared, self.position.message ^ 1).store(0, Release);
        let room = self.half().get(self.position.end..).unwrap_or(&[]);
        let received = receive(message, room)?.min(room.len());
        pass(CrashPoint::FileRead);
        self.position.end += received;
        self.position.message ^= 1;
        self.store();
        Ok(received)
    }

    /// Makes the frame that has begun fit. There is no whole frame.
    fn make_room(&mut self) {
        let Position { start, end, half, .. } = self.position;
        let used = end - start;
        let mut length = [0; LENGTH];
        let known = self.octets(start, end).read(0, &mut length) == LENGTH;
        let length = if known { (u32::from_be_bytes(length) as usize).min(self.longest) } else { 0 };
        let fits = start + LENGTH + length <= INPUT_HALF;
        if fits && (INPUT_HALF - end >= LITTLE || used >= LITTLE) {
            return;
        }
        let from = self.octets(start, end);
        self.position.half = half ^ 1;
        from.copy_to(0, &self.octets(FIRST, FIRST + used), 0, used);
        (self.position.start, self.position.end) = (FIRST, FIRST + used);
        self.store();
    }

    /// Whether a frame of any length fits behind the others.
    pub fn has_room(&self) -> bool {
        self.position.end + LENGTH + self.longest <= INPUT_HALF
    }

    /// Whether nothing waits, not even a part of a frame.
    pub fn is_empty(&self) -> bool {
        self.position.start == self.position.end
    }

    /// Reads one frame. `read` fills a part of the room. Returns how many octets; no frame has none.
    pub fn read(&mut self, read: impl FnOnce(&[AtomicU8]) -> nix::Result<usize>) -> nix::Result<usize> {
        let at = self.position.end;
        let body = at + LENGTH..at + LENGTH + self.longest;
        let room = self.half().get(body).unwrap_or(&[]);
        let len = read(room)?.min(room.len());
        if len > 0 {
            pass(CrashPoint::FileRead);
            self.octets(at, at + LENGTH).write(0, &(len as u32).to_be_bytes());
            self.position.end = at + LENGTH + len;
            self.store();
        }
        Ok(len)
    }

    /// The next frames, of so many octets with their lengths, are completed.
    #[inline]
    pub fn complete(&mut self, octets: usize) {
        self.completed += octets;
    }

    /// Completed frames do not count any more.
    #[inline]
    pub fn publish(&mut self) {
        if self.completed > 0 {
            self.position = self.position.without(std::mem::take(&mut self.completed));
            self.store();
        }
    }

    #[inline]
    fn store(&self) {
        self.shared.state.store(self.position.pack(), Release);
    }
}

/// How many octets the kernel gave with a message.
fn count(shared: &SharedInput, message: usize) -> &AtomicU64 {
    let [first, second] = &shared.messages;
    let [.., count] = if message == 0 { first } else { second };
    count
}

const _: () = assert!(MESSAGE_LEN == 7);

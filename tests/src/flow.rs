//! Numbered frames from one guest to another: which came, which did not, which came twice, and whether each is as sent.

use std::time::Instant;

use crate::frames::{mac, noise};
use crate::guest::{Guest, Received};
use crate::patience::PATIENCE;

/// Frames from one guest to another, by number.
pub struct Flow {
    from: u8,
    to: u8,
    octets: usize,
    sent: u32,
    /// How often each came.
    seen: Vec<u8>,
    /// How many have not come.
    missing: u32,
}

impl Flow {
    /// Nothing sent yet, from one station to another (see [`mac`]), frames of this many octets, at least 18.
    pub fn new(from: u8, to: u8, octets: usize) -> Flow {
        Flow { from, to, octets, sent: 0, seen: Vec::new(), missing: 0 }
    }

    fn frame(&self, number: u32) -> Vec<u8> {
        let mut frame = noise(mac(self.to), mac(self.from), self.octets, number);
        frame[14..18].copy_from_slice(&number.to_ne_bytes());
        frame
    }

    /// Sends the next frames.
    #[track_caller]
    pub fn send(&mut self, guest: &mut Guest, count: u32) {
        for _ in 0..count {
            guest.send(&self.frame(self.sent));
            self.sent += 1;
            self.missing += 1;
            self.seen.push(0);
        }
    }

    /// The next frames, for a sender that is no guest.
    pub fn prepare(&mut self, count: u32) -> Vec<Vec<u8>> {
        let frames = (self.sent..self.sent + count).map(|number| self.frame(number)).collect();
        (self.sent, self.missing) = (self.sent + count, self.missing + count);
        self.seen.extend((0..count).map(|_| 0));
        frames
    }

    /// Takes note of a frame that was received, which must be one of those that were sent.
    #[track_caller]
    pub fn note(&mut self, received: &Received) {
        let number = u32::from_ne_bytes(std::array::from_fn(|at| received.frame[14 + at]));
        let known = self.seen.get_mut(number as usize);
        let times =
            known.unwrap_or_else(|| panic!("one that was never sent: {:?} {:x?}", received.hdr, received.frame));
        self.missing -= u32::from(*times == 0);
        *times += 1;
        assert!(received.frame == self.frame(number), "frame {number} was changed");
    }

    /// How often a frame has come.
    pub fn times(&self, number: u32) -> u8 {
        self.seen.get(number as usize).copied().unwrap_or(0)
    }

    /// Every frame that was sent has come.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// Receives until every frame that was sent has come.
    #[track_caller]
    pub fn await_complete(&mut self, guest: &mut Guest) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_complete() {
            let received = guest.receive_within(deadline.saturating_duration_since(Instant::now()));
            let received = received.unwrap_or_else(|| panic!("{} of {} frames did not come", self.missing, self.sent));
            self.note(&received);
        }
    }

    /// How many frames came twice; none may have come more often.
    #[track_caller]
    pub fn duplicates(&self) -> u32 {
        assert!(self.seen.iter().all(|times| *times <= 2), "a frame came more than twice");
        self.seen.iter().filter(|times| **times == 2).count() as u32
    }
}

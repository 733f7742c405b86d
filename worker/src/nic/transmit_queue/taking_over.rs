//! What an earlier worker, or an earlier life of the queue, has left to be sent.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::TransmitQueue;
use crate::nic::descriptor::{self, Kind};
use crate::nic::memory::CardMemory;
use crate::nic::positions::Word;
use crate::nic::transmit_area::Step;

impl TransmitQueue {
    /// The queue is off: writes descriptors of all that the card has not sent, from the ring's beginning on.
    pub fn prepare(&mut self, memory: &CardMemory, goes_on: bool) {
        self.is_on = false;
        let (done, sent) = if goes_on { self.left(memory) } else { (0, 0) };
        self.positions.store(memory, Word::Done, done as u64, false);
        (self.clean, self.tail, self.context) = (0, 0, None);
        (self.done, self.end) = (done, done);
        self.kept.stop();
        while self.end != sent {
            match self.area.step(memory, self.end) {
                Step::Frame(request) if request.again => {
                    self.end = self.area.behind(self.end, request.len as usize);
                }
                Step::Frame(request) if self.has_descriptors(request.len as usize, 1) => {
                    self.describe(memory, self.end, &request);
                    self.end = self.area.behind(self.end, request.len as usize);
                }
                Step::Skip => self.end = 0,
                // The card has written over it: the rest is lost.
                _ => break,
            }
        }
        if self.tail == 0 {
            // Nothing is left but what was skipped, and no descriptor will tell that it is done.
            self.done = self.end;
        }
        self.close(memory);
        if let Some(head) = self.head_word(memory) {
            head.store(0, Relaxed);
        }
        self.positions.store(memory, Word::Sent, self.sent as u64, true);
        self.positions.store(memory, Word::Done, self.done as u64, true);
    }

    /// The offsets of what was published and not sent, as memory tells.
    fn left(&self, memory: &CardMemory) -> (usize, usize) {
        let (done, has_head) = self.positions.load(memory, Word::Done);
        let (sent, _) = self.positions.load(memory, Word::Sent);
        let (Some(done), Some(sent)) = (self.area.offset(done), self.area.offset(sent)) else { return (0, 0) };
        match self.first_unsent(memory).filter(|_| has_head) {
            None => (done, sent),
            Some(None) => (sent, sent),
            Some(Some(first)) => (self.bounded(memory, first, (done, sent)), sent),
        }
    }

    /// The offset of the frame at the head that the card wrote; `Some(None)`: it has sent all.
    fn first_unsent(&self, memory: &CardMemory) -> Option<Option<usize>> {
        let head = self.ring.index(self.head_word(memory)?.load(Acquire) & 0xffff_ffff)?;
        let ring = self.descriptors(memory);
        let kind = |index: u16| {
            let [low, high] = ring.get(usize::from(index))?;
            Some(descriptor::kind([low.load(Relaxed), high.load(Relaxed)]))
        };
        let kind = match kind(head)? {
            Kind::Context => kind(self.ring.behind(head, 1))?,
            kind => kind,
        };
        match kind {
            Kind::Data(address) => Some(Some(self.area.offset_at(memory, address)?)),
            Kind::Context => None,
            Kind::Other => Some(None),
        }
    }

    /// `first`, if a frame begins there between `done` and `sent`; or `sent`, if it is the next one that would have been
    /// published; or `done`.
    fn bounded(&self, memory: &CardMemory, first: usize, (done, sent): (usize, usize)) -> usize {
        let mut at = done;
        // Each frame has a descriptor, and behind what is skipped there is one.
        for _ in 0..=2 * u32::from(self.ring.0) {
            if at == sent {
                break;
            }
            match self.area.step(memory, at) {
                Step::Frame(_) if at == first => return first,
                Step::Frame(request) => at = self.area.behind(at, request.len as usize),
                Step::Skip => at = 0,
                Step::Nonsense => return done,
            }
        }
        let is_next = first == sent || first == 0 && self.area.step(memory, sent) == Step::Skip;
        if is_next { sent } else { done }
    }
}

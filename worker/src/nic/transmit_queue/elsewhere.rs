//! Frames that are left in a guest's memory, but for their first octets, and frames behind them that their senders' rings
//! keep as well.

use std::collections::VecDeque;

use super::{PIECE, Place, SPARE, TransmitQueue};
use crate::nic::bar::Bar;
use crate::nic::card::Card;
use crate::nic::fault::Fault;
use crate::nic::memory::CardMemory;
use crate::nic::queue_registers::SWFLSH;
use crate::nic::request::Request;

/// Frames that their senders' rings keep.
pub(super) struct Kept {
    /// The last descriptors of those that are not known to be done.
    pub last: VecDeque<u16>,
    /// The number of the last one that was put. Numbers of an earlier queue are lower than all of a later one.
    pub put: u64,
    /// See [`Progress::void`].
    pub void: u64,
}

/// How far the card is with frames that their senders' rings keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Up to this number the card has read them, or was stopped before.
    pub done: u64,
    /// It was stopped: those up to this number of which nobody has heard that they were done are to be sent again. Few of
    /// them, or none, were sent.
    pub void: u64,
}

impl Kept {
    /// How many were done, as a number.
    fn done(&self) -> u64 {
        self.put - self.last.len() as u64
    }

    /// The card was stopped.
    pub fn stop(&mut self) {
        if !self.last.is_empty() {
            self.void = self.put;
            self.last.clear();
        }
    }

    /// One more, with this last descriptor.
    pub fn put(&mut self, last: u16) {
        self.last.push_back(last);
        self.put += 1;
    }
}

impl TransmitQueue {
    /// The same for a frame whose first `len` octets are put into the area, and the rest of which lies in `pieces`
    /// pieces, each at most [`PIECE`] octets long.
    pub fn find_part<'m>(
        &mut self,
        memory: &'m CardMemory,
        len: usize,
        pieces: usize,
    ) -> Result<Option<Place<'m>>, Fault> {
        // As many descriptors as if the pieces followed each other.
        let fits = |queue: &TransmitQueue| queue.has_descriptors(len + pieces * PIECE, SPARE);
        if !fits(self) {
            self.clean(memory)?;
        }
        if fits(self) { self.find(memory, len) } else { Ok(None) }
    }

    /// The first octets of a frame are in their place, and the rest of it is in `pieces`, by the card's addresses, each at
    /// most [`PIECE`] octets long.
    pub fn put_part(
        &mut self,
        memory: &CardMemory,
        place: &Place<'_>,
        request: &Request,
        pieces: impl Iterator<Item = (u64, usize)>,
    ) {
        let len = place.frame.len();
        let offset = self.enter(memory, place, &Request { len: len as u32, again: true, ..*request });
        let behind = self.area.behind(offset, len);
        let first = (self.area.address(memory, offset), len);
        self.describe_pieces(memory, (offset, behind), request, [first].into_iter().chain(pieces));
        self.end = behind;
        self.kept.put(self.last);
    }

    /// The number of the last frame that its sender's ring keeps.
    pub fn kept(&self) -> u64 {
        self.kept.put
    }

    /// Which of them are done.
    pub fn progress(&self) -> Progress {
        Progress { done: self.kept.done(), void: self.kept.void }
    }

    /// The card reads only what is in the area from now on. Frames that senders' rings keep are to be sent again.
    pub fn recall(&mut self, card: &Card) -> Result<(), Fault> {
        if self.kept.last.is_empty() {
            return Ok(());
        }
        if !self.is_on {
            self.prepare(&card.memory, true);
            return Ok(());
        }
        self.registers.disable(&card.bar, "TXDCTL", SWFLSH, card.bar.now_ns())?;
        self.prepare(&card.memory, true);
        self.turn_on(card)
    }
}

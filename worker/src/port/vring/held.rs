//! Chains that a card still reads: their frames were left where they are, and a card has their descriptors.
//!
//! Such a chain was taken and is not completed. If the worker dies, the next one finds it in the ring and sends it again.
//! Chains that were taken behind it wait too, since a ring's chains are completed in order. Meanwhile more chains are
//! taken from [`Held::cursor`] on.

use std::collections::VecDeque;

use super::virtqueue::Chain;
use crate::nic::transmit_queue::Progress;
use crate::port::kind::WhenEmpty;
use crate::port::sink::Mark;
use sv3::ids::QueueId;

/// Most chains that are held. A card of 4,096 descriptors has fewer such frames.
const ROOM: usize = 1024;
/// How long a thread waits awake for a card that sends nothing, in nanoseconds. Then it looks once in [`NAP_NS`].
const AWAKE_NS: u64 = 1_000_000;
/// See [`AWAKE_NS`].
const NAP_NS: u64 = 1_000_000;
/// How long a card may send nothing, in nanoseconds. Then its queue is taken back, so that frames to other ports pass, and
/// frames to it are copied for [`REST_NS`].
const STALL_NS: u64 = 20_000_000;
/// See [`STALL_NS`]. The same after a card's queue was taken back because the client changed its device, so that a client
/// does not stop the card for others as often as it likes.
pub const REST_NS: u64 = 1_000_000_000;

/// The chains of one ring.
pub struct Held {
    /// Each with the number up to which the card must be done.
    chains: VecDeque<(Chain, u64)>,
    /// The card's queue.
    queue: QueueId,
    /// The number of the last one.
    last: u64,
    /// The first chain that was not taken.
    cursor: u16,
    /// When a chain was held or completed last, and when the card was asked last, in nanoseconds.
    moved_ns: u64,
    looked_ns: u64,
    /// No more are held: not all of the port's memory is pinned, or it is about to change.
    is_closed: bool,
    /// No more are held before this time, in nanoseconds.
    rests_until: u64,
}

impl Held {
    /// None, and room for more. Made by the control thread: others may not allocate.
    pub fn new() -> Held {
        let (chains, queue) = (VecDeque::with_capacity(ROOM), QueueId::new(0, 0));
        Held { chains, queue, last: 0, cursor: 0, moved_ns: 0, looked_ns: 0, is_closed: false, rests_until: 0 }
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// How many more there may be.
    pub fn spare(&self) -> usize {
        ROOM.saturating_sub(self.chains.len())
    }

    /// The first chain that was not taken, if some are held.
    pub fn cursor(&self) -> Option<u16> {
        (!self.is_empty()).then_some(self.cursor)
    }

    /// The queue whose card reads them.
    pub fn queue(&self) -> Option<QueueId> {
        (!self.is_empty()).then_some(self.queue)
    }

    /// Whether no more may be held.
    #[inline]
    pub fn is_closed(&self, now_ns: u64) -> bool {
        self.is_closed || now_ns < self.rests_until
    }

    /// No more are held from now on, or more may be, once it has rested.
    pub fn close(&mut self, closed: bool) {
        self.is_closed = closed;
    }

    /// No more are held before this time, in nanoseconds.
    pub fn rest(&mut self, until_ns: u64) {
        self.rests_until = self.rests_until.max(until_ns);
    }

    /// Whether the card has stalled. Then no more are held for a while.
    pub fn rests(&mut self, now_ns: u64) -> bool {
        let stalls = !self.is_empty() && now_ns.saturating_sub(self.moved_ns) > STALL_NS;
        if stalls {
            self.rest(now_ns.saturating_add(REST_NS));
        }
        stalls
    }

    /// Holds a chain, and those that follow it, until the card is done with `mark`; without a mark, with those before.
    pub fn hold(&mut self, chains: impl Iterator<Item = Chain>, mark: Option<Mark>, cursor: u16, now_ns: u64) {
        if let Some(Mark { queue, number }) = mark {
            (self.queue, self.last) = (queue, number);
        }
        let room = self.spare();
        self.chains.extend(chains.take(room).map(|chain| (chain, self.last)));
        (self.cursor, self.moved_ns) = (cursor, now_ns);
    }

    /// The next chain that is done. If the card was stopped before it had read the next one, that one and all others are
    /// forgotten, and taken again.
    pub fn next_done(&mut self, progress: &Progress) -> Option<Chain> {
        let (_, number) = *self.chains.front()?;
        if number <= progress.void {
            self.forget();
        }
        if number > progress.done {
            return None;
        }
        self.chains.pop_front().map(|(chain, _)| chain)
    }

    /// Nothing is held: what was is taken again.
    pub fn forget(&mut self) {
        self.chains.clear();
    }

    /// The card was asked, and was done with some, or not.
    pub fn looked(&mut self, now_ns: u64, has_moved: bool) {
        self.looked_ns = now_ns;
        if has_moved {
            self.moved_ns = now_ns;
        }
    }

    /// What the loop does with the ring while it has no further frames: the card is asked often, and less often when it has
    /// sent nothing for a while.
    pub fn when_empty(&self) -> WhenEmpty {
        match self.looked_ns.saturating_sub(self.moved_ns) {
            _ if self.is_empty() => WhenEmpty::Lingers,
            0..AWAKE_NS => WhenEmpty::LooksAgain,
            _ => WhenEmpty::Rests(Some(self.looked_ns.saturating_add(NAP_NS))),
        }
    }
}

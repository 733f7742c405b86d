//! Frames from a card.

use sv3::ipc::{RingFault, Settings};
use sv3::virtio::{NET_HDR_LEN, NetHdr};

use super::queue::{CardQueue, Way};
use crate::memory::frame_head::{FrameHead, HEAD_LEN};
use crate::memory::slice::GuestSlice;
use crate::nic::card::Card;
use crate::nic::joined_frame;
use crate::nic::memory::CardMemory;
use crate::nic::queue_registers::QueueRegisters;
use crate::nic::rate::Rate;
use crate::nic::receive_queue::{Part, ReceiveQueue, Received, Taker};
use crate::port::batch::{Batch, Taken};
use crate::port::cost::{DELIVERY, DESCRIPTOR, FRAME, RING};
use crate::port::source::Source;

/// How a frame is named in its burst ([`Taken::id`]): what its header says.
const PLAIN: u16 = 0;
const VERIFIED: u16 = 1;
/// From here on: the number of a joined frame's header.
const JOINED: u16 = 2;

/// What comes in by a queue pair.
pub struct Input {
    /// The card's queue.
    pub queue: ReceiveQueue,
    /// The card may have the ring, when nothing is left in it.
    pub may_start: bool,
    /// Headers of the joined frames of this burst.
    joined: Vec<NetHdr>,
    /// Frames and octets since the thread slept last.
    moved: (u64, u64),
    rate: Rate,
}

/// A queue, for one burst.
pub struct CardSource<'q> {
    card: &'q Card,
    input: Option<&'q mut Input>,
}

impl Input {
    /// See [`ReceiveQueue::open`].
    pub fn open(memory: &CardMemory, pair: u16, registers: QueueRegisters, goes_on: bool) -> Input {
        let joined = if memory.settings().lro { Settings::MAX_BATCH.into() } else { 0 };
        Input {
            queue: ReceiveQueue::open(memory, pair, registers, goes_on),
            may_start: false,
            joined: Vec::with_capacity(joined),
            moved: (0, 0),
            rate: Rate::default(),
        }
    }

    /// The card was reset: what the queue holds is drained, then it may start when it is told so.
    pub fn was_reset(&mut self) {
        self.queue.turned_off();
        (self.may_start, self.rate) = (false, Rate::default());
    }

    /// The thread is about to sleep. How many interrupts a second there are to be from now on, if that changes.
    pub fn slept(&mut self) -> Option<u32> {
        let (frames, octets) = std::mem::take(&mut self.moved);
        self.rate.slept(frames, octets)
    }
}

impl CardQueue {
    /// Its frames, for a burst.
    pub fn source(&mut self) -> CardSource<'_> {
        let input = match &mut self.way {
            Way::In(input) => Some(input),
            Way::Out(_) => None,
        };
        CardSource { card: &self.card, input }
    }
}

/// A burst that takes frames.
struct Taking<'t, 'b, 'm> {
    batch: &'t mut Batch<'b, 'm>,
    memory: &'m CardMemory,
    /// Where the buffers begin, and the octets of each.
    buffers: (usize, usize),
    joined: &'t mut Vec<NetHdr>,
    budget: u64,
    cost: u64,
    /// What it will cost to deliver them.
    ahead: u64,
}

impl<'m> Taking<'_, '_, 'm> {
    /// The first `len` octets of a buffer, and some in front of them.
    #[inline]
    fn slice(&self, (at, len): Part, in_front: usize) -> GuestSlice<'m> {
        let (first, size) = self.buffers;
        self.memory.slice(first + usize::from(at) * size - in_front, usize::from(len) + in_front)
    }

    /// The place of a frame of `len` octets in `parts` slices from `from` on. `name`: see [`Taken::id`]; `None`: it cannot
    /// be forwarded.
    #[inline]
    fn place(&mut self, name: Option<u16>, len: usize, (from, parts): (usize, usize)) -> bool {
        let Batch { places, count, .. } = &mut *self.batch;
        let Some(place) = places.get_mut(*count) else { return false };
        *count += 1;
        (place.id, place.parts, place.len) = (name.unwrap_or(PLAIN), parts as u16, name.map(|_| NET_HDR_LEN + len));
        (place.from, place.to) = (from, from + parts);
        self.cost += FRAME + DESCRIPTOR * parts as u64;
        self.ahead += DELIVERY + len as u64;
        true
    }

    fn name(&mut self, received: &Received, first: Option<&Part>) -> Option<u16> {
        match (received.is_damaged, received.joined <= 1) {
            (true, _) => None,
            (false, true) => Some(if received.is_verified { VERIFIED } else { PLAIN }),
            // There is room for as many as frames of a burst.
            (false, false) if self.joined.len() == self.joined.capacity() => None,
            (false, false) => {
                let (first, mtu) = (self.slice(*first?, 0), self.memory.settings().mtu);
                self.joined.push(joined_frame::complete(&first, (received.len, received.joined), mtu)?);
                Some(JOINED - 1 + self.joined.len() as u16)
            }
        }
    }
}

impl Taker for Taking<'_, '_, '_> {
    #[inline(always)]
    fn simple(&mut self, part: Part, is_verified: bool) -> bool {
        if self.cost + self.ahead >= self.budget {
            return false;
        }
        let (from, slice) = (self.batch.slices.len(), self.slice(part, NET_HDR_LEN));
        slice.prefetch(0);
        slice.prefetch(HEAD_LEN - 1);
        let name = if is_verified { VERIFIED } else { PLAIN };
        self.batch.slices.push(slice) && self.place(Some(name), part.1.into(), (from, 1))
    }

    #[inline(never)]
    fn any(&mut self, received: Received, parts: &[Part]) -> bool {
        if self.cost + self.ahead >= self.budget {
            return false;
        }
        let (from, mut in_front) = (self.batch.slices.len(), NET_HDR_LEN);
        for part in parts {
            if !self.batch.slices.push(self.slice(*part, in_front)) {
                self.batch.slices.truncate(from);
                return false;
            }
            in_front = 0;
        }
        let name = self.name(&received, parts.first());
        self.place(name, received.len, (from, parts.len()))
    }
}

impl<'m> Source<'m> for CardSource<'m> {
    #[inline]
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault> {
        let (card, Some(Input { queue, may_start, joined, .. })) = (self.card, &mut self.input) else { return Ok(0) };
        joined.clear();
        let (buffers, most) = (queue.buffers(), batch.places.len());
        let mut taking = Taking { batch, memory: &card.memory, buffers, joined, budget, cost: 0, ahead: 0 };
        let taken = queue.take(&card.memory, most, &mut taking)?;
        let mut cost = taking.cost;
        if taken == 0 && *may_start && !queue.is_on() {
            queue.turn_on(card)?;
            cost += RING;
        }
        Ok(cost)
    }

    #[inline]
    fn head(&self, taken: &Taken, slices: &[GuestSlice<'m>]) -> FrameHead {
        let hdr = match (taken.id, &self.input) {
            (PLAIN, _) | (_, None) => NetHdr::NONE,
            (VERIFIED, _) => NetHdr::VERIFIED,
            (id, Some(input)) => input.joined.get(usize::from(id - JOINED)).copied().unwrap_or(NetHdr::NONE),
        };
        FrameHead::read(slices).with_net_hdr(hdr)
    }

    #[inline]
    fn complete(&mut self, done: &[Taken]) {
        if let Some(input) = &mut self.input {
            let (mut parts, mut octets) = (0, 0);
            for taken in done {
                parts += usize::from(taken.parts);
                octets += taken.len.unwrap_or(0) as u64;
            }
            input.queue.complete(parts);
            input.moved = (input.moved.0 + done.len() as u64, input.moved.1 + octets);
        }
    }
}

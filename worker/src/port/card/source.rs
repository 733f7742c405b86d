//! Frames from a card.

use sv3::ipc::{RingFault, Settings};
use sv3::virtio::{NET_HDR_LEN, NetHdr, VIRTIO_NET_HDR_F_DATA_VALID};

use super::queue::{CardQueue, Way};
use crate::memory::frame_head::FrameHead;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::Tail;
use crate::nic::card::Card;
use crate::nic::joined_frame;
use crate::nic::memory::CardMemory;
use crate::nic::queue_registers::QueueRegisters;
use crate::nic::rate::Rate;
use crate::nic::receive_queue::{Part, ReceiveQueue, Received, Taker};
use crate::port::batch::{Batch, Taken};
use crate::port::cost::{DELIVERY, DESCRIPTOR, FRAME, RING};
use crate::port::source::Source;

/// How a frame is named in its burst ([`Taken::id`]): the flags of its header, which has nothing else.
const PLAIN: u16 = 0;
const VERIFIED: u16 = VIRTIO_NET_HDR_F_DATA_VALID as u16;
/// From here on: the number of a joined frame's header.
const JOINED: u16 = 0x100;

/// What comes in by a queue pair.
pub struct Input {
    /// The card's queue.
    pub queue: ReceiveQueue,
    /// The card may have the ring, when nothing is left in it.
    pub may_start: bool,
    /// Headers of the joined frames of this burst.
    joined: Vec<NetHdr>,
    /// All frames of this burst have one part each.
    simple: bool,
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
            simple: false,
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
struct Taking<'t, 'm> {
    places: std::slice::IterMut<'t, Taken>,
    tail: Tail<'t, 'm>,
    /// How many slices the burst's list has.
    at: usize,
    /// The MTU of the network.
    mtu: u16,
    /// All buffers, and as many octets in front of them as a net header has.
    buffers: GuestSlice<'m>,
    /// Octets of a buffer.
    size: usize,
    joined: &'t mut Vec<NetHdr>,
    /// What is left of the budget for frames, and for what it will cost to deliver them.
    left: i64,
    /// All frames so far have one part each.
    all_simple: bool,
}

impl<'m> Taking<'_, 'm> {
    /// The first `len` octets of a buffer, and some in front of them.
    #[inline]
    fn slice(&self, (at, len): Part, in_front: usize) -> GuestSlice<'m> {
        let begin = usize::from(at) * self.size + NET_HDR_LEN - in_front;
        self.buffers.part(begin, usize::from(len) + in_front)
    }

    /// The place of a frame of `len` octets in the last `parts` slices. `name`: see [`Taken::id`]; `None`: it cannot be
    /// forwarded.
    #[inline]
    fn place(&mut self, name: Option<u16>, len: usize, parts: usize) -> bool {
        let Some(place) = self.places.next() else { return false };
        (place.id, place.parts) = (name.unwrap_or(PLAIN), parts as u16);
        place.lies(name.map(|_| NET_HDR_LEN + len), self.at, parts);
        self.at += parts;
        self.left -= (FRAME + DELIVERY) as i64 + (DESCRIPTOR as usize * parts + len) as i64;
        true
    }

    fn name(&mut self, received: &Received, first: Option<&Part>) -> Option<u16> {
        match (received.is_damaged, received.joined <= 1) {
            (true, _) => None,
            (false, true) => Some(if received.is_verified { VERIFIED } else { PLAIN }),
            // There is room for as many as frames of a burst.
            (false, false) if self.joined.len() == self.joined.capacity() => None,
            (false, false) => {
                let first = self.slice(*first?, 0);
                self.joined.push(joined_frame::complete(&first, (received.len, received.joined), self.mtu)?);
                Some(JOINED + self.joined.len() as u16 - 1)
            }
        }
    }
}

impl Taker for Taking<'_, '_> {
    #[inline(always)]
    fn simple(&mut self, part: Part, is_verified: bool) -> bool {
        let slice = self.slice(part, NET_HDR_LEN);
        slice.prefetch(NET_HDR_LEN);
        let name = if is_verified { VERIFIED } else { PLAIN };
        self.left > 0 && self.tail.push(slice) && self.place(Some(name), part.1.into(), 1)
    }

    #[inline(never)]
    fn any(&mut self, received: Received, parts: &[Part]) -> bool {
        if self.left <= 0 {
            return false;
        }
        self.all_simple = false;
        let mut in_front = NET_HDR_LEN;
        for part in parts {
            // Slices of a frame that is not taken belong to none.
            if !self.tail.push(self.slice(*part, in_front)) {
                return false;
            }
            in_front = 0;
        }
        let name = self.name(&received, parts.first());
        self.place(name, received.len, parts.len())
    }
}

impl<'m> Source<'m> for CardSource<'m> {
    #[inline]
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault> {
        let (card, Some(Input { queue, may_start, joined, moved, simple, .. })) = (self.card, &mut self.input) else {
            return Ok(0);
        };
        joined.clear();
        let most_of = i64::try_from(budget).unwrap_or(i64::MAX);
        let (from, most) = (batch.slices.len(), batch.places.len());
        let ((first, size), count) = (queue.buffers(), usize::from(card.memory.settings().descriptors));
        let mut taking = Taking {
            places: batch.places.iter_mut(),
            tail: batch.slices.tail(),
            at: from,
            mtu: card.memory.settings().mtu,
            buffers: card.memory.slice(first - NET_HDR_LEN, NET_HDR_LEN + count * size),
            size,
            joined,
            left: most_of,
            all_simple: true,
        };
        let taken = queue.take(&card.memory, most, &mut taking)?;
        let Taking { at, left, all_simple, .. } = taking;
        (batch.count, *simple) = (taken, all_simple);
        let cost = FRAME * taken as u64 + DESCRIPTOR * (at - from) as u64;
        // What is taken again counts again. That is near enough to tell bulk from requests.
        let octets = (most_of - left) as u64 - cost - DELIVERY * taken as u64;
        *moved = (moved.0 + taken as u64, moved.1 + octets);
        if taken == 0 && *may_start && !queue.is_on() {
            queue.turn_on(card)?;
            return Ok(cost + RING);
        }
        Ok(cost)
    }

    #[inline]
    fn head(&self, taken: &Taken, slices: &[GuestSlice<'m>]) -> FrameHead {
        match (taken.id.checked_sub(JOINED), &self.input) {
            (Some(number), Some(input)) => {
                let hdr = input.joined.get(usize::from(number)).copied().unwrap_or(NetHdr::NONE);
                FrameHead::read(slices).with_net_hdr(hdr)
            }
            _ => FrameHead::read_frame(slices, taken.id as u8),
        }
    }

    #[inline]
    fn complete(&mut self, done: &[Taken]) {
        if let Some(input) = &mut self.input {
            input.queue.complete(match input.simple {
                true => done.len(),
                false => done.iter().map(|taken| usize::from(taken.parts)).sum(),
            });
        }
    }
}

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
use crate::nic::receive_queue::{ReceiveQueue, Received};
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

    /// How a frame is named, whose first part without a header in front is `first`. `None`: it cannot be forwarded.
    #[inline]
    fn name(joined: &mut Vec<NetHdr>, received: &Received, first: &GuestSlice<'_>, mtu: u16) -> Option<u16> {
        if received.is_damaged {
            return None;
        }
        if received.joined <= 1 {
            return Some(if received.is_verified { VERIFIED } else { PLAIN });
        }
        // There is room for as many as frames of a burst.
        if joined.len() == joined.capacity() {
            return None;
        }
        joined.push(joined_frame::complete(first, (received.len, received.joined), mtu)?);
        Some(JOINED - 1 + joined.len() as u16)
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

impl<'m> Source<'m> for CardSource<'m> {
    #[inline]
    fn take(&mut self, batch: &mut Batch<'_, 'm>, budget: u64) -> Result<u64, RingFault> {
        let (card, Some(Input { queue, may_start, joined, .. })) = (self.card, &mut self.input) else { return Ok(0) };
        let Batch { places, count, slices } = batch;
        joined.clear();
        let ((buffers, size), mtu) = (queue.buffers(), card.memory.settings().mtu);
        let (mut free, mut cost, mut ahead) = (places.iter_mut(), 0, 0);
        *count = queue.take(&card.memory, free.len(), |received, parts| {
            if cost + ahead >= budget {
                return false;
            }
            let (from, mut in_front) = (slices.len(), NET_HDR_LEN);
            for (at, len) in parts {
                let begin = buffers + usize::from(*at) * size - in_front;
                if !slices.push(card.memory.slice(begin, usize::from(*len) + in_front)) {
                    slices.truncate(from);
                    return false;
                }
                in_front = 0;
            }
            let (Some(first), Some(place)) = (slices.get(from), free.next()) else { return false };
            first.prefetch(0);
            first.prefetch(HEAD_LEN - 1);
            let name = match received.joined <= 1 {
                true => Input::name(joined, &received, first, mtu),
                false => {
                    let frame = parts
                        .first()
                        .map(|(at, len)| card.memory.slice(buffers + usize::from(*at) * size, (*len).into()));
                    frame.and_then(|frame| Input::name(joined, &received, &frame, mtu))
                }
            };
            *place = Taken {
                id: name.unwrap_or(PLAIN),
                parts: parts.len() as u16,
                len: name.map(|_| NET_HDR_LEN + received.len),
                from,
                to: slices.len(),
                head: FrameHead::default(),
            };
            cost += FRAME + DESCRIPTOR * parts.len() as u64;
            ahead += DELIVERY + received.len as u64;
            true
        })?;
        if *count == 0 && *may_start && !queue.is_on() {
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

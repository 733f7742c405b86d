//! The transmit queue of a pair: frames in the card's memory, and descriptors of them.
//!
//! # Theory of operation
//!
//! A frame is copied into the [`Area`], behind a [`Request`] that says all that the card is told of it. Descriptors are
//! made of requests. A context descriptor comes in front of a frame only if the one before it says something else.
//! Frames that are put count when they are *published*: one store of the offset behind them ([`Word::Sent`]), one
//! write of the tail (TDT). The card is asked to report the last descriptor of each publication (RS). It writes its head
//! to memory, behind what is done; frames before it do not count any more ([`Word::Done`]).
//!
//! **A new worker** finds both offsets and the frames between them, and the queue is off. The card may have sent some of
//! these: the descriptor at the head that the card wrote last is that of the first frame that it has not sent. At the end
//! of what was published stands a descriptor that is nothing, so a card that is done with all shows that. The new worker
//! stores that offset, and from then on the head does not count ([`Word::Done`] says so) until descriptors of all frames
//! that are left are written from 0 on, and the head is 0. So a worker that dies in the middle of this leaves the same.
//!
//! **A frame that is left elsewhere** ([`TransmitQueue::put_part`]) has only its first octets in the area. The card reads
//! the rest where it is. The sender's ring keeps the frame until the card is done with it, and keeps frames behind it that
//! are in the area as a whole ([`Request::again`]). All of these are numbered: the caller asks up to which number they
//! are done ([`TransmitQueue::progress`]). A new worker skips them, and takes them from the senders' rings, in order.
//! [`TransmitQueue::recall`] ends all reading.
//!
//! **The card is hostile.** It can write to all of the area and the ring. What it says of its head is bounded by what it
//! was given. Frames and requests that it has changed are its own loss: they are read with bounds.

mod elsewhere;
mod plain;
mod taking_over;

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};

use sv3::card::{DESCRIPTOR, PairLayout};
use sv3::frame::ETHERNET_LEN;

use self::elsewhere::Kept;
pub use self::elsewhere::Progress;
use super::bar::Bar;
use super::card::Card;
use super::circle::Circle;
use super::descriptor::{self, Context, Data, NOTHING, Words};
use super::fault::Fault;
use super::memory::CardMemory;
use super::positions::{Positions, Word};
use super::queue_registers::QueueRegisters;
use super::request::Request;
use super::transmit_area::Area;
use crate::memory::slice::GuestSlice;
use crate::process::clock;

/// Most octets of one descriptor (82599, 7.2.3.2.4: 64 KiB; its fetches are shorter).
pub const PIECE: usize = 16 * 1024;
/// Descriptors that always stay free: the end, and one for a context that a new worker may need in addition.
const SPARE: u16 = 2;

/// The context of a frame that the card sends as it is.
const NO_OFFLOAD: Context =
    Context { mac_len: ETHERNET_LEN as u8, ip_len: 0, ipv4: false, tcp: false, l4_len: 0, mss: 0 };

/// Room for a frame.
pub struct Place<'m> {
    /// Where the frame is to be written.
    pub frame: GuestSlice<'m>,
    offset: usize,
}

/// A transmit queue.
pub struct TransmitQueue {
    registers: QueueRegisters,
    layout: PairLayout,
    positions: Positions,
    ring: Circle,
    area: Area,
    /// Each frame needs a context (CC).
    always_context: bool,
    /// The card has the ring.
    is_on: bool,
    /// The first descriptor that is not known to be done, the end of what is published, and where the next one goes.
    clean: u16,
    published: u16,
    tail: u16,
    /// The same as offsets.
    done: usize,
    sent: usize,
    end: usize,
    /// The descriptor that is put last.
    last: u16,
    /// By descriptor: the offset up to which frames are sent when it is done.
    ends: Box<[u32]>,
    /// What the last context descriptor said.
    context: Option<Context>,
    kept: Kept,
}

impl TransmitQueue {
    /// The queue of a pair, off. What an earlier worker left is sent first if `goes_on`; otherwise there is nothing.
    /// `always_context`: of a virtual function of the 82599.
    pub fn open(
        memory: &CardMemory,
        pair: u16,
        registers: QueueRegisters,
        goes_on: bool,
        always_context: bool,
    ) -> TransmitQueue {
        let settings = memory.settings();
        let ring = Circle(settings.descriptors.max(1));
        let mut queue = TransmitQueue {
            registers,
            layout: settings.layout(pair),
            positions: Positions { pair },
            ring,
            area: Area::of(settings, pair),
            always_context,
            is_on: false,
            clean: 0,
            published: 0,
            tail: 0,
            done: 0,
            sent: 0,
            end: 0,
            last: 0,
            ends: vec![0; ring.0.into()].into_boxed_slice(),
            context: None,
            kept: Kept {
                last: VecDeque::with_capacity(if settings.zero_copy { ring.0.into() } else { 0 }),
                put: clock::now_ns(),
                void: 0,
            },
        };
        queue.prepare(memory, goes_on);
        queue
    }

    fn head_word<'m>(&self, memory: &'m CardMemory) -> Option<&'m AtomicU64> {
        memory.ring(self.layout.write_back, 1).first().map(|[word, _]| word)
    }

    #[inline]
    fn descriptors<'m>(&self, memory: &'m CardMemory) -> &'m [[AtomicU64; 2]] {
        memory.ring(self.layout.transmit_ring, self.ring.0.into())
    }

    /// Turns the queue on. What is published goes out.
    pub fn turn_on(&mut self, card: &Card) -> Result<(), Fault> {
        let settings = card.memory.settings();
        let (ring, head) = (settings.iova_of(self.layout.transmit_ring), settings.iova_of(self.layout.write_back));
        self.registers.place(&card.bar, ring, u32::from(self.ring.0) * DESCRIPTOR as u32);
        card.bar.write(self.registers.write_back_high, (head >> 32) as u32);
        card.bar.write(self.registers.write_back_low, head as u32 | 1);
        self.registers.enable(&card.bar, "TXDCTL")?;
        self.is_on = true;
        card.bar.write(self.registers.tail, self.published.into());
        Ok(())
    }

    /// Room for a frame of `len` octets. `None`: there is none now.
    #[inline]
    pub fn find<'m>(&mut self, memory: &'m CardMemory, len: usize) -> Result<Option<Place<'m>>, Fault> {
        if let Some(place) = self.look(memory, len) {
            return Ok(Some(place));
        }
        self.clean(memory)?;
        Ok(self.look(memory, len))
    }

    #[inline]
    fn look<'m>(&self, memory: &'m CardMemory, len: usize) -> Option<Place<'m>> {
        if !self.has_descriptors(len, SPARE) {
            return None;
        }
        let offset = self.area.find((self.done, self.end), len)?;
        Some(Place { frame: self.area.frame(memory, offset, len), offset })
    }

    /// Whether there are descriptors for a frame and a context, so that `spare` are left.
    #[inline]
    fn has_descriptors(&self, len: usize, spare: u16) -> bool {
        let used = self.ring.distance(self.clean, self.tail);
        usize::from(used + spare) + 1 + len.div_ceil(PIECE) < usize::from(self.ring.0)
    }

    /// The frame is in its place: it is sent with the next publication.
    #[inline]
    pub fn put(&mut self, memory: &CardMemory, place: &Place<'_>, request: &Request) {
        let offset = self.enter(memory, place, request);
        self.describe(memory, offset, request);
        self.end = self.area.behind(offset, request.len as usize);
        if request.again {
            self.kept.put(self.last);
        }
    }

    #[inline]
    fn enter(&mut self, memory: &CardMemory, place: &Place<'_>, request: &Request) -> usize {
        if place.offset != self.end {
            self.area.write(memory, self.end, &Request::default());
        }
        self.area.write(memory, place.offset, request);
        place.offset
    }

    /// Writes the descriptors of a frame that is whole in the area.
    #[inline]
    fn describe(&mut self, memory: &CardMemory, offset: usize, request: &Request) {
        let (address, len) = (self.area.address(memory, offset), request.len as usize);
        let piece = |from: usize| (address + from as u64, (len - from).min(PIECE));
        let behind = self.area.behind(offset, len);
        self.describe_pieces(memory, (offset, behind), request, (0..len).step_by(PIECE).map(piece));
    }

    /// Writes the descriptors of a frame that is at `offset` in the area, in front of `behind`. The first one is written
    /// last: until then the one that is nothing stands there.
    #[inline]
    fn describe_pieces(
        &mut self,
        memory: &CardMemory,
        (offset, behind): (usize, usize),
        request: &Request,
        mut pieces: impl Iterator<Item = (u64, usize)>,
    ) {
        let mut options = request.options;
        let needs_context = options.checksum || self.always_context;
        options.context = self.always_context;
        let wanted = match options.checksum {
            true => request.context,
            false => NO_OFFLOAD,
        };
        let (ring, begin) = (self.descriptors(memory), self.tail);
        let data = Data::of(options, request.payload());
        let (mut at, mut held_back) = (begin, NOTHING);
        if needs_context && self.context != Some(wanted) {
            self.context = Some(wanted);
            (held_back, at) = (wanted.encode(), self.ring.behind(begin, 1));
            if let Some(end) = self.ends.get_mut(usize::from(begin)) {
                *end = offset as u32;
            }
        }
        let mut next = pieces.next();
        while let Some((address, len)) = next {
            next = pieces.next();
            let is_last = next.is_none();
            let words = data.encode(address, len as u16, is_last);
            match at == begin {
                true => held_back = words,
                false => write(ring, at, words),
            }
            if let Some(end) = self.ends.get_mut(usize::from(at)) {
                *end = if is_last { behind } else { offset } as u32;
            }
            (self.last, at) = (at, self.ring.behind(at, 1));
        }
        write(ring, begin, held_back);
        self.tail = at;
    }

    /// What was put so far is published: the end of it is marked, and the card is to report its last descriptor.
    #[inline]
    fn close(&mut self, memory: &CardMemory) {
        let ring = self.descriptors(memory);
        write(ring, self.tail, NOTHING);
        if let Some([_, high]) = ring.get(usize::from(self.last)).filter(|_| self.tail != self.clean) {
            high.store(descriptor::reporting(high.load(Relaxed)), Relaxed);
        }
        (self.published, self.sent) = (self.tail, self.end);
    }

    /// Publishes what was put.
    #[inline]
    pub fn publish(&mut self, card: &Card) {
        if self.tail == self.published {
            return;
        }
        self.close(&card.memory);
        self.positions.store(&card.memory, Word::Sent, self.sent as u64, true);
        if self.is_on {
            card.bar.write(self.registers.tail, self.published.into());
        }
    }

    /// Looks for what the card has sent.
    pub fn clean(&mut self, memory: &CardMemory) -> Result<(), Fault> {
        if !self.is_on {
            return Ok(());
        }
        let head = self.head_word(memory).map_or(0, |word| word.load(Acquire) & 0xffff_ffff);
        let head = self.ring.index(head).ok_or(Fault::Bad("TDWBAL"))?;
        if self.ring.distance(self.clean, head) > self.ring.distance(self.clean, self.published) {
            return Err(Fault::Bad("TDWBAL"));
        }
        if head != self.clean {
            let (last, sent) = (self.ring.before(head), self.ring.distance(self.clean, head));
            while self.kept.last.front().is_some_and(|last| self.ring.distance(self.clean, *last) < sent) {
                self.kept.last.pop_front();
            }
            self.clean = head;
            self.done = self.ends.get(usize::from(last)).map_or(self.done, |end| *end as usize);
            self.positions.store(memory, Word::Done, self.done as u64, true);
        }
        Ok(())
    }

    /// Whether the card has sent something since the last look.
    pub fn has_news(&self, memory: &CardMemory) -> bool {
        self.head_word(memory).is_some_and(|word| word.load(Relaxed) & 0xffff_ffff != u64::from(self.clean))
    }
}

#[inline]
fn write(ring: &[[AtomicU64; 2]], at: u16, words: Words) {
    if let Some([low, high]) = ring.get(usize::from(at)) {
        low.store(words[0], Relaxed);
        high.store(words[1], Relaxed);
    }
}

#[cfg(test)]
mod tests;

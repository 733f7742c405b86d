//! The receive queue of a pair: frames of the card, each in the buffers of one descriptor or more.
//!
//! # Theory of operation
//!
//! Buffer *i* belongs to descriptor *i* for ever: frames are copied out, so a buffer goes back to the card when its frame
//! is forwarded. The card has the descriptors from the position up to the tail (RDT), all but one.
//!
//! A frame that does not fit into one buffer goes on in the next descriptor. If the card joins frames (RSC), it fills
//! descriptors of several flows by turns: a descriptor says where its frame goes on (NEXTP), always further behind. Frames
//! are taken in the order of their first descriptors. So the descriptors that are done with need not be the first ones.
//! Those behind the position are marked, in the ring ([`MARK`]) for the next worker and in [`Joining`] for this one.
//!
//! **A new worker** finds position and descriptors in memory, and the queue is off. It *drains* the ring: it takes what is
//! left there like any frames, but gives nothing back to the card. When nothing is left, all descriptors are written anew,
//! and the queue is turned on from descriptor 0. A worker that dies meanwhile leaves the same to the next one.
//!
//! **The card is hostile.** Each descriptor is read once in a burst. Lengths are at most a buffer's. A chain goes on
//! further behind only, has at most [`MOST_PARTS`] parts, and shares none with another. A descriptor that is written, and
//! then is not, is taken only if it was at the time of the look. In a ring that is drained, what makes no sense ends it.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};

use sv3::card::PairLayout;

use super::bar::Bar;
use super::card::Card;
use super::circle::Circle;
use super::descriptor::{self, WriteBack};
use super::fault::Fault;
use super::joining::Joining;
use super::memory::CardMemory;
use super::positions::{Positions, Word};
use super::queue_registers::QueueRegisters;

/// Most descriptors of a frame: more than 64 KiB in the smallest buffers.
pub const MOST_PARTS: usize = 64;
/// The second word of a descriptor that is done with, before the position has passed it. Cards do not write it: DD is 0.
pub const MARK: u64 = 1 << 63 | 1 << 32;

/// A part of a frame: which buffer, and how many octets of it.
pub type Part = (u16, u16);

/// What the card says of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Octets in all parts.
    pub len: usize,
    /// The checksum of TCP or UDP is right.
    pub is_verified: bool,
    /// The frame is damaged.
    pub is_damaged: bool,
    /// How many frames were joined; 0 or 1: none.
    pub joined: u16,
}

/// Who takes frames. If a call returns false, its frame is not taken and the look ends.
pub trait Taker {
    /// A frame in one part that is not damaged, and whether its checksum is right.
    fn simple(&mut self, part: Part, is_verified: bool) -> bool;

    /// Any frame.
    fn any(&mut self, received: Received, parts: &[Part]) -> bool;
}

/// A receive queue.
pub struct ReceiveQueue {
    registers: QueueRegisters,
    layout: PairLayout,
    positions: Positions,
    ring: Circle,
    buffer: u16,
    /// The card has the descriptors up to the tail. Otherwise the ring is drained.
    is_on: bool,
    position: u16,
    tail: u16,
    /// Descriptors of the frames that are completed and not published.
    completed: usize,
    /// State for joined frames, if the card joins.
    joining: Option<Box<Joining>>,
}

impl ReceiveQueue {
    /// The queue of a pair. What an earlier worker left is drained first if `goes_on`; otherwise there is nothing.
    pub fn open(memory: &CardMemory, pair: u16, registers: QueueRegisters, goes_on: bool) -> ReceiveQueue {
        let settings = memory.settings();
        let ring = Circle(settings.descriptors.max(1));
        let (layout, positions) = (settings.layout(pair), Positions { pair });
        let (left, counts) = positions.load(memory, Word::Received);
        let left = ring.index(left).filter(|_| counts && goes_on);
        let position = left.unwrap_or(0);
        let mut joining = settings.lro.then(|| Box::new(Joining::new(ring.0)));
        if let Some(joining) = &mut joining {
            let marked = |[_, high]: &[AtomicU64; 2]| high.load(Relaxed) == MARK;
            let all = (0..).zip(memory.ring(layout.receive_ring, ring.0.into()));
            all.filter(|(_, words)| marked(words)).for_each(|(at, _)| joining.done.set(at));
        }
        ReceiveQueue {
            registers,
            layout,
            positions,
            ring,
            buffer: settings.buffer,
            is_on: false,
            position,
            // Without anything left, the window is empty.
            tail: left.map_or(position, |position| ring.before(position)),
            completed: 0,
            joining,
        }
    }

    /// The card has the ring.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// The first descriptor whose frame is not done with.
    #[cfg(test)]
    pub fn position(&self) -> u16 {
        self.position
    }

    /// Where the first buffer begins in the card's memory, and how many octets each has.
    #[inline]
    pub fn buffers(&self) -> (usize, usize) {
        (self.layout.buffers, self.buffer.into())
    }

    /// Takes up to `most` frames in order. Returns how many.
    #[inline]
    pub fn take(&mut self, memory: &CardMemory, most: usize, taker: &mut impl Taker) -> Result<usize, Fault> {
        self.completed = 0;
        if self.joining.is_some() {
            return self.take_joined(memory, most, taker);
        }
        let (look, circle) = (self.look(memory), self.ring);
        let (mut at, mut left, mut taken) = (self.position, circle.distance(self.position, self.tail), 0);
        while taken < most && left > 0 {
            let Some(first) = look.at(at) else { break };
            let count = if first.is_simple() && first.len <= self.buffer {
                if !taker.simple((at, first.len), first.is_verified()) {
                    break;
                }
                1
            } else {
                let mut parts = [(at, 0); MOST_PARTS];
                let found = look.frame(first, &mut parts, |_, from| {
                    (circle.distance(at, from) + 1 < left).then(|| circle.behind(from, 1)).ok_or(Missing::Later)
                });
                match found {
                    Ok((received, count)) if taker.any(received, parts.get(..count).unwrap_or(&[])) => count,
                    Err(Missing::Nonsense(fault)) if self.is_on && taken == 0 => return Err(fault),
                    _ => break,
                }
            };
            at = circle.behind(at, count as u16);
            left -= count as u16;
            taken += 1;
        }
        Ok(taken)
    }

    fn look<'m>(&self, memory: &'m CardMemory) -> Look<'m> {
        Look { ring: memory.ring(self.layout.receive_ring, self.ring.0.into()), buffer: self.buffer }
    }

    #[inline(never)]
    fn take_joined(&mut self, memory: &CardMemory, most: usize, taker: &mut dyn Taker) -> Result<usize, Fault> {
        let look = self.look(memory);
        let Some(joining) = &mut self.joining else { return Ok(0) };
        joining.begin();
        let (circle, start, mut taken) = (self.ring, self.position, 0);
        let window = circle.distance(start, self.tail);
        for far in 0..window {
            let at = circle.behind(start, far);
            if taken == most {
                break;
            }
            if joining.is_used(at) {
                continue;
            }
            let mut parts = [(at, 0); MOST_PARTS];
            let found = look.at(at).ok_or(Missing::Later).and_then(|first| {
                look.frame(first, &mut parts, |part, from| {
                    let next = if part.joined() != 0 { part.next() } else { circle.behind(from, 1) };
                    let next = circle.index(next.into()).filter(|next| !joining.is_used(*next));
                    let next = next.ok_or(Missing::Nonsense(Fault::Bad("NEXTP")))?;
                    let (before, behind) = (circle.distance(start, from), circle.distance(start, next));
                    if behind <= before || behind >= window {
                        return Err(Missing::Nonsense(Fault::Bad("NEXTP")));
                    }
                    Ok(next)
                })
            });
            match found {
                Ok((received, count)) => {
                    let parts = parts.get(..count).unwrap_or(&[]);
                    if !taker.any(received, parts) {
                        break;
                    }
                    joining.claim(parts);
                    taken += 1;
                }
                // What the card was joining when it was stopped has no end.
                Err(_) if !self.is_on => joining.done.set(at),
                Err(Missing::Nonsense(fault)) if taken == 0 => return Err(fault),
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    /// The next frames, of so many parts together, are done with.
    #[inline]
    pub fn complete(&mut self, parts: usize) {
        self.completed += parts;
    }

    /// Frames that are done with do not count any more, and their buffers go back to the card.
    #[inline]
    pub fn publish(&mut self, card: &Card) {
        let completed = std::mem::take(&mut self.completed);
        if completed == 0 {
            return;
        }
        let from = self.position;
        match &mut self.joining {
            None => self.position = self.ring.behind(from, (completed as u16).min(self.ring.0)),
            Some(joining) => {
                let window = self.ring.distance(from, self.tail);
                let passed = joining.finish(completed, self.ring, from, window);
                let ring = card.memory.ring(self.layout.receive_ring, self.ring.0.into());
                for at in joining.finished(completed).filter(|at| self.ring.distance(from, *at) >= passed) {
                    if let Some(words) = ring.get(usize::from(at)) {
                        words[1].store(MARK, Relaxed);
                    }
                }
                self.position = self.ring.behind(from, passed);
            }
        }
        self.positions.store(&card.memory, Word::Received, self.position.into(), true);
        if self.is_on {
            self.give_back(card, from);
        }
    }

    /// Gives the card the buffers from `from` up to the position.
    #[inline]
    fn give_back(&mut self, card: &Card, from: u16) {
        let ring = card.memory.ring(self.layout.receive_ring, self.ring.0.into());
        if from == self.position {
            return;
        }
        let (first, size) = (card.memory.settings().iova_of(self.layout.buffers), u64::from(self.buffer));
        // In two pieces, if the ring's end lies between.
        let end = if from < self.position { self.position } else { self.ring.0 };
        let rest = if from < self.position { 0 } else { self.position };
        for (from, to) in [(from, end), (0, rest)] {
            let mut buffer = first + u64::from(from) * size;
            for words in ring.get(from.into()..to.into()).unwrap_or(&[]) {
                give(words, buffer);
                buffer += size;
            }
        }
        self.tail = self.ring.before(self.position);
        card.bar.write(self.registers.tail, self.tail.into());
    }

    /// Whether there is a frame, or a part of one.
    pub fn has_some(&self, memory: &CardMemory) -> bool {
        let look = self.look(memory);
        let window = self.ring.distance(self.position, self.tail);
        let mut all = (0..window).map(|far| self.ring.behind(self.position, far));
        let first = all.find(|at| self.joining.as_ref().is_none_or(|joining| !joining.done.has(*at)));
        first.is_some_and(|at| look.at(at).is_some())
    }

    /// Turns the queue on, with all buffers empty. Nothing is left in the ring that counts.
    pub fn turn_on(&mut self, card: &Card) -> Result<(), Fault> {
        let Card { bar, memory } = card;
        self.positions.store(memory, Word::Received, 0, false);
        let ring = memory.ring(self.layout.receive_ring, self.ring.0.into());
        for (index, words) in (0..).zip(ring) {
            give(words, memory.settings().iova_of(self.layout.buffers + index * usize::from(self.buffer)));
        }
        if let Some(joining) = &mut self.joining {
            joining.clear();
        }
        (self.position, self.tail, self.completed) = (0, self.ring.before(0), 0);
        self.positions.store(memory, Word::Received, 0, true);
        let address = memory.settings().iova_of(self.layout.receive_ring);
        let length = u32::from(self.ring.0) * sv3::card::DESCRIPTOR as u32;
        self.registers.place(bar, address, length);
        self.registers.enable(bar, "RXDCTL")?;
        self.is_on = true;
        bar.write(self.registers.tail, self.tail.into());
        Ok(())
    }

    /// The queue is off: somebody has stopped or reset the card. What the ring holds is drained.
    pub fn turned_off(&mut self) {
        self.is_on = false;
    }
}

/// Gives the card a buffer.
#[inline]
fn give([low, high]: &[AtomicU64; 2], buffer: u64) {
    let words = descriptor::receive(buffer);
    low.store(words[0], Relaxed);
    high.store(words[1], Relaxed);
}

/// Why there is no frame at a descriptor.
enum Missing {
    /// The card has not written all of it.
    Later,
    /// No card that obeys its data sheet writes this.
    Nonsense(Fault),
}

/// A look at the ring.
struct Look<'m> {
    ring: &'m [[AtomicU64; 2]],
    /// Octets of a buffer.
    buffer: u16,
}

impl Look<'_> {
    /// What the card has written into a descriptor.
    #[inline]
    fn at(&self, index: u16) -> Option<WriteBack> {
        let [low, high] = self.ring.get(usize::from(index))?;
        // The frame's octets were written before its descriptor.
        let high = high.load(Acquire);
        WriteBack::decode([low.load(Relaxed), high])
    }

    /// The frame that begins with `first`, the write-back of the descriptor `parts[0]`. `next`: where it goes on.
    /// Returns how many parts it has.
    fn frame(
        &self,
        first: WriteBack,
        parts: &mut [Part; MOST_PARTS],
        next: impl Fn(&WriteBack, u16) -> Result<u16, Missing>,
    ) -> Result<(Received, usize), Missing> {
        let (mut part, mut at, mut len, mut joined) = (first, parts[0].0, 0, 0u16);
        for (count, place) in (1..).zip(parts) {
            if part.len > self.buffer {
                return Err(Missing::Nonsense(Fault::Bad("PKT_LEN")));
            }
            *place = (at, part.len);
            len += usize::from(part.len);
            joined += part.joined().saturating_sub(1);
            if part.is_last() {
                return Ok((Received { len, joined, ..part.alone() }, count));
            }
            at = next(&part, at)?;
            part = self.at(at).ok_or(Missing::Later)?;
        }
        Err(Missing::Nonsense(Fault::Bad("EOP")))
    }
}

impl WriteBack {
    /// What it says, as the only descriptor of a frame.
    #[inline]
    fn alone(&self) -> Received {
        Received { len: self.len.into(), is_verified: self.is_verified(), is_damaged: self.is_damaged(), joined: 0 }
    }
}

#[cfg(test)]
mod tests;

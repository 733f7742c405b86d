//! The driver's half of a split ring, written from virtio 1.3, 2.7.
//!
//! Everything that the device hands back is checked here: that it was made available, that it comes back once and no
//! oftener, that no more is written than there was room, and, with IN_ORDER, the order. A breach panics.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use super::feature::{EVENT_IDX, IN_ORDER};
use super::memory::Memory;

/// Descriptor flags (2.7.5).
pub const NEXT: u16 = 1;
/// The device writes the buffer.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Bit 0 of `avail.flags` and `used.flags`: the other side need not notify.
const NO_NOTIFY: u16 = 1;

/// A descriptor as it stands in a table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Descriptor {
    /// Guest address.
    pub addr: u64,
    /// Octets.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

/// A piece of a buffer: guest address and octets.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Guest address.
    pub addr: u64,
    /// Octets.
    pub len: u32,
}

/// A buffer that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Index of the chain's first descriptor.
    pub head: u16,
    /// Octets that the device has written.
    pub len: u32,
}

/// A chain that is with the device.
#[derive(Clone, Copy, Debug)]
struct Chain {
    head: u16,
    /// Descriptors to take back when it returns.
    descriptors: u16,
    /// Octets that the device may write.
    room: u32,
}

/// A ring.
pub struct SplitRing {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    event_idx: bool,
    in_order: bool,
    /// Descriptors that are not in use; the last one is taken first.
    free: VecDeque<u16>,
    /// For each descriptor in use, the next of its chain.
    links: Vec<u16>,
    /// With the device, in the order of becoming available.
    out: VecDeque<Chain>,
    /// Came back and were not asked for yet.
    back: VecDeque<Used>,
    /// `avail.idx` after everything that was added.
    next_available: u16,
    /// `avail.idx` as the device can see it.
    published: u16,
    /// The used entry to look at next.
    next_used: u16,
}

impl SplitRing {
    /// A ring of `size` entries without a place.
    pub fn new(size: u16) -> SplitRing {
        SplitRing {
            size,
            descriptors: 0,
            available: 0,
            used: 0,
            event_idx: false,
            in_order: false,
            free: VecDeque::new(),
            links: vec![0; size.into()],
            out: VecDeque::new(),
            back: VecDeque::new(),
            next_available: 0,
            published: 0,
            next_used: 0,
        }
    }

    /// Octets that the ring takes, when it begins at a multiple of 16.
    pub fn octets(size: u16) -> u64 {
        SplitRing::used_offset(size) + 6 + 8 * u64::from(size)
    }

    fn used_offset(size: u16) -> u64 {
        (16 * u64::from(size) + 6 + 2 * u64::from(size)).next_multiple_of(4)
    }

    /// Lays the ring out at `addr`.
    pub fn place(&mut self, addr: u64) {
        self.descriptors = addr;
        self.available = addr + 16 * u64::from(self.size);
        self.used = addr + SplitRing::used_offset(self.size);
    }

    /// Begins anew: nothing is available, nothing was used.
    pub fn reset(&mut self, memory: &Memory, features: u64) {
        memory.write(self.descriptors, &vec![0; SplitRing::octets(self.size) as usize]);
        self.event_idx = features & EVENT_IDX != 0;
        self.in_order = features & IN_ORDER != 0;
        self.free = (0..self.size).collect();
        self.out.clear();
        self.back.clear();
        (self.next_available, self.published, self.next_used) = (0, 0, 0);
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Guest addresses of descriptor table, used ring and available ring.
    pub fn addrs(&self) -> (u64, u64, u64) {
        (self.descriptors, self.used, self.available)
    }

    /// How many chains are with the device.
    pub fn in_flight(&self) -> usize {
        self.out.len()
    }

    /// The head that the next chain will have, if `descriptors` are free.
    #[inline]
    pub fn next_head(&self, descriptors: usize) -> Option<u16> {
        if self.free.len() < descriptors { None } else { self.free.front().copied() }
    }

    /// Adds a chain of pieces, which the device shall read, or write. `table`: guest address for an indirect table.
    /// Returns the chain's head; `None`: too few descriptors are free. The device does not see it before
    /// [`SplitRing::publish`].
    #[track_caller]
    pub fn add(&mut self, memory: &Memory, pieces: &[Piece], writable: bool, table: Option<u64>) -> Option<u16> {
        let descriptors = if table.is_some() { 1 } else { pieces.len() };
        let head = self.next_head(descriptors)?;
        let write = if writable { WRITE } else { 0 };
        let more = |at: usize| if at + 1 < pieces.len() { NEXT } else { 0 };
        match table {
            Some(table) => {
                for (at, piece) in pieces.iter().enumerate() {
                    let next = if more(at) == 0 { 0 } else { at as u16 + 1 };
                    let descriptor = Descriptor { addr: piece.addr, len: piece.len, flags: write | more(at), next };
                    self.describe_in(memory, table, at as u16, descriptor);
                }
                self.free.pop_front();
                let len = 16 * pieces.len() as u32;
                self.describe(memory, head, Descriptor { addr: table, len, flags: INDIRECT, next: 0 });
            }
            None => {
                for (at, piece) in pieces.iter().enumerate() {
                    let index = self.free.pop_front()?;
                    let next = if more(at) == 0 { 0 } else { self.free.front().copied()? };
                    self.links[usize::from(index)] = next;
                    let descriptor = Descriptor { addr: piece.addr, len: piece.len, flags: write | more(at), next };
                    self.describe(memory, index, descriptor);
                }
            }
        }
        let room = if writable { pieces.iter().map(|piece| piece.len).sum() } else { 0 };
        self.make_available(memory, Chain { head, descriptors: descriptors as u16, room });
        Some(head)
    }

    /// Takes descriptors for chains that a scenario writes by itself.
    #[track_caller]
    pub fn take_descriptors(&mut self, count: usize) -> Vec<u16> {
        assert!(self.free.len() >= count, "{count} descriptors are not free");
        self.free.drain(..count).collect()
    }

    /// Writes a descriptor of the table.
    #[track_caller]
    #[inline]
    pub fn describe(&self, memory: &Memory, index: u16, descriptor: Descriptor) {
        self.describe_in(memory, self.descriptors, index, descriptor);
    }

    /// Writes a descriptor of a table anywhere.
    #[track_caller]
    #[inline]
    pub fn describe_in(&self, memory: &Memory, table: u64, index: u16, descriptor: Descriptor) {
        let Descriptor { addr, len, flags, next } = descriptor;
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&addr.to_le_bytes());
        octets[8..12].copy_from_slice(&len.to_le_bytes());
        octets[12..14].copy_from_slice(&flags.to_le_bytes());
        octets[14..].copy_from_slice(&next.to_le_bytes());
        memory.write(table + 16 * u64::from(index), &octets);
    }

    /// Adds a chain that a scenario has written by itself; `room`: octets that the device may write.
    pub fn offer(&mut self, memory: &Memory, head: u16, room: u32) {
        self.make_available(memory, Chain { head, descriptors: 0, room });
    }

    #[inline]
    fn make_available(&mut self, memory: &Memory, chain: Chain) {
        let place = u64::from(self.next_available % self.size);
        memory.store16(self.available + 4 + 2 * place, chain.head);
        self.next_available = self.next_available.wrapping_add(1);
        self.out.push_back(chain);
    }

    /// Shows the device what was added. True: it wants to be kicked.
    #[inline]
    pub fn publish(&mut self, memory: &Memory) -> bool {
        let old = std::mem::replace(&mut self.published, self.next_available);
        let new = self.published;
        memory.store16(self.available + 2, new);
        // 2.7.13.4: the index must be visible before the device's event suppression is read.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = memory.load16(self.used + 4 + 8 * u64::from(self.size));
            // 2.7.10.2: the entry at `event` is among the new ones.
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            new != old && memory.load16(self.used) & NO_NOTIFY == 0
        }
    }

    /// Sets `avail.idx` to anything, without an entry.
    pub fn claim(&self, memory: &Memory, index: u16) {
        memory.store16(self.available + 2, index);
    }

    /// `avail.idx` as published.
    pub fn available_index(&self) -> u16 {
        self.published
    }

    /// `used.idx`.
    #[inline]
    pub fn used_index(&self, memory: &Memory) -> u16 {
        memory.load16(self.used + 2)
    }

    /// Whether something came back.
    #[inline]
    pub fn has_used(&self, memory: &Memory) -> bool {
        !self.back.is_empty() || self.used_index(memory) != self.next_used
    }

    /// Asks to be called when something comes back, or not to be. True: something is there already.
    #[inline]
    pub fn want_calls(&mut self, memory: &Memory, wanted: bool) -> bool {
        if self.event_idx {
            // One that was used already will not come again for 65,535 entries.
            let event = if wanted { self.next_used } else { self.next_used.wrapping_sub(1) };
            memory.store16(self.available + 4 + 2 * u64::from(self.size), event);
        } else {
            memory.store16(self.available, if wanted { 0 } else { NO_NOTIFY });
        }
        fence(Ordering::SeqCst);
        self.has_used(memory)
    }

    /// Takes the next buffer that came back.
    #[track_caller]
    #[inline]
    pub fn take(&mut self, memory: &Memory) -> Option<Used> {
        if self.back.is_empty() && self.has_used(memory) {
            self.take_entry(memory);
        }
        self.back.pop_front()
    }

    #[track_caller]
    fn take_entry(&mut self, memory: &Memory) {
        let fresh = self.used_index(memory).wrapping_sub(self.next_used);
        let (out, size) = (self.out.len(), self.size);
        assert!(usize::from(fresh) <= out, "{fresh} buffers came back, but the device has {out} (ring of {size})");
        let entry = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        let (id, len) = (memory.load32(entry), memory.load32(entry + 4));
        let at = self.out.iter().position(|chain| u32::from(chain.head) == id);
        let at = at.unwrap_or_else(|| panic!("head {id} came back, which the device does not have: {:?}", self.out));
        // 2.7.9: with IN_ORDER one entry may stand for all buffers up to its own, which are wholly used.
        assert!(at == 0 || self.in_order, "head {id} came back before {at} older ones, which sv3 promises not to do");
        assert!(at < usize::from(fresh), "head {id} is number {at} and came back as one of {fresh}");
        for earlier in (0..=at).rev() {
            let Some(chain) = self.out.pop_front() else { break };
            let written = if earlier == 0 { len } else { chain.room };
            assert!(written <= chain.room, "{written} octets were written to {chain:?}");
            self.back.push_back(Used { head: chain.head, len: written });
            self.release(chain);
        }
        self.next_used = self.next_used.wrapping_add(at as u16 + 1);
    }

    fn release(&mut self, chain: Chain) {
        let mut index = chain.head;
        for _ in 0..chain.descriptors {
            self.free.push_back(index);
            index = self.links[usize::from(index)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that knows nothing but the ring's addresses; it uses what is available, in order.
    struct Device {
        ring: (u64, u64, u64),
        size: u16,
        event_idx: bool,
        next: u16,
    }

    impl Device {
        /// Uses at most `most` chains; true: the driver is to be called.
        fn work(&mut self, memory: &Memory, most: u16) -> bool {
            let (_, used, available) = self.ring;
            let old = self.next;
            for _ in 0..most.min(memory.load16(available + 2).wrapping_sub(old)) {
                let place = u64::from(self.next % self.size);
                let head = memory.load16(available + 4 + 2 * place);
                memory.write(used + 4 + 8 * place, &[u32::from(head).to_le_bytes(), 0u32.to_le_bytes()].concat());
                self.next = self.next.wrapping_add(1);
            }
            memory.store16(used + 2, self.next);
            let event = memory.load16(available + 4 + 2 * u64::from(self.size));
            match self.event_idx {
                true => (0..self.next.wrapping_sub(old)).any(|ahead| old.wrapping_add(ahead) == event),
                false => self.next != old && memory.load16(available) == 0,
            }
        }

        fn want_kicks(&self, memory: &Memory, wanted: bool) {
            let (_, used, _) = self.ring;
            match self.event_idx {
                true => memory.store16(used + 4 + 8 * u64::from(self.size), self.next.wrapping_sub(u16::from(!wanted))),
                false => memory.store16(used, u16::from(!wanted)),
            }
        }
    }

    fn ring(memory: &Memory, features: u64) -> (SplitRing, Device) {
        let mut ring = SplitRing::new(8);
        ring.place(memory.allocate(SplitRing::octets(8), 16));
        ring.reset(memory, features);
        let device = Device { ring: ring.addrs(), size: 8, event_idx: features & EVENT_IDX != 0, next: 0 };
        (ring, device)
    }

    #[test]
    fn every_chain_comes_back_once_over_many_wraps() {
        for features in [0, EVENT_IDX, IN_ORDER, EVENT_IDX | IN_ORDER] {
            let memory = Memory::new(1, 1 << 16);
            let (mut ring, mut device) = ring(&memory, features);
            let (mut sent, mut back) = (0u32, 0u32);
            for round in 0..40_000u32 {
                let pieces = vec![Piece { addr: memory.end() - 10, len: 10 }; 1 + round as usize % 3];
                sent += ring.add(&memory, &pieces, false, None).map_or(0, |_| 1);
                ring.publish(&memory);
                device.work(&memory, (round % 4) as u16);
                while ring.take(&memory).is_some() {
                    back += 1;
                }
            }
            device.work(&memory, 8);
            while ring.take(&memory).is_some() {
                back += 1;
            }
            assert_eq!(sent, back);
            assert!(sent > 30_000);
            assert_eq!(ring.next_head(8).is_some(), ring.in_flight() == 0);
        }
    }

    #[test]
    fn notifications_come_exactly_when_wanted() {
        for features in [0, EVENT_IDX] {
            let memory = Memory::new(1, 1 << 16);
            let (mut ring, mut device) = ring(&memory, features);
            let piece = [Piece { addr: memory.end() - 10, len: 10 }];
            // The indices wrap at 65,536.
            for _ in 0..70_000 {
                for wanted in [true, false] {
                    device.want_kicks(&memory, wanted);
                    ring.add(&memory, &piece, true, None).unwrap();
                    assert_eq!(ring.publish(&memory), wanted);
                    assert!(!ring.want_calls(&memory, wanted));
                    assert_eq!(device.work(&memory, 1), wanted);
                    assert_eq!(ring.take(&memory).map(|used| used.len), Some(0));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "which the device does not have")]
    fn a_chain_that_comes_back_twice_is_noticed() {
        let memory = Memory::new(1, 1 << 16);
        let (mut ring, _) = ring(&memory, 0);
        let piece = [Piece { addr: memory.end() - 10, len: 10 }];
        let head = ring.add(&memory, &piece, false, None).unwrap();
        ring.add(&memory, &piece, false, None).unwrap();
        let (_, used, _) = ring.addrs();
        let entry = [u32::from(head).to_le_bytes(), [0; 4]].concat();
        memory.write(used + 4, &[entry.clone(), entry].concat());
        memory.store16(used + 2, 2);
        while ring.take(&memory).is_some() {}
    }
}

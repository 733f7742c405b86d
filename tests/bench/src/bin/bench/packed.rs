//! The driver's side of a packed ring (virtio 1.3, 2.8), without EVENT_IDX.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use sv3_tests::guest::feature::RING_PACKED;

use crate::memory::Memory;
use crate::ring::{Place, Ring};

const WRITE: u64 = 2 << 48;
const AVAIL: u64 = 1 << 55;
const USED: u64 = 1 << 63;
/// Event suppression: no events.
const DISABLE: u16 = 1;

/// The driver of a packed ring.
pub struct Packed {
    place: Place,
    flags: u64,
    put: u32,
    back: u32,
    /// The first descriptor since the last publication, with which all of them become visible.
    first: Option<(usize, u64)>,
    /// Buffers that are known to have come back.
    ready: u32,
    strange: u64,
}

impl Packed {
    /// Whether the wrap counter is 1 at entry number `count`.
    #[inline(always)]
    fn wrap(&self, count: u32) -> bool {
        count & u32::from(self.place.size) == 0
    }

    #[inline(always)]
    fn descriptor(&self, count: u32) -> usize {
        self.place.descriptors + 16 * self.place.slot(count)
    }
}

impl Ring for Packed {
    const FEATURES: u64 = RING_PACKED;
    const BASE: u32 = 0x8000_8000;

    fn new(memory: &Memory, place: Place, writable: bool) -> Packed {
        memory.word16(place.driver + 2).store(DISABLE.to_le(), Relaxed);
        let flags = if writable { WRITE } else { 0 };
        Packed { place, flags, put: 0, back: 0, first: None, ready: 0, strange: 0 }
    }

    #[inline(always)]
    fn place(&self) -> &Place {
        &self.place
    }

    #[inline(always)]
    fn put_count(&self) -> u32 {
        self.put
    }

    #[inline(always)]
    fn back_count(&self) -> u32 {
        self.back
    }

    #[inline(always)]
    fn put(&mut self, memory: &Memory, octets: u32) {
        let at = self.descriptor(self.put);
        memory.word64(at).store(memory.addr(self.place.buffer(self.put)).to_le(), Relaxed);
        let available = if self.wrap(self.put) { AVAIL } else { USED };
        let word = u64::from(octets) | (self.place.slot(self.put) as u64) << 32 | self.flags | available;
        match self.first {
            None => self.first = Some((at + 8, word)),
            Some(_) => memory.word64(at + 8).store(word.to_le(), Relaxed),
        }
        self.put = self.put.wrapping_add(1);
    }

    #[inline(always)]
    fn publish(&mut self, memory: &Memory) -> bool {
        if let Some((at, word)) = self.first.take() {
            memory.word64(at).store(word.to_le(), Release);
        }
        fence(SeqCst);
        u16::from_le(memory.word16(self.place.device + 2).load(Relaxed)) != DISABLE
    }

    #[inline(always)]
    fn ready(&mut self, memory: &Memory) -> u32 {
        if self.ready > 0 {
            return self.ready;
        }
        let with_device = self.put.wrapping_sub(self.back);
        while self.ready < with_device.min(64) {
            let count = self.back.wrapping_add(self.ready);
            let word = u64::from_le(memory.word64(self.descriptor(count) + 8).load(Acquire));
            let used = if self.wrap(count) { AVAIL | USED } else { 0 };
            if word & (AVAIL | USED) != used {
                break;
            }
            self.ready += 1;
        }
        self.ready
    }

    #[inline(always)]
    fn take(&mut self, memory: &Memory) -> u32 {
        let word = u64::from_le(memory.word64(self.descriptor(self.back) + 8).load(Acquire));
        self.strange += u64::from((word >> 32) as u16 as usize != self.place.slot(self.back));
        self.back = self.back.wrapping_add(1);
        self.ready = self.ready.saturating_sub(1);
        word as u32
    }

    fn has_come(&self, memory: &Memory, count: u32) -> bool {
        let Some(ahead) = count.checked_sub(1) else { return true };
        let last = self.back.wrapping_add(ahead);
        let word = u64::from_le(memory.word64(self.descriptor(last) + 8).load(Acquire));
        let used = if self.wrap(last) { AVAIL | USED } else { 0 };
        word & (AVAIL | USED) == used
    }

    fn strange(&self) -> u64 {
        self.strange
    }
}

//! The driver's side of a split ring (virtio 1.3, 2.7), without EVENT_IDX.
//!
//! Entry N of the available ring always names descriptor N, as with a device that works in order, and is written once.
//! Descriptors are written for each buffer, as by drivers with other buffers each time.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use crate::memory::Memory;
use crate::ring::{Place, Ring};

const WRITE: u64 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The driver of a split ring.
pub struct Split {
    place: Place,
    flags: u64,
    put: u32,
    back: u32,
    /// `used.idx` as last read.
    seen: u16,
    strange: u64,
}

impl Ring for Split {
    const FEATURES: u64 = 0;
    const BASE: u32 = 0;

    fn new(memory: &Memory, place: Place, writable: bool) -> Split {
        for slot in 0..place.size {
            memory.word16(place.driver + 4 + 2 * usize::from(slot)).store(slot.to_le(), Relaxed);
        }
        memory.word16(place.driver).store(NO_INTERRUPT.to_le(), Relaxed);
        Split { place, flags: if writable { WRITE << 32 } else { 0 }, put: 0, back: 0, seen: 0, strange: 0 }
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
        let at = self.place.descriptors + 16 * self.place.slot(self.put);
        memory.word64(at).store(memory.addr(self.place.buffer(self.put)).to_le(), Relaxed);
        memory.word64(at + 8).store((u64::from(octets) | self.flags).to_le(), Relaxed);
        self.put = self.put.wrapping_add(1);
    }

    #[inline(always)]
    fn publish(&mut self, memory: &Memory) -> bool {
        memory.word16(self.place.driver + 2).store((self.put as u16).to_le(), Release);
        // The device stores its event suppression and then reads avail.idx; the driver does it the other way round.
        fence(SeqCst);
        u16::from_le(memory.word16(self.place.device).load(Relaxed)) & NO_NOTIFY == 0
    }

    #[inline(always)]
    fn ready(&mut self, memory: &Memory) -> u32 {
        if self.seen == self.back as u16 {
            self.seen = u16::from_le(memory.word16(self.place.device + 2).load(Acquire));
        }
        u32::from(self.seen.wrapping_sub(self.back as u16))
    }

    #[inline(always)]
    fn take(&mut self, memory: &Memory) -> u32 {
        let slot = self.place.slot(self.back);
        let at = self.place.device + 4 + 8 * slot;
        let id = u32::from_le(memory.word32(at).load(Relaxed));
        self.strange += u64::from(id as usize != slot);
        self.back = self.back.wrapping_add(1);
        u32::from_le(memory.word32(at + 4).load(Relaxed))
    }

    fn has_come(&self, memory: &Memory, count: u32) -> bool {
        let used = u16::from_le(memory.word16(self.place.device + 2).load(Acquire));
        u32::from(used.wrapping_sub(self.back as u16)) >= count
    }

    fn strange(&self) -> u64 {
        self.strange
    }
}

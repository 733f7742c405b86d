//! Split rings, device side (virtio 1.3, 2.7).
//!
//! The worker completes chains in the order in which it takes them, and before it looks at anything else. So one
//! index is enough: `next`, the next available entry to take, is also the next used entry to write. Between bursts it
//! equals `used.idx` in guest memory. There a new worker continues. So a worker may die at any instruction: the next
//! one takes the entries again that were taken and not yet published.
//!
//! Within a burst, [`Virtqueue::complete`] writes used entries, and [`Virtqueue::publish`] makes all of them visible
//! at once and decides whether to notify the driver. The first publication after a start always signals, since nobody
//! knows whether the last worker's signals arrived.

use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

use sv3::MAX_RING_SIZE;
use sv3::ids::Direction;
use sv3::ipc::{RingAddr, RingFault};
use sv3::virtio::{VIRTIO_RING_F_EVENT_IDX, VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_USED_F_NO_NOTIFY};

use super::chain::Walker;
use super::descriptor::{Descriptor, Table};
use super::marks::Marks;
use super::virtqueue::{Chain, Virtqueue};
use crate::memory::guest_memory::GuestMemory;
use crate::memory::shared::SharedArray;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::SliceList;

/// How many receive buffers are fetched ahead of the current frame.
const AHEAD: u16 = 16;

/// One split ring.
pub struct SplitRing {
    size: u16,
    desc: SharedArray<[AtomicU64; 2]>,
    /// `avail.flags`, `avail.idx`.
    avail_head: SharedArray<AtomicU16>,
    avail: SharedArray<AtomicU16>,
    used_event: SharedArray<AtomicU16>,
    /// `used.flags`, `used.idx`.
    used_head: SharedArray<AtomicU16>,
    /// Id and length. Entries are aligned to four octets only.
    used: SharedArray<[AtomicU32; 2]>,
    avail_event: SharedArray<AtomicU16>,
    event_idx: bool,
    /// Next available entry to take, and next used entry to write.
    next: u16,
    /// The published `used.idx`.
    published: u16,
    /// The last `avail.idx` that was read.
    avail_seen: u16,
    /// Nothing was published since the start: the driver gets a signal in any case.
    fresh: bool,
    /// The client wants to know which pages are written.
    marks: Option<Box<Marks>>,
}

impl SplitRing {
    /// Looks the ring up and takes its position from `used.idx`.
    pub fn new(memory: &GuestMemory, size: u16, addr: &RingAddr, features: u64) -> Result<SplitRing, RingFault> {
        if !size.is_power_of_two() || size > MAX_RING_SIZE {
            return Err(RingFault::BadSize);
        }
        // The alignment that virtio 1.3, 2.7 requires. The types' own alignment implies only a part of it.
        if !addr.desc.is_multiple_of(16) || !addr.avail.is_multiple_of(2) || !addr.used.is_multiple_of(4) {
            return Err(RingFault::Misaligned);
        }
        let behind = |addr: u64, len: u64| addr.checked_add(len).ok_or(RingFault::Unmapped);
        let event_idx = VIRTIO_RING_F_EVENT_IDX.of(features);
        let entries = u64::from(size);
        let avail_end = behind(addr.avail, 4 + 2 * entries)?;
        let used_end = behind(addr.used, 4 + 8 * entries)?;
        // Without EVENT_IDX the words after the rings do not belong to the device. These stand-ins are never
        // accessed.
        let used_event = if event_idx { avail_end } else { addr.avail };
        let avail_event = if event_idx { used_end } else { addr.used };
        let mut ring = SplitRing {
            size,
            desc: SharedArray::new(memory, addr.desc, size)?,
            avail_head: SharedArray::new(memory, addr.avail, 2)?,
            avail: SharedArray::new(memory, behind(addr.avail, 4)?, size)?,
            used_event: SharedArray::new(memory, used_event, 1)?,
            used_head: SharedArray::new(memory, addr.used, 2)?,
            used: SharedArray::new(memory, behind(addr.used, 4)?, size)?,
            avail_event: SharedArray::new(memory, avail_event, 1)?,
            event_idx,
            next: 0,
            published: 0,
            avail_seen: 0,
            fresh: true,
            marks: None,
        };
        ring.next = u16::from_le(ring.used_head.at(1).load(Acquire));
        ring.published = ring.next;
        ring.avail_seen = ring.next;
        ring.disarm();
        Ok(ring)
    }

    /// How many entries can be taken, after a new read of `avail.idx`.
    #[inline]
    fn refresh(&mut self) -> Result<u16, RingFault> {
        let seen = u16::from_le(self.avail_head.at(1).load(Acquire));
        if seen.wrapping_sub(self.next) > self.size {
            return Err(RingFault::AvailOverrun);
        }
        self.avail_seen = seen;
        Ok(self.seen())
    }

    /// How many entries can be taken, by the last read of `avail.idx`.
    #[inline]
    fn seen(&self) -> u16 {
        self.avail_seen.wrapping_sub(self.next)
    }

    /// The head that the available entry at `cursor` names.
    #[inline]
    fn head(&self, cursor: u16) -> u16 {
        u16::from_le(self.avail.at(cursor).load(Relaxed))
    }

    fn wants_signal(&self, old: u16) -> bool {
        if self.event_idx {
            let event = u16::from_le(self.used_event.at(0).load(Relaxed));
            passes(event, self.published, old)
        } else {
            u16::from_le(self.avail_head.at(0).load(Relaxed)) & VIRTQ_AVAIL_F_NO_INTERRUPT == 0
        }
    }
}

impl Table for SplitRing {
    #[inline]
    fn descriptor(&self, index: u16) -> Option<Descriptor> {
        (index < self.size).then(|| Descriptor::read(self.desc.at(index)))
    }

    fn size(&self) -> u16 {
        self.size
    }
}

impl Virtqueue for SplitRing {
    fn position(&self) -> u16 {
        self.next
    }

    #[inline]
    fn prepare(&mut self, batch: u16) -> Result<u16, RingFault> {
        let ready = self.refresh()?.min(batch);
        let (next, desc, avail, used) = (self.next, self.desc.view(), self.avail.view(), self.used.view());
        for ahead in 0..ready {
            desc.prefetch(u16::from_le(avail.at(next.wrapping_add(ahead)).load(Relaxed)));
        }
        for ahead in (0..ready).step_by(8) {
            used.prefetch_to_write(next.wrapping_add(ahead));
        }
        Ok(ready)
    }

    fn ready(&mut self, most: u16) -> u16 {
        if self.seen() < most {
            // The next take of a single chain finds a fault.
            return self.refresh().unwrap_or(0).min(most);
        }
        most
    }

    #[inline(always)]
    fn take<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        out: &mut SliceList<'_, 'm>,
    ) -> Result<Option<Chain>, RingFault> {
        let ahead = cursor.wrapping_sub(self.next);
        if ahead >= self.seen() && self.refresh()? <= ahead {
            return Ok(None);
        }
        let id = self.head(*cursor);
        if walker.direction == Direction::Receive {
            self.desc.view().prefetch(self.head(cursor.wrapping_add(AHEAD)));
            self.used.view().prefetch_to_write(cursor.wrapping_add(AHEAD));
        }
        *cursor = cursor.wrapping_add(1);
        Ok(Some(Chain { id, descriptors: 1, len: walker.walk(self, id, out).ok() }))
    }

    fn ready_at(&mut self, cursor: u16, batch: u16) -> Result<u16, RingFault> {
        Ok(self.refresh()?.saturating_sub(cursor.wrapping_sub(self.next)).min(batch))
    }

    fn behind(&self, cursor: u16, _: &Chain) -> u16 {
        cursor.wrapping_add(1)
    }

    #[inline(always)]
    fn take_plain<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        most: usize,
        mut each: impl FnMut(Chain, GuestSlice<'m>) -> bool,
    ) -> usize {
        let (size, plain, desc, avail) = (self.size, walker.plain(), self.desc.view(), self.avail.view());
        let (first, most) = (*cursor, most.min(usize::from(self.avail_seen.wrapping_sub(*cursor))) as u16);
        let (mut taken, receives) = (0, walker.direction == Direction::Receive);
        while taken < most {
            if receives {
                let ahead = first.wrapping_add(taken).wrapping_add(AHEAD);
                desc.prefetch(u16::from_le(avail.at(ahead).load(Relaxed)));
                self.used.view().prefetch_to_write(ahead);
            }
            let id = u16::from_le(avail.at(first.wrapping_add(taken)).load(Relaxed));
            if id >= size {
                break;
            }
            let Some(slice) = plain.slice(&Descriptor::read(desc.at(id))) else { break };
            if !each(Chain { id, descriptors: 1, len: Some(slice.len()) }, slice) {
                break;
            }
            taken += 1;
        }
        *cursor = first.wrapping_add(taken);
        taken.into()
    }

    #[inline]
    fn has_room(&self, _chains: usize) -> bool {
        true
    }

    fn make_room(&mut self) {}

    #[inline]
    fn complete(&mut self, chain: &Chain, len: u32) {
        write_used(self.used.at(self.next), chain.id, len);
        self.next = self.next.wrapping_add(1);
    }

    #[inline]
    fn complete_all(&mut self, chains: impl Iterator<Item = (Chain, u32)>) {
        let (mut next, used) = (self.next, self.used.view());
        for (chain, len) in chains {
            write_used(used.at(next), chain.id, len);
            next = next.wrapping_add(1);
        }
        self.next = next;
    }

    #[inline(always)]
    fn fill_plain<'m>(
        &mut self,
        walker: &Walker<'m>,
        most: usize,
        mut each: impl FnMut(GuestSlice<'m>) -> Option<u32>,
    ) -> usize {
        let ready = match usize::from(self.seen()) < most {
            // The next take of a single chain finds a fault.
            true => self.refresh().unwrap_or(0),
            false => self.seen(),
        };
        let (size, plain, desc, avail) = (self.size, walker.plain(), self.desc.view(), self.avail.view());
        let (first, used) = (self.next, self.used.view());
        let most = most.min(ready.into()) as u16;
        let mut filled = 0;
        while filled < most {
            let at = first.wrapping_add(filled);
            desc.prefetch(u16::from_le(avail.at(at.wrapping_add(AHEAD)).load(Relaxed)));
            let id = u16::from_le(avail.at(at).load(Relaxed));
            if id >= size {
                break;
            }
            let Some(slice) = plain.slice(&Descriptor::read(desc.at(id))) else { break };
            let Some(len) = each(slice) else { break };
            used.prefetch_to_write(at.wrapping_add(AHEAD));
            write_used(used.at(at), id, len);
            filled += 1;
        }
        self.next = first.wrapping_add(filled);
        filled.into()
    }

    #[inline]
    fn publish(&mut self) -> bool {
        let old = self.published;
        if self.next == old {
            return false;
        }
        match self.marks.is_some() {
            false => self.used_head.at(1).store(self.next.to_le(), Release),
            true => self.publish_marked(old),
        }
        self.published = self.next;
        let fresh = std::mem::take(&mut self.fresh);
        // The driver stores the event that it waits for and then reads used.idx. The worker stores used.idx and then
        // reads the driver's event.
        fence(SeqCst);
        fresh || self.wants_signal(old)
    }

    fn arm_at(&mut self, cursor: u16) -> bool {
        if self.event_idx {
            self.avail_event.at(0).store(cursor.to_le(), Relaxed);
        } else {
            self.used_head.at(0).store(0, Relaxed);
        }
        fence(SeqCst);
        if self.marks.is_some() {
            self.mark_suppression();
        }
        self.is_ready(cursor)
    }

    #[inline]
    fn is_ready(&self, cursor: u16) -> bool {
        let available = u16::from_le(self.avail_head.at(1).load(Acquire));
        let ahead = cursor.wrapping_sub(self.next);
        // More entries than the ring has are a fault. The next take finds it.
        ahead > self.size || available.wrapping_sub(self.next) > ahead
    }

    /// With EVENT_IDX there is nothing to do: `avail_event` stays behind, and the driver kicks once in 65,536
    /// entries.
    fn disarm(&mut self) {
        if !self.event_idx {
            self.used_head.at(0).store(VIRTQ_USED_F_NO_NOTIFY.to_le(), Relaxed);
            if self.marks.is_some() {
                self.mark_suppression();
            }
        }
    }
}

/// Writes a used entry.
#[inline]
fn write_used([id, written]: &[AtomicU32; 2], head: u16, len: u32) {
    id.store(u32::from(head).to_le(), Relaxed);
    written.store(len.to_le(), Relaxed);
}

/// Whether moving an index from `old` to `new` passes `event` (`vring_need_event`; virtio 1.3, 2.7.7.2).
fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

mod marking;

#[cfg(test)]
mod events;

#[cfg(test)]
mod tests {
    use super::super::driver::{BASE, Driver};
    use super::*;

    const EVENT_IDX: u64 = VIRTIO_RING_F_EVENT_IDX.mask();

    fn chain(id: u16) -> Chain {
        Chain { id, ..Chain::default() }
    }

    #[test]
    fn a_ring_goes_on_where_used_idx_stands_and_redoes_what_was_not_published() {
        for features in [0, EVENT_IDX] {
            let mut driver = Driver::new(4);
            let mut ring = driver.ring(features);
            for round in 0..70_000u32 {
                let head = (round * 3 % 4) as u16;
                driver.offer(head);
                assert_eq!((ring.prepare(9).unwrap(), ring.head(ring.position())), (1, head));
                ring.complete(&chain(head), round);
                if round % 1000 == 7 {
                    // The worker dies before it publishes.
                    ring = driver.ring(features);
                    assert_eq!((ring.prepare(9).unwrap(), ring.head(ring.position())), (1, head));
                    ring.complete(&chain(head), round);
                }
                ring.publish();
                assert_eq!(driver.used_idx(), (round + 1) as u16);
                assert_eq!(driver.used(round as u16), (u32::from(head), round));
            }
        }
    }

    #[test]
    fn more_entries_than_the_ring_has_are_a_fault() {
        let mut driver = Driver::new(4);
        let mut ring = driver.ring(0);
        driver.claim(4);
        assert_eq!(ring.refresh(), Ok(4));
        driver.claim(5);
        assert_eq!(ring.refresh(), Err(RingFault::AvailOverrun));
        driver.claim(u16::MAX);
        assert_eq!(ring.refresh(), Err(RingFault::AvailOverrun));
    }

    #[test]
    fn a_ring_must_lie_in_memory_aligned_and_of_a_legal_size() {
        let driver = Driver::new(4);
        let good = driver.addr();
        let fault = |size, addr: &RingAddr| SplitRing::new(&driver.memory, size, addr, 0).err();
        assert_eq!(fault(4, &good), None);
        for size in [0, 3, 65535] {
            assert_eq!(fault(size, &good), Some(RingFault::BadSize));
        }
        assert_eq!(fault(4, &RingAddr { desc: good.desc + 8, ..good }), Some(RingFault::Misaligned));
        assert_eq!(fault(4, &RingAddr { avail: good.avail + 1, ..good }), Some(RingFault::Misaligned));
        assert_eq!(fault(4, &RingAddr { used: good.used + 2, ..good }), Some(RingFault::Misaligned));
        assert_eq!(fault(4, &RingAddr { used: u64::MAX - 3, ..good }), Some(RingFault::Unmapped));
        assert_eq!(fault(4, &RingAddr { desc: BASE, ..good }), Some(RingFault::Unmapped));
        // The whole length counts: the last entry of a larger table lies outside.
        assert_eq!(fault(32768, &RingAddr { desc: good.desc + (1 << 20), ..good }), None);
        assert_eq!(fault(32768, &RingAddr { desc: good.desc + 0xf_0000, ..good }), Some(RingFault::Unmapped));
    }

    #[test]
    fn a_new_ring_signals_once_whatever_the_driver_asks_for() {
        let mut driver = Driver::new(4);
        driver.write(driver.addr().avail - driver.addr().desc + BASE, &VIRTQ_AVAIL_F_NO_INTERRUPT.to_le_bytes());
        let mut ring = driver.ring(0);
        let mut step = |ring: &mut SplitRing| {
            driver.offer(0);
            ring.refresh().unwrap();
            ring.complete(&chain(0), 0);
            ring.publish()
        };
        assert!(step(&mut ring));
        assert!(!step(&mut ring));
    }

    #[test]
    fn an_event_is_passed_exactly_when_it_lies_in_the_step() {
        for old in [0u16, 100, 65530] {
            for step in 1..20u16 {
                let new = old.wrapping_add(step);
                for ahead in 0..40u16 {
                    let event = old.wrapping_add(ahead).wrapping_sub(10);
                    let expected = (0..step).any(|i| old.wrapping_add(i) == event);
                    assert_eq!(passes(event, new, old), expected, "{old} {new} {event}");
                }
            }
        }
    }
}

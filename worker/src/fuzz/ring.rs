//! Target `ring`. Whatever a driver writes into a split ring, the device takes the chains that the specification
//! defines, completes them in order, and accesses nothing outside of the guest's memory. Three readers must agree:
//! sv3, a plain model of it, and `virtio-queue` as far as it follows the specification like sv3.

use std::cell::RefCell;

use sv3::fuzz::Input;
use sv3::virtio::*;

use super::reference::ReferenceQueue;
use crate::memory::slice_list::Arena;
use crate::port::batch::MAX_SLICES;
use crate::port::vring::chain::Walker;
use crate::port::vring::driver::{BASE, Driver, REGION};
use crate::port::vring::split::SplitRing;
use crate::port::vring::virtqueue::Virtqueue;
use sv3::ids::Direction;

const TABLE: u64 = BASE + 0x4000;
const DATA: u64 = BASE + 0x8000;
pub const END: u64 = BASE + 2 * REGION;

/// Octets: size of the ring (1, logarithm), negotiated features (1), then steps; see [`Guest::step`].
pub fn ring(octets: &[u8]) {
    let mut input = Input::new(octets);
    let (size, options) = (1 << input.below(7), input.u8());
    let mut guest = Guest::new(size, options);
    while !input.is_empty() {
        guest.step(&mut input);
    }
    guest.device_serves(usize::MAX);
    guest.clean();
}

/// Drivers and their reference queues, by size: to make one takes longer than to use it.
type Pairs = [Option<(Driver, ReferenceQueue)>; 7];

thread_local! {
    static PAIRS: RefCell<Pairs> = const { RefCell::new([const { None }; 7]) };
}

struct Guest {
    driver: Driver,
    /// The reference queue has gone another way. It is kept for another input.
    parted: bool,
    reference: ReferenceQueue,
    /// What the driver wrote.
    dirty: Vec<(u64, usize)>,
    ring: SplitRing,
    arena: Arena,
    size: u16,
    features: u64,
    direction: Direction,
    /// As the driver wrote it.
    avail_idx: u16,
    /// As the device must have it.
    next: u16,
    /// Nothing was published since the ring was started.
    fresh: bool,
}

impl Guest {
    fn new(size: u16, options: u8) -> Guest {
        let bit = |bit: u8| options >> bit & 1 != 0;
        let indirect = if bit(0) { VIRTIO_RING_F_INDIRECT_DESC.mask() } else { 0 };
        let event_idx = if bit(1) { VIRTIO_RING_F_EVENT_IDX.mask() } else { 0 };
        let features = indirect | event_idx;
        let direction = if bit(2) { Direction::Receive } else { Direction::Transmit };
        let pair = PAIRS.with_borrow_mut(|pairs| pairs[size.ilog2() as usize].take());
        let (driver, mut reference) = pair.unwrap_or_else(|| {
            let driver = Driver::new(size);
            let mut addr = driver.addr();
            let base = addr.desc;
            for field in [&mut addr.desc, &mut addr.avail, &mut addr.used] {
                *field -= base;
            }
            (driver, ReferenceQueue::new(size, &addr))
        });
        reference.restart(0, event_idx != 0);
        let ring = driver.ring(features);
        Guest {
            driver,
            parted: false,
            reference,
            dirty: Vec::new(),
            ring,
            arena: Arena::new(MAX_SLICES),
            size,
            features,
            direction,
            avail_idx: 0,
            next: 0,
            fresh: true,
        }
    }

    /// Restores memory for the next input.
    fn clean(mut self) {
        let used = (self.used(), 6 + 8 * usize::from(self.size));
        for (addr, len) in std::mem::take(&mut self.dirty).into_iter().chain([used]) {
            let zeroes = vec![0; len];
            self.driver.write(addr, &zeroes);
            self.reference.write(addr, &zeroes);
        }
        let Guest { driver, reference, size, .. } = self;
        PAIRS.with_borrow_mut(|pairs| pairs[size.ilog2() as usize] = Some((driver, reference)));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(8) {
            0 => {
                let at = input.u8() as usize % usize::from(self.size);
                self.describe(BASE, at, input);
            }
            1 => {
                let at = input.below(64);
                self.describe(TABLE, at, input);
            }
            2 => {
                let head = match input.u8() {
                    wild @ 0xf0.. => u16::from_be_bytes([wild, input.u8()]),
                    head => u16::from(head) % self.size,
                };
                self.write(self.avail() + 4 + u64::from(self.avail_idx % self.size) * 2, &head.to_le_bytes());
                self.claim(self.avail_idx.wrapping_add(1));
            }
            3 => {
                let avail_idx = input.u16();
                self.claim(avail_idx);
            }
            4 => {
                let at = BASE + u64::from(input.u16() % 0x6000);
                let count = input.below(17);
                self.write(at, input.take(count));
                let avail_idx = self.driver.read(self.avail() + 2, 2);
                self.avail_idx = u16::from_le_bytes([avail_idx[0], avail_idx[1]]);
            }
            5 => {
                let most = input.below(65);
                self.device_serves(most);
            }
            6 => self.restart(),
            _ => {
                let armed = self.ring.arm();
                assert_eq!(armed, self.avail_idx != self.next);
                if input.below(2) == 0 {
                    self.ring.disarm();
                }
                // The reference device has its own way to ask for kicks. It gets the values that sv3 wrote.
                let used = self.used();
                self.reference.write(used, &self.driver.read(used, 2));
                let event = used + 4 + 8 * u64::from(self.size);
                self.reference.write(event, &self.driver.read(event, 2));
            }
        }
    }

    fn avail(&self) -> u64 {
        BASE + self.driver.addr().avail - self.driver.addr().desc
    }

    fn used(&self) -> u64 {
        BASE + self.driver.addr().used - self.driver.addr().desc
    }

    fn write(&mut self, addr: u64, octets: &[u8]) {
        self.driver.write(addr, octets);
        self.reference.write(addr, octets);
        self.dirty.push((addr, octets.len()));
    }

    fn claim(&mut self, avail_idx: u16) {
        self.avail_idx = avail_idx;
        self.write(self.avail() + 2, &avail_idx.to_le_bytes());
    }

    /// Octets: kind of address and length (1), address (1 to 8), length (1 to 4), flags (1), next (1).
    fn describe(&mut self, table: u64, at: usize, input: &mut Input<'_>) {
        let kind = input.u8();
        let addr = match kind % 8 {
            0..3 => DATA + u64::from(input.u16()) * 8,
            3 => BASE + REGION - u64::from(input.u8()),
            4 => END - u64::from(input.u8()),
            5 => TABLE + u64::from(input.u8()) * 16,
            6 => BASE + u64::from(input.u32()),
            _ => input.u64(),
        };
        let len = match kind >> 3 & 3 {
            0 => u32::from(input.u8()),
            1 => u32::from(input.u8()) * 16,
            2 => u32::from(input.u16()),
            _ => input.u32(),
        };
        let (flags, next) = (input.u8() & 0xf, input.u8());
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.write(table + at as u64 * 16, &[addr.to_le_bytes(), rest.to_le_bytes()].concat());
    }

    fn restart(&mut self) {
        // The driver may have written used.idx, where a device continues.
        self.next = self.driver.used_idx();
        self.ring = self.driver.ring(self.features);
        self.fresh = true;
        assert_eq!(self.ring.position(), self.next);
        let flags = self.driver.read(self.used(), 2);
        self.reference.restart(self.next, VIRTIO_RING_F_EVENT_IDX.of(self.features));
        self.reference.write(self.used(), &flags);
    }

    fn device_serves(&mut self, most: usize) {
        let expected = self.avail_idx.wrapping_sub(self.next);
        let ready = match self.ring.prepare(u16::MAX) {
            Ok(ready) => ready,
            Err(_) => {
                assert!(expected > self.size);
                assert!(self.parted || self.reference.pop().is_err());
                return;
            }
        };
        assert!(ready == expected && ready <= self.size);
        let old = self.next;
        for _ in 0..usize::from(ready).min(most) {
            self.device_takes();
        }
        let signals = self.ring.publish();
        assert_eq!(self.driver.used_idx(), if self.next == old { self.driver.used_idx() } else { self.next });
        if self.next == old {
            assert!(!signals);
            return;
        }
        assert_eq!(signals, std::mem::take(&mut self.fresh) || self.wants_signal(old), "signal");
        self.compare_with_reference(signals);
    }

    fn device_takes(&mut self) {
        let head = self.driver.read(self.avail() + 4 + u64::from(self.next % self.size) * 2, 2);
        let head = u16::from_le_bytes([head[0], head[1]]);
        let model = self.model(head);
        let reference = (!self.parted).then(|| self.reference.pop().unwrap().unwrap());
        let walker = Walker { memory: &self.driver.memory, features: self.features, direction: self.direction };
        let mut slices = self.arena.list();
        let chain = self.ring.take(&mut self.ring.position(), &walker, &mut slices).unwrap().unwrap();
        assert_eq!(chain.id, head);
        let walked = chain.len;
        let lens: Vec<usize> = slices.from(0).iter().map(|slice| slice.len()).collect();
        match (&walked, &model) {
            (Some(total), Some(buffers)) => {
                assert_eq!(lens.iter().sum::<usize>(), *total);
                assert_eq!(lens, buffers.iter().map(|(_, len)| *len as usize).collect::<Vec<_>>());
                for (slice, (addr, len)) in slices.from(0).iter().zip(buffers) {
                    let mut begin = [0; 16];
                    let count = slice.read(0, &mut begin);
                    assert_eq!(begin[..count], self.driver.read(*addr, (*len as usize).min(16)));
                }
            }
            (None, None) => assert!(lens.is_empty()),
            _ => panic!("device: {walked:?}, the model: {model:?}"),
        }
        let written = match (&walked, self.direction) {
            (Some(total), Direction::Receive) => *total as u32,
            _ => 0,
        };
        if let Some(reference) = reference {
            assert_eq!(reference.head, head);
            if let Some(buffers) = &model {
                let to_guest = self.direction == Direction::Receive;
                let cut = |(addr, len, writable): &(u64, u32, bool)| {
                    assert_eq!(*writable, to_guest);
                    pieces(*addr, *len)
                };
                assert!(reference.whole);
                assert_eq!(reference.buffers.iter().flat_map(cut).collect::<Vec<_>>(), *buffers);
            }
        }
        // The reference queue completes no head beyond the table, so from here on the two differ.
        self.parted |= head >= self.size;
        if !self.parted {
            self.reference.complete(head, written);
        }
        self.ring.complete(&chain, written);
        assert_eq!(self.driver.used(self.next), (u32::from(head), written));
        self.next = self.next.wrapping_add(1);
        assert_eq!(self.ring.position(), self.next);
    }

    /// The pieces of the chain at `head`, by guest address and length, if it is a valid chain.
    fn model(&self, head: u16) -> Option<Vec<(u64, u32)>> {
        let (mut table, mut count, mut indirect) = (BASE, usize::from(self.size), false);
        let (mut index, mut steps, mut out) = (usize::from(head), 0, Vec::new());
        loop {
            if index >= count || steps >= count.min(MAX_SLICES) {
                return None;
            }
            steps += 1;
            let octets = self.driver.read(table + index as u64 * 16, 16);
            let addr = u64::from_le_bytes(octets[..8].try_into().unwrap());
            let len = u32::from_le_bytes(octets[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes([octets[12], octets[13]]);
            index = usize::from(u16::from_le_bytes([octets[14], octets[15]]));
            if flags & VIRTQ_DESC_F_INDIRECT != 0 {
                let negotiated = VIRTIO_RING_F_INDIRECT_DESC.of(self.features);
                if indirect || !negotiated || flags & VIRTQ_DESC_F_NEXT != 0 || len == 0 || len % 16 != 0 {
                    return None;
                }
                // One region must contain the table.
                if !inside(addr, len) || pieces(addr, len).len() != 1 {
                    return None;
                }
                (table, count, indirect, index, steps) = (addr, len as usize / 16, true, 0, 0);
                continue;
            }
            if (flags & VIRTQ_DESC_F_WRITE != 0) != (self.direction == Direction::Receive) {
                return None;
            }
            if len > 0 && !inside(addr, len) {
                return None;
            }
            out.extend(pieces(addr, len));
            if out.len() > MAX_SLICES {
                return None;
            }
            if flags & VIRTQ_DESC_F_NEXT == 0 {
                return Some(out);
            }
        }
    }

    /// Whether the driver asks for a signal for entries `old` to `next`.
    fn wants_signal(&self, old: u16) -> bool {
        let word = |at: u64| {
            let octets = self.driver.read(at, 2);
            u16::from_le_bytes([octets[0], octets[1]])
        };
        if VIRTIO_RING_F_EVENT_IDX.of(self.features) {
            let event = word(self.avail() + 4 + 2 * u64::from(self.size));
            (0..self.next.wrapping_sub(old)).any(|step| old.wrapping_add(step) == event)
        } else {
            word(self.avail()) & VIRTQ_AVAIL_F_NO_INTERRUPT == 0
        }
    }

    fn compare_with_reference(&mut self, signals: bool) {
        let (used, len) = (self.used(), 4 + 8 * usize::from(self.size));
        if self.parted {
            return;
        }
        let theirs = self.reference.signals();
        // Without EVENT_IDX the reference queue signals in any case, and it knows nothing of a new device.
        if theirs != signals && VIRTIO_RING_F_EVENT_IDX.of(self.features) {
            assert!(signals && !theirs);
        }
        // Only sv3 writes used.flags.
        assert_eq!(self.reference.read(used + 2, len - 2), self.driver.read(used + 2, len - 2));
    }
}

pub fn inside(addr: u64, len: u32) -> bool {
    addr >= BASE && addr.checked_add(u64::from(len)).is_some_and(|end| end <= END)
}

/// A range, cut at the border of the regions.
pub fn pieces(addr: u64, len: u32) -> Vec<(u64, u32)> {
    let border = BASE + REGION;
    let first = if addr < border { u64::from(len).min(border - addr) as u32 } else { len };
    let both = [(addr, first), (addr + u64::from(first), len - first)];
    both.into_iter().filter(|(_, len)| *len > 0).collect()
}

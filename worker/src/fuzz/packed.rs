//! Target `packed`. Whatever a driver writes into a packed ring, the device takes the chains that the specification
//! defines, writes used elements in their places, and writes nothing else. After a worker dies, the next one
//! continues the ring. A ledger full of nonsense does no harm.

use std::sync::atomic::Ordering::Relaxed;
use sv3::fuzz::Input;
use sv3::ipc::RingAddr;
use sv3::ledger::LedgerMap;
use sv3::virtio::*;

use super::ring::{END, inside, pieces};
use crate::memory::slice_list::Arena;
use crate::port::batch::MAX_SLICES;
use crate::port::vring::chain::Walker;
use crate::port::vring::driver::{BASE, Driver, REGION};
use crate::port::vring::packed::PackedRing;
use crate::port::vring::setup::RingSetup;
use crate::port::vring::virtqueue::{Chain, Virtqueue};
use sv3::ids::Direction;

const TABLE: u64 = BASE + 0x4000;
const DATA: u64 = BASE + 0x8000;
/// Octets from the beginning of memory that steps write to.
const RINGS: u64 = 0x5000;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const WRAP: u16 = 1 << 15;

/// Octets: number of descriptors (1), negotiated features (1), base (1), then steps; see [`Guest::step`].
pub fn packed(octets: &[u8]) {
    let mut input = Input::new(octets);
    let mut guest = Guest::new(&mut input);
    while !input.is_empty() && guest.ring.is_some() {
        guest.step(&mut input);
    }
    guest.serve(u16::MAX);
    guest.clean();
}

thread_local! {
    static LEDGER: &'static LedgerMap = Box::leak(Box::new(LedgerMap::create().unwrap().1));
    static DRIVER: std::cell::RefCell<Option<(Driver, u32)>> = const { std::cell::RefCell::new(None) };
}

/// Index and wrap counter, in the form of 2.8.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At(u16);

impl At {
    fn next(self, size: u16) -> At {
        let index = self.index() + 1;
        if index == size { At(!self.0 & WRAP) } else { At(index | self.0 & WRAP) }
    }

    fn index(self) -> u16 {
        self.0 & !WRAP
    }

    fn wrap(self) -> bool {
        self.0 & WRAP != 0
    }
}

/// What the model says of the chain at a position.
enum Said {
    Nothing,
    Endless,
    Chain { id: u16, descriptors: u16, buffers: Option<Vec<(u64, u32)>> },
}

struct Guest {
    driver: Driver,
    run: u32,
    setup: RingSetup,
    features: u64,
    direction: Direction,
    ring: Option<PackedRing>,
    arena: Arena,
    /// The driver's position.
    avail: At,
    /// The device's positions: published and completed.
    published: At,
    next: At,
    /// Completed and not published: position, id, length.
    pending: Vec<(At, u16, u32)>,
    inflight: u16,
    fresh: bool,
    dirty: Vec<(u64, usize)>,
}

impl Guest {
    fn new(input: &mut Input<'_>) -> Guest {
        let (size, options) = (input.below(40) as u16 + 1, input.u8());
        let start = At((u16::from(input.u8()) % size) | if options & 8 == 0 { WRAP } else { 0 });
        let (driver, run) = DRIVER.take().unwrap_or_else(|| (Driver::new(1), 0));
        let run = run + 1;
        let ledger = LEDGER.with(|ledger| *ledger);
        let user = driver.addr().desc;
        let events = user + u64::from(size) * 16;
        let addr = RingAddr { desc: user, avail: events, used: events + 4 };
        let (position, journal) = (&ledger.ports[0].rings[0], &ledger.journals[0][0]);
        let setup = RingSetup { size, addr, base: start.0, run, position, journal };
        let bit = |bit: u8| options >> bit & 1 != 0;
        let indirect = if bit(0) { VIRTIO_RING_F_INDIRECT_DESC.mask() } else { 0 };
        let event_idx = if bit(1) { VIRTIO_RING_F_EVENT_IDX.mask() } else { 0 };
        let features = indirect | event_idx | VIRTIO_F_RING_PACKED.mask();
        let direction = if bit(2) { Direction::Receive } else { Direction::Transmit };
        let ring = Some(PackedRing::new(&driver.memory, &setup, features).unwrap());
        Guest {
            driver,
            run,
            setup,
            features,
            direction,
            ring,
            arena: Arena::new(MAX_SLICES),
            avail: start,
            published: start,
            next: start,
            pending: Vec::new(),
            inflight: 0,
            fresh: true,
            dirty: Vec::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(10) {
            0..3 => {
                // A chain as a driver makes it, its first descriptor last.
                let places = std::iter::successors(Some(self.avail), |at| Some(at.next(self.setup.size)));
                let places: Vec<At> = places.take(input.below(4) + 1).collect();
                let octets: Vec<[u8; 16]> = places.iter().map(|at| self.descriptor(input, Some(*at))).collect();
                for (number, (at, octets)) in places.iter().zip(&octets).enumerate().rev() {
                    let mut octets = *octets;
                    octets[14] = octets[14] & !1 | u8::from(number + 1 < places.len());
                    self.write(BASE + u64::from(at.index()) * 16, &octets);
                    self.avail = if number == 0 { places[places.len() - 1].next(self.setup.size) } else { self.avail };
                }
            }
            3 => {
                let (index, at) = (input.u8(), At(input.u16()));
                let octets = self.descriptor(input, Some(at));
                self.write(BASE + u64::from(u16::from(index) % self.setup.size) * 16, &octets);
            }
            4 => {
                let index = input.below(64) as u64;
                let octets = self.descriptor(input, None);
                self.write(TABLE + index * 16, &octets);
            }
            5 => {
                let (at, count) = (u64::from(input.u16()) % (RINGS - 40), input.below(33));
                self.write(BASE + at, input.take(count));
            }
            6 => {
                let event = input.array::<4>();
                self.write(BASE + u64::from(self.setup.size) * 16, &event);
            }
            7 => {
                let most = input.u8().into();
                self.serve(most);
            }
            8 => self.die(input),
            _ => {
                let available = self.is_available(self.next);
                let Some(ring) = &mut self.ring else { return };
                assert_eq!(ring.arm(), available);
                if input.below(2) == 0 {
                    ring.disarm();
                }
            }
        }
    }

    /// A descriptor of the driver's position `at`, or of a table. Octets: kinds (1), address (1 to 8), length (1 to
    /// 4), id (1), flags (1).
    fn descriptor(&self, input: &mut Input<'_>, at: Option<At>) -> [u8; 16] {
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
        let (id, flags) = (u16::from(input.u8()), u16::from(input.u8() & 0xf));
        let turn = at.map_or(0, |at| if at.wrap() { AVAIL } else { USED });
        let mut out = [0; 16];
        out[..8].copy_from_slice(&addr.to_le_bytes());
        out[8..12].copy_from_slice(&len.to_le_bytes());
        out[12..14].copy_from_slice(&id.to_le_bytes());
        out[14..].copy_from_slice(&(flags | turn).to_le_bytes());
        out
    }

    fn write(&mut self, addr: u64, octets: &[u8]) {
        self.driver.write(addr, octets);
        self.dirty.push((addr, octets.len()));
    }

    /// The worker takes up to `most` chains, completes and publishes them.
    fn serve(&mut self, most: u16) {
        if self.take(most) {
            self.publish();
        }
    }

    /// False: the ring is broken.
    fn take(&mut self, most: u16) -> bool {
        let Some(mut ring) = self.ring.take() else { return false };
        let ready = ring.prepare(most).unwrap();
        assert!(ready == if self.is_available(self.next) { most } else { 0 });
        for _ in 0..ready.min(2 * self.setup.size) {
            let said = self.model();
            let walker = Walker { memory: &self.driver.memory, features: self.features, direction: self.direction };
            let mut slices = self.arena.list();
            let mut cursor = ring.position();
            assert_eq!(cursor, self.next.0);
            match (ring.take(&mut cursor, &walker, &mut slices), said) {
                (Ok(None), Said::Nothing) => break,
                (Err(_), Said::Endless) => return false,
                (Ok(Some(chain)), Said::Chain { id, descriptors, buffers }) => {
                    let Chain { id: our_id, descriptors: ours, len } = chain;
                    assert_eq!((our_id, ours), (id, descriptors));
                    let lens: Vec<u32> = slices.from(0).iter().map(|slice| slice.len() as u32).collect();
                    let model: Vec<u32> = buffers.iter().flatten().map(|(_, len)| *len).collect();
                    assert_eq!((len.is_some(), lens), (buffers.is_some(), model));
                    for (slice, (addr, len)) in slices.from(0).iter().zip(buffers.iter().flatten()) {
                        let mut begin = [0; 16];
                        let count = slice.read(0, &mut begin);
                        assert_eq!(begin[..count], self.driver.read(*addr, (*len as usize).min(16)));
                    }
                    let written = if self.direction == Direction::Receive { len.unwrap_or(0) as u32 } else { 0 };
                    if !ring.has_room(1) {
                        ring.make_room();
                    }
                    ring.complete(&chain, written);
                    self.pending.push((self.next, id, written));
                    self.inflight += descriptors;
                    self.next = (0..descriptors).fold(self.next, |at, _| at.next(self.setup.size));
                    assert_eq!(ring.position(), cursor);
                }
                (ours, _) => panic!("device: {ours:?}, the model: something else"),
            }
        }
        self.ring = Some(ring);
        true
    }

    fn publish(&mut self) {
        let ring = usize::from(self.setup.size) * 16 + 8;
        let mut expected = self.driver.read(BASE, ring);
        for (at, id, len) in self.pending.drain(..) {
            let turn = if at.wrap() { AVAIL | USED } else { 0 };
            let flags = turn | if len > 0 { VIRTQ_DESC_F_WRITE } else { 0 };
            let used = [&len.to_le_bytes()[..], &id.to_le_bytes(), &flags.to_le_bytes()].concat();
            let place = usize::from(at.index()) * 16 + 8;
            expected[place..place + 8].copy_from_slice(&used);
        }
        let moved = std::mem::take(&mut self.inflight);
        let signal = self.ring.as_mut().unwrap().publish();
        assert!(self.driver.read(BASE, ring) == expected, "other than the used elements was written");
        let events = usize::from(self.setup.size) * 16;
        let event = |at: usize| u16::from_le_bytes([expected[events + at], expected[events + at + 1]]);
        let (wanted, how) = (At(event(0)), event(2) & 3);
        let mut passed = std::iter::successors(Some(self.published), |at| Some(at.next(self.setup.size)));
        let wanted_now = match how {
            1 => false,
            2 if VIRTIO_RING_F_EVENT_IDX.of(self.features) => passed.by_ref().take(moved.into()).any(|at| at == wanted),
            _ => true,
        };
        // An index beyond the ring does not ask for any particular descriptor.
        if moved == 0 || wanted.index() < self.setup.size || how != 2 {
            assert_eq!(signal, moved > 0 && (self.fresh || wanted_now), "signal");
        }
        self.fresh &= moved == 0;
        self.published = self.next;
        assert_eq!(self.setup.position.used.load(Relaxed), u64::from(self.next.0));
    }

    /// The worker dies, perhaps during a burst, perhaps after it wrote nonsense into the ledger. Octets: which (1),
    /// chains (1), words (8 each).
    fn die(&mut self, input: &mut Input<'_>) {
        let (nonsense, most) = (input.below(4) == 0, input.u8().into());
        if !self.take(most) {
            return;
        }
        if nonsense {
            self.setup.position.used.store(input.u64() & 0xffff_000f_ffff | u64::from(input.u16()) << 32, Relaxed);
            for entry in self.setup.journal.entries.iter().take(8) {
                entry.store(input.u64(), Relaxed);
            }
            self.dirty.push((BASE, usize::from(self.setup.size) * 16 + 8));
        }
        self.ring = PackedRing::new(&self.driver.memory, &self.setup, self.features).ok();
        (self.fresh, self.inflight) = (true, 0);
        self.pending.clear();
        self.next = self.published;
        match &self.ring {
            Some(ring) if nonsense => {
                let position = At(ring.position());
                assert!(position.index() < self.setup.size);
                (self.next, self.published) = (position, position);
            }
            Some(ring) => assert_eq!(ring.position(), self.next.0),
            None => assert!(nonsense),
        }
    }

    fn flags(&self, at: At) -> u16 {
        let octets = self.driver.read(BASE + u64::from(at.index()) * 16 + 14, 2);
        u16::from_le_bytes([octets[0], octets[1]])
    }

    fn is_available(&self, at: At) -> bool {
        let flags = self.flags(at);
        (flags & AVAIL != 0) == at.wrap() && (flags & USED != 0) != at.wrap()
    }

    /// The chain at `next`.
    fn model(&self) -> Said {
        if self.inflight >= self.setup.size || !self.is_available(self.next) {
            return Said::Nothing;
        }
        let (mut at, mut descriptors, mut buffers) = (self.next, 0, Some(Vec::new()));
        loop {
            if descriptors == self.setup.size - self.inflight {
                return Said::Endless;
            }
            descriptors += 1;
            let Raw { addr, len, id, flags } = self.raw(BASE, at.index().into());
            let (more, first) = (flags & VIRTQ_DESC_F_NEXT != 0, descriptors == 1);
            if flags & VIRTQ_DESC_F_INDIRECT == 0 {
                self.buffer(&mut buffers, addr, len, flags);
            } else if more || !first || !VIRTIO_RING_F_INDIRECT_DESC.of(self.features) {
                buffers = None;
            } else {
                self.table(&mut buffers, addr, len);
            }
            if !more {
                return Said::Chain { id, descriptors, buffers };
            }
            at = at.next(self.setup.size);
        }
    }

    fn table(&self, buffers: &mut Option<Vec<(u64, u32)>>, addr: u64, len: u32) {
        let count = len / 16;
        let whole = len > 0 && len.is_multiple_of(16) && inside(addr, len) && pieces(addr, len).len() == 1;
        if !whole || count as usize > MAX_SLICES {
            *buffers = None;
            return;
        }
        for index in 0..count.into() {
            let Raw { addr, len, flags, .. } = self.raw(addr, index);
            match flags & VIRTQ_DESC_F_INDIRECT {
                0 => self.buffer(buffers, addr, len, flags),
                _ => *buffers = None,
            }
        }
    }

    fn buffer(&self, buffers: &mut Option<Vec<(u64, u32)>>, addr: u64, len: u32, flags: u16) {
        let right = (flags & VIRTQ_DESC_F_WRITE != 0) == (self.direction == Direction::Receive);
        let Some(list) = buffers else { return };
        if right && (len == 0 || inside(addr, len)) {
            list.extend(pieces(addr, len));
            *buffers = (list.len() <= MAX_SLICES).then(|| std::mem::take(list));
        } else {
            *buffers = None;
        }
    }

    fn raw(&self, table: u64, index: u64) -> Raw {
        let octets = self.driver.read(table + index * 16, 16);
        Raw {
            addr: u64::from_le_bytes(octets[..8].try_into().unwrap()),
            len: u32::from_le_bytes(octets[8..12].try_into().unwrap()),
            id: u16::from_le_bytes([octets[12], octets[13]]),
            flags: u16::from_le_bytes([octets[14], octets[15]]),
        }
    }

    /// Restores memory for the next input.
    fn clean(mut self) {
        self.ring = None;
        let used = (BASE, usize::from(self.setup.size) * 16 + 8);
        for (addr, len) in std::mem::take(&mut self.dirty).into_iter().chain([used]) {
            self.driver.write(addr, &vec![0; len]);
        }
        DRIVER.set(Some((self.driver, self.run)));
    }
}

struct Raw {
    addr: u64,
    len: u32,
    id: u16,
    flags: u16,
}

//! One guest of target `switch`: the driver's half of a receive and a transmit ring.

use std::cell::{Cell, RefCell};

use sv3::drop_reason::DropReason;
use sv3::frame::MAX_FRAME;
use sv3::fuzz::Input;
use sv3::ledger::LedgerMap;
use sv3::virtio::*;

use super::bridge::{Got, Mac, PROBES, Sent};
use super::rings::{CHAINS, Half, OCTETS, PIECES, SIZE};
use crate::port::Port;
use crate::port::endpoint::Endpoint;
use crate::port::vring::driver::{BASE, Driver};
use crate::port::vring::queue::Queue;
use crate::port::vring::setup::RingSetup;
use sv3::ids::QueueId;

/// Addresses of the rings: receive, transmit.
const RINGS: [u64; 2] = [0, 0x4000];
/// Address of the first frame to send, and the distance between two.
const SENDS: (u64, u64) = (0x2_0000, 0x1_1000);
/// Address of the first receive buffer, the distance between chains, and between pieces.
const RECEIVES: (u64, u64, u64) = (0x14_0000, 0xc000, 0x3000);
/// The octets after each receive buffer.
const GUARD: [u8; 16] = [0xee; 16];

const FEATURES: [Feature; 16] = [
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
];

thread_local! {
    /// Memory for guests: to make one takes longer than to use it.
    static DRIVERS: RefCell<Vec<Driver>> = const { RefCell::new(Vec::new()) };
    static RUN: Cell<u32> = const { Cell::new(0) };
}

/// The properties of a guest.
#[derive(Clone, Copy)]
pub struct Kind {
    /// A bit for each of [`FEATURES`].
    pub features: u16,
    /// Its rings are packed.
    pub packed: bool,
    /// It gives buffers again as soon as it gets them back.
    pub refills: bool,
}

/// A receive chain that the device has.
struct Posted {
    /// Octets of its buffers.
    lens: Vec<u32>,
    /// One of them is not writable for the device.
    bad: bool,
}

/// The driver of a guest.
pub struct Guest {
    /// It has not scribbled over its rings.
    pub honest: bool,
    /// Its receive ring is enabled.
    pub enabled: bool,
    /// Its receive ring has not broken since it was started.
    pub sound: bool,
    slot: u16,
    ledger: &'static LedgerMap,
    driver: Driver,
    /// Guest addresses and lengths of what the driver wrote into its rings.
    dirty: Vec<(u64, usize)>,
    features: u64,
    refills: bool,
    /// This life of the rings, see [`sv3::ipc::Command::RingStart`].
    run: u32,
    rings: [Half; 2],
    posted: [Option<Posted>; CHAINS as usize],
    /// Frames not yet completed, oldest first, with the chain of each.
    sent: Vec<(u16, Sent)>,
    /// How many receive buffers it gave.
    pub given: u64,
    /// Makes frames differ, if they have room for it.
    serial: u16,
}

impl Guest {
    /// A guest whose two rings run at a port.
    pub fn new(port: &'static Port, ledger: &'static LedgerMap, kind: Kind) -> Guest {
        let driver = DRIVERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Driver::new(SIZE));
        let features = features(kind.features);
        RUN.set(RUN.get() + 1);
        let mut guest = Guest {
            honest: true,
            enabled: true,
            sound: true,
            slot: port.slot(),
            ledger,
            driver,
            dirty: Vec::new(),
            features: features | if kind.packed { VIRTIO_F_RING_PACKED.mask() } else { 0 },
            refills: kind.refills,
            run: RUN.get(),
            rings: RINGS.map(|begin| Half::new(begin, kind.packed)),
            posted: Default::default(),
            sent: Vec::new(),
            given: 0,
            serial: 0,
        };
        guest.restart(port);
        guest
    }

    /// Restores the rings for the next input.
    pub fn clean(mut self, port: &'static Port) {
        for ring in 0..2 {
            port.seize(QueueId::new(self.slot, ring), || ()).unwrap().reset(Endpoint::default());
        }
        self.dirty.extend(RINGS.map(|begin| (BASE + begin, OCTETS)));
        for (addr, len) in self.dirty {
            self.driver.write(addr, &vec![0; len]);
        }
        DRIVERS.with_borrow_mut(|drivers| drivers.push(self.driver));
    }

    /// A worker takes over the rings where they stand.
    pub fn restart(&mut self, port: &'static Port) {
        let slot = usize::from(self.slot);
        for (ring, half) in self.rings.iter().enumerate() {
            let (line, log) = (&self.ledger.ports[slot].rings[ring], &self.ledger.journals[slot][ring]);
            let (addr, base) = (half.addr(&self.driver), half.position());
            let place = RingSetup { size: SIZE, addr, base, run: self.run, position: line, journal: log };
            let queue = Queue::new(&self.driver.memory, &place, self.features).unwrap();
            assert!(!self.honest || queue.position() == half.position());
            assert!(port.make_pair(0));
            let mut lease = port.seize(QueueId::new(self.slot, ring as u16), || ()).unwrap();
            lease.unpause();
            let vring = lease.vring().unwrap();
            vring.end();
            vring.queue = Some(queue);
            (vring.memory, vring.features) = (self.driver.memory.clone(), self.features);
            vring.enabled |= ring == 1 || self.enabled;
        }
        self.sound = true;
    }

    /// Gives a receive buffer. Octets: pieces, and whether it is a bad one (1), length of each (2).
    pub fn post(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let pieces = u16::from(kind) % PIECES + 1;
        let lens = (0..pieces).map(|_| u32::from(input.u16()) % 0x2c00).collect();
        self.give(Posted { lens, bad: kind & 0x80 != 0 });
    }

    /// Gives several equal buffers. Octets: how many (1), length (2).
    pub fn post_equal(&mut self, input: &mut Input<'_>) {
        let (count, len) = (input.below(CHAINS.into()) + 1, u32::from(input.u16()) % 0x2c00);
        for _ in 0..count {
            self.give(Posted { lens: vec![len], bad: false });
        }
    }

    fn give(&mut self, posted: Posted) {
        let Some(chain) = (0..CHAINS).find(|chain| self.posted[usize::from(*chain)].is_none()) else { return };
        let mut buffers = Vec::new();
        for (piece, len) in (0..).zip(&posted.lens) {
            let addr = buffer(chain, piece);
            self.driver.write(addr + u64::from(*len), &GUARD);
            buffers.push((addr, *len, VIRTQ_DESC_F_WRITE));
        }
        if posted.bad {
            buffers.last_mut().unwrap().2 = 0;
        }
        self.posted[usize::from(chain)] = Some(posted);
        self.given += 1;
        self.rings[0].offer(&mut self.driver, chain, &buffers);
    }

    /// Sends a frame. Octets: header (10), addresses (1), length of the tail (2), cuts (3), number of octets after
    /// the addresses (1), these octets.
    pub fn send(&mut self, input: &mut Input<'_>) {
        let hdr: [u8; 10] = input.array();
        let addresses = input.u8();
        let (tail, cuts) = (usize::from(input.u16() % 0x3000), input.array::<3>());
        let count = usize::from(input.u8());
        let mut frame = [self.mac(addresses), self.mac(addresses >> 4)].concat();
        frame.extend(input.take(count));
        self.fill(&mut frame, tail);
        self.transmit((hdr, [0; 2]), frame, &cuts.map(usize::from), None);
    }

    /// Sends several frames with the same properties, except for those that an octet changes. Octets: how many (1),
    /// addresses (1), then for each frame its difference (1).
    pub fn send_equal(&mut self, input: &mut Input<'_>) {
        let (count, addresses) = (input.below(CHAINS.into()) + 1, input.u8());
        let (mut dst, mut src) = (addresses & 15, addresses >> 4);
        for _ in 0..count {
            let what = input.u8();
            let (kind, by) = (what & 15, what >> 4);
            // A refused frame may have another destination; the frames after it then have that destination too.
            match kind {
                8 | 10..14 => dst ^= by,
                9 => src ^= by,
                _ => {}
            }
            let (mut hdr, mut rest, mut broken) = ([0; 10], [0; 2], None);
            let mut frame = [self.mac(dst), self.mac(src), [8, 0, 0, 0, 0, 0]].concat();
            frame.truncate(14);
            let mut cuts = Vec::new();
            match kind {
                0..7 => self.fill(&mut frame, usize::from(by) * usize::from(by) * 6),
                7 => {
                    frame.truncate(12);
                    frame.extend(tags(by));
                    self.fill(&mut frame, 50);
                }
                10 => frame.truncate(13),
                11 => hdr[1] = by | 1,
                12 => broken = Some(DropReason::BadChain),
                13 => broken = Some(DropReason::LongFrame),
                14 => cuts = vec![self.header_len() + usize::from(by)],
                15 => (hdr[9], rest, frame[13]) = (by & 3, [by >> 2, 0], by & 1),
                _ => self.fill(&mut frame, 50),
            }
            self.transmit((hdr, rest), frame, &cuts, broken);
        }
    }

    /// Appends octets that no other frame has there.
    fn fill(&mut self, frame: &mut Vec<u8>, len: usize) {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial.to_le_bytes();
        frame.extend([self.slot as u8, serial[0], serial[1]].into_iter().chain((3..=255).cycle()).take(len));
    }

    /// Sends a header and a frame in pieces of the lengths of `cuts`, and one more piece.
    fn transmit(&mut self, hdr: ([u8; 10], [u8; 2]), frame: Vec<u8>, cuts: &[usize], broken: Option<DropReason>) {
        if self.sent.len() >= usize::from(CHAINS) {
            return;
        }
        let Some(chain) = (0..CHAINS).find(|chain| self.sent.iter().all(|(taken, _)| taken != chain)) else { return };
        let begin = send_at(chain);
        let octets = [&hdr.0[..], &hdr.1[..self.header_len() - 10], &frame].concat();
        self.driver.write(begin, &octets);
        let (mut at, mut buffers) = (0, Vec::new());
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let len = cut.min(octets.len() - at);
            buffers.push((begin + at as u64, len as u32, 0));
            at += len;
        }
        match broken {
            Some(DropReason::BadChain) => buffers[0].2 = VIRTQ_DESC_F_WRITE,
            Some(DropReason::LongFrame) => buffers[0].1 = (self.header_len() + MAX_FRAME + 1) as u32,
            _ => {}
        }
        self.sent.push((chain, Sent { from: self.slot, features: self.features, hdr: hdr.0, frame, broken }));
        self.rings[1].offer(&mut self.driver, chain, &buffers);
    }

    /// Frames not yet completed as they stand in memory, with their headers: address and octets.
    pub fn under_way(&self) -> Vec<(u64, Vec<u8>)> {
        let at = |(chain, sent): &(u16, Sent)| (send_at(*chain), self.header_len() + sent.frame.len());
        self.sent.iter().map(at).map(|(addr, len)| (addr, self.driver.read(addr, len))).collect()
    }

    /// Writes such a frame back.
    pub fn put_back(&mut self, (addr, octets): &(u64, Vec<u8>)) {
        self.driver.write(*addr, octets);
    }

    /// Some addresses that differ in many or few bits, and some with a meaning.
    pub fn mac(&self, n: u8) -> Mac {
        match n % 16 {
            n @ 0..3 => [2, 0, 0, 0, 0, n],
            3 => [0xff; 6],
            4 => [0; 6],
            5 => [1, 0x80, 0xc2, 0, 0, 5],
            n @ 6..8 => [2, 0, 0, 0, 1, n],
            8 => PROBES,
            9 => [2, 0, 0, 1, 0, 0],
            10 => [0x82, 0, 0, 0, 0, 1],
            11 => [0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
            12 => [0, 0, 0, 0, 0, 1],
            13 => [1, 0x80, 0xc2, 0, 0, 0x10],
            14 => [2, 0, 0, 0, 0, (self.slot as u8 + 1) % 3],
            _ => [2, 0, 0, 0, 0, self.slot as u8],
        }
    }

    /// Writes anything into its rings. Octets: offset (2), count (1), the octets to write.
    pub fn scribble(&mut self, input: &mut Input<'_>) {
        self.honest = false;
        let (at, count) = (u64::from(input.u16() % 0x8000), input.below(33));
        let octets = input.take(count);
        self.driver.write(BASE + at, octets);
        self.dirty.push((BASE + at, octets.len()));
    }

    /// Takes back `count` chains from the transmit ring: their frames, in the order in which they were sent.
    pub fn completed(&mut self, count: usize) -> Vec<Sent> {
        if !self.honest {
            return Vec::new();
        }
        for at in 0..count {
            assert_eq!(self.rings[1].take_used(&self.driver), Some((self.sent[at].0, 0)));
        }
        assert_eq!(self.rings[1].take_used(&self.driver), None);
        self.sent.drain(..count).map(|(_, sent)| sent).collect()
    }

    /// Takes back all that the receive ring has: frames, and the number of bad buffers.
    pub fn receive(&mut self) -> (Vec<Got>, usize) {
        let (mut got, mut bad, header_len) = (Vec::new(), 0, self.header_len());
        if !self.honest {
            return (got, bad);
        }
        let mut again = Vec::new();
        'frames: loop {
            let (mut octets, mut taken, mut empty, mut buffers) = (Vec::new(), 0, false, 1);
            while octets.len() < header_len || taken < buffers {
                let Some((posted, written)) = self.take_back() else {
                    assert_eq!(taken, 0, "too few buffers");
                    break 'frames;
                };
                if posted.bad {
                    assert!(octets.is_empty() && written.is_empty());
                    bad += 1;
                    continue 'frames;
                }
                empty |= written.is_empty() && posted.lens.iter().any(|len| *len > 0);
                octets.extend(written);
                taken += 1;
                if octets.len() >= 12 && header_len == 12 {
                    buffers = u16::from_le_bytes([octets[10], octets[11]]);
                    assert!(buffers >= taken && (buffers == 1 || VIRTIO_NET_F_MRG_RXBUF.of(self.features)));
                }
                again.push(posted);
            }
            assert!(!empty, "an empty buffer");
            let hdr = *octets.first_chunk().unwrap();
            self.check_header(hdr);
            got.push((hdr, octets.split_off(header_len)));
        }
        if self.refills {
            again.into_iter().for_each(|posted| self.give(posted));
        }
        (got, bad)
    }

    fn check_header(&self, hdr: [u8; 10]) {
        let has = |feature: Feature| feature.of(self.features);
        assert!(hdr[0] == 0 || hdr[0] == VIRTIO_NET_HDR_F_NEEDS_CSUM && has(VIRTIO_NET_F_GUEST_CSUM));
        assert!(hdr[1] & VIRTIO_NET_HDR_GSO_ECN == 0 || has(VIRTIO_NET_F_GUEST_ECN));
        match hdr[1] & !VIRTIO_NET_HDR_GSO_ECN {
            VIRTIO_NET_HDR_GSO_NONE => assert_eq!(hdr[1], 0),
            VIRTIO_NET_HDR_GSO_TCPV4 => assert!(has(VIRTIO_NET_F_GUEST_TSO4)),
            VIRTIO_NET_HDR_GSO_TCPV6 => assert!(has(VIRTIO_NET_F_GUEST_TSO6)),
            VIRTIO_NET_HDR_GSO_UDP_L4 => assert!(has(VIRTIO_NET_F_GUEST_USO4) || has(VIRTIO_NET_F_GUEST_USO6)),
            other => panic!("gso_type {other}"),
        }
    }

    /// The next receive buffer that was given back, and the octets written into it.
    fn take_back(&mut self) -> Option<(Posted, Vec<u8>)> {
        let (chain, len) = self.rings[0].take_used(&self.driver)?;
        let posted = self.posted[usize::from(chain)].take().expect("a buffer that the device did not have");
        let mut octets = Vec::new();
        for (piece, size) in (0..).zip(&posted.lens) {
            let (addr, size) = (buffer(chain, piece), *size as usize);
            assert_eq!(self.driver.read(addr + size as u64, GUARD.len()), GUARD, "written behind a buffer");
            octets.extend(self.driver.read(addr, size.min(len as usize - octets.len())));
        }
        assert_eq!(octets.len(), len as usize, "more octets than there is room for");
        Some((posted, octets))
    }

    /// The oldest frame that did not come back.
    pub fn oldest(&self) -> Option<&Sent> {
        self.sent.first().map(|(_, sent)| sent)
    }

    /// The position of its receive ring.
    pub fn position(&self) -> u16 {
        self.rings[0].position()
    }

    fn header_len(&self) -> usize {
        if VIRTIO_F_VERSION_1.of(self.features) || VIRTIO_NET_F_MRG_RXBUF.of(self.features) { 12 } else { 10 }
    }
}

/// What is behind the addresses of a frame with tags of some kind.
fn tags(n: u8) -> Vec<u8> {
    let words: &[u16] = match n % 16 {
        0 => &[0x8100, 10],
        1 => &[0x8100, 20],
        2 => &[0x8100, 0],
        3 => &[0x8100, 0xb00a],
        4 => &[0x88a8, 10],
        5 => &[0x88a8, 0x5014],
        6 => &[0x88a8, 0],
        7 => &[0x9100, 10],
        8 => &[0x8100, 10, 0x8100, 20],
        9 => &[0x8100, 0xa000, 0x8100, 20],
        10 => &[0x88a8, 10, 0x8100, 20],
        11 => &[0x8100, 20, 0x9100, 10],
        12 => &[0x8100, 4095],
        13 => &[0x8100, 30],
        14 => &[0x88a8, 20, 0x88a8, 10, 0x8100, 0],
        _ => &[],
    };
    words.iter().chain(&[0x0800]).flat_map(|word| word.to_be_bytes()).collect()
}

/// The features of these bits.
pub fn features(bits: u16) -> u64 {
    let chosen = (0..).zip(FEATURES).filter(|(bit, _)| bits >> bit & 1 != 0);
    chosen.map(|(_, feature)| feature.mask()).sum()
}

fn send_at(chain: u16) -> u64 {
    BASE + SENDS.0 + u64::from(chain) * SENDS.1
}

fn buffer(chain: u16, piece: u16) -> u64 {
    BASE + RECEIVES.0 + u64::from(chain) * RECEIVES.1 + u64::from(piece) * RECEIVES.2
}

//! One guest of target `switch`: the driver's half of a receive and a transmit ring.

use std::cell::RefCell;

use sv3::fuzz::Input;
use sv3::ipc::RingAddr;
use sv3::virtio::*;

use crate::guest::driver::{BASE, Driver};
use crate::guest::queue::{Queue, Virtqueue};
use crate::guest::split::SplitRing;
use crate::port::{Port, Ring};

const SIZE: u16 = 64;
/// Buffers of a chain; chain `n` has descriptors `4 n` to `4 n + 3`.
const PIECES: u16 = 4;
const CHAINS: u16 = SIZE / PIECES;
/// Where the rings lie: receive, transmit.
const RINGS: [u64; 2] = [0, 0x4000];
/// Where frames to send lie, and how far apart.
const SENDS: (u64, u64) = (0x2_0000, 0x1_1000);
/// Where receive buffers lie, how far apart chains' and pieces'.
const RECEIVES: (u64, u64, u64) = (0x14_0000, 0xc000, 0x3000);

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
    /// Memory for guests, since to make it takes longer than to use it.
    static DRIVERS: RefCell<Vec<Driver>> = const { RefCell::new(Vec::new()) };
}

/// A frame as it was sent.
pub struct Sent {
    from: u16,
    /// The header's first ten octets.
    pub hdr: [u8; 10],
    frame: Vec<u8>,
}

impl Sent {
    /// Destination and source.
    pub fn addresses(&self) -> Option<([u8; 6], [u8; 6])> {
        (self.frame.len() >= 14).then(|| (self.frame[..6].try_into().unwrap(), self.frame[6..12].try_into().unwrap()))
    }
}

/// The driver.
pub struct Guest {
    /// It has not scribbled.
    pub honest: bool,
    /// Its receive ring is enabled.
    pub enabled: bool,
    /// Its receive ring has not broken since it was started.
    pub sound: bool,
    slot: u16,
    driver: Driver,
    /// Guest addresses and lengths of what the driver wrote into its rings.
    dirty: Vec<(u64, usize)>,
    features: u64,
    /// By ring: `avail.idx`, entries seen used.
    avail: [u16; 2],
    used: [u16; 2],
    /// Room of each receive chain that the device has.
    posted: [Option<usize>; CHAINS as usize],
    /// Frames under way, oldest first, and the chain that each is in.
    sent: Vec<(u16, Sent)>,
}

impl Guest {
    /// A guest whose two rings run at a port.
    pub fn new(port: &Port, features: u16) -> Guest {
        let driver = DRIVERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Driver::new(SIZE));
        let bits = (0..).zip(FEATURES).filter(|(bit, _)| features >> bit & 1 != 0);
        let features = bits.map(|(_, feature)| feature.mask()).sum();
        let (posted, sent) = (Default::default(), Vec::new());
        let mut guest = Guest {
            honest: true,
            enabled: true,
            sound: true,
            slot: port.slot,
            driver,
            dirty: Vec::new(),
            features,
            avail: [0; 2],
            used: [0; 2],
            posted,
            sent,
        };
        guest.restart(port);
        guest
    }

    /// Leaves the rings as they were, for the next input.
    pub fn clean(mut self, port: &Port) {
        for ring in 0..2 {
            *port.ring(ring).unwrap().lease(0).unwrap() = Ring::default();
        }
        for (ring, begin) in RINGS.into_iter().enumerate() {
            let len = self.addr(ring).used - self.addr(ring).desc + 6 + 8 * u64::from(SIZE);
            self.dirty.push((BASE + begin, len as usize));
        }
        for (addr, len) in self.dirty {
            self.driver.write(addr, &vec![0; len]);
        }
        DRIVERS.with_borrow_mut(|drivers| drivers.push(self.driver));
    }

    /// A worker takes the rings up where it finds them.
    pub fn restart(&mut self, port: &Port) {
        for ring in 0..2 {
            let split = SplitRing::new(&self.driver.memory, SIZE, &self.addr(ring), self.features).unwrap();
            assert!(!self.honest || split.position() == self.used[ring]);
            let mut state = port.make_ring(ring as u16).unwrap().lease(0).unwrap();
            (state.queue, state.fault) = (Some(Queue::Split(split)), None);
            (state.memory, state.features) = (self.driver.memory.clone(), self.features);
            state.enabled |= ring == 1 || self.enabled;
        }
        self.sound = true;
    }

    /// Gives a receive buffer. Octets: pieces (1), length of each (2).
    pub fn post(&mut self, input: &mut Input<'_>) {
        let pieces = u16::from(input.u8()) % PIECES + 1;
        let lens: Vec<u32> = (0..pieces).map(|_| u32::from(input.u16()) % 0x2c00).collect();
        let Some(chain) = (0..CHAINS).find(|chain| self.posted[usize::from(*chain)].is_none()) else { return };
        for (piece, len) in (0..).zip(&lens) {
            let addr = BASE + RECEIVES.0 + u64::from(chain) * RECEIVES.1 + u64::from(piece) * RECEIVES.2;
            self.driver.write(addr + u64::from(*len), &[0xee; 16]);
            self.describe(0, chain * PIECES + piece, (addr, *len, VIRTQ_DESC_F_WRITE, piece + 1 < pieces));
        }
        self.posted[usize::from(chain)] = Some(lens.iter().sum::<u32>() as usize);
        self.offer(0, chain * PIECES);
    }

    /// Sends a frame. Octets: header (10), addresses (1), length of a tail (2), cuts (3), octets behind the addresses
    /// (1), these.
    pub fn send(&mut self, input: &mut Input<'_>) {
        let hdr: [u8; 10] = input.array();
        let who = input.u8();
        let mac = |n: u8| match n % 8 {
            n @ 0..3 => [2, 0, 0, 0, 0, n],
            3 => [0xff; 6],
            4 => [0; 6],
            5 => [1, 0x80, 0xc2, 0, 0, n],
            n => [2, 0, 0, 0, 1, n],
        };
        let (tail, cuts) = (usize::from(input.u16() % 0x3000), input.array::<3>());
        let count = usize::from(input.u8());
        let mut frame = [mac(who), mac(who >> 4)].concat();
        frame.extend(input.take(count));
        frame.extend((0..tail).map(|n| n as u8));
        if self.sent.len() >= usize::from(CHAINS) {
            return;
        }
        let Some(chain) = (0..CHAINS).find(|chain| self.sent.iter().all(|(taken, _)| taken != chain)) else { return };
        let begin = BASE + SENDS.0 + u64::from(chain) * SENDS.1;
        let octets = [&hdr[..], &[0, 0][..self.header_len() - 10], &frame].concat();
        self.driver.write(begin, &octets);
        let mut at = 0;
        for (piece, cut) in (0..PIECES).zip(cuts.into_iter().map(usize::from).chain([usize::MAX])) {
            let len = cut.min(octets.len() - at);
            let desc = (begin + at as u64, len as u32, 0, piece + 1 < PIECES);
            self.describe(1, chain * PIECES + piece, desc);
            at += len;
        }
        self.sent.push((chain, Sent { from: self.slot, hdr, frame }));
        self.offer(1, chain * PIECES);
    }

    /// Writes anything into its rings. Octets: place (2), count (1), these.
    pub fn scribble(&mut self, input: &mut Input<'_>) {
        self.honest = false;
        let (at, count) = (u64::from(input.u16() % 0x8000), input.below(33));
        let octets = input.take(count);
        self.driver.write(BASE + at, octets);
        self.dirty.push((BASE + at, octets.len()));
    }

    /// Takes back `count` chains from the transmit ring: frames, in the order in which they were sent.
    pub fn completed(&mut self, count: usize) -> Vec<Sent> {
        if !self.honest {
            return Vec::new();
        }
        assert_eq!(self.used_idx(1), self.used[1].wrapping_add(count as u16));
        for at in 0..count {
            assert_eq!(self.used_entry(1), (u32::from(self.sent[at].0 * PIECES), 0));
        }
        self.sent.drain(..count).map(|(_, sent)| sent).collect()
    }

    /// Takes back all that is in the receive ring and compares it with the frames that were sent, as far as they are known.
    pub fn receive(&mut self, sent: Option<&[Sent]>) {
        if !self.honest {
            return;
        }
        while self.used[0] != self.used_idx(0) {
            let (mut octets, mut taken, header_len) = (self.take_back(), 1, self.header_len());
            while octets.len() < header_len {
                octets.extend(self.take_back());
                taken += 1;
            }
            let hdr: [u8; 10] = octets[..10].try_into().unwrap();
            let buffers = if header_len == 12 { u16::from_le_bytes([octets[10], octets[11]]) } else { 1 };
            assert!(buffers >= 1 && (buffers == 1 || VIRTIO_NET_F_MRG_RXBUF.of(self.features)));
            assert!(buffers >= taken);
            for _ in taken..buffers {
                octets.extend(self.take_back());
            }
            let frame = &octets[header_len..];
            self.check_header(hdr);
            let Some(sent) = sent else { continue };
            let from_others = sent.iter().filter(|sent| sent.from != self.slot);
            let known = from_others.rev().any(|sent| came_from(hdr, frame, sent));
            assert!(known, "a frame that nobody sent: {hdr:?} {} {:?}", frame.len(), &frame[..frame.len().min(80)]);
        }
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

    /// The octets of the next used receive buffer.
    fn take_back(&mut self) -> Vec<u8> {
        assert_ne!(self.used[0], self.used_idx(0), "too few buffers");
        let (id, len) = self.used_entry(0);
        let chain = u16::try_from(id).unwrap() / PIECES;
        assert_eq!(id, u32::from(chain * PIECES));
        let room = self.posted[usize::from(chain)].take().expect("a buffer that the device did not have");
        assert!(len as usize <= room && (len > 0 || room == 0), "{len} octets in a buffer of {room}");
        let mut octets = Vec::new();
        for piece in 0..PIECES {
            let desc = self.driver.read(BASE + RINGS[0] + u64::from(chain * PIECES + piece) * 16, 16);
            let size = u32::from_le_bytes(desc[8..12].try_into().unwrap()) as usize;
            let addr = u64::from_le_bytes(desc[..8].try_into().unwrap());
            assert_eq!(self.driver.read(addr + size as u64, 16), [0xee; 16], "written behind a buffer");
            octets.extend(self.driver.read(addr, size.min(len as usize - octets.len())));
            if desc[12] & VIRTQ_DESC_F_NEXT as u8 == 0 {
                break;
            }
        }
        assert_eq!(octets.len(), len as usize);
        octets
    }

    fn header_len(&self) -> usize {
        if VIRTIO_F_VERSION_1.of(self.features) || VIRTIO_NET_F_MRG_RXBUF.of(self.features) { 12 } else { 10 }
    }

    fn addr(&self, ring: usize) -> RingAddr {
        let RingAddr { desc, avail, used } = self.driver.addr();
        RingAddr { desc: desc + RINGS[ring], avail: avail + RINGS[ring], used: used + RINGS[ring] }
    }

    fn place(&self, ring: usize, field: fn(&RingAddr) -> u64) -> u64 {
        BASE + field(&self.addr(ring)) - self.driver.addr().desc
    }

    fn describe(&mut self, ring: usize, at: u16, (addr, len, flags, more): (u64, u32, u16, bool)) {
        let flags = flags | if more { VIRTQ_DESC_F_NEXT } else { 0 };
        self.driver.describe_at(BASE + RINGS[ring], at, (addr, len, flags, at + 1));
    }

    fn offer(&mut self, ring: usize, head: u16) {
        let avail = self.place(ring, |addr| addr.avail);
        let idx = self.avail[ring];
        self.driver.write(avail + 4 + u64::from(idx % SIZE) * 2, &head.to_le_bytes());
        self.avail[ring] = idx.wrapping_add(1);
        self.driver.write(avail + 2, &self.avail[ring].to_le_bytes());
    }

    fn used_idx(&self, ring: usize) -> u16 {
        let octets = self.driver.read(self.place(ring, |addr| addr.used) + 2, 2);
        u16::from_le_bytes([octets[0], octets[1]])
    }

    /// The next used entry.
    fn used_entry(&mut self, ring: usize) -> (u32, u32) {
        let at = self.place(ring, |addr| addr.used) + 4 + u64::from(self.used[ring] % SIZE) * 8;
        self.used[ring] = self.used[ring].wrapping_add(1);
        let octets = self.driver.read(at, 8);
        let word = |at: usize| u32::from_le_bytes(octets[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }
}

/// Whether a frame may have become of what was sent: as it was, with its checksum done, or a segment of it.
fn came_from(hdr: [u8; 10], frame: &[u8], sent: &Sent) -> bool {
    let same_but = |from: usize, to: usize| {
        frame.len() == sent.frame.len()
            && frame[..from.min(frame.len())] == sent.frame[..from.min(frame.len())]
            && frame[to.min(frame.len())..] == sent.frame[to.min(frame.len())..]
    };
    let partial = sent.hdr[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    let field = usize::from(u16::from_le_bytes([sent.hdr[6], sent.hdr[7]]))
        + usize::from(u16::from_le_bytes([sent.hdr[8], sent.hdr[9]]));
    let left = hdr[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0;
    match (hdr[1] == sent.hdr[1], left, partial) {
        (true, false, true) => same_but(field, field + 2),
        (true, ..) => left == partial && same_but(0, 0),
        // The segments' headers are the business of target `offload`.
        (false, ..) => {
            let gso_size = usize::from(u16::from_le_bytes([sent.hdr[4], sent.hdr[5]]));
            let l4 = usize::from(u16::from_le_bytes([sent.hdr[6], sent.hdr[7]]));
            let tcp = usize::from(sent.frame.get(l4 + 12).unwrap_or(&0) >> 4) * 4;
            let head = l4 + if sent.hdr[1] == VIRTIO_NET_HDR_GSO_UDP_L4 { 8 } else { tcp };
            let payload = frame.get(head..).unwrap_or_default();
            hdr[1] == 0
                && frame.get(..12) == sent.frame.get(..12)
                && payload.len() <= gso_size
                && sent.frame.get(head..).is_some_and(|whole| {
                    payload.is_empty() || whole.windows(payload.len()).any(|window| window == payload)
                })
        }
    }
}

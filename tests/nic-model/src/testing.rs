//! A driver by hand, for the tests of the model: one ring of each direction in memory of its own.

use crate::offload::Context;
use crate::{Card, Pf, PfSettings, Ram, registers as reg};

/// Where the card sees the memory.
const BASE: u64 = 0x10_0000_0000;
/// Descriptors of a ring.
pub const COUNT: u32 = 32;
/// Octets of a buffer.
pub const BUFFER: u64 = 2048;

const RECEIVE_RING: u64 = BASE;
const TRANSMIT_RING: u64 = BASE + 0x1000;
/// Where the card writes its head, if the test wants that.
pub const HEAD: u64 = BASE + 0x2000;
const RECEIVE_BUFFERS: u64 = BASE + 0x1_0000;
/// Where a test places what it sends.
pub const TRANSMIT_BUFFERS: u64 = BASE + 0x10_0000;

/// A card and its driver.
pub struct Driver<C: Card = Pf> {
    /// The card.
    pub card: C,
    /// Its memory.
    pub ram: Ram,
    /// Registers of the receive queue and of the transmit queue.
    queues: [u32; 2],
    next: u32,
    tail: u32,
    end: u64,
}

/// What the driver finds in a receive ring.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// All octets of the frame.
    pub frame: Vec<u8>,
    /// The first word of its last descriptor.
    pub low: u64,
    /// The second one.
    pub high: u64,
    /// Descriptors that it took.
    pub descriptors: usize,
}

impl Driver {
    /// A physical function, not yet started.
    pub fn pf() -> Driver {
        Driver::of(Pf::new(PfSettings::default()), [0x1000, 0x6000])
    }

    /// A physical function whose queue 0 runs and that takes frames for any address.
    pub fn running() -> Driver {
        let mut it = Driver::pf();
        it.start();
        it
    }
}

impl<C: Card> Driver<C> {
    /// A card whose queues of each direction begin at `queues`.
    pub fn of(card: C, queues: [u32; 2]) -> Driver<C> {
        let ram = Ram::new(BASE, 4 << 20);
        Driver { card, ram, queues, next: 0, tail: 0, end: TRANSMIT_BUFFERS }
    }

    /// Starts queue 0 (data sheet, 4.6.7 and 4.6.8).
    pub fn start(&mut self) {
        let control = self.get(reg::RDRXCTL);
        self.write(reg::RDRXCTL, control | 1 << 1);
        self.write(reg::FCTRL, 1 << 8 | 1 << 9 | 1 << 10);
        self.write(reg::RXCSUM, 1 << 13);
        let control = self.get(reg::HLREG0);
        self.write(reg::HLREG0, control | 1 << 2);
        self.write(reg::MAXFRS, 9728 << 16);
        self.write(reg::DMATXCTL, 1);
        self.start_queues();
        self.write(reg::RXCTRL, 1);
    }

    pub fn get(&mut self, at: u32) -> u32 {
        self.card.read(at, 4) as u32
    }

    pub fn write(&mut self, at: u32, value: u32) {
        self.card.write(at, 4, value.into(), &mut self.ram);
    }

    /// Prepares and enables both queues; the receive queue gets all descriptors but one.
    pub fn start_queues(&mut self) {
        let [receive, transmit] = self.queues;
        for (queue, ring) in [(receive, RECEIVE_RING), (transmit, TRANSMIT_RING)] {
            self.write(queue, ring as u32);
            self.write(queue + 4, (ring >> 32) as u32);
            self.write(queue + 8, COUNT * 16);
            self.write(queue + 0x10, 0);
            self.write(queue + 0x18, 0);
        }
        self.write(receive + 0x14, 1 << 25 | 2 << 8 | (BUFFER / 1024) as u32);
        for index in 0..COUNT {
            self.give(index);
        }
        for queue in [receive, transmit] {
            let control = self.get(queue + 0x28);
            self.write(queue + 0x28, control | 1 << 25);
            assert_ne!(self.get(queue + 0x28) & 1 << 25, 0);
        }
        self.write(receive + 0x18, COUNT - 1);
    }

    fn give(&mut self, index: u32) {
        let at = RECEIVE_BUFFERS + u64::from(index) * BUFFER;
        self.put(RECEIVE_RING + u64::from(index) * 16, [at, 0]);
    }

    /// Writes a descriptor.
    pub fn put(&mut self, at: u64, words: [u64; 2]) {
        let to = self.ram.at(at, 16).unwrap();
        to[..8].copy_from_slice(&words[0].to_le_bytes());
        to[8..].copy_from_slice(&words[1].to_le_bytes());
    }

    /// Reads a descriptor.
    pub fn descriptor(&mut self, at: u64) -> [u64; 2] {
        let from: [u8; 16] = self.ram.at(at, 16).unwrap().try_into().unwrap();
        [u128::from_le_bytes(from) as u64, (u128::from_le_bytes(from) >> 64) as u64]
    }

    /// The next frame that the card has stored; its descriptors go back to the card.
    pub fn received(&mut self) -> Option<Received> {
        let mut it = Received::default();
        loop {
            let [low, high] = self.descriptor(RECEIVE_RING + u64::from(self.next) * 16);
            if high & 1 == 0 {
                assert_eq!(it.descriptors, 0, "a frame that does not end");
                return None;
            }
            let len = (high >> 32 & 0xFFFF) as usize;
            let at = RECEIVE_BUFFERS + u64::from(self.next) * BUFFER;
            it.frame.extend_from_slice(self.ram.at(at, len).unwrap());
            (it.low, it.high, it.descriptors) = (low, high, it.descriptors + 1);
            self.give(self.next);
            let given = self.next;
            self.next = (self.next + 1) % COUNT;
            if high & 2 != 0 {
                self.write(self.queues[0] + 0x18, given);
                return Some(it);
            }
        }
    }

    /// The same for joined segments, whose descriptors may lie apart; none goes back to the card.
    pub fn received_chain(&mut self) -> Option<Received> {
        let is_done = |it: &mut Self, at| it.descriptor(RECEIVE_RING + u64::from(at) * 16)[1] & 1 != 0;
        let mut at = (0..COUNT).find(|at| is_done(self, *at))?;
        let mut it = Received::default();
        loop {
            let [low, high] = self.descriptor(RECEIVE_RING + u64::from(at) * 16);
            assert_ne!(high & 1, 0, "descriptor {at} belongs to the frame and is not done");
            let octets = self.ram.at(RECEIVE_BUFFERS + u64::from(at) * BUFFER, (high >> 32 & 0xFFFF) as usize);
            it.frame.extend_from_slice(octets.unwrap());
            (it.low, it.high, it.descriptors) = (low, high, it.descriptors + 1);
            self.give(at);
            if high & 2 != 0 {
                return Some(it);
            }
            at = (high >> 4 & 0xFFFF) as u32;
        }
    }

    /// A frame comes from the wire.
    pub fn arrives(&mut self, frame: &[u8]) -> bool {
        self.card.receive(frame, &mut self.ram)
    }

    /// Puts a descriptor into the transmit ring, without the doorbell.
    pub fn queue(&mut self, words: [u64; 2]) {
        self.put(TRANSMIT_RING + u64::from(self.tail) * 16, words);
        self.tail = (self.tail + 1) % COUNT;
    }

    /// Puts octets where the card can read them.
    pub fn place(&mut self, octets: &[u8]) -> u64 {
        let at = self.end;
        self.ram.at(at, octets.len()).unwrap().copy_from_slice(octets);
        self.end += octets.len() as u64;
        at
    }

    /// Data descriptors of a frame in pieces, with `more` set in the first one. PAYLEN is `payload`.
    pub fn queue_frame(&mut self, pieces: &[&[u8]], payload: usize, more: u64) {
        for (index, piece) in pieces.iter().enumerate() {
            let at = self.place(piece);
            let last = index + 1 == pieces.len();
            let high = piece.len() as u64 | 3 << 20 | 1 << 25 | 1 << 29 | (u64::from(last) * (1 << 24 | 1 << 27));
            self.queue([at, high | if index == 0 { more | (payload as u64) << 46 } else { 0 }]);
        }
    }

    pub fn doorbell(&mut self) {
        self.write(self.queues[1] + 0x18, self.tail);
    }

    /// Sends a frame that needs no work, and takes it from the wire.
    pub fn sends(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.queue_frame(&[frame], frame.len(), 0);
        self.doorbell();
        self.card.sent()
    }

    /// The transmit descriptor at `index`.
    pub fn sent_descriptor(&mut self, index: u64) -> [u64; 2] {
        self.descriptor(TRANSMIT_RING + index * 16)
    }

    pub fn content(&self) {
        assert_eq!(self.card.complaints(), [] as [String; 0]);
    }
}

/// What a frame may be cut into (DCMD.TSE), and its checksums (POPTS.IXSM, TXSM).
pub const TSE: u64 = 1 << 31;
pub const IXSM: u64 = 1 << 40;
pub const TXSM: u64 = 1 << 41;

/// The context descriptor with place `index`.
pub fn context(context: &Context, index: u64) -> [u64; 2] {
    let low = context.ip as u64 | (context.mac as u64) << 9;
    let kind = u64::from(context.kind) << 11 | u64::from(context.ipv4) << 10;
    [low, kind | 2 << 20 | 1 << 29 | index << 36 | (context.l4 as u64) << 40 | (context.mss as u64) << 48]
}

/// A frame of `len` octets that no card looks into.
pub fn frame(len: usize) -> Vec<u8> {
    let mut it: Vec<u8> = (0..len).map(|at| at as u8 ^ (len as u8)).collect();
    it[..14].copy_from_slice(&[0x02, 0x82, 0x59, 0x90, 0x10, 0xFB, 2, 0, 0, 0, 0, 1, 0x88, 0xB5]);
    it
}

/// A packet of TCP (1), UDP (0) or SCTP (2) with `len` octets of payload, as a driver gives it to the card: the sum of
/// the pseudo-header is in the checksum's field, without a length if the packet is to be cut after `mss` octets.
pub fn packet(v6: bool, kind: u8, len: usize, mss: usize) -> (Vec<u8>, Context) {
    let (protocol, l4) = [(17, 8), (6, 20), (132, 12)][usize::from(kind)];
    let mut it = frame(14);
    it[12..14].copy_from_slice(if v6 { &[0x86, 0xDD] } else { &[0x08, 0x00] });
    if v6 {
        it.extend_from_slice(&[0x60, 0, 0, 0, 0, (l4 + len) as u8, protocol, 64]);
        it[18..20].copy_from_slice(&((l4 + len) as u16).to_be_bytes());
        it.extend((0..32).map(|at| 0xFD ^ at));
    } else {
        it.extend_from_slice(&[0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        it[16..18].copy_from_slice(&((20 + l4 + len) as u16).to_be_bytes());
    }
    let context = Context { mac: 14, ip: if v6 { 40 } else { 20 }, l4, mss, ipv4: !v6, kind };
    let at = it.len();
    it.extend((0..l4).map(|at| at as u8 + 1));
    it.extend((0..len).map(|at| (at * 7) as u8));
    let addresses = at - if v6 { 32 } else { 8 }..at;
    let mut sum: u32 = it[addresses].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    sum += u32::from(protocol);
    match kind {
        0 => it[at + 4..at + 6].copy_from_slice(&((l4 + len) as u16).to_be_bytes()),
        1 => (it[at + 12], it[at + 13]) = (0x50, 0x18),
        _ => {}
    }
    let field = at + [6, 16, 8][usize::from(kind)];
    let sum = if kind == 2 { 0 } else { sum + if mss > 0 { 0 } else { (l4 + len) as u32 } };
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    it[field..field + 2].copy_from_slice(&(sum as u16).to_be_bytes());
    if kind == 2 {
        it[field..field + 4].fill(0);
    }
    (it, context)
}

//! A ring of the guest that migrates: the driver's half, written octet by octet, and the worker's vring.

use sv3::fuzz::Input;
use sv3::ids::Direction;
use sv3::ipc::RingAddr;
use sv3::ledger::Ledger;
use sv3::virtio::*;

use super::DATA;
use super::model::{Form, Raw, Written};
use crate::memory::deferred::DeferredRoom;
use crate::memory::dirty_log::DirtyLog;
use crate::memory::frame_head::Snapshot;
use crate::memory::guest_memory::GuestMemory;
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::Arena;
use crate::port::batch::MAX_SLICES;
use crate::port::sink::{DeliveryState, Outgoing, Sink, Stay, Undelivered};
use crate::port::vring::chain::Walker;
use crate::port::vring::driver::{BASE, Driver, REGION, USER};
use crate::port::vring::queue::either;
use crate::port::vring::setup::RingSetup;
use crate::port::vring::virtqueue::Virtqueue;
use crate::port::vring::{Vring, Workspace};

/// Rings of the guest: the last one transmits.
pub const RINGS: usize = 3;
/// Tables of descriptors, 1,024 of them.
pub const TABLES: u64 = BASE + 0x1_8000;
/// Octets between two rings.
const APART: u64 = 0x8000;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const WRAP: u16 = 1 << 15;

/// An area of a ring that the worker writes.
pub struct Area {
    /// Where it is.
    pub at: u64,
    pub len: u64,
    /// Where it is marked; `None`: nowhere.
    pub marked: Option<u64>,
}

/// What a ring was before the worker touched it.
pub struct Before {
    position: u16,
    descriptors: Vec<u8>,
}

/// A ring.
pub struct Ring {
    setup: RingSetup,
    /// By guest addresses.
    desc: u64,
    avail: u64,
    used: u64,
    pub vring: Vring,
    /// Where the driver goes on: an index, or a position.
    next: u16,
}

impl Ring {
    /// A ring that has not begun.
    pub fn new((number, size, run): (usize, u16, u32), shift: u8, ledger: &'static Ledger) -> Ring {
        let place = BASE + number as u64 * APART;
        let (desc, avail) = (place + u64::from(shift) * 16, place + 0x2000);
        let used = place + 0x3c00 + u64::from(shift) * 4;
        let user = |at: u64| at - BASE + USER;
        let addr = RingAddr { desc: user(desc), avail: user(avail), used: user(used) };
        let (position, journal) = (&ledger.ports[0].rings[number], &ledger.journals[0][number]);
        let setup = RingSetup { size, addr, base: WRAP, run, position, journal };
        let transmits = number + 1 == RINGS;
        let vring = Vring { log_addr: Some(used), transmits, ..Vring::default() };
        Ring { setup, desc, avail, used, vring, next: 0 }
    }

    pub fn transmits(&self) -> bool {
        self.vring.transmits
    }

    pub fn used_at(&self) -> u64 {
        self.used
    }

    /// A worker begins to use it, and has read this log.
    pub fn begin(&mut self, memory: &GuestMemory, features: u64, log: Option<DirtyLog>) {
        (self.vring.setup, self.vring.log) = (Some(self.setup), log);
        // The position that a ring goes on at may be nonsense, by what the driver wrote.
        let _ = self.vring.begin(memory, features);
        if let Some(queue) = self.vring.queue.as_ref().filter(|_| self.next == 0) {
            self.next = queue.position();
        }
    }

    /// The worker is dead: nothing is left but guest memory and the ledger.
    pub fn forget(&mut self) {
        let (log_addr, transmits) = (self.vring.log_addr, self.vring.transmits);
        self.vring = Vring { log_addr, transmits, ..Vring::default() };
    }

    /// The client stops it. It starts as another run.
    pub fn stop(&mut self, run: u32) {
        if let Some(queue) = self.vring.end() {
            self.setup.base = queue.position();
        }
        self.setup.run = run;
    }

    /// The driver makes a chain available. Octets: number of descriptors (1), then those. Returns what is to be written.
    pub fn offer(&mut self, input: &mut Input<'_>, features: u64) -> Vec<(u64, Vec<u8>)> {
        let (count, size) = (input.below(4) as u16 + 1, self.setup.size);
        let mut writes = Vec::new();
        let usual = if self.transmits() { 0 } else { VIRTQ_DESC_F_WRITE };
        if VIRTIO_F_RING_PACKED.of(features) {
            for number in 0..count.min(size) {
                let mut octets = descriptor(input, usual);
                let wraps = self.next & WRAP != 0;
                let more = if number + 1 < count.min(size) { VIRTQ_DESC_F_NEXT } else { 0 };
                let old = u16::from_le_bytes([octets[12], octets[13]]);
                let kind = old & (VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT);
                let flags = kind | more | if wraps { AVAIL } else { USED };
                octets[12..14].copy_from_slice(&self.next.to_le_bytes());
                octets[14..].copy_from_slice(&flags.to_le_bytes());
                writes.insert(0, (self.desc + u64::from(self.next & !WRAP) % u64::from(size) * 16, octets.to_vec()));
                self.next = ahead(self.next, 1, size);
            }
            return writes;
        }
        let head = (self.next.wrapping_mul(4)) % size;
        for number in 0..count {
            let mut octets = descriptor(input, usual);
            let at = (head + number) % size;
            let old = u16::from_le_bytes([octets[12], octets[13]]);
            let more = if number + 1 < count { VIRTQ_DESC_F_NEXT } else { 0 };
            octets[12..14].copy_from_slice(&(old & !VIRTQ_DESC_F_NEXT | more).to_le_bytes());
            octets[14..].copy_from_slice(&((at + 1) % size).to_le_bytes());
            writes.push((self.desc + u64::from(at) * 16, octets.to_vec()));
        }
        writes.push((self.avail + 4 + u64::from(self.next % size) * 2, head.to_le_bytes().to_vec()));
        self.next = self.next.wrapping_add(1);
        writes.push((self.avail + 2, self.next.to_le_bytes().to_vec()));
        writes
    }

    /// The driver writes nonsense: a descriptor; or an index, or its event suppression. Octets: where (1), what.
    pub fn scribble(&mut self, input: &mut Input<'_>) -> (u64, Vec<u8>) {
        match input.u8() {
            place @ ..0xc0 => {
                let at = self.desc + u64::from(u16::from(place) % self.setup.size) * 16;
                let (mut octets, flags) = (descriptor(input, 0), input.u16());
                octets[14..].copy_from_slice(&flags.to_le_bytes());
                (at, octets.to_vec())
            }
            place => (self.avail + u64::from(place % 8) * 2, input.array::<2>().to_vec()),
        }
    }

    /// The ring parks, or wakes.
    pub fn suppress(&mut self, parks: bool) {
        match (&mut self.vring.queue, parks) {
            (Some(queue), true) => drop(queue.arm()),
            (Some(queue), false) => queue.disarm(),
            _ => {}
        }
    }

    /// What the model needs to know before the worker works.
    pub fn snapshot(&self, driver: &Driver) -> Before {
        let position = self.vring.queue.as_ref().map_or(0, |queue| queue.position());
        Before { position, descriptors: driver.read(self.desc, usize::from(self.setup.size) * 16) }
    }

    /// The worker receives frames of these lengths for the guest. False: the ring is broken.
    pub fn deliver(&mut self, (workspace, room): (&mut Workspace, &mut DeferredRoom), lens: &[usize]) -> bool {
        let mut state = DeliveryState { deferred: room.begin(), cost: 0, missed: 0, now_ns: 0, stay: Stay::OFF };
        let mut is_whole = true;
        for (number, len) in (1u8..).zip(lens) {
            let mut octets = vec![number.wrapping_mul(37) | 1; *len];
            let slices = [GuestSlice::of_host(&mut octets)];
            let (hdr, snapshot) = (&NetHdr::NONE, Snapshot::NOTHING);
            let frame = Outgoing { hdr, slices: &slices, skip: 0, len: *len, snapshot, plain: None };
            match self.vring.deliver(workspace, &mut state, &frame) {
                Ok(()) | Err(Undelivered::Dropped(_) | Undelivered::Unsendable(_)) => {}
                Err(Undelivered::Fault(_)) => {
                    is_whole = false;
                    break;
                }
            }
        }
        state.deferred.settle();
        room.end(&mut state.deferred);
        is_whole
    }

    /// The worker takes frames of the guest. False: the ring is broken.
    pub fn take(&mut self, memory: &GuestMemory, features: u64) -> bool {
        let Some(queue) = &mut self.vring.queue else { return true };
        let walker = Walker { memory, features, direction: Direction::Transmit };
        let mut arena = Arena::new(MAX_SLICES);
        either!(queue, queue => {
            for _ in 0..queue.prepare(16).unwrap_or(0) {
                let mut cursor = queue.position();
                match queue.take(&mut cursor, &walker, &mut arena.list()) {
                    Ok(Some(chain)) => {
                        if !queue.has_room(1) {
                            queue.make_room();
                        }
                        queue.complete(&chain, 0);
                    }
                    Ok(None) => break,
                    Err(_) => return false,
                }
            }
        });
        true
    }

    pub fn publish(&mut self) {
        if let Some(queue) = &mut self.vring.queue {
            queue.publish();
        }
    }

    /// What the worker wrote to buffers, by the used elements that it published since.
    pub fn used_since(&self, before: &Before, driver: &Driver, features: u64) -> Vec<(u64, u64)> {
        let Some(queue) = &self.vring.queue else { return Vec::new() };
        let (mut at, end, size) = (before.position, queue.position(), self.setup.size);
        let mut ranges = Vec::new();
        while at != end {
            if !VIRTIO_F_RING_PACKED.of(features) {
                let element = driver.read(self.used + 4 + u64::from(at % size) * 8, 8);
                let word = |from: usize| u32::from_le_bytes(element[from..from + 4].try_into().unwrap());
                let mut written = Written::new(word(4));
                written.split(driver, self.desc, word(0) as u16);
                ranges.extend(written.ranges);
                at = at.wrapping_add(1);
                continue;
            }
            let index = u64::from(at & !WRAP);
            let used = Raw::of(&driver.read(self.desc + index * 16, 16), Form::Packed);
            let mut written = Written::new(if used.flags & VIRTQ_DESC_F_WRITE != 0 { used.len } else { 0 });
            loop {
                let from = usize::from(at & !WRAP) * 16;
                let raw = Raw::of(&before.descriptors[from..from + 16], Form::Packed);
                at = ahead(at, 1, size);
                written.packed(driver, raw);
                if raw.flags & VIRTQ_DESC_F_NEXT == 0 {
                    break;
                }
            }
            ranges.extend(written.ranges);
        }
        ranges
    }

    /// The areas that the worker writes, and where it marks them.
    pub fn areas(&self, features: u64) -> Vec<Area> {
        let (size, marked) = (u64::from(self.setup.size), self.vring.log_addr);
        match VIRTIO_F_RING_PACKED.of(features) {
            true => vec![
                Area { at: self.used, len: 4, marked },
                Area { at: self.desc, len: 16 * size, marked: marked.map(|_| self.desc) },
            ],
            false => vec![Area { at: self.used, len: 6 + 8 * size, marked }],
        }
    }
}

fn ahead(at: u16, by: u16, size: u16) -> u16 {
    let index = (at & !WRAP) + by;
    if index >= size { (index - size) | (!at & WRAP) } else { index | at & WRAP }
}

/// A descriptor of a split ring that lies over no ring. Octets: kinds (1), address (1 to 8), length (1 to 4), flags (1), next
/// (1). `usual`: flags that most have.
pub fn descriptor(input: &mut Input<'_>, usual: u16) -> [u8; 16] {
    let kind = input.u8();
    let addr = match kind % 8 {
        0..3 => DATA + u64::from(input.u16()) * 16,
        3 => BASE + REGION - u64::from(input.u8()),
        4 => super::END - u64::from(input.u8()),
        5 => TABLES + u64::from(input.u8()) * 64,
        6 => super::END + u64::from(input.u16()),
        _ => input.u64() | 1 << 62,
    };
    let len = match kind >> 3 & 3 {
        0 => u32::from(input.u8()),
        1 => u32::from(input.u8()) * 16,
        2 => u32::from(input.u16()),
        _ => input.u32() % 0x2_0000,
    };
    let odd = input.u8();
    let flags = match kind % 8 {
        // A table is not written over.
        5 => VIRTQ_DESC_F_INDIRECT,
        _ if odd < 0xe0 => usual | u16::from(odd) & VIRTQ_DESC_F_NEXT,
        _ => u16::from(odd) & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE),
    };
    let next = u16::from(input.u8());
    let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
    let mut out = [0; 16];
    out[..8].copy_from_slice(&addr.to_le_bytes());
    out[8..].copy_from_slice(&rest.to_le_bytes());
    out
}

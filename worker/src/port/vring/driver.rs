//! For tests: guest memory in a memfd, and the driver's half of a split and of a packed ring. Written from virtio
//! 1.3, 2.7 and 2.8, not from the device's half.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memmap2::MmapMut;
use nix::sys::memfd::{MFdFlags, memfd_create};
use sv3::ipc::{Region, RingAddr};
use sv3::ledger::LedgerMap;

use super::packed::PackedRing;
use super::setup::RingSetup;
use super::split::SplitRing;
use crate::memory::guest_memory::GuestMemory;
use crate::memory::mapping::{Mapping, NewMapping};

/// Octets of one region.
pub const REGION: u64 = 1 << 20;
/// Guest address of the first region. For the guest the second one follows directly, but it is another file.
pub const BASE: u64 = 0x4000_0000;
/// The front-end's address of the same.
pub const USER: u64 = 0x7f00_0000_0000;

/// A guest with two regions and one ring at the beginning of the first.
pub struct Driver {
    maps: [MmapMut; 2],
    /// The regions and their files.
    pub regions: Vec<(Region, OwnedFd)>,
    /// The device's view.
    pub memory: GuestMemory,
    size: u16,
    avail_idx: u16,
    /// What the driver has written, if somebody wants to know.
    pub trace: Option<Vec<(u64, Vec<u8>)>>,
}

/// A descriptor: address, length, flags, next.
pub type Desc = (u64, u32, u16, u16);

impl Driver {
    /// A guest whose ring has `size` entries.
    pub fn new(size: u16) -> Driver {
        let (mut memory, mut regions) = (GuestMemory::default(), Vec::new());
        let maps = [0, 1].map(|at| {
            let fd: OwnedFd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
            nix::unistd::ftruncate(&fd, REGION as i64).unwrap();
            let file = std::fs::File::from(fd);
            #[allow(unsafe_code)]
            // SAFETY: a test's own file, which nobody truncates.
            let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
            let (guest_addr, user_addr) = (BASE + at * REGION, USER + at * REGION);
            let region = Region { guest_addr, size: REGION, user_addr, offset: 0, block: 4096 };
            regions.push((region, file.try_clone().unwrap().into()));
            assert!(memory.add(Arc::new(Mapping::new(0, NewMapping::new(region, file.into()).unwrap()))).is_ok());
            map
        });
        Driver { maps, regions, memory, size, avail_idx: 0, trace: None }
    }

    /// Addresses of the ring.
    pub fn addr(&self) -> RingAddr {
        let avail = USER + u64::from(self.size) * 16;
        let used = (avail + 6 + u64::from(self.size) * 2).next_multiple_of(4);
        RingAddr { desc: USER, avail, used }
    }

    /// The device's half of the ring.
    pub fn ring(&self, features: u64) -> SplitRing {
        SplitRing::new(&self.memory, self.size, &self.addr(), features).unwrap()
    }

    /// Writes octets at a guest address.
    pub fn write(&mut self, addr: u64, octets: &[u8]) {
        if let Some(trace) = &mut self.trace {
            trace.push((addr, octets.to_vec()));
        }
        for (at, octet) in (addr - BASE..).zip(octets) {
            self.maps[(at / REGION) as usize][(at % REGION) as usize] = *octet;
        }
    }

    /// Reads octets at a guest address.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        (addr - BASE..).take(len).map(|at| self.maps[(at / REGION) as usize][(at % REGION) as usize]).collect()
    }

    /// All octets of both regions.
    pub fn whole(&self) -> [&[u8]; 2] {
        [&self.maps[0][..], &self.maps[1][..]]
    }

    /// Writes a descriptor into a table at a guest address.
    pub fn describe_at(&mut self, table: u64, index: u16, (addr, len, flags, next): Desc) {
        let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.write(table + u64::from(index) * 16, &[addr.to_le_bytes(), rest.to_le_bytes()].concat());
    }

    /// Writes a descriptor into the ring's table.
    pub fn describe(&mut self, index: u16, desc: Desc) {
        self.describe_at(BASE, index, desc);
    }

    /// Makes the chain at `head` available.
    pub fn offer(&mut self, head: u16) {
        let avail = self.addr().avail - USER + BASE;
        self.write(avail + 4 + u64::from(self.avail_idx % self.size) * 2, &head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.write(avail + 2, &self.avail_idx.to_le_bytes());
    }

    /// The ring has come so far, and nothing is available.
    pub fn begin_at(&mut self, index: u16) {
        self.avail_idx = index;
        self.claim(index);
        let used = self.addr().used - USER + BASE;
        self.write(used + 2, &index.to_le_bytes());
    }

    /// Sets `avail.idx` to any value.
    pub fn claim(&mut self, avail_idx: u16) {
        let avail = self.addr().avail - USER + BASE;
        self.write(avail + 2, &avail_idx.to_le_bytes());
    }

    /// `used.idx`.
    pub fn used_idx(&self) -> u16 {
        let octets = self.read(self.addr().used - USER + BASE + 2, 2);
        u16::from_le_bytes([octets[0], octets[1]])
    }

    /// A used entry: id and length.
    pub fn used(&self, index: u16) -> (u32, u32) {
        let octets = self.read(self.addr().used - USER + BASE + 4 + u64::from(index % self.size) * 8, 8);
        let word = |at: usize| u32::from_le_bytes(octets[at..at + 4].try_into().unwrap());
        (word(0), word(4))
    }
}

/// A guest with a packed ring at the beginning of the first region, and the ring's part of the ledger.
pub struct PackedDriver {
    /// Guest memory.
    pub guest: Driver,
    setup: RingSetup,
    /// Index and wrap counter of the next descriptor to make available.
    avail: (u16, bool),
    /// Index and wrap counter of the next used element.
    used: (u16, bool),
    /// Descriptors that the device does not have.
    free: u16,
    /// Id and number of descriptors of each chain that the device has, in order.
    out: VecDeque<(u16, u16)>,
}

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

impl PackedDriver {
    /// A guest whose ring has `size` descriptors.
    pub fn new(size: u16) -> PackedDriver {
        let (_fd, ledger) = LedgerMap::create().unwrap();
        let ledger: &'static LedgerMap = Box::leak(Box::new(ledger));
        let events = USER + u64::from(size) * 16;
        let setup = RingSetup {
            size,
            addr: RingAddr { desc: USER, avail: events, used: events + 4 },
            base: 1 << 15,
            run: 1,
            position: &ledger.ports[0].rings[0],
            journal: &ledger.journals[0][0],
        };
        let (guest, start) = (Driver::new(size), (0, true));
        PackedDriver { guest, setup, avail: start, used: start, free: size, out: VecDeque::new() }
    }

    /// The setup of the ring.
    pub fn setup(&self) -> RingSetup {
        self.setup
    }

    /// The device's half of the ring, as a new worker sees it.
    pub fn ring(&self, features: u64) -> PackedRing {
        PackedRing::new(&self.guest.memory, &self.setup, features).unwrap()
    }

    /// Makes a chain available, its first descriptor last. `flags` are flags other than the ring's own. False: no
    /// room.
    pub fn offer(&mut self, id: u16, buffers: &[(u64, u32, u16)]) -> bool {
        let count = buffers.len() as u16;
        if count > self.free {
            return false;
        }
        let mut places = Vec::new();
        for _ in buffers {
            places.push(self.avail);
            self.avail = step(self.avail, 1, self.setup.size);
        }
        for (number, ((index, wrap), (addr, len, flags))) in places.into_iter().zip(buffers).enumerate().rev() {
            let next = if number + 1 < buffers.len() { 1 } else { 0 };
            let turn = if wrap { AVAIL } else { USED };
            let octets = [&addr.to_le_bytes()[..], &len.to_le_bytes(), &id.to_le_bytes()].concat();
            let at = BASE + u64::from(index) * 16;
            self.guest.write(at, &octets);
            self.guest.write(at + 14, &(flags | next | turn).to_le_bytes());
        }
        self.free -= count;
        self.out.push_back((id, count));
        true
    }

    /// The next used element: id and length. It must belong to the oldest chain.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        let (index, wrap) = self.used;
        let octets = self.guest.read(BASE + u64::from(index) * 16 + 8, 8);
        let word = |at: usize| u16::from_le_bytes([octets[at], octets[at + 1]]);
        let (len, id, flags) = (u32::from(word(0)) | u32::from(word(2)) << 16, word(4), word(6));
        if (flags & AVAIL != 0) != wrap || (flags & USED != 0) != wrap {
            return None;
        }
        let (oldest, count) = self.out.pop_front().unwrap();
        assert_eq!(id, oldest);
        self.used = step(self.used, count, self.setup.size);
        self.free += count;
        Some((id, len))
    }

    /// Sets the driver's event suppression: position and `flags` (virtio 1.3, 2.8.10).
    pub fn set_driver_event(&mut self, position: u16, flags: u16) {
        let at = BASE + u64::from(self.setup.size) * 16;
        self.guest.write(at, &[position.to_le_bytes(), flags.to_le_bytes()].concat());
    }

    /// The device's event suppression.
    pub fn device_event(&self) -> (u16, u16) {
        let octets = self.guest.read(BASE + u64::from(self.setup.size) * 16 + 4, 4);
        (u16::from_le_bytes([octets[0], octets[1]]), u16::from_le_bytes([octets[2], octets[3]]))
    }

    /// The position after all used descriptors: index, and wrap counter in bit 15.
    pub fn used_position(&self) -> u16 {
        self.used.0 | u16::from(self.used.1) << 15
    }
}

fn step((index, wrap): (u16, bool), by: u16, size: u16) -> (u16, bool) {
    if index + by >= size { (index + by - size, !wrap) } else { (index + by, wrap) }
}

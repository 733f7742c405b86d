//! For tests: guest memory in a memfd and the driver's half of a split ring, written from virtio 1.3, 2.7 and not from
//! the device's half.

use std::os::fd::OwnedFd;

use memmap2::MmapMut;
use nix::sys::memfd::{MFdFlags, memfd_create};
use sv3::ipc::{Region, RingAddr};

use super::memory::{GuestMemory, Mapping};
use super::split::SplitRing;

/// Octets of one region.
pub const REGION: u64 = 1 << 20;
/// Guest address of the first region; the second follows at once for the guest, but lies in another file.
pub const BASE: u64 = 0x4000_0000;
const USER: u64 = 0x7f00_0000_0000;

/// A guest with two regions and one ring at the begin of the first.
pub struct Driver {
    maps: [MmapMut; 2],
    /// The device's view.
    pub memory: GuestMemory,
    size: u16,
    avail_idx: u16,
}

/// A descriptor: address, length, flags, next.
pub type Desc = (u64, u32, u16, u16);

impl Driver {
    /// A guest whose ring has `size` entries.
    pub fn new(size: u16) -> Driver {
        let mut memory = GuestMemory::default();
        let maps = [0, 1].map(|at| {
            let fd: OwnedFd = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
            nix::unistd::ftruncate(&fd, REGION as i64).unwrap();
            let file = std::fs::File::from(fd);
            #[allow(unsafe_code)]
            // SAFETY: a test's own file, which nobody truncates.
            let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
            let (guest_addr, user_addr) = (BASE + at * REGION, USER + at * REGION);
            let region = Region { guest_addr, size: REGION, user_addr, offset: 0, block: 4096 };
            memory.add(Mapping::new(0, region, file.into()).unwrap());
            map
        });
        Driver { maps, memory, size, avail_idx: 0 }
    }

    /// Where the ring lies.
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
        for (at, octet) in (addr - BASE..).zip(octets) {
            self.maps[(at / REGION) as usize][(at % REGION) as usize] = *octet;
        }
    }

    /// Reads octets at a guest address.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        (addr - BASE..).take(len).map(|at| self.maps[(at / REGION) as usize][(at % REGION) as usize]).collect()
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

    /// Sets `avail.idx` to anything.
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

//! The driver's half of a ring of either kind, for target `switch`. Chains have at most [`PIECES`] descriptors, and
//! the device gives them back in the order in which it got them.

use std::collections::VecDeque;

use sv3::ipc::RingAddr;
use sv3::virtio::VIRTQ_DESC_F_NEXT;

use crate::port::vring::driver::{BASE, Driver};

/// Descriptors of a ring.
pub const SIZE: u16 = 64;
/// Most descriptors of a chain. In a split ring, chain `n` has descriptors `4 n` to `4 n + 3`.
pub const PIECES: u16 = 4;
/// Chains of a ring.
pub const CHAINS: u16 = SIZE / PIECES;
/// Octets of a ring.
pub const OCTETS: usize = SIZE as usize * 16 + 6 + 2 * SIZE as usize + 8 + 8 * SIZE as usize;

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const WRAP: u16 = 1 << 15;

/// State of the driver's half.
pub struct Half {
    packed: bool,
    /// Offset of the ring from [`BASE`], in octets.
    begin: u64,
    /// Positions of the driver and of the device. Split: number of entries so far. Packed: index and wrap counter.
    avail: u16,
    used: u16,
    /// The chains that the device has, oldest first: chain, number of descriptors.
    out: VecDeque<(u16, u16)>,
}

impl Half {
    /// An empty ring.
    pub fn new(begin: u64, packed: bool) -> Half {
        let start = if packed { WRAP } else { 0 };
        Half { packed, begin, avail: start, used: start, out: VecDeque::new() }
    }

    /// Addresses of the ring in the front-end.
    pub fn addr(&self, driver: &Driver) -> RingAddr {
        let desc = driver.addr().desc + self.begin;
        let avail = desc + u64::from(SIZE) * 16;
        let used = if self.packed { avail + 4 } else { (avail + 6 + u64::from(SIZE) * 2).next_multiple_of(4) };
        RingAddr { desc, avail, used }
    }

    /// The position of a device that has given back all chains that were taken back: the vring base.
    pub fn position(&self) -> u16 {
        self.used
    }

    /// Makes a chain of buffers available: address, length, flags other than the ring's own.
    pub fn offer(&mut self, driver: &mut Driver, chain: u16, buffers: &[(u64, u32, u16)]) {
        let last = buffers.len() - 1;
        let buffers = buffers.iter().enumerate();
        let buffers = buffers
            .map(|(at, (addr, len, flags))| (*addr, *len, if at < last { flags | VIRTQ_DESC_F_NEXT } else { *flags }));
        self.out.push_back((chain, last as u16 + 1));
        let table = BASE + self.begin;
        if self.packed {
            for (addr, len, flags) in buffers {
                let turn = if self.avail & WRAP != 0 { AVAIL } else { USED };
                // Address; length, id, flags.
                driver.describe_at(table, self.avail & !WRAP, (addr, len, chain, flags | turn));
                self.avail = step(self.avail, 1);
            }
            return;
        }
        for (at, (addr, len, flags)) in (chain * PIECES..).zip(buffers) {
            driver.describe_at(table, at, (addr, len, flags, at + 1));
        }
        let avail = table + u64::from(SIZE) * 16;
        driver.write(avail + 4 + u64::from(self.avail % SIZE) * 2, &(chain * PIECES).to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        driver.write(avail + 2, &self.avail.to_le_bytes());
    }

    /// The next chain that the device gave back, and how many octets it says that it wrote. It must be the oldest
    /// chain that the device has.
    pub fn take_used(&mut self, driver: &Driver) -> Option<(u16, u32)> {
        let place = if self.packed { self.packed_used(driver)? } else { self.split_used(driver)? };
        let word = |at: usize| u32::from_le_bytes(place[at..at + 4].try_into().unwrap());
        let (chain, count) = self.out.pop_front().expect("used without having been available");
        if self.packed {
            let id = u16::from_le_bytes([place[4], place[5]]);
            assert_eq!(id, chain, "out of order");
            self.used = step(self.used, count);
            return Some((chain, word(0)));
        }
        assert_eq!(word(0), u32::from(chain * PIECES), "out of order");
        self.used = self.used.wrapping_add(1);
        Some((chain, word(4)))
    }

    /// The next used element: length, id, flags.
    fn packed_used(&self, driver: &Driver) -> Option<Vec<u8>> {
        let octets = driver.read(BASE + self.begin + u64::from(self.used & !WRAP) * 16 + 8, 8);
        let (flags, wrap) = (u16::from_le_bytes([octets[6], octets[7]]), self.used & WRAP != 0);
        ((flags & AVAIL != 0) == wrap && (flags & USED != 0) == wrap).then_some(octets)
    }

    /// The next used entry: id, length.
    fn split_used(&self, driver: &Driver) -> Option<Vec<u8>> {
        let used = BASE + self.addr(driver).used - driver.addr().desc;
        let idx = driver.read(used + 2, 2);
        if idx == self.used.to_le_bytes() {
            return None;
        }
        Some(driver.read(used + 4 + u64::from(self.used % SIZE) * 8, 8))
    }
}

fn step(position: u16, by: u16) -> u16 {
    let index = (position & !WRAP) + by;
    if index >= SIZE { (index - SIZE) | (!position & WRAP) } else { index | (position & WRAP) }
}

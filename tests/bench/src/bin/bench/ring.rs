//! What a fast driver needs of a ring, of either kind.
//!
//! Each entry keeps its own buffer, and the device uses buffers in the order in which it got them, as every switch that
//! is measured here does; so the driver identifies entries by counting. It counts where a device does otherwise
//! ([`Ring::strange`]), which makes a measurement worthless.

use crate::memory::Memory;

/// Where a ring and its buffers lie in the guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Entries, a power of two.
    pub size: u16,
    /// Descriptors.
    pub descriptors: usize,
    /// Split: the available ring. Packed: the driver's event suppression.
    pub driver: usize,
    /// Split: the used ring. Packed: the device's event suppression.
    pub device: usize,
    /// The first buffer.
    pub buffers: usize,
    /// What they are.
    pub shelf: Shelf,
}

/// Buffers side by side, which entries use in turn.
#[derive(Clone, Copy, Debug)]
pub struct Shelf {
    /// How many, a power of two; more than are ever in use at a time, else as many as the ring has entries.
    pub count: usize,
    /// Octets that may be used of each.
    pub room: usize,
}

impl Shelf {
    /// Octets of all of them.
    pub fn octets(self) -> usize {
        self.count * self.stride()
    }

    /// Where a buffer begins, as counted from the first one; they are used in turn.
    #[inline(always)]
    pub fn at(self, count: usize) -> usize {
        (count & (self.count - 1)) * self.stride()
    }

    /// From a buffer to the next: an odd number of cache lines, so that buffers' begins lie all over the caches.
    #[inline(always)]
    fn stride(self) -> usize {
        (self.room.div_ceil(64) | 1) * 64
    }
}

impl Place {
    /// Octets of the ring itself, of either kind.
    pub fn ring_octets(size: u16) -> usize {
        (16 + 2 + 8) * usize::from(size) + 1024
    }

    /// A ring at a place that is a multiple of 4096, its buffers elsewhere.
    pub fn new(size: u16, at: usize, buffers: usize, shelf: Shelf) -> Place {
        let driver = at + 16 * usize::from(size);
        let device = (driver + 6 + 2 * usize::from(size)).next_multiple_of(256);
        Place { size, descriptors: at, driver, device, buffers, shelf }
    }

    /// The entry that is number `count`.
    #[inline(always)]
    pub fn slot(&self, count: u32) -> usize {
        (count & (u32::from(self.size) - 1)) as usize
    }

    /// The buffer of the entry that is number `count`.
    #[inline(always)]
    pub fn buffer(&self, count: u32) -> usize {
        self.buffers + self.shelf.at(count as usize)
    }
}

/// A virtqueue's driver.
pub trait Ring {
    /// Virtio features that it needs.
    const FEATURES: u64;

    /// An empty ring; `writable`: the device writes into its buffers. The device is told not to call.
    fn new(memory: &Memory, place: Place, writable: bool) -> Self;

    /// What vhost-user calls the base of a ring that has not run yet.
    const BASE: u32;

    /// Where it lies.
    fn place(&self) -> &Place;

    /// Buffers that were put in so far.
    fn put_count(&self) -> u32;

    /// Buffers that came back so far.
    fn back_count(&self) -> u32;

    /// Offers the next buffer with so many octets. The device does not see it before [`Ring::publish`], and there must
    /// be a buffer left.
    fn put(&mut self, memory: &Memory, octets: u32);

    /// Shows the device what was put in. True: it wants a kick.
    fn publish(&mut self, memory: &Memory) -> bool;

    /// How many buffers can be taken, at least as far as it was seen; looks again when it was none.
    fn ready(&mut self, memory: &Memory) -> u32;

    /// Takes the next buffer that came back, after [`Ring::ready`] has said so; returns the octets that the device
    /// wrote.
    fn take(&mut self, memory: &Memory) -> u32;

    /// Whether so many buffers more than were taken have come back; takes none.
    fn has_come(&self, memory: &Memory, count: u32) -> bool;

    /// How often the device broke the order.
    fn strange(&self) -> u64;

    /// Buffers that are not with the device.
    #[inline(always)]
    fn free(&self) -> u32 {
        u32::from(self.place().size) - self.put_count().wrapping_sub(self.back_count())
    }
}

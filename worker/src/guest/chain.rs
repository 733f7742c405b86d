//! Descriptor chains (virtio 1.3, 2.7.5): from a head to checked slices.
//!
//! Each descriptor is read exactly once into a local value; what the driver writes afterwards changes nothing. A walk is
//! bounded by the number of descriptors that the chain's table has, follows one level of indirection, passes over
//! descriptors of length 0 without looking at their address, and cuts buffers at region borders, since what is adjacent
//! for the guest need not be for us.

use sv3::virtio::{VIRTIO_RING_F_INDIRECT_DESC, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};

use super::memory::{GuestMemory, GuestSlice, SliceList};
use super::split::{Descriptor, SplitRing};

/// Most slices of one chain, as in QEMU (`VIRTQUEUE_MAX_SIZE`).
pub const MAX_SLICES: usize = 1024;

/// The chain breaks the specification, or is longer than [`MAX_SLICES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChain;

/// Which way the octets of a chain go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The driver wrote them, the device reads.
    FromGuest,
    /// The device writes them.
    ToGuest,
}

/// What a walk needs to know of the ring's owner.
pub struct Walker<'m> {
    /// The client's memory.
    pub memory: &'m GuestMemory,
    /// The negotiated features.
    pub features: u64,
    /// Direction that every descriptor must have.
    pub direction: Direction,
}

impl<'m> Walker<'m> {
    /// Appends the slices of the chain at `head` to `out` and returns how many octets they have. When it fails, `out` is
    /// as before.
    #[inline]
    pub fn walk(&self, ring: &SplitRing, head: u16, out: &mut SliceList<'_, 'm>) -> Result<usize, BadChain> {
        let before = out.len();
        let result = self.direct(ring, head, out);
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    #[inline]
    fn direct(&self, ring: &SplitRing, head: u16, out: &mut SliceList<'_, 'm>) -> Result<usize, BadChain> {
        let mut total = 0;
        let mut index = head;
        for _ in 0..ring.size() {
            let descriptor = ring.descriptor(index).ok_or(BadChain)?;
            if descriptor.flags & VIRTQ_DESC_F_INDIRECT != 0 {
                // 2.7.5.3.1: never with NEXT set.
                let allowed = VIRTIO_RING_F_INDIRECT_DESC.of(self.features);
                if !allowed || descriptor.flags & VIRTQ_DESC_F_NEXT != 0 {
                    return Err(BadChain);
                }
                return self.indirect(&descriptor, out, total);
            }
            total = self.buffer(&descriptor, out, total)?;
            if descriptor.flags & VIRTQ_DESC_F_NEXT == 0 {
                return Ok(total);
            }
            index = descriptor.next;
        }
        Err(BadChain)
    }

    fn indirect(&self, table: &Descriptor, out: &mut SliceList<'_, 'm>, mut total: usize) -> Result<usize, BadChain> {
        let len = table.len as usize;
        if len == 0 || !len.is_multiple_of(Descriptor::SIZE) {
            return Err(BadChain);
        }
        let slice = self.memory.slice(table.addr, len as u64).ok_or(BadChain)?;
        let mut index = 0u16;
        for _ in 0..(len / Descriptor::SIZE).min(MAX_SLICES) {
            let descriptor = entry(&slice, index).ok_or(BadChain)?;
            // 2.7.5.3.1: no indirection inside of an indirect table.
            if descriptor.flags & VIRTQ_DESC_F_INDIRECT != 0 {
                return Err(BadChain);
            }
            total = self.buffer(&descriptor, out, total)?;
            if descriptor.flags & VIRTQ_DESC_F_NEXT == 0 {
                return Ok(total);
            }
            index = descriptor.next;
        }
        Err(BadChain)
    }

    /// Appends one descriptor's buffer; returns the new total.
    #[inline]
    fn buffer(&self, descriptor: &Descriptor, out: &mut SliceList<'_, 'm>, total: usize) -> Result<usize, BadChain> {
        let writable = descriptor.flags & VIRTQ_DESC_F_WRITE != 0;
        if writable != (self.direction == Direction::ToGuest) {
            return Err(BadChain);
        }
        let mut addr = descriptor.addr;
        let mut left = u64::from(descriptor.len);
        while left > 0 {
            let piece = self.memory.piece(addr, left).ok_or(BadChain)?;
            let got = piece.len() as u64;
            left -= got;
            if !out.push(piece) || (left > 0 && addr.checked_add(got).is_none()) {
                return Err(BadChain);
            }
            addr = addr.wrapping_add(got);
        }
        total.checked_add(descriptor.len as usize).ok_or(BadChain)
    }
}

fn entry(table: &GuestSlice<'_>, index: u16) -> Option<Descriptor> {
    let octets = table.read_array::<{ Descriptor::SIZE }>(usize::from(index) * Descriptor::SIZE)?;
    let [a0, a1, a2, a3, a4, a5, a6, a7, r0, r1, r2, r3, r4, r5, r6, r7] = octets;
    let addr = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
    Some(Descriptor::from_words(addr, u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7])))
}

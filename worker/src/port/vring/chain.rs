//! Descriptor chains (virtio 1.3, 2.7.5): from a head to checked slices.
//!
//! Each descriptor is read exactly once into a local value; later writes by the driver change nothing. A walk reads
//! at most as many descriptors as the chain's table has and follows one level of indirection. It skips descriptors of
//! length 0 without using their address. It cuts buffers at region borders: regions that are adjacent for the guest
//! need not be adjacent in the worker.

use sv3::ids::Direction;
use sv3::virtio::{VIRTIO_RING_F_INDIRECT_DESC, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE};

use super::descriptor::{Descriptor, Table};
use crate::memory::guest_memory::{GuestMemory, RegionCache};
use crate::memory::slice::GuestSlice;
use crate::memory::slice_list::SliceList;
use crate::port::batch::MAX_SLICES;

/// The chain breaks the specification, or is longer than [`MAX_SLICES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChain;

/// What a walk needs to know about the ring's owner.
pub struct Walker<'m> {
    /// The client's memory.
    pub memory: &'m GuestMemory,
    /// The negotiated features.
    pub features: u64,
    /// The direction of every descriptor: the device reads what the guest transmits, and writes what it receives.
    pub direction: Direction,
}

impl<'m> Walker<'m> {
    /// Appends the slices of the chain at `head` to `out` and returns their octets. If that fails, `out` is
    /// unchanged.
    #[inline(always)]
    pub(super) fn walk(&self, table: &impl Table, head: u16, out: &mut SliceList<'_, 'm>) -> Result<usize, BadChain> {
        let first = table.descriptor(head).ok_or(BadChain)?;
        match self.append_plain(&first, out) {
            Some(len) => Ok(len),
            None => self.any(table, first, out),
        }
    }

    /// The kind of chain that most chains are.
    #[inline]
    pub(super) fn plain(&self) -> Plain<'m> {
        let wanted = if self.direction == Direction::Receive { VIRTQ_DESC_F_WRITE } else { 0 };
        Plain { memory: self.memory.last_region(), wanted }
    }

    /// Appends a plain chain and returns its octets. `None`: the chain is not plain, and nothing is appended.
    #[inline(always)]
    pub(super) fn append_plain(&self, descriptor: &Descriptor, out: &mut SliceList<'_, 'm>) -> Option<usize> {
        let slice = self.plain().slice(descriptor)?;
        out.walked += 1;
        out.push(slice).then_some(slice.len())
    }

    #[inline(never)]
    fn any(&self, table: &impl Table, first: Descriptor, out: &mut SliceList<'_, 'm>) -> Result<usize, BadChain> {
        let before = out.len();
        let result = self.direct(table, first, out);
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    fn direct(&self, table: &impl Table, first: Descriptor, out: &mut SliceList<'_, 'm>) -> Result<usize, BadChain> {
        let mut total = 0;
        let mut descriptor = first;
        for _ in 0..table.size().min(MAX_SLICES as u16) {
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
            descriptor = table.descriptor(descriptor.next).ok_or(BadChain)?;
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

    /// Appends the buffers of a packed ring's indirect table (2.8.8): all of its entries, in order.
    pub(super) fn packed_table(
        &self,
        table: &Descriptor,
        out: &mut SliceList<'_, 'm>,
        mut total: usize,
    ) -> Result<usize, BadChain> {
        let len = table.len as usize;
        let count = len / Descriptor::SIZE;
        let allowed = VIRTIO_RING_F_INDIRECT_DESC.of(self.features);
        if !allowed || len == 0 || !len.is_multiple_of(Descriptor::SIZE) || count > MAX_SLICES {
            return Err(BadChain);
        }
        let slice = self.memory.slice(table.addr, len as u64).ok_or(BadChain)?;
        for index in 0..count as u16 {
            let descriptor = entry(&slice, index).ok_or(BadChain)?.as_packed();
            if descriptor.flags & VIRTQ_DESC_F_INDIRECT != 0 {
                return Err(BadChain);
            }
            total = self.buffer(&descriptor, out, total)?;
        }
        Ok(total)
    }

    /// Appends one descriptor's buffer; returns the new total.
    #[inline]
    pub(super) fn buffer(
        &self,
        descriptor: &Descriptor,
        out: &mut SliceList<'_, 'm>,
        total: usize,
    ) -> Result<usize, BadChain> {
        out.walked += 1;
        let writable = descriptor.flags & VIRTQ_DESC_F_WRITE != 0;
        if writable != (self.direction == Direction::Receive) {
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

/// A chain of one buffer in the region of the last look-up.
#[derive(Clone, Copy)]
pub(super) struct Plain<'m> {
    memory: RegionCache<'m>,
    wanted: u16,
}

impl<'m> Plain<'m> {
    /// The buffer, if the descriptor is such a chain. Not empty.
    #[inline(always)]
    pub fn slice(self, descriptor: &Descriptor) -> Option<GuestSlice<'m>> {
        let kind = descriptor.flags & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT);
        if kind != self.wanted || descriptor.len == 0 {
            return None;
        }
        self.memory.slice(descriptor.addr, descriptor.len)
    }
}

pub(super) fn entry(table: &GuestSlice<'_>, index: u16) -> Option<Descriptor> {
    let [addr, rest] = table.read_words(usize::from(index) * Descriptor::SIZE)?;
    Some(Descriptor::from_words(u64::from_le(addr), u64::from_le(rest)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::driver::{BASE, Desc, Driver, REGION};
    use super::*;
    use crate::memory::slice_list::Arena;

    const NEXT: u16 = VIRTQ_DESC_F_NEXT;
    const WRITE: u16 = VIRTQ_DESC_F_WRITE;
    const INDIRECT: u16 = VIRTQ_DESC_F_INDIRECT;
    const DATA: u64 = BASE + 0x8000;
    const TABLE: u64 = BASE + 0x4000;

    /// Walks the chain at head 0 of a ring with these descriptors. Returns the lengths of its slices, or that it is
    /// bad.
    fn walk(descriptors: &[Desc], table: &[Desc]) -> Result<Vec<usize>, BadChain> {
        let mut driver = Driver::new(8);
        for (at, desc) in (0..).zip(descriptors) {
            driver.describe(at, *desc);
        }
        for (at, desc) in (0..).zip(table) {
            driver.describe_at(TABLE, at, *desc);
        }
        let features = VIRTIO_RING_F_INDIRECT_DESC.mask();
        let ring = driver.ring(features);
        let mut arena = Arena::new(MAX_SLICES);
        let mut out = arena.list();
        let walker = Walker { memory: &driver.memory, features, direction: Direction::Transmit };
        let total = walker.walk(&ring, 0, &mut out)?;
        let lens: Vec<usize> = out.from(0).iter().map(GuestSlice::len).collect();
        assert_eq!(lens.iter().sum::<usize>(), total);
        Ok(lens)
    }

    #[test]
    fn a_chain_is_its_buffers_in_order() {
        assert_eq!(
            walk(&[(DATA, 12, NEXT, 3), (0, 0, 0, 0), (0, 0, 0, 0), (DATA + 64, 60, 0, 0)], &[]),
            Ok(vec![12, 60])
        );
    }

    #[test]
    fn a_buffer_may_end_exactly_where_its_region_ends() {
        let end = BASE + 2 * REGION;
        assert_eq!(walk(&[(end - 100, 100, 0, 0)], &[]), Ok(vec![100]));
        assert_eq!(walk(&[(end - 100, 101, 0, 0)], &[]), Err(BadChain));
    }

    #[test]
    fn a_buffer_across_adjacent_regions_is_cut_in_two() {
        // CVE-2018-1059: adjacent for the guest, two files in the worker.
        assert_eq!(walk(&[(BASE + REGION - 10, 30, 0, 0)], &[]), Ok(vec![10, 20]));
    }

    #[test]
    fn a_length_of_zero_needs_no_address() {
        // CVE-2020-10725.
        assert_eq!(walk(&[(0xdead_0000_0000, 0, NEXT, 1), (DATA, 5, 0, 0)], &[]), Ok(vec![5]));
    }

    #[test]
    fn loops_wild_indices_and_wrong_directions_are_bad() {
        // CVE-2016-6490.
        assert_eq!(walk(&[(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)], &[]), Err(BadChain));
        assert_eq!(walk(&[(DATA, 0, NEXT, 0)], &[]), Err(BadChain));
        assert_eq!(walk(&[(DATA, 1, NEXT, 8)], &[]), Err(BadChain));
        assert_eq!(walk(&[(DATA, 1, WRITE, 0)], &[]), Err(BadChain));
        assert_eq!(walk(&[(u64::MAX, 2, 0, 0)], &[]), Err(BadChain));
    }

    #[test]
    fn indirect_tables_are_one_level_and_whole() {
        let table = [(DATA, 7, NEXT, 1), (DATA, 8, 0, 0)];
        assert_eq!(walk(&[(TABLE, 32, INDIRECT, 0)], &table), Ok(vec![7, 8]));
        // 2.7.5.3 allows readable buffers before the table.
        assert_eq!(walk(&[(DATA, 3, NEXT, 1), (TABLE, 32, INDIRECT, 0)], &table), Ok(vec![3, 7, 8]));
        assert_eq!(walk(&[(TABLE, 32, INDIRECT | NEXT, 1)], &table), Err(BadChain));
        assert_eq!(walk(&[(TABLE, 24, INDIRECT, 0)], &table), Err(BadChain));
        assert_eq!(walk(&[(TABLE, 0, INDIRECT, 0)], &table), Err(BadChain));
        assert_eq!(walk(&[(TABLE, 16, INDIRECT, 0)], &table), Err(BadChain));
        assert_eq!(walk(&[(TABLE, 16, INDIRECT, 0)], &[(TABLE, 16, INDIRECT, 0)]), Err(BadChain));
        assert_eq!(walk(&[(TABLE, 32, INDIRECT, 0)], &[(DATA, 0, NEXT, 0), (0, 0, 0, 0)]), Err(BadChain));
    }

    proptest! {
        #[test]
        fn whatever_a_driver_writes_a_walk_ends_inside_of_memory(
            descriptors in proptest::collection::vec((any::<u64>(), any::<u32>(), 0u16..8, 0u16..10), 8),
            near in proptest::collection::vec((0u64..3 * REGION, 0u32..9000, 0u16..8, 0u16..10), 8),
            table in proptest::collection::vec((0u64..3 * REGION, 0u32..9000, 0u16..8, 0u16..10), 8),
        ) {
            let place = |list: Vec<Desc>| list.into_iter().map(|(a, l, f, n)| (BASE + a, l, f, n)).collect::<Vec<_>>();
            let (near, table) = (place(near), place(table));
            let _ = walk(&descriptors, &[]);
            let _ = walk(&near, &table);
            let _ = walk(&[(TABLE, 128, INDIRECT, 0)], &table);
        }
    }
}

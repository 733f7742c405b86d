//! The regions of one client, and look-ups in them by guest address.
//!
//! A [`GuestSlice`] borrows the [`GuestMemory`] that it was looked up in, so it cannot outlive the mapping. Rings
//! live longer: each holds an `Arc` of its mappings ([`super::shared`]).
#![allow(unsafe_code)] // named in the design: guest memory

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use sv3::MAX_MEM_SLOTS;
use sv3::ipc::Region;

use super::mapping::Mapping;
use super::slice::GuestSlice;

/// The regions of one client. A clone has the same regions, for another thread to look up.
#[derive(Clone, Default)]
pub struct GuestMemory {
    regions: Vec<Arc<Mapping>>,
    /// The region of the last look-up; one of `regions`.
    last: Cell<RegionView>,
}

/// Where a region lies for the guest and for the worker. Size 0: no region.
#[derive(Clone, Copy)]
struct RegionView {
    guest_addr: u64,
    size: u64,
    host: *mut u8,
}

// SAFETY: `host` points into a mapping that `regions`, beside this value, keeps alive. It belongs to no thread; see
// `Mapping`.
unsafe impl Send for RegionView {}

impl Default for RegionView {
    fn default() -> RegionView {
        RegionView { guest_addr: 0, size: 0, host: std::ptr::null_mut() }
    }
}

impl RegionView {
    /// The part of `[addr, addr + len)` that lies in the region, if `addr` does.
    #[inline]
    fn piece<'m>(&self, addr: u64, len: u64) -> Option<GuestSlice<'m>> {
        let offset = addr.wrapping_sub(self.guest_addr);
        let room = self.size.checked_sub(offset).filter(|room| *room > 0)?;
        let ptr = self.host.wrapping_add(offset as usize);
        // SAFETY: the piece lies inside of the region, which stays mapped for as long as the caller has the memory.
        Some(unsafe { GuestSlice::new(ptr, len.min(room) as usize) })
    }
}

impl GuestMemory {
    /// Adds a region. The error returns the mapping: there are too many regions.
    pub fn add(&mut self, mapping: Arc<Mapping>) -> Result<(), Arc<Mapping>> {
        if self.regions.len() >= MAX_MEM_SLOTS {
            return Err(mapping);
        }
        self.regions.push(mapping);
        Ok(())
    }

    /// Removes the region that `REM_MEM_REG` names and returns it.
    pub fn remove(&mut self, region: &Region) -> Option<Arc<Mapping>> {
        let same = |have: &Region| {
            (have.guest_addr, have.user_addr, have.size) == (region.guest_addr, region.user_addr, region.size)
        };
        let at = self.regions.iter().position(|mapping| same(mapping.region()))?;
        self.last.take();
        Some(self.regions.remove(at))
    }

    /// All mappings.
    pub fn mappings(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.regions.iter()
    }

    /// All mappings, to be unmapped.
    pub fn into_mappings(self) -> Vec<Arc<Mapping>> {
        self.regions
    }

    /// The mapping that contains the whole range of the front-end's addresses.
    pub fn mapping_of_user(&self, addr: u64, len: u64) -> Option<&Arc<Mapping>> {
        self.regions.iter().find(|mapping| mapping.at_user(addr, len).is_some())
    }

    /// The guest address of one of the front-end's addresses.
    pub fn guest_addr_of_user(&self, addr: u64) -> Option<u64> {
        let Region { guest_addr, user_addr, .. } = *self.mapping_of_user(addr, 1)?.region();
        guest_addr.checked_add(addr.checked_sub(user_addr)?)
    }

    /// Populates the pages of a range of the front-end's addresses, if the range lies in one region.
    pub fn populate(&self, addr: u64, len: u64) {
        self.regions.iter().for_each(|mapping| mapping.populate(addr, len));
    }

    /// The part of `[addr, addr + len)` (guest addresses) that lies in the region of `addr`. It is shorter than `len`
    /// if the range continues in a neighbour. `None`: no region has `addr`. `len` must not be 0.
    #[inline]
    pub fn piece(&self, addr: u64, len: u64) -> Option<GuestSlice<'_>> {
        self.last.get().piece(addr, len).or_else(|| self.search(addr)?.piece(addr, len))
    }

    /// The region of the last look-up.
    #[inline]
    pub fn last_region(&self) -> RegionCache<'_> {
        RegionCache(self.last.get(), PhantomData)
    }

    #[cold]
    fn search(&self, addr: u64) -> Option<RegionView> {
        let mapping = self.regions.iter().find(|mapping| mapping.holds(addr))?;
        let Region { guest_addr, size, .. } = *mapping.region();
        let found = RegionView { guest_addr, size, host: mapping.host() };
        self.last.set(found);
        Some(found)
    }

    /// A range (guest addresses), if it lies in one region.
    pub fn slice(&self, addr: u64, len: u64) -> Option<GuestSlice<'_>> {
        self.piece(addr, len).filter(|slice| slice.len() as u64 == len)
    }
}

/// One region, for many look-ups.
#[derive(Clone, Copy)]
pub struct RegionCache<'m>(RegionView, PhantomData<&'m GuestMemory>);

impl<'m> RegionCache<'m> {
    /// The range `[addr, addr + len)` (guest addresses), if it lies in the region.
    #[inline]
    pub fn slice(self, addr: u64, len: u32) -> Option<GuestSlice<'m>> {
        let RegionCache(region, _) = self;
        let offset = addr.wrapping_sub(region.guest_addr);
        let room = region.size.checked_sub(offset)?;
        let ptr = region.host.wrapping_add(offset as usize);
        // SAFETY: the range lies inside of the region, which `'m` keeps mapped.
        (room >= u64::from(len)).then(|| unsafe { GuestSlice::new(ptr, len as usize) })
    }
}

#[cfg(test)]
mod extents;

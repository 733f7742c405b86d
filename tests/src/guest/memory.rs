//! Guest memory: memfds, seen by guest address.
//!
//! Regions are adjacent for the guest, so that a buffer can lie across two of them, and each is a file of its own, so
//! that for the back-end they are not. The back-end writes the same pages at any time: octets are copied in and out,
//! indices are atomics.
//!
//! A scenario that truncates a file must not touch the memory behind its end any more: the touch is a SIGBUS for the
//! test too.
#![allow(unsafe_code)] // shared memory is written by two processes, which Rust's references cannot say

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

/// Guest address of the first region.
const GUEST_BASE: u64 = 0x1_0000_0000;
/// The front-end's address of the first region; made up, since only the back-end calculates with it.
const USER_BASE: u64 = 0x7f12_0000_0000;
/// Octets of a huge page.
pub const HUGE_PAGE: u64 = 2 << 20;
/// Between two regions in the front-end's addresses.
const USER_GAP: u64 = 0x10_0000;

/// One region.
pub struct Region {
    /// Address for the guest.
    pub guest_addr: u64,
    /// Octets.
    pub size: u64,
    /// Address in the front-end.
    pub user_addr: u64,
    /// Where the region begins in the file.
    pub offset: u64,
    file: OwnedFd,
    map: MmapRaw,
}

impl Region {
    /// The memory file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Sets the file's length. What lies behind must not be touched any more.
    pub fn truncate(&self, octets: u64) {
        ftruncate(&self.file, octets.cast_signed()).expect("a memfd can be truncated");
    }
}

/// All memory of one guest.
pub struct Memory {
    regions: Vec<Region>,
    /// Guest address of the next octet that is free.
    free: Cell<u64>,
    huge: bool,
}

impl Memory {
    /// Memory in `count` regions of `size` octets, a multiple of the page size.
    pub fn new(count: usize, size: u64) -> Memory {
        Memory::of_pages(count, size, false)
    }

    /// The same, of huge pages if `huge`. None of them is reserved or taken before it is touched.
    pub fn of_pages(count: usize, size: u64, huge: bool) -> Memory {
        let mut memory = Memory { regions: Vec::new(), free: Cell::new(GUEST_BASE), huge };
        for _ in 0..count {
            memory.add(size);
        }
        memory
    }

    /// Adds a region behind the others; its index.
    pub fn add(&mut self, size: u64) -> usize {
        let (guest_addr, user_addr) = match self.regions.last() {
            Some(last) => (last.guest_addr + last.size, last.user_addr + last.size + USER_GAP),
            None => (GUEST_BASE, USER_BASE),
        };
        // The region begins inside of its file, so that an ignored offset shows.
        let offset = if self.huge { HUGE_PAGE } else { 4096 };
        let kind = if self.huge { MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB } else { MFdFlags::empty() };
        let file = memfd_create("sv3-guest", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | kind);
        let file = file.expect("a memfd");
        ftruncate(&file, (offset + size).cast_signed()).expect("a memfd can be grown");
        let map = MmapOptions::new().offset(offset).len(size as usize).no_reserve_swap().map_raw(file.as_raw_fd());
        self.regions.push(Region {
            guest_addr,
            size,
            user_addr,
            offset,
            file,
            map: map.expect("a memfd can be mapped"),
        });
        self.regions.len() - 1
    }

    /// The regions in the order of their addresses.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The end of all memory: the first guest address behind it.
    pub fn end(&self) -> u64 {
        self.regions.last().map_or(GUEST_BASE, |last| last.guest_addr + last.size)
    }

    /// Gives out free octets, beginning at a multiple of `align`.
    #[track_caller]
    pub fn allocate(&self, octets: u64, align: u64) -> u64 {
        let start = self.free.get().next_multiple_of(align);
        assert!(start + octets <= self.end(), "the guest has too little memory for {octets} octets more");
        self.free.set(start + octets);
        start
    }

    /// Gives out the next free octets that do not lie across two regions.
    #[track_caller]
    pub fn allocate_whole(&self, octets: u64, align: u64) -> u64 {
        let start = self.allocate(octets, align);
        match self
            .regions
            .iter()
            .map(|region| region.guest_addr)
            .find(|border| start < *border && *border < start + octets)
        {
            Some(border) => {
                self.free.set(border);
                self.allocate(octets, align)
            }
            None => start,
        }
    }

    /// Gives out the last octets of the first region, to be asked for before anything lies there.
    #[track_caller]
    pub fn last_of_first_region(&self, octets: u64, align: u64) -> u64 {
        let first = self.regions.first().expect("a guest has memory");
        let start = (first.guest_addr + first.size - octets) / align * align;
        assert!(self.free.get() <= start && self.regions.len() > 1, "rings at a region's end need a second region");
        start
    }

    /// What is given out from now on lies in the second region and the later ones.
    pub fn leave_first_region(&self) {
        let first = self.regions.first().expect("a guest has memory");
        self.free.set(self.free.get().max(first.guest_addr + first.size));
    }

    /// The front-end's address of a guest address.
    #[track_caller]
    pub fn user_addr(&self, addr: u64) -> u64 {
        let region = self.region_of(addr);
        region.user_addr + (addr - region.guest_addr)
    }

    /// Copies octets in.
    #[track_caller]
    #[inline]
    pub fn write(&self, mut addr: u64, mut octets: &[u8]) {
        while !octets.is_empty() {
            let (at, room) = self.locate(addr);
            let (now, rest) = octets.split_at(room.min(octets.len()));
            // SAFETY: `locate` says that `room` octets from `at` on are mapped; a Rust slice is never a part of them.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), at, now.len()) };
            addr += now.len() as u64;
            octets = rest;
        }
    }

    /// Appends a copy of octets to `into`.
    #[track_caller]
    #[inline]
    pub fn read(&self, mut addr: u64, mut octets: usize, into: &mut Vec<u8>) {
        into.reserve(octets);
        while octets > 0 {
            let (at, room) = self.locate(addr);
            let now = room.min(octets);
            // SAFETY: as in `write`; `reserve` has made room, and `now` octets of it are written before they count.
            unsafe {
                std::ptr::copy_nonoverlapping(at, into.as_mut_ptr().add(into.len()), now);
                into.set_len(into.len() + now);
            }
            addr += now as u64;
            octets -= now;
        }
    }

    /// A copy of octets.
    #[track_caller]
    pub fn octets(&self, addr: u64, octets: usize) -> Vec<u8> {
        let mut copy = Vec::new();
        self.read(addr, octets, &mut copy);
        copy
    }

    /// Reads an index or flags that the device writes; what it wrote before is seen as well.
    #[track_caller]
    #[inline]
    pub fn load16(&self, addr: u64) -> u16 {
        u16::from_le(self.atomic16(addr).load(Ordering::Acquire))
    }

    /// Writes an index or flags that the device reads, after everything written before.
    #[track_caller]
    #[inline]
    pub fn store16(&self, addr: u64, value: u16) {
        self.atomic16(addr).store(value.to_le(), Ordering::Release);
    }

    /// Reads a word of a ring.
    #[track_caller]
    #[inline]
    pub fn load32(&self, addr: u64) -> u32 {
        let (at, room) = self.locate(addr);
        assert!(room >= 4 && addr.is_multiple_of(4));
        // SAFETY: four aligned octets of the mapping (regions begin on pages), which are only used as atomics here.
        u32::from_le(unsafe { AtomicU32::from_ptr(at.cast()) }.load(Ordering::Relaxed))
    }

    #[track_caller]
    #[inline]
    fn atomic16(&self, addr: u64) -> &AtomicU16 {
        let (at, room) = self.locate(addr);
        assert!(room >= 2 && addr.is_multiple_of(2));
        // SAFETY: two aligned octets of the mapping (regions begin on pages), which lives as long as `self`.
        unsafe { AtomicU16::from_ptr(at.cast()) }
    }

    /// Where a guest address is mapped and how many octets follow in its region.
    #[track_caller]
    #[inline]
    fn locate(&self, addr: u64) -> (*mut u8, usize) {
        let region = self.region_of(addr);
        let offset = (addr - region.guest_addr) as usize;
        // The mapping begins at the region's begin.
        (region.map.as_mut_ptr().wrapping_add(offset), region.size as usize - offset)
    }

    #[track_caller]
    #[inline]
    fn region_of(&self, addr: u64) -> &Region {
        let region = self.regions.iter().find(|region| addr.wrapping_sub(region.guest_addr) < region.size);
        region.unwrap_or_else(|| panic!("the guest has no memory at {addr:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_across_regions_is_read_back() {
        let memory = Memory::new(3, 4096);
        let data: Vec<u8> = (0..9000).map(|n| n as u8).collect();
        let addr = memory.allocate(9000, 1);
        memory.write(addr + 100, &data);
        assert_eq!(memory.octets(addr + 100, 9000), data);
        assert_ne!(memory.user_addr(addr + 4096), memory.user_addr(addr + 4095) + 1);
    }

    #[test]
    fn whole_octets_do_not_cross_a_border() {
        let memory = Memory::new(2, 4096);
        memory.allocate(4000, 16);
        assert_eq!(memory.allocate_whole(100, 16), memory.regions()[1].guest_addr);
    }
}

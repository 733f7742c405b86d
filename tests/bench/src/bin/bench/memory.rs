//! Memory of a guest that is driven for speed: one memfd, of huge pages or ordinary ones, mapped whole.
//!
//! Places are octets from its begin. All of it is shared with another process, so words of it are atomics, and octets
//! are copied in and out; there is never a Rust slice of it.
#![allow(unsafe_code)] // shared memory is written by two processes, which Rust's references cannot say

use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use sv3_tests::failure::{Failure, Result};

const HUGE_PAGE: usize = 2 << 20;

/// Shared memory.
pub struct Memory {
    file: OwnedFd,
    map: MmapRaw,
}

impl Memory {
    /// At least that many octets, all pages there.
    pub fn new(octets: usize, huge: bool) -> Result<Memory> {
        let flags = if huge { MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB } else { MFdFlags::MFD_CLOEXEC };
        let octets = octets.next_multiple_of(HUGE_PAGE);
        let file = memfd_create("sv3-bench", flags)?;
        ftruncate(&file, octets.try_into()?)?;
        Memory::map(file, octets)
    }

    /// The same pages mapped once more, as a back-end has them.
    pub fn again(&self) -> Result<Memory> {
        Memory::map(self.file.try_clone()?, self.len())
    }

    fn map(file: OwnedFd, octets: usize) -> Result<Memory> {
        let map = MmapOptions::new().len(octets).populate().map_raw(file.as_raw_fd());
        let map = map.map_err(|error| Failure::new(format!("{octets} octets of guest memory: {error}")))?;
        Ok(Memory { file, map })
    }

    /// The memory file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Octets.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Where a place is in this process: the guest's address as well as the front-end's.
    pub fn addr(&self, at: usize) -> u64 {
        self.map.as_mut_ptr() as u64 + at as u64
    }

    /// Two octets of a ring; an odd place counts as the one before.
    #[inline(always)]
    pub fn word16(&self, at: usize) -> &AtomicU16 {
        // SAFETY: `within` says that two aligned octets are mapped there as long as `self` lives.
        unsafe { AtomicU16::from_ptr(self.within(at & !1, 2).cast()) }
    }

    /// Four octets; the place is rounded down to a multiple.
    #[inline(always)]
    pub fn word32(&self, at: usize) -> &AtomicU32 {
        // SAFETY: as in `word16`.
        unsafe { AtomicU32::from_ptr(self.within(at & !3, 4).cast()) }
    }

    /// Eight octets; the place is rounded down to a multiple.
    #[inline(always)]
    pub fn word64(&self, at: usize) -> &AtomicU64 {
        // SAFETY: as in `word16`.
        unsafe { AtomicU64::from_ptr(self.within(at & !7, 8).cast()) }
    }

    /// Copies octets from another guest's memory.
    #[inline(always)]
    pub fn copy(&self, at: usize, from: &Memory, from_at: usize, octets: usize) {
        let (to, from) = (self.within(at, octets), from.within(from_at, octets));
        // SAFETY: both are mapped for that many octets, in two mappings.
        unsafe { std::ptr::copy_nonoverlapping(from, to, octets) };
    }

    /// Asks for the cache line at a place, to be read.
    #[inline(always)]
    pub fn prefetch(&self, at: usize) {
        // SAFETY: a prefetch has no effect that a program could see, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(self.map.as_mut_ptr().wrapping_add(at).cast()) };
    }

    /// Asks for the cache line at a place, to be written.
    #[inline(always)]
    pub fn prefetch_to_write(&self, at: usize) {
        // SAFETY: as in `prefetch`.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(self.map.as_mut_ptr().wrapping_add(at).cast()) };
    }

    /// Where a place is mapped, which must have that many octets behind it. The begin is aligned to a page.
    #[inline(always)]
    fn within(&self, at: usize, octets: usize) -> *mut u8 {
        let end = self.map.len();
        assert!(octets <= end && at <= end - octets, "no guest memory there");
        self.map.as_mut_ptr().wrapping_add(at)
    }
}

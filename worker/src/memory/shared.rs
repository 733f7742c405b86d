//! Arrays of atomics in guest memory. Rings consist of them.
//!
//! The size of the array is checked once, when the ring starts. Each access masks its index, so no index can leave
//! the array. Each access is atomic, so the other side may write at the same time.
#![allow(unsafe_code)] // named in the design: guest memory

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use sv3::ipc::RingFault;

use super::guest_memory::GuestMemory;
use super::mapping::Mapping;
use super::slice::{prefetch, prefetch_to_write};

/// Values of `T` in guest memory.
pub struct SharedArray<T> {
    first: NonNull<T>,
    count: u16,
    /// One less than the largest power of two that is not above `count`.
    mask: usize,
    _mapping: Arc<Mapping>,
}

/// Types for which any bit pattern is valid and whose accesses are atomic.
///
/// # Safety
/// The type must consist of atomics only, without padding.
pub unsafe trait Shared {}

// SAFETY: atomics.
unsafe impl Shared for std::sync::atomic::AtomicU16 {}
// SAFETY: atomics.
unsafe impl Shared for std::sync::atomic::AtomicU32 {}
// SAFETY: two atomics of the same size, hence no padding.
unsafe impl Shared for [std::sync::atomic::AtomicU32; 2] {}
// SAFETY: two atomics of the same size, hence no padding.
unsafe impl Shared for [std::sync::atomic::AtomicU64; 2] {}

// SAFETY: the values are atomics in a mapping that `_mapping` keeps alive, whichever thread reads them.
unsafe impl<T: Shared> Send for SharedArray<T> {}

impl<T: Shared> SharedArray<T> {
    /// The `count` values at `addr`, a front-end address that must be aligned for `T`. `count` must not be 0.
    pub fn new(memory: &GuestMemory, addr: u64, count: u16) -> Result<SharedArray<T>, RingFault> {
        let mask = (1usize << count.checked_ilog2().ok_or(RingFault::BadSize)?) - 1;
        let len = u64::from(count) * size_of::<T>() as u64;
        let mapping = memory.mapping_of_user(addr, len).ok_or(RingFault::Unmapped)?;
        let first =
            mapping.at_user(addr, len).and_then(|at| NonNull::new(at.cast::<T>())).ok_or(RingFault::Unmapped)?;
        if !first.is_aligned() {
            return Err(RingFault::Misaligned);
        }
        Ok(SharedArray { first, count, mask, _mapping: Arc::clone(mapping) })
    }

    /// A view of the array.
    #[inline]
    pub fn view(&self) -> View<'_, T> {
        View { first: self.first, count: self.count, mask: self.mask, array: PhantomData }
    }

    /// See [`View::at`].
    #[inline]
    pub fn at(&self, index: u16) -> &T {
        self.view().at(index)
    }
}

/// A view of an array, for loops. The compiler keeps it in registers. It must reload what it reaches through a
/// reference, because an atomic access might have changed it.
pub struct View<'a, T> {
    first: NonNull<T>,
    count: u16,
    mask: usize,
    array: PhantomData<&'a SharedArray<T>>,
}

impl<T> Copy for View<'_, T> {}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, T: Shared> View<'a, T> {
    /// The value at `index` modulo the array's length, which must be a power of two.
    #[inline]
    pub fn at(self, index: u16) -> &'a T {
        // SAFETY: `SharedArray::new` found more than `mask` aligned values there, the array's `_mapping` keeps them
        // mapped, and `Shared` guarantees that they are atomics.
        unsafe { self.first.add(usize::from(index) & self.mask).as_ref() }
    }

    /// The value at `index`, which must be below the array's length. The comparison keeps a wrong index inside of the
    /// array.
    #[inline]
    pub fn get(self, index: u16) -> &'a T {
        let index = if index < self.count { index } else { 0 };
        // SAFETY: as in `at`. There are `count` values.
        unsafe { self.first.add(usize::from(index)).as_ref() }
    }

    /// Asks the processor to load the cache line of the value at `index`.
    #[inline]
    pub fn prefetch(self, index: u16) {
        prefetch(self.first.as_ptr().wrapping_add(usize::from(index) & self.mask));
    }

    /// Asks the processor for the cache line of the value at `index`, to write it. If the array's length is no power
    /// of two, it may be the line of another value.
    #[inline]
    pub fn prefetch_to_write(self, index: u16) {
        prefetch_to_write(self.first.as_ptr().wrapping_add(usize::from(index) & self.mask));
    }
}

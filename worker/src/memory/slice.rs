//! Views of memory that others may write at any time.
//!
//! A view is never a Rust slice. Octets are copied out, copied in or copied over, and each is read once.
#![allow(unsafe_code)] // named in the design: guest memory

use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_storeu_si256};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst, compiler_fence};

/// Eight octets at any address.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Word(u64);

/// A checked range of memory that others may write at any time.
#[derive(Clone, Copy)]
pub struct GuestSlice<'m> {
    ptr: *mut u8,
    len: usize,
    memory: PhantomData<&'m ()>,
}

impl<'m> GuestSlice<'m> {
    /// The range `[ptr, ptr + len)`.
    ///
    /// # Safety
    /// The range stays mapped for as long as `'m` lasts.
    #[inline(always)]
    pub(super) const unsafe fn new(ptr: *mut u8, len: usize) -> GuestSlice<'m> {
        GuestSlice { ptr, len, memory: PhantomData }
    }

    /// Where the range begins, for deferred copies.
    #[inline(always)]
    pub(super) fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// The empty range.
    pub(super) const EMPTY: GuestSlice<'static> =
        GuestSlice { ptr: std::ptr::NonNull::dangling().as_ptr(), len: 0, memory: PhantomData };

    /// A view of the worker's own buffer, so that the worker's own frames are delivered like those of guests.
    pub fn of_host(buffer: &'m mut [u8]) -> GuestSlice<'m> {
        GuestSlice { ptr: buffer.as_mut_ptr(), len: buffer.len(), memory: PhantomData }
    }

    /// A view of memory that processes share.
    #[inline]
    pub fn of_shared(octets: &'m [AtomicU8]) -> GuestSlice<'m> {
        GuestSlice { ptr: octets.as_ptr().cast_mut().cast(), len: octets.len(), memory: PhantomData }
    }

    /// The same of words.
    #[inline]
    pub fn of_words(words: &'m [AtomicU64]) -> GuestSlice<'m> {
        GuestSlice { ptr: words.as_ptr().cast_mut().cast(), len: size_of_val(words), memory: PhantomData }
    }

    /// A part of the range; empty if it does not lie in it.
    #[inline]
    pub fn part(&self, offset: usize, len: usize) -> GuestSlice<'m> {
        match offset <= self.len && len <= self.len - offset {
            true => GuestSlice { ptr: self.ptr.wrapping_add(offset), len, memory: PhantomData },
            false => GuestSlice::EMPTY,
        }
    }

    /// Where the range begins in the worker's memory, for the address at which a card sees it.
    #[inline]
    pub fn address(&self) -> usize {
        self.ptr as usize
    }

    /// Length in octets.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies out from `offset`. Returns how many octets there were.
    #[inline]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(into.len());
        // SAFETY: `[offset, offset + n)` lies in this range, and `n` octets fit in `into`, which nobody else uses.
        // The other side may write meanwhile: any octets are valid for this read.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.wrapping_add(offset), into.as_mut_ptr(), n) };
        // Reads once: the compiler must not turn reads of the copy into reads of the original.
        compiler_fence(SeqCst);
        n
    }

    /// Reads `N` words of eight octets from `offset`, each once, if the range has that many.
    #[inline]
    pub fn read_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let end = offset.checked_add(N * 8)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `[offset, end)` lies in this range. A `Word` has no alignment and no invalid values. The compiler
        // would read an octet array octet by octet.
        let word = |at: usize| unsafe { self.ptr.add(offset).cast::<Word>().add(at).read_volatile() }.0;
        Some(std::array::from_fn(word))
    }

    /// Copies in at `offset`. Returns how many octets fitted.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(from.len());
        // SAFETY: as in `read`, with the directions exchanged.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.ptr.wrapping_add(offset), n) };
        n
    }

    /// Copies up to `len` octets from `self[offset..]` to `to[to_offset..]`. Returns how many octets both ranges
    /// allowed.
    #[inline]
    pub fn copy_to(&self, offset: usize, to: &GuestSlice<'_>, to_offset: usize, len: usize) -> usize {
        let n = self.len.saturating_sub(offset).min(to.len.saturating_sub(to_offset)).min(len);
        // SAFETY: both ranges were just bounded.
        unsafe { copy(self.ptr.wrapping_add(offset), to.ptr.wrapping_add(to_offset), n) };
        n
    }

    /// Asks the processor to load the cache line at `offset`.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        prefetch(self.ptr.wrapping_add(offset));
    }

    /// Asks the processor for the cache lines of the first `len` octets, to write them. At most the lines of a small
    /// frame.
    #[inline]
    pub fn prefetch_to_write(&self, len: usize) {
        let end = len.min(self.len).saturating_sub(1);
        let line = |offset| prefetch_to_write(self.ptr.wrapping_add(offset));
        line(0);
        line(end);
        // Most frames end here.
        if end <= LINE {
            return;
        }
        line(LINE);
        let mut offset = 2 * LINE;
        while offset < end.min(4 * LINE) {
            line(offset);
            offset += LINE;
        }
    }
}

/// Octets of a cache line.
const LINE: usize = 64;
/// From this many octets on, a loop with its own prefetch copies faster than the library: by up to a fifth, into
/// buffers that a guest has read (docs/measured/data-path.md).
pub(super) const LONG: usize = 1536;
/// How far ahead the loop prefetches, in octets: beyond the processor's own prefetch, which ends at a page border.
const LINES_AHEAD: usize = 2048;

/// Copies octets. The ranges may overlap, since a hostile client may pass one file twice. The common octets may then
/// have any value.
///
/// # Safety
/// Both ranges are mapped.
#[inline]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller guarantees both ranges, and the processor has AVX2 where `copy_long` runs.
    unsafe {
        match len >= LONG && is_x86_feature_detected!("avx2") {
            true => copy_long(from, to, len),
            false => std::ptr::copy(from, to, len),
        }
    }
}

#[target_feature(enable = "avx2")]
unsafe fn copy_long(mut from: *const u8, mut to: *mut u8, mut len: usize) {
    while len >= 128 {
        for ahead in [LINES_AHEAD, LINES_AHEAD + 64] {
            prefetch(from.wrapping_add(ahead));
            prefetch_to_write(to.wrapping_add(ahead));
        }
        // SAFETY: that many octets are left, and the accesses need no alignment. (Arrays and closures would be
        // compiled without AVX.)
        unsafe {
            let (source, target) = (from.cast::<__m256i>(), to.cast::<__m256i>());
            let (a, b) = (_mm256_loadu_si256(source), _mm256_loadu_si256(source.add(1)));
            let (c, d) = (_mm256_loadu_si256(source.add(2)), _mm256_loadu_si256(source.add(3)));
            _mm256_storeu_si256(target, a);
            _mm256_storeu_si256(target.add(1), b);
            _mm256_storeu_si256(target.add(2), c);
            _mm256_storeu_si256(target.add(3), d);
        }
        (from, to, len) = (from.wrapping_add(128), to.wrapping_add(128), len - 128);
    }
    // SAFETY: the rest of both ranges.
    unsafe { std::ptr::copy(from, to, len) };
}

/// Asks the processor for a cache line, to write it. Any address is allowed.
#[inline]
pub fn prefetch_to_write<T>(at: *const T) {
    // SAFETY: a prefetch is a hint and never faults. A processor that does not know it ignores it.
    unsafe { std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// Asks the processor to load a cache line. Any address is allowed.
#[inline]
pub fn prefetch<T>(at: *const T) {
    // SAFETY: a prefetch is a hint and never faults.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast()) };
}

//! A client's memory as the worker sees it: mappings of the files that the supervisor admitted, and checked views.
//!
//! The client maps the same pages and may change any octet at any time, so a view is never a Rust slice: octets are
//! copied out, copied in or copied over, each read once. The file may even be truncated under the mapping; the touch is
//! then a SIGBUS, which `crash` attributes to the region by the ranges that are registered here.
//!
//! A [`GuestSlice`] borrows the [`GuestMemory`] that it was looked up in, hence cannot outlive the mapping. Rings, which
//! live longer, hold an `Arc` of theirs ([`super::shared`]).
#![allow(unsafe_code)] // named in the design: guest memory

use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_storeu_si256};
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, compiler_fence};

use memmap2::{MmapOptions, MmapRaw};
use sv3::MAX_MEM_SLOTS;
use sv3::ipc::Region;
use sv3::virtio::NET_HDR_LEN;

use super::slice_list::SliceList;
use crate::forward::frame_head::{FrameHead, HEAD_LEN};
use crate::process::crash;
use crate::process::crash_points::{CrashPoint, pass};

/// Octets of the smallest page.
const PAGE: u64 = 4096;

/// One mapped region.
pub struct Mapping {
    region: Region,
    /// Where the region begins, inside of `map`.
    host: *mut u8,
    _watch: crash::Watch,
    map: MmapRaw,
}

// SAFETY: `host` is the address of a mapping that lives as long as this does and belongs to no thread; what is done by it is
// done as if another process did it at the same time, as the client may.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing of it changes.
unsafe impl Sync for Mapping {}

/// A region that is mapped, of which nobody knows yet. Neither makes nor frees what the allocator would have to see to.
pub struct NewMapping {
    region: Region,
    map: MmapRaw,
}

impl NewMapping {
    /// Maps a region that the supervisor found to lie inside of its file. The fd is closed.
    pub fn new(region: Region, fd: OwnedFd) -> io::Result<NewMapping> {
        let block = region.block.max(PAGE);
        let lead = region.offset % block;
        let length = region.size.checked_add(lead).and_then(|n| n.checked_next_multiple_of(block));
        let length = length.and_then(|n| usize::try_from(n).ok());
        let length = length.ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let map = MmapOptions::new().offset(region.offset - lead).len(length).map_raw(fd.as_raw_fd())?;
        Ok(NewMapping { region, map })
    }
}

impl Mapping {
    /// Makes a region of `port` known.
    pub fn new(port: u16, bare: NewMapping) -> Mapping {
        let NewMapping { region, map } = bare;
        let lead = region.offset % region.block.max(PAGE);
        // SAFETY: `lead` is below the block size, hence below the mapping's length: see `NewMapping::new`.
        let host = unsafe { map.as_mut_ptr().add(lead as usize) };
        let watch = crash::watch(host as u64, region.size, port, region.guest_addr);
        Mapping { region, host, _watch: watch, map }
    }

    fn holds(&self, guest_addr: u64) -> bool {
        guest_addr.wrapping_sub(self.region.guest_addr) < self.region.size
    }

    /// The pointer to `[offset, offset + len)` of the region, if that lies inside of it.
    fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let inside = offset.checked_add(len)? <= self.region.size;
        // SAFETY: `offset` is at most `region.size`, which `new` mapped from `host` on.
        inside.then(|| unsafe { self.host.add(offset as usize) })
    }

    /// Asks the kernel to bring in the pages of a range by the front-end's own address, where it lies in the region, so that a
    /// touch will not have to wait for them. Nothing is read or written, and a file that was truncated does no harm.
    fn populate(&self, addr: u64, len: u64) {
        let Some(at) = self.at_user(addr, len) else { return };
        let lead = at as usize % PAGE as usize;
        // SAFETY: of the mapping, which begins with a page, nothing but its page tables changes.
        unsafe { libc::madvise(at.wrapping_sub(lead).cast(), lead + len as usize, libc::MADV_POPULATE_READ) };
    }

    /// A range by the front-end's own address, for rings.
    pub(super) fn at_user(&self, addr: u64, len: u64) -> Option<*mut u8> {
        self.at(addr.checked_sub(self.region.user_addr)?, len)
    }
}

/// A mapping in which nothing is looked up any more, on its way back to the kernel. The allocator has nothing to do with it.
pub struct Unmapping {
    /// Its address.
    at: usize,
    left: usize,
    block: usize,
}

impl Unmapping {
    /// The last one who holds a mapping gives it away; `None`: somebody else has it still.
    pub fn of(mapping: Arc<Mapping>) -> Option<Unmapping> {
        // It is watched no more: nobody touches it, and its addresses may soon be another client's.
        let Mapping { region, map, .. } = Arc::into_inner(mapping)?;
        let map = ManuallyDrop::new(map);
        let block = usize::try_from(region.block.max(PAGE)).unwrap_or(usize::MAX);
        Some(Unmapping { at: map.as_mut_ptr() as usize, left: map.len(), block })
    }

    /// Unmaps about `octets` of it, as whole blocks; false: that was all.
    pub fn unmap(&mut self, octets: usize) -> bool {
        let slice = octets.max(1).checked_next_multiple_of(self.block).unwrap_or(usize::MAX).min(self.left);
        // SAFETY: `[at, at + left)` is what is left of a mapping of whole blocks that `of` took over from its last holder, so
        // no view of it exists. What the kernel should refuse stays mapped, and nobody has it.
        unsafe { libc::munmap(self.at as *mut libc::c_void, slice) };
        self.at += slice;
        self.left -= slice;
        self.left > 0
    }
}

/// The regions of one client. A clone is the same regions, for another thread to look up.
#[derive(Clone, Default)]
pub struct GuestMemory {
    regions: Vec<Arc<Mapping>>,
    /// Where the region that was hit last lies; it is one of `regions`.
    last: Cell<RegionView>,
}

/// Where a region lies for the guest and for us; of none, with a size of 0.
#[derive(Clone, Copy)]
struct RegionView {
    guest_addr: u64,
    size: u64,
    host: *mut u8,
}

// SAFETY: `host` is one of a mapping that `regions` beside it keeps, and belongs to no thread; see there.
unsafe impl Send for RegionView {}

impl Default for RegionView {
    fn default() -> RegionView {
        RegionView { guest_addr: 0, size: 0, host: std::ptr::null_mut() }
    }
}

impl RegionView {
    /// The piece of `[addr, addr + len)` that lies in the region, if `addr` does.
    #[inline]
    fn piece<'m>(&self, addr: u64, len: u64) -> Option<GuestSlice<'m>> {
        let offset = addr.wrapping_sub(self.guest_addr);
        let room = self.size.checked_sub(offset).filter(|room| *room > 0)?;
        let ptr = self.host.wrapping_add(offset as usize);
        Some(GuestSlice { ptr, len: len.min(room) as usize, memory: PhantomData })
    }
}

impl GuestMemory {
    /// Adds a region; an error gives it back when there are too many.
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
        let at = self.regions.iter().position(|mapping| same(&mapping.region))?;
        self.last.take();
        Some(self.regions.remove(at))
    }

    /// All mappings, to be given back.
    pub fn into_mappings(self) -> Vec<Arc<Mapping>> {
        self.regions
    }

    /// The mapping that wholly holds a range of the front-end's own addresses.
    pub fn mapping_of_user(&self, addr: u64, len: u64) -> Option<&Arc<Mapping>> {
        self.regions.iter().find(|mapping| mapping.at_user(addr, len).is_some())
    }

    /// Has the pages of a range of the front-end's own addresses brought in, if it lies in one region.
    pub fn populate(&self, addr: u64, len: u64) {
        self.regions.iter().for_each(|mapping| mapping.populate(addr, len));
    }

    /// The piece of `[addr, addr + len)` (guest addresses) that lies in the region of `addr`; shorter than `len` when
    /// the range goes on in a neighbour. `None`: no region has `addr`. `len` must not be 0.
    #[inline]
    pub fn piece(&self, addr: u64, len: u64) -> Option<GuestSlice<'_>> {
        self.last.get().piece(addr, len).or_else(|| self.search(addr)?.piece(addr, len))
    }

    /// The region that was hit last.
    #[inline]
    pub fn last_region(&self) -> RegionCache<'_> {
        RegionCache(self.last.get(), PhantomData)
    }

    #[cold]
    fn search(&self, addr: u64) -> Option<RegionView> {
        let mapping = self.regions.iter().find(|mapping| mapping.holds(addr))?;
        let Region { guest_addr, size, .. } = mapping.region;
        let found = RegionView { guest_addr, size, host: mapping.host };
        self.last.set(found);
        Some(found)
    }

    /// A range (guest addresses) that lies in one region.
    pub fn slice(&self, addr: u64, len: u64) -> Option<GuestSlice<'_>> {
        self.piece(addr, len).filter(|slice| slice.len as u64 == len)
    }
}

/// A region, for looking up many ranges.
#[derive(Clone, Copy)]
pub struct RegionCache<'m>(RegionView, PhantomData<&'m GuestMemory>);

impl<'m> RegionCache<'m> {
    /// The range `[addr, addr + len)` (guest addresses), if it lies in the region.
    #[inline]
    pub fn slice(self, addr: u64, len: u32) -> Option<GuestSlice<'m>> {
        let RegionCache(region, memory) = self;
        let offset = addr.wrapping_sub(region.guest_addr);
        let room = region.size.checked_sub(offset)?;
        let ptr = region.host.wrapping_add(offset as usize);
        (room >= u64::from(len)).then_some(GuestSlice { ptr, len: len as usize, memory })
    }
}

/// Eight octets wherever they lie.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Word(u64);

/// A checked range of memory that others may write at any time.
#[derive(Clone, Copy)]
pub struct GuestSlice<'m> {
    ptr: *mut u8,
    len: usize,
    memory: PhantomData<&'m GuestMemory>,
}

impl<'m> GuestSlice<'m> {
    /// A view of the worker's own buffer, so that frames made by the worker travel like those of guests.
    pub fn of_host(buffer: &'m mut [u8]) -> GuestSlice<'m> {
        GuestSlice { ptr: buffer.as_mut_ptr(), len: buffer.len(), memory: PhantomData }
    }

    /// Length in octets.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies out from `offset`; copies what there is and returns how much that is.
    #[inline]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(into.len());
        // SAFETY: `[offset, offset + n)` lies in this range, `n` octets fit in `into`, which is ours alone. The other
        // side may write meanwhile: any octets are fine for what we read.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.wrapping_add(offset), into.as_mut_ptr(), n) };
        // Once: what looks at the copy must not be compiled to look at the original.
        compiler_fence(SeqCst);
        n
    }

    /// Reads `N` words of eight octets from `offset`, each once, if there are as many.
    #[inline]
    pub fn read_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let end = offset.checked_add(N * 8)?;
        if end > self.len {
            return None;
        }
        // SAFETY: `[offset, end)` lies in this range; a `Word` has no alignment and no invalid values. An octet array
        // would be read by as many loads as it has octets.
        let word = |at: usize| unsafe { self.ptr.add(offset).cast::<Word>().add(at).read_volatile() }.0;
        Some(std::array::from_fn(word))
    }

    /// Copies in at `offset`; copies what fits and returns how much that is.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(from.len());
        // SAFETY: as in `read`, with the directions exchanged.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.ptr.wrapping_add(offset), n) };
        n
    }

    /// Copies up to `len` octets from `self[offset..]` to `to[to_offset..]` and returns how many both had room for.
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

    /// Asks the processor for the first `len` octets' cache lines, to write them; no more than a small frame has.
    #[inline]
    pub fn prefetch_to_write(&self, len: usize) {
        let (mut offset, end) = (0, len.min(self.len).saturating_sub(1));
        while offset < end.min(256) {
            prefetch_to_write(self.ptr.wrapping_add(offset));
            offset += 64;
        }
        prefetch_to_write(self.ptr.wrapping_add(end));
    }
}

/// Octets from which on a loop of our own, which asks for lines ahead, copies faster than the library: where buffers are written
/// that a guest has read, by up to a fifth (docs/performance.md).
const LONG: usize = 1536;
/// How far ahead it asks, in octets: beyond what the processor foresees, which ends with a page.
const LINES_AHEAD: usize = 2048;

/// Copies octets. The ranges may overlap, since a hostile client may pass one file twice; what both have in common may then be
/// anything.
///
/// # Safety
/// Both ranges are mapped.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's word, and the processor's.
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
        // SAFETY: there are as many octets left, which have no alignment. (Arrays and closures would be compiled without AVX.)
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
    // SAFETY: what is left of both.
    unsafe { std::ptr::copy(from, to, len) };
}

/// Copies that wait until the burst has been taken. A line that a guest has written last is with the guest's processor,
/// and a store to it holds up all stores behind it; so the lines of a whole burst are asked for before the first is
/// written.
pub struct DeferredCopies {
    room: Box<[DeferredCopy]>,
    waiting: usize,
}

/// One of them.
#[derive(Clone, Copy)]
pub struct DeferredCopy {
    hdr: (u64, u32),
    /// Octets behind the head.
    len: u32,
    /// Where they are.
    from: *const u8,
    to: *mut u8,
    /// The head of the chain that is in hand meanwhile: what is behind its net header is delivered, not what stands in the
    /// guest's memory by then.
    head: *const FrameHead,
}

impl DeferredCopy {
    /// To write `hdr` ([`sv3::virtio::NetHdr::to_words`]) and the frame of the chain `from` behind it, whose head is `head`,
    /// into `to`, whose lines are asked for now. `None`: there is no room, or the chain is no longer than a head.
    #[inline(always)]
    pub fn new(hdr: (u64, u32), from: &GuestSlice<'_>, to: &GuestSlice<'_>, head: &FrameHead) -> Option<DeferredCopy> {
        // A descriptor tells no more octets than a u32 does.
        let len = from.len.checked_sub(HEAD_LEN).filter(|_| from.len <= to.len)? as u32;
        to.prefetch_to_write(from.len);
        Some(DeferredCopy { hdr, len, from: from.ptr.wrapping_add(HEAD_LEN).cast_const(), to: to.ptr, head })
    }
}

impl DeferredCopies {
    /// Room for `copies` copies.
    pub fn new(copies: usize) -> DeferredCopies {
        let nothing = DeferredCopy {
            hdr: (0, 0),
            len: 0,
            from: std::ptr::null(),
            to: std::ptr::null_mut(),
            head: std::ptr::null(),
        };
        DeferredCopies { room: vec![nothing; copies].into_boxed_slice(), waiting: 0 }
    }

    /// Makes room for `copies` copies, if there can be.
    #[inline]
    pub fn make_room(&mut self, copies: usize) {
        if self.room.len() - self.waiting < copies {
            self.settle();
        }
    }

    /// Places for further copies, which do not count before [`DeferredCopies::wait_for`].
    #[inline]
    pub fn places(&mut self) -> impl Iterator<Item = &mut DeferredCopy> {
        self.room.iter_mut().skip(self.waiting)
    }

    /// The next places that many copies were put into count from now on.
    ///
    /// # Safety
    /// What their slices were looked up in stays mapped until [`DeferredCopies::settle`], and their heads stay where they are.
    #[inline]
    pub unsafe fn wait_for(&mut self, copies: usize) {
        self.waiting = self.room.len().min(self.waiting + copies);
    }

    /// Does what was postponed.
    #[inline]
    pub fn settle(&mut self) {
        let before = crash::current();
        for DeferredCopy { hdr, len, from, to, head } in self.room.get(..self.waiting).unwrap_or(&[]) {
            crash::set_current(*head);
            // SAFETY: `wait_for` was told that both are still mapped, and that the head is there; `DeferredCopy::new` saw that a
            // head and `len` octets lie in both.
            unsafe {
                to.cast::<u64>().write_unaligned(hdr.0.to_le());
                to.add(8).cast::<u32>().write_unaligned(hdr.1.to_le());
                let head = head.cast::<u8>();
                std::ptr::copy_nonoverlapping(head.add(NET_HDR_LEN), to.add(NET_HDR_LEN), HEAD_LEN - NET_HDR_LEN);
                copy(*from, to.add(HEAD_LEN), *len as usize);
            }
            pass(CrashPoint::Copied);
        }
        self.waiting = 0;
        crash::set_current(before);
    }
}

/// Asks the processor for a cache line, to write it; any address is allowed.
#[inline]
pub fn prefetch_to_write<T>(at: *const T) {
    // SAFETY: a prefetch is a hint and never faults; where a processor does not know it, it does nothing.
    unsafe { std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// Asks the processor to load a cache line; any address is allowed.
#[inline]
pub fn prefetch<T>(at: *const T) {
    // SAFETY: a prefetch is a hint and never faults.
    unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast()) };
}

/// Room for the slices of a burst, made once.
pub struct Arena(Box<[GuestSlice<'static>]>);

impl Arena {
    /// Room for `slices` slices.
    pub fn new(slices: usize) -> Arena {
        let empty = GuestSlice { ptr: std::ptr::NonNull::dangling().as_ptr(), len: 0, memory: PhantomData };
        Arena(vec![empty; slices].into_boxed_slice())
    }

    /// An empty list with the arena's room, for slices of any memory.
    #[inline]
    pub fn list<'a, 'm>(&'a mut self) -> SliceList<'a, 'm> {
        // SAFETY: the lifetime is a marker; slices of 'm are only read through the list, up to the list's own length,
        // and no 'static ones are ever handed out.
        let room =
            unsafe { std::mem::transmute::<&'a mut [GuestSlice<'static>], &'a mut [GuestSlice<'m>]>(&mut *self.0) };
        SliceList::over(room)
    }
}

#[cfg(test)]
mod extents;

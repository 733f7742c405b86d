//! A client's mapped files: each region that the supervisor admitted, until it is unmapped.
//!
//! The client maps the same pages and may truncate the file. Then an access raises SIGBUS. [`crate::process::crash`]
//! finds the region by the range that is registered here.
#![allow(unsafe_code)] // named in the design: guest memory

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use memmap2::{MmapOptions, MmapRaw};
use sv3::ipc::Region;

use crate::process::crash;

/// Octets of the smallest page.
const PAGE: u64 = 4096;

/// One mapped region.
pub struct Mapping {
    region: Region,
    /// Where the region begins in `map`.
    host: *mut u8,
    _watch: crash::Watch,
    map: MmapRaw,
}

// SAFETY: `host` is the address of a mapping that lives as long as this value and belongs to no thread. All accesses
// through it assume that another process writes at the same time, as the client may.
unsafe impl Send for Mapping {}
// SAFETY: as above. No field changes.
unsafe impl Sync for Mapping {}

/// A mapped region that is not registered yet. Making and dropping it does not use the allocator.
pub struct NewMapping {
    region: Region,
    map: MmapRaw,
}

impl NewMapping {
    /// Maps a region that the supervisor found to lie inside of its file. Closes the fd.
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
    /// Registers a mapped region of `port`.
    pub fn new(port: u16, bare: NewMapping) -> Mapping {
        let NewMapping { region, map } = bare;
        let lead = region.offset % region.block.max(PAGE);
        // SAFETY: `lead` is below the block size, hence below the mapping's length: see `NewMapping::new`.
        let host = unsafe { map.as_mut_ptr().add(lead as usize) };
        let watch = crash::watch(host as u64, region.size, port, region.guest_addr);
        Mapping { region, host, _watch: watch, map }
    }

    /// The region as the supervisor described it.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// All that is mapped, in whole pages: where it begins in the worker's memory, and its octets.
    pub fn pages(&self) -> (usize, usize) {
        (self.map.as_mut_ptr() as usize, self.map.len())
    }

    /// Where the region begins in the worker's memory.
    pub(super) fn host(&self) -> *mut u8 {
        self.host
    }

    /// Whether the region contains the guest address.
    pub(super) fn holds(&self, guest_addr: u64) -> bool {
        guest_addr.wrapping_sub(self.region.guest_addr) < self.region.size
    }

    /// All octets of the region.
    #[inline]
    pub(super) fn octets(&self) -> &[AtomicU8] {
        // SAFETY: `new` mapped that many octets from `host` on, and they stay so for as long as `self` lives. All accesses
        // are atomic.
        unsafe { std::slice::from_raw_parts(self.host.cast::<AtomicU8>(), self.region.size as usize) }
    }

    /// The pointer to `[offset, offset + len)` of the region, if the region contains this range.
    fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        let inside = offset.checked_add(len)? <= self.region.size;
        // SAFETY: `offset` is at most `region.size`, and `new` mapped that many octets from `host` on.
        inside.then(|| unsafe { self.host.add(offset as usize) })
    }

    /// Asks the kernel to populate the pages of a range of the front-end's addresses, if the range lies in the
    /// region. A later access then does not wait for them. Nothing is read or written, and a truncated file does no
    /// harm.
    pub(super) fn populate(&self, addr: u64, len: u64) {
        let Some(at) = self.at_user(addr, len) else { return };
        let lead = at as usize % PAGE as usize;
        // SAFETY: only the page tables of the mapping change. The mapping begins at a page border.
        unsafe { libc::madvise(at.wrapping_sub(lead).cast(), lead + len as usize, libc::MADV_POPULATE_READ) };
    }

    /// The pointer to a range of the front-end's addresses, for rings.
    pub(super) fn at_user(&self, addr: u64, len: u64) -> Option<*mut u8> {
        self.at(addr.checked_sub(self.region.user_addr)?, len)
    }
}

/// A mapping without any view, which is being unmapped. Does not use the allocator.
pub struct Unmapping {
    /// Address of the rest of it.
    at: usize,
    left: usize,
    block: usize,
}

impl Unmapping {
    /// Takes over a mapping from its last holder. `None`: somebody else still holds it.
    pub fn of(mapping: Arc<Mapping>) -> Option<Unmapping> {
        // Removes the registration first: nobody accesses these addresses now, and another client may soon have them.
        let Mapping { region, map, .. } = Arc::into_inner(mapping)?;
        let map = ManuallyDrop::new(map);
        let block = usize::try_from(region.block.max(PAGE)).unwrap_or(usize::MAX);
        Some(Unmapping { at: map.as_mut_ptr() as usize, left: map.len(), block })
    }

    /// Unmaps about `octets` octets, rounded up to whole blocks. False: nothing is left.
    pub fn unmap(&mut self, octets: usize) -> bool {
        let slice = octets.max(1).checked_next_multiple_of(self.block).unwrap_or(usize::MAX).min(self.left);
        // SAFETY: `[at, at + left)` is the rest of a mapping of whole blocks that `of` took over from its last
        // holder, so no view of it exists. A part that the kernel refuses to unmap stays mapped and unused.
        unsafe { libc::munmap(self.at as *mut libc::c_void, slice) };
        self.at += slice;
        self.left -= slice;
        self.left > 0
    }
}

//! A client's files, mapped: each region that the supervisor admitted, until it is unmapped.
//!
//! The client maps the same pages and may truncate the file. A touch is then a SIGBUS, which
//! [`crate::process::crash`] attributes to the region by the range that is registered here.
#![allow(unsafe_code)] // named in the design: guest memory

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use sv3::ipc::Region;

use crate::process::crash;

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

    /// What it is.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Where it begins for us.
    pub(super) fn host(&self) -> *mut u8 {
        self.host
    }

    /// Whether the guest address lies in it.
    pub(super) fn holds(&self, guest_addr: u64) -> bool {
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
    pub(super) fn populate(&self, addr: u64, len: u64) {
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

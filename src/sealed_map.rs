//! Memory that processes share in a memfd of a known size, sealed against resizing, so that reads and writes never
//! fault. All that it holds are atomics: no process trusts what another one writes there.
#![allow(unsafe_code)] // named in the design: memory that processes share

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What can be shared so.
///
/// # Safety
/// The type consists of atomics for which all bits are valid, and a page's alignment is enough for it.
pub unsafe trait Atomics {}

// SAFETY: its fields are atomics, and it is aligned to a page.
unsafe impl Atomics for crate::ledger::Ledger {}
// SAFETY: its fields are atomics, and it is aligned to a page.
unsafe impl Atomics for crate::capture::CaptureFile {}

/// A mapping of such memory.
pub struct SealedMap<T>(MmapRaw, PhantomData<T>);

impl<T: Atomics> SealedMap<T> {
    /// Makes a memfd of zeroes and maps it.
    pub fn create(name: &std::ffi::CStr) -> std::io::Result<(OwnedFd, SealedMap<T>)> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&fd, size_of::<T>() as i64)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        let map = SealedMap::map(&fd)?;
        Ok((fd, map))
    }

    /// Errs unless the file is of this size, and sealed against shrinking.
    pub fn check(fd: &impl AsFd) -> std::io::Result<()> {
        let seals = SealFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS)?);
        let size = nix::sys::stat::fstat(fd.as_fd())?.st_size;
        match seals.contains(SealFlag::F_SEAL_SHRINK) && size == size_of::<T>() as i64 {
            true => Ok(()),
            false => {
                Err(std::io::Error::other(format!("a file of {size} octets and seals {seals:?} is not of this kind")))
            }
        }
    }

    /// Maps a file that was made or checked. The fd may be closed afterwards.
    pub fn map(fd: &impl AsFd) -> std::io::Result<SealedMap<T>> {
        Ok(SealedMap(MmapOptions::new().len(size_of::<T>()).map_raw(fd.as_fd().as_raw_fd())?, PhantomData))
    }

    /// Has the kernel make the pages of a range now. The error says that there is too little memory.
    pub fn populate(&self, offset: usize, len: usize) -> std::io::Result<()> {
        self.0.advise_range(Advice::PopulateWrite, offset, len)
    }
}

impl<T: Atomics> std::ops::Deref for SealedMap<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is page aligned and `size_of::<T>()` long, the file is sealed against shrinking (`create`,
        // `check`), all of it is atomics for which all bits are valid (`Atomics`), and the mapping lives as long as `self`.
        unsafe { &*self.0.as_ptr().cast::<T>() }
    }
}

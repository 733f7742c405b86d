//! Guests' memory for the DMA of a card: VFIO maps pages of this process for it (linux/vfio.h, type 1).
//!
//! The card may read what is mapped, and not write. The kernel pins the pages, and counts them as locked memory of this
//! process. A mapping lives until it is removed or the last process closes the container. So the mappings of a worker
//! that died are still there, and the next worker removes them. Linux up to 5.19 lets only the process remove a mapping
//! that made it, and says then that it has removed nothing: [`Container::unmap`] tells how much was.
#![allow(unsafe_code)] // ioctl has no safe form

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

/// VFIO_IOMMU_MAP_DMA and VFIO_IOMMU_UNMAP_DMA: the type of VFIO and the number, without direction and size.
const MAP_DMA: u32 = (b';' as u32) << 8 | 113;
const UNMAP_DMA: u32 = (b';' as u32) << 8 | 114;
/// VFIO_DMA_MAP_FLAG_READ: the card may read.
const READ: u32 = 1;

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
struct Map {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`.
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// What a card's mappings belong to.
pub enum Container {
    /// VFIO's.
    Kernel(OwnedFd),
    /// The test's own.
    #[cfg(test)]
    Simulated(simulated::Simulated),
}

#[allow(clippy::infallible_destructuring_match, reason = "tests have another kind")]
impl Container {
    /// Lets the card read `len` octets of this process from `at` on, at `iova`. All are multiples of a page.
    pub fn map(&self, at: usize, len: usize, iova: u64) -> nix::Result<()> {
        let fd = match self {
            Container::Kernel(fd) => fd,
            #[cfg(test)]
            Container::Simulated(it) => return it.map(at, len, iova),
        };
        let (argsz, vaddr, size) = (size_of::<Map>() as u32, at as u64, len as u64);
        let mut map = Map { argsz, flags: READ, vaddr, iova, size };
        // SAFETY: the kernel reads the structure, which begins with its size. The card does not write to the pages, and
        // that others read them is the nature of guests' memory.
        Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), MAP_DMA as _, &raw mut map) }).map(drop)
    }

    /// Removes all mappings in a range, which must not cut one. Returns how many octets were mapped there.
    pub fn unmap(&self, iova: u64, len: u64) -> nix::Result<u64> {
        let fd = match self {
            Container::Kernel(fd) => fd,
            #[cfg(test)]
            Container::Simulated(it) => return it.unmap(iova, len),
        };
        let mut unmap = Unmap { argsz: size_of::<Unmap>() as u32, flags: 0, iova, size: len };
        // SAFETY: the kernel reads the structure and writes its last field. No memory of this process changes.
        Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), UNMAP_DMA as _, &raw mut unmap) })?;
        Ok(unmap.size)
    }
}

/// A container without a card, for tests.
#[cfg(test)]
pub mod simulated {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is mapped: by IOVA, the address and the length. A clone is the same container.
    #[derive(Clone, Default)]
    pub struct Simulated(pub Arc<Mutex<BTreeMap<u64, (usize, usize)>>>);

    impl Simulated {
        pub(super) fn map(&self, at: usize, len: usize, iova: u64) -> nix::Result<()> {
            let mut all = self.0.lock().unwrap();
            let end = iova + len as u64;
            match all.iter().any(|(other, (_, len))| *other < end && iova < other + *len as u64) {
                true => Err(Errno::EEXIST),
                false => {
                    all.insert(iova, (at, len));
                    Ok(())
                }
            }
        }

        pub(super) fn unmap(&self, iova: u64, len: u64) -> nix::Result<u64> {
            let (mut all, mut sum) = (self.0.lock().unwrap(), 0);
            all.retain(|at, (_, octets)| {
                let inside = (iova..iova + len).contains(at);
                sum += if inside { *octets as u64 } else { 0 };
                !inside
            });
            Ok(sum)
        }

        /// Octets that are mapped.
        pub fn octets(&self) -> usize {
            self.0.lock().unwrap().values().map(|(_, len)| len).sum()
        }
    }
}

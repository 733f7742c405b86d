//! A card's registers.
#![allow(unsafe_code)] // the mapping of a device

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use memmap2::{MmapOptions, MmapRaw};

use crate::process::clock::now_ns;

/// What every register of a card that is gone reads as (PCI Express, 2.3.2: completions of an absent device).
pub const GONE: u32 = u32::MAX;

/// BAR 0 of a card: registers of four octets, at octet offsets that are multiples of four. In tests it is the model's.
///
/// An offset outside of the BAR reads as [`GONE`], and a write to it does nothing. Accesses of one thread reach the card
/// in the order of the program.
pub trait Bar {
    /// Reads a register.
    fn read(&self, at: u32) -> u32;

    /// Writes a register. What the thread stored to memory before is visible to the card first.
    fn write(&self, at: u32, value: u32);

    /// Time in nanoseconds, by which waits for the card end. In tests it is the model's.
    fn now_ns(&self) -> u64 {
        now_ns()
    }
}

/// The BAR of a device of VFIO.
pub struct MappedBar(MmapRaw);

impl MappedBar {
    /// Maps `size` octets from `offset` of the device's file. The file may be closed afterwards.
    pub fn new(device: &OwnedFd, offset: u64, size: u32) -> io::Result<MappedBar> {
        MmapOptions::new().offset(offset).len(size as usize).map_raw(device.as_raw_fd()).map(MappedBar)
    }

    fn register(&self, at: u32) -> Option<&AtomicU32> {
        let at = at as usize;
        let fits = at.is_multiple_of(4) && at.checked_add(4)? <= self.0.len();
        // SAFETY: the register lies in the mapping, which begins at a page border, and is accessed as an atomic only.
        fits.then(|| unsafe { AtomicU32::from_ptr(self.0.as_mut_ptr().add(at).cast()) })
    }
}

impl Bar for MappedBar {
    #[inline]
    fn read(&self, at: u32) -> u32 {
        self.register(at).map_or(GONE, |register| register.load(Relaxed))
    }

    #[inline]
    fn write(&self, at: u32, value: u32) {
        if let Some(register) = self.register(at) {
            // On x86-64 a release store is a plain store, which the processor keeps behind earlier ones.
            register.store(value, std::sync::atomic::Ordering::Release);
        }
    }
}

//! Descriptors (virtio 1.3, 2.7.5), and where a walk reads them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A descriptor, read once (virtio 1.3, 2.7.5).
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Guest address.
    pub addr: u64,
    /// Length in octets.
    pub len: u32,
    /// `VIRTQ_DESC_F_*`.
    pub flags: u16,
    /// Index of the next descriptor, if `VIRTQ_DESC_F_NEXT` is set.
    pub next: u16,
}

impl Descriptor {
    /// Octets of a descriptor.
    pub const SIZE: usize = 16;

    /// Makes a descriptor from its two little-endian words.
    #[inline]
    pub fn from_words(addr: u64, rest: u64) -> Descriptor {
        Descriptor { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }

    /// Reads a descriptor once.
    #[inline]
    pub fn read([addr, rest]: &[AtomicU64; 2]) -> Descriptor {
        Descriptor::from_words(u64::from_le(addr.load(Relaxed)), u64::from_le(rest.load(Relaxed)))
    }

    /// The same octets as a descriptor of a packed ring (2.8.14), where the buffer id, here in `next`, comes before
    /// the flags.
    #[inline]
    pub fn as_packed(self) -> Descriptor {
        Descriptor { flags: self.next, next: self.flags, ..self }
    }
}

/// A ring's descriptor table.
pub trait Table {
    /// The descriptor at `index`, read once. `None`: there is none.
    fn descriptor(&self, index: u16) -> Option<Descriptor>;

    /// Number of descriptors.
    fn size(&self) -> u16;
}

//! A ring of the kind that was negotiated.

use super::feature::RING_PACKED;
use super::memory::Memory;
use super::packed::PackedRing;
use super::split::{Piece, SplitRing, Used};

/// A ring; which kind is decided when it is reset.
pub enum Ring {
    /// Virtio 1.3, 2.7.
    Split(SplitRing),
    /// Virtio 1.3, 2.8.
    Packed(PackedRing),
}

macro_rules! either {
    ($ring:expr, $either:ident => $do:expr) => {
        match $ring {
            Ring::Split($either) => $do,
            Ring::Packed($either) => $do,
        }
    };
}

impl Ring {
    /// A ring of `size` descriptors at `addr`, with room for either kind.
    pub fn new(size: u16, addr: u64) -> Ring {
        let mut ring = SplitRing::new(size);
        ring.place(addr);
        Ring::Split(ring)
    }

    /// Octets that a ring of either kind takes, when it begins at a multiple of 16.
    pub fn octets(size: u16) -> u64 {
        SplitRing::octets(size).max(PackedRing::octets(size))
    }

    /// Begins anew, as the kind that `features` say.
    pub fn reset(&mut self, memory: &Memory, features: u64) {
        let (addr, _, _) = self.addrs();
        if features & RING_PACKED != 0 {
            let mut ring = PackedRing::new(self.size());
            ring.place(addr);
            *self = Ring::Packed(ring);
        } else {
            let mut ring = SplitRing::new(self.size());
            ring.place(addr);
            *self = Ring::Split(ring);
        }
        either!(self, ring => ring.reset(memory, features));
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    /// Guest addresses of the descriptors, the device's and the driver's area.
    pub fn addrs(&self) -> (u64, u64, u64) {
        either!(self, ring => ring.addrs())
    }

    /// How many chains are with the device.
    pub fn in_flight(&self) -> usize {
        either!(self, ring => ring.in_flight())
    }

    /// The vring base of a device that took nothing which it has not used.
    pub fn base(&self, memory: &Memory) -> u32 {
        match self {
            Ring::Split(ring) => ring.used_index(memory).into(),
            Ring::Packed(ring) => ring.base(),
        }
    }

    /// The number that the next chain will have, if `descriptors` are free.
    #[inline]
    pub fn next_head(&self, descriptors: usize) -> Option<u16> {
        either!(self, ring => ring.next_head(descriptors))
    }

    /// Adds a chain, see [`SplitRing::add`].
    #[track_caller]
    #[inline]
    pub fn add(&mut self, memory: &Memory, pieces: &[Piece], writable: bool, table: Option<u64>) -> Option<u16> {
        either!(self, ring => ring.add(memory, pieces, writable, table))
    }

    /// Shows the device what was added. True: it wants to be kicked.
    #[inline]
    pub fn publish(&mut self, memory: &Memory) -> bool {
        either!(self, ring => ring.publish(memory))
    }

    /// Whether something came back.
    #[inline]
    pub fn has_used(&self, memory: &Memory) -> bool {
        either!(self, ring => ring.has_used(memory))
    }

    /// Asks to be called when something comes back, or not to be. True: something is there already.
    #[inline]
    pub fn want_calls(&mut self, memory: &Memory, wanted: bool) -> bool {
        either!(self, ring => ring.want_calls(memory, wanted))
    }

    /// Takes the next buffer that came back.
    #[track_caller]
    #[inline]
    pub fn take(&mut self, memory: &Memory) -> Option<Used> {
        either!(self, ring => ring.take(memory))
    }

    /// A split ring, for what only those have.
    #[track_caller]
    pub fn split(&self) -> &SplitRing {
        match self {
            Ring::Split(ring) => ring,
            Ring::Packed(_) => panic!("the ring is packed"),
        }
    }

    /// A split ring, to be changed.
    #[track_caller]
    pub fn split_mut(&mut self) -> &mut SplitRing {
        match self {
            Ring::Split(ring) => ring,
            Ring::Packed(_) => panic!("the ring is packed"),
        }
    }
}

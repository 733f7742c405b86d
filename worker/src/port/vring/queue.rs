//! A virtqueue of the negotiated kind.

use sv3::ipc::RingFault;
use sv3::virtio::VIRTIO_F_RING_PACKED;

use super::marks::Marks;
use super::packed::PackedRing;
use super::setup::RingSetup;
use super::split::SplitRing;
use super::virtqueue::Virtqueue;
use crate::memory::guest_memory::GuestMemory;

/// A ring of the negotiated kind.
pub enum Queue {
    /// Virtio 1.3, 2.7.
    Split(SplitRing),
    /// Virtio 1.3, 2.8.
    Packed(PackedRing),
}

/// One expression for both kinds.
macro_rules! either {
    ($queue:expr, $ring:ident => $do:expr) => {
        match $queue {
            $crate::port::vring::queue::Queue::Split($ring) => $do,
            $crate::port::vring::queue::Queue::Packed($ring) => $do,
        }
    };
}
pub(crate) use either;

impl Queue {
    /// Looks the ring up in guest memory.
    pub fn new(memory: &GuestMemory, setup: &RingSetup, features: u64) -> Result<Queue, RingFault> {
        if VIRTIO_F_RING_PACKED.of(features) {
            PackedRing::new(memory, setup, features).map(Queue::Packed)
        } else {
            SplitRing::new(memory, setup.size, &setup.addr, features).map(Queue::Split)
        }
    }

    /// See [`Virtqueue::position`].
    #[inline]
    pub fn position(&self) -> u16 {
        either!(self, ring => ring.position())
    }

    /// See [`Virtqueue::publish`].
    #[inline]
    pub fn publish(&mut self) -> bool {
        either!(self, ring => ring.publish())
    }

    /// See [`Virtqueue::arm`].
    pub fn arm(&mut self) -> bool {
        either!(self, ring => ring.arm())
    }

    /// See [`Virtqueue::arm_at`].
    pub fn arm_at(&mut self, cursor: u16) -> bool {
        either!(self, ring => ring.arm_at(cursor))
    }

    /// See [`Virtqueue::is_ready`].
    #[inline]
    pub fn is_ready(&self, cursor: u16) -> bool {
        either!(self, ring => ring.is_ready(cursor))
    }

    /// Marks in the client's log what it writes, from now on, or no more.
    pub fn set_marks(&mut self, marks: Option<Box<Marks>>) {
        either!(self, ring => ring.set_marks(marks));
    }

    /// What marks have cost since the last call ([`crate::port::cost`]).
    pub fn take_marks_cost(&self) -> u64 {
        either!(self, ring => ring.take_marks_cost())
    }

    /// Marks the available chains, if pages are marked.
    pub fn mark_available(&self) {
        either!(self, ring => ring.mark_available());
    }

    /// See [`Virtqueue::disarm`].
    pub fn disarm(&mut self) {
        either!(self, ring => ring.disarm());
    }
}

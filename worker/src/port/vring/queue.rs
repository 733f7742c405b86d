//! A virtqueue of either kind: what bursts and deliveries ask of it.
//!
//! Chains are *taken* from a cursor on, which begins at the queue's position; *completed* in the same order, which moves
//! the position; and *published* together. Until a chain is completed, taking it has changed nothing.

use sv3::ipc::{RingAddr, RingFault};
use sv3::ledger::{PublishJournal, RingPosition};
use sv3::virtio::VIRTIO_F_RING_PACKED;

use super::chain::Walker;
use super::packed::PackedRing;
use super::split::SplitRing;
use crate::memory::mapping::{GuestMemory, GuestSlice};
use crate::memory::slice_list::SliceList;

/// What a chain must tell when it is completed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chain {
    /// Split: index of the first descriptor. Packed: the buffer id.
    pub id: u16,
    /// Descriptors of a packed ring that it takes.
    pub descriptors: u16,
    /// Octets of its buffers; `None`: it breaks the specification.
    pub len: Option<usize>,
}

/// Where a ring lies, what the client said of it, and its part of the ledger.
#[derive(Clone, Copy)]
pub struct RingSetup {
    /// Number of descriptors.
    pub size: u16,
    /// Where they are.
    pub addr: RingAddr,
    /// See [`sv3::ipc::Command::RingStart`].
    pub base: u16,
    /// See [`sv3::ipc::Command::RingStart`].
    pub run: u32,
    /// Its position.
    pub line: &'static RingPosition,
    /// What it is about to publish.
    pub log: &'static PublishJournal,
}

impl RingSetup {
    /// Address and octets of the ring's three parts.
    pub fn areas(&self, features: u64) -> [(u64, u64); 3] {
        let (entries, RingAddr { desc, avail, used }) = (u64::from(self.size), self.addr);
        match VIRTIO_F_RING_PACKED.of(features) {
            true => [(desc, 16 * entries), (avail, 4), (used, 4)],
            false => [(desc, 16 * entries), (avail, 4 + 2 * entries), (used, 4 + 8 * entries)],
        }
    }
}

/// What the data path asks of a ring.
pub trait Virtqueue {
    /// The next chain to take: the vring base.
    fn position(&self) -> u16;

    /// Looks what is available and asks the processor for it; how many chains there are at most, up to `batch`.
    fn prepare(&mut self, batch: u16) -> Result<u16, RingFault>;

    /// Takes the chain at `cursor`, if there is one, and moves the cursor behind it. Its slices are appended to `out`.
    fn take<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        out: &mut SliceList<'_, 'm>,
    ) -> Result<Option<Chain>, RingFault>;

    /// Takes up to `most` plain chains, of one buffer in the region hit last, as long as `each` says that it has taken
    /// them over; how many it has. None is looked for beyond those that were seen last.
    fn take_plain<'m>(
        &mut self,
        cursor: &mut u16,
        walker: &Walker<'m>,
        most: usize,
        each: impl FnMut(Chain, GuestSlice<'m>) -> bool,
    ) -> usize;

    /// Whether that many chains more can be completed before [`Virtqueue::make_room`], at most [`sv3::ledger::JOURNAL_LEN`].
    fn has_room(&self, chains: usize) -> bool;

    /// Makes completed chains visible, so that others can be.
    fn make_room(&mut self);

    /// A chain is done, `len` octets were written into it. Not visible before [`Virtqueue::publish`].
    fn complete(&mut self, chain: &Chain, len: u32);

    /// The same for many chains. There is room for them.
    fn complete_all<'c>(&mut self, chains: impl Iterator<Item = (&'c Chain, u32)>) {
        chains.for_each(|(chain, len)| self.complete(chain, len));
    }

    /// Takes and completes up to `most` plain chains, as long as `each` says how many octets it wrote into them; how many
    /// it has. There is room for them.
    fn fill_plain<'m>(
        &mut self,
        walker: &Walker<'m>,
        most: usize,
        each: impl FnMut(GuestSlice<'m>) -> Option<u32>,
    ) -> usize;

    /// Makes completed chains visible. True: the driver wants to be signalled.
    fn publish(&mut self) -> bool;

    /// Asks for a kick when the driver makes something available. True: something is there already, do not sleep.
    fn arm(&mut self) -> bool {
        self.arm_at(self.position())
    }

    /// Asks for a kick when the driver makes the chain at `cursor` available. True: [`Virtqueue::is_ready`] already.
    fn arm_at(&mut self, cursor: u16) -> bool;

    /// Whether there is a chain at `cursor`, which was at most as far ahead as the ring is long, or was one.
    fn is_ready(&self, cursor: u16) -> bool;

    /// Asks for no kicks while the ring is polled.
    fn disarm(&mut self);
}

/// A ring of the kind that was negotiated.
pub enum Queue {
    /// Virtio 1.3, 2.7.
    Split(SplitRing),
    /// Virtio 1.3, 2.8.
    Packed(PackedRing),
}

/// The same expression for both kinds.
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
    /// Looks the ring up where it lies.
    pub fn new(memory: &GuestMemory, place: &RingSetup, features: u64) -> Result<Queue, RingFault> {
        if VIRTIO_F_RING_PACKED.of(features) {
            PackedRing::new(memory, place, features).map(Queue::Packed)
        } else {
            SplitRing::new(memory, place.size, &place.addr, features).map(Queue::Split)
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

    /// See [`Virtqueue::disarm`].
    pub fn disarm(&mut self) {
        either!(self, ring => ring.disarm());
    }
}

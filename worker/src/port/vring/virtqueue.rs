//! What bursts and deliveries ask of a virtqueue of either kind.
//!
//! Chains are *taken* from a cursor on, which begins at the queue's position; *completed* in the same order, which moves
//! the position; and *published* together. Until a chain is completed, taking it has changed nothing.

use sv3::ipc::RingFault;

use super::chain::Walker;
use crate::memory::slice::GuestSlice;
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
    fn complete_all(&mut self, chains: impl Iterator<Item = (Chain, u32)>) {
        chains.for_each(|(chain, len)| self.complete(&chain, len));
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
